package occupancy

import (
	"fmt"

	"github.com/nomad-governor/governor/device/inventory"
)

// Verdict is what is thought of a process on a GPU.
type Verdict uint8

// The verdicts. Only NotHeld and Outside say that a GPU is used by somebody who
// does not hold it.
const (
	Unknown Verdict = iota // could not be read or decided
	Held                   // its task holds the device
	NotHeld                // it belongs to an allocation that does not hold the device
	Outside                // it belongs to no allocation: a person or a service
	Exempt                 // it belongs to no allocation, and the operator allows it
)

// String is the word for a verdict in logs and metrics.
func (v Verdict) String() string {
	switch v {
	case Held:
		return "held"
	case NotHeld:
		return "not_held"
	case Outside:
		return "outside"
	case Exempt:
		return "exempt"
	case Unknown:
	}
	return "unknown"
}

// Reason says why a verdict was given: a fixed set of words.
type Reason string

// The reasons.
const (
	GrantValid        Reason = "grant_valid"           // held
	SeenBefore        Reason = "seen_with_grant"       // held: the task was seen with the grant, which it has lost since
	GrantMissing      Reason = "grant_missing"         // not held: the task was given no grant
	GrantForged       Reason = "grant_forged"          // not held: this plugin did not make it
	GrantElsewhere    Reason = "grant_of_other_device" // not held: a valid grant, for other devices
	GrantSuperseded   Reason = "grant_superseded"      // not held: the device was handed out again since
	GrantNotTheirs    Reason = "grant_of_other_holder" // not held, or outside: another allocation was seen with it
	NoAllocation      Reason = "no_allocation"         // outside
	ExemptCommand     Reason = "exempt_command"        // exempt
	ProcessGone       Reason = "process_gone"          // unknown
	ProcessUnreadable Reason = "process_unreadable"    // unknown: the plugin may not read it
	EnvironmentLost   Reason = "environment_lost"      // unknown: nothing in the task has the environment that Nomad gave it
	BeforeGrants      Reason = "older_than_grants"     // unknown: it ran before the plugin gave grants
)

// Source says how an allocation was recognised.
type Source uint8

// The sources, from none to the surest.
const (
	NoSource        Source = iota
	FromEnvironment        // the process says so itself
	FromMounts             // the kernel's list of what is mounted in the container
	FromCgroup             // the kernel's name of the cgroup
)

// String is the word for a source.
func (s Source) String() string {
	switch s {
	case FromEnvironment:
		return "environment"
	case FromMounts:
		return "mounts"
	case FromCgroup:
		return "cgroup"
	case NoSource:
	}
	return "none"
}

// Owner is the task that a process belongs to. AllocID is empty where it
// belongs to none; Task may be empty all the same.
type Owner struct{ AllocID, Task string }

// Use is one process on one device.
type Use struct {
	// DeviceID is the device that it holds; else the UUID of the MIG instance
	// or GPU that it is on. GPU is the UUID of the whole GPU.
	DeviceID, GPU string
	PID           int64
	// Command is the process's own name for itself, at most 15 bytes; empty
	// when it could not be read.
	Command   string
	UID       inventory.Maybe[int64] // who started it
	MemoryMiB inventory.Maybe[int64] // GPU memory
	MPS       bool                   // it is a client of the MPS server
	// AllocID and Task are Nomad's; empty when it belongs to no allocation.
	AllocID, Task string
	By            Source
	// Container is the id of the container; empty outside of one.
	Container string

	Verdict Verdict
	Reason  Reason
}

// Rogue reports whether the device is used by somebody who does not hold it.
func (u Use) Rogue() bool { return u.Verdict == NotHeld || u.Verdict == Outside }

// String says what is wrong, for people.
func (u Use) String() string {
	who := fmt.Sprintf("process %d (%s)", u.PID, u.Command)
	if u.AllocID != "" {
		who += fmt.Sprintf(" of task %q in allocation %s", u.Task, u.AllocID)
	}
	return fmt.Sprintf("%s on %s: %s", who, u.DeviceID, u.Reason.text())
}

// text says a reason in a sentence.
func (r Reason) text() string {
	switch r {
	case GrantValid:
		return "it holds the device"
	case SeenBefore:
		return "it was seen holding the device"
	case GrantMissing:
		return "the task was given no GPU; give it a device block"
	case GrantForged:
		return "its grant was not made by this plugin"
	case GrantElsewhere:
		return "the task was given other devices and uses this one too"
	case GrantSuperseded:
		return "the device has been given to another task since; this process should have ended"
	case GrantNotTheirs:
		return "its grant belongs to another allocation"
	case NoAllocation:
		return "it belongs to no Nomad allocation"
	case ExemptCommand:
		return "the operator allows it"
	case ProcessGone:
		return "it ended while it was looked at"
	case ProcessUnreadable:
		return "the plugin may not read it"
	case EnvironmentLost:
		return "its task has cleared the environment that Nomad gave it, so that nothing is known"
	case BeforeGrants:
		return "its allocation began before the plugin gave grants; it is judged when the task is placed again"
	}
	return string(r)
}
