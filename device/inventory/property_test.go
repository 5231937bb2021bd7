package inventory_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// genNode draws a node: up to ten GPUs of up to three models, any links,
// switches and paths, and any values missing.
func genNode(t *rapid.T) inventory.Readings {
	n := rapid.IntRange(0, 10).Draw(t, "gpus")
	buses := rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).Draw(t, "buses")
	r := inventory.Readings{DriverVersion: "1", CUDAVersion: "12.4"}
	for i := range n {
		g := card(i)
		g.PCIBusID = busID(buses[i])
		g.Name = rapid.SampledFrom([]string{"Card A", "Card B", "Card C"}).Draw(t, "name")
		g.MemoryMiB = maybe(t, "memory")
		g.NUMANode = inventory.Maybe[int64]{Value: rapid.Int64Range(0, 3).Draw(t, "node"), Known: rapid.Bool().Draw(t, "node known")}
		g.PCIeWidth = inventory.Maybe[int64]{Value: 16, Known: rapid.Bool().Draw(t, "width known")}
		g.LinksKnown = rapid.Bool().Draw(t, "links known")
		r.GPUs = append(r.GPUs, g)
	}
	for i := range n {
		for range rapid.IntRange(0, 40).Draw(t, "links") {
			r.GPUs[i].Links = append(r.GPUs[i].Links, inventory.Link{
				Active:    rapid.Bool().Draw(t, "active"),
				Remote:    rapid.SampledFrom([]inventory.Remote{inventory.RemoteUnknown, inventory.RemoteGPU, inventory.RemoteSwitch}).Draw(t, "remote"),
				RemotePCI: busID(rapid.IntRange(0, 11).Draw(t, "far end")),
				SpeedMBps: rapid.SampledFrom([]int64{0, 25781, 26562}).Draw(t, "speed"),
			})
		}
		for j := range i {
			r.Paths = append(r.Paths, inventory.Path{A: uuid(i), B: uuid(j), Level: topology.Path(rapid.IntRange(0, 6).Draw(t, "level"))})
		}
	}
	return r
}

func maybe(t *rapid.T, label string) inventory.Maybe[int64] {
	return inventory.Maybe[int64]{Value: rapid.Int64Range(0, 1<<40).Draw(t, label), Known: rapid.Bool().Draw(t, label+" known")}
}

// shuffled is the node as NVML might number it after the driver was loaded
// again.
func shuffled(t *rapid.T, r inventory.Readings) inventory.Readings {
	if len(r.GPUs) == 0 {
		return r
	}
	r.GPUs = rapid.Permutation(r.GPUs).Draw(t, "order")
	r.Paths = slices.Clone(r.Paths)
	slices.Reverse(r.Paths)
	return r
}

// check holds for every inventory that saw the whole node once.
func check(t *rapid.T, node inventory.Readings, inv inventory.Inventory) {
	seen := 0
	names := []string{}
	for _, g := range inv.Groups() {
		names = append(names, g.Name)
		seen += len(g.Instances)
		healthy := 0
		for _, i := range g.Instances {
			if i.Healthy {
				healthy++
			}
			must.Eq(t, i.Healthy, i.HealthDesc == "")
		}
		must.Eq(t, int64(len(g.Instances)), g.Attributes[gpu.AttrUUIDCount].Number)
		must.Eq(t, int64(healthy), g.Attributes[gpu.AttrHealthyCount].Number)
		must.True(t, slices.IsSortedFunc(g.Instances, func(a, b inventory.Instance) int {
			if a.PCIBusID < b.PCIBusID {
				return -1
			}
			return 1
		}))
		m, err := topology.Parse(g.Attributes[gpu.AttrTopology].Text)
		must.NoError(t, err)
		must.Eq(t, len(g.Instances), m.Size())
	}
	must.Eq(t, len(node.GPUs), seen, must.Sprint("a GPU that was seen is never forgotten"))
	must.True(t, slices.IsSorted(names))
}

func identity(inv inventory.Inventory) []string {
	ids := []string{}
	for _, g := range inv.Groups() {
		for _, i := range g.Instances {
			ids = append(ids, g.Name+"/"+i.ID+"/"+i.PCIBusID)
		}
	}
	return ids
}

func TestPropertyOrderOfReadingsDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node := genNode(t)
		a := inventory.Observe(inventory.Inventory{}, node)
		b := inventory.Observe(inventory.Inventory{}, shuffled(t, node))
		must.True(t, inventory.Equal(a.Groups(), b.Groups()), must.Sprint(inventory.Diff(a.Groups(), b.Groups())))
	})
}

// Any schedule of faults: nothing panics, order and identity never change, only
// the GPUs with a fault are unhealthy, and when the faults end the fingerprint
// is the first one.
func TestPropertyFaultsNeverChangeIdentityAndAlwaysHeal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node := genNode(t)
		first := inventory.Observe(inventory.Inventory{}, node)
		check(t, node, first)
		inv := first
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			inv = fault(t, node, inv, step)
			check(t, node, inv)
			must.Eq(t, identity(first), identity(inv))
		}
		for range 11 {
			inv = inventory.Observe(inv, node)
		}
		must.True(t, inv.Healthy())
		must.True(t, inventory.Equal(first.Groups(), inv.Groups()), must.Sprint(inventory.Diff(first.Groups(), inv.Groups())))
	})
}

func fault(t *rapid.T, node inventory.Readings, inv inventory.Inventory, step int) inventory.Inventory {
	switch rapid.SampledFrom([]string{"lose", "vanish", "fail", "xid", "reload"}).Draw(t, "fault") {
	case "fail":
		next := inventory.Fail(inv, "nvml_unavailable")
		for _, d := range next.Devices {
			must.Eq(t, "nvml_unavailable", d.Reason())
		}
		return next
	case "xid":
		if len(node.GPUs) == 0 {
			return inv
		}
		hit := rapid.SampledFrom(node.GPUs).Draw(t, "hit").UUID
		return inventory.Note(inv, []inventory.Event{{UUID: hit, XID: rapid.SampledFrom([]int64{13, 48, 79}).Draw(t, "xid")}})
	case "reload":
		return inventory.Observe(inv, shuffled(t, node))
	case "vanish":
		r := node
		r.GPUs = slices.Clone(node.GPUs)[:rapid.IntRange(0, len(node.GPUs)).Draw(t, "left")]
		next := inventory.Observe(inv, r)
		for _, g := range node.GPUs[len(r.GPUs):] {
			d, found := next.Device(g.UUID)
			must.True(t, found)
			must.NotEq(t, "", d.Reason())
		}
		return next
	}
	r := node
	r.GPUs = slices.Clone(node.GPUs)
	lost := map[string]bool{}
	for i := range r.GPUs {
		if rapid.Bool().Draw(t, "lost") {
			lost[r.GPUs[i].UUID] = true
			r.GPUs[i] = inventory.GPU{Index: i, Failure: fmt.Sprintf("gpu_lost at step %d", step)}
		}
	}
	next := inventory.Observe(inv, r)
	for _, d := range next.Devices {
		if lost[d.GPU.UUID] {
			must.StrHasPrefix(t, "gpu_lost", d.Reason())
		} else {
			must.Eq(t, "", d.Health.Failure)
		}
	}
	return next
}
