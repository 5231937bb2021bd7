package ledger

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// maxPlaced is the most periods of one window in which a single allocation is
// charged one by one. Beyond it the allocation is charged like one that may run
// at any time, which never charges a period less and, as nearly all of the
// periods are covered to the full, hardly more. A week of hours and half a year
// of days keep a hold and the balances on its path well within one Consul
// transaction.
const maxPlaced = 200

// Charges is what the hold contributes to the held amounts of its budgets:
// for every live allocation the time from its watermark to its latest end, in
// the periods where that falls; for every allocation still to come its whole
// time in any period; and the GPUs of both at once as gauges. While a submission
// is unconfirmed it is the larger of both readings, period by period and
// dimension by dimension: the job as it is, and the job as submitted. What the job
// draws from an agent run (Hold.Capped) is held by the run and not charged again.
func Charges(h Hold, cal Calendar) Vector {
	v := wholeCharges(h, cal)
	if h.Run != "" {
		v.Drop(func(c Cell) bool { return c.Period != ConcurrentKey && coveredBy(h.Capped, c.Dimension) })
	}
	return v
}

// wholeCharges is what a hold would charge without a run. What an earlier version of
// the job may have used before the next one replaced it, and nobody has seen, counts
// beside all that came later.
func wholeCharges(h Hold, cal Calendar) Vector {
	if h.Request != nil {
		return requestCharges(h, cal)
	}
	v, before := Vector{}, unseen(nil)
	var seen map[string]seenTo // not needed where all that is known is of one version
	if h.Pending != nil || len(h.Former) > 0 || slices.ContainsFunc(h.Tracks, func(t Track) bool { return t.CreateIndex <= h.JobModifyIndex }) {
		seen = h.seen()
	}
	version := func(r reading) {
		charges := r.charges(cal)
		if len(before) > 0 {
			charges.AddAll(before.charges(cal), 1)
		}
		v = larger(v, charges)
	}
	for i, f := range h.Former {
		was, next := h, h.JobModifyIndex
		if i+1 < len(h.Former) {
			next = h.Former[i+1].JobModifyIndex
		}
		was.Slots, was.JobModifyIndex = f.Slots, f.JobModifyIndex
		// What a later version started was not there yet.
		was.Tracks = slices.DeleteFunc(slices.Clone(h.Tracks), func(t Track) bool { return t.CreateIndex > next })
		r := reading{hold: &was, lines: f.Lines, until: next, seen: seen}
		version(r)
		before = before.add(r, f.FromMS, f.ToMS, 1)
	}
	present := reading{hold: &h, lines: h.Lines, seen: seen}
	if len(h.Lines) > 0 || len(h.Tracks) > 0 || h.Pending == nil {
		version(present)
	}
	if h.Pending != nil {
		if !h.Unchanged && len(h.Lines) > 0 {
			before = before.add(present, h.LinesMS, h.replacedBy(), 1)
		}
		pending := reading{hold: &h, lines: h.Pending, anew: !h.Unchanged, seen: seen}
		if !h.Unchanged && h.InFlight > 1 {
			// All but one of them may be replaced by the next.
			before = before.add(pending, h.PendingMS, h.replacedBy(), int64(h.InFlight)-1)
		}
		version(pending)
	}
	return v
}

// reading is one of the jobs that a hold may turn out to hold for.
type reading struct {
	hold  *Hold
	lines []Line
	// anew: the job changes, so what finished starts again and what runs may be
	// replaced.
	anew bool
	// until is the index of the next version, 0 for the last one; seen is Hold.seen.
	until uint64
	seen  map[string]seenTo
}

func (r reading) charges(cal Calendar) Vector {
	v := smallVector()
	for _, t := range r.hold.Tracks {
		if t.EndMS != 0 {
			chargePlaced(v, t.holding(), t.MarkMS, t.EndMS, cal)
			continue
		}
		for _, g := range t.holding() {
			addGauge(v, cal.countsOf(g.Class), int64(len(g.IDs)))
		}
		switch {
		case r.superseded(t):
			chargePlaced(v, t.holding(), t.MarkMS, r.stopped(t), cal)
		case !r.chargedWithSlot(t):
			chargePlaced(v, t.holding(), t.MarkMS, r.heldUntil(t), cal)
		}
	}
	for _, line := range r.lines {
		r.chargeLine(v, line, cal)
	}
	return v
}

// current reports whether the allocation was placed for the job as confirmed
// last. An older one either goes on (Nomad updated it in place) or is about to
// be replaced; which of the two cannot be seen from here.
func (r reading) current(t Track) bool {
	if r.anew {
		return r.ofPending(t)
	}
	return t.CreateIndex > r.hold.JobModifyIndex
}

