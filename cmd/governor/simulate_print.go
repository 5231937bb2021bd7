package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/scheduler/simulate"
)

func printSimulation(w io.Writer, file string, trace simulate.Trace, devices []string, results []simulate.Result) {
	first := trace.Jobs[0].SubmitMS
	arriving := trace.Jobs[len(trace.Jobs)-1].SubmitMS - first
	fmt.Fprintf(w, "Trace  %s: %s over %s\n", file, count(len(trace.Jobs), "job"), span(arriving))
	if left := leftOut(trace); left != "" {
		fmt.Fprintf(w, "       left out: %s\n", left)
	}
	if len(trace.Ignored) > 0 {
		fmt.Fprintf(w, "       columns that are not read: %s\n", strings.Join(trace.Ignored, ", "))
	}
	for _, text := range devices {
		fmt.Fprintf(w, "       GPUs that are left out: %s\n", text)
	}
	fmt.Fprintln(w)
	titles := []string{""}
	for _, r := range results {
		titles = append(titles, ">"+r.Name)
	}
	t := newTable(titles...)
	row := func(name string, cell func(r *simulate.Result) string) {
		cells := []string{name}
		for i := range results {
			cells = append(cells, cell(&results[i]))
		}
		t.row(cells...)
	}
	row("policy", func(r *simulate.Result) string { return r.Policy })
	row("nodes", func(r *simulate.Result) string { return whole(int64(r.Nodes)) })
	row("GPUs", func(r *simulate.Result) string { return whole(int64(r.GPUs)) })
	row("jobs that ran", func(r *simulate.Result) string { return whole(int64(r.Jobs)) })
	row("jobs that could never run", func(r *simulate.Result) string { return whole(int64(r.NeverFit.Jobs)) })
	row("wait, mean", func(r *simulate.Result) string { return span(r.Wait.Mean) })
	row("wait, median", func(r *simulate.Result) string { return span(r.Wait.P50) })
	row("wait, 95 % wait at most", func(r *simulate.Result) string { return span(r.Wait.P95) })
	row("wait, 99 % wait at most", func(r *simulate.Result) string { return span(r.Wait.P99) })
	row("wait, longest", func(r *simulate.Result) string { return span(r.Wait.Max) })
	row("most jobs that waited at once", func(r *simulate.Result) string { return whole(int64(r.WaitingMax)) })
	row("GPUs in use", func(r *simulate.Result) string { return percent(r.Utilisation) })
	row("GPUs in use while jobs arrive", func(r *simulate.Result) string { return percent(r.Arriving) })
	row("GPUs idle while jobs wait for some", func(r *simulate.Result) string { return percent(r.Fragmented) })
	row("jobs of several GPUs at the best ring", func(r *simulate.Result) string { return ofSome(r.AtIdeal, r.Several) })
	row("rings of these against the best", func(r *simulate.Result) string { return ofSome(r.Ring, r.Several) })
	row("GPU-hours used", func(r *simulate.Result) string { return quantity.FormatDecimal(r.BusyMS, quantity.GPUHour, 0) })
	row("makespan", func(r *simulate.Result) string { return span(r.MakespanMS) })
	t.write(w)
	for i := range results {
		if never := results[i].NeverFit; never.Jobs > 0 {
			fmt.Fprintf(w, "\n%s: %s could not run on the idle cluster either, the first in line %d (%s)\n", results[i].Name, count(never.Jobs, "job"), never.FirstLine, count(never.GPUs, "GPU"))
		}
	}
	printBudgetUse(w, results)
}

// leftOut says which lines of a trace are not simulated.
func leftOut(trace simulate.Trace) string {
	var parts []string
	if trace.NoGPUs > 0 {
		parts = append(parts, count(trace.NoGPUs, "job")+" without GPUs")
	}
	if trace.Shares > 0 {
		parts = append(parts, count(trace.Shares, "job")+" with a part of a GPU")
	}
	return strings.Join(parts, ", ")
}

// budgetsShown bounds the budgets that are listed; JSON has all.
const budgetsShown = 20

// printBudgetUse prints what the jobs of each budget had in the first run, and how long
// they waited in each, where the trace names budgets.
func printBudgetUse(w io.Writer, results []simulate.Result) {
	if all := results[0].Budgets; len(all) == 0 || len(all) == 1 && all[0].Budget == "" {
		return
	}
	fmt.Fprintln(w, "\nMean wait by budget")
	titles := []string{"BUDGET", ">JOBS", ">GPU-HOURS"}
	waits := make([]map[string]int64, len(results))
	for i, r := range results {
		titles, waits[i] = append(titles, ">"+r.Name), map[string]int64{}
		for _, b := range r.Budgets {
			waits[i][b.Budget] = b.WaitMS
		}
	}
	t := newTable(titles...)
	for at, b := range results[0].Budgets {
		if at == budgetsShown {
			t.row(fmt.Sprintf("  and %s, which -json lists", count(len(results[0].Budgets)-at, "more budget")))
			break
		}
		cells := []string{orDash(b.Budget), whole(int64(b.Jobs)), quantity.FormatDecimal(b.BusyMS, quantity.GPUHour, 0)}
		for i := range results {
			text := "-"
			if wait, ran := waits[i][b.Budget]; ran {
				text = span(wait)
			}
			cells = append(cells, text)
		}
		t.row(cells...)
	}
	t.write(w)
}

func whole(n int64) string { return quantity.FormatDecimal(quantity.Amount(n), 1, 0) }

// percent writes parts per million.
func percent(ppm int64) string {
	tenths := (ppm + 500) / 1000
	return fmt.Sprintf("%d.%d %%", tenths/10, tenths%10)
}

func ofSome(ppm int64, jobs int) string {
	if jobs == 0 {
		return "-"
	}
	return percent(ppm)
}

// span writes milliseconds so that a person can compare them: "0s", "41s", "1h09m",
// "12d 4h".
func span(ms int64) string {
	d := (time.Duration(ms) * time.Millisecond).Round(time.Second)
	switch {
	case ms/1000 >= 100*24*3600:
		return fmt.Sprintf("%dd", ms/1000/86400)
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
