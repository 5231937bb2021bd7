package agent

import (
	"context"
	"encoding/json"
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

// changed tells the meter of the last change of a job, as the event stream does.
func (r *rig) changed(jobID string) {
	r.Meter.tell(fact{namespace: "default", jobID: jobID, index: r.nomad.index})
	r.news()
}

// A registration is two transactions of the store, and Nomad is asked once about what has
// become of it, whenever its event comes.
func TestARegistrationCostsTwoTransactions(t *testing.T) {
	t.Parallel()
	r, store := quiet(t)
	for id, comes := range map[string]string{"a": "before it is settled", "b": "after", "c": "with that"} {
		before, asked := store.transactions(), r.nomad.asked
		v := r.admit(r.job(id, 1, 1))
		index := r.nomad.register("default", id, false)
		if comes == "before it is settled" {
			r.changed(id)
			must.Eq(t, asked, r.nomad.asked)
		}
		v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
		if comes == "with that" {
			r.changed(id)
		}
		r.news()
		if comes == "after" {
			r.changed(id)
		}
		must.Eq(t, asked+1, r.nomad.asked)
		for range 3 {
			r.clock.advance(time.Second)
			r.tick()
		}
		must.Eq(t, asked+1, r.nomad.asked)
		must.Eq(t, before+2, store.transactions(), must.Sprint("the hold, and that it was registered"))
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

// The events of one batch are of one job: the last of them counts.
func TestANewChangeIsNotTakenForAnOldOne(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.run(r.job("brief", 1, 1))
	r.news()
	registered := r.nomad.index
	r.nomad.halt("default", "brief")
	r.Meter.tell(fact{namespace: "default", jobID: "brief", index: registered})
	r.news()
	must.NotNil(t, r.holdOf("default", "brief"), must.Sprint("that it was registered is known"))
	r.Meter.tell(fact{namespace: "default", jobID: "brief", index: r.nomad.index})
	r.Meter.tell(fact{namespace: "default", jobID: "brief", index: registered})
	r.news()
	must.Nil(t, r.holdOf("default", "brief"))
}

// longWaiting is a job that waits since an hour, and is asked about as seldom as can be.
func longWaiting(t *testing.T) (*rig, *memStore) {
	r, store := quiet(t)
	r.run(r.job("waits", 1, 1))
	r.news()
	for range 3600 {
		r.clock.advance(time.Second)
		r.tick()
		r.news()
	}
	must.Eq(t, lookAtMost, r.Meter.looks["default\x00waits"].wait)
	return r, store
}

// secondsUntil lets the meter work until something is so.
func (r *rig) secondsUntil(so func() bool) int {
	for s := range 400 {
		if so() {
			return s
		}
		r.clock.advance(time.Second)
		_ = r.Meter.beat(r.ctx, ledger.Fence{})
		for len(r.Meter.rebuild) > 0 {
			<-r.Meter.rebuild
			_ = r.Meter.reconcile(r.ctx, ledger.Fence{})
		}
		r.news()
	}
	return 400
}

// News come once. What fails then, or Nomad answers by what was before, is made good soon.
func TestWhatFailsIsNotForgotten(t *testing.T) {
	t.Parallel()
	for name, break1 := range map[string]func(r *rig, store *memStore) (mend func()){
		"nomad does not answer": func(r *rig, _ *memStore) func() {
			r.nomad.halt("default", "waits")
			r.nomad.fail(errDown)
			return func() { r.nomad.fail(nil) }
		},
		"the hold cannot be written": func(r *rig, store *memStore) func() {
			r.nomad.halt("default", "waits")
			store.down = ledger.ErrUnavailable
			return func() { store.down = nil }
		},
		"the hold cannot be read": func(r *rig, store *memStore) func() {
			r.nomad.halt("default", "waits")
			r.Meter.holdsChanged.Store(true)
			store.down = ledger.ErrUnavailable
			return func() { store.down = nil }
		},
		"nomad answers by what was before": func(r *rig, _ *memStore) func() {
			return func() { r.nomad.halt("default", "waits") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, store := longWaiting(t)
			r.Engine.books.wait = func(context.Context, time.Duration) {}
			mend := break1(r, store)
			r.Meter.tell(fact{namespace: "default", jobID: "waits", index: r.nomad.index + 1})
			for len(r.Meter.facts) > 0 {
				if err := r.Meter.handle(r.ctx, ledger.Fence{}, r.Meter.drain(<-r.Meter.facts)); err != nil {
					r.Meter.failed(r.ctx, err)
				}
			}
			mend()
			must.Between(t, 1, r.secondsUntil(func() bool { return r.holdOf("default", "waits") == nil }), 3)
		})
	}
}

// The last allocation of a job ends, and Nomad answers by what was before.
func TestAJobThatIsDeadAMomentAfterItsLastAllocation(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.run(r.job("ends", 1, 1))
	alloc := r.nomad.start("default", "ends", 0, 1)
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	r.nomad.finish(alloc)
	ended := *r.nomad.allocs[alloc]
	r.nomad.revive("default", "ends")
	r.Meter.tell(fact{alloc: &ended})
	r.Meter.tell(fact{namespace: "default", jobID: "ends", index: r.nomad.index + 1})
	r.news()
	must.NotNil(t, r.holdOf("default", "ends"))
	r.nomad.kill("default", "ends")
	must.LessEq(t, 3, r.secondsUntil(func() bool { return r.holdOf("default", "ends") == nil }))
	must.Eq(t, r.facts(), r.posted("acme"))
}

// Another agent settles a submission, and the leader hears that the job is dead before it
// knows of that.
func TestAJobOfAnotherAgentThatIsDeadAtOnce(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.beside().run(r.job("brief", 1, 1))
	r.Meter.holdsChanged.Store(true)
	r.Meter.tell(fact{namespace: "default", jobID: "brief", index: r.nomad.index + 1})
	r.news()
	r.nomad.kill("default", "brief")
	must.LessEq(t, 3, r.secondsUntil(func() bool { return r.holdOf("default", "brief") == nil }))
}

// A job that runs is changed around the gate, and the question about it is in vain.
func TestAChangeOfWhatRunsIsNotForgotten(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *rig, put func()){
		"it is answered": func(r *rig, put func()) {
			put()
			r.changed("first")
		},
		"nomad does not answer": func(r *rig, put func()) {
			put()
			r.Meter.tell(fact{namespace: "default", jobID: "first", index: r.nomad.index})
			r.nomad.fail(errDown)
			for len(r.Meter.facts) > 0 {
				if err := r.Meter.handle(r.ctx, ledger.Fence{}, r.Meter.drain(<-r.Meter.facts)); err != nil {
					r.Meter.failed(r.ctx, err)
				}
			}
			r.nomad.fail(nil)
		},
		"nomad answers by what was before": func(r *rig, put func()) {
			r.Meter.tell(fact{namespace: "default", jobID: "first", index: r.nomad.index + 1})
			r.news()
			put()
		},
		"nobody tells it, for the stream is opened anew": func(r *rig, put func()) {
			put()
			r.Meter.missed.Store(true)
			r.Meter.Rebuild()
		},
		"a submission is on its way": func(r *rig, put func()) {
			v := r.beside().admit(r.submission(r.whole("first", 1, time.Hour).Job))
			must.False(r.t, v.Denied)
			r.Meter.holdsChanged.Store(true)
			index := *r.nomad.stored("default", "first").JobModifyIndex // nothing new in it
			put()
			r.changed("first")
			v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
			r.Meter.holdsChanged.Store(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newBypassRig(t)
			r.busy("first", 1, time.Hour)
			must.SliceEmpty(t, r.enforced())
			r.Meter.streams.Store(true)
			job := r.whole("first", 1, time.Hour).Job
			more := *job.TaskGroups[0]
			more.Name = new("more")
			job.TaskGroups = append(job.TaskGroups, &more)
			raw, err := json.Marshal(job)
			must.NoError(t, err)
			change(r, func() { r.nomad.put("default", "first", raw) })
			must.LessEq(t, 4, r.secondsUntil(func() bool { return len(r.holdOf("default", "first").Lines) == 2 }))
		})
	}
}

// The indexes of a Nomad that was restored into a new cluster are lower than those that the
// ledger knows.
func TestNewsOfARestoredNomadAreHeard(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.nomad.index = 1000
	r.run(r.job("waits", 1, 1))
	r.news()
	r.nomad.index = 500
	j := r.nomad.jobs[jobKey("default", "waits")]
	j.modifyIndex, j.statusIndex = 400, 400
	r.Meter.missed.Store(true)
	r.Meter.Rebuild()
	r.secondsUntil(func() bool { return false })
	r.nomad.halt("default", "waits")
	r.changed("waits")
	must.LessEq(t, 3, r.secondsUntil(func() bool { return r.holdOf("default", "waits") == nil }))
}

// A change that no answer ever has is of another past: that is believed at last.
func TestAChangeThatNobodyKnowsIsForgotten(t *testing.T) {
	t.Parallel()
	r, _ := longWaiting(t)
	r.Meter.tell(fact{namespace: "default", jobID: "waits", index: r.nomad.index + 1000})
	r.news()
	asked := r.nomad.asked
	r.secondsUntil(func() bool { return len(r.Meter.told) == 0 })
	must.Between(t, 2, r.nomad.asked-asked, 6)
	must.MapEmpty(t, r.Meter.told)
	must.MapEmpty(t, r.Meter.retries)
}

// A submission that follows a note at once is not taken for it.
func TestASubmissionIsNotTakenForANote(t *testing.T) {
	t.Parallel()
	r, _ := longWaiting(t)
	noted := r.holdOf("default", "waits").SeenMS
	must.Less(t, 400, r.secondsUntil(func() bool { return r.holdOf("default", "waits").SeenMS != noted }))
	other := r.beside()
	v := other.admit(r.job("waits", 2, 1))
	must.False(t, v.Denied)
	index := r.nomad.register("default", "waits", false)
	r.clock.advance(900 * time.Millisecond)
	r.Meter.holdsChanged.Store(true) // as watchHolds does
	r.tick()
	v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
	r.Meter.holdsChanged.Store(true)
	must.NotEq(t, 0, len(r.holdOf("default", "waits").Former))
	must.LessEq(t, 2, r.secondsUntil(func() bool { return len(r.holdOf("default", "waits").Former) == 0 }))
}

// An agent whose clock is ahead admits a job and is gone. What it has admitted is not on its
// way until its clock says so.
func TestASubmissionByAClockThatIsAheadIsSettled(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	other, s := r.beside(), r.job("ahead", 1, 1)
	r.clock.advance(2 * time.Minute)
	other.admit(s)
	r.clock.advance(-2 * time.Minute)
	r.nomad.register("default", "ahead", false)
	r.Meter.holdsChanged.Store(true)
	must.LessEq(t, 3, r.secondsUntil(func() bool { return r.holdOf("default", "ahead").Pending == nil }))
	alloc := r.nomad.start("default", "ahead", 0, 1)
	started := *r.nomad.allocs[alloc]
	r.Meter.tell(fact{alloc: &started})
	r.news()
	must.LessEq(t, 3, r.secondsUntil(func() bool { return len(r.holdOf("default", "ahead").Tracks) == 1 }))
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
