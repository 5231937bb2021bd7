package agent

import (
	"context"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// Status is a view of everything an operator asks for first.
type Status struct {
	Policy  PolicyStatus   `json:"policy"`
	Budgets []BudgetStatus `json:"budgets"`
	Holds   []HoldStatus   `json:"holds"`
	// Observed says that what follows is known: it is what the leader has observed, and
	// another agent lacks it while the leader does not answer.
	Observed bool `json:"observed"`
	// Ungoverned are running GPU allocations that no hold covers.
	Ungoverned []StrayStatus `json:"ungoverned"`
	// Idle are allocations whose GPUs are not used, Rogue GPUs that are used by who
	// does not hold them, and Capacity what nobody has, but for nodes that take no work.
	Idle     []IdleStatus     `json:"idle,omitempty"`
	Rogue    []RogueStatus    `json:"rogue,omitempty"`
	Capacity []CapacityStatus `json:"capacity,omitempty"`
	// Bypasses are the ways around the gate; nil where nobody looks for them.
	Bypasses *BypassStatus `json:"bypasses,omitempty"`
	Leader   bool          `json:"leader"`
	Time     time.Time     `json:"time"`
}

// PolicyStatus is which policy is in force and whether the store holds a
// broken one.
type PolicyStatus struct {
	Revision    string    `json:"revision"`
	Enforcement string    `json:"enforcement"`
	Currency    string    `json:"currency"`
	Author      string    `json:"author,omitempty"`
	Commit      string    `json:"commit,omitempty"`
	Since       time.Time `json:"since"`
	// Broken holds the diagnostics of the files in the store when those are not
	// in force.
	Broken string `json:"broken,omitempty"`
	// Version is what an apply must name.
	Version string `json:"version"`
}

// BudgetStatus is one node of the tree with its limits.
type BudgetStatus struct {
	Path   string        `json:"path"`
	Owner  string        `json:"owner,omitempty"`
	Limits []LimitStatus `json:"limits"`
	// Queued is how many of its own jobs wait for budget.
	Queued int `json:"queued"`
}

// LimitStatus is one limit in its current period. Amounts are in the
// dimension's base unit: parts of a GPU (5040 are one), GPU-milliseconds,
// micro-units of currency, joules or tokens.
type LimitStatus struct {
	Window    string          `json:"window"`
	Start     *time.Time      `json:"start,omitempty"`
	End       *time.Time      `json:"end,omitempty"`
	Dimension string          `json:"dimension"`
	Limit     quantity.Amount `json:"limit"`
	Unlimited bool            `json:"unlimited,omitempty"`
	Posted    quantity.Amount `json:"posted"`
	Held      quantity.Amount `json:"held"`
	Available quantity.Amount `json:"available"`
	Source    string          `json:"source,omitempty"`
	// Health is ok, soft, full or overdrawn, with overrides and what is borrowed; "" where
	// nobody has looked.
	Health string `json:"health,omitempty"`
	// Outlook is when it runs out; only where it was asked for.
	Outlook *forecast.Outlook `json:"outlook,omitempty"`
}

// HoldStatus is one job that holds budget.
type HoldStatus struct {
	ID        string `json:"id"`
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	Budget    string `json:"budget"`
	State     string `json:"state"`
	// Created is when it was made, Submitter the accessor of who submitted the job last,
	// GPUs how many it holds at once at most.
	Created     time.Time      `json:"created"`
	Submitter   string         `json:"submitter,omitempty"`
	GPUs        int64          `json:"gpus"`
	Allocations []string       `json:"allocations"`
	Estimate    ledger.Usage   `json:"estimate"`
	Posted      ledger.Usage   `json:"posted"`
	Held        ledger.Usage   `json:"held"`
	Placement   []Verification `json:"placement,omitempty"`
	// Ending is what is enforced on it now; nil if nothing is.
	Ending *EndingStatus `json:"ending,omitempty"`
}

// EndingStatus is how the policy ends a running job, or makes it smaller.
type EndingStatus struct {
	// Action is stop or throttle, Cause a reason of docs/reasons.md, Budget the one
	// whose rule it is, Why one sentence.
	Action string `json:"action"`
	Cause  string `json:"cause"`
	Budget string `json:"budget,omitempty"`
	Why    string `json:"why,omitempty"`
	// Allocations concerned; empty for the whole job.
	Allocations []string `json:"allocations,omitempty"`
	// Signalled is when Signal was sent, nil before; Stop when the stop is due, Ordered when it was ordered (throttling: when the
	// last step was taken).
	Signal    string     `json:"signal,omitempty"`
	Signalled *time.Time `json:"signalled,omitempty"`
	Stop      *time.Time `json:"stop,omitempty"`
	Ordered   *time.Time `json:"ordered,omitempty"`
	// Throttled are the groups that were made smaller, by name.
	Throttled map[string]ledger.Throttled `json:"throttled,omitempty"`
}

// endingStatus is nil for a job that nobody ends.
func endingStatus(e *ledger.Ending) *EndingStatus {
	if e == nil {
		return nil
	}
	at := func(ms int64) *time.Time {
		if ms == 0 {
			return nil
		}
		t := time.UnixMilli(ms).UTC()
		return &t
	}
	s := &EndingStatus{Action: e.Action, Cause: e.Cause, Budget: e.Budget, Why: e.Why, Allocations: e.Allocs,
		Signal: e.Signal, Stop: at(e.StopMS), Ordered: at(e.DoneMS), Throttled: e.Throttled}
	if e.Signal != "" {
		s.Signalled = at(e.SignalMS)
	}
	return s
}

// StrayStatus is one allocation that holds GPUs without a hold.
type StrayStatus struct {
	Namespace string   `json:"namespace"`
	JobID     string   `json:"job_id"`
	Alloc     string   `json:"alloc"`
	Node      string   `json:"node"`
	GPUs      []string `json:"gpus"`
}

// Status reads the current state of the store and the meter.
func (e *Engine) Status(ctx context.Context, m *Meter) (Status, error) {
	state := e.policy.State()
	p := state.Policy
	holds, unreadable, err := e.books.holds(ctx)
	if err != nil {
		return Status{}, err
	}
	out := Status{Policy: policyStatus(state), Time: e.now(), Leader: m.Leading(), Observed: m.Leading(),
		Budgets: []BudgetStatus{}, Holds: []HoldStatus{}, Ungoverned: []StrayStatus{}}
	if unreadable != nil {
		e.logger.Error("holds left out of the status", "error", unreadable)
	}
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return Status{}, err
	}
	waiting, err := e.allQueued(ctx)
	if err != nil {
		return Status{}, err
	}
	queued := make(map[string]int)
	for _, q := range waiting {
		queued[p.Moved(q.Budget)]++
	}
	grants, err := e.grants(ctx)
	if err != nil {
		return Status{}, err
	}
	p.Walk(func(b *budget.Budget) {
		s := budgetStatus(p, b, balances[b.Path], e.now())
		standings := ledger.Standings(p, b, balances[b.Path], grants, ledger.CohortOf(p, b, balances), e.now())
		for i := range s.Limits {
			s.Limits[i].Health = standings[i].Health.String()
		}
		s.Queued = queued[b.Path]
		out.Budgets = append(out.Budgets, s)
	})
	placed := placedBy(m.verifications())
	for _, h := range holds {
		out.Holds = append(out.Holds, holdStatus(*h.Hold, placed[holdKey(h.Namespace, h.JobID)]))
	}
	m.addObserved(&out, holds)
	return out, nil
}

