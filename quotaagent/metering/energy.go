package metering

import (
	"cmp"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Reading is what a node says about the energy counter of one device.
type Reading struct {
	ledger.Counter
	// Before is the reading that the same reader took last; nil if this is its first.
	Before *ledger.Counter
	// Parent says that the counter is that of the whole GPU, of which the device is a
	// part, and Siblings how many devices are parts of it, this one included.
	Parent   bool
	Siblings int
}

// bootSlack is how far two answers of a node may differ about when it was started:
// they give whole seconds of uptime, and clocks are set.
const bootSlack = 2 * time.Minute

// freshFor is how old a reading may be, in intervals of the meter, before what was
// drawn since counts as not measured.
const freshFor = 2

// Count adds what counters have shown since they were read last to the energy of
// the hold's running allocations. Each is given the part of the time between two
// readings in which it held the GPU. Before the first reading it is the bound of
// the GPU's power. It posts nothing, and reports whether anything was counted.
func Count(p *budget.Policy, h ledger.Hold, readings map[string]Reading) (ledger.Hold, bool) {
	next, counted := h, false
	for i, t := range h.Tracks {
		if t.EndMS != 0 {
			continue
		}
		for j, g := range t.GPUs {
			e, moved := count(p, t, g, readings)
			if !moved {
				continue
			}
			if !counted {
				next, counted = h.Clone(), true
			}
			next.Tracks[i].GPUs = slices.Clone(next.Tracks[i].GPUs)
			next.Tracks[i].GPUs[j].Energy = e
		}
	}
	return next, counted
}

// count is the energy of some GPUs with what readings add to it.
func count(p *budget.Policy, t ledger.Track, g ledger.TrackGPUs, readings map[string]Reading) (*ledger.Energy, bool) {
	e := ledger.Energy{}
	if g.Energy != nil {
		e = *g.Energy
		e.Counters = slices.Clone(e.Counters)
	}
	moved, drawn, during := false, int64(0), int64(0)
	for _, id := range g.IDs {
		r, ok := readings[id]
		if !ok {
			continue
		}
		at, known := slices.BinarySearchFunc(e.Counters, id, func(c ledger.Counter, id string) int { return cmp.Compare(c.ID, id) })
		var base ledger.Counter
		switch {
		case known:
			base = e.Counters[at]
		case r.AtMS > t.StartMS && r.Before != nil:
			base = *r.Before
		}
		if known && r.AtMS <= base.AtMS || g.EndMS != 0 && base.AtMS >= g.EndMS {
			continue
		}
		moved = true
		if base.AtMS == 0 {
			bounded := Watts(p, g.Class) * max(0, heldBetween(t, g, t.StartMS, r.AtMS)) // W x ms are mJ
			e.CountedMJ, e.Guessed = e.CountedMJ+bounded, e.Guessed || bounded > 0
		} else {
			mj, ms := between(p, t, g, base, r)
			drawn, during = drawn+mj, during+ms
			e.CountedMJ, e.Guessed = e.CountedMJ+mj, e.Guessed || r.Parent
			if base.AtMS > t.StartMS && !known { // it ran before this reader's first reading
				e.CountedMJ, e.Guessed = e.CountedMJ+Watts(p, g.Class)*(base.AtMS-t.StartMS), true
			}
		}
		if known {
			e.Counters[at] = r.Counter
		} else {
			e.Counters = slices.Insert(e.Counters, at, r.Counter)
		}
	}
	if during > 0 {
		e.PowerMW = int64(quantity.MulDiv(quantity.Amount(drawn), 1000, during)) // mJ/ms are W
	}
	return &e, moved
}

// between is what some GPU drew for the allocation between two readings of its
// counter, and for how long. A counter that is lower than before, or of a node
// that was started since, began anew: all that it shows was drawn since then.
func between(p *budget.Policy, t ledger.Track, g ledger.TrackGPUs, base ledger.Counter, r Reading) (millijoules, milliseconds int64) {
	delta := r.MilliJ - base.MilliJ
	if delta < 0 || restarted(base.BootMS, r.BootMS) {
		delta = r.MilliJ
	}
	held := heldBetween(t, g, base.AtMS, r.AtMS)
	mine := quantity.MulDiv(quantity.Amount(delta), held, r.AtMS-base.AtMS)
	if r.Parent {
		mine = quantity.MulDiv(mine, int64(partOf(p, g.Class, r.Siblings)), int64(quantity.GPU))
	}
	return int64(mine), held
}

func restarted(before, now int64) bool {
	slack := bootSlack.Milliseconds()
	return before != 0 && now != 0 && now-before > slack
}

// heldBetween is how long the allocation had the GPUs between two instants.
func heldBetween(t ledger.Track, g ledger.TrackGPUs, fromMS, toMS int64) int64 {
	if g.EndMS != 0 {
		toMS = min(toMS, g.EndMS)
	}
	return max(0, toMS-max(fromMS, t.StartMS))
}

// partOf is how much of its whole GPU a device of a class is, in parts: what its
// gpu_class says, else an equal part of all that there are.
func partOf(p *budget.Policy, class string, siblings int) quantity.Amount {
	whole := quantity.Amount(0)
	for _, s := range sharesOf(p, class) {
		whole = whole.Add(s.Parts)
	}
	if whole > 0 {
		return min(whole, quantity.GPU)
	}
	return quantity.GPU / quantity.Amount(max(1, siblings))
}

// drawn is what the GPUs drew until an instant in all, in joules, and whether some
// of it is a guess that is not posted yet. What is not counted yet waits for the
// next reading as long as readings are fresh; without them, and at the end, it is
// guessed: at the power of late for a short time, at the bound for a long one.
func (b *bill) drawn(t ledger.Track, g ledger.TrackGPUs, untilMS int64) (joules quantity.Amount, guessed bool) {
	e := ledger.Energy{}
	if g.Energy != nil {
		e = *g.Energy
	}
	interval := b.policy.Meter.Interval
	if interval <= 0 {
		interval = budget.DefaultInterval
	}
	fresh := freshFor * interval.Milliseconds()
	total, guessed := e.CountedMJ, e.Guessed
	for _, id := range g.IDs {
		since := t.StartMS
		if at, known := slices.BinarySearchFunc(e.Counters, id, func(c ledger.Counter, id string) int { return cmp.Compare(c.ID, id) }); known {
			since = max(since, e.Counters[at].AtMS)
		}
		open := heldBetween(t, g, since, untilMS)
		switch ended := t.EndMS != 0 || g.EndMS != 0; {
		case untilMS < since && ended:
			total -= e.PowerMW * (since - max(untilMS, t.StartMS)) / 1000
			guessed = true
		case open == 0 || open <= fresh && !ended:
		default:
			power := Watts(b.policy, g.Class) * 1000
			if power == 0 || ended && open <= fresh && e.PowerMW > 0 {
				power = e.PowerMW
			}
			total += power * open / 1000
			guessed = guessed || power > 0
		}
	}
	return quantity.Amount(max(0, total) / 1000), guessed
}

// energy posts what the GPUs drew and was not posted yet: spread over the pieces
// from first on by their length, or as a line of its own when there are none or
// less was drawn than was guessed before.
func (b *bill) energy(t ledger.Track, g *ledger.TrackGPUs, first int, untilMS int64) {
	total, guessed := b.drawn(t, *g, untilMS)
	e := ledger.Energy{}
	if g.Energy != nil {
		e = *g.Energy
	}
	due := total.Sub(e.PostedJ)
	if due == 0 {
		return
	}
	pieces := b.entries[first:]
	length := int64(0)
	for _, piece := range pieces {
		length += piece.ToMS - piece.FromMS
	}
	final := t.EndMS != 0 || g.EndMS != 0
	if due < 0 || length == 0 || pieces[0].Kind == ledger.CorrectionEntry {
		if length == 0 && !final {
			return // there is no time to post it to yet
		}
		line := b.entry(t, *g, untilMS, untilMS)
		line.Key += suffixEnergy
		if due < 0 {
			line.Kind, line.Cause = ledger.CorrectionEntry, CauseEnergyCounted
		}
		b.entries = append(b.entries, line)
		pieces, length = b.entries[len(b.entries)-1:], 0
	}
	at, before := e.PostedJ, int64(0)
	for i := range pieces {
		piece := &pieces[i]
		until := total
		if length > 0 {
			before += piece.ToMS - piece.FromMS
			until = e.PostedJ.Add(quantity.MulDiv(due, before, length))
		}
		v := b.versionAt(g.Class, t.StartMS, piece.FromMS)
		piece.Energy = until.Sub(at)
		piece.Cost = piece.Cost.Add(EnergyCost(v.energy, until).Sub(EnergyCost(v.energy, at)))
		piece.RateCard = v.card
		if guessed && !piece.Estimated {
			piece.Estimated = true
			piece.Cause = cmp.Or(piece.Cause, CauseEnergyGuessed)
		}
		at = until
	}
	e.PostedJ, e.Guessed = total, false
	g.Energy = &e
}
