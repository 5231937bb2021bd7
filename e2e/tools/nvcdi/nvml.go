package main

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// node describes the GPUs that NVML pretends to see.
type node struct {
	DriverVersion string `json:"driver_version"`
	GPUs          []gpu  `json:"gpus"`
}

// gpu is one GPU. With instances it is in MIG mode.
type gpu struct {
	UUID      string     `json:"uuid"`
	Minor     int        `json:"minor"`
	PCIBusID  string     `json:"pci_bus_id"`
	Instances []instance `json:"instances"`
}

// instance is a MIG instance.
type instance struct {
	UUID            string `json:"uuid"`
	GPUInstance     int    `json:"gpu_instance"`
	ComputeInstance int    `json:"compute_instance"`
}

// library is an NVML that answers from the description. A call that nvcdi
// begins to make in another version panics, and so is noticed.
func (n node) library() nvml.Interface {
	devices := []nvml.Device{}
	byUUID := map[string]nvml.Device{}
	for i, g := range n.GPUs {
		d := g.device(i, byUUID)
		devices = append(devices, d)
		byUUID[g.UUID] = d
	}
	return &mock.Interface{
		InitFunc:                   func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:               func() nvml.Return { return nvml.SUCCESS },
		SystemGetDriverVersionFunc: func() (string, nvml.Return) { return n.DriverVersion, nvml.SUCCESS },
		ExtensionsFunc:             func() nvml.ExtendedInterface { return symbols() },
		DeviceGetCountFunc:         func() (int, nvml.Return) { return len(devices), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if i < 0 || i >= len(devices) {
				return nil, nvml.ERROR_INVALID_ARGUMENT
			}
			return devices[i], nvml.SUCCESS
		},
		DeviceGetHandleByUUIDFunc: func(uuid string) (nvml.Device, nvml.Return) {
			if d, ok := byUUID[uuid]; ok {
				return d, nvml.SUCCESS
			}
			return nil, nvml.ERROR_NOT_FOUND
		},
	}
}

// symbols has every function.
func symbols() nvml.ExtendedInterface {
	return &mock.ExtendedInterface{LookupSymbolFunc: func(string) error { return nil }}
}

func (g gpu) device(index int, byUUID map[string]nvml.Device) nvml.Device {
	d := &mock.Device{
		GetIndexFunc:          func() (int, nvml.Return) { return index, nvml.SUCCESS },
		GetUUIDFunc:           func() (string, nvml.Return) { return g.UUID, nvml.SUCCESS },
		GetNameFunc:           func() (string, nvml.Return) { return "NVIDIA A100-SXM4-40GB", nvml.SUCCESS },
		GetMinorNumberFunc:    func() (int, nvml.Return) { return g.Minor, nvml.SUCCESS },
		IsMigDeviceHandleFunc: func() (bool, nvml.Return) { return false, nvml.SUCCESS },
		GetMigModeFunc: func() (int, int, nvml.Return) {
			if len(g.Instances) > 0 {
				return nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE, nvml.SUCCESS
			}
			return nvml.DEVICE_MIG_DISABLE, nvml.DEVICE_MIG_DISABLE, nvml.SUCCESS
		},
		GetPciInfoFunc: func() (nvml.PciInfo, nvml.Return) {
			var info nvml.PciInfo
			chars(info.BusId[:], g.PCIBusID)
			return info, nvml.SUCCESS
		},
	}
	instances := []nvml.Device{}
	for i, m := range g.Instances {
		child := m.device(i, d)
		instances = append(instances, child)
		byUUID[m.UUID] = child
	}
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return len(instances), nvml.SUCCESS }
	d.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i < 0 || i >= len(instances) {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return instances[i], nvml.SUCCESS
	}
	// One slice of seven, of a memory that NVML gives in MiB.
	d.GetGpuInstanceByIdFunc = func(int) (nvml.GpuInstance, nvml.Return) { return slice(), nvml.SUCCESS }
	d.GetGpuInstanceProfileInfoFunc = func(profile int) (nvml.GpuInstanceProfileInfo, nvml.Return) {
		if profile != nvml.GPU_INSTANCE_PROFILE_1_SLICE {
			return nvml.GpuInstanceProfileInfo{}, nvml.ERROR_NOT_SUPPORTED
		}
		return nvml.GpuInstanceProfileInfo{Id: nvml.GPU_INSTANCE_PROFILE_1_SLICE, SliceCount: 1, MemorySizeMB: 4864}, nvml.SUCCESS
	}
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 40 << 30}, nvml.SUCCESS }
	return d
}

func (m instance) device(index int, parent nvml.Device) nvml.Device {
	return &mock.Device{
		GetIndexFunc:                           func() (int, nvml.Return) { return index, nvml.SUCCESS },
		GetUUIDFunc:                            func() (string, nvml.Return) { return m.UUID, nvml.SUCCESS },
		IsMigDeviceHandleFunc:                  func() (bool, nvml.Return) { return true, nvml.SUCCESS },
		GetGpuInstanceIdFunc:                   func() (int, nvml.Return) { return m.GPUInstance, nvml.SUCCESS },
		GetComputeInstanceIdFunc:               func() (int, nvml.Return) { return m.ComputeInstance, nvml.SUCCESS },
		GetDeviceHandleFromMigDeviceHandleFunc: func() (nvml.Device, nvml.Return) { return parent, nvml.SUCCESS },
		GetAttributesFunc: func() (nvml.DeviceAttributes, nvml.Return) {
			return nvml.DeviceAttributes{GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1, MemorySizeMB: 4864}, nvml.SUCCESS
		},
	}
}

func slice() nvml.GpuInstance {
	return &mock.GpuInstance{
		GetInfoFunc: func() (nvml.GpuInstanceInfo, nvml.Return) {
			return nvml.GpuInstanceInfo{ProfileId: nvml.GPU_INSTANCE_PROFILE_1_SLICE}, nvml.SUCCESS
		},
		GetComputeInstanceByIdFunc: func(int) (nvml.ComputeInstance, nvml.Return) {
			return &mock.ComputeInstance{GetInfoFunc: func() (nvml.ComputeInstanceInfo, nvml.Return) {
				return nvml.ComputeInstanceInfo{ProfileId: nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE}, nvml.SUCCESS
			}}, nvml.SUCCESS
		},
		GetComputeInstanceProfileInfoFunc: func(profile, engine int) (nvml.ComputeInstanceProfileInfo, nvml.Return) {
			if profile != nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE {
				return nvml.ComputeInstanceProfileInfo{}, nvml.ERROR_NOT_SUPPORTED
			}
			return nvml.ComputeInstanceProfileInfo{Id: nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE, SliceCount: 1}, nvml.SUCCESS
		},
	}
}

// chars fills a C string; whether char has a sign depends on the machine.
func chars[T int8 | uint8](target []T, text string) {
	for i, c := range []byte(text) {
		target[i] = T(c)
	}
}
