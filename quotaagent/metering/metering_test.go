package metering_test

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func at(t must.T, text string) time.Time {
	when, err := time.Parse(time.RFC3339, text)
	must.NoError(t, err)
	return when
}

// priced is a policy with a price for class a from each instant on.
func priced(t must.T, cards map[string]quantity.Amount, order ...string) *budget.Policy {
	p := &budget.Policy{Location: berlin(t)}
	for _, from := range order {
		p.RateCards = append(p.RateCards, budget.RateCard{EffectiveFrom: at(t, from), PerGPUHour: map[string]quantity.Amount{"a": cards[from]}})
	}
	return p
}

// running is a hold of one batch run of the given hours and starts, confirmed at
// index 10, and its allocation on two GPUs.
func running(t must.T, begin string, hours int64, starts int) (ledger.Hold, ledger.Observation) {
	line := ledger.Line{Group: "g", Count: 1, RuntimeMS: hours * hour * int64(starts), Starts: starts, Needs: []ledger.Need{{Classes: []string{"a"}, GPUs: 2}}}
	h := ledger.Confirm(ledger.Submit(ledger.Hold{JobID: "job", State: ledger.Held}, []ledger.Line{line}, 1), 10)
	o := ledger.Observation{Alloc: "1", Name: "job.g[0]", Group: "g", CreateIndex: 11, StartMS: at(t, begin).UnixMilli(),
		GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{"x", "y"}}}}
	h, changed := ledger.Observe(h, o, o.StartMS)
	must.True(t, changed)
	return h, o
}

func hours(v ledger.Vector, key string) float64 {
	return float64(v.At(key, budget.GPUTime("any"))) / float64(hour)
}

func TestUsageFallsIntoItsPeriods(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		begin, until string
		want         map[string]float64
	}{
		"the day of 23 hours": {"2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", map[string]float64{"day/2026-03-28T23:00Z": 46, "day/2026-03-29T22:00Z": 0}},
		"the day of 25 hours": {"2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00", map[string]float64{"day/2026-10-24T22:00Z": 50}},
		"the hour that comes twice is two hours": {"2026-10-25T02:00:00+02:00", "2026-10-25T03:00:00+01:00",
			map[string]float64{"hour/2026-10-25T00:00Z": 2, "hour/2026-10-25T01:00Z": 2}},
		"a month boundary in local time": {"2026-10-31T22:00:00+01:00", "2026-11-01T01:00:00+01:00",
			map[string]float64{"month/2026-09-30T22:00Z": 4, "month/2026-10-31T23:00Z": 2, "quarter/2026-09-30T22:00Z": 6}},
		"a run over several days": {"2026-11-10T12:00:00+01:00", "2026-11-12T12:00:00+01:00",
			map[string]float64{"day/2026-11-09T23:00Z": 24, "day/2026-11-10T23:00Z": 48, "day/2026-11-11T23:00Z": 24, "total": 96}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _ := running(t, tc.begin, 100, 1)
			_, posted, _ := metering.Post(priced(t, nil), h, at(t, tc.until))
			for key, want := range tc.want {
				must.Eq(t, want, hours(posted, key), must.Sprint(key))
			}
		})
	}
}

func TestARateCardThatChangesDuringTheRunPricesEachSliceByItsStart(t *testing.T) {
	t.Parallel()
	p := priced(t, map[string]quantity.Amount{"2026-01-01T00:00:00Z": 1_000_000, "2026-06-01T02:00:00Z": 3_000_000}, "2026-01-01T00:00:00Z", "2026-06-01T02:00:00Z")
	h, _ := running(t, "2026-06-01T00:00:00Z", 3, 1)
	early, _, _ := metering.Post(p, h, at(t, "2026-06-01T00:30:00Z"))
	must.Eq(t, 3_000_000, early.Tracks[0].GPUs[0].PerGPUHour, must.Sprint("what is still held costs at most the next price"))
	must.Eq(t, 0, h.Tracks[0].GPUs[0].PerGPUHour, must.Sprint("the given hold is not changed"))
	after, _, _ := metering.Post(p, early, at(t, "2026-06-01T03:00:00Z"))
	must.Eq(t, 2*(2*1_000_000+1*3_000_000), after.Posted.Cost)
}

