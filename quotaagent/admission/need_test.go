package admission_test

import (
	"math"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

func TestNeed(t *testing.T) {
	t.Parallel()
	two := 2
	cases := map[string]struct {
		ask     jobspec.Ask
		cluster admission.Cluster
		edit    func(p *budget.Policy)
		want    []ledger.Line
	}{
		"a batch job needs its run, its end and some slack": {
			ask:  asked("batch", "1h", group("g", 2, "nvidia/gpu/V100", 1)),
			want: []ledger.Line{{Group: "g", Count: 2, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"Nomad's own bound goes before the author's": {
			ask:  asked("batch", "9h", jobspec.GroupAsk{Name: "g", Count: 1, MaxRunDuration: time.Hour, Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}}),
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_630_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"unlimited reschedules count as the budget's bound": {
			ask:  asked("batch", "1h", jobspec.GroupAsk{Name: "g", Count: 1, UnlimitedReschedules: true, Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}}),
			edit: func(p *budget.Policy) { p.Roots[0].PerJob.Reschedules = &two },
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3 * 3_630_000, OnceMS: 3_600_000, Starts: 3, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"a device that several classes serve costs the dearest": {
			ask:  asked("batch", "1h", group("g", 1, "nvidia/gpu", 3)),
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"h100", "v100"}, GPUs: 3, PerGPUHour: 2_900_000}}}},
		},
		"a service holds its lease, its canaries included": {
			ask:  asked("service", "", jobspec.GroupAsk{Name: "g", Count: 3, Canaries: 1, Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}}),
			want: []ledger.Line{{Group: "g", Count: 4, Canaries: 1, RuntimeMS: 24 * 3_600_000, Lease: true, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"a dearer price that takes over during the run counts": {
			ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/V100", 1)),
			edit: func(p *budget.Policy) {
				p.RateCards = append(p.RateCards, budget.RateCard{EffectiveFrom: noon.Add(30 * time.Minute), PerGPUHour: map[string]quantity.Amount{"v100": 2_000_000}},
					budget.RateCard{EffectiveFrom: noon.Add(90 * time.Minute), PerGPUHour: map[string]quantity.Amount{"v100": 9_000_000}})
			},
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 2_000_000}}}},
		},
		"a system job has an allocation on each node that can run it": {
			ask:     asked("system", "", group("g", 1, "nvidia/gpu/V100", 2)),
			cluster: admission.Cluster{Eligible: nodes(7, true)},
			want:    []ledger.Line{{Group: "g", Count: 7, RuntimeMS: 24 * 3_600_000, Lease: true, EveryNode: true, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 2, PerGPUHour: 900_000}}}},
		},
		"a sysbatch job too, for as long as it runs": {
			ask:     asked("sysbatch", "1h", group("g", 1, "nvidia/gpu/V100", 1)),
			cluster: admission.Cluster{Eligible: nodes(2, true)},
			want:    []ledger.Line{{Group: "g", Count: 2, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, EveryNode: true, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"a system job that no node can run needs nothing yet": {
			ask: asked("system", "", group("g", 1, "nvidia/gpu/V100", 2)), cluster: admission.Cluster{Eligible: nodes(0, true)},
		},
		"an update holds GPUs of both versions for a moment": {
			ask: asked("service", "", jobspec.GroupAsk{Name: "g", Count: 3, MaxParallel: 2, KillTimeout: 20 * time.Second, ShutdownDelay: 10 * time.Second,
				Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}}),
			cluster: admission.Cluster{Replaces: func(string) bool { return true }},
			want: []ledger.Line{{Group: "g", Count: 3, RuntimeMS: 24 * 3_600_000, Lease: true, Overlap: 2, OverlapMS: 60_000,
				Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"an update in place does not": {
			ask:     asked("service", "", jobspec.GroupAsk{Name: "g", Count: 3, MaxParallel: 2, Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}}),
			cluster: admission.Cluster{Replaces: func(string) bool { return false }},
			want:    []ledger.Line{{Group: "g", Count: 3, RuntimeMS: 24 * 3_600_000, Lease: true, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"a constraint on the model leaves the classes that it allows": {
			ask: asked("batch", "1h", jobspec.GroupAsk{Name: "g", Count: 1, Devices: []jobspec.DeviceAsk{{Name: "gpu", Count: 1,
				Constraints: []jobspec.Constraint{{LTarget: "${device.model}", Operand: "=", RTarget: "V100"}}}}}),
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_630_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}}}},
		},
		"MIG instances draw their share of the power": {
			ask: asked("batch", "1h", group("g", 1, "nvidia/mig", 3)),
			edit: func(p *budget.Policy) {
				p.Classes[0].Watts = 700
				p.Classes = append(p.Classes, budget.Class{Name: "h100-1g", Devices: []string{"nvidia/mig/1g.10gb"}, Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 7}}})
				p.RateCards[0].PerGPUHour["h100-1g"] = 480_000
			},
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"h100-1g"}, GPUs: 3, PerGPUHour: 480_000, Watts: 100}}}},
		},
		"several device blocks are several needs": {
			ask: asked("batch", "1h", jobspec.GroupAsk{Name: "g", Count: 1, Devices: []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1},
				{Name: "nvidia/gpu/V100", Count: 0}, {Name: "nvidia/gpu/H100", Count: 2}}}),
			want: []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 3_630_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{
				{Classes: []string{"v100"}, GPUs: 1, PerGPUHour: 900_000}, {Classes: []string{"h100"}, GPUs: 2, PerGPUHour: 2_900_000}}}},
		},
		"a parameterized job needs nothing before it is dispatched": {
			ask: jobspec.Ask{Type: "batch", Parameterized: true, Groups: []jobspec.GroupAsk{group("g", 1, "nvidia/gpu/T4", 1)}},
		},
		"a group that is scaled to nothing needs nothing": {ask: asked("batch", "1h", group("g", 0, "nvidia/gpu", 3))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := acme(t)
			if tc.edit != nil {
				tc.edit(p)
			}
			lines, refusal := admission.Need(p, p.Find("acme/nlp"), tc.ask, tc.cluster, noon)
			must.Nil(t, refusal)
			must.Eq(t, tc.want, lines)
		})
	}
}

