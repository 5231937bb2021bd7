package agent

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// What the leader alone observes, the others tell too.
func TestAnyAgentTellsWhatTheLeaderHasObserved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	r.both(a, b)
	r.Agent = a.Agent
	r.Meter.begin()
	r.placer.record = `{"any":"offer"}`
	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	r.nomad.start("default", "train", 0, 2)
	r.nomad.start("elsewhere", "stray", 0, 1)
	must.NoError(t, r.settle())

	status, err := b.Status(r.ctx)
	must.NoError(t, err)
	must.False(t, status.Observed, must.Sprint("nobody leads"))
	must.SliceEmpty(t, status.Ungoverned)

	ctx, cancel := context.WithCancel(t.Context())
	leads, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r.store.Lead(ctx, "a", func(ctx context.Context, _ ledger.Fence) {
			close(leads)
			<-ctx.Done()
		})
	}()
	defer func() { cancel(); <-ended }()
	<-leads
	own, err := a.Status(r.ctx)
	must.NoError(t, err)
	must.True(t, own.Observed)
	must.Len(t, 1, own.Ungoverned)
	r.clock.advance(silentFor)
	status, err = b.Status(r.ctx)
	must.NoError(t, err)
	must.True(t, status.Observed)
	must.False(t, status.Leader)
	must.Eq(t, own.Ungoverned, status.Ungoverned)
	must.Eq(t, own.Holds[0].Placement, status.Holds[0].Placement)
	now, err := b.JobNow(r.ctx, "default", "train")
	must.NoError(t, err)
	must.Eq(t, own.Holds[0].Placement, now.Hold.Placement)
	must.Eq(t, a.Utilization(r.ctx), b.Utilization(r.ctx))
	must.Eq(t, http.StatusOK, agentAnswer(b, observedPath).Code)

	// While it does not answer, that is said; and it is asked no more often than that.
	a.down.Store(true)
	r.clock.advance(observedFor)
	status, err = b.Status(r.ctx)
	must.NoError(t, err)
	must.False(t, status.Observed)
	a.asked.Store(0)
	_, err = b.Status(r.ctx)
	must.NoError(t, err)
	r.clock.advance(silentFor - time.Second)
	_, err = b.Status(r.ctx)
	must.NoError(t, err)
	must.Eq(t, 0, a.asked.Load(), must.Sprint("nobody waits for it again and again"))
	a.down.Store(false)
	r.clock.advance(time.Second)
	status, err = b.Status(r.ctx)
	must.NoError(t, err)
	must.True(t, status.Observed)
}
