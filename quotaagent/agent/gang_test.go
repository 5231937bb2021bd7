package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// gang is a submission of two allocations with two GPUs each that run together or not
// at all.
func (r *rig) gang(id string, meta ...string) gate.Submission {
	job := r.whole(id, 2, time.Hour, append([]string{"governor_gang", "true"}, meta...)...).Job
	job.TaskGroups[0].Count = new(2)
	return r.submission(job)
}

// passGangs is one round of the leader's work on gangs and on the queue.
func (r *rig) passGangs(g *gangs) error {
	if err := r.settle(); err != nil {
		return err
	}
	open, _, err := r.Engine.books.holds(r.ctx)
	must.NoError(r.t, err)
	g.note(open)
	if err := g.look(r.ctx, ledger.Fence{}); err != nil {
		return err
	}
	return r.pass()
}

func gangRig(t *testing.T) (*rig, *registry, *gangs) {
	r, n := newQueueRig(t)
	return r, n, newGangs(r.Engine, n, r.nomad, time.Minute, r.Engine.logger)
}

func TestAGangThatDoesNotFitWaitsAndHoldsNothing(t *testing.T) {
	t.Parallel()
	r, _, g := gangRig(t)
	r.placer.waits = "gang of 2 x 2 GPUs: 1 of 2 fit now"
	v := r.submit(r.gang("train"))
	must.Eq(t, "gang_waits", v.Reason)
	contains(t, v.Warnings[0], `job "train" in namespace "default" waits for GPUs: gang of 2 x 2 GPUs: 1 of 2 fit now (gang_waits)`, "position    1 of 1")
	must.True(t, r.gated("train"))
	must.Eq(t, "held by governor: gang of 2 x 2 GPUs waits until all of it fits at once", r.nomad.stored("default", "train").TaskGroups[0].Constraints[0].RTarget)
	must.Nil(t, r.holdOf("default", "train"))
	must.Eq(t, 0, r.placer.reserved)

	// One behind it that fits is not kept from starting, and the gang is told what is missing now.
	r.placer.waits = "gang of 2 x 2 GPUs: 0 of 2 fit now"
	r.busy("small", 2, time.Hour)
	must.NoError(t, r.passGangs(g))
	must.True(t, r.gated("train"))
	must.Eq(t, r.placer.waits, r.queuedJob("train").Detail)
	why, err := r.Engine.Why(r.ctx, "default", "train")
	must.NoError(t, err)
	contains(t, why.Text, `waits for GPUs: gang of 2 x 2 GPUs: 0 of 2 fit now (gang_waits)`)

	r.placer.waits = ""
	r.clock.advance(planEvery)
	must.NoError(t, r.passGangs(g))
	must.False(t, r.gated("train"))
	must.NotNil(t, r.holdOf("default", "train"))
	r.checkBooks()
}

func TestAGangThatMayNotWaitOrCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	r, _, _ := gangRig(t)
	r.placer.waits = "gang of 2 x 2 GPUs: 1 of 2 fit now"
	refused := func(s gate.Submission, reason string, parts ...string) {
		v := r.admit(s)
		must.True(t, v.Denied, must.Sprint(v.Warnings))
		must.Eq(t, reason, v.Reason)
		contains(t, v.Message, parts...)
	}
	refused(r.gang("now", "governor_queue", "no"), "gang_waits", "1 of 2 fit now", `not queued  meta governor_queue = "no" says so`)
	refused(r.gang("odd", "governor_gang", "maybe"), "gang_unknown", `"maybe", which is neither true nor false`)
	refused(r.gang("odd", "governor_gang_timeout", "soon"), "gang_unknown", `"soon", which is no duration`)
	system := r.gang("everywhere")
	system.Job.Type = new(api.JobTypeSystem)
	s := r.submission(system.Job)
	s.Ask.Type = api.JobTypeSystem
	v := r.admit(s)
	must.True(t, v.Denied)

	r.Engine.releases = false
	refused(r.gang("train"), "gang_waits", "this agent cannot start it later")
}

// A gang of which a part runs for longer than its timeout is stopped, gives everything
// back, waits, and is started again later and as a whole.
func TestAGangThatRunsInPartIsTakenBack(t *testing.T) {
	t.Parallel()
	r, n, g := gangRig(t)
	must.False(t, r.submit(r.gang("train")).Denied)
	alone := r.nomad.start("default", "train", 0, 2)
	r.clock.advance(gangGrace)
	must.NoError(t, r.passGangs(g))
	must.NotNil(t, r.holdOf("default", "train").Gang)
	since := r.holdOf("default", "train").Gang.PartialMS
	r.clock.advance(30 * time.Second)
	must.NoError(t, r.passGangs(g))
	must.Eq(t, since, r.holdOf("default", "train").Gang.PartialMS, must.Sprint("it is known since when"))
	must.Nil(t, r.queuedJob("train"))

	r.clock.advance(30 * time.Second)
	r.placer.waits = "gang of 2 x 2 GPUs: 1 of 2 fit now"
	must.NoError(t, r.passGangs(g))
	stored := r.nomad.stored("default", "train")
	must.True(t, *stored.Stop)
	must.True(t, jobspec.Gated(stored))
	contains(t, r.auditTexts(), "gang.rolled_back", `is stopped and waits again: the gang ran with 1 of its 2 allocations for 1m0s`)
	must.NoError(t, r.passGangs(g))
	must.True(t, *r.nomad.stored("default", "train").Stop, must.Sprint("something of it still ends"))

	r.nomad.finish(alone)
	must.NoError(t, r.passGangs(g))
	must.NoError(t, r.passGangs(g))
	stored = r.nomad.stored("default", "train")
	must.False(t, *stored.Stop)
	must.True(t, jobspec.Gated(stored))
	must.Nil(t, r.holdOf("default", "train"), must.Sprint("it gave its budget back"))
	must.Eq(t, 0, r.heldGPUs("acme"))
	must.Eq(t, 1, r.queuedJob("train").Rollbacks)

	r.placer.waits = ""
	must.NoError(t, r.passGangs(g))
	must.True(t, r.gated("train"), must.Sprint("there is a pause before the next attempt"))
	r.clock.advance(gangPause)
	must.NoError(t, r.passGangs(g))
	must.False(t, r.gated("train"))
	must.Eq(t, &ledger.Gang{Rollbacks: 1}, r.holdOf("default", "train").Gang)
	first, second := r.nomad.start("default", "train", 0, 2), r.nomad.start("default", "train", 1, 2)
	must.NoError(t, r.passGangs(g))
	must.Nil(t, r.holdOf("default", "train").Gang, must.Sprint("all of it runs: the next time counts anew"))
	before := n.registered
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.passGangs(g))
	must.Eq(t, before, n.registered, must.Sprint("what runs as a whole is left alone"))
	r.nomad.finish(first)
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.passGangs(g))
	must.Eq(t, before, n.registered, must.Sprint("what has done a part of its work is left alone"))
	r.nomad.finish(second)
	must.NoError(t, r.passGangs(g))
	r.checkBooks()
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
}

