package ledger

import (
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Given is one GPU that Nomad has given to another allocation before this one
// had ended: from then on it counts for the other one. Nomad does so when it
// stops an allocation in the same plan in which it places its successor or the
// one that preempts it.
type Given struct {
	ID   string
	AtMS int64
}

// Energy is what the GPUs of one class of an allocation drew. It is kept with
// the hold, so that a new leader goes on where the old one stopped. A GPU is
// counted up to its counter's reading; what it drew since then is not known yet.
type Energy struct {
	// CountedMJ is what counters showed, in millijoules.
	CountedMJ int64 `json:"counted_mj,omitempty"`
	// Guessed says that some of it that is not posted yet was not read from a
	// counter of these GPUs alone.
	Guessed bool `json:"guessed,omitempty"`
	// PowerMW is the mean power of one of the GPUs over the latest time that was
	// counted, in milliwatts; 0 if nothing was counted yet.
	PowerMW int64 `json:"power_mw,omitempty"`
	// PostedJ is what is posted, in joules.
	PostedJ quantity.Amount `json:"posted_j,omitempty"`
	// Counters are the readings that CountedMJ goes up to, in the order of the ids.
	Counters []Counter `json:"counters,omitempty"`
}

// Counter is one reading of a GPU's energy counter, in millijoules since the
// driver was loaded.
type Counter struct {
	ID     string `json:"id"`
	MilliJ int64  `json:"mj"`
	// AtMS is when it was read, on the agent's clock.
	AtMS int64 `json:"at_ms"`
	// BootMS is when the node was started; 0 if it did not say.
	BootMS int64 `json:"boot_ms,omitempty"`
}

// holding are the GPUs that the allocation still has: those that were not given
// to another one.
func (t Track) holding() []TrackGPUs {
	if !slices.ContainsFunc(t.GPUs, func(g TrackGPUs) bool { return g.EndMS != 0 }) {
		return t.GPUs
	}
	var out []TrackGPUs
	for _, g := range t.GPUs {
		if g.EndMS == 0 {
			out = append(out, g)
		}
	}
	return out
}

// give notes that GPUs of the track belong to other allocations from some time
// on. It reports whether that was not known of any of them, or is earlier than was
// known.
func (t *Track) give(given []Given) bool {
	gave := false
	for _, one := range given {
		at := max(one.AtMS, t.StartMS)
		for i := range t.GPUs {
			g := t.GPUs[i]
			if !slices.Contains(g.IDs, one.ID) {
				continue
			}
			if g.EndMS != 0 && g.EndMS <= at {
				break
			}
			if !gave {
				t.GPUs = slices.Clone(t.GPUs)
				gave = true
			}
			if g.EndMS != 0 {
				t.GPUs[i].EndMS = at
			} else {
				t.giveOne(i, one.ID, at)
			}
			break
		}
	}
	return gave
}

// giveOne moves one GPU out of a group into one of its own, which ends at atMS.
func (t *Track) giveOne(i int, id string, atMS int64) {
	from := t.GPUs[i]
	alone := TrackGPUs{Class: from.Class, IDs: []string{id}, PerGPUHour: from.PerGPUHour, Watts: from.Watts, EndMS: atMS, MarkMS: t.MarkMS}
	if len(from.IDs) == 1 {
		alone.Energy = from.Energy
		t.GPUs[i] = alone
		return
	}
	share := from.Energy.split(len(from.IDs), id)
	alone.Energy, from.Energy = share[0], share[1]
	from.IDs = slices.DeleteFunc(slices.Clone(from.IDs), func(other string) bool { return other == id })
	t.GPUs[i] = from
	t.GPUs = append(t.GPUs, alone)
}

// split divides what was counted and posted of n GPUs into that of one and that
// of the others, evenly; the counters go with their GPUs.
func (e *Energy) split(n int, id string) [2]*Energy {
	if e == nil {
		return [2]*Energy{}
	}
	one, rest := *e, *e
	one.CountedMJ, one.PostedJ = e.CountedMJ/int64(n), e.PostedJ/quantity.Amount(n)
	rest.CountedMJ, rest.PostedJ = e.CountedMJ-one.CountedMJ, e.PostedJ.Sub(one.PostedJ)
	one.Counters, rest.Counters = nil, nil
	for _, c := range e.Counters {
		if c.ID == id {
			one.Counters = append(one.Counters, c)
		} else {
			rest.Counters = append(rest.Counters, c)
		}
	}
	return [2]*Energy{&one, &rest}
}
