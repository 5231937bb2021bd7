package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// RuntimeMeta is the job meta key by which an author bounds a batch job's run
// time where Nomad does not ("2h30m").
const RuntimeMeta = "governor_max_runtime"

// BudgetMeta is the job meta key by which an author picks one of the budgets
// that may serve the job.
const BudgetMeta = "governor_budget"

// slack is added to every bounded run time for what Nomad needs to start and
// stop tasks: its client batches allocation updates every 200 ms and heartbeats
// arrive every few seconds.
const slack = 30 * time.Second

// Refusal says why a job cannot be decided by arithmetic: the reason, one
// sentence about the fact, and what to do.
type Refusal struct {
	Reason Reason
	Fact   string
	Remedy string
}

// Offered narrows the classes that can serve a device block to those of the
// nodes that placement offered. No device names mean that nothing is known.
type Offered func(group string, d jobspec.DeviceAsk) []string

// Eligible is on how many nodes a group of a system job would run now; false
// when that is not known.
type Eligible func(group string) (nodes int, known bool)

// Cluster is what is known of the cluster and of the job in it. The zero value
// knows nothing.
type Cluster struct {
	Offered  Offered
	Eligible Eligible
	// Replaces says that another version of the job runs, so that an update may
	// hold GPUs of both for a while.
	Replaces bool
}

