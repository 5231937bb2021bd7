package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	// fitMilli is how many milli of waste the best fit may outweigh at most.
	fitMilli = 100
	// fitCPUMilli and fitGPUMilli are what counts as much in the fit: a node that
	// has one of them left fits as badly as one that has the other.
	fitCPUMilli = 128_000
	fitGPUMilli = 8 * WholeGPU

	// wastesMax bounds the memory for what states waste, to some 20 MB.
	wastesMax = 1 << 17
	// scoresMax bounds the memory for scores, to some 70 MB.
	scoresMax = 1 << 22
)

// Fleet is a cluster: what its nodes have left, and what was computed about
// that. What is remembered saves time and changes no answer. A Fleet must not be
// used by several goroutines at once.
type Fleet struct {
	nodes   []node
	byID    map[string]int
	streams []*stream
	wastes  map[wasteKey]int64
	scores  map[askKey][]score
}

// node is a node of the fleet.
type node struct {
	id     string
	model  string
	stream int
	// left of each GPU, by its index.
	left []int16
	state
	// version counts the changes of the state, from 1.
	version uint32
	// waste of the state at a version.
	waste        int64
	wasteVersion uint32
}

// wasteKey is a state that comes to the same for all nodes of a stream.
type wasteKey struct {
	stream int
	state
}

// askKey is an ask that can be a key.
type askKey struct {
	demand
	models string
}

// score is what placing an ask on a node is worth, at a version of the node.
type score struct {
	worth   int64
	version uint32
	// from is what the GPU that a share is taken from has left.
	from  int16
	fails bool // the node has no room
}

// New returns a fleet of nodes for which some work is typical. Without any it
// places by best fit.
func New(nodes []Node, typical []Typical) (*Fleet, error) {
	f := &Fleet{byID: map[string]int{}, wastes: map[wasteKey]int64{}, scores: map[askKey][]score{}}
	if len(typical) > typicalMax {
		return nil, fmt.Errorf("%d kinds of typical work are more than %d", len(typical), typicalMax)
	}
	for i := range typical {
		if err := typical[i].check(); err != nil {
			return nil, fmt.Errorf("typical work: %w", err)
		}
	}
	byModel, kinds := map[string]int{}, [][]weighed{}
	for i := range nodes {
		n := &nodes[i]
		if err := n.check(); err != nil {
			return nil, err
		}
		if _, twice := f.byID[n.ID]; twice {
			return nil, fmt.Errorf("two nodes have the id %s", n.ID)
		}
		f.byID[n.ID] = i
		at, known := byModel[n.Model]
		if !known {
			ks := kindsFor(n.Model, typical)
			if at = slices.IndexFunc(kinds, func(other []weighed) bool { return slices.Equal(ks, other) }); at < 0 {
				at = len(kinds)
				kinds = append(kinds, ks)
				f.streams = append(f.streams, newStream(ks))
			}
			byModel[n.Model] = at
		}
		f.nodes = append(f.nodes, newNode(n, at))
	}
	return f, nil
}

func newNode(n *Node, stream int) node {
	x := node{id: n.ID, model: n.Model, stream: stream, version: 1, state: state{cpu: n.CPUMilli, memory: n.MemoryMiB, gpus: len(n.GPUs)}}
	for _, left := range n.GPUs {
		x.left = append(x.left, int16(left))
	}
	x.sort()
	return x
}

// sort makes the state agree with the GPUs.
func (n *node) sort() {
	copy(n.state.left[:], n.left)
	slices.Sort(n.state.left[:n.gpus])
}

