package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// pickyRecorder refuses those of its calls that it is told to.
type pickyRecorder struct {
	calls  int
	refuse func(call int) bool
	have   map[string]ledger.Entry
}

// Record implements Recorder.
func (p *pickyRecorder) Record(_ context.Context, entries []ledger.Entry) error {
	p.calls++
	if p.refuse(p.calls) {
		return errors.New("the disk is full")
	}
	for _, e := range entries {
		p.have[e.Key] = e
	}
	return nil
}

// What could not be recorded when it was posted stays in the outbox, and is
// recorded with what is posted next: whichever of the calls fails.
func TestWhatCouldNotBeRecordedIsRecordedLater(t *testing.T) {
	t.Parallel()
	for failing := 1; failing <= 8; failing++ {
		r := newRig(t)
		recorder := &pickyRecorder{refuse: func(call int) bool { return call == failing || call == failing+1 }, have: map[string]ledger.Entry{}}
		r.Agent = New(Options{Name: "test", Store: r.store, Nomad: r.nomad, Placer: r.placer, Logger: hclog.NewNullLogger(), Now: r.clock.now, Recorder: recorder})
		must.NoError(t, r.Keeper.Load(r.ctx))
		r.Meter.begin()
		r.run(r.job("train", 1, 2))
		alloc := r.nomad.start("default", "train", 0, 2)
		for range 6 {
			r.clock.advance(40 * time.Second)
			_ = r.settle()
		}
		r.nomad.finish(alloc)
		r.clock.advance(time.Second)
		_ = r.settle()
		r.clock.advance(remainsFor)
		_ = r.settle() // what remains of the hold is recorded once more before it is removed
		must.Greater(t, failing, recorder.calls)
		recorded := quantity.Amount(0)
		for _, e := range recorder.have {
			recorded += e.GPUTime
		}
		must.Eq(t, r.facts(), r.posted("acme"))
		must.Eq(t, r.facts(), int64(recorded), must.Sprintf("call %d failed", failing))
	}
}
