package fakenvml_test

import (
	"fmt"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"
)

// answering lists the GPUs that are not lost.
func (n node) answering(t *testing.T) map[int]nvml.Device {
	t.Helper()
	found := map[int]nvml.Device{}
	for i := range n.fixture.GPUs {
		gpu, ret := n.DeviceGetHandleByIndex(i)
		if ret == nvml.ERROR_GPU_IS_LOST {
			continue
		}
		must.Eq(t, nvml.SUCCESS, ret)
		found[i] = gpu
	}
	return found
}

func TestEveryFixtureSaysItsTopology(t *testing.T) {
	for _, name := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			n := open(t, name)
			gpus := n.answering(t)
			for i, gpu := range gpus {
				must.Eq(t, n.fixture.GPUs[i].PCIBusID, sysfs(ask(t, gpu.GetPciInfo)))
				for j, other := range gpus {
					if i == j {
						continue
					}
					n.checkPath(t, gpu, other, n.fixture.Levels[i][j])
					n.checkLinks(t, gpu, i, j)
				}
			}
		})
	}
}

func (n node) checkPath(t *testing.T, gpu, other nvml.Device, want int) {
	t.Helper()
	level, ret := gpu.GetTopologyCommonAncestor(other)
	if want == 0 {
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
		return
	}
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, want, int(level))
}

// checkLinks counts the active links of GPU i to GPU j, or to a switch.
func (n node) checkLinks(t *testing.T, gpu nvml.Device, i, j int) {
	t.Helper()
	active := 0
	for link := range nvml.NVLINK_MAX_LINKS {
		state, ret := gpu.GetNvLinkState(link)
		if ret == nvml.ERROR_NOT_SUPPORTED {
			continue
		}
		must.Eq(t, nvml.SUCCESS, ret)
		remote, ret := gpu.GetNvLinkRemotePciInfo(link)
		must.Eq(t, nvml.SUCCESS, ret)
		if state == nvml.FEATURE_ENABLED && (len(n.fixture.Switches) > 0 || sysfs(remote) == n.fixture.GPUs[j].PCIBusID) {
			active++
		}
	}
	must.Eq(t, n.fixture.Links[i][j], active, must.Sprintf("from gpu %d to gpu %d", i, j))
}

func sysfs(pci nvml.PciInfo) string {
	return fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device)
}

// Every call that readers make answers with success, or says in one of NVML's
// ways that there is no answer; nothing is an invalid argument or unknown.
func TestEveryFixtureAnswersEverything(t *testing.T) {
	for _, name := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			n := open(t, name)
			for i, gpu := range n.answering(t) {
				for call, ret := range everything(gpu) {
					known := ret == nvml.SUCCESS || ret == nvml.ERROR_NOT_SUPPORTED || ret == nvml.ERROR_DEPRECATED
					must.True(t, known, must.Sprintf("gpu %d, %s: %v", i, call, ret))
				}
				for id := range uint32(nvml.FI_MAX) {
					_, ret := field(t, gpu, id, 0)
					must.True(t, ret == nvml.SUCCESS || ret == nvml.ERROR_NOT_SUPPORTED)
				}
			}
		})
	}
}

func everything(gpu nvml.Device) map[string]nvml.Return {
	rets := map[string]nvml.Return{}
	_, rets["name"] = gpu.GetName()
	_, rets["uuid"] = gpu.GetUUID()
	_, rets["serial"] = gpu.GetSerial()
	_, rets["part"] = gpu.GetBoardPartNumber()
	_, rets["vbios"] = gpu.GetVbiosVersion()
	_, rets["board"] = gpu.GetBoardId()
	_, rets["minor"] = gpu.GetMinorNumber()
	_, rets["module"] = gpu.GetModuleId()
	_, rets["brand"] = gpu.GetBrand()
	_, rets["architecture"] = gpu.GetArchitecture()
	_, _, rets["capability"] = gpu.GetCudaComputeCapability()
	_, rets["cores"] = gpu.GetNumGpuCores()
	_, rets["memory"] = gpu.GetMemoryInfo()
	_, rets["memory v2"] = gpu.GetMemoryInfo_v2()
	_, rets["bar1"] = gpu.GetBAR1MemoryInfo()
	_, rets["persistence"] = gpu.GetPersistenceMode()
	_, rets["display mode"] = gpu.GetDisplayMode()
	_, rets["display active"] = gpu.GetDisplayActive()
	_, rets["compute mode"] = gpu.GetComputeMode()
	_, rets["virtualization"] = gpu.GetVirtualizationMode()
	_, _, rets["MIG"] = gpu.GetMigMode()
	_, rets["limit"] = gpu.GetEnforcedPowerLimit()
	_, rets["power"] = gpu.GetPowerUsage()
	_, _, rets["limits"] = gpu.GetPowerManagementLimitConstraints()
	_, rets["energy"] = gpu.GetTotalEnergyConsumption()
	_, rets["temperature"] = gpu.GetTemperature(nvml.TEMPERATURE_GPU)
	_, rets["slowdown"] = gpu.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	_, rets["fan"] = gpu.GetFanSpeed()
	_, rets["state"] = gpu.GetPerformanceState()
	_, rets["utilisation"] = gpu.GetUtilizationRates()
	_, _, rets["jpeg"] = gpu.GetJpgUtilization()
	_, rets["clock"] = gpu.GetClockInfo(nvml.CLOCK_VIDEO)
	_, rets["maximum clock"] = gpu.GetMaxClockInfo(nvml.CLOCK_MEM)
	_, rets["generation"] = gpu.GetMaxPcieLinkGeneration()
	_, rets["throughput"] = gpu.GetPcieThroughput(nvml.PCIE_UTIL_RX_BYTES)
	_, _, rets["ECC"] = gpu.GetEccMode()
	_, rets["ECC errors"] = gpu.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.AGGREGATE_ECC)
	_, rets["memory errors"] = gpu.GetMemoryErrorCounter(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC, nvml.MEMORY_LOCATION_SRAM)
	_, rets["SRAM"] = gpu.GetSramEccErrorStatus()
	_, _, _, _, rets["rows"] = gpu.GetRemappedRows()
	_, rets["banks"] = gpu.GetRowRemapperHistogram()
	_, rets["pages"] = gpu.GetRetiredPages(nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
	_, rets["pages pending"] = gpu.GetRetiredPagesPendingStatus()
	_, rets["fabric"] = gpu.GetGpuFabricInfo()
	_, rets["fabric v2"] = gpu.GetGpuFabricInfoV().V2()
	_, rets["fabric v3"] = gpu.GetGpuFabricInfoV().V3()
	_, rets["platform"] = gpu.GetPlatformInfo()
	_, rets["addressing"] = gpu.GetAddressingMode()
	_, rets["memory node"] = gpu.GetNumaNodeId()
	_, rets["memory affinity"] = gpu.GetMemoryAffinity(16, nvml.AFFINITY_SCOPE_NODE)
	_, rets["processors"] = gpu.GetCpuAffinityWithinScope(256, nvml.AFFINITY_SCOPE_NODE)
	_, rets["C2C"] = gpu.GetC2cModeInfoV().V1()
	_, rets["GPM"] = gpu.GpmQueryDeviceSupport()
	_, rets["processes"] = gpu.GetComputeRunningProcesses()
	_, rets["graphics"] = gpu.GetGraphicsRunningProcesses()
	_, rets["MPS"] = gpu.GetMPSComputeRunningProcesses()
	_, rets["events"] = gpu.GetSupportedEventTypes()
	return rets
}