func nodes(n int, known bool) admission.Eligible {
	return func(string) (int, bool) { return n, known }
}

// TestHugeNumbersDoNotWrapAround: each of these once came out as less than
// nothing, and was admitted for nothing.
func TestHugeNumbersDoNotWrapAround(t *testing.T) {
	t.Parallel()
	device := []jobspec.DeviceAsk{{Name: "nvidia/gpu/V100", Count: 1}}
	forever := time.Duration(math.MaxInt64)
	cases := map[string]jobspec.GroupAsk{
		"run time":       {Count: 1, MaxRunDuration: forever, KillTimeout: time.Second, Devices: device},
		"kill timeout":   {Count: 1, MaxRunDuration: time.Hour, KillTimeout: forever, Devices: device},
		"shutdown delay": {Count: 1, MaxRunDuration: time.Hour, ShutdownDelay: forever, Devices: device},
		"reschedules":    {Count: 1, MaxRunDuration: time.Hour, Reschedules: math.MaxInt, Devices: device},
		"all of them":    {Count: admission.MaxAllocations, MaxRunDuration: forever, KillTimeout: forever, ShutdownDelay: forever, Reschedules: math.MaxInt, Devices: device},
	}
	for name, g := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g.Name = "g"
			p := acme(t)
			b := p.Find("acme/nlp")
			lines, refusal := admission.Need(p, b, asked("batch", "1h", g), admission.Cluster{}, noon)
			must.Nil(t, refusal)
			must.Greater(t, int64(1_000_000)*3_000_000, lines[0].RuntimeMS+1)
			h := ledger.Submit(ledger.Hold{JobID: "train", Budget: b.Path, State: ledger.Held}, lines, 0)
			must.Eq(t, admission.Deny, admission.Decide(p, b, admission.State{}, h, lines, noon).Outcome)
		})
	}
}

func TestOfferedDevicesNarrowTheClasses(t *testing.T) {
	t.Parallel()
	p := acme(t)
	only := func(names ...string) admission.Offered {
		return func(string, jobspec.DeviceAsk) []string { return names }
	}
	lines, refusal := admission.Need(p, p.Find("acme/nlp"), asked("batch", "1h", group("g", 1, "nvidia/gpu", 1)), admission.Cluster{Offered: only("nvidia/gpu/V100")}, noon)
	must.Nil(t, refusal)
	must.Eq(t, []string{"v100"}, lines[0].Needs[0].Classes)
	_, refusal = admission.Need(p, p.Find("acme/nlp"), asked("batch", "1h", group("g", 1, "nvidia/gpu", 1)), admission.Cluster{Offered: only("nvidia/gpu/Unknown")}, noon)
	must.Eq(t, admission.NoClass, refusal.Reason)
	lines, _ = admission.Need(p, p.Find("acme/nlp"), asked("batch", "1h", group("g", 1, "nvidia/gpu", 1)), admission.Cluster{Offered: only()}, noon)
	must.Eq(t, []string{"h100", "v100"}, lines[0].Needs[0].Classes)
}

