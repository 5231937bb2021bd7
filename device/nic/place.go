package nic

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// place is where a PCI device sits.
type place struct {
	// bridge is its host bridge, as the folder of sysfs; hops are the devices below that,
	// which the kernel nests as the bus does: root port, ports of switches, and last the
	// device itself.
	bridge string
	hops   []string
	// part says that it is a part of that device.
	part bool
	// numa is its NUMA node, or topology.UnknownNUMA.
	numa int
}

// address is the PCI address of the device itself.
func (p place) address() string { return p.hops[len(p.hops)-1] }

// find reads where the device behind a link of sysfs sits. ok is false for what is not on
// a PCI bus, such as RDMA in software.
func find(root, link string) (place, bool) {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return place{}, false
	}
	base, err := filepath.EvalSymlinks(root)
	if err != nil {
		return place{}, false
	}
	within, err := filepath.Rel(base, target)
	if err != nil {
		return place{}, false
	}
	folders := strings.Split(within, string(filepath.Separator))
	at := -1
	for i, folder := range folders { // the last: the bridge of a VMD lies below another
		if isBridge(folder) {
			at = i
		}
	}
	if at < 0 || at+1 == len(folders) {
		return place{}, false
	}
	// What is below a function of the bus, a part of it with a driver of its own, is where
	// that is.
	end := at + 1
	for end < len(folders) && isAddress(folders[end]) {
		end++
	}
	if end == at+1 {
		return place{}, false
	}
	node, err := strconv.Atoi(text(base, filepath.Join(folders[:end]...), "numa_node"))
	if err != nil || node < 0 {
		node = topology.UnknownNUMA
	}
	return place{bridge: strings.Join(folders[:at+1], "/"), hops: folders[at+1 : end], part: end < len(folders), numa: node}, true
}

// isBridge recognises the folder of a host bridge: "pci0000:50".
func isBridge(folder string) bool {
	domain, bus, found := strings.Cut(strings.TrimPrefix(folder, "pci"), ":")
	return found && strings.HasPrefix(folder, "pci") && isHex(domain) && isHex(bus)
}

// isAddress recognises the folder of a PCI device: "0000:53:00.0".
func isAddress(folder string) bool {
	parts := strings.FieldsFunc(folder, func(r rune) bool { return r == ':' || r == '.' })
	return len(parts) == 4 && !slices.ContainsFunc(parts, func(digits string) bool { return !isHex(digits) })
}

func isHex(digits string) bool {
	_, err := strconv.ParseUint(digits, 16, 32)
	return err == nil
}

// level is how two devices reach each other, as nvidia-smi topo -m and NCCL name it: PIX
// over one PCIe switch at most, PXB over several, PHB over the host bridge, NODE between
// host bridges of one NUMA node, SYS between NUMA nodes.
func level(a, b place, oneNode bool) topology.Path {
	if a.bridge != b.bridge {
		switch {
		case a.numa == topology.UnknownNUMA || b.numa == topology.UnknownNUMA:
			if oneNode {
				return topology.PathNode
			}
			return topology.PathUnknown
		case a.numa == b.numa:
			return topology.PathNode
		}
		return topology.PathSystem
	}
	common := 0
	for common < min(len(a.hops), len(b.hops)) && a.hops[common] == b.hops[common] {
		common++
	}
	if common == 0 {
		return topology.PathHostBridge
	}
	// Below the port that both have in common, a switch puts one port of its own before
	// each device.
	if max(len(a.hops), len(b.hops))-common <= 2 {
		return topology.PathSingle
	}
	return topology.PathMultiple
}

// oneNode reports whether the host has no more than one NUMA node. Its devices say then
// that they have none.
func oneNode(root string) bool {
	entries, err := os.ReadDir(filepath.Join(root, "devices", "system", "node"))
	if err != nil {
		return os.IsNotExist(err) // a kernel without NUMA
	}
	nodes := 0
	for _, entry := range entries {
		number, is := strings.CutPrefix(entry.Name(), "node")
		if is && number != "" && !slices.ContainsFunc([]byte(number), func(c byte) bool { return c < '0' || c > '9' }) {
			nodes++
		}
	}
	return nodes <= 1
}
