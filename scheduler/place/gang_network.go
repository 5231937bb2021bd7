package place

import (
	"slices"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// wired reports whether a node publishes NICs.
func wired(n *cluster.Node) bool {
	return slices.ContainsFunc(n.Groups, func(g cluster.Group) bool { return g.Topology != nil && g.Topology.NICs() > 0 })
}

// nodes counts those that have allocations.
func (l *lineup) nodes() int {
	seen := map[string]bool{}
	for _, members := range l.members {
		for i := range members {
			seen[members[i].node.ID] = true
		}
	}
	return len(seen)
}

// measureNetwork notes what each GPU has to other hosts when all allocations of a node
// send.
func (l *lineup) measureNetwork() {
	unions := map[string]map[int]uint64{}
	for _, members := range l.members {
		for i := range members {
			taken(unions).add(&members[i])
		}
	}
	first := true
	for _, members := range l.members {
		for i := range members {
			c := &members[i]
			for j := range c.choices {
				q, g := &c.choices[j].quality, &c.node.Groups[c.choices[j].group]
				if tabulated(g) {
					q.NetworkMBps, q.NICPath = g.Topology.NetworkMBps(unions[c.node.ID][c.choices[j].group])
				}
			}
			if network := c.networkMBps(); first || network < l.network {
				l.network, first = network, false
			}
		}
	}
}
