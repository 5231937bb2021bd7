package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
)

// A process may be stopped after it has read the job and before it decides. The life
// that it has seen ends meanwhile, and Nomad's answer is lost: what that life used is
// posted already, by whatever leader.
func TestALifeThatHasEndedMeanwhileIsNotPaidAgain(t *testing.T) {
	t.Parallel()
	for _, another := range []bool{false, true} {
		r := newRig(t)
		r.run(r.job("a", 1, 2))
		first := r.nomad.start("default", "a", 0, 2)
		must.NoError(t, r.settle())
		stale := r.job("a", 1, 2)
		r.clock.advance(30 * time.Second)
		r.nomad.finish(first)
		must.NoError(t, r.settle())
		must.Nil(t, r.holdOf("default", "a"))
		r.clock.advance(time.Minute)
		v := r.admit(stale)
		r.nomad.register("default", "a", false)
		v.Settle(r.ctx, gate.Outcome{})
		if another {
			r.start(r.store)
		}
		next := r.nomad.start("default", "a", 0, 2)
		must.NoError(t, r.settle())
		r.clock.advance(time.Minute)
		r.nomad.finish(next)
		for range 3 {
			must.NoError(t, r.settle())
			r.clock.advance(confirmWithin)
		}
		must.Nil(t, r.holdOf("default", "a"))
		must.Eq(t, r.facts(), r.posted("acme"))
		r.checkBooks()
	}
}

// A submission is on its way when the same job arrives without GPUs, whose answer is
// lost, and dies at once: it is guessed that what was held for has arrived, but nothing
// ends before that is certain.
func TestAnotherSubmissionThatArrivedDoesNotEndTheHoldOfOneOnItsWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job("train", 1, 2)
	v := r.admit(s)
	r.nomad.register("default", "train", false) // without GPUs, so that nothing is held for it
	r.nomad.kill("default", "train")
	must.NoError(t, r.settle())
	must.NotNil(t, r.holdOf("default", "train"))
	r.accept(s, v, false)
	id := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	must.Len(t, 1, r.holdOf("default", "train").Tracks)
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.Nil(t, r.holdOf("default", "train"))

	// One that is lost on its way is given up when nobody can send it any more.
	r.admit(r.job("train", 1, 2))
	r.nomad.register("default", "train", false)
	r.nomad.kill("default", "train")
	must.NoError(t, r.settle())
	must.NotNil(t, r.holdOf("default", "train"))
	r.clock.advance(confirmWithin)
	must.NoError(t, r.settle())
	must.Nil(t, r.holdOf("default", "train"))
}

// Nomad calls a service dead for a moment whose only allocation has failed, before it
// replaces it. One that nobody stops and that stays dead ends.
func TestAServiceThatIsDeadForAMomentKeepsItsHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job("serve", 1, 2)
	s.Ask.Type = "service"
	r.run(s)
	first := r.nomad.start("default", "serve", 0, 2)
	must.NoError(t, r.settle())
	hold := r.holdOf("default", "serve")
	must.True(t, hold.Lines[0].Lease)
	r.nomad.lose(first)
	r.nomad.kill("default", "serve")
	must.NoError(t, r.settle())
	must.NotNil(t, r.holdOf("default", "serve"))
	second := r.nomad.start("default", "serve", 0, 2)
	r.nomad.revive("default", "serve")
	r.clock.advance(time.Hour)
	must.NoError(t, r.settle())
	must.Eq(t, hold.ID, r.holdOf("default", "serve").ID)

	r.nomad.lose(second)
	r.nomad.kill("default", "serve")
	must.NoError(t, r.settle())
	r.clock.advance(deadFor)
	must.NoError(t, r.settle())
	must.Nil(t, r.holdOf("default", "serve"))

	// One that is stopped ends at once.
	r.run(s)
	r.nomad.halt("default", "serve")
	must.NoError(t, r.settle())
	must.Nil(t, r.holdOf("default", "serve"))
}

// What Nomad refuses leaves no trace in what allocations are compared with.
func TestARefusedSubmissionKeepsTheOfferOfWhatRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.placer.record = `"n1"`
	r.run(r.job("train", 1, 2))
	r.placer.record = `"n2"`
	v := r.admit(r.job("train", 1, 1))
	must.EqOp(t, `"n2"`, string(r.holdOf("default", "train").Placement))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	must.EqOp(t, `"n1"`, string(r.holdOf("default", "train").Placement))
	r.run(r.job("train", 1, 1))
	must.EqOp(t, `"n2"`, string(r.holdOf("default", "train").Placement))
}
