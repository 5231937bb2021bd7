package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/shoenig/test/must"
)

// Trap 10: a job that waits is registered, so that Nomad shows it and gives the
// command line an evaluation to follow, and it starts when it fits.
func TestTrap10AQueuedJobIsRegisteredVisibleAndReleased(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	s := r.whole("second", 4, 30*time.Minute)
	v := r.submit(s)
	must.False(t, v.Denied)
	must.Eq(t, "concurrency_limit", v.Reason)
	must.Len(t, 1, v.Warnings)
	contains(t, v.Warnings[0], `governor: job "second" in namespace "default" waits for budget: it needs 4 GPUs, and budget acme has 2 GPUs left (concurrency_limit)`,
		"position    1 of 1 in the queue of budget acme/research", "expected    about 2026-03-10 13:00 UTC", "what to do  wait until other jobs")

	stored := r.nomad.stored("default", "second")
	must.True(t, jobspec.Gated(stored))
	must.Eq(t, "held by governor: waits for budget acme/research", stored.TaskGroups[0].Constraints[0].RTarget)
	must.Eq(t, 6, r.heldGPUs("acme"), must.Sprint("who waits holds nothing"))
	must.Nil(t, r.holdOf("default", "second"))
	must.Eq(t, []string{"second"}, r.line())
	must.NoError(t, r.pass())
	must.True(t, r.gated("second"))

	r.clock.advance(20 * time.Minute)
	r.nomad.finish(running)
	must.NoError(t, r.pass())
	must.False(t, r.gated("second"), must.Sprint("its turn has come"))
	must.SliceEmpty(t, r.line())
	h := r.holdOf("default", "second")
	must.NotNil(t, h)
	must.Eq(t, ledger.Active, h.State)
	must.Eq(t, 4, r.heldGPUs("acme"))
	r.checkBooks()

	alloc := r.begin("second", 4)
	r.clock.advance(10 * time.Minute)
	r.nomad.finish(alloc)
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
}

func TestAPlanSaysThatAJobWouldWait(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 6, time.Hour)
	for _, kind := range []gate.Kind{gate.Plan, gate.Validate} {
		s := r.whole("second", 4, time.Hour)
		s.Kind = kind
		v := r.admit(s)
		must.False(t, v.Denied)
		must.Nil(t, v.Settle)
		contains(t, v.Warnings[0], `would wait for budget`, "position    1 of 1")
		must.Eq(t, jobspec.GateTarget, v.Patch.Drop)
		must.SliceEmpty(t, r.line())
	}
}

func TestWhoMayNotWaitIsRefused(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	refused := func(s gate.Submission, reason string, parts ...string) {
		v := r.admit(s)
		must.True(t, v.Denied, must.Sprint(v.Warnings))
		must.Eq(t, reason, v.Reason)
		contains(t, v.Message, parts...)
	}
	refused(r.whole("no", 4, time.Hour, "governor_queue", "no"), "concurrency_limit", `not queued  meta governor_queue = "no" says so`)
	refused(r.whole("never", 9, time.Hour), "exceeds_budget", "never allows more")
	r.nomad.finish(running)
	must.SliceEmpty(t, r.line())

	scale := r.whole("second", 9, time.Hour)
	scale.Kind = gate.Scale
	must.True(t, r.admit(scale).Denied)
}

func TestAChangeOfARunningJobDoesNotWait(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 4, time.Hour)
	r.busy("other", 3, time.Hour)
	v := r.admit(r.whole("first", 6, time.Hour))
	must.True(t, v.Denied)
	contains(t, v.Message, "not queued  the job runs, or is about to: to wait it would have to be stopped")
	// One that has ended may wait, whatever the ledger still knows of it.
	r.nomad.kill("default", "other")
	r.submit(r.whole("other", 8, time.Hour))
	must.Eq(t, []string{"other"}, r.line())
}

