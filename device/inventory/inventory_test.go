package inventory_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

func busID(i int) string { return fmt.Sprintf("0000:%02x:00.0", 16*i+1) }

func uuid(i int) string { return fmt.Sprintf("GPU-%08d-0000-0000-0000-000000000000", i) }

// card is a GPU with a value for everything.
func card(i int) inventory.GPU {
	return inventory.GPU{
		Index: i, UUID: uuid(i), PCIBusID: busID(i), Name: "Card A", ComputeCapability: "9.0",
		Architecture: "hopper", MemoryMiB: inventory.Known[int64](81559), BAR1MiB: inventory.Known[int64](131072),
		PowerLimitMilliW: inventory.Known[int64](700000), CoresClockMHz: inventory.Known[int64](1980),
		MemoryClockMHz: inventory.Known[int64](2619), Cores: inventory.Known[int64](16896),
		PCIeGeneration: inventory.Known[int64](5), PCIeWidth: inventory.Known[int64](16),
		NUMANode: inventory.Known[int64](0), DisplayEnabled: inventory.Known(false),
		Persistence: inventory.Known(true), ECC: inventory.Known(true), MIG: inventory.Known(false),
		LinksKnown: true, RecoveryAction: inventory.Known[int64](0), RemapFailure: inventory.Known(false),
	}
}

// connect adds n active links between a and b on both sides.
func connect(a, b *inventory.GPU, n int) {
	for range n {
		a.Links = append(a.Links, inventory.Link{Active: true, Remote: inventory.RemoteGPU, RemotePCI: b.PCIBusID, SpeedMBps: 25781, Version: "2.0"})
		b.Links = append(b.Links, inventory.Link{Active: true, Remote: inventory.RemoteGPU, RemotePCI: a.PCIBusID, SpeedMBps: 25781, Version: "2.0"})
	}
}

func cards(n int) []inventory.GPU {
	list := make([]inventory.GPU, n)
	for i := range list {
		list[i] = card(i)
	}
	return list
}

func observe(gpus ...inventory.GPU) inventory.Inventory {
	return inventory.Observe(inventory.Inventory{}, inventory.Readings{
		DriverVersion: "550.54.15", CUDAVersion: "12.4", GPUs: gpus})
}

// whole is the layout of one device for each GPU.
var whole = inventory.Layout{}

func reasons(inv inventory.Inventory) []string {
	list := []string{}
	for _, u := range inv.Units(whole) {
		list = append(list, u.Reason())
	}
	return list
}

func TestGroupAttributes(t *testing.T) {
	t.Parallel()
	pairs := cards(4)
	connect(&pairs[0], &pairs[3], 2)
	connect(&pairs[1], &pairs[2], 2)
	cases := map[string]struct {
		gpus []inventory.GPU
		want map[string]string // attribute to text; "" means absent
	}{
		"every value of one card": {
			gpus: cards(1),
			want: map[string]string{
				gpu.AttrMemory: "81559 MiB", gpu.AttrBAR1: "131072 MiB", gpu.AttrPower: "700 W",
				gpu.AttrCoresClock: "1980 MHz", gpu.AttrMemoryClock: "2619 MHz", gpu.AttrPCIBandwidth: "63000 MB/s",
				gpu.AttrDisplayState: "Disabled", gpu.AttrPersistenceMode: "Enabled", gpu.AttrDriverVersion: "550.54.15",
				gpu.AttrCUDAVersion: "12.4", gpu.AttrComputeCapability: "9.0", gpu.AttrArchitecture: "hopper",
				gpu.AttrGPUCount: "1", gpu.AttrHealthyCount: "1", gpu.AttrNUMANodes: "1", gpu.AttrECCMode: "Enabled",
				gpu.AttrMIGMode: "Disabled", gpu.AttrNVLinkTopology: "none", gpu.AttrNVLinkIslandSize: "1",
				gpu.AttrNVLinkLinks: "0", gpu.AttrNVLinkBandwidth: "", gpu.AttrNVLinkVersion: "",
			},
		},
		"a value that NVML does not give is absent, not zero": {
			gpus: []inventory.GPU{{UUID: uuid(0), PCIBusID: busID(0), Name: "Card A"}},
			want: map[string]string{
				gpu.AttrMemory: "", gpu.AttrBAR1: "", gpu.AttrPower: "", gpu.AttrCoresClock: "", gpu.AttrPCIBandwidth: "",
				gpu.AttrDisplayState: "", gpu.AttrComputeCapability: "", gpu.AttrNUMANodes: "", gpu.AttrNVLinkTopology: "",
				gpu.AttrNVLinkLinks: "", gpu.AttrGPUCount: "1",
			},
		},
		"two bridged pairs": {
			gpus: pairs,
			want: map[string]string{
				gpu.AttrNVLinkTopology: "pairs", gpu.AttrNVLinkIslandSize: "2", gpu.AttrNVLinkLinks: "2",
				gpu.AttrNVLinkBandwidth: "51562 MB/s", gpu.AttrNVLinkVersion: "2.0",
				gpu.AttrTopology: "1;4;25781;63000;d;0,0,0,0;0?0?2?2?0?0?",
			},
		},
		"members that differ publish the least number and no common text": {
			gpus: func() []inventory.GPU {
				list := cards(2)
				list[1].MemoryMiB = inventory.Known[int64](40960)
				list[1].Persistence = inventory.Known(false)
				list[1].BAR1MiB = inventory.Maybe[int64]{}
				return list
			}(),
			want: map[string]string{gpu.AttrMemory: "40960 MiB", gpu.AttrPersistenceMode: "", gpu.AttrBAR1: ""},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			groups := observe(tc.gpus...).Groups(whole)
			must.Len(t, 1, groups)
			for attr, want := range tc.want {
				v, found := groups[0].Attributes[attr]
				if want == "" {
					must.False(t, found, must.Sprintf("%s is %s", attr, v))
					continue
				}
				must.Eq(t, want, v.String(), must.Sprint(attr))
			}
		})
	}
}

