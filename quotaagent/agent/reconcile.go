package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// manyAllocations is from how many on a snapshot needs much more memory, for a moment,
// than everything else that the agent does: it is given back then.
const manyAllocations = 1000

// fellBehind notes that facts could not be written for now: the next ones of their jobs
// must not be taken in before them.
func (m *Meter) fellBehind(err error) {
	if errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrConflict) {
		m.missed.Store(true)
	}
}

// reconcile compares everything with a snapshot. What only concerns the ledger
// comes first: it must not wait for Nomad. Holds are read after the snapshot, so
// that an allocation can only be older than the hold it is matched with.
func (m *Meter) reconcile(ctx context.Context, fence ledger.Fence) error {
	unlevel := m.rechargeAll(ctx, fence)
	if unlevel != nil {
		unlevel = fmt.Errorf("recharge: %w", unlevel)
	}
	if errors.Is(unlevel, ledger.ErrUnavailable) {
		return unlevel
	}
	began := m.now()
	allocations, err := m.nomad.Snapshot(ctx)
	if err != nil {
		return errors.Join(unlevel, fmt.Errorf("reconcile: %w", err))
	}
	began = m.byNomad(began)
	m.holdsChanged.Store(true)
	unreadable := m.refresh(ctx, true)
	if errors.Is(unreadable, ledger.ErrUnavailable) {
		return fmt.Errorf("reconcile: %w", unreadable)
	}
	m.proven = proof(began)
	m.provenMS.Store(m.proven.UnixMilli())
	m.lookAround(began, allocations)
	if m.missed.Swap(false) { // what comes from here on is in order
		m.doubtAll() // what became of jobs meanwhile nobody has told
	}
	byJob, listed := make(map[string][]nomadevents.Allocation), make(map[string]bool, len(allocations))
	for _, a := range allocations {
		key := a.Namespace + "\x00" + a.JobID
		byJob[key] = append(byJob[key], a)
		listed[a.ID] = !a.Terminal
	}
	m.forget(listed)
	failed := m.reconcileHolds(ctx, fence, byJob)
	m.fellBehind(failed)
	if ctx.Err() == nil && !errors.Is(failed, ledger.ErrUnavailable) {
		for _, strays := range byJob {
			for _, a := range strays {
				m.note(a, true)
			}
		}
	}
	err = errors.Join(unlevel, unreadable, failed)
	if err == nil {
		m.watchedTo = m.proven
		m.recovered()
	}
	m.duties.snapshot(ctx, fence, allocations, func(err error) { m.failed(ctx, err) })
	if len(allocations) >= manyAllocations {
		defer debug.FreeOSMemory()
	}
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	return nil
}

// sights are the allocations of the last snapshot, and those that the event stream
// has shown since.
type sights struct {
	// at is when Nomad was asked for the snapshot; zero before the first.
	at time.Time
	// listed are all of them, ended those that have ended.
	listed, ended map[string]bool
	// newest is the highest create index in the snapshot.
	newest uint64
}

func (s *sights) see(a nomadevents.Allocation) {
	s.listed[a.ID] = true
	if a.Terminal {
		s.ended[a.ID] = true
	}
}

// stale reports whether news are of an allocation that was placed before the last
// snapshot and was gone by then: its GPUs may be somebody else's since.
func (s *sights) stale(a nomadevents.Allocation) bool {
	return !s.listed[a.ID] && a.CreateIndex < s.newest
}

// lookAround begins the timeline of GPUs anew, with the allocations of a snapshot
// and those that holds know and Nomad does not any more.
func (m *Meter) lookAround(at time.Time, allocations []nomadevents.Allocation) {
	m.gpus, m.sights = metering.NewTimeline(), sights{at: at, listed: make(map[string]bool, len(allocations)), ended: make(map[string]bool)}
	for _, a := range allocations {
		m.sights.see(a)
		m.sights.newest = max(m.sights.newest, a.CreateIndex)
		m.gpus.See(a.ID, a.CreateIndex, a.Created.UnixMilli(), a.IDs())
	}
	for _, h := range m.open {
		for _, t := range h.Tracks {
			m.gpus.See(t.Alloc, t.CreateIndex, t.StartMS, idsOf(t))
		}
	}
}

// reconcileHolds brings all holds in line with the allocations of their jobs in a
// snapshot, and takes those out of byJob. What runs is posted in the ticks.
func (m *Meter) reconcileHolds(ctx context.Context, fence ledger.Fence, byJob map[string][]nomadevents.Allocation) error {
	p := m.policy.State().Policy
	var changed []*news
	var gone []heldAt
	for _, h := range m.open {
		n := &news{known: h, namespace: h.Namespace, jobID: h.JobID, allocations: byJob[h.JobKey()]}
		delete(byJob, h.JobKey())
		for _, a := range n.allocations {
			m.verify(*h.Hold, a)
			m.note(a, false)
		}
		if len(vanished(*h.Hold, n.allocations)) > 0 {
			gone = append(gone, h) // all of them are looked at again
			continue
		}
		_, moved := m.observed(p, *h.Hold, n)
		if n.doubtful {
			m.Touch(h.Namespace, h.JobID)
		}
		if moved {
			changed = append(changed, n)
		}
	}
	errs := m.takeIn(ctx, fence, changed)
	for i, n := range changed {
		errs[i] = ignore(errs[i], errNoHold)
		if errs[i] == nil && slices.ContainsFunc(n.allocations, func(a nomadevents.Allocation) bool { return a.Terminal }) {
			m.Touch(n.namespace, n.jobID) // it may have been the last one
		}
	}
	return errors.Join(jobErrors(changed, errs), m.settleAll(ctx, fence, gone))
}

