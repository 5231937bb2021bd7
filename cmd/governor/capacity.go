package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

func capacityCommand(env environment) command {
	return command{synopsis: "Say when GPUs and budgets run out at the present rate", help: `Usage: governor capacity [options]

  Compares what was used on the last whole days with the GPUs that there are and
  with the limits of budgets: for each GPU class how many were in use, which way
  it goes, and when all are; for each limit what is used at the end of its
  period, and when it runs out. Then what waits for GPUs and for budget, and
  what was refused. "governor simulate" answers what a trace of jobs would do.

      $ governor capacity
      $ governor capacity -days=30 -add=h100=16

  -days=<n>            Whole days that count, before today. Default: 14.
  -add=<class>=<GPUs>  Say also what so many more GPUs would change. Can be
                       given several times.
  -json                Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("capacity")
			c := clientFlags(env, fs)
			days, asJSON := fs.Int("days", 0, ""), fs.Bool("json", false, "")
			var add list
			fs.Var(&add, "add", "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			query := url.Values{}
			if *days != 0 {
				query.Set("days", strconv.Itoa(*days))
			}
			if len(add) > 0 {
				query.Set("add", strings.Join(add, ","))
			}
			var view agent.Capacity
			raw, err := fetch(c, "/governor/v1/capacity?"+query.Encode(), &view)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			printCapacity(env.stdout, view)
			return 0
		}}
}

func printCapacity(w io.Writer, v agent.Capacity) {
	if v.Days > 0 {
		fmt.Fprintf(w, "By %s, from %s to the end of %s\n", count(v.Days, "whole day"), v.From.Format(time.DateOnly), v.To.Add(-time.Millisecond).Format(time.DateOnly))
	}
	for _, text := range v.Incomplete {
		fmt.Fprintln(w, "Warning:", text)
	}
	if len(v.Classes) > 0 {
		printClasses(w, v)
	}
	if len(v.Limits) > 0 {
		printForecastLimits(w, v)
	}
	var outlooks []outlookLine
	for _, l := range v.Limits {
		outlooks = append(outlooks, outlookLine{l.Budget, period(agent.LimitStatus{Window: l.Window, Start: l.Start, End: l.End}), budget.Dimension(l.Dimension), l.Outlook})
	}
	printOutlooks(w, v.Time, v.Currency, outlooks)
	for i, r := range v.Refused {
		if i == 0 {
			fmt.Fprintln(w, "\nRefused in this time, and not admitted since")
		}
		fmt.Fprintf(w, "  %s with %s (%s)\n", count(r.Jobs, "job"), count(int(r.GPUs), "GPU"), r.Reason)
	}
}

func printClasses(w io.Writer, v agent.Capacity) {
	t := newTable("CLASS", ">GPUS", ">FREE NOW", ">IN USE, MEAN", ">BUSIEST DAY", ">TREND A DAY", "ALL IN USE", ">WAIT FOR GPUS", ">FOR BUDGET")
	for _, c := range v.Classes {
		trend := "-"
		if c.TrendMilli != nil {
			trend = milli(*c.TrendMilli)
			if *c.TrendMilli > 0 {
				trend = "+" + trend
			}
		}
		t.row(c.Class, fmt.Sprint(c.GPUs), fmt.Sprint(c.Free), milli(c.MeanMilli), milli(c.PeakMilli), trend, when(v.Time, c.FullOn), fmt.Sprint(c.Starting), fmt.Sprint(c.Waiting))
		if c.With != nil {
			t.row("  with more", fmt.Sprint(c.With.GPUs), "", "", "", "", when(v.Time, c.With.FullOn), fmt.Sprint(c.Starting-c.With.Serves), "")
		}
	}
	fmt.Fprintln(w)
	t.write(w)
}

// milli writes thousandths of GPUs with two decimals.
func milli(n int64) string { return quantity.FormatDecimal(quantity.Amount(n), 1000, 2) }

// when is a day that is expected.
func when(now time.Time, at *time.Time) string {
	switch {
	case at == nil:
		return "-"
	case !at.After(now):
		return "now"
	}
	return "about " + at.Format(time.DateOnly)
}

func printForecastLimits(w io.Writer, v agent.Capacity) {
	t := newTable("LIMIT OF", "WHAT", ">LIMIT", ">USED", ">A DAY", ">AT ITS END", "RUNS OUT", "SET AT")
	last := ""
	for _, l := range v.Limits {
		if l.Budget != last {
			t.row(l.Budget)
			last = l.Budget
		}
		d := budget.Dimension(l.Dimension)
		end, perDay := "-", d.Number(l.PerDay)
		if l.AtEnd != nil {
			end = d.Number(*l.AtEnd)
		}
		if d.IsGPUs() {
			perDay = quantity.FormatDecimal(l.PerDay, quantity.GPU, 2) + " in use"
		}
		t.row(period(agent.LimitStatus{Window: l.Window, Start: l.Start, End: l.End}), d.Noun(v.Currency), d.Number(l.Limit), d.Number(l.Used), perDay, end, when(v.Time, l.RunsOut), l.Source)
	}
	fmt.Fprintln(w)
	t.write(w)
}
