package fgdtest

import (
	"fmt"
	"math"
	"math/rand"
	"slices"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// Policy places asks one by one and remembers what it placed.
type Policy interface {
	// Place takes a node by its index in Experiment.Nodes, and the GPUs there. ok
	// is false when no node has room.
	Place(a *fleet.Ask) (node int, gpus []int, ok bool)
}

// Policies are the authors' names of their policies, the best last.
func Policies() []string {
	return []string{"Random", "DotProd", "Clustering", "Packing", "BestFit", "FGD"}
}

// NewPolicy returns one of Policies. It panics for another name.
func NewPolicy(name string, e *Experiment, typical []fleet.Typical) Policy {
	switch name {
	case "Random":
		return &random{newReference(e, nil), e.Random}
	case "DotProd":
		return newReference(e, dotProduct)
	case "Clustering":
		return newReference(e, clustering)
	case "Packing":
		return newReference(e, packing)
	case "BestFit":
		r := newReference(e, bestFit)
		r.normalise = true
		return r
	case "FGD":
		return newFGD(e, typical, nil)
	}
	panic("no policy is called " + name)
}

// NewFGDWithRandomTies returns FGD as it would be with ties broken by luck.
func NewFGDWithRandomTies(e *Experiment, typical []fleet.Typical) Policy {
	return newFGD(e, typical, rand.New(rand.NewSource(e.Random.Int63())))
}

// Run lets all pods of the experiment arrive and returns the share of GPUs in
// use, in percent, once they have asked for 0, 1, ... LoadPercent of them: the
// mean of the samples of each. It is an error when the policy places what has no
// room, or turns away what has.
func Run(e *Experiment, p Policy) ([]float64, error) {
	machines := newReference(e, nil).machines
	total := float64(capacity(e.Nodes))
	sums, samples := make([]float64, LoadPercent+1), make([]float64, LoadPercent+1)
	arrived, used := 0, 0
	for i := range e.Pods {
		a := &e.Pods[i].Ask
		arrived += a.TotalMilli()
		node, gpus, ok := p.Place(a)
		if err := settle(machines, a, node, gpus, ok); err != nil {
			return nil, fmt.Errorf("pod %s: %w", e.Pods[i].Name, err)
		}
		if ok {
			used += a.TotalMilli()
		}
		if percent := int(math.Round(100 * float64(arrived) / total)); percent < len(sums) {
			sums[percent] += 100 * float64(used) / total
			samples[percent]++
		}
	}
	for i := range sums {
		if samples[i] > 0 {
			sums[i] /= samples[i]
		} else if i > 0 {
			sums[i] = sums[i-1] // one pod may be more than a percent of a small cluster
		}
	}
	return sums, nil
}

// settle books a decision in the harness's own books.
func settle(machines []machine, a *fleet.Ask, node int, gpus []int, ok bool) error {
	if !ok {
		if at := slices.IndexFunc(machines, func(m machine) bool { return m.fits(a) }); at >= 0 {
			return fmt.Errorf("turned away although node %s has room", machines[at].name)
		}
		return nil
	}
	m := &machines[node]
	if !m.fits(a) || len(gpus) != a.GPUs {
		return fmt.Errorf("placed on node %s, which has no room", m.name)
	}
	for i, gpu := range gpus {
		if gpu < 0 || gpu >= len(m.left) || m.left[gpu] < a.GPUMilli || slices.Contains(gpus[:i], gpu) {
			return fmt.Errorf("placed on GPU %d of node %s, which has no room", gpu, m.name)
		}
		m.left[gpu] -= a.GPUMilli
	}
	m.idle -= a.TotalMilli()
	m.cpu -= a.CPUMilli
	m.memory -= a.MemoryMiB
	return nil
}
