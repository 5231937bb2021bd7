package ledger_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// posted is a hold of which everything that has ended is posted.
func posted(h ledger.Hold) ledger.Hold {
	next := h.Clone()
	next.Tracks = nil
	for _, t := range h.Tracks {
		if t.EndMS == 0 {
			next.Tracks = append(next.Tracks, t)
			continue
		}
		next.Finish(t)
	}
	return next
}

// A job is changed, an allocation of it comes (and ends) before the answer, and it is
// changed again: that allocation cannot be of the second change, which starts anew. Its
// answer must not make the hold grow.
func TestAnAllocationIsNotOfASubmissionThatCameLater(t *testing.T) {
	t.Parallel()
	cal := calendar(t, budget.Day, budget.Total)
	gauge := budget.GPUs(budget.AnyClass)
	at := func(d time.Duration) int64 { return start.Add(time.Hour + d).UnixMilli() }
	for name, ended := range map[string]bool{"it runs": false, "it has ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			submit := func(h ledger.Hold, ms int64) ledger.Hold {
				h.SubmittedMS = ms
				return ledger.Submit(h, []ledger.Line{batch(1, 1, 1)}, ms+hour)
			}
			h := confirmed(batch(1, 1, 1))
			h, _ = ledger.Observe(h, ledger.Observation{Alloc: "0", Name: "job.g[0]", Group: "g", CreateIndex: 11, StartMS: at(-time.Minute), EndMS: at(-time.Second), Done: true,
				GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{"gpu"}}}}, at(-time.Second))
			h = submit(posted(h), at(0))
			o := ledger.Observation{Alloc: "1", Name: "job.g[0]", Group: "g", CreateIndex: 20, StartMS: at(time.Second),
				GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{"gpu"}}}}
			if ended {
				o.EndMS, o.Done = at(2*time.Second), true
			}
			h, _ = ledger.Observe(h, o, at(2*time.Second))
			h = submit(posted(h), at(5*time.Second))
			before := ledger.Charges(h, cal)
			must.Eq(t, ledger.Charges(confirmed(batch(1, 1, 1)), cal).At(ledger.ConcurrentKey, gauge), before.At(ledger.ConcurrentKey, gauge))
			for _, order := range [][]uint64{{19, 25}, {25, 19}, {25}} {
				next := h
				for _, index := range order {
					next = ledger.Confirm(next, index)
					after := ledger.Charges(next, cal)
					mustCoverPeriods(t, before, after, budget.GPUTime(budget.AnyClass))
					must.LessEq(t, before.At(ledger.ConcurrentKey, gauge), after.At(ledger.ConcurrentKey, gauge), must.Sprint(order))
				}
			}
		})
	}
}
