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
			line := batch(rapid.IntRange(0, 3).Draw(t, "count"), rapid.Int64Range(1, 30).Draw(t, "hours"), rapid.IntRange(1, 2).Draw(t, "starts"))
			line.RuntimeMS += int64(line.Starts) * 35_000 // to start and stop
			line.Needs[0].GPUs = rapid.Int64Range(1, 3).Draw(t, "gpus")
			return line
		})
		now, index := int64(1_000_000), uint64(10)
		h := ledger.Hold{JobID: "job", State: ledger.Held, CreatedMS: now, SubmittedMS: now}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now += rapid.Int64Range(0, 400_000).Draw(t, "later")
			if rapid.IntRange(0, 9).Draw(t, "much later") == 0 {
				for _, track := range h.Live() { // none is let run for longer than it is held
					h = seenToEnd(h, track, min(now, h.HeldUntil(track)))
				}
				now += rapid.Int64Range(0, 40*hour).Draw(t, "hours later")
			}
			index++
			before := ledger.Charges(h, cal)
			switch rapid.SampledFrom([]string{"submit", "confirm", "start", "look"}).Draw(t, "step") {
			case "submit":
				first := h.InFlight == 0 // else bounded with those in flight, which may bring order into what was bounded apart
				h.SubmittedMS = now
				h = ledger.Submit(h, []ledger.Line{anyLine.Draw(t, "line")}, now+300_000)
				if after := ledger.Charges(h, cal); first {
					mustCoverPeriods(t, after, before, budget.GPUTime("a"))
				}
				continue
			case "confirm":
				if h.InFlight == 0 {
					continue
				}
				h = ledger.Confirm(h, index)
			case "start":
				gpus := int64(0)
				if len(h.Lines) > 0 && h.Lines[0].Count > 0 && h.Pending == nil {
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
			mustCoverPeriods(t, before, ledger.Charges(h, cal), budget.GPUTime("a"), budget.GPUTime("any"), budget.Cost, budget.Energy)
		}
	})
}

// seenToEnd is the hold once the end of an allocation is seen and posted.
func seenToEnd(h ledger.Hold, track ledger.Track, endMS int64) ledger.Hold {
	h, _ = ledger.Observe(h, ledger.Observation{Alloc: track.Alloc, Name: track.Name, Group: track.Group, CreateIndex: track.CreateIndex,
		StartMS: track.StartMS, EndMS: max(endMS, track.StartMS), Done: true}, endMS)
	return h
}

// mustCoverPeriods is that a vector holds at least as much of each dimension as another
// in every period, with what may be in any. What runs at once is not compared: what is
// being replaced counts until its end is seen.
func mustCoverPeriods(t must.T, covers, v ledger.Vector, dims ...budget.Dimension) {
	t.Helper()
	for _, period := range v.Periods() {
		if period == ledger.ConcurrentKey {
			continue
		}
		window, _, _ := strings.Cut(period, "/")
		in := func(v ledger.Vector, d budget.Dimension) int64 {
			if period == window+"/any" {
				return int64(v.At(period, d))
			}
			return int64(v.At(period, d) + v.At(window+"/any", d))
		}
		for _, d := range dims {
			must.LessEq(t, in(covers, d), in(v, d), must.Sprintf("%s of %s", d, period))
		}
	}
}

// An allocation may run on although its time is used up, where nobody could stop it, and
// two submissions at once have replaced its job. What the first of them may have used
// unseen, of GPUs that the allocation has none of, is not less because the next
// submission comes later.
func TestASubmissionForgetsNoUnseenTime(t *testing.T) {
	t.Parallel()
	cal, began, now := calendar(t, budget.Total), int64(1_000_000), 1_000_000+30*hour
	line := batch(2, 20, 2)
	line.Needs[0].Classes = []string{"a", "b"}
	lines := []ledger.Line{line}
	h := ledger.Hold{JobID: "job", State: ledger.Active, FirstIndex: 10, JobModifyIndex: 24, SubmittedMS: now, LinesMS: began, Lines: lines,
		Former: []ledger.Former{{Lines: lines, JobModifyIndex: 23, FromMS: began, ToMS: now + ledger.RegisterWithin.Milliseconds()}},
		Tracks: []ledger.Track{{Alloc: "alloc", Name: "job.g[0]", Group: "g", CreateIndex: 20, StartMS: began, MarkMS: began,
			GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{"G0"}}}}}}
	before := ledger.Charges(h, cal)
	h.SubmittedMS += 10 * hour
	h = ledger.Submit(h, []ledger.Line{batch(1, 20, 2)}, h.SubmittedMS+300_000)
	mustCoverPeriods(t, ledger.Charges(h, cal), before, budget.GPUTime("a"), budget.GPUTime("b"), budget.GPUTime("any"))
}
