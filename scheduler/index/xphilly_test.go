package index

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand"
	"testing"

	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
)

var XK [9][2]int

func TestTune(t *testing.T) {
	m := setstest.DGX1V()
	rate, ideal := setstest.Rates(m)
	nv := setstest.Remember(setstest.NewNVIDIA(m).Choose)
	fullest := least(func(free uint64, k int) int { return bits.OnesCount64(free) })
	all := philly(t, 20000, 50000)
	avg := func(name string, n int, f func(n int) placer) {
		var s, q measured
		XK = [9][2]int{}
		const runs = 12
		for seed := range int64(runs) {
			r := rand.New(rand.NewSource(seed))
			var jobs []job
			for _, j := range all {
				if r.Intn(500) > 0 {
					jobs = append(jobs, j)
				}
			}
			o := replay(jobs, f(n), rate, ideal)
			s.ring += o.ring
			s.atIdeal += o.atIdeal
			s.wait += o.wait
			q.atIdeal += o.atIdeal * o.atIdeal
			q.wait += o.wait * o.wait
		}
		k := float64(runs)
		sd := func(sum, sq float64) float64 { return math.Sqrt(sq/k - sum/k*sum/k) }
		t.Logf("%d %-16s ring %.3f ideal %.3f (sd %.3f) wait %.0f (sd %.0f) 2: %.3f of %d 4: %.3f of %d", n, name, s.ring/k, s.atIdeal/k, sd(s.atIdeal, q.atIdeal), s.wait/k, sd(s.wait, q.wait),
			float64(XK[2][1])/float64(XK[2][0]), XK[2][0]/runs, float64(XK[4][1])/float64(XK[4][0]), XK[4][0]/runs)
	}
	for _, n := range []int{60, 68} {
		avg("bestfit", n, func(n int) placer { return newPlain(n, fullest, nv) })
		for _, w := range []sets.Weights{sets.Packed(), {Rate: 1000, Packing: 500, Preserve: 25}, {Rate: 1000, Packing: 500, Preserve: 50}, {Rate: 1000, Packing: 500, Preserve: 100}, sets.Preserving(), {Rate: 1000, Packing: 0, Preserve: 100}} {
			avg(fmt.Sprint(w), n, func(n int) placer { return newIndexed(t, n, sets.NewJoint(sets.New(m), w)) })
		}
	}
}
