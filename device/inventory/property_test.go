package inventory_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
		if rapid.Bool().Draw(t, "split") {
			g = split(g, rapid.IntRange(0, 7).Draw(t, "instances"))
		}
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
	for k := range rapid.IntRange(0, 3).Draw(t, "NICs") {
		nic := inventory.NIC{Name: fmt.Sprintf("mlx5_%d", k), PCIBusID: busID(20 + k), MBps: 25_000, Paths: map[string]topology.Path{}}
		for i := range n {
			nic.Paths[busID(buses[i])] = topology.Path(rapid.IntRange(0, 6).Draw(t, "path to a NIC"))
		}
		r.NICs = append(r.NICs, nic)
	}
	return r
}

// split turns MIG mode on and makes n instances, of two profiles in turn.
func split(g inventory.GPU, n int) inventory.GPU {
	g.MIG = inventory.Known(true)
	for k := range n {
		g.Instances = append(g.Instances, inventory.MIGInstance{
			UUID: fmt.Sprintf("MIG-%d-%d", g.Index, k), GPUInstance: int64(k), Profile: []string{"1g.10gb", "2g.20gb"}[k%2],
			MemoryMiB: inventory.Known[int64](9728)})
	}
	return g
}

// genLayout draws how the node's GPUs become devices.
func genLayout(t *rapid.T) inventory.Layout {
	l := inventory.Layout{MIG: rapid.SampledFrom([]inventory.MIGStrategy{"", inventory.MIGNone, inventory.MIGSingle, inventory.MIGMixed}).Draw(t, "mig")}
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		l.Sharing = append(l.Sharing, inventory.ShareRule{
			GPUs:     []string{rapid.SampledFrom([]string{uuid(0), uuid(3), "Card A", "Card *", "*", "[", busID(1)}).Draw(t, "pattern")},
			Strategy: rapid.SampledFrom([]inventory.SharingStrategy{inventory.TimeSlicing, inventory.MPS}).Draw(t, "strategy"),
			Replicas: rapid.IntRange(2, 5).Draw(t, "replicas")})
	}
	if rapid.Bool().Draw(t, "no mps") {
		l.MPSProblem = "mps_daemon: not running"
	}
	return l
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
func check(t *rapid.T, node inventory.Readings, inv inventory.Inventory, l inventory.Layout) {
	gpus, ids, names := map[string]bool{}, map[string]bool{}, []string{}
	for _, g := range inv.Groups(l) {
		names = append(names, g.Type+"\x00"+g.Name)
		healthy, degraded := 0, 0
		for _, i := range g.Instances {
			must.False(t, ids[i.ID], must.Sprint("a device is listed once: ", i.ID))
			ids[i.ID] = true
			gpus[i.PCIBusID] = true
			less := strings.HasPrefix(i.HealthDesc, "degraded: ")
			must.Eq(t, i.Healthy, i.HealthDesc == "" || less)
			if i.Healthy {
				healthy++
			}
			if less {
				degraded++
			}
		}
		must.Eq(t, int64(healthy), g.Attributes[gpu.AttrHealthyCount].Number)
		must.Eq(t, int64(degraded), g.Attributes[gpu.AttrDegradedCount].Number)
		must.True(t, slices.IsSortedFunc(g.Instances, func(a, b inventory.Instance) int {
			return cmp.Or(cmp.Compare(turn(a.ID), turn(b.ID)), strings.Compare(a.PCIBusID, b.PCIBusID))
		}))
		if text := g.Attributes[gpu.AttrTopology]; text.IsText {
			m, err := topology.Parse(text.Text)
			must.NoError(t, err)
			must.Eq(t, len(g.Instances), m.Size())
		}
	}
	must.Eq(t, len(node.GPUs), len(gpus), must.Sprint("a GPU that was seen is never forgotten"))
	must.True(t, slices.IsSorted(names))
	must.Eq(t, len(names), len(slices.Compact(slices.Clone(names))), must.Sprint("two groups of one name hide each other in Nomad"))
}

// turn is the number of a share in its id; 0 for what is none.
func turn(id string) int {
	_, text, _ := strings.Cut(id, "::")
	number, _ := strconv.Atoi(text) // 0 is right for none
	return number
}

func identity(inv inventory.Inventory, l inventory.Layout) []string {
	ids := []string{}
	for _, g := range inv.Groups(l) {
		for _, i := range g.Instances {
			ids = append(ids, g.Type+"/"+g.Name+"/"+i.ID+"/"+i.PCIBusID)
		}
	}
	return ids
}

// observed is the inventory after enough readings for everything that a
// reading can show to be in force.
func observed(inv inventory.Inventory, node inventory.Readings) inventory.Inventory {
	for range 12 {
		inv = inventory.Observe(inv, node)
	}
	return inv
}

func TestPropertyOrderOfReadingsDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node, l := genNode(t), genLayout(t)
		a := inventory.Observe(inventory.Inventory{}, node)
		b := inventory.Observe(inventory.Inventory{}, shuffled(t, node))
		must.True(t, inventory.Equal(a.Groups(l), b.Groups(l)), must.Sprint(inventory.Diff(a.Groups(l), b.Groups(l))))
		one, _ := inventory.Identity{}.Adopt(a, inventory.GroupNUMA)
		other, _ := inventory.Identity{}.Adopt(b, inventory.GroupNUMA)
		must.Eq(t, one, other)
	})
}

