package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/shoenig/test/must"
)

// fakeActor does in the fake Nomad what is enforced, and remembers it.
type fakeActor struct {
	nomad *fakeNomad

	mu     sync.Mutex
	calls  []string
	events []AuditEvent
	// err is what every call answers, instead of doing anything; with lost it is done
	// all the same.
	err  error
	lost bool
}

func (a *fakeActor) call(text string, do func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, text)
	if a.err == nil || a.lost {
		do()
	}
	return a.err
}

// took returns what was asked for since the last time, in order of the text.
func (a *fakeActor) took() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := append([]string{}, a.calls...)
	slices.Sort(calls)
	a.calls = nil
	return calls
}

// kinds returns the audit events of enforcement since the last time.
func (a *fakeActor) kinds() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	kinds := []string{}
	for _, e := range a.events {
		if strings.HasPrefix(e.Kind, "enforcement.") {
			kinds = append(kinds, e.Kind)
		}
	}
	a.events = nil
	return kinds
}

func (a *fakeActor) answer(err error, lost bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err, a.lost = err, lost
}

// SignalAllocation implements Actor.
func (a *fakeActor) SignalAllocation(_ context.Context, alloc, task, signal string) error {
	return a.call(fmt.Sprintf("signal %s%s %s", alloc, task, signal), func() {})
}

// StopAllocation implements Actor.
func (a *fakeActor) StopAllocation(_ context.Context, alloc string) error {
	return a.call("stop "+alloc, func() { a.nomad.finish(alloc) })
}

// StopJob implements Actor.
func (a *fakeActor) StopJob(_ context.Context, namespace, jobID, reason string) error {
	return a.call(fmt.Sprintf("stop %s/%s (%s)", namespace, jobID, reason), func() {
		for _, id := range a.nomad.runningOf(namespace, jobID) {
			a.nomad.finish(id)
		}
		a.nomad.kill(namespace, jobID)
	})
}

// Scale implements Actor: what is too much ends.
func (a *fakeActor) Scale(_ context.Context, s nomadctl.Scaling) (uint64, error) {
	index := uint64(0)
	err := a.call(fmt.Sprintf("scale %s/%s %s to %d", s.Namespace, s.JobID, s.Group, s.Count), func() {
		index = a.nomad.recount(s.Namespace, s.JobID, s.Group, s.Count)
		running := a.nomad.runningOf(s.Namespace, s.JobID)
		for _, id := range running[min(len(running), s.Count):] {
			a.nomad.finish(id)
		}
		for slot := len(running); slot < s.Count; slot++ {
			a.nomad.start(s.Namespace, s.JobID, slot, 1)
		}
	})
	return index, err
}

// Record implements Auditor.
func (a *fakeActor) Record(e AuditEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
}

// runningOf are the running allocations of a job.
func (n *fakeNomad) runningOf(namespace, jobID string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(n.allocs)) {
		if a := n.allocs[id]; a.Namespace == namespace && a.JobID == jobID && !a.Terminal {
			ids = append(ids, id)
		}
	}
	return ids
}

// enforce runs the meter and then the duty, once.
func (r *rig) enforce() error {
	if err := r.settle(); err != nil {
		return err
	}
	return r.enforceOnly()
}

// enforceOnly runs the duty with what the meter saw last.
func (r *rig) enforceOnly() error {
	x := r.enforcer
	if err := x.watch(r.Meter)(r.ctx, ledger.Fence{}); err != nil {
		return err
	}
	return x.enforce(r.ctx, ledger.Fence{}, <-x.looks)
}

// at sets the clock to so much after noon.
func (r *rig) at(d time.Duration) {
	r.clock.mu.Lock()
	defer r.clock.mu.Unlock()
	r.clock.at = noon.Add(d)
}

// service is a submission of a service with one GPU for each of its allocations.
func (r *rig) service(id string, count int) gate.Submission {
	s := batch(r.nomad, "default", id, count, 1, 0)
	s.Ask.Type = "service"
	return s
}

