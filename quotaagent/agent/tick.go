package agent

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

const (
	// postWithin is how long running work goes unposted at most, however much of it
	// there is: the holds take turns, those first that have waited longest. As long
	// as there are few, the interval of the policy decides.
	postWithin = 5 * time.Minute
	// postShare is how many holds have their turn in one tick at least. They fit into
	// one or two commits.
	postShare = 60
	// tickMost is how many holds are written in one tick at most, the urgent ones
	// included. With a few hundred budgets they fit into about fifteen commits.
	tickMost = 560
	// askJobsWithin is how long Nomad is asked about jobs at a time, and askersMost how
	// many questions are open at once at most.
	askJobsWithin = 500 * time.Millisecond
	askersMost    = 8
)

// askers is how many questions are open at once: as many as there are processors, so that
// those who submit need not wait for all of them where Nomad is on the same small machine.
func askers() int { return min(askersMost, max(2, runtime.GOMAXPROCS(0))) }

// tick looks at every open hold, and writes those whose turn it is.
func (m *Meter) tick(ctx context.Context, fence ledger.Fence) error {
	unreadable := m.refresh(ctx, false)
	m.followNamespaces()
	ended, work := m.agenda()
	failed := m.settleAll(ctx, fence, ended)
	return errors.Join(unreadable, failed, m.askUnheard(ctx), m.postAll(ctx, fence, work))
}

// turn is a hold that is due, and how far it is posted.
type turn struct {
	heldAt
	sinceMS int64
}

// agenda is what a tick does: the holds to look at because nothing of them runs or
// nobody has confirmed them, and those to write, the urgent ones first. Urgent are
// leases to renew, and work that uses more than was held for it: its budgets do not
// know of that before it is posted.
func (m *Meter) agenda() (look, write []heldAt) {
	nowMS, proven := m.now().UnixMilli(), m.proven.UnixMilli()
	interval := m.interval().Milliseconds()
	interval -= interval / 10 // snapshots do not come to the millisecond
	var urgent, routine []turn
	running, rota := 0, m.newRota()
	for _, h := range m.open {
		since, live := earliestMark(h.Hold)
		_, vain := m.retries[h.JobKey()]
		doubtful := m.doubtful(h)
		if doubtful || vain || (!live || len(h.Former) > 0) && !onItsWay(h, nowMS) {
			rota.offer(h)
		}
		if !live || doubtful || len(h.Former) > 0 {
			continue
		}
		running++
		if ledger.RenewalDue(*h.Hold, nowMS) {
			urgent = append(urgent, turn{h, 0})
			continue
		}
		isDue := func() bool { return proven-since >= interval && proven > since }
		if !isDue() {
			continue
		}
		if since = max(since, m.tried[h.JobKey()]); !isDue() {
			continue
		}
		if uncovered(*h.Hold, proven) {
			urgent = append(urgent, turn{h, since})
		} else {
			routine = append(routine, turn{h, since})
		}
	}
	share := max(postShare, running/int(postWithin/tickEvery)+1)
	write = appendTurns(write, urgent, tickMost)
	return rota.close(), appendTurns(write, routine, min(share, tickMost-len(write)))
}

// appendTurns appends up to n holds, those that have waited longest first.
func appendTurns(to []heldAt, turns []turn, n int) []heldAt {
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.sinceMS, b.sinceMS) })
	for _, t := range turns[:min(len(turns), max(0, n))] {
		to = append(to, t.heldAt)
	}
	return to
}

// earliestMark is up to when all running allocations of a hold are posted; false
// when none runs.
func earliestMark(h *ledger.Hold) (markMS int64, live bool) {
	for i := range h.Tracks {
		t := &h.Tracks[i]
		if t.EndMS == 0 && (!live || t.MarkMS < markMS) {
			markMS, live = t.MarkMS, true
		}
	}
	return markMS, live
}

// uncovered reports whether some allocation runs beyond what is held for it, and
// that is not posted.
func uncovered(h ledger.Hold, untilMS int64) bool {
	return slices.ContainsFunc(h.Tracks, func(t ledger.Track) bool { return t.EndMS == 0 && untilMS > max(t.MarkMS, h.HeldUntil(t)) })
}

// postAll posts the running work of holds and renews their leases.
func (m *Meter) postAll(ctx context.Context, fence ledger.Fence, holds []heldAt) error {
	nowMS, proven, readings := m.now().UnixMilli(), m.proven, m.readings()
	err := m.change(ctx, fence, holds, func(p *budget.Policy, h heldAt) (change, error) {
		next, renewed := ledger.Renew(*h.Hold, nowMS)
		next, _ = metering.Count(p, next, readings)
		next, posted, entries := metering.Post(p, next, proven)
		if !renewed && posted.IsZero() {
			return change{}, errNoChange
		}
		next.SeenMS = max(next.SeenMS, milliOf(m.watchedTo))
		return change{hold: &next, posted: posted, entries: entries}, nil
	})
	if err == nil {
		for _, h := range holds {
			m.tried[h.JobKey()] = proven.UnixMilli()
		}
	}
	return err
}

