package admission

import (
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Check is one inequality: posted + held + need <= limit.
type Check struct {
	Kind      CheckKind
	Budget    *budget.Budget
	Window    budget.Window
	Period    budget.Period
	Dimension budget.Dimension
	// Limit with all that was added to it: what earlier periods left over, grants,
	// and what the cohort may lend.
	Limit                  quantity.Amount
	Carry, Granted, Borrow quantity.Amount
	// Most is what the limit can ever be without a change of the policy: a need
	// beyond it never fits.
	Most   quantity.Amount
	Posted quantity.Amount
	// Held by other jobs and by this job's confirmed need.
	Held quantity.Amount
	// Own is the part of Held that is this job's.
	Own quantity.Amount
	// Need on top of what is held, in this period.
	Need   quantity.Amount
	Source budget.Source
}

// CheckKind is what a check is about.
type CheckKind uint8

// The kinds of checks.
const (
	// LimitCheck: a limit of a budget in a period, or a gauge.
	LimitCheck CheckKind = iota
	// PoolCheck: the GPUs that the budget's cohort leaves it. Its limit is what the
	// other members do not use now.
	PoolCheck
	// JobCap: a bound on the single job. Posted and Held are zero.
	JobCap
	// RunCap: a cap of the agent run that the job draws from.
	RunCap
)

// ShortBy is how much is missing; zero or less when the check holds.
func (c Check) ShortBy() quantity.Amount {
	return c.Posted.Add(c.Held).Add(c.Need).Sub(c.Limit)
}

// Available is what is left before the job, never negative.
func (c Check) Available() quantity.Amount {
	return max(0, c.Limit.Sub(c.Posted).Sub(c.Held))
}

// fails reports whether the job is too much. One that needs nothing more is not,
// however the limit stands.
func (c Check) fails() bool { return c.Need > 0 && c.ShortBy() > 0 }

// pastSoft reports whether the job goes beyond the soft mark.
func (c Check) pastSoft(mark quantity.Ratio) bool {
	return mark != 0 && c.Need > 0 && c.Kind == LimitCheck && c.Posted.Add(c.Held).Add(c.Need) > mark.Of(c.Limit)
}

// reason classifies a failed check.
func (c Check) reason() Reason {
	switch {
	case c.Kind == JobCap:
		return ExceedsJobCap
	case c.Kind == RunCap:
		return ExceedsRunCap
	case c.Most == 0 && (c.Window != budget.Concurrent || c.Dimension.Class() == budget.AnyClass):
		return Frozen
	case c.Own.Add(c.Need) > c.Most:
		return ExceedsBudget
	case c.Kind == PoolCheck && c.withinOwn():
		return WaitingForReclaim
	case c.Window == budget.Concurrent:
		return ConcurrencyLimit
	case c.Window == budget.Committed:
		return CommittedTooFar
	case c.Posted >= c.Limit:
		return BudgetExhausted
	}
	return InsufficientBudget
}

// withinOwn reports whether the budget would stay within its own GPUs, without
// what it may borrow.
func (c Check) withinOwn() bool {
	for _, l := range c.Budget.Limits {
		if l.Window == c.Window && l.Dimension == c.Dimension {
			return l.Ceiling.Allows(c.Held.Add(c.Need))
		}
	}
	return false
}

// everFits reports whether waiting can help.
func (c Check) everFits() bool {
	r := c.reason()
	return r != ExceedsJobCap && r != ExceedsRunCap && r != ExceedsBudget && r != Frozen
}

// advisory reports whether the check never blocks.
func (c Check) advisory() bool { return c.Budget.EffectiveLevel() == budget.Advisory }

// outcome is what a failed check makes of the job by itself.
func (c Check) outcome() Outcome {
	if c.Kind == JobCap || c.Kind == RunCap {
		return Deny
	}
	switch c.Budget.EffectiveAdmit() {
	case budget.AdmitWarn:
		return Warn
	case budget.AdmitQueue:
		if c.everFits() {
			return Queue
		}
	case budget.AdmitDeny, budget.AdmitInherit:
	}
	return Deny
}

// blocks reports whether a failed check keeps the job from running now.
func (c Check) blocks() bool { return !c.advisory() && c.outcome() < Warn }

// jobChecks are the bounds of one node on a single job.
func (x *decider) jobChecks(node *budget.Budget) {
	add := func(bound *budget.JobLimit, d budget.Dimension, need quantity.Amount) {
		if bound == nil {
			return
		}
		if limit, finite := bound.Ceiling.Finite(); finite {
			x.add(Check{Kind: JobCap, Budget: node, Dimension: d, Limit: limit, Most: limit, Need: need, Source: bound.Source})
		}
	}
	add(node.PerJob.GPUs, anyGPUs, peak(x.d.Lines))
	add(node.PerJob.GPUTime, anyTime, x.d.Estimate.GPUTime[budget.AnyClass])
	add(node.PerJob.Cost, budget.Cost, x.d.Estimate.Cost)
	add(node.PerJob.Energy, budget.Energy, x.d.Estimate.Energy)
	if limit := node.PerJob.MaxRuntime; limit > 0 {
		bound := &budget.JobLimit{Ceiling: quantity.LimitOf(quantity.Amount(quantity.Millis(limit))), Source: node.PerJob.MaxRuntimeSource}
		for _, line := range x.d.Lines {
			if !line.Lease {
				add(bound, runtimeDimension, quantity.Amount(line.OnceMS))
			}
		}
	}
}

// runtimeDimension is how a bound on run time appears in a check.
const runtimeDimension budget.Dimension = "runtime_ms"

const (
	anyGPUs budget.Dimension = "gpus/any"
	anyTime budget.Dimension = "gpu_ms/any"
)

func peak(lines []ledger.Line) quantity.Amount {
	total := quantity.Amount(0)
	for _, line := range lines {
		for _, n := range line.Needs {
			total = total.Add(quantity.GPU.Mul(n.GPUs).Mul(int64(line.Count)))
		}
	}
	return total
}

// runChecks are the caps of the agent run that the job draws from.
func (x *decider) runChecks(b *budget.Budget) {
	run := x.state.Run
	if run == nil {
		return
	}
	var source budget.Source
	if rule := b.EffectivePerRun(); rule != nil {
		source = rule.Source
	}
	add := func(c Check) {
		c.Kind, c.Budget, c.Source, c.Most = RunCap, b, source, c.Limit
		x.add(c)
	}
	another := quantity.Amount(1)
	if x.state.Joined {
		another = 0
	}
	if run.Concurrency > 0 {
		add(Check{Window: budget.Concurrent, Dimension: budget.Jobs, Limit: quantity.Amount(run.Concurrency), Held: quantity.Amount(run.Open),
			Own: 1 - another, Need: another})
	}
	draws := ledger.Draws(x.hold, x.rules.Calendar)
	for _, d := range run.Capped() {
		c := Check{Window: budget.Total, Dimension: d, Limit: run.Caps[d]}
		switch {
		case d == budget.Jobs:
			c.Posted, c.Need = quantity.Amount(run.Jobs), another
		case d.IsGPUs():
			continue // charged to the budgets
		default:
			c.Posted, c.Held, c.Own = run.Posted[d], run.Held[d], x.hold.Drawn[d]
			c.Need = draws[d].Sub(x.hold.Drawn[d])
		}
		add(c)
	}
}

// limitChecks are one limit of a node: in the current period, in every later one
// that something is charged to, and in the first that is still free, for unplaced
// work counts in all of them.
func (x *decider) limitChecks(node *budget.Budget, book *ledger.Balance, l *budget.Limit, last *lasts) {
	if _, finite := l.Ceiling.Finite(); !finite {
		return
	}
	if l.Window.Gauge() {
		x.gaugeChecks(node, book, l)
		return
	}
	charged := last[l.Window]
	for period := x.period(l.Window); ; period = x.after(period) {
		c := x.checkIn(node, book, l, period)
		free := period.key > charged && period.start.After(x.now)
		if l.Window == budget.Total || free || period.key >= charged && x.coversFree(c, period) {
			return
		}
	}
}

// coversFree reports whether a check that holds says that the same limit holds in
// a period that nothing is charged to yet: it is no lower there, and nothing that
// counts here is negative.
func (x *decider) coversFree(c *Check, period *period) bool {
	return !c.fails() && c.Carry == 0 && x.growth.At(period.key, c.Dimension) >= 0 && c.Posted >= 0
}

// checkIn adds the check of a limit in one period.
func (x *decider) checkIn(node *budget.Budget, book *ledger.Balance, l *budget.Limit, period *period) *Check {
	at := x.amountsIn(node, book, period)
	c := x.add(x.limited(node, book, l, period.Period))
	c.Posted = at.posted[l.Dimension]
	c.Held = at.held[l.Dimension].Add(at.heldAny[l.Dimension])
	c.Own = at.charged[l.Dimension].Add(at.chargedAny[l.Dimension])
	c.Need = at.growth[l.Dimension].Add(at.growthAny[l.Dimension])
	return c
}

// amounts are those of one node in one period, by dimension: what is posted, held,
// charged by the job before and more now; and the last three of what may fall
// into any period.
type amounts struct {
	node   *budget.Budget
	period *period

	posted, held, charged, growth  map[budget.Dimension]quantity.Amount
	heldAny, chargedAny, growthAny map[budget.Dimension]quantity.Amount
}

// amountsIn finds the amounts of a node in a period. Limits of the same window
// follow each other, so that the last ones are remembered.
func (x *decider) amountsIn(node *budget.Budget, book *ledger.Balance, p *period) *amounts {
	if a := &x.amounts; a.node == node && a.period == p {
		return a
	}
	x.amounts = amounts{node: node, period: p, posted: book.Posted[p.key], held: book.Held[p.key], heldAny: book.Held[p.any],
		charged: x.hold.Charged[p.key], chargedAny: x.hold.Charged[p.any], growth: x.growth[p.key], growthAny: x.growth[p.any]}
	return &x.amounts
}

// limited is a check with everything about its limit.
func (x *decider) limited(node *budget.Budget, book *ledger.Balance, l *budget.Limit, period budget.Period) Check {
	e := ledger.Effective(x.policy, node, *l, period, *book, x.state.Grants, x.now)
	limit, _ := e.Total().Finite()
	ceiling, _ := l.Ceiling.Finite()
	most := ceiling.Add(e.Granted)
	if l.Window == budget.Concurrent {
		most = most.Add(max(0, node.Borrow[l.Dimension.Class()]))
	}
	return Check{Budget: node, Window: l.Window, Period: period, Dimension: l.Dimension, Limit: limit, Carry: e.Carry, Granted: e.Granted,
		Borrow: e.Borrow, Most: most, Source: l.Source}
}

// gaugeChecks are a limit on what is held at once, and for a member of a cohort
// what the others leave it.
func (x *decider) gaugeChecks(node *budget.Budget, book *ledger.Balance, l *budget.Limit) {
	c := x.limited(node, book, l, budget.Period{Window: l.Window})
	key, free := ledger.ConcurrentKey, ""
	if l.Window == budget.Committed {
		key, free = budget.Committed.String(), anyCommitted
	}
	at := func(v ledger.Vector) quantity.Amount { return v.At(key, l.Dimension).Add(v.At(free, l.Dimension)) }
	c.Held, c.Own, c.Need = at(book.Held), at(x.hold.Charged), at(x.growth)
	pool := *x.add(c)
	if node.Cohort == "" || l.Window != budget.Concurrent {
		return
	}
	cohort := x.rules.cohort(node, x.state.Balances)
	pool.Kind, pool.Borrow = PoolCheck, 0
	pool.Limit = cohort.Room(node, l.Dimension).Add(c.Granted)
	pool.Most = min(pool.Most, cohort.Most(node, l.Dimension).Add(c.Granted))
	x.add(pool)
}

// anyCommitted is the key of what is committed and not placed.
var anyCommitted = ledger.AnyPeriod(budget.Committed)

// lasts are the keys of the latest periods that anything is charged to, by window.
type lasts [budget.Committed + 1]string

// lastCharged notes the latest periods of a vector. Usage may be posted ahead of
// now: clocks step back.
func (l *lasts) lastCharged(v ledger.Vector) {
	for key := range v {
		if w, ok := ledger.WindowOf(key); ok && key > l[w] {
			l[w] = key
		}
	}
}
