package place_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// gangOf asks for a gang with one group for each count, whose allocations have k GPUs.
func gangOf(k int, counts ...int) cluster.Ask {
	ask := jobOf(k)
	ask.Gang = true
	one := ask.Groups[0]
	ask.Groups = nil
	for i, count := range counts {
		g := one
		g.Name, g.Count = fmt.Sprintf("g%d", i), count
		ask.Groups = append(ask.Groups, g)
	}
	return ask
}

// in is a node in a rack and a block.
func in(n cluster.Node, rack, block string) cluster.Node {
	n.Rack, n.Block = rack, block
	return n
}

// nodesOf lists the nodes of a gang's allocations, sorted.
func nodesOf(o cluster.Offer) []string {
	var names []string
	for _, g := range o.Groups {
		for _, n := range g.Nodes {
			names = append(names, n.NodeName)
		}
	}
	slices.Sort(names)
	return names
}

func racked(racks map[string][]string) cluster.Snapshot {
	var s cluster.Snapshot
	for rack, names := range racks {
		for _, name := range names {
			s.Nodes = append(s.Nodes, in(node(name, "H100", dgxh100()), rack, "b"+rack[:1]))
		}
	}
	slices.SortFunc(s.Nodes, func(a, b cluster.Node) int { return strings.Compare(a.ID, b.ID) })
	return s
}

func TestAGangStaysTogether(t *testing.T) {
	t.Parallel()
	s := racked(map[string][]string{"1a": {"a1", "a2", "a3"}, "1b": {"b1", "b2"}, "2c": {"c1", "c2", "c3", "c4"}})
	for _, test := range []struct {
		allocations int
		nodes       []string
		where       string
	}{
		{2, []string{"b1", "b2"}, `gang of 2 x 8 GPUs on 2 nodes of rack "1b".`}, // the rack with the least left over
		{3, []string{"a1", "a2", "a3"}, `on 3 nodes of rack "1a".`},
		{4, []string{"c1", "c2", "c3", "c4"}, `on 4 nodes of rack "2c".`},
		{5, []string{"a1", "a2", "a3", "b1", "b2"}, `on 5 nodes of block "b1".`}, // two racks, and one block
		{6, []string{"a1", "a2", "a3", "b1", "b2", "c1"}, ``},
	} {
		offer, why, gang := place.New().PlaceGang(s, gangOf(8, test.allocations))
		must.True(t, gang.Fits())
		must.Eq(t, test.allocations, len(nodesOf(offer)))
		if test.where != "" {
			must.Eq(t, test.nodes, nodesOf(offer))
		}
		must.StrContains(t, why.String(), test.where)
	}
	// The NVLink domain of several nodes comes before everything else.
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Name == "a1" || n.Name == "c4" {
			n.Clique = "uuid/7"
		}
	}
	offer, why, _ := place.New().PlaceGang(s, gangOf(8, 2))
	must.Eq(t, []string{"a1", "c4"}, nodesOf(offer))
	must.StrContains(t, why.String(), `of NVLink domain "uuid/7"`)
}

// Where no domain can hold all of it, it is spread over as few as possible.
func TestAGangIsOfOneModel(t *testing.T) {
	t.Parallel()
	// Nomad divides the pairs of v1, of which one is slower: better than another model.
	s := snapshot(node("v1", modelV100, dgx1v(), 0, 1, 2, 3), node("l1", "L40S", l40sx4()))
	offer, _, gang := place.New().PlaceGang(s, gangOf(2, 2))
	must.True(t, gang.Fits())
	must.Eq(t, []string{"v1", "v1"}, nodesOf(offer))
	// Two models hold it, the one with the faster rings is taken.
	s = snapshot(node("v1", modelV100, dgx1v()), node("v2", modelV100, dgx1v()), node("l1", "L40S", l40sx4()), node("l2", "L40S", l40sx4()))
	offer, _, _ = place.New().PlaceGang(s, gangOf(4, 2))
	must.Eq(t, []string{"v1", "v2"}, nodesOf(offer))
	// No model holds it alone.
	offer, _, gang = place.New().PlaceGang(s, gangOf(4, 5))
	must.True(t, gang.Fits())
	must.Len(t, 5, nodesOf(offer))
	// Groups that ask for different models get them.
	ask := gangOf(4, 1, 1)
	ask.Groups[1].Devices = slices.Clone(ask.Groups[1].Devices)
	ask.Groups[1].Devices[0].Name = "nvidia/gpu/L40S"
	offer, _, gang = place.New().PlaceGang(s, ask)
	must.True(t, gang.Fits())
	must.Eq(t, []string{"l1", "l2"}, nodesOf(offer), must.Sprint("L40S serve both"))
}