// A gang that never runs as a whole is given up, and says so.
func TestAGangIsGivenUpAfterSomeAttempts(t *testing.T) {
	t.Parallel()
	r, _, g := gangRig(t)
	must.False(t, r.submit(r.gang("train")).Denied)
	for range gangAttempts + 1 {
		must.False(t, r.gated("train"))
		alone := r.nomad.start("default", "train", 0, 2)
		r.clock.advance(gangGrace)
		must.NoError(t, r.passGangs(g))
		r.clock.advance(time.Minute)
		must.NoError(t, r.passGangs(g))
		r.nomad.finish(alone)
		must.NoError(t, r.passGangs(g))
		must.NoError(t, r.passGangs(g))
		r.clock.advance(gangPauseMax)
		must.NoError(t, r.passGangs(g))
	}
	stored := r.nomad.stored("default", "train")
	must.True(t, *stored.Stop)
	must.StrContains(t, stored.TaskGroups[0].Constraints[0].RTarget, "held by governor: gave up: the gang ran with 1 of its 2 allocations")
	must.Nil(t, r.queuedJob("train"))
	must.StrContains(t, r.auditTexts(), "stays stopped")
	must.SliceEmpty(t, r.open())
	r.checkBooks()
}

// Who stops a gang or changes it while it is taken back is obeyed.
func TestAGangThatSomebodyStopsMeanwhileStaysStopped(t *testing.T) {
	t.Parallel()
	r, _, g := gangRig(t)
	must.False(t, r.submit(r.gang("train")).Denied)
	alone := r.nomad.start("default", "train", 0, 2)
	r.clock.advance(gangGrace)
	must.NoError(t, r.passGangs(g))
	r.clock.advance(time.Minute)
	must.NoError(t, r.passGangs(g))
	must.NotNil(t, r.queuedJob("train"))
	r.nomad.mu.Lock()
	r.nomad.index++
	r.nomad.jobs[jobKey("default", "train")].modifyIndex = r.nomad.index // `nomad job stop` of a stopped job
	r.nomad.mu.Unlock()
	r.nomad.finish(alone)
	must.NoError(t, r.passGangs(g))
	must.NoError(t, r.passGangs(g))
	must.True(t, *r.nomad.stored("default", "train").Stop)
	must.Nil(t, r.queuedJob("train"))
	must.SliceEmpty(t, r.open())
}

// Killed at any write, the next process ends what was begun: the gang waits, holds
// nothing, and was stopped once.
func TestKilledWhileAGangIsTakenBackTheNextGoesOn(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for left := 1; ; left++ {
				r, n, _ := gangRig(t)
				must.False(t, r.submit(r.gang("train")).Denied)
				alone := r.nomad.start("default", "train", 0, 2)
				must.NoError(t, r.settle())
				r.placer.waits = "gang of 2 x 2 GPUs: 1 of 2 fit now"
				store := &mortal{Store: r.store, left: left, written: written}
				story := func(g *gangs) {
					for range 8 {
						r.clock.advance(gangGrace)
						_ = r.passGangs(g)
						r.clock.advance(time.Minute)
						_ = r.passGangs(g)
						if stored := n.stored("default", "train"); stored.Stop != nil && *stored.Stop {
							n.finish(alone)
						}
					}
				}
				r.start(store)
				story(newGangs(r.Engine, n, r.nomad, time.Minute, r.Engine.logger))
				died := store.dead
				r.start(r.store)
				story(newGangs(r.Engine, n, r.nomad, time.Minute, r.Engine.logger))
				at := must.Sprintf("killed at commit %d", left)
				stored := n.stored("default", "train")
				must.True(t, jobspec.Gated(stored), at)
				must.False(t, *stored.Stop, at)
				must.NotNil(t, r.queuedJob("train"), at)
				must.Eq(t, 0, r.queuedJob("train").RollbackMS, at)
				must.Nil(t, r.holdOf("default", "train"), at)
				must.Eq(t, 1, strings.Count(r.auditTexts(), "is stopped and waits again"), at)
				r.checkBooks()
				must.Eq(t, r.facts(), r.posted("acme"), at)
				if !died {
					must.Greater(t, 4, left, must.Sprint("it writes more often than that"))
					return
				}
			}
		})
	}
}
