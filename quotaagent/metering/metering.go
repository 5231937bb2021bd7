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
// end) and moves the watermarks. It returns the changed hold, what to add to the
// posted amounts of its budgets, and the entries that say the same in full: their
// sum is what is added to "total". Posting twice to the same instant posts nothing
// the second time. A now before a watermark (a clock step) posts nothing; an end
// before it takes back what was posted beyond the end, which happens whenever a
// posting falls between an end and the news of it.
func Post(p *budget.Policy, h ledger.Hold, now time.Time) (ledger.Hold, ledger.Vector, []ledger.Entry) {
	next := h.Clone()
	b := bill{policy: p, hold: &next, who: payerOf(h), posted: ledger.NewVector(), counts: map[string][]budget.Share{}}
	kept := next.Tracks[:0]
	for _, t := range next.Tracks {
		held := h.HeldUntil(t)
		t.GPUs = slices.Clone(t.GPUs)
		if t.EndMS == 0 {
			b.track(&t, now.UnixMilli(), held)
			kept = append(kept, t)
			continue
		}
		b.track(&t, t.EndMS, held)
		next.Finish(t)
	}
	next.Tracks = kept
	for _, t := range kept { // by what is left to those that go on, now that others have ended
		b.reprice(t.GPUs, t.MarkMS, next.HeldUntil(t))
	}
	return next, b.posted, b.entries
}

// bill collects what is posted for one hold.
type bill struct {
	policy  *budget.Policy
	hold    *ledger.Hold
	who     payer
	posted  ledger.Vector
	entries []ledger.Entry
	// counts remembers what classes count as.
	counts map[string][]budget.Share
	// hour and schedules are those that were looked at last.
	hour      hour
	schedules schedules
}

// hour is one hour of the calendar, and the keys of the periods of all windows
// that it lies in.
type hour struct {
	begin, end int64
	keys       []string
}

// reprice values what is still held at the dearest price that will apply.
func (b *bill) reprice(gpus []ledger.TrackGPUs, fromMS, toMS int64) {
	for i, g := range gpus {
		gpus[i].PerGPUHour, _ = dearestRate(b.policy, g.Class, b.who, time.UnixMilli(fromMS), time.UnixMilli(max(fromMS, toMS)))
		gpus[i].Watts = Watts(b.policy, g.Class)
	}
}

// track posts one allocation up to an instant: to its end when it has ended.
// held is until when its GPUs are held.
func (b *bill) track(t *ledger.Track, untilMS, held int64) {
	begin, end, counts := b.charged(*t, untilMS)
	if !counts {
		return
	}
	for i := range t.GPUs {
		g := &t.GPUs[i]
		from, to := due(*t, *g, begin, end)
		b.group(*t, g, from, to, held)
		if g.EndMS != 0 {
			g.MarkMS = to
		}
	}
	if t.EndMS == 0 {
		t.MarkMS = max(t.MarkMS, end)
	}
}

// charged is the time that an allocation is charged for until an instant, by the
// policy's basis; counts is false for one of which no task ran yet, when only
// running time counts. The times of tasks come from the node's clock: what it says
// beyond the allocation's own time, which is the servers', does not count.
func (b *bill) charged(t ledger.Track, untilMS int64) (begin, end int64, counts bool) {
	if b.policy.Meter.Basis == budget.Allocated {
		return t.StartMS, untilMS, true
	}
	if t.RunMS == 0 {
		return 0, 0, false
	}
	begin, end = max(t.RunMS, t.StartMS), untilMS
	if t.EndMS != 0 {
		begin = min(begin, t.EndMS)
		if t.RanMS != 0 {
			end = max(begin, min(end, t.RanMS))
		}
	}
	return begin, end, true
}

// due is [from, to) that is to be posted of some GPUs of an allocation; to is
// before from when more was posted than is due.
func due(t ledger.Track, g ledger.TrackGPUs, begin, end int64) (from, to int64) {
	mark, final := t.MarkMS, t.EndMS != 0
	if g.EndMS != 0 {
		mark = g.MarkMS
		if !final && g.EndMS < mark {
			end, final = g.EndMS, true
		}
		end = min(end, g.EndMS)
	}
	from = max(mark, begin)
	to = max(end, begin)
	if !final {
		to = max(from, to) // a clock that stepped back takes nothing back
	}
	return from, to
}

// group posts [fromMS, toMS) of some GPUs of one class, and the energy that they
// drew until then.
func (b *bill) group(t ledger.Track, g *ledger.TrackGPUs, fromMS, toMS, held int64) {
	first := len(b.entries)
	if toMS >= fromMS {
		b.pieces(t, *g, fromMS, toMS, held, 1)
	} else {
		b.pieces(t, *g, toMS, fromMS, held, -1)
	}
	b.energy(t, g, first, toMS)
	for i := first; i < len(b.entries); i++ {
		b.entries[i].Shares = b.shares(b.entries[i], t, *g)
		b.add(b.entries[i])
	}
	b.overdrafts(t, first, held)
}

