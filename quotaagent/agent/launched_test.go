package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const tuneChild = "tune/dispatch-1773144000-5f2c"

// launch is a launch of a template through the gate.
func (r *rig) launch(kind gate.Kind, template, token string, gpus int) gate.Submission {
	s := r.whole(template, gpus, time.Hour)
	s.Kind, s.Stored, s.LaunchToken, s.Ask.ParentID = kind, nil, token, template
	return s
}

// launchedAs is the child that Nomad made of a launch, with one allocation.
func (r *rig) launchedAs(s gate.Submission, id string, gpus int) (gate.Outcome, string) {
	child := r.whole(id, gpus, time.Hour).Job
	child.ParentID, child.DispatchIdempotencyToken = &s.Ask.JobID, &s.LaunchToken
	child.Dispatched = s.Kind == gate.Dispatch
	raw, err := json.Marshal(child)
	must.NoError(r.t, err)
	index := r.nomad.put("default", id, raw)
	alloc := r.nomad.start("default", id, 0, gpus)
	return gate.Outcome{Known: true, Accepted: true, JobID: id, JobModifyIndex: index, Job: child}, alloc
}

func TestADispatchIsHeldBeforeItsChildIsKnown(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	s := r.launch(gate.Dispatch, "tune", "one", 5)
	v := r.admit(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.False(t, v.Until.IsZero())
	must.Eq(t, 5, r.heldGPUs("acme"))
	must.True(t, r.admit(r.launch(gate.Dispatch, "tune", "two", 5)).Denied)
	o, alloc := r.launchedAs(s, tuneChild, 5)
	v.Settle(r.ctx, o)
	v.Settle(r.ctx, o)
	must.Len(t, 1, r.open())
	h := r.holdOf("default", tuneChild)
	must.NotNil(t, h)
	must.Eq(t, ledger.Active, h.State)
	must.Eq(t, 5, r.heldGPUs("acme"))
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.Meter.Strays())
	r.nomad.finish(alloc)
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
	must.Positive(t, r.facts())
	r.checkBooks()
}

func TestADispatchThatNomadRefusesHoldsNothing(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	v := r.admit(r.launch(gate.Dispatch, "tune", "one", 5))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	must.SliceEmpty(t, r.open())
	must.Eq(t, 0, r.heldGPUs("acme"))
}

// Of the leader's and the agent's answer either may come first, or the agent's never.
func TestTheLeaderFindsWhatWasLaunchedWhenTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	for kind, child := range map[gate.Kind]string{gate.Dispatch: tuneChild, gate.PeriodicForce: nightlyChild} {
		for _, late := range []bool{false, true} {
			r, _ := newQueueRig(t)
			template := parentOf(child)
			if kind == gate.PeriodicForce {
				nightly(r, 8)
			}
			s := r.launch(kind, template, "one", 8)
			v := r.admit(s)
			must.False(t, v.Denied, must.Sprint(v.Message))
			o, alloc := r.launchedAs(s, child, 8)
			if !late {
				v.Settle(r.ctx, gate.Outcome{})
			}
			must.NoError(t, r.pass())
			must.NoError(t, r.pass())
			if late {
				v.Settle(r.ctx, o)
			}
			must.Len(t, 1, r.open())
			h := r.holdOf("default", child)
			must.NotNil(t, h)
			must.Eq(t, "", h.Refused, must.Sprint("it is not held twice: 8 GPUs are all there are"))
			r.clock.advance(time.Minute)
			r.nomad.finish(alloc)
			must.NoError(t, r.pass())
			must.SliceEmpty(t, r.open())
			must.Eq(t, r.facts(), r.posted("acme"))
			r.checkBooks()
		}
	}
}

func TestALaunchThatNeverCameExpires(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	v := r.admit(r.launch(gate.Dispatch, "tune", "one", 5))
	v.Settle(r.ctx, gate.Outcome{})
	must.NoError(t, r.pass())
	must.Len(t, 1, r.open())
	r.clock.advance(confirmWithin)
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.open())
	r.checkBooks()
}

func TestOneTokenIsOneDispatch(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	s := r.launch(gate.Dispatch, "tune", "one", 4)
	first, second := r.admit(s), r.admit(s) // a client that lost its patience
	o, alloc := r.launchedAs(s, tuneChild, 4)
	first.Settle(r.ctx, o)
	second.Settle(r.ctx, o)
	third := r.admit(s)
	third.Settle(r.ctx, o)
	must.Len(t, 1, r.open())
	must.Eq(t, 4, r.heldGPUs("acme"))
	r.nomad.finish(alloc)
	must.NoError(t, r.pass())
	fourth := r.admit(s) // Nomad answers with the child, which has ended
	fourth.Settle(r.ctx, o)
	must.SliceEmpty(t, r.open())
	r.checkBooks()
}

