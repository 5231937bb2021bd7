package cluster

import (
	"slices"
	"sync"
)

// Planned are GPUs that the leader has set aside for a gang that waited for long: it is
// to start on them at StartMS, when what runs there must be over. Until then they are
// for work that ends by itself before, as with the backfill of Slurm, where nodes are
// then in state PLANNED.
type Planned struct {
	// Namespace and JobID are the gang's.
	Namespace, JobID string
	// StartMS is when all of them are free at the latest, in Unix milliseconds.
	StartMS int64
	// Devices are ids by node id.
	Devices map[string][]string
}

// Count is how many devices are set aside.
func (p *Planned) Count() int {
	n := 0
	for _, ids := range p.Devices {
		n += len(ids)
	}
	return n
}

// backfillSlack is how much earlier than a gang starts backfilled work must be over: Nomad
// needs a moment to start it, and one to stop it.
const backfillSlack = int64(60_000)

// Against are the plans that a job must keep clear of: those of others that start
// before it is over. endMS is when it has ended at the latest, 0 for never.
func Against(plans []Planned, namespace, jobID string, endMS int64) []Planned {
	return slices.DeleteFunc(slices.Clone(plans), func(p Planned) bool {
		return p.Namespace == namespace && p.JobID == jobID || endMS != 0 && endMS+backfillSlack <= p.StartMS
	})
}

// SetAside marks what is planned in snapshots. It remembers the last copy, so that the
// same snapshot with the same plans stays the same (Snapshot.Same). Methods may be called
// from several goroutines.
type SetAside struct {
	mu           sync.Mutex
	from, marked Snapshot
	plans        []Planned
}

// Taken is a copy of the snapshot in which free devices that are planned count as held
// by the gangs that they are planned for.
func (s *SetAside) Taken(from Snapshot, plans []Planned) Snapshot {
	if len(plans) == 0 {
		return from
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from.Same(&from) && slices.EqualFunc(s.plans, plans, samePlan) {
		return s.marked
	}
	marked := onDevices(from, plans, func(_ *Node, d *Device, p *Planned) {
		if !d.Use.Held() {
			d.Use = Use{AllocID: plannedAlloc, Namespace: p.Namespace, JobID: p.JobID}
		}
	})
	s.from, s.plans, s.marked = from, plans, marked
	return marked
}

// plannedAlloc stands for the allocation that a gang does not have yet.
const plannedAlloc = "planned"

// Idle is a copy of the snapshot in which the devices that are planned are free, with the
// CPU and memory of what holds them.
func Idle(from Snapshot, plans []Planned) Snapshot {
	gone := map[string]bool{}
	return onDevices(from, plans, func(n *Node, d *Device, _ *Planned) {
		if d.Use.Held() && !gone[d.Use.AllocID] {
			gone[d.Use.AllocID] = true
			n.CPU.Free, n.MemoryMiB.Free = n.CPU.Free+d.Use.CPU, n.MemoryMiB.Free+d.Use.MemoryMiB
		}
		d.Use, d.Reserved = Use{}, false
	})
}

// onDevices is a copy of the snapshot with its planned devices changed.
func onDevices(from Snapshot, plans []Planned, change func(n *Node, d *Device, p *Planned)) Snapshot {
	out := from
	out.Nodes = slices.Clone(from.Nodes)
	for i := range out.Nodes {
		n := &out.Nodes[i]
		for at := range plans {
			ids := plans[at].Devices[n.ID]
			if len(ids) == 0 {
				continue
			}
			n.Groups = slices.Clone(n.Groups)
			for j := range n.Groups {
				n.Groups[j].Devices = slices.Clone(n.Groups[j].Devices)
				for k := range n.Groups[j].Devices {
					if d := &n.Groups[j].Devices[k]; slices.Contains(ids, d.ID) {
						change(n, d, &plans[at])
					}
				}
			}
		}
	}
	return out
}

// Stands reports whether a plan can still come true, and when: every device is there,
// healthy, and free or held by an allocation that is over in time. ends says when
// allocations are over, by id, in Unix milliseconds; one that is missing runs for ever. A
// plan that waits for nothing any more does not stand: its gang lacks something else.
func (p *Planned) Stands(s *Snapshot, ends map[string]int64) (startMS int64, ok bool) {
	good := 0
	for i := range s.Nodes {
		ids := p.Devices[s.Nodes[i].ID]
		if len(ids) == 0 || !s.Nodes[i].Ready {
			continue
		}
		for j := range s.Nodes[i].Groups {
			for _, d := range s.Nodes[i].Groups[j].Devices {
				end, has := ends[d.Use.AllocID]
				if !slices.Contains(ids, d.ID) || !d.Healthy || d.Use.Held() && (!has || end > p.StartMS) {
					continue
				}
				if good++; d.Use.Held() {
					startMS = max(startMS, end)
				}
			}
		}
	}
	return startMS, good == p.Count() && startMS != 0
}

func samePlan(a, b Planned) bool {
	if a.Namespace != b.Namespace || a.JobID != b.JobID || a.StartMS != b.StartMS || len(a.Devices) != len(b.Devices) {
		return false
	}
	for node, ids := range a.Devices {
		if !slices.Equal(ids, b.Devices[node]) {
			return false
		}
	}
	return true
}
