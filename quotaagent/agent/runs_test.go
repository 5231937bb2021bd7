package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// runPolicy serves agent runs only: 10 GPU-hours and 40 USD, 6 jobs, 2 at once.
var runPolicy = strings.Replace(strings.Replace(testPolicy(8, "100"), `namespaces = ["default"] }`, `
      namespaces = ["default"]
      identities = ["token:default"]
    }
    per_run {
      gpu_hours   = 10
      cost        = 40
      jobs        = 6
      concurrency = 2
      wall_clock  = "6h"
    }`, 1), `identities = ["token:never", "token:side"]`, `identities = ["token:side"]`, 1)

var (
	opener = api.Caller{Accessor: "accessor-default", Names: []string{"token:default"}}
	root   = api.Caller{Accessor: "root", Names: []string{"type:management"}}
)

func newRunRig(t testing.TB) *rig {
	r := newRig(t)
	r.edit(runPolicy)
	must.Eq(t, "", r.Keeper.State().Broken)
	return r
}

func (r *rig) openRun(request RunRequest) RunStatus {
	request.Budget = "acme/research"
	s, err := r.Engine.OpenRun(r.ctx, opener, request)
	must.NoError(r.t, err)
	return s
}

func (r *rig) runNow(id string) RunStatus {
	s, err := r.Engine.RunNow(r.ctx, id)
	must.NoError(r.t, err)
	return s
}

// in is a submission that draws from a run.
func in(run string, s gate.Submission) gate.Submission {
	s.Ask.Meta[admission.RunMeta] = run
	return s
}

// heldTime is the GPU time that a budget holds in each month, in GPU-milliseconds.
func (r *rig) heldTime(path string) quantity.Amount {
	b := r.balance(path)
	return b.HeldIn(budget.PeriodAt(budget.Month, r.clock.now(), time.UTC), budget.GPUTime(budget.AnyClass))
}

func TestARunHoldsItsWholeCapOnceAndItsJobsDrawFromIt(t *testing.T) {
	t.Parallel()
	r := newRunRig(t)
	run := r.openRun(RunRequest{Note: "nightly search"})
	must.Eq(t, RunOpen, run.State)
	must.Eq(t, 10*quantity.GPUHour, r.heldTime("acme"))
	must.Eq(t, 10*quantity.GPUHour, r.heldTime("acme/research"))
	must.Eq(t, 0, r.heldGPUs("acme"))

	s := in(run.ID, r.job("step-1", 1, 2))
	v := r.run(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.Eq(t, 10*quantity.GPUHour, r.heldTime("acme"), must.Sprint("its time is the run's"))
	must.Eq(t, 2, r.heldGPUs("acme"), must.Sprint("its GPUs are its own"))
	now := r.runNow(run.ID)
	must.Eq(t, []string{"default/step-1"}, now.OpenJobs)
	must.Eq(t, 1, now.Open)
	must.Eq(t, RunLine{"GPU-hours", "10", "0", "2.0167", "7.9833"}, now.Lines[1])
	r.checkBooks()

	alloc := r.nomad.start("default", "step-1", 0, 2)
	r.clock.advance(30 * time.Minute)
	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	r.checkBooks()
	now = r.runNow(run.ID)
	must.Eq(t, quantity.GPUHour, now.Posted[budget.GPUTime(budget.AnyClass)])
	must.Eq(t, 0, now.Open)
	must.Eq(t, 1, now.Jobs)
	must.Eq(t, []RunLine{{"cost in USD", "40.00", "3.60", "0.00", "36.40"}, {"GPU-hours", "10", "1", "0", "9"}, {"jobs", "6", "1", "0", "5"}}, now.Lines)
	must.Eq(t, 9*quantity.GPUHour, r.heldTime("acme"), must.Sprint("what is posted is not held"))
	must.Eq(t, r.facts(), r.posted("acme"))

	r.clock.advance(time.Minute)
	closed, err := r.Engine.CloseRun(r.ctx, opener, run.ID)
	must.NoError(t, err)
	must.Eq(t, RunClosed, closed.State)
	must.Eq(t, 0, r.heldTime("acme"))
	must.Eq(t, 0, r.balance("acme").Held.Len())
	again, err := r.Engine.CloseRun(r.ctx, opener, run.ID)
	must.NoError(t, err)
	must.Eq(t, closed.ClosedMS, again.ClosedMS)
	must.StrContains(t, r.auditKinds(), "run.opened run.closed")
	must.StrContains(t, r.auditLog()[2].Text, "nightly search")
}

func TestAClosedRunKeepsWhatItsOpenJobsMayUse(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *rig, id string){
		"closed": func(r *rig, id string) {
			_, err := r.Engine.CloseRun(r.ctx, root, id)
			must.NoError(r.t, err)
		},
		"time is up": func(r *rig, id string) {
			r.clock.advance(6 * time.Hour)
			must.NoError(r.t, r.tidy())
			must.Eq(r.t, r.runNow(id).UntilMS, r.runNow(id).ClosedMS)
			must.StrContains(r.t, r.auditKinds(), "run.opened run.expired")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRunRig(t)
			run := r.openRun(RunRequest{})
			s := in(run.ID, r.job("long", 1, 1))
			s.Ask.Meta["governor_max_runtime"] = "8h"
			must.False(t, r.run(s).Denied)
			alloc := r.nomad.start("default", "long", 0, 1)
			must.NoError(t, r.settle())
			end(r, run.ID)
			must.NoError(t, r.settle())
			r.checkBooks()
			now := r.runNow(run.ID)
			must.Eq(t, RunClosing, now.State)
			left := now.Held[budget.GPUTime(budget.AnyClass)]
			must.Greater(t, 0, left)
			must.Eq(t, left, r.heldTime("acme"))
			v := r.admit(in(run.ID, r.job("next", 1, 1)))
			must.Eq(t, "exceeds_run_cap", v.Reason)
			contains(t, v.Message, "is over", "open another run")
			r.nomad.finish(alloc)
			must.NoError(t, r.settle())
			must.Eq(t, RunClosed, r.runNow(run.ID).State)
			must.Eq(t, 0, r.balance("acme").Held.Len())
			must.Eq(t, r.facts(), r.posted("acme"))
			r.clock.advance(runsKept)
			must.NoError(t, r.tidy())
			_, err := r.Engine.RunNow(r.ctx, run.ID)
			must.ErrorContains(t, err, "there is no agent run")
		})
	}
}

