package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// beforeMove has a budget with an override and runs; afterMove has it below
// another one, which has 8 GPUs for all of it.
var (
	beforeMove = strings.Replace(runPolicy, `    per_run {`, `
    override "glass" {
      who     = ["role:oncall"]
      max     = { cost = 5 }
      expires = "8h"
    }
    per_run {`, 1)
	afterMove = strings.NewReplacer(`  budget "research" {`, `  budget "lab" {
    concurrent {
      gpus = { any = 8 }
    }
    budget "research" {`, `  budget "side" {`, `  }
  budget "side" {`).Replace(beforeMove) + `
moved {
  from = "acme/research"
  to   = "acme/lab/research"
}
`
)

// moveTick runs the duty of a leader that has just begun.
func (r *rig) moveTick() error {
	return (&mover{engine: r.Engine}).tick(r.ctx, ledger.Fence{})
}

// moved has usage, a running job in a run, a queued job and a grant at the old
// path, and the policy with the move in force.
func moved(t *testing.T) (r *rig, run, alloc string) {
	r = newRig(t)
	r.edit(beforeMove)
	must.Eq(t, "", r.Keeper.State().Broken)
	run = r.openRun(RunRequest{Caps: map[string]string{"gpu_hours": "9"}}).ID
	must.False(t, r.run(in(run, r.job("done", 1, 2))).Denied)
	first := r.nomad.start("default", "done", 0, 2)
	must.NoError(t, r.settle())
	r.clock.advance(30 * time.Minute)
	r.nomad.finish(first)
	must.NoError(t, r.settle())
	must.False(t, r.run(in(run, r.job("runs", 1, 5))).Denied)
	alloc = r.nomad.start("default", "runs", 0, 5)
	must.NoError(t, r.settle())
	r.clock.advance(5 * time.Minute)
	must.NoError(t, r.settle())
	_, err := r.Engine.RequestOverride(r.ctx, oncall, OverrideRequest{Budget: "acme/research", Rule: "glass", Reason: "x"})
	must.NoError(t, err)
	q := ledger.Queued{Namespace: "default", JobID: "waits", Budget: "acme/research", SinceMS: r.clock.now().UnixMilli(), Reason: "concurrency_limit", Run: run,
		Accessor: opener.Accessor, JobModifyIndex: 7}
	value, err := ledger.Encode(q)
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: queueKey(holdKey("default", "waits")), Value: value}}))
	r.edit(afterMove)
	must.Eq(t, "", r.Keeper.State().Broken)
	return r, run, alloc
}

// fits checks that exactly so many GPUs are left for jobs of the run.
func (r *rig) fits(run string, gpus int, msg string) {
	for n, denied := range map[int]bool{gpus: false, gpus + 1: true} {
		s := in(run, batch(r.nomad, "default", fmt.Sprint("probe-", n), 1, n, 10*time.Minute))
		s.Kind = gate.Plan
		must.Eq(r.t, denied, r.admit(s).Denied, must.Sprintf("%s: %d GPUs", msg, n))
	}
}

// settledMove checks everything after a move.
func (r *rig) settledMove(run, alloc string) {
	must.Eq(r.t, 0, r.balance("acme/research").Posted.Len())
	must.Eq(r.t, 0, r.balance("acme/research").Held.Len())
	balances, _, err := r.Engine.books.allBalances(r.ctx)
	must.NoError(r.t, err)
	must.MapNotContainsKey(r.t, balances, "acme/research")
	for _, path := range []string{"acme/lab", "acme/lab/research"} {
		must.Eq(r.t, r.posted("acme"), r.posted(path))
		must.True(r.t, r.balance("acme").Held.Equal(r.balance(path).Held), must.Sprint(path))
	}
	must.Eq(r.t, "acme/lab/research", r.holdOf("default", "runs").Budget)
	must.Eq(r.t, "acme/lab/research", r.runNow(run).Budget)
	grants, err := r.Engine.grants(r.ctx)
	must.NoError(r.t, err)
	must.Len(r.t, 1, grants)
	must.Eq(r.t, "acme/lab/research", grants[0].Budget)
	queued, err := r.Engine.allQueued(r.ctx)
	must.NoError(r.t, err)
	must.Len(r.t, 1, queued)
	must.Eq(r.t, "acme/lab/research", queued[0].Budget)
	must.Eq(r.t, 1, strings.Count(r.auditKinds(), "budget.moved"))
	// A moved hold keeps metering, and the grant can still be changed.
	_, err = r.Engine.RevokeOverride(r.ctx, oncall, grants[0].ID)
	must.NoError(r.t, err)
	r.clock.advance(time.Minute)
	must.NoError(r.t, r.settle())
	r.nomad.finish(alloc)
	must.NoError(r.t, r.settle())
	must.Eq(r.t, r.facts(), r.posted("acme/lab/research"))
	must.Eq(r.t, r.facts(), r.posted("acme"))
	_, err = r.Engine.CloseRun(r.ctx, root, run)
	must.NoError(r.t, err)
	must.Eq(r.t, 0, r.balance("acme").Held.Len())
	must.Eq(r.t, 0, r.balance("acme/lab").Held.Len())
}