// addObserved adds what only the leader has observed, if this agent leads.
func (m *Meter) addObserved(out *Status, holds []heldAt) {
	for _, a := range m.Strays() {
		out.Ungoverned = append(out.Ungoverned, strayStatus(a))
	}
	if m.lines != nil && m.Leading() {
		m.lines.status(out, holds)
	}
}

// Status is the state as the API tells it.
func (s *PolicyState) Status() PolicyStatus { return policyStatus(s) }

func policyStatus(s *PolicyState) PolicyStatus {
	enforcement := "enforce"
	if s.Policy.Enforcement == budget.Shadow {
		enforcement = "shadow"
	}
	return PolicyStatus{Revision: s.Policy.Revision, Enforcement: enforcement, Currency: s.Policy.Currency,
		Author: s.Revision.Author, Commit: s.Revision.Commit, Since: s.Since, Broken: s.Broken, Version: s.Version}
}

func budgetStatus(p *budget.Policy, b *budget.Budget, book ledger.Balance, now time.Time) BudgetStatus {
	out := BudgetStatus{Path: b.Path, Owner: b.Owner, Limits: []LimitStatus{}}
	for _, l := range b.Limits {
		period := budget.PeriodAt(l.Window, now, p.Location)
		s := LimitStatus{Window: l.Window.String(), Dimension: string(l.Dimension), Source: l.Source.String(),
			Held: book.HeldIn(period, l.Dimension)}
		if l.Window != budget.Concurrent {
			s.Posted = book.Posted.At(period.Key(), l.Dimension)
		}
		if !period.Start.IsZero() {
			s.Start, s.End = &period.Start, &period.End
		}
		limit, finite := l.Ceiling.Finite()
		s.Limit, s.Unlimited = limit, !finite
		if finite {
			s.Available = limit.Sub(s.Posted).Sub(s.Held)
		}
		out.Limits = append(out.Limits, s)
	}
	return out
}

// linesOf is the need of a hold: the confirmed one, or that of its first submission.
func linesOf(h ledger.Hold) []ledger.Line {
	if len(h.Lines) == 0 {
		return h.Pending
	}
	return h.Lines
}

func holdStatus(h ledger.Hold, placed []Verification) HoldStatus {
	s := HoldStatus{ID: h.ID, Namespace: h.Namespace, JobID: h.JobID, Budget: h.Budget, State: string(h.State),
		Created: time.UnixMilli(h.CreatedMS).UTC(), Submitter: h.Accessor, GPUs: gpusOf(linesOf(h)), Allocations: []string{}, Estimate: h.Estimate, Posted: h.Posted, Held: heldNow(h), Placement: placed,
		Ending: endingStatus(h.Ending)}
	for _, t := range h.Tracks {
		s.Allocations = append(s.Allocations, t.Alloc)
	}
	return s
}

// heldNow is what the hold still holds over all time, by class and for any.
func heldNow(h ledger.Hold) ledger.Usage {
	cal := ledger.Calendar{Location: time.UTC, Windows: []budget.Window{budget.Total}}
	v := ledger.Charges(h, cal)
	u := ledger.Usage{GPUTime: map[string]quantity.Amount{}}
	for _, period := range []string{budget.Total.String(), ledger.AnyPeriod(budget.Total)} {
		for _, c := range v.Row(period) {
			d, a := c.Dimension, c.Amount
			switch {
			case d == budget.Cost:
				u.Cost = u.Cost.Add(a)
			case d.IsGPUTime():
				u.GPUTime[d.Class()] = u.GPUTime[d.Class()].Add(a)
			}
		}
	}
	return u
}

func strayStatus(a nomadevents.Allocation) StrayStatus {
	return StrayStatus{Namespace: a.Namespace, JobID: a.JobID, Alloc: a.ID, Node: a.NodeName, GPUs: a.IDs()}
}
