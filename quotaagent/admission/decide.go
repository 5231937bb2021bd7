package admission

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

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
	// Soft is the check that goes furthest beyond a soft mark; nil when none does.
	Soft *Check
	// Refusal explains a decision that is not arithmetic.
	Refusal *Refusal
	// Shadow says that the outcome would have been Deny or Queue, had the policy or
	// an advisory budget enforced.
	Shadow bool
	// Smaller says that the outcome would have been Deny or Queue, had the request not
	// only made the job smaller.
	Smaller bool
	// UnblockMS is the earliest time at which the job can be expected to fit; 0 when
	// that is not known, or never.
	UnblockMS int64
	// Alternatives are other ways to get the work done, the cheapest first.
	Alternatives []Alternative
	// Run is the agent run that the job draws from; nil for none.
	Run *ledger.Run
	// Turn is the place of a job that waits; nil where it does not, or is not known.
	Turn *Turn
	// NotQueued says why a job that could wait for budget is refused; "" otherwise.
	NotQueued string
	// Overrides are the grants without which some check would not hold, by id.
	Overrides []ledger.Grant
	// opens says that it is about opening Run, and not about a job.
	opens bool
	// Request is the request for tokens that it is about instead of a job; nil for none.
	Request *ledger.TokenRequest
}

// Books are the balances by budget path; a missing one is empty.
type Books = map[string]ledger.Balance

// State is what a decision depends on besides the policy and the job.
type State struct {
	// Balances of the budget, all above it, and all members of their cohorts.
	Balances Books
	// Grants of those budgets, whatever their state.
	Grants []ledger.Grant
	// Run is the envelope that the job draws from; nil for none. Joined says that the
	// job has an open hold in it already.
	Run    *ledger.Run
	Joined bool
	// Accessor is who submits: only who opened a run may use it. "" asks for no proof.
	Accessor string
	// Template says that nothing is held: each launch names its own run.
	Template bool
	// Rules of the policy, made once with RulesOf; nil makes them anew.
	Rules *Rules
}

// Rules are what decisions need of a policy and is the same for all of them.
type Rules struct {
	Calendar ledger.Calendar
	cohorts  map[string][]*budget.Budget
	// moment are the periods of the last decision, which are those of the next one
	// until one of them ends.
	moment atomic.Pointer[moment]
}

// RulesOf prepares a policy, which must not change any more.
func RulesOf(p *budget.Policy) *Rules {
	r := &Rules{Calendar: ledger.CalendarOf(p), cohorts: map[string][]*budget.Budget{}}
	p.Walk(func(b *budget.Budget) {
		if b.Cohort != "" {
			r.cohorts[b.Cohort] = append(r.cohorts[b.Cohort], b)
		}
	})
	return r
}

// cohort are the members of a node's cohort with their balances.
func (r *Rules) cohort(node *budget.Budget, books Books) ledger.Cohort {
	members := r.cohorts[node.Cohort]
	c := make(ledger.Cohort, len(members))
	for i, b := range members {
		c[i] = ledger.Member{Budget: b, Balance: books[b.Path]}
	}
	return c
}

// decider is one decision in the making.
type decider struct {
	policy  *budget.Policy
	state   State
	rules   *Rules
	charged ledger.Vector // by the job before
	growth  ledger.Vector // on top of it
	// drawn is what the job drew from its run before, draws what it draws now.
	drawn, draws ledger.Amounts

	now     time.Time
	moment  *moment
	amounts amounts
	wants   wants
	d       Decision
}

// add adds a check.
func (x *decider) add(c Check) {
	if c.Period == nil {
		c.Period = &gaugePeriods[c.Window]
	}
	*x.next() = c
}

// next adds an empty check, which is filled in where it is; the result is good until
// the next one is added.
func (x *decider) next() *Check {
	n := len(x.d.Checks)
	if n == cap(x.d.Checks) {
		x.d.Checks = slices.Grow(x.d.Checks, 1)
	}
	x.d.Checks = x.d.Checks[:n+1] // what lies beyond the end was never written
	return &x.d.Checks[n]
}

