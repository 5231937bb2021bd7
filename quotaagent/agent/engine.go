package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/trace"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// confirmWithin is how long an unconfirmed submission is held: longer than any
// registration takes, short enough to free the budget of one that was lost.
const confirmWithin = 5 * time.Minute

// Engine decides submissions and settles them. It is safe for concurrent use.
type Engine struct {
	books  *books
	policy *PolicyKeeper
	placer Placer
	logger hclog.Logger
	now    func() time.Time
	// settled is told when a submission ended, so that the meter looks at it.
	settled func(namespace, jobID string)
	// decided is told every decision.
	decided func(s gate.Submission, d admission.Decision)
	// tokensDecided is told every decision about a request for tokens.
	tokensDecided func(d admission.Decision)
	// took is told how long a submission was decided about, with the error if it was not
	// and the id of its trace if that is kept; released how long a job had waited.
	took     func(s gate.Submission, d time.Duration, err error, trace string)
	released func(waited time.Duration)
	// chain records what is done to overrides and runs.
	chain *auditChain
	// rules are those of the policy that was decided by last.
	rules atomic.Pointer[prepared]
	// releases says that jobs which wait are started when they fit: without that
	// none is queued. Set before the agent runs.
	releases bool
	line     line
	// comes says that a submission is about to come.
	comes chan struct{}
}

func newEngine(b *books, policy *PolicyKeeper, placer Placer, logger hclog.Logger, chain *auditChain, settled func(namespace, jobID string)) *Engine {
	return &Engine{books: b, policy: policy, placer: placer, logger: logger.Named("engine"), now: b.now, settled: settled, chain: chain, comes: make(chan struct{}, 1),
		decided: func(gate.Submission, admission.Decision) {}, tokensDecided: func(admission.Decision) {}, took: func(gate.Submission, time.Duration, error, string) {}, released: func(time.Duration) {}}
}

// errNotLoaded means that the policy was never read: nothing can be decided.
var errNotLoaded = errors.New("the budgets have not been read from the store yet")

// Admit implements gate.Admitter. A gate that the job brings along (its author may
// have taken it from Nomad) is not its author's.
func (e *Engine) Admit(ctx context.Context, s gate.Submission) (verdict gate.Verdict, err error) {
	if !s.Explain {
		begin := time.Now()
		defer func() { e.took(s, time.Since(begin), err, gate.TraceID(ctx)) }()
	}
	job, gated := jobspec.Ungated(s.Job)
	s.Job = job
	if s, err = e.asLaunched(ctx, s); err != nil {
		return gate.Verdict{}, e.undecided(s, err)
	}
	if gated && s.Kind.Commits() && s.Kind != gate.Register {
		return e.refuseHeld(s), nil
	}
	verdict, err = e.admit(ctx, s)
	if gated {
		verdict.Patch.Drop = jobspec.GateTarget
	}
	if s.Explain && err == nil {
		verdict.Account, err = e.account(ctx, s, verdict)
	}
	return verdict, err
}

func (e *Engine) admit(ctx context.Context, s gate.Submission) (gate.Verdict, error) {
	state := e.policy.State()
	if !state.Loaded {
		return gate.Verdict{}, &undecided{errNotLoaded}
	}
	if refusal := e.refuseUndeclared(state.Policy, s); refusal != nil {
		return *refusal, nil
	}
	if s.Ask.GPUs() == 0 {
		return e.admitNothing(ctx, s), nil
	}
	if s.Ask.Template() {
		return e.admitTemplate(ctx, state.Policy, s), nil
	}
	placed := e.place(ctx, s)
	verdict, err := e.admitPlaced(ctx, state.Policy, s, placed)
	if err != nil || verdict.Denied || verdict.Settle == nil {
		placed.Release()
	}
	return verdict, e.undecided(s, err)
}

// undecided logs why no decision was possible and words it for the author.
func (e *Engine) undecided(s gate.Submission, err error) error {
	if err == nil {
		return nil
	}
	e.logger.Warn("not decided", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "error", err)
	return &undecided{err}
}

