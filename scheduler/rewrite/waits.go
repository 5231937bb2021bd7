package rewrite

import (
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// Waits reports whether a stored group has pins of ours, and none of the nodes that could
// run it now has the GPUs free that it is pinned to: Nomad waits for them, whatever else
// is free. A device that was promised to another job a moment ago counts as taken.
func Waits(stored *api.Job, group string, s *cluster.Snapshot, nodes []cluster.NodeOffer) bool {
	g := findGroup(stored, group)
	if g == nil || !hasEscape(g) {
		return false
	}
	var pinned []*api.RequestedDevice
	for _, task := range g.Tasks {
		for _, d := range devices(task) {
			if pinOf(d) != "" {
				pinned = append(pinned, d)
			}
		}
	}
	if len(pinned) == 0 {
		return false
	}
	return !slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool {
		return slices.ContainsFunc(nodes, func(o cluster.NodeOffer) bool { return o.NodeID == n.ID }) && hasFree(&n, pinned)
	})
}

// pinOf is the list of devices that placement wrote into a block; "" for none.
func pinOf(d *api.RequestedDevice) string {
	if d == nil {
		return ""
	}
	list := constraints(d.Constraints)
	if last := len(list) - 1; last >= 0 && list[last] == pin(list[last].RTarget) {
		return list[last].RTarget
	}
	return ""
}

// hasFree reports whether a node has enough of the pinned devices free for each block.
// The sets of different blocks are disjoint, so that each is looked at alone.
func hasFree(n *cluster.Node, pinned []*api.RequestedDevice) bool {
	for _, d := range pinned {
		ids, free := strings.Split(pinOf(d), ","), 0
		for i := range n.Groups {
			for _, device := range n.Groups[i].Devices {
				if device.Healthy && !device.Use.Held() && !device.Reserved && slices.Contains(ids, device.ID) {
					free++
				}
			}
		}
		if free < int(valueOr(d.Count, 1)) {
			return false
		}
	}
	return true
}
