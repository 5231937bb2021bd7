package agent

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
)

// reporter is *testing.T, or the T of a property.
type reporter interface {
	must.T
	Errorf(format string, args ...any)
}

// rig is one agent without goroutines: the test drives its meter, and so sees
// every state in between.
type rig struct {
	t      reporter
	ctx    context.Context
	clock  *clock
	nomad  *fakeNomad
	placer *fakePlacer
	actor  *fakeActor
	store  Store
	// registrar is nil where nothing waits in a queue.
	registrar registrar
	// recorder keeps the history; nil for nobody.
	recorder Recorder
	*Agent
}

func openStore(t testing.TB) *sqlite.Store {
	store, err := sqlite.Open(filepath.Join(t.TempDir(), "ledger.db"))
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	return store
}

// newRig has the policy in force: 8 GPUs at once, 1000 GPU-hours a month.
func newRig(t testing.TB) *rig { return newRigOn(t, openStore(t), testPolicy(8, "1000")) }

// newRigOn has the policy in force, over an empty store.
func newRigOn(t testing.TB, store Store, policy string) *rig {
	c := newClock()
	r := &rig{t: t, ctx: t.Context(), clock: c, nomad: newNomad(c.now), placer: &fakePlacer{}, store: store}
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{
		{Key: policyPrefix + "budgets.hcl", Value: []byte(policy)}}))
	r.start(r.store)
	must.Eq(t, "", r.Keeper.State().Broken)
	return r
}

// start begins a new agent process over a store; what the old one had in memory
// is gone.
func (r *rig) start(store Store) {
	if r.actor == nil {
		r.actor = &fakeActor{nomad: r.nomad}
	}
	r.Agent = New(Options{Name: "test", Store: store, Nomad: r.nomad, Registrar: r.registrar, Placer: r.placer, Actor: r.actor,
		Auditor: r.actor, Logger: hclog.NewNullLogger(), Now: r.clock.now,
		Recorder: r.recorder, GangPlanAfter: 15 * time.Minute})
	_ = r.Keeper.Load(r.ctx)
	r.Meter.begin()
}

// edit writes a policy file directly into the store and loads it.
func (r *rig) edit(text string) {
	key := policyPrefix + "budgets.hcl"
	records, err := r.store.Read(r.ctx, key)
	must.NoError(r.t, err)
	must.NoError(r.t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: []byte(text), Version: records[0].Version}}))
	must.NoError(r.t, r.Keeper.Load(r.ctx))
}

// settle runs the meter until it has nothing to do at this instant.
func (r *rig) settle() error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	keep(r.Meter.reconcile(r.ctx, ledger.Fence{}))
	r.Meter.looks = map[string]look{}
	r.Meter.holdsChanged.Store(true)
	keep(r.Meter.tick(r.ctx, ledger.Fence{}))
	for len(r.Meter.facts) > 0 {
		keep(r.Meter.handle(r.ctx, ledger.Fence{}, r.Meter.drain(<-r.Meter.facts)))
	}
	return first
}

// run submits, and when admitted registers; it returns the verdict.
func (r *rig) run(s gate.Submission) gate.Verdict {
	v := r.admit(s)
	if !v.Denied {
		r.accept(s, v, false)
	}
	return v
}

func (r *rig) admit(s gate.Submission) gate.Verdict {
	r.Engine.line.plans = pace{} // a busy machine must not change what is decided
	v, err := r.Engine.Admit(r.ctx, s)
	must.NoError(r.t, err)
	return v
}

func (r *rig) accept(s gate.Submission, v gate.Verdict, unchanged bool) uint64 {
	index := r.nomad.register(s.Ask.Namespace, s.Ask.JobID, unchanged)
	if v.Settle != nil {
		v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
	}
	return index
}

func (r *rig) job(id string, count, gpus int) gate.Submission {
	return batch(r.nomad, "default", id, count, gpus, time.Hour)
}

func (r *rig) open() []heldAt {
	holds, unreadable, err := r.Engine.books.holds(r.ctx)
	must.NoError(r.t, err)
	must.NoError(r.t, unreadable)
	return holds
}

func (r *rig) holdOf(namespace, id string) *ledger.Hold {
	h, err := r.Engine.books.readHold(r.ctx, holdKey(namespace, id))
	must.NoError(r.t, err)
	return h.Hold
}

func (r *rig) balance(path string) ledger.Balance {
	balances, _, err := r.Engine.books.readBalances(r.ctx, []string{path})
	must.NoError(r.t, err)
	return balances[path]
}

// posted is all GPU time ever posted to a budget.
func (r *rig) posted(path string) int64 {
	return int64(r.balance(path).Posted.At(budget.Total.String(), budget.GPUTime(budget.AnyClass)))
}

func (r *rig) heldGPUs(path string) int64 {
	return int64(r.balance(path).Held.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass)) / quantity.GPU)
}

// checkBooks checks the invariants that hold at every instant: held is the sum
// of what open holds charge, the cost of a month is its time (the price is one
// micro-unit per millisecond), and a parent has what its children have.
func (r *rig) checkBooks() {
	want := map[string]ledger.Vector{}
	for _, h := range r.open() {
		for _, path := range ledger.Ancestors(h.Budget) {
			if _, known := want[path]; !known {
				want[path] = ledger.NewVector()
			}
			want[path].AddAll(h.Charged, 1)
		}
	}
	runs, err := r.Engine.books.allRuns(r.ctx)
	must.NoError(r.t, err)
	for _, run := range runs {
		for _, path := range ledger.Ancestors(run.Budget) {
			if _, known := want[path]; !known {
				want[path] = ledger.NewVector()
			}
			want[path].AddAll(run.Charged, 1)
		}
	}
	for _, path := range []string{"acme", "acme/research", "acme/side"} {
		b := r.balance(path)
		must.True(r.t, b.Held.Equal(want[path]), must.Sprintf("held of %s: have %v, want %v", path, b.Held, want[path]))
		for _, period := range b.Posted.Periods() {
			dims := b.Posted.Row(period)
			must.Eq(r.t, dims.At(budget.GPUTime(budget.AnyClass)), dims.At(budget.Cost), must.Sprintf("cost of %s in %s", path, period))
		}
	}
	must.Eq(r.t, r.posted("acme"), r.posted("acme/research")+r.posted("acme/side"))
}

// facts is the GPU time that Nomad's ended allocations really took.
func (r *rig) facts() int64 {
	r.nomad.mu.Lock()
	defer r.nomad.mu.Unlock()
	total := int64(0)
	for _, ms := range r.nomad.used {
		total += ms
	}
	return total
}

func files(text string) []budgetspec.File {
	return []budgetspec.File{{Name: "budgets.hcl", Content: []byte(text)}}
}

func contains(t must.T, text string, parts ...string) {
	for _, part := range parts {
		must.True(t, strings.Contains(text, part), must.Sprintf("%q is missing in:\n%s", part, text))
	}
}

func everything(nomadevents.Allocation) bool { return true }

// settleJob is settleAll for the hold of one job, if it has one.
func (m *Meter) settleJob(ctx context.Context, fence ledger.Fence, namespace, jobID string) error {
	seen, err := m.books.readHold(ctx, holdKey(namespace, jobID))
	if err != nil || seen.Hold == nil {
		return err
	}
	return m.settleAll(ctx, fence, []heldAt{seen})
}
