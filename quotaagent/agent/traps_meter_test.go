package agent

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

// newMeterRig is a rig whose history is kept.
func newMeterRig(t *testing.T) (*rig, *entryBook, *memStore) {
	store := newMemStore()
	r := newRigOn(t, store, testPolicy(64, "10000"))
	book := newEntryBook()
	r.recorder = book
	r.start(store)
	return r, book, store
}

// Allocations that nobody submitted are posted like all others: each exactly for
// its time, and no GPU twice.
func TestTrap2UnsolicitedAllocationsArePosted(t *testing.T) {
	t.Parallel()
	gpus := []string{"A", "B"}
	for name, happen := range map[string]func(r *rig, first string){
		"a restart keeps the allocation": func(r *rig, first string) {
			r.nomad.change(first, func(a *nomadevents.Allocation) { a.Began = r.clock.now() })
		},
		"rescheduled to other GPUs": func(r *rig, first string) {
			r.nomad.lose(first)
			r.nomad.place("default", "train", 0, []string{"C", "D"})
		},
		"rescheduled to the same GPUs": func(r *rig, first string) {
			r.nomad.lose(first)
			r.clock.advance(3 * time.Second)
			r.nomad.place("default", "train", 0, gpus)
		},
		"drained: the successor begins before the end": func(r *rig, first string) {
			r.nomad.place("default", "train", 0, []string{"C", "D"})
			r.clock.advance(4 * time.Second)
			r.nomad.lose(first)
		},
		"replaced in the same plan on the same GPUs": func(r *rig, first string) {
			r.nomad.place("default", "train", 0, gpus)
			r.clock.advance(9 * time.Second)
			r.nomad.lose(first)
		},
		"disconnected, and both run": func(r *rig, first string) {
			r.nomad.change(first, func(a *nomadevents.Allocation) { a.Unknown = true })
			r.nomad.place("default", "train", 0, []string{"C", "D"})
			must.NoError(r.t, r.settle())
			r.clock.advance(time.Minute)
			must.NoError(r.t, r.settle())
			r.nomad.change(first, func(a *nomadevents.Allocation) { a.Unknown = false })
		},
		"purged and registered again": func(r *rig, _ string) {
			r.nomad.purge("default", "train")
			r.clock.advance(2 * time.Second)
			must.NoError(r.t, r.settle())
			r.run(r.job("train", 1, 2))
			r.nomad.place("default", "train", 0, gpus)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, book, _ := newMeterRig(t)
			r.run(r.job("train", 1, 2))
			first := r.nomad.place("default", "train", 0, gpus)
			must.NoError(t, r.settle())
			r.clock.advance(time.Minute)
			must.NoError(t, r.settle())
			happen(r, first)
			must.NoError(t, r.settle())
			r.clock.advance(time.Minute)
			must.NoError(t, r.settle())
			endAll(r)
			used, total := book.checkSingle(t), int64(0)
			for _, ms := range used {
				total += ms
			}
			must.Eq(t, total, r.posted("acme"))
			must.Positive(t, used["A"])
			must.SliceEmpty(t, r.open())
			r.checkBooks()
		})
	}
}

// The agent's clock steps under a job that runs over several hours, and the agent
// is killed. Days of 23 and 25 hours, lengths of months and prices that change are
// in the tests of package metering.
func TestTrap5ClocksAndWindows(t *testing.T) {
	t.Parallel()
	r, book, _ := newMeterRig(t)
	r.run(r.job("train", 1, 2))
	id := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	for _, step := range []time.Duration{50 * time.Minute, -7 * time.Second, 45 * time.Minute, -time.Hour, 90 * time.Minute} {
		r.clock.advance(step) // the agent's clock steps back and forth
		must.NoError(t, r.settle())
		book.checkSingle(t)
	}
	r.start(r.store)
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
	for _, e := range book.of(ledger.UsageEntry) {
		must.Eq(t, time.UnixMilli(e.FromMS).UTC().Truncate(time.Hour), time.UnixMilli(e.ToMS-1).UTC().Truncate(time.Hour), must.Sprint("no entry spans two hours"))
	}
	r.checkBooks()
}

