package admission

import (
	"time"
	"unique"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// period is a period with its keys in the ledger.
type period struct {
	budget.Period
	start    time.Time
	key, any string
	// shared says that it is of a moment, and the same for all decisions in it.
	shared bool
}

// keyed has keys that are the very strings of vectors which were read from a store, so
// that to compare them takes no look at what they say.
func keyed(p budget.Period) *period {
	return &period{Period: p, start: p.Start, key: unique.Make(p.Key()).Value(), any: ledger.AnyPeriod(p.Window)}
}

// moment are the periods that contain a time, and those that follow: the same
// ones until the first of them ends. It does not change.
type moment struct {
	from, until time.Time
	periods     [budget.Committed + 1]*period
	nexts       [budget.Committed + 1]*period
}

// at are the periods of all windows of the policy at now, made anew only when one
// of them has ended (or the clock went back). Any goroutine may call it.
func (r *Rules) at(now time.Time) *moment {
	if m := r.moment.Load(); m != nil && !now.Before(m.from) && (m.until.IsZero() || now.Before(m.until)) {
		return m
	}
	m := &moment{}
	for _, w := range r.Calendar.Windows {
		p := budget.PeriodAt(w, now, r.Calendar.Location)
		m.periods[w], m.nexts[w] = keyed(p), keyed(p.Next(r.Calendar.Location))
		m.periods[w].shared, m.nexts[w].shared = true, true
		if p.Start.IsZero() {
			continue
		}
		if p.Start.After(m.from) {
			m.from = p.Start
		}
		if m.until.IsZero() || p.End.Before(m.until) {
			m.until = p.End
		}
	}
	r.moment.Store(m)
	return m
}

// period is that of a window which contains now.
func (x *decider) period(w budget.Window) *period {
	if p := x.moment.periods[w]; p != nil {
		return p
	}
	return keyed(budget.PeriodAt(w, x.now, x.policy.Location))
}

// after is the period that follows.
func (x *decider) after(p *period) *period {
	if x.moment.periods[p.Window] == p {
		return x.moment.nexts[p.Window]
	}
	return keyed(p.Next(x.policy.Location))
}