// Of two equal groups the one that fewer nodes would do for chooses first; and that no
// place was found is no proof that there is none.
func TestAGangOfSeveralGroupsIsNotRefusedForTheOrderOfThem(t *testing.T) {
	t.Parallel()
	s := snapshot(node("a", "H100", dgxh100()), node("b", "H100", dgxh100()))
	ask := gangOf(8, 1, 1)
	ask.Groups[1].Constraints = []cluster.Constraint{{LTarget: "${node.unique.name}", Operand: "=", RTarget: "a"}}
	offer, _, gang := place.New().PlaceGang(s, ask)
	must.True(t, gang.Fits())
	must.Eq(t, "b", offer.Groups[0].Nodes[0].NodeName)
	must.Eq(t, "a", offer.Groups[1].Nodes[0].NodeName)
}

// packs reports whether sizes fit two machines of eight GPUs, by trying all ways.
func packs(sizes []int, a, b int) bool {
	if len(sizes) == 0 {
		return true
	}
	k := sizes[0]
	return a >= k && packs(sizes[1:], a-k, b) || b >= k && packs(sizes[1:], a, b-k)
}

// What fits in some way is never called infeasible, though placing the largest first may
// not find how; and what fits in none is never placed.
func TestAGangOfSeveralSizesIsOnlyInfeasibleWhereItIs(t *testing.T) {
	t.Parallel()
	s := snapshot(node("a", "H100", dgxh100()), node("b", "H100", dgxh100()))
	add := func(ask *cluster.Ask, count, k int) {
		g := jobOf(k).Groups[0]
		g.Name, g.Count = fmt.Sprintf("g%d", len(ask.Groups)), count
		ask.Groups = append(ask.Groups, g)
	}
	missed := gangOf(1)
	add(&missed, 1, 3)
	add(&missed, 1, 3)
	add(&missed, 3, 2)
	add(&missed, 1, 4) // 4+2+2 and 3+3+2, where 4 and 3 were put together
	offer, _, gang := place.New().PlaceGang(s, missed)
	must.Nil(t, offer.Infeasible)
	must.Eq(t, "gang of 6 allocations with 16 GPUs in all: 5 of 6 fit now", gang.Waits)
	rapid.Check(t, func(t *rapid.T) {
		var sizes []int
		ask := gangOf(1)
		for range rapid.IntRange(1, 4).Draw(t, "groups") {
			count, k := rapid.IntRange(1, 3).Draw(t, "count"), rapid.IntRange(1, 5).Draw(t, "gpus")
			add(&ask, count, k)
			for range count {
				sizes = append(sizes, k)
			}
		}
		offer, _, gang := place.New().PlaceGang(s, ask)
		switch fits := packs(sizes, 8, 8); {
		case fits:
			must.Nil(t, offer.Infeasible)
		case offer.Infeasible == nil:
			must.NotEq(t, "", gang.Waits)
		}
		if total := 0; offer.Infeasible == nil {
			for _, k := range sizes {
				total += k
			}
			must.LessEq(t, 16, total, must.Sprint("more GPUs than there are"))
		}
	})
}

func TestAGangIsSpreadOverFewRacks(t *testing.T) {
	t.Parallel()
	s := racked(map[string][]string{"1a": {"a1"}, "2b": {"b1", "b2", "b3"}, "3c": {"c1", "c2"}, "4d": {"d1", "d2", "d3"}})
	for i := range s.Nodes {
		s.Nodes[i].Block = ""
	}
	offer, _, _ := place.New().PlaceGang(s, gangOf(8, 4))
	must.Eq(t, []string{"a1", "b1", "b2", "b3"}, nodesOf(offer))
	offer, _, _ = place.New().PlaceGang(s, gangOf(8, 5))
	must.Eq(t, []string{"b1", "b2", "b3", "c1", "c2"}, nodesOf(offer))
}

