package nvml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// wholeGPU is what NVML answers for an instance id that does not apply.
const wholeGPU = 0xFFFFFFFF

func instanceID(id uint32) inventory.Maybe[int64] {
	if id == wholeGPU {
		return inventory.Maybe[int64]{}
	}
	return inventory.Known(int64(id))
}

// mig reads whether the GPU is split, and into what.
func (r *Reader) mig(device nvml.Device, g *inventory.GPU) {
	if !r.symbols.has("nvmlDeviceGetMigMode") {
		return
	}
	current, pending, ret := device.GetMigMode()
	if ret != nvml.SUCCESS {
		return
	}
	g.MIG = inventory.Known(current == nvml.DEVICE_MIG_ENABLE)
	g.MIGPending = inventory.Known(pending == nvml.DEVICE_MIG_ENABLE)
	if !g.MIG.Value {
		return
	}
	for _, instance := range r.migDevices(device) {
		if m, ok := r.instance(instance); ok {
			g.Instances = append(g.Instances, m)
		}
	}
	slices.SortFunc(g.Instances, func(a, b inventory.MIGInstance) int {
		return cmp.Or(cmp.Compare(a.GPUInstance, b.GPUInstance), cmp.Compare(a.ComputeInstance, b.ComputeInstance))
	})
}

// inMIGMode reports whether the GPU is split.
func (r *Reader) inMIGMode(device nvml.Device) bool {
	if !r.symbols.has("nvmlDeviceGetMigMode") {
		return false
	}
	current, _, ret := device.GetMigMode()
	return ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE
}

// migDevices are the handles of a GPU's MIG devices. Their indices have holes.
func (r *Reader) migDevices(device nvml.Device) []nvml.Device {
	if !r.symbols.all("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
		"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId") {
		return nil
	}
	count, ret := device.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var devices []nvml.Device
	for index := range count {
		if instance, ret := device.GetMigDeviceHandleByIndex(index); ret == nvml.SUCCESS {
			devices = append(devices, instance)
		}
	}
	return devices
}

// instance reads one MIG device; ok is false when it went away meanwhile.
func (r *Reader) instance(device nvml.Device) (m inventory.MIGInstance, ok bool) {
	uuid, ret := device.GetUUID()
	if ret != nvml.SUCCESS {
		return m, false
	}
	gpuInstance, ret := device.GetGpuInstanceId()
	if ret != nvml.SUCCESS {
		return m, false
	}
	computeInstance, ret := device.GetComputeInstanceId()
	if ret != nvml.SUCCESS {
		return m, false
	}
	m = inventory.MIGInstance{UUID: uuid, GPUInstance: int64(gpuInstance), ComputeInstance: int64(computeInstance)}
	if r.symbols.has("nvmlDeviceGetAttributes_v2") {
		if a, ret := device.GetAttributes(); ret == nvml.SUCCESS {
			m.MemoryMiB = inventory.Known(int64(a.MemorySizeMB))
			m.ComputeSlices = inventory.Known(int64(a.ComputeInstanceSliceCount))
			m.GPUSlices = inventory.Known(int64(a.GpuInstanceSliceCount))
			m.Multiprocessors = inventory.Known(int64(a.MultiprocessorCount))
			m.CopyEngines = inventory.Known(int64(a.SharedCopyEngineCount))
			m.Decoders = inventory.Known(int64(a.SharedDecoderCount))
			m.Encoders = inventory.Known(int64(a.SharedEncoderCount))
			m.JPEGEngines = inventory.Known(int64(a.SharedJpegCount))
			m.OFAEngines = inventory.Known(int64(a.SharedOfaCount))
		}
	}
	if name, ret := device.GetName(); ret == nvml.SUCCESS {
		_, m.Profile, _ = strings.Cut(name, " MIG ")
	}
	if m.Profile == "" {
		m.Profile = profileOf(m)
	}
	return m, true
}

// profileOf names a profile by its slices and memory, as NVIDIA does: GiB
// rounded to the next whole one, and compute slices where they are not all.
func profileOf(m inventory.MIGInstance) string {
	if !m.GPUSlices.Known || !m.MemoryMiB.Known {
		return "unknown"
	}
	name := fmt.Sprintf("%dg.%dgb", m.GPUSlices.Value, (m.MemoryMiB.Value+1023)/1024)
	if m.ComputeSlices.Known && m.ComputeSlices.Value < m.GPUSlices.Value {
		name = fmt.Sprintf("%dc.%s", m.ComputeSlices.Value, name)
	}
	return name
}
