package budget_test

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func zoneOf(t must.T, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	must.NoError(t, err)
	return loc
}

func on(days ...time.Weekday) (set [7]bool) {
	for _, d := range days {
		set[d] = true
	}
	return set
}

func everyDay() [7]bool { return [7]bool{true, true, true, true, true, true, true} }

// Edges of a schedule, in order, as the local clock shows them.
func TestScheduleEdges(t *testing.T) {
	t.Parallel()
	const minute, hour = 1, 60
	for name, tc := range map[string]struct {
		schedule budget.Schedule
		zone     string
		from     string
		want     []string
	}{
		"a night wraps past midnight": {
			budget.Schedule{Days: on(time.Monday), Start: 20 * hour, End: 6 * hour}, "Europe/Berlin", "2026-05-04T00:00:00+02:00",
			[]string{"2026-05-04T20:00:00+02:00", "2026-05-05T06:00:00+02:00", "2026-05-11T20:00:00+02:00"},
		},
		"nights that follow each other do not meet": {
			budget.Schedule{Days: on(time.Monday, time.Tuesday), Start: 20 * hour, End: 6 * hour}, "Europe/Berlin", "2026-05-04T21:00:00+02:00",
			[]string{"2026-05-05T06:00:00+02:00", "2026-05-05T20:00:00+02:00", "2026-05-06T06:00:00+02:00"},
		},
		"whole days that meet have no edge between": {
			budget.Schedule{Days: on(time.Saturday, time.Sunday)}, "Europe/Berlin", "2026-05-04T00:00:00+02:00",
			[]string{"2026-05-09T00:00:00+02:00", "2026-05-11T00:00:00+02:00"},
		},
		"Berlin springs forward inside the night": {
			budget.Schedule{Days: everyDay(), Start: 20 * hour, End: 6 * hour}, "Europe/Berlin", "2026-03-28T21:00:00+01:00",
			[]string{"2026-03-29T06:00:00+02:00"},
		},
		"a start that Berlin skips is the change": {
			budget.Schedule{Days: everyDay(), Start: 2*hour + 30*minute, End: 4 * hour}, "Europe/Berlin", "2026-03-29T00:00:00+01:00",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"},
		},
		"an end that Berlin skips is the change": {
			budget.Schedule{Days: everyDay(), Start: hour, End: 2*hour + 30*minute}, "Europe/Berlin", "2026-03-29T00:00:00+01:00",
			[]string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		},
		"a turn that Berlin skips whole does not happen": {
			budget.Schedule{Days: on(time.Sunday), Start: 2*hour + 10, End: 2*hour + 40}, "Europe/Berlin", "2026-03-29T00:00:00+01:00",
			[]string{"2026-04-05T02:10:00+02:00"},
		},
		"of a start that comes twice the first counts": {
			budget.Schedule{Days: everyDay(), Start: 2*hour + 30*minute, End: 4 * hour}, "Europe/Berlin", "2026-10-25T00:00:00+02:00",
			[]string{"2026-10-25T02:30:00+02:00", "2026-10-25T04:00:00+01:00"},
		},
		"of an end that comes twice the first counts": {
			budget.Schedule{Days: everyDay(), Start: hour, End: 2*hour + 30*minute}, "Europe/Berlin", "2026-10-25T00:00:00+02:00",
			[]string{"2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+02:00"},
		},
		"always on has no edge": {budget.Schedule{Days: everyDay()}, "UTC", "2026-05-04T00:00:00Z", nil},
		"never on has no edge":  {budget.Schedule{Start: 1, End: 2}, "UTC", "2026-05-04T00:00:00Z", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loc := zoneOf(t, tc.zone)
			at, err := time.Parse(time.RFC3339, tc.from)
			must.NoError(t, err)
			if tc.want == nil {
				must.True(t, tc.schedule.Next(at, loc).IsZero())
			}
			for _, want := range tc.want {
				at = tc.schedule.Next(at, loc)
				must.Eq(t, want, at.In(loc).Format(time.RFC3339))
			}
		})
	}
}

// slowly is Contains by its words: it looks at every minute of the local clock.
func slowly(s budget.Schedule, t time.Time, loc *time.Location) bool {
	shows := func(at time.Time) string { return at.In(loc).Format("2006-01-02T15:04") }
	first := func(wall string) time.Time {
		at := t.Truncate(time.Minute).Add(-5 * 24 * time.Hour)
		for shows(at) < wall {
			at = at.Add(time.Minute)
		}
		return at
	}
	local := t.In(loc)
	for day := -2; day <= 1; day++ {
		date := time.Date(local.Year(), local.Month(), local.Day()+day, 0, 0, 0, 0, time.UTC)
		if !s.Days[date.Weekday()] {
			continue
		}
		last := date
		if s.End <= s.Start {
			last = last.AddDate(0, 0, 1)
		}
		wall := func(date time.Time, minutes int) string {
			return date.Add(time.Duration(minutes) * time.Minute).Format("2006-01-02T15:04")
		}
		if start, end := first(wall(date, s.Start)), first(wall(last, s.End)); !t.Before(start) && t.Before(end) {
			return true
		}
	}
	return false
}

func anySchedule(t *rapid.T) (budget.Schedule, *time.Location, time.Time) {
	s := budget.Schedule{Start: rapid.IntRange(0, 1439).Draw(t, "start"), End: rapid.IntRange(0, 1439).Draw(t, "end")}
	for d := range s.Days {
		s.Days[d] = rapid.Bool().Draw(t, "day")
	}
	zone := rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"}).Draw(t, "zone")
	loc := zoneOf(t, zone)
	// Mostly around clock changes of 2018: Sao Paulo's fell on midnight then.
	around := rapid.SampledFrom([]time.Time{
		time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC),
		time.Date(2018, 11, 4, 3, 0, 0, 0, time.UTC), time.Date(2018, 2, 18, 2, 0, 0, 0, time.UTC), time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC),
	}).Draw(t, "around")
	return s, loc, around.Add(time.Duration(rapid.IntRange(-3*1440, 3*1440).Draw(t, "minutes")) * time.Minute)
}

func TestScheduleContainsWhatItsWordsSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, loc, at := anySchedule(t)
		must.Eq(t, slowly(s, at, loc), s.Contains(at, loc))
	})
}

func TestScheduleChangesAtNextAndNotBefore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, loc, at := anySchedule(t)
		now, next := s.Contains(at, loc), s.Next(at, loc)
		until := next
		if next.IsZero() {
			until = at.Add(10 * 24 * time.Hour)
		} else {
			must.True(t, next.After(at))
			must.Eq(t, !now, s.Contains(next, loc))
			must.Eq(t, now, s.Contains(next.Add(-time.Nanosecond), loc))
		}
		for m := at; m.Before(until); m = m.Add(47 * time.Minute) {
			must.Eq(t, now, s.Contains(m, loc))
		}
	})
}
