package fleet_test

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func node(id string, cpu int64, left ...int) fleet.Node {
	return fleet.Node{ID: id, Model: "A100", CPUMilli: cpu, MemoryMiB: 1 << 20, GPUs: left}
}

func share(cpu int64, milli int) fleet.Ask {
	return fleet.Ask{CPUMilli: cpu, MemoryMiB: 1024, GPUs: 1, GPUMilli: milli}
}

func whole(cpu int64, gpus int) fleet.Ask {
	return fleet.Ask{CPUMilli: cpu, MemoryMiB: 1024, GPUs: gpus, GPUMilli: fleet.WholeGPU}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	shares := []fleet.Typical{{Ask: share(1000, 300), Count: 1}, {Ask: share(1000, 700), Count: 1}}
	cases := map[string]struct {
		nodes   []fleet.Node
		typical []fleet.Typical
		ask     fleet.Ask
		want    string // node and GPUs; empty: no room
	}{
		"a share goes where it leaves nothing": {
			[]fleet.Node{node("a", 8000, 1000), node("b", 8000, 300), node("c", 8000, 700)}, shares, share(1000, 700), "c [0]",
		},
		"a share leaves a rest that typical work can use": {
			// 300 is what typical work needs, 200 is what none needs.
			[]fleet.Node{node("a", 8000, 300), node("b", 8000, 400)}, shares, share(1000, 100), "b [0]",
		},
		"on a node, the share takes the best of its GPUs": {
			[]fleet.Node{node("a", 8000, 1000, 300, 400)}, shares, share(1000, 100), "a [2]",
		},
		"without typical work the best fit is taken": {
			[]fleet.Node{node("a", 9000, 1000, 1000), node("b", 8000, 1000, 1000), node("c", 8000, 1000, 1000, 1000)}, nil, whole(1000, 1), "b [0]",
		},
		"several GPUs are whole ones": {
			[]fleet.Node{node("a", 8000, 1000, 999, 1000)}, nil, whole(1000, 2), "a [0 2]",
		},
		"a node with too few whole GPUs has no room": {
			[]fleet.Node{node("a", 8000, 1000, 999, 999)}, nil, whole(1000, 2), "",
		},
		"a node with too little CPU has no room": {
			[]fleet.Node{node("a", 999, 1000)}, nil, whole(1000, 1), "",
		},
		"a node with too little memory has no room": {
			[]fleet.Node{{ID: "a", CPUMilli: 8000, MemoryMiB: 1023, GPUs: []int{1000}}}, nil, whole(1000, 1), "",
		},
		"the model must be accepted": {
			[]fleet.Node{node("a", 8000, 1000), {ID: "b", Model: "T4", CPUMilli: 9000, MemoryMiB: 1 << 20, GPUs: []int{1000}}},
			nil, fleet.Ask{GPUs: 1, GPUMilli: 1000, Models: []string{"L4", "T4"}}, "b [0]",
		},
		"work without GPUs stays away from CPU that GPUs need": {
			[]fleet.Node{node("a", 4000, 1000, 1000), node("b", 8000, 1000, 1000)},
			[]fleet.Typical{{Ask: whole(2000, 1), Count: 1}}, fleet.Ask{CPUMilli: 4000}, "b []",
		},
		"work without GPUs takes the CPU of nodes whose GPUs are full": {
			[]fleet.Node{node("a", 8000, 1000, 1000), node("b", 8000, 0, 0)},
			[]fleet.Typical{{Ask: whole(4000, 1), Count: 1}}, fleet.Ask{CPUMilli: 4000}, "b []",
		},
		"work without GPUs accepts any model": {
			[]fleet.Node{node("a", 8000)}, nil, fleet.Ask{CPUMilli: 4000, Models: []string{"T4"}}, "a []",
		},
		"an empty fleet has no room": {nil, shares, share(1000, 300), ""},
		"an ask that makes no sense has no room": {
			[]fleet.Node{node("a", 8000, 1000, 1000)}, nil, fleet.Ask{GPUs: 2, GPUMilli: 500}, "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := fleet.New(c.nodes, c.typical)
			must.NoError(t, err)
			p, ok := f.Place(c.ask)
			if c.want == "" {
				must.False(t, ok, must.Sprintf("%v", p))
				return
			}
			must.True(t, ok)
			must.EqOp(t, c.want, fmt.Sprintf("%s %v", p.Node, p.GPUs))
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		nodes   []fleet.Node
		typical []fleet.Typical
		want    string
	}{
		"a node without an id":      {[]fleet.Node{{}}, nil, "a node has no id"},
		"one id twice":              {[]fleet.Node{node("a", 1), node("a", 1)}, nil, "two nodes have the id a"},
		"negative CPU":              {[]fleet.Node{node("a", -1)}, nil, "node a has -1 milli of CPU and 1048576 MiB of memory"},
		"more than a whole GPU":     {[]fleet.Node{node("a", 1, 1001)}, nil, "node a has a GPU with 1001 milli left, not 0 to 1000"},
		"too many GPUs":             {[]fleet.Node{node("a", 1, make([]int, 17)...)}, nil, "node a has 17 GPUs, more than 16"},
		"a share of several GPUs":   {nil, []fleet.Typical{{Ask: fleet.Ask{GPUs: 2, GPUMilli: 10}}}, "typical work: an ask for 10 milli of each of 2 GPUs: shares are of a single GPU"},
		"nothing of a GPU":          {nil, []fleet.Typical{{Ask: fleet.Ask{GPUs: 1}}}, "typical work: an ask for 0 milli of a GPU, not 1 to 1000"},
		"a share of no GPU":         {nil, []fleet.Typical{{Ask: fleet.Ask{GPUMilli: 10}}}, "typical work: an ask for 10 milli of no GPU"},
		"more GPUs than nodes have": {nil, []fleet.Typical{{Ask: whole(1, 17)}}, "typical work: an ask for 17 GPUs, not 0 to 16"},
		"negative counts":           {nil, []fleet.Typical{{Ask: whole(1, 1), Count: -1}}, "typical work: typical work was seen -1 times, not 0 to 4294967296"},
		"negative memory":           {nil, []fleet.Typical{{Ask: fleet.Ask{MemoryMiB: -1}}}, "typical work: an ask for 0 milli of CPU and -1 MiB of memory"},
		"too many kinds":            {nil, make([]fleet.Typical, 4097), "4097 kinds of typical work are more than 4096"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := fleet.New(c.nodes, c.typical)
			must.EqError(t, err, c.want)
		})
	}
}

