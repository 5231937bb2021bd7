package index

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"testing"

	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// joints are made once: they do not change.
var joints = map[string]*sets.Joint{
	"dgx1v": sets.NewJoint(sets.New(setstest.DGX1V()), sets.Packed()),
	"pairs": sets.NewJoint(sets.New(setstest.NVLinkPairs()), sets.Packed()),
	"quad":  sets.NewJoint(sets.New(setstest.Switched(4, 12, 25000)), sets.Packed()),
}

func classes() []Class {
	return []Class{
		{ID: "a-mesh", Joint: joints["dgx1v"], CPU: 80, MemoryMiB: 400},
		{ID: "b-pairs", Joint: joints["pairs"], CPU: 64, MemoryMiB: 256},
		{ID: "c-mesh", Joint: joints["dgx1v"], CPU: 0, MemoryMiB: 400},
		{ID: "d-quad", Joint: joints["quad"], CPU: 32, MemoryMiB: 0},
	}
}

func indexOf(t must.T, nodes []Node) *Index {
	x, err := Build(classes(), nodes)
	must.NoError(t, err)
	return x
}

// some draws a cluster.
func some(t *rapid.T) []Node {
	var nodes []Node
	for i := range rapid.IntRange(0, 30).Draw(t, "nodes") {
		c := rapid.SampledFrom(classes()).Draw(t, "class")
		n := Node{ID: fmt.Sprintf("n%d", i), Class: c.ID, Rack: rapid.SampledFrom([]string{"", "r1", "r2", "r3"}).Draw(t, "rack"),
			Free: rapid.Uint64Range(0, 1<<c.Joint.GPUs()-1).Draw(t, "free"),
			CPU:  rapid.IntRange(0, 100).Draw(t, "cpu"), MemoryMiB: rapid.IntRange(0, 500).Draw(t, "memory")}
		if rapid.Bool().Draw(t, "idle") {
			n.Free = 1<<c.Joint.GPUs() - 1
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func someAsk(t *rapid.T) Ask {
	a := Ask{GPUs: rapid.IntRange(1, 8).Draw(t, "k"), CPU: rapid.IntRange(0, 100).Draw(t, "asked cpu"),
		MemoryMiB: rapid.IntRange(0, 500).Draw(t, "asked memory")}
	if rapid.Bool().Draw(t, "gpus only") {
		a.CPU, a.MemoryMiB = 0, 0
	}
	if rapid.Bool().Draw(t, "picky") {
		class := rapid.SampledFrom(classes()).Draw(t, "accepted").ID
		a.Accepts = func(c string) bool { return c == class }
	}
	return a
}

func accepts(a Ask, class string) bool { return a.Accepts == nil || a.Accepts(class) }

func fits(a Ask, n Node) bool {
	return accepts(a, n.Class) && bits.OnesCount64(n.Free) >= a.GPUs && n.CPU >= a.CPU && n.MemoryMiB >= a.MemoryMiB
}

// scan is all that List may answer, in order, by comparing all nodes.
func scan(nodes []Node, a Ask) []Node {
	classOf := map[string]Class{}
	for _, c := range classes() {
		classOf[c.ID] = c
	}
	eighths := func(have, usual int) int {
		if usual == 0 {
			return 0
		}
		return min(7, have*8/usual)
	}
	fitting := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return !fits(a, n) })
	slices.SortFunc(fitting, func(p, q Node) int {
		c, d := classOf[p.Class], classOf[q.Class]
		return cmp.Or(
			cmp.Compare(c.Joint.Cost(p.Free, a.GPUs), d.Joint.Cost(q.Free, a.GPUs)),
			cmp.Compare(c.Joint.Value(p.Free)-c.Joint.Value(p.Free&^c.Joint.Set(p.Free, a.GPUs)), d.Joint.Value(q.Free)-d.Joint.Value(q.Free&^d.Joint.Set(q.Free, a.GPUs))),
			cmp.Compare(bits.OnesCount64(p.Free), bits.OnesCount64(q.Free)),
			cmp.Compare(p.Free, q.Free),
			cmp.Compare(p.Class, q.Class),
			cmp.Compare(eighths(p.CPU, c.CPU), eighths(q.CPU, c.CPU)),
			cmp.Compare(eighths(p.MemoryMiB, c.MemoryMiB), eighths(q.MemoryMiB, c.MemoryMiB)),
			cmp.Compare(keyOf(p.ID), keyOf(q.ID)),
		)
	})
	return fitting
}

// state is all that an index knows, sorted.
func state(x *Index) []Node {
	var nodes []Node
	for _, id := range x.names {
		if n, ok := x.Node(id); ok {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return nodes
}

// check compares an index with one that is made anew of what it knows: every
// ask must find the same in both.
func check(t must.T, x *Index) {
	again := indexOf(t, state(x))
	for k := 1; k <= 8; k++ {
		for _, a := range []Ask{{GPUs: k}, {GPUs: k, CPU: 40, MemoryMiB: 200}} {
			got, ok := x.Find(a)
			want, wantOK := again.Find(a)
			must.Eq(t, wantOK, ok)
			must.Eq(t, want.Node, got.Node)
			must.Eq(t, want.Set, got.Set)
		}
	}
}

func TestFindEqualsAScanOfAllNodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := some(t)
		x := indexOf(t, nodes)
		for range 4 {
			a := someAsk(t)
			order := scan(nodes, a)
			got, ok := x.Find(a)
			must.Eq(t, len(order) > 0, ok)
			if !ok {
				must.SliceEmpty(t, x.List(a, 3))
				continue
			}
			want := order[0]
			must.Eq(t, want.ID, got.Node)
			most := rapid.IntRange(1, len(order)+1).Draw(t, "most")
			list := x.List(a, most)
			must.Len(t, min(most, len(order)), list)
			for i, o := range list {
				must.Eq(t, order[i].ID, o.Node)
			}
			must.Eq(t, sorted(order, a), namesOf(order), must.Sprint("Sort and List have one order"))
			must.True(t, fits(a, want))
			must.Eq(t, a.GPUs, bits.OnesCount64(got.Set))
			must.Eq(t, 0, got.Set&^want.Free)
			must.Eq(t, x.byClass[want.Class].Joint.Set(want.Free, a.GPUs), got.Set)
		}
	})
}

