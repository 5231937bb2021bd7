package sets_test

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
)

// sink keeps the compiler from leaving out what is measured.
var sink uint64

// BenchmarkLookup compares finding a set in the tables with NVIDIA's best-effort
// policy, which searches anew each time. The ratio is printed for each k.
func BenchmarkLookup(b *testing.B) {
	machines := []struct {
		name string
		m    *topology.Matrix
		ks   []int // for which NVIDIA's takes less than seconds
	}{
		{"DGX-1V", setstest.DGX1V(), []int{1, 2, 3, 4, 5, 6, 7, 8}},
		{"DGX-2", setstest.Switched(16, 6, 25781), []int{1, 8, 16}},
		{"PCIe16", setstest.PCIe16(), []int{1, 8, 16}},
	}
	for _, machine := range machines {
		table, nvidia := sets.New(machine.m), setstest.NewNVIDIA(machine.m)
		joint := sets.NewJoint(table, sets.Packed())
		all := uint64(1)<<machine.m.Size() - 1
		for _, k := range machine.ks {
			var ours, theirs float64
			b.Run(fmt.Sprintf("%s/%d of %d/joint", machine.name, k, machine.m.Size()), func(b *testing.B) {
				for b.Loop() {
					sink += joint.Set(all, k)
				}
				ours = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			})
			b.Run(fmt.Sprintf("%s/%d of %d/best", machine.name, k, machine.m.Size()), func(b *testing.B) {
				table.Best(all, k)
				for b.Loop() {
					sink += table.Best(all, k)
				}
			})
			b.Run(fmt.Sprintf("%s/%d of %d/nvidia", machine.name, k, machine.m.Size()), func(b *testing.B) {
				free := nvidia.Devices(all)
				for b.Loop() {
					sink += uint64(len(nvidia.Allocate(free, k)))
				}
				theirs = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				b.ReportMetric(theirs/ours, "times-joint")
			})
		}
	}
}

// BenchmarkLookupAllMasks asks for every k of every set of free GPUs in turn.
func BenchmarkLookupAllMasks(b *testing.B) {
	m := setstest.DGX1V()
	joint, nvidia := sets.NewJoint(sets.New(m), sets.Packed()), setstest.NewNVIDIA(m)
	const questions = 1024 // of eight GPUs: the sum of the sizes of all sets
	var ours float64
	b.Run("joint", func(b *testing.B) {
		for b.Loop() {
			for free := uint64(1); free < 256; free++ {
				for k := 1; k <= bits.OnesCount64(free); k++ {
					sink += joint.Set(free, k)
				}
			}
		}
		ours = float64(b.Elapsed().Nanoseconds()) / float64(b.N) / questions
		b.ReportMetric(ours, "ns/lookup")
	})
	b.Run("nvidia", func(b *testing.B) {
		for b.Loop() {
			for free := uint64(1); free < 256; free++ {
				devices := nvidia.Devices(free)
				for k := 1; k <= len(devices); k++ {
					sink += uint64(len(nvidia.Allocate(devices, k)))
				}
			}
		}
		theirs := float64(b.Elapsed().Nanoseconds()) / float64(b.N) / questions
		b.ReportMetric(theirs, "ns/lookup")
		b.ReportMetric(theirs/ours, "times-joint")
	})
}

// BenchmarkBuild is what a new topology costs once.
func BenchmarkBuild(b *testing.B) {
	for name, m := range map[string]*topology.Matrix{"8 mesh": setstest.DGX1V(), "16 switch": setstest.Switched(16, 6, 25781), "16 PCIe": setstest.PCIe16()} {
		b.Run(name+"/table", func(b *testing.B) {
			for b.Loop() {
				sets.New(m)
			}
		})
		table := sets.New(m)
		b.Run(name+"/joint", func(b *testing.B) {
			for b.Loop() {
				sets.NewJoint(table, sets.Packed())
			}
		})
	}
}
