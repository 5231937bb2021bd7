package agent

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// quiet is a rig whose meter has caught up: one job is registered and waits.
func quiet(t *testing.T) (*rig, *memStore) {
	store := newMemStore()
	r := newRigOn(t, store, testPolicy(100, "100000"))
	r.run(r.job("first", 1, 1))
	must.NoError(t, r.settle())
	r.Meter.streams.Store(true)
	return r, store
}

// news has the meter handle what waits for it.
func (r *rig) news() {
	for len(r.Meter.facts) > 0 {
		must.NoError(r.t, r.Meter.handle(r.ctx, ledger.Fence{}, r.Meter.drain(<-r.Meter.facts)))
	}
}

func (r *rig) tick() { must.NoError(r.t, r.Meter.tick(r.ctx, ledger.Fence{})) }

func (r *rig) evaluated(jobID string) {
	r.Meter.evaluated.add("default", jobID)
	for len(r.Meter.evaluated.wake) > 0 {
		<-r.Meter.evaluated.wake
		must.NoError(r.t, r.Meter.handleEvaluated(r.ctx, ledger.Fence{}))
	}
}

// A registration is two transactions of the store, and Nomad is asked once about what has
// become of it, however often something is heard of the job meanwhile.
func TestARegistrationCostsTwoTransactions(t *testing.T) {
	t.Parallel()
	r, store := quiet(t)
	for _, id := range []string{"a", "b", "c"} {
		before, asked := store.transactions(), r.nomad.asked
		s := r.job(id, 1, 1)
		v := r.admit(s)
		index := r.nomad.register("default", id, false)
		r.Meter.Touch("default", id) // the event of the registration
		r.news()
		v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
		r.news()
		must.Eq(t, asked, r.nomad.asked)
		must.Eq(t, before+2, store.transactions(), must.Sprint("the hold, and that it was registered"))
		r.evaluated(id)
		must.Eq(t, asked+1, r.nomad.asked)
		for range 3 {
			r.clock.advance(time.Second)
			r.tick()
		}
		must.Eq(t, asked+1, r.nomad.asked)
		must.Eq(t, before+2, store.transactions())
	}
}

// What a submission needs besides its job is read while the gate still reads the job.
func TestASubmissionFindsReadWhatItNeeds(t *testing.T) {
	t.Parallel()
	r, store := quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	var reads sync.WaitGroup
	reads.Go(func() { r.Engine.readAhead(ctx) })
	t.Cleanup(func() { cancel(); reads.Wait() })
	r.clock.advance(time.Hour)
	read := func() bool {
		_, grants := r.Engine.books.glances.recallGrants(r.clock.now())
		r.Engine.line.mu.Lock()
		defer r.Engine.line.mu.Unlock()
		return grants && r.Engine.line.at.Equal(r.clock.now())
	}
	must.False(t, read())
	r.Engine.Prepare()
	for begin := time.Now(); !read(); time.Sleep(time.Millisecond) {
		must.Less(t, 5*time.Second, time.Since(begin), must.Sprint("nothing is read"))
	}
	before := store.calls()
	must.False(t, r.admit(r.job("a", 1, 1)).Denied)
	must.Eq(t, before+1, store.calls(), must.Sprint("the hold alone"))
}

// Who has submitted a job and is gone leaves it to the meter, which asks after a second:
// also about one that runs already, if it has heard of it, and else much later.
func TestASubmissionThatNobodySettlesIsSettledSoon(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ runs, heard, soon bool }{{false, false, true}, {false, true, true}, {true, true, true}, {true, false, false}} {
		r, _ := quiet(t)
		if c.runs {
			r.run(r.job("lost", 1, 1))
			r.nomad.start("default", "lost", 0, 1)
			must.NoError(t, r.settle())
		}
		r.admit(r.job("lost", 2, 1))
		r.nomad.register("default", "lost", false)
		if c.heard {
			r.Meter.Touch("default", "lost")
			r.news()
		}
		settled := func() bool { return r.holdOf("default", "lost").Pending == nil }
		r.clock.advance(leaveFor - time.Millisecond)
		r.tick()
		must.False(t, settled())
		r.clock.advance(time.Millisecond)
		r.tick()
		must.EqOp(t, c.soon, settled(), must.Sprint(c))
		r.clock.advance(doubtAfter)
		r.tick()
		must.True(t, settled(), must.Sprint(c))
	}
}

