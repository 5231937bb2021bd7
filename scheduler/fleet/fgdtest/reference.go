package fgdtest

import (
	"math/rand"
	"slices"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// The largest node that the authors' policies measure in.
const (
	largestCPUMilli = 128000
	largestGPUMilli = 8 * fleet.WholeGPU
)

// machine is a node as the reference policies see it.
type machine struct {
	model   string
	name    string
	rank    int // of the name: ties go to the first
	cpu     int64
	memory  int64
	left    []int // of each GPU
	idle    int   // of all GPUs together
	tags    uint  // kinds of work that it has: bit 0 shares, bit n whole n-GPU work
	version int   // counts what was placed here
}

func (m *machine) fits(a *fleet.Ask) bool {
	if m.cpu < a.CPUMilli || m.memory < a.MemoryMiB || m.idle < a.TotalMilli() || !a.Accepts(m.model) {
		return false
	}
	wanted := a.GPUs
	for _, left := range m.left {
		if left >= a.GPUMilli {
			wanted--
		}
	}
	return wanted <= 0
}

// rule scores a node that fits an ask; the most is best.
type rule func(m *machine, a *fleet.Ask) int

// reference is a scheduler of the kind that the authors compare: it scores every
// node that fits, and takes the best.
type reference struct {
	machines []machine
	score    rule
	// normalise spreads the scores of the nodes that fit over 0 to 100.
	normalise bool
	scores    []int
}

func newReference(e *Experiment, score rule) *reference {
	r := &reference{score: score, scores: make([]int, len(e.Nodes))}
	names := slices.Sorted(slices.Values(e.Names))
	for i := range e.Nodes {
		n := &e.Nodes[i]
		rank, _ := slices.BinarySearch(names, e.Names[i])
		m := machine{model: n.Model, name: e.Names[i], rank: rank, cpu: n.CPUMilli, memory: n.MemoryMiB, left: append([]int(nil), n.GPUs...)}
		for _, left := range m.left {
			m.idle += left
		}
		r.machines = append(r.machines, m)
	}
	return r
}

// unfit is the score of a node that does not fit.
const unfit = -1 << 30

// Place implements Policy.
func (r *reference) Place(a *fleet.Ask) (int, []int, bool) {
	least, most := -unfit, unfit
	for i := range r.machines {
		m := &r.machines[i]
		r.scores[i] = unfit
		if m.fits(a) {
			r.scores[i] = r.score(m, a)
			least, most = min(least, r.scores[i]), max(most, r.scores[i])
		}
	}
	if most == unfit {
		return 0, nil, false
	}
	best := -1
	for i, score := range r.scores {
		if score == unfit {
			continue
		}
		if r.normalise && most > least {
			score = (score - least) * 100 / (most - least)
		}
		r.scores[i] = score
		if best < 0 || score > r.scores[best] || score == r.scores[best] && r.machines[i].rank < r.machines[best].rank {
			best = i
		}
	}
	m := &r.machines[best]
	return best, m.take(a, m.tightest(a)), true
}

// tightest is the GPU for a share: the one with the least left that suffices.
func (m *machine) tightest(a *fleet.Ask) int {
	best := -1
	for i, left := range m.left {
		if left >= a.GPUMilli && (best < 0 || left < m.left[best]) {
			best = i
		}
	}
	return best
}

// take places the ask: a single GPU on the given one, several on the first that
// are free.
func (m *machine) take(a *fleet.Ask, gpu int) []int {
	var gpus []int
	switch {
	case a.GPUs == 1:
		gpus = []int{gpu}
	case a.GPUs > 1:
		for i, left := range m.left {
			if left >= a.GPUMilli && len(gpus) < a.GPUs {
				gpus = append(gpus, i)
			}
		}
	}
	for _, i := range gpus {
		m.left[i] -= a.GPUMilli
		m.idle -= a.GPUMilli
	}
	m.cpu -= a.CPUMilli
	m.memory -= a.MemoryMiB
	m.tags |= tag(a)
	m.version++
	return gpus
}

// tag is the kind of work by which Clustering keeps nodes apart; none without GPUs.
func tag(a *fleet.Ask) uint {
	switch {
	case a.GPUs == 0:
		return 0
	case a.GPUMilli < fleet.WholeGPU:
		return 1
	}
	return 1 << a.GPUs
}

// dotProduct prefers nodes whose free resources point another way than the ask.
func dotProduct(m *machine, a *fleet.Ask) int {
	cpu := float64(m.cpu) / largestCPUMilli * float64(a.CPUMilli) / largestCPUMilli
	gpu := float64(m.idle) / largestGPUMilli * float64(a.TotalMilli()) / largestGPUMilli
	return int(100 * (1 - (cpu+gpu)/2))
}

// clustering puts work of one kind together. Work without GPUs goes by name.
func clustering(m *machine, a *fleet.Ask) int {
	if a.GPUs == 0 {
		return 0
	}
	score := 25 * (largestGPUMilli - m.idle) / largestGPUMilli
	switch t := tag(a); {
	case m.tags == 0:
		return score + 25
	case t != 0 && m.tags == t:
		return score + 75
	case m.tags&t != 0:
		return score + 50
	}
	return score
}

// packing fills shared GPUs first, then nodes in use, then the smallest free node.
// Work without GPUs goes by name.
func packing(m *machine, a *fleet.Ask) int {
	if a.GPUs == 0 {
		return 0
	}
	free := 0
	for _, left := range m.left {
		if left == fleet.WholeGPU {
			free++
		}
	}
	if a.GPUs == 1 && a.GPUMilli < fleet.WholeGPU {
		if left := m.left[m.tightest(a)]; left < fleet.WholeGPU {
			return max(50, 100-left*100/fleet.WholeGPU/10)
		}
	}
	if free < len(m.left) {
		return max(33, 50-free)
	}
	return 33 - len(m.left)
}

// bestFit leaves the least.
func bestFit(m *machine, a *fleet.Ask) int {
	cpu := float64(m.cpu-a.CPUMilli) / largestCPUMilli
	gpu := float64(m.idle-a.TotalMilli()) / largestGPUMilli
	return int(100 * (1 - cpu/2 - gpu/2))
}

// random is a scheduler that does not choose: any node that fits, and any GPU.
type random struct {
	*reference
	random *rand.Rand
}

// Place implements Policy.
func (r *random) Place(a *fleet.Ask) (int, []int, bool) {
	var nodes []int
	for i := range r.machines {
		if r.machines[i].fits(a) {
			nodes = append(nodes, i)
		}
	}
	if len(nodes) == 0 {
		return 0, nil, false
	}
	node := nodes[r.random.Intn(len(nodes))]
	m := &r.machines[node]
	var gpus []int
	for i, left := range m.left {
		if left >= a.GPUMilli {
			gpus = append(gpus, i)
		}
	}
	return node, m.take(a, gpus[r.random.Intn(len(gpus))]), true
}
