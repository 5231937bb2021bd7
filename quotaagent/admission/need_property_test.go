package admission_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// genAsk draws jobs of every type with one to three groups.
func genAsk(t *rapid.T) jobspec.Ask {
	ask := asked(rapid.SampledFrom([]string{"service", "batch", "system", "sysbatch"}).Draw(t, "type"), "1h")
	if rapid.Bool().Draw(t, "no meta") {
		ask.Meta = nil
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "groups") {
		g := group(string(rune('a'+i)), rapid.IntRange(0, 9).Draw(t, "count"),
			rapid.SampledFrom([]string{"gpu", "nvidia/gpu/V100", "nvidia/gpu/H100"}).Draw(t, "device"), rapid.IntRange(0, 8).Draw(t, "gpus"))
		g.Canaries, g.MaxParallel = rapid.IntRange(0, 3).Draw(t, "canaries"), rapid.IntRange(0, 3).Draw(t, "max_parallel")
		g.Reschedules = rapid.IntRange(0, 5).Draw(t, "reschedules")
		g.UnlimitedReschedules = rapid.Bool().Draw(t, "unlimited")
		g.MaxRunDuration = time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "max_run_duration"))
		ask.Groups = append(ask.Groups, g)
	}
	return ask
}

// TestMoreNeverNeedsLess: more allocations, GPUs, time, reschedules, canaries,
// nodes or groups never make a job's worst case smaller, in any period.
func TestMoreNeverNeedsLess(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		p := acme(t)
		p.Classes[0].Watts, p.Classes[1].Watts = 700, 300
		b := p.Find("acme/nlp")
		hours := time.Duration(rapid.Int64Range(1, 50).Draw(r, "default_runtime")) * time.Hour
		b.PerJob.DefaultRuntime = hours
		if rapid.Bool().Draw(r, "bounded reschedules") {
			n := rapid.IntRange(0, 5).Draw(r, "per_job reschedules")
			b.PerJob.Reschedules = &n
		}
		before := genAsk(r)
		count := rapid.IntRange(0, 20).Draw(r, "nodes")
		replaces := func(string) bool { return true }
		less, refusal := admission.Need(p, b, before, admission.Cluster{Eligible: nodes(count, true), Replaces: replaces}, noon)
		must.Nil(t, refusal)
		after := before
		after.Groups = append([]jobspec.GroupAsk{}, before.Groups...)
		i := rapid.IntRange(0, len(after.Groups)-1).Draw(r, "which")
		g := &after.Groups[i]
		switch what := rapid.SampledFrom([]string{"count", "gpus", "runtime", "reschedules", "unlimited", "canaries", "parallel", "kill", "nodes", "group"}).Draw(r, "more"); what {
		case "count":
			g.Count++
		case "gpus":
			d := g.Devices[0]
			d.Count++
			g.Devices = []jobspec.DeviceAsk{d}
		case "runtime":
			if g.MaxRunDuration > 0 {
				g.MaxRunDuration += time.Hour
			}
		case "reschedules":
			g.Reschedules++
		case "unlimited":
			if g.Reschedules <= budget.UnlimitedReschedules {
				g.UnlimitedReschedules = true
			}
		case "canaries":
			g.Canaries++
		case "parallel":
			g.MaxParallel++
		case "kill":
			g.KillTimeout += time.Hour
		case "nodes":
			count++
		case "group":
			after.Groups = append(after.Groups, group("z", 1, "gpu", 1))
		}
		more, refusal := admission.Need(p, b, after, admission.Cluster{Eligible: nodes(count, true), Replaces: replaces}, noon)
		must.Nil(t, refusal)
		small, large := charge(p, before.JobID, less), charge(p, before.JobID, more)
		for c := range small.All() {
			must.LessEq(t, large.At(c.Period, c.Dimension), c.Amount, must.Sprint(c.Period, c.Dimension))
		}
		a, c := admission.Estimate(p, less), admission.Estimate(p, more)
		must.LessEq(t, c.Cost, a.Cost)
		must.LessEq(t, c.Energy, a.Energy)
		for class, ms := range a.GPUTime {
			must.LessEq(t, c.GPUTime[class], ms)
		}
	})
}

func charge(p *budget.Policy, job string, lines []ledger.Line) ledger.Vector {
	return ledger.Charges(ledger.Submit(ledger.Hold{JobID: job, State: ledger.Held}, lines, 0), ledger.CalendarOf(p))
}

// FuzzNeed: whatever JSON Nomad's library can read as a job, its worst case is
// finite or refused, and never negative.
func FuzzNeed(f *testing.F) {
	f.Add([]byte(`{"ID":"a","Type":"batch","TaskGroups":[{"Name":"g","Count":9223372036854775807,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Count":18446744073709551615}]}}]}]}`))
	f.Add([]byte(`{"ID":"a","Type":"system","TaskGroups":[{"Name":"g","MaxRunDuration":9223372036854775807,"Tasks":[{"Name":"t","KillTimeout":9223372036854775807,"Resources":{"Devices":[{"Name":"nvidia/gpu/V100"}]}}]}]}`))
	f.Add([]byte(`{"ID":"a","Meta":{"governor_max_runtime":"-1h"},"Periodic":{},"TaskGroups":[{"Tasks":[{"Driver":"docker","Config":{"privileged":true}}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, request, err := jobspec.ParseRegister([]byte(`{"Job":` + string(raw) + `}`))
		if err != nil || request.Job.ID == nil {
			return
		}
		ask, err := jobspec.Extract(request.Job, jobspec.Defaults{})
		if err != nil {
			return
		}
		p := acme(t)
		b := p.Find("acme/nlp")
		lines, refusal := admission.Need(p, b, ask, admission.Cluster{Eligible: nodes(1<<20, true), Replaces: func(string) bool { return true }}, noon)
		if refusal != nil {
			must.NotEq(t, "", refusal.Fact)
			must.NotEq(t, "", refusal.Remedy)
			return
		}
		u := admission.Estimate(p, lines)
		must.GreaterEq(t, 0, u.Cost)
		for _, line := range lines {
			must.Between(t, 0, line.Count, admission.MaxAllocations)
			must.Between(t, 0, quantity.Amount(line.RuntimeMS), 100*365*24*quantity.GPUHour)
		}
		for c := range charge(p, ask.JobID, lines).All() {
			must.GreaterEq(t, 0, c.Amount)
		}
	})
}
