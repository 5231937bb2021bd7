package cluster

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
)

// Part is what the devices of a group are of a GPU.
type Part uint8

const (
	// Whole GPUs.
	Whole Part = iota
	// Share is one of several equal shares of a GPU, which slow each other down. Two of one
	// GPU are no more than one to a task, and the device plugin refuses them.
	Share
	// Instance is a MIG instance. Those of one GPU do not disturb each other, and the GPU
	// can be divided anew only when it has none in use.
	Instance
)

// Divide says of the groups of a node what their devices are, and numbers the node's GPUs
// where devices are parts of them. A group with more devices than MaxDevices becomes
// several of one name, each with as many GPUs as possible. The order of devices is the
// same whoever has them.
func Divide(groups []Group) []Group {
	var out []Group
	for _, g := range groups {
		g.Part = partOf(&g)
		out = append(out, cut(g)...)
	}
	numbers := map[string]uint8{}
	for i := range out {
		g := &out[i]
		if g.Part == Whole {
			continue
		}
		g.GPUs = make([]uint8, len(g.Devices))
		for j := range g.Devices {
			name := gpuOf(&g.Devices[j])
			if _, known := numbers[name]; !known {
				numbers[name] = uint8(min(len(numbers), mostGPUs))
			}
			g.GPUs[j] = numbers[name]
		}
	}
	return out
}

// mostGPUs bounds the numbers of a node's GPUs; there are never as many.
const mostGPUs = 255

// partOf says what the devices of a group are. With the MIG strategy "single" instances
// have the type of GPUs: several have one PCI address then.
func partOf(g *Group) Part {
	switch {
	case g.Type == gpu.TypeShare:
		return Share
	case g.Type == gpu.TypeMIG:
		return Instance
	case g.Topology != nil:
		return Whole
	}
	seen := make(map[string]bool, len(g.Devices))
	for i := range g.Devices {
		if at := g.Devices[i].PCIBusID; at != "" && seen[at] {
			return Instance
		}
		seen[g.Devices[i].PCIBusID] = true
	}
	return Whole
}

// gpuOf names the GPU that a device is a part of: by its PCI address, and where there is
// none shares still say it in their ids.
func gpuOf(d *Device) string {
	uuid, _, _ := strings.Cut(d.ID, "::")
	return cmp.Or(d.PCIBusID, uuid)
}

// turn is the number of a share among those of its GPU; 0 for what is none.
func turn(d *Device) int {
	_, number, _ := strings.Cut(d.ID, "::")
	n, _ := strconv.Atoi(number) // 0 for none
	return n
}

// cut makes groups of at most MaxDevices. Of shares each has one of every GPU before it has
// a second one, for a task gets one of a GPU only.
func cut(g Group) []Group {
	if len(g.Devices) <= MaxDevices {
		return []Group{g}
	}
	devices := slices.Clone(g.Devices)
	slices.SortStableFunc(devices, func(a, b Device) int { return cmp.Compare(turn(&a), turn(&b)) })
	size, gpus := MaxDevices, map[string]bool{}
	for i := range devices {
		gpus[gpuOf(&devices[i])] = true
	}
	if g.Part == Share && len(gpus) <= MaxDevices {
		size -= MaxDevices % len(gpus)
	}
	var out []Group
	for chunk := range slices.Chunk(devices, size) {
		one := g
		one.Devices = slices.Clone(chunk)
		slices.SortStableFunc(one.Devices, func(a, b Device) int {
			return cmp.Or(strings.Compare(a.PCIBusID, b.PCIBusID), strings.Compare(a.ID, b.ID))
		})
		out = append(out, one)
	}
	return out
}

// Room is how many of the devices of a mask one task can have: of shares one of each GPU.
func (g *Group) Room(mask uint64) int {
	count := 0
	var seen [mostGPUs + 1]bool
	for i := range min(len(g.Devices), MaxDevices) {
		if mask>>i&1 == 0 {
			continue
		}
		if g.Part == Share {
			if seen[g.GPUs[i]] {
				continue
			}
			seen[g.GPUs[i]] = true
		}
		count++
	}
	return count
}

// All is the mask of all devices of the group.
func (g *Group) All() uint64 {
	if len(g.Devices) >= MaxDevices {
		return ^uint64(0)
	}
	return 1<<len(g.Devices) - 1
}
