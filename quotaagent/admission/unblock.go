package admission

import (
	"cmp"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// unblockedFrom is the earliest time at which every check that blocks could hold,
// if nobody else comes: where a period is full, the next one that fits; where too
// much is held at once, the latest end of enough of the holds. It is false when a
// check never fits, or when no end is known: work without an end is not expected
// to end.
func (d Decision) unblockedFrom(holds []ledger.Hold, now time.Time) (time.Time, bool) {
	latest := now
	for _, c := range d.Failed {
		if !c.blocks() {
			continue
		}
		at, ok := d.freeFrom(c, holds)
		if !ok || !c.everFits() {
			return time.Time{}, false
		}
		if at.After(latest) {
			latest = at
		}
	}
	return latest, latest.After(now)
}

// Unblock notes the time from which the job can be expected to fit, given the
// open holds. It is nothing for a job that runs.
func (d Decision) Unblock(holds []ledger.Hold, now time.Time) Decision {
	if at, ok := d.unblockedFrom(holds, now); ok && d.Outcome < Warn {
		d.UnblockMS = at.UnixMilli()
	}
	return d
}

// freeFrom is when a failed check could hold.
func (d Decision) freeFrom(c Check, holds []ledger.Hold) (time.Time, bool) {
	if !c.Window.Gauge() {
		return d.fitsFrom(c)
	}
	type end struct {
		atMS   int64
		amount quantity.Amount
	}
	var ends []end
	for _, h := range holds {
		atMS, ends1 := endOf(h)
		if path := c.Budget.Path; !ends1 || !slices.Contains(ledger.Ancestors(h.Budget), path) {
			continue
		}
		ends = append(ends, end{atMS, gaugeOf(h.Charged, c)})
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Or(cmp.Compare(a.atMS, b.atMS), cmp.Compare(a.amount, b.amount)) })
	short := c.ShortBy()
	for _, e := range ends {
		short = short.Sub(e.amount)
		if short <= 0 {
			return time.UnixMilli(e.atMS), true
		}
	}
	return time.Time{}, false
}

func gaugeOf(v ledger.Vector, c Check) quantity.Amount {
	if c.Window == budget.Concurrent {
		return v.At(ledger.ConcurrentKey, c.Dimension)
	}
	return v.At(c.Window.String(), c.Dimension).Add(v.At(ledger.AnyPeriod(c.Window), c.Dimension))
}

// endOf is when a hold gives back all that it holds at the latest: when its
// running allocations are through. It is false for one that has work without an
// end, or that was not placed yet.
func endOf(h ledger.Hold) (int64, bool) {
	end := int64(0)
	for _, line := range h.Lines {
		if line.Lease {
			return 0, false
		}
	}
	for _, t := range h.Live() {
		end = max(end, h.HeldUntil(t))
	}
	return end, end > 0 && h.Pending == nil
}
