package nvml

import (
	"strconv"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// factsEvery is how many probes share one look at what changes slowly. That a
// GPU answers is asked each time; a recovery that it needs, a row that failed or a
// slowdown announces itself by an XID, or can wait for some seconds.
const factsEvery = 5

// Probe asks each GPU a cheap question, and now and then a few more. The result
// is some words a GPU, equal between two calls while nothing changed; a different
// one calls for a Read. Of the reasons for low clocks only those that hardware
// has count: the others come and go with every load.
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
	r.probing.Lock()
	defer r.probing.Unlock()
	if len(r.facts) != count {
		r.facts, r.probes = make([]slowFacts, count), 0
	}
	due := r.probes%factsEvery == 0
	r.probes++
	digest := strconv.AppendInt(nil, int64(count), 10)
	for index := range count {
		device, ret := lib.DeviceGetHandleByIndex(index)
		if ret == nvml.SUCCESS {
			ret = r.alive(device)
		}
		if ret == nvml.SUCCESS && due {
			r.facts[index] = r.slowFacts(device)
		}
		digest = strconv.AppendInt(append(digest, ' '), int64(ret), 10)
		for _, fact := range r.facts[index] {
			digest = strconv.AppendInt(append(digest, '/'), fact, 10)
		}
	}
	return string(digest), nil
}

// slowFacts are the recovery action, whether rows wait to be remapped and could
// not be, what hardware slows the GPU down, and how many MIG instances there are.
type slowFacts [5]int64

func (r *Reader) slowFacts(device nvml.Device) slowFacts {
	asked := r.fields(device, fieldID{id: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION},
		fieldID{id: nvml.FI_DEV_REMAPPED_PENDING}, fieldID{id: nvml.FI_DEV_REMAPPED_FAILURE})
	instances := 0
	if r.inMIGMode(device) {
		instances = len(r.migDevices(device))
	}
	return slowFacts{asked[0].Value, asked[1].Value, asked[2].Value, r.throttle(device).Value & hardwareReasons, int64(instances)}
}

// hardwareReasons are the clocks event reasons by which hardware slows a GPU
// down: slowdown, thermal and power brake.
const hardwareReasons = nvml.ClocksThrottleReasonHwSlowdown | nvml.ClocksThrottleReasonHwThermalSlowdown |
	nvml.ClocksThrottleReasonHwPowerBrakeSlowdown

// Sample reads the numbers that move, of every GPU that answers with a UUID and
// of its MIG instances.
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
	var slow []throughput
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
		r.traffic(device, &sample)
		r.processes(device, &sample)
		r.profile(lib, device, &sample)
		samples = append(samples, sample)
		if !sample.PCIeSentKBps.Known && r.symbols.has("nvmlDeviceGetPcieThroughput") {
			slow = append(slow, throughput{device, len(samples) - 1})
		}
		samples = append(samples, r.migSamples(lib, device)...)
	}
	measurePCIe(slow, samples)
	return samples, nil
}

// throughput is a GPU whose PCIe traffic must be measured, and its sample's place.
type throughput struct {
	device nvml.Device
	at     int
}

// measurePCIe measures the PCIe traffic of GPUs without performance counters. NVML
// counts for 20 ms in each call, so all GPUs are measured at once.
func measurePCIe(gpus []throughput, samples []inventory.Sample) {
	var measuring sync.WaitGroup
	for _, g := range gpus {
		measuring.Go(func() {
			s := &samples[g.at]
			if sent, ret := g.device.GetPcieThroughput(nvml.PCIE_UTIL_TX_BYTES); ret == nvml.SUCCESS {
				s.PCIeSentKBps = inventory.Known(int64(sent))
			}
			if received, ret := g.device.GetPcieThroughput(nvml.PCIE_UTIL_RX_BYTES); ret == nvml.SUCCESS {
				s.PCIeReceivedKBps = inventory.Known(int64(received))
			}
		})
	}
	measuring.Wait()
}

// migSamples reads what MIG instances have of their own: memory, and performance
// counters. The rest NVML gives of the whole GPU alone.
func (r *Reader) migSamples(lib nvml.Interface, device nvml.Device) []inventory.Sample {
	if !r.inMIGMode(device) {
		return nil
	}
	var samples []inventory.Sample
	for _, instance := range r.migDevices(device) {
		uuid, ret := instance.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		sample := inventory.Sample{UUID: uuid}
		r.memory(instance, &sample)
		r.profileInstance(lib, device, instance, &sample)
		samples = append(samples, sample)
	}
	return samples
}

