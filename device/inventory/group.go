package inventory

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
)

// Value is an attribute's value: a text, or a whole number with a unit.
type Value struct {
	Text   string
	Number int64
	Unit   string
	IsText bool
}

// Text is a text value.
func Text(s string) Value { return Value{Text: s, IsText: true} }

// Number is a number with one of Nomad's units, or none.
func Number(n int64, unit string) Value { return Value{Number: n, Unit: unit} }

// Instance is one device of a group.
type Instance struct {
	ID         string // UUID
	Healthy    bool
	HealthDesc string // empty when healthy and whole
	PCIBusID   string // sysfs form
}

// Health is the instance's health in words.
func (i Instance) Health() string {
	switch {
	case !i.Healthy:
		return "unhealthy: " + i.HealthDesc
	case i.HealthDesc != "":
		return i.HealthDesc
	}
	return "healthy"
}

// Group is the devices that share vendor, type and name.
type Group struct {
	Vendor, Type, Name string
	Attributes         map[string]Value
	Instances          []Instance // by PCI bus id
}

// Groups returns the device groups, by type and name. A group's identity is its
// type and name alone: it must not change while allocations use its devices.
func (inv Inventory) Groups(l Layout) []Group {
	groups := []Group{}
	units := inv.Units(l)
	for start := 0; start < len(units); {
		end := start
		for end < len(units) && units[end].Type == units[start].Type && units[end].Name == units[start].Name {
			end++
		}
		groups = append(groups, inv.group(units[start:end]))
		start = end
	}
	return groups
}

func (inv Inventory) group(units []Unit) Group {
	first := units[0]
	g := Group{Vendor: gpu.Vendor, Type: first.Type, Name: first.Name, Attributes: map[string]Value{}}
	var healthy, degraded int64
	var devices []Device
	for _, u := range units {
		reason := u.Reason()
		switch {
		case reason == "" && u.Degradation() != "":
			degraded++
			healthy++
		case reason == "":
			healthy++
		}
		g.Instances = append(g.Instances, Instance{
			ID: u.ID, Healthy: reason == "", HealthDesc: u.HealthDesc(), PCIBusID: u.Device.GPU.PCIBusID})
		if !slices.ContainsFunc(devices, func(d Device) bool { return d.GPU.UUID == u.Device.GPU.UUID }) {
			devices = append(devices, u.Device)
		}
	}
	g.Attributes[gpu.AttrGPUCount] = Number(int64(len(devices)), "")
	g.Attributes[gpu.AttrHealthyCount] = Number(healthy, "")
	if degraded > 0 {
		g.Attributes[gpu.AttrDegradedCount] = Number(degraded, "")
	}
	if inv.DriverVersion != "" {
		g.Attributes[gpu.AttrDriverVersion] = Text(inv.DriverVersion)
	}
	if inv.CUDAVersion != "" {
		g.Attributes[gpu.AttrCUDAVersion] = Text(inv.CUDAVersion)
	}
	if cc := enabled(inv.ConfidentialComputing); cc != "" {
		g.Attributes[gpu.AttrConfidential] = Text(cc)
	}
	hardware(g.Attributes, devices)
	fabric(g.Attributes, devices)
	switch {
	case first.MIG != nil:
		instances(g.Attributes, units)
	case first.Share != nil:
		shares(g.Attributes, units)
	default:
		inv.links(g.Attributes, inv.matrix(devices), devices)
		if p2p := inv.p2p(devices); p2p != "" {
			g.Attributes[gpu.AttrP2P] = Text(p2p)
		}
	}
	if first.Island != "" {
		g.Attributes[gpu.AttrTopologyGroup] = Text(first.Island)
	}
	return g
}

// shares adds what tells a share from a GPU. Its memory is its equal part, which
// MPS enforces and time-slicing does not.
func shares(attrs map[string]Value, units []Unit) {
	share := units[0].Share
	attrs[gpu.AttrDeviceCount] = Number(int64(len(units)), "")
	attrs[gpu.AttrSharingStrategy] = Text(string(share.Strategy))
	attrs[gpu.AttrShareCount] = Number(int64(share.Replicas), "")
	delete(attrs, gpu.AttrMemory)
	if m := leastOf(units, Unit.MemoryMiB); m.Known {
		attrs[gpu.AttrMemory] = Number(m.Value, "MiB")
		attrs[gpu.AttrShareMemory] = Number(m.Value, "MiB")
	}
}

