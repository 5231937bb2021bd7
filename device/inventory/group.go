package inventory

import (
	"maps"
	"slices"
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
	HealthDesc string // empty when healthy
	PCIBusID   string // sysfs form
}

// Group is the devices that share vendor, type and name.
type Group struct {
	Vendor, Type, Name string
	Attributes         map[string]Value
	Instances          []Instance // by PCI bus id
}

// Groups returns one group for each model name, by name. A group's identity
// is its name alone: it must not change while allocations use its devices.
func (inv Inventory) Groups() []Group {
	members := map[string][]Device{}
	for _, d := range inv.Devices {
		members[d.GPU.Name] = append(members[d.GPU.Name], d)
	}
	groups := []Group{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		groups = append(groups, inv.group(name, members[name]))
	}
	return groups
}

func (inv Inventory) group(name string, devices []Device) Group {
	g := Group{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Name: name, Attributes: map[string]Value{}}
	var healthy int64
	for _, d := range devices {
		reason := d.Reason()
		if reason == "" {
			healthy++
		}
		g.Instances = append(g.Instances, Instance{
			ID: d.GPU.UUID, Healthy: reason == "", HealthDesc: reason, PCIBusID: d.GPU.PCIBusID})
	}
	g.Attributes[gpu.AttrUUIDCount] = Number(int64(len(devices)), "")
	g.Attributes[gpu.AttrHealthyCount] = Number(healthy, "")
	if inv.DriverVersion != "" {
		g.Attributes[gpu.AttrDriverVersion] = Text(inv.DriverVersion)
	}
	if inv.CUDAVersion != "" {
		g.Attributes[gpu.AttrCUDAVersion] = Text(inv.CUDAVersion)
	}
	hardware(g.Attributes, devices)
	links(g.Attributes, inv.matrix(devices), devices)
	return g
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
	var result Maybe[int64]
	for i, d := range devices {
		v := of(d.GPU)
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

// Change is one difference between two fingerprints, for the log.
type Change struct {
	Group, Subject, Before, After string
}

// Diff lists what changed, in a fixed order.
func Diff(prev, next []Group) []Change {
	before, after := facts(prev), facts(next)
	var changes []Change
	for _, key := range slices.Sorted(maps.Keys(merged(before, after))) {
		if before[key] != after[key] {
			group, subject, _ := strings.Cut(key, "\x00")
			changes = append(changes, Change{group, subject, before[key], after[key]})
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
			health := "healthy"
			if !i.Healthy {
				health = "unhealthy: " + i.HealthDesc
			}
			flat[g.Name+"\x00"+i.ID] = health
		}
	}
	return flat
}
