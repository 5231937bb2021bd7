package place

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// part is what the devices of a group are of a GPU.
type part uint8

const (
	// whole GPUs.
	whole part = iota
	// share is one of several equal shares of a GPU, which slow each other down. Two of one
	// GPU are no more than one to a task, and the device plugin refuses them.
	share
	// instance is a MIG instance. Those of one GPU do not disturb each other, and the GPU
	// can be divided anew only when it has none in use.
	instance
)

// partOf says what the devices of a group are. With the MIG strategy "single" instances
// have the type of GPUs: several have one PCI address then.
func partOf(g *cluster.Group) part {
	switch {
	case g.Type == gpu.TypeShare:
		return share
	case g.Type == gpu.TypeMIG:
		return instance
	case tabulated(g):
		return whole
	}
	seen := make(map[string]bool, len(g.Devices))
	for i := range g.Devices {
		if at := g.Devices[i].PCIBusID; at != "" && seen[at] {
			return instance
		}
		seen[g.Devices[i].PCIBusID] = true
	}
	return whole
}

// gpuOf names the GPU that a device is a part of: shares say it in their ids, instances in
// their PCI addresses.
func gpuOf(d *cluster.Device) string {
	uuid, _, isShare := strings.Cut(d.ID, "::")
	if isShare {
		return uuid
	}
	return cmp.Or(d.PCIBusID, d.ID)
}

// room is how many of the devices of a mask one task can have: of shares one of each GPU.
func room(g *cluster.Group, mask uint64) int {
	if partOf(g) != share {
		return bits.OnesCount64(mask)
	}
	return len(split(g, mask))
}

// mostOf is room for all devices of a group.
func mostOf(g *cluster.Group) int {
	if partOf(g) != share {
		return len(g.Devices)
	}
	seen := map[string]bool{}
	for i := range g.Devices {
		seen[gpuOf(&g.Devices[i])] = true
	}
	return len(seen)
}

// divided is one GPU of which a group has parts.
type divided struct {
	gpu string
	// free parts, as a mask over the devices of the group.
	free uint64
	// taken counts the parts that somebody has or was promised; broken ones are taken
	// too.
	taken int
}

// split lists the GPUs that have free parts, in the order of the group's devices.
func split(g *cluster.Group, free uint64) []divided {
	var gpus []divided
	at := map[string]int{}
	for i := range min(len(g.Devices), cluster.MaxDevices) {
		if free>>i&1 == 0 {
			continue
		}
		name := gpuOf(&g.Devices[i])
		if _, seen := at[name]; !seen {
			at[name] = len(gpus)
			gpus = append(gpus, divided{gpu: name})
		}
		gpus[at[name]].free |= 1 << i
	}
	for i := range g.Devices {
		if gpu, open := at[gpuOf(&g.Devices[i])]; open && (i >= cluster.MaxDevices || free>>i&1 == 0) {
			gpus[gpu].taken++
		}
	}
	return gpus
}

// chooseParts takes k parts of GPUs so that what stays free is worth most. Shares come
// from the GPUs with the fewest in use, one of each: a task is slowed down least, and as
// many GPUs as possible keep one for tasks that want several. Instances come from the
// GPUs with the most in use, so that others stay whole and can be divided anew. lost is
// how many GPUs have no free share any more, or are not whole any more. There must be
// room for k.
func chooseParts(n *cluster.Node, g *cluster.Group, free uint64, k int) (set uint64, lost int) {
	gpus := split(g, free)
	if partOf(g) == share {
		return chooseShares(gpus, k)
	}
	for i := range gpus {
		gpus[i].taken += takenElsewhere(n, g, gpus[i].gpu)
	}
	return chooseInstances(gpus, k)
}

func chooseShares(gpus []divided, k int) (set uint64, lost int) {
	slices.SortStableFunc(gpus, func(a, b divided) int { return cmp.Compare(a.taken, b.taken) })
	for _, d := range gpus[:k] {
		set |= d.free & -d.free
		if d.free&(d.free-1) == 0 {
			lost++
		}
	}
	return set, lost
}

func chooseInstances(gpus []divided, k int) (set uint64, lost int) {
	slices.SortStableFunc(gpus, func(a, b divided) int {
		return cmp.Or(cmp.Compare(b.taken, a.taken), cmp.Compare(bits.OnesCount64(a.free), bits.OnesCount64(b.free)))
	})
	for len(gpus) > 0 && k > 0 {
		at := 0
		if gpus[0].taken == 0 { // whole ones are left: the smallest that is enough, or else the largest
			for at+1 < len(gpus) && bits.OnesCount64(gpus[at].free) < k {
				at++
			}
			lost++
		}
		take := min(k, bits.OnesCount64(gpus[at].free))
		set |= sets.First(gpus[at].free, take)
		k -= take
		gpus = slices.Delete(gpus, at, at+1)
	}
	return set, lost
}

// takenElsewhere counts the parts of a GPU that are in use and of another size, which
// another group of the node lists.
func takenElsewhere(n *cluster.Node, g *cluster.Group, gpu string) int {
	count := 0
	for i := range n.Groups {
		other := &n.Groups[i]
		if other == g {
			continue
		}
		for j := range other.Devices {
			if d := &other.Devices[j]; gpuOf(d) == gpu && (d.Use.Held() || d.Reserved) {
				count++
			}
		}
	}
	return count
}

// partName says in a few words what a set of parts is; "" for whole GPUs.
func partName(g *cluster.Group, set uint64) string {
	names := map[part][2]string{share: {"share", "shares"}, instance: {"MIG instance", "MIG instances"}}
	name, is := names[partOf(g)]
	switch n := bits.OnesCount64(set); {
	case !is:
		return ""
	case n == 1:
		return name[0] + " of a GPU"
	default:
		gpus := len(split(g, set))
		if gpus == 1 {
			return fmt.Sprintf("%d %s of a GPU", n, name[1])
		}
		return fmt.Sprintf("%d %s of %d GPUs", n, name[1], gpus)
	}
}

// partReason says by what a set of parts was chosen; "" for whole GPUs.
func partReason(g *cluster.Group) string {
	switch partOf(g) {
	case share:
		return "where the fewest shares are in use"
	case instance:
		return "where the most instances are in use, so that other GPUs stay whole"
	case whole:
	}
	return ""
}
