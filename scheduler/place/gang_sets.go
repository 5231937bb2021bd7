package place

import (
	"maps"
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

func onesOf(mask uint64) int { return bits.OnesCount64(mask) }

// alike reports whether all sets of k devices out of a mask are equally good, what
// stays free and the way to the network aside.
func (p *Placer) alike(g *cluster.Group, all uint64, k int) bool {
	at := sets.Members(all)
	var first *sets.Quality
	var same func(from int, set uint64, left int) bool
	same = func(from int, set uint64, left int) bool {
		if left == 0 {
			q := p.qualityOf(g, set)
			q.LeftMBps, q.NetworkMBps, q.NICPath = 0, 0, 0
			if first == nil {
				first = &q
			}
			return q == *first
		}
		for i := from; i <= len(at)-left; i++ {
			if !same(i+1, set|1<<at[i], left-1) {
				return false
			}
		}
		return true
	}
	return same(0, 0, k)
}

// qualityOf is that of a set of devices of a group; nothing where links are not known.
func (p *Placer) qualityOf(g *cluster.Group, set uint64) (q sets.Quality) {
	switch {
	case joint(g):
		return p.tablesOf(g.Topology, g.TopologyText).table.Quality(set, set)
	case tabulated(g):
		_, q = sets.Large(g.Topology, set, bits.OnesCount64(set))
	}
	return q
}

// apart is t with all shares of the GPUs that some of a union are of, where several of them
// go to one allocation: Nomad divides the union, and could give two of one GPU.
func (t taken) apart(n *cluster.Node, g *cluster.GroupAsk, union map[int]uint64) taken {
	if !several(g) {
		return t
	}
	gpus, _ := sharesOf(n, union)
	more := maps.Clone(t)
	more[n.ID] = maps.Clone(t[n.ID])
	for at := range n.Groups { // of all names: a GPU is shared in one way only
		if n.Groups[at].Part != cluster.Share {
			continue
		}
		for i, gpu := range n.Groups[at].GPUs {
			if gpus[gpu] {
				more[n.ID][at] |= 1 << i
			}
		}
	}
	return more
}

// sharesOf are the GPUs of which there are shares in a union, and how many shares.
func sharesOf(n *cluster.Node, union map[int]uint64) (gpus map[uint8]bool, shares int) {
	gpus = map[uint8]bool{}
	for at, set := range union {
		if n.Groups[at].Part != cluster.Share {
			continue
		}
		for _, i := range sets.Members(set) {
			gpus[n.Groups[at].GPUs[i]] = true
			shares++
		}
	}
	return gpus, shares
}

// several reports whether a task gets more than one device of a block.
func several(g *cluster.GroupAsk) bool {
	return slices.ContainsFunc(g.Devices, func(d cluster.DeviceAsk) bool { return d.Count > 1 })
}

// clashes reports whether dividing the devices in the union could give an allocation two
// shares of one GPU, which cannot start.
func clashes(n *cluster.Node, g *cluster.GroupAsk, union map[int]uint64) bool {
	gpus, shares := sharesOf(n, union)
	return several(g) && len(gpus) < shares
}

// divisionsMax bounds how many sets divisible compares.
const divisionsMax = 20000

// divisible reports whether allocations with one device block each may be given any
// of the devices in the union without one of them getting a worse set than another.
func (p *Placer) divisible(n *cluster.Node, g *cluster.GroupAsk, union map[int]uint64) bool {
	if len(g.Devices) != 1 || clashes(n, g, union) {
		return false
	}
	var group *cluster.Group
	var all uint64
	for at, set := range union {
		if group != nil && group.Name() != n.Groups[at].Name() {
			return false
		}
		group, all = &n.Groups[at], set
	}
	k := g.Devices[0].Count
	switch {
	case group == nil:
		return false
	case k == 1 || !tabulated(group): // parts have no links, and are several groups of one name where they are many
		return true
	case chooseCount(onesOf(all), k) > divisionsMax:
		return false
	}
	return p.alike(group, all, k)
}
