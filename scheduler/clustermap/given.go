package clustermap

import (
	"math/bits"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// Given is what somebody has of one group of a node: how good a set it is.
type Given struct {
	Device string `json:"device"`
	// Indexes of the GPUs.
	Indexes []int `json:"indexes"`
	// RingMBps is the bottleneck of the best ring through the set, in effective MB/s per
	// direction, and IdealMBps that of the best set of its size of an idle node; both are
	// 0 for a single GPU, and where the node publishes no topology.
	RingMBps  int `json:"ring_mbps"`
	IdealMBps int `json:"ideal_mbps"`
	// Weakest is what connects the pair of the set that is connected worst, as nvidia-smi
	// topo -m names it; "" for a single GPU and without a topology.
	Weakest string `json:"weakest,omitempty"`
}

// GivenOf finds the devices with these ids on a node, one entry for each of its groups of
// which there are some, in the order of the node.
func GivenOf(n *cluster.Node, ids []string, finder setFinder) []Given {
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	var out []Given
	before := 0 // devices of earlier groups of the same name, see cluster.Divide
	for i := range n.Groups {
		g := &n.Groups[i]
		if i == 0 || n.Groups[i-1].Name() != g.Name() {
			before = 0
		}
		var set uint64
		for at := range min(len(g.Devices), cluster.MaxDevices) {
			if wanted[g.Devices[at].ID] {
				set |= 1 << at
			}
		}
		if set != 0 {
			given := givenOf(g, set, finder)
			for at := range given.Indexes {
				given.Indexes[at] += before
			}
			if last := len(out) - 1; last >= 0 && out[last].Device == given.Device {
				out[last].Indexes = append(out[last].Indexes, given.Indexes...)
			} else {
				out = append(out, given)
			}
		}
		before += len(g.Devices)
	}
	return out
}

func givenOf(g *cluster.Group, set uint64, finder setFinder) Given {
	out := Given{Device: g.Name(), Indexes: indexes(set)}
	m, k := g.Topology, bits.OnesCount64(set)
	if m == nil || m.Size() != len(g.Devices) || k < 2 {
		return out
	}
	if _, q, ok := finder.Best(m, set, k); ok {
		out.RingMBps = q.RingMBps
	}
	if _, q, ok := finder.Best(m, uint64(1)<<m.Size()-1, k); ok {
		out.IdealMBps = q.RingMBps
	}
	slowest := -1
	for _, i := range out.Indexes {
		for _, j := range out.Indexes {
			if i < j && (slowest < 0 || m.EffectiveMBps(i, j) < slowest) {
				slowest, out.Weakest = m.EffectiveMBps(i, j), linkName(m, i, j)
			}
		}
	}
	return out
}