// The template may become another between the decision and the launch.
func TestALaunchOfMoreThanWasDecidedIsDecidedAnew(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{true, false} {
		r, _ := newQueueRig(t)
		s := r.launch(gate.Dispatch, "tune", "one", 1)
		v := r.admit(s)
		r.busy("first", 6, time.Hour)
		o, _ := r.launchedAs(s, tuneChild, 8)
		if !answered {
			o = gate.Outcome{}
		}
		v.Settle(r.ctx, o)
		must.NoError(t, r.pass())
		must.NoError(t, r.pass())
		h := r.holdOf("default", tuneChild)
		must.NotNil(t, h)
		must.Eq(t, "concurrency_limit", h.Refused)
		must.Len(t, 2, r.open())
		r.checkBooks()
	}
}

func TestAForcedLaunchIsItsTemplatesSubmitters(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.edit(strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, "match {\n namespaces = [\"default\"]\n identities = [\"token:default\"]\n}", 1))
	nightly(r, 2)
	s := r.launch(gate.PeriodicForce, "nightly", "", 2)
	s.Identity = gate.Identity{Accessor: "operator", Names: []string{"token:operator"}}
	v := r.admit(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.Eq(t, "accessor-default", r.open()[0].Accessor)
}

// scaled is a submission that sets the count of a running job of one GPU each.
func (r *rig) scaled(id string, count int) gate.Submission {
	job := r.nomad.stored("default", id)
	raw, err := json.Marshal(job)
	must.NoError(r.t, err)
	next := &api.Job{}
	must.NoError(r.t, json.Unmarshal(raw, next))
	next.TaskGroups[0].Count = &count
	s := r.submission(next)
	s.Kind, s.Stored = gate.Scale, job
	s.Identity = gate.Identity{Accessor: "autoscaler", Names: []string{"token:autoscaler"}}
	return s
}

func TestAScaledJobStaysInItsBudget(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.edit(strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, "match {\n namespaces = [\"default\"]\n identities = [\"token:default\"]\n}", 1))
	job := r.whole("serve", 1, time.Hour).Job
	job.TaskGroups[0].Count = new(3)
	r.submit(r.submission(job))
	must.Eq(t, 3, r.heldGPUs("acme"))

	up := r.scaled("serve", 8)
	v := r.admit(up)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.True(t, v.Patch.Empty())
	r.send(up, v)
	must.Eq(t, 8, r.heldGPUs("acme"))
	h := r.holdOf("default", "serve")
	must.Eq(t, "accessor-default", h.Accessor)
	must.Eq(t, []string{"token:default"}, h.Identity)

	v = r.admit(r.scaled("serve", 9))
	must.True(t, v.Denied)
	contains(t, v.Message, `job "serve" in namespace "default" was not scaled`, "exceeds_budget")
	must.Eq(t, 8, r.heldGPUs("acme"))
	r.checkBooks()
}

func TestGivingBackIsNeverRefused(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	job := r.whole("serve", 1, time.Hour).Job
	job.TaskGroups[0].Count = new(8)
	r.submit(r.submission(job))
	for name, policy := range map[string]string{
		"less for all":     strings.Replace(queuePolicy, "gpus = { any = 8 }", "gpus = { any = 2 }", 1),
		"less for one":     strings.Replace(queuePolicy, `per_job { default_runtime = "1h" }`, "per_job {\n default_runtime = \"1h\"\n gpus = 1\n}", 1),
		"nobody claims it": strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, `match { namespaces = ["other"] }`, 1),
	} {
		r.edit(policy)
		must.Eq(t, "", r.Keeper.State().Broken, must.Sprint(name))
		v := r.admit(r.scaled("serve", 5))
		must.False(t, v.Denied, must.Sprint(name, v.Message))
		if v.Settle != nil {
			v.Settle(r.ctx, gate.Outcome{Known: true}) // Nomad refuses it
		}
		must.True(t, r.admit(r.scaled("serve", 9)).Denied, must.Sprint(name))
	}
	down := r.scaled("serve", 5)
	r.send(down, r.admit(down))
	must.NoError(t, r.pass())
	must.Eq(t, 5, r.heldGPUs("acme"))
	none := r.scaled("serve", 0)
	v := r.admit(none)
	must.False(t, v.Denied)
	r.send(none, v)
	must.NoError(t, r.pass())
	must.Eq(t, 0, r.heldGPUs("acme"))
}

func TestARevertIsHeldLikeARegistration(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.submit(r.whole("train", 2, time.Hour))
	s := r.whole("train", 6, time.Hour)
	s.Kind = gate.Revert
	v := r.admit(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.Eq(t, 6, r.heldGPUs("acme"))
	r.send(s, v)
	s = r.whole("train", 9, time.Hour)
	s.Kind = gate.Revert
	v = r.admit(s)
	must.True(t, v.Denied)
	contains(t, v.Message, `was not reverted`)
}

func TestAPeriodicJobThatIsDispatchedLaunchesForItsDispatcher(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	s := r.launch(gate.Dispatch, "tune", "one", 2)
	s.Job.Periodic = &api.PeriodicConfig{Spec: new("0 12 * * *")}
	var err error
	s.Ask, err = jobspec.Extract(s.Job, jobspec.Defaults{})
	must.NoError(t, err)
	v := r.admit(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.SliceEmpty(t, r.open())
	v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobID: tuneChild, JobModifyIndex: 7})
	template, err := r.Engine.template(r.ctx, "default", tuneChild)
	must.NoError(t, err)
	must.Eq(t, "accessor-default", template.Accessor)
}
