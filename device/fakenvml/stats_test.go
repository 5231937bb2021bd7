package fakenvml_test

import (
	"errors"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

func TestProcessesAreListedByWhatTheyDo(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 1)
	must.Len(t, 0, ask(t, gpu.GetComputeRunningProcesses))
	must.NoError(t, errors.Join(
		n.StartProcess(control.Process{GPU: 1, PID: 4001, Kind: control.Compute, Bytes: 1 << 30}),
		n.StartProcess(control.Process{GPU: 1, PID: 4002, Kind: control.Compute, Bytes: -1}),
		n.StartProcess(control.Process{GPU: 1, PID: 4003, Kind: control.Graphics, Bytes: 1 << 20}),
		n.StartProcess(control.Process{GPU: 1, PID: 4004, Kind: control.MPS, Bytes: 1 << 21}),
		n.StartProcess(control.Process{GPU: 2, PID: 4001, Kind: control.Compute, Bytes: 5})))
	must.Eq(t, []nvml.ProcessInfo{
		{Pid: 4001, UsedGpuMemory: 1 << 30, GpuInstanceId: noInstance, ComputeInstanceId: noInstance},
		{Pid: 4002, UsedGpuMemory: 1<<64 - 1, GpuInstanceId: noInstance, ComputeInstanceId: noInstance},
	}, ask(t, gpu.GetComputeRunningProcesses))
	must.Eq(t, 4003, ask(t, gpu.GetGraphicsRunningProcesses)[0].Pid)
	must.Eq(t, 4004, ask(t, gpu.GetMPSComputeRunningProcesses)[0].Pid)
	must.Len(t, 1, ask(t, n.gpu(t, 2).GetComputeRunningProcesses))
	must.NoError(t, n.EndProcess(1, 4001))
	must.Len(t, 1, ask(t, gpu.GetComputeRunningProcesses))
	must.Len(t, 1, ask(t, n.gpu(t, 2).GetComputeRunningProcesses), must.Sprint("on the other GPU it goes on"))
}

func TestProcessIsOnItsMIGDeviceAlone(t *testing.T) {
	n := open(t, "mig-h100")
	gpu := n.gpu(t, 5)
	must.NoError(t, n.StartProcess(control.Process{GPU: 5, PID: 77, Kind: control.Compute, Bytes: 9, Instance: &control.Instance{GPUInstance: 1, ComputeInstance: 1}}))
	want := []nvml.ProcessInfo{{Pid: 77, UsedGpuMemory: 9, GpuInstanceId: 1, ComputeInstanceId: 1}}
	must.Eq(t, want, ask(t, gpu.GetComputeRunningProcesses))
	found := devices(t, gpu)
	must.Len(t, 0, ask(t, found[0].GetComputeRunningProcesses))
	must.Eq(t, want, ask(t, found[1].GetComputeRunningProcesses))
}

func TestLoadThatOnlyNewDriversTell(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 0)
	must.NoError(t, errors.Join(n.Number(0, "util_jpeg", 11), n.Number(0, "util_ofa", 12), n.Number(0, "clock_video", 1100), n.Number(0, "pcie_tx", 5000)))
	jpeg, _, ret := gpu.GetJpgUtilization()
	must.Eq(t, nvml.SUCCESS, ret)
	ofa, period, ret := gpu.GetOfaUtilization()
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, []uint32{11, 12}, []uint32{jpeg, ofa})
	must.Positive(t, period)
	clock, ret := gpu.GetClockInfo(nvml.CLOCK_VIDEO)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 1100, clock)
	sent, ret := gpu.GetPcieThroughput(nvml.PCIE_UTIL_TX_BYTES)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 5000, sent)
	memory := ask(t, gpu.GetMemoryInfo_v2)
	must.Eq(t, memory.Total, memory.Used+memory.Free+memory.Reserved)
	must.Positive(t, memory.Reserved)
}

