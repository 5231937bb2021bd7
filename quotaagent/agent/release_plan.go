package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/queue"
)

// Small jobs that come one after the other would keep a large gang waiting for ever,
// because each of them fits sooner. So the first gang in the queue that has waited for
// long gets GPUs set aside: those on which it can start first, once the work there that
// has an end is over. The leader writes them into its document, and every agent keeps
// them clear: who could only have these waits behind the gang, and who is over before it
// starts may use them. That is EASY backfill (Lifka 1995), as in Slurm's backfill
// scheduler with one job.

const (
	// planFor is how long a plan counts that no leader renews, and planRenew how much of
	// it is left when that is done.
	planFor   = 10 * time.Minute
	planRenew = 5 * time.Minute
	// behindTryEvery is how often it is looked whether a job fits that waits behind a gang.
	behindTryEvery = 10 * time.Second
	// hopelessFor is for how long no GPUs could be set aside for a gang before the next one
	// has its turn: a moment without a plan may come of an allocation that just starts.
	hopelessFor = 2 * time.Minute
)

// planless is since when there is no plan for a gang, as it was registered at an index.
type planless struct {
	since time.Time
	index uint64
}

// plan chooses the gang that GPUs are set aside for, and ends the plans of others: next
// are the jobs that have their budget, in their order.
func (r *releaser) plan(ctx context.Context, fence ledger.Fence, waiting []ledger.Queued, next []queue.Place) error {
	r.planner = ""
	for _, place := range next {
		q := place.Queued
		if r.planAfter > 0 && admission.IsGang(q.Facts.Meta) && r.now().UnixMilli()-q.SinceMS >= r.planAfter.Milliseconds() && !r.hopeless(q) {
			r.planner = keyOf(q)
			break
		}
	}
	for _, q := range waiting {
		if q.Planned == nil || keyOf(q) == r.planner {
			continue
		}
		without := q
		without.Planned = nil
		if err := r.write(ctx, fence, q, &without, r.gangEvent(q, "gang.plan_ended", "has no GPUs set aside any more: another gang comes first, or it has no budget now")); err != nil {
			return aboutJob(q, err)
		}
		r.planned = 0 // its document is another one now
	}
	return nil
}

// hopeless reports whether no GPUs can be set aside for a gang, because those that it needs
// have work without an end. It keeps no other from its turn, until there is a plan for it.
func (r *releaser) hopeless(q ledger.Queued) bool {
	w, seen := r.noPlan[keyOf(q)]
	return seen && w.index == q.JobModifyIndex && r.now().Sub(w.since) >= hopelessFor
}

// notePlan notes whether there is a plan for a gang.
func (r *releaser) notePlan(q ledger.Queued, known bool) {
	w, seen := r.noPlan[keyOf(q)]
	switch {
	case known && seen:
		delete(r.noPlan, keyOf(q))
		r.planned = 0 // it has its turn again
	case !known && (!seen || w.index != q.JobModifyIndex):
		r.noPlan[keyOf(q)] = planless{r.now(), q.JobModifyIndex}
	}
}

// ends is when running work is over at the latest, by allocation id, for the gang that
// GPUs are set aside for, and for those that are without hope; nil for other jobs. What should be over already is so any
// moment.
func (r *releaser) ends(ctx context.Context, q ledger.Queued) (map[string]int64, error) {
	if keyOf(q) != r.planner && !r.hopeless(q) {
		return nil, nil
	}
	open, _, err := r.e.books.holds(ctx)
	if err != nil {
		return nil, err
	}
	soon := r.now().Add(behindTryEvery).UnixMilli()
	out := make(map[string]int64, len(open))
	for _, h := range open {
		for _, t := range h.Tracks {
			if end, known := h.Ends(t); known && t.EndMS == 0 {
				out[t.Alloc] = max(end, soon)
			}
		}
	}
	return out, nil
}

// gangDue reports whether it is time to look whether a job fits that waits for GPUs.
func (r *releaser) gangDue(q ledger.Queued) bool {
	now := r.now()
	return now.UnixMilli() >= q.NotBeforeMS && !now.Before(r.gangs[keyOf(q)])
}

// misfit notes that there are no GPUs for a job now, what is missing, and which are set
// aside for it. On a large cluster looking takes long, and is done the less often.
func (r *releaser) misfit(ctx context.Context, fence ledger.Fence, c candidate, placed Placement, took time.Duration) error {
	q, next := c.queued, c.queued
	pause := gangTryEvery
	if next.Reason, next.Detail = string(waitsAs(c.s)), placed.Waits; !admission.IsGang(q.Facts.Meta) {
		pause = behindTryEvery
	}
	r.gangs[keyOf(q)] = r.now().Add(min(max(pause, 50*took), time.Minute))
	if keyOf(q) == r.planner || r.hopeless(q) {
		r.notePlan(q, placed.Planned != nil)
	}
	if keyOf(q) != r.planner {
		return r.write(ctx, fence, q, &next)
	}
	next.Planned = r.renewed(q.Planned, placed.Planned)
	if next.Planned == nil {
		return r.write(ctx, fence, q, &next)
	}
	p := r.e.policy.State().Policy
	next.Detail = fmt.Sprintf("%s; %d GPUs are set aside for it, which are free by %s", placed.Waits, next.Planned.GPUs(),
		time.UnixMilli(next.Planned.StartMS).In(p.Location).Format("2006-01-02 15:04 MST"))
	if q.Planned != nil {
		return r.write(ctx, fence, q, &next)
	}
	return r.write(ctx, fence, q, &next, r.gangEvent(q, "gang.planned", fmt.Sprintf("has waited for %s: %s",
		r.now().Sub(time.UnixMilli(q.SinceMS)).Round(time.Second), next.Detail)))
}

// renewed is the plan of a gang by what it was and what placement says now. One that
// stands stays, so that others are not sent to and fro.
func (r *releaser) renewed(was, is *ledger.Planned) *ledger.Planned {
	if is == nil {
		return nil
	}
	now, next := r.now(), *is
	next.SinceMS, next.UntilMS = now.UnixMilli(), now.Add(planFor).UnixMilli()
	if was == nil {
		return &next
	}
	next.SinceMS = was.SinceMS
	if same := was.StartMS == is.StartMS && sameDevices(was.Devices, is.Devices); same && was.UntilMS-now.UnixMilli() > planRenew.Milliseconds() {
		return was
	}
	return &next
}

// waitsAs is why a job waits that placement has no GPUs for.
func waitsAs(s gate.Submission) admission.Reason {
	if admission.IsGang(s.Ask.Meta) {
		return admission.GangWaits
	}
	return admission.PlannedForGang
}
