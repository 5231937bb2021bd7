package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// look brings the document of one job in line with what Nomad has.
func (r *releaser) look(ctx context.Context, fence ledger.Fence, q ledger.Queued) error {
	key := keyOf(q)
	r.looked[key] = r.now()
	r.untouch(key) // before the question: a change after it is noted anew
	spec, err := r.spec(ctx, q)
	if errors.Is(err, nomadctl.ErrNotFound) {
		return r.gone(ctx, fence, q, "it is not there any more")
	}
	if err != nil {
		r.touch(q.Namespace, q.JobID)
		return err
	}
	stored, err := jobspec.ParseStored(spec.Job)
	if err != nil {
		return err
	}
	switch {
	case q.RollbackMS != 0:
		return r.rollback(ctx, fence, q, spec, stored)
	case spec.Stopped:
		return r.gone(ctx, fence, q, "it was stopped")
	case !jobspec.Gated(stored.Job):
		return r.opened(ctx, fence, q, spec, stored)
	case q.ReleasingMS != 0:
		return r.again(ctx, fence, q, spec)
	case spec.Index != q.JobModifyIndex || q.ExpiresMS != 0:
		return r.confirm(ctx, fence, q, spec)
	case overdue(q, r.now()):
		return r.giveUp(ctx, fence, q, spec)
	}
	return nil
}

// onItsWay reports whether a registration may still arrive.
func (r *releaser) onItsWay(q ledger.Queued) bool {
	return q.ExpiresMS != 0 && r.now().UnixMilli() < q.ExpiresMS
}

// gone ends the wait of a job that nobody wants any more.
func (r *releaser) gone(ctx context.Context, fence ledger.Fence, q ledger.Queued, why string) error {
	if r.onItsWay(q) {
		return nil
	}
	r.logger.Info("job left the queue", "namespace", q.Namespace, "job_id", q.JobID, "budget", q.Budget, "why", why)
	if q.ReleasingMS != 0 {
		return r.withdraw(ctx, fence, q, nil)
	}
	return r.write(ctx, fence, q, nil)
}

// opened settles a job that is registered without a gate: by this agent or one
// before it, by its author, or directly at Nomad.
func (r *releaser) opened(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec, stored jobspec.Stored) error {
	switch {
	case q.ReleasingMS != 0:
		return r.landed(ctx, fence, q, spec.Index, nil)
	case r.onItsWay(q) && q.JobModifyIndex == 0 && stopped(stored.Job):
		return nil // what is there is the job's earlier life
	}
	r.logger.Info("job left the queue", "namespace", q.Namespace, "job_id", q.JobID, "budget", q.Budget, "why", "it was registered without a gate")
	r.e.settled(q.Namespace, q.JobID)
	return r.write(ctx, fence, q, nil)
}

// confirm notes the registration that Nomad has: one whose answer was lost, or
// one that was changed directly at Nomad and is gated all the same. The place is
// kept unless it needs more than before.
func (r *releaser) confirm(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec) error {
	next := q
	next.JobModifyIndex, next.ExpiresMS = spec.Index, 0
	switch {
	case q.ExpiresMS != 0 && spec.Index != q.JobModifyIndex:
		return r.write(ctx, fence, q, &next) // it is what the document says
	case r.onItsWay(q):
		return nil
	}
	c, err := r.read(q, spec)
	if err != nil {
		return err
	}
	rehearsal := c.s
	rehearsal.Kind = gate.Plan
	p := r.e.policy.State().Policy
	b, lines, refusal := r.e.appraise(p, c.s, r.e.place(ctx, rehearsal))
	if refusal == nil && b != nil {
		next = r.e.queuedAs(p, b, c.s, lines, admission.Decision{}, &q)
		next.JobModifyIndex, next.ExpiresMS, next.Reason, next.Detail = spec.Index, 0, q.Reason, q.Detail
	}
	return r.write(ctx, fence, q, &next)
}

// again takes up a release that was interrupted: the job has its hold, and is
// still gated.
func (r *releaser) again(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec) error {
	have, err := r.e.books.readHold(ctx, keyOf(q))
	if err != nil {
		return err
	}
	next := q
	next.ReleasingMS = 0
	switch {
	case have.Hold == nil:
		return r.write(ctx, fence, q, &next) // it expired: its turn comes again
	case spec.Index != q.JobModifyIndex:
		next.JobModifyIndex = spec.Index
		r.touch(q.Namespace, q.JobID)
		return r.withdraw(ctx, fence, q, &next)
	}
	c, err := r.read(q, spec)
	if err != nil {
		return err
	}
	placed := r.e.place(ctx, c.s)
	if placed.Waits != "" {
		placed.Release()
		next.Reason, next.Detail = string(waitsAs(c.s)), placed.Waits
		return r.withdraw(ctx, fence, q, &next)
	}
	r.logger.Info("taking up an interrupted release", "namespace", q.Namespace, "job_id", q.JobID, "hold_id", have.ID)
	return r.register(ctx, fence, c, placed, have.ID)
}

// giveUp stops a job that has waited as long as its queue allows. The gate's text
// says so where Nomad shows the job.
func (r *releaser) giveUp(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec) error {
	waited := time.Duration(q.UntilMS-q.SinceMS) * time.Millisecond
	why := fmt.Sprintf("gave up after waiting %s for budget %s (%s)", waited.Round(time.Second), q.Budget, admission.QueueTimeout)
	stored, err := jobspec.ParseStored(spec.Job)
	if err != nil {
		return err
	}
	raw, err := stored.Stopped(jobspec.Gate(stored.Job, why))
	if err != nil {
		return err
	}
	_, err = r.put(ctx, nomadctl.Registration{Namespace: q.Namespace, JobID: q.JobID, Job: raw, Index: spec.Index, Submission: spec.Submission})
	switch {
	case errors.Is(err, nomadctl.ErrConflict), errors.Is(err, nomadctl.ErrNotFound):
		r.touch(q.Namespace, q.JobID)
		return nil
	case err != nil:
		r.pause(keyOf(q))
		return fmt.Errorf("stop a job that waited too long: %w", err)
	}
	return r.write(ctx, fence, q, nil, AuditEvent{At: r.now(), Kind: "queue.expired", Actor: actorGovernor, Budget: q.Budget, Subject: q.Namespace + "/" + q.JobID,
		Text: fmt.Sprintf("job %q in namespace %q was stopped: governor %s", q.JobID, q.Namespace, why)})
}
