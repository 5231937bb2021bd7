package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/enforce"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// Actor does in Nomad what enforcement decides; *nomadctl.Client is it. Every call
// may be repeated. Errors are those of nomadctl.
type Actor interface {
	// SignalAllocation sends a signal to all tasks of an allocation when task is "".
	SignalAllocation(ctx context.Context, alloc, task, signal string) error
	StopAllocation(ctx context.Context, alloc string) error
	StopJob(ctx context.Context, namespace, jobID, reason string) error
	// Scale returns the job's new JobModifyIndex.
	Scale(ctx context.Context, s nomadctl.Scaling) (uint64, error)
}

const (
	// actWithin bounds one call to Nomad: a client that is cut off answers nothing.
	actWithin = 10 * time.Second
	// actAtOnce is how many holds are acted on at the same time.
	actAtOnce = 8
	// trustFor is how long after Nomad's last answer about what runs something may be
	// ended because of it.
	trustFor = 3 * reconcileEvery
)

// enforcer carries out the policy on work that runs (BUDGETS.md, "Over budget"). It
// works while its agent leads: each tick hands it what the meter sees, and it acts
// beside the meter, which must not wait for a node that does not answer. What it
// intends is stored in the hold, fenced, before it is done. So a new leader goes
// on, and one that was deposed does nothing any more. Without a policy that is
// whole, a ledger that answers and a Nomad that does, it does nothing.
type enforcer struct {
	engine *Engine
	books  *books
	policy *PolicyKeeper
	actor  Actor
	logger hclog.Logger
	now    func() time.Time
	// idleFor says for how long none of the GPUs of an allocation was used, up to their
	// last reading, by allocation id, for the allocations of open holds; one that is
	// missing is in use, or it is not known. It is called on the meter's goroutine; nil
	// when nobody looks.
	idleFor func(open []heldAt) map[string]time.Duration

	// looks has room for what the last tick saw.
	looks chan sight

	mu sync.Mutex
	// sent are the signals that arrived in this term, by hold and allocation.
	sent map[string]bool
	// failing are the holds whose last step failed, so that it is said once.
	failing map[string]string
	// scaleAfter is when to scale the job of a hold again, after a refusal.
	scaleAfter map[string]time.Time
	held       bool // it was said that nothing is enforced
}

// sight is what the meter knows at one tick.
type sight struct {
	holds []ledger.Hold
	// proven is the last moment of which Nomad has said what runs.
	proven time.Time
	idle   map[string]time.Duration
}

func newEnforcer(e *Engine, actor Actor, logger hclog.Logger) *enforcer {
	return &enforcer{engine: e, books: e.books, policy: e.policy, actor: actor, logger: logger.Named("enforce"), now: e.now,
		looks: make(chan sight, 1), sent: make(map[string]bool), failing: make(map[string]string),
		scaleAfter: make(map[string]time.Time)}
}

// watch is the duty of a tick of the meter: it hands on what the meter sees.
func (x *enforcer) watch(m *Meter) duty {
	return func(context.Context, ledger.Fence) error {
		m.takeWritten() // what other duties have found in this tick
		s := sight{holds: make([]ledger.Hold, len(m.open)), proven: m.proven}
		for i, h := range m.open {
			s.holds[i] = *h.Hold
		}
		if x.idleFor != nil {
			s.idle = x.idleFor(m.open)
		}
		select {
		case x.looks <- s:
		default: // it is busy with an earlier one
		}
		return nil
	}
}

// lead enforces what ticks see until ctx ends.
func (x *enforcer) lead(ctx context.Context, fence ledger.Fence) {
	x.begin()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-x.looks:
			if err := x.enforce(ctx, fence, s); err != nil && ctx.Err() == nil {
				x.logger.Warn("enforcement delayed", "error", err)
			}
		}
	}
}

