package place_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/index"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// drawCluster makes a cluster of up to twelve machines, some of which a job cannot use.
func drawCluster(t *rapid.T) cluster.Snapshot {
	kinds := []*topology.Matrix{dgx1v(), dgx1v(), dgxh100(), rtx8000x4(), pcieBox8()}
	var s cluster.Snapshot
	for i := range rapid.IntRange(1, 12).Draw(t, "nodes") {
		m := rapid.SampledFrom(kinds).Draw(t, "kind")
		n := node(fmt.Sprintf("n%02d", i), "M", m, rapid.SliceOfDistinct(rapid.IntRange(0, m.Size()-1), rapid.ID).Draw(t, "busy")...)
		n.CPU = cluster.Capacity{Total: rapid.SampledFrom([]int{0, 8000, 64000}).Draw(t, "cpu"), Free: rapid.IntRange(-100, 8000).Draw(t, "free cpu")}
		n.MemoryMiB.Free = rapid.IntRange(0, 512000).Draw(t, "free memory")
		n.Class = rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "class")
		if rapid.Bool().Draw(t, "attributes read") {
			n.Attributes = map[string]string{"os": rapid.SampledFrom([]string{"linux", "bsd"}).Draw(t, "os")}
		}
		n.Ready = rapid.IntRange(0, 9).Draw(t, "ready") > 0
		for j := range n.Groups[0].Devices {
			n.Groups[0].Devices[j].Healthy = rapid.IntRange(0, 19).Draw(t, "healthy") > 0
			n.Groups[0].Devices[j].Reserved = rapid.IntRange(0, 4).Draw(t, "reserved") == 0
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

// drawOne asks for GPUs of one block, perhaps with constraints.
func drawOne(t *rapid.T) cluster.Ask {
	ask := jobOf(rapid.IntRange(1, 8).Draw(t, "k"))
	g := &ask.Groups[0]
	g.CPU, g.MemoryMiB = rapid.IntRange(0, 4000).Draw(t, "asked cpu"), rapid.IntRange(0, 256000).Draw(t, "asked memory")
	if rapid.IntRange(0, 2).Draw(t, "constraint") == 0 {
		g.Constraints = append(g.Constraints, cluster.Constraint{LTarget: rapid.SampledFrom([]string{"${node.class}", "${attr.os}"}).Draw(t, "left"),
			Operand: "=", RTarget: rapid.SampledFrom([]string{"a", "linux"}).Draw(t, "right")})
	}
	if rapid.IntRange(0, 4).Draw(t, "spread") == 0 {
		g.Count, g.DistinctHosts = 2, true
	}
	if rapid.IntRange(0, 4).Draw(t, "holds something") == 0 {
		ask.JobID = "other"
	}
	return ask
}

// What an index of the snapshot finds is what comparing all nodes does, to the last word
// of the explanation, however often the Placer has seen the snapshot before.
func TestTheIndexAnswersWhatComparingAllNodesDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, p := drawCluster(t), place.New()
		for range 3 {
			ask, most := drawOne(t), rapid.IntRange(4, 20).Draw(t, "most")
			offer, why := p.Choose(s, ask, most)
			want, wantWhy := place.New().CompareAll(s, ask, most)
			must.Eq(t, want, offer)
			must.Eq(t, wantWhy, why)
			must.Eq(t, wantWhy.String(), why.String())
		}
	})
}

// The same policy, asked by itself: the node and the GPUs that package place takes first
// are those that an index of the cluster finds.
func TestPlaceChoosesWhatTheIndexDoes(t *testing.T) {
	t.Parallel()
	tables := map[string]*sets.Joint{}
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawCluster(t), drawOne(t)
		g := &ask.Groups[0]
		g.Constraints, g.Count, ask.JobID = nil, 1, "job"
		x := index.New()
		for i := range s.Nodes {
			n := &s.Nodes[i]
			text := n.Groups[0].TopologyText
			if tables[text] == nil {
				tables[text] = sets.NewJoint(sets.New(n.Groups[0].Topology), sets.Packed())
			}
			class := index.Class{ID: fmt.Sprintf("%s %d %d %d", text, len(n.Groups[0].Devices), n.CPU.Total, n.MemoryMiB.Total),
				Joint: tables[text], CPU: n.CPU.Total, MemoryMiB: n.MemoryMiB.Total}
			_ = x.AddClass(class) // again and again the same
			var free uint64
			for j := range n.Groups[0].Devices {
				n.Groups[0].Devices[j].Reserved = false
				if d := n.Groups[0].Devices[j]; d.Healthy && !d.Use.Held() {
					free |= 1 << j
				}
			}
			if n.Ready && n.CPU.Free >= 0 {
				must.NoError(t, x.Add(index.Node{ID: n.ID, Class: class.ID, Free: free, CPU: n.CPU.Free, MemoryMiB: n.MemoryMiB.Free}))
			}
		}
		want, ok := x.Find(index.Ask{GPUs: g.Devices[0].Count, CPU: g.CPU, MemoryMiB: g.MemoryMiB})
		for _, choose := range []func(cluster.Snapshot, cluster.Ask, int) (cluster.Offer, place.Explanation){place.New().Choose, place.New().CompareAll} {
			offer, _ := choose(s, ask, 1)
			if !ok {
				must.True(t, offer.Infeasible != nil || len(offer.Groups[0].Nodes) == 0)
				continue
			}
			got := offer.Groups[0].Nodes[0]
			must.Eq(t, want.Node, got.NodeID)
			at := slices.IndexFunc(s.Nodes, func(n cluster.Node) bool { return n.ID == want.Node })
			var ids []string
			for _, i := range sets.Members(want.Set) {
				ids = append(ids, s.Nodes[at].Groups[0].Devices[i].ID)
			}
			must.Eq(t, ids, got.Sets[0].IDs)
		}
	})
}

