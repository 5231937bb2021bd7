package metrics

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
)

// Snapshot is everything that goes on a page.
type Snapshot struct {
	// Hostname is the node's; empty leaves the label out, as do the versions.
	Hostname                                  string
	DriverVersion, CUDAVersion, PluginVersion string
	// Devices are those that Nomad is told of.
	Devices []Device
	// Samples are of GPUs and MIG instances, taken at At. A sample of a GPU
	// that no device is on is left out.
	Samples []inventory.Sample
	At      time.Time
	// Before are earlier samples, for rates; the zero value gives none.
	Before Before
	// UsesKnown is false where nobody looks at processes.
	UsesKnown bool
	Uses      []occupancy.Use
	// LastSuccess is when samples were last taken; zero when never.
	LastSuccess time.Time
	// WorkerStarts and Fingerprints count since the plugin started.
	WorkerStarts, Fingerprints inventory.Maybe[int64]
}

// Before is samples of an earlier time.
type Before struct {
	At      time.Time
	Samples []inventory.Sample
}

// Device is one device as Nomad knows it: a GPU, a share of one, or a MIG
// instance.
type Device struct {
	// ID is its id; Group is the name of its group, "nvidia/gpu/<model>".
	ID, Group string

	// GPU is the UUID of the whole GPU, Index NVML's number for it, PCIBusID
	// in sysfs form, Model its name.
	GPU, PCIBusID, Model string
	Index                int
	Minor                inventory.Maybe[int64] // of /dev/nvidia<Minor>

	// Instance is the UUID of the MIG instance; empty on a whole GPU, where
	// the rest means nothing.
	Instance, Profile            string
	GPUInstance, ComputeInstance int64

	// Unhealthy is why it is not offered, and Degraded what is wrong with it
	// though it is: codes, not sentences ("gpu_lost", "thermal_slowdown").
	Unhealthy string
	Degraded  []string

	// LastXID is the GPU's last XID, 0 when it had none; unknown where the
	// driver does not report them. XIDs counts them by number.
	LastXID inventory.Maybe[int64]
	XIDs    map[int64]int64
}

// What a page can hold. More GPUs than this are not on one host.
const (
	devicesMax  = 1024
	degradedMax = 16
	xidsMax     = 64
	codeSizeMax = 48
	textSizeMax = 256
)

// place is a GPU or MIG instance: what samples and processes are of. Shares of
// a GPU are one place.
type place struct {
	device Device // the first on it by id; of a GPU in MIG mode any instance's
	uuid   string
	whole  bool
	sample inventory.Sample
	before inventory.Sample
}

// places lists where the devices are, by index and instance.
func (s Snapshot) places() []place {
	found := map[string]place{}
	for _, d := range s.devices() {
		add := func(uuid string, whole bool) {
			if _, ok := found[uuid]; !ok && uuid != "" {
				found[uuid] = place{device: d, uuid: uuid, whole: whole}
			}
		}
		add(d.GPU, true)
		add(d.Instance, false)
	}
	for _, sample := range s.Samples {
		if p, ok := found[sample.UUID]; ok {
			p.sample = sample
			found[sample.UUID] = p
		}
	}
	for _, sample := range s.Before.Samples {
		if p, ok := found[sample.UUID]; ok {
			p.before = sample
			found[sample.UUID] = p
		}
	}
	list := make([]place, 0, len(found))
	for _, p := range found {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.device.Index, b.device.Index), strings.Compare(a.device.GPU, b.device.GPU), wholeFirst(a, b),
			cmp.Compare(a.device.GPUInstance, b.device.GPUInstance), cmp.Compare(a.device.ComputeInstance, b.device.ComputeInstance),
			strings.Compare(a.uuid, b.uuid))
	})
	return list
}

func wholeFirst(a, b place) int {
	switch {
	case a.whole == b.whole:
		return 0
	case a.whole:
		return -1
	}
	return 1
}

// devices lists the devices once each, by index, instance and id.
func (s Snapshot) devices() []Device {
	list := slices.Clone(s.Devices)
	slices.SortStableFunc(list, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), strings.Compare(a.GPU, b.GPU), cmp.Compare(a.GPUInstance, b.GPUInstance),
			cmp.Compare(a.ComputeInstance, b.ComputeInstance), strings.Compare(a.ID, b.ID))
	})
	seen := map[string]bool{}
	list = slices.DeleteFunc(list, func(d Device) bool {
		again := seen[d.ID]
		seen[d.ID] = true
		return again
	})
	return list[:min(len(list), devicesMax)]
}
