package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// Probe asks each GPU one cheap question. The result is one word a GPU, equal
// between two calls while nothing changed; a different one calls for a Read.
func (r *Reader) Probe() (string, error) {
	lib, done, err := r.session()
	if err != nil {
		return "", err
	}
	defer done()
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		r.setStale(true)
		return "", notReady("count the GPUs", ret)
	}
	state := fmt.Sprintf("%d", count)
	for index := range count {
		device, ret := lib.DeviceGetHandleByIndex(index)
		var recovery int64
		if ret == nvml.SUCCESS {
			ret = r.alive(device)
			recovery = r.field(device, nvml.FI_DEV_GET_GPU_RECOVERY_ACTION, 0).Value
		}
		state += fmt.Sprintf(" %d/%d", int(ret), recovery)
	}
	return state, nil
}

// Sample reads the numbers that move, of every GPU that answers with a UUID.
func (r *Reader) Sample() ([]inventory.Sample, error) {
	lib, done, err := r.session()
	if err != nil {
		return nil, err
	}
	defer done()
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		r.setStale(true)
		return nil, notReady("count the GPUs", ret)
	}
	var samples []inventory.Sample
	for index := range count {
		device, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, ret := device.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		sample := inventory.Sample{UUID: uuid}
		r.memory(device, &sample)
		r.load(device, &sample)
		r.condition(device, &sample)
		samples = append(samples, sample)
	}
	return samples, nil
}

// memory prefers the call that keeps the driver's own reserve apart.
func (r *Reader) memory(device nvml.Device, s *inventory.Sample) {
	if r.symbols.has("nvmlDeviceGetMemoryInfo_v2") {
		if m, ret := device.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			s.MemoryUsedMiB = inventory.Known(int64(m.Used / mebi))
			s.MemoryTotalMiB = inventory.Known(int64(m.Total / mebi))
		}
	}
	if !s.MemoryTotalMiB.Known && r.symbols.has("nvmlDeviceGetMemoryInfo") {
		if m, ret := device.GetMemoryInfo(); ret == nvml.SUCCESS {
			s.MemoryUsedMiB = inventory.Known(int64(m.Used / mebi))
			s.MemoryTotalMiB = inventory.Known(int64(m.Total / mebi))
		}
	}
	if r.symbols.has("nvmlDeviceGetBAR1MemoryInfo") {
		if m, ret := device.GetBAR1MemoryInfo(); ret == nvml.SUCCESS {
			s.BAR1UsedMiB = inventory.Known(int64(m.Bar1Used / mebi))
			s.BAR1TotalMiB = inventory.Known(int64(m.Bar1Total / mebi))
		}
	}
	if r.symbols.has("nvmlDeviceGetRemappedRows") {
		if _, _, pending, _, ret := device.GetRemappedRows(); ret == nvml.SUCCESS {
			s.RemapPending = inventory.Known(pending)
		}
	}
}

func (r *Reader) load(device nvml.Device, s *inventory.Sample) {
	if r.symbols.has("nvmlDeviceGetUtilizationRates") {
		if u, ret := device.GetUtilizationRates(); ret == nvml.SUCCESS {
			s.GPUPercent = inventory.Known(int64(u.Gpu))
			s.MemoryPercent = inventory.Known(int64(u.Memory))
		}
	}
	first := func(call func() (uint32, uint32, nvml.Return)) func() (uint32, nvml.Return) {
		return func() (uint32, nvml.Return) {
			v, _, ret := call()
			return v, ret
		}
	}
	s.EncoderPercent = ask(r.symbols, "nvmlDeviceGetEncoderUtilization", first(device.GetEncoderUtilization))
	s.DecoderPercent = ask(r.symbols, "nvmlDeviceGetDecoderUtilization", first(device.GetDecoderUtilization))
	clock := func(kind nvml.ClockType) inventory.Maybe[int64] {
		return ask(r.symbols, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return device.GetClockInfo(kind) })
	}
	s.GraphicsMHz, s.SMMHz, s.MemoryMHz = clock(nvml.CLOCK_GRAPHICS), clock(nvml.CLOCK_SM), clock(nvml.CLOCK_MEM)
	s.PCIeGeneration = ask(r.symbols, "nvmlDeviceGetCurrPcieLinkGeneration", device.GetCurrPcieLinkGeneration)
	s.PCIeLanes = ask(r.symbols, "nvmlDeviceGetCurrPcieLinkWidth", device.GetCurrPcieLinkWidth)
	s.PCIeReplays = ask(r.symbols, "nvmlDeviceGetPcieReplayCounter", device.GetPcieReplayCounter)
}

func (r *Reader) condition(device nvml.Device, s *inventory.Sample) {
	s.PowerMilliW = ask(r.symbols, "nvmlDeviceGetPowerUsage", device.GetPowerUsage)
	s.PowerLimitMilliW = r.powerLimit(device)
	s.EnergyMilliJ = ask(r.symbols, "nvmlDeviceGetTotalEnergyConsumption", device.GetTotalEnergyConsumption)
	s.TemperatureC = ask(r.symbols, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) { return device.GetTemperature(nvml.TEMPERATURE_GPU) })
	s.SlowdownC = ask(r.symbols, "nvmlDeviceGetTemperatureThreshold", func() (uint32, nvml.Return) {
		return device.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	})
	s.FanPercent = ask(r.symbols, "nvmlDeviceGetFanSpeed", device.GetFanSpeed)
	s.PerformanceState = ask(r.symbols, "nvmlDeviceGetPerformanceState", device.GetPerformanceState)
	s.ThrottleReasons = r.throttle(device)
	s.ECCCorrected = r.ecc(device, nvml.MEMORY_ERROR_TYPE_CORRECTED)
	s.ECCUncorrected = r.ecc(device, nvml.MEMORY_ERROR_TYPE_UNCORRECTED)
}

// throttle asks under the function's new name, then under its old one.
func (r *Reader) throttle(device nvml.Device) inventory.Maybe[int64] {
	if v := ask(r.symbols, "nvmlDeviceGetCurrentClocksEventReasons", device.GetCurrentClocksEventReasons); v.Known {
		return v
	}
	return ask(r.symbols, "nvmlDeviceGetCurrentClocksThrottleReasons", device.GetCurrentClocksThrottleReasons)
}

func (r *Reader) ecc(device nvml.Device, kind nvml.MemoryErrorType) inventory.Maybe[int64] {
	return ask(r.symbols, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) {
		return device.GetTotalEccErrors(kind, nvml.VOLATILE_ECC)
	})
}