func TestEstimateCountsEveryClassThatCouldServeAndAnyOnce(t *testing.T) {
	t.Parallel()
	u := admission.Estimate(&budget.Policy{}, []ledger.Line{{Count: 2, RuntimeMS: 3_600_000, Needs: []ledger.Need{{Classes: []string{"a", "b"}, GPUs: 3, PerGPUHour: 5, Watts: 700}}}})
	must.Eq(t, ledger.Usage{GPUTime: map[string]quantity.Amount{"a": 6 * quantity.GPUHour, "b": 6 * quantity.GPUHour, "any": 6 * quantity.GPUHour}, Cost: 30,
		Energy: 6 * 700 * quantity.KWh / 1000}, u)
}

// TestUsageAheadOfTheClockIsSeen: a clock that stepped back over a boundary left
// usage in what is now the next period.
func TestUsageAheadOfTheClockIsSeen(t *testing.T) {
	t.Parallel()
	p := acme(t)
	b := p.Find("acme/nlp")
	tomorrow := budget.PeriodAt(budget.Day, noon.Add(24*time.Hour), p.Location)
	posted := ledger.NewVector()
	posted.Add(tomorrow.Key(), budget.GPUTime("any"), 39*quantity.GPUHour)
	lines := []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 2 * 3_600_000, Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1}}}}
	h := ledger.Submit(ledger.Hold{JobID: "train", Budget: b.Path, State: ledger.Held}, lines, 0)
	d := admission.Decide(p, b, admission.State{Balances: admission.Books{b.Path: {Posted: posted}}}, h, lines, noon)
	must.Eq(t, admission.Deny, d.Outcome)
	must.Eq(t, tomorrow, *d.Failed[0].Period)
}

func BenchmarkDecide(b *testing.B) {
	leaf := &budget.Budget{Name: "0", Path: "0"}
	p := &budget.Policy{Location: time.UTC, Roots: []*budget.Budget{leaf}}
	for range 8 {
		for _, w := range []budget.Window{budget.Hour, budget.Day, budget.Month} {
			leaf.Limits = append(leaf.Limits, budget.Limit{Window: w, Dimension: budget.GPUTime("any"), Ceiling: quantity.LimitOf(quantity.MaxAmount)})
		}
		child := &budget.Budget{Name: "0", Path: leaf.Path + "/0", Parent: leaf}
		leaf.Children = []*budget.Budget{child}
		leaf = child
	}
	line := func(group string, hours int64) ledger.Line {
		return ledger.Line{Group: group, Count: 1, Starts: 1, RuntimeMS: hours * 3_600_000, Needs: []ledger.Need{{Classes: []string{"a"}, GPUs: 8, PerGPUHour: 1}}}
	}
	var hundred []ledger.Line
	for i := range 100 {
		hundred = append(hundred, line(time.Duration(i).String(), 10))
	}
	books := admission.Books{}
	placed := ledger.NewVector()
	for at := range 180 {
		placed.Add(budget.PeriodAt(budget.Hour, noon.Add(time.Duration(at)*time.Hour), time.UTC).Key(), budget.GPUTime("any"), 1)
	}
	for _, path := range ledger.Ancestors(leaf.Path) {
		books[path] = ledger.Balance{Held: placed}
	}
	for name, tc := range map[string]struct {
		lines []ledger.Line
		books admission.Books
	}{
		"1 group":    {lines: []ledger.Line{line("g", 10)}},
		"100 groups": {lines: hundred},
		"deep tree with hours held for a week, a run of 30 days": {lines: []ledger.Line{line("g", 720)}, books: books},
	} {
		h := ledger.Submit(ledger.Hold{JobID: "j", Budget: leaf.Path, State: ledger.Held}, tc.lines, 0)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				admission.Decide(p, leaf, admission.State{Balances: tc.books}, h, tc.lines, noon)
			}
		})
	}
}
