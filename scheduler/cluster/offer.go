package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// Offer is what placement proposes for one job.
type Offer struct {
	// Groups in the order of the ask, every asking group once.
	Groups []GroupOffer
	// Gang says that every allocation has a NodeOffer of its own, and that those of
	// one group that are on one node may take each other's devices.
	Gang bool `json:",omitempty"`
	// Infeasible is set when no node could serve the ask even if the cluster
	// were idle; the groups then offer nothing.
	Infeasible *Infeasible
}

// GroupOffer is what placement proposes for one task group.
type GroupOffer struct {
	Group string
	// Preferred is the id of the node to prefer; empty when there is none.
	Preferred string
	// Nodes with the exact devices to use on each, best first. Empty: the devices
	// are left to Nomad.
	Nodes []NodeOffer
}

// NodeOffer is the choice of devices for one allocation on one node.
type NodeOffer struct {
	NodeID   string
	NodeName string
	// Sets, one for each device block, in the order of the ask; disjoint.
	Sets []Set
}

// Set is the devices for one device block.
type Set struct {
	Task  string
	Index int
	// Device is the full name of the device group they belong to.
	Device string
	// IDs in PCI order.
	IDs []string
}

// Infeasible says why no node could ever serve the ask.
type Infeasible struct {
	Group string
	// Task and Device are the block that fails; Task is empty when each block
	// alone would fit but not all blocks of the group together.
	Task   string
	Device string
	Count  int
	// LargestNode has the most matching devices, LargestCount; empty when no node
	// has any.
	LargestNode  string
	LargestCount int
	// Names of all devices in the cluster, sorted.
	Names []string
	// Gang is the sentence for a gang of which each allocation alone would fit, but
	// not all of them together; the other fields then say nothing.
	Gang string
}

// String is the sentence for people.
func (i *Infeasible) String() string {
	if i.Gang != "" {
		return i.Gang
	}
	var b strings.Builder
	if i.Task != "" {
		fmt.Fprintf(&b, "no node can ever run group %q: task %q asks for %d x %s on one node", i.Group, i.Task, i.Count, i.Device)
	} else {
		fmt.Fprintf(&b, "no node can ever run group %q: its tasks together ask for %d GPUs on one node", i.Group, i.Count)
	}
	if i.LargestNode != "" {
		fmt.Fprintf(&b, ", but the largest matching node, %s, has %d", i.LargestNode, i.LargestCount)
	} else {
		b.WriteString(", but no node that the job may use has such a device")
	}
	if len(i.Names) > 0 {
		fmt.Fprintf(&b, ". Devices in the cluster: %s", strings.Join(i.Names, ", "))
	} else {
		b.WriteString(". The cluster has no GPUs now")
	}
	return b.String()
}

// Find returns the offer for a group, or nil.
func (o *Offer) Find(group string) *GroupOffer {
	for i := range o.Groups {
		if o.Groups[i].Group == group {
			return &o.Groups[i]
		}
	}
	return nil
}

// Without leaves out the groups that keep what they have, for Reserve and
// Verify.
func (o Offer) Without(groups []string) Offer {
	o.Groups = slices.DeleteFunc(slices.Clone(o.Groups), func(g GroupOffer) bool {
		return slices.Contains(groups, g.Group)
	})
	return o
}

// Allocation is what Nomad gave to one allocation.
type Allocation struct {
	ID        string
	Namespace string
	JobID     string
	Group     string
	NodeID    string
	// Devices by task, all its blocks together, in any order.
	Devices map[string][]string
}

// Verification compares an allocation with the offer it came from.
type Verification struct {
	// Verified says that every task holds exactly the offered devices. It is also
	// true when nothing was offered.
	Verified bool
	// Mismatches tell what differs, sorted by task; each is one sentence.
	Mismatches []string
}

// Verify checks that an allocation holds exactly the devices that were offered
// for the node it is on. Nomad up to 1.11.0 could start an allocation without
// its GPUs after a lost race, so the answer of the scheduler is never trusted.
func Verify(offer Offer, alloc Allocation) Verification {
	group := offer.Find(alloc.Group)
	if group == nil || len(group.Nodes) == 0 {
		return Verification{Verified: true}
	}
	at := slices.IndexFunc(group.Nodes, func(n NodeOffer) bool { return n.NodeID == alloc.NodeID })
	if at < 0 {
		return Verification{Mismatches: []string{fmt.Sprintf(
			"allocation %s is on node %s, which was not offered", alloc.ID, alloc.NodeID)}}
	}
	if offer.Gang {
		return verifyMember(group, alloc)
	}
	want := map[string][]string{}
	for _, set := range group.Nodes[at].Sets {
		want[set.Task] = append(want[set.Task], set.IDs...)
	}
	var mismatches []string
	for _, task := range sortedKeys(want, alloc.Devices) {
		wanted, got := sortedCopy(want[task]), sortedCopy(alloc.Devices[task])
		if !slices.Equal(wanted, got) {
			mismatches = append(mismatches, fmt.Sprintf("task %q holds [%s], offered was [%s]",
				task, strings.Join(got, ","), strings.Join(wanted, ",")))
		}
	}
	return Verification{Verified: len(mismatches) == 0, Mismatches: mismatches}
}

// verifyMember checks one allocation of a gang: Nomad may have given it devices of
// several that are on its node, but only theirs, and as many as one has.
func verifyMember(group *GroupOffer, alloc Allocation) Verification {
	want, offered := map[string]int{}, map[string][]string{}
	for _, node := range group.Nodes {
		if node.NodeID != alloc.NodeID {
			continue
		}
		clear(want)
		for _, set := range node.Sets {
			offered[set.Task] = append(offered[set.Task], set.IDs...)
			want[set.Task] += len(set.IDs)
		}
	}
	var mismatches []string
	for _, task := range sortedKeys(offered, alloc.Devices) {
		got := sortedCopy(alloc.Devices[task])
		foreign := slices.ContainsFunc(got, func(id string) bool { return !slices.Contains(offered[task], id) })
		if foreign || len(got) != want[task] {
			mismatches = append(mismatches, fmt.Sprintf("task %q holds [%s], offered were %d of [%s]",
				task, strings.Join(got, ","), want[task], strings.Join(sortedCopy(offered[task]), ",")))
		}
	}
	return Verification{Verified: len(mismatches) == 0, Mismatches: mismatches}
}

func sortedCopy(ids []string) []string {
	out := slices.Clone(ids)
	slices.Sort(out)
	return out
}

func sortedKeys(ms ...map[string][]string) []string {
	var keys []string
	for _, m := range ms {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