func TestAGangThatDoesNotFitSaysHowMuchDoes(t *testing.T) {
	t.Parallel()
	s := snapshot(node("a", "H100", dgxh100()), node("b", "H100", dgxh100(), 3), node("c", "H100", dgxh100()))
	offer, why, gang := place.New().PlaceGang(s, gangOf(8, 3))
	must.False(t, gang.Fits())
	must.Eq(t, "gang of 3 x 8 GPUs: 2 of 3 fit now", gang.Waits)
	must.SliceEmpty(t, nodesOf(offer))
	must.Eq(t, gang.Waits+".", why.String())

	s.Nodes[0].Groups[0].Devices[0].Reserved = true
	_, _, gang = place.New().PlaceGang(s, gangOf(8, 2))
	must.Eq(t, "gang of 2 x 8 GPUs: 1 of 2 fit now", gang.Waits, must.Sprint("what is promised to others is not free for a gang"))

	offer, _, _ = place.New().PlaceGang(s, gangOf(8, 2, 2))
	must.StrContains(t, offer.Infeasible.String(), "the cluster can never run this gang of 4 x 8 GPUs at once: 3 of 4 fit when it is idle")
}

func TestCPUAndMemoryOfAGangAddUp(t *testing.T) {
	t.Parallel()
	n := node("a", "H100", dgxh100())
	n.CPU.Free = 1100
	_, _, gang := place.New().PlaceGang(snapshot(n), gangOf(1, 2, 1))
	must.Eq(t, "gang of 3 x 1 GPU: 2 of 3 fit now", gang.Waits)
}

// drawGang is a random cluster with a random network, and a gang.
func drawGang(t *rapid.T) (cluster.Snapshot, cluster.Ask) {
	s := drawSnapshot(t)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.Rack = rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "rack")
		n.Block = rapid.SampledFrom([]string{"", "b1"}).Draw(t, "block")
		n.Clique = rapid.SampledFrom([]string{"", "", "u/1"}).Draw(t, "clique")
		n.CPU.Free = rapid.SampledFrom([]int{64000, 1000}).Draw(t, "cpu")
	}
	ask := gangOf(rapid.IntRange(1, 5).Draw(t, "gpus"), rapid.SliceOfN(rapid.IntRange(1, 3), 1, 3).Draw(t, "counts")...)
	for i := range ask.Groups {
		ask.Groups[i].DistinctHosts = rapid.Bool().Draw(t, "distinct")
	}
	return s, ask
}

// All or nothing: a gang gets a set of its own for every allocation, out of what is free
// and promised to nobody, or nothing at all; and whatever Nomad makes of the pins, no
// allocation gets a worse set than was chosen for it, unless the explanation says so.
func TestAGangIsPlacedAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawGang(t)
		offer, why, gang := place.New().PlaceGang(s, ask)
		if !gang.Fits() || offer.Infeasible != nil {
			must.SliceEmpty(t, nodesOf(offer))
			must.True(t, offer.Infeasible != nil || gang.Waits != "")
			return
		}
		must.Eq(t, "", gang.Waits)
		used, cpu := map[string]bool{}, map[string]int{}
		for i, g := range offer.Groups {
			must.Len(t, ask.Groups[i].Count, g.Nodes)
			hosts := map[string]bool{}
			for _, n := range g.Nodes {
				must.False(t, ask.Groups[i].DistinctHosts && hosts[n.NodeID])
				hosts[n.NodeID] = true
				on := nodeOf(&s, n.NodeID)
				cpu[n.NodeID] += ask.Groups[i].CPU
				must.True(t, on.Ready && cpu[n.NodeID] <= on.CPU.Free)
				must.Len(t, ask.Groups[i].GPUs(), n.Sets[0].IDs)
				for _, id := range n.Sets[0].IDs {
					must.False(t, used[id])
					used[id] = true
					d := on.Groups[0].Devices[indexOf(on, id)]
					must.True(t, d.Healthy && !d.Use.Held() && !d.Reserved)
				}
			}
			if !strings.Contains(why.String(), "Nomad divides") {
				mustDivide(t, &s, g)
			}
		}
	})
}

