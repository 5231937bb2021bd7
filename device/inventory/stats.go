package inventory

import "slices"

// Metric is one entry of a device's stats. With a denominator it is a
// fraction; with a text the numbers do not count.
type Metric struct {
	Key         string
	Value       Maybe[int64]
	Denominator Maybe[int64]
	Text        string
	Unit, Desc  string
}

// Metrics returns the summary and all metrics of a device, sorted by key. A
// metric that NVML did not give is left out; the device's own facts (health,
// NUMA node, NVLinks) are always there, because Nomad shows them nowhere else.
func Metrics(d Device, s Sample) (summary Metric, all []Metric) {
	health := d.Reason()
	if health == "" && s.Failure != "" {
		health = s.Failure
	}
	summary = memorySummary(s, health)
	if health == "" {
		health = "healthy"
	}
	all = append(measured(s), known(d, health)...)
	slices.SortFunc(all, func(a, b Metric) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return summary, all
}

// memorySummary is the one line that Nomad's CLI shows for a device.
func memorySummary(s Sample, health string) Metric {
	if health != "" {
		return Metric{Key: "summary", Text: "unhealthy: " + health, Desc: "why the device is not used"}
	}
	if s.MemoryUsedMiB.Known && s.MemoryTotalMiB.Known {
		return Metric{Key: "summary", Value: s.MemoryUsedMiB, Denominator: s.MemoryTotalMiB,
			Unit: "MiB", Desc: "memory in use of the memory in total"}
	}
	if s.GPUPercent.Known { // a GPU that shares the host's memory has no total
		return Metric{Key: "summary", Value: s.GPUPercent, Unit: "%", Desc: "time in which a kernel ran"}
	}
	return Metric{Key: "summary", Text: "healthy", Desc: "no memory or utilisation figures"}
}

func measured(s Sample) []Metric {
	list := []Metric{
		{Key: "clock.graphics", Value: s.GraphicsMHz, Unit: "MHz", Desc: "present graphics clock"},
		{Key: "clock.memory", Value: s.MemoryMHz, Unit: "MHz", Desc: "present memory clock"},
		{Key: "clock.sm", Value: s.SMMHz, Unit: "MHz", Desc: "present SM clock"},
		{Key: "decoder.utilization", Value: s.DecoderPercent, Unit: "%", Desc: "video decoder"},
		{Key: "ecc.corrected", Value: s.ECCCorrected, Desc: "corrected memory errors since the driver was loaded"},
		{Key: "ecc.uncorrected", Value: s.ECCUncorrected, Desc: "uncorrected memory errors since the driver was loaded"},
		{Key: "encoder.utilization", Value: s.EncoderPercent, Unit: "%", Desc: "video encoder"},
		{Key: "energy", Value: s.EnergyMilliJ, Unit: "mJ", Desc: "energy since the driver was loaded"},
		{Key: "fan", Value: s.FanPercent, Unit: "%", Desc: "intended fan speed"},
		{Key: "gpu.utilization", Value: s.GPUPercent, Unit: "%", Desc: "time in which a kernel ran"},
		{Key: "memory.bar1", Value: s.BAR1UsedMiB, Denominator: s.BAR1TotalMiB, Unit: "MiB", Desc: "BAR1 space in use"},
		{Key: "memory.used", Value: s.MemoryUsedMiB, Denominator: s.MemoryTotalMiB, Unit: "MiB", Desc: "memory in use"},
		{Key: "memory.utilization", Value: s.MemoryPercent, Unit: "%", Desc: "time in which memory was read or written"},
		{Key: "pcie.generation", Value: s.PCIeGeneration, Desc: "present PCIe generation; falls when idle"},
		{Key: "pcie.replays", Value: s.PCIeReplays, Desc: "PCIe packets sent again"},
		{Key: "pcie.width", Value: s.PCIeLanes, Desc: "present PCIe lanes"},
		{Key: "performance_state", Value: s.PerformanceState, Desc: "0 is the fastest"},
		{Key: "power.usage", Value: watts(s.PowerMilliW), Denominator: watts(s.PowerLimitMilliW), Unit: "W", Desc: "power drawn of the limit"},
		{Key: "temperature", Value: s.TemperatureC, Unit: "C", Desc: "GPU core"},
		{Key: "temperature.slowdown", Value: s.SlowdownC, Unit: "C", Desc: "the GPU slows down from here"},
		{Key: "throttle.reasons", Value: s.ThrottleReasons, Desc: "NVML clocks event reasons, a bit mask; 1 is idle"},
	}
	if s.RemapPending.Known && s.RemapPending.Value {
		list = append(list, Metric{Key: "memory.remap_pending", Text: "yes", Desc: "reset the GPU to remap a failing row"})
	}
	return slices.DeleteFunc(list, func(m Metric) bool { return !m.Value.Known && m.Text == "" })
}

func watts(v Maybe[int64]) Maybe[int64] { return Maybe[int64]{Value: v.Value / 1000, Known: v.Known} }

func known(d Device, health string) []Metric {
	list := []Metric{
		{Key: "health", Text: health, Desc: "whether and why not"},
		{Key: "pci.bus_id", Text: d.GPU.PCIBusID, Desc: "PCI address"},
		{Key: "xid.count", Value: Known(d.Health.XIDs), Desc: "XID errors since the plugin started"},
	}
	if d.Health.LastXID != 0 {
		list = append(list, Metric{Key: "xid.last", Value: Known(d.Health.LastXID), Desc: "the latest XID error"})
	}
	if d.GPU.NUMANode.Known {
		list = append(list, Metric{Key: "numa.node", Value: d.GPU.NUMANode, Desc: "host NUMA node"})
	}
	if d.GPU.LinksKnown {
		list = append(list, Metric{Key: "nvlink.active", Value: activeLinks(d.GPU), Desc: "active NVLinks"})
	}
	return list
}
