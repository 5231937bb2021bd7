package metering_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// known is one allocation as the slow, obvious reference keeps it.
type known struct {
	ledger.Observation
	// mark is until when it must be posted: the latest posting while it ran, and
	// its end once that is known and posted.
	mark       int64
	endPosted  bool
	endLearned bool
}

// model drives one hold through random operations beside the reference.
type model struct {
	policy *budget.Policy
	hold   ledger.Hold
	posted ledger.Vector
	allocs []*known
	clock  int64 // the clock of the agent, which may step
	index  uint64
	// submissions that are not answered yet.
	open  int
	lease bool // the job is a service
	// ended says that the hold was given up before it was confirmed.
	ended bool
}

const hour = int64(3_600_000)

// base is the evening before the clocks go back in Berlin, a few days before a
// month ends.
var base = time.Date(2026, 10, 24, 18, 0, 0, 0, time.UTC).UnixMilli()

func berlin(t must.T) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	must.NoError(t, err)
	return loc
}

func anyPolicy(t *rapid.T) *budget.Policy {
	p := &budget.Policy{Location: berlin(t), Currency: "USD"}
	at := base - 100*hour
	for n := range rapid.IntRange(1, 4).Draw(t, "rate cards") {
		p.RateCards = append(p.RateCards, budget.RateCard{Name: fmt.Sprint(n), EffectiveFrom: time.UnixMilli(at),
			PerGPUHour: map[string]quantity.Amount{
				"a": quantity.Amount(rapid.Int64Range(0, 10_000_000).Draw(t, "price of a")),
				"b": quantity.Amount(rapid.Int64Range(0, 10_000_000).Draw(t, "price of b")),
			}})
		at += rapid.Int64Range(1, 60*hour).Draw(t, "until the next card")
		if n == 0 {
			at = base + rapid.Int64Range(-10*hour, 40*hour).Draw(t, "second card")
		}
	}
	return p
}

func line(count int, lease bool) ledger.Line {
	l := ledger.Line{Group: "g", Count: count, RuntimeMS: 40 * hour, OnceMS: 20 * hour, Starts: 2,
		Needs: []ledger.Need{{Classes: []string{"a", "b"}, GPUs: 2, PerGPUHour: 1}}}
	if lease {
		l.Lease, l.OnceMS, l.Starts = true, 0, 0
	}
	return l
}

func (m *model) submit(t *rapid.T) {
	if m.ended {
		return
	}
	lines := []ledger.Line{line(rapid.IntRange(0, 4).Draw(t, "count"), m.lease)}
	before := ledger.Balance{Held: ledger.Charges(m.hold, m.calendar())}
	first := m.open == 0
	m.hold.SubmittedMS = max(m.hold.SubmittedMS, m.clock)
	for _, a := range m.allocs { // what is known has begun before
		m.hold.SubmittedMS = max(m.hold.SubmittedMS, a.StartMS+1)
	}
	m.hold = ledger.Submit(m.hold, lines, m.clock+60_000)
	m.open++
	if !first {
		return // bounded with those in flight, which may also bring order into what was bounded apart
	}
	after := ledger.Balance{Held: ledger.Charges(m.hold, m.calendar())}
	for _, d := range []budget.Dimension{budget.GPUTime("a"), budget.GPUTime("b"), budget.GPUTime("any"), budget.Cost, budget.GPUs("a"), budget.GPUs("any")} {
		for at := int64(-2); at < 60; at++ {
			for _, w := range append(m.calendar().Windows, budget.Concurrent) {
				p := budget.PeriodAt(w, time.UnixMilli(base+at*hour), m.policy.Location)
				rounded := quantity.Amount(0)
				if d == budget.Cost { // of each allocation on its own
					rounded = 8
				}
				if before.HeldIn(p, d) > after.HeldIn(p, d)+rounded {
					t.Fatalf("a submission holds %d of %s in %s, before it was %d", after.HeldIn(p, d), d, p.Key(), before.HeldIn(p, d))
				}
			}
		}
	}
}

func (m *model) calendar() ledger.Calendar {
	return ledger.Calendar{Location: m.policy.Location, Windows: []budget.Window{budget.Hour, budget.Day, budget.Month, budget.Total}}
}

