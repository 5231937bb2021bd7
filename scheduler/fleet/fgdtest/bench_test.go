package fgdtest_test

import (
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
)

// experiment has as many nodes as the paper's cluster.
func experiment() (e *fgdtest.Experiment, typical []fleet.Typical) {
	pods := fgdtest.SyntheticTrace(8000, 1)
	return fgdtest.Arrange(fgdtest.SyntheticNodes(1213, 1), pods, 1), fgdtest.TypicalOf(pods)
}

// BenchmarkDecision places pods until the demand is 130 % of the cluster, then
// begins again with an empty one that remembers nothing.
func BenchmarkDecision(b *testing.B) {
	e, typical := experiment()
	for _, policy := range []struct {
		name string
		make maker
	}{{"FGD", named("FGD")}, {"ours", fgdtest.NewOurs}} {
		b.Run(policy.name, func(b *testing.B) {
			b.ReportAllocs()
			p, at := policy.make(e, typical), 0
			for b.Loop() {
				if at == len(e.Pods) {
					b.StopTimer()
					p, at = policy.make(e, typical), 0
					b.StartTimer()
				}
				p.Place(&e.Pods[at].Ask)
				at++
			}
		})
	}
}

// BenchmarkTurnover is a cluster that has been full for a while: one comes when
// one goes.
func BenchmarkTurnover(b *testing.B) {
	e, typical := experiment()
	f, err := fleet.New(e.Nodes, typical)
	must.NoError(b, err)
	var placed []fleet.Placement
	at := 0
	place := func() {
		if p, ok := f.Place(e.Pods[at%len(e.Pods)].Ask); ok {
			placed = append(placed, p)
		}
		at++
	}
	for at < len(e.Pods) {
		place()
	}
	b.ReportAllocs()
	for b.Loop() {
		must.NoError(b, f.Release(placed[0]))
		placed = placed[1:]
		place()
	}
}
