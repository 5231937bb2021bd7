package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

const mebi = 1 << 20

// Read reads every GPU. An error means that NVML as a whole does not answer;
// one GPU that does not is an entry with a Failure.
func (r *Reader) Read() (inventory.Readings, error) {
	lib, done, err := r.session()
	if err != nil {
		return inventory.Readings{}, err
	}
	defer done()
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		r.setStale(true)
		return inventory.Readings{}, notReady("count the GPUs", ret)
	}
	readings := inventory.Readings{CUDAVersion: r.cudaVersion(lib)}
	if version, ret := lib.SystemGetDriverVersion(); ret == nvml.SUCCESS {
		readings.DriverVersion = version
	}
	if r.symbols.has("nvmlSystemGetConfComputeState") {
		if state, ret := lib.SystemGetConfComputeState(); ret == nvml.SUCCESS {
			readings.ConfidentialComputing = inventory.Known(state.CcFeature != nvml.CC_SYSTEM_FEATURE_DISABLED)
		}
	}
	handles := make([]nvml.Device, count)
	failed := false
	for index := range count {
		gpu, handle := r.gpu(lib, index)
		handles[index] = handle
		failed = failed || gpu.Failure != ""
		readings.GPUs = append(readings.GPUs, gpu)
	}
	readings.Paths = r.paths(readings.GPUs, handles)
	if failed && r.now().Sub(r.opened) > reopenAfter {
		r.setStale(true)
	}
	return readings, nil
}

func (r *Reader) cudaVersion(lib nvml.Interface) string {
	v := ask(r.symbols, "nvmlSystemGetCudaDriverVersion_v2", lib.SystemGetCudaDriverVersion_v2)
	if !v.Known {
		return ""
	}
	return fmt.Sprintf("%d.%d", v.Value/1000, v.Value%1000/10)
}

// failure words a GPU's error; a lost GPU has a word of its own, which
// operators search for.
func failure(what string, ret nvml.Return) string {
	if ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_NOT_FOUND {
		return "gpu_lost: " + describe(ret)
	}
	return fmt.Sprintf("nvml_error: %s: %s", what, describe(ret))
}

func (r *Reader) gpu(lib nvml.Interface, index int) (inventory.GPU, nvml.Device) {
	g := inventory.GPU{Index: index}
	device, ret := lib.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		g.Failure = failure("get the handle", ret)
		return g, nil
	}
	if g.UUID, ret = device.GetUUID(); ret != nvml.SUCCESS {
		g.Failure = failure("read the UUID", ret)
		return g, nil
	}
	r.remember(device, g.UUID)
	if g.Name, ret = device.GetName(); ret != nvml.SUCCESS {
		g.Failure = failure("read the name", ret)
		return g, nil
	}
	pci, ret := device.GetPciInfo()
	if ret != nvml.SUCCESS {
		g.Failure = failure("read the PCI address", ret)
		return g, nil
	}
	g.PCIBusID = busID(pci)
	r.identity(device, &g)
	r.hardware(device, &g)
	r.links(device, &g)
	r.fabric(device, &g)
	r.mig(device, &g)
	r.state(device, &g)
	// The last word: identity can come from a cache, this asks the GPU.
	if ret := r.alive(device); ret != nvml.SUCCESS {
		g.Failure = failure("ask the GPU", ret)
		return g, nil
	}
	return g, device
}

// alive asks for something that only the GPU knows. Not supported is an
// answer.
func (r *Reader) alive(device nvml.Device) nvml.Return {
	ret := nvml.SUCCESS
	if r.symbols.has("nvmlDeviceGetTemperature") {
		_, ret = device.GetTemperature(nvml.TEMPERATURE_GPU)
	}
	if ret == nvml.ERROR_NOT_SUPPORTED && r.symbols.has("nvmlDeviceGetMemoryInfo") {
		_, ret = device.GetMemoryInfo()
	}
	switch ret {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNKNOWN,
		nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED:
		return ret
	}
	return nvml.SUCCESS
}

func busID(pci nvml.PciInfo) string {
	return fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device)
}

