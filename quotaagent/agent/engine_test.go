package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

func TestAdmissionHoldsTheWorstCaseAndConfirms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job("train", 2, 3)
	v := r.admit(s)
	must.False(t, v.Denied)
	h := r.holdOf("default", "train")
	must.Eq(t, ledger.Held, h.State)
	must.Eq(t, 6, r.heldGPUs("acme"))
	must.Eq(t, 1, r.placer.reserved)

	index := r.accept(s, v, false)
	h = r.holdOf("default", "train")
	must.Eq(t, ledger.Active, h.State)
	must.Eq(t, index, h.JobModifyIndex)
	must.Nil(t, h.Pending)
	must.Eq(t, "accessor-default", h.Accessor)
	must.Eq(t, 6, r.heldGPUs("acme/research"))
	r.checkBooks()
}

func TestNothingIsHeldForWhatIsNotRegistered(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(r *rig, s *gate.Submission)
		denied bool
		reason string
		says   []string
	}{
		"a plan that fits": {change: func(_ *rig, s *gate.Submission) { s.Kind = gate.Plan }, reason: "fits"},
		"a validation":     {change: func(_ *rig, s *gate.Submission) { s.Kind = gate.Validate }, reason: "fits"},
		"too many GPUs": {change: func(_ *rig, s *gate.Submission) { s.Ask.Groups[0].Count = 9 }, denied: true, reason: "exceeds_budget",
			says: []string{"9 GPUs", "8 GPUs at the same time", "budgets.hcl:16", "short by", "finops@acme.example"}},
		"a plan of too many GPUs": {change: func(_ *rig, s *gate.Submission) { s.Kind, s.Ask.Groups[0].Count = gate.Plan, 9 },
			denied: true, reason: "exceeds_budget"},
		"no budget claims it": {change: func(_ *rig, s *gate.Submission) { s.Ask.Namespace = "elsewhere" }, denied: true, reason: "unmatched",
			says: []string{`namespace "elsewhere"`, "match rule"}},
		"a budget that it may not name": {change: func(_ *rig, s *gate.Submission) { s.Ask.Meta["governor_budget"] = "acme" },
			denied: true, reason: "budget_not_allowed"},
		"no node could serve it": {change: func(r *rig, _ *gate.Submission) { r.placer.infeasible = "no node has 3 GPUs" },
			denied: true, reason: "infeasible", says: []string{"no node has 3 GPUs"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s := r.job("train", 1, 1)
			c.change(r, &s)
			v := r.admit(s)
			must.Eq(t, c.denied, v.Denied)
			must.Eq(t, c.reason, v.Reason)
			contains(t, v.Message, c.says...)
			must.Nil(t, v.Settle)
			must.SliceEmpty(t, r.open())
			must.Eq(t, 0, r.placer.reserved)
		})
	}
}

func TestTheSameSubmissionTwiceIsOneHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 8))
	first := r.balance("acme").Held
	month := budget.PeriodAt(budget.Month, r.clock.now(), time.UTC)
	gpuTime := budget.GPUTime(budget.AnyClass)
	once := r.balance("acme").HeldIn(month, gpuTime)
	s := r.job("train", 1, 8)
	v := r.admit(s)
	must.False(t, v.Denied, must.Sprint(v.Message))
	twice := r.balance("acme").HeldIn(month, gpuTime)
	must.Eq(t, 8*ledger.RegisterWithin.Milliseconds(), int64(twice.Sub(once)), must.Sprint("it may run until then, if the job is another one"))
	must.Eq(t, 8, r.heldGPUs("acme"))
	r.accept(s, v, true)
	must.Eq(t, first, r.balance("acme").Held)
	must.Len(t, 1, r.open())
	must.True(t, r.admit(r.job("second", 1, 1)).Denied)
}

func TestARefusedSubmissionIsVoided(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.admit(r.job("train", 1, 4))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	must.SliceEmpty(t, r.open())
	must.Eq(t, 0, r.heldGPUs("acme"))
	must.Eq(t, 0, r.placer.reserved)

	r.run(r.job("train", 1, 4))
	v = r.admit(r.job("train", 1, 6))
	must.Eq(t, 6, r.heldGPUs("acme"))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	must.Eq(t, 4, r.heldGPUs("acme"))
	r.checkBooks()
}

