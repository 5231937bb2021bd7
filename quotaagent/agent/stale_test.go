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
