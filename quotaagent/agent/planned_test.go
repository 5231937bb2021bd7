package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// plannedRig has a gang that waits, and GPUs that can be set aside for it once it has
// waited for a quarter of an hour: they are free two hours from now.
func plannedRig(t *testing.T) (*rig, *gangs) {
	r, _, g := gangRig(t)
	r.placer.waits = "gang of 2 x 2 GPUs: 1 of 2 fit now"
	r.placer.plan = &ledger.Planned{StartMS: r.clock.now().Add(2 * time.Hour).UnixMilli(), Devices: map[string][]string{"n1": {"g0", "g1"}, "n2": {"g2", "g3"}}}
	r.placer.behind = "no GPUs are free for it but those that are set aside for gang default/train"
	must.Eq(t, "gang_waits", r.submit(r.gang("train")).Reason)
	must.NoError(t, r.passGangs(g))
	must.Nil(t, r.queuedJob("train").Planned, must.Sprint("it has not waited for long"))
	return r, g
}

// age lets a gang wait until GPUs are set aside for it.
func (r *rig) age(g *gangs) {
	r.t.Helper()
	r.clock.advance(15 * time.Minute)
	must.NoError(r.t, r.passGangs(g))
	must.NotNil(r.t, r.queuedJob("train").Planned)
	r.Engine.line.changed()
}

func TestAGangThatWaitedForLongIsNotOvertakenByWorkThatWouldDelayIt(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	must.Eq(t, "fits", r.submit(r.whole("before", 1, 9*time.Hour)).Reason)
	r.age(g)
	planned := r.queuedJob("train").Planned
	must.Eq(t, r.placer.plan.StartMS, planned.StartMS)
	must.Eq(t, r.clock.now().Add(planFor).UnixMilli(), planned.UntilMS)
	contains(t, r.queuedJob("train").Detail, "1 of 2 fit now; 4 GPUs are set aside for it, which are free by 20")
	contains(t, r.auditTexts(), "gang.planned", "has waited for 15m0s: gang of 2 x 2 GPUs: 1 of 2 fit now; 4 GPUs are set aside")

	must.Eq(t, "fits", r.submit(r.whole("short", 1, 30*time.Minute)).Reason, must.Sprint("it is over before the gang starts"))
	v := r.submit(r.whole("long", 1, 9*time.Hour))
	must.Eq(t, "planned_for_gang", v.Reason)
	contains(t, v.Warnings[0], `job "long" in namespace "default" waits for GPUs: `+r.placer.behind, "give it a max runtime that ends before the gang starts")
	must.True(t, r.gated("long"))
	must.Nil(t, r.holdOf("default", "long"))
	must.Eq(t, "held by governor: waits for GPUs that are set aside for a gang", r.nomad.stored("default", "long").TaskGroups[0].Constraints[0].RTarget)
	why, err := r.Engine.Why(r.ctx, "default", "long")
	must.NoError(t, err)
	contains(t, why.Text, "waits for GPUs: ", "(planned_for_gang)")

	hasty := r.admit(r.whole("hasty", 1, 9*time.Hour, "governor_queue", "no"))
	must.True(t, hasty.Denied)
	must.Eq(t, "planned_for_gang", hasty.Reason)

	view, err := r.Engine.Queue(r.ctx, "")
	must.NoError(t, err)
	must.Eq(t, "train", view.Jobs[0].JobID)
	must.Eq(t, planned.StartMS, view.Jobs[0].Expected.UnixMilli())

	// The gang starts, and with it gone from the queue so does the other.
	r.placer.waits = ""
	r.clock.advance(planEvery)
	must.NoError(t, r.passGangs(g))
	must.False(t, r.gated("train"))
	must.NotNil(t, r.holdOf("default", "train"))
	r.clock.advance(behindTryEvery)
	must.NoError(t, r.passGangs(g))
	must.NoError(t, r.passGangs(g))
	must.False(t, r.gated("long"))
	r.checkBooks()
}

