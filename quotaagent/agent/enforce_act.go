package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/enforce"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// act takes one step for one hold.
func (x *enforcer) act(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action) error {
	var err error
	switch a.Step {
	case enforce.Begin:
		if err = x.start(ctx, fence, p, a); err == nil && a.AtOnce() {
			intended := a.Ending
			a.Step, a.Before = enforce.StopJob, &intended
			err = x.stop(ctx, fence, p, a)
		}
	case enforce.Signal:
		err = x.signal(ctx, fence, p, a, a.Before)
	case enforce.StopAllocations, enforce.StopJob:
		err = x.stop(ctx, fence, p, a)
	case enforce.Scale:
		err = x.scale(ctx, fence, p, a, false)
	case enforce.Restore:
		err = x.scale(ctx, fence, p, a, true)
	case enforce.Cancel:
		var events []AuditEvent
		if a.Before.DoneMS == 0 {
			events = append(events, x.event(a, "enforcement.cancelled", fmt.Sprintf("job %s is not stopped: %s", jobName(a), a.Text)))
		}
		err = x.claim(ctx, fence, p, a, a.Before, func(h *ledger.Hold) error { h.Ending = nil; return nil }, events...)
	}
	return ignore(err, errObsolete)
}

// start stores an ending and sends its signal.
func (x *enforcer) start(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action) error {
	ending := a.Ending
	when := x.now().In(p.Location)
	if at := time.UnixMilli(ending.StopMS).In(p.Location); at.After(when) {
		when = at
	}
	begun := x.event(a, "enforcement.begun", fmt.Sprintf("%sjob %s will be stopped at %s (%s): %s", allocationsOf(a), jobName(a),
		when.Format(time.RFC3339), ending.Cause, a.Text))
	err := x.claim(ctx, fence, p, a, a.Before, func(h *ledger.Hold) error { h.Ending = &ending; return nil }, begun)
	if err != nil || a.Signal == "" {
		return err
	}
	return x.signal(ctx, fence, p, a, &ending)
}

// signal sends the signal of an ending that is stored, and notes when it was sent.
func (x *enforcer) signal(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action, stored *ledger.Ending) error {
	allocs := a.Allocs
	if len(allocs) == 0 {
		allocs = x.liveOf(ctx, a)
	}
	errs := make([]error, len(allocs))
	var sending sync.WaitGroup
	for i, alloc := range allocs {
		sending.Go(func() { errs[i] = x.signalOne(ctx, a, alloc) })
	}
	sending.Wait()
	if err := errors.Join(errs...); err != nil {
		return err // and is sent again with the next tick
	}
	ending := a.Ending
	ending.SignalMS = x.now().UnixMilli()
	sent := x.event(a, "enforcement.signalled", fmt.Sprintf("%sjob %s got %s (%s)", allocationsOf(enforce.Action{Allocs: allocs}), jobName(a), a.Signal, ending.Cause))
	return x.claim(ctx, fence, p, a, stored, func(h *ledger.Hold) error { h.Ending = &ending; return nil }, sent)
}

// liveOf are the allocations of a hold as it is now.
func (x *enforcer) liveOf(ctx context.Context, a enforce.Action) []string {
	h, err := x.books.readHold(ctx, holdKey(a.Namespace, a.JobID))
	if err != nil || h.Hold == nil || h.ID != a.HoldID {
		return nil
	}
	var ids []string
	for _, t := range h.Live() {
		ids = append(ids, t.Alloc)
	}
	return ids
}

