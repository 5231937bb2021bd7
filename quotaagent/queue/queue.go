package queue

import (
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Books are the balances by budget path; a missing one is empty.
type Books = map[string]ledger.Balance

// Fits reports whether a job that waits fits into the books at an instant.
type Fits func(q ledger.Queued, books Books, at time.Time) bool

// Input is all that the places of a queue follow from.
type Input struct {
	Policy  *budget.Policy
	Waiting []ledger.Queued
	// Holds are all open holds, Books all balances.
	Holds []ledger.Hold
	Books Books
	Use   Use
	Now   time.Time
	Fits  Fits
}

// Place is where one job stands.
type Place struct {
	Queued ledger.Queued
	// Position among the jobs of its budget and Overall among all, from 1.
	Position, Overall int
	// Aged says that it has waited long enough not to be overtaken any more.
	Aged bool
	// Start says that it fits now and delays nobody before it.
	Start bool
	// Expired says that it has waited longer than its queue allows.
	Expired bool
	// ExpectedMS is when it is expected to fit, in Unix milliseconds; 0 when that
	// cannot be told: no end of a job and no new window is known to make room.
	ExpectedMS int64
}

// scheduledMax bounds for how many jobs a time is computed. Those behind them
// still start when they fit beside all that is before them.
const scheduledMax = 100

// Plan gives every job its place, in the order of the queue. It is deterministic,
// and the order of the input's lists does not matter.
func Plan(in Input) []Place {
	ordered := Order(in.Policy, in.Waiting, in.Use, in.Now)
	line := newTimeline(in)
	positions := make(map[string]int)
	places := make([]Place, 0, len(ordered))
	for i, q := range ordered {
		positions[q.Budget]++
		place := Place{Queued: q, Position: positions[q.Budget], Overall: i + 1, Aged: aging(in.Policy, q, in.Now),
			Expired: q.UntilMS != 0 && in.Now.UnixMilli() >= q.UntilMS}
		if !place.Expired {
			at, known := line.schedule(q, place.Aged, i < scheduledMax)
			place.Start = known && !at.After(in.Now)
			if known {
				place.ExpectedMS = at.UnixMilli()
			}
		}
		places = append(places, place)
	}
	return places
}
