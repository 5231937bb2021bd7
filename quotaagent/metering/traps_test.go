package metering_test

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/shoenig/test/must"
)

// A job of two GPUs runs through a day of 23 or 25 hours, the ends of short and
// long months, and a change of the price: every millisecond is in its window, at
// its price.
func TestTrap5WindowsOfEveryLengthAndAPriceThatChanges(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		begin, until string
		key          string
		hours        int64
	}{
		"the day of 23 hours":     {"2026-03-28T12:00:00+01:00", "2026-03-31T12:00:00+02:00", "day/2026-03-28T23:00Z", 23},
		"the day of 25 hours":     {"2026-10-24T12:00:00+02:00", "2026-10-27T12:00:00+01:00", "day/2026-10-24T22:00Z", 25},
		"the month of 28 days":    {"2026-01-31T12:00:00+01:00", "2026-03-02T12:00:00+01:00", "month/2026-01-31T23:00Z", 28 * 24},
		"the February of 29 days": {"2028-01-31T12:00:00+01:00", "2028-03-02T12:00:00+01:00", "month/2028-01-31T23:00Z", 29 * 24},
		"March, an hour short":    {"2026-02-28T12:00:00+01:00", "2026-04-02T12:00:00+02:00", "month/2026-02-28T23:00Z", 31*24 - 1},
		"October, an hour long":   {"2026-09-30T12:00:00+02:00", "2026-11-02T12:00:00+01:00", "month/2026-09-30T22:00Z", 31*24 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin, until := at(t, tc.begin), at(t, tc.until)
			change := begin.Add(until.Sub(begin) / 2).Add(1234567 * time.Microsecond)
			changeMS := change.UnixMilli() + 1 // within a millisecond: it counts from the next one
			p := priced(t, nil)
			p.RateCards = []budget.RateCard{
				{Name: "before", EffectiveFrom: at(t, "2026-01-01T00:00:00Z"), PerGPUHour: map[string]quantity.Amount{"a": 1_000_003}},
				{Name: "after", EffectiveFrom: change, PerGPUHour: map[string]quantity.Amount{"a": 2_500_001}}}
			h, o := running(t, tc.begin, 2000, 1)
			posted, entries := ledger.NewVector(), []ledger.Entry(nil)
			for now := begin; now.Before(until); now = now.Add(7*time.Hour + 11*time.Minute + 13*time.Millisecond) {
				next, add, more := metering.Post(p, h, now)
				h, entries = next, append(entries, more...)
				posted.AddAll(add, 1)
			}
			o.EndMS, o.Done = until.UnixMilli(), true
			h, _ = ledger.Observe(h, o, 0)
			_, add, more := metering.Post(p, h, until)
			posted.AddAll(add, 1)
			entries = append(entries, more...)
			must.Eq(t, quantity.Amount(2*tc.hours*hour), posted.At(tc.key, budget.GPUTime("any")))
			sum, cost := quantity.Amount(0), quantity.Amount(0)
			for _, e := range entries {
				sum, cost = sum+e.GPUTime, cost+e.Cost
				card := "before"
				if e.FromMS >= changeMS {
					card = "after"
				}
				must.Eq(t, card, e.RateCard)
			}
			must.Eq(t, quantity.Amount(2*(until.UnixMilli()-begin.UnixMilli())), sum)
			first, second := 2*(changeMS-begin.UnixMilli()), 2*(until.UnixMilli()-changeMS)
			must.Eq(t, quantity.Amount(roundHalfEven(first, 1_000_003)+roundHalfEven(second, 2_500_001)), cost, must.Sprint("rounded once for each price"))
			must.Eq(t, cost, posted.At("total", budget.Cost))
		})
	}
}

// Money is counted in whole micro-units and rounded half to even on what has been
// used so far: however often it is posted, nothing drifts, and no price is free.
func TestTrap13MoneyNeverDriftsAndZeroIsZero(t *testing.T) {
	t.Parallel()
	const rate = 1 // one micro-unit for an hour: nearly every posting alone rounds to nothing
	p := priced(t, map[string]quantity.Amount{"2026-01-01T00:00:00Z": rate}, "2026-01-01T00:00:00Z")
	h, _ := running(t, "2026-06-01T00:00:00Z", 100, 1)
	total := quantity.Amount(0)
	for s := range 3600 {
		next, posted, _ := metering.Post(p, h, at(t, "2026-06-01T00:00:00Z").Add(time.Duration(10*s)*time.Second))
		h = next
		total += posted.At("total", budget.Cost)
	}
	must.Eq(t, quantity.Amount(roundHalfEven(2*35_990_000, rate)), total)
	must.Positive(t, total)

	free := priced(t, map[string]quantity.Amount{"2026-01-01T00:00:00Z": 0}, "2026-01-01T00:00:00Z")
	h, _ = running(t, "2026-06-01T00:00:00Z", 100, 1)
	_, posted, _ := metering.Post(free, h, at(t, "2026-06-01T05:00:00Z"))
	must.Eq(t, 0, posted.At("total", budget.Cost))
	must.Eq(t, quantity.Amount(10*hour), posted.At("total", budget.GPUTime("any")), must.Sprint("what costs nothing is still used"))
}
