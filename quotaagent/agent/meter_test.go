package agent

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

func TestAJobSettlesToExactlyItsGPUTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	alloc := r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.settle())
	for range 7 { // posted in uneven pieces
		r.clock.advance(31*time.Second + 7*time.Millisecond)
		must.NoError(t, r.settle())
		r.checkBooks()
	}
	must.Positive(t, r.posted("acme"))
	must.Less(t, 4*7*31_007, r.posted("acme"), must.Sprint("never beyond what Nomad has confirmed"))
	r.clock.advance(1234 * time.Millisecond)
	r.nomad.finish(alloc)
	r.clock.advance(3 * time.Second)
	must.NoError(t, r.settle())

	must.Eq(t, int64(4*(7*31_007+1234)), r.posted("acme"))
	must.Eq(t, r.facts(), r.posted("acme/research"))
	must.SliceEmpty(t, r.open())
	must.Eq(t, 0, r.heldGPUs("acme"))
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"), must.Sprint("looking again posts nothing"))
}

func TestALostAnswerIsReconciledBothWays(t *testing.T) {
	t.Parallel()
	t.Run("Nomad has the job", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		v := r.admit(r.job("train", 1, 4))
		r.nomad.register("default", "train", false)
		v.Settle(r.ctx, gate.Outcome{})
		alloc := r.nomad.start("default", "train", 0, 4)
		r.clock.advance(doubtAfter + time.Second)
		must.NoError(t, r.settle())
		must.Eq(t, ledger.Active, r.holdOf("default", "train").State)
		r.nomad.finish(alloc)
		must.NoError(t, r.settle())
		must.SliceEmpty(t, r.open())
		must.Eq(t, r.facts(), r.posted("acme"))
	})
	t.Run("Nomad has it and it ended meanwhile", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		v := r.admit(r.job("train", 1, 4))
		r.nomad.register("default", "train", false)
		v.Settle(r.ctx, gate.Outcome{})
		alloc := r.nomad.start("default", "train", 0, 4)
		r.clock.advance(time.Second)
		r.nomad.finish(alloc)
		r.clock.advance(doubtAfter)
		must.NoError(t, r.settle())
		must.SliceEmpty(t, r.open())
		must.Eq(t, int64(4000), r.posted("acme"))
	})
	t.Run("Nomad never got it", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		r.admit(r.job("train", 1, 4)).Settle(r.ctx, gate.Outcome{})
		r.clock.advance(confirmWithin - time.Second)
		must.NoError(t, r.settle())
		must.Eq(t, 4, r.heldGPUs("acme"), must.Sprint("it may still come"))
		r.clock.advance(time.Second)
		must.NoError(t, r.settle())
		must.SliceEmpty(t, r.open())
		must.Eq(t, 0, r.heldGPUs("acme"))
	})
	t.Run("a resubmission never got there", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		r.run(r.job("train", 1, 2))
		r.admit(r.job("train", 1, 4)).Settle(r.ctx, gate.Outcome{})
		must.Eq(t, 4, r.heldGPUs("acme"))
		r.clock.advance(confirmWithin)
		must.NoError(t, r.settle())
		must.Eq(t, 2, r.heldGPUs("acme"))
		r.checkBooks()
	})
}

// A finished job is run again without a change: Nomad answers with the old
// index, and its finished allocations are still listed.
func TestRunningAFinishedJobAgainPostsItsPastOnlyOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	alloc := r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	must.Eq(t, int64(240_000), r.posted("acme"))

	s := r.job("train", 1, 4)
	v := r.admit(s)
	must.False(t, v.Denied)
	r.accept(s, v, true)
	must.NoError(t, r.settle())
	must.Eq(t, int64(240_000), r.posted("acme"))
	must.SliceEmpty(t, r.open())
}

// trained is after a job with four GPUs; ran and ended are the news of its allocation.
func trained(t *testing.T) (r *rig, ran, ended nomadevents.Allocation) {
	r = newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	ran = *r.nomad.allocs[id]
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	ended = *r.nomad.allocs[id]
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	return r, ran, ended
}

// An event of an earlier life of the job id arrives after the next one began.
func TestLateNewsOfAnEarlierLifeIsNotPosted(t *testing.T) {
	t.Parallel()
	r, late, _ := trained(t)
	r.run(r.job("train", 1, 2))
	must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{late}))
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
	must.SliceEmpty(t, r.holdOf("default", "train").Tracks)
}