func TestTakeAndReleaseRefuse(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		p             fleet.Placement
		take, release string // the errors; empty means none
	}{
		"an unknown node": {fleet.Placement{Node: "b", GPUs: []int{0}, Ask: share(1, 10)}, "no node has the id b", "no node has the id b"},
		"an unknown GPU":  {fleet.Placement{Node: "a", GPUs: []int{2}, Ask: share(1, 10)}, "node a has no GPU 2 for this placement", "node a has no GPU 2 for this placement"},
		"one GPU twice":   {fleet.Placement{Node: "a", GPUs: []int{1, 1}, Ask: whole(1, 2)}, "node a has no GPU 1 for this placement", "GPU 1 of node a would have 2000 milli left"},
		"another number":  {fleet.Placement{Node: "a", GPUs: []int{0}, Ask: whole(1, 2)}, "a placement of 2 GPUs names 1", "a placement of 2 GPUs names 1"},
		"more than there is": {fleet.Placement{Node: "a", GPUs: []int{0}, Ask: share(1, 501)},
			"GPU 0 of node a would have -1 milli left", "GPU 0 of node a would have 1001 milli left"},
		"more CPU than there is": {fleet.Placement{Node: "a", Ask: fleet.Ask{CPUMilli: 9000}},
			"node a would have -1000 milli of CPU and 1048576 MiB of memory left", ""},
		"an ask that makes no sense": {fleet.Placement{Node: "a", Ask: fleet.Ask{GPUMilli: 1}}, "an ask for 1 milli of no GPU", "an ask for 1 milli of no GPU"},
		"a GPU that is in use":       {fleet.Placement{Node: "a", GPUs: []int{0}, Ask: share(1, 500)}, "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for want, call := range map[string]func(*fleet.Fleet, fleet.Placement) error{
				"take " + c.take: (*fleet.Fleet).Take, "release " + c.release: (*fleet.Fleet).Release,
			} {
				f, err := fleet.New([]fleet.Node{node("a", 8000, 500, 1000)}, nil)
				must.NoError(t, err)
				before := f.Nodes()
				verb, text := want[:4], want[5:]
				if verb == "rele" {
					text = want[8:]
				}
				if err := call(f, c.p); text == "" {
					must.NoError(t, err)
				} else {
					must.EqError(t, err, text)
					must.Eq(t, before, f.Nodes())
				}
			}
		})
	}
}

