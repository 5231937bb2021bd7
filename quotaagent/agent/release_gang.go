package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// rollback takes the next step to take a gang back, by what Nomad has:
//
//	the job as it runs             register it stopped, gated and without its pins
//	stopped, something of it runs  wait: the meter ends its hold
//	stopped, nothing of it runs    register it gated: it waits like any other job
//	gated                          done, but for the document
//
// Anything else is somebody's submission, and is looked at as such. Each step is bound to
// the index of the job that was looked at, and repeating one does nothing new.
func (r *releaser) rollback(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec, stored jobspec.Stored) error {
	gated := jobspec.Gated(stored.Job)
	switch {
	case !gated && spec.Stopped:
		return r.gone(ctx, fence, q, "it was stopped")
	case !gated && spec.Index != q.JobModifyIndex:
		return r.opened(ctx, fence, q, spec, stored)
	case !gated:
		return r.stopGang(ctx, fence, q, spec, stored)
	case spec.Stopped && q.RollbackStopped && spec.Index != q.JobModifyIndex:
		return r.gone(ctx, fence, q, "it was stopped")
	case spec.Stopped && !q.RollbackStopped:
		next := q // the answer to the stop was lost
		next.RollbackStopped, next.JobModifyIndex = true, spec.Index
		return r.write(ctx, fence, q, &next)
	case spec.Stopped:
		return r.gateGang(ctx, fence, q, spec, stored)
	}
	return r.gangWaits(ctx, fence, q, spec.Index)
}

// stopGang stops all of a gang.
func (r *releaser) stopGang(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec, stored jobspec.Stored) error {
	have, err := r.e.books.readHold(ctx, keyOf(q))
	if err != nil {
		return err
	}
	if have.Hold != nil {
		if partial, known := inPart(*have.Hold); known && !partial {
			return r.write(ctx, fence, q, nil, r.gangEvent(q, "gang.rollback_cancelled", "is not stopped: all of it runs by now"))
		}
	}
	clean, _, err := stored.Unpinned()
	if err != nil {
		return err
	}
	why := gangText(askOf(q)) + " waits until all of it fits at once"
	if q.Rollbacks > gangAttempts {
		why = fmt.Sprintf("gave up: %s (%s), for the %dth time in a row", q.Detail, admission.GangWaits, q.Rollbacks)
	}
	raw, err := clean.Stopped(jobspec.Gate(clean.Job, why))
	if err != nil {
		return err
	}
	index, done, err := r.putGang(ctx, q, spec, raw)
	if !done {
		return err
	}
	r.logger.Info("gang stopped, because only a part of it ran", "namespace", q.Namespace, "job_id", q.JobID, "rollbacks", q.Rollbacks)
	r.e.settled(q.Namespace, q.JobID)
	next := q
	next.RollbackStopped, next.JobModifyIndex = true, index
	return r.write(ctx, fence, q, &next)
}

// gateGang has a gang wait of which nothing runs any more, or gives it up.
func (r *releaser) gateGang(ctx context.Context, fence ledger.Fence, q ledger.Queued, spec nomadctl.Spec, stored jobspec.Stored) error {
	have, err := r.e.books.readHold(ctx, keyOf(q))
	if err != nil || have.Hold != nil {
		return err
	}
	if q.Rollbacks > gangAttempts {
		return r.write(ctx, fence, q, nil, r.gangEvent(q, "gang.given_up", fmt.Sprintf("stays stopped: %s, for the %dth time in a row", q.Detail, q.Rollbacks)))
	}
	raw, err := stored.Started(jobspec.Patch{})
	if err != nil {
		return err
	}
	index, done, err := r.putGang(ctx, q, spec, raw)
	if !done {
		return err
	}
	return r.gangWaits(ctx, fence, q, index)
}

// putGang registers a step of a rollback, bound to the job that was looked at. It is not
// done where somebody was faster.
func (r *releaser) putGang(ctx context.Context, q ledger.Queued, spec nomadctl.Spec, raw []byte) (index uint64, done bool, err error) {
	index, err = r.put(ctx, nomadctl.Registration{Namespace: q.Namespace, JobID: q.JobID, Job: raw, Index: spec.Index, Submission: spec.Submission})
	switch {
	case errors.Is(err, nomadctl.ErrConflict), errors.Is(err, nomadctl.ErrNotFound):
		return 0, false, nil
	case err != nil:
		r.pause(keyOf(q))
		return 0, false, fmt.Errorf("take a gang back: %w", err)
	}
	return index, true, nil
}

// gangWaits notes that a gang is registered and waits.
func (r *releaser) gangWaits(ctx context.Context, fence ledger.Fence, q ledger.Queued, index uint64) error {
	next := q
	next.RollbackMS, next.RollbackStopped, next.JobModifyIndex = 0, false, index
	return r.write(ctx, fence, q, &next)
}

func (r *releaser) gangEvent(q ledger.Queued, kind, what string) AuditEvent {
	return AuditEvent{At: r.now(), Kind: kind, Actor: actorGovernor, Budget: q.Budget, Subject: q.Namespace + "/" + q.JobID,
		Text: fmt.Sprintf("job %q in namespace %q %s", q.JobID, q.Namespace, what)}
}
