package fakenvml_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

const cluster = "8a5d3c1e-4b2f-4e6a-9d70-1f2e3d4c5b6a"

// uuid words the bytes of a UUID.
func uuid(b [16]uint8) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// health is one part of a fabric's health mask.
func health(mask uint32, shift, width int) uint32 { return mask >> shift & uint32(width) }

func TestFabricInAllItsVersions(t *testing.T) {
	n := open(t, "gb200-fabric-pending")
	for i, want := range []struct {
		state   uint8
		cluster string
		clique  uint32
		summary uint8
	}{
		{nvml.GPU_FABRIC_STATE_NOT_STARTED, zeroUUID, 0, nvml.GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED},
		{nvml.GPU_FABRIC_STATE_IN_PROGRESS, zeroUUID, 0, nvml.GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED},
		{nvml.GPU_FABRIC_STATE_COMPLETED, cluster, 1, nvml.GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY},
		{nvml.GPU_FABRIC_STATE_COMPLETED, cluster, 1, nvml.GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY},
	} {
		gpu := n.gpu(t, i)
		v1 := ask(t, gpu.GetGpuFabricInfo)
		v2 := ask(t, gpu.GetGpuFabricInfoV().V2)
		v3 := ask(t, gpu.GetGpuFabricInfoV().V3)
		for _, got := range []struct {
			state   uint8
			cluster [16]uint8
			clique  uint32
			status  uint32
		}{{v1.State, v1.ClusterUuid, v1.CliqueId, v1.Status}, {v2.State, v2.ClusterUuid, v2.CliqueId, v2.Status}, {v3.State, v3.ClusterUuid, v3.CliqueId, v3.Status}} {
			must.Eq(t, want.state, got.state)
			must.Eq(t, want.cluster, uuid(got.cluster))
			must.Eq(t, want.clique, got.clique)
			must.Zero(t, got.status)
		}
		must.Eq(t, want.summary, v3.HealthSummary)
		must.Eq(t, v2.HealthMask, v3.HealthMask)
	}
	limited := ask(t, n.gpu(t, 2).GetGpuFabricInfoV().V3).HealthMask
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE, health(limited, nvml.GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW, nvml.GPU_FABRIC_HEALTH_MASK_WIDTH_DEGRADED_BW))
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_INSUFFICIENT_NVLINKS, health(limited, nvml.GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION, nvml.GPU_FABRIC_HEALTH_MASK_WIDTH_INCORRECT_CONFIGURATION))
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_FALSE, health(limited, nvml.GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY, nvml.GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_UNHEALTHY))
	unhealthy := ask(t, n.gpu(t, 3).GetGpuFabricInfoV().V3).HealthMask
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_TRUE, health(unhealthy, nvml.GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY, nvml.GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_UNHEALTHY))
	must.Zero(t, ask(t, n.gpu(t, 0).GetGpuFabricInfoV().V3).HealthMask, must.Sprint("nothing is known"))

	must.NoError(t, errors.Join(n.FabricState(0, control.FabricCompleted), n.FabricSummary(0, control.FabricHealthy), n.Number(0, "fabric_partition", control.FabricYes)))
	joined := ask(t, n.gpu(t, 0).GetGpuFabricInfoV().V3)
	must.Eq(t, nvml.GPU_FABRIC_STATE_COMPLETED, joined.State)
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_SUMMARY_HEALTHY, joined.HealthSummary)
	must.Eq(t, nvml.GPU_FABRIC_HEALTH_MASK_PARTITION_ASSIGNED_TRUE, health(joined.HealthMask, nvml.GPU_FABRIC_HEALTH_MASK_SHIFT_PARTITION_ASSIGNED, nvml.GPU_FABRIC_HEALTH_MASK_WIDTH_PARTITION_ASSIGNED))
}

const zeroUUID = "00000000-0000-0000-0000-000000000000"