// admitNothing lets a job through that asks for no GPUs any more: whatever the
// policy says about its namespace now, giving back is never refused. Nothing is
// written before Nomad has accepted it.
func (e *Engine) admitNothing(ctx context.Context, s gate.Submission) gate.Verdict {
	verdict := gate.Verdict{Reason: string(admission.Fits)}
	if !s.Kind.Commits() || s.Kind.Launches() {
		return verdict
	}
	key := holdKey(s.Ask.Namespace, s.Ask.JobID)
	hold, err := e.books.readHold(ctx, key)
	if err != nil {
		// What the job holds is then given back when it ends.
		e.logger.Warn("hold not read", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "error", err)
	}
	if hold.Hold != nil {
		t := ticket{key: key, id: hold.ID, empty: true}
		nothing := Placement{Release: func() {}}
		verdict.Settle = func(ctx context.Context, o gate.Outcome) { e.settle(ctx, s, t, nothing, o) }
	}
	return verdict
}

// place asks for GPUs. A placement service that fails costs quality, not
// admission: the job then runs where Nomad puts it.
func (e *Engine) place(ctx context.Context, s gate.Submission) Placement {
	return e.placeOr(ctx, s, nil)
}

// placeOr is place, and asks for a plan where a gang does not fit; ends are those of
// Placing.
func (e *Engine) placeOr(ctx context.Context, s gate.Submission, ends map[string]int64) Placement {
	if jobspec.Gated(s.Stored) {
		s.Stored = nil // it never started: nothing of it needs to be kept
	}
	places := s.Kind != gate.Scale && !s.Kind.Launches()
	how := e.PlacingOf(s)
	how.Commit, how.Ends = places && s.Kind.Commits(), ends
	how = e.clearOf(ctx, s, how)
	if ends != nil { // it comes before those that GPUs are set aside for
		how.Planned = slices.DeleteFunc(how.Planned, func(p PlannedFor) bool { return p.Namespace != s.Ask.Namespace || p.JobID != s.Ask.JobID })
	}
	ctx, span := gate.StartSpan(ctx, "place", trace.SpanKindInternal)
	placed, err := e.placer.Place(ctx, s, how)
	span.End()
	if err == nil && !places {
		// Nomad makes the job itself, so that nothing can be written into it.
		return Placement{Eligible: placed.Eligible, Infeasible: placed.Infeasible, Release: placed.Release}
	}
	if err != nil {
		e.logger.Warn("placement failed", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
		if admission.IsGang(s.Ask.Meta) {
			return Placement{Waits: "whether all of the gang fits cannot be told now, for Nomad cannot be read", Planned: how.setAside(s.Ask), Release: func() {}}
		}
		return Placement{Notice: "governor: placement is not available now; Nomad picks the GPUs", Release: func() {}}
	}
	return placed
}

// PlacingOf is what the budget of a job says of its placement. A job that says so itself
// needs none, and of one that no budget may claim nothing is written anyway.
func (e *Engine) PlacingOf(s gate.Submission) Placing {
	if _, says := s.Ask.Meta[admission.PlacementMeta]; says {
		return Placing{}
	}
	b, _ := claim(e.policy.State().Policy, s, e.now())
	if b == nil {
		return Placing{}
	}
	mode, from := b.EffectivePlacement()
	if from == nil {
		return Placing{}
	}
	return Placing{Mode: mode, Budget: from.Path}
}

func (e *Engine) admitPlaced(ctx context.Context, p *budget.Policy, s gate.Submission, placed Placement) (gate.Verdict, error) {
	b, lines, refusal, err := e.appraiseScaled(ctx, p, s, placed)
	if err != nil {
		return gate.Verdict{}, err
	}
	if refusal == nil && b == nil {
		if !admission.IsGang(s.Ask.Meta) {
			return e.admitUngoverned(s, placed, p), nil
		}
		refusal = admission.UngovernedGang()
	}
	var notices []string
	if refusal != nil {
		d := admission.Refuse(p, b, *refusal)
		if givesBack(s) {
			d = d.Passed()
		}
		e.log(s, d)
		if d.Outcome == admission.Deny || len(lines) == 0 {
			return e.verdict(p, s, d, placed), nil
		}
		notices = []string{d.Notice(p)} // shadow mode holds what it would have held
	}
	ruling, err := e.overrule(ctx, p, b, s, lines, placed)
	if err != nil {
		return gate.Verdict{}, err
	}
	if ruling.Refusal != nil {
		d := admission.Refuse(p, b, *ruling.Refusal)
		e.log(s, d)
		return e.verdict(p, s, d, placed), nil
	}
	decide := e.hold
	if !s.Kind.Commits() {
		decide = e.preview
	}
	verdict, err := decide(ctx, p, b, s, lines, placed)
	verdict.Warnings = append(notices, verdict.Warnings...)
	return ruling.noted(verdict), err
}

// appraise finds the budget of a job and what the job needs of it, or why there is
// no such need. All nil: nothing claims the job and the policy lets it run.
func (e *Engine) appraise(p *budget.Policy, s gate.Submission, placed Placement) (*budget.Budget, []ledger.Line, *admission.Refusal) {
	b, refusal := claim(p, s, e.now())
	if refusal != nil || b == nil {
		return b, nil, refusal
	}
	return e.appraiseIn(p, b, s, placed)
}

// appraiseIn is appraise for a job of which the budget is known.
func (e *Engine) appraiseIn(p *budget.Policy, b *budget.Budget, s gate.Submission, placed Placement) (*budget.Budget, []ledger.Line, *admission.Refusal) {
	lines, refusal := admission.Need(p, b, s.Ask, clusterOf(s, placed), e.now())
	if refusal == nil {
		_, refusal = admission.PlacementMode(s.Ask)
	}
	if refusal == nil && placed.Unclear != "" {
		refusal = &admission.Refusal{Reason: admission.PlacementUnknown, Fact: placed.Unclear, Remedy: "mend it, or leave it out"}
	}
	if refusal == nil {
		refusal = admission.Gang(s.Ask)
	}
	if refusal == nil {
		refusal = e.asserted(p, s, lines)
	}
	if refusal == nil && placed.Infeasible != "" {
		refusal = &admission.Refusal{Reason: admission.Infeasible, Fact: placed.Infeasible,
			Remedy: "ask for GPUs that a node has, or split the job into more groups"}
	}
	return b, lines, refusal
}

// asserted is the refusal of a job for which a rule of the policy does not hold.
func (e *Engine) asserted(p *budget.Policy, s gate.Submission, lines []ledger.Line) *admission.Refusal {
	if len(p.Asserts) == 0 {
		return nil
	}
	facts := factsOf(s, e.now(), p)
	facts.Estimate = admission.EstimateFacts(admission.Estimate(p, lines))
	return admission.Asserted(p, facts)
}

func (e *Engine) admitUngoverned(s gate.Submission, placed Placement, p *budget.Policy) gate.Verdict {
	d := admission.Decision{Outcome: admission.Admit, Reason: admission.Ungoverned}
	e.log(s, d)
	return e.verdict(p, s, d, placed)
}

// targetOf is what deciding about a submission needs of the books.
func (e *Engine) targetOf(p *budget.Policy, b *budget.Budget, s gate.Submission) target {
	t := target{key: holdKey(s.Ask.Namespace, heldAs(s)), budget: b.Path, policy: p, calendar: e.rulesOf(p).Calendar}
	if id := s.Ask.Meta[admission.RunMeta]; checkRunID(id) == nil {
		t.run = id // what is no id names no record either
	}
	return t
}

// rulesOf prepares a policy for decisions, once as long as it is in force.
func (e *Engine) rulesOf(p *budget.Policy) *admission.Rules {
	if last := e.rules.Load(); last != nil && last.policy == p {
		return last.rules
	}
	next := &prepared{policy: p, rules: admission.RulesOf(p)}
	e.rules.Store(next)
	return next.rules
}

// prepared is a policy with what decisions need of it.
type prepared struct {
	policy *budget.Policy
	rules  *admission.Rules
}

// decide is the one place where a submission meets the books. It also returns
// the hold as it would be. same says that the job is registered already.
func (e *Engine) decide(p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, same bool, v view) (admission.Decision, ledger.Hold, error) {
	next, err := e.submitted(v.hold.Hold, s, lines, same)
	if err != nil {
		return admission.Decision{}, next, err
	}
	next, state := e.stateOf(p, b, next, v)
	state.Accessor = accessorIn(v.run, s.Identity)
	var d admission.Decision
	if id := s.Ask.Meta[admission.RunMeta]; id != "" && (v.run == nil || v.run.ID != id) {
		d = admission.Refuse(p, b, admission.Refusal{Reason: admission.RunRequired, Fact: fmt.Sprintf("there is no agent run %.80q", id),
			Remedy: fmt.Sprintf("name an open run in meta { %s = \"...\" }, or none", admission.RunMeta)})
	} else {
		d = admission.Decide(p, b, state, next, lines, e.now())
	}
	next.Estimate, next.Reason = d.Estimate, string(d.Reason)
	if s.Kind != gate.Scale || v.hold.Hold == nil { // whoever scales a job does not make it his own
		next.Accessor, next.Identity = s.Identity.Accessor, s.Identity.Names
	}
	next.Facts, next.Priority = s.Ask.Facts(), b.EffectivePriority()
	next.JobPriority = next.Facts.Priority
	next.Refused, next.RefusedWhy = "", "" // from here on it is somebody's submission
	return d, next, nil
}

// stateOf is what a decision about a hold depends on, and the hold with what it
// drew before only as far as it goes on drawing from it: from another budget, or
// another run, all is new.
func (e *Engine) stateOf(p *budget.Policy, b *budget.Budget, next ledger.Hold, v view) (ledger.Hold, admission.State) {
	state := admission.State{Balances: v.balances, Grants: v.grants, Run: v.run, Rules: e.rulesOf(p)}
	if next.Budget != b.Path {
		// What it charged to ancestors that the two budgets share goes away.
		state.Balances = without(v.balances, next)
		next.Budget, next.Charged = b.Path, ledger.Vector{}
	}
	state = moving(p, state)
	run, capped := "", []budget.Dimension(nil)
	if v.run != nil {
		run, capped = v.run.ID, v.run.Capped()
	}
	state.Joined = v.hold.Hold != nil && run != "" && next.Run == run
	if next.Run != run {
		next.Run, next.Capped, next.Drawn = run, capped, nil
	}
	return next, state
}

// advise adds to a decision that blocks what would make it pass, as far as the
// store can be read: the decision stands without it.
func (e *Engine) advise(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, d admission.Decision) admission.Decision {
	if !blocked(d) || d.Refusal != nil {
		return d
	}
	v, err := e.books.look(ctx, e.targetOf(p, b, s))
	if err != nil {
		e.logger.Warn("alternatives not looked for", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "error", err)
		return d
	}
	before := ledger.Hold{Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, State: ledger.Held}
	if v.hold.Hold != nil {
		before = *v.hold.Hold
	}
	before, state := e.stateOf(p, b, before, v)
	d.Alternatives = admission.Alternatives(p, b, state, s.Ask, before, d, e.now())
	open, _, err := e.books.holds(ctx)
	if err != nil {
		e.logger.Warn("holds not read for the time a job may fit", "error", err)
	}
	holds := make([]ledger.Hold, len(open))
	for i, h := range open {
		holds[i] = *h.Hold
	}
	return d.Unblock(holds, e.now())
}

// without is the balances without what h charges to them.
func without(balances map[string]ledger.Balance, h ledger.Hold) map[string]ledger.Balance {
	if h.Budget == "" {
		return balances
	}
	left := maps.Clone(balances)
	for _, path := range ledger.Ancestors(h.Budget) {
		if b, ok := left[path]; ok {
			b = b.Clone()
			b.Held.AddAll(h.Charged, -1)
			left[path] = b
		}
	}
	return left
}

// hold decides and, if the job fits, holds its worst case in one commit.
func (e *Engine) hold(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, placed Placement) (gate.Verdict, error) {
	var decision admission.Decision
	var waits queueTicket
	var held ledger.Hold
	same := unchanged(s, placed.Patch)
	t := ticket{key: holdKey(s.Ask.Namespace, heldAs(s)), after: b.Path, offered: placed.Record}
	at, err := e.standingOf(ctx, p, b, s, lines)
	if err != nil {
		return gate.Verdict{}, err
	}
	needed := e.targetOf(p, b, s)
	needed.novel = s.Stored == nil
	ctx, span := gate.StartSpan(ctx, "hold", trace.SpanKindInternal)
	err = e.books.update(ctx, ledger.Fence{}, needed,
		func(v view) (change, error) {
			d, next, err := e.decide(p, b, s, lines, same, v)
			if err != nil {
				return change{}, err
			}
			decision = e.queued(p, b, s, v, at, d, placed)
			if blocked(decision) && givesBack(s) {
				decision = decision.Passed()
			}
			switch decision.Outcome {
			case admission.Deny:
				return change{}, errNoChange
			case admission.Queue:
				waits = queueTicket{before: v.queued, mine: e.queuedAs(p, b, s, lines, decision, v.queued)}
				return change{hold: v.hold.Hold, queued: &waits.mine}, nil
			case admission.Warn, admission.Admit:
			}
			if len(placed.Record) > 0 {
				next.Placement = placed.Record
			}
			next.Gang = nil // what was seen of the gang was seen of what it was before
			t.id, t.before, held = next.ID, b.Path, next
			if t.placed = nil; v.hold.Hold != nil {
				t.before, t.placed = v.hold.Budget, v.hold.Placement
			}
			// A place that the job gets meanwhile is left as if it had got it afterwards.
			return change{hold: &next, unplaced: v.queued == nil, audit: e.useEvents(p, s, d)}, nil
		})
	span.End()
	if err != nil {
		return gate.Verdict{}, err
	}
	if decision.Outcome == admission.Queue {
		placed.Release()
		return e.waits(ctx, p, b, s, waits, at, decision), nil
	}
	decision = e.advise(ctx, p, b, s, decision)
	e.log(s, decision)
	verdict := e.verdict(p, s, decision, placed)
	if !verdict.Denied {
		verdict.Until, verdict.AsStored = time.UnixMilli(held.SubmittedMS).Add(ledger.SendWithin), held.Unchanged
		verdict.Settle = func(ctx context.Context, o gate.Outcome) { e.settle(ctx, s, t, placed, o) }
		if s.Kind.Launches() {
			verdict.Settle = func(ctx context.Context, o gate.Outcome) { e.settleLaunch(ctx, s, t, o) }
		}
	}
	return verdict, nil
}

// blocked reports whether a job is not registered as it is. A job that could wait
// for budget is refused with the reason for which it would wait.
func blocked(d admission.Decision) bool {
	return d.Outcome == admission.Deny || d.Outcome == admission.Queue
}

func (e *Engine) verdict(p *budget.Policy, s gate.Submission, d admission.Decision, placed Placement) gate.Verdict {
	account := accountOf(p, s, d, placed)
	if blocked(d) {
		return gate.Verdict{Denied: true, Reason: string(d.Reason), Message: d.DenialOf(p, s.Ask, done[s.Kind]), Account: account}
	}
	v := gate.Verdict{Reason: string(d.Reason), Patch: placed.Patch, Warnings: []string{d.Notice(p)}, Account: account}
	for _, text := range []string{placed.Notice, d.LoadingNotice(p, placed.Loads)} {
		if text != "" {
			v.Warnings = append(v.Warnings, text)
		}
	}
	return v
}

// log tells the log and the history of a decision; a question about one is none.
func (e *Engine) log(s gate.Submission, d admission.Decision) {
	if s.Explain {
		return
	}
	e.decided(s, d)
	path := ""
	if d.Budget != nil {
		path = d.Budget.Path
	}
	level := hclog.Info
	if !s.Kind.Commits() {
		level = hclog.Debug // nothing comes of it, and many ask
	}
	e.logger.Log(level, "decided", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "outcome", d.Outcome.String(),
		"reason", string(d.Reason), "budget", path, "gpus", s.Ask.GPUs(), "request", s.Kind.String(), "shadow", d.Shadow)
}