func namesOf(nodes []Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.ID)
	}
	return out
}

// sorted is the ids of nodes in the order of Sort.
func sorted(nodes []Node, a Ask) []string {
	var standings []Standing
	for _, n := range slices.Backward(nodes) {
		for _, c := range classes() {
			if c.ID == n.Class {
				standings = append(standings, StandingOf(n.ID, c, n.CPU, n.MemoryMiB).Of(c.Joint, n.Free, a.GPUs))
			}
		}
	}
	Sort(standings, func(s *Standing) *Standing { return s })
	var out []string
	for i := range standings {
		out = append(out, standings[i].Node)
	}
	return out
}

// Another node changes the choice only when it is the better one itself.
func TestAnotherNodeNeverMakesTheChoiceWorse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, a := some(t), someAsk(t)
		x := indexOf(t, nodes)
		before, ok := x.Find(a)
		if !ok {
			t.Skip()
		}
		cost := func(o Offer) int32 {
			n := x.nodes[o.at]
			return n.class.Joint.Cost(uint64(n.free), a.GPUs)
		}
		c := rapid.SampledFrom(classes()).Draw(t, "its class")
		must.NoError(t, x.Add(Node{ID: "another", Class: c.ID, CPU: 100, MemoryMiB: 500,
			Free: rapid.Uint64Range(0, 1<<c.Joint.GPUs()-1).Draw(t, "its GPUs")}))
		after, ok := x.Find(a)
		must.True(t, ok)
		must.LessEq(t, cost(before), cost(after))
		if after.Node != "another" {
			must.Eq(t, before, after)
		}
	})
}

func TestOrderOfNodesAndClassesDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := some(t)
		x, y := indexOf(t, nodes), New()
		for _, c := range rapid.Permutation(classes()).Draw(t, "order of classes") {
			must.NoError(t, y.AddClass(c))
		}
		for _, n := range rapid.Permutation(nodes).Draw(t, "order") {
			must.NoError(t, y.Add(n))
		}
		for range 10 {
			a := someAsk(t)
			first, ok := x.Place(a)
			second, alsoOK := y.Place(a)
			must.Eq(t, ok, alsoOK)
			must.Eq(t, first.Node, second.Node)
			must.Eq(t, first.Set, second.Set)
		}
		gpus, count := rapid.SampledFrom([]int{4, 8}).Draw(t, "gpus"), rapid.IntRange(1, 6).Draw(t, "gang")
		first, ok := x.Gang(Ask{GPUs: gpus}, count)
		second, alsoOK := y.Gang(Ask{GPUs: gpus}, count)
		must.Eq(t, ok, alsoOK)
		for i := range first {
			must.Eq(t, first[i].Node, second[i].Node)
		}
	})
}