func (m *model) confirm(t *rapid.T) {
	if m.ended || m.open == 0 {
		return
	}
	index := m.index
	if m.hold.JobModifyIndex == 0 || rapid.Bool().Draw(t, "changed") {
		m.index++
		index = m.index
	}
	m.hold = ledger.Confirm(m.hold, index)
	m.open--
	must.Eq(t, m.open > 0, m.hold.Pending != nil, must.Sprint("a submission stays open exactly as long as it is not answered"))
	again := ledger.Confirm(m.hold, index)
	if m.open == 0 {
		must.Eq(t, m.hold, again, must.Sprint("confirming twice"))
	}
}

func (m *model) void(t *rapid.T) {
	if m.ended || m.open == 0 {
		return
	}
	next, remains := ledger.Void(m.hold)
	m.open--
	must.Eq(t, m.hold.State == ledger.Active || m.open > 0, remains, must.Sprint("a hold ends with its only unconfirmed submission"))
	m.hold, m.ended = next, !remains
}

func (m *model) begin(t *rapid.T) {
	m.index++
	a := &known{Observation: ledger.Observation{Alloc: fmt.Sprintf("%04d", rapid.IntRange(0, 9999).Draw(t, "id")), Group: "g", CreateIndex: m.index,
		Name: fmt.Sprintf("job.g[%d]", rapid.IntRange(0, 3).Draw(t, "slot")), StartMS: base + rapid.Int64Range(-2*hour, 40*hour).Draw(t, "start")}}
	if slices.ContainsFunc(m.allocs, func(o *known) bool { return o.Alloc == a.Alloc }) {
		return
	}
	for _, class := range []string{"a", "b"}[:rapid.IntRange(1, 2).Draw(t, "classes")] {
		a.GPUs = append(a.GPUs, ledger.TrackGPUs{Class: class, IDs: []string{"1", "2", "3"}[:rapid.IntRange(1, 3).Draw(t, "gpus")]})
	}
	a.mark = a.StartMS
	m.allocs = append(m.allocs, a)
}

// end lets an allocation end, perhaps before what is posted already.
func (m *model) end(t *rapid.T) {
	if len(m.allocs) == 0 {
		return
	}
	if a := rapid.SampledFrom(m.allocs).Draw(t, "ends"); a.EndMS == 0 {
		a.EndMS = max(a.StartMS, a.StartMS+rapid.Int64Range(-1000, 50*hour).Draw(t, "length"))
		a.Done = rapid.Bool().Draw(t, "done")
	}
}

// see shows facts to the ledger, some of them again.
func (m *model) see(t *rapid.T) {
	for _, a := range m.allocs {
		if !rapid.Bool().Draw(t, "seen") || m.hold.State != ledger.Active {
			continue
		}
		next, changed := ledger.Observe(m.hold, a.Observation, m.clock)
		if changed && a.EndMS != 0 {
			a.endLearned = true
		}
		m.hold = next
		again, changed := ledger.Observe(m.hold, a.Observation, m.clock)
		must.False(t, changed, must.Sprint("the same fact twice"))
		must.Eq(t, m.hold, again)
	}
}

func (m *model) post(t *rapid.T) {
	seen := map[string]bool{}
	for _, tr := range m.hold.Tracks {
		seen[tr.Alloc] = true
	}
	next, posted, entries := metering.Post(m.policy, m.hold, time.UnixMilli(m.clock))
	must.Eq(t, posted, replay(t, m.policy, entries), must.Sprint("I5: the entries give what was posted"))
	m.hold = next
	m.posted.AddAll(posted, 1)
	for _, a := range m.allocs {
		switch {
		case !seen[a.Alloc]:
		case a.endLearned:
			a.mark, a.endPosted = a.EndMS, true
		default:
			a.mark = max(a.mark, m.clock)
		}
	}
	again, nothing, _ := metering.Post(m.policy, m.hold, time.UnixMilli(m.clock))
	must.Eq(t, 0, nothing.Len(), must.Sprint("posting to the same instant twice"))
	must.Eq(t, m.hold, again)
	_, nothing, _ = metering.Post(m.policy, m.hold, time.UnixMilli(m.clock-hour))
	must.Eq(t, 0, nothing.Len(), must.Sprint("posting after the clock stepped back"))
}

// replay is what entries add to balances.
func replay(t must.T, p *budget.Policy, entries []ledger.Entry) ledger.Vector {
	v := ledger.NewVector()
	for _, e := range entries {
		must.NoError(t, e.Validate())
		v.AddAll(e.PostedVector(p.Location, []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}), 1)
	}
	return v
}