// memory prefers the call that keeps the driver's own reserve apart.
func (r *Reader) memory(device nvml.Device, s *inventory.Sample) {
	known := func(bytes uint64) inventory.Maybe[int64] { return inventory.Known(int64(bytes / mebi)) }
	if r.symbols.has("nvmlDeviceGetMemoryInfo_v2") {
		if m, ret := device.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			s.MemoryUsedMiB, s.MemoryTotalMiB = known(m.Used), known(m.Total)
			s.MemoryFreeMiB, s.MemoryReservedMiB = known(m.Free), known(m.Reserved)
		}
	}
	if !s.MemoryTotalMiB.Known && r.symbols.has("nvmlDeviceGetMemoryInfo") {
		if m, ret := device.GetMemoryInfo(); ret == nvml.SUCCESS {
			s.MemoryUsedMiB, s.MemoryTotalMiB, s.MemoryFreeMiB = known(m.Used), known(m.Total), known(m.Free)
		}
	}
	if r.symbols.has("nvmlDeviceGetBAR1MemoryInfo") {
		if m, ret := device.GetBAR1MemoryInfo(); ret == nvml.SUCCESS {
			s.BAR1UsedMiB, s.BAR1TotalMiB = known(m.Bar1Used), known(m.Bar1Total)
		}
	}
}

