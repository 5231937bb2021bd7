package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/queue"
	"github.com/shoenig/test/must"
)

// The places of a long queue beside much running work: what every admission pays
// while somebody waits, and the leader once in each round.
func BenchmarkPlacesOfALongQueue(b *testing.B) {
	r, _ := newQueueRig(b)
	p := r.Keeper.State().Policy
	line := func(gpus int64, minutes int) []ledger.Line {
		ms := quantity.Millis(time.Duration(minutes) * time.Minute)
		return []ledger.Line{{Group: "g", Count: 1, RuntimeMS: ms, OnceMS: ms, Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: gpus, PerGPUHour: 3_600_000}}}}
	}
	in := queue.Input{Policy: p, Now: noon, Books: queue.Books{}}
	for i := range 1000 {
		h := ledger.Confirm(queue.Hold(ledger.Queued{Namespace: "default", JobID: fmt.Sprintf("run-%d", i), Budget: "acme/research", Lines: line(1, 30+i)}), 5)
		h.Charged = ledger.Charges(h, ledger.CalendarOf(p))
		in.Holds = append(in.Holds, h)
		for _, path := range ledger.Ancestors(h.Budget) {
			book, ok := in.Books[path]
			if !ok {
				book = ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
			}
			book.Held.AddAll(h.Charged, 1)
			in.Books[path] = book
		}
	}
	for i := range 200 {
		in.Waiting = append(in.Waiting, ledger.Queued{Namespace: "default", JobID: fmt.Sprintf("wait-%d", i), Budget: "acme/research",
			SinceMS: noon.Add(-time.Duration(200-i) * time.Second).UnixMilli(), Lines: line(int64(1+i%4), 60)})
	}
	var err error
	in.Fits, err = r.Engine.fits(b.Context(), p, in.Waiting)
	must.NoError(b, err)
	for b.Loop() {
		must.Len(b, 200, queue.Plan(in))
	}
}