// Two submissions of one job are on their way at once, one good and one that
// Nomad refuses: the refusal must not end what the good one holds.
func TestARefusedSubmissionLeavesAnotherOfTheSameJobAlone(t *testing.T) {
	t.Parallel()
	for name, goodFirst := range map[string]bool{"good first": true, "bad first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			good, bad := r.job("train", 1, 4), r.job("train", 1, 2)
			vGood, vBad := r.admit(good), r.admit(bad)
			must.Eq(t, 4, r.heldGPUs("acme"))
			index := r.nomad.register("default", "train", false)
			accepted := gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index}
			if goodFirst {
				vGood.Settle(r.ctx, accepted)
				vBad.Settle(r.ctx, gate.Outcome{Known: true})
			} else {
				vBad.Settle(r.ctx, gate.Outcome{Known: true})
				vGood.Settle(r.ctx, accepted)
			}
			h := r.holdOf("default", "train")
			must.NotNil(t, h)
			must.Eq(t, ledger.Active, h.State)
			must.Nil(t, h.Pending)
			must.Eq(t, 4, r.heldGPUs("acme"))
			r.checkBooks()
		})
	}
}

func TestOverlappingSubmissionsAreBoundedByTheLargest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.job("train", 1, 6), r.job("train", 1, 2)
	va, vb := r.admit(a), r.admit(b)
	ia, ib := r.nomad.register("default", "train", false), r.nomad.register("default", "train", false)
	vb.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: ib})
	must.Eq(t, 6, r.heldGPUs("acme"), must.Sprint("the other is still on its way"))
	va.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: ia})
	h := r.holdOf("default", "train")
	must.Eq(t, ib, h.JobModifyIndex)
	must.Nil(t, h.Pending)
	must.Eq(t, 6, r.heldGPUs("acme"), must.Sprint("either may be in force: the larger stays held"))
	r.checkBooks()
}

// The answer to the first submission is lost and its allocation starts and ends
// before anybody looks; a second one is confirmed meanwhile.
func TestWhatALostSubmissionStartedIsPosted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.admit(r.job("train", 1, 1))
	r.nomad.register("default", "train", false)
	v.Settle(r.ctx, gate.Outcome{})
	alloc := r.nomad.start("default", "train", 0, 1)
	r.run(r.job("train", 1, 2))
	r.clock.advance(time.Minute)
	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	must.Eq(t, int64(60_000), r.posted("acme"))
}

// A job is stopped while a submission of it is on its way: what Nomad has is newer
// than what was submitted against, and is not the submission.
func TestAJobStoppedUnderASubmissionKeepsItsHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	s := r.job("train", 1, 2)
	v := r.admit(s)
	r.nomad.halt("default", "train")
	r.clock.advance(time.Minute)
	must.NoError(t, r.settle())
	must.NotNil(t, r.holdOf("default", "train"))
	r.accept(s, v, false)
	r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.Meter.Strays())
	must.Eq(t, 2, r.heldGPUs("acme"))
	r.checkBooks()
}

// The same, and the submission is lost: what it held is given back in time.
func TestAJobStoppedUnderALostSubmission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 4))
	r.admit(r.job("train", 1, 2)).Settle(r.ctx, gate.Outcome{})
	r.nomad.halt("default", "train")
	r.clock.advance(confirmWithin - time.Second)
	must.NoError(t, r.settle())
	must.Eq(t, 4, r.heldGPUs("acme"))
	r.clock.advance(time.Second)
	must.NoError(t, r.settle())
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, 0, r.heldGPUs("acme"))
}

// Nobody led while an allocation ran and ended; then the job is submitted anew. What
// it used is known to nobody, and counts beside what it asks for now.
func TestWhatNobodyHasSeenCountsBesideTheNextSubmission(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), testPolicy(8, "10"))
	hours := func(id string, gpus int) gate.Submission { return batch(r.nomad, "default", id, 1, gpus, time.Hour) }
	r.run(hours("train", 4))
	alloc := r.nomad.start("default", "train", 0, 4)
	r.clock.advance(30 * time.Minute)
	r.nomad.finish(alloc)
	r.run(hours("train", 4)) // 2 hours used, and 4 more at most
	h := r.holdOf("default", "train")
	must.Len(t, 1, h.Former)
	fits := func(id string, gpus int) bool { return !r.admit(hours(id, gpus)).Denied }
	must.False(t, fits("second", 4))
	second := r.nomad.start("default", "train", 0, 4)
	must.NoError(t, r.settle())
	must.Nil(t, r.holdOf("default", "train").Former)
	must.Eq(t, int64(2*time.Hour/time.Millisecond), r.posted("acme"))
	must.False(t, fits("second", 4))
	must.True(t, fits("second", 3))
	r.nomad.finish(second)
	must.NoError(t, r.settle())
	r.checkBooks()
}

