package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// pricing is what the price of a job's GPUs depends on.
type pricing struct {
	policy  *budget.Policy
	budget  *budget.Budget
	facts   budget.JobFacts
	offered Offered
	now     time.Time
}

// need finds the classes that could serve a device block, the dearest of their
// prices while the job may run, and the hungriest of their GPUs.
func (c pricing) need(line ledger.Line, d jobspec.DeviceAsk) (ledger.Need, *Refusal) {
	p := c.policy
	classes := classesFor(p, line.Group, d, c.offered)
	if len(classes) == 0 {
		return ledger.Need{}, &Refusal{Reason: NoClass,
			Fact:   fmt.Sprintf("device %q of task %q is in no gpu_class, so it has neither a limit nor a price", d.Name, d.Task),
			Remedy: "ask for one of: " + knownDevices(p) + "; or have the device's full name added to a gpu_class"}
	}
	need := ledger.Need{Classes: classes, GPUs: int64(d.Count)}
	until := c.now.Add(time.Duration(line.RuntimeMS) * time.Millisecond) // in range: see maxRuntimeMS
	for _, class := range classes {
		rate, priced := metering.DearestRate(p, class, c.facts, c.now, until)
		if !priced && limitsCost(p) {
			return ledger.Need{}, &Refusal{Reason: NoPrice,
				Fact:   fmt.Sprintf("GPU class %q has no price on a rate card that is in force between now and %s, while budgets limit cost", class, until.In(p.Location).Format(timeLayout)),
				Remedy: fmt.Sprintf("ask for GPUs of another class, or have gpu %q { per_hour = ... } added to that rate_card", class)}
		}
		watts := metering.Watts(p, class)
		if watts == 0 && limitsEnergy(c.budget) {
			return ledger.Need{}, &Refusal{Reason: NoWatts,
				Fact:   fmt.Sprintf("nothing bounds the power of GPU class %q, while budget %s or one above it limits energy", class, c.budget.Path),
				Remedy: fmt.Sprintf("ask for GPUs of another class, or have watts = ... added to gpu_class %q", class)}
		}
		need.PerGPUHour, need.Watts = max(need.PerGPUHour, rate), max(need.Watts, watts)
	}
	return need, nil
}

func classesFor(p *budget.Policy, group string, d jobspec.DeviceAsk, offered Offered) []string {
	if offered != nil {
		if names := offered(group, d); len(names) > 0 {
			return classesOf(p, func(device string) bool { return slices.Contains(names, device) })
		}
	}
	return classesOf(p, func(device string) bool {
		vendor, typ, model, ok := gpu.SplitName(device)
		return ok && d.MayServe(vendor, typ, model)
	})
}

// classesOf lists the classes with a device that matches, sorted.
func classesOf(p *budget.Policy, matches func(device string) bool) []string {
	var classes []string
	for _, c := range p.Classes {
		if slices.ContainsFunc(c.Devices, matches) {
			classes = append(classes, c.Name)
		}
	}
	slices.Sort(classes)
	return classes
}

func knownDevices(p *budget.Policy) string {
	var names []string
	for _, c := range p.Classes {
		names = append(names, c.Devices...)
	}
	if len(names) == 0 {
		return "(the policy declares no gpu_class)"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func limitsCost(p *budget.Policy) bool {
	limited := false
	p.Walk(func(b *budget.Budget) {
		limited = limited || b.PerJob.Cost != nil || limits(b, budget.Cost)
	})
	return limited
}

// limitsEnergy reports whether the budget or one above it limits energy.
func limitsEnergy(b *budget.Budget) bool {
	return slices.ContainsFunc(b.Ancestry(), func(n *budget.Budget) bool {
		return n.PerJob.Energy != nil || limits(n, budget.Energy)
	})
}

func limits(b *budget.Budget, d budget.Dimension) bool {
	of := func(l budget.Limit) bool { return l.Dimension == d }
	return slices.ContainsFunc(b.Limits, of) || slices.ContainsFunc(b.Committed, of)
}

// Estimate sums what lines can use at most: GPU time by class (every class that
// could serve it, as it counts for itself and for those that it is a share of),
// cost and energy. For a lease it is one lease's worth.
func Estimate(p *budget.Policy, lines []ledger.Line) ledger.Usage {
	return ledger.MostOf(lines, ledger.CalendarOf(p))
}
