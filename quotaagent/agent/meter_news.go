package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

const (
	// leaveFor is how long a submission is left to who makes it: until then what is heard
	// of its job is most likely only that. The ticks look at it afterwards.
	leaveFor = time.Second
	// watchPause is the least time between two questions whether others have committed
	// anything: the ticks need not know it sooner.
	watchPause = 250 * time.Millisecond
)

// fact is one thing that happened: an allocation changed, or a job did.
type fact struct {
	alloc            *nomadevents.Allocation
	namespace, jobID string
}

// evaluations are the jobs of which an evaluation has ended since they were taken. There
// may be thousands in a moment, as when a node is lost, mostly of jobs without GPUs.
type evaluations struct {
	mu   sync.Mutex
	jobs map[jobAt]bool
	wake chan struct{} // has room for one
}

func (e *evaluations) add(namespace, jobID string) {
	e.mu.Lock()
	e.jobs[jobAt{namespace, jobID}] = true
	e.mu.Unlock()
	e.again()
}

// again wakes who takes them.
func (e *evaluations) again() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// take returns them, and begins anew.
func (e *evaluations) take() map[jobAt]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	jobs := e.jobs
	e.jobs = make(map[jobAt]bool)
	return jobs
}

// Touch asks the meter to look at a job soon. Any goroutine may call it.
func (m *Meter) Touch(namespace, jobID string) { m.tell(fact{namespace: namespace, jobID: jobID}) }

func (m *Meter) tell(f fact) {
	if !m.Leading() {
		return // the leader has its own eyes
	}
	select {
	case m.facts <- f:
	default: // full: the next reconciliation sees it
		m.missed.Store(true)
		m.Rebuild()
	}
}

// follow keeps an event stream open. Each time it stands, a snapshot is due:
// what happened in between was missed.
func (m *Meter) follow(ctx context.Context) {
	defer m.streams.Store(false)
	lost := false
	for ctx.Err() == nil {
		stream, end := context.WithCancel(ctx)
		m.mu.Lock()
		m.endStream = end
		m.mu.Unlock()
		err := m.nomad.Stream(stream, nomadevents.Watcher{
			Ready:      func() { lost = false; m.streams.Store(true); m.missed.Store(true); m.Rebuild() },
			Allocation: func(a nomadevents.Allocation) { m.tell(fact{alloc: &a}) },
			Job:        m.Touch,
			Evaluated:  m.evaluated.add,
		})
		m.streams.Store(false)
		reopen := stream.Err() != nil
		end()
		if reopen {
			continue // ended by us
		}
		if !lost {
			m.logger.Warn("event stream lost, reconciling with snapshots until it is back", "error", err)
			lost = true
		}
		pause(ctx, time.Second)
	}
}

// watchHolds notes that there are holds of which this process does not know, so that they
// are listed: of others, or of a commit of its own that arrived after it was given up. Every
// commit of every process writes that one's mark.
func (m *Meter) watchHolds(ctx context.Context) {
	var others map[string]uint64 // versions of their marks
	for index := uint64(0); ctx.Err() == nil; {
		next, err := m.books.store.Watch(ctx, commitPrefix, index)
		if err == nil && next == 0 && index != 0 {
			m.restored()
		}
		marks, own, failed := m.books.marks(ctx)
		if err = errors.Join(err, failed); err != nil {
			others = nil
			m.holdsChanged.Store(true)
			pause(ctx, tickEvery)
			continue
		}
		if others == nil || next == 0 || !maps.Equal(others, marks) || own > m.books.lastCommit() {
			m.holdsChanged.Store(true)
		}
		index, others = next, marks
		pause(ctx, watchPause)
	}
}

// drain appends the facts that wait, so that many are written at once.
func (m *Meter) drain(facts ...fact) []fact {
	for len(facts) < tickMost {
		select {
		case f := <-m.facts:
			facts = append(facts, f)
		default:
			return facts
		}
	}
	return facts
}

// jobAt is a job and the namespace that it is in.
type jobAt struct{ namespace, jobID string }

// handle takes in news of allocations, and looks at the jobs that are named.
func (m *Meter) handle(ctx context.Context, fence ledger.Fence, facts []fact) error {
	var seen []nomadevents.Allocation
	var names []jobAt
	for _, f := range facts {
		switch {
		case f.alloc == nil:
			m.duties.job(f.namespace, f.jobID)
			m.strayAgain(f.namespace, f.jobID)
			names = append(names, jobAt{f.namespace, f.jobID})
		case !m.missed.Load():
			seen = append(seen, *f.alloc)
		}
	}
	failed := m.observe(ctx, fence, seen)
	m.fellBehind(failed)
	holds, err := m.holdsOf(ctx, names)
	if err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, m.settleAll(ctx, fence, slices.DeleteFunc(holds, m.leave)))
}

// handleEvaluated looks at the jobs of which an evaluation has ended, as far as they hold
// something and nothing of them runs, once all that was told before is taken in.
func (m *Meter) handleEvaluated(ctx context.Context, fence ledger.Fence) error {
	if facts := m.drain(); len(facts) > 0 {
		m.evaluated.again()
		return m.handle(ctx, fence, facts)
	}
	m.takeWritten()
	var holds []heldAt
	for at := range m.evaluated.take() {
		h := m.openHold(at.namespace, at.jobID)
		if h.Hold == nil || h.Pending != nil {
			continue // it holds nothing, or who submits it looks
		}
		if _, live := earliestMark(h.Hold); !live {
			holds = append(holds, h)
		}
	}
	slices.SortFunc(holds, byJob)
	return m.settleAll(ctx, fence, holds)
}

// holdsOf are the open holds of jobs. They are read where others may have written since
// all were listed, and are else known.
func (m *Meter) holdsOf(ctx context.Context, names []jobAt) (holds []heldAt, err error) {
	keys := make(map[string]jobAt, len(names))
	for _, n := range names {
		keys[holdKey(n.namespace, n.jobID)] = n
	}
	sorted := slices.Sorted(maps.Keys(keys))
	if m.holdsChanged.Load() {
		holds, err = m.books.readHolds(ctx, sorted)
	} else {
		m.takeWritten()
		for _, key := range sorted {
			holds = append(holds, m.openHold(keys[key].namespace, keys[key].jobID))
		}
	}
	return slices.DeleteFunc(holds, func(h heldAt) bool { return h.Hold == nil }), err
}

// leave reports whether the job of a hold need not be asked about because of what was
// heard of it: it has just been submitted, and who did that writes the answer. The ticks
// ask about it, if the end of its evaluation does not have it asked about before.
func (m *Meter) leave(h heldAt) bool {
	nowMS := m.now().UnixMilli()
	if h.Pending != nil {
		m.young[h.JobKey()] = onItsWay(h, nowMS)
		return m.young[h.JobKey()]
	}
	_, live := earliestMark(h.Hold)
	return !live && len(h.Former) == 0 && nowMS-h.SubmittedMS < leaveFor.Milliseconds()
}

// onItsWay reports whether a submission was admitted a moment ago and is not settled.
func onItsWay(h heldAt, nowMS int64) bool {
	return h.Pending != nil && nowMS-admittedMS(h) < leaveFor.Milliseconds()
}

// admittedMS is when the submission that is on its way was admitted.
func admittedMS(h heldAt) int64 { return h.ExpiresMS - confirmWithin.Milliseconds() }
