package cluster

import "time"

// Ask is what one job requests, as far as placement cares.
type Ask struct {
	Namespace string
	JobID     string
	// Type is Nomad's job type: service, batch, system or sysbatch.
	Type string
	// Template marks a periodic or parameterized job: it runs nothing itself, and
	// every launch copies its constraints.
	Template    bool
	Datacenters []string
	Pool        string
	// Loading is what each node would load before the job can start, by node id; nil for
	// a job that names no state.
	Loading map[string]Loading
	// Groups that ask for GPUs, in the order of the job.
	Groups []GroupAsk
}

// Loading is how long a node loads the state that a job wants.
type Loading struct {
	Takes time.Duration
	// Text says what is loaded from where.
	Text string
}

// GroupAsk is what each allocation of one task group requests.
type GroupAsk struct {
	Name string
	// Count of allocations; Canaries come on top while a deployment runs.
	Count    int
	Canaries int
	// CountMax is the most that the group's scaling policy allows; 0 without one.
	CountMax int
	// DistinctHosts says that no two allocations of the group share a node.
	DistinctHosts bool
	// Drivers of the tasks, sorted, each once.
	Drivers []string
	// Constraints of the job, the group and its tasks on nodes.
	Constraints []Constraint
	// CPU in MHz and memory in MiB, all tasks together.
	CPU       int
	MemoryMiB int
	// Devices in task order, then block order; only GPUs and MIG slices.
	Devices []DeviceAsk
}

// DeviceAsk is one device block of one task.
type DeviceAsk struct {
	Task string
	// Index of the block among all device blocks of the task.
	Index int
	// Name as written: "gpu", "nvidia/gpu" or "nvidia/gpu/<model>".
	Name  string
	Count int
	// Constraints of the block, on ${device....}.
	Constraints []Constraint
}

// PinnedByUser reports whether the block names devices itself: placement
// leaves such a block alone.
func (d *DeviceAsk) PinnedByUser() bool {
	for _, c := range d.Constraints {
		if c.LTarget == TargetDeviceIDs || c.RTarget == TargetDeviceIDs {
			return true
		}
	}
	return false
}

// Allocations is how many allocations of the group may run at once.
func (g *GroupAsk) Allocations() int { return max(g.Count+g.Canaries, g.CountMax) }

// GPUs is the number of devices of one allocation.
func (g *GroupAsk) GPUs() int {
	total := 0
	for _, d := range g.Devices {
		total += d.Count
	}
	return total
}
