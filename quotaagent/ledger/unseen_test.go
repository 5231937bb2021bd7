package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Nobody decides when Nomad answers: whatever is on its way, a confirmation charges no
// more time than the submission did, nor does an allocation that is seen, or a look at
// all of them.
func TestAConfirmationChargesNothingMore(t *testing.T) {
	t.Parallel()
	cal := calendar(t, budget.Hour, budget.Day, budget.Total)
	rapid.Check(t, func(t *rapid.T) {
		anyLine := rapid.Custom(func(t *rapid.T) ledger.Line {
			line := batch(rapid.IntRange(1, 3).Draw(t, "count"), rapid.Int64Range(1, 30).Draw(t, "hours"), rapid.IntRange(1, 2).Draw(t, "starts"))
			line.RuntimeMS += int64(line.Starts) * 35_000 // to start and stop
			line.Needs[0].GPUs = rapid.Int64Range(1, 3).Draw(t, "gpus")
			return line
		})
		now, index := int64(1_000_000), uint64(10)
		h := ledger.Hold{State: ledger.Held, CreatedMS: now, SubmittedMS: now}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now += rapid.Int64Range(0, 400_000).Draw(t, "later")
			index++
			before := ledger.Charges(h, cal)
			switch rapid.SampledFrom([]string{"submit", "confirm", "start", "look"}).Draw(t, "step") {
			case "submit":
				h.SubmittedMS = now
				h = ledger.Submit(h, []ledger.Line{anyLine.Draw(t, "line")}, now+300_000)
				continue
			case "confirm":
				if h.InFlight == 0 {
					continue
				}
				h = ledger.Confirm(h, index)
			case "start":
				gpus := int64(0)
				if len(h.Lines) > 0 && h.Pending == nil {
					gpus = h.Lines[0].Needs[0].GPUs
				}
				seen := false
				for _, track := range h.Live() {
					seen = seen || track.CreateIndex > h.JobModifyIndex
				}
				if gpus == 0 || seen {
					continue
				}
				ids := []string{"G0", "G1", "G2"}[:gpus]
				h, _ = ledger.Observe(h, ledger.Observation{Alloc: fmt.Sprint("alloc-", index), Name: "job.g[0]", Group: "g", CreateIndex: index, StartMS: now,
					GPUs: []ledger.TrackGPUs{{Class: "a", IDs: ids}}}, now)
			case "look":
				h, _ = ledger.Looked(h)
				h.SeenMS = max(h.SeenMS, now-5000)
			}
			after := ledger.Charges(h, cal)
			for period, dims := range after {
				window, _, _ := strings.Cut(period, "/")
				if period == ledger.ConcurrentKey {
					continue // what is being replaced counts until its end is seen
				}
				in := func(v ledger.Vector, d budget.Dimension) int64 { // of the period: also what may be in any
					if period == window+"/any" {
						return int64(v.At(period, d))
					}
					return int64(v.At(period, d) + v.At(window+"/any", d))
				}
				for d := range dims {
					must.LessEq(t, in(before, d), in(after, d), must.Sprintf("%s of %s", d, period))
				}
			}
		}
	})
}
