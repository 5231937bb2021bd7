package occupancy

import (
	"slices"

	"github.com/nomad-governor/governor/device/inventory"
)

// Facts is what could be read about a process.
type Facts struct {
	// Gone says that the process ended, or that its id names another now;
	// the other fields mean nothing then.
	Gone bool
	// Unreadable says that not even its cgroup or its user could be read, or
	// the mounts of its container.
	Unreadable bool
	// Command is its main thread's name; Program is the name of its program's
	// file, empty when that cannot be read.
	Command, Program string
	UID, EUID        int64
	Scope            Scope
	Mounts           Mounts
	// Task is what the environments of the process and of others of its task
	// say. EnvironRead is false when none of them could be read.
	Task        Environment
	EnvironRead bool
}

// Owner is the task that the process belongs to, and how that is known.
func (f Facts) Owner() (Owner, Source) {
	switch {
	case f.Scope.AllocID != "":
		return Owner{f.Scope.AllocID, f.Scope.Task}, FromCgroup
	case f.Mounts.AllocID != "":
		owner := Owner{f.Mounts.AllocID, f.Mounts.Task}
		if owner.Task == "" && f.Task.AllocID == owner.AllocID {
			owner.Task = f.Task.Task
		}
		return owner, FromMounts
	case f.Task.AllocID != "":
		return Owner{f.Task.AllocID, f.Task.Task}, FromEnvironment
	}
	return Owner{}, NoSource
}

// DefaultExempt are the commands of NVIDIA's own services.
func DefaultExempt() []string {
	return []string{"dcgm-exporter", "nv-hostengine", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server",
		"nvidia-persistenced"}
}

// Court is what judges need to know besides the facts.
type Court struct {
	Key      Key
	Register Register
	// Exempt are the commands that root may run on GPUs outside of Nomad.
	Exempt []string
}

// Finding is a verdict with its reason.
type Finding struct {
	Verdict Verdict
	Reason  Reason
	// DeviceID is the device that is held; empty unless the verdict is Held.
	DeviceID string
	// Bind is the nonce of a grant that is now known to be the owner's, by the
	// kernel's word; empty when there is nothing to record.
	Bind string
}

// Judge decides about a process at a place.
func (c Court) Judge(f Facts, p Place) Finding {
	if f.Gone {
		return Finding{Verdict: Unknown, Reason: ProcessGone}
	}
	if f.Unreadable {
		return Finding{Verdict: Unknown, Reason: ProcessUnreadable}
	}
	owner, by := f.Owner()
	best := Finding{Verdict: NotHeld, Reason: GrantMissing}
	for _, text := range f.Task.Grants {
		found := c.weigh(text, owner, p)
		if found.Verdict == Held {
			if by == FromEnvironment { // it may not say whose the grant is
				found.Bind = ""
			}
			return found
		}
		if precedence(found.Reason) > precedence(best.Reason) {
			best = found
		}
	}
	if owner.AllocID == "" {
		return c.outside(f, best.Reason)
	}
	// Whoever says that it is a task may say which: only the kernel's word
	// makes up for a grant that is not there any more.
	if by != FromEnvironment {
		if id, ok := c.boundTo(owner, p); ok {
			return Finding{Verdict: Held, Reason: SeenBefore, DeviceID: id}
		}
	}
	switch {
	case slices.Contains(c.Register.Adopted, owner.AllocID):
		return Finding{Verdict: Unknown, Reason: BeforeGrants}
	case !f.EnvironRead:
		return Finding{Verdict: Unknown, Reason: ProcessUnreadable}
	case !f.Task.Given() && c.unbound(p):
		return Finding{Verdict: Unknown, Reason: EnvironmentLost}
	}
	return best
}

// weigh decides what one grant is worth at a place.
func (c Court) weigh(text string, owner Owner, p Place) Finding {
	grant, ok := c.Key.Verify(text)
	if !ok {
		return Finding{Verdict: NotHeld, Reason: GrantForged}
	}
	result := Finding{Verdict: NotHeld, Reason: GrantElsewhere}
	for _, id := range grant.IDs {
		if !p.covers(id) {
			continue
		}
		latest, known := c.Register.Latest[id]
		switch {
		case known && latest.Nonce != grant.Nonce:
			result.Reason = GrantSuperseded
		case known && latest.AllocID != "" && !latest.held(owner):
			result.Reason = GrantNotTheirs
		default:
			found := Finding{Verdict: Held, Reason: GrantValid, DeviceID: id}
			if known && latest.AllocID == "" && owner.AllocID != "" {
				found.Bind = grant.Nonce
			}
			return found
		}
	}
	return result
}

// held reports whether the entry's holder is this one. A task that is not known
// is any task of the allocation.
func (e Entry) held(owner Owner) bool {
	return e.AllocID == owner.AllocID && (e.Task == owner.Task || e.Task == "" || owner.Task == "")
}

// precedence orders what is wrong with a task's grants: what is nearest to
// holding the device is what it is told.
func precedence(r Reason) int {
	return slices.Index([]Reason{GrantMissing, GrantForged, GrantElsewhere, GrantNotTheirs, GrantSuperseded}, r)
}

// boundTo looks for a device at the place with whose grant the owner was seen.
func (c Court) boundTo(owner Owner, p Place) (string, bool) {
	for _, id := range c.Register.at(p) {
		e := c.Register.Latest[id]
		if e.AllocID != "" && e.held(owner) {
			return id, true
		}
	}
	return "", false
}

// unbound reports whether a device at the place was handed out to somebody who
// has not been seen yet, and who may be this one.
func (c Court) unbound(p Place) bool {
	return slices.ContainsFunc(c.Register.at(p), func(id string) bool { return c.Register.Latest[id].AllocID == "" })
}

// outside decides about a process of no allocation. A container that may be a
// task's gets no exemption: root in there is not the operator.
func (c Court) outside(f Facts, grant Reason) Finding {
	if f.UID == 0 && f.EUID == 0 && !f.Mounts.Doubtful && slices.ContainsFunc(c.Exempt, f.runs) {
		return Finding{Verdict: Exempt, Reason: ExemptCommand}
	}
	if !f.EnvironRead { // where cgroups name no allocations, only it would
		return Finding{Verdict: Unknown, Reason: ProcessUnreadable}
	}
	if grant == GrantNotTheirs || grant == GrantSuperseded {
		return Finding{Verdict: Outside, Reason: grant}
	}
	return Finding{Verdict: Outside, Reason: NoAllocation}
}

// runs reports whether the process is this command. The kernel keeps the first
// bytes of a command only.
func (f Facts) runs(command string) bool {
	return f.Program == command || f.Command == command[:min(len(command), commandSizeMax)]
}

// Describe joins a finding with what is known of the process.
func (found Finding) Describe(f Facts, p Place, seen inventory.Process) Use {
	use := Use{DeviceID: p.DeviceID(), GPU: p.GPU, PID: seen.PID, MemoryMiB: seen.MemoryMiB, MPS: seen.MPS,
		Verdict: found.Verdict, Reason: found.Reason}
	if found.DeviceID != "" {
		use.DeviceID = found.DeviceID
	}
	if f.Gone {
		return use
	}
	owner, by := f.Owner()
	use.AllocID, use.Task, use.By = owner.AllocID, owner.Task, by
	use.Command, use.Container = f.Command, f.Scope.Container
	if !f.Unreadable {
		use.UID = inventory.Known(f.UID)
	}
	return use
}