func (r *Reader) load(device nvml.Device, s *inventory.Sample) {
	if r.symbols.has("nvmlDeviceGetUtilizationRates") {
		if u, ret := device.GetUtilizationRates(); ret == nvml.SUCCESS {
			s.GPUPercent, s.MemoryPercent = inventory.Known(int64(u.Gpu)), inventory.Known(int64(u.Memory))
		}
	}
	percent := func(symbol string, call func() (uint32, uint32, nvml.Return)) inventory.Maybe[int64] {
		return ask(r.symbols, symbol, func() (uint32, nvml.Return) {
			v, _, ret := call()
			return v, ret
		})
	}
	s.EncoderPercent = percent("nvmlDeviceGetEncoderUtilization", device.GetEncoderUtilization)
	s.DecoderPercent = percent("nvmlDeviceGetDecoderUtilization", device.GetDecoderUtilization)
	s.JPEGPercent = percent("nvmlDeviceGetJpgUtilization", device.GetJpgUtilization)
	s.OFAPercent = percent("nvmlDeviceGetOfaUtilization", device.GetOfaUtilization)
	clock := func(kind nvml.ClockType) inventory.Maybe[int64] {
		return ask(r.symbols, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return device.GetClockInfo(kind) })
	}
	s.GraphicsMHz, s.SMMHz = clock(nvml.CLOCK_GRAPHICS), clock(nvml.CLOCK_SM)
	s.MemoryMHz, s.VideoMHz = clock(nvml.CLOCK_MEM), clock(nvml.CLOCK_VIDEO)
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
	s.ECCCorrected = r.ecc(device, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
	s.ECCUncorrected = r.ecc(device, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	s.ECCCorrectedAll = r.ecc(device, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.AGGREGATE_ECC)
	s.ECCUncorrectedAll = r.ecc(device, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.AGGREGATE_ECC)
	r.eccPlaces(device, s)
	if r.symbols.has("nvmlDeviceGetRemappedRows") {
		if corrected, uncorrected, pending, failed, ret := device.GetRemappedRows(); ret == nvml.SUCCESS {
			s.RemappedCorrectable, s.RemappedUncorrectable = inventory.Known(int64(corrected)), inventory.Known(int64(uncorrected))
			s.RemapPending, s.RemapFailure = inventory.Known(pending), inventory.Known(failed)
		}
	}
	retired := func(cause nvml.PageRetirementCause) inventory.Maybe[int64] {
		return ask(r.symbols, "nvmlDeviceGetRetiredPages", func() (int, nvml.Return) {
			pages, ret := device.GetRetiredPages(cause)
			return len(pages), ret
		})
	}
	s.RetiredPagesSingleBit = retired(nvml.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
	s.RetiredPagesDoubleBit = retired(nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
}

// eccPlaces reads the error counts by place, as far as the GPU tells them apart.
func (r *Reader) eccPlaces(device nvml.Device, s *inventory.Sample) {
	count := func(kind nvml.MemoryErrorType, place nvml.MemoryLocation) inventory.Maybe[int64] {
		return ask(r.symbols, "nvmlDeviceGetMemoryErrorCounter", func() (uint64, nvml.Return) {
			return device.GetMemoryErrorCounter(kind, nvml.VOLATILE_ECC, place)
		})
	}
	s.ECCCorrectedL1 = count(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_LOCATION_L1_CACHE)
	s.ECCCorrectedL2 = count(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_LOCATION_L2_CACHE)
	s.ECCCorrectedMemory = count(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_LOCATION_DEVICE_MEMORY)
	s.ECCUncorrectedL1 = count(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.MEMORY_LOCATION_L1_CACHE)
	s.ECCUncorrectedL2 = count(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.MEMORY_LOCATION_L2_CACHE)
	s.ECCUncorrectedMemory = count(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.MEMORY_LOCATION_DEVICE_MEMORY)
}

// traffic reads the links to the host and to other GPUs.
func (r *Reader) traffic(device nvml.Device, s *inventory.Sample) {
	s.PCIeGeneration = ask(r.symbols, "nvmlDeviceGetCurrPcieLinkGeneration", device.GetCurrPcieLinkGeneration)
	s.PCIeLanes = ask(r.symbols, "nvmlDeviceGetCurrPcieLinkWidth", device.GetCurrPcieLinkWidth)
	s.PCIeReplays = ask(r.symbols, "nvmlDeviceGetPcieReplayCounter", device.GetPcieReplayCounter)
	numbers := r.fields(device, fieldID{id: nvml.FI_DEV_MEMORY_TEMP},
		fieldID{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks}, fieldID{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, allLinks},
		fieldID{id: nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL}, fieldID{id: nvml.FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL},
		fieldID{id: nvml.FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL}, fieldID{id: nvml.FI_DEV_NVLINK_LINK_COUNT})
	s.MemoryTemperatureC = numbers[0]
	s.NVLinkSentKiB, s.NVLinkReceivedKiB = numbers[1], numbers[2]
	s.NVLinkReplays, s.NVLinkRecoveries, s.NVLinkCRC = numbers[3], numbers[4], numbers[5]
	if links := numbers[6]; !s.NVLinkReplays.Known && links.Known && links.Value > 0 {
		r.linkErrors(device, min(uint32(links.Value), nvml.NVLINK_MAX_LINKS), s)
	}
}

// linkErrors sums the errors of each link, where the driver (Hopper and newer)
// has no sum.
func (r *Reader) linkErrors(device nvml.Device, links uint32, s *inventory.Sample) {
	kinds := []struct {
		id  uint32
		sum *inventory.Maybe[int64]
	}{
		{nvml.FI_DEV_NVLINK_ERROR_DL_REPLAY, &s.NVLinkReplays},
		{nvml.FI_DEV_NVLINK_ERROR_DL_RECOVERY, &s.NVLinkRecoveries},
		{nvml.FI_DEV_NVLINK_ERROR_DL_CRC, &s.NVLinkCRC},
	}
	var ids []fieldID
	for _, kind := range kinds {
		for link := range links {
			ids = append(ids, fieldID{kind.id, link})
		}
	}
	for i, number := range r.fields(device, ids...) {
		if sum := kinds[i/int(links)].sum; number.Known {
			*sum = inventory.Known(sum.Value + number.Value)
		}
	}
}

// processes lists who has a compute context on the GPU.
func (r *Reader) processes(device nvml.Device, s *inventory.Sample) {
	add := func(symbol string, mps bool, list func() ([]nvml.ProcessInfo, nvml.Return)) {
		if !r.symbols.has(symbol) {
			return
		}
		infos, ret := list()
		if ret != nvml.SUCCESS {
			return
		}
		s.ProcessesKnown = true
		for _, info := range infos {
			p := inventory.Process{PID: int64(info.Pid), MPS: mps,
				GPUInstance: instanceID(info.GpuInstanceId), ComputeInstance: instanceID(info.ComputeInstanceId)}
			if info.UsedGpuMemory != unknownMemory {
				p.MemoryMiB = inventory.Known(int64(info.UsedGpuMemory / mebi))
			}
			s.Processes = append(s.Processes, p)
		}
	}
	// Only this version of the call has a layout that is the same in all drivers.
	add("nvmlDeviceGetComputeRunningProcesses_v3", false, device.GetComputeRunningProcesses)
	add("nvmlDeviceGetMPSComputeRunningProcesses_v3", true, device.GetMPSComputeRunningProcesses)
}

// unknownMemory is NVML_VALUE_NOT_AVAILABLE: the driver cannot say how much.
const unknownMemory = ^uint64(0)