// stopPolicy is testPolicy with rules for work over its budget.
func stopPolicy(gpus int, running, more string) string {
	return strings.Replace(testPolicy(gpus, "1000"), `owner = "finops@acme.example"`, `owner = "finops@acme.example"
  over_budget {
    running = "`+running+`"
    stop {
      signal = "SIGUSR1"
      grace  = "10m"
    }
    `+more+`
  }`, 1)
}

// Trap 7: a batch job is ended by the agent when its time is up.
func TestTrap7MaxRuntimeIsEnforcedByTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(stopPolicy(8, "let_finish", ""))
	r.run(r.job("train", 2, 1))
	first, second := r.nomad.start("default", "train", 0, 1), r.nomad.start("default", "train", 1, 1)
	r.at(49 * time.Minute)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())

	r.at(50 * time.Minute)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{"signal " + first + " SIGUSR1", "signal " + second + " SIGUSR1"}, r.actor.took())
	must.Eq(t, []string{"enforcement.begun", "enforcement.signalled"}, r.actor.kinds())
	e := r.holdOf("default", "train").Ending
	must.Eq(t, "max_runtime", e.Cause)
	must.Eq(t, noon.Add(50*time.Minute).UnixMilli(), e.SignalMS)
	must.Eq(t, noon.Add(time.Hour).UnixMilli(), e.StopMS)

	for range 3 { // and nothing new until then
		r.clock.advance(3 * time.Minute)
		must.NoError(t, r.enforce())
		must.Eq(t, []string{}, r.actor.took())
	}
	r.at(time.Hour)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{"stop default/train (max_runtime)"}, r.actor.took())
	must.Eq(t, []string{"enforcement.stopped"}, r.actor.kinds())
	must.NoError(t, r.enforce())
	must.Nil(t, r.holdOf("default", "train"))
	must.Eq(t, r.facts(), r.posted("acme"))
	must.Eq(t, int64(2*time.Hour/time.Millisecond), r.posted("acme"))
	must.Eq(t, []string{}, r.actor.took())
}

// Trap 7: a service has no end: its lease is renewed, and it is not stopped.
func TestTrap7AServiceIsRenewedAndNotStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(stopPolicy(8, "stop", ""))
	r.run(r.service("web", 2))
	r.nomad.start("default", "web", 0, 1)
	r.nomad.start("default", "web", 1, 1)
	for range 40 {
		must.NoError(t, r.enforce())
		r.clock.advance(30 * time.Minute)
	}
	must.Eq(t, []string{}, r.actor.took())
	must.Len(t, 2, r.holdOf("default", "web").Live())
	r.checkBooks()
}

// overdrawn has a job of 4 GPUs in a budget whose limit was lowered to 2.
func overdrawn(t testing.TB, running, more string) *rig {
	r := newRig(t)
	r.run(r.job("train", 4, 1))
	for slot := range 4 {
		r.nomad.start("default", "train", slot, 1)
	}
	r.edit(stopPolicy(2, running, more))
	return r
}

func TestOverdrawnWorkIsSignalledThenStopped(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	must.NoError(t, r.enforce())
	must.Len(t, 4, r.actor.took())
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
	r.at(10 * time.Minute)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{"stop default/train (over_budget)"}, r.actor.took())
	must.NoError(t, r.enforce())
	must.Nil(t, r.holdOf("default", "train"))
	must.Eq(t, 0, r.heldGPUs("acme"))
	remains, _, err := r.Engine.books.remains(r.ctx)
	must.NoError(t, err)
	must.Len(t, 1, remains)
	must.Eq(t, "over_budget", ledger.ReceiptOf(remains[0].Hold, remains[0].EndedMS).Receipt.Stopped)
}

