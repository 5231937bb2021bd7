package inventory

import (
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// String writes the value as Nomad's CLI does: "16384 MiB".
func (v Value) String() string {
	if v.IsText {
		return v.Text
	}
	return strings.TrimSpace(strconv.FormatInt(v.Number, 10) + " " + v.Unit)
}

// matrix is the topology of the devices in the given order, or nil when there
// are more than a Matrix holds.
func (inv Inventory) matrix(devices []Device) *topology.Matrix {
	if len(devices) > topology.MaxGPUs {
		return nil
	}
	m := topology.New(len(devices), int(linkSpeed(devices)), int(least(devices, pcieMBps).Value))
	paths := map[[2]string]topology.Path{}
	for _, p := range inv.Paths {
		paths[[2]string{p.A, p.B}] = p.Level
	}
	for i, a := range devices {
		if a.GPU.NUMANode.Known {
			m.SetNUMA(i, int(a.GPU.NUMANode.Value))
		}
		for j := i + 1; j < len(devices); j++ {
			b := devices[j]
			key := [2]string{min(a.GPU.UUID, b.GPU.UUID), max(a.GPU.UUID, b.GPU.UUID)}
			m.Set(i, j, pairLinks(a.GPU, b.GPU), paths[key])
		}
	}
	nics := inv.NICs[:min(len(inv.NICs), topology.MaxNICs)]
	speeds := make([]int, len(nics))
	for n, nic := range nics {
		speeds[n] = int(nic.MBps)
	}
	m.SetNICs(speeds)
	for n, nic := range nics {
		for i, d := range devices {
			m.SetNICPath(i, n, nic.Paths[d.GPU.PCIBusID])
		}
	}
	m.SetSwitched(slices.ContainsFunc(devices, func(d Device) bool { return switchLinks(d.GPU) > 0 }))
	return m
}

// pairLinks is the NVLinks that both sides report as active. Where they
// differ the lesser is what traffic can use.
func pairLinks(a, b GPU) int {
	direct := min(directLinks(a, b), directLinks(b, a))
	return min(direct+min(switchLinks(a), switchLinks(b)), topology.MaxLinks)
}

func directLinks(from, to GPU) int {
	n := 0
	for _, l := range from.Links {
		if l.Active && l.Remote != RemoteSwitch && l.RemotePCI != "" && l.RemotePCI == to.PCIBusID {
			n++
		}
	}
	return n
}

func switchLinks(g GPU) int {
	n := 0
	for _, l := range g.Links {
		if l.Active && l.Remote == RemoteSwitch {
			n++
		}
	}
	return n
}

// linkSpeed is the slowest active NVLink of the group, 0 without one.
func linkSpeed(devices []Device) int64 {
	var speed int64
	for _, d := range devices {
		for _, l := range d.GPU.Links {
			if l.Active && l.SpeedMBps > 0 && (speed == 0 || l.SpeedMBps < speed) {
				speed = l.SpeedMBps
			}
		}
	}
	return speed
}

// links adds the attributes that describe the group's NVLinks and nodes.
func (inv Inventory) links(attrs map[string]Value, m *topology.Matrix, devices []Device) {
	if m == nil {
		return
	}
	attrs[gpu.AttrTopology] = Text(m.Encode())
	if nodes := numaNodes(m); nodes > 0 {
		attrs[gpu.AttrNUMANodes] = Number(int64(nodes), "")
	}
	inv.network(attrs)
	if slices.ContainsFunc(devices, func(d Device) bool { return !d.GPU.LinksKnown }) {
		return
	}
	largest := 1
	for _, island := range m.Islands() {
		largest = max(largest, len(island))
	}
	active := least(devices, activeLinks)
	attrs[gpu.AttrNVLinkTopology] = Text(linkKind(m, largest))
	attrs[gpu.AttrNVLinkIslandSize] = Number(int64(largest), "")
	attrs[gpu.AttrNVLinkLinks] = Number(active.Value, "")
	if speed := linkSpeed(devices); speed > 0 && active.Value > 0 {
		attrs[gpu.AttrNVLinkBandwidth] = Number(speed*active.Value, "MB/s")
	}
	if version := same(devices, linkVersion); version != "" {
		attrs[gpu.AttrNVLinkVersion] = Text(version)
	}
}

// network adds the host's NICs, whose names are in the order of the topology's.
func (inv Inventory) network(attrs map[string]Value) {
	if len(inv.NICs) == 0 {
		return
	}
	var names []string
	var mbps int64
	for _, nic := range inv.NICs {
		names = append(names, nic.Name)
		mbps += nic.MBps
	}
	attrs[gpu.AttrNICs] = Text(strings.Join(names, ","))
	attrs[gpu.AttrNICCount] = Number(int64(len(names)), "")
	attrs[gpu.AttrNICBandwidth] = Number(mbps, "MB/s")
}

func linkKind(m *topology.Matrix, largest int) string {
	switch {
	case m.Switched():
		return gpu.NVLinkSwitch
	case largest == 1:
		return gpu.NVLinkNone
	case largest == 2:
		return gpu.NVLinkPairs
	}
	return gpu.NVLinkMesh
}

func activeLinks(g GPU) Maybe[int64] {
	var n int64
	for _, l := range g.Links {
		if l.Active {
			n++
		}
	}
	return Known(n)
}

func linkVersion(g GPU) string {
	for _, l := range g.Links {
		if l.Version != "" {
			return l.Version
		}
	}
	return ""
}

// numaNodes counts the host nodes, 0 unless every device's is known.
func numaNodes(m *topology.Matrix) int {
	nodes := map[int]bool{}
	for i := range m.Size() {
		if m.NUMA(i) == topology.UnknownNUMA {
			return 0
		}
		nodes[m.NUMA(i)] = true
	}
	return len(nodes)
}

// p2p says how many pairs of the devices can read each other's memory; empty
// where there is no pair, or NVML does not say of each.
func (inv Inventory) p2p(devices []Device) string {
	can := map[[2]string]Maybe[bool]{}
	for _, p := range inv.Paths {
		can[[2]string{p.A, p.B}] = p.P2P
	}
	pairs, yes := 0, 0
	for i, a := range devices {
		for _, b := range devices[i+1:] {
			answer := can[[2]string{min(a.GPU.UUID, b.GPU.UUID), max(a.GPU.UUID, b.GPU.UUID)}]
			if !answer.Known {
				return ""
			}
			pairs++
			if answer.Value {
				yes++
			}
		}
	}
	switch {
	case pairs == 0:
		return ""
	case yes == pairs:
		return gpu.P2PAll
	case yes == 0:
		return gpu.P2PNone
	}
	return gpu.P2PSome
}

// Matrix is the topology of all devices, in inventory order, or nil when there
// are more than a Matrix holds.
func (inv Inventory) Matrix() *topology.Matrix { return inv.matrix(inv.Devices) }
