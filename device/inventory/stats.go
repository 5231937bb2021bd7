package inventory

import (
	"fmt"
	"slices"
	"strings"
)

// Metric is one entry of a device's stats. With a denominator it is a
// fraction; with a text the numbers do not count.
type Metric struct {
	Key         string
	Value       Maybe[int64]
	Denominator Maybe[int64]
	Text        string
	Unit, Desc  string
}

// Figures are what was read of one device for its stats.
type Figures struct {
	// GPU is the sample of the GPU, whole; Instance that of the MIG instance.
	GPU, Instance Sample
	// Failure says why there are no figures; empty when there are.
	Failure string
	// Processes are the metrics about who uses the device.
	Processes []Metric
}

// Metrics returns the summary and all metrics of a device, sorted by key. A
// metric that NVML did not give is left out; the device's own facts (health,
// NUMA node, NVLinks) are always there, because Nomad shows them nowhere else.
func Metrics(u Unit, f Figures) (summary Metric, all []Metric) {
	health := u.Reason()
	if health == "" {
		health = f.Failure
	}
	own := f.GPU
	if u.MIG != nil {
		own = f.Instance
		all = append(measured(own), parent(f.GPU)...)
	} else {
		all = append(measured(own), board(own)...)
	}
	summary = memorySummary(own, health)
	word := "healthy"
	switch {
	case health != "":
		word = health
	case u.Degradation() != "":
		word = u.HealthDesc()
	}
	all = append(all, f.Processes...)
	all = append(all, known(u, word)...)
	slices.SortFunc(all, func(a, b Metric) int { return strings.Compare(a.Key, b.Key) })
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

// present drops what NVML did not give.
func present(list []Metric) []Metric {
	return slices.DeleteFunc(list, func(m Metric) bool { return !m.Value.Known && m.Text == "" })
}

// measured is what a GPU and a MIG instance both can have.
func measured(s Sample) []Metric {
	return present([]Metric{
		{Key: "gpu.utilization", Value: s.GPUPercent, Unit: "%", Desc: "time in which a kernel ran"},
		{Key: "memory.bar1", Value: s.BAR1UsedMiB, Denominator: s.BAR1TotalMiB, Unit: "MiB", Desc: "BAR1 space in use"},
		{Key: "memory.free", Value: s.MemoryFreeMiB, Unit: "MiB", Desc: "free memory"},
		{Key: "memory.reserved", Value: s.MemoryReservedMiB, Unit: "MiB", Desc: "memory that the driver keeps for itself"},
		{Key: "memory.used", Value: s.MemoryUsedMiB, Denominator: s.MemoryTotalMiB, Unit: "MiB", Desc: "memory in use"},
		{Key: "memory.utilization", Value: s.MemoryPercent, Unit: "%", Desc: "time in which memory was read or written"},
		{Key: "profile.dram_active", Value: s.DRAMActivePermille, Unit: "permille", Desc: "cycles in which memory was busy"},
		{Key: "profile.graphics_active", Value: s.GraphicsActivePermille, Unit: "permille", Desc: "time in which any engine was busy"},
		{Key: "profile.sm_active", Value: s.SMActivePermille, Unit: "permille", Desc: "time in which a multiprocessor had work, averaged over all"},
		{Key: "profile.tensor_active", Value: s.TensorActivePermille, Unit: "permille", Desc: "cycles in which tensor cores were busy"},
	})
}

// parent is what NVML gives of a MIG instance's whole GPU alone.
func parent(s Sample) []Metric {
	return present([]Metric{
		{Key: "mig.parent.power", Value: watts(s.PowerMilliW), Denominator: watts(s.PowerLimitMilliW), Unit: "W", Desc: "power drawn by the whole GPU, of its limit"},
		{Key: "mig.parent.temperature", Value: s.TemperatureC, Unit: "C", Desc: "the whole GPU's core"},
		{Key: "mig.parent.temperature.memory", Value: s.MemoryTemperatureC, Unit: "C", Desc: "the whole GPU's memory"},
		{Key: "mig.parent.clock.sm", Value: s.SMMHz, Unit: "MHz", Desc: "present SM clock of the whole GPU"},
		{Key: "mig.parent.energy", Value: s.EnergyMilliJ, Unit: "mJ", Desc: "energy of the whole GPU since the driver was loaded"},
	})
}

// board is what only a whole GPU has.
func board(s Sample) []Metric {
	list := slices.Concat(clocksAndPower(s), errorCounts(s), traffic(s))
	if is(s.RemapPending) {
		list = append(list, Metric{Key: "memory.remap_pending", Text: "yes", Desc: "reset the GPU to remap a failing row"})
	}
	if is(s.RemapFailure) {
		list = append(list, Metric{Key: "memory.remap_failure", Text: "yes", Desc: "no spare rows are left: replace the GPU"})
	}
	if reasons := ThrottleWords(s.ThrottleReasons.Value); s.ThrottleReasons.Known {
		list = append(list, Metric{Key: "throttle", Text: reasons, Desc: "why the clocks are below their maximum"})
	}
	return present(list)
}

func clocksAndPower(s Sample) []Metric {
	return []Metric{
		{Key: "clock.graphics", Value: s.GraphicsMHz, Unit: "MHz", Desc: "present graphics clock"},
		{Key: "clock.memory", Value: s.MemoryMHz, Unit: "MHz", Desc: "present memory clock"},
		{Key: "clock.sm", Value: s.SMMHz, Unit: "MHz", Desc: "present SM clock"},
		{Key: "clock.video", Value: s.VideoMHz, Unit: "MHz", Desc: "present video clock"},
		{Key: "decoder.utilization", Value: s.DecoderPercent, Unit: "%", Desc: "video decoder"},
		{Key: "encoder.utilization", Value: s.EncoderPercent, Unit: "%", Desc: "video encoder"},
		{Key: "jpeg.utilization", Value: s.JPEGPercent, Unit: "%", Desc: "JPEG decoder"},
		{Key: "ofa.utilization", Value: s.OFAPercent, Unit: "%", Desc: "optical flow engine"},
		{Key: "energy", Value: s.EnergyMilliJ, Unit: "mJ", Desc: "energy since the driver was loaded"},
		{Key: "fan", Value: s.FanPercent, Unit: "%", Desc: "intended fan speed"},
		{Key: "performance_state", Value: s.PerformanceState, Desc: "0 is the fastest"},
		{Key: "power.usage", Value: watts(s.PowerMilliW), Denominator: watts(s.PowerLimitMilliW), Unit: "W", Desc: "power drawn of the limit"},
		{Key: "temperature", Value: s.TemperatureC, Unit: "C", Desc: "GPU core"},
		{Key: "temperature.memory", Value: s.MemoryTemperatureC, Unit: "C", Desc: "GPU memory"},
		{Key: "temperature.slowdown", Value: s.SlowdownC, Unit: "C", Desc: "the GPU slows down from here"},
		{Key: "throttle.reasons", Value: s.ThrottleReasons, Desc: "NVML clocks event reasons, a bit mask; 1 is idle"},
	}
}

func errorCounts(s Sample) []Metric {
	const loaded = " since the driver was loaded"
	return []Metric{
		{Key: "ecc.corrected", Value: s.ECCCorrected, Desc: "corrected memory errors" + loaded},
		{Key: "ecc.corrected.l1", Value: s.ECCCorrectedL1, Desc: "corrected errors in L1 caches" + loaded},
		{Key: "ecc.corrected.l2", Value: s.ECCCorrectedL2, Desc: "corrected errors in the L2 cache" + loaded},
		{Key: "ecc.corrected.memory", Value: s.ECCCorrectedMemory, Desc: "corrected errors in device memory" + loaded},
		{Key: "ecc.corrected.lifetime", Value: s.ECCCorrectedAll, Desc: "corrected memory errors of the board's life"},
		{Key: "ecc.uncorrected", Value: s.ECCUncorrected, Desc: "uncorrected memory errors" + loaded},
		{Key: "ecc.uncorrected.l1", Value: s.ECCUncorrectedL1, Desc: "uncorrected errors in L1 caches" + loaded},
		{Key: "ecc.uncorrected.l2", Value: s.ECCUncorrectedL2, Desc: "uncorrected errors in the L2 cache" + loaded},
		{Key: "ecc.uncorrected.memory", Value: s.ECCUncorrectedMemory, Desc: "uncorrected errors in device memory" + loaded},
		{Key: "ecc.uncorrected.lifetime", Value: s.ECCUncorrectedAll, Desc: "uncorrected memory errors of the board's life"},
		{Key: "memory.remapped.correctable", Value: s.RemappedCorrectable, Desc: "rows remapped for corrected errors"},
		{Key: "memory.remapped.uncorrectable", Value: s.RemappedUncorrectable, Desc: "rows remapped for uncorrected errors"},
		{Key: "memory.retired.double_bit", Value: s.RetiredPagesDoubleBit, Desc: "pages retired for double-bit errors"},
		{Key: "memory.retired.single_bit", Value: s.RetiredPagesSingleBit, Desc: "pages retired for single-bit errors"},
	}
}

func traffic(s Sample) []Metric {
	return []Metric{
		{Key: "nvlink.crc_errors", Value: s.NVLinkCRC, Desc: "CRC errors of all NVLinks"},
		{Key: "nvlink.received", Value: s.NVLinkReceivedKiB, Unit: "KiB", Desc: "data received over all NVLinks since the driver was loaded"},
		{Key: "nvlink.recoveries", Value: s.NVLinkRecoveries, Desc: "recoveries of all NVLinks"},
		{Key: "nvlink.replays", Value: s.NVLinkReplays, Desc: "packets sent again over all NVLinks"},
		{Key: "nvlink.sent", Value: s.NVLinkSentKiB, Unit: "KiB", Desc: "data sent over all NVLinks since the driver was loaded"},
		{Key: "pcie.generation", Value: s.PCIeGeneration, Desc: "present PCIe generation; falls when idle"},
		{Key: "pcie.received", Value: s.PCIeReceivedKBps, Unit: "kB/s", Desc: "received over PCIe"},
		{Key: "pcie.replays", Value: s.PCIeReplays, Desc: "PCIe packets sent again"},
		{Key: "pcie.sent", Value: s.PCIeSentKBps, Unit: "kB/s", Desc: "sent over PCIe"},
		{Key: "pcie.width", Value: s.PCIeLanes, Desc: "present PCIe lanes"},
	}
}

// throttleWords names NVML's clocks event reasons by bit.
var throttleWords = []string{"idle", "application clocks", "power cap", "hardware slowdown", "sync boost",
	"software thermal slowdown", "hardware thermal slowdown", "power brake", "display clocks"}

// ThrottleWords names the reasons in a mask, "none" for an empty one.
func ThrottleWords(mask int64) string {
	var words []string
	for bit := range 63 {
		if mask>>bit&1 == 0 {
			continue
		}
		if bit < len(throttleWords) {
			words = append(words, throttleWords[bit])
		} else {
			words = append(words, fmt.Sprintf("reason %#x", int64(1)<<bit))
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func watts(v Maybe[int64]) Maybe[int64] { return Maybe[int64]{Value: v.Value / 1000, Known: v.Known} }

// known is what the plugin itself knows about the device.
func known(u Unit, health string) []Metric {
	d := u.Device
	xids, last := d.Health.XIDs, d.Health.LastXID
	if u.MIG != nil && u.MIG.Health.XIDs > 0 {
		xids, last = xids+u.MIG.Health.XIDs, u.MIG.Health.LastXID
	}
	list := []Metric{
		{Key: "health", Text: health, Desc: "whether and why not"},
		{Key: "pci.bus_id", Text: d.GPU.PCIBusID, Desc: "PCI address"},
		{Key: "xid.count", Value: Known(xids), Desc: "XID errors since the plugin started"},
	}
	list = append(list, present([]Metric{
		{Key: "board.serial", Text: d.GPU.Serial, Desc: "the serial number on the board"},
		{Key: "compute_mode", Text: d.GPU.ComputeMode, Desc: "how many processes may use the GPU (nvidia-smi -c)"},
	})...)
	if last != 0 {
		list = append(list, Metric{Key: "xid.last", Value: Known(last), Desc: "the latest XID error"})
	}
	if d.GPU.NUMANode.Known {
		list = append(list, Metric{Key: "numa.node", Value: d.GPU.NUMANode, Desc: "host NUMA node"})
	}
	if d.GPU.LinksKnown && u.MIG == nil {
		list = append(list, Metric{Key: "nvlink.active", Value: activeLinks(d.GPU), Desc: "active NVLinks"})
	}
	if u.MIG != nil {
		list = append(list,
			Metric{Key: "mig.parent", Text: d.GPU.UUID, Desc: "the GPU of the instance"},
			Metric{Key: "mig.gpu_instance", Value: Known(u.MIG.GPUInstance), Desc: "GPU instance id"},
			Metric{Key: "mig.compute_instance", Value: Known(u.MIG.ComputeInstance), Desc: "compute instance id"})
	}
	return list
}
