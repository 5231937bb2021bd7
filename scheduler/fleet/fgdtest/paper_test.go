package fgdtest_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
)

// maker makes a policy for an experiment.
type maker func(e *fgdtest.Experiment, typical []fleet.Typical) fgdtest.Policy

func named(name string) maker {
	return func(e *fgdtest.Experiment, typical []fleet.Typical) fgdtest.Policy {
		return fgdtest.NewPolicy(name, e, typical)
	}
}

// outcome is what a policy reached on a workload: percent of the GPUs in use at
// the full load, one for each seed, and the time for one decision.
type outcome struct {
	allocation []float64
	decision   time.Duration
}

func (o outcome) mean() float64 { return mean(o.allocation) }

func mean(numbers []float64) float64 {
	sum := 0.0
	for _, n := range numbers {
		sum += n
	}
	return sum / float64(len(numbers))
}

func run(t *testing.T, nodes []fleet.Node, pods []fgdtest.Pod, seeds []int64, policy maker) outcome {
	t.Helper()
	typical := fgdtest.TypicalOf(pods)
	var o outcome
	decisions := 0
	for _, seed := range seeds {
		e := fgdtest.Arrange(nodes, pods, seed)
		start := time.Now()
		got, err := fgdtest.Run(e, policy(e, typical))
		o.decision += time.Since(start)
		decisions += len(e.Pods)
		must.NoError(t, err)
		o.allocation = append(o.allocation, got[fgdtest.LoadPercent])
	}
	o.decision /= time.Duration(decisions)
	return o
}

// TestFGDReproduces holds our own account of the authors' six policies against
// the results they published: who does not reproduce them cannot claim to be
// better.
func TestFGDReproduces(t *testing.T) {
	s := open(t)
	tolerance, meanTolerance := 0.6, 0.2
	if !s.full {
		// Few seeds are not the mean of ten; their deviation is up to 0.6.
		tolerance, meanTolerance = 2.0, 1.0
	}
	var table strings.Builder
	var differences []float64
	for _, workload := range s.workloads {
		pods := trace(t, workload)
		best := ""
		results := map[string]float64{}
		fmt.Fprintf(&table, "\n%-12s", workload)
		for _, policy := range fgdtest.Policies() {
			theirs := s.authors[fgdtest.Cell{Workload: workload, Policy: policy}]
			ours := run(t, s.nodes, pods, s.seeds, named(policy)).mean()
			fmt.Fprintf(&table, "  %s %.2f/%.2f", policy, theirs, ours)
			difference := math.Abs(ours - theirs)
			differences = append(differences, difference)
			if difference > tolerance {
				t.Errorf("%s, %s: %.2f, the authors have %.2f", workload, policy, ours, theirs)
			}
			if results[policy] = ours; best == "" || ours > results[best] {
				best = policy
			}
		}
		must.EqOp(t, "FGD", best, must.Sprintf("%s: FGD is not first", workload))
	}
	t.Logf("percent of GPUs in use at %d %% of demand, the authors'/ours:%s", fgdtest.LoadPercent, table.String())
	t.Logf("difference: mean %.3f, most %.3f points", mean(differences), slices.Max(differences))
	must.LessEq(t, meanTolerance, mean(differences))
}

// TestOurPolicyBeatsFGD compares the policy of package fleet with FGD on the same
// arrivals.
func TestOurPolicyBeatsFGD(t *testing.T) {
	s := open(t)
	var table strings.Builder
	var differences []float64
	fmt.Fprintf(&table, "\n%-12s %8s %8s %8s %8s %8s %10s %9s %9s", "workload", "authors'", "FGD", "ours", "ours-FGD", "worst", "FGD random", "FGD us", "ours us")
	for _, workload := range s.workloads {
		pods := trace(t, workload)
		fgd := run(t, s.nodes, pods, s.seeds, named("FGD"))
		ours := run(t, s.nodes, pods, s.seeds, fgdtest.NewOurs)
		lucky := run(t, s.nodes, pods, s.seeds[:1], fgdtest.NewFGDWithRandomTies)
		var paired []float64
		for i := range s.seeds {
			paired = append(paired, ours.allocation[i]-fgd.allocation[i])
		}
		fmt.Fprintf(&table, "\n%-12s %8.2f %8.2f %8.2f %+8.2f %+8.2f %10.2f %9.1f %9.1f", workload,
			s.authors[fgdtest.Cell{Workload: workload, Policy: "FGD"}], fgd.mean(), ours.mean(), mean(paired), slices.Min(paired),
			lucky.mean(), micros(fgd.decision), micros(ours.decision))
		differences = append(differences, mean(paired))
		if mean(paired) <= 0 {
			t.Errorf("%s: %+.2f points against FGD", workload, mean(paired))
		}
		if s.full && workload == "default" && ours.mean() < 96 {
			t.Errorf("default: %.2f", ours.mean())
		}
	}
	t.Logf("percent of GPUs in use at %d %% of demand, %d seeds; FGD random: ties broken by luck, one seed; us for one decision:%s",
		fgdtest.LoadPercent, len(s.seeds), table.String())
	t.Logf("mean difference %+.3f points", mean(differences))
	must.GreaterEq(t, 0.8, mean(differences))
}

// TestOurPolicyOnWorkloadsOfNoPaper compares the two on clusters and work that
// neither was made with. It needs no data.
func TestOurPolicyOnWorkloadsOfNoPaper(t *testing.T) {
	mixtures, size := 4, 150
	if count, _ := seeds(t); count > 0 {
		mixtures, size = 24, 400
	}
	var table strings.Builder
	var differences []float64
	for i := range mixtures {
		seed := int64(5000 + i) // 1000 to 1023 are those that the numbers in fleet were chosen by
		nodes := fgdtest.SyntheticNodes(size, seed)
		pods := fgdtest.SyntheticTrace(size*5, seed)
		fgd := run(t, nodes, pods, []int64{seed}, named("FGD"))
		ours := run(t, nodes, pods, []int64{seed}, fgdtest.NewOurs)
		difference := ours.mean() - fgd.mean()
		differences = append(differences, difference)
		fmt.Fprintf(&table, "\nmixture %d: FGD %.2f, ours %.2f, %+.2f; %.1f and %.1f us", seed, fgd.mean(), ours.mean(), difference, micros(fgd.decision), micros(ours.decision))
	}
	slices.Sort(differences)
	t.Logf("percent of GPUs in use at %d %% of demand:%s", fgdtest.LoadPercent, table.String())
	t.Logf("ours against FGD: mean %+.2f, worst %+.2f points", mean(differences), differences[0])
	must.Greater(t, 0.0, mean(differences))
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