// profile takes the metrics between two samples; between happens in between.
func profile(t *testing.T, n node, take func(nvml.GpmSample) nvml.Return, between func(), ids ...nvml.GpmMetricId) nvml.GpmMetricsGetType {
	t.Helper()
	get := nvml.GpmMetricsGetType{NumMetrics: uint32(len(ids))}
	get.Sample1, get.Sample2 = ask(t, n.GpmSampleAlloc), ask(t, n.GpmSampleAlloc)
	must.Eq(t, nvml.SUCCESS, take(get.Sample1))
	between()
	must.Eq(t, nvml.SUCCESS, take(get.Sample2))
	for i, id := range ids {
		get.Metrics[i].MetricId = uint32(id)
	}
	must.Eq(t, nvml.SUCCESS, n.GpmMetricsGet(&get))
	must.Eq(t, nvml.SUCCESS, get.Sample1.Free())
	must.Eq(t, nvml.SUCCESS, get.Sample2.Free())
	return get
}

func TestProfilingIsBetweenTwoSamples(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 3)
	must.Eq(t, 1, ask(t, gpu.GpmQueryDeviceSupport).IsSupportedDevice)
	must.NoError(t, errors.Join(n.Profiling(3, 900, 600, 400, 250), n.Number(3, "gpm_pcie_tx", 100), n.Number(3, "gpm_nvlink_rx", 7)))
	get := profile(t, n, gpu.GpmSampleGet, func() { must.NoError(t, n.Profiling(3, 1000, 601, 400, 250)) },
		nvml.GPM_METRIC_GRAPHICS_UTIL, nvml.GPM_METRIC_SM_UTIL, nvml.GPM_METRIC_ANY_TENSOR_UTIL, nvml.GPM_METRIC_DRAM_BW_UTIL,
		nvml.GPM_METRIC_PCIE_TX_PER_SEC, nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, nvml.GPM_METRIC_FP64_UTIL)
	for i, want := range []float64{95, 60.05, 40, 25, 100, 7} {
		must.Eq(t, uint32(nvml.SUCCESS), get.Metrics[i].NvmlReturn)
		must.Eq(t, want, get.Metrics[i].Value)
	}
	must.Eq(t, uint32(nvml.ERROR_NOT_SUPPORTED), get.Metrics[6].NvmlReturn, must.Sprint("the fake has no such metric"))
	must.Zero(t, get.Metrics[7].MetricId)
}

func TestSamplesOfTwoGPUsDoNotMix(t *testing.T) {
	n := open(t, "dgxh200")
	get := nvml.GpmMetricsGetType{NumMetrics: 1}
	get.Sample1, get.Sample2 = ask(t, n.GpmSampleAlloc), ask(t, n.GpmSampleAlloc)
	must.Eq(t, nvml.SUCCESS, n.gpu(t, 0).GpmSampleGet(get.Sample1))
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, n.GpmMetricsGet(&get), must.Sprint("the second is empty"))
	must.Eq(t, nvml.SUCCESS, n.gpu(t, 1).GpmSampleGet(get.Sample2))
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, n.GpmMetricsGet(&get))
	must.Eq(t, nvml.SUCCESS, get.Sample1.Free())
	must.Eq(t, nvml.SUCCESS, get.Sample2.Free())
}

func TestGPUWithoutProfiling(t *testing.T) {
	n := open(t, "dgxa100")
	must.Eq(t, 0, ask(t, n.gpu(t, 0).GpmQueryDeviceSupport).IsSupportedDevice)
	sample := ask(t, n.GpmSampleAlloc)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, n.gpu(t, 0).GpmSampleGet(sample))
	must.Eq(t, nvml.SUCCESS, sample.Free())
}

func TestProfilingOfAGPUInstance(t *testing.T) {
	n := open(t, "mig-h100")
	must.NoError(t, errors.Join(n.Profiling(0, 500, 400, 300, 200), n.MIGNumber(0, control.Instance{GPUInstance: 2}, "gpm_graphics", 700)))
	take := func(s nvml.GpmSample) nvml.Return { return n.gpu(t, 0).GpmMigSampleGet(2, s) }
	get := profile(t, n, take, func() {}, nvml.GPM_METRIC_GRAPHICS_UTIL, nvml.GPM_METRIC_PCIE_TX_PER_SEC)
	must.Eq(t, 70.0, get.Metrics[0].Value)
	must.Eq(t, uint32(nvml.ERROR_NOT_SUPPORTED), get.Metrics[1].NvmlReturn)
	sample := ask(t, n.GpmSampleAlloc)
	must.Eq(t, nvml.ERROR_NOT_FOUND, n.gpu(t, 0).GpmMigSampleGet(11, sample))
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, n.gpu(t, 4).GpmMigSampleGet(2, sample))
	must.Eq(t, nvml.SUCCESS, sample.Free())
}
