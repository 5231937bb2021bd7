package cluster_test

import (
	"fmt"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

func shared(typ string, gpus, parts int) cluster.Group {
	g := cluster.Group{Vendor: gpu.Vendor, Type: typ, Model: "A"}
	for i := range gpus {
		for j := range parts {
			g.Devices = append(g.Devices, cluster.Device{ID: fmt.Sprintf("GPU-%03d::%d", i, j), PCIBusID: fmt.Sprintf("0000:%02x:00.0", i), Healthy: true})
		}
	}
	return g
}

func TestWhatDevicesAreOfAGPU(t *testing.T) {
	t.Parallel()
	one := cluster.Group{Type: gpu.TypeGPU, Devices: []cluster.Device{{ID: "a", PCIBusID: "0000:01:00.0"}, {ID: "b", PCIBusID: "0000:02:00.0"}}}
	linked := one
	linked.Topology = topology.New(2, 0, 0)
	groups := cluster.Divide([]cluster.Group{one, linked, shared(gpu.TypeShare, 2, 2), shared(gpu.TypeMIG, 2, 2), shared(gpu.TypeGPU, 2, 2)})
	var parts []cluster.Part
	for _, g := range groups {
		parts = append(parts, g.Part)
	}
	must.Eq(t, []cluster.Part{cluster.Whole, cluster.Whole, cluster.Share, cluster.Instance, cluster.Instance}, parts)
	must.Nil(t, groups[0].GPUs)
	must.Eq(t, []uint8{0, 0, 1, 1}, groups[2].GPUs)
	must.Eq(t, groups[2].GPUs, groups[3].GPUs, must.Sprint("a GPU has one number on its node"))
	must.Eq(t, 2, groups[2].Room(0b1111))
	must.Eq(t, 1, groups[2].Room(0b0011))
	must.Eq(t, 4, groups[3].Room(0b1111))
}

func TestAllOfANameAreTheSamePartOfAGPU(t *testing.T) {
	t.Parallel()
	for _, g := range cluster.Divide([]cluster.Group{shared(gpu.TypeGPU, 13, 5)}) { // the strategy "single": one is left over
		must.Eq(t, cluster.Instance, g.Part)
		must.Len(t, len(g.Devices), g.GPUs)
	}
}

// However many there are, none is lost, each group can be a mask, and a task that wants
// shares of all GPUs can have them of one group.
func TestDividedGroupsHaveAllDevices(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]string{gpu.TypeShare, gpu.TypeMIG}).Draw(t, "type")
		gpus, parts := rapid.IntRange(1, 70).Draw(t, "GPUs"), rapid.IntRange(1, 48).Draw(t, "parts")
		g := shared(typ, gpus, parts)
		groups := cluster.Divide([]cluster.Group{g})
		seen := map[string]bool{}
		most := 0
		for _, one := range groups {
			must.LessEq(t, cluster.MaxDevices, len(one.Devices))
			must.Eq(t, len(one.Devices), len(one.GPUs))
			most = max(most, one.Room(one.All()))
			for i, d := range one.Devices {
				must.False(t, seen[d.ID])
				seen[d.ID] = true
				if i > 0 {
					must.LessEq(t, d.PCIBusID, one.Devices[i-1].PCIBusID)
				}
			}
		}
		must.MapLen(t, gpus*parts, seen)
		if typ == gpu.TypeShare {
			must.Eq(t, min(gpus, cluster.MaxDevices), most)
		}
		must.Eq(t, gpus*parts, len(g.Devices), must.Sprint("what was given is as it was"))
	})
}
