package budget

import (
	"fmt"
	"time"
)

// NamePeriod names a period of a window by its beginning: "month 2026-03", "quarter
// 2026-Q1". A window without periods has no beginning, and goes by its own name.
func NamePeriod(window string, start *time.Time) string {
	if start == nil {
		return window
	}
	layout := time.DateOnly
	switch window {
	case Hour.String():
		layout = "2006-01-02 15:04"
	case Month.String():
		layout = "2006-01"
	case Quarter.String():
		return fmt.Sprintf("%s %d-Q%d", window, start.Year(), (int(start.Month())+2)/3)
	case Year.String():
		layout = "2006"
	}
	return window + " " + start.Format(layout)
}
