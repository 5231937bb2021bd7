package metering

import (
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// windows are all calendar windows: usage is posted to each, so that a limit
// added later finds the usage of the period that is already running.
var windows = []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month,
	budget.Quarter, budget.Year, budget.Total}

// Post posts the usage of every allocation of the hold up to now (or up to its
// end) and moves the watermarks. It returns the changed hold and what to add to
// the posted amounts of its budgets. Posting twice to the same instant posts
// nothing the second time. A now before a watermark (a clock step) posts
// nothing.
func Post(p *budget.Policy, h ledger.Hold, now time.Time) (ledger.Hold, ledger.Vector) {
	next, posted := h.Clone(), ledger.Vector{}
	kept := next.Tracks[:0]
	for _, t := range next.Tracks {
		until := now.UnixMilli()
		if t.EndMS != 0 {
			until = t.EndMS
		}
		if until > t.MarkMS {
			addUsage(p, &next, t, until, posted)
			t.MarkMS = until
		}
		if t.EndMS != 0 {
			slot := next.Slots[t.Name]
			slot.UsedMS += max(0, t.EndMS-t.StartMS)
			slot.Done = t.Done
			next.Slots[t.Name] = slot
			at, _ := slices.BinarySearch(next.Finished, t.Alloc)
			next.Finished = slices.Insert(next.Finished, at, t.Alloc)
			continue // posted to its end
		}
		kept = append(kept, t)
	}
	next.Tracks = kept
	return next, posted
}

// addUsage posts one allocation's [MarkMS, until).
func addUsage(p *budget.Policy, h *ledger.Hold, t ledger.Track, until int64, posted ledger.Vector) {
	from, to := time.UnixMilli(t.MarkMS), time.UnixMilli(until)
	for _, g := range t.GPUs {
		n := int64(len(g.IDs))
		ms := quantity.Amount(until - t.MarkMS).Mul(n)
		h.Posted.GPUTime[g.Class] = h.Posted.GPUTime[g.Class].Add(ms)
		h.Posted.Cost = h.Posted.Cost.Add(costBetween(p, t, g, from, to))
		for _, w := range windows {
			for period := budget.PeriodAt(w, from, p.Location); ; period = period.Next(p.Location) {
				a, b := clip(period, from, to)
				if piece := quantity.Amount(b.UnixMilli() - a.UnixMilli()); piece > 0 {
					posted.Add(period.Key(), budget.GPUTime(g.Class), piece.Mul(n))
					posted.Add(period.Key(), budget.GPUTime(budget.AnyClass), piece.Mul(n))
					posted.Add(period.Key(), budget.Cost, costBetween(p, t, g, a, b))
				}
				if w == budget.Total || !period.End.Before(to) {
					break
				}
			}
		}
	}
}

func clip(p budget.Period, from, to time.Time) (time.Time, time.Time) {
	if p.Window == budget.Total {
		return from, to
	}
	if from.Before(p.Start) {
		from = p.Start
	}
	if to.After(p.End) {
		to = p.End
	}
	return from, to
}

// costBetween is the price of [from, to) of one allocation's GPUs of a class.
// Within one rate card it is the difference of the two cumulative prices since
// the allocation (or the rate card) began, so that many small postings add up
// to exactly one large one.
func costBetween(p *budget.Policy, t ledger.Track, g ledger.TrackGPUs, from, to time.Time) quantity.Amount {
	total := quantity.Amount(0)
	start := time.UnixMilli(t.StartMS)
	for from.Before(to) {
		card, ok := p.RateAt(from)
		end, begin := to, start
		if next, changes := nextCard(p, from); changes && next.Before(to) {
			end = next
		}
		if ok && card.EffectiveFrom.After(begin) {
			begin = card.EffectiveFrom
		}
		if ok {
			rate := card.PerGPUHour[g.Class]
			cumulative := func(at time.Time) quantity.Amount {
				return quantity.Cost(quantity.Amount(at.UnixMilli()-begin.UnixMilli()).Mul(int64(len(g.IDs))), rate)
			}
			total = total.Add(cumulative(end).Sub(cumulative(from)))
		}
		from = end
	}
	return total
}

// nextCard is when the first rate card after t becomes effective.
func nextCard(p *budget.Policy, t time.Time) (time.Time, bool) {
	for _, card := range p.RateCards {
		if card.EffectiveFrom.After(t) {
			return card.EffectiveFrom, true
		}
	}
	return time.Time{}, false
}
