package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// plan asks without effect for a job that Nomad does not have.
func (r *rig) plan(id string, count, gpus int) gate.Verdict {
	s := r.job(id, count, gpus)
	s.Kind = gate.Plan
	return r.admit(s)
}

// beside is another agent over the same store.
func (r *rig) beside() *rig {
	other := *r
	other.start(r.store)
	return &other
}

func TestPlansOfOneSecondReadTheStoreOnce(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := newRigOn(t, store, testPolicy(8, "1000"))
	r.plan("a", 1, 2)
	calls := func() int { return store.transactions() + store.lists }
	before := calls()
	for i := range 100 {
		must.False(t, r.plan(fmt.Sprint("job-", i), 1, 2).Denied)
	}
	must.EqOp(t, before, calls())
	r.clock.advance(glanceFor)
	must.False(t, r.plan("a", 1, 2).Denied)
	must.Less(t, calls(), before)
}

func TestAPlanSeesAtOnceWhatThisAgentHolds(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	must.False(t, r.plan("b", 1, 4).Denied)
	r.run(r.job("a", 1, 6))
	must.True(t, r.plan("b", 1, 4).Denied, must.Sprint("6 of 8 GPUs are held"))
	must.False(t, r.plan("b", 1, 2).Denied)
	// A job that is registered plans beside its own hold.
	again := r.job("a", 1, 7)
	again.Kind, again.Stored = gate.Plan, again.Job
	must.False(t, r.admit(again).Denied)
}

func TestAPlanSeesWithinASecondWhatOthersHold(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	other := r.beside()
	must.False(t, r.plan("b", 1, 4).Denied)
	other.run(r.job("a", 1, 6))
	r.clock.advance(glanceFor)
	must.True(t, r.plan("b", 1, 4).Denied)
}

// What somebody else carries out is decided by what the store has now.
func TestAFreshDecisionRestsOnNothingRemembered(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	other := r.beside()
	must.False(t, r.plan("b", 1, 4).Denied)
	other.run(r.job("a", 1, 6))
	s := r.job("b", 1, 4)
	s.Kind, s.Fresh = gate.Plan, true
	must.True(t, r.admit(s).Denied)
}

// A registration rests on nothing that was remembered for plans.
func TestARegistrationAfterAPlanReadsAnew(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	other := r.beside()
	must.False(t, r.plan("b", 1, 4).Denied)
	other.run(r.job("a", 1, 6))
	must.True(t, r.run(r.job("b", 1, 4)).Denied)
}

// What blocks a job is what the store has, and not what it had.
func TestAPlanIsNotRefusedForWhatIsNotHeldAnyMore(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	other := r.beside()
	other.run(r.job("a", 1, 6))
	must.True(t, r.plan("b", 1, 4).Denied)
	must.False(t, r.plan("c", 1, 2).Denied) // and now it is remembered that 6 are held
	r.nomad.kill("default", "a")
	must.NoError(t, other.settle())
	must.Nil(t, r.holdOf("default", "a"))
	must.False(t, r.plan("b", 1, 4).Denied)
}

func TestAPlanSeesAnEditOfTheBudgets(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, newMemStore(), testPolicy(8, "1000"))
	must.False(t, r.plan("b", 1, 4).Denied)
	r.edit(testPolicy(2, "1000"))
	must.True(t, r.plan("b", 1, 4).Denied)
	r.edit(testPolicy(8, "1000"))
	must.False(t, r.plan("b", 1, 4).Denied)
}

// What is read while this process commits may be from before: it is not kept.
func TestGlances_whatWasReadBesideACommitIsNotKept(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g, s := newGlances(), newSheet(nil, nil)
	key := balancePrefix + "acme"
	s.docs[key] = document{version: 1, fresh: true}
	mark := g.begin()
	g.wrote([]ledger.Write{{Key: key}})
	g.keep(s, []string{key}, true, mark, now)
	must.MapEmpty(t, g.docs)
	must.True(t, g.grantsAt.IsZero())
	g.keep(s, []string{key}, true, g.begin(), now)
	must.Eq(t, []string{"other"}, g.recall(newSheet(nil, nil), []string{key, "other"}, now))
	must.Eq(t, []string{key}, g.recall(newSheet(nil, nil), []string{key}, now.Add(glanceFor)))
	must.Eq(t, []string{key}, g.recall(newSheet(nil, nil), []string{key}, now.Add(-1)), must.Sprint("a clock that was set back"))
	g.wrote([]ledger.Write{{Key: key, Check: true}})
	must.SliceEmpty(t, g.recall(newSheet(nil, nil), []string{key}, now), must.Sprint("a comparison changes nothing"))
	g.wrote([]ledger.Write{{Key: overridePrefix + "x"}})
	must.True(t, g.grantsAt.IsZero())
}

func TestGlances_areBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := newGlances()
	for i := range 5 * glanceMost {
		g.learn(map[string]any{fmt.Sprint(holdPrefix, i): nil}, 1, now)
		now = now.Add(100 * time.Microsecond)
		must.LessEq(t, glanceMost, len(g.docs))
	}
}
