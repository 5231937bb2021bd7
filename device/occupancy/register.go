package occupancy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// entriesMax bounds the register. MIG instances come and go with new ids.
const entriesMax = 1024

// Register is which grant is the latest of each device, and who was seen with
// it. It is a value: the methods return a new one and change nothing.
type Register struct {
	// Latest is by device id.
	Latest map[string]Entry
	// Adopted are the allocations that ran before there were grants, sorted.
	Adopted []string
}

// Entry is the latest grant of one device.
type Entry struct {
	Nonce string
	// Serial orders grants: a later one has a greater one.
	Serial int64
	// AllocID and Task are who was first seen with the grant; empty until
	// then, for ever where a host names no allocations.
	AllocID, Task string
}

// Issue records a grant of devices; what was granted of them before is void.
func (r Register) Issue(ids []string, nonce string) Register {
	next := r.clone()
	serial := r.serial() + 1
	for _, id := range ids {
		next.Latest[id] = Entry{Nonce: nonce, Serial: serial}
	}
	return next.pruned()
}

// Bind records who was seen with a grant, unless somebody was before.
func (r Register) Bind(nonce string, owner Owner) Register {
	next := r.clone()
	for id, e := range next.Latest {
		if e.Nonce == nonce && e.AllocID == "" {
			e.AllocID, e.Task = owner.AllocID, owner.Task
			next.Latest[id] = e
		}
	}
	return next
}

// Merge joins two registers of which each may have what the other has not: of
// two entries the later one counts, of two of one grant the one that says who
// has it. The order in which registers are merged does not matter.
func (r Register) Merge(other Register) Register {
	next := r.clone()
	for id, theirs := range other.Latest {
		ours, ok := next.Latest[id]
		if !ok || ours.before(theirs) {
			next.Latest[id] = theirs
		}
	}
	next.Adopted = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Adopted, other.Adopted))))
	return next.pruned()
}

// before orders the entries of one device. Two grants of one serial are of two
// processes that did not know of each other; which one counts is arbitrary.
func (e Entry) before(other Entry) bool {
	return cmp.Or(cmp.Compare(e.Serial, other.Serial), strings.Compare(e.Nonce, other.Nonce),
		strings.Compare(e.AllocID, other.AllocID), strings.Compare(e.Task, other.Task)) < 0
}

// at returns the ids of the granted devices that cover a place, sorted.
func (r Register) at(p Place) []string {
	var found []string
	for id := range r.Latest {
		if p.covers(id) {
			found = append(found, id)
		}
	}
	slices.Sort(found)
	return found
}

func (r Register) clone() Register {
	next := Register{Latest: maps.Clone(r.Latest), Adopted: slices.Clone(r.Adopted)}
	if next.Latest == nil {
		next.Latest = map[string]Entry{}
	}
	return next
}

func (r Register) serial() int64 {
	var most int64
	for _, e := range r.Latest {
		most = max(most, e.Serial)
	}
	return most
}

// pruned forgets the oldest entries over the limit.
func (r Register) pruned() Register {
	if len(r.Latest) <= entriesMax {
		return r
	}
	ids := slices.SortedFunc(maps.Keys(r.Latest), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Latest[a].Serial, r.Latest[b].Serial), strings.Compare(a, b))
	})
	for _, id := range ids[:len(ids)-entriesMax] {
		delete(r.Latest, id)
	}
	return r
}