// What is under way ends when the limit is raised again.
func TestAnEndingIsCancelledWithItsCause(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	must.NoError(t, r.enforce())
	must.Len(t, 4, r.actor.took())
	r.edit(stopPolicy(8, "stop", ""))
	r.actor.kinds()
	must.NoError(t, r.enforce())
	must.Nil(t, r.holdOf("default", "train").Ending)
	must.Eq(t, []string{"enforcement.cancelled"}, r.actor.kinds())
	r.at(20 * time.Minute)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
}

// Whoever leads next goes on where the last leader stopped, at every point.
func TestANewLeaderGoesOnWithAnEnding(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	r.actor.answer(nomadctl.ErrUnknown, false) // the leader dies before Nomad has heard of it
	must.NoError(t, r.enforce())
	must.Len(t, 4, r.actor.took())
	must.Eq(t, 0, r.holdOf("default", "train").Ending.SignalMS)

	r.actor.answer(nil, false)
	r.start(r.store)
	r.clock.advance(time.Minute)
	must.NoError(t, r.enforce())
	must.Len(t, 4, r.actor.took())
	must.Eq(t, noon.Add(11*time.Minute).UnixMilli(), r.holdOf("default", "train").Ending.StopMS, must.Sprint("the grace counts from the signal"))

	r.start(r.store)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
	r.at(11 * time.Minute)
	r.actor.answer(nomadctl.ErrUnknown, true) // it was done, and the answer was lost
	must.NoError(t, r.enforce())
	must.Eq(t, []string{"stop default/train (over_budget)"}, r.actor.took())
	r.actor.answer(nil, false)
	r.start(r.store)
	must.NoError(t, r.enforce())
	must.Nil(t, r.holdOf("default", "train"))
	must.Eq(t, []string{}, r.actor.took())
}

// A leader that was deposed does nothing any more, even if it does not know yet.
func TestADeposedLeaderStopsNothing(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	must.NoError(t, r.settle())
	x := r.enforcer
	must.NoError(t, x.watch(r.Meter)(r.ctx, ledger.Fence{}))
	must.NoError(t, x.enforce(r.ctx, ledger.Fence{Session: "of an earlier term"}, <-x.looks))
	must.Eq(t, []string{}, r.actor.took())
	must.Nil(t, r.holdOf("default", "train").Ending)
}

// deafStore is a store that fails when it is told to.
type deafStore struct {
	Store
	mu   sync.Mutex
	deaf bool
}

func (s *deafStore) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf {
		return ledger.ErrUnavailable
	}
	return nil
}

func (s *deafStore) set(deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = deaf
}

// Read implements Store.
func (s *deafStore) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Store.Read(ctx, keys...)
}

// List implements Store.
func (s *deafStore) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	if err := s.err(); err != nil {
		return nil, 0, err
	}
	return s.Store.List(ctx, prefix)
}

// Commit implements Store.
func (s *deafStore) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Commit(ctx, fence, writes)
}

// Trap 8: nothing is stopped because something is not known, not even what was
// due long before.
func TestTrap8NothingIsStoppedWhileSomethingIsUnknown(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		begin, end func(r *rig, store *deafStore)
	}{
		"the ledger cannot be reached": {
			func(_ *rig, store *deafStore) { store.set(true) },
			func(_ *rig, store *deafStore) { store.set(false) },
		},
		"the budgets are broken": {
			func(r *rig, _ *deafStore) { r.edit("budget {") },
			func(r *rig, _ *deafStore) { r.edit(stopPolicy(2, "stop", "")) },
		},
		"the budgets are gone": {
			func(r *rig, _ *deafStore) { r.edit("") },
			func(r *rig, _ *deafStore) { r.edit(stopPolicy(2, "stop", "")) },
		},
		"Nomad does not say what runs": {
			func(r *rig, _ *deafStore) { r.nomad.fail(errDown) },
			func(r *rig, _ *deafStore) { r.nomad.fail(nil) },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := overdrawn(t, "stop", "")
			store := &deafStore{Store: r.store}
			r.start(store)
			must.NoError(t, r.enforce())
			must.Len(t, 4, r.actor.took()) // the signals: the stop is due in 10 minutes
			c.begin(r, store)
			r.clock.advance(2 * time.Hour) // its run time is over too
			for range 3 {
				_ = r.settle()
				_ = r.enforceOnly()
				must.Eq(t, []string{}, r.actor.took())
				r.clock.advance(time.Minute)
			}
			c.end(r, store)
			for range 20 {
				_ = r.enforce()
				r.clock.advance(time.Minute)
			}
			must.Eq(t, "stop default/train (over_budget)", strings.Join(r.actor.took(), "; "))
			must.Nil(t, r.holdOf("default", "train"))
		})
	}
}