// Need is the worst case of a job, line by line (BUDGETS.md, "Need of a job"),
// or the reason why there is none.
func Need(p *budget.Policy, b *budget.Budget, ask jobspec.Ask, cluster Cluster, now time.Time) ([]ledger.Line, *Refusal) {
	offered := cluster.Offered
	if refusal := unsupported(ask); refusal != nil {
		return nil, refusal
	}
	var lines []ledger.Line
	for _, g := range ask.Groups {
		if g.Count+g.Canaries == 0 || g.GPUs() == 0 {
			continue
		}
		line := ledger.Line{Group: g.Name, Count: g.Count + g.Canaries, Canaries: g.Canaries}
		refusal := bound(&line, b, ask, g)
		if refusal != nil {
			return nil, refusal
		}
		for _, d := range g.Devices {
			need, refusal := price(p, line, d, offered, now)
			if refusal != nil {
				return nil, refusal
			}
			line.Needs = append(line.Needs, need)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func unsupported(ask jobspec.Ask) *Refusal {
	var kind string
	remedy := "submit it as a batch or service job"
	switch {
	case ask.Periodic:
		kind = "periodic"
	case ask.Parameterized:
		kind = "parameterized"
	case ask.Type == "system" || ask.Type == "sysbatch":
		kind, remedy = ask.Type, "submit it as a service or batch job with a count"
	default:
		return nil
	}
	return &Refusal{Reason: UnsupportedJob, Remedy: remedy,
		Fact: fmt.Sprintf("a %s job starts GPU work by itself, and this release of Governor does not govern those launches", kind)}
}

// bound sets how long one allocation of the group holds its GPUs at most.
func bound(line *ledger.Line, b *budget.Budget, ask jobspec.Ask, g jobspec.GroupAsk) *Refusal {
	if ask.Type == "service" {
		line.Lease, line.RuntimeMS = true, quantity.Millis(b.EffectiveLease())
		return nil
	}
	runtime, refusal := runtimeOf(b, ask, g)
	if refusal != nil {
		return refusal
	}
	line.OnceMS = quantity.Millis(runtime)
	line.Starts = 1 + min(max(0, b.WorstCaseReschedules(g.Reschedules, g.UnlimitedReschedules)), maxReschedules)
	once := quantity.Amount(0)
	for _, part := range []time.Duration{runtime, g.KillTimeout, g.ShutdownDelay, slack} {
		once = once.Add(quantity.Amount(quantity.Millis(max(0, part)))) // a sum of durations would wrap around
	}
	once = min(once, maxRuntimeMS/quantity.Amount(line.Starts))
	line.RuntimeMS = int64(once.Mul(int64(line.Starts)))
	return nil
}

// Bounds that keep sums of times in range. A century is beyond any limit that
// is one.
const (
	maxRuntimeMS   quantity.Amount = 100 * 365 * 24 * quantity.GPUHour
	maxReschedules                 = 1_000_000
)

// runtimeOf is the bound on one run: Nomad's own, else the author's, else the
// budget's default.
func runtimeOf(b *budget.Budget, ask jobspec.Ask, g jobspec.GroupAsk) (time.Duration, *Refusal) {
	if g.MaxRunDuration > 0 {
		return g.MaxRunDuration, nil
	}
	if text, ok := ask.Meta[RuntimeMeta]; ok {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return 0, &Refusal{Reason: RuntimeUnknown,
				Fact:   fmt.Sprintf("job meta %s is %q, which is not a positive duration", RuntimeMeta, text),
				Remedy: `write it with units, for example "2h30m"`}
		}
		return d, nil
	}
	if d := b.EffectiveDefaultRuntime(); d > 0 {
		return d, nil
	}
	return 0, &Refusal{Reason: RuntimeUnknown,
		Fact:   fmt.Sprintf("group %q is batch work without a bound on its run time, so its worst case is unbounded", g.Name),
		Remedy: fmt.Sprintf("set meta { %s = \"2h\" } in the job, or per_job { default_runtime } in budget %s", RuntimeMeta, b.Path)}
}

// price finds the classes that could serve a device block and the dearest of
// their prices: on the rate card in force now, and on those that take over while
// the job may run.
func price(p *budget.Policy, line ledger.Line, d jobspec.DeviceAsk, offered Offered, now time.Time) (ledger.Need, *Refusal) {
	classes := classesFor(p, line.Group, d, offered)
	if len(classes) == 0 {
		return ledger.Need{}, &Refusal{Reason: NoClass,
			Fact:   fmt.Sprintf("device %q of task %q is in no gpu_class, so it has neither a limit nor a price", d.Name, d.Task),
			Remedy: "ask for one of: " + knownDevices(p) + "; or have the device's full name added to a gpu_class"}
	}
	need := ledger.Need{Classes: classes, GPUs: int64(d.Count)}
	until := now.Add(time.Duration(line.RuntimeMS) * time.Millisecond) // in range: see maxRuntimeMS
	for _, class := range classes {
		rate, priced := metering.DearestRate(p, class, budget.JobFacts{}, now, until)
		if !priced && limitsCost(p) {
			return ledger.Need{}, &Refusal{Reason: NoPrice,
				Fact:   fmt.Sprintf("GPU class %q has no price on a rate card that is in force between now and %s, while budgets limit cost", class, until.In(p.Location).Format(timeLayout)),
				Remedy: fmt.Sprintf("ask for GPUs of another class, or have gpu %q { per_hour = ... } added to that rate_card", class)}
		}
		need.PerGPUHour = max(need.PerGPUHour, rate)
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
		return ok && gpu.MatchesName(d.Name, vendor, typ, model)
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
		limited = limited || b.PerJob.Cost != nil
		for _, l := range b.Limits {
			limited = limited || l.Dimension == budget.Cost
		}
	})
	return limited
}

// Estimate sums what lines can use at most: GPU time by class (every class that
// could serve it) and cost. For a lease it is one lease's worth.
func Estimate(lines []ledger.Line) ledger.Usage {
	u := ledger.Usage{GPUTime: map[string]quantity.Amount{}}
	for _, line := range lines {
		for _, n := range line.Needs {
			ms := quantity.Amount(line.RuntimeMS).Mul(n.GPUs).Mul(int64(line.Count))
			for _, class := range n.Classes {
				u.GPUTime[class] = u.GPUTime[class].Add(ms)
			}
			u.GPUTime[budget.AnyClass] = u.GPUTime[budget.AnyClass].Add(ms)
			u.Cost = u.Cost.Add(quantity.Cost(ms, n.PerGPUHour))
		}
	}
	return u
}