// Decide checks lines, to be held for a job that draws from b, against every
// ancestor, dimension and window, and a job of an agent run against its caps. h
// is the job's hold as it would be with the submission recorded (ledger.Submit);
// what it charged before is in h.Charged and in the balances, so only the growth
// counts.
func Decide(p *budget.Policy, b *budget.Budget, state State, h ledger.Hold, lines []ledger.Line, now time.Time) Decision {
	if refusal := runRefusal(b, state, ofJob, now); refusal != nil {
		d := Refuse(p, b, *refusal)
		d.Lines, d.Estimate = lines, Estimate(p, lines)
		return d
	}
	x := decider{policy: p, state: state, now: now, charged: h.Charged, drawn: h.Drawn}
	x.prepare()
	x.d.Budget, x.d.Lines, x.d.Estimate, x.d.Run = b, lines, ledger.MostOf(lines, x.rules.Calendar), state.Run
	if state.Run != nil {
		x.draws = ledger.Draws(h, x.rules.Calendar)
	}
	x.growth = ledger.Charges(h, x.rules.Calendar)
	if !h.Charged.IsZero() {
		x.growth.AddAll(h.Charged, -1)
	}
	return x.decide(b)
}

// prepare looks up what the policy's decisions have in common.
func (x *decider) prepare() {
	if x.rules = x.state.Rules; x.rules == nil {
		x.rules = RulesOf(x.policy)
	}
	x.moment = x.rules.at(x.now)
}

// decide makes the checks of the growth and derives the decision from them.
func (x *decider) decide(b *budget.Budget) Decision {
	nodes := 0
	for node := b; node != nil; node = node.Parent {
		nodes += len(node.Limits) + len(node.Committed)
	}
	x.d.Checks = make([]Check, 0, nodes)
	x.runChecks(b)
	for node := b; node != nil; node = node.Parent {
		x.nodeChecks(node)
	}
	x.d.settle(x.policy)
	x.d.Overrides = x.leansOn()
	return x.d
}

// leansOn are the grants without which some check that holds would not.
func (x *decider) leansOn() []ledger.Grant {
	var out []ledger.Grant
	for _, g := range x.state.Grants {
		if g.Active(x.now.UnixMilli()) && slices.ContainsFunc(x.d.Checks, func(c Check) bool {
			return c.Budget.Path == g.Budget && g.Max[c.Dimension] > 0 && c.Granted > 0 && c.Need > 0 && c.ShortBy() <= 0 && c.ShortBy().Add(c.Granted) > 0
		}) {
			out = append(out, g)
		}
	}
	return out
}

func (x *decider) nodeChecks(node *budget.Budget) {
	x.jobChecks(node)
	found := x.state.Balances[node.Path]
	book := &found
	for i := range node.Limits {
		x.limitChecks(node, book, &node.Limits[i])
	}
	for i := range node.Committed {
		x.limitChecks(node, book, &node.Committed[i])
	}
}

// worded is how refusals call what they are about.
type worded struct{ what, submit, name string }

// ofJob is how they call a job.
var ofJob = worded{"job", "submit the job", fmt.Sprintf("name its id in meta { %s = \"...\" }", RunMeta)}