// Another node is never a reason to choose one that was not chosen before, except that node.
func TestAnotherNodeIsChosenOrChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawCluster(t), drawOne(t)
		ask.Groups[0].Count = 1
		less := cluster.Snapshot{Nodes: slices.Clone(s.Nodes[1:])}
		before, _ := place.New().Choose(less, ask, 1)
		after, _ := place.New().Choose(s, ask, 1)
		if before.Infeasible != nil || len(before.Groups[0].Nodes) == 0 {
			t.Skip()
		}
		if got := after.Groups[0].Nodes[0]; got.NodeID != s.Nodes[0].ID {
			must.Eq(t, before.Groups[0].Nodes[0], got)
		}
	})
}

// Once it has what it was offered, a job is offered the same again.
func TestAPlacedJobIsOfferedWhatItHas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawCluster(t), drawOne(t)
		ask.Groups[0].Count, ask.JobID = 1, "job"
		p := place.New()
		first, _ := p.Place(s, ask)
		if first.Infeasible != nil || len(first.Groups[0].Nodes) == 0 {
			t.Skip()
		}
		got := first.Groups[0].Nodes[0]
		placed := cluster.Snapshot{Nodes: slices.Clone(s.Nodes)}
		for i := range placed.Nodes {
			if placed.Nodes[i].ID != got.NodeID {
				continue
			}
			g := placed.Nodes[i].Groups[0]
			g.Devices = slices.Clone(g.Devices)
			for j := range g.Devices {
				if slices.Contains(got.Sets[0].IDs, g.Devices[j].ID) {
					g.Devices[j].Use = cluster.Use{AllocID: "a", Namespace: "default", JobID: "job", Group: "train"}
				}
			}
			placed.Nodes[i].Groups = []cluster.Group{g}
		}
		again, _ := p.Place(placed, ask)
		must.Eq(t, first, again)
	})
}

func TestASetThatIsLeftToLaterJobsIsNamed(t *testing.T) {
	t.Parallel()
	// Where the fastest set is not taken, its bandwidth is told, and only then.
	m, p := dgx1v(), place.New()
	slower := 0
	for busy := range uint64(1) << m.Size() {
		for k := 1; k <= m.Size()-len(members(busy)); k++ {
			n := node("v1", modelV100, m, members(busy)...)
			_, why := p.Place(snapshot(n), jobOf(k))
			set := why.Groups[0].Choices[0].Sets[0]
			_, best, ok := p.Best(m, (1<<m.Size()-1)&^busy, k)
			must.True(t, ok)
			must.Eq(t, best.RingMBps, set.BestMBps)
			must.LessEq(t, best.RingMBps, set.RingMBps)
			if set.RingMBps < best.RingMBps {
				slower++
				must.StrContains(t, why.String(), fmt.Sprintf("the best of %d free", set.Sets))
				must.StrContains(t, why.String(), "is left to later jobs)")
			} else {
				must.StrNotContains(t, why.String(), "left to later jobs)")
			}
		}
	}
	must.Eq(t, 6, slower, must.Sprint("of 1,024 questions about a DGX-1V"))
}

func TestAPlacerMayBeSharedByGoroutines(t *testing.T) {
	t.Parallel()
	p := place.New()
	s := snapshot(node("v1", modelV100, dgx1v(), 1, 3), node("v2", modelV100, dgx1v()), node("h1", "H100", dgxh100(), 0))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			own := cluster.Snapshot{Nodes: slices.Clone(s.Nodes)} // a reading of its own
			for k := 1; k <= 8; k++ {
				want, wantWhy := place.New().CompareAll(s, jobOf(k), 64)
				for _, s := range []cluster.Snapshot{s, own} {
					offer, why := p.Choose(s, jobOf(k), 64)
					must.Eq(t, want, offer, must.Sprint(i, k))
					must.Eq(t, wantWhy.String(), why.String())
				}
			}
		})
	}
	group.Wait()
}