// instances adds what a MIG instance has, in place of what its GPU has.
func instances(attrs map[string]Value, units []Unit) {
	attrs[gpu.AttrDeviceCount] = Number(int64(len(units)), "")
	attrs[gpu.AttrMIGProfile] = Text(units[0].MIG.Profile)
	for _, attr := range []string{gpu.AttrMemory, gpu.AttrBAR1, gpu.AttrPower, gpu.AttrCores} {
		delete(attrs, attr)
	}
	for _, n := range []struct {
		attr, unit string
		of         func(MIGInstance) Maybe[int64]
	}{
		{gpu.AttrMemory, "MiB", func(m MIGInstance) Maybe[int64] { return m.MemoryMiB }},
		{gpu.AttrMIGComputeSlices, "", func(m MIGInstance) Maybe[int64] { return m.ComputeSlices }},
		{gpu.AttrMIGGPUSlices, "", func(m MIGInstance) Maybe[int64] { return m.GPUSlices }},
		{gpu.AttrMultiprocessors, "", func(m MIGInstance) Maybe[int64] { return m.Multiprocessors }},
		{gpu.AttrMIGCopyEngines, "", func(m MIGInstance) Maybe[int64] { return m.CopyEngines }},
		{gpu.AttrMIGDecoders, "", func(m MIGInstance) Maybe[int64] { return m.Decoders }},
		{gpu.AttrMIGEncoders, "", func(m MIGInstance) Maybe[int64] { return m.Encoders }},
		{gpu.AttrMIGJPEGEngines, "", func(m MIGInstance) Maybe[int64] { return m.JPEGEngines }},
		{gpu.AttrMIGOFAEngines, "", func(m MIGInstance) Maybe[int64] { return m.OFAEngines }},
	} {
		if v := leastOf(units, func(u Unit) Maybe[int64] { return n.of(u.MIG.MIGInstance) }); v.Known {
			attrs[n.attr] = Number(v.Value, n.unit)
		}
	}
}

// fabric adds the multi-node NVLink domain. The cluster and the clique together
// name the GPUs that reach each other by NVLink across hosts.
func fabric(attrs map[string]Value, devices []Device) {
	multi := true
	for _, d := range devices {
		multi = multi && d.GPU.Fabric.MultiNode()
	}
	if !multi {
		return
	}
	cluster := same(devices, func(g GPU) string { return g.Fabric.ClusterUUID })
	clique := same(devices, func(g GPU) string { return strconv.FormatInt(g.Fabric.Clique, 10) })
	if cluster != "" && clique != "" {
		attrs[gpu.AttrFabricCluster] = Text(cluster)
		attrs[gpu.AttrFabricClique] = Number(devices[0].GPU.Fabric.Clique, "")
	}
}

// hardware adds what each member has. Members of one name can differ (a lower
// power limit, an older slot): a number is then the least of them, so that a
// constraint that the group meets is met by every member; a text that differs
// is left out.
func hardware(attrs map[string]Value, devices []Device) {
	numbers := []struct {
		attr, unit string
		of         func(GPU) Maybe[int64]
	}{
		{gpu.AttrMemory, "MiB", func(g GPU) Maybe[int64] { return g.MemoryMiB }},
		{gpu.AttrBAR1, "MiB", func(g GPU) Maybe[int64] { return g.BAR1MiB }},
		{gpu.AttrPower, "W", powerWatts},
		{gpu.AttrCoresClock, "MHz", func(g GPU) Maybe[int64] { return g.CoresClockMHz }},
		{gpu.AttrMemoryClock, "MHz", func(g GPU) Maybe[int64] { return g.MemoryClockMHz }},
		{gpu.AttrPCIBandwidth, "MB/s", pcieMBps},
		{gpu.AttrCores, "", func(g GPU) Maybe[int64] { return g.Cores }},
		{gpu.AttrPCIeGeneration, "", func(g GPU) Maybe[int64] { return g.PCIeGeneration }},
		{gpu.AttrPCIeWidth, "", func(g GPU) Maybe[int64] { return g.PCIeWidth }},
		{gpu.AttrC2CBandwidth, "MB/s", func(g GPU) Maybe[int64] { return g.C2CMBps }},
	}
	for _, n := range numbers {
		if v := least(devices, n.of); v.Known {
			attrs[n.attr] = Number(v.Value, n.unit)
		}
	}
	texts := []struct {
		attr string
		of   func(GPU) string
	}{
		{gpu.AttrComputeCapability, func(g GPU) string { return g.ComputeCapability }},
		{gpu.AttrArchitecture, func(g GPU) string { return g.Architecture }},
		{gpu.AttrBrand, func(g GPU) string { return g.Brand }},
		{gpu.AttrAddressing, func(g GPU) string { return g.Addressing }},
		{gpu.AttrVirtualization, func(g GPU) string { return g.Virtualization }},
		{gpu.AttrDisplayState, func(g GPU) string { return enabled(g.DisplayEnabled) }},
		{gpu.AttrPersistenceMode, func(g GPU) string { return enabled(g.Persistence) }},
		{gpu.AttrECCMode, func(g GPU) string { return enabled(g.ECC) }},
		{gpu.AttrMIGMode, func(g GPU) string { return enabled(g.MIG) }},
	}
	for _, t := range texts {
		if v := same(devices, t.of); v != "" {
			attrs[t.attr] = Text(v)
		}
	}
}