// Any schedule of faults: nothing panics, order and identity never change, only
// the GPUs with a fault are unhealthy, and when the faults end the fingerprint
// is the first one.
func TestPropertyFaultsNeverChangeIdentityAndAlwaysHeal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node, l := genNode(t), genLayout(t)
		first := observed(inventory.Inventory{}, node)
		check(t, node, first, l)
		inv := first
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			inv = fault(t, node, inv, step)
			check(t, node, inv, l)
			must.Eq(t, identity(first, l), identity(inv, l))
		}
		inv = observed(inv, node)
		must.True(t, inv.Settled())
		must.True(t, inventory.Equal(first.Groups(l), inv.Groups(l)), must.Sprint(inventory.Diff(first.Groups(l), inv.Groups(l))))
	})
}

func fault(t *rapid.T, node inventory.Readings, inv inventory.Inventory, step int) inventory.Inventory {
	switch rapid.SampledFrom([]string{"lose", "vanish", "fail", "xid", "reload", "symptom"}).Draw(t, "fault") {
	case "fail":
		next := inventory.Fail(inv, "nvml_unavailable")
		for _, u := range next.Units(whole) {
			must.Eq(t, "nvml_unavailable", u.Reason())
		}
		return next
	case "xid":
		if len(node.GPUs) == 0 {
			return inv
		}
		hit := rapid.SampledFrom(node.GPUs).Draw(t, "hit").UUID
		return inventory.Note(inv, []inventory.Event{{UUID: hit, XID: rapid.SampledFrom([]int64{13, 48, 79, 0, 74}).Draw(t, "xid"),
			GPUInstance: inventory.Maybe[int64]{Value: rapid.Int64Range(0, 7).Draw(t, "instance"), Known: rapid.Bool().Draw(t, "instance known")}}})
	case "reload":
		return inventory.Observe(inv, shuffled(t, node))
	case "symptom":
		return inventory.Observe(inv, sick(t, node))
	case "vanish":
		r := node
		r.GPUs = slices.Clone(node.GPUs)[:rapid.IntRange(0, len(node.GPUs)).Draw(t, "left")]
		next := inventory.Observe(inv, r)
		for _, g := range node.GPUs[len(r.GPUs):] {
			d, found := next.Device(g.UUID)
			must.True(t, found)
			must.NotEq(t, "", d.Health.Failure)
		}
		return next
	}
	return lose(t, node, inv, step)
}

// sick is the node with things that a reading can show.
func sick(t *rapid.T, node inventory.Readings) inventory.Readings {
	node.GPUs = slices.Clone(node.GPUs)
	for i := range node.GPUs {
		g := &node.GPUs[i]
		g.RecoveryAction = inventory.Known(rapid.Int64Range(0, 9).Draw(t, "action"))
		g.RemapPending = inventory.Known(rapid.Bool().Draw(t, "pending"))
		g.ThrottleReasons = inventory.Known(rapid.Int64Range(0, 1<<10).Draw(t, "throttle"))
		g.Fabric = inventory.Fabric{State: inventory.FabricState(rapid.IntRange(0, 3).Draw(t, "fabric")),
			HealthMask: inventory.Known(rapid.Int64Range(0, 1<<16).Draw(t, "mask")), Summary: rapid.Int64Range(0, 3).Draw(t, "summary")}
		if len(g.Links) > 0 && rapid.Bool().Draw(t, "cut") {
			g.Links = g.Links[1:]
		}
	}
	return node
}

// lose makes some GPUs answer nothing.
func lose(t *rapid.T, node inventory.Readings, inv inventory.Inventory, step int) inventory.Inventory {
	r := node
	r.GPUs = slices.Clone(node.GPUs)
	lost := map[string]bool{}
	for i := range r.GPUs {
		if rapid.Bool().Draw(t, "lost") {
			lost[r.GPUs[i].UUID] = true
			r.GPUs[i] = inventory.GPU{Index: r.GPUs[i].Index, Failure: fmt.Sprintf("gpu_lost at step %d", step)}
		}
	}
	next := inventory.Observe(inv, r)
	for _, d := range next.Devices {
		if lost[d.GPU.UUID] {
			must.StrHasPrefix(t, "gpu_lost", d.Health.Failure)
		} else {
			must.Eq(t, "", d.Health.Failure)
		}
	}
	return next
}

// Whatever is seen, in whatever state and order, a GPU keeps the topology group
// that it was given first.
func TestPropertyTopologyGroupsAreForGood(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node := genNode(t)
		groupings := []inventory.Grouping{inventory.GroupOff, inventory.GroupNVLink, inventory.GroupNUMA, inventory.GroupPCIe, inventory.GroupAuto}
		var id inventory.Identity
		given := map[string]string{}
		inv := inventory.Inventory{}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			part := node
			part.GPUs = slices.Clone(node.GPUs)[:rapid.IntRange(0, len(node.GPUs)).Draw(t, "present")]
			if inv = inventory.Observe(inv, part); rapid.Bool().Draw(t, "sick") {
				inv = inventory.Observe(inv, sick(t, part))
			}
			id, _ = id.Adopt(inv, rapid.SampledFrom(groupings).Draw(t, "grouping"))
			for gpuUUID, name := range given {
				must.Eq(t, name, id.Islands[gpuUUID])
			}
			for _, d := range inv.Devices {
				name, has := id.Islands[d.GPU.UUID]
				must.True(t, has)
				given[d.GPU.UUID] = name
			}
		}
	})
}
