package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/report"
)

func usageEfficiencyCommand(env environment) command {
	return command{synopsis: "Say what did nothing, and what an hour and a job cost", help: `Usage: governor usage efficiency [options]

  Says what GPUs were paid for and not used, what nobody had, what was tried in
  vain, and how much more run time jobs asked for than they used; and what an
  hour, a job and a million tokens cost. Costs of hours are of the time; all about jobs is of
  those that ended in it.

      $ governor usage efficiency
      $ governor usage efficiency -by=namespace -from=2026-03
      $ governor usage efficiency -by=job -budget=acme/research

  -by=<column>     budget, namespace, user or job. Default: budget.
  -from=<time>     A day (2026-03-01), a month (2026-03), a year (2026) or a
                   time (2026-03-01T12:00:00Z). Default: the present month.
  -to=<time>       The end, which is not in it. Default: one unit of -from.
  -budget=<path>   Only this budget and what is below it.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage efficiency")
			c := clientFlags(env, fs)
			values := map[string]*string{}
			for _, name := range []string{"by", "from", "to", "budget"} {
				values[name] = fs.String(name, "", "")
			}
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			query := url.Values{}
			for name, value := range values {
				query.Set(name, *value)
			}
			var e report.Efficiency
			raw, err := fetch(c, "/governor/v1/usage/efficiency?"+query.Encode(), &e)
			switch {
			case err != nil:
				return env.fail(err)
			case *asJSON:
				_, _ = env.stdout.Write(append(raw, '\n'))
			default:
				printEfficiency(env.stdout, e)
			}
			return 0
		}}
}

func printEfficiency(w io.Writer, e report.Efficiency) {
	fmt.Fprintf(w, "Efficiency from %s to %s (%s)\n\n", timeText(e.From), timeText(e.To), e.Zone)
	printShares(w, e)
	if len(e.Lines) == 0 {
		fmt.Fprintln(w, "\nNothing was used.")
	} else {
		printEfficiencyLines(w, e)
	}
	for _, line := range e.Incomplete {
		fmt.Fprintln(w, "Warning:", line)
	}
}

// printShares prints where the GPU time went.
func printShares(w io.Writer, e report.Efficiency) {
	all := e.Total.Used.GPUTime.Add(e.Unallocated.GPUTime).Add(e.Ungoverned.GPUTime)
	t := newTable("GPU TIME", ">GPU-HOURS", ">SHARE", ">"+e.Currency)
	for _, row := range []struct {
		name     string
		of, cost quantity.Amount
	}{
		{"Had and used", e.Total.Used.GPUTime.Sub(e.Total.Idle.GPUTime), e.Total.Used.Cost.Sub(e.Total.Idle.Cost)},
		{"Had and idle", e.Total.Idle.GPUTime, e.Total.Idle.Cost},
		{"Nobody had", e.Unallocated.GPUTime, e.Unallocated.Cost},
		{"Around Governor", e.Ungoverned.GPUTime, e.Ungoverned.Cost},
	} {
		if row.of == 0 && row.cost == 0 {
			continue
		}
		t.row(row.name, quantity.FormatHours(row.of), shareOf(row.of, all), quantity.FormatMoney(row.cost))
	}
	t.write(w)
}

// shareOf is a part of a whole, without decimals.
func shareOf(part, whole quantity.Amount) string {
	if whole <= 0 || part < 0 {
		return "-"
	}
	return quantity.FormatDecimal(quantity.MulDiv(part, 100, int64(whole)), 1, 0) + "%"
}

func printEfficiencyLines(w io.Writer, e report.Efficiency) {
	price := func(a *quantity.Amount) string {
		if a == nil {
			return "-"
		}
		return quantity.FormatMoney(*a)
	}
	columns := []string{strings.ToUpper(string(e.By)), ">GPU-HOURS", ">IDLE", ">" + e.Currency, ">PER GPU-HOUR", ">PER BUSY HOUR"}
	tokens := e.Total.Tokens.Tokens() != 0
	if tokens {
		columns = append(columns, ">TOKENS", ">PER MILLION TOKENS")
	}
	used := newTable(columns...)
	jobs := newTable("JOBS THAT ENDED", ">ENDED", ">WELL", ">BADLY", ">STARTS", ">PER JOB", ">PER GOOD JOB", ">ASKED HOURS", ">UNUSED", ">RETRIED", ">FAILED")
	for i, l := range append(e.Lines, e.Total) {
		name := orDash(l.Key)
		if i == len(e.Lines) {
			name = "Total"
		}
		row := []string{name, quantity.FormatHours(l.Used.GPUTime), shareOf(l.Idle.GPUTime, l.Used.GPUTime), quantity.FormatMoney(l.Used.Cost), price(l.CostPerGPUHour), price(l.CostPerBusyGPUHour)}
		if tokens {
			row = append(row, quantity.FormatDecimal(l.Tokens.Tokens(), 1, 0), price(l.CostPerMillionTokens))
		}
		used.row(row...)
		if j := l.Jobs; j.Ended > 0 {
			jobs.row(name, fmt.Sprint(j.Ended), fmt.Sprint(j.Good), fmt.Sprint(j.Bad), fmt.Sprint(j.Starts), price(l.CostPerJob), price(l.CostPerGoodJob), quantity.FormatHours(j.Asked),
				shareOf(j.Unused, j.Asked), quantity.FormatHours(j.Retried), quantity.FormatHours(j.Failed))
		}
	}
	fmt.Fprintln(w)
	used.write(w)
	if len(jobs.rows) > 0 {
		fmt.Fprintln(w)
		jobs.write(w)
	}
}
