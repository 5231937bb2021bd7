package place

import (
	"math/bits"
	"sync"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// topologiesMax bounds the memory of a Placer to some 300 MB even when every
// host has 16 GPUs and its own topology. Real clusters have a handful.
const topologiesMax = 64

// Placer places jobs and remembers the tables of the topologies it has seen.
// The memory only saves time: answers do not depend on it. Methods may be
// called from several goroutines.
type Placer struct {
	mu     sync.Mutex
	tables map[string]*sets.Table
}

// New returns a Placer with an empty memory.
func New() *Placer { return &Placer{tables: map[string]*sets.Table{}} }

// Best returns the best k GPUs out of the free ones as a mask over the indexes
// of the topology, and how good they are. It is exact for up to 16 GPUs. ok is
// false when k is not positive or fewer than k are free.
func (p *Placer) Best(m *topology.Matrix, free uint64, k int) (set uint64, q sets.Quality, ok bool) {
	if k <= 0 || bits.OnesCount64(free) < k || bits.Len64(free) > m.Size() {
		return 0, sets.Quality{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	set, q = p.best(m, m.Encode(), free, k)
	return set, q, true
}

// best does the work of Best for a topology with the given encoding.
func (p *Placer) best(m *topology.Matrix, text string, free uint64, k int) (uint64, sets.Quality) {
	if m.Size() > sets.MaxGPUs {
		return sets.Large(m, free, k)
	}
	t := p.table(m, text)
	set := t.Best(free, k)
	return set, t.Quality(set, free)
}

func (p *Placer) table(m *topology.Matrix, text string) *sets.Table {
	if t := p.tables[text]; t != nil {
		return t
	}
	if len(p.tables) >= topologiesMax {
		clear(p.tables)
	}
	t := sets.New(m)
	p.tables[text] = t
	return t
}

// choice is a set of devices of one group of a node.
type choice struct {
	group   int
	set     uint64
	free    uint64
	quality sets.Quality
}

// bestOf chooses k devices of a group; without a topology the first in PCI
// order.
func (p *Placer) bestOf(g *cluster.Group, group int, free uint64, k int) choice {
	if !tabulated(g) {
		return choice{group: group, set: sets.First(free, k), free: free}
	}
	set, q := p.best(g.Topology, g.TopologyText, free, k)
	return choice{group: group, set: set, free: free, quality: q}
}

// damage is how much the choice takes from what the free devices are worth.
func (p *Placer) damage(g *cluster.Group, before, after uint64) int64 {
	if !tabulated(g) || g.Topology.Size() > sets.MaxGPUs {
		return 0
	}
	t := p.table(g.Topology, g.TopologyText)
	return t.Left(before) - t.Left(after)
}

// tabulated reports whether the group's topology describes its devices.
func tabulated(g *cluster.Group) bool {
	return g.Topology != nil && g.Topology.Size() == len(g.Devices)
}
