package sets_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
)

func TestX(t *testing.T) {
	for name, m := range map[string]*topology.Matrix{"dgx1v": setstest.DGX1V(), "pairs": setstest.NVLinkPairs()} {
		tab := sets.New(m)
		rows := map[string]setstest.Chooser{
			"best":   tab.Best,
			"nvidia": setstest.Remember(setstest.NewNVIDIA(m).Choose),
			"joint":  sets.NewJoint(tab, sets.Weights{Rate: 1000, Packing: 500, Preserve: 250}).Set,
		}
		for r, c := range rows {
			for _, seed := range []int64{5, 6, 7} {
				o := setstest.Churn(m, c, setstest.Mix(), 20000, seed)
				t.Logf("%s %s %d %.4f %.3f", name, r, seed, o.Ring, o.AtIdeal)
			}
		}
	}
}

func BenchmarkJoint(b *testing.B) {
	for _, m := range []*topology.Matrix{setstest.DGX1V(), setstest.PCIe16(), setstest.Switched(16, 6, 25781)} {
		for b.Loop() {
			sets.NewJoint(sets.New(m), sets.Weights{Rate: 1000, Packing: 500, Preserve: 250})
		}
		b.Log(b.Elapsed() / 1)
	}
}
