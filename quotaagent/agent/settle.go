package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// unsettledMax bounds the submissions of one job whose fate is open. They
// expire; more than this is a client that retries without end.
const unsettledMax = 64

// errUnsettled means that too many submissions of the job are on their way.
var errUnsettled = errors.New("too many submissions of this job have not been settled yet")

// ticket is what a submission needs to settle itself later.
type ticket struct {
	key string
	// id of the hold; a hold with another id is a later life of the job.
	id string
	// before and after are the budgets that the job drew from without and with
	// this submission.
	before, after string
	// offered is where this submission is to run, and placed where the job was before.
	offered, placed json.RawMessage
	// empty says that the submission asks for no GPUs and was not recorded.
	empty bool
}

// submitted records a submission on the open hold of its job, or on a new one.
// same says that it is the job which is registered already.
func (e *Engine) submitted(hold *ledger.Hold, s gate.Submission, lines []ledger.Line, same bool) (ledger.Hold, error) {
	now, stored := e.now(), storedIndexes(s)
	next := ledger.Hold{ID: "h-" + e.books.newID(), Namespace: s.Ask.Namespace, JobID: heldAs(s), State: ledger.Held,
		CreatedMS: now.UnixMilli(), FirstIndex: stored.modified, StoredIndex: stored.job}
	if hold != nil {
		next = *hold
		next.StoredIndex = stored.job
		if hold.Pending != nil {
			next.StoredIndex = min(stored.job, hold.StoredIndex) // what is on its way may be stored by now
		}
	}
	next.SubmittedMS = max(next.SubmittedMS, now.UnixMilli())
	if next.InFlight >= unsettledMax {
		return next, errUnsettled
	}
	submit := ledger.Submit
	if same {
		submit = ledger.SubmitUnchanged
	}
	return submit(next, lines, now.Add(confirmWithin).UnixMilli()), nil
}

// indexes are those of the stored job; 0 when there is none.
type indexes struct {
	// job is its JobModifyIndex: the last change of its specification.
	job uint64
	// modified is its ModifyIndex: also moves when its status changes, so that
	// every allocation of a job that is dead is older.
	modified uint64
}

func storedIndexes(s gate.Submission) indexes {
	var i indexes
	if s.Stored != nil && s.Stored.JobModifyIndex != nil {
		i.job = *s.Stored.JobModifyIndex
	}
	if s.Stored != nil && s.Stored.ModifyIndex != nil {
		i.modified = *s.Stored.ModifyIndex
	}
	return i
}

// settle confirms or voids a submission when Nomad has answered. What cannot be
// settled now is settled by the meter's reconciliation.
func (e *Engine) settle(ctx context.Context, s gate.Submission, t ticket, placed Placement, o gate.Outcome) {
	defer e.settled(s.Ask.Namespace, s.Ask.JobID)
	if !o.Known {
		e.logger.Warn("answer lost, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace)
		return
	}
	if !o.Accepted {
		placed.Release()
	}
	err := e.books.update(ctx, ledger.Fence{}, target{key: t.key, budget: t.before, calendar: ledger.CalendarOf(e.policy.State().Policy)},
		func(v view) (change, error) {
			hold := v.hold
			if hold.Hold == nil || hold.ID != t.id {
				return change{}, errNoChange // the job has ended already
			}
			// A job that waited is registered without its gate now.
			unqueue := o.Accepted && v.queued != nil && v.queued.JobModifyIndex < o.JobModifyIndex
			late, guessed := ledger.AnsweredLate(*hold.Hold, e.now().UnixMilli())
			if guessed && !t.empty && (!o.Accepted || o.JobModifyIndex <= hold.JobModifyIndex) {
				return change{hold: &late, unqueue: unqueue}, nil
			}
			if o.Accepted {
				if guessed && hold.Pending == nil { // it is of no other than the one that was guessed about
					hold.Hold = &late
				}
				next := accept(*hold.Hold, t, o.JobModifyIndex)
				return change{hold: &next, unqueue: unqueue}, nil
			}
			return withdraw(*hold.Hold, t)
		})
	if err != nil {
		e.logger.Warn("submission not settled yet, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
	}
}

// accept ends one submission that Nomad registered at index.
func accept(h ledger.Hold, t ticket, index uint64) ledger.Hold {
	if t.empty && index >= h.JobModifyIndex {
		h = ledger.Submit(h, nil, h.ExpiresMS)
		if h.InFlight == 1 {
			h.Pending = []ledger.Line{}
		}
	}
	return confirm(h, index)
}

// confirm is ledger.Confirm for a job id that may have had an earlier life: its
// allocations were posted then, and the index of a job that is registered again
// without a change is older than they are. While another submission is on its
// way, it may be registered already, and what it started belongs to this hold.
func confirm(h ledger.Hold, index uint64) ledger.Hold {
	next := ledger.Confirm(h, index)
	next.FirstIndex = max(h.FirstIndex, next.FirstIndex)
	if h.State == ledger.Held && h.InFlight > 1 {
		next.FirstIndex = h.FirstIndex
	}
	return next
}

// withdraw ends one submission that Nomad refused.
func withdraw(h ledger.Hold, t ticket) (change, error) {
	if t.empty || h.Pending == nil {
		return change{}, errNoChange // not recorded, or settled by the meter
	}
	next, remains := ledger.Void(h)
	if !remains {
		return change{}, nil
	}
	if next.Pending == nil && h.Budget == t.after {
		next.Budget = t.before
	}
	if bytes.Equal(h.Placement, t.offered) {
		next.Placement = t.placed // what runs has its pins, and not those that were refused
	}
	return change{hold: &next}, nil
}
