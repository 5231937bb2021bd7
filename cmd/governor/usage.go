package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

func usageReportCommand(env environment) command {
	return command{synopsis: "Say who used what, and what it costs", help: `Usage: governor usage report [options]

  Makes a statement of usage from the history. The total is exactly the sum of
  the lines. Capacity that nobody held, and work around Governor, are named
  below it: they are no budget's.

      $ governor usage report
      $ governor usage report -by=namespace,class -from=2026-03 -to=2026-04
      $ governor usage report -budget=acme/research -by=job -csv > march.csv

  -by=<columns>    budget, namespace, job, user, class, rate_card, model, day
                   or month, several with commas. Default: budget.
  -from=<time>     A day (2026-03-01), a month (2026-03), a year (2026) or a
                   time (2026-03-01T12:00:00Z). Default: the present month.
  -to=<time>       The end, which is not in it. Default: one unit of -from.
  -budget=<path>   Only this budget and what is below it.
  -namespace=<n>   Only this namespace.
  -job=<id>        Only this job.
  -user=<accessor> Only what was submitted with this token.
  -class=<name>    Only this GPU class.
  -csv             Print CSV, for spreadsheets.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage report")
			c := clientFlags(env, fs)
			query := url.Values{}
			values := map[string]*string{}
			for _, name := range []string{"by", "from", "to", "budget", "namespace", "job", "user", "class"} {
				values[name] = fs.String(name, "", "")
			}
			asCSV, asJSON := fs.Bool("csv", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			for name, value := range values {
				if *value != "" {
					query.Set(name, *value)
				}
			}
			var s report.Statement
			if err := c.call("GET", "/governor/v1/usage?"+query.Encode(), nil, &s); err != nil {
				return env.fail(err)
			}
			switch {
			case *asCSV:
				if err := s.WriteCSV(env.stdout); err != nil {
					return env.fail(err)
				}
				for _, line := range s.Incomplete {
					fmt.Fprintln(env.stderr, "Warning:", line)
				}
			case *asJSON:
				printJSON(env.stdout, s)
			default:
				printStatement(env.stdout, s)
			}
			return 0
		}}
}

// printStatement prints a statement for people. Columns that are empty all through
// are left out.
func printStatement(w io.Writer, s report.Statement) {
	fmt.Fprintf(w, "Usage from %s to %s (%s)\n", timeText(s.From), timeText(s.To), s.Zone)
	fmt.Fprintln(w)
	if len(s.Lines) == 0 {
		fmt.Fprintln(w, "Nothing was used.")
	} else {
		printLines(w, s)
	}
	for _, extra := range []struct {
		name string
		of   report.Amounts
	}{{"Unallocated capacity", s.Unallocated}, {"Ungoverned work", s.Ungoverned}} {
		if extra.of != (report.Amounts{}) {
			fmt.Fprintf(w, "%s: %s GPU-hours, %s %s\n", extra.name, quantity.FormatHours(extra.of.GPUTime), quantity.FormatMoney(extra.of.Cost), s.Currency)
		}
	}
	fmt.Fprintf(w, "\nComplete to %s\n", timeText(s.CompleteTo))
	for _, line := range s.Incomplete {
		fmt.Fprintln(w, "Warning:", line)
	}
}

func timeText(t time.Time) string { return t.Format("2006-01-02 15:04 MST") }

func printLines(w io.Writer, s report.Statement) {
	columns := []struct {
		title string
		text  func(l report.Line) string
		shown bool
	}{
		{"GPU-HOURS", func(l report.Line) string { return quantity.FormatHours(l.GPUTime) }, true},
		{s.Currency, func(l report.Line) string { return quantity.FormatMoney(l.Cost) }, true},
		{"KWH", func(l report.Line) string { return quantity.FormatDecimal(l.Energy, quantity.KWh, 2) }, s.Total.Energy != 0},
		{"TOKENS", func(l report.Line) string { return quantity.FormatDecimal(l.Tokens(), 1, 0) }, s.Total.Tokens() != 0},
		{"CORRECTED", func(l report.Line) string { return quantity.FormatMoney(l.Corrected.Cost) }, s.Total.Corrected.Cost != 0},
		{"OVERDRAFT", func(l report.Line) string { return quantity.FormatMoney(l.Overdraft.Cost) }, s.Total.Overdraft.Cost != 0},
		{"IDLE HOURS", func(l report.Line) string { return quantity.FormatHours(l.Idle.GPUTime) }, s.Total.Idle.GPUTime != 0},
		{"ESTIMATED HOURS", func(l report.Line) string { return quantity.FormatHours(l.Estimated.GPUTime) }, s.Total.Estimated.GPUTime != 0},
	}
	var titles []string
	for _, c := range s.By {
		titles = append(titles, strings.ToUpper(strings.ReplaceAll(string(c), "_", " ")))
	}
	for _, c := range columns {
		if c.shown {
			titles = append(titles, ">"+c.title)
		}
	}
	t := newTable(titles...)
	add := func(key []string, l report.Line) {
		var row []string
		for _, k := range key {
			row = append(row, orDash(k))
		}
		for _, c := range columns {
			if c.shown {
				row = append(row, c.text(l))
			}
		}
		t.row(row...)
	}
	for _, l := range s.Lines {
		add(l.Key, l)
	}
	total := make([]string, len(s.By))
	for i := range total {
		total[i] = " "
	}
	total[0] = "Total"
	add(total, s.Total)
	t.write(w)
}

func usageVerifyCommand(env environment) command {
	return command{synopsis: "Compare the history with the ledger's balances", help: `Usage: governor usage verify [options]

  Replays the history and compares it with every balance of the ledger, to the
  unit. Exits with 1 if they do not agree, or if the history refused an entry
  because another one has its key.

      $ governor usage verify

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage verify")
			c := clientFlags(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var check agent.UsageCheck
			if err := c.call("GET", "/governor/v1/usage/verify", nil, &check); err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, check)
			} else {
				printCheck(env.stdout, check)
			}
			if len(check.Differences) > 0 || len(check.Conflicts) > 0 {
				return 1
			}
			return 0
		}}
}

