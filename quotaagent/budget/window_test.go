package budget_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// The zones that break naive calendars, and why.
var zones = []string{
	"UTC",
	"Europe/Berlin",       // changes at 02:00 and 03:00
	"America/New_York",    // the day of the change has 23 or 25 hours
	"America/Santiago",    // skips midnight; sets 24:00 back to 23:00
	"Asia/Beirut",         // the same in the north
	"America/Havana",      // has midnight twice: 01:00 back to 00:00
	"America/St_Johns",    // until 2011 changed at 00:01, so a date came back after its successor
	"Asia/Kolkata",        // half an hour off
	"Australia/Lord_Howe", // changes by half an hour
	"Pacific/Apia",        // had no 30 December 2011
	"Asia/Kathmandu",      // 45 minutes off
}

var calendar = []budget.Window{
	budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year,
}

func load(t must.T, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	must.NoError(t, err)
	return loc
}

func anyZone() *rapid.Generator[string] { return rapid.SampledFrom(zones) }

func anyWindow() *rapid.Generator[budget.Window] { return rapid.SampledFrom(calendar) }

// anyInstant draws from 1980 to 2090, half of them within hours of a change of
// the clock, where the mistakes live.
func anyInstant(loc *time.Location) *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		from, to := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
		at := time.Unix(rapid.Int64Range(from.Unix(), to.Unix()).Draw(t, "unix"), 0).In(loc)
		if _, next := at.ZoneBounds(); rapid.Bool().Draw(t, "near a change") && !next.IsZero() {
			at = next.Add(time.Duration(rapid.Int64Range(-100_000, 100_000).Draw(t, "seconds off")) * time.Second)
		}
		return at.Add(time.Duration(rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")))
	})
}

func TestPeriodsTileTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		loc := load(t, anyZone().Draw(t, "zone"))
		w := anyWindow().Draw(t, "window")
		at := anyInstant(loc).Draw(t, "at")

		p := budget.PeriodAt(w, at, loc)
		must.True(t, !at.Before(p.Start) && at.Before(p.End), must.Sprintf("%s is not in %v", at, p))
		must.Eq(t, p, budget.PeriodAt(w, p.Start, loc))
		must.Eq(t, p, budget.PeriodAt(w, p.End.Add(-1), loc))
		next := p.Next(loc)
		must.True(t, next.Start.Equal(p.End), must.Sprintf("%v does not follow %v", next, p))
		must.True(t, next.End.After(next.Start))
		must.Less(t, next.Key(), p.Key())
		must.Positive(t, p.Millis())
	})
}

func TestPeriodsOfAYearAddUp(t *testing.T) {
	t.Parallel()
	for _, name := range zones {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loc := load(t, name)
			for _, year := range []int{2006, 2011, 2024, 2026, 2050} {
				whole := budget.PeriodAt(budget.Year, time.Date(year, 7, 1, 12, 0, 0, 0, loc), loc)
				for _, w := range []budget.Window{budget.Hour, budget.Day, budget.Month, budget.Quarter} {
					var total, count int64
					for p := budget.PeriodAt(w, whole.Start, loc); p.Start.Before(whole.End); p = p.Next(loc) {
						total += p.Millis()
						count++
					}
					must.Eq(t, whole.Millis(), total, must.Sprintf("%s of %d", w, year))
					if w == budget.Month {
						must.Eq(t, 12, count)
					}
				}
			}
		})
	}
}

