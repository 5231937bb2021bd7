package fgdtest

import (
	"cmp"
	"math"
	"math/rand"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// TypicalOf counts the shapes of a trace, the most frequent first, until they are
// 95 % of its pods. It is what both FGD and our policy know of a workload. The
// memory is the mean of the shape's pods.
func TypicalOf(trace []Pod) []fleet.Typical {
	type key struct {
		cpu         int64
		gpus, milli int
		models      string
	}
	counts, memory, asks := map[key]int{}, map[key]int64{}, map[key]fleet.Ask{}
	var keys []key
	for i := range trace {
		a := trace[i].Ask
		k := key{a.CPUMilli, a.GPUs, a.GPUMilli, strings.Join(a.Models, "|")}
		if counts[k] == 0 {
			keys = append(keys, k)
			asks[k] = a
		}
		counts[k]++
		memory[k] += a.MemoryMiB
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.milli, b.milli),
			cmp.Compare(a.gpus, b.gpus), cmp.Compare(a.models, b.models))
	})
	var typical []fleet.Typical
	covered := 0
	for _, k := range keys {
		if covered*100 >= 95*len(trace) {
			break
		}
		covered += counts[k]
		s := fleet.Typical{Ask: asks[k], Count: int64(counts[k])}
		s.MemoryMiB = memory[k] / int64(counts[k])
		typical = append(typical, s)
	}
	return typical
}

// fgd is the authors' policy: it takes the node on which the fragmentation that
// typical pods would find grows least.
type fgd struct {
	machines []machine
	typical  map[string][]share // by the model of GPUs
	known    map[askKey]*fgdShape
	// ties are broken by name, or by luck when random is given.
	random *rand.Rand
	before []measured
}

// askKey is an ask as a map key.
type askKey struct {
	cpu, memory int64
	gpus, milli int
	models      string
}

func keyOf(a *fleet.Ask) askKey {
	return askKey{a.CPUMilli, a.MemoryMiB, a.GPUs, a.GPUMilli, strings.Join(a.Models, "|")}
}

// fgdShape remembers what the nodes score for one ask.
type fgdShape struct {
	score   []int
	gpu     []int
	version []int
}

// measured is the fragmentation of a node at a version.
type measured struct {
	version int
	value   float64
}

func newFGD(e *Experiment, typical []fleet.Typical, ties *rand.Rand) *fgd {
	f := &fgd{
		machines: newReference(e, nil).machines, known: map[askKey]*fgdShape{},
		random: ties, before: make([]measured, len(e.Nodes)), typical: map[string][]share{},
	}
	for i := range f.before {
		f.before[i].version = -1
		model := f.machines[i].model
		if _, known := f.typical[model]; !known {
			f.typical[model] = sharesOf(model, typical)
		}
	}
	return f
}

// share is how much of the typical pods are of one kind.
type share struct {
	cpu         int64
	gpus, milli int
	of          float64
}

// sharesOf are the kinds of typical pods that could use GPUs of a model.
func sharesOf(model string, typical []fleet.Typical) []share {
	all := int64(0)
	for i := range typical {
		all += typical[i].Count
	}
	var shares []share
	for i := range typical {
		t := &typical[i]
		if t.GPUs == 0 || !t.Accepts(model) {
			continue
		}
		s := share{cpu: t.CPUMilli, gpus: t.GPUs, milli: t.GPUMilli, of: float64(t.Count) / float64(all)}
		at := slices.IndexFunc(shares, func(o share) bool { return o.cpu == s.cpu && o.gpus == s.gpus && o.milli == s.milli })
		if at >= 0 {
			shares[at].of += s.of
		} else {
			shares = append(shares, s)
		}
	}
	return shares
}

// Place implements Policy.
func (f *fgd) Place(a *fleet.Ask) (int, []int, bool) {
	s := f.shape(a)
	best, ties := -1, 0
	for i := range f.machines {
		m := &f.machines[i]
		if s.version[i] != m.version {
			s.version[i] = m.version
			s.score[i], s.gpu[i] = f.score(i, a)
		}
		switch {
		case s.score[i] == unfit:
		case best < 0 || s.score[i] > s.score[best]:
			best, ties = i, 1
		case s.score[i] < s.score[best]:
		case f.random == nil:
			if m.rank < f.machines[best].rank {
				best = i
			}
		default:
			ties++
			if f.random.Intn(ties) == 0 {
				best = i
			}
		}
	}
	if best < 0 {
		return 0, nil, false
	}
	return best, f.machines[best].take(a, s.gpu[best]), true
}

func (f *fgd) shape(a *fleet.Ask) *fgdShape {
	k := keyOf(a)
	s := f.known[k]
	if s == nil {
		n := len(f.machines)
		s = &fgdShape{score: make([]int, n), gpu: make([]int, n), version: make([]int, n)}
		for i := range s.version {
			s.version[i] = -1
		}
		f.known[k] = s
	}
	return s
}

// score is the best that the node offers the ask, and on which GPU.
func (f *fgd) score(node int, a *fleet.Ask) (score, gpu int) {
	m := &f.machines[node]
	if !m.fits(a) {
		return unfit, 0
	}
	if b := &f.before[node]; b.version != m.version {
		b.version, b.value = m.version, f.fragmentation(m)
	}
	before := f.before[node].value
	after := machine{model: m.model, cpu: m.cpu - a.CPUMilli, idle: m.idle - a.TotalMilli()}
	if a.GPUs != 1 || a.GPUMilli == fleet.WholeGPU {
		wanted := a.GPUs
		for i, left := range m.left {
			if wanted > 0 && left >= a.GPUMilli {
				if a.GPUs == 1 {
					gpu = i
				}
				wanted--
				left -= a.GPUMilli
			}
			after.left = append(after.left, left)
		}
		return sigmoid(before - f.fragmentation(&after)), gpu
	}
	score = unfit
	for i, left := range m.left {
		if left < a.GPUMilli {
			continue
		}
		after.left = append(after.left[:0], m.left...)
		after.left[i] -= a.GPUMilli
		if s := sigmoid(before - f.fragmentation(&after)); s > score {
			score, gpu = s, i
		}
	}
	return score, gpu
}

// sigmoid cuts a difference of fragmentation to whole numbers from 0 to 100. The
// coarseness is part of the method: without it FGD places worse.
func sigmoid(milli float64) int {
	return int(100 / (1 + math.Exp(-milli/fleet.WholeGPU)))
}

// fragmentation is how many idle GPU milli the typical pods cannot use, on
// average. Pods that want no GPU, or another model, cannot use any.
func (f *fgd) fragmentation(m *machine) float64 {
	useful := 0.0
	for _, t := range f.typical[m.model] {
		if m.cpu < t.cpu {
			continue
		}
		enough, gpus := 0, 0
		for _, left := range m.left {
			if left >= t.milli {
				enough += left
				gpus++
			}
		}
		if gpus >= t.gpus {
			useful += t.of * float64(enough)
		}
	}
	return float64(m.idle) - useful
}
