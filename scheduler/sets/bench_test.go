package sets

import (
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

func BenchmarkTableLookup(b *testing.B) {
	m := topology.New(8, 25781, 15750)
	for i := range 8 {
		for j := i + 1; j < 8; j++ {
			m.Set(i, j, (i+j)%3, topology.PathSystem)
		}
	}
	t := New(m)
	t.Best(0xff, 4)
	for b.Loop() {
		t.Best(0xff, 4)
	}
}
