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

// MaxAllocations is the most allocations with GPUs of one job: each is tracked
// in the job's hold, a document of the store.
const MaxAllocations = 5000

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
	// Replaces reports whether allocations of the group run and will be replaced,
	// so that GPUs of both versions are held for a while; nil for a new job.
	Replaces func(group string) bool
}

// Need is the worst case of a job, line by line (BUDGETS.md, "Need of a job"),
// or the reason why there is none. Of a periodic job it is that of one launch; of
// a parameterized one it is nothing, because the launch says what it does.
func Need(p *budget.Policy, b *budget.Budget, ask jobspec.Ask, cluster Cluster, now time.Time) ([]ledger.Line, *Refusal) {
	if ask.Parameterized {
		return nil, nil
	}
	var lines []ledger.Line
	pricing := pricing{policy: p, budget: b, facts: ask.Facts(), offered: cluster.Offered, now: now}
	for _, g := range ask.Groups {
		if g.GPUs() == 0 {
			continue
		}
		line, refusal := allocations(ask, g, cluster)
		if refusal != nil {
			return nil, refusal
		}
		if line.Count == 0 {
			continue
		}
		if refusal := bound(&line, b, ask, g); refusal != nil {
			return nil, refusal
		}
		for _, d := range g.Devices {
			if d.Count == 0 {
				continue
			}
			need, refusal := pricing.need(line, d)
			if refusal != nil {
				return nil, refusal
			}
			line.Needs = append(line.Needs, need)
		}
		lines = append(lines, line)
	}
	return lines, trackable(lines)
}

// allocations is how many allocations of the group may hold GPUs at once.
func allocations(ask jobspec.Ask, g jobspec.GroupAsk, cluster Cluster) (ledger.Line, *Refusal) {
	line := ledger.Line{Group: g.Name, Count: g.Count + g.Canaries, Canaries: g.Canaries}
	if ask.EveryNode() {
		line.EveryNode, line.Canaries = true, 0
		nodes, known := 0, false
		if cluster.Eligible != nil {
			nodes, known = cluster.Eligible(g.Name)
		}
		if !known && g.Count > 0 {
			return line, &Refusal{Reason: NodesUnknown,
				Fact:   fmt.Sprintf("group %q of this %s job runs on every node that can serve it, and Nomad could not be asked how many those are", g.Name, ask.Type),
				Remedy: "submit it again shortly; if it stays, an operator should look at the log of the Governor agent"}
		}
		line.Count = max(0, nodes) * min(g.Count, 1)
		return line, nil
	}
	if g.MaxParallel > 0 && cluster.Replaces != nil && cluster.Replaces(g.Name) {
		line.Overlap = g.MaxParallel
		line.OverlapMS = int64(min(around(g), maxRuntimeMS))
	}
	return line, nil
}

// trackable refuses a job of which the ledger could not keep track.
func trackable(lines []ledger.Line) *Refusal {
	total := 0
	for _, line := range lines {
		total += line.Count
	}
	if total <= MaxAllocations {
		return nil
	}
	return &Refusal{Reason: TooManyAllocations,
		Fact:   fmt.Sprintf("it may have %d allocations with GPUs at once, and at most %d of one job can be tracked", total, MaxAllocations),
		Remedy: "split it into several jobs, or ask for more GPUs in each of fewer allocations"}
}

// bound sets how long one allocation of the group holds its GPUs at most.
func bound(line *ledger.Line, b *budget.Budget, ask jobspec.Ask, g jobspec.GroupAsk) *Refusal {
	if ask.Type == "service" || ask.Type == "system" {
		line.Lease, line.RuntimeMS = true, quantity.Millis(b.EffectiveLease())
		return nil
	}
	runtime, refusal := runtimeOf(b, ask, g)
	if refusal != nil {
		return refusal
	}
	line.OnceMS = quantity.Millis(runtime)
	line.Starts = 1 + min(max(0, b.WorstCaseReschedules(g.Reschedules, g.UnlimitedReschedules)), maxReschedules)
	once := quantity.Amount(line.OnceMS).Add(around(g))
	once = min(once, maxRuntimeMS/quantity.Amount(line.Starts))
	line.RuntimeMS = int64(once.Mul(int64(line.Starts)))
	return nil
}

