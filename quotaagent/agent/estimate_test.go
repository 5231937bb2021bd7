package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/shoenig/test/must"
)

// state is everything in the store.
func (r *rig) state() map[string]string {
	records, _, err := r.store.List(r.ctx, "")
	must.NoError(r.t, err)
	out := make(map[string]string, len(records))
	for _, record := range records {
		out[record.Key] = string(record.Value)
	}
	return out
}

// estimate asks what would become of a job, and holds the answer against that to a
// plan of it.
func (r *rig) estimate(s gate.Submission) Estimate {
	before, reserved := r.state(), r.placer.reserved
	s.Kind = gate.Plan
	plan := r.admit(s)
	must.Nil(r.t, plan.Account)
	s.Explain = true
	v := r.admit(s)
	e, ok := v.Account.(Estimate)
	must.True(r.t, ok)
	must.Eq(r.t, before, r.state(), must.Sprint("an estimate changes nothing"))
	must.Eq(r.t, reserved, r.placer.reserved)
	must.Eq(r.t, plan.Reason, e.Reason)
	must.Eq(r.t, plan.Denied, e.Outcome == "deny")
	for _, text := range append(plan.Warnings, plan.Message) {
		must.StrContains(r.t, e.Text+"\n"+e.Placement.Text, strings.TrimPrefix(text, "governor: "))
	}
	return e
}

func TestAnEstimateIsThePlanWithItsArithmetic(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.busy("first", 6, time.Hour)

	fits := r.estimate(r.whole("small", 2, 30*time.Minute))
	must.Eq(t, "admit", fits.Outcome)
	must.Eq(t, "acme/research", fits.Budget)
	must.Eq(t, "default/small", fits.Namespace+"/"+fits.JobID)
	must.Eq(t, "placed", fits.Placement.Text)
	must.MapNotEmpty(t, fits.Cost.GPUTime)
	gauge := estimated(t, fits, "acme", "concurrent", "gpus/any")
	must.Eq(t, []int64{8, 6, 2, 2, 0}, inGPUs(gauge))

	waits := r.estimate(r.whole("second", 4, 30*time.Minute))
	must.Eq(t, "queue", waits.Outcome)
	contains(t, waits.Text, `job "second" in namespace "default" would wait for budget`, "position    1 of 1")
	must.SliceNotEmpty(t, waits.Alternatives)
	must.Eq(t, []int64{8, 6, 2, 4, -2}, inGPUs(estimated(t, waits, "acme", "concurrent", "gpus/any")))

	never := r.estimate(r.whole("huge", 9, time.Hour))
	must.Eq(t, "deny", never.Outcome)
	must.Eq(t, "exceeds_budget", never.Reason)

	nothing := r.estimate(batch(r.nomad, "default", "cpu", 0, 0, time.Hour))
	must.Eq(t, "admit", nothing.Outcome)
	must.StrContains(t, nothing.Text, "asks for no GPUs")
	must.SliceEmpty(t, nothing.Limits)

	unclaimed := r.estimate(batch(r.nomad, "elsewhere", "job", 1, 1, time.Hour))
	must.Eq(t, "deny", unclaimed.Outcome)
	must.Eq(t, "unmatched", unclaimed.Reason)

	// What is refused before the arithmetic still shows how the limits stand.
	r.placer.infeasible = "no node can ever run group \"g\""
	infeasible := r.estimate(r.whole("small", 2, 30*time.Minute))
	must.Eq(t, "infeasible", infeasible.Reason)
	must.Eq(t, []int64{8, 6, 2, 0, 2}, inGPUs(estimated(t, infeasible, "acme", "concurrent", "gpus/any")))
}

func estimated(t *testing.T, e Estimate, path, window, dimension string) EstimatedLimit {
	t.Helper()
	for _, l := range e.Limits {
		if l.Budget == path && l.Window == window && l.Dimension == dimension {
			return l
		}
	}
	t.Fatalf("there is no limit of %s on %s in %v", path, dimension, e.Limits)
	return EstimatedLimit{}
}

// inGPUs are limit, held, left, needed, and left after that.
func inGPUs(l EstimatedLimit) []int64 {
	const part = 5040
	return []int64{int64(l.Limit) / part, int64(l.Held) / part, int64(l.Available) / part, int64(l.Need) / part, int64(l.After) / part}
}

func TestAnEstimateShowsEachLimitInTheWorstPeriod(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.clock.advance(20 * 24 * time.Hour) // the end of March: April is empty
	used := batch(r.nomad, "default", "used", 1, 8, 100*time.Hour)
	r.run(used)
	e := r.estimate(batch(r.nomad, "side", "next", 1, 1, time.Hour))
	month := estimated(t, e, "acme", "month", string(budget.GPUTime(budget.AnyClass)))
	must.NotNil(t, month.Start)
	must.Eq(t, month.Limit-month.Posted-month.Held-month.Need, month.After)
	for _, l := range e.Limits {
		must.LessEq(t, l.Limit, l.After)
	}
}