func TestAResubmissionKeepsItsPlaceUnlessItNeedsMore(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 8, time.Hour)
	r.submit(r.whole("a", 4, time.Hour))
	since := r.queuedJob("a").SinceMS
	r.clock.advance(time.Minute)
	r.submit(r.whole("b", 4, time.Hour))
	r.clock.advance(time.Minute)

	index := r.queuedJob("a").JobModifyIndex
	r.submit(r.whole("a", 4, time.Hour))
	must.Eq(t, index, r.queuedJob("a").JobModifyIndex, must.Sprint("the same job once more is no new version"))
	must.Eq(t, since, r.queuedJob("a").SinceMS)
	must.Eq(t, 0, r.queuedJob("a").ExpiresMS)
	r.submit(r.whole("a", 3, time.Hour))
	must.Eq(t, since, r.queuedJob("a").SinceMS)
	must.Greater(t, index, r.queuedJob("a").JobModifyIndex)
	v := r.submit(r.whole("a", 5, time.Hour))
	must.Eq(t, r.clock.now().UnixMilli(), r.queuedJob("a").SinceMS)
	must.Eq(t, r.queuedJob("a").SinceMS+48*3600*1000, r.queuedJob("a").UntilMS)
	contains(t, v.Warnings[0], "position    2 of 2")

	// What Nomad refuses changes nothing.
	before := *r.queuedJob("b")
	s := r.whole("b", 1, 5*time.Hour)
	r.admit(s).Settle(r.ctx, gate.Outcome{Known: true})
	must.Eq(t, before, *r.queuedJob("b"))
	fresh := r.whole("c", 8, time.Hour)
	r.admit(fresh).Settle(r.ctx, gate.Outcome{Known: true})
	must.Eq(t, []string{"a", "b"}, r.line())
}

// What Nomad has counts: a job that is stopped, purged or registered without its
// gate does not wait any more, and one that is changed and gated waits on.
func TestEditsAtNomadCount(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 8, time.Hour)
	for _, id := range []string{"edited", "opened", "purged", "stopped"} {
		r.submit(r.whole(id, 4, time.Hour))
	}
	must.NoError(t, r.pass())
	r.nomad.stop("default", "stopped", false)
	r.nomad.stop("default", "purged", true)
	open, _ := jobspec.Ungated(r.nomad.stored("default", "opened"))
	r.arrive(r.submission(open), gate.Verdict{})
	edited := r.nomad.stored("default", "edited")
	edited.TaskGroups[0].Count = new(2)
	since := r.queuedJob("edited").SinceMS
	r.arrive(r.submission(edited), gate.Verdict{})
	r.clock.advance(lookEvery)
	must.NoError(t, r.pass())
	must.Eq(t, []string{"edited"}, r.line())
	q := r.queuedJob("edited")
	must.Eq(t, 2, q.Lines[0].Count)
	must.Greater(t, since, q.SinceMS, must.Sprint("it needs more, and is the last now"))
	must.Eq(t, *r.nomad.stored("default", "edited").JobModifyIndex, q.JobModifyIndex)
}

func TestAJobThatWaitedTooLongIsStopped(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 6, 60*time.Hour)
	r.submit(r.whole("late", 4, time.Hour))
	r.clock.advance(48*time.Hour - time.Second)
	must.NoError(t, r.pass())
	must.Eq(t, []string{"late"}, r.line())
	r.clock.advance(time.Second)
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.line())
	stored := r.nomad.stored("default", "late")
	must.True(t, *stored.Stop)
	must.Eq(t, "held by governor: gave up after waiting 48h0m0s for budget acme/research (queue_timeout)", stored.TaskGroups[0].Constraints[0].RTarget)
}

// Trap 11: who comes later and fits does not overtake whom it would delay, and
// may go first where it delays nobody.
func TestTrap11NobodyOvertakesByComingAtTheRightMoment(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 6, time.Hour)
	r.submit(r.whole("large", 8, time.Hour))
	r.clock.advance(time.Minute)
	v := r.submit(r.whole("long", 2, 2*time.Hour))
	must.Eq(t, "waiting_turn", v.Reason)
	contains(t, v.Warnings[0], "it fits, but a job that comes first waits for the same budget, and it would delay them (waiting_turn)", "position    2 of 2")
	must.True(t, r.gated("long"))
	refused := r.admit(r.whole("impatient", 2, 2*time.Hour, "governor_queue", "no"))
	must.True(t, refused.Denied)
	must.Eq(t, "waiting_turn", refused.Reason)
	must.Eq(t, "fits", r.submit(r.whole("short", 2, 10*time.Minute)).Reason)
	must.False(t, r.gated("short"))
	must.NoError(t, r.pass())
	must.Eq(t, []string{"large", "long"}, r.line())
	r.checkBooks()
}

