package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// byRole are two teams with a budget each, and one for the tasks of one job.
const byRole = pricedV100 + `
budget "acme" {
  concurrent {
    gpus = { any = 8 }
  }
  budget "ml" {
    match { identities = ["role:ml"] }
    per_job { default_runtime = "1h" }
  }
  budget "web" {
    match { identities = ["role:web"] }
    per_job { default_runtime = "1h" }
  }
  budget "hub" {
    match { identities = ["workload:default/hub"] }
    per_job { default_runtime = "1h" }
  }
}
`

// ownedBy is a job that somebody with a role submits.
func (r *rig) ownedBy(role, id string) gate.Submission {
	s := r.job(id, 1, 1)
	s.Identity = gate.Identity{Accessor: "a-" + role, Names: []string{"role:" + role, "token:" + role}}
	return s
}

// submittedBy is a job that a task of another one submits.
func (r *rig) submittedBy(job, parent, id string) gate.Submission {
	s := r.job(id, 1, 1)
	name := gate.NameWorkload + ":default/" + parent
	s.Identity = gate.Identity{Accessor: name, Names: []string{gate.NameWorkload, name},
		Workload: &gate.Workload{Namespace: "default", JobID: job, ParentID: parent, Allocation: "a"}}
	return s
}

func TestATaskPaysFromTheBudgetOfItsJob(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), byRole)
	must.False(t, r.run(r.ownedBy("web", "other")).Denied)
	must.False(t, r.run(r.ownedBy("ml", "train")).Denied)
	must.False(t, r.run(r.submittedBy("train", "train", "step")).Denied)
	h := r.holdOf("default", "step")
	must.Eq(t, "acme/ml", h.Budget)
	must.Eq(t, "a-ml", h.Accessor)
	must.Eq(t, []string{"role:ml", "token:ml", "workload", "workload:default/train"}, h.Identity)

	// A job that a task has submitted is its owner's too, and names only its own tasks.
	must.False(t, r.run(r.submittedBy("step", "step", "deeper")).Denied)
	h = r.holdOf("default", "deeper")
	must.Eq(t, "acme/ml", h.Budget)
	must.Eq(t, []string{"role:ml", "token:ml", "workload", "workload:default/step"}, h.Identity)
	must.Eq(t, 3, r.heldGPUs("acme/ml"))
	r.checkBooks()
}

// A task of a launched job is whoever launched it, or the submitter of its template.
func TestATaskOfALaunchedJobPaysFromItsOwnLaunch(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), byRole)
	must.NoError(t, r.Engine.writeTemplate(r.ctx, r.ownedBy("ml", "tune")))
	must.False(t, r.run(r.submittedBy(tuneChild, "tune", "by-template")).Denied)
	must.Eq(t, "acme/ml", r.holdOf("default", "by-template").Budget)

	must.False(t, r.run(r.ownedBy("web", tuneChild)).Denied)
	must.False(t, r.run(r.submittedBy(tuneChild, "tune", "by-launch")).Denied)
	must.Eq(t, "acme/web", r.holdOf("default", "by-launch").Budget)
}

// Of a job without GPUs nobody is remembered: its tasks go by its name.
func TestATaskOfAnotherJobGoesByItsOwnName(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), byRole)
	must.False(t, r.run(r.submittedBy("hub", "hub", "notebook")).Denied)
	h := r.holdOf("default", "notebook")
	must.Eq(t, "acme/hub", h.Budget)
	must.Eq(t, "workload:default/hub", h.Accessor)
	v := r.admit(r.submittedBy("stranger", "stranger", "x"))
	must.True(t, v.Denied)
	contains(t, v.Message, "(unmatched)", "workload:default/stranger")
}

// Nomad writes no token into a job that a task submits, so that the same job again
// changes nothing and holds nothing more.
func TestATaskThatSubmitsTheSameJobAgain(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	must.False(t, r.run(r.job("parent", 1, 1)).Denied)
	s := r.whole("child", 2, time.Hour)
	s.Identity = r.submittedBy("parent", "parent", "child").Identity
	r.send(s, r.admit(s))
	again := r.whole("child", 2, time.Hour)
	again.Identity = s.Identity
	must.True(t, unchanged(again, jobspec.Patch{}))
	must.True(t, r.admit(again).AsStored, must.Sprint("it must not start again what has ended"))
	again.Identity = r.ownedBy("ml", "child").Identity
	must.False(t, unchanged(again, jobspec.Patch{}))
	must.False(t, r.admit(again).AsStored)
}

// A task may ask for more, as its job's submitter, but does not have the last word.
func TestATaskApprovesNothing(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), byRole)
	s := r.submittedBy("train", "train", "step")
	must.False(t, r.run(r.ownedBy("ml", "train")).Denied)
	owned, err := r.Engine.asOwned(r.ctx, s)
	must.NoError(t, err)
	p := r.Keeper.State().Policy
	rule := glass()
	rule.Who = []string{"role:ml"}
	g, _, err := r.Engine.requestOverride(r.ctx, api.Caller{Accessor: owned.Identity.Accessor, Names: owned.Identity.Names}, p.Find("acme/ml"), rule, "urgent", nil)
	must.NoError(t, err)
	must.Eq(t, 1, g.Needed, must.Sprint("a rule without approvals needs one for a task"))
}

// A task draws from a run that it, or whoever submitted its job, has opened, and from
// nobody else's.
func TestATaskDrawsFromTheRunsOfItsJob(t *testing.T) {
	t.Parallel()
	r := newRunRig(t)
	r.edit(strings.Replace(runPolicy, `["token:default"]`, `["token:default", "workload:default/planner"]`, 1))
	must.Eq(t, "", r.Keeper.State().Broken)
	planner := r.submittedBy("planner", "planner", "").Identity
	own, err := r.Engine.OpenRun(r.ctx, api.Caller{Accessor: planner.Accessor, Names: planner.Names}, RunRequest{Budget: "acme/research"})
	must.NoError(t, err)
	must.False(t, r.run(in(own.ID, r.submittedBy("planner", "planner", "step-1"))).Denied)
	v := r.admit(in(own.ID, r.job("foreign", 1, 1)))
	must.True(t, v.Denied)
	contains(t, v.Message, "was opened by somebody else")

	users := r.openRun(RunRequest{})
	v = r.admit(in(users.ID, r.submittedBy("planner", "planner", "step-2")))
	must.True(t, v.Denied, must.Sprint("its job is not known to be the opener's"))
	must.False(t, r.run(in(users.ID, r.job("planner", 1, 1))).Denied)
	must.False(t, r.run(in(users.ID, r.submittedBy("planner", "planner", "step-2"))).Denied)
	must.False(t, r.run(in(own.ID, r.submittedBy("planner", "planner", "step-3"))).Denied)
}
