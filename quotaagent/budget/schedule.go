package budget

import (
	"slices"
	"time"
)

// Contains reports whether the schedule is on at t, on the clock of loc.
//
// It is on from the first instant of a day of Days at which the clock shows
// Start or later, to the first instant of that day (of the following day, if End
// is not after Start) at which it shows End or later. So a clock change moves
// neither: a time that the clock skips is the moment of the change, and of a
// time that comes twice the first counts. A day on which the clock skips the
// whole schedule has none.
func (s Schedule) Contains(t time.Time, loc *time.Location) bool {
	for day := -2; day <= 1; day++ {
		if start, end, on := s.turn(dateOf(t.In(loc)).AddDate(0, 0, day), loc); on && !t.Before(start) && t.Before(end) {
			return true
		}
	}
	return false
}

// scheduleHorizon is how many days ahead Next looks: a week, and another for a
// turn that a clock change skips.
const scheduleHorizon = 16

// Next is the first instant after t at which the schedule turns on or off; the
// zero time when it never does.
func (s Schedule) Next(t time.Time, loc *time.Location) time.Time {
	var edges []time.Time
	for day := -2; day <= scheduleHorizon; day++ {
		if start, end, on := s.turn(dateOf(t.In(loc)).AddDate(0, 0, day), loc); on {
			edges = append(edges, start, end)
		}
	}
	slices.SortFunc(edges, time.Time.Compare)
	now := s.Contains(t, loc)
	for _, edge := range edges {
		// Where one turn ends as another begins there is no edge.
		if edge.After(t) && s.Contains(edge, loc) != now {
			return edge
		}
	}
	return time.Time{}
}

// turn is when the schedule is on that begins on a date (at midnight UTC);
// false when none begins there.
func (s Schedule) turn(date time.Time, loc *time.Location) (start, end time.Time, on bool) {
	if !s.Days[date.Weekday()] {
		return time.Time{}, time.Time{}, false
	}
	last := date
	if s.End <= s.Start {
		last = date.AddDate(0, 0, 1)
	}
	start = firstInstant(date.Add(time.Duration(s.Start)*time.Minute), loc)
	end = firstInstant(last.Add(time.Duration(s.End)*time.Minute), loc)
	return start, end, start.Before(end)
}

// dateOf is the date that t shows, at midnight UTC.
func dateOf(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// SchedulesAt says of every schedule by name whether it is on at t.
func (p *Policy) SchedulesAt(t time.Time) map[string]bool {
	if len(p.Schedules) == 0 {
		return nil
	}
	on := make(map[string]bool, len(p.Schedules))
	for _, s := range p.Schedules {
		on[s.Name] = s.Contains(t, p.Location)
	}
	return on
}