func printCheck(w io.Writer, c agent.UsageCheck) {
	fmt.Fprintf(w, "Compared %s with %s, in %s.\n", count(c.Balances, "balance"), entriesText(c.History.Entries), count(c.Periods, "period"))
	if c.Older > 0 {
		fmt.Fprintf(w, "%s not compared, older than the history, which begins at %s.\n", count(c.Older, "period"), timeText(time.UnixMilli(c.History.BeganMS).UTC()))
	}
	if c.Waiting > 0 {
		fmt.Fprintf(w, "%s recorded yet, and counted from the ledger.\n", count(c.Waiting, "entry is not"))
	}
	for _, d := range c.Differences {
		fmt.Fprintln(w, "Different:", d.Sentence(c.Currency))
	}
	for _, x := range c.Conflicts {
		fmt.Fprintf(w, "Conflict: the entry %q of job %q came again and says something else (cost %s, then %s); the first one counts.\n",
			x.Kept.Key, x.Kept.JobID, report.Money(x.Kept.Cost), report.Money(x.Other.Cost))
	}
	for _, line := range c.Incomplete {
		fmt.Fprintln(w, "Warning:", line)
	}
	if len(c.Differences) == 0 && len(c.Conflicts) == 0 {
		fmt.Fprintln(w, "They agree.")
	}
}

func entriesText(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return quantity.FormatDecimal(quantity.Amount(n), 1, 0) + " entries"
}

func usageCorrectCommand(env environment) command {
	return command{synopsis: "Correct what was posted, by a new entry", help: `Usage: governor usage correct [options] -reason=<text> <budget path> <amount>...

  Posts a correction: a new entry, for entries never change. A negative amount
  takes back. It changes the balances and the statements, and is in the audit
  log. Needs a management token.

      $ governor usage correct -namespace=research -job=train \
          -reason="node gpu-7 was broken" acme/research cost=-12.50 gpu_hours.h100=-4

  -reason=<text>   Why. Required.
  -namespace=<n>   Namespace of the job that it is about.
  -job=<id>        Job that it is about.
  -at=<time>       When what is corrected was used: a day, a month or a time.
                   Default: now.
  -id=<id>         Makes sending it twice count once. Default: random.
  -json            Print the entry as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage correct")
			c := clientFlags(env, fs)
			r := agent.CorrectionRequest{Amounts: map[string]string{}}
			fs.StringVar(&r.Reason, "reason", "", "")
			fs.StringVar(&r.Namespace, "namespace", "", "")
			fs.StringVar(&r.JobID, "job", "", "")
			fs.StringVar(&r.At, "at", "", "")
			fs.StringVar(&r.ID, "id", randomID(), "")
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 2, 20) {
				return 1
			}
			r.Budget = fs.Arg(0)
			for _, arg := range fs.Args()[1:] {
				name, text, found := strings.Cut(arg, "=")
				if !found {
					return env.fail(fmt.Errorf("the amount %q is not like cost=-12.50", arg))
				}
				r.Amounts[name] = text
			}
			var e ledger.Entry
			if err := c.call("POST", "/governor/v1/usage/corrections", r, &e); err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, e)
				return 0
			}
			fmt.Fprintf(env.stdout, "Corrected the usage of %s by %s GPU-hours and %s (entry %s).\n", e.Budget, quantity.FormatHours(e.GPUTime), quantity.FormatMoney(e.Cost), e.Key)
			return 0
		}}
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

func receiptCommand(env environment) command {
	return command{synopsis: "Show what a job was admitted for and what it used", help: `Usage: governor job receipt [options] <job>

  Shows the receipt of each hold of a job that was closed: the estimate that it
  was admitted with, what was posted, and what was given back; waste is the
  part of what was held that was not used.

      $ governor job receipt -namespace=research train
      $ governor job receipt -all -html train > train.html

  -namespace=<n>   Namespace of the job. Default: NOMAD_NAMESPACE, else default.
  -all             All receipts; without it only the latest.
  -html            Print a page for browsers and printers.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("job receipt")
			c := clientFlags(env, fs)
			namespace := namespaceFlag(env, fs)
			all, asJSON, asHTML := fs.Bool("all", false, ""), fs.Bool("json", false, ""), fs.Bool("html", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			query := url.Values{"job": {fs.Arg(0)}, "namespace": {*namespace}, "limit": {"1"}}
			if *all {
				query.Set("limit", "1000")
			}
			var receipts []report.Receipt
			if err := c.call("GET", "/governor/v1/receipts?"+query.Encode(), nil, &receipts); err != nil {
				return env.fail(err)
			}
			if len(receipts) == 0 {
				return env.fail(fmt.Errorf("there is no receipt of job %q in namespace %q: it has not ended, or its receipts are older than the history keeps", fs.Arg(0), *namespace))
			}
			if *asJSON {
				printJSON(env.stdout, receipts)
				return 0
			}
			if *asHTML {
				if err := showback.WriteReceipts(env.stdout, receipts); err != nil {
					return env.fail(err)
				}
				return 0
			}
			for i, r := range receipts {
				if i > 0 {
					fmt.Fprintln(env.stdout)
				}
				printReceipt(env.stdout, r)
			}
			return 0
		}}
}