func TestAPlanIsRenewedAsLongAsItStandsAndEndsWithItsCause(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.age(g)
	first := r.queuedJob("train").Planned
	r.clock.advance(planRenew - time.Minute)
	must.NoError(t, r.passGangs(g))
	must.Eq(t, first, r.queuedJob("train").Planned, must.Sprint("the store is not written to for nothing"))
	r.clock.advance(2 * time.Minute)
	must.NoError(t, r.passGangs(g))
	second := r.queuedJob("train").Planned
	must.Eq(t, first.SinceMS, second.SinceMS)
	must.Less(t, second.UntilMS, first.UntilMS)

	// Nobody leads: the plan is over by itself.
	r.clock.advance(planFor)
	r.Engine.line.changed()
	must.Eq(t, "fits", r.submit(r.whole("late", 1, 9*time.Hour)).Reason)

	// What was to end has no end any more.
	r.placer.plan = nil
	must.NoError(t, r.passGangs(g))
	must.Nil(t, r.queuedJob("train").Planned)
}

func TestAPlanStaysWhileNothingChangesButTime(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.age(g)
	first, audited := r.queuedJob("train").Planned, r.auditKinds()
	for range 2 * planEvery / time.Second {
		r.clock.advance(time.Second)
		must.NoError(t, r.passGangs(g))
		must.Eq(t, first, r.queuedJob("train").Planned)
	}
	must.Eq(t, audited, r.auditKinds())
}

func TestAPlanStaysWhileNomadCannotBeRead(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.age(g)
	first := r.queuedJob("train").Planned
	r.placer.err = errors.New("no answer")
	r.clock.advance(2 * planFor / 3) // so that it is time to renew it
	must.NoError(t, r.passGangs(g))
	contains(t, r.queuedJob("train").Detail, "for Nomad cannot be read; 4 GPUs are set aside for it")
	must.Eq(t, first.Devices, r.queuedJob("train").Planned.Devices)
	must.Less(t, r.queuedJob("train").Planned.UntilMS, first.UntilMS)
}

func TestAGangThatCannotBeRegisteredLeavesTheGPUsToTheNext(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	must.Eq(t, "gang_waits", r.submit(r.gang("train-2")).Reason)
	r.age(g)
	must.Nil(t, r.queuedJob("train-2").Planned)
	waits, n := r.placer.waits, r.registrar.(*registry)
	r.placer.waits, n.refuse = "", true
	for range 4 { // the pause gets longer with each attempt
		r.clock.advance(time.Minute)
		must.NoError(t, r.passGangs(g))
	}
	r.placer.waits, n.refuse = waits, false
	for range 3 * planEvery / time.Second {
		r.clock.advance(time.Second)
		must.NoError(t, r.passGangs(g))
		must.False(t, r.queuedJob("train").Planned != nil && r.queuedJob("train-2").Planned != nil, must.Sprint("for one gang at a time"))
	}
	must.NotNil(t, r.queuedJob("train-2").Planned)
}

// A gang that its author changed may not be able to use what was set aside for it before.
// The first gang waits for GPUs whose work has no end. GPUs are set aside for the next
// one, and stay so until there is a plan for the first one.
func TestAGangWithoutHopeDoesNotKeepTheNextFromAPlan(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.placer.hopeless = "train"
	must.Eq(t, "gang_waits", r.submit(r.gang("train-2")).Reason)
	r.clock.advance(15 * time.Minute)
	r.passFor(g, hopelessFor-planEvery)
	must.Nil(t, r.queuedJob("train-2").Planned)
	r.passFor(g, 2*planEvery)
	second := r.queuedJob("train-2").Planned
	must.NotNil(t, second)
	must.Nil(t, r.queuedJob("train").Planned)
	r.passFor(g, 5*time.Minute)
	must.Eq(t, second.SinceMS, r.queuedJob("train-2").Planned.SinceMS)
	must.StrNotContains(t, r.auditKinds(), "gang.plan_ended")

	r.placer.hopeless = ""
	r.passFor(g, 2*planEvery)
	must.NotNil(t, r.queuedJob("train").Planned)
	must.Nil(t, r.queuedJob("train-2").Planned)
	must.False(t, r.releaser.hopeless(*r.queuedJob("train")))
	r.passFor(g, 5*time.Minute)
	must.EqOp(t, 1, strings.Count(r.auditKinds(), "gang.plan_ended"))
	r.checkBooks()
}

