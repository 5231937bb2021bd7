package inventory

import (
	"cmp"
	"slices"
	"strings"
)

// Inventory is everything known about the GPUs of a node: the latest good
// reading of each GPU ever seen, and its health. It is a value: the functions
// below return a new one and change nothing.
type Inventory struct {
	DriverVersion, CUDAVersion string
	// Devices are sorted by PCI bus id, then UUID.
	Devices []Device
	Paths   []Path
	// Unidentified holds the failures of GPUs that never answered, so that
	// there is no identity to publish them under.
	Unidentified []string
}

// Device is one GPU.
type Device struct {
	GPU    GPU // the latest good reading
	Health Health
}

// Observe merges a pass over the GPUs into the inventory. A GPU that failed or
// is missing keeps its last reading and becomes unhealthy.
func Observe(prev Inventory, r Readings) Inventory {
	next := Inventory{
		DriverVersion: cmp.Or(r.DriverVersion, prev.DriverVersion),
		CUDAVersion:   cmp.Or(r.CUDAVersion, prev.CUDAVersion),
		Paths:         mergePaths(prev.Paths, r.Paths),
	}
	known := map[string]Device{}
	for _, d := range prev.Devices {
		known[d.GPU.UUID] = d
	}
	seen := map[string]bool{}
	for _, gpu := range r.GPUs {
		if gpu.Failure != "" || gpu.UUID == "" || gpu.Name == "" || seen[gpu.UUID] {
			continue
		}
		seen[gpu.UUID] = true
		d := known[gpu.UUID]
		next.Devices = append(next.Devices, Device{GPU: gpu, Health: d.Health.answered(gpu.RecoveryAction)})
	}
	failures := failuresByIndex(r.GPUs)
	for _, d := range prev.Devices {
		if seen[d.GPU.UUID] {
			continue
		}
		reason, failed := failures[d.GPU.Index]
		if failed {
			delete(failures, d.GPU.Index)
		} else {
			reason = "gpu_lost: NVML does not report the GPU any more"
		}
		next.Devices = append(next.Devices, Device{GPU: d.GPU, Health: d.Health.lose(reason)})
	}
	for _, gpu := range r.GPUs {
		if reason, left := failures[gpu.Index]; left {
			next.Unidentified = append(next.Unidentified, reason)
			delete(failures, gpu.Index)
		}
	}
	slices.Sort(next.Unidentified)
	slices.SortFunc(next.Devices, func(a, b Device) int {
		return cmp.Or(strings.Compare(a.GPU.PCIBusID, b.GPU.PCIBusID), strings.Compare(a.GPU.UUID, b.GPU.UUID))
	})
	return next
}

func failuresByIndex(gpus []GPU) map[int]string {
	failures := map[int]string{}
	for _, gpu := range gpus {
		switch {
		case gpu.Failure != "":
			failures[gpu.Index] = gpu.Failure
		case gpu.UUID == "" || gpu.Name == "":
			failures[gpu.Index] = "NVML gives no UUID or no name"
		}
	}
	return failures
}

// mergePaths keeps the paths of pairs that this pass could not ask about.
func mergePaths(prev, next []Path) []Path {
	levels := map[[2]string]Path{}
	for _, list := range [][]Path{prev, next} {
		for _, p := range list {
			if p.A > p.B {
				p.A, p.B = p.B, p.A
			}
			levels[[2]string{p.A, p.B}] = p
		}
	}
	merged := make([]Path, 0, len(levels))
	for _, p := range levels {
		merged = append(merged, p)
	}
	slices.SortFunc(merged, func(a, b Path) int {
		return cmp.Or(strings.Compare(a.A, b.A), strings.Compare(a.B, b.B))
	})
	return merged
}

// Fail makes every device unhealthy: NVML as a whole does not answer.
func Fail(prev Inventory, reason string) Inventory {
	next := prev
	next.Devices = slices.Clone(prev.Devices)
	for i := range next.Devices {
		next.Devices[i].Health = next.Devices[i].Health.fail(reason)
	}
	return next
}

// Note records XIDs. One that names no GPU is recorded for all: which GPU it
// concerns cannot be known, and using a broken one is the worse mistake.
func Note(prev Inventory, events []Event) Inventory {
	next := prev
	next.Devices = slices.Clone(prev.Devices)
	for _, e := range events {
		for i := range next.Devices {
			if e.UUID == "" || e.UUID == next.Devices[i].GPU.UUID {
				next.Devices[i].Health = next.Devices[i].Health.xid(e.XID)
			}
		}
	}
	return next
}

// Healthy reports whether every device may be used.
func (inv Inventory) Healthy() bool {
	for _, d := range inv.Devices {
		if d.Reason() != "" {
			return false
		}
	}
	return len(inv.Unidentified) == 0
}

// Device finds a device by UUID.
func (inv Inventory) Device(uuid string) (Device, bool) {
	for _, d := range inv.Devices {
		if d.GPU.UUID == uuid {
			return d, true
		}
	}
	return Device{}, false
}

// Without returns the inventory less the devices with these UUIDs.
func (inv Inventory) Without(uuids []string) Inventory {
	next := inv
	next.Devices = slices.DeleteFunc(slices.Clone(inv.Devices), func(d Device) bool {
		return slices.Contains(uuids, d.GPU.UUID)
	})
	return next
}
