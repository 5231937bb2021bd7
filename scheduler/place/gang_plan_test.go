package place_test

import (
	"fmt"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
)

// hold gives devices of a node to an allocation.
func hold(n *cluster.Node, alloc string, at ...int) {
	for _, i := range at {
		n.Groups[0].Devices[i].Use = cluster.Use{AllocID: alloc, Namespace: "default", JobID: "other", Group: "g", CPU: 100, MemoryMiB: 100}
	}
}

func TestAGangIsPlannedForTheFirstMomentAtWhichAllOfItFits(t *testing.T) {
	t.Parallel()
	s := cluster.Snapshot{Nodes: []cluster.Node{node("n1", "H100", dgxh100()), node("n2", "H100", dgxh100()), node("n3", "H100", dgxh100())}}
	hold(&s.Nodes[0], "a", 0, 1)
	hold(&s.Nodes[1], "b", 0, 1, 2, 3, 4, 5, 6, 7)
	hold(&s.Nodes[2], "c", 7)
	p := place.New()
	ends := map[string]int64{"a": 100, "b": 200, "c": 300}
	planned, known := p.PlanGang(s, gangOf(8, 2), ends)
	must.True(t, known)
	must.Eq(t, int64(200), planned.StartMS)
	must.Eq(t, 16, planned.Count())
	must.MapNotContainsKey(t, planned.Devices, s.Nodes[2].ID, must.Sprint("that node is free later"))

	delete(ends, "b") // it has no end
	planned, known = p.PlanGang(s, gangOf(8, 2), ends)
	must.True(t, known)
	must.Eq(t, int64(300), planned.StartMS)
	_, known = p.PlanGang(s, gangOf(8, 3), ends)
	must.False(t, known)
	_, known = p.PlanGang(s, gangOf(9, 1), ends)
	must.False(t, known, must.Sprint("no node has as many"))
}

func TestAPlanCountsCPUAndMemoryOfWhatEnds(t *testing.T) {
	t.Parallel()
	s := cluster.Snapshot{Nodes: []cluster.Node{node("n1", "H100", dgxh100())}}
	hold(&s.Nodes[0], "a", 0)
	s.Nodes[0].CPU, s.Nodes[0].MemoryMiB = cluster.Capacity{Total: 200}, cluster.Capacity{Total: 200}
	ask := gangOf(4, 2)
	ask.Groups[0].CPU, ask.Groups[0].MemoryMiB = 50, 50
	_, known := place.New().PlanGang(s, ask, map[string]int64{"a": 5})
	must.True(t, known)
	for _, more := range []*int{&ask.Groups[0].CPU, &ask.Groups[0].MemoryMiB} {
		*more = 51
		_, known = place.New().PlanGang(s, ask, map[string]int64{"a": 5})
		must.False(t, known, must.Sprint("what ends gives back 100 MHz and 100 MiB"))
		*more = 50
	}
}

// A plan is for the first of all moments, and everything in it is free by then.
func TestPlanGang_isTheFirstMoment(t *testing.T) {
	t.Parallel()
	p := place.New()
	rapid.Check(t, func(t *rapid.T) {
		s, ends := cluster.Snapshot{}, map[string]int64{}
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			n := node(fmt.Sprintf("n%d", i), "H100", dgxh100())
			for d := range n.Groups[0].Devices {
				alloc := rapid.IntRange(0, 3).Draw(t, "alloc")
				if alloc == 0 {
					continue
				}
				name := fmt.Sprintf("n%d-%d", i, alloc)
				hold(&n, name, d)
				if _, drawn := ends[name]; !drawn && alloc != 3 {
					ends[name] = rapid.Int64Range(1, 9).Draw(t, "end")
				}
			}
			s.Nodes = append(s.Nodes, n)
		}
		ask := gangOf(rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "k"), rapid.IntRange(1, 5).Draw(t, "count"))
		if _, _, gang := p.PlaceGang(s, ask); gang.Allocations > 0 && gang.Fits() {
			return
		}
		planned, known := p.PlanGang(s, ask, ends)
		first := int64(0)
		for ms := int64(1); ms <= 9 && first == 0; ms++ {
			if _, _, gang := p.PlaceGang(place.After(s, ends, ms), ask); gang.Allocations > 0 && gang.Fits() {
				first = ms
			}
		}
		must.Eq(t, first != 0, known)
		if !known {
			return
		}
		must.Eq(t, first, planned.StartMS)
		must.Eq(t, ask.Groups[0].Count*ask.Groups[0].GPUs(), planned.Count())
		start, stands := planned.Stands(&s, ends)
		must.True(t, stands, must.Sprint("it waits for something, and all of that ends in time"))
		must.LessEq(t, planned.StartMS, start)
	})
}