// The same, of a job that Nomad had forgotten, with two submissions on their way: then
// no index tells the two lives apart.
func TestLateNewsOfAForgottenLifeIsNotPosted(t *testing.T) {
	t.Parallel()
	r, ran, ended := trained(t)
	facts := r.facts()
	r.nomad.purge("default", "train")
	r.clock.advance(6 * time.Hour)
	s := r.job("train", 1, 2)
	v := r.admit(s)
	r.admit(r.job("train", 1, 1))
	r.accept(s, v, false)
	must.Eq(t, uint64(0), r.holdOf("default", "train").FirstIndex)
	for _, news := range []nomadevents.Allocation{ran, ended} {
		must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{news}))
		must.SliceEmpty(t, r.holdOf("default", "train").Tracks)
	}
	must.NoError(t, r.settle())
	must.Eq(t, facts, r.posted("acme"))
}

func TestAnAllocationCollectedUnseenEndsAtTheLastSignOfIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	r.clock.advance(time.Minute)
	must.NoError(t, r.settle())
	proven := r.posted("acme")
	must.Eq(t, 4*(time.Minute-clockMargin).Milliseconds(), proven)
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	r.nomad.collect()
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, proven, r.posted("acme"))
	must.Eq(t, 0, r.heldGPUs("acme"))
}

// training is a job with four GPUs that the meter has just seen, and watches.
func training(t *testing.T) *rig {
	r := newRig(t)
	must.NoError(t, r.settle())
	r.run(r.job("train", 1, 4))
	r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.settle())
	return r
}

// Nomad forgets a purged job together with its allocations.
func TestAPurgedJobIsBilledToTheMomentItWasPurged(t *testing.T) {
	t.Parallel()
	r := training(t)
	r.clock.advance(2 * time.Second)
	r.nomad.purge("default", "train")
	r.clock.advance(20 * time.Second)
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, int64(8000), r.posted("acme"))
}

// A stopped job writes its checkpoint for a while, and is collected before its end was
// seen: what it is proven to have used then is not taken back.
func TestAStoppedJobIsBilledForItsCheckpoint(t *testing.T) {
	t.Parallel()
	r := training(t)
	r.clock.advance(time.Minute)
	r.nomad.mu.Lock()
	r.nomad.purged[jobKey("default", "train")] = []time.Time{r.clock.now()}
	r.nomad.mu.Unlock()
	r.clock.advance(2 * time.Minute)
	must.NoError(t, r.settle())
	proven := 4 * (3*time.Minute - clockMargin).Milliseconds()
	must.Eq(t, proven, r.posted("acme"))
	r.nomad.finish(r.allocIDs()[0])
	r.nomad.collect()
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, proven, r.posted("acme"))
}

// When that was is not known: Nomad has forgotten the evaluation, too.
func TestAPurgedJobIsBilledToTheMomentItIsMissed(t *testing.T) {
	t.Parallel()
	r := training(t)
	r.clock.advance(2*time.Second + clockMargin)
	r.nomad.mu.Lock()
	clear(r.nomad.jobs)
	clear(r.nomad.allocs)
	r.nomad.mu.Unlock()
	must.NoError(t, r.Meter.settleJob(r.ctx, ledger.Fence{}, "default", "train"))
	must.Len(t, 1, r.open(), must.Sprint("somebody else may have the GPUs already"))
	must.Eq(t, 1, len(r.Meter.rebuild))
	must.NoError(t, r.Meter.reconcile(r.ctx, ledger.Fence{}))
	must.SliceEmpty(t, r.open())
	must.Eq(t, int64(8000), r.posted("acme"))
}

// An agent whose clock runs ahead posts by Nomad's: the GPUs of an allocation whose
// end nobody saw may be somebody else's by then.
func TestAClockThatRunsAheadPostsNothingThatIsStillToCome(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	r.clock.advance(time.Minute)
	truth := (time.Minute - clockMargin).Milliseconds()
	r.clock.advance(time.Hour)
	r.nomad.ahead = time.Hour
	must.NoError(t, r.settle())
	must.Eq(t, 4*truth, r.posted("acme"))
	r.nomad.finish(id)
	r.nomad.collect()
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, 4*truth, r.posted("acme"))
}

