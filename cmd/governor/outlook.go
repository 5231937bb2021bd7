package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
)

// outlookLine is the forecast of one limit with its name; of nil is none.
type outlookLine struct {
	budget, period string
	dimension      budget.Dimension
	of             *forecast.Outlook
}

func printStatusOutlooks(w io.Writer, s agent.Status, inside func(string) bool) {
	var lines []outlookLine
	for _, b := range s.Budgets {
		for _, l := range b.Limits {
			if inside(b.Path) {
				lines = append(lines, outlookLine{b.Path, period(l), budget.Dimension(l.Dimension), l.Outlook})
			}
		}
	}
	printOutlooks(w, s.Time, s.Policy.Currency, lines)
}

// printOutlooks prints the limits that are expected to run out.
func printOutlooks(w io.Writer, now time.Time, currency string, lines []outlookLine) {
	t := newTable("BUDGET", "LIMIT", "WHAT", "P50", "P90", "MOSTLY")
	guessed := false
	for _, l := range lines {
		if l.of == nil || l.of.P90 == nil {
			continue
		}
		var causes []string
		for _, c := range l.of.Causes {
			causes = append(causes, fmt.Sprintf("%s %s%%", causeText(c.Namespace, c.JobID), quantity.FormatDecimal(quantity.Amount(c.Share), quantity.Amount(quantity.RatioOne)/100, 0)))
		}
		guessed = guessed || l.of.Origins == 0
		t.row(l.budget, l.period, l.dimension.Noun(currency), moment(now, l.of.P50), moment(now, l.of.P90), orDash(strings.Join(causes, ", ")))
	}
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintln(w, "\nExpected to run out")
	t.write(w)
	if guessed {
		fmt.Fprintln(w, "  With less than two weeks of history, P90 is a guess.")
	}
}

// causeText is a job, or what is of none: requests for tokens that name no job.
func causeText(namespace, job string) string {
	if job == "" {
		return "no job"
	}
	return namespace + "/" + job
}

// moment is a time that is expected, to the hour.
func moment(now time.Time, at *time.Time) string {
	switch {
	case at == nil:
		return "-"
	case !at.After(now):
		return "now"
	}
	return at.Format("2006-01-02 15:04")
}
