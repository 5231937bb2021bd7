package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// waitingCrowd is a meter with so many jobs of which nothing runs.
func waitingCrowd(t *testing.T, n int) *rig {
	r := newRigOn(t, newMemStore(), testPolicy(100, "100000"))
	r.Meter.missed.Store(false)
	for i := range n {
		r.Meter.open = append(r.Meter.open, heldAt{&ledger.Hold{ID: fmt.Sprint("h-", i), Namespace: "default", JobID: fmt.Sprintf("job-%06d", i), State: ledger.Active}, 1})
	}
	return r
}

// asks is a tick: who is asked about, in order.
func (r *rig) asks() []string {
	look, _ := r.Meter.agenda()
	ids := make([]string, len(look))
	for i, h := range look {
		r.Meter.lookedAt(h)
		ids[i] = h.JobID
	}
	return ids
}

// As long as events come, nobody is asked about often, and everybody in time; without them
// more often. Whoever has changed has the next turn.
func TestJobsOfWhichNothingIsHeardAreAskedAboutInTurn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 1500).Draw(rt, "jobs")
		streams, missed := rapid.Bool().Draw(rt, "events come"), rapid.Bool().Draw(rt, "some were missed")
		heard := streams && !missed
		r := waitingCrowd(t, n)
		r.Meter.streams.Store(streams)
		r.Meter.missed.Store(missed)
		last := map[string]time.Time{}
		most := lookAtMost + time.Duration(n/max(routineLooksMin, n/routineLooks)+1)*tickEvery
		if !heard {
			most = lookUnheard + time.Duration(n/looksMost+1)*tickEvery
		}
		asked, ticks := 0, 700
		for tick := range ticks {
			changed := -1
			if rapid.IntRange(0, 20).Draw(rt, "change") == 0 {
				changed = rapid.IntRange(0, n-1).Draw(rt, "changed")
				r.Meter.open[changed].version++
			}
			ids := r.asks()
			must.LessEq(rt, looksMost, len(ids))
			for _, id := range ids {
				last[id] = r.clock.now()
			}
			if changed >= 0 && tick > n/looksMost {
				must.Eq(rt, r.clock.now(), last[r.Meter.open[changed].JobID], must.Sprint("what has changed is asked about at once"))
			}
			if tick > n/looksMost+600 {
				asked += len(ids)
				for id, at := range last {
					must.LessEq(rt, most, r.clock.now().Sub(at), must.Sprint(id))
				}
			}
			r.clock.advance(tickEvery)
		}
		must.MapLen(rt, n, last)
		if heard && n > routineLooks {
			must.LessEq(rt, (ticks-600)*(n/100+routineLooksMin), asked)
		}
	})
}

// Nobody has a turn again before all have had one, also where all are due at once and each
// is due again before the last one has had it.
func TestTurnsComeInOrder(t *testing.T) {
	t.Parallel()
	r := waitingCrowd(t, looksMost)
	r.Meter.streams.Store(true)
	turns := map[string]int{}
	for range 200 {
		for _, id := range r.asks() {
			turns[id]++
		}
		r.Meter.open[0].version++ // it has news all the time, and is asked about besides
		delete(turns, r.Meter.open[0].JobID)
		counts := slices.Sorted(maps.Values(turns))
		must.LessEq(t, counts[0]+1, counts[len(counts)-1])
		r.clock.advance(4 * tickEvery)
	}
}

// What only time decides does not wait for the turns of the others, of which all may be due.
func TestWhatTimeDecidesDoesNotWaitForTurns(t *testing.T) {
	t.Parallel()
	r := waitingCrowd(t, 3000)
	r.Meter.streams.Store(true)
	for range 16 {
		r.asks()
		r.clock.advance(time.Second)
	}
	pending := r.Meter.open[1500].JobID
	r.Meter.open[1500] = heldAt{&ledger.Hold{ID: "p", Namespace: "default", JobID: pending, State: ledger.Held,
		Pending: []ledger.Line{{}}, ExpiresMS: r.clock.now().Add(confirmWithin - 2*leaveFor).UnixMilli()}, 7}
	last := r.clock.now()
	for range 400 {
		if slices.Contains(r.asks(), pending) {
			last = r.clock.now()
		}
		must.LessEq(t, lookUnheard, r.clock.now().Sub(last))
		r.clock.advance(time.Second)
	}
}

// Where a question was in vain the next one is soon, whoever else is due, then later.
func TestAfterAQuestionInVain(t *testing.T) {
	t.Parallel()
	r := waitingCrowd(t, 3000)
	r.Meter.streams.Store(true)
	for range 20 { // all are due again together, as after a new stream
		r.asks()
		r.clock.advance(time.Second)
	}
	last := r.Meter.open[2999]
	for _, wait := range []time.Duration{lookRetry, 2 * lookRetry, 4 * lookRetry, lookUnheard, lookUnheard} {
		r.Meter.askAgain(last.JobKey())
		for at := tickEvery; at < wait; at += tickEvery {
			r.clock.advance(tickEvery)
			must.SliceNotContains(t, r.asks(), last.JobID)
		}
		r.clock.advance(tickEvery)
		must.SliceContains(t, r.asks(), last.JobID)
	}
	r.Meter.answered(last, nomadevents.Job{}, nil)
	must.MapEmpty(t, r.Meter.retries)
}