// least is the smallest value, or unknown if any member's is.
func least(devices []Device, of func(GPU) Maybe[int64]) Maybe[int64] {
	return leastOf(devices, func(d Device) Maybe[int64] { return of(d.GPU) })
}

func leastOf[T any](members []T, of func(T) Maybe[int64]) Maybe[int64] {
	var result Maybe[int64]
	for i, member := range members {
		v := of(member)
		if !v.Known {
			return Maybe[int64]{}
		}
		if i == 0 || v.Value < result.Value {
			result = v
		}
	}
	return result
}

// same is the common value, or empty if members differ.
func same(devices []Device, of func(GPU) string) string {
	first := of(devices[0].GPU)
	for _, d := range devices[1:] {
		if of(d.GPU) != first {
			return ""
		}
	}
	return first
}

func enabled(v Maybe[bool]) string {
	switch {
	case !v.Known:
		return ""
	case v.Value:
		return "Enabled"
	}
	return "Disabled"
}

func powerWatts(g GPU) Maybe[int64] {
	return Maybe[int64]{Value: g.PowerLimitMilliW.Value / 1000, Known: g.PowerLimitMilliW.Known}
}

// pcieX16MBps is the speed of sixteen lanes in one direction by generation,
// after line coding, in MB/s (10^6 bytes).
var pcieX16MBps = map[int64]int64{1: 4000, 2: 8000, 3: 15750, 4: 31500, 5: 63000, 6: 121000}

func pcieMBps(g GPU) Maybe[int64] {
	x16, ok := pcieX16MBps[g.PCIeGeneration.Value]
	if !g.PCIeGeneration.Known || !g.PCIeWidth.Known || !ok {
		return Maybe[int64]{}
	}
	return Known(x16 * g.PCIeWidth.Value / 16)
}

// Equal reports whether two fingerprints are the same in every part: names,
// order, attributes, health and its reasons.
func Equal(a, b []Group) bool {
	return slices.EqualFunc(a, b, func(x, y Group) bool {
		return x.Vendor == y.Vendor && x.Type == y.Type && x.Name == y.Name &&
			slices.Equal(x.Instances, y.Instances) && maps.Equal(x.Attributes, y.Attributes)
	})
}

// Change is one difference between two fingerprints, for the log. Subject is an
// attribute's name or, for a Device, its id.
type Change struct {
	Group, Subject, Before, After string
	Device                        bool
}

// Diff lists what changed, in a fixed order.
func Diff(prev, next []Group) []Change {
	before, after := facts(prev), facts(next)
	var changes []Change
	for _, key := range slices.Sorted(maps.Keys(merged(before, after))) {
		if before[key] != after[key] {
			group, subject, _ := strings.Cut(key, "\x00")
			subject, isDevice := strings.CutPrefix(subject, "\x00")
			changes = append(changes, Change{group, subject, before[key], after[key], isDevice})
		}
	}
	return changes
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// facts flattens groups to comparable texts by group and subject.
func facts(groups []Group) map[string]string {
	flat := map[string]string{}
	for _, g := range groups {
		for name, v := range g.Attributes {
			flat[g.Name+"\x00"+name] = v.String()
		}
		for _, i := range g.Instances {
			flat[g.Name+"\x00\x00"+i.ID] = i.Health()
		}
	}
	return flat
}