// drawnNodes are a few nodes with something left.
func drawnNodes(t *rapid.T) []fleet.Node {
	nodes := make([]fleet.Node, rapid.IntRange(0, 8).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = fleet.Node{
			ID: fmt.Sprintf("n%d", i), Model: rapid.SampledFrom([]string{"A100", "T4"}).Draw(t, "model"),
			CPUMilli: 1000 * rapid.Int64Range(0, 16).Draw(t, "cpu"), MemoryMiB: 1024 * rapid.Int64Range(0, 64).Draw(t, "memory"),
			GPUs: rapid.SliceOfN(rapid.SampledFrom([]int{0, 190, 300, 500, 1000, 1000}), 0, 8).Draw(t, "left"),
		}
	}
	return nodes
}

func drawnAsk(t *rapid.T) fleet.Ask {
	a := fleet.Ask{
		CPUMilli: 500 * rapid.Int64Range(0, 10).Draw(t, "ask cpu"), MemoryMiB: 512 * rapid.Int64Range(0, 16).Draw(t, "ask memory"),
		GPUs: rapid.IntRange(0, 3).Draw(t, "ask GPUs"),
	}
	switch a.GPUs {
	case 0:
	case 1:
		a.GPUMilli = rapid.SampledFrom([]int{110, 190, 300, 500, 810, 1000}).Draw(t, "ask milli")
	default:
		a.GPUMilli = fleet.WholeGPU
	}
	a.Models = rapid.SampledFrom([][]string{nil, {"T4"}, {"A100", "T4"}, {"H100"}}).Draw(t, "ask models")
	return a
}

func drawnTypical(t *rapid.T) []fleet.Typical {
	typical := make([]fleet.Typical, rapid.IntRange(0, 6).Draw(t, "typical"))
	for i := range typical {
		typical[i] = fleet.Typical{Ask: drawnAsk(t), Count: rapid.Int64Range(0, 100).Draw(t, "count")}
	}
	return typical
}

func newFleet(t rapid.TB, nodes []fleet.Node, typical []fleet.Typical) *fleet.Fleet {
	f, err := fleet.New(nodes, typical)
	must.NoError(t, err)
	return f
}

// room says whether a node has room, in the plainest way.
func room(n fleet.Node, a fleet.Ask) bool {
	if n.CPUMilli < a.CPUMilli || n.MemoryMiB < a.MemoryMiB {
		return false
	}
	enough := 0
	for _, left := range n.GPUs {
		if left >= a.GPUMilli {
			enough++
		}
	}
	return a.GPUs == 0 || enough >= a.GPUs && (len(a.Models) == 0 || slices.Contains(a.Models, n.Model))
}