// tidy runs the duty towards what ends by itself.
func (r *rig) tidy() error { return (&tidier{engine: r.Engine}).tick(r.ctx, ledger.Fence{}) }

func TestWhatARunKeepsOut(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		do     func(r *rig, run string) gate.Submission
		reason string
		says   string
	}{
		"no run": {func(r *rig, _ string) gate.Submission { return r.job("j", 1, 1) }, "run_required", "serves jobs of agent runs only (budgets.hcl:"},
		"a run that is not there": {func(r *rig, _ string) gate.Submission { return in("r-nothing", r.job("j", 1, 1)) }, "run_required",
			`there is no agent run "r-nothing"`},
		"somebody else's run": {func(r *rig, run string) gate.Submission {
			s := in(run, r.job("j", 1, 1))
			s.Identity.Accessor = "another"
			return s
		}, "run_required", "opened by somebody else"},
		"too much time": {func(r *rig, run string) gate.Submission {
			return in(run, batch(r.nomad, "default", "j", 1, 2, 6*time.Hour))
		}, "exceeds_run_cap",
			"it needs 43.26 USD, and agent run r-"},
		"too many at once": {func(r *rig, run string) gate.Submission {
			r.run(in(run, r.job("a", 1, 1)))
			r.run(in(run, r.job("b", 1, 1)))
			return in(run, r.job("j", 1, 1))
		}, "exceeds_run_cap", "at the same time"},
		"too many jobs": {func(r *rig, run string) gate.Submission {
			for i := range 6 {
				s := in(run, r.job(fmt.Sprint("a-", i), 1, 1))
				must.False(r.t, r.run(s).Denied)
				r.nomad.kill("default", s.Ask.JobID)
				must.NoError(r.t, r.settle())
			}
			return in(run, r.job("j", 1, 1))
		}, "exceeds_run_cap", "0 jobs of 6 jobs left"},
		"another budget": {func(r *rig, run string) gate.Submission {
			s := in(run, batch(r.nomad, "side", "j", 1, 1, time.Hour))
			s.Identity.Accessor = opener.Accessor
			return s
		}, "exceeds_run_cap", "draws from budget acme/research, and this job from acme/side"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRunRig(t)
			run := r.openRun(RunRequest{})
			s := c.do(r, run.ID)
			v := r.admit(s)
			must.Eq(t, c.reason, v.Reason, must.Sprint(v.Message))
			contains(t, v.Message, c.says)
			s.Kind = gate.Plan
			must.Eq(t, c.reason, r.admit(s).Reason, must.Sprint("a plan says the same"))
			r.checkBooks()
		})
	}
}

func TestAResubmissionIsNoFurtherJobOfItsRun(t *testing.T) {
	t.Parallel()
	r := newRunRig(t)
	run := r.openRun(RunRequest{Caps: map[string]string{"jobs": "1"}, Concurrency: 1})
	must.False(t, r.run(in(run.ID, r.job("a", 1, 1))).Denied)
	must.False(t, r.run(in(run.ID, r.job("a", 1, 2))).Denied)
	must.Eq(t, 1, r.runNow(run.ID).Jobs)
	must.True(t, r.run(in(run.ID, r.job("b", 1, 1))).Denied)
	r.checkBooks()
}

