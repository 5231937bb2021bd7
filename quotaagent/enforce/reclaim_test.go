package enforce_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// cohort lets a and b lend to each other what they have: 4 GPUs each.
func cohort(w *world) {
	low, high := 10, 90
	for _, b := range []*budget.Budget{w.a, w.b} {
		b.Cohort = "pool"
		b.Limits = []budget.Limit{gpuLimit(budget.Concurrent, 4)}
		b.Borrow = map[string]quantity.Amount{budget.AnyClass: quantity.GPU.Mul(4)}
	}
	w.a.Priority, w.b.Priority = &low, &high
	w.b.Reclaim = &budget.Reclaim{Grace: 10 * time.Minute, MinRuntime: 5 * time.Minute}
}

func wanting(path string, gpus int64, reason string) ledger.Queued {
	return ledger.Queued{Namespace: "default", JobID: "waits", Budget: path, Reason: reason, Lines: []ledger.Line{{Group: "g", Count: 1,
		RuntimeMS: quantity.Millis(time.Hour), OnceMS: quantity.Millis(time.Hour), Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: gpus}}}}}
}

func TestLentGPUsComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld()
	cohort(w)
	long := noon.Add(-20 * time.Minute)
	w.job("a1", "acme/a", 10, 4, long)
	w.job("a2", "acme/a", 10, 2, long.Add(time.Minute))
	w.job("a3", "acme/a", 10, 2, long.Add(2*time.Minute))
	must.SliceEmpty(t, w.plan(noon), must.Sprint("nobody waits"))
	w.waiting = []ledger.Queued{wanting("acme/b", 2, "concurrency_limit")}
	must.SliceEmpty(t, w.plan(noon), must.Sprint("it waits for something else"))
	w.waiting = []ledger.Queued{wanting("acme/b", 2, "waiting_for_reclaim")}
	begun := w.plan(noon)
	must.Eq(t, []string{"a3 begin reclaimed"}, told(begun))
	must.Eq(t, noon.Add(10*time.Minute).UnixMilli(), begun[0].Ending.StopMS)
	w.act(begun, noon)
	must.SliceEmpty(t, w.plan(noon.Add(2*time.Minute)), must.Sprint("one is enough"))
	must.Eq(t, []string{"a3 stop_job reclaimed"}, told(w.plan(noon.Add(10*time.Minute))))
	w.waiting = nil
	must.Eq(t, []string{"a3 cancel reclaimed"}, told(w.plan(noon.Add(9*time.Minute))))
}

// Trap 12: what was just started is left alone, equals do not take from each
// other, and there is one round in a minute.
func TestTrap12ReclaimDoesNotThrash(t *testing.T) {
	t.Parallel()
	begin := func(change func(w *world)) *world {
		w := newWorld()
		cohort(w)
		w.job("a1", "acme/a", 10, 4, noon.Add(-20*time.Minute))
		w.job("a2", "acme/a", 10, 4, noon.Add(-20*time.Minute))
		w.waiting = []ledger.Queued{wanting("acme/b", 4, "waiting_for_reclaim")}
		change(w)
		return w
	}
	young := begin(func(w *world) {
		w.holds = nil
		w.job("a1", "acme/a", 10, 8, noon.Add(-4*time.Minute))
	})
	must.SliceEmpty(t, young.plan(noon))
	must.Eq(t, []string{"a1 begin reclaimed"}, told(young.plan(noon.Add(time.Minute))))

	equal := begin(func(w *world) { w.a.Priority = w.b.Priority; w.holds[0].Priority, w.holds[1].Priority = 90, 90 })
	must.SliceEmpty(t, equal.plan(noon))
	equal.b.Reclaim.AnyPriority = true
	must.Eq(t, []string{"a1 begin reclaimed"}, told(equal.plan(noon)))

	w := begin(func(w *world) {
		w.holds = nil
		for i := range 8 {
			w.job(fmt.Sprint("a", i), "acme/a", 10, 1, noon.Add(-20*time.Minute))
		}
		w.waiting[0] = wanting("acme/b", 1, "waiting_for_reclaim")
	})
	w.act(w.plan(noon), noon)
	w.waiting = append(w.waiting, wanting("acme/b", 2, "waiting_for_reclaim"))
	must.SliceEmpty(t, w.plan(noon.Add(59*time.Second)))
	must.Len(t, 2, w.plan(noon.Add(time.Minute)))
}
