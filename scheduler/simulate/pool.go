package simulate

import (
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/sets"
)

// unlimited stands for CPU or memory that does not matter.
const unlimited = 1 << 40

// need is what one allocation takes of one node.
type need struct {
	gpus, cpu, memoryMiB int
	// accepts says of each class whether it will do.
	accepts []bool
}

// grant is what an allocation has.
type grant struct {
	node int32
	set  uint64
	cpu  int
	mem  int
}

// placer is a policy with the nodes that it places on.
type placer interface {
	place(n *need) (grant, bool)
	free(g grant)
}

// shelf is the nodes of a class.
type shelf struct {
	class *Class
	table *sets.Table
	// byMask are the nodes with a set of free GPUs, ascending; present are the sets that
	// some node has, at where each stands in present.
	byMask  [][]int32
	present []uint16
	at      []int32
	// costs are those that were computed, by k and free GPUs.
	costs [sets.MaxGPUs + 1][]cost
	known [sets.MaxGPUs + 1][]bool
}

// slot is a node as the pool keeps it.
type slot struct {
	shelf    int
	free     uint64
	cpu, mem int
}

// pool places by looking at all sets of free GPUs that some node has: nodes with equal
// ones are equal, and the first by name is taken.
type pool struct {
	rule    rule
	chance  *dice // nil unless the policy is Nomad's
	shelves []*shelf
	nodes   []slot
	fitting []int32 // scratch
}

func newPool(c *Cluster, tables []*sets.Table, policy string) (*pool, error) {
	p := &pool{nodes: make([]slot, len(c.Nodes))}
	if policy == Nomad {
		p.chance = new(dice)
	} else {
		var err error
		if p.rule, err = ruleOf(policy); err != nil {
			return nil, err
		}
	}
	for i := range c.Classes {
		n := 1 << c.Classes[i].GPUs
		p.shelves = append(p.shelves, &shelf{class: &c.Classes[i], table: tables[i], byMask: make([][]int32, n), at: make([]int32, n)})
	}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		at := slices.IndexFunc(c.Classes, func(class Class) bool { return class.Name == n.Class })
		class := &c.Classes[at]
		p.nodes[i] = slot{shelf: at, free: c.usable(n), cpu: orUnlimited(class.CPU), mem: orUnlimited(class.MemoryMiB)}
		p.shelves[at].add(int32(i), p.nodes[i].free)
	}
	return p, nil
}

func orUnlimited(n int) int {
	if n == 0 {
		return unlimited
	}
	return n
}

func (s *shelf) add(node int32, free uint64) {
	nodes := s.byMask[free]
	if len(nodes) == 0 {
		s.at[free] = int32(len(s.present))
		s.present = append(s.present, uint16(free))
	}
	at, _ := slices.BinarySearch(nodes, node)
	s.byMask[free] = slices.Insert(nodes, at, node)
}

func (s *shelf) remove(node int32, free uint64) {
	nodes := s.byMask[free]
	at, _ := slices.BinarySearch(nodes, node)
	s.byMask[free] = slices.Delete(nodes, at, at+1)
	if len(s.byMask[free]) > 0 {
		return
	}
	last := s.present[len(s.present)-1]
	s.present[s.at[free]], s.at[last] = last, s.at[free]
	s.present = s.present[:len(s.present)-1]
}

// costOf is the rule's cost, computed once.
func (s *shelf) costOf(r rule, free uint64, k int) *cost {
	if s.costs[k] == nil {
		s.costs[k], s.known[k] = make([]cost, len(s.byMask)), make([]bool, len(s.byMask))
	}
	if !s.known[k][free] {
		s.costs[k][free], s.known[k][free] = r(s, free, k), true
	}
	return &s.costs[k][free]
}

// place implements placer.
func (p *pool) place(n *need) (grant, bool) {
	if p.chance != nil {
		return p.byChance(n)
	}
	best := int32(-1)
	var least *cost
	for i, s := range p.shelves {
		if !n.accepts[i] || n.gpus > s.class.GPUs {
			continue
		}
		for _, mask := range s.present {
			if bits.OnesCount16(mask) < n.gpus {
				continue
			}
			c := s.costOf(p.rule, uint64(mask), n.gpus)
			if best >= 0 && least.less(c) {
				continue
			}
			node := p.first(s.byMask[mask], n)
			if node >= 0 && (best < 0 || c.less(least) || node < best) {
				best, least = node, c
			}
		}
	}
	if best < 0 {
		return grant{}, false
	}
	s := p.shelves[p.nodes[best].shelf]
	return p.take(best, s.table.Best(p.nodes[best].free, n.gpus), n), true
}

// first is the first of some nodes with enough CPU and memory, or -1.
func (p *pool) first(nodes []int32, n *need) int32 {
	for _, node := range nodes {
		if p.nodes[node].cpu >= n.cpu && p.nodes[node].mem >= n.memoryMiB {
			return node
		}
	}
	return -1
}

// byChance is Nomad's way with a batch job: of two nodes the fuller one, and any GPUs.
func (p *pool) byChance(n *need) (grant, bool) {
	p.fitting = p.fitting[:0]
	for i := range p.nodes {
		s := &p.nodes[i]
		if n.accepts[s.shelf] && bits.OnesCount64(s.free) >= n.gpus && s.cpu >= n.cpu && s.mem >= n.memoryMiB {
			p.fitting = append(p.fitting, int32(i))
		}
	}
	if len(p.fitting) == 0 {
		return grant{}, false
	}
	one, other := p.fitting[p.chance.below(len(p.fitting))], p.fitting[p.chance.below(len(p.fitting))]
	if bits.OnesCount64(p.nodes[other].free) < bits.OnesCount64(p.nodes[one].free) {
		one = other
	}
	return p.take(one, p.chance.some(p.nodes[one].free, n.gpus), n), true
}

func (p *pool) take(node int32, set uint64, n *need) grant {
	g := grant{node: node, set: set, cpu: n.cpu, mem: n.memoryMiB}
	p.change(node, p.nodes[node].free&^set, -g.cpu, -g.mem)
	return g
}

// free implements placer.
func (p *pool) free(g grant) { p.change(g.node, p.nodes[g.node].free|g.set, g.cpu, g.mem) }

func (p *pool) change(node int32, free uint64, cpu, mem int) {
	s := &p.nodes[node]
	p.shelves[s.shelf].remove(node, s.free)
	s.free, s.cpu, s.mem = free, s.cpu+cpu, s.mem+mem
	p.shelves[s.shelf].add(node, s.free)
}
