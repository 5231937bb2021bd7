package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Inventory is everything known about the GPUs of a node: the latest good
// reading of each GPU ever seen, and its health. It is a value: the functions
// below return a new one and change nothing.
type Inventory struct {
	// Policy says what makes a GPU degraded or unhealthy.
	Policy                     Policy
	DriverVersion, CUDAVersion string
	// Devices are sorted by PCI bus id, then UUID.
	Devices []Device
	Paths   []Path
	// ConfidentialComputing is the latest reading's.
	ConfidentialComputing Maybe[bool]
	// NICs are the latest reading's.
	NICs []NIC
	// Unidentified holds the failures of GPUs that never answered, so that
	// there is no identity to publish them under.
	Unidentified []string
}

// Device is one GPU.
type Device struct {
	GPU    GPU // the latest good reading
	Health Health
	// MIG are its MIG instances, in the reading's order.
	MIG []MIGDevice
	// LinksSeen is the most NVLinks that were ever active; Switched says
	// that some led to NVSwitch.
	LinksSeen int64
	Switched  bool
	// LastXID is the latest XID of the GPU or of any of its MIG instances; 0
	// for none.
	LastXID int64
}

// XIDs counts the XIDs of the GPU and of the MIG instances that it has, by number.
func (d Device) XIDs() map[int64]int64 {
	counts := maps.Clone(d.Health.ByXID)
	if counts == nil {
		counts = map[int64]int64{}
	}
	for _, m := range d.MIG {
		for number, n := range m.Health.ByXID {
			counts[number] += n
		}
	}
	return counts
}

// MIGDevice is one MIG instance. What befalls the GPU befalls it too; its own
// Health has what the driver reported for it alone.
type MIGDevice struct {
	MIGInstance

	Health Health
}

// Observe merges a pass over the GPUs into the inventory. A GPU that failed or
// is missing keeps its last reading and becomes unhealthy. A MIG instance that
// its GPU no longer has is gone: it could only be destroyed while unused.
func Observe(prev Inventory, r Readings) Inventory {
	next := Inventory{
		Policy:        prev.Policy,
		DriverVersion: cmp.Or(r.DriverVersion, prev.DriverVersion),
		CUDAVersion:   cmp.Or(r.CUDAVersion, prev.CUDAVersion),
		Paths:         mergePaths(prev.Paths, r.Paths),

		ConfidentialComputing: r.ConfidentialComputing,
		NICs:                  mergeNICs(prev.NICs, r.NICs),
	}
	if !next.ConfidentialComputing.Known {
		next.ConfidentialComputing = prev.ConfidentialComputing
	}
	reloaded := prev.DriverVersion != "" && next.DriverVersion != prev.DriverVersion
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
		next.Devices = append(next.Devices, known[gpu.UUID].read(gpu, reloaded))
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
		d.Health = d.Health.lose(reason)
		next.Devices = append(next.Devices, d)
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
	next.diagnose(prev.Devices, seen, reloaded)
	return next
}

// read replaces the device's reading. Its health follows in diagnose, when the
// other GPUs are known too.
func (d Device) read(g GPU, reloaded bool) Device {
	next := Device{GPU: g, Health: d.Health, LinksSeen: d.LinksSeen, Switched: d.Switched, LastXID: d.LastXID}
	if reloaded {
		next.LinksSeen, next.Switched = 0, false
	}
	next.LinksSeen = max(next.LinksSeen, activeLinks(g).Value)
	next.Switched = next.Switched || switchLinks(g) > 0
	for _, instance := range g.Instances {
		m := MIGDevice{MIGInstance: instance}
		if i := slices.IndexFunc(d.MIG, func(o MIGDevice) bool { return o.UUID == instance.UUID }); i >= 0 {
			m.Health = d.MIG[i].Health
		}
		next.MIG = append(next.MIG, m)
	}
	return next
}

// diagnose brings the health of each device that answered up to date.
func (inv *Inventory) diagnose(before []Device, answered map[string]bool, reloaded bool) {
	peers := slices.Clone(inv.Devices)
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if !answered[d.GPU.UUID] {
			continue
		}
		reset := reloaded
		for _, old := range before {
			reset = reset || old.GPU.UUID == d.GPU.UUID && wasReset(old.GPU, d.GPU)
		}
		recovery := d.GPU.RecoveryAction
		d.Health = d.Health.answered(inv.Policy, symptoms(inv.Policy, *d, peers), recovery, reset)
		for k := range d.MIG {
			d.MIG[k].Health = d.MIG[k].Health.answered(inv.Policy, nil, recovery, reset)
		}
	}
}

// wasReset reports whether the energy counter was set back, which nothing but a
// reset or a driver that is loaded anew does. People can clear error counts.
func wasReset(old, now GPU) bool {
	return old.EnergyMilliJ.Known && now.EnergyMilliJ.Known && now.EnergyMilliJ.Value < old.EnergyMilliJ.Value
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

// mergeNICs keeps the paths of GPUs that this pass could not ask about.
func mergeNICs(prev, next []NIC) []NIC {
	merged := slices.Clone(next)
	for i, nic := range merged {
		for _, before := range prev {
			if before.PCIBusID == nic.PCIBusID && before.Name == nic.Name {
				merged[i].Paths = map[string]topology.Path{}
				maps.Copy(merged[i].Paths, before.Paths)
				maps.Copy(merged[i].Paths, nic.Paths)
			}
		}
	}
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
// concerns cannot be known, and using a broken one is the worse mistake. One
// that names a MIG instance concerns that instance alone, unless it is unknown.
func Note(prev Inventory, events []Event) Inventory {
	next := prev
	next.Devices = slices.Clone(prev.Devices)
	for _, e := range events {
		if e.XID == 0 {
			continue
		}
		for i := range next.Devices {
			if e.UUID == "" || e.UUID == next.Devices[i].GPU.UUID {
				next.Devices[i] = next.Devices[i].note(prev.Policy, e)
			}
		}
	}
	return next
}

func (d Device) note(p Policy, e Event) Device {
	d.LastXID = e.XID
	d.MIG = slices.Clone(d.MIG)
	hit := false
	for i, m := range d.MIG {
		if e.GPUInstance.Known && e.GPUInstance.Value == m.GPUInstance &&
			(!e.ComputeInstance.Known || e.ComputeInstance.Value == m.ComputeInstance) {
			d.MIG[i].Health = m.Health.xid(p, e.XID)
			hit = true
		}
	}
	if !hit {
		d.Health = d.Health.xid(p, e.XID)
	}
	return d
}

// Settled reports whether nothing is about to begin or to end, so that the next
// reading can wait.
func (inv Inventory) Settled() bool {
	for _, d := range inv.Devices {
		if d.Health.unsettled() || slices.ContainsFunc(d.MIG, func(m MIGDevice) bool { return m.Health.unsettled() }) {
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
