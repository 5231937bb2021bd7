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

// benchCluster is machines of two kinds, from idle to full.
func benchCluster(count int) cluster.Snapshot {
	var s cluster.Snapshot
	for i := range count {
		m := []*topology.Matrix{dgx1v(), dgxh100()}[i%2]
		var busy []int
		for j := range m.Size() {
			if (i*7+j*j*3)%11 < i%9 {
				busy = append(busy, j)
			}
		}
		n := node(fmt.Sprintf("n%04d", i), fmt.Sprint("model ", i%2), m, busy...)
		n.CPU.Free -= i % 5 * 8000
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

// BenchmarkPlace places jobs of 1 to 8 GPUs: on a snapshot that was asked about before,
// on one that is new, and by comparing all nodes.
func BenchmarkPlace(b *testing.B) {
	for _, count := range []int{1, 100, 1000, 10_000} {
		s := benchCluster(count)
		asks := make([]cluster.Ask, 8)
		for i := range asks {
			asks[i] = jobOf(i + 1)
		}
		p := place.New()
		p.Place(s, asks[7])
		for name, decide := range map[string]func(i int){
			"Place":             func(i int) { p.Place(s, asks[i%8]) },
			"Choose 1":          func(i int) { p.Choose(s, asks[i%8], 1) },
			"a new snapshot":    func(i int) { p.Place(cluster.Snapshot{Nodes: append([]cluster.Node{}, s.Nodes...)}, asks[i%8]) },
			"compare all nodes": func(i int) { p.CompareAll(s, asks[i%8], 64) },
		} {
			b.Run(fmt.Sprintf("%d nodes/%s", count, name), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					decide(i)
					i++
				}
			})
		}
	}
}