func TestWhatWasPostedBeyondTheEndIsTakenBack(t *testing.T) {
	t.Parallel()
	p := priced(t, map[string]quantity.Amount{"2026-01-01T00:00:00Z": 1_000_000}, "2026-01-01T00:00:00Z")
	h, o := running(t, "2026-06-01T00:00:00Z", 9, 1)
	h, posted, _ := metering.Post(p, h, at(t, "2026-06-01T02:00:00Z"))
	o.EndMS = at(t, "2026-06-01T01:00:00Z").UnixMilli()
	h, _ = ledger.Observe(h, o, 0)
	h, back, _ := metering.Post(p, h, at(t, "2026-06-01T02:00:10Z"))
	posted.AddAll(back, 1)
	must.Eq(t, 2, hours(posted, "total"))
	must.Eq(t, 0, hours(posted, "hour/2026-06-01T01:00Z"))
	must.Eq(t, 2_000_000, h.Posted.Cost)
	must.Eq(t, hour, h.Slots["job.g[0]"].UsedMS)
}

func TestALostAllocationIsPostedToItsEndAndItsSuccessorFromItsOwnStart(t *testing.T) {
	t.Parallel()
	p := priced(t, nil)
	h, o := running(t, "2026-06-01T00:00:00Z", 4, 2)
	o.EndMS, o.Estimated = at(t, "2026-06-01T01:00:00Z").UnixMilli(), true
	h, _ = ledger.Observe(h, o, 0)
	must.True(t, h.Tracks[0].Estimated)
	successor := ledger.Observation{Alloc: "0", Name: o.Name, Group: "g", CreateIndex: 20, GPUs: o.GPUs, StartMS: at(t, "2026-06-01T01:30:00Z").UnixMilli()}
	h, _ = ledger.Observe(h, successor, 0)
	h, posted, _ := metering.Post(p, h, at(t, "2026-06-01T02:00:00Z"))
	must.Eq(t, 2+1, hours(posted, "total"), must.Sprint("nothing for the half hour between them"))
	must.Len(t, 1, h.Tracks)
	must.Eq(t, ledger.Slot{UsedMS: hour, StartMS: o.StartMS, EndMS: o.StartMS + hour, Index: o.CreateIndex, LastMS: hour}, h.Slots[o.Name])
	cal := ledger.Calendar{Location: time.UTC, Windows: []budget.Window{budget.Total}}
	held := ledger.Charges(h, cal)
	must.Eq(t, 2*(8-1)-1, hours(held, "total")+hours(held, "total/any"), must.Sprint("two starts of four hours, less what both used"))
}

func TestThePredecessorOfAChangedJobUsesNothingOfItsSlot(t *testing.T) {
	t.Parallel()
	p := priced(t, nil)
	h, o := running(t, "2026-06-01T00:00:00Z", 4, 1)
	h = ledger.Confirm(ledger.Submit(h, h.Lines, 1), 20) // changed while it runs
	successor := ledger.Observation{Alloc: "2", Name: o.Name, Group: "g", CreateIndex: 21, GPUs: o.GPUs, StartMS: at(t, "2026-06-01T03:00:00Z").UnixMilli()}
	h, _ = ledger.Observe(h, successor, 0)
	o.EndMS, o.Done = at(t, "2026-06-01T03:00:05Z").UnixMilli(), true
	h, _ = ledger.Observe(h, o, 0)
	h, _, _ = metering.Post(p, h, at(t, "2026-06-01T03:00:05Z"))
	must.MapEmpty(t, h.Slots)
	must.Eq(t, at(t, "2026-06-01T07:00:00Z").UnixMilli(), h.HeldUntil(h.Tracks[0]), must.Sprint("a whole run of its own"))
}

