package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// state reads what tells whether the GPU is well.
func (r *Reader) state(device nvml.Device, g *inventory.GPU) {
	s := r.symbols
	g.RecoveryAction = r.field(device, nvml.FI_DEV_GET_GPU_RECOVERY_ACTION, 0)
	if s.has("nvmlDeviceGetRemappedRows") {
		if _, _, pending, failed, ret := device.GetRemappedRows(); ret == nvml.SUCCESS {
			g.RemapPending, g.RemapFailure = inventory.Known(pending), inventory.Known(failed)
		}
	}
	g.RetiredPending = state(s, "nvmlDeviceGetRetiredPagesPendingStatus", device.GetRetiredPagesPendingStatus)
	g.ECCUncorrected = r.ecc(device, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	g.EnergyMilliJ = ask(s, "nvmlDeviceGetTotalEnergyConsumption", device.GetTotalEnergyConsumption)
	g.ThrottleReasons = r.throttle(device)
}

// throttle asks under the function's new name, then under its old one.
func (r *Reader) throttle(device nvml.Device) inventory.Maybe[int64] {
	if v := ask(r.symbols, "nvmlDeviceGetCurrentClocksEventReasons", device.GetCurrentClocksEventReasons); v.Known {
		return v
	}
	return ask(r.symbols, "nvmlDeviceGetCurrentClocksThrottleReasons", device.GetCurrentClocksThrottleReasons)
}

func (r *Reader) ecc(device nvml.Device, kind nvml.MemoryErrorType, counter nvml.EccCounterType) inventory.Maybe[int64] {
	return ask(r.symbols, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) {
		return device.GetTotalEccErrors(kind, counter)
	})
}

var fabricStates = map[uint8]inventory.FabricState{
	nvml.GPU_FABRIC_STATE_NOT_SUPPORTED: inventory.FabricNotSupported,
	nvml.GPU_FABRIC_STATE_NOT_STARTED:   inventory.FabricNotStarted,
	nvml.GPU_FABRIC_STATE_IN_PROGRESS:   inventory.FabricInProgress,
	nvml.GPU_FABRIC_STATE_COMPLETED:     inventory.FabricCompleted,
}

// fabric asks for the newest report that the driver knows: the versions differ
// in the health mask and the summary.
func (r *Reader) fabric(device nvml.Device, g *inventory.GPU) {
	if r.symbols.has("nvmlDeviceGetGpuFabricInfoV") {
		if f, ret := device.GetGpuFabricInfoV().V3(); ret == nvml.SUCCESS {
			g.Fabric = inventory.Fabric{State: fabricStates[f.State], Status: int64(f.Status), ClusterUUID: uuidText(f.ClusterUuid),
				Clique: int64(f.CliqueId), HealthMask: inventory.Known(int64(f.HealthMask)), Summary: int64(f.HealthSummary)}
			return
		}
		if f, ret := device.GetGpuFabricInfoV().V2(); ret == nvml.SUCCESS {
			g.Fabric = inventory.Fabric{State: fabricStates[f.State], Status: int64(f.Status), ClusterUUID: uuidText(f.ClusterUuid),
				Clique: int64(f.CliqueId), HealthMask: inventory.Known(int64(f.HealthMask))}
			return
		}
	}
	if r.symbols.has("nvmlDeviceGetGpuFabricInfo") {
		if f, ret := device.GetGpuFabricInfo(); ret == nvml.SUCCESS {
			g.Fabric = inventory.Fabric{State: fabricStates[f.State], Status: int64(f.Status),
				ClusterUUID: uuidText(f.ClusterUuid), Clique: int64(f.CliqueId)}
		}
	}
}

func uuidText(b [16]uint8) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