// A job that is dead when its evaluation has ended gives back what was held for it at once,
// and where nobody has told that, by the next tick.
func TestAJobThatIsDeadAfterItsEvaluationHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		r, _ := quiet(t)
		r.run(r.job("nothing", 1, 1))
		r.news()
		r.nomad.halt("default", "nothing")
		r.Meter.Touch("default", "nothing")
		r.news()
		must.NotNil(t, r.holdOf("default", "nothing"), must.Sprint("it was registered a moment ago"))
		if told {
			r.evaluated("nothing")
		} else {
			r.clock.advance(time.Second)
			r.tick()
		}
		must.Nil(t, r.holdOf("default", "nothing"))
	}
}

// Evaluations that end say nothing of what runs, or of jobs that hold nothing, however many
// there are. And what was told before them is taken in before.
func TestMostEvaluationsSayNothing(t *testing.T) {
	t.Parallel()
	r, store := quiet(t)
	r.run(r.job("runs", 1, 1))
	alloc := r.nomad.start("default", "runs", 0, 1)
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	asked, before := r.nomad.asked, store.calls()
	for len(r.Meter.rebuild) > 0 { // as the harness left it
		<-r.Meter.rebuild
	}
	for i := range 10 * queueSize {
		r.Meter.evaluated.add("default", fmt.Sprint("other-", i))
	}
	r.evaluated("runs")
	must.Eq(t, asked, r.nomad.asked)
	must.Eq(t, before, store.calls())
	must.False(t, r.Meter.missed.Load())

	r.nomad.finish(alloc)
	ended := *r.nomad.allocs[alloc]
	r.Meter.tell(fact{alloc: &ended})
	r.evaluated("runs")
	must.Nil(t, r.holdOf("default", "runs"))
	must.Eq(t, 0, len(r.Meter.rebuild), must.Sprint("its end is known"))
	must.Eq(t, r.facts(), r.posted("acme"))
}

// What another agent has written since the holds were listed is read before anything is
// changed, also when the meter does not know of it yet.
func TestAHoldThatOthersHaveWrittenIsReadAgain(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.beside().run(r.job("first", 3, 1))
	r.clock.advance(2 * leaveFor)
	now := *r.open()[0].Hold
	must.NotEq(t, now.JobModifyIndex, r.Meter.openHold("default", "first").JobModifyIndex, must.Sprint("nobody has told the meter"))
	r.nomad.halt("default", "first")
	r.Meter.Touch("default", "first")
	r.news()
	must.SliceEmpty(t, r.open())
	r.checkBooks()
}

// watching is a meter whose store is watched.
func watching(t *testing.T, store Store) *rig {
	r := newRigOn(t, store, testPolicy(100, "100000"))
	r.Meter.holdsChanged.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { r.Meter.watchHolds(ctx) })
	t.Cleanup(func() { cancel(); watch.Wait() })
	r.told(true)
	return r
}

// told waits until the meter knows that others have written holds, or for as long as it
// would know by then.
func (r *rig) told(want bool) {
	for begin := time.Now(); time.Since(begin) < 4*watchPause; time.Sleep(time.Millisecond) {
		if r.Meter.holdsChanged.CompareAndSwap(true, false) {
			must.True(r.t, want, must.Sprint("holds are listed for nothing"))
			return
		}
	}
	must.False(r.t, want, must.Sprint("holds are not listed"))
}

// Holds are listed when others have written some, and not for what the process itself has
// written, which it knows.
func TestHoldsAreListedForWhatOthersWrite(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := watching(t, store)
	restore := store.backup()
	r.run(r.job("own", 1, 1))
	r.told(false)
	r.beside().run(r.job("theirs", 1, 1))
	r.told(true)
	time.Sleep(2 * watchPause) // theirs were two commits
	r.Meter.holdsChanged.Store(false)
	r.told(false)
	restore()
	r.told(true)
}

// A commit that arrives after it was given up is one of which the process does not know.
func TestHoldsAreListedForACommitThatArrivesLate(t *testing.T) {
	t.Parallel()
	wire := &lossy{memStore: newMemStore()}
	r := watching(t, wire)
	r.run(r.job("own", 1, 1))
	r.told(false)
	r.Engine.books.wait = func(context.Context, time.Duration) {}
	wire.late = resends + 1
	_, err := r.Engine.Admit(t.Context(), r.job("late", 1, 1))
	must.Error(t, err)
	r.told(true)
	wire.land()
	r.told(true)
}

// A store that cannot be watched may have anything in it.
func TestHoldsAreListedWhileTheStoreCannotBeWatched(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := watching(t, store)
	store.mu.Lock()
	store.down = ledger.ErrUnavailable
	close(store.changed) // Consul's connection breaks
	store.changed = make(chan struct{})
	store.version++
	store.mu.Unlock()
	r.told(true)
}