// Trap 11: small jobs that keep coming do not starve a large one.
func TestTrap11ALargeJobHasItsTurn(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	ends := map[string]time.Time{r.busy("a", 4, time.Hour): r.clock.now().Add(time.Hour), r.busy("b", 4, time.Hour): r.clock.now().Add(time.Hour)}
	r.submit(r.whole("large", 8, time.Hour))
	for i := 0; r.gated("large"); i++ {
		must.Less(t, 40, i, must.Sprint("it starves"))
		r.clock.advance(10 * time.Minute)
		for alloc, end := range ends {
			if !r.clock.now().Before(end) {
				r.nomad.finish(alloc)
				delete(ends, alloc)
			}
		}
		must.NoError(t, r.pass())
		id := string(rune('c' + i))
		if v := r.submit(r.whole(id, 2, 30*time.Minute)); !r.gated(id) {
			must.False(t, v.Denied)
			ends[r.begin(id, 2)] = r.clock.now().Add(30 * time.Minute)
		}
	}
	must.LessEq(t, 8, r.heldGPUs("acme"))
	r.checkBooks()
}

// A job that its author changes while it is being released is what they registered.
func TestAJobThatIsChangedWhileItIsReleased(t *testing.T) {
	t.Parallel()
	r, n := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	r.submit(r.whole("second", 4, time.Hour))
	r.nomad.finish(running)
	n.before = func(nomadctl.Registration) {
		n.before = nil
		v := r.submit(r.whole("second", 2, time.Hour, "changed", "yes"))
		must.Eq(t, "fits", v.Reason)
	}
	must.NoError(t, r.pass())
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.line())
	stored := r.nomad.stored("default", "second")
	must.Eq(t, "yes", stored.Meta["changed"])
	must.False(t, jobspec.Gated(stored))
	r.begin("second", 2)
	r.clock.advance(confirmWithin)
	must.NoError(t, r.pass())
	must.Eq(t, 2, r.heldGPUs("acme"))
	r.checkBooks()
}

func TestAReleaseThatNomadRefusesIsTriedAgain(t *testing.T) {
	t.Parallel()
	r, n := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	r.submit(r.whole("second", 4, time.Hour))
	r.nomad.finish(running)
	n.refuse = true
	reserved := r.placer.reserved
	must.NoError(t, r.pass())
	must.Eq(t, []string{"second"}, r.line())
	contains(t, r.queuedJob("second").Detail, "Nomad does not let this agent register it")
	must.Eq(t, 0, r.heldGPUs("acme"))
	must.Eq(t, reserved, r.placer.reserved)
	n.refuse = false
	must.NoError(t, r.pass())
	must.True(t, r.gated("second"), must.Sprint("not at once"))
	r.clock.advance(refusedFor)
	must.NoError(t, r.pass())
	must.False(t, r.gated("second"))
	must.Eq(t, 4, r.heldGPUs("acme"))
}

// An answer of Nomad that is lost is found out, whether the release arrived or not.
func TestAReleaseWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"it arrived": true, "it did not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, n := newQueueRig(t)
			running := r.busy("first", 6, time.Hour)
			r.submit(r.whole("second", 4, time.Hour))
			r.nomad.finish(running)
			n.lose, n.arrives = true, arrives
			must.ErrorIs(t, r.pass(), nomadctl.ErrUnknown)
			n.lose = false
			must.Eq(t, 4, r.heldGPUs("acme"))
			r.start(r.store) // the next leader
			must.NoError(t, r.pass())
			must.False(t, r.gated("second"))
			must.SliceEmpty(t, r.line())
			must.Eq(t, ledger.Active, r.holdOf("default", "second").State)
			must.Eq(t, 1, n.registered)
			r.clock.advance(confirmWithin)
			must.NoError(t, r.pass())
			must.Eq(t, 4, r.heldGPUs("acme"))
			r.checkBooks()
		})
	}
}

func TestAGateThatAJobBringsAlongIsNotItsAuthors(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	r.submit(r.whole("second", 4, time.Hour))
	r.nomad.finish(running)
	must.NoError(t, r.settle())
	inspected := r.nomad.stored("default", "second")
	r.submit(r.submission(inspected))
	must.False(t, r.gated("second"))
	must.SliceEmpty(t, r.line())
	must.NoError(t, r.pass())
	must.Eq(t, 4, r.heldGPUs("acme"))

}

