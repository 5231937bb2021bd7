package metrics

import (
	"strconv"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
)

// field is one metric of DCGM's, as dcgm-exporter names and types it.
type field struct {
	name, kind, help string
	of               func(p place, elapsed time.Duration) (string, bool)
}

// whole takes a number as it is.
func whole(get func(inventory.Sample) inventory.Maybe[int64]) func(place, time.Duration) (string, bool) {
	return func(p place, _ time.Duration) (string, bool) {
		v := get(p.sample)
		return strconv.FormatInt(v.Value, 10), v.Known
	}
}

// milli divides a number by a thousand.
func milli(get func(inventory.Sample) inventory.Maybe[int64]) func(place, time.Duration) (string, bool) {
	return func(p place, _ time.Duration) (string, bool) {
		v := get(p.sample)
		return strconv.FormatFloat(float64(v.Value)/1000, 'f', -1, 64), v.Known
	}
}

// truth is 1 or 0.
func truth(get func(inventory.Sample) inventory.Maybe[bool]) func(place, time.Duration) (string, bool) {
	return func(p place, _ time.Duration) (string, bool) {
		v := get(p.sample)
		return bit(v.Value), v.Known
	}
}

func bit(v bool) string {
	if v {
		return "1"
	}
	return "0"
}

type (
	sample = inventory.Sample
	number = inventory.Maybe[int64]
)

// dcgmFields are DCGM's fields of which a sample knows something, in the order
// of dcgm-exporter's list.
func dcgmFields() []field {
	return append(append(conditions(), loads()...), errorFields()...)
}

