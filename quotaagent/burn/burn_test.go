package burn_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/burn"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func TestRateIsAMultipleOfTheEvenRate(t *testing.T) {
	t.Parallel()
	month := budget.PeriodAt(budget.Month, noon, time.UTC) // 31 days
	for name, c := range map[string]struct {
		used, limit quantity.Amount
		over        time.Duration
		period      budget.Period
		want        float64
		known       bool
	}{
		"an hour of 744 at the even rate":    {1000, 744_000, time.Hour, month, 1, true},
		"fourteen times as fast":             {14_000, 744_000, time.Hour, month, 14, true},
		"nothing used":                       {0, 744_000, time.Hour, month, 0, true},
		"a limit of nothing has no rate":     {5, 0, time.Hour, month, 0, false},
		"all time has no end, and no rate":   {5, 100, time.Hour, budget.Period{Window: budget.Total}, 0, false},
		"no time at all":                     {5, 100, 0, month, 0, false},
		"the whole limit in the whole month": {744_000, 744_000, 744 * time.Hour, month, 1, true},
	} {
		got, known := burn.Rate(c.used, c.over, c.limit, c.period)
		must.Eq(t, c.known, known, must.Sprint(name))
		must.InDelta(t, c.want, got, 1e-9, must.Sprint(name))
	}
}

func TestUsedIsKnownOnceItWasWatchedForSoLong(t *testing.T) {
	t.Parallel()
	m, a := burn.New(), burn.Account{Budget: "acme", Dimension: budget.Cost}
	take := func(after time.Duration, posted quantity.Amount) {
		m.Take(noon.Add(after), []burn.Reading{{Account: a, Period: "p", Posted: posted}})
	}
	take(0, 500)
	_, known := m.Used(a, time.Minute)
	must.False(t, known)
	for i := 1; i <= 10; i++ {
		take(time.Duration(i)*time.Minute, quantity.Amount(500+60*i))
	}
	used, known := m.Used(a, 5*time.Minute)
	must.True(t, known)
	must.Eq(t, 300, used)
	used, _ = m.Used(a, 90*time.Second)
	must.Eq(t, 90, used, must.Sprint("between two samples the use is even"))
	_, known = m.Used(a, 11*time.Minute)
	must.False(t, known)
	take(11*time.Minute, 500)
	used, _ = m.Used(a, 5*time.Minute)
	must.Eq(t, 0, used, must.Sprint("what was taken back is no negative use"))
	m.Take(noon.Add(12*time.Minute), nil)
	must.False(t, m.Known(a))
}

func TestANewPeriodBeginsWithNothingAndLosesNothing(t *testing.T) {
	t.Parallel()
	m, a := burn.New(), burn.Account{Budget: "acme", Dimension: budget.Cost}
	m.Take(noon, []burn.Reading{{Account: a, Period: "old", Posted: 100}})
	m.Take(noon.Add(2*time.Minute), []burn.Reading{{Account: a, Period: "new", Posted: 7,
		Before: func(period string) quantity.Amount { must.Eq(t, "old", period); return 130 }}})
	used, known := m.Used(a, 2*time.Minute)
	must.True(t, known)
	must.Eq(t, 37, used, must.Sprint("30 until the old one ended, and 7 since"))
}

func TestThePastFillsWhatWasNotWatched(t *testing.T) {
	t.Parallel()
	m, a := burn.New(), burn.Account{Budget: "acme", Dimension: budget.Cost}
	m.Take(noon, []burn.Reading{{Account: a, Period: "p", Posted: 1000}})
	m.Seed(a, []burn.Past{{At: noon.Add(-6 * time.Hour), Since: 600}, {At: noon.Add(-time.Hour), Since: 100}})
	used, known := m.Used(a, 6*time.Hour)
	must.True(t, known)
	must.Eq(t, 600, used)
	used, _ = m.Used(a, 30*time.Minute)
	must.Eq(t, 50, used)
}

// However the readings come, what was used over a time differs from the truth by no
// more than what was used between two samples at its beginning.
func TestUsedIsNearTheTruth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, a := burn.New(), burn.Account{Budget: "acme", Dimension: budget.Cost}
		type point struct {
			at  time.Time
			sum quantity.Amount
		}
		var truth []point
		at, sum := noon, quantity.Amount(0)
		for range rapid.IntRange(2, 600).Draw(t, "readings") {
			at = at.Add(time.Duration(rapid.IntRange(15, 90).Draw(t, "seconds")) * time.Second)
			sum += quantity.Amount(rapid.IntRange(0, 50).Draw(t, "used"))
			truth = append(truth, point{at, sum})
			m.Take(at, []burn.Reading{{Account: a, Period: "p", Posted: sum}})
		}
		over := time.Duration(rapid.IntRange(1, 400).Draw(t, "minutes")) * time.Minute
		used, known := m.Used(a, over)
		from := at.Add(-over)
		if !known {
			must.True(t, from.Before(truth[0].at) || over > burn.Longest)
			return
		}
		low, high := sum, quantity.Amount(0)
		for _, p := range truth {
			if d := p.at.Sub(from); d > -10*time.Minute && d < 10*time.Minute {
				low, high = min(low, sum-p.sum), max(high, sum-p.sum)
			}
		}
		must.Between(t, low, used, high)
	})
}