// levels are the holds that are known to charge what a policy wants. A hold that
// changes is another one.
type levels struct {
	policy *budget.Policy
	holds  map[*ledger.Hold]bool
}

// rechargeAll brings what holds charge in line with the policy, whose windows
// and zone may have changed, and the balances in line with the holds.
func (m *Meter) rechargeAll(ctx context.Context, fence ledger.Fence) error {
	m.holdsChanged.Store(true)
	unreadable := m.refresh(ctx, false)
	if errors.Is(unreadable, ledger.ErrUnavailable) {
		return unreadable
	}
	p := m.policy.State().Policy
	cal, level := ledger.CalendarOf(p), levels{policy: p, holds: make(map[*ledger.Hold]bool, len(m.open))}
	var todo []heldAt
	for _, h := range m.open {
		if m.level.policy == p && m.level.holds[h.Hold] || charged(*h.Hold, cal) {
			level.holds[h.Hold] = true
		} else {
			todo = append(todo, h)
		}
	}
	m.level = level
	err := m.change(ctx, fence, todo, func(_ *budget.Policy, h heldAt) (change, error) {
		if charged(*h.Hold, cal) {
			return change{}, errNoChange
		}
		return change{hold: h.Hold}, nil
	})
	if err != nil || !m.repairs.due() {
		return err
	}
	begin := time.Now()
	repaired, err := m.books.repair(ctx, fence)
	m.repairs = measure(begin)
	m.drift.Store(int64(len(repaired)))
	for _, path := range repaired {
		m.logger.Error("balance differed from its open holds and was set right", "budget", path)
	}
	return err
}

func charged(h ledger.Hold, cal ledger.Calendar) bool {
	return ledger.Charges(h, cal).Equal(h.Charged)
}

// change changes many holds by a function of each, together: those of one budget
// behind one another, so that few balances are written. One that fails does not
// keep the others from their turn. A hold that has ended is left out.
func (m *Meter) change(ctx context.Context, fence ledger.Fence, holds []heldAt, f func(p *budget.Policy, h heldAt) (change, error)) error {
	errs := m.changeEach(ctx, fence, holds, f)
	return jobErrors(namesOf(holds), errs)
}

// changeEach is change, and tells of each hold, in the order into which it brings them, what
// went wrong.
func (m *Meter) changeEach(ctx context.Context, fence ledger.Fence, holds []heldAt, f func(p *budget.Policy, h heldAt) (change, error)) []error {
	if len(holds) == 0 {
		return nil
	}
	p := m.policy.State().Policy
	calendar := ledger.CalendarOf(p)
	slices.SortStableFunc(holds, func(a, b heldAt) int { return strings.Compare(a.Budget, b.Budget) })
	targets := make([]target, len(holds))
	for i, h := range holds {
		targets[i] = target{key: holdKey(h.Namespace, h.JobID), calendar: calendar, known: h}
	}
	return m.books.updateAll(ctx, fence, targets, func(_ int, v view) (change, error) {
		if v.hold.Hold == nil {
			return change{}, errNoChange
		}
		return f(p, v.hold)
	})
}

