package nvml

import (
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// profileMetrics are the performance counters that are read, where they go, and
// how many of the sample's units one of NVML's is.
var profileMetrics = []struct {
	id    nvml.GpmMetricId
	scale float64
	to    func(*inventory.Sample) *inventory.Maybe[int64]
}{
	{nvml.GPM_METRIC_GRAPHICS_UTIL, permille, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.GraphicsActivePermille }},
	{nvml.GPM_METRIC_SM_UTIL, permille, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.SMActivePermille }},
	{nvml.GPM_METRIC_ANY_TENSOR_UTIL, permille, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.TensorActivePermille }},
	{nvml.GPM_METRIC_DRAM_BW_UTIL, permille, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.DRAMActivePermille }},
	{nvml.GPM_METRIC_PCIE_TX_PER_SEC, kilobytes, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.PCIeSentKBps }},
	{nvml.GPM_METRIC_PCIE_RX_PER_SEC, kilobytes, func(s *inventory.Sample) *inventory.Maybe[int64] { return &s.PCIeReceivedKBps }},
}

// What one of NVML's units is: per cent, and MiB.
const (
	permille  = 10
	kilobytes = 1048.576
)

// gpm holds the counters of one GPU at the sample before. A metric is the
// difference of two.
type gpm struct {
	unsupported bool
	last        nvml.GpmSample
}

// profile reads the performance counters since the sample before; the first
// sample of a GPU has none.
func (r *Reader) profile(lib nvml.Interface, device nvml.Device, s *inventory.Sample) {
	if r.symbols.has("nvmlGpmSampleGet") {
		r.profileOf(lib, device, device.GpmSampleGet, s)
	}
}

// profileInstance is profile for a MIG instance: its own part of its GPU.
func (r *Reader) profileInstance(lib nvml.Interface, parent, instance nvml.Device, s *inventory.Sample) {
	if !r.symbols.all("nvmlGpmMigSampleGet", "nvmlDeviceGetGpuInstanceId") {
		return
	}
	id, ret := instance.GetGpuInstanceId()
	if ret != nvml.SUCCESS {
		return
	}
	r.profileOf(lib, parent, func(sample nvml.GpmSample) nvml.Return { return parent.GpmMigSampleGet(id, sample) }, s)
}

// profileOf reads counters by get; s.UUID names what they are of.
func (r *Reader) profileOf(lib nvml.Interface, device nvml.Device, get func(nvml.GpmSample) nvml.Return, s *inventory.Sample) {
	if !r.symbols.all("nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmMetricsGet") {
		return
	}
	r.profiling.Lock()
	defer r.profiling.Unlock()
	g := r.gpms[s.UUID]
	if g == nil {
		support, ret := device.GpmQueryDeviceSupport()
		g = &gpm{unsupported: ret != nvml.SUCCESS || support.IsSupportedDevice == 0}
		r.gpms[s.UUID] = g
	}
	if g.unsupported {
		return
	}
	now, ret := lib.GpmSampleAlloc()
	if ret != nvml.SUCCESS {
		return
	}
	if get(now) != nvml.SUCCESS {
		_ = now.Free() // it holds nothing
		return
	}
	if g.last != nil {
		counters(lib, g.last, now, s)
		_ = g.last.Free() // no longer needed
	}
	g.last = now
}

func counters(lib nvml.Interface, before, now nvml.GpmSample, s *inventory.Sample) {
	get := nvml.GpmMetricsGetType{NumMetrics: uint32(len(profileMetrics)), Sample1: before, Sample2: now}
	for i, m := range profileMetrics {
		get.Metrics[i].MetricId = uint32(m.id)
	}
	if lib.GpmMetricsGet(&get) != nvml.SUCCESS {
		return
	}
	for i, m := range profileMetrics {
		metric := get.Metrics[i]
		// Of two samples at nearly the same time NVML may make no number at all.
		if value := metric.Value * m.scale; nvml.Return(metric.NvmlReturn) == nvml.SUCCESS && value >= 0 && value < math.MaxInt64 {
			*m.to(s) = inventory.Known(int64(value + 0.5))
		}
	}
}