// answer is what Nomad says about the job of a hold.
type answer struct {
	seen        heldAt
	began       time.Time // when it was asked; zero if it was not
	job         nomadevents.Job
	allocations []nomadevents.Allocation
	stops       []time.Time // when the job was stopped or purged, if something of it is gone
	earlier     uint64      // allocations up to this index are of an earlier life of the job id
	err         error

	// ended is the hold as it ended, if it did; changed says that it is not the same
	// any more as it was when Nomad was asked, and again that a snapshot must tell
	// more. noted says that only the time of this look was to be written.
	ended          *ledger.Hold
	changed, again bool
	noted          bool
}

// settleAll brings holds in line with what Nomad says about their jobs: confirms
// or expires a submission whose answer was lost, and ends the hold of a job of
// which nothing runs or will run. The holds were read before Nomad is asked, and
// must still be the same when they are changed: whatever happens to a job in
// between is somebody's submission, and writes the hold.
func (m *Meter) settleAll(ctx context.Context, fence ledger.Fence, holds []heldAt) error {
	var failed []error
	var asked []*answer
	var known []heldAt
	var lost []string
	for _, a := range m.ask(ctx, holds) {
		switch {
		case a.err != nil:
			m.askAgain(a.seen.JobKey())
			failed = append(failed, a.err)
		case a.began.IsZero():
			m.Touch(a.seen.Namespace, a.seen.JobID) // there was no time for it
		default:
			m.lookedAt(a.seen)
			asked, known = append(asked, a), append(known, a.seen)
			for _, one := range a.allocations {
				lost = append(lost, m.gpus.See(one.ID, one.CreateIndex, one.Created.UnixMilli(), one.IDs())...)
			}
		}
	}
	// Who lost a GPU to one of these has it no longer.
	losers := m.losers(lost)
	if err := jobErrors(losers, m.takeIn(ctx, fence, losers)); err != nil {
		failed = append(failed, err)
	}
	byKey := make(map[string]*answer, len(asked))
	for _, a := range asked {
		byKey[a.seen.JobKey()] = a
	}
	errs := m.changeEach(ctx, fence, known, func(p *budget.Policy, h heldAt) (change, error) { return m.settle(p, h, byKey[h.JobKey()]) })
	for i, h := range known {
		a, err := byKey[h.JobKey()], errs[i]
		m.answered(h, a.job, err)
		if a.changed {
			m.Touch(a.seen.Namespace, a.seen.JobID)
		}
		if a.again {
			m.Rebuild()
		}
		if outOfBand(*a.seen.Hold, a.job) {
			m.duties.change(a.seen.Namespace, a.seen.JobID)
		}
		if l, known := m.looks[a.seen.JobKey()]; known && a.noted && err == nil {
			l.noted = true
			m.looks[a.seen.JobKey()] = l
		}
		if a.ended != nil && err == nil {
			m.logger.Info("job settled", "namespace", a.ended.Namespace, "job_id", a.ended.JobID, "budget", a.ended.Budget, "hold_id", a.ended.ID,
				"receipt", admission.Receipt(m.policy.State().Policy, *a.ended))
		}
	}
	return errors.Join(joinSome(failed), jobErrors(namesOf(known), errs))
}

// ask asks Nomad about the jobs of holds, several at a time, until askJobsWithin is
// over.
func (m *Meter) ask(ctx context.Context, holds []heldAt) []*answer {
	answers := make([]*answer, len(holds))
	todo := make(chan *answer, len(holds))
	for i, h := range holds {
		answers[i] = &answer{seen: h}
		todo <- answers[i]
	}
	close(todo)
	begin := time.Now()
	var asking sync.WaitGroup
	for range min(askers(), len(holds)) {
		asking.Go(func() {
			for a := range todo {
				if time.Since(begin) < askJobsWithin {
					m.askOne(ctx, a)
				}
			}
		})
	}
	asking.Wait()
	return answers
}

func (m *Meter) askOne(ctx context.Context, a *answer) {
	a.began = m.now()
	if a.job, a.err = m.nomad.Job(ctx, a.seen.Namespace, a.seen.JobID); a.err != nil {
		return
	}
	a.allocations, a.err = m.nomad.JobAllocations(ctx, a.seen.Namespace, a.seen.JobID)
	a.began = m.byNomad(a.began)
	if a.err == nil && slices.ContainsFunc(a.allocations, func(one nomadevents.Allocation) bool { return m.older(*a.seen.Hold, one) }) {
		a.earlier, a.err = m.books.livedTo(ctx, *a.seen.Hold)
	}
	if a.err == nil && len(vanished(*a.seen.Hold, a.allocations)) > 0 {
		a.stops, a.err = m.nomad.Deregistered(ctx, a.seen.Namespace, a.seen.JobID)
	}
}

// settle is what becomes of a hold by Nomad's answer.
func (m *Meter) settle(p *budget.Policy, h heldAt, a *answer) (change, error) {
	a.ended, a.noted = nil, false
	if a.changed = h.version != a.seen.version; a.changed {
		return change{}, errNoChange
	}
	next, moved, again := m.settled(p, *h.Hold, a)
	a.again = again
	if !a.job.Dead {
		delete(m.dead, h.JobKey())
	}
	switch {
	case next.hold == nil:
		return change{}, nil // never registered: nothing to post
	case over(*next.hold, a.job, m.now().UnixMilli()) && !again && !m.lingers(*next.hold, a.job):
		delete(m.dead, h.JobKey())
		a.ended, next.hold = next.hold, nil
		next.ended = a.ended
		return next, nil
	case !moved:
		return change{}, errNothingYet
	}
	return next, nil
}