func TestPCIBandwidthIsOneWayOfTheWholeLink(t *testing.T) {
	t.Parallel()
	want := map[int64]string{1: "4000 MB/s", 2: "8000 MB/s", 3: "15750 MB/s", 4: "31500 MB/s", 5: "63000 MB/s", 6: "121000 MB/s"}
	for generation, bandwidth := range want {
		g := card(0)
		g.PCIeGeneration = inventory.Known(generation)
		must.Eq(t, bandwidth, observe(g).Groups(whole)[0].Attributes[gpu.AttrPCIBandwidth].String())
	}
	narrow := card(0)
	narrow.PCIeGeneration, narrow.PCIeWidth = inventory.Known[int64](4), inventory.Known[int64](8)
	must.Eq(t, "15750 MB/s", observe(narrow).Groups(whole)[0].Attributes[gpu.AttrPCIBandwidth].String())
	future := card(0)
	future.PCIeGeneration = inventory.Known[int64](9)
	must.MapNotContainsKey(t, observe(future).Groups(whole)[0].Attributes, gpu.AttrPCIBandwidth)
}

func TestSwitchedLinksAreTheLesserSides(t *testing.T) {
	t.Parallel()
	list := cards(3)
	for i := range list {
		for range 18 {
			list[i].Links = append(list[i].Links, inventory.Link{Active: true, Remote: inventory.RemoteSwitch, SpeedMBps: 26562, Version: "4.0"})
		}
	}
	list[1].Links[0].Active = false
	g := observe(list...).Groups(whole)[0]
	m, err := topology.Parse(g.Attributes[gpu.AttrTopology].Text)
	must.NoError(t, err)
	must.True(t, m.Switched())
	must.Eq(t, []int{17, 18, 17}, []int{m.Links(0, 1), m.Links(0, 2), m.Links(1, 2)})
	must.Eq(t, "switch", g.Attributes[gpu.AttrNVLinkTopology].Text)
	must.Eq(t, "17", g.Attributes[gpu.AttrNVLinkLinks].String())
}

func TestAsymmetricReportCountsTheLesser(t *testing.T) {
	t.Parallel()
	list := cards(2)
	connect(&list[0], &list[1], 4)
	list[1].Links[0].Active = false
	m := observe(list...).Matrix()
	must.Eq(t, 3, m.Links(0, 1))
}

func TestGroupsAreByNameAndInstancesByPCIAddress(t *testing.T) {
	t.Parallel()
	list := cards(4)
	list[0].Name, list[2].Name = "Card B", "Card B"
	list[0].PCIBusID, list[2].PCIBusID = busID(9), busID(8)
	groups := observe(list...).Groups(whole)
	must.Eq(t, []string{"Card A", "Card B"}, []string{groups[0].Name, groups[1].Name})
	must.Eq(t, uuid(2), groups[1].Instances[0].ID)
	must.Eq(t, "nvidia", groups[0].Vendor)
	must.Eq(t, "gpu", groups[0].Type)
}

