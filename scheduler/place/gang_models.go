package place

import (
	"cmp"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// ofOneModel places the whole gang with GPUs of one model, for the slowest of them sets
// the pace of all. It is for asks that several models can serve.
func (m *muster) ofOneModel(nodes []cluster.Node) (best lineup, found bool) {
	models, one := m.models(nodes)
	if one {
		return best, false // there is no choice
	}
	for _, m.exact = range []bool{true, false} {
		for _, model := range models {
			if l := m.anywhere(only(nodes, model)); l.full() && (!found || l.better(&best)) {
				best, found = l, true
			}
		}
		if found {
			return best, true
		}
	}
	return best, false
}

// models are the names of the devices that can serve all asks of the gang, sorted; one
// says that no other can serve any of them.
func (m *muster) models(nodes []cluster.Node) (names []string, one bool) {
	serves := map[string]int{}
	asks := 0
	for i := range m.groups {
		for j := range m.groups[i].Devices {
			asks++
			of := map[string]bool{}
			for at := range nodes {
				for _, group := range matching(&nodes[at], &m.groups[i].Devices[j]) {
					of[nodes[at].Groups[group].Name()] = true
				}
			}
			for name := range of {
				serves[name]++
			}
		}
	}
	one = len(serves) < 2
	maps.DeleteFunc(serves, func(_ string, n int) bool { return n < asks })
	return slices.Sorted(maps.Keys(serves)), one
}

// order is that in which groups are given GPUs: those with most in an allocation first, and
// of equal ones those that fewest nodes would do for.
func (m *muster) order(nodes []cluster.Node) []int {
	order, choices := make([]int, len(m.groups)), make([]int, len(m.groups))
	for i := range order {
		order[i] = i
		for at := range nodes {
			if len(m.groups) == 1 {
				break
			}
			if reason, _ := unfit(&nodes[at], m.ask, &m.groups[i]); reason == "" {
				choices[i]++
			}
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Or(cmp.Compare(m.groups[j].GPUs(), m.groups[i].GPUs()), cmp.Compare(choices[i], choices[j]))
	})
	return order
}

// only are the nodes with devices of a model, without their others.
func only(nodes []cluster.Node, model string) []cluster.Node {
	var out []cluster.Node
	for _, n := range nodes {
		n.Groups = slices.DeleteFunc(slices.Clone(n.Groups), func(g cluster.Group) bool { return g.Name() != model })
		if len(n.Groups) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// certain reports whether a gang that could not be placed on idle nodes fits them in no
// other way either. One group is counted exactly; of several only that one of them alone,
// or all their GPUs, are too many.
func (m *muster) certain(nodes []cluster.Node) bool {
	if len(m.groups) == 1 {
		return true
	}
	need := 0
	for i := range m.groups {
		need += m.groups[i].Count * m.groups[i].GPUs()
	}
	for i := range nodes {
		for j := range nodes[i].Groups {
			need -= len(nodes[i].Groups[j].Devices)
		}
	}
	return need > 0 || slices.ContainsFunc(m.groups, func(g cluster.GroupAsk) bool {
		alone := muster{placer: m.placer, ask: m.ask, groups: []cluster.GroupAsk{g}, idle: m.idle}
		l := alone.on(nodes, nil)
		return !l.full()
	})
}