// A new event stream begins with old events.
func TestOldNewsOfEndedWorkIsNoStray(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.register("default", "around", false)
	id := r.nomad.start("default", "around", 0, 2)
	ran := *r.nomad.allocs[id]
	must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{ran}))
	must.Len(t, 1, r.Meter.Strays())
	r.nomad.finish(id)
	must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{*r.nomad.allocs[id]}))
	must.SliceEmpty(t, r.Meter.Strays())
	must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{ran}))
	must.SliceEmpty(t, r.Meter.Strays())
}

func TestWorkWithoutAHoldIsAStrayUntilItEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.register("default", "around", false)
	id := r.nomad.start("default", "around", 0, 2)
	must.NoError(t, r.settle())
	must.Len(t, 1, r.Meter.Strays())
	status, err := r.Engine.Status(r.ctx, r.Meter)
	must.NoError(t, err)
	must.Eq(t, id, status.Ungoverned[0].Alloc)
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.Meter.Strays())

	r.nomad.start("default", "around", 0, 2)
	must.NoError(t, r.settle())
	r.nomad.mu.Lock()
	clear(r.nomad.allocs) // gone without a word
	r.nomad.mu.Unlock()
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.Meter.Strays())
	r.Meter.end()
	must.SliceEmpty(t, r.Meter.Strays())
}

func TestAStrayIsTakenInWhenItsJobIsAdmitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.register("default", "train", false)
	id := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	s := r.job("train", 1, 2)
	v := r.admit(s)
	must.False(t, v.Denied)
	r.accept(s, v, true)
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.Meter.Strays())
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
	must.SliceEmpty(t, r.open())
}

func TestPlacementIsVerifiedOnceAndForgotten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ record, want string }{
		"as offered":   {`"n1"`, ""},
		"elsewhere":    {`"n2"`, "offered n2, got n1"},
		"not recorded": {``, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.placer.record = c.record
			r.run(r.job("train", 1, 2))
			id := r.nomad.start("default", "train", 0, 2)
			must.NoError(t, r.settle())
			got := "none"
			if v := r.Meter.Verified("default", "train"); len(v) > 0 {
				got = v[0].Difference
			}
			must.Eq(t, c.want, got)

			r.start(r.store) // a restarted agent knows as much
			must.NoError(t, r.settle())
			must.Eq(t, c.want != "none", len(r.Meter.Verified("default", "train")) == 1)
			r.nomad.finish(id)
			must.NoError(t, r.settle())
			must.SliceEmpty(t, r.Meter.Verified("default", "train"))
			must.MapEmpty(t, r.Meter.checked)
		})
	}
}

func TestAServiceIsHeldAheadAndRenewed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job("web", 1, 1)
	s.Ask.Type = "service"
	r.run(s)
	r.nomad.start("default", "web", 0, 1)
	must.NoError(t, r.settle())
	lease := r.holdOf("default", "web").Tracks[0].LeaseMS
	must.Eq(t, r.clock.now().Add(2*time.Hour).UnixMilli(), lease)
	r.clock.advance(59 * time.Minute)
	must.NoError(t, r.settle())
	must.Eq(t, lease, r.holdOf("default", "web").Tracks[0].LeaseMS)
	r.clock.advance(2 * time.Minute)
	must.NoError(t, r.settle())
	must.Eq(t, r.clock.now().Add(2*time.Hour).UnixMilli(), r.holdOf("default", "web").Tracks[0].LeaseMS)
	r.checkBooks()
}

func TestAQuietLedgerCausesNoQuestions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.run(r.job(fmt.Sprintf("waiting-%d", i), 1, 1)) // nothing of them runs yet
	}
	asked := r.nomad.asked
	r.Meter.holdsChanged.Store(true)
	for range 600 { // ten minutes of ticks
		must.NoError(t, r.Meter.tick(r.ctx, ledger.Fence{}))
		r.clock.advance(time.Second)
	}
	must.Less(t, 4*(600/15+8), r.nomad.asked-asked)
	must.Greater(t, 4*(600/15-2), r.nomad.asked-asked)
}

func TestOneBrokenHoldDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: holdPrefix + "0000", Value: []byte("{")}}))
	must.NoError(t, r.Meter.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{*r.nomad.allocs[id]}))
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	must.Error(t, r.settle())
	must.Eq(t, int64(240_000), r.posted("acme"))
	must.Nil(t, r.holdOf("default", "train"))
}

func TestBalancesAreSetToTheSumOfHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	records, err := r.store.Read(r.ctx, balancePrefix+"acme")
	must.NoError(t, err)
	wrong, err := ledger.DecodeBalance(records[0].Value)
	must.NoError(t, err)
	wrong.Held.Add(ledger.ConcurrentKey, "gpus/any", 3)
	value, err := wrong.Encode()
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{
		{Key: balancePrefix + "acme", Value: value, Version: records[0].Version},
		{Key: balancePrefix + "gone", Value: value}}))
	repaired, err := r.Engine.books.repair(r.ctx, ledger.Fence{})
	must.NoError(t, err)
	must.Eq(t, []string{"acme", "gone"}, repaired)
	r.checkBooks()
	repaired, err = r.Engine.books.repair(r.ctx, ledger.Fence{})
	must.NoError(t, err)
	must.SliceEmpty(t, repaired)
}

func TestADeposedMeterWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
	defer cancel()
	err := r.Meter.observe(ctx, ledger.Fence{Session: "of-a-past-leader"}, []nomadevents.Allocation{*r.nomad.allocs[id]})
	must.Error(t, err)
	must.SliceEmpty(t, r.holdOf("default", "train").Tracks)
}

// Two meters that both believe to lead, over one store without any fence: the
// compare-and-set alone must keep every millisecond single.
func TestTwoMetersNeverPostTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var allocs []string
	for i := range 4 {
		id := fmt.Sprintf("job-%d", i)
		r.run(r.job(id, 1, 2))
		allocs = append(allocs, r.nomad.start("default", id, 0, 2))
	}
	second := *r
	second.start(r.store)
	drive := func(m *rig) {
		for range 12 {
			_ = m.settle()
		}
	}
	for round := range 4 {
		r.clock.advance(40 * time.Second)
		r.nomad.finish(allocs[round])
		var both sync.WaitGroup
		both.Go(func() { drive(r) })
		both.Go(func() { drive(&second) })
		both.Wait()
		r.checkBooks()
	}
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
	must.SliceEmpty(t, r.open())
}

func TestNomadDownLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	id := r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.settle())
	r.nomad.fail(errDown)
	r.clock.advance(10 * time.Minute)
	must.Error(t, r.settle())
	posted := r.posted("acme")
	must.Eq(t, 0, posted, must.Sprint("nothing is posted without proof"))
	r.nomad.fail(nil)
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
}

func TestFactsBeyondTheQueueAreFoundLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range queueSize + 10 {
		r.Meter.Touch("default", "train")
	}
	must.Eq(t, queueSize, len(r.Meter.facts))
	r.Meter.end()
	r.Meter.Touch("default", "train")
	r.Meter.begin()
	must.Eq(t, 0, len(r.Meter.facts), must.Sprint("facts of an earlier term are history"))
	r.Meter.Rebuild()
	r.Meter.Rebuild()
	must.Eq(t, 1, len(r.Meter.rebuild))
}

func TestManyRestartsDoNotOutgrowTheHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job("web", 1, 1)
	s.Ask.Type = "service"
	r.run(s)
	hold, err := r.Engine.books.readHold(r.ctx, holdKey("default", "web"))
	must.NoError(t, err)
	h := *hold.Hold
	for i := range finishedKept + 50 {
		h.Finished = append(h.Finished, fmt.Sprintf("a-old-%06d", i))
	}
	id := r.nomad.start("default", "web", 0, 1)
	p := r.Keeper.State().Policy
	next, _, _ := r.Meter.settled(p, h, &answer{job: nomadevents.Job{Exists: true}, allocations: []nomadevents.Allocation{*r.nomad.allocs[id]}, began: r.clock.now()})
	must.SliceEmpty(t, next.hold.Finished)
	must.Len(t, 1, next.hold.Tracks)
}

// More allocations than the job has are those of an old version that came back without a
// word, or of one that is still being stopped: somebody looks. A submission on its way
// explains them.
func TestMoreAllocationsThanAdmittedAreLookedAt(t *testing.T) {
	t.Parallel()
	h := ledger.Hold{Lines: []ledger.Line{{Group: "g", Count: 2}, {Group: "other", Count: 2}},
		Tracks: []ledger.Track{{Alloc: "1", Group: "g"}, {Alloc: "2", Group: "g"}, {Alloc: "3", Group: "g", EndMS: 1}, {Alloc: "4", Group: "other"}}}
	must.False(t, crowded(h))
	h.Tracks[2].EndMS = 0
	must.True(t, crowded(h))
	h.Pending = []ledger.Line{}
	must.False(t, crowded(h))
}
