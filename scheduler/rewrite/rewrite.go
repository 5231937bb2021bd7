package rewrite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

// Input is everything that a rewrite depends on.
type Input struct {
	// Submitted is the effective job before placement.
	Submitted *api.Job
	// Stored is the job that Nomad has now under this id, or nil.
	Stored *api.Job
	// StoredRunning says that allocations of the stored job hold devices.
	StoredRunning bool
	// Offer is for AskOf(Submitted).
	Offer cluster.Offer
	// Again names groups that get the offer although they are what is stored: nothing
	// of them runs, and what they are pinned to is not to be had.
	Again []string
}

// Rewrite decides what to add to the submitted job. A group gets the offer when
// it starts anyway: the job is new or was stopped, or the user changed one of
// the group's device blocks, or the job has ended and the user changed it. In
// every other case but Again it gets what the stored job has, which may be nothing.
func Rewrite(in Input) Patch {
	restarts := in.Stored == nil || valueOr(in.Stored.Stop, false) ||
		!in.StoredRunning && !sameWork(in.Submitted, in.Stored)
	ask := AskOf(in.Submitted)
	var patch Patch
	for i := range ask.Groups {
		g := &ask.Groups[i]
		var p GroupPatch
		if kept, ok := keep(in, g, restarts); ok {
			p = kept
			if ask.Gang {
				p.Warning = "" // its pins are for all of its allocations
			}
			patch.Kept = append(patch.Kept, g.Name)
		} else {
			p = fresh(findGroup(in.Submitted, g.Name), g, in.Offer.Find(g.Name))
		}
		if !p.empty() {
			patch.Groups = append(patch.Groups, p)
		}
	}
	return patch
}

// keep takes over what the stored group has; ok is false when the group
// starts anew.
func keep(in Input, g *cluster.GroupAsk, restarts bool) (GroupPatch, bool) {
	if restarts || slices.Contains(in.Again, g.Name) {
		return GroupPatch{}, false
	}
	submitted, stored := findGroup(in.Submitted, g.Name), findGroup(in.Stored, g.Name)
	if stored == nil {
		return GroupPatch{}, false
	}
	devices, same := storedPins(submitted, stored)
	if !same {
		return GroupPatch{}, false
	}
	p := GroupPatch{Group: g.Name, Devices: devices}
	if len(devices) > 0 && !hasEscape(submitted) {
		p.Constraints = append(p.Constraints, escape())
	}
	if len(devices) > 0 && g.Allocations() > 1 && !g.DistinctHosts {
		p.Warning = fmt.Sprintf("group %q keeps the GPUs that were pinned when it had one allocation, because changing them would restart it; "+
			"further allocations may have to wait: stop the job and run it again to place it anew", g.Name)
	}
	for _, a := range stored.Affinities {
		if ours(a) && !slices.ContainsFunc(submitted.Affinities, func(b *api.Affinity) bool { return equalAffinity(a, b) }) {
			p.Affinities = append(p.Affinities, preference(a.RTarget))
		}
	}
	return p, true
}

// fresh writes the offer down.
func fresh(group *api.TaskGroup, g *cluster.GroupAsk, offer *cluster.GroupOffer) GroupPatch {
	p := GroupPatch{Group: g.Name}
	if offer == nil {
		return p
	}
	if offer.Preferred != "" && !slices.ContainsFunc(group.Affinities, func(a *api.Affinity) bool {
		return ours(a) && a.RTarget == offer.Preferred
	}) {
		p.Affinities = []Affinity{preference(offer.Preferred)}
	}
	for i := range g.Devices {
		d := &g.Devices[i]
		union, ok := union(offer, d)
		if !ok || d.PinnedByUser() {
			continue
		}
		p.Devices = append(p.Devices, DevicePatch{Task: d.Task, Index: d.Index,
			Constraints: []cluster.Constraint{pin(union)}})
	}
	if len(p.Devices) > 0 && !hasEscape(group) {
		p.Constraints = []cluster.Constraint{escape()}
	}
	return p
}

// union lists the sets of all nodes for one device block, best node first. ok
// is false when there are none, or when an id cannot stand in Nomad's list.
func union(offer *cluster.GroupOffer, d *cluster.DeviceAsk) (string, bool) {
	var ids []string
	for _, node := range offer.Nodes {
		for _, set := range node.Sets {
			if set.Task == d.Task && set.Index == d.Index {
				ids = append(ids, set.IDs...)
			}
		}
	}
	for _, id := range ids {
		// Nomad splits at commas, trims blanks, resolves ${...}, and takes what
		// looks like a number or a boolean for one, which is never in a set.
		if id == "" || strings.ContainsAny(id, ", \t\n$") || !cluster.ParseValue(id).IsText() {
			return "", false
		}
	}
	return strings.Join(ids, ","), len(ids) > 0
}

func findGroup(job *api.Job, name string) *api.TaskGroup {
	for _, g := range job.TaskGroups {
		if g != nil && valueOr(g.Name, "") == name {
			return g
		}
	}
	return nil
}

func hasEscape(group *api.TaskGroup) bool {
	return slices.Contains(constraints(group.Constraints), escape())
}

func ours(a *api.Affinity) bool {
	return a != nil && a.LTarget == cluster.TargetNodeID && a.Operand == affinityOperand &&
		valueOr(a.Weight, 0) == affinityWeight
}

func equalAffinity(a, b *api.Affinity) bool {
	const defaultWeight = 50 // api.Affinity.Canonicalize
	return b != nil && a.LTarget == b.LTarget && a.Operand == b.Operand && a.RTarget == b.RTarget &&
		valueOr(a.Weight, defaultWeight) == valueOr(b.Weight, defaultWeight)
}
