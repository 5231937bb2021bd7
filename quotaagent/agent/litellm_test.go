package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// The defects of another budget system, by the numbers of its issues: each is a way
// in which a ledger that is nearly right overspends, or refuses for nothing. The
// path by which its page went around the budgets is tested with the gate.

// hooked is a store that calls before each commit, and may lose its answer.
type hooked struct {
	modelBacking
	before func()
	// lose says whether the answer to this commit is lost after it was carried out.
	lose func() bool
}

// Commit implements Store.
func (h *hooked) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := h.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion is Commit that tells the version.
func (h *hooked) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	if h.before != nil {
		h.before()
	}
	version, err := h.modelBacking.CommitVersion(ctx, fence, writes)
	if err == nil && h.lose != nil && h.lose() {
		return 0, fmt.Errorf("%w: i/o timeout", ledger.ErrUnavailable)
	}
	return version, err
}

func (r *rig) backing() modelBacking { return r.store.(modelBacking) }

// second is another agent over the same store, Nomad and clock.
func (r *rig) second(store Store) *Agent {
	a := New(Options{Name: "second", Store: store, Nomad: r.nomad, Placer: r.placer, Logger: hclog.NewNullLogger(), Now: r.clock.now})
	must.NoError(r.t, a.Keeper.Load(r.ctx))
	a.Meter.begin()
	return a
}

// 34732: the limit is checked, another request counts, and both are let through.
func TestLiteLLM34732CheckThenIncrementIsOneStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.second(r.store)
	var second gate.Verdict
	once := sync.OnceFunc(func() {
		v, err := other.Engine.Admit(r.ctx, r.job("b", 1, 6))
		must.NoError(t, err)
		second = v
	})
	r.start(&hooked{modelBacking: r.backing(), before: once})
	first := r.admit(r.job("a", 1, 6)) // decided on books that have changed when it commits
	must.False(t, second.Denied)
	must.True(t, first.Denied)
	must.Eq(t, 6, r.heldGPUs("acme"))
	r.checkBooks()
}

// 34733: a window is reset by writing its counter, and the last writer wins. Here
// nothing is reset: a period has its own amounts, and both are written by
// compare-and-set.
func TestLiteLLM34733ANewWindowIsNoResetThatTheLastWriterWins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.clock.advance(11*time.Hour + 59*time.Minute) // a minute before midnight
	r.run(r.job("train", 1, 2))
	alloc := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	r.clock.advance(2 * time.Minute)
	// Midnight has passed: one agent posts, and in the middle of it another admits.
	other := r.second(r.store)
	admitted := false
	once := sync.OnceFunc(func() {
		v, err := other.Engine.Admit(r.ctx, r.job("next-day", 1, 3))
		must.NoError(t, err)
		admitted = !v.Denied
	})
	r.start(&hooked{modelBacking: r.backing(), before: once})
	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	must.True(t, admitted)
	b := r.balance("acme")
	day := func(at time.Time) string { return budget.PeriodAt(budget.Day, at, time.UTC).Key() }
	must.Eq(t, 2*60_000, b.Posted.At(day(noon), budget.GPUTime(budget.AnyClass)), must.Sprint("the day that ended keeps what it used"))
	must.Eq(t, 2*60_000, b.Posted.At(day(noon.Add(13*time.Hour)), budget.GPUTime(budget.AnyClass)), must.Sprint("the new one has its own"))
	must.Eq(t, 3, r.heldGPUs("acme"))
	r.checkBooks()
}

// 27639: what was reserved is not given back on some path that fails, and is spent
// for ever.
func TestLiteLLM27639NothingStaysHeldOnAnyPathThatFails(t *testing.T) {
	t.Parallel()
	ways := map[string]func(r *rig){
		"Nomad refuses": func(r *rig) { r.admit(r.job("x", 1, 4)).Settle(r.ctx, gate.Outcome{Known: true}) },
		"the answer is lost, and the job never arrived": func(r *rig) {
			r.admit(r.job("x", 1, 4)).Settle(r.ctx, gate.Outcome{})
		},
		"nobody settles it": func(r *rig) { r.admit(r.job("x", 1, 4)) },
		"the agent dies after it held": func(r *rig) {
			m := &mortal{Store: r.store, left: 1, written: true}
			r.start(m)
			_, err := r.Engine.Admit(r.ctx, r.job("x", 1, 4))
			must.Error(r.t, err)
			r.start(r.store)
		},
		"the agent dies before it settles": func(r *rig) {
			m := &mortal{Store: r.store, left: 2}
			r.start(m)
			r.admit(r.job("x", 1, 4)).Settle(r.ctx, gate.Outcome{Known: true})
			r.start(r.store)
		},
		"the client is gone": func(r *rig) {
			ctx, cancel := context.WithCancel(r.ctx)
			v, err := r.Engine.Admit(ctx, r.job("x", 1, 4))
			must.NoError(r.t, err)
			cancel()
			v.Settle(ctx, gate.Outcome{})
		},
		"a resubmission is refused": func(r *rig) {
			r.run(r.job("x", 1, 1))
			r.admit(r.job("x", 1, 4)).Settle(r.ctx, gate.Outcome{Known: true})
			r.nomad.kill("default", "x")
		},
	}
	for name, fail := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			fail(r)
			r.clock.advance(confirmWithin + time.Second)
			must.NoError(t, r.settle())
			must.NoError(t, r.settle())
			must.SliceEmpty(t, r.open())
			must.Eq(t, 0, r.balance("acme").Held.Len())
			must.Eq(t, 0, r.posted("acme"))
			must.False(t, r.admit(r.job("whole", 1, 8)).Denied, must.Sprint("all of the limit is free"))
		})
	}
}