// chargedWithSlot reports whether the allocation's time is charged together
// with that of a further start or a successor.
func (r reading) chargedWithSlot(t Track) bool {
	line, ok := r.line(t.Group)
	if !ok || line.Lease {
		return false
	}
	newest, live := r.liveTrack(t.Name)
	return live && newest.Alloc == t.Alloc && slices.Contains(r.slotNames(line), t.Name)
}

func (r reading) line(group string) (Line, bool) {
	i := slices.IndexFunc(r.lines, func(l Line) bool { return l.Group == group })
	if i < 0 {
		return Line{}, false
	}
	return r.lines[i], true
}

// slot is what ended allocations of a name used of its time. What began before the last
// of the submissions on their way is of none that is still to come.
func (r reading) slot(name string) Slot {
	s := r.hold.Slots[name]
	switch {
	case !r.anew:
		return s
	case s.Again && s.StartMS >= r.hold.SubmittedMS:
		return s.youngest()
	}
	return Slot{}
}

// heldUntil is when a running allocation has used up its run. Without a line
// (its group was removed) nothing is held ahead.
func (r reading) heldUntil(t Track) int64 {
	if t.LeaseMS > 0 {
		return t.LeaseMS
	}
	line, ok := r.line(t.Group)
	if !ok {
		return t.MarkMS
	}
	return addMillis(t.StartMS, min(line.once(), r.remaining(line, t.Name)))
}

// remaining is the time that allocations of a name, running and to come, may
// still use beyond what ended ones did.
func (r reading) remaining(line Line, name string) int64 {
	used := r.slot(name).UsedMS
	newest, _ := r.liveTrack(name)
	for _, t := range r.hold.Tracks {
		if t.Name == name && t.EndMS == 0 && t.Alloc != newest.Alloc && r.current(t) {
			used += max(0, t.MarkMS-t.StartMS) // it ends, and another one has come for it
		}
	}
	return max(0, line.RuntimeMS-used)
}

// HeldUntil is until when a running allocation's GPUs are held at the latest:
// the end of its lease, or of the run that it is bounded to.
func (h Hold) HeldUntil(t Track) int64 {
	end := reading{hold: &h, lines: h.Lines}.heldUntil(t)
	if h.Pending != nil {
		end = max(end, reading{hold: &h, lines: h.Pending, anew: !h.Unchanged}.heldUntil(t))
	}
	return end
}

// addMillis adds a non-negative length to an instant and stays in range.
func addMillis(at, length int64) int64 {
	if length > math.MaxInt64-max(0, at) {
		return math.MaxInt64
	}
	return at + length
}

// chargeLine charges the allocations of a line that do not run yet, and what
// those that run may still need for a further start.
func (r reading) chargeLine(v Vector, line Line, cal Calendar) {
	count := line.Count
	switch {
	case r.anew || r.updating(line):
		overlap := max(0, line.Overlap-r.supersededOf(line))
		chargeGauge(v, line.Needs, int64(overlap), cal)
		chargeAny(v, line.Needs, int64(overlap), line.OverlapMS, cal)
	default:
		count -= line.Canaries // only updates start canaries
	}
	names := r.slotNames(line)
	for _, name := range names {
		live, running := r.liveTrack(name)
		switch {
		case !running && r.replaced(line, name):
		case running && line.Lease:
			left := uncovered(line.Needs, live.GPUs)
			chargeSuccessor(v, line.Needs, left, live, cal)
			chargeAny(v, left, 1, line.RuntimeMS, cal)
		case running && r.current(live):
			r.chargeRunning(v, line, live, cal)
		case running:
			r.chargeReplaceable(v, line, live, cal)
		case r.slot(name).Done && !line.Lease:
		default:
			chargeGauge(v, line.Needs, 1, cal)
			chargeAny(v, line.Needs, 1, r.remaining(line, name), cal)
		}
	}
	unknown := int64(max(0, count-len(names)-r.replacedUnknown(line, names)))
	chargeGauge(v, line.Needs, unknown, cal)
	chargeAny(v, line.Needs, unknown, line.RuntimeMS, cal)
}

// supersededOf counts the running allocations of a line that are being replaced:
// their successors run, and they charge for themselves.
func (r reading) supersededOf(line Line) int {
	n := 0
	for _, t := range r.hold.Tracks {
		if t.Group == line.Group && t.EndMS == 0 && r.superseded(t) {
			n++
		}
	}
	return n
}

// updating reports whether allocations of an earlier version still run.
func (r reading) updating(line Line) bool {
	return slices.ContainsFunc(r.hold.Tracks, func(t Track) bool {
		return t.Group == line.Group && t.EndMS == 0 && !r.current(t)
	})
}