// Agents that are down, two leaders, a session that is lost while the process
// lives, and a Consul that is restored.
func TestTrap6NothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	t.Run("the agent is down for hours", func(t *testing.T) {
		t.Parallel()
		r, book, store := newMeterRig(t)
		r.run(r.job("train", 1, 2))
		id := r.nomad.start("default", "train", 0, 2)
		must.NoError(t, r.settle())
		r.clock.advance(5 * time.Hour)
		r.start(store)
		must.NoError(t, r.settle())
		r.clock.advance(time.Minute)
		r.nomad.finish(id)
		must.NoError(t, r.settle())
		must.Eq(t, r.facts(), r.posted("acme"))
		book.checkSingle(t)
	})
	t.Run("a leader changes in the middle of a tick", func(t *testing.T) {
		t.Parallel()
		r, book, store := newMeterRig(t)
		for i := range 8 {
			id := fmt.Sprintf("job-%d", i)
			r.run(r.job(id, 1, 2))
			r.nomad.start("default", id, 0, 2)
		}
		must.NoError(t, r.settle())
		r.clock.advance(time.Minute)
		old, fence := *r, ledger.Fence{Session: "old"}
		_ = old.Meter.reconcile(shortly(t), fence)
		_ = old.Meter.tick(shortly(t), fence) // it has lost the lock, and does not know
		must.Eq(t, 0, r.posted("acme"), must.Sprint("its writes are refused"))
		r.start(store)
		must.NoError(t, r.settle())
		endAll(r)
		must.Eq(t, r.facts(), r.posted("acme"))
		book.checkSingle(t)
	})
	t.Run("two leaders without a fence", func(t *testing.T) {
		t.Parallel()
		r, book, store := newMeterRig(t)
		for i := range 4 {
			id := fmt.Sprintf("job-%d", i)
			r.run(r.job(id, 1, 2))
			r.nomad.start("default", id, 0, 2)
		}
		second := *r
		second.start(store)
		for range 4 {
			r.clock.advance(40 * time.Second)
			var both sync.WaitGroup
			both.Go(func() { _ = r.settle() })
			both.Go(func() { _ = second.settle() })
			both.Wait()
			book.checkSingle(t)
		}
		endAll(r)
		must.Eq(t, r.facts(), r.posted("acme"))
	})
	t.Run("Consul is restored from a snapshot", func(t *testing.T) {
		t.Parallel()
		r, _, store := newMeterRig(t)
		r.run(r.job("train", 1, 2))
		id := r.nomad.start("default", "train", 0, 2)
		must.NoError(t, r.settle())
		restore := store.backup()
		for range 3 {
			r.clock.advance(time.Minute)
			must.NoError(t, r.settle())
		}
		index, err := store.Watch(r.ctx, holdPrefix, 0)
		must.NoError(t, err)
		restore()
		next, err := store.Watch(r.ctx, holdPrefix, index)
		must.NoError(t, err)
		must.Eq(t, 0, next, must.Sprint("the index went backwards"))
		r.Meter.restored()
		r.clock.advance(time.Minute)
		r.nomad.finish(id)
		must.NoError(t, r.settle())
		must.Eq(t, r.facts(), r.posted("acme"), must.Sprint("what was lost is posted again, once"))
		r.checkBooks()
	})
	t.Run("collected before it was seen to end", func(t *testing.T) {
		t.Parallel()
		r, book, _ := newMeterRig(t)
		r.run(r.job("train", 1, 2))
		id := r.nomad.start("default", "train", 0, 2)
		r.clock.advance(time.Minute)
		must.NoError(t, r.settle())
		r.nomad.finish(id)
		r.nomad.collect()
		r.clock.advance(time.Minute)
		must.NoError(t, r.settle())
		must.SliceEmpty(t, r.open())
		usage := book.of(ledger.UsageEntry)
		must.Positive(t, len(usage))
		book.checkSingle(t)
	})
}

// shortly is a context that ends before a deposed leader has tried all it could.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}
