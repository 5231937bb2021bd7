package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Placement is what the placement service answers for a job.
type Placement struct {
	// Patch pins the job to its offer; empty when nothing was pinned.
	Patch jobspec.Patch
	// Offered narrows the classes that can serve a device block; nil if unknown.
	Offered admission.Offered
	// Infeasible is the sentence that says why no node could ever serve the job;
	// empty when one could.
	Infeasible string
	// Notice tells the author where the job will run and why.
	Notice string
	// Record is the offer for Placer.Verify.
	Record json.RawMessage
	// Release gives back what the offer reserved, for a job that is not
	// registered after all. Never nil.
	Release func()
}

// Placer picks GPUs. The placement service implements it; cmd/governor joins
// the two.
type Placer interface {
	// Place answers for one submission. commit says that the job is about to be
	// registered, so that its GPUs are spared until it runs.
	Place(ctx context.Context, s gate.Submission, commit bool) (Placement, error)
	// Verify compares an allocation with the offer in record and says in words
	// what differs; "" when the allocation got what was offered, and known false
	// when the record does not speak of it.
	Verify(record json.RawMessage, group, node string, byTask map[string][]string) (difference string, known bool)
}

// confirmWithin is how long an unconfirmed submission is held: longer than any
// registration takes, short enough to free the budget of one that was lost.
const confirmWithin = 5 * time.Minute

// Engine decides submissions and settles them. It is safe for concurrent use.
type Engine struct {
	books  books
	policy *PolicyKeeper
	placer Placer
	logger hclog.Logger
	now    func() time.Time
	// settled is told when a submission ended, so that the meter looks at it.
	settled func(namespace, jobID string)
}

// NewEngine returns an engine over a store.
func NewEngine(store Store, policy *PolicyKeeper, placer Placer, now func() time.Time, logger hclog.Logger, settled func(namespace, jobID string)) *Engine {
	return &Engine{books: books{store: store, now: now}, policy: policy, placer: placer, logger: logger.Named("engine"),
		now: now, settled: settled}
}

// errNotLoaded means that the policy was never read: nothing can be decided.
var errNotLoaded = errors.New("the budgets have not been read from the store yet")

// Admit implements gate.Admitter.
func (e *Engine) Admit(ctx context.Context, s gate.Submission) (gate.Verdict, error) {
	state := e.policy.State()
	if !state.Loaded {
		return gate.Verdict{}, unavailable(errNotLoaded)
	}
	placed := e.place(ctx, s)
	verdict, err := e.admitPlaced(ctx, state.Policy, s, placed)
	if err != nil || verdict.Denied || verdict.Settle == nil {
		placed.Release()
	}
	if err != nil {
		return gate.Verdict{}, unavailable(err)
	}
	return verdict, nil
}

// unavailable words a failure for the author of a job; the cause goes to the log.
func unavailable(err error) error {
	return fmt.Errorf("governor cannot decide about GPU jobs now (%s): %w; running work is not affected, try again later",
		admission.LedgerUnavailable, err)
}