// chargeRunning charges a running allocation: its run where it falls, and a
// further start, which may come at any time. Together they never charge a period
// more than the slot did before it ran.
func (r reading) chargeRunning(v Vector, line Line, t Track, cal Calendar) {
	left := r.remaining(line, t.Name)
	run, again, whole := NewVector(), NewVector(), NewVector()
	chargePlaced(run, t.holding(), t.MarkMS, r.heldUntil(t), cal)
	chargeAny(again, line.Needs, 1, left-min(line.once(), left), cal)
	if !again.IsZero() {
		chargeSuccessor(v, line.Needs, nil, t, cal) // it needs as much as it has now
	}
	chargeAny(whole, line.Needs, 1, left, cal)
	combine(v, run, again, func(period string, d budget.Dimension, placed quantity.Amount) quantity.Amount {
		return min(placed, max(placed, whole.At(period, d)).Sub(again.At(period, d)))
	})
}

// chargeReplaceable charges a running allocation of an earlier version and its
// possible successor: the larger of the two in every period, as at most one of
// them runs to its end.
func (r reading) chargeReplaceable(v Vector, line Line, t Track, cal Calendar) {
	chargeSuccessor(v, line.Needs, uncovered(line.Needs, t.GPUs), t, cal)
	// What it uses until the job is registered anew is used up, whoever goes on.
	since := r.hold.replaceableFrom(t)
	chargePlaced(v, t.holding(), t.MarkMS, since, cal)
	goesOn, startsAgain := NewVector(), NewVector()
	chargePlaced(goesOn, t.holding(), since, r.heldUntil(t), cal)
	chargeAny(startsAgain, line.Needs, 1, r.remaining(line, t.Name), cal)
	combine(v, goesOn, startsAgain, func(period string, d budget.Dimension, placed quantity.Amount) quantity.Amount {
		return max(0, placed.Sub(startsAgain.At(period, d)))
	})
}

// combine charges anywhere, which counts in any period, and of what is placed
// beside it as much as beside says. beside is given the any-period key of the
// placed amount's window.
func combine(v, placed, anywhere Vector, beside func(period string, d budget.Dimension, placed quantity.Amount) quantity.Amount) {
	v.AddAll(anywhere, 1)
	for c := range placed.All() {
		v.Add(c.Period, c.Dimension, beside(anyOf(c.Period), c.Dimension, c.Amount))
	}
}

// slotNames lists the known allocation names of a line, at most Count of them
// and without those beyond it (which a smaller count leaves to be stopped), in
// the order of their index.
func (r reading) slotNames(line Line) []string {
	var index map[string]int
	know := func(name string) {
		if n := indexOf(name); n < line.Count || n == noIndex {
			if index == nil {
				index = map[string]int{}
			}
			index[name] = n
		}
	}
	for _, t := range r.hold.Tracks {
		if t.Group == line.Group {
			know(t.Name)
		}
	}
	prefix := ""
	if len(r.hold.Slots) > 0 {
		prefix = r.hold.JobID + "." + line.Group + "["
	}
	for name := range r.hold.Slots {
		if strings.HasPrefix(name, prefix) && r.slot(name) != (Slot{}) {
			know(name)
		}
	}
	names := make([]string, 0, len(index))
	for name := range index {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if index[a] != index[b] {
			return index[a] - index[b]
		}
		return strings.Compare(a, b)
	})
	return names[:min(len(names), line.Count)]
}

// liveTrack is the running allocation of a name that is not superseded: a current one
// if there is one, else the youngest.
func (r reading) liveTrack(name string) (Track, bool) {
	best, found := Track{}, false
	for _, t := range r.hold.Tracks {
		if t.Name != name || t.EndMS != 0 || r.superseded(t) {
			continue
		}
		if !found || r.current(t) && !r.current(best) || r.current(t) == r.current(best) && t.StartMS > best.StartMS {
			best, found = t, true
		}
	}
	return best, found
}

// chargePlaced charges GPUs over [fromMS, toMS) to the periods it overlaps.
func chargePlaced(v Vector, gpus []TrackGPUs, fromMS, toMS int64, cal Calendar) {
	if toMS <= fromMS {
		return
	}
	from, to := time.UnixMilli(fromMS), time.UnixMilli(toMS)
	for _, w := range cal.Windows {
		longest := budget.LongestMillis(w)
		if longest > 0 && (toMS-fromMS)/longest >= maxPlaced {
			for _, g := range gpus {
				g.charge(v, AnyPeriod(w), quantity.Amount(longest), cal)
			}
			continue
		}
		if w == budget.Total || w == budget.Committed {
			for _, g := range gpus {
				g.charge(v, w.String(), quantity.Amount(toMS-fromMS), cal) // a time.Duration ends after 292 years
			}
			continue
		}
		for p := budget.PeriodAt(w, from, cal.Location); ; p = p.Next(cal.Location) {
			for _, g := range gpus {
				g.charge(v, p.Key(), quantity.Amount(p.Overlap(from, to)), cal)
			}
			if !p.End.Before(to) {
				break
			}
		}
	}
}