// begin starts a term: what an earlier one saw is history.
func (x *enforcer) begin() {
	select {
	case <-x.looks:
	default:
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent, x.failing, x.scaleAfter, x.held = make(map[string]bool), make(map[string]string), make(map[string]time.Time), false
}

// enforce takes the next step for every hold that needs one.
func (x *enforcer) enforce(ctx context.Context, fence ledger.Fence, s sight) error {
	state := x.policy.State()
	if reason := x.blind(state, s); reason != "" {
		x.sayHeld(reason)
		return nil
	}
	in, err := x.input(ctx, state.Policy, s)
	if err != nil {
		return err
	}
	x.sayHeld("")
	x.forget(in.Holds)
	var acting sync.WaitGroup
	defer acting.Wait()
	slots := make(chan struct{}, actAtOnce)
	for _, a := range enforce.Plan(in) {
		slots <- struct{}{}
		acting.Go(func() {
			defer func() { <-slots }()
			x.report(a, x.act(ctx, fence, state.Policy, a))
		})
	}
	return nil
}

// blind is why nothing may be enforced now, or "".
func (x *enforcer) blind(state *PolicyState, s sight) string {
	switch {
	case !state.Loaded:
		return "the budgets have not been read from the store yet"
	case state.Broken != "":
		return "the budgets in the store are broken, and what they mean to say is not known"
	case s.proven.IsZero() || x.now().Sub(s.proven) > trustFor:
		return "Nomad has not said for a while what runs"
	}
	return ""
}

// sayHeld logs once that nothing is enforced, and once that it is again.
func (x *enforcer) sayHeld(reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if (reason != "") == x.held {
		return
	}
	x.held = reason != ""
	if x.held {
		x.logger.Info("nothing is enforced on running work", "reason", reason)
		return
	}
	x.logger.Info("running work is held to its budgets")
}

// input reads what enforcement follows from, no more than this policy needs.
// Balances are read before the queue: a job that leaves the queue in between is
// then missing, and not counted twice.
func (x *enforcer) input(ctx context.Context, p *budget.Policy, s sight) (enforce.Input, error) {
	in := enforce.Input{Policy: p, Holds: s.holds, Now: x.now(), Runs: map[string]ledger.Run{}, IdleFor: s.idle}
	books, cohorts := false, false
	p.Walk(func(b *budget.Budget) {
		books = books || b.Running != budget.RunningInherit && b.Running != budget.LetFinish
		cohorts = cohorts || b.Cohort != ""
	})
	var err error
	if books || cohorts {
		if in.Books, _, err = x.books.allBalances(ctx); err != nil {
			return in, err
		}
		if in.Grants, err = x.engine.grants(ctx); err != nil {
			return in, err
		}
	}
	if cohorts {
		if in.Waiting, err = x.waiting(ctx); err != nil {
			return in, err
		}
	}
	if slices.ContainsFunc(s.holds, func(h ledger.Hold) bool { return h.Run != "" }) {
		runs, err := x.books.allRuns(ctx)
		if err != nil {
			return in, err
		}
		for _, r := range runs {
			in.Runs[r.ID] = r.Run
		}
	}
	return in, nil
}

// waiting lists the jobs in the queue. One that cannot be read wants nothing.
func (x *enforcer) waiting(ctx context.Context) ([]ledger.Queued, error) {
	records, _, err := x.books.store.List(ctx, queuePrefix)
	if err != nil {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	var waiting []ledger.Queued
	for _, r := range records {
		if q, err := ledger.Decode[ledger.Queued](r.Value); err == nil {
			waiting = append(waiting, q)
		}
	}
	return waiting, nil
}

// forget drops what is remembered of holds that are gone.
func (x *enforcer) forget(open []ledger.Hold) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ids := make(map[string]bool, len(open))
	for _, h := range open {
		ids[h.ID] = h.Ending != nil || h.Pending != nil
	}
	for key := range x.sent {
		if id, _, _ := splitSent(key); !ids[id] {
			delete(x.sent, key)
		}
	}
	for id := range x.failing {
		if _, there := ids[id]; !there {
			delete(x.failing, id)
		}
	}
	for id := range x.scaleAfter {
		if _, there := ids[id]; !there {
			delete(x.scaleAfter, id)
		}
	}
}

// report logs a step that failed, once as long as it fails in the same way.
func (x *enforcer) report(a enforce.Action, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err == nil:
		delete(x.failing, a.HoldID)
	case errors.Is(err, context.Canceled):
	case x.failing[a.HoldID] != err.Error():
		x.failing[a.HoldID] = err.Error()
		x.logger.Warn("not done yet", "step", a.Step.String(), "namespace", a.Namespace, "job_id", a.JobID, "cause", a.Ending.Cause, "error", err)
	}
}

// errObsolete means that the hold is no longer as it was when the step was planned.
var errObsolete = errors.New("the hold has changed")

// claim stores in the hold what is about to be done, or what has been, and records
// it in the audit chain with the same commit. It returns errObsolete when the hold
// has another ending than the one expected.
func (x *enforcer) claim(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action, expected *ledger.Ending, change func(h *ledger.Hold) error, events ...AuditEvent) error {
	t := target{key: holdKey(a.Namespace, a.JobID), calendar: ledger.CalendarOf(p)}
	return x.books.update(ctx, fence, t, mutationOf(a, expected, func(_ view, h *ledger.Hold) error { return change(h) }, events))
}

// mutationOf changes the hold of an action as long as it has the ending expected.
func mutationOf(a enforce.Action, expected *ledger.Ending, f func(v view, h *ledger.Hold) error, events []AuditEvent) mutation {
	return func(v view) (change, error) {
		if v.hold.Hold == nil || v.hold.ID != a.HoldID || !sameEnding(v.hold.Ending, expected) {
			return change{}, errObsolete
		}
		next := v.hold.Clone()
		if err := f(v, &next); err != nil {
			return change{}, err
		}
		return change{hold: &next, audit: events}, nil
	}
}

// sameEnding compares endings as they are stored.
func sameEnding(a, b *ledger.Ending) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// allocationsOf begins a text about some of a job's allocations: "3 allocations of".
func allocationsOf(a enforce.Action) string {
	if len(a.Allocs) == 0 {
		return ""
	}
	if len(a.Allocs) == 1 {
		return "1 allocation of "
	}
	return fmt.Sprintf("%d allocations of ", len(a.Allocs))
}