// A client that is cut off delays the stop by one grace, not for ever.
func TestASignalThatCannotBeDelivered(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	r.actor.answer(nomadctl.ErrUnknown, false)
	for range 19 {
		must.NoError(t, r.enforce())
		r.clock.advance(time.Minute)
	}
	must.SliceContainsFunc(t, r.actor.took(), "signal", func(call, want string) bool { return strings.HasPrefix(call, want) })
	must.NotNil(t, r.holdOf("default", "train"))
	r.actor.answer(nil, false)
	r.nomad.fail(nil)
	r.start(r.store)
	must.NoError(t, r.enforce()) // it can be reached at last: there is time for a checkpoint
	must.Len(t, 4, r.actor.took())
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
}

// Work that holds GPUs without using them is ended by max_idle, and only if
// somebody knows.
func TestIdleWorkIsEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(strings.Replace(stopPolicy(8, "let_finish", ""), `owner =`, "max_idle = \"30m\"\n  owner =", 1))
	r.run(r.service("web", 2))
	first, second := r.nomad.start("default", "web", 0, 1), r.nomad.start("default", "web", 1, 1)
	r.at(time.Hour)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
	idle := map[string]time.Duration{first: time.Hour}
	r.enforcer.idleFor = func(open []heldAt) map[string]time.Duration {
		must.Len(t, 1, open)
		return idle
	}
	must.NoError(t, r.enforce())
	must.Eq(t, []string{}, r.actor.took())
	idle[second] = 30 * time.Minute
	must.NoError(t, r.enforce())
	must.Len(t, 2, r.actor.took())
	must.Eq(t, "max_idle", r.holdOf("default", "web").Ending.Cause)
}

// The duty runs beside the meter and ends with the term.
func TestTheLeaderEnforces(t *testing.T) {
	t.Parallel()
	r := overdrawn(t, "stop", "")
	must.NoError(t, r.settle())
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.enforcer.lead(ctx, ledger.Fence{})
	}()
	deadline := time.Now().Add(10 * time.Second)
	for h := r.holdOf("default", "train"); h.Ending == nil || h.Ending.SignalMS == 0; h = r.holdOf("default", "train") {
		must.True(t, time.Now().Before(deadline))
		must.NoError(t, r.enforcer.watch(r.Meter)(ctx, ledger.Fence{}))
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-done
}

// What is stopped without a signal and without a grace is stopped when that is stored, and
// what Nomad launched by itself in the tick that finds it.
func TestWithoutAGraceTheStopFollowsAtOnce(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	r.busy("first", 6, time.Hour)
	r.direct("rogue", 4, 1)
	r.clock.advance(time.Second)
	r.enforcer.begin()
	must.NoError(t, r.pass())
	r.Meter.duties.tick(r.ctx, ledger.Fence{}, func(err error) { must.NoError(t, err) })
	must.NoError(t, r.enforcer.enforce(r.ctx, ledger.Fence{}, <-r.enforcer.looks))
	must.Eq(t, []string{"stop default/rogue (concurrency_limit)"}, r.actor.took())
	kinds := r.auditedKinds()
	must.Eq(t, []string{"out_of_band.refused", "enforcement.begun", "enforcement.stopped"}, kinds[len(kinds)-3:])
}