func TestAnAdoptedAllocationIsPostedFromItsCreation(t *testing.T) {
	t.Parallel()
	h, o := running(t, "2026-06-01T00:00:00Z", 4, 1)
	h.Tracks = nil
	o.CreateIndex = 3 // long before the hold
	h, changed := ledger.Observe(h, o, 0)
	must.True(t, changed)
	_, posted, _ := metering.Post(priced(t, nil), h, at(t, "2026-06-01T02:00:00Z"))
	must.Eq(t, 4, hours(posted, "total"))
}

func TestEndsLearnedInTheWrongOrderLeaveTheYoungestToDecide(t *testing.T) {
	t.Parallel()
	slot := ledger.Slot{}.Ended(ledger.Track{CreateIndex: 12, StartMS: 100, EndMS: 150, Done: true}).Ended(ledger.Track{CreateIndex: 11, StartMS: 10, EndMS: 90})
	must.Eq(t, ledger.Slot{UsedMS: 130, Done: true, StartMS: 100, EndMS: 150, Index: 12, LastMS: 50}, slot)
}

func TestDearestRate(t *testing.T) {
	t.Parallel()
	p := priced(t, map[string]quantity.Amount{"2026-01-01T00:00:00Z": 5, "2026-02-01T00:00:00Z": 9, "2026-03-01T00:00:00Z": 2},
		"2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
	cases := map[string]struct {
		class, from, to string
		want            quantity.Amount
		priced          bool
	}{
		"one card in force":          {"a", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", 5, true},
		"a dearer one takes over":    {"a", "2026-01-02T00:00:00Z", "2026-02-01T00:00:00Z", 9, true},
		"a cheaper one takes over":   {"a", "2026-02-02T00:00:00Z", "2026-03-02T00:00:00Z", 9, true},
		"no card yet":                {"a", "2025-12-31T00:00:00Z", "2026-01-02T00:00:00Z", 5, false},
		"a class that is on no card": {"b", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", 0, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rate, ok := metering.DearestRate(p, tc.class, budget.JobFacts{}, at(t, tc.from), at(t, tc.to))
			must.Eq(t, tc.want, rate)
			must.Eq(t, tc.priced, ok)
		})
	}
}

// TestInvariantI8_PostedAndReleasedIsWhatWasHeld is for a run without reschedules: at
// every moment posted plus held is what was admitted, and what is left at the end is
// released with it.
func TestInvariantI8_PostedAndReleasedIsWhatWasHeld(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := priced(t, nil)
		bound := rapid.Int64Range(1, 60).Draw(t, "hours")
		h, o := running(t, "2026-06-29T00:00:00Z", bound, 1)
		cal := ledger.Calendar{Location: p.Location, Windows: []budget.Window{budget.Total}}
		admitted := quantity.Amount(2 * bound * hour)
		posted := func() quantity.Amount { return h.Posted.Total() }
		held := func() quantity.Amount { return ledger.Charges(h, cal).At("total", budget.GPUTime(budget.AnyClass)) }
		length := rapid.Int64Range(1, bound*hour).Draw(t, "length")
		total := ledger.NewVector()
		for _, ms := range rapid.SliceOfN(rapid.Int64Range(0, length), 0, 20).Draw(t, "instants") {
			next, more, _ := metering.Post(p, h, time.UnixMilli(o.StartMS+ms))
			h = next
			total.AddAll(more, 1)
			must.Eq(t, admitted, posted()+held())
			must.Eq(t, posted(), total.At("total", budget.GPUTime(budget.AnyClass)))
		}
		o.EndMS, o.Done = o.StartMS+length, true
		h, _ = ledger.Observe(h, o, 0)
		h, _, _ = metering.Post(p, h, time.UnixMilli(o.EndMS+hour))
		must.Eq(t, quantity.Amount(2*length), posted())
		must.Eq(t, 0, ledger.Charges(h, cal).Len(), must.Sprint("what was not used is released"))
	})
}
