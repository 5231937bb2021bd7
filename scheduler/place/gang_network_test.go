package place_test

import (
	"slices"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
)

// wired gives a machine some NICs of one speed, each near to as many of its GPUs.
func wired(m *topology.Matrix, nics, mbps int) *topology.Matrix {
	m.SetNICs(slices.Repeat([]int{mbps}, nics))
	for i := range m.Size() {
		for nic := range nics {
			m.SetNICPath(i, nic, topology.PathSystem)
		}
		m.SetNICPath(i, i*nics/m.Size(), topology.PathSingle)
	}
	return m
}

// gang places a gang that fits, and lists its nodes.
func gang(t *testing.T, count, gpus int, nodes ...cluster.Node) ([]string, string) {
	t.Helper()
	offer, why, placed := place.New().PlaceGang(cluster.Snapshot{Nodes: nodes}, gangOf(gpus, count))
	must.True(t, placed.Fits(), must.Sprint(placed.Waits))
	on := nodesOf(offer)
	return slices.Compact(on), why.String()
}

func TestAGangWantsNICs(t *testing.T) {
	t.Parallel()
	without := func(name string) cluster.Node { return node(name, "H100", dgxh100()) }
	with := func(name string, mbps int) cluster.Node { return node(name, "H100", wired(dgxh100(), 4, mbps)) }
	nodes, _ := gang(t, 2, 8, without("a1"), with("a2", 25_000), without("a3"), with("a4", 25_000))
	must.Eq(t, []string{"a2", "a4"}, nodes)
	nodes, _ = gang(t, 3, 8, without("a1"), with("a2", 25_000), without("a3"), with("a4", 25_000))
	must.Len(t, 3, nodes, must.Sprint("without NICs is better than not at all"))
	nodes, why := gang(t, 2, 8, with("s1", 12_500), with("f1", 50_000), with("s2", 12_500), with("f2", 50_000))
	must.Eq(t, []string{"f1", "f2"}, nodes)
	must.StrContains(t, why, "network 25.0 GB/s for each GPU, NICs at PIX")
	nodes, _ = gang(t, 2, 8, in(with("a1", 25_000), "a", ""), in(with("b1", 50_000), "b", ""), in(with("a2", 25_000), "a", ""), in(with("b2", 50_000), "b", ""))
	must.Eq(t, []string{"b1", "b2"}, nodes, must.Sprint("the rack with the faster network"))
}

func TestTheNetworkIsNotWorthAGangsRings(t *testing.T) {
	t.Parallel()
	box := func(name string) cluster.Node { return node(name, "H100", wired(pcieBox8(), 4, 50_000)) }
	nodes, _ := gang(t, 2, 8, box("p1"), node("s1", "H100", dgxh100()), box("p2"), node("s2", "H100", dgxh100()))
	must.Eq(t, []string{"s1", "s2"}, nodes)
	// Nor being torn apart: one that fits on a node has nobody elsewhere to talk to.
	nodes, _ = gang(t, 4, 1, node("plain", "H100", dgxh100()), node("nic", "H100", wired(dgxh100(), 4, 50_000), 0, 1, 2, 3, 4, 5, 6))
	must.Eq(t, []string{"plain"}, nodes)
}

// Eight members on one machine send at once.
func TestMembersOnOneNodeShareItsNICs(t *testing.T) {
	t.Parallel()
	nodes, why := gang(t, 8, 1, in(node("one", "H100", wired(dgxh100(), 1, 25_000)), "one", ""), in(node("each", "H100", wired(dgxh100(), 8, 12_500)), "each", ""))
	must.Eq(t, []string{"each"}, nodes)
	must.StrContains(t, why, "network 12.5 GB/s for each GPU")
}

func TestOtherJobsLeaveTheFasterNetworkToThose(t *testing.T) {
	t.Parallel()
	nodes := []cluster.Node{node("fast", "H100", wired(dgxh100(), 4, 50_000)), node("slow", "H100", wired(dgxh100(), 4, 12_500)), node("none", "H100", dgxh100())}
	offer, _ := place.New().Place(cluster.Snapshot{Nodes: nodes}, jobOf(8))
	must.Eq(t, "none", offer.Groups[0].Nodes[0].NodeName)
	offer, why := place.New().Place(cluster.Snapshot{Nodes: nodes[:2]}, jobOf(8))
	must.Eq(t, "slow", offer.Groups[0].Nodes[0].NodeName)
	must.StrContains(t, why.String(), "slow before fast: the faster network stays free for others")
}

// A share more that is free never makes less of a gang fit.
func TestFreeSharesTearNoGangApart(t *testing.T) {
	t.Parallel()
	ask := parts("nvidia/gpu-share", 2)
	ask.Groups[0].Count, ask.Gang = 2, true
	for _, gpus := range [][]string{{"tttf", "tttf", "tttf", "tttf"}, {"ffff", "ffff", "tttf", "tttf"}, {"ffff", "ffff", "ffff", "ffff"}} {
		offer, why, placed := place.New().PlaceGang(cluster.Snapshot{Nodes: []cluster.Node{divide("n1", gpu.TypeShare, "A", gpus...)}}, ask)
		must.True(t, placed.Fits(), must.Sprint(gpus, why))
		of := map[string]bool{}
		for _, n := range offer.Groups[0].Nodes {
			for _, id := range n.Sets[0].IDs {
				must.False(t, of[id[:8]], must.Sprint("Nomad divides them, and two of one GPU cannot start"))
				of[id[:8]] = true
			}
		}
		must.MapLen(t, 4, of)
	}
	n := divide("n1", gpu.TypeShare, "A", "tttt", "tttf", "tttf", "tttf")
	for i, alloc := range []string{"first", "second", "second", "second", "second", "second", "second"} {
		n.Groups[0].Devices[i].Use.AllocID = alloc
	}
	plan, known := place.New().PlanGang(cluster.Snapshot{Nodes: []cluster.Node{n}}, ask, map[string]int64{"first": 100, "second": 200})
	must.True(t, known)
	must.Eq(t, 100, plan.StartMS)
}

// Many shares are two groups here and one at Nomad, which divides what it is pinned to.
func TestGangsKnowGPUsAcrossGroupsOfOneName(t *testing.T) {
	t.Parallel()
	gpus := slices.Repeat([]string{"tttttttttt"}, 8)
	gpus[0], gpus[1] = "fttttttttf", "fttttttttf"
	n := divide("n1", gpu.TypeShare, "A", gpus...)
	must.Len(t, 2, n.Groups)
	ask := parts("nvidia/gpu-share", 2)
	ask.Groups[0].Count, ask.Gang = 2, true
	_, why, placed := place.New().PlaceGang(cluster.Snapshot{Nodes: []cluster.Node{n}}, ask)
	must.EqOp(t, 1, placed.Placed, must.Sprint(why))
	ask.Groups[0].Devices[0].Count = 1
	ask.Groups[0].Count = 4
	_, why, placed = place.New().PlaceGang(cluster.Snapshot{Nodes: []cluster.Node{n}}, ask)
	must.True(t, placed.Fits())
	must.StrNotContains(t, why.String(), "Nomad divides")
}