func TestGPUWithoutFabricDoesNotSupportIt(t *testing.T) {
	n := open(t, "dgxa100")
	_, ret := n.gpu(t, 0).GetGpuFabricInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetGpuFabricInfoV().V3()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetPlatformInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetC2cModeInfoV().V1()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetAddressingMode()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestBoardsOfATray(t *testing.T) {
	n := open(t, "gb300-tray")
	var serials []string
	var modules []int
	for i := range n.fixture.GPUs {
		serials = append(serials, ask(t, n.gpu(t, i).GetSerial))
		modules = append(modules, ask(t, n.gpu(t, i).GetModuleId))
	}
	must.Eq(t, []string{"1642025200500", "1642025200500", "1642025200501", "1642025200501"}, serials)
	must.Eq(t, []int{2, 1, 4, 3}, modules)
	must.Eq(t, 1, ask(t, n.gpu(t, 0).GetMultiGpuBoard))
	must.Eq(t, ask(t, n.gpu(t, 2).GetBoardId), ask(t, n.gpu(t, 3).GetBoardId))
	must.NotEq(t, ask(t, n.gpu(t, 1).GetBoardId), ask(t, n.gpu(t, 2).GetBoardId))
	pci := ask(t, n.gpu(t, 3).GetPciInfo)
	must.Eq(t, 0x19, pci.Domain)
	must.Eq(t, "00000019:01:00.0", text(pci.BusId[:]))
	info := ask(t, n.gpu(t, 1).GetPlatformInfo)
	must.Eq(t, "1820125173027", text(info.ChassisSerialNumber[:]))
	must.Eq(t, []uint8{12, 5, 0, 1, 1}, []uint8{info.SlotNumber, info.TrayIndex, info.HostId, info.PeerType, info.ModuleId})
}

func TestMinorNumbersAreNotTheIndices(t *testing.T) {
	n := open(t, "dgxa100")
	var minors []int
	for i := range n.fixture.GPUs {
		minors = append(minors, ask(t, n.gpu(t, i).GetMinorNumber))
	}
	must.Eq(t, []int{2, 3, 0, 1, 6, 7, 4, 5}, minors)
}

func TestMinorNumbersAreTheIndicesUnlessGiven(t *testing.T) {
	n := open(t, "dgx1p")
	must.Eq(t, 7, ask(t, n.gpu(t, 7).GetMinorNumber))
}

func TestConfidentialComputing(t *testing.T) {
	n := open(t, "dgxh200")
	must.Eq(t, nvml.ConfComputeSystemState{}, ask(t, n.SystemGetConfComputeState))
}

func TestConfidentialComputingIsNotSupportedUnlessGiven(t *testing.T) {
	n := open(t, "t4")
	_, ret := n.SystemGetConfComputeState()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestPeerAccess(t *testing.T) {
	status := func(n node, a, b int, which nvml.GpuP2PCapsIndex) nvml.GpuP2PStatus {
		v, ret := n.gpu(t, a).GetP2PStatus(n.gpu(t, b), which)
		must.Eq(t, nvml.SUCCESS, ret)
		return v
	}
	t.Run("bridged pairs", func(t *testing.T) {
		n := open(t, "rtx3090x4")
		for which, want := range map[nvml.GpuP2PCapsIndex]nvml.GpuP2PStatus{
			nvml.P2P_CAPS_INDEX_READ: nvml.P2P_STATUS_OK, nvml.P2P_CAPS_INDEX_WRITE: nvml.P2P_STATUS_OK,
			nvml.P2P_CAPS_INDEX_NVLINK: nvml.P2P_STATUS_OK, nvml.P2P_CAPS_INDEX_ATOMICS: nvml.P2P_STATUS_OK} {
			must.Eq(t, want, status(n, 2, 0, which))
		}
		must.Eq(t, nvml.P2P_STATUS_CHIPSET_NOT_SUPPORTED, status(n, 0, 1, nvml.P2P_CAPS_INDEX_READ))
		must.Eq(t, nvml.P2P_STATUS_NOT_SUPPORTED, status(n, 0, 1, nvml.P2P_CAPS_INDEX_NVLINK))
	})
	t.Run("consumer boards", func(t *testing.T) {
		n := open(t, "rtx5090x2")
		must.Eq(t, nvml.P2P_STATUS_GPU_NOT_SUPPORTED, status(n, 0, 1, nvml.P2P_CAPS_INDEX_READ))
		_, ret := n.gpu(t, 0).GetDisplayMode()
		must.Eq(t, nvml.ERROR_DEPRECATED, ret)
		must.Eq(t, nvml.FEATURE_DISABLED, ask(t, n.gpu(t, 0).GetDisplayActive))
	})
	t.Run("not given", func(t *testing.T) {
		n := open(t, "dgx1v")
		_, ret := n.gpu(t, 0).GetP2PStatus(n.gpu(t, 1), nvml.P2P_CAPS_INDEX_READ)
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	})
}

func TestGuestOfAVirtualGPUKnowsLittle(t *testing.T) {
	n := open(t, "vgpu-guest")
	gpu := n.gpu(t, 0)
	must.Eq(t, nvml.GPU_VIRTUALIZATION_MODE_VGPU, ask(t, gpu.GetVirtualizationMode))
	for name, call := range map[string]func() nvml.Return{
		"ancestor":    func() nvml.Return { _, ret := gpu.GetTopologyCommonAncestor(n.gpu(t, 1)); return ret },
		"affinity":    func() nvml.Return { _, ret := gpu.GetMemoryAffinity(16, nvml.AFFINITY_SCOPE_NODE); return ret },
		"power":       func() nvml.Return { _, ret := gpu.GetPowerUsage(); return ret },
		"temperature": func() nvml.Return { _, ret := gpu.GetTemperature(nvml.TEMPERATURE_GPU); return ret },
		"events":      func() nvml.Return { _, ret := gpu.GetSupportedEventTypes(); return ret },
		"recovery":    func() nvml.Return { _, ret := field(t, gpu, nvml.FI_DEV_GET_GPU_RECOVERY_ACTION, 0); return ret },
		"link":        func() nvml.Return { _, ret := gpu.GetNvLinkState(0); return ret },
	} {
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, call(), must.Sprint(name))
	}
	must.Eq(t, 20480<<20, ask(t, gpu.GetMemoryInfo).Total)
}

func TestOpaqueSwitchHasNoAddress(t *testing.T) {
	n := open(t, "vm-opaque-switch")
	gpu := n.gpu(t, 0)
	_, ret := gpu.GetNvLinkRemoteDeviceType(0)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = field(t, gpu, nvml.FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT, 0)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	pci, ret := gpu.GetNvLinkRemotePciInfo(0)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, []uint32{0xfffffff, 0xffff, 0xff}, []uint32{pci.Domain, pci.Bus, pci.Device})
}

func TestGPUThatUsesTheHostsMemoryHasNone(t *testing.T) {
	n := open(t, "gb10")
	_, ret := n.gpu(t, 0).GetMemoryInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetMemoryInfo_v2()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetBAR1MemoryInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestGPUCanBeLostFromTheStart(t *testing.T) {
	n := open(t, "gpu-lost")
	must.Eq(t, 4, ask(t, n.DeviceGetCount))
	_, ret := n.DeviceGetHandleByIndex(2)
	must.Eq(t, nvml.ERROR_GPU_IS_LOST, ret)
	must.NoError(t, n.ClearLost(2))
	n.gpu(t, 2)
	must.NoError(t, n.Reset())
	_, ret = n.DeviceGetHandleByIndex(2)
	must.Eq(t, nvml.ERROR_GPU_IS_LOST, ret)
}