// One that cannot be written keeps the others from nothing.
func TestOneThatCannotBeWrittenIsAskedAboutAlone(t *testing.T) {
	t.Parallel()
	r, store := quiet(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		r.run(r.job(id, 1, 1))
	}
	must.False(t, r.run(batch(r.nomad, "side", "bad", 1, 1, time.Hour)).Denied)
	r.news()
	r.secondsUntil(func() bool { return false })
	key := balancePrefix + "acme/side"
	records, err := store.Read(r.ctx, key)
	must.NoError(t, err)
	must.NoError(t, store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: []byte("{"), Version: records[0].Version}}))
	r.Engine.books.doubt.Store(true)
	r.Meter.holdsChanged.Store(true)
	asked := r.nomad.asked
	r.secondsUntil(func() bool { return false })
	must.LessEq(t, 400/int(lookUnheard.Seconds())+20, r.nomad.asked-asked)
}

// What a tick has found and could not write is looked at again soon.
func TestWhatATickCouldNotWrite(t *testing.T) {
	t.Parallel()
	wire := &lossy{memStore: newMemStore()}
	r := newRigOn(t, wire, testPolicy(100, "100000"))
	r.run(r.job("dead", 1, 1))
	must.NoError(t, r.settle())
	r.Meter.streams.Store(true)
	r.beside().run(r.job("dead", 2, 1))
	r.nomad.halt("default", "dead")
	r.clock.advance(time.Minute)
	r.Engine.books.wait = func(context.Context, time.Duration) {}
	r.Meter.holdsChanged.Store(true)
	wire.before = resends + 1
	must.ErrorIs(t, r.Meter.tick(r.ctx, ledger.Fence{}), ledger.ErrUnavailable)
	must.Eq(t, 0, wire.before)
	must.NotNil(t, r.holdOf("default", "dead"))
	for range int(lookRetry / tickEvery) {
		r.clock.advance(tickEvery)
		r.tick()
	}
	must.Nil(t, r.holdOf("default", "dead"))
}

// When events may have been missed, nothing that was heard before counts.
func TestAllAreAskedAboutWhenEventsWereMissed(t *testing.T) {
	t.Parallel()
	r, _ := quiet(t)
	r.news()
	asked := r.nomad.asked
	r.tick()
	must.NoError(t, r.Meter.reconcile(r.ctx, ledger.Fence{}))
	r.tick()
	must.Eq(t, asked, r.nomad.asked)
	r.Meter.missed.Store(true)
	must.NoError(t, r.Meter.reconcile(r.ctx, ledger.Fence{}))
	r.tick()
	must.Eq(t, asked+1, r.nomad.asked)
}

// What runs may have been changed while events were missed. All of it is asked about once,
// in turns, and one that cannot be answered again.
func TestWhatRunsIsAskedAboutOnceWhenEventsWereMissed(t *testing.T) {
	t.Parallel()
	const n = 3000
	r := waitingCrowd(t, n)
	r.Meter.streams.Store(true)
	for _, h := range r.Meter.open {
		h.Tracks = []ledger.Track{{Alloc: "a-" + h.JobID, MarkMS: r.now().UnixMilli()}}
	}
	must.SliceEmpty(t, r.Meter.unheardDue())
	r.Meter.doubtAll()
	ticks := 0
	for ; len(r.Meter.unheard) > 0; ticks++ {
		must.Less(t, routineLooks+1, ticks)
		asked := r.nomad.asked
		if ticks == 3 {
			r.nomad.fail(errDown)
			must.Error(t, r.Meter.askUnheard(r.ctx))
			r.nomad.fail(nil)
			must.Len(t, n-3*(n/routineLooks+1), slices.Collect(maps.Keys(r.Meter.unheard)))
		} else {
			must.NoError(t, r.Meter.askUnheard(r.ctx))
			must.Between(t, 1, r.nomad.asked-asked, n/routineLooks+1)
		}
		r.clock.advance(time.Second)
	}
	must.SliceEmpty(t, r.Meter.unheardDue())
}

// However often events are missed, everybody has a turn.
func TestWhoWaitsToBeAskedAboutKeepsItsTurn(t *testing.T) {
	t.Parallel()
	const n = 300
	r := waitingCrowd(t, n)
	for _, h := range r.Meter.open {
		h.Tracks = []ledger.Track{{Alloc: "a-" + h.JobID, MarkMS: r.now().UnixMilli()}}
	}
	asked := make(map[string]bool)
	for range n / routineLooksMin {
		r.Meter.doubtAll()
		for _, h := range r.Meter.unheardDue() {
			asked[h.JobID] = true
		}
		must.NoError(t, r.Meter.askUnheard(r.ctx))
		r.clock.advance(time.Second)
	}
	must.MapLen(t, n, asked)
}

// Time alone decides about a submission that may have arrived, and about a service that is
// dead: that no event tells.
func TestWhatTimeDecidesIsLookedAt(t *testing.T) {
	t.Parallel()
	r := waitingCrowd(t, 4)
	r.Meter.streams.Store(true)
	r.Meter.open[1].Pending = []ledger.Line{{}}
	r.Meter.open[2].Guessed, r.Meter.open[2].GuessedUntilMS = 1, r.clock.now().Add(time.Hour).UnixMilli()
	must.Len(t, 4, r.asks())
	for range 10 { // until all wait for as long as they may
		r.clock.advance(lookAtMost)
		r.asks()
	}
	r.Meter.dead[r.Meter.open[3].JobKey()] = deadJob{r.Meter.open[3].ID, r.clock.now()}
	r.clock.advance(deadFor)
	must.Eq(t, []string{"job-000003"}, r.asks())
	must.SliceEmpty(t, r.asks())
	r.clock.advance(lookUnheard - deadFor)
	must.Eq(t, []string{"job-000001", "job-000002"}, r.asks())
	r.clock.advance(lookAtMost - lookUnheard)
	must.SliceContains(t, r.asks(), "job-000000")
}