// signalOne signals an allocation, once in a term. Tasks that do not run need no
// checkpoint, and a driver that takes no signals will not take a second one.
func (x *enforcer) signalOne(ctx context.Context, a enforce.Action, alloc string) error {
	key := sentKey(a.HoldID, alloc, a.Signal+" "+a.Ending.Cause)
	x.mu.Lock()
	done := x.sent[key]
	x.mu.Unlock()
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	err := x.actor.SignalAllocation(ctx, alloc, "", a.Signal)
	if errors.Is(err, nomadctl.ErrRefused) {
		x.logger.Warn("signal refused", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", alloc, "signal", a.Signal, "error", err)
	}
	if err != nil && !errors.Is(err, nomadctl.ErrRefused) && !errors.Is(err, nomadctl.ErrNotFound) {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent[key] = true
	return nil
}

func sentKey(hold, alloc, what string) string {
	return strings.Join([]string{hold, alloc, what}, "\x00")
}

func splitSent(key string) (hold, alloc, what string) {
	parts := strings.SplitN(key, "\x00", 3)
	return parts[0], parts[1], parts[2]
}

// stop stores that the stop is ordered, and orders it. Where it is not known
// whether Nomad took the order, it is taken back, to be given again.
func (x *enforcer) stop(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action) error {
	ordered := a.Ending
	ordered.DoneMS = x.now().UnixMilli()
	what := allocationsOf(a) + "job " + jobName(a)
	var events []AuditEvent
	if !x.isFailing(a) {
		events = append(events, x.event(a, "enforcement.stopped", fmt.Sprintf("%s is told to stop (%s): %s", what, a.Ending.Cause, a.Text)))
	}
	err := x.claim(ctx, fence, p, a, a.Before, func(h *ledger.Hold) error {
		ordered.JobIndex = h.JobModifyIndex
		h.Ending = &ordered
		return nil
	}, events...)
	if err != nil {
		return err
	}
	acting, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	if a.Step == enforce.StopJob {
		err = x.actor.StopJob(acting, a.Namespace, a.JobID, a.Ending.Cause)
	} else {
		for _, alloc := range a.Allocs {
			err = errors.Join(err, x.actor.StopAllocation(acting, alloc))
		}
	}
	if err != nil {
		undo := a.Ending
		return errors.Join(err, x.claim(ctx, fence, p, a, &ordered, func(h *ledger.Hold) error { h.Ending = &undo; return nil }))
	}
	return nil
}

// isFailing reports whether the last step for this hold failed: then this is the
// same one once more.
func (x *enforcer) isFailing(a enforce.Action) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failing[a.HoldID] != ""
}

// errNoRoom means that a group cannot have its allocations back yet.
var errNoRoom = errors.New("no room in the budget")

// scale changes the count of a group: down at once, up again only if the budget
// has room for it now. The hold follows as for any other submission: the larger
// need is held until Nomad has answered.
func (x *enforcer) scale(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action, up bool) error {
	if !x.mayScale(a) {
		return nil
	}
	stored := a.Ending
	stored.DoneMS = x.now().UnixMilli()
	index, err := x.claimScale(ctx, fence, p, a, &stored, up)
	if err != nil {
		return ignore(err, errNoRoom)
	}
	acting, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	scaled, err := x.actor.Scale(acting, nomadctl.Scaling{Namespace: a.Namespace, JobID: a.JobID, Group: a.Group, Count: a.Count, Index: index,
		Message: fmt.Sprintf("governor: %s", a.Text)})
	var events []AuditEvent
	if err == nil || errors.Is(err, nomadctl.ErrUnknown) {
		events = append(events, x.event(a, "enforcement.scaled", scaleText(a, up, err)))
	} else {
		x.scaleLater(a)
	}
	settled := x.claim(ctx, fence, p, a, &stored, func(h *ledger.Hold) error {
		switch {
		case h.Pending == nil || errors.Is(err, nomadctl.ErrUnknown):
			// The meter has found out, or will.
		case err == nil:
			*h = confirm(*h, scaled)
		default:
			*h, _ = ledger.Void(*h)
			h.Ending = a.Before
		}
		return nil
	}, events...)
	return errors.Join(err, settled)
}

// scaleText says what became of scaling a group.
func scaleText(a enforce.Action, up bool, err error) string {
	done, direction := "is scaled", "down"
	if up {
		direction = "back up"
	}
	if err != nil {
		done = "may have been scaled, Nomad's answer was lost,"
	}
	return fmt.Sprintf("group %s of job %s %s %s to %d (%s): %s", a.Group, jobName(a), done, direction, a.Count, a.Ending.Cause, a.Text)
}

// scaleAgainAfter is the pause after Nomad refused to scale a job: it does while a
// deployment of it is under way.
const scaleAgainAfter = 10 * time.Second

func (x *enforcer) mayScale(a enforce.Action) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.now().Before(x.scaleAfter[a.HoldID])
}

func (x *enforcer) scaleLater(a enforce.Action) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scaleAfter[a.HoldID] = x.now().Add(scaleAgainAfter)
}

// claimScale stores the new need of a group as a submission, and returns the index
// of the job that is to be changed.
func (x *enforcer) claimScale(ctx context.Context, fence ledger.Fence, p *budget.Policy, a enforce.Action, stored *ledger.Ending, up bool) (uint64, error) {
	h, err := x.books.readHold(ctx, holdKey(a.Namespace, a.JobID))
	if err != nil {
		return 0, err
	}
	if h.Hold == nil {
		return 0, errObsolete
	}
	t := target{key: holdKey(a.Namespace, a.JobID), calendar: x.engine.rulesOf(p).Calendar}
	if up {
		t.budget, t.policy, t.run = h.Budget, p, h.Run
	}
	index := uint64(0)
	err = x.books.update(ctx, fence, t, mutationOf(a, a.Before, func(v view, h *ledger.Hold) error {
		next, err := x.resized(p, a, v, *h, up)
		if err != nil {
			return err
		}
		index = h.JobModifyIndex
		next.Ending = stored
		*h = next
		return nil
	}, nil))
	return index, err
}

// resized is the hold with the submission that changes the count of a group.
func (x *enforcer) resized(p *budget.Policy, a enforce.Action, v view, h ledger.Hold, up bool) (ledger.Hold, error) {
	b := p.Find(h.Budget)
	if h.Pending != nil || b == nil {
		return h, errObsolete
	}
	lines := slices.Clone(h.Lines)
	for i, line := range lines {
		if line.Group == a.Group {
			lines[i].Count = a.Count + line.Canaries
		}
	}
	next := ledger.Submit(h, lines, x.now().Add(confirmWithin).UnixMilli())
	next.StoredIndex = h.JobModifyIndex
	if !up {
		return next, nil
	}
	next, state := x.engine.stateOf(p, b, next, v)
	state.Accessor = h.Accessor
	if d := admission.Decide(p, b, state, next, lines, x.now()); d.Outcome != admission.Admit || len(d.Failed) > 0 {
		return h, errNoRoom
	}
	return next, nil
}

func jobName(a enforce.Action) string { return a.Namespace + "/" + a.JobID }

// event is what is recorded of a step.
func (x *enforcer) event(a enforce.Action, kind, text string) AuditEvent {
	return AuditEvent{At: x.now(), Kind: kind, Actor: actorGovernor, Budget: a.Ending.Budget, Subject: a.HoldID, Text: text}
}
