package main

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/plugin"
)

// An XID of a MIG instance is on the page, as one of its GPU's.
func TestPageCountsTheXIDsOfMIGInstances(t *testing.T) {
	t.Parallel()
	inv := inventory.Observe(inventory.Inventory{}, inventory.Readings{GPUs: []inventory.GPU{{UUID: "GPU-1", Name: "Card", PCIBusID: "0000:01:00.0",
		MIG: inventory.Known(true), Instances: []inventory.MIGInstance{{UUID: "MIG-1", GPUInstance: 7, Profile: "1g.10gb"}}}}})
	inv = inventory.Note(inv, []inventory.Event{{UUID: "GPU-1", XID: 13, GPUInstance: inventory.Known[int64](7)}, {UUID: "GPU-1", XID: 79}})
	s := snapshot(plugin.View{Inventory: inv, Units: inv.Units(inventory.Layout{}), At: time.Unix(1, 0)})
	must.Len(t, 1, s.Devices)
	must.Eq(t, map[int64]int64{13: 1, 79: 1}, s.Devices[0].XIDs)
	must.Eq(t, inventory.Known[int64](79), s.Devices[0].LastXID)
	must.Eq(t, "xid_79", s.Devices[0].Unhealthy)
	must.Eq(t, "MIG-1", s.Devices[0].Instance)
}
