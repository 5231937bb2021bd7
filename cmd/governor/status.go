package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/enforce"
)

func statusCommand(env environment) command {
	return command{synopsis: "Show limits, usage and holds of budgets", help: `Usage: governor budget status [options] [<budget path>]

  Shows every limit of every budget, or of one budget and what is below it:
  used (posted), held for running and admitted jobs, and left. Then the limits
  that are expected to run out before their periods end, with the median and a
  cautious date (P50, P90) and the jobs that count most; and the jobs that hold
  budget.

      $ governor budget status acme/research

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget status")
			c := clientFlags(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 1) {
				return 1
			}
			var status agent.Status
			raw, err := fetch(c, "/governor/v1/status?forecast=true", &status)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			return printStatus(env, status, fs.Arg(0))
		}}
}

func fetchStatus(c *client) (agent.Status, error) {
	var status agent.Status
	_, err := fetch(c, "/governor/v1/status", &status)
	return status, err
}

func printStatus(env environment, s agent.Status, under string) int {
	printPolicy(env.stdout, s.Policy)
	printBypasses(env.stdout, s.Bypasses)
	if len(s.Budgets) == 0 && len(s.Holds) == 0 && len(s.Ungoverned) == 0 && under == "" {
		return 0
	}
	inside := func(path string) bool { return under == "" || path == under || strings.HasPrefix(path, under+"/") }
	if under != "" && !slices.ContainsFunc(s.Budgets, func(b agent.BudgetStatus) bool { return b.Path == under }) {
		return env.fail(fmt.Errorf("there is no budget %q; `governor budget status` lists all", under))
	}
	printLimits(env.stdout, s, inside)
	printStatusOutlooks(env.stdout, s, inside)
	printHolds(env.stdout, s, inside)
	printUngoverned(env.stdout, s)
	printUnused(env.stdout, s, inside)
	return 0
}

func printPolicy(w io.Writer, p agent.PolicyStatus) {
	if p.Revision == "" {
		fmt.Fprintln(w, "No budgets are applied yet, so every GPU job is refused. Apply some with `governor budget apply <dir>`.")
	} else {
		fmt.Fprintf(w, "Policy      revision %.12s (%s), in force since %s\n", p.Revision, p.Enforcement, p.Since.Format("2006-01-02 15:04:05 MST"))
		fmt.Fprintf(w, "Applied by  %s%s\n", orDash(p.Author), commitText(p.Commit))
	}
	if p.Broken != "" {
		fmt.Fprintf(w, "\nThe files in the store are broken; the last good policy stays in force:\n\n%s\n", p.Broken)
	}
}

// printBypasses says that there are ways around the gate, if there are.
func printBypasses(w io.Writer, b *agent.BypassStatus) {
	if b != nil && b.Open > 0 {
		fmt.Fprintf(w, "Gate        %s around it open: %s (see governor doctor)\n", count(b.Open, "way"), strings.Join(b.Codes, ", "))
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func commitText(commit string) string {
	if commit == "" {
		return ""
	}
	return fmt.Sprintf(" (commit %.12s)", commit)
}

func printLimits(w io.Writer, s agent.Status, inside func(string) bool) {
	t := newTable("WINDOW", "WHAT", ">LIMIT", ">USED", ">HELD", ">LEFT", "SET AT")
	for _, b := range s.Budgets {
		if !inside(b.Path) {
			continue
		}
		head := b.Path
		if len(b.Limits) == 0 {
			head += "  (no limit of its own)"
		}
		if b.Queued > 0 {
			head += fmt.Sprintf("  (%s waiting)", count(b.Queued, "job"))
		}
		t.row(head)
		for _, l := range b.Limits {
			t.row(limitRow(s.Policy.Currency, l)...)
		}
	}
	fmt.Fprintln(w)
	t.write(w)
}

func limitRow(currency string, l agent.LimitStatus) []string {
	d := budget.Dimension(l.Dimension)
	limit, left, used := d.Number(l.Limit), d.Number(l.Available), d.Number(l.Posted)
	if l.Unlimited {
		limit, left = "unlimited", "-"
	}
	if d.IsGPUs() {
		used = "-" // GPUs at once are held, never used up
	}
	return []string{period(l), d.Noun(currency), limit, used, d.Number(l.Held), left, l.Source}
}

// period names the present period of a limit: "month 2026-03".
func period(l agent.LimitStatus) string { return budget.NamePeriod(l.Window, l.Start) }

func printHolds(w io.Writer, s agent.Status, inside func(string) bool) {
	t := newTable("JOB", "BUDGET", "STATE", ">ALLOCS", ">GPU-HOURS USED", ">HELD", ">"+s.Policy.Currency+" USED", ">HELD", "PLACEMENT")
	for _, h := range s.Holds {
		if inside(h.Budget) {
			t.row(h.Namespace+"/"+h.JobID, h.Budget, stateText(h), fmt.Sprint(len(h.Allocations)),
				quantity.FormatHours(h.Posted.Total()), quantity.FormatHours(h.Held.GPUTime[budget.AnyClass]),
				quantity.FormatMoney(h.Posted.Cost), quantity.FormatMoney(h.Held.Cost), placementText(h.Placement))
		}
	}
	if len(t.rows) == 0 {
		fmt.Fprintln(w, "\nNo job holds budget.")
		return
	}
	fmt.Fprintln(w, "\nJobs that hold budget")
	t.write(w)
	if !s.Observed {
		fmt.Fprintln(w, "\nPlacement and ungoverned work are not known now: the leading agent does not answer.")
	}
}

// stateText is the state of a hold, and why it is being ended.
func stateText(h agent.HoldStatus) string {
	switch {
	case h.Ending == nil:
		return h.State
	case h.Ending.Action == enforce.ActionThrottle:
		return "throttled: " + h.Ending.Cause
	}
	return "ending: " + h.Ending.Cause
}

func hours(a quantity.Amount) string { return quantity.FormatHours(a) + " GPU-hours" }

func money(currency string, a quantity.Amount) string {
	return quantity.FormatMoney(a) + " " + currency
}

func placementText(checks []agent.Verification) string {
	if len(checks) == 0 {
		return "-"
	}
	for _, v := range checks {
		if v.Difference != "" {
			return "differs: " + v.Difference
		}
	}
	return "as offered"
}

func printUngoverned(w io.Writer, s agent.Status) {
	if len(s.Ungoverned) == 0 {
		return
	}
	fmt.Fprintln(w, "\nRunning GPU work that no budget covers (submitted around Governor, or before it):")
	for _, u := range s.Ungoverned {
		fmt.Fprintf(w, "  %s/%s  allocation %.8s  node %s  %s\n", u.Namespace, u.JobID, u.Alloc, u.Node, count(len(u.GPUs), "GPU"))
	}
}

// printUnused prints GPUs that cost something and do nothing.
func printUnused(w io.Writer, s agent.Status, inside func(string) bool) {
	if len(s.Rogue) > 0 {
		fmt.Fprintln(w, "\nGPUs that are used by processes which do not hold them:")
	}
	for _, r := range s.Rogue {
		fmt.Fprintf(w, "  node %s  %s  %s\n", r.Node, r.GPU, r.Processes)
	}
	idle := slices.DeleteFunc(slices.Clone(s.Idle), func(i agent.IdleStatus) bool { return !inside(i.Budget) })
	if len(idle) > 0 {
		fmt.Fprintln(w, "\nAllocations whose GPUs are not used:")
	}
	for _, i := range idle {
		fmt.Fprintf(w, "  %s/%s  allocation %.8s  %s  budget %s  for %s\n", i.Namespace, i.JobID, i.Alloc, count(len(i.GPUs), "GPU"), i.Budget,
			s.Time.Sub(i.Since).Round(time.Second))
	}
	if len(s.Capacity) > 0 {
		fmt.Fprintln(w, "\nGPUs that no allocation has:")
	}
	for _, c := range s.Capacity {
		fmt.Fprintf(w, "  node pool %s  class %s  %d of %d\n", c.Pool, c.Class, c.Free, c.GPUs)
	}
}

func jobStatusCommand(env environment) command {
	return command{synopsis: "Show the hold, usage and placement of a job", help: `Usage: governor job status [options] <job id>

  Shows what a job holds of its budget, what it used so far, and whether its
  allocations got the GPUs that placement offered.

      $ governor job status -namespace=research-nlp train

  -namespace=<ns>  Namespace of the job. Default: NOMAD_NAMESPACE, else default.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("job status")
			c := clientFlags(env, fs)
			namespace := namespaceFlag(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			status, err := fetchStatus(c)
			if err != nil {
				return env.fail(err)
			}
			i := slices.IndexFunc(status.Holds, func(h agent.HoldStatus) bool { return h.Namespace == *namespace && h.JobID == fs.Arg(0) })
			if i < 0 {
				return env.fail(fmt.Errorf("job %q in namespace %q holds no budget: it ended, or was not admitted through Governor", fs.Arg(0), *namespace))
			}
			if *asJSON {
				out, err := json.MarshalIndent(status.Holds[i], "", "  ")
				if err != nil {
					return env.fail(err)
				}
				fmt.Fprintln(env.stdout, string(out))
				return 0
			}
			printJob(env.stdout, status.Policy.Currency, status.Holds[i])
			return 0
		}}
}

