package occupancy

import (
	"slices"
	"strings"

	"github.com/nomad-governor/governor/device/inventory"
)

// shareMark separates a GPU's UUID from the number of a share of it in a
// device id: "GPU-...::0".
const shareMark = "::"

// Place is where a process was seen.
type Place struct {
	// GPU is the UUID of the whole GPU.
	GPU string
	// Instances are the UUIDs of the MIG instances on which the process can
	// be: one where NVML says which, all of the GPU where it does not. Empty
	// on a GPU without instances.
	Instances []string
}

// Locate says where NVML saw a process that it listed under the GPU or MIG
// instance with this UUID. An instance that the inventory does not have is
// taken for a GPU: then only a grant of its own holds it.
func Locate(inv inventory.Inventory, uuid string, p inventory.Process) Place {
	for _, d := range inv.Devices {
		instances := d.GPU.Instances
		for _, i := range instances {
			if i.UUID == uuid {
				return Place{GPU: d.GPU.UUID, Instances: []string{uuid}}
			}
		}
		if d.GPU.UUID != uuid {
			continue
		}
		place := Place{GPU: uuid}
		for _, i := range instances {
			if same(p.GPUInstance, i.GPUInstance) && same(p.ComputeInstance, i.ComputeInstance) {
				place.Instances = append(place.Instances, i.UUID)
			}
		}
		slices.Sort(place.Instances)
		return place
	}
	return Place{GPU: uuid}
}

// same reports whether a value can be want: it is, or is not known.
func same(value inventory.Maybe[int64], want int64) bool { return !value.Known || value.Value == want }

// DeviceID is the id of the GPU, or of the one instance that it can be.
func (p Place) DeviceID() string {
	if len(p.Instances) == 1 {
		return p.Instances[0]
	}
	return p.GPU
}

// covers reports whether who holds the device with this id may use the place:
// it is the GPU, the instance, or a share of either.
func (p Place) covers(id string) bool {
	base, _, _ := strings.Cut(id, shareMark)
	return base == p.GPU || slices.Contains(p.Instances, base)
}