// Whatever comes and goes: a placement has room, nobody is turned away who has
// room, and what is released is there again.
func TestPlacementsAreFeasibleAndReversible(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t, drawnNodes(t), drawnTypical(t))
		start := f.Nodes()
		var placed []fleet.Placement
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			before := f.Nodes()
			if len(placed) > 0 && rapid.IntRange(0, 3).Draw(t, "release") == 0 {
				at := rapid.IntRange(0, len(placed)-1).Draw(t, "which")
				must.NoError(t, f.Release(placed[at]))
				placed = slices.Delete(placed, at, at+1)
				continue
			}
			a := drawnAsk(t)
			p, ok := f.Place(a)
			must.EqOp(t, slices.ContainsFunc(before, func(n fleet.Node) bool { return room(n, a) }), ok)
			if !ok {
				must.Eq(t, before, f.Nodes())
				continue
			}
			placed = append(placed, p)
			at := slices.IndexFunc(before, func(n fleet.Node) bool { return n.ID == p.Node })
			must.True(t, room(before[at], a), must.Sprint("the node has no room"))
			must.Len(t, a.GPUs, p.GPUs)
			want := &before[at]
			want.CPUMilli -= a.CPUMilli
			want.MemoryMiB -= a.MemoryMiB
			for _, gpu := range p.GPUs {
				want.GPUs[gpu] -= a.GPUMilli
				must.GreaterEq(t, 0, want.GPUs[gpu])
			}
			must.Eq(t, before, f.Nodes(), must.Sprint("more changed than was placed"))
		}
		for _, p := range placed {
			must.NoError(t, f.Release(p))
		}
		must.Eq(t, start, f.Nodes())
	})
}

// The order in which nodes and typical work are given changes no choice, and
// what is remembered changes none either.
func TestChoiceDependsOnTheStateAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, typical := drawnNodes(t), drawnTypical(t)
		f := newFleet(t, nodes, typical)
		seed := rapid.Int64().Draw(t, "order")
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			a := drawnAsk(t)
			fresh := f.Nodes()
			numbers := rand.New(rand.NewSource(seed))
			numbers.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
			shuffled := slices.Clone(typical)
			numbers.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			want, wantOK := newFleet(t, fresh, shuffled).Choose(a)
			got, ok := f.Place(a)
			must.EqOp(t, wantOK, ok)
			must.Eq(t, want, got)
		}
	})
}

// More free capacity never makes an ask unplaceable.
func TestMoreCapacityTurnsNobodyAway(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, typical, a := drawnNodes(t), drawnTypical(t), drawnAsk(t)
		_, before := newFleet(t, nodes, typical).Choose(a)
		if len(nodes) > 0 {
			n := &nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")]
			n.CPUMilli += rapid.Int64Range(0, 5000).Draw(t, "more cpu")
			n.MemoryMiB += rapid.Int64Range(0, 5000).Draw(t, "more memory")
			for i := range n.GPUs {
				n.GPUs[i] = rapid.IntRange(n.GPUs[i], fleet.WholeGPU).Draw(t, "more left")
			}
		}
		_, after := newFleet(t, append(nodes, node("new", 1000, 1000)), typical).Choose(a)
		must.True(t, after || !before)
	})
}

// What nodes are called changes nothing but their names: no placement is good or
// bad by luck.
func TestNamesOfNodesDoNotMatter(t *testing.T) {
	t.Parallel()
	nodes, pods := fgdtest.SyntheticNodes(40, 7), fgdtest.SyntheticTrace(200, 7)
	renamed := slices.Clone(nodes)
	for i := range renamed {
		renamed[i].ID = fmt.Sprintf("%03d", 997*i%1000)
	}
	typical := fgdtest.TypicalOf(pods)
	a, b := newFleet(t, nodes, typical), newFleet(t, renamed, typical)
	for i := range pods {
		p, ok := a.Place(pods[i].Ask)
		q, other := b.Place(pods[i].Ask)
		must.EqOp(t, ok, other)
		must.Eq(t, p.GPUs, q.GPUs)
	}
	left := func(f *fleet.Fleet) []string {
		var texts []string
		for _, n := range f.Nodes() {
			slices.Sort(n.GPUs)
			texts = append(texts, fmt.Sprint(n.Model, n.CPUMilli, n.MemoryMiB, n.GPUs))
		}
		slices.Sort(texts)
		return texts
	}
	must.Eq(t, left(a), left(b))
}