// namesOf are news that say no more than whose they are.
func namesOf(holds []heldAt) []*news {
	all := make([]*news, len(holds))
	for i, h := range holds {
		all[i] = &news{namespace: h.Namespace, jobID: h.JobID}
	}
	return all
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
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

// finishedKept is how many ended allocations a hold remembers before it forgets
// those that Nomad has forgotten: a service that restarts for months must not
// outgrow its document.
const finishedKept = 256

// seenEvery is how often it is noted of a job that waits for GPUs that nothing of it
// runs: until when that is certain bounds what it may have used before a change.
const seenEvery = 5 * time.Minute

// settled is the hold as it should be, with the usage to post. A nil hold means
// that nothing remains of a submission that never arrived.
//
// An end counts only once a snapshot or the event stream has shown it: then all
// allocations are known that were given the GPUs before it. Until then the
// allocation is taken to run, and again says that a snapshot is due.
func (m *Meter) settled(p *budget.Policy, h ledger.Hold, a *answer) (c change, moved, again bool) {
	next, moved := m.resolve(h, a.job, a.allocations)
	if next == nil {
		return change{}, true, false
	}
	if a.earlier > next.FirstIndex {
		of := *next
		of.FirstIndex = a.earlier
		next, moved = &of, true
	}
	take := func(o ledger.Observation) {
		observed, changed := ledger.Observe(*next, o, m.now().UnixMilli())
		next, moved = &observed, moved || changed
	}
	for _, one := range a.allocations {
		m.verify(*next, one)
		if m.former(*next, one) {
			continue
		}
		if one.Terminal && !m.sights.ended[one.ID] {
			if _, posted := slices.BinarySearch(h.Finished, one.ID); !posted && one.CreateIndex > h.FirstIndex {
				again = true
			}
			continue
		}
		take(m.observation(p, one))
	}
	for _, t := range vanished(*next, a.allocations) {
		if m.sights.at.IsZero() || m.sights.listed[t.Alloc] {
			again = true
			continue
		}
		end := m.lastSign(t, m.sights.at, a.stops)
		m.logger.Warn("allocation gone before its end was seen", "namespace", h.Namespace, "job_id", h.JobID, "alloc_id", t.Alloc,
			"posted_to", time.UnixMilli(end).UTC())
		take(ledger.Observation{Alloc: t.Alloc, EndMS: end, Estimated: true, Given: m.gpus.Given(t.Alloc, idsOf(t), end)})
	}
	if !again {
		looked, dropped := ledger.Looked(*next)
		next, moved = &looked, moved || dropped
		if seen := proof(a.began).UnixMilli(); next.State == ledger.Active && (moved || seen-max(next.SeenMS, next.CreatedMS) >= seenEvery.Milliseconds()) {
			a.noted = !moved
			next.SeenMS, moved = max(next.SeenMS, seen), true
		}
	}
	posted, usage, entries := metering.Post(p, *next, proof(a.began))
	if len(posted.Finished) > finishedKept {
		posted.Finished = slices.DeleteFunc(posted.Finished, func(id string) bool {
			return !slices.ContainsFunc(a.allocations, func(one nomadevents.Allocation) bool { return one.ID == id })
		})
	}
	return change{hold: &posted, posted: usage, entries: entries}, moved || !usage.IsZero(), again
}

// lastSign is until when an allocation ran that Nomad no longer knows. Purging a job
// takes its allocations away at once, and must not be a way around the bill: when that
// was Nomad says; what is proven to have run longer stays. Else, as long as Nomad is
// watched without a gap, the allocation was there a moment ago; by how far the clocks
// may differ is left out, for its GPUs may be somebody else's since. After a gap (an agent that was down, a Nomad that could not be
// reached) the watermark is the last proof, unless a clock that ran ahead has set it.
func (m *Meter) lastSign(t ledger.Track, missed time.Time, stops []time.Time) int64 {
	for _, at := range stops {
		if at.UnixMilli() > t.StartMS {
			return max(at.UnixMilli(), t.MarkMS)
		}
	}
	proven := proof(missed).UnixMilli()
	if m.watchedTo.IsZero() || missed.Sub(m.watchedTo) > 2*reconcileEvery {
		proven = min(proven, t.MarkMS)
	}
	return max(t.StartMS, proven)
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
	runs := expired && h.State == ledger.Held && (!job.Dead && !job.Gated || slices.ContainsFunc(allocations,
		func(a nomadevents.Allocation) bool { return a.CreateIndex > h.FirstIndex }))
	// A job that was stopped or waits is none that a submission leaves behind: it may
	// be on its way still, and run what this hold covers.
	arrived := job.Exists && job.ModifyIndex > h.StoredIndex && (expired || !job.Stopped && !job.Gated)
	if arrived || runs {
		next := ledger.Guess(confirm(h, job.ModifyIndex), h.ExpiresMS)
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

// over reports whether the job of a confirmed hold has ended for good: also one
// that was registered again and waits for budget, for it gets a hold of its own. As long
// as it is only a guess that a submission has arrived, and it has run nothing, it may be
// on its way still, and what is seen another one that asks for no GPUs.
func over(h ledger.Hold, job nomadevents.Job, nowMS int64) bool {
	guessed := h.Guessed > 0 && nowMS < h.GuessedUntilMS && len(h.Slots) == 0
	return !guessed && h.State == ledger.Active && h.Pending == nil && (job.Dead || job.Gated) && len(h.Tracks) == 0
}

// deadFor is how long a service that was not stopped must have been dead before its hold
// ends. Nomad 1.11.3 calls it dead for a second or two when its only allocation has failed
// during a deployment, until the deployment's watcher, which works in batches, has it
// replaced. A service that waits for a delayed reschedule is pending, and so is a batch
// job from the moment that its allocation has failed.
const deadFor = 10 * time.Second

// deadJob is a hold whose job is dead, and since when.
type deadJob struct {
	hold  string
	since time.Time
}

// lingers reports whether a dead job may be about to run again: a service that nobody
// has stopped.
func (m *Meter) lingers(h ledger.Hold, job nomadevents.Job) bool {
	service := slices.ContainsFunc(h.Lines, func(line ledger.Line) bool { return line.Lease && !line.EveryNode && line.Count > 0 })
	if !service || !job.Exists || job.Stopped || job.Gated {
		return false
	}
	dead := m.dead[h.JobKey()]
	if dead.hold != h.ID {
		dead = deadJob{h.ID, m.now()}
		m.dead[h.JobKey()] = dead
	}
	return m.now().Sub(dead.since) < deadFor
}