// place asks for GPUs. A placement service that fails costs quality, not
// admission: the job then runs where Nomad puts it.
func (e *Engine) place(ctx context.Context, s gate.Submission) Placement {
	placed, err := e.placer.Place(ctx, s, s.Kind == gate.Register)
	if err != nil {
		e.logger.Warn("placement failed", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
		return Placement{Notice: "governor: placement is not available now; Nomad picks the GPUs", Release: func() {}}
	}
	return placed
}

func (e *Engine) admitPlaced(ctx context.Context, p *budget.Policy, s gate.Submission, placed Placement) (gate.Verdict, error) {
	b, refusal := claim(p, s)
	if refusal == nil && b == nil {
		return e.admitUngoverned(s, placed, p), nil
	}
	var lines []ledger.Line
	if refusal == nil {
		lines, refusal = admission.Need(p, b, s.Ask, placed.Offered, e.now())
	}
	if refusal == nil && placed.Infeasible != "" {
		refusal = &admission.Refusal{Reason: admission.Infeasible, Fact: placed.Infeasible,
			Remedy: "ask for GPUs that a node has, or split the job into more groups"}
	}
	if refusal != nil {
		d := admission.Refuse(p, b, *refusal)
		e.log(s, d)
		if d.Outcome == admission.Deny || b == nil || refusal.Reason != admission.Infeasible {
			return e.verdict(p, s, d, placed), nil
		}
	}
	if s.Kind != gate.Register {
		return e.preview(ctx, p, b, s, lines, placed)
	}
	return e.hold(ctx, p, b, s, lines, placed)
}

// claim finds the budget, or says why there is none. Both nil: nothing claims
// the job and the policy lets it run.
func claim(p *budget.Policy, s gate.Submission) (*budget.Budget, *admission.Refusal) {
	b, result := p.Claim(s.Ask.Namespace, s.Identity.Names, s.Ask.Meta[admission.BudgetMeta])
	switch result.Outcome {
	case budget.Claimed:
		return b, nil
	case budget.Ambiguous:
		return nil, &admission.Refusal{Reason: admission.AmbiguousMatch,
			Fact:   "several budgets claim this job: " + strings.Join(result.Candidates, ", "),
			Remedy: fmt.Sprintf("pick one with meta { %s = \"...\" }, or make their match rules disjoint", admission.BudgetMeta)}
	case budget.NarrowRefused:
		return nil, &admission.Refusal{Reason: admission.BudgetNotAllowed,
			Fact:   fmt.Sprintf("the job names budget %q, which it may not draw from", result.Narrow),
			Remedy: "name one of: " + orNone(result.Candidates)}
	case budget.Unclaimed:
	}
	if p.Unmatched == budget.UnmatchedAllow {
		return nil, nil
	}
	fact := fmt.Sprintf("no budget claims GPU jobs of namespace %q for %s", s.Ask.Namespace, orNone(s.Identity.Names))
	remedy := "add a match rule to a budget, or submit in a namespace that has one"
	if len(p.Roots) == 0 {
		fact, remedy = "no budgets are applied yet", "apply some with `governor budget apply <dir>`"
	}
	return nil, &admission.Refusal{Reason: admission.Unmatched, Fact: fact, Remedy: remedy}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}

func (e *Engine) admitUngoverned(s gate.Submission, placed Placement, p *budget.Policy) gate.Verdict {
	d := admission.Decision{Outcome: admission.Admit, Reason: admission.Ungoverned}
	e.log(s, d)
	return e.verdict(p, s, d, placed)
}

// preview decides without holding anything.
func (e *Engine) preview(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, placed Placement) (gate.Verdict, error) {
	hold, _, err := e.books.readHold(ctx, holdKey(s.Ask.Namespace, s.Ask.JobID))
	if err != nil {
		return gate.Verdict{}, err
	}
	balances, _, err := e.books.readBalances(ctx, ledger.Ancestors(b.Path))
	if err != nil {
		return gate.Verdict{}, err
	}
	d, _ := e.decide(p, b, s, lines, hold, balances)
	return e.verdict(p, s, d, placed), nil
}

// decide is the one place where a submission meets the books. It also returns
// the hold as it would be.
func (e *Engine) decide(p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, hold *ledger.Hold, balances map[string]ledger.Balance) (admission.Decision, ledger.Hold) {
	now := e.now()
	next := ledger.Hold{Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, Budget: b.Path, State: ledger.Held, CreatedMS: now.UnixMilli()}
	if hold != nil {
		next = *hold
		if hold.Budget != b.Path {
			next.Budget, next.Charged = b.Path, nil // all of it is new to the other budget
		}
	}
	if s.Stored != nil && s.Stored.JobModifyIndex != nil {
		next.StoredIndex = *s.Stored.JobModifyIndex
	}
	next = ledger.Submit(next, lines, now.Add(confirmWithin).UnixMilli())
	d := admission.Decide(p, b, balances, next, lines, now)
	next.Accessor, next.Identity, next.Estimate = s.Identity.Accessor, s.Identity.Names, d.Estimate
	return d, next
}

// hold decides and, if the job fits, holds its worst case in one commit.
func (e *Engine) hold(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, placed Placement) (gate.Verdict, error) {
	var decision admission.Decision
	err := e.books.update(ctx, ledger.Fence{}, holdKey(s.Ask.Namespace, s.Ask.JobID), ledger.Ancestors(b.Path),
		func() ledger.Calendar { return calendar(p) },
		func(hold *ledger.Hold, balances map[string]ledger.Balance) (change, error) {
			d, next := e.decide(p, b, s, lines, hold, balances)
			decision = d
			if d.Outcome == admission.Deny {
				return change{}, errNoChange
			}
			if next.ID == "" {
				next.ID = newHoldID()
			}
			if len(placed.Record) > 0 {
				next.Placement = placed.Record
			}
			return change{hold: &next}, nil
		})
	if err != nil {
		return gate.Verdict{}, err
	}
	e.log(s, decision)
	verdict := e.verdict(p, s, decision, placed)
	if !verdict.Denied {
		verdict.Settle = func(ctx context.Context, o gate.Outcome) { e.settle(ctx, s, placed, o) }
	}
	return verdict, nil
}

func newHoldID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return "h-" + hex.EncodeToString(b[:])
}

// settle confirms or voids a submission when Nomad has answered. What cannot be
// settled now is settled by the meter's reconciliation.
func (e *Engine) settle(ctx context.Context, s gate.Submission, placed Placement, o gate.Outcome) {
	defer e.settled(s.Ask.Namespace, s.Ask.JobID)
	if !o.Known {
		e.logger.Warn("answer lost, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace)
		return
	}
	if !o.Accepted {
		placed.Release()
	}
	err := e.books.update(ctx, ledger.Fence{}, holdKey(s.Ask.Namespace, s.Ask.JobID), nil,
		func() ledger.Calendar { return calendar(e.policy.State().Policy) },
		func(hold *ledger.Hold, _ map[string]ledger.Balance) (change, error) {
			if hold == nil {
				return change{}, errNoChange
			}
			if o.Accepted {
				next := ledger.Confirm(*hold, o.JobModifyIndex)
				return change{hold: &next}, nil
			}
			return voided(*hold), nil
		})
	if err != nil {
		e.logger.Warn("submission not settled yet, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
	}
}

// voided is the change that gives up an unconfirmed submission.
func voided(h ledger.Hold) change {
	next, remains := ledger.Void(h)
	if !remains {
		return change{}
	}
	return change{hold: &next}
}

func (e *Engine) verdict(p *budget.Policy, s gate.Submission, d admission.Decision, placed Placement) gate.Verdict {
	if d.Outcome == admission.Deny {
		return gate.Verdict{Denied: true, Reason: string(d.Reason), Message: d.Denial(p, s.Ask)}
	}
	v := gate.Verdict{Reason: string(d.Reason), Patch: placed.Patch, Warnings: []string{d.Notice(p)}}
	if placed.Notice != "" {
		v.Warnings = append(v.Warnings, placed.Notice)
	}
	return v
}

func (e *Engine) log(s gate.Submission, d admission.Decision) {
	path := ""
	if d.Budget != nil {
		path = d.Budget.Path
	}
	e.logger.Info("decided", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "outcome", d.Outcome.String(),
		"reason", string(d.Reason), "budget", path, "gpus", s.Ask.GPUs(), "plan", s.Kind != gate.Register, "shadow", d.Shadow)
}