func TestOpeningARunIsRefused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		who     api.Caller
		request RunRequest
		says    string
	}{
		"no budget":           {opener, RunRequest{Budget: "acme/none"}, "there is no budget"},
		"somebody else":       {oncall, RunRequest{}, "opened by the identities of its match rule: token:default; you are role:oncall"},
		"too much":            {opener, RunRequest{Caps: map[string]string{"cost": "41"}}, "you ask for 41.00 USD, and per_run (budgets.hcl:"},
		"no amount":           {opener, RunRequest{Caps: map[string]string{"money": "1"}}, "is not an amount"},
		"GPUs at once":        {opener, RunRequest{Caps: map[string]string{"gpus": "1"}}, "no cap on GPUs at once"},
		"negative":            {opener, RunRequest{Caps: map[string]string{"cost": "-1"}}, "not a plain positive number"},
		"too many at once":    {opener, RunRequest{Concurrency: 3}, "3 jobs at once, and per_run (budgets.hcl:"},
		"negative at once":    {opener, RunRequest{Concurrency: -1}, "at least 1"},
		"too long":            {opener, RunRequest{WallClock: "7h"}, "lasts at most 6h0m0s (budgets.hcl:"},
		"no time":             {opener, RunRequest{WallClock: "soon"}, `write it like "90m"`},
		"a budget for nobody": {opener, RunRequest{Budget: "acme"}, "(none)"},
		"a note too long":     {opener, RunRequest{Note: strings.Repeat("x", noteMax+1)}, "at most 1000"},
		"no cap at all":       {root, RunRequest{Budget: "acme/side"}, "needs a cap of its own"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRunRig(t)
			if c.request.Budget == "" {
				c.request.Budget = "acme/research"
			}
			_, err := r.Engine.OpenRun(r.ctx, c.who, c.request)
			must.ErrorContains(t, err, c.says)
			runs, err := r.Engine.Runs(r.ctx)
			must.NoError(t, err)
			must.SliceEmpty(t, runs)
		})
	}
}

// However many runs are opened at once, what they hold together fits the limit.
func TestRunsAreBoundedByTheirBudget(t *testing.T) {
	t.Parallel()
	r := newRunRig(t)
	opened := 0
	var last error
	for range 12 {
		if _, err := r.Engine.OpenRun(r.ctx, opener, RunRequest{Budget: "acme/research"}); err != nil {
			last = err
			continue
		}
		opened++
	}
	must.Eq(t, 10, opened)
	contains(t, last.Error(), "the agent run was not opened: it needs 10 GPU-hours, and budget acme has 0 GPU-hours left", "(insufficient_budget)",
		"asked       40.00 USD, 10 GPU-hours, 6 jobs", "set at budgets.hcl:", "open it with smaller caps")
	r.checkBooks()
	must.Eq(t, 100*quantity.GPUHour, r.heldTime("acme"))
	must.Eq(t, "insufficient_budget", r.admit(batch(r.nomad, "side", "j", 1, 1, time.Hour)).Reason, must.Sprint("nobody else can have it"))
}

func TestARunIsClosedByItsOpener(t *testing.T) {
	t.Parallel()
	r := newRunRig(t)
	run := r.openRun(RunRequest{})
	_, err := r.Engine.CloseRun(r.ctx, oncall, run.ID)
	must.ErrorContains(t, err, "closed by who opened it")
	for _, id := range []string{"", "r-none", "../hold/x", "R", strings.Repeat("a", 65)} {
		_, err = r.Engine.CloseRun(r.ctx, opener, id)
		must.ErrorContains(t, err, "there is no agent run")
		_, err = r.Engine.RunNow(r.ctx, id)
		must.ErrorContains(t, err, "there is no agent run")
	}
	_, err = r.Engine.CloseRun(r.ctx, root, run.ID)
	must.NoError(t, err)
}

// The end of a grant is recorded once, and it is kept for a while.
func TestGrantsEndByThemselves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.amend(withGlass(func(*budget.Override) {}))
	_, err := r.Engine.RequestOverride(r.ctx, oncall, OverrideRequest{Budget: "acme", Rule: "glass"})
	must.NoError(t, err)
	r.amend(withGlass(func(o *budget.Override) { o.Approvals = 1 }))
	_, err = r.Engine.RequestOverride(r.ctx, oncall2, OverrideRequest{Budget: "acme", Rule: "glass"})
	must.NoError(t, err)
	r.clock.advance(7 * time.Hour)
	must.NoError(t, r.tidy())
	must.Eq(t, 0, strings.Count(r.auditKinds(), "ended"))
	for range 3 {
		r.clock.advance(3 * 24 * time.Hour)
		must.NoError(t, r.tidy())
	}
	must.Eq(t, 2, strings.Count(r.auditKinds(), "override.ended"))
	all, err := r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	must.Len(t, 2, all)
	r.clock.advance(grantsKept)
	must.NoError(t, r.tidy())
	all, err = r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	must.SliceEmpty(t, all)
}