func TestLostGPUKeepsItsIdentityAndHidesNoOther(t *testing.T) {
	t.Parallel()
	inv := observe(cards(3)...)
	before := inv.Groups(whole)
	list := cards(3)
	list[1] = inventory.GPU{Index: 1, Failure: "gpu_lost: fell off"}
	lost := inventory.Observe(inv, inventory.Readings{GPUs: list})
	must.Eq(t, []string{"", "gpu_lost: fell off", ""}, reasons(lost))
	must.Eq(t, "2", lost.Groups(whole)[0].Attributes[gpu.AttrHealthyCount].String())
	must.Eq(t, "3", lost.Groups(whole)[0].Attributes[gpu.AttrGPUCount].String())
	must.Eq(t, "550.54.15", lost.DriverVersion)
	must.False(t, lost.Settled())

	back := inventory.Observe(lost, inventory.Readings{GPUs: cards(3)})
	must.True(t, inventory.Equal(before, back.Groups(whole)), must.Sprint("a GPU that is back must leave no trace"))

	gone := inventory.Observe(inv, inventory.Readings{GPUs: cards(2)})
	must.Eq(t, []string{"", "", "gpu_lost: NVML does not report the GPU any more"}, reasons(gone))
}

func TestGPUThatNeverAnsweredIsReportedWithoutIdentity(t *testing.T) {
	t.Parallel()
	list := cards(2)
	list[1] = inventory.GPU{Index: 1, Failure: "gpu_lost: fell off"}
	inv := observe(list...)
	must.Len(t, 1, inv.Devices)
	must.Eq(t, []string{"gpu_lost: fell off"}, inv.Unidentified)
	must.False(t, inv.Settled())
}

func TestHealthByXIDAndRecoveryAction(t *testing.T) {
	t.Parallel()
	inv := observe(cards(2)...)
	harmless := inventory.Note(inv, []inventory.Event{{UUID: uuid(0), XID: 31}})
	must.Eq(t, []string{"", ""}, reasons(harmless))
	must.Eq(t, 31, harmless.Devices[0].Health.LastXID)

	fatal := inventory.Note(inv, []inventory.Event{{UUID: uuid(1), XID: 95}})
	must.Eq(t, []string{"", "xid_95: uncontained memory error"}, reasons(fatal))

	list := cards(2)
	list[1].RecoveryAction = inventory.Known[int64](1)
	asked := inventory.Observe(fatal, inventory.Readings{GPUs: list})
	must.Eq(t, []string{"", "recovery_action: the driver asks to reset the GPU; xid_95: uncontained memory error"}, reasons(asked))

	clean := asked
	for read := range 10 {
		must.NotEq(t, "", reasons(clean)[1], must.Sprintf("trusted again after only %d reads", read))
		clean = inventory.Observe(clean, inventory.Readings{GPUs: cards(2)})
	}
	must.Eq(t, []string{"", ""}, reasons(clean))

	unknown := inventory.Note(inv, []inventory.Event{{XID: 79}})
	must.Eq(t, []string{"xid_79: the GPU has fallen off the bus", "xid_79: the GPU has fallen off the bus"}, reasons(unknown))
}

func TestXIDWithoutRecoveryReportStaysUntilTheGPUWasAway(t *testing.T) {
	t.Parallel()
	old := card(0)
	old.RecoveryAction = inventory.Maybe[int64]{}
	inv := inventory.Note(observe(old), []inventory.Event{{UUID: uuid(0), XID: 48}})
	for range 50 {
		inv = inventory.Observe(inv, inventory.Readings{GPUs: []inventory.GPU{old}})
	}
	must.Eq(t, []string{"xid_48: double-bit memory error"}, reasons(inv))
	hung := inventory.Observe(inventory.Fail(inv, "nvml_hang"), inventory.Readings{GPUs: []inventory.GPU{old}})
	must.Eq(t, []string{"xid_48: double-bit memory error"}, reasons(hung), must.Sprint("NVML being away resets no GPU"))
	away := inventory.Observe(inv, inventory.Readings{GPUs: []inventory.GPU{{Index: 0, Failure: "gpu_lost"}}})
	must.Eq(t, []string{""}, reasons(inventory.Observe(away, inventory.Readings{GPUs: []inventory.GPU{old}})))
}

func TestDiffNamesEveryKindOfChange(t *testing.T) {
	t.Parallel()
	base := observe(cards(2)...)
	list := cards(2)
	list[0].Persistence, list[1].Persistence = inventory.Known(false), inventory.Known(false)
	changed := inventory.Fail(inventory.Observe(base, inventory.Readings{DriverVersion: "560", GPUs: list}), "nvml_unavailable: x")
	got := []string{}
	for _, c := range inventory.Diff(base.Groups(whole), changed.Groups(whole)) {
		got = append(got, strings.Join([]string{c.Group, c.Subject, c.Before, c.After}, "|"))
	}
	must.Eq(t, []string{
		"Card A|" + uuid(0) + "|healthy|unhealthy: nvml_unavailable: x",
		"Card A|" + uuid(1) + "|healthy|unhealthy: nvml_unavailable: x",
		"Card A|driver_version|550.54.15|560",
		"Card A|healthy_count|2|0",
		"Card A|persistence_mode|Enabled|Disabled",
	}, got)
	must.False(t, inventory.Equal(base.Groups(whole), changed.Groups(whole)))
	must.Len(t, 0, inventory.Diff(base.Groups(whole), base.Groups(whole)))
}

