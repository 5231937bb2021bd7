package fgdtest_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
)

// TestWholeGPUsByWaste is why jobs are not placed by package fleet, see
// docs/adr/0012: it compares the order in which the product fills machines with that of
// least waste on the whole GPUs of the traces, where typical is what runs. Nomad places
// the work without GPUs, by its bin packing.
func TestWholeGPUsByWaste(t *testing.T) {
	s := open(t)
	if count, _ := seeds(t); count == 0 {
		s.workloads = s.workloads[:1]
	}
	var table strings.Builder
	for _, workload := range s.workloads {
		for _, beside := range []bool{false, true} {
			pods := slices.DeleteFunc(trace(t, workload), func(p fgdtest.Pod) bool {
				return p.Ask.GPUs == 0 && !beside || p.Ask.GPUs > 0 && p.Ask.GPUMilli < fleet.WholeGPU
			})
			if !slices.ContainsFunc(pods, func(p fgdtest.Pod) bool { return p.Ask.GPUs > 0 }) {
				continue // of this workload all GPUs are shared
			}
			packed, waste := run(t, s.nodes, pods, s.seeds, whole(false)).mean(), run(t, s.nodes, pods, s.seeds, whole(true)).mean()
			fmt.Fprintf(&table, "\n%-12s work without GPUs beside it: %-5v  packed %.2f  by waste %.2f  difference %+.2f", workload, beside, packed, waste, waste-packed)
			if !beside {
				must.Greater(t, packed, waste, must.Sprint(table.String()))
			}
		}
	}
	t.Log("whole GPUs in use, in percent:" + table.String())
}

// learnEvery is after how many placements what is typical is learned anew.
const learnEvery = 200

// wholePolicy places whole GPUs on a machine that it chooses by its rule.
type wholePolicy struct {
	experiment *fgdtest.Experiment
	nodes      []fleet.Node // what they have left
	byWaste    bool
	fleet      *fleet.Fleet // since typical work was learned last
	seen       map[string]*fleet.Typical
	placed     int
}

func whole(byWaste bool) maker {
	return func(e *fgdtest.Experiment, _ []fleet.Typical) fgdtest.Policy {
		p := &wholePolicy{experiment: e, byWaste: byWaste, seen: map[string]*fleet.Typical{}, nodes: slices.Clone(e.Nodes)}
		for i := range p.nodes {
			p.nodes[i].GPUs = slices.Clone(p.nodes[i].GPUs)
		}
		return p
	}
}

// Place implements fgdtest.Policy.
func (p *wholePolicy) Place(a *fleet.Ask) (int, []int, bool) {
	at := p.choose(a)
	if at < 0 {
		return 0, nil, false
	}
	n := &p.nodes[at]
	var gpus []int
	for gpu, left := range n.GPUs {
		if left > 0 && len(gpus) < a.GPUs {
			gpus = append(gpus, gpu)
		}
	}
	if p.fleet != nil {
		if p.fleet.Take(fleet.Placement{Node: n.ID, GPUs: gpus, Ask: *a}) != nil {
			return at, nil, true // the harness reports it
		}
	}
	for _, gpu := range gpus {
		n.GPUs[gpu] = 0
	}
	n.CPUMilli, n.MemoryMiB = n.CPUMilli-a.CPUMilli, n.MemoryMiB-a.MemoryMiB
	if a.GPUs > 0 {
		p.placed++
		key := fmt.Sprint(a.CPUMilli, a.MemoryMiB, a.GPUs, a.Models)
		if p.seen[key] == nil {
			p.seen[key] = &fleet.Typical{Ask: *a}
		}
		p.seen[key].Count++
	}
	return at, gpus, true
}

// choose is the index of a node, or -1.
func (p *wholePolicy) choose(a *fleet.Ask) int {
	if p.byWaste && a.GPUs > 0 {
		return p.leastWaste(a)
	}
	best := -1
	for i := range p.nodes {
		n := &p.nodes[i]
		if n.CPUMilli >= a.CPUMilli && n.MemoryMiB >= a.MemoryMiB && free(n) >= a.GPUs && a.Accepts(n.Model) && (best < 0 || p.before(a, i, best)) {
			best = i
		}
	}
	return best
}

func free(n *fleet.Node) int {
	count := 0
	for _, left := range n.GPUs {
		count += left / fleet.WholeGPU
	}
	return count
}

// before is Nomad's bin packing for work without GPUs, and for all other index.Standing
// where no links are known.
func (p *wholePolicy) before(a *fleet.Ask, i, j int) bool {
	x, y, all, others := &p.nodes[i], &p.nodes[j], &p.experiment.Nodes[i], &p.experiment.Nodes[j]
	if a.GPUs == 0 {
		score := func(n, empty *fleet.Node) float64 {
			return math.Pow(10, float64(n.CPUMilli-a.CPUMilli)/float64(empty.CPUMilli)) + math.Pow(10, float64(n.MemoryMiB-a.MemoryMiB)/float64(empty.MemoryMiB))
		}
		return score(x, all) < score(y, others)
	}
	return cmp.Or(
		cmp.Compare((free(x)-a.GPUs)*len(y.GPUs), (free(y)-a.GPUs)*len(x.GPUs)), cmp.Compare(free(x), free(y)), cmp.Compare(x.Model, y.Model),
		cmp.Compare(8*x.CPUMilli/all.CPUMilli, 8*y.CPUMilli/others.CPUMilli), cmp.Compare(8*x.MemoryMiB/all.MemoryMiB, 8*y.MemoryMiB/others.MemoryMiB),
		cmp.Compare(x.ID, y.ID)) < 0
}

// leastWaste is the choice of package fleet, which knows the work that was placed.
func (p *wholePolicy) leastWaste(a *fleet.Ask) int {
	if p.fleet == nil || p.placed%learnEvery == 0 {
		var typical []fleet.Typical
		for _, kind := range p.seen {
			typical = append(typical, *kind)
		}
		var err error
		if p.fleet, err = fleet.New(p.nodes, typical); err != nil {
			panic(err)
		}
	}
	chosen, ok := p.fleet.Choose(*a)
	if !ok {
		return -1
	}
	return slices.IndexFunc(p.nodes, func(n fleet.Node) bool { return n.ID == chosen.Node })
}
