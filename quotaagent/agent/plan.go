package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Plan compares files with the policy in force and says what applying them
// would do to the limits and to running work.
func (e *Engine) Plan(ctx context.Context, files []budgetspec.File) (PlanEffect, error) {
	files, err := checkUpload(files)
	if err != nil {
		return PlanEffect{}, err
	}
	next, diags := budgetspec.Parse(files)
	if diags.HasErrors() {
		return PlanEffect{}, &DiagnosticsError{Text: renderDiagnostics(files, diags)}
	}
	state := e.policy.State()
	effect := PlanEffect{Changes: changes(state.Policy, next), Over: []string{}, Orphaned: []string{}, Version: state.Version}
	if len(diags) > 0 {
		effect.Diagnostics = renderDiagnostics(files, diags)
	}
	holds, _, err := e.books.holds(ctx)
	if err != nil {
		return PlanEffect{}, err
	}
	for _, h := range holds {
		if next.Find(h.Budget) == nil {
			effect.Orphaned = append(effect.Orphaned, fmt.Sprintf("%s/%s holds budget %s, which would be gone; its hold stays there until it ends", h.Namespace, h.JobID, h.Budget))
		}
	}
	err = e.over(ctx, next, &effect)
	return effect, err
}

// over lists the limits that current holds and usage already exceed.
func (e *Engine) over(ctx context.Context, next *budget.Policy, effect *PlanEffect) error {
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return err
	}
	var nodes []*budget.Budget
	next.Walk(func(b *budget.Budget) { nodes = append(nodes, b) })
	for _, b := range nodes {
		for _, l := range budgetStatus(next, b, balances[b.Path], e.now()).Limits {
			if !l.Unlimited && l.Available < 0 {
				effect.Over = append(effect.Over, fmt.Sprintf("%s: %s %s would be over by %s; new work is refused, running work goes on",
					b.Path, l.Window, budget.Dimension(l.Dimension).Name(), budget.Dimension(l.Dimension).Format(-l.Available, next.Currency)))
			}
		}
	}
	return nil
}

// changes lists the limits that differ, sorted.
func changes(old, next *budget.Policy) []string {
	before, after := limitTexts(old), limitTexts(next)
	lines := []string{}
	for key, text := range after {
		switch was, existed := before[key]; {
		case !existed:
			lines = append(lines, fmt.Sprintf("+ %s: %s", key, text))
		case was != text:
			lines = append(lines, fmt.Sprintf("~ %s: %s -> %s", key, was, text))
		}
	}
	for key, text := range before {
		if _, stays := after[key]; !stays {
			lines = append(lines, fmt.Sprintf("- %s: %s", key, text))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return lines
}

// limitTexts describes every setting that a decision can depend on.
func limitTexts(p *budget.Policy) map[string]string {
	texts := make(map[string]string)
	p.Walk(func(b *budget.Budget) {
		for _, l := range b.Limits {
			key := fmt.Sprintf("%s %s %s", b.Path, l.Window, l.Dimension.Name())
			texts[key] = formatLimit(p.Currency, l.Dimension, l.Ceiling)
		}
		jobCap := func(name string, d budget.Dimension, bound *budget.JobLimit) {
			if bound != nil {
				texts[fmt.Sprintf("%s per_job %s", b.Path, name)] = formatLimit(p.Currency, d, bound.Ceiling)
			}
		}
		jobCap("gpus", budget.GPUs(budget.AnyClass), b.PerJob.GPUs)
		jobCap("gpu_hours", budget.GPUTime(budget.AnyClass), b.PerJob.GPUTime)
		jobCap("cost", budget.Cost, b.PerJob.Cost)
		if b.PerJob.MaxRuntime > 0 {
			texts[b.Path+" per_job max_runtime"] = b.PerJob.MaxRuntime.String()
		}
		if b.PerJob.DefaultRuntime > 0 {
			texts[b.Path+" per_job default_runtime"] = b.PerJob.DefaultRuntime.String()
		}
	})
	for _, card := range p.RateCards {
		for class, rate := range card.PerGPUHour {
			texts[fmt.Sprintf("rate_card %s gpu %s", card.Name, class)] = quantity.FormatMoney(rate) + " " + p.Currency + " per GPU-hour"
		}
	}
	return texts
}

func formatLimit(currency string, d budget.Dimension, l quantity.Limit) string {
	amount, finite := l.Finite()
	if !finite {
		return "unlimited"
	}
	return d.Format(amount, currency)
}
