package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/shoenig/test/must"
)

func TestAThrottledServiceGoesDownAndUpAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.service("web", 8))
	for slot := range 8 {
		r.nomad.start("default", "web", slot, 1)
	}
	throttle := `throttle {
      min_count = 3
      step      = "25%"
      every     = "2m"
    }`
	r.edit(stopPolicy(1, "throttle", throttle))
	counts := func(minutes int) []string {
		for range minutes {
			must.NoError(t, r.enforce())
			must.NoError(t, r.settle())
			r.checkBooks()
			r.clock.advance(time.Minute)
		}
		return r.actor.took()
	}
	scaled := func(counts ...int) []string {
		var calls []string
		for _, n := range counts {
			calls = append(calls, fmt.Sprintf("scale default/web g to %d", n))
		}
		slices.Sort(calls)
		return calls
	}
	must.Eq(t, scaled(6), counts(2))
	must.Eq(t, 6, r.heldGPUs("acme"))
	must.Eq(t, scaled(4, 3), counts(20))
	must.Eq(t, 3, r.heldGPUs("acme"))
	must.Eq(t, map[string]ledger.Throttled{"g": {Was: 8, Is: 3}}, r.holdOf("default", "web").Ending.Throttled)

	// Up as far as there is room, one step in a pause.
	r.edit(stopPolicy(6, "throttle", throttle))
	must.Eq(t, scaled(5), counts(20))
	must.Eq(t, 5, r.heldGPUs("acme"))
	r.edit(stopPolicy(8, "throttle", throttle))
	must.Eq(t, scaled(7, 8), counts(20))
	must.Eq(t, 8, r.heldGPUs("acme"))
	must.Nil(t, r.holdOf("default", "web").Ending)
}

// narrowed is a service of four allocations whose budget has room for two by now, and
// throttles; its scaling is answered with err, carried out or not.
func narrowed(t *testing.T, err error, done bool) *rig {
	r := newRig(t)
	r.run(r.service("web", 4))
	for slot := range 4 {
		r.nomad.start("default", "web", slot, 1)
	}
	r.edit(stopPolicy(2, "throttle", ""))
	r.actor.answer(err, done)
	must.NoError(t, r.enforce())
	must.Eq(t, []string{"scale default/web g to 3"}, r.actor.took())
	return r
}

// An answer about scaling that was lost is found out by the meter.
func TestALostAnswerAboutScaling(t *testing.T) {
	t.Parallel()
	for name, done := range map[string]bool{"it was done": true, "it was not done": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := narrowed(t, nomadctl.ErrUnknown, done)
			must.NotNil(t, r.holdOf("default", "web").Pending)
			must.Eq(t, 4, r.heldGPUs("acme"))
			r.actor.answer(nil, false)
			for range 12 {
				r.clock.advance(time.Minute)
				must.NoError(t, r.settle())
			}
			h := r.holdOf("default", "web")
			must.Nil(t, h.Pending)
			r.checkBooks()
			if done {
				must.Eq(t, 3, r.heldGPUs("acme"))
				must.NoError(t, r.enforce())
				must.Eq(t, []string{"scale default/web g to 2"}, r.actor.took())
				return
			}
			must.Eq(t, 4, r.heldGPUs("acme"))
		})
	}
}

// Nomad's refusals leave the job as it is and are tried again after the pause.
func TestScalingThatNomadRefuses(t *testing.T) {
	t.Parallel()
	r := narrowed(t, nomadctl.ErrRefused, false)
	h := r.holdOf("default", "web")
	must.Nil(t, h.Pending)
	must.Eq(t, 4, h.Lines[0].Count)
	r.actor.answer(nil, false)
	for range 20 {
		must.NoError(t, r.enforce())
		r.clock.advance(time.Minute)
	}
	must.Eq(t, 2, r.heldGPUs("acme"))
	r.checkBooks()
}
