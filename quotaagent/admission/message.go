package admission

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Denial is the text that a person reads when a job is refused: what was asked,
// the limit that binds and where it is set, what is in use, the shortfall, and
// what to do next. It has no trailing newline.
func (d Decision) Denial(p *budget.Policy, ask jobspec.Ask) string {
	var b strings.Builder
	fmt.Fprintf(&b, "governor: job %q in namespace %q was not registered (%s)\n", ask.JobID, ask.Namespace, d.Reason)
	if d.Refusal != nil {
		row(&b, "because", d.Refusal.Fact)
		if d.Budget != nil {
			row(&b, "budget", describe(d.Budget))
		}
		row(&b, "what to do", d.Refusal.Remedy)
		return strings.TrimRight(b.String(), "\n")
	}
	c := d.Failed[0]
	row(&b, "asked", d.Asked(p))
	row(&b, "limit", c.limitText(p))
	if !c.JobCap {
		row(&b, "used", fmt.Sprintf("%s posted + %s held = %s", format(p, c.Dimension, c.Posted),
			format(p, c.Dimension, c.Held), format(p, c.Dimension, c.Posted.Add(c.Held))))
	}
	row(&b, "needed", format(p, c.Dimension, c.Need))
	row(&b, "short by", format(p, c.Dimension, c.ShortBy()))
	row(&b, "what to do", d.remedy(p, c))
	if n := len(d.Failed) - 1; n > 0 {
		others := make([]string, 0, n)
		for _, other := range d.Failed[1:] {
			others = append(others, fmt.Sprintf("%s (short by %s)", other.limitText(p), format(p, other.Dimension, other.ShortBy())))
		}
		row(&b, "also over", strings.Join(uniq(others), "; "))
	}
	return strings.TrimRight(b.String(), "\n")
}

func row(b *strings.Builder, label, text string) { fmt.Fprintf(b, "  %-11s %s\n", label, text) }

