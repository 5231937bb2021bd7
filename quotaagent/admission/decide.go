package admission

import (
	"sort"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Check is one inequality: posted + held + need <= limit.
type Check struct {
	Budget    *budget.Budget
	Window    budget.Window
	Period    budget.Period
	Dimension budget.Dimension
	Limit     quantity.Amount
	Posted    quantity.Amount
	// Held by other jobs and by this job's confirmed need.
	Held quantity.Amount
	// Own is the part of Held that is this job's.
	Own quantity.Amount
	// Need on top of what is held, in this period.
	Need   quantity.Amount
	Source budget.Source
	// JobCap marks a bound on the single job: Posted and Held are zero.
	JobCap bool
}

// ShortBy is how much is missing; zero or less when the check holds.
func (c Check) ShortBy() quantity.Amount {
	return c.Posted.Add(c.Held).Add(c.Need).Sub(c.Limit)
}

// Available is what is left before the job, never negative.
func (c Check) Available() quantity.Amount {
	return max(0, c.Limit.Sub(c.Posted).Sub(c.Held))
}

// reason classifies a failed check.
func (c Check) reason() Reason {
	switch {
	case c.JobCap:
		return ExceedsJobCap
	case c.Own.Add(c.Need) > c.Limit:
		return ExceedsBudget
	case c.Window == budget.Concurrent:
		return ConcurrencyLimit
	case c.Posted >= c.Limit:
		return BudgetExhausted
	}
	return InsufficientBudget
}

// Decision is the answer for one job.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	// Budget that the job draws from; nil when none claims it.
	Budget *budget.Budget
	Lines  []ledger.Line
	// Estimate is the worst case of Lines.
	Estimate ledger.Usage
	// Checks that were made, in order: leaf budget first.
	Checks []Check
	// Failed are those that do not hold, the dominant one first.
	Failed []Check
	// Refusal explains a decision that is not arithmetic.
	Refusal *Refusal
	// Shadow says that the outcome would have been Deny, had the policy enforced.
	Shadow bool
}

// Books are the balances by budget path; a missing one is empty.
type Books map[string]ledger.Balance

// Decide checks lines, to be held for a job that draws from b, against every
// ancestor, dimension and window. h is the job's hold as it would be with the
// submission recorded (ledger.Submit); what it charged before is in h.Charged
// and in the books, so only the growth counts.
func Decide(p *budget.Policy, b *budget.Budget, books Books, h ledger.Hold, lines []ledger.Line, now time.Time) Decision {
	d := Decision{Budget: b, Lines: lines, Estimate: Estimate(p, lines)}
	cal := ledger.Calendar{Location: p.Location, Windows: p.Windows()}
	growth := ledger.Charges(h, cal).Minus(h.Charged)
	for _, node := range b.Ancestry() {
		d.Checks = append(d.Checks, jobChecks(node, d.Estimate, lines)...)
		for _, l := range node.Limits {
			if limit, finite := l.Ceiling.Finite(); finite {
				d.Checks = append(d.Checks, windowChecks(p, Check{Budget: node, Window: l.Window, Dimension: l.Dimension, Limit: limit, Source: l.Source},
					books[node.Path], ledger.Balance{Held: h.Charged}, growth, now)...)
			}
		}
	}
	d.settle(p)
	return d
}

// settle derives outcome and reason from the checks.
func (d *Decision) settle(p *budget.Policy) {
	outcome := Admit
	for _, c := range d.Checks {
		if c.Need <= 0 || c.ShortBy() <= 0 {
			continue
		}
		d.Failed = append(d.Failed, c)
		if !c.JobCap && c.Budget.EffectiveAdmit() == budget.AdmitWarn {
			outcome = min(outcome, Warn)
			continue
		}
		outcome = Deny
	}
	d.Outcome = outcome
	sort.SliceStable(d.Failed, func(i, j int) bool {
		a, b := d.Failed[i], d.Failed[j]
		if blocksA, blocksB := blocks(a), blocks(b); blocksA != blocksB {
			return blocksA
		}
		return a.reason().Precedence() < b.reason().Precedence()
	})
	switch outcome {
	case Admit:
		d.Reason = Fits
	case Warn:
		d.Reason = FitsWithWarning
	case Deny:
		d.Reason = d.Failed[0].reason()
		if p.Enforcement == budget.Shadow {
			d.Outcome, d.Shadow = Warn, true
		}
	}
}

