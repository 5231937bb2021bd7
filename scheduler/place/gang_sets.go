package place

import (
	"math/bits"

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