func printReceipt(w io.Writer, r report.Receipt) {
	row := func(label, text string) { fmt.Fprintf(w, "%-11s %s\n", label, text) }
	row("Job", r.Namespace+"/"+r.JobID)
	row("Hold", fmt.Sprintf("%s (%s)", r.HoldID, r.Outcome))
	row("Budget", r.Budget)
	if r.Submitter != "" {
		row("Submitted", strings.TrimSpace("by "+r.Submitter+" "+strings.Join(r.Identity, " ")))
	}
	row("Admitted", strings.TrimSpace(time.UnixMilli(r.CreatedMS).UTC().Format("2006-01-02 15:04:05 MST")+" "+r.Reason))
	row("Ended", strings.TrimSpace(time.UnixMilli(r.EndedMS).UTC().Format("2006-01-02 15:04:05 MST")+" "+r.Stopped))
	fmt.Fprintln(w)
	t := newTable("WHAT", ">HELD", ">POSTED", ">VOIDED", ">EXPIRED", ">OVERDRAFT", ">WASTE")
	for _, i := range r.Items {
		name, format := itemText(i.Name)
		switch {
		case i.Held != 0:
			t.row(name, format(i.Held), format(i.Posted), format(i.Voided), format(i.Expired), format(i.Overdraft), wasteText(i.Waste))
		case i.Posted != 0: // nothing of it was held, so that none was overdrawn
			t.row(name, "-", format(i.Posted), "-", "-", "-", "-")
		}
	}
	t.write(w)
	if len(r.Prices) > 0 {
		fmt.Fprintln(w)
		t := newTable("CLASS", "RATE CARD", ">GPU-HOURS", ">COST", ">PER GPU-HOUR")
		for _, p := range r.Prices {
			price := "-"
			if a, known := p.PerGPUHour(); known {
				price = quantity.FormatMoney(a)
			}
			t.row(p.Class, orDash(p.RateCard), quantity.FormatHours(p.GPUTime), quantity.FormatMoney(p.Cost), price)
		}
		t.write(w)
	}
	if r.Idle != 0 {
		fmt.Fprintf(w, "Idle: %s GPU-hours\n", quantity.FormatHours(r.Idle))
	}
	if r.Retried != 0 || r.Failed != 0 {
		fmt.Fprintf(w, "In vain: %s GPU-hours of allocations that another one replaced, %s of last ones that failed, in %s\n", quantity.FormatHours(r.Retried),
			quantity.FormatHours(r.Failed), count(r.Starts, "start"))
	}
	if r.Estimated != 0 {
		fmt.Fprintf(w, "Not observed, and estimated: %s GPU-hours\n", quantity.FormatHours(r.Estimated))
	}
}

// wasteText is the part of a hold that was not used.
func wasteText(r quantity.Ratio) string {
	return quantity.FormatDecimal(quantity.Amount(r), quantity.Amount(quantity.RatioOne)/100, 0) + "%"
}

// itemText is the name of an amount of a receipt, and how it is written.
func itemText(name string) (string, func(quantity.Amount) string) {
	class, isTime := strings.CutPrefix(name, "gpu_ms/")
	switch {
	case isTime:
		return class + " GPU-hours", quantity.FormatHours
	case name == "energy_j":
		return "kWh", func(a quantity.Amount) string { return quantity.FormatDecimal(a, quantity.KWh, 2) }
	}
	return name, quantity.FormatMoney
}
