package admission

import (
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Check is one inequality: posted + held + need <= limit.
type Check struct {
	Kind   CheckKind
	Window budget.Window
	Budget *budget.Budget
	// Period without beginning and end for a check that is about none; never nil.
	Period    *budget.Period
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
func (c *Check) ShortBy() quantity.Amount {
	return c.Posted.Add(c.Held).Add(c.Need).Sub(c.Limit)
}

// Available is what is left before the job, never negative.
func (c *Check) Available() quantity.Amount {
	return max(0, c.Limit.Sub(c.Posted).Sub(c.Held))
}

// fails reports whether the job is too much. One that needs nothing more is not,
// however the limit stands.
func (c *Check) fails() bool { return c.Need > 0 && c.ShortBy() > 0 }

// pastSoft reports whether the job goes beyond the soft mark.
func (c *Check) pastSoft(mark quantity.Ratio) bool {
	return mark != 0 && c.Need > 0 && c.Kind == LimitCheck && c.Posted.Add(c.Held).Add(c.Need) > mark.Of(c.Limit)
}

// reason classifies a failed check.
func (c *Check) reason() Reason {
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
func (c *Check) withinOwn() bool {
	for _, l := range c.Budget.Limits {
		if l.Window == c.Window && l.Dimension == c.Dimension {
			return l.Ceiling.Allows(c.Held.Add(c.Need))
		}
	}
	return false
}

// everFits reports whether waiting can help.
func (c *Check) everFits() bool {
	r := c.reason()
	return r != ExceedsJobCap && r != ExceedsRunCap && r != ExceedsBudget && r != Frozen
}

// advisory reports whether the check never blocks.
func (c *Check) advisory() bool { return c.Budget.EffectiveLevel() == budget.Advisory }

// outcome is what a failed check makes of the job by itself.
func (c *Check) outcome() Outcome {
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
func (c *Check) blocks() bool { return !c.advisory() && c.outcome() < Warn }

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
	if node.PerJob.GPUs != nil {
		add(node.PerJob.GPUs, anyGPUs, peak(x.d.Lines))
	}
	if node.PerJob.GPUTime != nil {
		add(node.PerJob.GPUTime, anyTime, x.d.Estimate.GPUTime[budget.AnyClass])
	}
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
	for _, d := range run.Capped() {
		c := Check{Window: budget.Total, Dimension: d, Limit: run.Caps[d]}
		switch {
		case d == budget.Jobs:
			c.Posted, c.Need = quantity.Amount(run.Jobs), another
		case d.IsGPUs():
			continue // charged to the budgets
		default:
			c.Posted, c.Held, c.Own = run.Posted[d], run.Held[d], x.drawn[d]
			c.Need = x.draws[d].Sub(x.drawn[d])
		}
		add(c)
	}
}

// limitChecks are one limit of a node: in the current period, in every later one
// that something is charged to, and in the first that is still free, for unplaced
// work counts in all of them.
func (x *decider) limitChecks(node *budget.Budget, book *ledger.Balance, l *budget.Limit) {
	if _, finite := l.Ceiling.Finite(); !finite {
		return
	}
	if l.Window.Gauge() {
		x.gaugeChecks(node, book, l)
		return
	}
	for period := x.period(l.Window); ; period = x.after(period) {
		job, at := x.wantedIn(period), x.amountsIn(node, book, period)
		c := x.checkIn(node, book, l, job, at)
		if l.Window == budget.Total || !job.later && !at.later && (period.start.After(x.now) && job.free() && at.free() || coversFree(c, job)) {
			return
		}
	}
}

// coversFree reports whether a check that holds says that the same limit holds in
// a period that nothing is charged to yet: it is no lower there, and nothing that
// counts here is negative.
func coversFree(c *Check, job *wanted) bool {
	return !c.fails() && c.Carry == 0 && job.growth.At(c.Dimension) >= 0 && c.Posted >= 0
}

// checkIn adds the check of a limit in one period.
func (x *decider) checkIn(node *budget.Budget, book *ledger.Balance, l *budget.Limit, job *wanted, at *amounts) *Check {
	c := x.limited(node, book, l, &at.period.Period)
	c.Posted = at.posted.At(l.Dimension)
	c.Held = at.held.At(l.Dimension).Add(at.heldAny.At(l.Dimension))
	c.Own = job.charged.At(l.Dimension).Add(job.chargedAny.At(l.Dimension))
	c.Need = job.growth.At(l.Dimension).Add(job.growthAny.At(l.Dimension))
	return c
}

// wanted is what the job charged before in one period and charges more now, and the
// same of what may fall into any period: the same for all budgets.
type wanted struct {
	period *period

	charged, chargedAny, growth, growthAny ledger.Row
	// later says that it charges more in a later period of the window. So may what is
	// posted: clocks step back.
	later bool
}

// free reports whether nothing more is charged to this period alone.
func (w *wanted) free() bool { return len(w.growth) == 0 }

// wants remembers what is wanted in the periods that budgets share, and in the last
// other one.
type wants struct {
	found [6]wanted
	n     int
	rare  wanted
}

// wantedIn finds what is wanted in a period; the result is good until the next call.
func (x *decider) wantedIn(p *period) *wanted {
	for i := range x.wants.found[:x.wants.n] {
		if x.wants.found[i].period == p {
			return &x.wants.found[i]
		}
	}
	w := &x.wants.rare
	if w.period == p {
		return w
	}
	if p.shared && x.wants.n < len(x.wants.found) {
		w = &x.wants.found[x.wants.n]
		x.wants.n++
	}
	w.period = p
	w.charged, w.chargedAny, _ = x.charged.RowsOf(p.key, p.any)
	w.growth, w.growthAny, w.later = x.growth.RowsOf(p.key, p.any)
	return w
}

// amounts are those of one node in one period: what is posted and held, and what is
// held and may fall into any period.
type amounts struct {
	node   *budget.Budget
	period *period

	posted, held, heldAny ledger.Row
	// later says that something is posted or held in a later period of the window.
	later bool
}

// free reports whether nothing is posted or held in this period alone.
func (a *amounts) free() bool { return len(a.posted) == 0 && len(a.held) == 0 }

// amountsIn finds the amounts of a node in a period. Limits of the same window
// follow each other, so that the last ones are remembered.
func (x *decider) amountsIn(node *budget.Budget, book *ledger.Balance, p *period) *amounts {
	if a := &x.amounts; a.node == node && a.period == p {
		return a
	}
	a := &x.amounts
	var posted, held bool
	a.node, a.period = node, p
	a.posted, _, posted = book.Posted.RowsOf(p.key, "")
	a.held, a.heldAny, held = book.Held.RowsOf(p.key, p.any)
	a.later = posted || held
	return a
}

// limited adds a check with everything about its limit.
func (x *decider) limited(node *budget.Budget, book *ledger.Balance, l *budget.Limit, period *budget.Period) *Check {
	ceiling, _ := l.Ceiling.Finite()
	c := x.next()
	c.Budget, c.Window, c.Period, c.Dimension, c.Source = node, l.Window, period, l.Dimension, l.Source
	c.Limit, c.Most = ceiling, ceiling
	if len(x.state.Grants) == 0 && l.Rollover == nil && len(node.Borrow) == 0 {
		return c // as most are: nothing is added to the limit
	}
	c.Carry, c.Granted, c.Borrow = ledger.Extras(x.policy, node, l, period, book, x.state.Grants, x.now)
	c.Limit = ceiling.Add(c.Carry).Add(c.Granted).Add(c.Borrow)
	c.Most = ceiling.Add(c.Granted)
	if l.Window == budget.Concurrent && len(node.Borrow) > 0 {
		c.Most = c.Most.Add(max(0, node.Borrow[l.Dimension.Class()]))
	}
	return c
}

// gaugeChecks are a limit on what is held at once, and for a member of a cohort
// what the others leave it.
func (x *decider) gaugeChecks(node *budget.Budget, book *ledger.Balance, l *budget.Limit) {
	c := x.limited(node, book, l, &gaugePeriods[l.Window])
	gauge := &concurrent
	if l.Window == budget.Committed {
		gauge = &committed
	}
	job := x.wantedIn(gauge)
	c.Held = book.Held.At(gauge.key, l.Dimension)
	c.Own = job.charged.At(l.Dimension).Add(job.chargedAny.At(l.Dimension))
	c.Need = job.growth.At(l.Dimension).Add(job.growthAny.At(l.Dimension))
	if gauge.any != "" {
		c.Held = c.Held.Add(book.Held.At(gauge.any, l.Dimension))
	}
	if node.Cohort == "" || l.Window != budget.Concurrent {
		return
	}
	pool := *c
	cohort := x.rules.cohort(node, x.state.Balances)
	pool.Kind, pool.Borrow = PoolCheck, 0
	pool.Limit = cohort.Room(node, l.Dimension).Add(c.Granted)
	pool.Most = min(pool.Most, cohort.Most(node, l.Dimension).Add(c.Granted))
	x.add(pool)
}

// gaugePeriods are the periods of gauges, by window: without beginning or end.
var gaugePeriods = func() (p [budget.Committed + 1]budget.Period) {
	for w := range p {
		p[w].Window = budget.Window(w)
	}
	return p
}()

// concurrent and committed are the keys of the gauges. What is committed and not placed
// has its own.
var (
	concurrent = period{key: ledger.ConcurrentKey, shared: true}
	committed  = period{key: budget.Committed.String(), any: ledger.AnyPeriod(budget.Committed), shared: true}
)
