package place_test

import (
	"fmt"
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
)

func BenchmarkBest(b *testing.B) {
	for name, m := range map[string]*topology.Matrix{"8 GPUs": dgx1v(), "16 GPUs": full(16, 6, 25781)} {
		free := uint64(1)<<m.Size() - 1
		b.Run(name+" known", func(b *testing.B) {
			p := place.New()
			p.Best(m, free, 4)
			for b.Loop() {
				p.Best(m, free, 4)
			}
		})
		b.Run(name+" first time", func(b *testing.B) {
			for b.Loop() {
				place.New().Best(m, free, 4)
			}
		})
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, count := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("%d nodes", count), func(b *testing.B) {
			var s cluster.Snapshot
			for i := range count {
				s.Nodes = append(s.Nodes, node(fmt.Sprintf("n%04d", i), modelV100, dgx1v(), i%8))
			}
			p, ask := place.New(), jobOf(2)
			p.Place(s, ask)
			b.ReportAllocs()
			for b.Loop() {
				p.Place(s, ask)
			}
		})
	}
}

// BenchmarkPlaceGang places 16 whole nodes where half are busy, in racks of 16 and blocks
// of 8 racks: a gang that fits, and one that does not, which is looked for everywhere.
func BenchmarkPlaceGang(b *testing.B) {
	for _, count := range []int{128, 1024} {
		var s cluster.Snapshot
		for i := range count {
			n := node(fmt.Sprintf("n%04d", i), modelV100, dgx1v())
			if i%2 == 0 {
				n = node(n.Name, modelV100, dgx1v(), i%8)
			}
			n.Rack, n.Block = fmt.Sprintf("r%02d", i/16), fmt.Sprintf("b%d", i/128)
			s.Nodes = append(s.Nodes, n)
		}
		for name, allocations := range map[string]int{"fits": 16, "waits": count/2 + 1} {
			b.Run(fmt.Sprintf("%d nodes %s", count, name), func(b *testing.B) {
				p, ask := place.New(), gangOf(8, allocations)
				p.PlaceGang(s, ask)
				for b.Loop() {
					p.PlaceGang(s, ask)
				}
			})
		}
	}
}