// pieces appends an entry for each piece of [fromMS, toMS) that lies in one hour
// and has one price: those are the largest pieces that fall into one period of
// every window. At the end of what was held it begins another one.
func (b *bill) pieces(t ledger.Track, g ledger.TrackGPUs, fromMS, toMS, held, sign int64) {
	n := sign * int64(len(g.IDs))
	for at := fromMS; at < toMS; {
		v := b.versionAt(g.Class, t.StartMS, at)
		end := min(toMS, b.hourAt(at).end)
		if v.untilMS != 0 {
			end = min(end, v.untilMS)
		}
		if at < held {
			end = min(end, held)
		}
		e := b.entry(t, g, at, end)
		if sign < 0 {
			e.Key += suffixBack
			e.Kind, e.Cause = ledger.CorrectionEntry, CauseEndedEarlier
		}
		e.GPUTime = quantity.Amount(end - at).Mul(n)
		e.Cost = v.cost(at, end, int64(len(g.IDs))).Mul(sign)
		e.RateCard = v.card
		b.entries = append(b.entries, e)
		at = end
	}
}

// overdrafts says once more, for reports, which of the pieces from first on were
// not held.
func (b *bill) overdrafts(t ledger.Track, first int, held int64) {
	for _, e := range b.entries[first:] {
		if e.Kind != ledger.UsageEntry || e.GPUTime == 0 || e.FromMS < held {
			continue
		}
		e.Key += suffixOver
		e.Kind, e.Cause = ledger.OverdraftEntry, b.overdraftCause(t, e.FromMS)
		b.entries = append(b.entries, e)
	}
}

// entry is the line of one piece, without amounts.
func (b *bill) entry(t ledger.Track, g ledger.TrackGPUs, fromMS, toMS int64) ledger.Entry {
	e := ledger.Entry{Key: entryKey(t, g, fromMS), Kind: ledger.UsageEntry, Budget: b.hold.Budget, Namespace: b.hold.Namespace, JobID: b.hold.JobID,
		HoldID: b.hold.ID, Run: b.hold.Run, Alloc: t.Alloc, Node: t.Node, Submitter: b.hold.Accessor, Class: g.Class, GPUs: g.IDs, FromMS: fromMS, ToMS: toMS}
	switch {
	case t.Unknown:
		e.Estimated, e.Cause = true, CauseDisconnected
	case t.Estimated:
		e.Estimated, e.Cause = true, CauseEndUnseen
	}
	return e
}

// add adds an entry to the periods that it falls into, to all classes that the
// GPUs count towards.
func (b *bill) add(e ledger.Entry) {
	h := b.hold
	h.Posted.GPUTime[e.Class] = h.Posted.GPUTime[e.Class].Add(e.GPUTime)
	h.Posted.Cost, h.Posted.Energy = h.Posted.Cost.Add(e.Cost), h.Posted.Energy.Add(e.Energy)
	counts := e.Counts()
	for _, key := range b.hourAt(e.FromMS).keys {
		for class, a := range counts {
			b.posted.Add(key, budget.GPUTime(class), a)
		}
		b.posted.Add(key, budget.Cost, e.Cost)
		b.posted.Add(key, budget.Energy, e.Energy)
	}
}

// shares is the time that counts towards each class, nil where that is simply all
// of it towards the class itself and any. Shares are rounded on the time since the
// allocation began, so that they never drift.
func (b *bill) shares(e ledger.Entry, t ledger.Track, g ledger.TrackGPUs) map[string]quantity.Amount {
	counts := b.countsOf(e.Class)
	if e.GPUTime == 0 || whole(e.Class, counts) {
		return nil
	}
	shares := make(map[string]quantity.Amount, len(counts))
	for _, c := range counts {
		shares[c.Class] = shareOf(e, c.Parts, t, g)
	}
	return shares
}

// whole reports whether a GPU of a class counts as one towards it and any, and
// towards nothing else.
func whole(class string, counts []budget.Share) bool {
	if len(counts) != 2 {
		return false
	}
	for _, c := range counts {
		if c.Parts != quantity.GPU || c.Class != class && c.Class != budget.AnyClass {
			return false
		}
	}
	return true
}

func shareOf(e ledger.Entry, parts quantity.Amount, t ledger.Track, g ledger.TrackGPUs) quantity.Amount {
	if parts == quantity.GPU || e.GPUTime == 0 {
		return e.GPUTime
	}
	until := func(ms int64) quantity.Amount {
		return quantity.MulDiv(quantity.Amount(ms-t.StartMS).Mul(int64(len(g.IDs))), int64(parts), int64(quantity.GPU))
	}
	share := until(e.ToMS).Sub(until(e.FromMS))
	if e.GPUTime < 0 {
		return -share
	}
	return share
}

func (b *bill) countsOf(class string) []budget.Share {
	if known, ok := b.counts[class]; ok {
		return known
	}
	b.counts[class] = b.policy.Counts(class)
	return b.counts[class]
}

// hourAt is the hour of the calendar that an instant lies in.
func (b *bill) hourAt(atMS int64) hour {
	if atMS >= b.hour.begin && atMS < b.hour.end {
		return b.hour
	}
	at := time.UnixMilli(atMS)
	p := budget.PeriodAt(budget.Hour, at, b.policy.Location)
	b.hour = hour{begin: p.Start.UnixMilli(), end: p.End.UnixMilli(), keys: []string{p.Key()}}
	for _, w := range windows[1:] {
		b.hour.keys = append(b.hour.keys, budget.PeriodAt(w, at, b.policy.Location).Key())
	}
	return b.hour
}
