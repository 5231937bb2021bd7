package metering_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// resubmitted is a batch job that is submitted again and again, with what Nomad runs
// of it: one allocation at a time, the last of which may take a little to end. Nobody
// looks for long times.
type resubmitted struct {
	policy   *budget.Policy
	hold     ledger.Hold
	now      int64
	index    uint64
	gpus     map[uint64]int64 // by the index of a version
	open     []uint64         // versions that are registered and not confirmed
	latest   uint64           // the version that Nomad has
	since    int64            // since when
	placed   uint64           // the one of the youngest allocation
	allocs   []*ledger.Observation
	onceMS   int64
	each     int64 // GPUs that every version asks for
	inFlight bool
}

// tailMS is how long an allocation may take to end.
const tailMS = 30_000

func (w *resubmitted) submit(t *rapid.T) {
	if w.inFlight {
		return
	}
	gpus := w.each
	line := ledger.Line{Group: "g", Count: 1, RuntimeMS: w.onceMS + tailMS, OnceMS: w.onceMS, Starts: 1, Needs: []ledger.Need{{Classes: []string{"a"}, GPUs: gpus}}}
	w.hold.SubmittedMS = w.now
	w.hold = ledger.Submit(w.hold, []ledger.Line{line}, w.now+300_000)
	w.now += rapid.Int64Range(1, 5_000).Draw(t, "until it is registered")
	w.index++
	w.gpus[w.index] = gpus
	w.open, w.latest, w.since, w.inFlight = append(w.open, w.index), w.index, w.now, true
}

func (w *resubmitted) confirm(*rapid.T) {
	if !w.inFlight {
		return
	}
	w.hold = ledger.Confirm(w.hold, w.open[0])
	w.open, w.inFlight = w.open[1:], false
}

// place starts an allocation of the version that Nomad has and stops the one before:
// soon, or not at all.
func (w *resubmitted) place(t *rapid.T) {
	if w.latest == w.placed || w.now-w.since > 60_000 {
		return
	}
	if n := len(w.allocs); n > 0 {
		if last := w.allocs[n-1]; last.EndMS == 0 || last.EndMS > w.now {
			last.EndMS = min(w.now+rapid.Int64Range(0, tailMS).Draw(t, "tail"), last.StartMS+w.onceMS+tailMS)
			if last.EndMS < w.now { // it was over already
				last.EndMS = w.now
			}
		}
	}
	w.index++
	w.placed = w.latest
	ids := []string{"0", "1", "2"}[:w.gpus[w.latest]]
	w.allocs = append(w.allocs, &ledger.Observation{Alloc: fmt.Sprintf("%04d", w.index), Name: "job.g[0]", Group: "g", CreateIndex: w.index, StartMS: w.now, Done: true,
		GPUs: []ledger.TrackGPUs{{Class: "a", IDs: ids}}})
}

// pass lets time pass; an allocation that has used its time is stopped.
func (w *resubmitted) pass(t *rapid.T) {
	w.now += rapid.Int64Range(0, w.onceMS/2).Draw(t, "later")
	if n := len(w.allocs); n > 0 {
		last := w.allocs[n-1]
		end := last.StartMS + w.onceMS
		if rapid.IntRange(0, 3).Draw(t, "ends by itself") == 0 {
			end = min(end, w.now)
		}
		if w.latest != w.placed { // Nomad has stopped it, and found no place for the next
			end = min(end, max(last.StartMS, w.since+60_000))
		}
		if last.EndMS == 0 && end <= w.now {
			last.EndMS = end
		}
	}
}

// look takes in what there is, as a leader does who was elected now. Nothing of that
// was decided: what is held and posted together must not grow, by more than what one
// allocation takes to end, which may be seen before it does.
func (w *resubmitted) look(t *rapid.T, cal ledger.Calendar) {
	if w.hold.State != ledger.Active {
		return
	}
	if w.inFlight && w.now-w.since > 60_000 {
		w.confirm(t) // it is asked for
	}
	before, next := ledger.Charges(w.hold, cal), w.hold
	for _, a := range w.allocs {
		o := *a
		if o.EndMS > w.now {
			o.EndMS, o.Done = 0, false
		}
		next, _ = ledger.Observe(next, o, w.now)
	}
	next, posted, _ := metering.Post(w.policy, next, time.UnixMilli(w.now))
	after := ledger.Charges(next, cal)
	if rapid.Bool().Draw(t, "all is seen") && !w.inFlight {
		next, _ = ledger.Looked(next)
		next.SeenMS = w.now
	}
	w.hold = next
	d, slack := budget.GPUTime("any"), quantity.Amount(tailMS*w.each)
	for _, window := range cal.Windows {
		p := budget.PeriodAt(window, time.UnixMilli(w.now), w.policy.Location)
		had, has := ledger.Balance{Held: before}.HeldIn(p, d), ledger.Balance{Held: after}.HeldIn(p, d)
		must.LessEq(t, had+slack, has.Add(posted.At(p.Key(), d)), must.Sprintf("%s, of which %d are posted", p.Key(), posted.At(p.Key(), d)))
	}
}

func TestWhatIsSeenOfFormerVersionsCostsNothingMore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &resubmitted{policy: &budget.Policy{Location: berlin(t)}, now: base, index: 10, gpus: map[uint64]int64{},
			each: rapid.Int64Range(1, 3).Draw(t, "gpus"), onceMS: rapid.Int64Range(60_000, 3*hour).Draw(t, "once"),
			hold: ledger.Hold{ID: "h", Namespace: "default", JobID: "job", Budget: "org/x", State: ledger.Held, CreatedMS: base, SubmittedMS: base}}
		cal := ledger.Calendar{Location: w.policy.Location, Windows: []budget.Window{budget.Hour, budget.Day, budget.Total}}
		w.submit(t)
		t.Repeat(map[string]func(*rapid.T){
			"submit":  w.submit,
			"confirm": w.confirm,
			"place":   w.place,
			"pass":    w.pass,
			"look":    func(t *rapid.T) { w.look(t, cal) },
		})
	})
}
