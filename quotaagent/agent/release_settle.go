package agent

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// wait notes why a job goes on waiting, and what it needs by now.
func (r *releaser) wait(ctx context.Context, fence ledger.Fence, c candidate, lines []ledger.Line, d admission.Decision, p *budget.Policy) error {
	next := c.queued
	next.Reason, next.Detail, next.Lines = string(d.Reason), d.Cause(p), lines
	if d.Budget != nil {
		next.Budget = d.Budget.Path
	}
	return r.write(ctx, fence, c.queued, &next)
}

// write changes a document that is still what was read; nil removes it. The events
// are recorded with it.
func (r *releaser) write(ctx context.Context, fence ledger.Fence, was ledger.Queued, next *ledger.Queued, events ...AuditEvent) error {
	if next != nil && sameQueued(was, *next) {
		return nil
	}
	err := r.e.books.update(ctx, fence, r.target(was), func(v view) (change, error) {
		if v.queued == nil || !sameQueued(*v.queued, was) {
			return change{}, errNoChange
		}
		return change{hold: v.hold.Hold, queued: next, unqueue: next == nil, audit: events}, nil
	})
	r.e.line.changed()
	return err
}

func (r *releaser) target(q ledger.Queued) target {
	return target{key: keyOf(q), budget: q.Budget, calendar: r.e.rulesOf(r.e.policy.State().Policy).Calendar}
}

// register registers a job without its gate and settles it. Where it is not known
// whether that happened, or the job was changed meanwhile, the mark stays and the
// next tick looks.
func (r *releaser) register(ctx context.Context, fence ledger.Fence, c candidate, placed Placement, id string) error {
	q := c.queued
	patch := placed.Patch
	patch.Drop = jobspec.GateTarget
	raw, err := c.stored.With(patch)
	if err == nil {
		var index uint64
		index, err = r.put(ctx, nomadctl.Registration{Namespace: q.Namespace, JobID: q.JobID, Job: raw, Index: c.spec.Index, Submission: c.spec.Submission})
		if err == nil {
			r.e.released(r.now().Sub(time.UnixMilli(q.SinceMS)))
			r.logger.Info("job released from the queue", "namespace", q.Namespace, "job_id", q.JobID, "budget", q.Budget, "hold_id", id,
				"waited", r.now().Sub(time.UnixMilli(q.SinceMS)).Round(time.Second))
			return r.landed(ctx, fence, q, index, placed.Record)
		}
	}
	switch {
	case errors.Is(err, nomadctl.ErrConflict), errors.Is(err, nomadctl.ErrNotFound):
		return nil
	case errors.Is(err, nomadctl.ErrUnknown):
		return err
	}
	placed.Release()
	r.pause(keyOf(q))
	r.logger.Warn("a job whose turn it is could not be registered", "namespace", q.Namespace, "job_id", q.JobID, "error", err)
	next := q
	next.ReleasingMS, next.Reason, next.Detail = 0, string(admission.Fits), "it fits, but Nomad does not let this agent register it; the agent's log has the cause"
	return r.withdraw(ctx, fence, q, &next)
}

// landed settles a job that is registered without its gate at an index.
func (r *releaser) landed(ctx context.Context, fence ledger.Fence, q ledger.Queued, index uint64, record json.RawMessage) error {
	err := r.e.books.update(ctx, fence, r.target(q), func(v view) (change, error) {
		if v.queued == nil {
			return change{}, errNoChange
		}
		want := change{hold: v.hold.Hold, unqueue: true}
		if h := v.hold.Hold; h != nil && index > h.StoredIndex {
			next := confirm(*h, index)
			if len(record) > 0 {
				next.Placement = record
			}
			want.hold = &next
		}
		return want, nil
	})
	r.e.line.changed()
	r.e.settled(q.Namespace, q.JobID)
	return err
}

// withdraw takes back the hold of a job that is not registered without its gate
// after all; its document becomes next, nil to remove it.
func (r *releaser) withdraw(ctx context.Context, fence ledger.Fence, q ledger.Queued, next *ledger.Queued) error {
	err := r.e.books.update(ctx, fence, r.target(q), func(v view) (change, error) {
		want := change{hold: v.hold.Hold}
		if h := v.hold.Hold; h != nil && len(h.Tracks) == 0 {
			voided, remains := ledger.Void(*h)
			switch want.hold = &voided; {
			case !remains, h.State == ledger.Active && h.Pending == nil:
				want.hold = nil // also one that was taken for confirmed
			}
		}
		if v.queued != nil {
			want.queued, want.unqueue = next, next == nil
		} else if v.hold.Hold == nil {
			return change{}, errNoChange
		}
		return want, nil
	})
	r.e.line.changed()
	return err
}
