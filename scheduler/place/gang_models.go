package place

import (
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