func blocks(c Check) bool { return c.JobCap || c.Budget.EffectiveAdmit() != budget.AdmitWarn }

// Refuse is the decision for a job that cannot be decided by arithmetic.
func Refuse(p *budget.Policy, b *budget.Budget, r Refusal) Decision {
	d := Decision{Outcome: Deny, Reason: r.Reason, Budget: b, Refusal: &r}
	if p.Enforcement == budget.Shadow {
		d.Outcome, d.Shadow = Warn, true
	}
	return d
}

func jobChecks(node *budget.Budget, estimate ledger.Usage, lines []ledger.Line) []Check {
	var checks []Check
	add := func(bound *budget.JobLimit, d budget.Dimension, need quantity.Amount) {
		if bound == nil {
			return
		}
		if limit, finite := bound.Ceiling.Finite(); finite {
			checks = append(checks, Check{Budget: node, Dimension: d, Limit: limit, Need: need, Source: bound.Source, JobCap: true})
		}
	}
	add(node.PerJob.GPUs, budget.GPUs(budget.AnyClass), peak(lines))
	add(node.PerJob.GPUTime, budget.GPUTime(budget.AnyClass), estimate.GPUTime[budget.AnyClass])
	add(node.PerJob.Cost, budget.Cost, estimate.Cost)
	if limit := node.PerJob.MaxRuntime; limit > 0 {
		for _, line := range lines {
			if !line.Lease {
				bound := &budget.JobLimit{Ceiling: quantity.LimitOf(quantity.Amount(quantity.Millis(limit))), Source: node.PerJob.MaxRuntimeSource}
				add(bound, runtimeDimension, quantity.Amount(line.OnceMS))
			}
		}
	}
	return checks
}

// runtimeDimension is how a bound on run time appears in a check.
const runtimeDimension budget.Dimension = "runtime_ms"

func peak(lines []ledger.Line) quantity.Amount {
	total := quantity.Amount(0)
	for _, line := range lines {
		for _, n := range line.Needs {
			total = total.Add(quantity.GPU.Mul(n.GPUs).Mul(int64(line.Count)))
		}
	}
	return total
}

// windowChecks makes one limit's checks: in the current period, in every later
// one that something is charged to, and in the first that is still free, for
// unplaced work counts in all of them. limit is the check without its amounts,
// own what the job itself charges already.
func windowChecks(p *budget.Policy, limit Check, book, own ledger.Balance, growth ledger.Vector, now time.Time) []Check {
	if limit.Window == budget.Concurrent {
		limit.Held = book.Held.At(ledger.ConcurrentKey, limit.Dimension)
		limit.Own = own.Held.At(ledger.ConcurrentKey, limit.Dimension)
		limit.Need = growth.At(ledger.ConcurrentKey, limit.Dimension)
		return []Check{limit}
	}
	var checks []Check
	period := budget.PeriodAt(limit.Window, now, p.Location)
	last := lastCharged(book, growth, limit.Window, period)
	for {
		c := limit
		c.Period = period
		c.Posted = book.Posted.At(period.Key(), c.Dimension)
		c.Held, c.Own = book.HeldIn(period, c.Dimension), own.HeldIn(period, c.Dimension)
		c.Need = growth.At(period.Key(), c.Dimension).Add(growth.At(ledger.AnyPeriod(c.Window), c.Dimension))
		checks = append(checks, c)
		if c.Window == budget.Total || period.Key() > last {
			return checks
		}
		period = period.Next(p.Location)
	}
}

// lastCharged is the key of the latest period of w that anything is charged to.
// Usage may be posted ahead of now: clocks step back.
func lastCharged(book ledger.Balance, growth ledger.Vector, w budget.Window, current budget.Period) string {
	last := current.Key()
	prefix := w.String() + "/"
	for _, v := range []ledger.Vector{book.Held, book.Posted, growth} {
		for key := range v {
			if strings.HasPrefix(key, prefix) && key != ledger.AnyPeriod(w) && key > last {
				last = key
			}
		}
	}
	return last
}
