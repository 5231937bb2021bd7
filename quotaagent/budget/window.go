package budget

import (
	"fmt"
	"time"
)

// Window is a calendar period in the policy's zone, or the gauge Concurrent.
type Window uint8

// The windows. Concurrent is not a period: it bounds what is held right now.
const (
	Concurrent Window = iota
	Hour
	Day
	Week // begins on Monday, ISO 8601
	Month
	Quarter
	Year
	Total // all time
	windowCount
)

var windowNames = [windowCount]string{"concurrent", "hour", "day", "week", "month", "quarter", "year", "total"}

// String is the window's name in the budget language.
func (w Window) String() string {
	if w >= windowCount {
		return fmt.Sprintf("window(%d)", uint8(w))
	}
	return windowNames[w]
}

// ParseWindow is the inverse of String for the calendar windows.
func ParseWindow(name string) (Window, bool) {
	for w := Hour; w < windowCount; w++ {
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
// and longer begin at local midnight (or, where a clock change removes
// midnight, at the first instant of the day), so their lengths follow the
// calendar and daylight saving time. An hour is an hour of elapsed time aligned
// to the local clock.
func PeriodAt(w Window, t time.Time, loc *time.Location) Period {
	t = t.In(loc)
	y, m, d := t.Date()
	var start, end time.Time
	switch w {
	case Hour:
		start = t.Truncate(time.Hour)
		if _, offset := t.Zone(); offset%3600 != 0 { // zones with half-hour offsets
			shift := time.Duration(offset%3600) * time.Second
			start = t.Add(shift).Truncate(time.Hour).Add(-shift)
		}
		end = start.Add(time.Hour)
	case Day:
		start, end = time.Date(y, m, d, 0, 0, 0, 0, loc), time.Date(y, m, d+1, 0, 0, 0, 0, loc)
	case Week:
		back := (int(t.Weekday()) + 6) % 7
		start, end = time.Date(y, m, d-back, 0, 0, 0, 0, loc), time.Date(y, m, d-back+7, 0, 0, 0, 0, loc)
	case Month:
		start, end = time.Date(y, m, 1, 0, 0, 0, 0, loc), time.Date(y, m+1, 1, 0, 0, 0, 0, loc)
	case Quarter:
		first := m - (m-1)%3
		start, end = time.Date(y, first, 1, 0, 0, 0, 0, loc), time.Date(y, first+3, 1, 0, 0, 0, 0, loc)
	case Year:
		start, end = time.Date(y, 1, 1, 0, 0, 0, 0, loc), time.Date(y+1, 1, 1, 0, 0, 0, 0, loc)
	case Concurrent, Total:
	}
	return Period{Window: w, Start: start, End: end}
}

// Key names the period in the ledger by its start in UTC: "month/2026-10-31T23:00Z",
// "total". Periods of one window sort by start.
func (p Period) Key() string {
	if p.Window == Total || p.Window == Concurrent {
		return p.Window.String()
	}
	return p.Window.String() + "/" + p.Start.UTC().Format("2006-01-02T15:04Z")
}

// Next is the period that follows; the period itself for Total.
func (p Period) Next(loc *time.Location) Period {
	if p.Window == Total || p.Window == Concurrent {
		return p
	}
	return PeriodAt(p.Window, p.End, loc)
}

// Millis is the length in milliseconds; -1 for Total, which has no end.
func (p Period) Millis() int64 {
	if p.Window == Total || p.Window == Concurrent {
		return -1
	}
	return p.End.Sub(p.Start).Milliseconds()
}

// Overlap is the length of [from, to) that falls into the period, in
// milliseconds.
func (p Period) Overlap(from, to time.Time) int64 {
	if p.Window != Total && p.Window != Concurrent {
		if from.Before(p.Start) {
			from = p.Start
		}
		if to.After(p.End) {
			to = p.End
		}
	}
	return max(0, to.Sub(from).Milliseconds())
}