func conditions() []field {
	throttle := whole(func(s sample) number { return s.ThrottleReasons })
	return []field{
		{"DCGM_FI_DEV_SM_CLOCK", gauge, "Clock of the multiprocessors, MHz.", whole(func(s sample) number { return s.SMMHz })},
		{"DCGM_FI_DEV_MEM_CLOCK", gauge, "Clock of the memory, MHz.", whole(func(s sample) number { return s.MemoryMHz })},
		{"DCGM_FI_DEV_VIDEO_CLOCK", gauge, "Clock of the video engines, MHz.", whole(func(s sample) number { return s.VideoMHz })},
		{"DCGM_FI_DEV_CLOCKS_EVENT_REASONS", gauge, "Why the clocks are what they are: NVML's mask of reasons.", throttle},
		{"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", gauge, "The older name of DCGM_FI_DEV_CLOCKS_EVENT_REASONS.", throttle},
		{"DCGM_FI_DEV_MEMORY_TEMP", gauge, "Temperature of the memory, degrees Celsius.", whole(func(s sample) number { return s.MemoryTemperatureC })},
		{"DCGM_FI_DEV_GPU_TEMP", gauge, "Temperature of the GPU, degrees Celsius.", whole(func(s sample) number { return s.TemperatureC })},
		{"DCGM_FI_DEV_SLOWDOWN_TEMP", gauge, "Temperature at which the GPU slows down, degrees Celsius.", whole(func(s sample) number { return s.SlowdownC })},
		{"DCGM_FI_DEV_POWER_USAGE", gauge, "Power draw, watts.", milli(func(s sample) number { return s.PowerMilliW })},
		{"DCGM_FI_DEV_ENFORCED_POWER_LIMIT", gauge, "Power limit in force, watts.", milli(func(s sample) number { return s.PowerLimitMilliW })},
		{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", counter, "Energy since the driver was loaded, millijoules.", whole(func(s sample) number { return s.EnergyMilliJ })},
		{"DCGM_FI_DEV_PSTATE", gauge, "Performance state, from 0, the fastest.", whole(func(s sample) number { return s.PerformanceState })},
		{"DCGM_FI_DEV_FAN_SPEED", gauge, "Fan speed, per cent of its maximum.", whole(func(s sample) number { return s.FanPercent })},
		{"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", counter, "PCIe packets that were sent again.", whole(func(s sample) number { return s.PCIeReplays })},
		{"DCGM_FI_DEV_PCIE_LINK_GEN", gauge, "PCIe generation in use now.", whole(func(s sample) number { return s.PCIeGeneration })},
		{"DCGM_FI_DEV_PCIE_LINK_WIDTH", gauge, "PCIe lanes in use now.", whole(func(s sample) number { return s.PCIeLanes })},
	}
}

func loads() []field {
	return []field{
		{"DCGM_FI_DEV_GPU_UTIL", gauge, "Time in which a kernel ran, per cent.", whole(func(s sample) number { return s.GPUPercent })},
		{"DCGM_FI_DEV_MEM_COPY_UTIL", gauge, "Time in which the memory was read or written, per cent.", whole(func(s sample) number { return s.MemoryPercent })},
		{"DCGM_FI_DEV_ENC_UTIL", gauge, "Load of the video encoders, per cent.", whole(func(s sample) number { return s.EncoderPercent })},
		{"DCGM_FI_DEV_DEC_UTIL", gauge, "Load of the video decoders, per cent.", whole(func(s sample) number { return s.DecoderPercent })},
		{"DCGM_FI_DEV_FB_TOTAL", gauge, "Frame buffer, MiB.", whole(func(s sample) number { return s.MemoryTotalMiB })},
		{"DCGM_FI_DEV_FB_FREE", gauge, "Frame buffer that is free, MiB.", whole(free)},
		{"DCGM_FI_DEV_FB_USED", gauge, "Frame buffer in use, MiB.", whole(func(s sample) number { return s.MemoryUsedMiB })},
		{"DCGM_FI_DEV_FB_RESERVED", gauge, "Frame buffer that the driver keeps for itself, MiB.", whole(func(s sample) number { return s.MemoryReservedMiB })},
		{"DCGM_FI_DEV_BAR1_TOTAL", gauge, "BAR1 memory, MiB.", whole(func(s sample) number { return s.BAR1TotalMiB })},
		{"DCGM_FI_DEV_BAR1_USED", gauge, "BAR1 memory in use, MiB.", whole(func(s sample) number { return s.BAR1UsedMiB })},
		{"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", counter, "Data over all NVLinks, both directions, MB/s since the sample before. DCGM calls this a counter, but it is a rate.", nvlinkRate},
		{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", gauge, "Ratio of time in which the graphics or compute engine was busy.", milli(func(s sample) number { return s.GraphicsActivePermille })},
		{"DCGM_FI_PROF_SM_ACTIVE", gauge, "Ratio of time in which a multiprocessor had a warp, over all of them.", milli(func(s sample) number { return s.SMActivePermille })},
		{"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", gauge, "Ratio of time in which the tensor cores were busy.", milli(func(s sample) number { return s.TensorActivePermille })},
		{"DCGM_FI_PROF_DRAM_ACTIVE", gauge, "Ratio of time in which the memory moved data.", milli(func(s sample) number { return s.DRAMActivePermille })},
	}
}

func errorFields() []field {
	return []field{
		{"DCGM_FI_DEV_XID_ERRORS", gauge, "The last XID that the driver reported; 0 when there was none.", lastXID},
		{"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", counter, "Corrected ECC errors since the driver was loaded.", whole(func(s sample) number { return s.ECCCorrected })},
		{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", counter, "Uncorrected ECC errors since the driver was loaded.", whole(func(s sample) number { return s.ECCUncorrected })},
		{"DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", counter, "Corrected ECC errors over the board's life.", whole(func(s sample) number { return s.ECCCorrectedAll })},
		{"DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", counter, "Uncorrected ECC errors over the board's life.", whole(func(s sample) number { return s.ECCUncorrectedAll })},
		{"DCGM_FI_DEV_RETIRED_SBE", counter, "Memory pages retired after corrected errors.", whole(func(s sample) number { return s.RetiredPagesSingleBit })},
		{"DCGM_FI_DEV_RETIRED_DBE", counter, "Memory pages retired after uncorrected errors.", whole(func(s sample) number { return s.RetiredPagesDoubleBit })},
		{"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", counter, "Memory rows remapped after uncorrected errors.", whole(func(s sample) number { return s.RemappedUncorrectable })},
		{"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", counter, "Memory rows remapped after corrected errors.", whole(func(s sample) number { return s.RemappedCorrectable })},
		{"DCGM_FI_DEV_ROW_REMAP_FAILURE", gauge, "1 when a memory row could not be remapped: the board is to be replaced.", truth(func(s sample) inventory.Maybe[bool] { return s.RemapFailure })},
		{"DCGM_FI_DEV_ROW_REMAP_PENDING", gauge, "1 when a memory row waits for a reset to be remapped.", truth(func(s sample) inventory.Maybe[bool] { return s.RemapPending })},
		{"DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", counter, "NVLink packets that were sent again, all links.", whole(func(s sample) number { return s.NVLinkReplays })},
		{"DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", counter, "NVLink recoveries, all links.", whole(func(s sample) number { return s.NVLinkRecoveries })},
	}
}

// free is what NVML gives, or what follows from the rest: where it does not
// say what is reserved, that is in what is used.
func free(s sample) number {
	if s.MemoryFreeMiB.Known || !s.MemoryTotalMiB.Known || !s.MemoryUsedMiB.Known {
		return s.MemoryFreeMiB
	}
	return inventory.Known(max(0, s.MemoryTotalMiB.Value-s.MemoryUsedMiB.Value-s.MemoryReservedMiB.Value))
}

// nvlinkRate is DCGM's: KiB a second, over a thousand. Counters that began anew
// between the samples give no rate.
func nvlinkRate(p place, elapsed time.Duration) (string, bool) {
	now, before := p.sample, p.before
	if elapsed <= 0 || !now.NVLinkSentKiB.Known || !now.NVLinkReceivedKiB.Known || !before.NVLinkSentKiB.Known || !before.NVLinkReceivedKiB.Known {
		return "", false
	}
	sent := now.NVLinkSentKiB.Value - before.NVLinkSentKiB.Value
	received := now.NVLinkReceivedKiB.Value - before.NVLinkReceivedKiB.Value
	if sent < 0 || received < 0 {
		return "", false
	}
	return strconv.FormatInt(int64(float64(sent+received)/elapsed.Seconds()/1000), 10), true
}

// lastXID is of the GPU: instances do not repeat it.
func lastXID(p place, _ time.Duration) (string, bool) {
	return strconv.FormatInt(p.device.LastXID.Value, 10), p.whole && p.device.LastXID.Known
}

// dcgm writes DCGM's fields. What the MIG instances of a GPU say themselves is
// not said of the GPU again: a sum would count it twice.
func (p *page) dcgm(s Snapshot, places []place) {
	var elapsed time.Duration
	if !s.Before.At.IsZero() && !s.At.IsZero() {
		elapsed = s.At.Sub(s.Before.At)
	}
	labels := make([][]label, len(places))
	for i, at := range places {
		labels[i] = at.dcgmLabels(s)
	}
	for _, f := range dcgmFields() {
		byInstances := map[string]bool{}
		for _, at := range places {
			if _, known := f.of(at, elapsed); known && !at.whole {
				byInstances[at.device.GPU] = true
			}
		}
		var lines []series
		for i, at := range places {
			if at.whole && byInstances[at.device.GPU] {
				continue
			}
			if value, known := f.of(at, elapsed); known {
				lines = append(lines, series{labels[i], value})
			}
		}
		p.family(f.name, f.kind, f.help, lines)
	}
}

// dcgmLabels are dcgm-exporter's, in its order.
func (p place) dcgmLabels(s Snapshot) []label {
	d := p.device
	labels := []label{{"gpu", strconv.Itoa(d.Index)}, {"UUID", d.GPU}, {"pci_bus_id", dcgmBusID(d.PCIBusID)}, {"device", d.node()}, {"modelName", d.Model}}
	return append(append(labels, p.instanceLabels()...), label{"Hostname", s.Hostname}, label{"DCGM_FI_DRIVER_VERSION", s.DriverVersion})
}

// instanceLabels name a MIG instance; none on a whole GPU.
func (p place) instanceLabels() []label {
	if p.whole {
		return nil
	}
	return p.device.instanceLabels()
}

func (d Device) instanceLabels() []label {
	if d.Instance == "" {
		return nil
	}
	return []label{{"GPU_I_PROFILE", d.Profile}, {"GPU_I_ID", strconv.FormatInt(d.GPUInstance, 10)}, {"GPU_CI_ID", strconv.FormatInt(d.ComputeInstance, 10)}}
}

// node is the name of the device node, "nvidia0".
func (d Device) node() string {
	if !d.Minor.Known {
		return ""
	}
	return "nvidia" + strconv.FormatInt(d.Minor.Value, 10)
}
