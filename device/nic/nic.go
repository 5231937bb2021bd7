package nic

import (
	"cmp"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// DefaultRoot is where sysfs is mounted.
const DefaultRoot = "/sys"

// Host is the host whose NICs are read.
type Host struct {
	// Root is where its sysfs is mounted; empty for DefaultRoot.
	Root string
	// Names are the RDMA devices that count ("mlx5_0"), in which * stands for any text.
	Names []string
}

// Read lists the NICs in the order of their PCI addresses, with the path from each of the
// GPUs, which are named by PCI address. A NIC counts when a port of it is active, since
// NCCL uses no other; virtual and scalable functions of a NIC that the host has itself do not. What
// cannot be read is left out: without sysfs there are no NICs. It can take long where a
// driver waits for a NIC, see Source.
func (h Host) Read(gpus []string) []inventory.NIC {
	root := cmp.Or(h.Root, DefaultRoot)
	names, _ := os.ReadDir(filepath.Join(root, "class", "infiniband")) // none is none
	places := map[string]place{}
	for _, address := range gpus {
		if p, ok := find(root, filepath.Join(root, "bus", "pci", "devices", address)); ok {
			places[address] = p
		}
	}
	single := oneNode(root)
	var nics []inventory.NIC
	for _, entry := range names {
		device := filepath.Join(root, "class", "infiniband", entry.Name())
		if !h.counts(entry) || exists(filepath.Join(device, "device", "physfn")) {
			continue
		}
		at, ok := find(root, filepath.Join(device, "device"))
		if at.part && hasRDMA(root, at) {
			continue // a scalable function: its NIC is listed itself
		}
		mbps := portsMBps(filepath.Join(device, "ports"))
		if !ok || mbps == 0 {
			continue
		}
		n := inventory.NIC{Name: entry.Name(), PCIBusID: at.address(), MBps: mbps, Paths: map[string]topology.Path{}}
		for address, gpu := range places {
			n.Paths[address] = level(gpu, at, single)
		}
		nics = append(nics, n)
	}
	slices.SortFunc(nics, func(a, b inventory.NIC) int {
		return cmp.Or(strings.Compare(a.PCIBusID, b.PCIBusID), strings.Compare(a.Name, b.Name))
	})
	return nics
}

func (h Host) counts(entry fs.DirEntry) bool {
	return slices.ContainsFunc(h.Names, func(pattern string) bool {
		matched, err := path.Match(pattern, entry.Name())
		return err == nil && matched
	})
}

// hasRDMA reports whether a PCI device has an RDMA device of its own.
func hasRDMA(root string, at place) bool {
	own, _ := os.ReadDir(filepath.Join(root, "bus", "pci", "devices", at.address(), "infiniband"))
	return len(own) > 0
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// portsMBps adds up the active ports, in MB/s (10^6 bytes) of one direction.
func portsMBps(ports string) int64 {
	entries, _ := os.ReadDir(ports)
	var total int64
	for _, port := range entries {
		if strings.HasSuffix(text(ports, port.Name(), "state"), "ACTIVE") {
			total += mbps(text(ports, port.Name(), "rate"))
		}
	}
	return total
}

// mbps reads a port's rate as the kernel writes it, "400 Gb/sec (4X NDR)"; 0 for what is
// none.
func mbps(rate string) int64 {
	number, _, found := strings.Cut(rate, " Gb/sec")
	gigabits, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || !(gigabits > 0 && gigabits <= 1e5) { // nor is NaN one
		return 0
	}
	return int64(gigabits * 1000 / 8)
}

// text is what a file of sysfs says, without the line's end.
func text(parts ...string) string {
	content, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}
