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
// nothing; an end before it takes back what was posted beyond the end, which
// happens whenever a posting falls between an end and the news of it.
func Post(p *budget.Policy, h ledger.Hold, now time.Time) (ledger.Hold, ledger.Vector) {
	next, posted := h.Clone(), ledger.Vector{}
	kept := next.Tracks[:0]
	for _, t := range next.Tracks {
		if t.EndMS == 0 {
			if until := now.UnixMilli(); until > t.MarkMS {
				addUsage(p, &next, t, t.MarkMS, until, 1, posted)
				t.MarkMS = until
			}
			t.GPUs = reprice(p, h, t.GPUs, t.MarkMS, h.HeldUntil(t))
			kept = append(kept, t)
			continue
		}
		if t.EndMS > t.MarkMS {
			addUsage(p, &next, t, t.MarkMS, t.EndMS, 1, posted)
		} else {
			addUsage(p, &next, t, t.EndMS, t.MarkMS, -1, posted)
		}
		finish(&next, t)
	}
	next.Tracks = kept
	return next, posted
}

// finish notes an allocation that is posted to its end. One of an earlier
// version of the job used nothing of the present one's time.
func finish(h *ledger.Hold, t ledger.Track) {
	if t.CreateIndex > h.JobModifyIndex {
		h.Slots[t.Name] = h.Slots[t.Name].Ended(t)
	}
	at, known := slices.BinarySearch(h.Finished, t.Alloc)
	if !known {
		h.Finished = slices.Insert(h.Finished, at, t.Alloc)
	}
}

// reprice values what is still held at the dearest price that will apply.
func reprice(p *budget.Policy, h ledger.Hold, gpus []ledger.TrackGPUs, fromMS, toMS int64) []ledger.TrackGPUs {
	out := slices.Clone(gpus)
	for i, g := range out {
		out[i].PerGPUHour, _ = DearestRate(p, g.Class, h.Facts, time.UnixMilli(fromMS), time.UnixMilli(max(fromMS, toMS)))
	}
	return out
}

// addUsage posts sign times one allocation's [fromMS, toMS).
func addUsage(p *budget.Policy, h *ledger.Hold, t ledger.Track, fromMS, toMS, sign int64, posted ledger.Vector) {
	if toMS <= fromMS {
		return
	}
	from, to := time.UnixMilli(fromMS), time.UnixMilli(toMS)
	for _, g := range t.GPUs {
		n := sign * int64(len(g.IDs))
		h.Posted.GPUTime[g.Class] = h.Posted.GPUTime[g.Class].Add(quantity.Amount(toMS - fromMS).Mul(n))
		h.Posted.Cost = h.Posted.Cost.Add(costBetween(p, t, g, from, to).Mul(sign))
		for _, w := range windows {
			for period := budget.PeriodAt(w, from, p.Location); ; period = period.Next(p.Location) {
				a, b := clip(period, from, to)
				if piece := quantity.Amount(b.UnixMilli() - a.UnixMilli()); piece > 0 {
					posted.Add(period.Key(), budget.GPUTime(g.Class), piece.Mul(n))
					posted.Add(period.Key(), budget.GPUTime(budget.AnyClass), piece.Mul(n))
					posted.Add(period.Key(), budget.Cost, costBetween(p, t, g, a, b).Mul(sign))
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
