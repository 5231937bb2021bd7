package place

import (
	"fmt"
	"math/bits"
	"strconv"
	"sync"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/index"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// topologiesMax bounds the memory of a Placer to some 400 MB even when every
// host has 16 GPUs and its own topology. Real clusters have a handful.
const topologiesMax = 32

// weights are those of the cluster's machines: no job should wait longer than with
// best fit. docs/performance.md has what they are worth.
func weights() sets.Weights { return sets.Packed() }

// Placer places jobs and remembers the tables of the topologies it has seen, and what
// it has prepared of the latest snapshots. The memory only saves time: answers do not
// depend on it. Methods may be called from several goroutines.
type Placer struct {
	mu     sync.Mutex
	tables map[string]*tables
	// views are of the latest snapshots, the one that was used last first.
	views []*views
	key   []byte // of a view, to be looked up
}

// tables are those of one topology.
type tables struct {
	table *sets.Table
	joint *sets.Joint // nil until a job is placed by it
}

// New returns a Placer with an empty memory.
func New() *Placer { return &Placer{tables: map[string]*tables{}} }

// Best returns the k GPUs out of the free ones that have the best links as a mask
// over the indexes of the topology, and how good they are. It is exact for up to 16
// GPUs. ok is false when k is not positive or fewer than k are free. Place may
// leave that set to later jobs.
func (p *Placer) Best(m *topology.Matrix, free uint64, k int) (set uint64, q sets.Quality, ok bool) {
	if k <= 0 || bits.OnesCount64(free) < k || bits.Len64(free) > m.Size() {
		return 0, sets.Quality{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Size() > sets.MaxGPUs {
		set, q = sets.Large(m, free, k)
		return set, q, true
	}
	t := p.tablesOf(m, m.Encode()).table
	set = t.Best(free, k)
	return set, t.Quality(set, free), true
}

// tablesOf are the tables of a topology with the given encoding.
func (p *Placer) tablesOf(m *topology.Matrix, text string) *tables {
	if t := p.tables[text]; t != nil {
		return t
	}
	if len(p.tables) >= topologiesMax {
		clear(p.tables)
	}
	t := &tables{table: sets.New(m)}
	p.tables[text] = t
	return t
}

// machine is what all nodes of a class have in common.
type machine struct {
	class index.Class
	// tables by which sets of the GPUs are chosen; nil where they are too many for
	// that, or their links not known.
	tables *tables
}

// machineOf is that of a node, for one group of its devices.
func (p *Placer) machineOf(n *cluster.Node, g *cluster.Group) machine {
	m := machine{class: classOf(n, g)}
	if joint(g) {
		m.tables = p.tablesOf(g.Topology, g.TopologyText)
		if m.tables.joint == nil {
			m.tables.joint = sets.NewJoint(m.tables.table, weights())
		}
		m.class.Joint = m.tables.joint
	}
	return m
}

// choice is a set of devices of one group of a node.
type choice struct {
	group int
	set   uint64
	free  uint64
	// freeAll counts the free devices of that name on the node.
	freeAll int
	// quality of the set, and that of the set with the best links.
	quality sets.Quality
	best    sets.Quality
	// standing of the node if only this was asked for.
	standing index.Standing
}

// choose chooses k devices of a group of a node that is such a machine; GPUs without a
// topology in PCI order. all are the free devices of each group of the node; there must be
// room for k.
func (m *machine) choose(n *cluster.Node, group int, all []uint64, k int) choice {
	g, free := &n.Groups[group], all[group]
	c := choice{group: group, free: free, freeAll: bits.OnesCount64(free), standing: index.StandingOf(n.ID, m.class, n.CPU.Free, n.MemoryMiB.Free)}
	switch {
	case m.tables != nil:
		j, t := m.tables.joint, m.tables.table
		c.set, c.standing = j.Set(free, k), c.standing.Of(j, free, k)
		c.quality, c.best = t.Quality(c.set, free), t.Quality(t.Best(free, k), free)
		return c
	case tabulated(g):
		c.set, c.quality = sets.Large(g.Topology, free, k)
		c.best = c.quality
	case g.Part != cluster.Whole:
		var lost int
		c.set, lost = chooseParts(n, group, all, k)
		c.freeAll = 0
		for i := range n.Groups {
			if n.Groups[i].Model == g.Model && n.Groups[i].Type == g.Type {
				c.freeAll += bits.OnesCount64(all[i])
			}
		}
		c.standing.Loss = lost * sets.Unit
	default:
		c.set = sets.First(free, k)
	}
	c.standing.FreeGPUs, c.standing.Free = bits.OnesCount64(free), free
	c.standing.Cost = weights().CostUntabled(k, c.quality.RingMBps, c.standing.FreeGPUs-k, len(g.Devices))
	return c
}

// classOf is the class of a node among those with such GPUs: machines that are alike.
func classOf(n *cluster.Node, g *cluster.Group) index.Class {
	id := make([]byte, 0, len(g.TopologyText)+48)
	id = fmt.Appendf(id, "%012d ", nicMBps(g)) // the slower network first: others may need the faster one
	id = append(id, g.TopologyText...)
	for _, amount := range []int{len(g.Devices), n.CPU.Total, n.MemoryMiB.Total} {
		id = strconv.AppendInt(append(id, ' '), int64(amount), 10)
	}
	return index.Class{ID: string(id), CPU: max(0, n.CPU.Total), MemoryMiB: max(0, n.MemoryMiB.Total)}
}

// nicMBps is what all NICs of a group's host carry.
func nicMBps(g *cluster.Group) (mbps int) {
	if tabulated(g) {
		for nic := range g.Topology.NICs() {
			mbps += g.Topology.NICMBps(nic)
		}
	}
	return mbps
}

// tabulated reports whether the group's topology describes its devices.
func tabulated(g *cluster.Group) bool {
	return g.Topology != nil && g.Topology.Size() == len(g.Devices)
}

// joint reports whether sets of the group are chosen by a sets.Joint.
func joint(g *cluster.Group) bool {
	return tabulated(g) && len(g.Devices) > 0 && len(g.Devices) <= sets.MaxGPUs
}
