package inventory_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

func groupNames(inv inventory.Inventory, l inventory.Layout) map[string]int {
	names := map[string]int{}
	for _, g := range inv.Groups(l) {
		names[g.Type+"/"+g.Name] = len(g.Instances)
	}
	return names
}

func TestMIGStrategies(t *testing.T) {
	t.Parallel()
	plain, empty, mixed := card(0), split(card(1), 0), split(card(2), 3)
	uniform := split(card(3), 1)
	for name, tc := range map[string]struct {
		strategy inventory.MIGStrategy
		gpus     []inventory.GPU
		groups   map[string]int
		reason   map[string]string // by id; others have none
	}{
		"mixed is the default": {"", []inventory.GPU{plain, mixed},
			map[string]int{"gpu/Card A": 1, "mig/Card A MIG 1g.10gb": 2, "mig/Card A MIG 2g.20gb": 1}, nil},
		"a GPU without instances says so": {inventory.MIGMixed, []inventory.GPU{plain, empty}, map[string]int{"gpu/Card A": 2},
			map[string]string{uuid(1): "mig_no_instances: MIG mode is on and there are no instances: create some with nvidia-smi mig, or turn MIG mode off"}},
		"none offers no slices and says why": {inventory.MIGNone, []inventory.GPU{plain, mixed}, map[string]int{"gpu/Card A": 2},
			map[string]string{uuid(2): `mig_enabled: MIG mode is on: set mig_strategy to "mixed" or "single", or turn MIG mode off`}},
		"single offers slices as GPUs": {inventory.MIGSingle, []inventory.GPU{uniform}, map[string]int{"gpu/Card A MIG 1g.10gb": 1}, nil},
		"single refuses two profiles": {inventory.MIGSingle, []inventory.GPU{mixed},
			map[string]int{"gpu/Card A MIG 1g.10gb": 2, "gpu/Card A MIG 2g.20gb": 1}, map[string]string{
				"MIG-2-0": `mig_profiles_differ: mig_strategy is "single" and the node has 1g.10gb, 2g.20gb: create instances of one profile, or set mig_strategy to "mixed"`,
				"MIG-2-1": `mig_profiles_differ: mig_strategy is "single" and the node has 1g.10gb, 2g.20gb: create instances of one profile, or set mig_strategy to "mixed"`,
				"MIG-2-2": `mig_profiles_differ: mig_strategy is "single" and the node has 1g.10gb, 2g.20gb: create instances of one profile, or set mig_strategy to "mixed"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv, l := observe(tc.gpus...), inventory.Layout{MIG: tc.strategy}
			must.Eq(t, tc.groups, groupNames(inv, l))
			for id, reason := range byID(inv, l) {
				must.Eq(t, tc.reason[id], reason, must.Sprint(id))
			}
		})
	}
}

func TestMIGGroupHasTheInstancesValues(t *testing.T) {
	t.Parallel()
	g := split(card(0), 1)
	m := &g.Instances[0]
	m.ComputeSlices, m.GPUSlices, m.Multiprocessors = inventory.Known[int64](1), inventory.Known[int64](1), inventory.Known[int64](16)
	m.CopyEngines, m.Decoders = inventory.Known[int64](1), inventory.Known[int64](1)
	group := observe(g).Groups(whole)[0]
	for attr, want := range map[string]string{
		gpu.AttrMIGProfile: "1g.10gb", gpu.AttrMemory: "9728 MiB", gpu.AttrMIGComputeSlices: "1", gpu.AttrMIGGPUSlices: "1",
		gpu.AttrMultiprocessors: "16", gpu.AttrMIGCopyEngines: "1", gpu.AttrMIGDecoders: "1", gpu.AttrGPUCount: "1",
		gpu.AttrDeviceCount: "1", gpu.AttrComputeCapability: "9.0", gpu.AttrMIGMode: "Enabled",
	} {
		must.Eq(t, want, group.Attributes[attr].String(), must.Sprint(attr))
	}
	for _, attr := range []string{gpu.AttrPower, gpu.AttrCores, gpu.AttrBAR1, gpu.AttrTopology, gpu.AttrMIGOFAEngines} {
		must.MapNotContainsKey(t, group.Attributes, attr)
	}
}

func TestMIGInstanceThatWasDestroyedIsGone(t *testing.T) {
	t.Parallel()
	inv := observe(split(card(0), 3))
	must.Eq(t, 2, len(watched(inv, 1, split(card(0), 2)).Units(whole)))
	lost := inventory.Observe(inv, inventory.Readings{GPUs: []inventory.GPU{{Index: 0, Failure: "gpu_lost: fell off"}}})
	must.Eq(t, map[string]string{"MIG-0-0": "gpu_lost: fell off", "MIG-0-1": "gpu_lost: fell off", "MIG-0-2": "gpu_lost: fell off"}, byID(lost, whole))
}

func TestSharesHaveAGroupOfTheirOwn(t *testing.T) {
	t.Parallel()
	list := cards(3)
	list[2].MemoryMiB = inventory.Known[int64](40000)
	l := inventory.Layout{Sharing: []inventory.ShareRule{
		{GPUs: []string{"0"}, Strategy: inventory.TimeSlicing, Replicas: 4},
		{GPUs: []string{busID(1)}, Strategy: inventory.MPS, Replicas: 2},
		{GPUs: []string{"Card*"}, Strategy: inventory.TimeSlicing, Replicas: 4},
	}, MPSProblem: "mps_daemon: not running"}
	inv := observe(list...)
	must.Eq(t, map[string]int{"gpu-share/Card A-shared-4": 8, "gpu-share/Card A-mps-2": 2}, groupNames(inv, l))
	reasons := byID(inv, l)
	must.Eq(t, "", reasons[uuid(0)+"::3"])
	must.Eq(t, "mps_daemon: not running", reasons[uuid(1)+"::0"])
	for _, g := range inv.Groups(l) {
		if g.Name != "Card A-shared-4" {
			continue
		}
		must.Eq(t, "10000 MiB", g.Attributes[gpu.AttrShareMemory].String(), must.Sprint("the least of the GPUs' parts"))
		must.Eq(t, "10000 MiB", g.Attributes[gpu.AttrMemory].String())
		must.Eq(t, "4", g.Attributes[gpu.AttrShareCount].String())
		must.Eq(t, "2", g.Attributes[gpu.AttrGPUCount].String())
		must.Eq(t, "8", g.Attributes[gpu.AttrDeviceCount].String())
		must.Eq(t, "time-slicing", g.Attributes[gpu.AttrSharingStrategy].Text)
		must.MapNotContainsKey(t, g.Attributes, gpu.AttrTopology)
	}
	dedicated := inventory.Layout{Sharing: l.Sharing[:1]}
	must.Eq(t, map[string]int{"gpu-share/Card A-shared-4": 4, "gpu/Card A": 2}, groupNames(inv, dedicated), must.Sprint("shared and whole GPUs on one node"))
}

// Of at most eight devices Nomad's scheduler takes neighbours, beginning
// anywhere: then several shares are of as many GPUs.
func TestNeighbouringSharesAreOfDifferentGPUs(t *testing.T) {
	t.Parallel()
	l := inventory.Layout{Sharing: []inventory.ShareRule{{GPUs: []string{"*"}, Strategy: inventory.TimeSlicing, Replicas: 2}}}
	g := observe(cards(4)...).Groups(l)[0]
	must.Len(t, 8, g.Instances)
	for first := range g.Instances {
		gpus := map[string]bool{}
		for i := range 4 {
			gpus[g.Instances[(first+i)%8].PCIBusID] = true
		}
		must.MapLen(t, 4, gpus, must.Sprint("from ", first))
	}
}

func TestIgnoredDevicesAreNotOffered(t *testing.T) {
	t.Parallel()
	inv := observe(card(0), split(card(1), 2), card(2))
	l := inventory.Layout{Ignored: []string{uuid(0), "MIG-1-1"}}
	must.Eq(t, map[string]string{"MIG-1-0": "", uuid(2): ""}, byID(inv, l))
	l.IgnoredGPUs = inventory.Patterns{busID(2)}
	must.Eq(t, map[string]string{"MIG-1-0": ""}, byID(inv, l))
	must.MapEmpty(t, byID(inv, inventory.Layout{IgnoredGPUs: inventory.Patterns{"Card*"}}))
}

func TestMultiNodeFabricIsNamedAndASingleHostsIsNot(t *testing.T) {
	t.Parallel()
	tray := cards(2)
	for i := range tray {
		tray[i].Fabric = inventory.Fabric{State: inventory.FabricCompleted, ClusterUUID: "0a1b2c3d-0000-0000-0000-000000000001", Clique: 7}
	}
	attrs := observe(tray...).Groups(whole)[0].Attributes
	must.Eq(t, "0a1b2c3d-0000-0000-0000-000000000001", attrs[gpu.AttrFabricCluster].Text)
	must.Eq(t, "7", attrs[gpu.AttrFabricClique].String())
	for i := range tray {
		tray[i].Fabric.ClusterUUID = "00000000-0000-0000-0000-000000000000"
	}
	must.MapNotContainsKey(t, observe(tray...).Groups(whole)[0].Attributes, gpu.AttrFabricCluster)
}

func TestPeerAccessOfAGroup(t *testing.T) {
	t.Parallel()
	yes, no, unknown := inventory.Known(true), inventory.Known(false), inventory.Maybe[bool]{}
	for want, pairs := range map[string][3]inventory.Maybe[bool]{
		"all": {yes, yes, yes}, "some": {yes, no, no}, "none": {no, no, no}, "": {yes, yes, unknown},
	} {
		r := inventory.Readings{GPUs: cards(3), ConfidentialComputing: yes, Paths: []inventory.Path{
			{A: uuid(0), B: uuid(1), P2P: pairs[0]}, {A: uuid(2), B: uuid(0), P2P: pairs[1]}, {A: uuid(1), B: uuid(2), P2P: pairs[2]}}}
		attrs := inventory.Observe(inventory.Inventory{}, r).Groups(whole)[0].Attributes
		must.Eq(t, want, attrs[gpu.AttrP2P].Text)
		must.Eq(t, "Enabled", attrs[gpu.AttrConfidential].Text)
	}
	must.MapNotContainsKey(t, observe(card(0)).Groups(whole)[0].Attributes, gpu.AttrP2P, must.Sprint("one GPU has no peer"))
}

// box is eight cards: NUMA nodes of four, PCIe switches of two.
func box() inventory.Readings {
	r := inventory.Readings{DriverVersion: "1", GPUs: cards(8)}
	for i := range r.GPUs {
		r.GPUs[i].NUMANode = inventory.Known(int64(i / 4))
		for j := range i {
			level := topology.PathSystem
			switch {
			case i/2 == j/2:
				level = topology.PathSingle
			case i/4 == j/4:
				level = topology.PathNode
			}
			r.Paths = append(r.Paths, inventory.Path{A: uuid(i), B: uuid(j), Level: level})
		}
	}
	return r
}

func TestTopologyGroups(t *testing.T) {
	t.Parallel()
	bridged := box()
	for i := 0; i < 8; i += 4 {
		connect(&bridged.GPUs[i], &bridged.GPUs[i+2], 4)
		connect(&bridged.GPUs[i+1], &bridged.GPUs[i+3], 4)
	}
	switched := box()
	for i := range switched.GPUs {
		switched.GPUs[i].Links = []inventory.Link{{Active: true, Remote: inventory.RemoteSwitch}}
	}
	flat := box()
	flat.Paths = nil
	for name, tc := range map[string]struct {
		node   inventory.Readings
		wanted inventory.Grouping
		groups map[string]int
	}{
		"off":                                  {bridged, inventory.GroupOff, map[string]int{"gpu/Card A": 8}},
		"pairs by NVLink":                      {bridged, inventory.GroupNVLink, map[string]int{"gpu/Card A-nvlink0": 2, "gpu/Card A-nvlink1": 2, "gpu/Card A-nvlink2": 2, "gpu/Card A-nvlink3": 2}},
		"NUMA nodes":                           {bridged, inventory.GroupNUMA, map[string]int{"gpu/Card A-numa0": 4, "gpu/Card A-numa1": 4}},
		"PCIe switches":                        {box(), inventory.GroupPCIe, map[string]int{"gpu/Card A-pcie0": 2, "gpu/Card A-pcie1": 2, "gpu/Card A-pcie2": 2, "gpu/Card A-pcie3": 2}},
		"auto prefers NVLink":                  {bridged, inventory.GroupAuto, map[string]int{"gpu/Card A-nvlink0": 2, "gpu/Card A-nvlink1": 2, "gpu/Card A-nvlink2": 2, "gpu/Card A-nvlink3": 2}},
		"auto without NVLink takes PCIe":       {box(), inventory.GroupAuto, map[string]int{"gpu/Card A-pcie0": 2, "gpu/Card A-pcie1": 2, "gpu/Card A-pcie2": 2, "gpu/Card A-pcie3": 2}},
		"auto without PCIe takes NUMA":         {flat, inventory.GroupAuto, map[string]int{"gpu/Card A-numa0": 4, "gpu/Card A-numa1": 4}},
		"auto leaves NVSwitch in one":          {switched, inventory.GroupAuto, map[string]int{"gpu/Card A": 8}},
		"islands of one are groups, too":       {box(), inventory.GroupNVLink, map[string]int{"gpu/Card A-nvlink0": 1, "gpu/Card A-nvlink1": 1, "gpu/Card A-nvlink2": 1, "gpu/Card A-nvlink3": 1, "gpu/Card A-nvlink4": 1, "gpu/Card A-nvlink5": 1, "gpu/Card A-nvlink6": 1, "gpu/Card A-nvlink7": 1}},
		"one NVSwitch domain is one by NVLink": {switchedAll(), inventory.GroupNVLink, map[string]int{"gpu/Card A-nvlink0": 8}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv := inventory.Observe(inventory.Inventory{}, tc.node)
			id, ok := inventory.Identity{}.Adopt(inv, tc.wanted)
			must.True(t, ok)
			must.Eq(t, tc.groups, groupNames(inv, inventory.Layout{Islands: id.Islands}))
		})
	}
}

func switchedAll() inventory.Readings {
	r := box()
	for i := range r.GPUs {
		r.GPUs[i].Links = []inventory.Link{{Active: true, Remote: inventory.RemoteSwitch}}
	}
	return r
}

func TestTopologyGroupOutlivesTheLinkThatMadeIt(t *testing.T) {
	t.Parallel()
	pair := cards(2)
	connect(&pair[0], &pair[1], 2)
	id, _ := inventory.Identity{}.Adopt(observe(pair...), inventory.GroupNVLink)
	must.Eq(t, map[string]string{uuid(0): "nvlink0", uuid(1): "nvlink0"}, id.Islands)

	apart := append(cards(2), card(2))
	later, ok := id.Adopt(observe(apart...), inventory.GroupNVLink)
	must.True(t, ok)
	must.Eq(t, map[string]string{uuid(0): "nvlink0", uuid(1): "nvlink0", uuid(2): "nvlink1"}, later.Islands)

	other, ok := later.Adopt(observe(apart...), inventory.GroupNUMA)
	must.False(t, ok, must.Sprint("another grouping needs a drained node"))
	must.Eq(t, later, other)

	nothing, ok := inventory.Identity{}.Adopt(inventory.Inventory{}, inventory.GroupAuto)
	must.True(t, ok)
	must.Eq(t, inventory.Grouping(""), nothing.Grouping, must.Sprint("nothing is decided before there is a GPU"))
}