// A job that cannot be read holds up nobody behind it.
func TestAJobThatCannotBeReadDoesNotHoldUpTheQueue(t *testing.T) {
	t.Parallel()
	r, n := newQueueRig(t)
	running := r.busy("running", 8, time.Hour)
	must.False(t, r.submit(r.whole("unreadable", 4, time.Hour)).Denied)
	r.clock.advance(time.Second)
	must.False(t, r.submit(r.whole("behind", 4, time.Hour)).Denied)
	n.garbled = "unreadable"
	r.nomad.finish(running)
	err := r.pass()
	must.ErrorContains(t, err, "unreadable")
	must.True(t, r.gated("behind"))
	r.clock.advance(3 * time.Second)
	must.NoError(t, r.pass())
	must.False(t, r.gated("behind"))
	n.garbled = ""
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.pass())
	must.False(t, r.gated("unreadable"))
}

func TestTheQueueAndItsReasonsAreShown(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	running := r.busy("first", 6, time.Hour)
	r.submit(r.whole("second", 7, time.Hour))
	r.clock.advance(time.Minute)
	r.submit(r.whole("third", 2, 2*time.Hour))
	view, err := r.Engine.Queue(r.ctx, "acme")
	must.NoError(t, err)
	must.Len(t, 2, view.Jobs)
	second, third := view.Jobs[0], view.Jobs[1]
	must.Eq(t, "second", second.JobID)
	must.Eq(t, "concurrency_limit", second.Reason)
	must.Eq(t, 7, second.GPUs)
	must.Eq(t, noon.Add(time.Hour+35*time.Second), second.Expected.UTC())
	must.Eq(t, "waiting_turn", third.Reason)
	must.Eq(t, 2, third.Position)
	must.Eq(t, noon.Add(48*time.Hour+time.Minute), third.Until.UTC())
	other, err := r.Engine.Queue(r.ctx, "acme/side")
	must.NoError(t, err)
	must.SliceEmpty(t, other.Jobs)
	_, err = r.Engine.Queue(r.ctx, "acme/none")
	must.ErrorContains(t, err, `there is no budget "acme/none"`)

	why := func(id string) JobReason {
		out, err := r.Engine.Why(r.ctx, "default", id)
		must.NoError(t, err)
		return out
	}
	must.Eq(t, "running", why("first").State)
	contains(t, why("second").Text, "waits for budget: it needs 7 GPUs", "instead     2 x v100", "position    1 of 2")
	must.Eq(t, "unknown", why("none").State)
	status, err := r.Engine.Status(r.ctx, r.Meter)
	must.NoError(t, err)
	must.Eq(t, 2, status.Budgets[1].Queued)

	r.nomad.finish(running)
	must.NoError(t, r.pass())
	must.Eq(t, "admitted", why("second").State)
}

// With fair share, who used and holds less of late comes first, whoever was first
// in line.
func TestFairShareOrdersTheQueue(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.edit(strings.Replace(queuePolicy, `queue { timeout = "48h" }`, "queue {\n    order = \"fair_share\"\n  }\n  fair_share { half_life = \"24h\" }", 1))
	must.Eq(t, "", r.Keeper.State().Broken)
	running := r.busy("first", 8, time.Hour)
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.pass())
	used := r.balance("acme/research").Use
	must.Positive(t, used.GPUTime)
	must.Eq(t, r.posted("acme/research"), int64(used.GPUTime))

	r.submit(r.whole("research", 8, time.Hour))
	r.clock.advance(time.Minute)
	v := r.submit(r.wholeIn("side", "side", 8, time.Hour))
	contains(t, v.Warnings[0], "position    1 of 1 in the queue of budget acme/side")
	view, err := r.Engine.Queue(r.ctx, "")
	must.NoError(t, err)
	must.Eq(t, "side", view.Jobs[0].JobID, must.Sprint("side has used nothing"))
	r.nomad.finish(running)
	must.NoError(t, r.pass())
	must.Eq(t, []string{"research"}, r.line())
}

// A short line is planned for everybody, however long the last plan took; of a long one
// the place is told, and that the start was not computed.
func TestABusyAgentPlansAShortLineAllTheSame(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 8, time.Hour)
	for n := range lineShort + 2 {
		r.Engine.line.plans = pace{took: time.Hour, last: time.Now()}
		v, err := r.Engine.Admit(r.ctx, r.whole(fmt.Sprintf("job-%02d", n), 8, time.Hour))
		must.NoError(t, err)
		must.False(t, v.Denied)
		v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: uint64(100 + n)})
		text := strings.Join(v.Warnings, "\n")
		contains(t, text, fmt.Sprintf("position    %d of %d", n+1, n+1))
		must.Eq(t, n <= lineShort, strings.Contains(text, "expected    about"), must.Sprint(n, text))
		must.Eq(t, n > lineShort, strings.Contains(text, "expected    not computed now"), must.Sprint(n, text))
	}
}