// A model of the index is a map of nodes; whatever is done, both know the same.
func TestAnyHistoryLeavesWhatAModelSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := some(t)
		x := indexOf(t, nodes)
		model := map[string]Node{}
		for _, n := range nodes {
			model[n.ID] = n
		}
		var held []Offer
		steps := 0
		take := func(o Offer) {
			n := model[o.Node]
			must.Eq(t, 0, o.Set&^n.Free)
			n.Free, n.CPU, n.MemoryMiB = n.Free&^o.Set, n.CPU-o.CPU, n.MemoryMiB-o.MemoryMiB
			must.True(t, n.CPU >= 0 && n.MemoryMiB >= 0)
			model[o.Node] = n
			held = append(held, o)
		}
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				if o, ok := x.Place(someAsk(t)); ok {
					take(o)
				}
			},
			"place exactly": func(t *rapid.T) {
				a, id := someAsk(t), fmt.Sprintf("n%d", rapid.IntRange(0, 30).Draw(t, "id"))
				o, ok := x.PlaceExact(id, a)
				a.Accepts = nil
				n, there := model[id]
				must.Eq(t, there && fits(a, n), ok)
				if ok {
					must.Eq(t, id, o.Node)
					take(o)
				}
			},
			"gang": func(t *rapid.T) {
				a := someAsk(t)
				a.GPUs = rapid.SampledFrom([]int{4, 8}).Draw(t, "whole")
				offers, ok := x.Gang(a, rapid.IntRange(1, 5).Draw(t, "n"))
				must.True(t, ok || offers == nil)
				for _, o := range offers {
					take(o)
				}
			},
			"free": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				at := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				o := held[at]
				held = slices.Delete(held, at, at+1)
				n, there := model[o.Node]
				if !there || n.Free&o.Set != 0 {
					must.Error(t, x.Free(o))
					return
				}
				must.NoError(t, x.Free(o))
				must.ErrorIs(t, x.Free(o), ErrFree)
				n.Free, n.CPU, n.MemoryMiB = n.Free|o.Set, n.CPU+o.CPU, n.MemoryMiB+o.MemoryMiB
				model[o.Node] = n
			},
			"remove": func(t *rapid.T) {
				id := fmt.Sprintf("n%d", rapid.IntRange(0, 30).Draw(t, "id"))
				_, there := model[id]
				must.Eq(t, there, x.Apply(Event{Kind: NodeRemoved, Node: Node{ID: id}}) == nil)
				delete(model, id)
			},
			"add": func(t *rapid.T) {
				id := fmt.Sprintf("n%d", rapid.IntRange(0, 30).Draw(t, "id"))
				n := Node{ID: id, Class: "a-mesh", Rack: "r9", Free: rapid.Uint64Range(0, 255).Draw(t, "free"), CPU: 50, MemoryMiB: 100}
				must.NoError(t, x.Apply(Event{Kind: NodeAdded, Node: n}))
				model[id] = n
			},
			"": func(t *rapid.T) {
				must.Eq(t, len(model), x.Len())
				for id, want := range model {
					got, ok := x.Node(id)
					must.True(t, ok)
					must.Eq(t, want, got)
				}
				if steps++; steps%10 == 0 {
					check(t, x)
				}
			},
		})
	})
}

func TestPlacingAndFreeingRestoresTheIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x := indexOf(t, some(t))
		before := state(x)
		var held []Offer
		for range rapid.IntRange(1, 20).Draw(t, "jobs") {
			if o, ok := x.Place(someAsk(t)); ok {
				held = append(held, o)
			}
		}
		for _, o := range held {
			must.NoError(t, x.Free(o))
		}
		must.Eq(t, before, state(x))
		check(t, x)
	})
}

func TestMoreCapacityNeverMakesAnAskUnplaceable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, a := some(t), someAsk(t)
		if _, ok := indexOf(t, nodes).Find(a); !ok {
			t.Skip()
		}
		more := slices.Clone(nodes)
		for i := range more {
			gpus := joints["dgx1v"].GPUs()
			if more[i].Class == "d-quad" {
				gpus = 4
			}
			more[i].Free |= rapid.Uint64Range(0, 1<<gpus-1).Draw(t, "more")
			more[i].CPU += rapid.IntRange(0, 50).Draw(t, "more cpu")
		}
		more = append(more, Node{ID: "another", Class: "a-mesh", Free: rapid.Uint64Range(0, 255).Draw(t, "its"), CPU: 80, MemoryMiB: 400})
		_, ok := indexOf(t, more).Find(a)
		must.True(t, ok)
	})
}

// fewest is the least number of racks of one class that hold a gang: the largest
// first.
func fewest(nodes []Node, a Ask, gang int) int {
	least := 0
	for _, c := range classes() {
		if c.Joint.GPUs() != a.GPUs || !accepts(a, c.ID) {
			continue
		}
		counts := map[string]int{}
		for _, n := range nodes {
			if n.Class == c.ID && n.Free == 1<<a.GPUs-1 && fits(a, n) {
				counts[n.Rack]++
			}
		}
		var sizes []int
		for _, count := range counts {
			sizes = append(sizes, count)
		}
		slices.Sort(sizes)
		slices.Reverse(sizes)
		held, used := 0, 0
		for _, size := range sizes {
			if held < gang {
				held, used = held+size, used+1
			}
		}
		if held >= gang && (least == 0 || used < least) {
			least = used
		}
	}
	return least
}