// mustDivide checks that any division of the listed GPUs of a node among the allocations
// there gives all of them sets that are equally good.
func mustDivide(t *rapid.T, s *cluster.Snapshot, g cluster.GroupOffer) {
	byNode := map[string][]uint64{}
	for _, n := range g.Nodes {
		set := uint64(0)
		for _, id := range n.Sets[0].IDs {
			set |= 1 << indexOf(nodeOf(s, n.NodeID), id)
		}
		byNode[n.NodeID] = append(byNode[n.NodeID], set)
	}
	for id, masks := range byNode {
		if len(masks) == 1 {
			continue
		}
		m, union := nodeOf(s, id).Groups[0].Topology, uint64(0)
		for _, set := range masks {
			union |= set
		}
		k := len(sets.Members(masks[0]))
		quality := func(set uint64) sets.Quality {
			_, q, ok := place.New().Best(m, set, k)
			must.True(t, ok)
			q.LeftMBps = 0
			return q
		}
		for set := uint64(1); set <= union; set++ {
			if set&^union == 0 && len(sets.Members(set)) == k {
				must.Eq(t, quality(masks[0]), quality(set))
			}
		}
	}
}

func nodeOf(s *cluster.Snapshot, id string) *cluster.Node {
	return &s.Nodes[slices.IndexFunc(s.Nodes, func(n cluster.Node) bool { return n.ID == id })]
}

func indexOf(n *cluster.Node, id string) int {
	return slices.IndexFunc(n.Groups[0].Devices, func(d cluster.Device) bool { return d.ID == id })
}

// With whole nodes a gang fits exactly when enough of them are free, and it is then in
// one rack if one rack can hold it.
func TestAGangOfWholeNodesFitsWhereEnoughAreFree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s cluster.Snapshot
		free, inRack := 0, map[string]int{}
		for i := range rapid.IntRange(1, 8).Draw(t, "nodes") {
			n := node(fmt.Sprintf("n%d", i), "H100", dgxh100())
			n.Rack = rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "rack")
			if rapid.Bool().Draw(t, "busy") {
				n.Groups[0].Devices[2].Use = cluster.Use{AllocID: "other", JobID: "other"}
			} else {
				free++
				inRack[n.Rack]++
			}
			s.Nodes = append(s.Nodes, n)
		}
		want := rapid.IntRange(1, 8).Draw(t, "allocations")
		offer, _, gang := place.New().PlaceGang(s, gangOf(8, want))
		must.Eq(t, want <= free, gang.Fits() && offer.Infeasible == nil)
		must.Eq(t, want > len(s.Nodes), offer.Infeasible != nil)
		if want > free {
			return
		}
		racks := map[string]bool{}
		for _, n := range offer.Groups[0].Nodes {
			racks[nodeOf(&s, n.NodeID).Rack] = true
		}
		must.Eq(t, fewestRacks(inRack, want), len(racks))
	})
}

// fewestRacks tries all choices of racks.
func fewestRacks(free map[string]int, want int) int {
	names := []string{"r1", "r2", "r3"}
	best := len(names)
	for choice := 1; choice < 1<<len(names); choice++ {
		room, racks := 0, 0
		for i, name := range names {
			if choice>>i&1 == 1 {
				room, racks = room+free[name], racks+1
			}
		}
		if room >= want {
			best = min(best, racks)
		}
	}
	return best
}

func TestTheOrderOfNodesDoesNotChangeAGang(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawGang(t)
		offer, why, gang := place.New().PlaceGang(s, ask)
		shuffled := cluster.Snapshot{Nodes: rapid.Permutation(s.Nodes).Draw(t, "order")}
		again, whyAgain, gangAgain := place.New().PlaceGang(shuffled, ask)
		must.Eq(t, offer, again)
		must.Eq(t, why.String(), whyAgain.String())
		must.Eq(t, gang, gangAgain)
	})
}