// For a job that Nomad does not know nothing is read before the commit. It has a
// hold all the same here, which another agent made.
func TestAJobTakenForNewHasAHold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ first, again int }{
		"the commit tells":           {1, 2},
		"a refusal would rest on it": {8, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			first, err := r.second(r.store).Engine.Admit(r.ctx, r.job("train", 1, c.first))
			must.NoError(t, err)
			must.False(t, first.Denied)
			id := r.holdOf("default", "train").ID
			s := r.job("train", 1, c.again)
			must.Nil(t, s.Stored)
			v := r.admit(s)
			must.False(t, v.Denied, must.Sprint(v.Message))
			must.Eq(t, id, r.holdOf("default", "train").ID)
			must.Eq(t, 2, r.holdOf("default", "train").InFlight)
			must.Eq(t, int64(c.again), r.heldGPUs("acme"))
			r.checkBooks()
		})
	}
}

func TestARetryWithoutEndIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var err error
	for range unsettledMax + 1 {
		if _, err = r.Engine.Admit(r.ctx, r.job("train", 1, 1)); err != nil {
			break
		}
	}
	must.ErrorIs(t, err, errUnsettled)
	must.Eq(t, "too many submissions of this job have not been settled yet (ledger_unavailable)", err.Error())
	must.Eq(t, 1, r.heldGPUs("acme"))
}

func TestAChangeOfBudgetOnResubmission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 6))
	move := func(gpus int) gate.Submission {
		s := r.job("train", 1, gpus)
		s.Identity.Names = []string{"token:never"}
		s.Ask.Meta["governor_budget"] = "acme/side"
		return s
	}
	s := move(8)
	v := r.admit(s) // fits only because what acme/research holds goes away
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.Eq(t, []int64{8, 0, 8}, []int64{r.heldGPUs("acme"), r.heldGPUs("acme/research"), r.heldGPUs("acme/side")})
	r.checkBooks()

	v.Settle(r.ctx, gate.Outcome{Known: true}) // refused: back to where it was
	must.Eq(t, []int64{6, 6, 0}, []int64{r.heldGPUs("acme"), r.heldGPUs("acme/research"), r.heldGPUs("acme/side")})
	r.checkBooks()

	s = move(2)
	r.run(s)
	must.Eq(t, []int64{6, 0, 6}, []int64{r.heldGPUs("acme"), r.heldGPUs("acme/research"), r.heldGPUs("acme/side")})
	must.NoError(t, r.settle())
	must.Eq(t, []int64{2, 0, 2}, []int64{r.heldGPUs("acme"), r.heldGPUs("acme/research"), r.heldGPUs("acme/side")})
	r.checkBooks()
}

func TestGivingBackGPUsIsNeverRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 6))
	r.edit(testPolicy(1, "1")) // far below what is held
	s := r.job("train", 0, 0)
	s.Stored = r.nomad.stored("default", "train")
	v := r.run(s)
	must.False(t, v.Denied)
	must.Eq(t, 6, r.heldGPUs("acme"), must.Sprint("it may have started, and nobody has looked"))
	must.NoError(t, r.settle())
	must.Eq(t, 0, r.heldGPUs("acme"))

	r.run(r.job("train2", 1, 1))
	other := r.job("train", 0, 0)
	other.Ask.Namespace = "nobodys"
	must.False(t, r.admit(other).Denied)
}

func TestShadowModeHoldsAndBlocksNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit("governor { enforcement = \"shadow\" }\n" + testPolicy(2, "1000")[len("\ngovernor {\n  timezone = \"UTC\"\n  currency = \"USD\"\n}\n"):])
	must.Eq(t, "", r.Keeper.State().Broken)
	v := r.run(r.job("train", 1, 6))
	must.False(t, v.Denied)
	contains(t, v.Warnings[0], "shadow mode", "would be refused", "exceeds_budget")
	must.Eq(t, 6, r.heldGPUs("acme"))

	s := r.job("train", 1, 6)
	s.Ask.Namespace = "elsewhere"
	v = r.admit(s)
	must.False(t, v.Denied)
	contains(t, v.Warnings[0], "shadow mode", "unmatched")
}

func TestUnmatchedWorkMayBeAllowed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit("governor { unmatched = \"allow\" }\n" + testPolicy(2, "1000")[len("\ngovernor {\n  timezone = \"UTC\"\n  currency = \"USD\"\n}\n"):])
	s := r.job("train", 9, 6)
	s.Ask.Namespace = "elsewhere"
	v := r.admit(s)
	must.False(t, v.Denied)
	must.Eq(t, "ungoverned", v.Reason)
	must.Nil(t, v.Settle)
	must.SliceEmpty(t, r.open())
	must.Eq(t, 0, r.placer.reserved)
}

func TestTheBudgetSaysHowItsJobsArePlaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const owner, research = `owner = "finops@acme.example"`, `lease = "2h"`
	policy := strings.Replace(testPolicy(8, "1000"), owner, owner+"\n  placement {\n    mode = \"prefer\"\n  }", 1)
	r.edit(policy)
	r.run(r.job("train", 1, 1))
	must.Eq(t, Placing{Commit: true, Mode: "prefer", Budget: "acme"}, r.placer.how)
	r.edit(strings.Replace(policy, research, research+"\n    placement {\n      mode = \"off\"\n    }", 1))
	r.run(r.job("again", 1, 1))
	must.Eq(t, Placing{Commit: true, Mode: "off", Budget: "acme/research"}, r.placer.how, must.Sprint("the innermost"))
	s := r.job("other", 1, 1)
	s.Ask.Meta = map[string]string{admission.PlacementMeta: "require"}
	r.run(s)
	must.Eq(t, Placing{Commit: true}, r.placer.how, must.Sprint("the job says so itself"))
}

func TestPlacementThatFailsCostsNoAdmission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.placer.err = errDown
	v := r.run(r.job("train", 1, 1))
	must.False(t, v.Denied)
	contains(t, v.Warnings[1], "placement is not available")
	must.Len(t, 1, r.open())
}

func TestNoDecisionWithoutLedgerAndNoAddressInTheAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broken := &failing{Store: r.store, err: fmt.Errorf("%w: Get http://10.0.0.1:8500/v1/kv: refused", ledger.ErrUnavailable)}
	r.start(broken)
	_, err := r.Engine.Admit(r.ctx, r.job("train", 1, 1))
	must.ErrorIs(t, err, errNotLoaded)

	broken.pass = true
	must.NoError(t, r.Keeper.Load(r.ctx))
	broken.pass = false
	_, err = r.Engine.Admit(r.ctx, r.job("train", 1, 1))
	must.ErrorIs(t, err, ledger.ErrUnavailable)
	must.Eq(t, "the ledger cannot be reached (ledger_unavailable)", err.Error())
	must.Eq(t, 0, r.placer.reserved)

	v := r.admit(r.job("train", 0, 0)) // gives back: needs no ledger
	must.False(t, v.Denied)
}

// failing is a store that answers nothing but an error.
type failing struct {
	Store
	err  error
	pass bool
}

func (f *failing) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if f.pass {
		return f.Store.Read(ctx, keys...)
	}
	return nil, f.err
}

func (f *failing) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	if f.pass {
		return f.Store.List(ctx, prefix)
	}
	return nil, 0, f.err
}

func (f *failing) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	if f.pass {
		return f.Store.Commit(ctx, fence, writes)
	}
	return f.err
}

func TestAStoreThatAlwaysConflictsIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(&conflicting{Store: r.store})
	ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
	defer cancel()
	_, err := r.Engine.Admit(ctx, r.job("train", 1, 1))
	must.True(t, errors.Is(err, ledger.ErrConflict))
	contains(t, err.Error(), "too many changes")
}

type conflicting struct{ Store }

func (c *conflicting) Commit(context.Context, ledger.Fence, []ledger.Write) error {
	return ledger.ErrConflict
}