// charge charges the GPUs for ms milliseconds each.
func (g TrackGPUs) charge(v Vector, period string, ms quantity.Amount, cal Calendar) {
	addTime(v, period, cal.countsOf(g.Class), ms.Mul(int64(len(g.IDs))), g.PerGPUHour, g.Watts)
}

// addTime charges GPU time to each class that the GPUs count towards, its price
// and the energy that it can draw. Shares and energy are rounded up.
func addTime(v Vector, period string, counts []counted, ms, perHour quantity.Amount, watts int64) {
	if ms <= 0 {
		return
	}
	v.Add(period, budget.Cost, quantity.Cost(ms, perHour))
	v.Add(period, budget.Energy, quantity.MulDivUp(ms, watts, millisPerSecond))
	for i := range counts {
		v.Add(period, counts[i].time, counts[i].timeOf(ms))
	}
}

// millisPerSecond turns watts times milliseconds into joules.
const millisPerSecond = 1000

// timeOf is what ms GPU-milliseconds of the device count as, rounded up.
func (c *counted) timeOf(ms quantity.Amount) quantity.Amount {
	if c.parts == quantity.GPU {
		return ms
	}
	return quantity.MulDivUp(ms, int64(c.parts), int64(quantity.GPU))
}

// chargeAny charges the time of count allocations that may start whenever they
// like: each counts min(its time, the period's length) in every period.
func chargeAny(v Vector, needs []Need, count, runtimeMS int64, cal Calendar) {
	if count == 0 {
		return
	}
	for _, n := range needs {
		gpus, counts := quantity.Amount(n.GPUs).Mul(count), cal.countsOfAny(n.Classes)
		for _, w := range cal.Windows {
			share := max(0, runtimeMS)
			if longest := budget.LongestMillis(w); longest >= 0 {
				share = min(share, longest)
			}
			addTime(v, AnyPeriod(w), counts, quantity.Amount(share).Mul(int64(gpus)), n.PerGPUHour, n.Watts)
		}
	}
}

// chargeSuccessor charges the GPUs of an allocation that may come after a running one
// as far as those of the running one do not cover them: left, which is needed beside
// them, and, where several classes can serve, those of any of them, for it then counts
// in the limits of that class.
func chargeSuccessor(v Vector, needs, left []Need, t Track, cal Calendar) {
	if !slices.ContainsFunc(needs, func(n Need) bool { return len(n.Classes) > 1 }) {
		chargeGauge(v, left, 1, cal)
		return
	}
	beside, next, own := NewVector(), NewVector(), NewVector()
	chargeGauge(beside, left, 1, cal)
	chargeGauge(next, needs, 1, cal)
	for _, g := range t.holding() {
		addGauge(own, cal.countsOf(g.Class), int64(len(g.IDs)))
	}
	for _, c := range next.Row(ConcurrentKey) {
		v.Add(ConcurrentKey, c.Dimension, max(beside.At(ConcurrentKey, c.Dimension), c.Amount.Sub(own.At(ConcurrentKey, c.Dimension))))
	}
}

// MostOf sums what lines can use at most: GPU time by class, as every class that could
// serve a need counts for itself and for those that it is a share of, cost and energy. For
// a lease it is one lease's worth.
func MostOf(lines []Line, cal Calendar) Usage {
	u := Usage{GPUTime: make(map[string]quantity.Amount, 2)}
	for i := range lines {
		line := &lines[i]
		for j := range line.Needs {
			n := &line.Needs[j]
			ms := quantity.Amount(line.RuntimeMS).Mul(n.GPUs).Mul(int64(line.Count))
			ms = ms.Add(quantity.Amount(line.OverlapMS).Mul(n.GPUs).Mul(int64(line.Overlap)))
			counts := cal.countsOfAny(n.Classes)
			for k := range counts {
				c := &counts[k]
				u.GPUTime[c.class] = u.GPUTime[c.class].Add(c.timeOf(ms))
			}
			u.Cost = u.Cost.Add(quantity.Cost(ms, n.PerGPUHour))
			u.Energy = u.Energy.Add(quantity.MulDivUp(ms, n.Watts, millisPerSecond))
		}
	}
	return u
}

func chargeGauge(v Vector, needs []Need, count int64, cal Calendar) {
	if count == 0 {
		return
	}
	for _, n := range needs {
		addGauge(v, cal.countsOfAny(n.Classes), n.GPUs*count)
	}
}

// addGauge charges a number of devices held at once.
func addGauge(v Vector, counts []counted, devices int64) {
	for _, c := range counts {
		v.Add(ConcurrentKey, c.gpus, c.parts.Mul(devices))
	}
}