// Nodes returns what the nodes have left, by id.
func (f *Fleet) Nodes() []Node {
	var nodes []Node
	for i := range f.nodes {
		n := &f.nodes[i]
		x := Node{ID: n.id, Model: n.model, CPUMilli: n.cpu, MemoryMiB: n.memory}
		for _, left := range n.left {
			x.GPUs = append(x.GPUs, int(left))
		}
		nodes = append(nodes, x)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return nodes
}

// Choose decides where to place the ask, and takes nothing yet. ok is false when
// no node has room now, and for an ask that Ask.Check refuses.
func (f *Fleet) Choose(a Ask) (p Placement, ok bool) {
	if a.Check() != nil {
		return Placement{}, false
	}
	d := demandOf(&a)
	scores := f.scoresOf(&a, d)
	best := -1
	for i := range f.nodes {
		s := &scores[i]
		if n := &f.nodes[i]; s.version != n.version {
			*s = f.score(n, &a, &d)
		}
		if s.fails {
			continue
		}
		if best < 0 || s.worth > scores[best].worth || s.worth == scores[best].worth && f.nodes[i].before(&f.nodes[best]) {
			best = i
		}
	}
	if best < 0 {
		return Placement{}, false
	}
	n := &f.nodes[best]
	return Placement{Node: n.id, GPUs: n.pick(&d, scores[best].from), Ask: a}, true
}

// Place chooses and takes.
func (f *Fleet) Place(a Ask) (p Placement, ok bool) {
	if p, ok = f.Choose(a); ok {
		f.nodes[f.byID[p.Node]].change(&p, -1)
	}
	return p, ok
}

// Take takes a placement that was chosen, or that was made by others.
func (f *Fleet) Take(p Placement) error { return f.apply(&p, -1) }

// Release gives back what a placement took.
func (f *Fleet) Release(p Placement) error { return f.apply(&p, 1) }

func (f *Fleet) apply(p *Placement, sign int16) error {
	if err := p.Ask.Check(); err != nil {
		return err
	}
	at, known := f.byID[p.Node]
	if !known {
		return fmt.Errorf("no node has the id %s", p.Node)
	}
	n := &f.nodes[at]
	if len(p.GPUs) != p.Ask.GPUs {
		return fmt.Errorf("a placement of %d GPUs names %d", p.Ask.GPUs, len(p.GPUs))
	}
	for i, gpu := range p.GPUs {
		if gpu < 0 || gpu >= n.gpus || slices.Contains(p.GPUs[:i], gpu) {
			return fmt.Errorf("node %s has no GPU %d for this placement", n.id, gpu)
		}
		if left := n.left[gpu] + sign*int16(p.Ask.GPUMilli); left < 0 || left > WholeGPU {
			return fmt.Errorf("GPU %d of node %s would have %d milli left", gpu, n.id, left)
		}
	}
	cpu, memory := n.cpu+int64(sign)*p.Ask.CPUMilli, n.memory+int64(sign)*p.Ask.MemoryMiB
	if cpu < 0 || cpu > cpuMilliMax || memory < 0 || memory > memoryMiBMax {
		return fmt.Errorf("node %s would have %d milli of CPU and %d MiB of memory left", n.id, cpu, memory)
	}
	n.change(p, sign)
	return nil
}

// change takes (-1) or gives back (1) what was checked.
func (n *node) change(p *Placement, sign int16) {
	for _, gpu := range p.GPUs {
		n.left[gpu] += sign * int16(p.Ask.GPUMilli)
	}
	n.cpu += int64(sign) * p.Ask.CPUMilli
	n.memory += int64(sign) * p.Ask.MemoryMiB
	n.version++
	n.sort()
}

// pick are the first GPUs that serve the demand: for a share one of those that
// have exactly so much left.
func (n *node) pick(d *demand, from int16) []int {
	var gpus []int
	for i, left := range n.left {
		if left == from && len(gpus) < d.gpus {
			gpus = append(gpus, i)
		}
	}
	return gpus
}

// scoresOf are the scores that are remembered for an ask, one for each node.
func (f *Fleet) scoresOf(a *Ask, d demand) []score {
	key := askKey{demand: d}
	if len(a.Models) > 0 {
		key.models = strings.Join(a.Models, "\x00")
	}
	scores, known := f.scores[key]
	if !known {
		if (len(f.scores)+1)*len(f.nodes) > scoresMax {
			clear(f.scores)
		}
		scores = make([]score, len(f.nodes))
		f.scores[key] = scores
	}
	return scores
}

// score is what the ask is worth on the node now: by how much the waste shrinks,
// less what would be left over.
func (f *Fleet) score(n *node, a *Ask, d *demand) score {
	s := score{version: n.version, from: WholeGPU, fails: true}
	if !n.fits(d) || !a.Accepts(n.model) {
		return s
	}
	if n.wasteVersion != n.version {
		n.waste, n.wasteVersion = f.waste(n.stream, &n.state), n.version
	}
	s.fails = false
	fit := fitOf(n.cpu-d.cpu, n.idle()-int64(a.TotalMilli()))
	if d.gpus != 1 || d.milli == WholeGPU {
		s.worth = n.waste - f.wasteAfter(n, d, max(0, n.gpus-1)) - fit
		return s
	}
	// From the tightest GPU on, so that it wins a tie; one of those with as much.
	first := n.tightest(d.milli)
	for at := first; at < n.gpus; at++ {
		left := n.state.left[at]
		if at > first && n.state.left[at-1] == left {
			continue
		}
		if worth := n.waste - f.wasteAfter(n, d, at) - fit; at == first || worth > s.worth {
			s.worth, s.from = worth, left
		}
	}
	return s
}

// fitOf is the penalty for what is left over, in the unit of waste.
func fitOf(cpu, gpu int64) int64 {
	return rollouts * fitMilli * (cpu*fitGPUMilli + gpu*fitCPUMilli) / (2 * fitCPUMilli * fitGPUMilli)
}

func (f *Fleet) wasteAfter(n *node, d *demand, at int) int64 {
	after := n.state
	after.take(d, at)
	return f.waste(n.stream, &after)
}

func (f *Fleet) waste(stream int, v *state) int64 {
	s := f.streams[stream]
	key := wasteKey{stream, s.canonical(*v)}
	waste, known := f.wastes[key]
	if !known {
		if len(f.wastes) >= wastesMax {
			clear(f.wastes)
		}
		waste = s.waste(&key.state)
		f.wastes[key] = waste
	}
	return waste
}

// before orders nodes that are worth the same: the fuller one first, then any
// order that depends on what they have left and not on how they came. Only nodes
// that are interchangeable are left to their ids.
func (n *node) before(other *node) bool {
	order := cmp.Or(
		cmp.Compare(n.idle(), other.idle()), cmp.Compare(n.cpu, other.cpu), cmp.Compare(n.memory, other.memory),
		cmp.Compare(n.gpus, other.gpus), slices.Compare(n.state.left[:], other.state.left[:]),
		cmp.Compare(n.model, other.model), cmp.Compare(n.id, other.id))
	return order < 0
}