func (m *model) renew(t *rapid.T) {
	m.hold, _ = ledger.Renew(m.hold, m.clock)
	again, moved := ledger.Renew(m.hold, m.clock)
	must.False(t, moved)
	must.Eq(t, m.hold, again)
}

// check compares with the reference: every period's GPU time by overlap, every
// cost by exact fractions.
func (m *model) check(t must.T) {
	want := ledger.NewVector()
	used := ledger.Usage{GPUTime: map[string]quantity.Amount{}}
	for _, a := range m.allocs {
		for _, g := range a.GPUs {
			n := int64(len(g.IDs))
			if a.mark > a.StartMS {
				used.GPUTime[g.Class] += quantity.Amount((a.mark - a.StartMS) * n)
				used.Cost += m.cost(a.StartMS, a.StartMS, a.mark, n, g.Class)
			}
			for _, w := range []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total} {
				for at := a.StartMS; at < a.mark; {
					p := budget.PeriodAt(w, time.UnixMilli(at), m.policy.Location)
					end := a.mark
					if w != budget.Total {
						end = min(end, p.End.UnixMilli())
					}
					want.Add(p.Key(), budget.GPUTime(g.Class), quantity.Amount((end-at)*n))
					want.Add(p.Key(), budget.GPUTime("any"), quantity.Amount((end-at)*n))
					want.Add(p.Key(), budget.Cost, m.cost(a.StartMS, at, end, n, g.Class))
					at = end
				}
			}
		}
	}
	must.Eq(t, want, m.posted, must.Sprint("posted"))
	must.Eq(t, used.Cost, m.hold.Posted.Cost, must.Sprint("cost of the hold"))
	for class, ms := range used.GPUTime {
		must.Eq(t, ms, m.hold.Posted.GPUTime[class], must.Sprintf("time of %s", class))
	}
	value, err := ledger.EncodeHold(m.hold)
	must.NoError(t, err)
	stored, err := ledger.DecodeHold(value)
	must.NoError(t, err)
	must.Eq(t, ledger.Charges(m.hold, m.calendar()), ledger.Charges(stored, m.calendar()), must.Sprint("charges after a restart"))
	must.Eq(t, m.hold.Pending == nil, stored.Pending == nil, must.Sprint("pending after a restart"))
}

// cost prices [from, to) of an allocation, card by card: on each card the
// rounded cumulative price since the allocation or the card began.
func (m *model) cost(start, from, to, gpus int64, class string) quantity.Amount {
	total := int64(0)
	for i, card := range m.policy.RateCards {
		begin, end := card.EffectiveFrom.UnixMilli(), to
		if i+1 < len(m.policy.RateCards) {
			end = min(end, m.policy.RateCards[i+1].EffectiveFrom.UnixMilli())
		}
		a, b := max(from, begin), end
		if a >= b {
			continue
		}
		zero := max(start, begin)
		rate := int64(card.PerGPUHour[class])
		total += roundHalfEven((b-zero)*gpus, rate) - roundHalfEven((a-zero)*gpus, rate)
	}
	return quantity.Amount(total)
}

// roundHalfEven is ms x rate / 3,600,000 by exact fractions.
func roundHalfEven(ms, rate int64) int64 {
	exact := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(ms), big.NewInt(rate)), big.NewInt(hour))
	floor := new(big.Int).Div(exact.Num(), exact.Denom())
	rest := new(big.Rat).Sub(exact, new(big.Rat).SetInt(floor))
	half := big.NewRat(1, 2)
	if c := rest.Cmp(half); c > 0 || c == 0 && floor.Bit(0) == 1 {
		floor.Add(floor, big.NewInt(1))
	}
	return floor.Int64()
}

