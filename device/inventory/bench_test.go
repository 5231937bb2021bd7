package inventory_test

import (
	"fmt"
	"testing"

	"github.com/nomad-governor/governor/device/inventory"
)

// BenchmarkFingerprint measures what follows a reading of GPUs behind NVSwitch:
// health, groups, and whether they changed.
func BenchmarkFingerprint(b *testing.B) {
	for _, gpus := range []int{8, 16} {
		b.Run(fmt.Sprintf("%dGPUs", gpus), func(b *testing.B) {
			list := cards(gpus)
			for i := range list {
				for range 18 {
					list[i].Links = append(list[i].Links, inventory.Link{Active: true, Remote: inventory.RemoteSwitch, SpeedMBps: 26562, Version: "4.0"})
				}
			}
			r := inventory.Readings{DriverVersion: "550.54.15", GPUs: list}
			inv := inventory.Observe(inventory.Inventory{}, r)
			before := inv.Groups(whole)
			b.ReportAllocs()
			for b.Loop() {
				inv = inventory.Observe(inv, r)
				if groups := inv.Groups(whole); !inventory.Equal(before, groups) {
					b.Fatal("an unchanged reading changed the fingerprint")
				}
			}
		})
	}
}

// BenchmarkMetrics measures the stats of a node's devices.
func BenchmarkMetrics(b *testing.B) {
	for _, gpus := range []int{8, 16} {
		b.Run(fmt.Sprintf("%dGPUs", gpus), func(b *testing.B) {
			units := observe(cards(gpus)...).Units(whole)
			some := inventory.Known[int64](1)
			sample := inventory.Sample{MemoryUsedMiB: some, MemoryTotalMiB: some, GPUPercent: some, PowerMilliW: some, PowerLimitMilliW: some,
				TemperatureC: some, EnergyMilliJ: some, ThrottleReasons: some, GraphicsMHz: some, MemoryMHz: some, PCIeReplays: some}
			b.ReportAllocs()
			for b.Loop() {
				for _, u := range units {
					inventory.Metrics(u, inventory.Figures{GPU: sample})
				}
			}
		})
	}
}
