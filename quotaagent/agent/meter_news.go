package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
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
	// index is that of the change of a job; 0 when something else was heard of it.
	index uint64
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
			Job: func(namespace, jobID string, index uint64) {
				m.tell(fact{namespace: namespace, jobID: jobID, index: index})
			},
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
		marks, _, failed := m.books.marks(ctx)
		if err = errors.Join(err, failed); err != nil {
			others = nil
			m.holdsChanged.Store(true)
			pause(ctx, tickEvery)
			continue
		}
		own := marks[m.books.mark.key]
		delete(marks, m.books.mark.key)
		if others == nil || next == 0 || !maps.Equal(others, marks) || own > m.books.lastCommit() {
			m.holdsChanged.Store(true)
		}
		index, others = next, marks
		pause(ctx, watchPause)
	}
}

// drain is a fact and what waits behind it, so that many are written at once.
func (m *Meter) drain(first fact) []fact {
	facts := []fact{first}
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

// key is the one of ledger.Hold.JobKey.
func (j jobAt) key() string { return j.namespace + "\x00" + j.jobID }

// heardOf is what was heard of a job.
type heardOf struct {
	// touched says that it is to be looked at, and index is that of its last change that
	// was told; 0 for none.
	touched bool
	index   uint64
}

// handle takes in news of allocations, and looks at the jobs that are named.
func (m *Meter) handle(ctx context.Context, fence ledger.Fence, facts []fact) error {
	var seen []nomadevents.Allocation
	jobs := make(map[jobAt]heardOf)
	for _, f := range facts {
		switch at := (jobAt{f.namespace, f.jobID}); {
		case f.alloc == nil:
			m.duties.job(f.namespace, f.jobID)
			m.strayAgain(f.namespace, f.jobID)
			jobs[at] = heardOf{jobs[at].touched || f.index == 0, max(jobs[at].index, f.index)}
		case !m.missed.Load():
			seen = append(seen, *f.alloc)
		}
	}
	failed := m.observe(ctx, fence, seen)
	m.fellBehind(failed)
	holds, err := m.holdsOf(ctx, jobs)
	if err != nil {
		for at := range jobs {
			m.askAgain(at.key())
		}
		return errors.Join(failed, err)
	}
	holds = slices.DeleteFunc(holds, func(h heldAt) bool {
		heard := jobs[jobAt{h.Namespace, h.JobID}]
		left := m.leave(h, heard)
		if heard.index != 0 && (!left || h.Pending != nil) { // else it is known
			m.told[h.JobKey()] = max(m.told[h.JobKey()], heard.index)
		}
		return left
	})
	return errors.Join(failed, m.settleAll(ctx, fence, holds))
}

// holdsOf are the open holds of jobs. They are read where others may have written since
// all were listed, and are else known.
func (m *Meter) holdsOf(ctx context.Context, jobs map[jobAt]heardOf) (holds []heldAt, err error) {
	keys := make(map[string]jobAt, len(jobs))
	for at := range jobs {
		keys[holdKey(at.namespace, at.jobID)] = at
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
// heard of it. A submission is on its way: who makes it writes the answer, and the ticks
// ask. Or it is told that it was registered, which is known: the job has been asked about
// since, or is by the next tick.
func (m *Meter) leave(h heldAt, heard heardOf) bool {
	if h.Pending != nil {
		m.young[h.JobKey()] = onItsWay(h, m.now().UnixMilli())
		return m.young[h.JobKey()]
	}
	return !heard.touched && heard.index == h.JobModifyIndex && h.State == ledger.Active && h.Guessed == 0
}

// onItsWay reports whether a submission was admitted a moment ago, by clocks that differ by
// less, and is not settled.
func onItsWay(h heldAt, nowMS int64) bool {
	age := nowMS - admittedMS(h)
	return h.Pending != nil && age > -leaveFor.Milliseconds() && age < leaveFor.Milliseconds()
}

// admittedMS is when the submission that is on its way was admitted.
func admittedMS(h heldAt) int64 { return h.ExpiresMS - confirmWithin.Milliseconds() }
