package agent

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/shoenig/test/must"
)

// queueStory is a morning with a queue: two jobs wait, one is resubmitted, one is
// refused by Nomad, one is stopped, and the capacity comes back. Nomad goes on
// whatever becomes of the agent; errors are what a dying process sees.
func queueStory(r *rig, n *registry) {
	send := func(s gate.Submission, accepted bool) {
		v, err := r.Engine.Admit(r.ctx, s)
		if err != nil || v.Denied {
			return
		}
		o := gate.Outcome{Known: true}
		if accepted {
			o.Accepted, o.JobModifyIndex = true, r.arrive(s, v)
		}
		v.Settle(r.ctx, o)
	}
	var first string
	send(r.whole("first", 6, time.Hour), true)
	if n.stored("default", "first") != nil {
		first = n.start("default", "first", 0, 6)
	}
	_ = r.pass()
	send(r.whole("a", 4, time.Hour), true)
	r.clock.advance(time.Second)
	send(r.whole("b", 4, time.Hour), true)
	send(r.whole("refused", 4, time.Hour), false)
	send(r.whole("gone", 4, time.Hour), true)
	_ = r.pass()
	send(r.whole("a", 3, time.Hour), true)
	send(r.whole("b", 2, 2*time.Hour), false)
	if n.stored("default", "gone") != nil {
		n.stop("default", "gone", false)
	}
	_ = r.pass()
	if first != "" {
		n.finish(first)
	}
	_ = r.pass()
	r.clock.advance(time.Second)
	_ = r.pass()
}

// Killed at any write, before it or after, the queue loses and doubles nothing:
// the next process starts every job that Nomad has, once, and holds nothing for
// the others.
func TestKilledAtAnyWriteTheQueueGoesOn(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r, nomad := newQueueRig(t)
				store := &mortal{Store: r.store, left: n, written: written}
				r.start(store)
				queueStory(r, nomad)
				died := store.dead
				r.start(r.store) // the next process
				at := must.Sprintf("killed at commit %d", n)
				must.NoError(t, r.pass(), at)
				r.checkBooks()
				for range 4 {
					r.clock.advance(confirmWithin)
					must.NoError(t, r.pass(), at)
					must.NoError(t, r.pass(), at)
				}
				must.SliceEmpty(t, r.line(), at)
				for _, id := range []string{"a", "b", "gone", "refused"} {
					h, stored := r.holdOf("default", id), nomad.stored("default", id)
					live := stored != nil && !stopped(stored)
					must.Eq(t, live, h != nil, must.Sprintf("killed at commit %d: job %s registered %v", n, id, live))
					must.False(t, live && jobspec.Gated(stored), must.Sprintf("killed at commit %d: job %s waits for ever", n, id))
				}
				r.checkBooks()
				endAll(r)
				r.checkBooks()
				must.SliceEmpty(t, r.open(), at)
				must.Eq(t, 0, r.balance("acme").Held.Len(), at)
				must.Eq(t, r.facts(), r.posted("acme"), at)
				if !died {
					must.Greater(t, 12, n, must.Sprint("the story writes more often than that"))
					return
				}
			}
		})
	}
}
