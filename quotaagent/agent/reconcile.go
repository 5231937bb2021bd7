package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// reconcile compares everything with a snapshot. What only concerns the ledger
// comes first: it must not wait for Nomad. Holds are read after the snapshot, so
// that an allocation can only be older than the hold it is matched with.
func (m *Meter) reconcile(ctx context.Context, fence ledger.Fence) error {
	if err := m.rechargeAll(ctx, fence); err != nil {
		return fmt.Errorf("recharge: %w", err)
	}
	began := m.now()
	allocations, err := m.nomad.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	m.holdsChanged.Store(true)
	unreadable := m.refresh(ctx)
	if errors.Is(unreadable, ledger.ErrUnavailable) {
		return fmt.Errorf("reconcile: %w", unreadable)
	}
	m.proven = proof(began)
	byJob, listed := make(map[string][]nomadevents.Allocation), make(map[string]bool, len(allocations))
	for _, a := range allocations {
		key := a.Namespace + "\x00" + a.JobID
		byJob[key] = append(byJob[key], a)
		listed[a.ID] = !a.Terminal
	}
	m.forget(listed)
	failed := each(ctx, m.open, func(h heldAt) error {
		found := byJob[h.JobKey()]
		delete(byJob, h.JobKey())
		return m.reconcileHold(ctx, fence, h, found)
	})
	if ctx.Err() == nil && !errors.Is(failed, ledger.ErrUnavailable) {
		for _, strays := range byJob {
			for _, a := range strays {
				m.note(a, true)
			}
		}
	}
	err = errors.Join(unreadable, failed)
	if err == nil {
		m.watchedTo = m.proven
		m.recovered()
	}
	m.duties.snapshot(ctx, fence, allocations, func(err error) { m.failed(ctx, err) })
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	return nil
}

// rechargeAll brings what holds charge in line with the policy, whose windows
// and zone may have changed, and the balances in line with the holds.
func (m *Meter) rechargeAll(ctx context.Context, fence ledger.Fence) error {
	m.holdsChanged.Store(true)
	unreadable := m.refresh(ctx)
	if errors.Is(unreadable, ledger.ErrUnavailable) {
		return unreadable
	}
	cal := ledger.CalendarOf(m.policy.State().Policy)
	err := each(ctx, m.open, func(h heldAt) error {
		if charged(*h.Hold, cal) {
			return nil
		}
		return m.recharge(ctx, fence, h)
	})
	if err != nil {
		return err
	}
	repaired, err := m.books.repair(ctx, fence)
	for _, path := range repaired {
		m.logger.Error("balance differed from its open holds and was set right", "budget", path)
	}
	return err
}

func charged(h ledger.Hold, cal ledger.Calendar) bool {
	return len(ledger.Charges(h, cal).Minus(h.Charged)) == 0
}

