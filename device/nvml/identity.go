package nvml

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

var architectures = map[nvml.DeviceArchitecture]string{
	nvml.DEVICE_ARCH_KEPLER: "kepler", nvml.DEVICE_ARCH_MAXWELL: "maxwell",
	nvml.DEVICE_ARCH_PASCAL: "pascal", nvml.DEVICE_ARCH_VOLTA: "volta",
	nvml.DEVICE_ARCH_TURING: "turing", nvml.DEVICE_ARCH_AMPERE: "ampere",
	nvml.DEVICE_ARCH_ADA: "ada", nvml.DEVICE_ARCH_HOPPER: "hopper",
	nvml.DEVICE_ARCH_BLACKWELL: "blackwell",
}

var brands = map[nvml.BrandType]string{
	nvml.BRAND_QUADRO: "quadro", nvml.BRAND_TESLA: "tesla", nvml.BRAND_NVS: "nvs", nvml.BRAND_GRID: "grid",
	nvml.BRAND_GEFORCE: "geforce", nvml.BRAND_TITAN: "titan", nvml.BRAND_NVIDIA_VAPPS: "nvidia_vapps",
	nvml.BRAND_NVIDIA_VPC: "nvidia_vpc", nvml.BRAND_NVIDIA_VCS: "nvidia_vcs", nvml.BRAND_NVIDIA_VWS: "nvidia_vws",
	nvml.BRAND_NVIDIA_CLOUD_GAMING: "nvidia_cloud_gaming", nvml.BRAND_QUADRO_RTX: "quadro_rtx",
	nvml.BRAND_NVIDIA_RTX: "nvidia_rtx", nvml.BRAND_NVIDIA: "nvidia", nvml.BRAND_GEFORCE_RTX: "geforce_rtx",
	nvml.BRAND_TITAN_RTX: "titan_rtx",
}

var virtualizations = map[nvml.GpuVirtualizationMode]string{
	nvml.GPU_VIRTUALIZATION_MODE_NONE: "none", nvml.GPU_VIRTUALIZATION_MODE_PASSTHROUGH: "passthrough",
	nvml.GPU_VIRTUALIZATION_MODE_VGPU: "vgpu", nvml.GPU_VIRTUALIZATION_MODE_HOST_VGPU: "host_vgpu",
	nvml.GPU_VIRTUALIZATION_MODE_HOST_VSGA: "host_vsga",
}

var computeModes = map[nvml.ComputeMode]string{
	nvml.COMPUTEMODE_DEFAULT: "default", nvml.COMPUTEMODE_EXCLUSIVE_THREAD: "exclusive_thread",
	nvml.COMPUTEMODE_PROHIBITED: "prohibited", nvml.COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive_process",
}

var addressings = map[nvml.DeviceAddressingModeType]string{
	nvml.DEVICE_ADDRESSING_MODE_NONE: "none", nvml.DEVICE_ADDRESSING_MODE_HMM: "hmm", nvml.DEVICE_ADDRESSING_MODE_ATS: "ats",
}

// named asks for a code and looks up its word; empty for a code without one.
func named[T ~int32 | ~uint32](s symbols, symbol string, words map[T]string, call func() (T, nvml.Return)) string {
	if !s.has(symbol) {
		return ""
	}
	code, ret := call()
	if ret != nvml.SUCCESS {
		return ""
	}
	return words[code]
}

// words asks for a text that the library may lack.
func (r *Reader) words(symbol string, call func() (string, nvml.Return)) string {
	if !r.symbols.has(symbol) {
		return ""
	}
	text, ret := call()
	if ret != nvml.SUCCESS {
		return ""
	}
	return text
}

// identity reads what tells this board and its kind from others.
func (r *Reader) identity(device nvml.Device, g *inventory.GPU) {
	s := r.symbols
	g.Serial = r.words("nvmlDeviceGetSerial", device.GetSerial)
	g.BoardPart = r.words("nvmlDeviceGetBoardPartNumber", device.GetBoardPartNumber)
	g.Minor = ask(s, "nvmlDeviceGetMinorNumber", device.GetMinorNumber)
	g.ModuleID = ask(s, "nvmlDeviceGetModuleId", device.GetModuleId)
	g.Architecture = named(s, "nvmlDeviceGetArchitecture", architectures, device.GetArchitecture)
	g.Brand = named(s, "nvmlDeviceGetBrand", brands, device.GetBrand)
	g.Virtualization = named(s, "nvmlDeviceGetVirtualizationMode", virtualizations, device.GetVirtualizationMode)
	g.ComputeMode = named(s, "nvmlDeviceGetComputeMode", computeModes, device.GetComputeMode)
	g.Addressing = named(s, "nvmlDeviceGetAddressingMode", addressings, func() (nvml.DeviceAddressingModeType, nvml.Return) {
		mode, ret := device.GetAddressingMode()
		return nvml.DeviceAddressingModeType(mode.Value), ret
	})
}
