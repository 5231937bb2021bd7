package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// mortal is a store whose process dies at its n-th commit: before it is written
// or after, and then nothing works any more.
type mortal struct {
	Store
	mu      sync.Mutex
	left    int
	written bool // the commit at which it dies still counts
	dead    bool
}

var errDied = errors.New("the process has died")

// Read implements Store.
func (m *mortal) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errDied
	}
	return m.Store.Read(ctx, keys...)
}

// List implements Store.
func (m *mortal) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, 0, errDied
	}
	return m.Store.List(ctx, prefix)
}

// Commit implements Store.
func (m *mortal) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDied
	}
	m.left--
	if m.left > 0 {
		return m.Store.Commit(ctx, fence, writes)
	}
	m.dead = true
	if m.written {
		_ = m.Store.Commit(ctx, fence, writes)
	}
	return errDied
}

// story is a day of an agent: two jobs, one of them resubmitted, a refused one,
// a reschedule. Nomad goes on whatever becomes of the agent. It ignores errors:
// they are what a dying process sees.
func story(r *rig) {
	submit := func(s gate.Submission, accepted bool) bool {
		v, err := r.Engine.Admit(r.ctx, s)
		if err != nil || v.Denied {
			return false
		}
		o := gate.Outcome{Known: true}
		if accepted {
			o.Accepted, o.JobModifyIndex = true, r.nomad.register(s.Ask.Namespace, s.Ask.JobID, false)
		}
		v.Settle(r.ctx, o)
		return accepted
	}
	var a, b string
	if submit(r.job("a", 1, 2), true) {
		a = r.nomad.start("default", "a", 0, 2)
	}
	_ = r.settle()
	r.clock.advance(40 * time.Second)
	if submit(r.job("b", 1, 3), true) {
		b = r.nomad.start("default", "b", 0, 3)
	}
	submit(r.job("refused", 1, 1), false)
	_ = r.settle()
	r.clock.advance(40 * time.Second)
	_ = r.settle()
	if a != "" {
		if submit(r.job("a", 1, 1), true) {
			r.nomad.start("default", "a", 0, 1)
		}
		r.nomad.finish(a)
	}
	_ = r.settle()
	r.clock.advance(20 * time.Second)
	if b != "" {
		r.nomad.finish(b)
	}
	_ = r.settle()
}

// endAll lets everything in Nomad end, and time pass until every promise that
// nobody keeps has expired.
func endAll(r *rig) {
	for _, id := range r.allocIDs() {
		r.nomad.finish(id)
	}
	for _, h := range r.open() {
		r.nomad.kill(h.Namespace, h.JobID)
	}
	for range 3 {
		r.clock.advance(confirmWithin)
		must.NoError(r.t, r.settle())
		must.NoError(r.t, r.settle())
	}
}

func (r *rig) allocIDs() []string {
	allocs, err := r.nomad.list(everything)
	must.NoError(r.t, err)
	var ids []string
	for _, a := range allocs {
		ids = append(ids, a.ID)
	}
	return ids
}

func TestKilledAtAnyWriteLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r := newRig(t)
				store := &mortal{Store: r.store, left: n, written: written}
				r.start(store)
				story(r)
				died := store.dead
				r.start(r.store) // the next process
				must.NoError(t, r.settle(), must.Sprintf("killed at commit %d", n))
				r.checkBooks()
				endAll(r)
				r.checkBooks()
				must.Eq(t, r.facts(), r.posted("acme"), must.Sprintf("killed at commit %d", n))
				must.SliceEmpty(t, r.open(), must.Sprintf("killed at commit %d", n))
				must.Eq(t, 0, r.balance("acme").Held.Len(), must.Sprintf("killed at commit %d", n))
				if !died {
					must.Greater(t, 10, n, must.Sprint("the story writes more often than that"))
					return
				}
			}
		})
	}
}

// I3, with I1 and I2, over random days: submissions that are accepted, refused or lost, allocations that
// start and end, clocks that move, agents that are killed. After every step the
// books must balance and the limit must hold; at the end usage is the facts.
func TestInvariantI3_HeldIsWhatOpenHoldsCharge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		r.t = rt
		jobs := []string{"a", "b", "c"}
		running := map[string][]string{}
		current := map[string]int{} // GPUs of an allocation of the registered job
		for range rapid.IntRange(4, 25).Draw(rt, "steps") {
			id := rapid.SampledFrom(jobs).Draw(rt, "job")
			switch rapid.SampledFrom([]string{"run", "run", "refuse", "lose", "lost on the way", "start", "end", "tick", "tick", "kill", "gap"}).Draw(rt, "step") {
			case "run":
				gpus := rapid.IntRange(1, 5).Draw(rt, "gpus")
				if v := r.admit(r.job(id, 1, gpus)); !v.Denied {
					r.accept(r.job(id, 1, gpus), v, false)
					current[id] = gpus
				}
			case "refuse":
				if v := r.admit(r.job(id, 1, 2)); !v.Denied {
					v.Settle(r.ctx, gate.Outcome{Known: true})
				}
			case "lose":
				gpus := rapid.IntRange(1, 5).Draw(rt, "gpus")
				if v := r.admit(r.job(id, 1, gpus)); !v.Denied {
					r.nomad.register("default", id, false)
					v.Settle(r.ctx, gate.Outcome{})
					current[id] = gpus
				}
			case "lost on the way":
				if v := r.admit(r.job(id, 1, 3)); !v.Denied {
					v.Settle(r.ctx, gate.Outcome{})
				}
			case "start":
				job, _ := r.nomad.Job(r.ctx, "default", id)
				if job.Exists && !job.Dead && len(running[id]) == 0 {
					running[id] = append(running[id], r.nomad.start("default", id, 0, current[id]))
					// Seen at once: a resubmission that asks for less, confirmed before the
					// ledger knows of the running allocation, would undercount it until then.
					must.NoError(rt, r.settle())
				}
			case "end":
				for _, alloc := range running[id] {
					r.nomad.finish(alloc)
				}
				delete(running, id)
			case "tick":
				r.clock.advance(time.Duration(rapid.IntRange(1, 100_000).Draw(rt, "ms")) * time.Millisecond)
				must.NoError(rt, r.settle())
			case "kill":
				r.start(r.store)
			case "gap":
				r.clock.advance(confirmWithin + time.Second)
			}
			r.checkBooks()
			must.LessEq(rt, 8, r.heldGPUs("acme"), must.Sprint("the limit"))
		}
		endAll(r)
		r.checkBooks()
		must.Eq(rt, r.facts(), r.posted("acme"))
		must.SliceEmpty(rt, r.open())
	})
}

// 64 goroutines want a share of one tight limit. What is admitted never exceeds
// it, and nobody gets an error but a denial.
func TestAStampedeNeverExceedsTheLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stampede(t, r, 64)
}

func stampede(t *testing.T, r *rig, callers int) {
	var mu sync.Mutex
	admitted, errs := 0, []error{}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			s := batch(r.nomad, "default", fmt.Sprintf("job-%02d", i), 1, 1, time.Hour)
			v, err := r.Engine.Admit(r.ctx, s)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, err)
			case !v.Denied:
				admitted++
			}
		})
	}
	all.Wait()
	must.SliceEmpty(t, errs)
	must.Eq(t, 8, admitted)
	must.Eq(t, 8, r.heldGPUs("acme"))
	r.checkBooks()
}
