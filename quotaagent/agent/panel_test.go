package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func (r *rig) panel(id string) JobPanel {
	p, err := r.Panel(r.ctx, "default", id)
	must.NoError(r.t, err)
	return p
}

func TestPanel_ofAJobThatRunsAndEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	none := r.panel("train")
	must.Eq(t, "unknown", none.State)
	must.SliceEmpty(t, none.Account)

	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	must.Eq(t, "admitted", r.panel("train").State)
	alloc := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.settle())
	must.NoError(t, r.history.flush(r.ctx))
	p := r.panel("train")
	must.Eq(t, "running", p.State)
	must.Eq(t, "acme/research", p.Budget)
	must.StrHasPrefix(t, "0.99", p.Account[0].Used)
	must.NotEq(t, "", p.Account[0].Held)
	must.NotEq(t, p.Account[1].Admitted, p.Account[1].Used)
	must.NotNil(t, p.Decision)
	must.Eq(t, "admit", p.Decision.Outcome)
	must.Nil(t, p.Receipt)
	must.Len(t, 1, p.Allocations)
	must.Eq(t, alloc, p.Allocations[0].ID)
	must.Len(t, 2, p.Allocations[0].GPUs)

	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	p = r.panel("train")
	must.Eq(t, "ended", p.State)
	must.Eq(t, "settled", p.Receipt.Outcome)
	must.Eq(t, "acme/research", p.Budget)
	must.Eq(t, "1 GPU-hours", p.Account[0].Used)
	must.SliceEmpty(t, p.Allocations)
}

func TestPanel_ofAJobThatWaits(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 6, time.Hour)
	must.False(t, r.submit(r.whole("second", 4, 30*time.Minute)).Denied)
	p := r.panel("second")
	must.Eq(t, "waiting", p.State)
	must.Eq(t, "concurrency_limit", p.Reason)
	contains(t, p.Text, "waits for budget", "2 GPUs left")
	must.Eq(t, 1, p.Queue.Position)
	must.Eq(t, 1, p.Queue.Of)
	must.NotNil(t, p.Queue.Expected)
	must.Eq(t, "0 GPU-hours", p.Account[0].Used)
	must.Nil(t, p.Decision, must.Sprint("this agent keeps no history"))
	must.Eq(t, "running", r.panel("first").State)
}