func uniq(texts []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, t := range texts {
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	return out
}

func describe(b *budget.Budget) string {
	if at := b.Source.String(); at != "" {
		return fmt.Sprintf("%s (%s)", b.Path, at)
	}
	return b.Path
}

// Asked is the worst case in words: "2 x v100 for up to 2h1m10s (2 starts of
// 1h) = 4.04 GPU-hours, 3.64 USD".
func (d Decision) Asked(p *budget.Policy) string {
	var parts []string
	for _, line := range d.Lines {
		for _, n := range line.Needs {
			gpus := n.GPUs * int64(line.Count)
			parts = append(parts, fmt.Sprintf("%d x %s %s", gpus, strings.Join(n.Classes, " or "), timeText(line)))
		}
	}
	if len(parts) == 0 {
		return "no GPUs"
	}
	return fmt.Sprintf("%s = %s, %s", strings.Join(parts, " + "),
		format(p, budget.GPUTime(budget.AnyClass), d.Estimate.GPUTime[budget.AnyClass]), format(p, budget.Cost, d.Estimate.Cost))
}

// timeText says how long a line's GPUs are held: the run time, how often it may
// start, and what that makes with the time that starting and stopping take.
func timeText(line ledger.Line) string {
	switch {
	case line.Lease:
		return "held ahead for " + duration(line.RuntimeMS)
	case line.Starts > 1:
		return fmt.Sprintf("for up to %s (%d starts of %s)", duration(line.RuntimeMS), line.Starts, duration(line.OnceMS))
	}
	return "for up to " + duration(line.RuntimeMS)
}

// duration prints milliseconds as "72h", "10m", "1h0m35s".
func duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	text := d.Round(time.Second).String()
	if text != "0s" && strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// format prints an amount of a dimension with its unit.
func format(p *budget.Policy, d budget.Dimension, a quantity.Amount) string {
	switch {
	case d == budget.Cost:
		return quantity.FormatMoney(a) + " " + p.Currency
	case d == runtimeDimension:
		return duration(int64(a))
	case d.IsGPUTime():
		return quantity.FormatHours(a) + " GPU-hours" + ofClass(d)
	}
	return fmt.Sprintf("%d GPUs%s", a, ofClass(d))
}

func ofClass(d budget.Dimension) string {
	if class := d.Class(); class != budget.AnyClass {
		return " of " + class
	}
	return ""
}

func (c Check) limitText(p *budget.Policy) string {
	scope := "in each " + c.Window.String()
	switch {
	case c.JobCap && c.Dimension == runtimeDimension:
		scope = "for one run"
	case c.JobCap:
		scope = "for one job"
	case c.Window == budget.Concurrent:
		scope = "at the same time"
	case c.Window == budget.Total:
		scope = "in total"
	}
	text := fmt.Sprintf("%s %s in budget %s", format(p, c.Dimension, c.Limit), scope, c.Budget.Path)
	if at := c.Source.String(); at != "" {
		text += ", set at " + at
	}
	return text
}

// remedy says what would make the binding check pass.
func (d Decision) remedy(p *budget.Policy, c Check) string {
	owner := "ask the owner of the budget to raise the limit"
	if c.Budget.Owner != "" {
		owner = "ask " + c.Budget.Owner + " to raise the limit"
	}
	ask := fmt.Sprintf("ask for fewer GPUs or a shorter run (meta %s)", RuntimeMeta)
	if d.leaseOnly() {
		ask = "ask for fewer GPUs"
	}
	switch c.reason() {
	case ExceedsJobCap, ExceedsBudget:
		return ask + ", or " + owner
	case ConcurrencyLimit:
		return "wait until running jobs of this budget end, " + ask + ", or " + owner
	}
	wait := ""
	if c.Window != budget.Total && !c.Period.End.IsZero() {
		wait = fmt.Sprintf("wait for the %s that begins %s, ", c.Window, c.Period.End.In(p.Location).Format("2006-01-02 15:04 MST"))
	}
	return wait + ask + ", or " + owner
}

func (d Decision) leaseOnly() bool {
	for _, line := range d.Lines {
		if !line.Lease {
			return false
		}
	}
	return true
}

// Notice is what the author of an admitted job is told: the estimate and what
// is left of the tightest limit, or the limits that only warn.
func (d Decision) Notice(p *budget.Policy) string {
	if d.Refusal != nil {
		return fmt.Sprintf("governor: shadow mode: would be refused (%s): %s", d.Reason, d.Refusal.Fact)
	}
	if d.Budget == nil {
		return "governor: no budget claims this job; the policy lets it run ungoverned"
	}
	text := fmt.Sprintf("governor: at most %s, from budget %s", d.Asked(p), d.Budget.Path)
	switch {
	case d.Shadow:
		return text + " (shadow mode: would be refused, " + string(d.Reason) + ": " + d.why(p) + ")"
	case d.Outcome == Warn:
		return text + " (over a limit that only warns: " + d.why(p) + ")"
	}
	if c, ok := d.tightest(); ok {
		text += fmt.Sprintf("; after this %s of %s left", format(p, c.Dimension, c.Available().Sub(c.Need)), c.limitText(p))
	}
	return text
}

func (d Decision) why(p *budget.Policy) string {
	c := d.Failed[0]
	return c.limitText(p) + ", short by " + format(p, c.Dimension, c.ShortBy())
}

// tightest is the window check that leaves the smallest share of its limit.
func (d Decision) tightest() (Check, bool) {
	best, found := Check{}, false
	left := func(c Check) quantity.Amount { return c.Available().Sub(c.Need) }
	for _, c := range d.Checks {
		if c.JobCap || c.Limit <= 0 {
			continue
		}
		if !found || ppm(left(c), c.Limit) < ppm(left(best), best.Limit) {
			best, found = c, true
		}
	}
	return best, found
}

// ppm is a/b in parts per million for positive b, near enough for display.
func ppm(a, b quantity.Amount) quantity.Amount {
	if b >= 1_000_000 {
		return a / (b / 1_000_000)
	}
	return a.Mul(1_000_000) / b
}

// Receipt is one line about a job that ended: what was estimated, what it used.
func Receipt(p *budget.Policy, h ledger.Hold) string {
	return fmt.Sprintf("estimate %s, %s; used %s, %s",
		format(p, budget.GPUTime(budget.AnyClass), h.Estimate.GPUTime[budget.AnyClass]), format(p, budget.Cost, h.Estimate.Cost),
		format(p, budget.GPUTime(budget.AnyClass), h.Posted.Total()), format(p, budget.Cost, h.Posted.Cost))
}
