package cluster

import (
	"slices"
	"sync"
	"time"
)

// Reservations remember what was offered to jobs whose allocations do not exist
// yet, so that two jobs admitted within seconds are not sent to the same GPUs.
// They are soft: placement prefers other GPUs and falls back to reserved ones.
// Methods may be called from several goroutines.
type Reservations struct {
	ttl time.Duration

	mu      sync.Mutex
	entries map[reservationKey]reservation
	// marked is what Mark returned last for a job without reservations of its own, and
	// unmarked what it was made of; empty once entries have changed.
	unmarked, marked Snapshot
}

type reservationKey struct{ namespace, job, group string }

type reservation struct {
	until time.Time
	// devices by node id, then device id.
	devices map[string]map[string]bool
}

// NewReservations returns an empty set whose entries live for ttl: long enough
// for Nomad to place a registered job.
func NewReservations(ttl time.Duration) *Reservations {
	return &Reservations{ttl: ttl, entries: map[reservationKey]reservation{}}
}

// Reserve remembers where an offer will lead: the set on the preferred node,
// or the sets on all nodes when none is preferred. It replaces what was reserved
// for the job.
func (r *Reservations) Reserve(ask Ask, offer Offer, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(ask.Namespace, ask.JobID)
	r.changed()
	for _, group := range offer.Groups {
		if len(group.Nodes) == 0 {
			continue
		}
		devices := map[string]map[string]bool{}
		for _, node := range group.Nodes {
			if group.Preferred != "" && group.Preferred != node.NodeID {
				continue
			}
			devices[node.NodeID] = map[string]bool{}
			for _, set := range node.Sets {
				for _, id := range set.IDs {
					devices[node.NodeID][id] = true
				}
			}
		}
		key := reservationKey{ask.Namespace, ask.JobID, group.Group}
		r.entries[key] = reservation{until: now.Add(r.ttl), devices: devices}
	}
}

// Release forgets what was reserved for the job: it was refused or is gone.
func (r *Reservations) Release(namespace, jobID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(namespace, jobID)
	r.changed()
}

// changed forgets the snapshot that was marked. The caller holds the lock.
func (r *Reservations) changed() { r.unmarked, r.marked = Snapshot{}, Snapshot{} }

// Placed forgets what was reserved for one group of the job: an allocation of
// it is there, and holds its devices by itself.
func (r *Reservations) Placed(namespace, jobID, group string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.entries, reservationKey{namespace, jobID, group})
	r.changed()
}

func (r *Reservations) release(namespace, jobID string) {
	for key := range r.entries {
		if key.namespace == namespace && key.job == jobID {
			delete(r.entries, key)
		}
	}
}

// Mark returns a copy of the snapshot with the reserved devices marked, for
// placing the given job: its own reservations do not count. Entries that have
// ended, and those whose group already holds devices in the snapshot, are
// forgotten. Jobs without reservations get the same copy (Snapshot.Same) until
// these change.
func (r *Reservations) Mark(s Snapshot, namespace, jobID string, now time.Time) Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := false
	for key, entry := range r.entries {
		if !now.Before(entry.until) {
			delete(r.entries, key)
			r.changed()
		}
		own = own || key.namespace == namespace && key.job == jobID
	}
	if !own && r.unmarked.Same(&s) {
		return r.marked
	}
	r.forgetHolders(s)
	if len(r.entries) == 0 {
		return s
	}
	marked := s
	marked.Nodes = slices.Clone(s.Nodes)
	for i := range marked.Nodes {
		reserved := r.reserved(marked.Nodes[i].ID, namespace, jobID)
		if len(reserved) > 0 {
			marked.Nodes[i].Groups = markGroups(marked.Nodes[i].Groups, reserved)
		}
	}
	if !own {
		r.unmarked, r.marked = s, marked
	}
	return marked
}

// forgetHolders forgets the groups that hold devices.
func (r *Reservations) forgetHolders(s Snapshot) {
	if len(r.entries) == 0 {
		return
	}
	for i := range s.Nodes {
		for _, group := range s.Nodes[i].Groups {
			for _, device := range group.Devices {
				key := reservationKey{device.Use.Namespace, device.Use.JobID, device.Use.Group}
				if _, ok := r.entries[key]; ok && device.Use.Held() && !device.Use.Stopping {
					delete(r.entries, key)
					r.changed()
				}
			}
		}
	}
}

// reserved lists the devices of a node that were promised to other jobs.
func (r *Reservations) reserved(nodeID, namespace, jobID string) map[string]bool {
	reserved := map[string]bool{}
	for key, entry := range r.entries {
		if key.namespace == namespace && key.job == jobID {
			continue
		}
		for id := range entry.devices[nodeID] {
			reserved[id] = true
		}
	}
	return reserved
}

func markGroups(groups []Group, reserved map[string]bool) []Group {
	out := slices.Clone(groups)
	for i := range out {
		out[i].Devices = slices.Clone(out[i].Devices)
		for j := range out[i].Devices {
			out[i].Devices[j].Reserved = reserved[out[i].Devices[j].ID]
		}
	}
	return out
}