func TestAGangUsesTheFewestRacks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, a := some(t), someAsk(t)
		a.GPUs = rapid.SampledFrom([]int{4, 8}).Draw(t, "whole")
		gang := rapid.IntRange(1, 8).Draw(t, "gang")
		x := indexOf(t, nodes)
		offers, ok := x.Gang(a, gang)
		least := fewest(nodes, a, gang)
		must.Eq(t, least > 0, ok)
		if !ok {
			return
		}
		must.Len(t, gang, offers)
		used, seen := map[string]bool{}, map[string]bool{}
		for _, o := range offers {
			n := nodes[slices.IndexFunc(nodes, func(n Node) bool { return n.ID == o.Node })]
			must.True(t, fits(a, n))
			must.Eq(t, n.Free, o.Set)
			must.False(t, seen[o.Node])
			used[n.Rack], seen[o.Node] = true, true
		}
		must.Eq(t, least, len(used))
	})
}

func TestAGangLeavesTheLargeRacksToOthers(t *testing.T) {
	t.Parallel()
	var nodes []Node
	for rack, count := range map[string]int{"small": 2, "middle": 3, "large": 5} {
		for i := range count {
			nodes = append(nodes, Node{ID: fmt.Sprintf("%s-%d", rack, i), Class: "a-mesh", Rack: rack, Free: 0xff})
		}
	}
	cases := map[string]struct {
		gang int
		want []string
	}{
		"one rack that just fits":            {3, []string{"middle"}},
		"one rack with the least to spare":   {1, []string{"small"}},
		"the largest, then one for the rest": {7, []string{"large", "small"}},
		"all of them":                        {10, []string{"large", "middle", "small"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			offers, ok := indexOf(t, nodes).Gang(Ask{GPUs: 8}, c.gang)
			must.True(t, ok)
			used := map[string]bool{}
			for _, o := range offers {
				for _, n := range nodes {
					if n.ID == o.Node {
						used[n.Rack] = true
					}
				}
			}
			must.Eq(t, c.want, slices.Sorted(maps.Keys(used)))
		})
	}
	_, ok := indexOf(t, nodes).Gang(Ask{GPUs: 8}, 11)
	must.False(t, ok)
}

func TestWhatCannotBeIsAnErrorAndChangesNothing(t *testing.T) {
	t.Parallel()
	one := Node{ID: "n1", Class: "a-mesh", Free: 0xf, CPU: 10, MemoryMiB: 10}
	x := indexOf(t, []Node{one})
	cases := map[string]struct {
		event Event
		want  error
	}{
		"a node of no class":        {Event{NodeAdded, Node{ID: "n2", Class: "none"}}, ErrUnknownClass},
		"more GPUs than there are":  {Event{NodeAdded, Node{ID: "n1", Class: "d-quad", Free: 0xff}}, ErrInvalid},
		"a node without an id":      {Event{NodeAdded, Node{Class: "a-mesh"}}, ErrInvalid},
		"an unknown node":           {Event{NodeRemoved, Node{ID: "n2"}}, ErrUnknownNode},
		"GPUs that are taken":       {Event{Taken, Node{ID: "n1", Free: 0x10}}, ErrTaken},
		"more CPU than there is":    {Event{Taken, Node{ID: "n1", Free: 1, CPU: 11}}, ErrTaken},
		"GPUs that are free":        {Event{Freed, Node{ID: "n1", Free: 1}}, ErrFree},
		"GPUs beyond the machine":   {Event{Freed, Node{ID: "n1", Free: 1 << 9}}, ErrInvalid},
		"a kind that there is none": {Event{Kind: 9}, ErrInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			must.ErrorIs(t, x.Apply(c.event), c.want)
			must.Eq(t, []Node{one}, state(x))
		})
	}
	must.ErrorIs(t, x.Add(one), ErrDuplicate)
	must.ErrorIs(t, x.AddClass(classes()[0]), ErrDuplicate)
	other := sets.NewJoint(sets.New(setstest.DGX1V()), sets.Preserving())
	must.ErrorIs(t, x.AddClass(Class{ID: "z", Joint: other}), ErrInvalid)
	_, err := Build(classes(), []Node{one, one})
	must.ErrorIs(t, err, ErrDuplicate)
	_, ok := x.Find(Ask{})
	must.False(t, ok)
}
