package setstest

import (
	"github.com/NVIDIA/go-gpuallocator/gpuallocator"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// NVIDIA is the best-effort policy of NVIDIA's device plugin for Kubernetes:
// it divides all free GPUs into sets of the size asked for so that the sum over
// the sets is the highest, and takes the best set of that division.
type NVIDIA struct {
	devices []*gpuallocator.Device
	policy  gpuallocator.Policy
}

// NewNVIDIA describes the topology in NVIDIA's words.
func NewNVIDIA(m *topology.Matrix) *NVIDIA {
	n := &NVIDIA{policy: gpuallocator.NewBestEffortPolicy()}
	for i := range m.Size() {
		n.devices = append(n.devices, &gpuallocator.Device{Index: i, Links: map[int][]gpuallocator.P2PLink{}})
	}
	for i, d := range n.devices {
		for j, other := range n.devices {
			if i == j {
				continue
			}
			if kind := pathKind(m.Path(i, j)); kind > 0 {
				d.Links[j] = append(d.Links[j], linkTo(other, kind))
			}
			if links := m.Links(i, j); links > 0 {
				d.Links[j] = append(d.Links[j], linkTo(other, sameBoard+min(links, 18)))
			}
		}
	}
	return n
}

// Devices are those of a mask, as the policy takes them.
func (n *NVIDIA) Devices(mask uint64) []*gpuallocator.Device {
	var devices []*gpuallocator.Device
	for _, i := range members(mask) {
		devices = append(devices, n.devices[i])
	}
	return devices
}

// Allocate is what NVIDIA's plugin calls.
func (n *NVIDIA) Allocate(free []*gpuallocator.Device, k int) []*gpuallocator.Device {
	return n.policy.Allocate(free, nil, k)
}

// Choose is Allocate for masks.
func (n *NVIDIA) Choose(free uint64, k int) uint64 {
	var set uint64
	for _, d := range n.Allocate(n.Devices(free), k) {
		set |= 1 << d.Index
	}
	return set
}

// sameBoard is the nearest of NVIDIA's kinds of PCIe link (P2PLinkSameBoard);
// one NVLink is the next, two the one after.
const sameBoard = 6

// pathKind is NVIDIA's P2PLinkType of a path, 0 when it is not known.
func pathKind(path topology.Path) int {
	if path == topology.PathUnknown {
		return 0
	}
	return sameBoard + 1 - int(path)
}

// linkTo is a link of the given kind, whose type the library does not export.
func linkTo(other *gpuallocator.Device, kind int) gpuallocator.P2PLink {
	link := gpuallocator.P2PLink{GPU: other}
	setKind(&link.Type, kind)
	return link
}

func setKind[T ~uint](to *T, kind int) { *to = T(kind) }