func printJob(w io.Writer, currency string, h agent.HoldStatus) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range [][2]string{
		{"Job", h.Namespace + "/" + h.JobID}, {"Hold", h.ID + " (" + h.State + ")"}, {"Budget", h.Budget},
		{"Estimate", hours(h.Estimate.GPUTime[budget.AnyClass]) + ", " + money(currency, h.Estimate.Cost) + " at most"},
		{"Used", hours(h.Posted.Total()) + ", " + money(currency, h.Posted.Cost)},
		{"Still held", hours(h.Held.GPUTime[budget.AnyClass]) + ", " + money(currency, h.Held.Cost)},
	} {
		fmt.Fprintf(t, "%s\t%s\n", row[0], row[1])
	}
	for _, v := range h.Placement {
		verdict := "as offered"
		if v.Difference != "" {
			verdict = v.Difference
		}
		fmt.Fprintf(t, "Allocation\t%.8s on %s: %s (%s)\n", v.Alloc, v.Node, strings.Join(v.IDs, ", "), verdict)
	}
	for _, row := range endingRows(h.Ending) {
		fmt.Fprintf(t, "%s\t%s\n", row[0], row[1])
	}
	_ = t.Flush()
}

// endingRows tell how a job is being ended or made smaller.
func endingRows(e *agent.EndingStatus) [][2]string {
	if e == nil {
		return nil
	}
	var parts []string
	for _, group := range slices.Sorted(maps.Keys(e.Throttled)) {
		t := e.Throttled[group]
		parts = append(parts, fmt.Sprintf("group %s scaled from %d to %d", group, t.Was, t.Is))
	}
	add := func(what string, at *time.Time) {
		if at != nil {
			parts = append(parts, what+" "+at.Local().Format("2006-01-02 15:04:05 MST"))
		}
	}
	if e.Action == enforce.ActionStop {
		if len(e.Allocations) > 0 {
			parts = append(parts, count(len(e.Allocations), "allocation"))
		}
		add(e.Signal+" sent at", e.Signalled)
		if e.Ordered == nil {
			add("stop at", e.Stop)
		}
		add("told to stop at", e.Ordered)
	} else {
		add("last step at", e.Ordered)
	}
	name := "Ending"
	if e.Action == enforce.ActionThrottle {
		name = "Throttled"
	}
	return [][2]string{{name, e.Cause + ": " + strings.Join(parts, ", ")}, {"Why", e.Why}}
}

// isTerminal reports whether output goes to a person's screen.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