func (r *Reader) hardware(device nvml.Device, g *inventory.GPU) {
	s := r.symbols
	if s.has("nvmlDeviceGetCudaComputeCapability") {
		if major, minor, ret := device.GetCudaComputeCapability(); ret == nvml.SUCCESS {
			g.ComputeCapability = fmt.Sprintf("%d.%d", major, minor)
		}
	}
	if s.has("nvmlDeviceGetMemoryInfo") {
		if m, ret := device.GetMemoryInfo(); ret == nvml.SUCCESS {
			g.MemoryMiB = inventory.Known(int64(m.Total / mebi))
		}
	}
	if s.has("nvmlDeviceGetBAR1MemoryInfo") {
		if m, ret := device.GetBAR1MemoryInfo(); ret == nvml.SUCCESS {
			g.BAR1MiB = inventory.Known(int64(m.Bar1Total / mebi))
		}
	}
	g.PowerLimitMilliW = r.powerLimit(device)
	g.CoresClockMHz = ask(s, "nvmlDeviceGetMaxClockInfo", func() (uint32, nvml.Return) { return device.GetMaxClockInfo(nvml.CLOCK_GRAPHICS) })
	g.MemoryClockMHz = ask(s, "nvmlDeviceGetMaxClockInfo", func() (uint32, nvml.Return) { return device.GetMaxClockInfo(nvml.CLOCK_MEM) })
	g.Cores = ask(s, "nvmlDeviceGetNumGpuCores", device.GetNumGpuCores)
	g.PCIeGeneration = ask(s, "nvmlDeviceGetMaxPcieLinkGeneration", device.GetMaxPcieLinkGeneration)
	g.PCIeWidth = ask(s, "nvmlDeviceGetMaxPcieLinkWidth", device.GetMaxPcieLinkWidth)
	g.DisplayEnabled = state(s, "nvmlDeviceGetDisplayMode", device.GetDisplayMode)
	if !g.DisplayEnabled.Known { // deprecated since R580
		g.DisplayEnabled = state(s, "nvmlDeviceGetDisplayActive", device.GetDisplayActive)
	}
	g.Persistence = state(s, "nvmlDeviceGetPersistenceMode", device.GetPersistenceMode)
	g.ECC = state(s, "nvmlDeviceGetEccMode", func() (nvml.EnableState, nvml.Return) {
		current, _, ret := device.GetEccMode()
		return current, ret
	})
	g.NUMANode = r.numaNode(device)
	g.MemoryNUMANode = ask(s, "nvmlDeviceGetNumaNodeId", device.GetNumaNodeId)
}

func (r *Reader) powerLimit(device nvml.Device) inventory.Maybe[int64] {
	if limit := ask(r.symbols, "nvmlDeviceGetEnforcedPowerLimit", device.GetEnforcedPowerLimit); limit.Known {
		return limit
	}
	return ask(r.symbols, "nvmlDeviceGetPowerManagementLimit", device.GetPowerManagementLimit)
}

// numaNode is the host node nearest to the GPU; unknown when NVML names none
// or several (a virtual machine).
func (r *Reader) numaNode(device nvml.Device) inventory.Maybe[int64] {
	const mostNodes = 1024
	if !r.symbols.has("nvmlDeviceGetMemoryAffinity") {
		return inventory.Maybe[int64]{}
	}
	words, ret := device.GetMemoryAffinity(mostNodes, nvml.AFFINITY_SCOPE_NODE)
	if ret != nvml.SUCCESS {
		return inventory.Maybe[int64]{}
	}
	var node inventory.Maybe[int64]
	for i, word := range words {
		for bit := range 64 {
			if word>>bit&1 == 0 {
				continue
			}
			if node.Known {
				return inventory.Maybe[int64]{}
			}
			node = inventory.Known(int64(i*64 + bit))
		}
	}
	return node
}

var levels = map[nvml.GpuTopologyLevel]topology.Path{
	nvml.TOPOLOGY_INTERNAL: topology.PathInternal, nvml.TOPOLOGY_SINGLE: topology.PathSingle,
	nvml.TOPOLOGY_MULTIPLE: topology.PathMultiple, nvml.TOPOLOGY_HOSTBRIDGE: topology.PathHostBridge,
	nvml.TOPOLOGY_NODE: topology.PathNode, nvml.TOPOLOGY_SYSTEM: topology.PathSystem,
}

// p2p asks whether one GPU can read the other's memory. Consumer boards often
// cannot, though they share a switch.
func (r *Reader) p2p(a, b nvml.Device) inventory.Maybe[bool] {
	if !r.symbols.has("nvmlDeviceGetP2PStatus") {
		return inventory.Maybe[bool]{}
	}
	status, ret := a.GetP2PStatus(b, nvml.P2P_CAPS_INDEX_READ)
	return inventory.Maybe[bool]{Value: ret == nvml.SUCCESS && status == nvml.P2P_STATUS_OK, Known: ret == nvml.SUCCESS}
}

func (r *Reader) paths(gpus []inventory.GPU, handles []nvml.Device) []inventory.Path {
	if !r.symbols.has("nvmlDeviceGetTopologyCommonAncestor") {
		return nil
	}
	var paths []inventory.Path
	for i := range gpus {
		for j := i + 1; j < len(gpus); j++ {
			if handles[i] == nil || handles[j] == nil {
				continue
			}
			level, ret := handles[i].GetTopologyCommonAncestor(handles[j])
			if ret != nvml.SUCCESS {
				continue
			}
			paths = append(paths, inventory.Path{A: gpus[i].UUID, B: gpus[j].UUID, Level: levels[level], P2P: r.p2p(handles[i], handles[j])})
		}
	}
	return paths
}