// around is how much longer than its tasks run one allocation holds its GPUs.
func around(g jobspec.GroupAsk) quantity.Amount {
	total := quantity.Amount(0)
	for _, part := range []time.Duration{g.KillTimeout, g.ShutdownDelay, slack} {
		total = total.Add(quantity.Amount(quantity.Millis(max(0, part)))) // a sum of durations would wrap around
	}
	return total
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
				Fact:   fmt.Sprintf("job meta %s is %.100q, which is not a positive duration", RuntimeMeta, text),
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

// PlacementMeta is the job meta key by which its author says how it gets its GPUs:
// "require" pins the best ones, "prefer" only prefers the node that has them, and "off"
// leaves everything to Nomad.
const PlacementMeta = "governor_placement"

// The modes of placement.
const (
	PlacementRequire = "require"
	PlacementPrefer  = "prefer"
	PlacementOff     = "off"
)

// PlacementMode is what a job says of its placement; "" where it says nothing.
func PlacementMode(ask jobspec.Ask) (string, *Refusal) {
	switch mode, said := ask.Meta[PlacementMeta]; {
	case !said:
		return "", nil
	case mode == PlacementRequire || mode == PlacementPrefer || mode == PlacementOff:
		return mode, nil
	default:
		return "", &Refusal{Reason: PlacementUnknown, Fact: fmt.Sprintf("job meta %s is %.100q, which is no mode of placement", PlacementMeta, mode),
			Remedy: "write require (the best GPUs are pinned), prefer (only their node is preferred) or off, or leave it out"}
	}
}

// Template decides about a periodic job: nothing is held for it, but a job of
// which no launch could ever fit is refused now and not every night. It is
// decided against empty books; the decision's checks are those of one launch.
func Template(p *budget.Policy, b *budget.Budget, ask jobspec.Ask, lines []ledger.Line, now time.Time) Decision {
	h := ledger.Submit(ledger.Hold{Namespace: ask.Namespace, JobID: ask.JobID, Budget: b.Path, State: ledger.Held}, lines, 0)
	return Decide(p, b, State{Template: true}, h, lines, now)
}

// TemplateNotice tells the author of a template what was decided.
func TemplateNotice(p *budget.Policy, d Decision, ask jobspec.Ask) string {
	launches := "each launch"
	if ask.Parameterized {
		launches = "each dispatch"
	}
	text := fmt.Sprintf("governor: nothing is held for this job itself; %s is decided when it starts, from budget %s", launches, d.Budget.Path)
	if len(d.Lines) > 0 {
		text += ", and needs at most " + d.Asked(p)
	}
	return text
}

// UndeclaredGPUs is the refusal of a job that can reach GPUs without asking for
// them, or others than those that it was given; nil when there is nothing to
// refuse.
func UndeclaredGPUs(found []jobspec.Undeclared) *Refusal {
	if len(found) == 0 {
		return nil
	}
	first := found[0]
	fact := fmt.Sprintf("task %q of group %q can reach GPUs that it was not given: %s", first.Task, first.Group, first.What)
	var more []string
	for _, u := range found[1:min(len(found), 4)] {
		more = append(more, fmt.Sprintf("%s in task %q of group %q", u.What, u.Task, u.Group))
	}
	if len(found) > 4 {
		more = append(more, fmt.Sprintf("%d more", len(found)-4))
	}
	if len(more) > 0 {
		fact += "; also " + strings.Join(more, ", ")
	}
	return &Refusal{Reason: UndeclaredGPU, Fact: fact,
		Remedy: first.Fix + "; or have `undeclared_gpus = \"allow\"` set in the budget"}
}
