package jobspec

import (
	"time"

	"github.com/hashicorp/nomad/api"
)

// Ask is what one job requests, read from its effective specification (after
// Preserve* flags are resolved). Only groups with device asks for GPUs appear.
type Ask struct {
	Region    string
	Namespace string
	JobID     string
	// ParentID is the template that the job was launched from: a periodic or
	// parameterized job; "" for a job of its own.
	ParentID string
	Name     string
	// Type is Nomad's job type: service, batch, system or sysbatch.
	Type     string
	NodePool string
	Priority int
	// Datacenters that may run it, patterns included, as written.
	Datacenters []string
	// Periodic and Parameterized templates run nothing themselves; each launch
	// asks for the groups.
	Periodic      bool
	Parameterized bool
	Meta          map[string]string
	// Groups in the order of the job, only those that ask for GPUs.
	Groups []GroupAsk
	// Undeclared are the ways by which the job can reach GPUs without asking for
	// devices, or others than it was given; see Undeclared.
	Undeclared []Undeclared
}

// EveryNode reports whether the job runs on each node that can serve it, so
// that its size follows the cluster: system and sysbatch jobs.
func (a Ask) EveryNode() bool { return a.Type == api.JobTypeSystem || a.Type == api.JobTypeSysbatch }

// Template reports whether the job runs nothing by itself: its launches do.
func (a Ask) Template() bool { return a.Periodic || a.Parameterized }

// GroupAsk is what one task group requests.
type GroupAsk struct {
	Name string
	// Count of allocations, at least 0; Canaries come on top while a deployment
	// runs.
	Count    int
	Canaries int
	// MaxParallel is how many allocations an update replaces at once: their
	// successors may hold GPUs while they still end. 0 when the group has no
	// deployments.
	MaxParallel int
	// KillTimeout and ShutdownDelay are the largest of the group's tasks (and of
	// the group itself): an allocation holds its GPUs for that much longer.
	KillTimeout   time.Duration
	ShutdownDelay time.Duration
	// MaxRunDuration is Nomad's own bound; zero when the job sets none.
	MaxRunDuration time.Duration
	// Reschedules is how often a failed allocation may start again on its own;
	// UnlimitedReschedules means that Nomad would never stop trying.
	Reschedules          int
	UnlimitedReschedules bool
	// Devices in task order, then block order; only GPUs.
	Devices []DeviceAsk
}

// DeviceAsk is one device block of one task.
type DeviceAsk struct {
	Task string
	// Index of the block among the task's device blocks (all of them, GPUs or
	// not), for patches.
	Index int
	// Name as written: "gpu", "nvidia/gpu" or "nvidia/gpu/<model>".
	Name  string
	Count int
	// Constraints of the block on what the device is: its model, vendor or type.
	Constraints []Constraint
}

// GPUs is the largest number of GPUs that the job holds at once.
func (a Ask) GPUs() int {
	total := 0
	for _, g := range a.Groups {
		total += (g.Count + g.Canaries) * g.GPUs()
	}
	return total
}

// GPUs is the number of GPUs of one allocation of the group.
func (g GroupAsk) GPUs() int {
	total := 0
	for _, d := range g.Devices {
		total += d.Count
	}
	return total
}

// Patch is a set of additions to a job document: constraints and affinities at
// the end of the existing lists. Before that it takes out what Drop names.
type Patch struct {
	Groups []GroupPatch
	// Drop is the LTarget of constraints that are removed from every task group; ""
	// removes nothing.
	Drop string
}

// GroupPatch adds to one task group, found by name.
type GroupPatch struct {
	Group       string
	Constraints []Constraint
	Affinities  []Affinity
	Devices     []DevicePatch
}

// DevicePatch adds constraints to one device block of one task.
type DevicePatch struct {
	Task        string
	Index       int
	Constraints []Constraint
}

// Constraint is Nomad's constraint object.
type Constraint struct {
	LTarget string
	RTarget string
	Operand string
}

// Affinity is Nomad's affinity object; Weight is in -100..100 and not zero.
type Affinity struct {
	LTarget string
	RTarget string
	Operand string
	Weight  int
}

// Empty reports whether the patch changes nothing.
func (p Patch) Empty() bool { return len(p.Groups) == 0 && p.Drop == "" }