// passFor is rounds of the leader's work, for some time.
func (r *rig) passFor(g *gangs, d time.Duration) {
	r.t.Helper()
	for ; d > 0; d -= planEvery {
		r.clock.advance(planEvery)
		must.NoError(r.t, r.passGangs(g))
	}
}

// An allocation that just starts is known to Nomad before the books have it: for a moment
// there is no plan, and that is no reason to give the next gang the first one's turn.
func TestAMomentWithoutAPlanChangesNothing(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	must.Eq(t, "gang_waits", r.submit(r.gang("train-2")).Reason)
	r.age(g)
	plan := r.placer.plan
	r.placer.plan = nil
	r.passFor(g, planEvery)
	r.placer.plan = plan
	r.passFor(g, 10*time.Minute)
	must.NotNil(t, r.queuedJob("train").Planned)
	must.Nil(t, r.queuedJob("train-2").Planned)
}

func TestAGangThatIsChangedHasHopeAgain(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	must.Eq(t, "gang_waits", r.submit(r.gang("train-2")).Reason)
	r.placer.hopeless = "train"
	r.clock.advance(15 * time.Minute)
	r.passFor(g, hopelessFor+planEvery)
	must.NotNil(t, r.queuedJob("train-2").Planned)
	must.True(t, r.releaser.hopeless(*r.queuedJob("train")))
	must.Eq(t, "gang_waits", r.submit(r.gang("train", "note", "smaller")).Reason)
	must.NoError(t, r.passGangs(g))
	must.False(t, r.releaser.hopeless(*r.queuedJob("train")))
}

func TestAGangThatIsSubmittedAgainIsPlannedAnew(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.age(g)
	since := r.queuedJob("train").SinceMS
	r.placer.plan = &ledger.Planned{StartMS: r.placer.plan.StartMS, Devices: map[string][]string{"n3": {"g4", "g5", "g6", "g7"}}}
	must.Eq(t, "gang_waits", r.submit(r.gang("train")).Reason)
	must.Nil(t, r.queuedJob("train").Planned)
	must.Eq(t, since, r.queuedJob("train").SinceMS)
	r.clock.advance(planEvery)
	must.NoError(t, r.passGangs(g))
	must.Eq(t, r.placer.plan.Devices, r.queuedJob("train").Planned.Devices)
}

func TestAGangWithoutBudgetHasNothingSetAside(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	r.age(g)
	r.edit(strings.Replace(queuePolicy, "any = 8", "any = 3", 1))
	r.clock.advance(planEvery)
	must.NoError(t, r.passGangs(g))
	must.Nil(t, r.queuedJob("train").Planned)
	contains(t, r.auditTexts(), "gang.plan_ended")
}

func TestWorkThatRunsAndShadowModeAreNotKeptWaiting(t *testing.T) {
	t.Parallel()
	r, g := plannedRig(t)
	s := r.whole("runs", 1, 9*time.Hour)
	must.Eq(t, "fits", r.submit(s).Reason)
	r.nomad.start("default", "runs", 0, 1)
	r.age(g)
	again := r.whole("runs", 1, 8*time.Hour)
	must.NotEq(t, "planned_for_gang", r.admit(again).Reason)

	must.Eq(t, "planned_for_gang", r.admit(r.whole("long", 1, 9*time.Hour)).Reason)
	r.edit(strings.Replace(queuePolicy, `owner = "finops@acme.example"`, "enforcement = \"advisory\"", 1))
	must.Eq(t, "", r.Keeper.State().Broken)
	must.Eq(t, "fits", r.admit(r.whole("long", 1, 9*time.Hour)).Reason, must.Sprint("nothing of a budget that only advises waits"))
}
