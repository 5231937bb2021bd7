package index

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/sets"
)

// Standing is how good a node is for an ask: the one policy by which Find and List,
// and package place, choose among nodes. Fields are compared in their order, the
// least is the best. No two nodes compare equal, so that the best node does not depend on
// which others there are.
type Standing struct {
	// Cost is sets.Joint.Cost: bandwidth and how full the machine is.
	Cost int32
	// Loss is how much of their value the free GPUs lose, in sets.Units, FreeGPUs how many
	// these are before, and Free which.
	Loss     int
	FreeGPUs int
	Free     uint64
	// Class is Class.ID.
	Class string
	// Level is how much CPU and memory is free, in eighths of what a usual node of the
	// class has: CPU counts first.
	Level uint8
	// Key is a number made of the node's id, which ends all ties but of equal numbers.
	Key  uint64
	Node string
}

// StandingOf is how good a node of a class is, by its id and its free CPU in MHz and
// memory in MiB, but for its GPUs.
func StandingOf(node string, c Class, cpu, memoryMiB int) Standing {
	of := class{Class: c}
	return Standing{Class: c.ID, Level: of.levelOf(max(0, cpu), max(0, memoryMiB)), Key: keyOf(node), Node: node}
}

// Of is s with what taking so many GPUs out of the free ones means.
func (s Standing) Of(j *sets.Joint, free uint64, gpus int) Standing {
	s.Cost, s.Loss, s.FreeGPUs, s.Free = j.Cost(free, gpus), loss(j, free, gpus), bits.OnesCount64(free), free
	return s
}

// Compare is negative when s is better.
func (s *Standing) Compare(o *Standing) int {
	return cmp.Or(
		cmp.Compare(s.Cost, o.Cost),
		cmp.Compare(s.Loss, o.Loss),
		cmp.Compare(s.FreeGPUs, o.FreeGPUs),
		cmp.Compare(s.Free, o.Free),
		cmp.Compare(s.Class, o.Class),
		cmp.Compare(s.Level, o.Level),
		cmp.Compare(s.Key, o.Key),
		cmp.Compare(s.Node, o.Node),
	)
}

// Sort puts the best node first.
func Sort[T any](nodes []T, standing func(*T) *Standing) {
	slices.SortFunc(nodes, func(a, b T) int { return standing(&a).Compare(standing(&b)) })
}