func TestPeriodsBeginWhereTheLocalDateDoes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		zone, at   string
		window     budget.Window
		start, end string
	}{
		"a plain day":                              {"Europe/Berlin", "2026-06-10T12:00:00Z", budget.Day, "2026-06-09T22:00:00Z", "2026-06-10T22:00:00Z"},
		"the day of 23 hours":                      {"Europe/Berlin", "2026-03-29T12:00:00Z", budget.Day, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		"the day of 25 hours":                      {"America/New_York", "2026-11-01T12:00:00Z", budget.Day, "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		"a month over the end of summer":           {"Europe/Berlin", "2026-10-15T12:00:00Z", budget.Month, "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"},
		"a week begins on Monday":                  {"UTC", "2026-11-29T12:00:00Z", budget.Week, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		"a quarter":                                {"UTC", "2026-06-30T23:59:59Z", budget.Quarter, "2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z"},
		"a year":                                   {"Asia/Kolkata", "2025-12-31T18:30:00Z", budget.Year, "2025-12-31T18:30:00Z", "2026-12-31T18:30:00Z"},
		"midnight removed: the day begins at 01":   {"America/Santiago", "2024-09-08T12:00:00Z", budget.Day, "2024-09-08T04:00:00Z", "2024-09-09T03:00:00Z"},
		"the day before a removed midnight":        {"America/Santiago", "2024-09-08T03:59:59Z", budget.Day, "2024-09-07T04:00:00Z", "2024-09-08T04:00:00Z"},
		"midnight set back: the day has 25 hours":  {"Asia/Beirut", "2024-10-26T12:00:00Z", budget.Day, "2024-10-25T21:00:00Z", "2024-10-26T22:00:00Z"},
		"midnight comes twice: the first counts":   {"America/Havana", "2024-11-03T12:00:00Z", budget.Day, "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z"},
		"a date that comes back stays in the next": {"America/St_Johns", "2010-11-07T03:00:00Z", budget.Day, "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"},
		"a date that does not exist":               {"Pacific/Apia", "2011-12-31T09:59:59Z", budget.Day, "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		"an hour in a half-hour zone":              {"Asia/Kolkata", "2026-01-01T00:15:00Z", budget.Hour, "2025-12-31T23:30:00Z", "2026-01-01T00:30:00Z"},
		"the hour cut short at Lord Howe":          {"Australia/Lord_Howe", "2026-10-03T15:45:00Z", budget.Hour, "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"},
		"the first of two equal hours":             {"America/New_York", "2026-11-01T05:30:00Z", budget.Hour, "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, tc.at)
			must.NoError(t, err)
			p := budget.PeriodAt(tc.window, at, load(t, tc.zone))
			must.Eq(t, tc.start+" "+tc.end, p.Start.UTC().Format(time.RFC3339)+" "+p.End.UTC().Format(time.RFC3339))
		})
	}
}

func TestTotalHasNoEnd(t *testing.T) {
	t.Parallel()
	for _, w := range []budget.Window{budget.Total, budget.Concurrent} {
		p := budget.PeriodAt(w, time.Unix(1, 0), time.UTC)
		must.Eq(t, budget.Period{Window: w}, p)
		must.Eq(t, p, p.Next(time.UTC))
		must.Eq(t, w.String(), p.Key())
		must.Eq(t, -1, p.Millis())
		must.Eq(t, 2000, p.Overlap(time.Unix(1, 0), time.Unix(3, 0)))
	}
}

func TestOverlapsWithAPeriodAndItsNeighboursAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		loc := load(t, anyZone().Draw(t, "zone"))
		w := anyWindow().Draw(t, "window")
		from := anyInstant(loc).Draw(t, "from").Truncate(time.Millisecond)
		p := budget.PeriodAt(w, from, loc)
		to := from.Add(time.Duration(rapid.Int64Range(0, p.Millis()).Draw(t, "ms")) * time.Millisecond)
		var sum int64
		for q := p; q.Start.Before(to); q = q.Next(loc) {
			sum += q.Overlap(from, to)
		}
		must.Eq(t, to.Sub(from).Milliseconds(), sum)
		must.Zero(t, p.Overlap(to, from.Add(-1)))
	})
}

func TestWindowNamesAreParsedBack(t *testing.T) {
	t.Parallel()
	for _, w := range append(calendar, budget.Total) {
		got, ok := budget.ParseWindow(w.String())
		must.True(t, ok)
		must.Eq(t, w, got)
	}
	_, ok := budget.ParseWindow("concurrent")
	must.False(t, ok)
}