// runRefusal says why the run that a job draws from, or the lack of one, keeps it
// out whatever it needs.
func runRefusal(b *budget.Budget, state State, of worded, now time.Time) *Refusal {
	rule, run := b.EffectivePerRun(), state.Run
	switch {
	case run == nil && (rule == nil || state.Template):
		return nil
	case run == nil:
		return &Refusal{Reason: RunRequired,
			Fact:   fmt.Sprintf("budget %s serves %ss of agent runs only (%s), and this %s names no open run", b.Path, of.what, rule.Source, of.what),
			Remedy: "open a run of this budget and " + of.name}
	case state.Accessor != "" && run.Accessor != "" && state.Accessor != run.Accessor:
		return &Refusal{Reason: RunRequired, Fact: fmt.Sprintf("agent run %s was opened by somebody else", run.ID), Remedy: "name a run of your own"}
	case run.ClosedMS != 0 || run.UntilMS != 0 && now.UnixMilli() >= run.UntilMS:
		return &Refusal{Reason: ExceedsRunCap, Fact: fmt.Sprintf("agent run %s is over", run.ID), Remedy: "open another run"}
	case run.Budget != b.Path:
		return &Refusal{Reason: ExceedsRunCap, Fact: fmt.Sprintf("agent run %s draws from budget %s, and this %s from %s", run.ID, run.Budget, of.what, b.Path),
			Remedy: of.submit + " in a run of its own budget"}
	}
	return nil
}

// RunMeta is the job meta key by which a job names the agent run that it draws
// from.
const RunMeta = "governor_run"

// settle derives outcome and reason from the checks.
func (d *Decision) settle(p *budget.Policy) {
	d.Outcome, d.Reason = Admit, Fits
	var of *budget.Budget
	var mark quantity.Ratio
	for i := range d.Checks {
		c := &d.Checks[i]
		switch {
		case c.Need <= 0: // nothing more than before, which neither fails nor is warned of
			continue
		case c.fails():
			d.Failed = append(d.Failed, *c)
			continue
		}
		if c.Budget != of {
			of, mark = c.Budget, c.Budget.EffectiveSoft()
		}
		if c.pastSoft(mark) && (d.Soft == nil || softer(*c, *d.Soft)) {
			d.Soft = c
		}
	}
	if len(d.Failed) > 0 {
		d.fail(p)
		return
	}
	if d.Soft != nil {
		d.Outcome, d.Reason = Warn, SoftLimit
	}
}

// softer reports whether a leaves a smaller share of its limit than b.
func softer(a, b Check) bool {
	left := func(c Check) int64 { return int64(ppm(c.Available().Sub(c.Need), max(1, c.Limit))) }
	return left(a) < left(b)
}

// fail is settle for checks that do not hold.
func (d *Decision) fail(p *budget.Policy) {
	blocked, reported := Admit, Admit
	for _, c := range d.Failed {
		if outcome := c.outcome(); c.advisory() {
			reported = min(reported, outcome)
		} else {
			blocked = min(blocked, outcome)
		}
	}
	slices.SortStableFunc(d.Failed, func(a, b Check) int {
		if rankA, rankB := rank(a), rank(b); rankA != rankB {
			return rankA - rankB
		}
		return a.reason().Precedence() - b.reason().Precedence()
	})
	d.Outcome, d.Reason = min(blocked, Warn), FitsWithWarning
	switch {
	case blocked < Warn && p.Enforcement == budget.Shadow:
		d.Outcome, d.Reason, d.Shadow = Warn, d.Failed[0].reason(), true
	case blocked < Warn:
		d.Reason = d.Failed[0].reason()
	case reported < Warn:
		d.Reason, d.Shadow = d.Failed[0].reason(), true
	}
}

// rank orders failed checks: those that refuse, those that let wait, those that
// would if they were enforced, those that only warn.
func rank(c Check) int {
	outcome := c.outcome()
	switch {
	case c.advisory() && outcome < Warn:
		return 2
	case outcome == Deny:
		return 0
	case outcome == Queue:
		return 1
	}
	return 3
}

// Passed is the decision about a request that only makes its job smaller: whatever
// the limits say, giving back is not refused.
func (d Decision) Passed() Decision {
	if d.Outcome < Warn {
		d.Outcome, d.Smaller = Warn, true
	}
	return d
}

// Refuse is the decision for a job that cannot be decided by arithmetic.
func Refuse(p *budget.Policy, b *budget.Budget, r Refusal) Decision {
	d := Decision{Outcome: Deny, Reason: r.Reason, Budget: b, Refusal: &r}
	if p.Enforcement == budget.Shadow {
		d.Outcome, d.Shadow = Warn, true
	}
	return d
}