func (m *Meter) recharge(ctx context.Context, fence ledger.Fence, h heldAt) error {
	err := m.mutate(ctx, fence, h.Namespace, h.JobID, func(p *budget.Policy, h heldAt) (change, error) {
		if charged(*h.Hold, ledger.CalendarOf(p)) {
			return change{}, errNoChange
		}
		return change{hold: h.Hold}, nil
	})
	return ignore(err, errNoHold)
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// reconcileHold brings one hold in line with the allocations of its job in a
// snapshot, and posts what runs.
func (m *Meter) reconcileHold(ctx context.Context, fence ledger.Fence, h heldAt, allocations []nomadevents.Allocation) error {
	for _, a := range allocations {
		m.verify(*h.Hold, a)
		m.note(a, false)
	}
	if len(vanished(*h.Hold, allocations)) > 0 {
		// Before the others are posted: a track that Nomad does not know any more must
		// not be posted up to this snapshot with them.
		return m.settleJob(ctx, fence, h.Namespace, h.JobID)
	}
	for _, a := range allocations {
		if _, changed := ledger.Observe(*h.Hold, m.observation(m.policy.State().Policy, a), m.now().UnixMilli()); !changed {
			continue
		}
		if err := m.observe(ctx, fence, a); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(h.Tracks, func(t ledger.Track) bool { return t.MarkMS < m.proven.UnixMilli() }) {
		return nil
	}
	err := m.mutate(ctx, fence, h.Namespace, h.JobID, func(p *budget.Policy, h heldAt) (change, error) {
		next, posted, entries := metering.Post(p, *h.Hold, m.proven)
		if len(posted) == 0 {
			return change{}, errNoChange
		}
		return change{hold: &next, posted: posted, entries: entries}, nil
	})
	return ignore(err, errNoHold)
}

// vanished are the tracks of a hold that Nomad no longer knows.
func vanished(h ledger.Hold, allocations []nomadevents.Allocation) []ledger.Track {
	var gone []ledger.Track
	for _, t := range h.Live() {
		if !slices.ContainsFunc(allocations, func(a nomadevents.Allocation) bool { return a.ID == t.Alloc }) {
			gone = append(gone, t)
		}
	}
	return gone
}

// tick looks at every open hold.
func (m *Meter) tick(ctx context.Context, fence ledger.Fence) error {
	unreadable := m.refresh(ctx)
	m.followNamespaces()
	return errors.Join(unreadable, each(ctx, m.open, func(h heldAt) error { return m.tickHold(ctx, fence, h) }))
}

func (m *Meter) tickHold(ctx context.Context, fence ledger.Fence, h heldAt) error {
	now := m.now().UnixMilli()
	doubtful := h.Pending != nil && now-(h.ExpiresMS-confirmWithin.Milliseconds()) > doubtAfter.Milliseconds()
	if doubtful || len(h.Live()) == 0 || len(h.Former) > 0 {
		if !m.lookDue(h) {
			return nil
		}
		return m.settleJob(ctx, fence, h.Namespace, h.JobID)
	}
	if _, due := ledger.Renew(*h.Hold, now); !due {
		return nil
	}
	err := m.mutate(ctx, fence, h.Namespace, h.JobID, func(_ *budget.Policy, h heldAt) (change, error) {
		next, moved := ledger.Renew(*h.Hold, now)
		if !moved {
			return change{}, errNoChange
		}
		return change{hold: &next}, nil
	})
	return ignore(err, errNoHold)
}

// look is when to ask Nomad next about a job of which nothing runs.
type look struct {
	version uint64 // of the hold when it was last asked
	wait    time.Duration
	next    time.Time
}

// lookDue reports whether it is time to ask about the job of a hold: at once
// when the hold has changed, then less and less often. Events ask at once; this
// is for what Nomad sends no event about, such as a job that becomes dead when
// its last evaluation ends.
func (m *Meter) lookDue(h heldAt) bool {
	now, l := m.now(), m.looks[h.JobKey()]
	if l.version == h.version && now.Before(l.next) {
		return false
	}
	if l.version != h.version {
		l = look{version: h.version, wait: tickEvery / 2}
	}
	l.wait = min(2*l.wait, lookAtMost)
	l.next = now.Add(l.wait)
	m.looks[h.JobKey()] = l
	return true
}

// settleJob brings one hold in line with what Nomad says about its job: confirms
// or expires a submission whose answer was lost, and ends the hold of a job of
// which nothing runs or will run. The hold is read first and must still be the
// same when it is changed: whatever happens to the job in between is somebody's
// submission, and writes the hold.
func (m *Meter) settleJob(ctx context.Context, fence ledger.Fence, namespace, jobID string) error {
	seen, err := m.books.readHold(ctx, holdKey(namespace, jobID))
	if err != nil || seen.Hold == nil {
		return err
	}
	began := m.now()
	job, err := m.nomad.Job(ctx, namespace, jobID)
	if err != nil {
		return err
	}
	allocations, err := m.nomad.JobAllocations(ctx, namespace, jobID)
	if err != nil {
		return err
	}
	var ended *ledger.Hold
	changed := false
	err = m.mutate(ctx, fence, namespace, jobID, func(p *budget.Policy, h heldAt) (change, error) {
		ended = nil
		if changed = h.version != seen.version; changed {
			return change{}, errNoChange
		}
		next, moved := m.settled(p, *h.Hold, job, allocations, began)
		switch {
		case next.hold == nil:
			return change{}, nil // never registered: nothing to post
		case over(*next.hold, job):
			ended, next.hold = next.hold, nil
			next.ended = ended
			return next, nil
		case !moved:
			return change{}, errNoChange
		}
		return next, nil
	})
	if changed {
		m.Touch(namespace, jobID)
	}
	if err == nil && ended != nil {
		m.logger.Info("job settled", "namespace", namespace, "job_id", jobID, "budget", ended.Budget, "hold_id", ended.ID,
			"receipt", admission.Receipt(m.policy.State().Policy, *ended))
	}
	return ignore(err, errNoHold)
}

// finishedKept is how many ended allocations a hold remembers before it forgets
// those that Nomad has forgotten: a service that restarts for months must not
// outgrow its document.
const finishedKept = 256

// settled is the hold as it should be, with the usage to post. A nil hold means
// that nothing remains of a submission that never arrived.
func (m *Meter) settled(p *budget.Policy, h ledger.Hold, job nomadevents.Job, allocations []nomadevents.Allocation, began time.Time) (change, bool) {
	next, moved := m.resolve(h, job, allocations)
	if next == nil {
		return change{}, true
	}
	nowMS := m.now().UnixMilli()
	for _, a := range allocations {
		m.verify(*next, a)
		observed, changed := ledger.Observe(*next, m.observation(p, a), nowMS)
		next, moved = &observed, moved || changed
	}
	for _, t := range vanished(*next, allocations) {
		end := m.lastSign(t, began)
		m.logger.Warn("allocation gone before its end was seen", "namespace", h.Namespace, "job_id", h.JobID, "alloc_id", t.Alloc,
			"posted_to", time.UnixMilli(end).UTC())
		observed, changed := ledger.Observe(*next, ledger.Observation{Alloc: t.Alloc, EndMS: end, Estimated: true}, nowMS)
		next, moved = &observed, moved || changed
	}
	looked, dropped := ledger.Looked(*next)
	next, moved = &looked, moved || dropped
	posted, usage, entries := metering.Post(p, *next, proof(began))
	if len(posted.Finished) > finishedKept {
		posted.Finished = slices.DeleteFunc(posted.Finished, func(id string) bool {
			return !slices.ContainsFunc(allocations, func(a nomadevents.Allocation) bool { return a.ID == id })
		})
	}
	return change{hold: &posted, posted: usage, entries: entries}, moved || len(usage) > 0
}

// lastSign is until when an allocation ran that Nomad no longer knows. As long as
// Nomad is watched without a gap, it was there a moment ago: purging a job takes
// its allocations away at once, and must not be a way around the bill. After a
// gap (an agent that was down, a Nomad that could not be reached) the watermark
// is the last proof.
func (m *Meter) lastSign(t ledger.Track, began time.Time) int64 {
	if m.watchedTo.IsZero() || began.Sub(m.watchedTo) > 2*reconcileEvery {
		return t.MarkMS
	}
	return max(t.MarkMS, began.UnixMilli())
}

// resolve settles unconfirmed submissions by what Nomad has: a job newer than
// the one stored at submission is a submission (or one that they cover); an
// unchanged one means that they never arrived, once their time is up. A nil hold
// means that nothing remains.
func (m *Meter) resolve(h ledger.Hold, job nomadevents.Job, allocations []nomadevents.Allocation) (*ledger.Hold, bool) {
	if h.Pending == nil {
		return &h, false
	}
	expired := m.now().UnixMilli() >= h.ExpiresMS
	// A job that runs at an old index was registered again without a change, or
	// was there before Governor; one that is gone may have run. What runs or ran
	// is covered.
	runs := expired && h.State == ledger.Held && (!job.Dead || slices.ContainsFunc(allocations,
		func(a nomadevents.Allocation) bool { return a.CreateIndex > h.FirstIndex }))
	if (job.Exists && job.ModifyIndex > h.StoredIndex) || runs {
		next := confirm(h, job.ModifyIndex)
		if h.State == ledger.Held {
			// The job may have changed since it was registered, or been stopped: what it
			// started before that is this hold's too.
			next.FirstIndex = max(h.FirstIndex, job.CreateIndex)
		}
		return &next, true
	}
	if !expired {
		return &h, false
	}
	m.logger.Info("submission expired unconfirmed", "namespace", h.Namespace, "job_id", h.JobID, "hold_id", h.ID)
	h.InFlight = 1 // all of them have expired
	next, remains := ledger.Void(h)
	if !remains {
		return nil, true
	}
	return &next, true
}

// over reports whether the job of a confirmed hold has ended for good.
func over(h ledger.Hold, job nomadevents.Job) bool {
	return h.State == ledger.Active && h.Pending == nil && job.Dead && len(h.Tracks) == 0
}
