package budget

import (
	"fmt"
	"time"
)

// Window is a calendar period in the policy's zone, or one of the gauges
// Concurrent and Committed.
type Window uint8

// The windows, in the order of their length. Concurrent is not a period: it
// bounds what is held right now.
const (
	Concurrent Window = iota
	Hour
	Day
	Week // begins on Monday, ISO 8601
	Month
	Quarter
	Year
	Total // all time
	// Committed is no period either: it bounds what is promised and not used yet
	// (Slurm's GrpTRESRunMins), whenever it falls.
	Committed
	windowCount
)

var windowNames = [windowCount]string{"concurrent", "hour", "day", "week", "month", "quarter", "year", "total", "committed"}

// String is the window's name in the budget language.
func (w Window) String() string {
	if w >= windowCount {
		return fmt.Sprintf("window(%d)", uint8(w))
	}
	return windowNames[w]
}

// Gauge reports whether the window is no period: it bounds what is held now.
func (w Window) Gauge() bool { return w == Concurrent || w == Committed }

// open reports whether the window has neither a start nor an end.
func (w Window) open() bool { return w == Total || w.Gauge() }

// ParseWindow is the inverse of String for the calendar windows.
func ParseWindow(name string) (Window, bool) {
	for w := Hour; w <= Total; w++ {
		if windowNames[w] == name {
			return w, true
		}
	}
	return 0, false
}

// Period is one calendar window: [Start, End). For Total both are zero.
type Period struct {
	Window     Window
	Start, End time.Time
}

// PeriodAt returns the period of window w that contains t, in loc. Days, weeks
// and longer begin at the first instant whose local clock shows their first
// date: local midnight, or later where a clock change removes midnight, or the
// first of two midnights. So their lengths follow the calendar and daylight
// saving time. An hour is an hour of elapsed time aligned to the local clock;
// where a clock change is not by whole hours (Lord Howe), it is cut short
// there.
func PeriodAt(w Window, t time.Time, loc *time.Location) Period {
	switch w {
	case Concurrent, Committed, Total:
		return Period{Window: w}
	case Hour:
		return hourAt(t.In(loc))
	case Day, Week, Month, Quarter, Year:
	}
	first := firstDate(w, t.In(loc))
	start := firstInstant(first, loc)
	for {
		first = nextFirstDate(w, first)
		end := firstInstant(first, loc)
		// A clock set back over midnight shows the old date again although the
		// new one has begun.
		if t.Before(end) {
			return Period{Window: w, Start: start, End: end}
		}
		start = end
	}
}

func hourAt(t time.Time) Period {
	into := time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
	start := t.Add(-into)
	end := start.Add(time.Hour)
	if change, ok := clockChange(start, t); ok {
		start = change
	}
	if change, ok := clockChange(t, end); ok {
		end = change
	}
	return Period{Window: Hour, Start: start, End: end}
}

// firstDate is the first date of t's period, at midnight UTC: a calendar date,
// not an instant. nextFirstDate is the first date of the period that follows.
func firstDate(w Window, t time.Time) time.Time {
	y, m, d := t.Date()
	switch w {
	case Week:
		d -= (int(t.Weekday()) + 6) % 7
	case Month:
		d = 1
	case Quarter:
		m, d = m-(m-1)%3, 1
	case Year:
		m, d = time.January, 1
	case Concurrent, Committed, Hour, Day, Total:
	}
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

func nextFirstDate(w Window, first time.Time) time.Time {
	switch w {
	case Day:
		return first.AddDate(0, 0, 1)
	case Week:
		return first.AddDate(0, 0, 7)
	case Month:
		return first.AddDate(0, 1, 0)
	case Quarter:
		return first.AddDate(0, 3, 0)
	case Year:
		return first.AddDate(1, 0, 0)
	case Concurrent, Committed, Hour, Total:
	}
	panic("budget: no dates in window " + w.String())
}

// offsetMax is more than any zone was ever away from UTC.
const offsetMax = 18 * time.Hour

// firstInstant is the first moment at which a clock in loc shows the date and
// time that date shows in UTC, or later: of a date at midnight, when it begins.
// time.Date does not promise this: for a midnight that does not exist it may
// return 23:00 of the day before, and for one that comes twice the second.
func firstInstant(date time.Time, loc *time.Location) time.Time {
	before, after := date.Add(-offsetMax).In(loc), date.Add(offsetMax).In(loc)
	change, changes := clockChange(before, after)
	midnight := date.Add(-offset(before)).In(loc)
	if !changes || midnight.Before(change) {
		return midnight
	}
	midnight = date.Add(-offset(after)).In(loc)
	if midnight.Before(change) {
		return change
	}
	return midnight
}

// clockChange is the first moment in (from, to] whose offset is not that of
// from. It assumes at most one change between them: zones do not change twice
// within two days.
func clockChange(from, to time.Time) (time.Time, bool) {
	old := offset(from)
	if offset(to) == old {
		return time.Time{}, false
	}
	// Changes happen at whole seconds.
	low, high := from.Unix(), to.Unix()
	for low+1 < high {
		mid := low + (high-low)/2
		if offset(time.Unix(mid, 0).In(from.Location())) == old {
			low = mid
		} else {
			high = mid
		}
	}
	return time.Unix(high, 0).In(from.Location()), true
}

func offset(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// Key names the period in the ledger by its start in UTC: "month/2026-10-31T23:00Z",
// "total". Periods of one window sort by start.
func (p Period) Key() string {
	if p.Window.open() {
		return p.Window.String()
	}
	return p.Window.String() + "/" + p.Start.UTC().Format(PeriodKeyLayout)
}

// PeriodKeyLayout is the time layout of the start in Period.Key.
const PeriodKeyLayout = "2006-01-02T15:04Z"

// LongestMillis is the longest that a period of w can be, in milliseconds: 25
// hours for a day on which clocks go back. It is -1 for
// Total and the gauges.
func LongestMillis(w Window) int64 {
	const hour = int64(time.Hour / time.Millisecond)
	switch w {
	case Hour:
		return hour
	case Day:
		return 25 * hour
	case Week:
		return (7*24 + 1) * hour
	case Month:
		return (31*24 + 1) * hour
	case Quarter:
		return (92*24 + 1) * hour
	case Year:
		return (366*24 + 1) * hour
	case Concurrent, Committed, Total:
	}
	return -1
}

// Next is the period that follows; the period itself for Total.
func (p Period) Next(loc *time.Location) Period {
	if p.Window.open() {
		return p
	}
	return PeriodAt(p.Window, p.End, loc)
}

// Millis is the length in milliseconds; -1 for Total, which has no end.
func (p Period) Millis() int64 {
	if p.Window.open() {
		return -1
	}
	return p.End.Sub(p.Start).Milliseconds()
}

// Overlap is the length of [from, to) that falls into the period, in
// milliseconds.
func (p Period) Overlap(from, to time.Time) int64 {
	if !p.Window.open() {
		if from.Before(p.Start) {
			from = p.Start
		}
		if to.After(p.End) {
			to = p.End
		}
	}
	return max(0, to.Sub(from).Milliseconds())
}