func TestAMoveTakesEverythingAlong(t *testing.T) {
	t.Parallel()
	r, run, alloc := moved(t)
	r.fits(run, 3, "before the leader has moved anything")
	must.NoError(t, r.moveTick())
	r.fits(run, 3, "after the move")
	must.NoError(t, r.moveTick(), must.Sprint("again"))
	r.settledMove(run, alloc)
}

// Killed at any write of the move: what is left is decided by exactly as before,
// and the next leader finishes it.
func TestAMoveSurvivesDeathAtAnyWrite(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r, run, alloc := moved(t)
				store := &mortal{Store: r.store, left: n, written: written}
				r.start(store)
				_ = r.moveTick()
				died := store.dead
				r.start(r.store)
				r.fits(run, 3, fmt.Sprintf("killed at commit %d", n))
				must.NoError(t, r.settle(), must.Sprint("the meter goes on in the middle of a move"))
				r.fits(run, 3, fmt.Sprintf("killed at commit %d, metered", n))
				must.NoError(t, r.moveTick())
				r.settledMove(run, alloc)
				if !died {
					must.Greater(t, 4, n)
					return
				}
			}
		})
	}
}

// An agent that has not seen the new policy admits to the old path after the move:
// that is found and moved too.
func TestWhatComesLateIsMovedToo(t *testing.T) {
	t.Parallel()
	r, run, alloc := moved(t)
	must.NoError(t, r.moveTick())
	r.edit(beforeMove)
	late := r.openRun(RunRequest{})
	must.False(t, r.run(in(late.ID, r.job("late", 1, 1))).Denied)
	r.edit(afterMove)
	r.fits(run, 2, "the late job counts at once")
	m := &mover{engine: r.Engine}
	must.NoError(t, m.tick(r.ctx, ledger.Fence{}))
	must.Eq(t, "acme/lab/research", r.holdOf("default", "late").Budget)
	must.Eq(t, "acme/lab/research", r.runNow(late.ID).Budget)
	must.True(t, r.balance("acme").Held.Equal(r.balance("acme/lab").Held))
	r.nomad.finish(alloc)
}

func TestTwoGrantsMeetAfterAMove(t *testing.T) {
	t.Parallel()
	r, _, _ := moved(t)
	_, err := r.Engine.RequestOverride(r.ctx, oncall, OverrideRequest{Budget: "acme/lab/research", Rule: "glass", Reason: "x"})
	must.NoError(t, err)
	must.NoError(t, r.moveTick())
	must.NoError(t, r.moveTick())
	grants, err := r.Engine.grants(r.ctx)
	must.NoError(t, err)
	must.Len(t, 2, grants)
	for _, g := range grants {
		must.Eq(t, "acme/lab/research", g.Budget)
		_, err := r.Engine.RevokeOverride(r.ctx, api.Caller{Accessor: "root", Names: []string{"type:management"}}, g.ID)
		must.NoError(t, err)
	}
}

func TestFormers(t *testing.T) {
	t.Parallel()
	p := &budget.Policy{Moves: []budget.Move{{From: "a/ml", To: "a/lab/ml"}, {From: "old", To: "a/mid"}, {From: "a/mid", To: "a/new"}}}
	root := &budget.Budget{Name: "a", Path: "a"}
	for _, path := range []string{"a/lab", "a/new", "a/other"} {
		root.Children = append(root.Children, &budget.Budget{Name: path[2:], Path: path, Parent: root})
	}
	lab := root.Children[0]
	lab.Children = []*budget.Budget{{Name: "ml", Path: "a/lab/ml", Parent: lab}}
	p.Roots = []*budget.Budget{root}
	for path, want := range map[string][]string{
		"a/lab/ml/x": {"a/ml", "a/ml/x", "old"},
		"a/lab":      {"a/ml", "old"},
		"a/new/y":    {"a/mid", "a/mid/y", "old", "old/y"},
		"a/other":    {"old"},
		"b":          nil,
	} {
		must.Eq(t, want, p.Formers(path), must.Sprint(path))
	}
}