// Killed at any write, a run neither leaks what it holds nor loses what its jobs
// used.
func TestARunSurvivesDeathAtAnyWrite(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r := newRunRig(t)
				store := &mortal{Store: r.store, left: n, written: written}
				r.start(store)
				run, err := r.Engine.OpenRun(r.ctx, opener, RunRequest{Budget: "acme/research"})
				if err == nil {
					if v, err := r.Engine.Admit(r.ctx, in(run.ID, r.job("a", 1, 2))); err == nil && !v.Denied {
						v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: r.nomad.register("default", "a", false)})
						alloc := r.nomad.start("default", "a", 0, 2)
						_ = r.settle()
						r.clock.advance(40 * time.Second)
						_ = r.settle()
						_, _ = r.Engine.CloseRun(r.ctx, opener, run.ID)
						r.nomad.finish(alloc)
						_ = r.settle()
					}
				}
				died := store.dead
				r.start(r.store)
				r.checkBooks()
				endAll(r)
				r.clock.advance(7 * time.Hour)
				must.NoError(t, r.tidy())
				must.NoError(t, r.settle())
				r.checkBooks()
				must.Eq(t, r.facts(), r.posted("acme"), must.Sprintf("killed at commit %d", n))
				must.Eq(t, 0, r.balance("acme").Held.Len(), must.Sprintf("killed at commit %d", n))
				r.auditLog()
				if !died {
					must.Greater(t, 6, n)
					return
				}
			}
		})
	}
}

// Random lives of runs: what jobs use and may use never exceeds the caps, and the
// books balance after every step.
func TestModelOfRuns(t *testing.T) {
	t.Parallel()
	p, diags := budgetspec.Parse(files(runPolicy))
	must.False(t, diags.HasErrors())
	rule := p.Find("acme/research").PerRun
	rapid.Check(t, func(rt *rapid.T) {
		r := newRunRig(t)
		r.t = rt
		var runs []string
		allocs := map[string]string{}
		for range rapid.IntRange(3, 14).Draw(rt, "steps") {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "job")
			switch rapid.SampledFrom([]string{"open", "job", "job", "job", "end", "tick", "tick", "close", "expire"}).Draw(rt, "step") {
			case "open":
				runs = append(runs, r.openRun(RunRequest{}).ID)
			case "job":
				if len(runs) == 0 || allocs[id] != "" {
					continue
				}
				gpus := rapid.IntRange(1, 4).Draw(rt, "gpus")
				s := in(rapid.SampledFrom(runs).Draw(rt, "run"), batch(r.nomad, "default", id, 1, gpus, time.Duration(rapid.IntRange(1, 4).Draw(rt, "hours"))*time.Hour))
				if !r.run(s).Denied {
					allocs[id] = r.nomad.start("default", id, 0, gpus)
					must.NoError(rt, r.settle())
				}
			case "end":
				r.nomad.finish(allocs[id])
				delete(allocs, id)
				must.NoError(rt, r.settle())
			case "tick":
				r.clock.advance(time.Duration(rapid.IntRange(1, 1800).Draw(rt, "seconds")) * time.Second)
				must.NoError(rt, r.settle())
				must.NoError(rt, r.tidy())
			case "close":
				if len(runs) > 0 {
					_, err := r.Engine.CloseRun(r.ctx, opener, rapid.SampledFrom(runs).Draw(rt, "run"))
					must.NoError(rt, err)
				}
			case "expire":
				r.start(r.store)
			}
			r.checkBooks()
			for _, id := range runs {
				run := r.runNow(id).Run
				for d, bound := range rule.Caps {
					most, _ := bound.Ceiling.Finite()
					must.LessEq(rt, most, run.Held[d].Add(run.Posted[d]), must.Sprint(d))
				}
				must.LessEq(rt, 2, run.Open)
				must.LessEq(rt, 6, run.Jobs)
			}
		}
		endAll(r)
		r.clock.advance(7 * time.Hour)
		must.NoError(rt, r.tidy())
		must.NoError(rt, r.settle())
		must.Eq(rt, 0, r.balance("acme").Held.Len())
		must.Eq(rt, r.facts(), r.posted("acme"))
	})
}