// TestInvariantI4_EveryMillisecondIsPostedOnce is I4, I5 and I6 against the reference, over
// random submissions, facts, repetitions, postings and clock steps.
func TestInvariantI4_EveryMillisecondIsPostedOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{policy: anyPolicy(t), posted: ledger.NewVector(), clock: base, index: 10,
			hold: ledger.Hold{ID: "h", Namespace: "default", JobID: "job", Budget: "org/x", State: ledger.Held}}
		m.lease = rapid.Bool().Draw(t, "service")
		m.submit(t)
		t.Repeat(map[string]func(*rapid.T){
			"submit":  m.submit,
			"confirm": m.confirm,
			"void":    m.void,
			"begin":   m.begin,
			"end":     m.end,
			"see":     m.see,
			"post":    m.post,
			"renew":   m.renew,
			"clock": func(t *rapid.T) {
				m.clock += rapid.Int64Range(-3*hour, 8*hour).Draw(t, "step")
			},
			"": func(t *rapid.T) { m.check(t) },
		})
		if m.hold.State != ledger.Active {
			return
		}
		for _, a := range m.allocs { // everything ends and is seen
			if a.EndMS == 0 {
				a.EndMS = a.StartMS + hour
			}
			if next, changed := ledger.Observe(m.hold, a.Observation, m.clock); changed {
				m.hold, a.endLearned = next, true
			}
		}
		m.post(t)
		m.check(t)
		must.SliceEmpty(t, m.hold.Tracks)
	})
}

// TestManyPostingsAreOne is that the instants of posting do not matter, to the
// micro-unit.
func TestManyPostingsAreOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		if rapid.Bool().Draw(t, "b is a part of a") {
			p.Classes = []budget.Class{{Name: "a"}, {Name: "b", Shares: []budget.Share{{Class: "a", Parts: quantity.GPU * 3 / 7}}}}
		}
		start := base + rapid.Int64Range(0, 10*hour).Draw(t, "start")
		length := rapid.Int64Range(1, 40*hour).Draw(t, "length")
		h := ledger.Hold{State: ledger.Active, Tracks: []ledger.Track{{Alloc: "1", Name: "job.g[0]", Group: "g", StartMS: start, MarkMS: start,
			GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{"1", "2", "3"}}, {Class: "b", IDs: []string{"4"}}}}}}
		whole, once, _ := metering.Post(p, h, time.UnixMilli(start+length))
		sum := ledger.NewVector()
		for _, at := range rapid.SliceOfN(rapid.Int64Range(0, length), 0, 30).Draw(t, "instants") {
			next, posted, entries := metering.Post(p, h, time.UnixMilli(start+at))
			must.Eq(t, posted, replay(t, p, entries))
			h = next
			sum.AddAll(posted, 1)
		}
		h, posted, _ := metering.Post(p, h, time.UnixMilli(start+length))
		sum.AddAll(posted, 1)
		must.Eq(t, once, sum)
		must.Eq(t, whole.Posted, h.Posted)
	})
}

// TestInvariantI6_AnEntryHasThePriceInForceAtItsStart is that every entry names the
// rate card in force when it begins, ends before the next one, and costs what the GPU
// time costs by it; rounding is of the sum, so an entry may be off by a micro-unit.
func TestInvariantI6_AnEntryHasThePriceInForceAtItsStart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		start := base + rapid.Int64Range(-20*hour, 20*hour).Draw(t, "start")
		gpus := []string{"1", "2", "3"}[:rapid.IntRange(1, 3).Draw(t, "gpus")]
		h := ledger.Hold{State: ledger.Active, Tracks: []ledger.Track{{Alloc: "1", Name: "job.g[0]", Group: "g", StartMS: start, MarkMS: start,
			GPUs: []ledger.TrackGPUs{{Class: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "class"), IDs: gpus}}}}}
		for _, at := range rapid.SliceOfN(rapid.Int64Range(0, 80*hour), 1, 10).Draw(t, "instants") {
			next, _, entries := metering.Post(p, h, time.UnixMilli(start+at))
			h = next
			for _, e := range entries {
				i := slices.IndexFunc(p.RateCards, func(c budget.RateCard) bool { return c.Name == e.RateCard })
				must.NonNegative(t, i, must.Sprintf("%q is no rate card", e.RateCard))
				must.LessEq(t, e.FromMS, p.RateCards[i].EffectiveFrom.UnixMilli(), must.Sprint("the card was not yet in force"))
				if i+1 < len(p.RateCards) {
					must.LessEq(t, p.RateCards[i+1].EffectiveFrom.UnixMilli(), e.ToMS, must.Sprint("the next card was in force"))
				}
				off := int64(e.Cost) - roundHalfEven((e.ToMS-e.FromMS)*int64(len(gpus)), int64(p.RateCards[i].PerGPUHour[e.Class]))
				must.Between(t, -1, off, 1, must.Sprint("cost"))
			}
		}
	})
}
