package main

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

func statementCommand(env environment) command {
	return command{synopsis: "Make the statement of a budget for a month or another time", help: `Usage: governor budget statement [options] <budget path>

  Makes the statement of a budget, with all below it: what it had used before,
  what was used and corrected in the time, by whom and for what, what its limits
  allowed, what is held and lent, and its part of what was idle. All amounts add
  up: opening + used + corrected = closing.

  The limits of a time that is over are those that were in force at its end.

      $ governor budget statement acme/research
      $ governor budget statement -from=2026-03 -html acme/research > march.html
      $ governor budget statement -from=2026 -csv acme > 2026.csv

  -from=<time>     A day (2026-03-01), a month (2026-03), a year (2026) or a
                   time (2026-03-01T12:00:00Z). Default: the present month.
  -to=<time>       The end, which is not in it. Default: one unit of -from.
  -html            Print a page for browsers and printers.
  -csv             Print CSV, for spreadsheets: a record for each number.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget statement")
			c := clientFlags(env, fs)
			from, to := fs.String("from", "", ""), fs.String("to", "", "")
			asHTML, asCSV, asJSON := fs.Bool("html", false, ""), fs.Bool("csv", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			query := url.Values{"from": {*from}, "to": {*to}}
			var s showback.Statement
			raw, err := fetch(c, "/governor/v1/statements/"+escapePath(strings.Trim(fs.Arg(0), "/"))+"?"+query.Encode(), &s)
			if loc, unknown := time.LoadLocation(s.Zone); unknown == nil {
				s = s.In(loc)
			}
			switch {
			case err != nil:
			case *asJSON:
				_, _ = env.stdout.Write(append(raw, '\n'))
			case *asHTML:
				err = s.WriteHTML(env.stdout)
			case *asCSV:
				err = s.WriteCSV(env.stdout)
				for _, line := range s.Incomplete {
					fmt.Fprintln(env.stderr, "Warning:", line)
				}
			default:
				printShowback(env.stdout, s)
			}
			if err != nil {
				return env.fail(err)
			}
			return 0
		}}
}

// printShowback prints a statement for people.
func printShowback(w io.Writer, s showback.Statement) {
	state := "closed"
	if s.Open {
		state = "not over"
	}
	fmt.Fprintf(w, "Statement of %s from %s to %s (%s)\n", s.Budget, timeText(s.From), timeText(s.To), state)
	if s.Owner != "" {
		fmt.Fprintf(w, "Owner %s\n", s.Owner)
	}
	fmt.Fprintln(w)
	columns := []string{">GPU-HOURS", ">" + s.Currency}
	tokens := s.Account.Closing.Tokens() != 0
	if tokens {
		columns = append(columns, ">TOKENS")
	}
	t := newTable(slices.Concat([]string{"ACCOUNT"}, columns, []string{">KWH"})...)
	for _, line := range []struct {
		name string
		of   report.Amounts
	}{{"Opening", s.Account.Opening}, {"Used", s.Account.Used}, {"Corrected", s.Account.Corrected}, {"Closing", s.Account.Closing}} {
		t.row(append(append([]string{line.name}, amountCells(line.of, tokens)...), quantity.FormatDecimal(line.of.Energy, quantity.KWh, 2))...)
	}
	t.write(w)
	printShowbackLimits(w, s)
	for _, g := range s.Groups {
		if len(g.Lines) == 0 || g.By == "day" || g.By == "rate_card" {
			continue
		}
		t := newTable(append([]string{strings.ToUpper(g.By)}, columns...)...)
		for _, l := range g.Lines {
			t.row(append([]string{orDash(strings.Trim(strings.Join(l.Key, "/"), "/"))}, amountCells(l.Amounts, tokens)...)...)
		}
		t.row(append([]string{"Total"}, amountCells(g.Total.Amounts, tokens)...)...)
		fmt.Fprintln(w)
		t.write(w)
	}
	printShowbackRest(w, s)
}

func amountCells(a report.Amounts, tokens bool) []string {
	cells := []string{quantity.FormatHours(a.GPUTime), quantity.FormatMoney(a.Cost)}
	if tokens {
		cells = append(cells, quantity.FormatDecimal(a.Tokens(), 1, 0))
	}
	return cells
}

func printShowbackLimits(w io.Writer, s showback.Statement) {
	if len(s.Limits) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable("LIMIT", "WHAT", ">CEILING", ">CARRIED", ">GRANTED", ">BORROWABLE", ">USED", ">HELD", ">LEFT", "SET AT")
	for _, l := range s.Limits {
		d := budget.Dimension(l.Dimension)
		cells := []string{"unlimited", "-", "-", "-", d.Number(l.Used), d.Number(l.Held), "-"}
		if !l.Unlimited {
			cells = []string{d.Number(l.Ceiling), d.Number(l.Carry), d.Number(l.Granted), d.Number(l.Borrow), d.Number(l.Used), d.Number(l.Held), d.Number(l.Left)}
		}
		t.row(append(append([]string{showback.PeriodName(l), d.Noun(s.Currency)}, cells...), l.Source)...)
	}
	t.write(w)
	var outlooks []outlookLine
	for _, l := range s.Limits {
		outlooks = append(outlooks, outlookLine{s.Budget, showback.PeriodName(l), budget.Dimension(l.Dimension), l.Outlook})
	}
	printOutlooks(w, s.Made, s.Currency, outlooks)
}

func printShowbackRest(w io.Writer, s showback.Statement) {
	hoursAndMoney := func(a report.Amounts) string { return hours(a.GPUTime) + ", " + money(s.Currency, a.Cost) }
	fmt.Fprintln(w)
	if s.Held != nil {
		fmt.Fprintf(w, "Held for %s: %s\n", count(len(s.Held.Jobs), "job"), hoursAndMoney(report.Amounts{GPUTime: s.Held.GPUTime, Cost: s.Held.Cost}))
	}
	for _, l := range s.Loans {
		fmt.Fprintf(w, "Cohort %s: %s %s GPUs borrowed, %s lent\n", l.Cohort, quantity.FormatGPUs(l.Borrowed), l.Class, quantity.FormatGPUs(l.Lent))
	}
	for _, g := range s.Grants {
		var adds []string
		for _, d := range slices.Sorted(maps.Keys(g.Adds)) {
			adds = append(adds, d.Format(g.Adds[d], s.Currency))
		}
		fmt.Fprintf(w, "Override %s of %s: %s, until %s (%s)\n", g.ID, g.Budget, strings.Join(adds, ", "), timeText(g.Until), g.Reason)
	}
	for _, c := range s.Corrections {
		fmt.Fprintf(w, "Corrected: %s of %s by %s, because %s\n", hoursAndMoney(report.Amounts{GPUTime: c.GPUTime, Cost: c.Cost}), c.Budget, c.Author, c.Reason)
	}
	if s.Account.Overdraft != (report.Amounts{}) {
		fmt.Fprintf(w, "Beyond what was held: %s\n", hoursAndMoney(s.Account.Overdraft))
	}
	if s.Account.Estimated != (report.Amounts{}) {
		fmt.Fprintf(w, "Not observed, and estimated: %s\n", hoursAndMoney(s.Account.Estimated))
	}
	fmt.Fprintf(w, "Idle in its jobs: %s\n", hoursAndMoney(s.Idle.Allocated))
	if s.Idle.Rule != "none" {
		fmt.Fprintf(w, "Share of free capacity (%s, not charged): %s\n", s.Idle.Rule, hoursAndMoney(s.Idle.Share))
	}
	fmt.Fprintf(w, "\nComplete to %s\n", timeText(s.CompleteTo))
	for _, line := range s.Incomplete {
		fmt.Fprintln(w, "Warning:", line)
	}
}
