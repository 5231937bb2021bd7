package forecast_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/forecast"
)

// account is a limit of a month at noon of the 20th with so many hours of use.
func account(limit, used quantity.Amount, hours []quantity.Amount) forecast.Account {
	return forecast.Account{Now: now, End: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), Limit: limit, Used: used,
		First: now.Add(-time.Duration(len(hours)) * time.Hour), Hours: hours}
}

// steady is the same use in each of n hours.
func steady(n int, a quantity.Amount) []quantity.Amount {
	out := make([]quantity.Amount, n)
	for i := range out {
		out[i] = a
	}
	return out
}

func TestSteadyUseRunsOutWhenItShould(t *testing.T) {
	t.Parallel()
	e := forecast.Exhaust(account(1000_000, 400_000, steady(28*24, 10_000)))
	must.Eq(t, now.Add(60*time.Hour), *e.P50)
	must.Eq(t, now.Add(60*time.Hour), *e.P90, must.Sprint("it was never different"))
	must.Eq(t, 400_000+252*10_000, *e.AtEnd50, must.Sprint("ten and a half days are left"))
	must.Greater(t, 10, e.Origins)
}

func TestWithLittlePastP90IsAGuess(t *testing.T) {
	t.Parallel()
	e := forecast.Exhaust(account(1000_000, 400_000, steady(24, 10_000)))
	must.Eq(t, 0, e.Origins)
	must.Eq(t, now.Add(60*time.Hour), *e.P50)
	must.Eq(t, now.Add(40*time.Hour), *e.P90, must.Sprint("half as much again"))
	none := forecast.Exhaust(account(1000_000, 400_000, nil))
	must.Nil(t, none.P50)
	must.Nil(t, none.P90)
	must.Eq(t, 400_000, *none.AtEnd90)
}

func TestWhatIsUsedUpIsReachedNow(t *testing.T) {
	t.Parallel()
	e := forecast.Exhaust(account(1000, 1000, steady(48, 0)))
	must.Eq(t, now, *e.P50)
	must.Eq(t, now, *e.P90)
}

func TestTheSeasonIsKnown(t *testing.T) {
	t.Parallel()
	// Work from 8 to 18 on five days a week; the 20th of April 2026 is a Monday.
	hours := make([]quantity.Amount, 28*24)
	a := account(0, 0, hours)
	a.Now, a.First = now.Add(-12*time.Hour), a.First.Add(-12*time.Hour) // midnight
	for i := range hours {
		if at := a.First.Add(time.Duration(i) * time.Hour); at.Weekday() >= time.Monday && at.Weekday() <= time.Friday && at.Hour() >= 8 && at.Hour() < 18 {
			hours[i] = 10_000
		}
	}
	monday := a
	monday.End = a.Now.Add(24 * time.Hour)
	sunday := a
	sunday.Now, sunday.End = a.Now.AddDate(0, 0, -1), a.Now
	sunday.Hours = hours[:27*24]
	must.Greater(t, *forecast.Exhaust(sunday).AtEnd50, *forecast.Exhaust(monday).AtEnd50)
}

func TestRunningWorkIsExpectedToGoOn(t *testing.T) {
	t.Parallel()
	a := account(1000_000, 0, nil)
	a.Scheduled = []forecast.Scheduled{{Amount: 2000_000, Until: now.Add(100 * time.Hour)}}
	e := forecast.Exhaust(a)
	must.Eq(t, now.Add(50*time.Hour), *e.P90, must.Sprint("20,000 an hour, all of its time"))
	must.Eq(t, 1000_000, *e.AtEnd50, must.Sprint("half of its time"))
	a.Scheduled[0].Until = now.Add(-time.Hour)
	must.Nil(t, forecast.Exhaust(a).P90, must.Sprint("it is over"))
}

func TestALimitWithoutAnEnd(t *testing.T) {
	t.Parallel()
	a := account(1000_000, 0, steady(48, 1000))
	a.End = time.Time{}
	e := forecast.Exhaust(a)
	must.Eq(t, now.Add(1000*time.Hour), *e.P50)
	must.Nil(t, e.AtEnd50)
	a.Limit = 1_000_000_000
	must.Nil(t, forecast.Exhaust(a).P50, must.Sprint("more than a year"))
}

// later reports whether an exhaustion is later than another; nil is never.
func later(a, b *time.Time) bool { return b != nil && (a == nil || a.After(*b)) }

func anyAccount(t *rapid.T) forecast.Account {
	hours := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) quantity.Amount {
		return quantity.Amount(rapid.Int64Range(0, 1_000_000).Draw(t, "use"))
	}), 0, 24*25).Draw(t, "hours")
	a := account(quantity.Amount(rapid.Int64Range(1, 300_000_000).Draw(t, "limit")), quantity.Amount(rapid.Int64Range(0, 100_000_000).Draw(t, "used")), hours)
	if rapid.Bool().Draw(t, "runs") {
		a.Scheduled = []forecast.Scheduled{{Amount: quantity.Amount(rapid.Int64Range(0, 50_000_000).Draw(t, "held")), Until: now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "until")) * time.Hour)}}
	}
	return a
}

// TestExhaustionIsNeverLater: for more use in any hour (the median; what P90 is beyond it
// comes from how well the past was forecast), for more use in all hours alike, for more
// that is used already, for more that runs, and for less that is allowed. The cautious
// date is never after the median, and what is told agrees with itself.
func TestExhaustionIsNeverLater(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := anyAccount(t)
		e := forecast.Exhaust(a)
		must.False(t, later(e.P90, e.P50))
		must.True(t, *e.AtEnd90 >= *e.AtEnd50 && *e.AtEnd50 >= a.Used)
		must.Eq(t, e.P50 != nil, *e.AtEnd50 >= a.Limit)
		must.Eq(t, e.P90 != nil, *e.AtEnd90 >= a.Limit)
		for _, at := range []*time.Time{e.P50, e.P90} {
			must.True(t, at == nil || !at.Before(a.Now) && !at.After(a.End))
		}
		b := a
		b.Hours = append([]quantity.Amount{}, a.Hours...)
		switch rapid.IntRange(0, 4).Draw(t, "what") {
		case 0:
			for i := range b.Hours {
				b.Hours[i] += quantity.Amount(rapid.SampledFrom([]int64{0, 0, 0, 5, 700_000}).Draw(t, "more"))
			}
			must.False(t, later(forecast.Exhaust(b).P50, e.P50))
			return
		case 1:
			b.Used += 1_000_000
		case 2:
			b.Limit -= b.Limit / 3
		case 3:
			b.Scheduled = append([]forecast.Scheduled{{Amount: 9_000_000, Until: now.Add(50 * time.Hour)}}, a.Scheduled...)
		case 4:
			for i := range b.Hours {
				b.Hours[i] *= 2
			}
			// Whole numbers of the smallest units: twice as much is rounded once less.
			must.False(t, later(minus(forecast.Exhaust(b).P90, time.Minute), e.P90))
			return
		}
		next := forecast.Exhaust(b)
		must.False(t, later(next.P50, e.P50))
		must.False(t, later(next.P90, e.P90))
	})
}

func minus(at *time.Time, d time.Duration) *time.Time {
	if at == nil {
		return nil
	}
	earlier := at.Add(-d)
	return &earlier
}
