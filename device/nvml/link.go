package nvml

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// linkVersions are NVML's codes for NVLink generations (nvmlNvlinkVersion_t).
var linkVersions = map[uint32]string{1: "1.0", 2: "2.0", 3: "2.2", 4: "3.0", 5: "3.1", 6: "4.0", 7: "5.0", 8: "6.0"}

// linkSpeeds is one link in one direction by generation, MB/s, for drivers
// that do not report it.
var linkSpeeds = map[string]int64{"1.0": 20000, "2.0": 25781, "2.2": 25781, "3.0": 25781,
	"3.1": 14062, "4.0": 26562, "5.0": 53125, "6.0": 53125}

// links reads the state of each NVLink. A link that is not supported does not
// exist.
func (r *Reader) links(device nvml.Device, g *inventory.GPU) {
	if !r.symbols.has("nvmlDeviceGetNvLinkState") {
		return
	}
	g.LinksKnown = true
	facts := r.fields(device, fieldID{id: nvml.FI_DEV_NVLINK_LINK_COUNT}, fieldID{id: nvml.FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT},
		fieldID{id: nvml.FI_DEV_NVLINK_SPEED_MBPS_COMMON}, fieldID{id: nvml.FI_DEV_C2C_LINK_COUNT}, fieldID{id: nvml.FI_DEV_C2C_LINK_GET_MAX_BW})
	count := nvml.NVLINK_MAX_LINKS
	if n := facts[0]; n.Known && n.Value < int64(count) {
		count = int(n.Value)
	}
	switched, common := facts[1].Value > 0, facts[2]
	if c2c := facts[3]; c2c.Known && c2c.Value > 0 {
		g.C2CLinks = c2c
		g.C2CMBps = inventory.Maybe[int64]{Value: facts[4].Value * c2c.Value, Known: facts[4].Known}
	}
	for index := range count {
		active, ret := device.GetNvLinkState(index)
		if ret != nvml.SUCCESS {
			continue
		}
		link := inventory.Link{Active: active == nvml.FEATURE_ENABLED}
		if link.Active {
			r.link(device, index, switched, common.Value, &link)
		}
		g.Links = append(g.Links, link)
	}
}

func (r *Reader) link(device nvml.Device, index int, switched bool, commonSpeed int64, link *inventory.Link) {
	if r.symbols.has("nvmlDeviceGetNvLinkVersion") {
		if version, ret := device.GetNvLinkVersion(index); ret == nvml.SUCCESS {
			link.Version = linkVersions[version]
		}
	}
	link.SpeedMBps = r.field(device, nvml.FI_DEV_NVLINK_GET_SPEED, uint32(index)).Value
	if link.SpeedMBps == 0 {
		link.SpeedMBps = commonSpeed
	}
	if link.SpeedMBps == 0 {
		link.SpeedMBps = linkSpeeds[link.Version]
	}
	opaque := true
	if r.symbols.has("nvmlDeviceGetNvLinkRemotePciInfo_v2") {
		if pci, ret := device.GetNvLinkRemotePciInfo(index); ret == nvml.SUCCESS {
			if opaque = isOpaque(pci); !opaque {
				link.RemotePCI = busID(pci)
			}
		}
	}
	link.Remote = r.remote(device, index, switched, opaque)
}

// remote says what a link leads to. Where the driver does not, the number of
// links to NVSwitch does, and last the address: a virtual machine sees its
// switches without one.
func (r *Reader) remote(device nvml.Device, index int, switched, opaque bool) inventory.Remote {
	if r.symbols.has("nvmlDeviceGetNvLinkRemoteDeviceType") {
		if kind, ret := device.GetNvLinkRemoteDeviceType(index); ret == nvml.SUCCESS {
			switch kind {
			case nvml.NVLINK_DEVICE_TYPE_GPU:
				return inventory.RemoteGPU
			case nvml.NVLINK_DEVICE_TYPE_SWITCH:
				return inventory.RemoteSwitch
			}
		}
	}
	if switched || opaque {
		return inventory.RemoteSwitch
	}
	return inventory.RemoteUnknown
}

// isOpaque recognises the addresses that stand for none: all ones, which some
// drivers cut to fewer digits, or all zeros.
func isOpaque(pci nvml.PciInfo) bool {
	const mostBus = 0xff
	return pci.Bus > mostBus || pci.Domain >= 0xfffffff || pci.Domain|pci.Bus|pci.Device == 0
}
