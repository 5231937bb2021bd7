package place

import (
	"maps"
	"slices"
	"sort"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// PlanGang finds when and where a gang that does not fit now can start at the latest, if
// nothing new comes in its way: the first moment at which all of it fits, once those
// allocations are over that have an end. ends are these, by allocation id, in Unix
// milliseconds; an allocation that is missing runs for ever. known is false where the
// gang does not fit even then.
//
// The moment is found by halving, as if more free GPUs never made a gang fit worse.
// PlaceGang promises that only for groups of one size; for others what is found may be
// later than it need be, and still is a moment and a place that fit.
func (p *Placer) PlanGang(s cluster.Snapshot, a cluster.Ask, ends map[string]int64) (planned cluster.Planned, known bool) {
	moments := momentsOf(&s, ends)
	var found cluster.Offer
	at := sort.Search(len(moments), func(i int) bool {
		_, _, gang := p.PlaceGang(after(s, ends, moments[i]), a)
		if gang.Allocations == 0 || !gang.Fits() {
			return false
		}
		found = gang.Reserve
		return true
	})
	if at == len(moments) {
		return cluster.Planned{}, false
	}
	planned = cluster.Planned{Namespace: a.Namespace, JobID: a.JobID, StartMS: moments[at], Devices: map[string][]string{}}
	for i := range found.Groups {
		for _, n := range found.Groups[i].Nodes {
			for _, set := range n.Sets {
				planned.Devices[n.NodeID] = append(planned.Devices[n.NodeID], set.IDs...)
			}
		}
	}
	for node, ids := range planned.Devices {
		slices.Sort(ids)
		planned.Devices[node] = slices.Compact(ids)
	}
	return planned, planned.Count() > 0
}

// momentsOf are the ends of the allocations that hold devices, in order.
func momentsOf(s *cluster.Snapshot, ends map[string]int64) []int64 {
	seen := map[int64]bool{}
	for i := range s.Nodes {
		for j := range s.Nodes[i].Groups {
			for _, d := range s.Nodes[i].Groups[j].Devices {
				if end, has := ends[d.Use.AllocID]; has && d.Use.Held() {
					seen[end] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// after is the snapshot without the allocations that are over by then: with their
// devices, and their CPU and memory.
func after(s cluster.Snapshot, ends map[string]int64, ms int64) cluster.Snapshot {
	over := func(d *cluster.Device) bool {
		end, has := ends[d.Use.AllocID]
		return d.Use.Held() && has && end <= ms
	}
	out := s
	out.Nodes = slices.Clone(s.Nodes)
	for i := range out.Nodes {
		n := &out.Nodes[i]
		gone := map[string]bool{}
		for j := range n.Groups {
			if !slices.ContainsFunc(n.Groups[j].Devices, func(d cluster.Device) bool { return over(&d) }) {
				continue
			}
			n.Groups = slices.Clone(n.Groups)
			n.Groups[j].Devices = slices.Clone(n.Groups[j].Devices)
			for k := range n.Groups[j].Devices {
				d := &n.Groups[j].Devices[k]
				if !over(d) {
					continue
				}
				if !gone[d.Use.AllocID] {
					gone[d.Use.AllocID] = true
					n.CPU.Free, n.MemoryMiB.Free = n.CPU.Free+d.Use.CPU, n.MemoryMiB.Free+d.Use.MemoryMiB
				}
				d.Use = cluster.Use{}
			}
		}
	}
	return out
}