func TestMetricsAreSortedCompleteAndTolerant(t *testing.T) {
	t.Parallel()
	u := observe(card(0)).Units(whole)[0]
	summary, all := inventory.Metrics(u, inventory.Figures{GPU: inventory.Sample{UUID: uuid(0),
		MemoryUsedMiB: inventory.Known[int64](10), MemoryTotalMiB: inventory.Known[int64](100),
		PowerMilliW: inventory.Known[int64](43900), PowerLimitMilliW: inventory.Known[int64](300000),
		ThrottleReasons: inventory.Known[int64](0x24), GPUPercent: inventory.Known[int64](7)}})
	must.Eq(t, int64(10), summary.Value.Value)
	must.Eq(t, int64(100), summary.Denominator.Value)
	must.Eq(t, "MiB", summary.Unit)
	keys := []string{}
	for _, m := range all {
		keys = append(keys, m.Key)
		must.True(t, m.Value.Known || m.Text != "", must.Sprint(m.Key))
		must.NotEq(t, "", m.Desc, must.Sprint(m.Key))
	}
	must.True(t, slices.IsSorted(keys))
	must.Eq(t, []string{"gpu.utilization", "health", "memory.used", "numa.node", "nvlink.active",
		"pci.bus_id", "power.usage", "throttle", "throttle.reasons", "xid.count"}, keys)

	nothing, all := inventory.Metrics(u, inventory.Figures{})
	must.Eq(t, "healthy", nothing.Text)
	must.SliceNotEmpty(t, all)

	unified, _ := inventory.Metrics(u, inventory.Figures{GPU: inventory.Sample{GPUPercent: inventory.Known[int64](7)}})
	must.Eq(t, "%", unified.Unit)

	u.Device.Health.Failure = "gpu_lost: fell off"
	broken, _ := inventory.Metrics(u, inventory.Figures{})
	must.Eq(t, "unhealthy: gpu_lost: fell off", broken.Text)
}

func TestThrottleReasonsInWords(t *testing.T) {
	t.Parallel()
	for mask, want := range map[int64]string{0: "none", 1: "idle", 0x4c: "power cap, hardware slowdown, hardware thermal slowdown",
		0x200: "reason 0x200"} {
		must.Eq(t, want, inventory.ThrottleWords(mask))
	}
}

func TestNICsArePartOfTheTopology(t *testing.T) {
	t.Parallel()
	near := func(paths map[string]topology.Path) []inventory.NIC {
		return []inventory.NIC{{Name: "mlx5_0", PCIBusID: "0000:54:00.0", MBps: 50_000, Paths: paths}, {Name: "mlx5_1", PCIBusID: "0000:99:00.0", MBps: 25_000}}
	}
	r := inventory.Readings{GPUs: cards(2), NICs: near(map[string]topology.Path{busID(0): topology.PathSingle, busID(1): topology.PathNode})}
	inv := inventory.Observe(inventory.Inventory{}, r)
	attrs := inv.Groups(whole)[0].Attributes
	must.Eq(t, "mlx5_0,mlx5_1", attrs[gpu.AttrNICs].String())
	must.Eq(t, "2", attrs[gpu.AttrNICCount].String())
	must.Eq(t, "75000 MB/s", attrs[gpu.AttrNICBandwidth].String())
	m, err := topology.Parse(attrs[gpu.AttrTopology].Text)
	must.NoError(t, err)
	must.Eq(t, []topology.Path{topology.PathSingle, topology.PathNode, topology.PathUnknown, topology.PathUnknown},
		[]topology.Path{m.NICPath(0, 0), m.NICPath(1, 0), m.NICPath(0, 1), m.NICPath(1, 1)})

	// A GPU that does not answer stays where it is; a NIC that is gone does not.
	r.GPUs[1].Failure = "gpu_lost: gone"
	r.NICs = near(map[string]topology.Path{busID(0): topology.PathSingle})
	lost := inventory.Observe(inv, r)
	must.Eq(t, attrs[gpu.AttrTopology], lost.Groups(whole)[0].Attributes[gpu.AttrTopology])
	r.NICs = nil
	none := inventory.Observe(lost, r).Groups(whole)[0].Attributes
	must.MapNotContainsKeys(t, none, []string{gpu.AttrNICs, gpu.AttrNICCount, gpu.AttrNICBandwidth})
	must.StrHasPrefix(t, "1;2;", none[gpu.AttrTopology].Text)
	must.MapContainsKey(t, inv.NICs[0].Paths, busID(1), must.Sprint("the earlier inventory is as it was"))
}