// 28247: counters are rebuilt by adding, and N processes that do so multiply them.
func TestLiteLLM28247ARebuildByManyAgentsCountsOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("a", 1, 3))
	r.run(r.job("b", 2, 1))
	want := r.balance("acme/research").Held
	for _, damage := range []string{"nothing held", "twice as much held"} {
		records, err := r.store.Read(r.ctx, balancePrefix+"acme/research")
		must.NoError(t, err)
		broken := r.balance("acme/research").Clone()
		if damage == "nothing held" {
			broken.Held = ledger.NewVector()
		} else {
			broken.Held.AddAll(want, 1)
		}
		value, err := broken.Encode()
		must.NoError(t, err)
		must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: records[0].Key, Value: value, Version: records[0].Version}}))

		var all sync.WaitGroup
		for range 5 {
			a := r.second(r.store)
			all.Go(func() {
				for range 3 {
					if _, err := a.Engine.books.repair(r.ctx, ledger.Fence{}); err != nil {
						t.Errorf("repair: %v", err)
					}
				}
			})
		}
		all.Wait()
		must.Eq(t, want, r.balance("acme/research").Held, must.Sprint(damage))
		r.checkBooks()
	}
}

// 30460: an add whose answer is lost is sent again, and counts twice.
func TestLiteLLM30460ATimeoutNeverCountsTwice(t *testing.T) {
	t.Parallel()
	for every := 1; every <= 3; every++ {
		r := newRig(t)
		n := 0
		store := &hooked{modelBacking: r.backing(), lose: func() bool { n++; return n%every == 0 }}
		r.start(store)
		r.Engine.books.wait = func(context.Context, time.Duration) {}
		story(r)
		store.lose = nil
		must.Greater(t, 10, n)
		r.checkBooks()
		endAll(r)
		r.checkBooks()
		must.Eq(t, r.facts(), r.posted("acme"), must.Sprintf("every answer in %d is lost", every))
		must.SliceEmpty(t, r.open())
	}
}

// 36926: requests are refused under load although there is room for all of them.
func TestLiteLLM36926NobodyIsRefusedUnderLoadWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(testPolicy(32, "1000"))
	var all sync.WaitGroup
	for i := range 32 { // together exactly what the limit allows
		all.Go(func() {
			for round := range 5 {
				s := r.job(fmt.Sprintf("job-%02d", i), 1, 1)
				v, err := r.Engine.Admit(r.ctx, s)
				if err != nil || v.Denied {
					t.Errorf("job %d, round %d: %v %v", i, round, err, v.Message)
					return
				}
				v.Settle(r.ctx, gate.Outcome{Known: true}) // refused by Nomad: given back
			}
		})
	}
	all.Wait()
	must.SliceEmpty(t, r.open())
	r.checkBooks()
}

// 6288: what one process lets through, another one learns of a minute later.
func TestLiteLLM6288AnotherAgentKnowsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	agents := []*Agent{r.Agent, r.second(r.store), r.second(r.store)}
	for i := range 8 { // in turn, at one instant, with what each remembers
		v, err := agents[i%3].Engine.Admit(r.ctx, r.job(fmt.Sprint("job-", i), 1, 1))
		must.NoError(t, err)
		must.False(t, v.Denied)
	}
	for i, a := range agents {
		v, err := a.Engine.Admit(r.ctx, r.job(fmt.Sprint("more-", i), 1, 1))
		must.NoError(t, err)
		must.True(t, v.Denied)
	}
	must.Eq(t, 8, r.heldGPUs("acme"))
}

// 26672: usage is counted when it is over, so that what runs at once is not seen.
func TestLiteLLM26672TheWorstCaseIsHeldBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(testPolicy(100, "10")) // ten GPU-hours a month
	first := r.admit(r.job("a", 1, 6))
	must.False(t, first.Denied)
	must.Eq(t, ledger.Held, r.holdOf("default", "a").State, must.Sprint("before Nomad has heard of it"))
	second := r.admit(r.job("b", 1, 6))
	must.True(t, second.Denied)
	contains(t, second.Message, "6.05 GPU-hours held")
	must.Eq(t, 0, r.posted("acme"))
}

// 9658: one way in does not ask. All kinds of submission are decided by the same
// function; that the gate asks on every route is TestTrap1.
func TestLiteLLM9658EveryKindOfSubmissionIsDecided(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for kind := gate.Register; kind <= gate.Revert; kind++ {
		s := r.job(fmt.Sprint("job-", kind), 1, 9)
		s.Kind = kind
		v, err := r.Engine.Admit(r.ctx, s)
		must.NoError(t, err)
		must.True(t, v.Denied, must.Sprintf("kind %d", kind))
		must.Eq(t, "exceeds_budget", v.Reason, must.Sprintf("kind %d", kind))
	}
	must.SliceEmpty(t, r.open())
}

// The page's own button went around the budgets. Whatever the agent serves beside
// the gate, no endpoint of it takes a job, dispatches one or scales one.
func TestLiteLLMUIBypassNoEndpointOfTheAgentStartsWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, route := range r.Routes() {
		must.StrHasPrefix(t, "/governor/v1/", route.Path)
		for _, word := range []string{"/jobs", "/job/", "dispatch", "scale", "revert", "periodic", "test"} {
			must.False(t, route.Method != http.MethodGet && strings.Contains(route.Path, word), must.Sprintf("%s %s", route.Method, route.Path))
		}
	}
}
