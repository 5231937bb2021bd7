package metering

import (
	"cmp"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Timeline is which allocation had which GPU from when on. Nomad gives a GPU to
// the next allocation in the same plan in which it stops the one that has it, so
// that for a while both seem to have it. From the placement of the later one on it
// counts for the later one alone: no millisecond of a GPU is posted twice.
//
// The GPUs are known by their device ids. Instances and shares of one GPU have ids
// of their own, and each is a part of it: they do not take it from one another.
type Timeline struct {
	tenures map[string][]tenure // by device id, in the order in which Nomad placed them
}

type tenure struct {
	alloc  string
	index  uint64
	fromMS int64
}

// NewTimeline is one in which nobody has a GPU yet.
func NewTimeline() *Timeline { return &Timeline{tenures: make(map[string][]tenure)} }

// See notes that an allocation was given GPUs, by Nomad's create index and time of
// the allocation. The order in which allocations are seen does not matter. It
// returns the allocations whose end of a GPU this may have changed, sorted.
func (t *Timeline) See(alloc string, index uint64, fromMS int64, ids []string) []string {
	var earlier []string
	for _, id := range ids {
		all := t.tenures[id]
		if slices.ContainsFunc(all, func(one tenure) bool { return one.alloc == alloc }) {
			continue
		}
		next := tenure{alloc, index, fromMS}
		at, _ := slices.BinarySearchFunc(all, next, func(a, b tenure) int {
			return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.alloc, b.alloc))
		})
		t.tenures[id] = slices.Insert(slices.Clone(all), at, next)
		for _, one := range all[:at] {
			earlier = append(earlier, one.alloc)
		}
	}
	slices.Sort(earlier)
	return slices.Compact(earlier)
}

// Given are those of an allocation's GPUs that others were given before it ended;
// an endMS of 0 means that it has not.
func (t *Timeline) Given(alloc string, ids []string, endMS int64) []ledger.Given {
	var given []ledger.Given
	for _, id := range ids {
		all := t.tenures[id]
		at := slices.IndexFunc(all, func(one tenure) bool { return one.alloc == alloc })
		if at < 0 || at == len(all)-1 {
			continue
		}
		// Of those that came later the first counts: the clocks of two servers differ.
		next := slices.MinFunc(all[at+1:], func(a, b tenure) int { return cmp.Compare(a.fromMS, b.fromMS) })
		if endMS == 0 || next.fromMS < endMS {
			given = append(given, ledger.Given{ID: id, AtMS: next.fromMS})
		}
	}
	return given
}
