package rewrite

import "github.com/nomad-governor/governor/scheduler/cluster"

// Patch is what to add to a job document. Every list goes to the end of the
// existing one.
type Patch struct {
	// Groups in the order of the job, only those with additions.
	Groups []GroupPatch
	// Kept names the groups that the offer was not used for, in the order of the
	// job: they get again what the stored job has, which may be nothing.
	Kept []string
}

// GroupPatch adds to one task group, found by name.
type GroupPatch struct {
	Group string
	// Warning for the user, or empty.
	Warning     string
	Constraints []cluster.Constraint
	Affinities  []Affinity
	Devices     []DevicePatch
}

// DevicePatch adds constraints to one device block of one task.
type DevicePatch struct {
	Task string
	// Index of the block among all device blocks of the task.
	Index       int
	Constraints []cluster.Constraint
}

// Affinity is Nomad's affinity object.
type Affinity struct {
	LTarget string
	Operand string
	RTarget string
	Weight  int
}

// affinityWeight is Nomad's maximum: only then does the preferred node win over
// a node that is packed tighter.
const affinityWeight = 100

// affinityOperand means "=" to Nomad. Nobody's jobspec says "is" by default,
// so an affinity of ours is recognised when the job comes back.
const affinityOperand = "is"

func escape() cluster.Constraint {
	return cluster.Constraint{LTarget: cluster.TargetNodeID, Operand: "is_set"}
}

func pin(union string) cluster.Constraint {
	return cluster.Constraint{LTarget: cluster.TargetDeviceIDs, Operand: "set_contains_any", RTarget: union}
}

func preference(nodeID string) Affinity {
	return Affinity{LTarget: cluster.TargetNodeID, Operand: affinityOperand, RTarget: nodeID, Weight: affinityWeight}
}

func (g *GroupPatch) empty() bool {
	return len(g.Constraints) == 0 && len(g.Affinities) == 0 && len(g.Devices) == 0
}
