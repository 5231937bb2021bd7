package admission_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// acme is a budget with a limit of every kind; its month has 250 USD.
func acme(t *testing.T) *budget.Policy {
	source := func(line int) budget.Source { return budget.Source{File: "acme.hcl", Line: line} }
	limit := func(w budget.Window, d budget.Dimension, amount quantity.Amount, line int) budget.Limit {
		return budget.Limit{Window: w, Dimension: d, Ceiling: quantity.LimitOf(amount), Source: source(line)}
	}
	org := &budget.Budget{Name: "acme", Path: "acme", Owner: "finops@acme.example", Source: source(10), Limits: []budget.Limit{
		limit(budget.Concurrent, budget.GPUs("any"), 16*quantity.GPU, 12), limit(budget.Month, budget.Cost, 250*quantity.CurrencyUnit, 14),
	}}
	team := &budget.Budget{Name: "nlp", Path: "acme/nlp", Parent: org, Source: source(20), Limits: []budget.Limit{
		limit(budget.Concurrent, budget.GPUs("h100"), 4*quantity.GPU, 22), limit(budget.Day, budget.GPUTime("any"), 40*quantity.GPUHour, 24),
	}}
	team.PerJob.GPUs = &budget.JobLimit{Ceiling: quantity.LimitOf(12 * quantity.GPU), Source: source(26)}
	team.PerJob.MaxRuntime, team.PerJob.MaxRuntimeSource = 72*time.Hour, source(27)
	org.Children = []*budget.Budget{team}
	return &budget.Policy{Location: mustZone(t, "Europe/Berlin"), Currency: "USD", Roots: []*budget.Budget{org},
		Classes: []budget.Class{{Name: "h100", Devices: []string{"nvidia/gpu/H100"}}, {Name: "v100", Devices: []string{"nvidia/gpu/V100"}}},
		RateCards: []budget.RateCard{{Name: "2026", EffectiveFrom: time.Unix(0, 0), PerGPUHour: map[string]quantity.Amount{
			"h100": 2_900_000, "v100": 900_000}}}}
}

// asked is a batch job of one or more groups.
func asked(kind string, runtime string, groups ...jobspec.GroupAsk) jobspec.Ask {
	return jobspec.Ask{Namespace: "research", JobID: "train", Type: kind, Groups: groups, Meta: map[string]string{admission.RuntimeMeta: runtime}}
}

func group(name string, count int, device string, gpus int) jobspec.GroupAsk {
	return jobspec.GroupAsk{Name: name, Count: count, KillTimeout: 5 * time.Second, Devices: []jobspec.DeviceAsk{{Task: "main", Name: device, Count: gpus}}}
}

var noon = time.Date(2026, 11, 11, 11, 0, 0, 0, time.UTC)

// TestMessages keeps every text that an author reads.
func TestMessages(t *testing.T) {
	t.Parallel()
	berlin := mustZone(t, "Europe/Berlin")
	month, day := budget.PeriodAt(budget.Month, noon, berlin), budget.PeriodAt(budget.Day, noon, berlin)
	posted := func(p budget.Period, d budget.Dimension, a quantity.Amount) ledger.Vector {
		v := ledger.NewVector()
		v.Add(p.Key(), d, a)
		return v
	}
	held := func(key string, d budget.Dimension, a quantity.Amount) ledger.Vector {
		v := ledger.NewVector()
		v.Add(key, d, a)
		return v
	}
	cases := map[string]struct {
		ask   jobspec.Ask
		books admission.Books
		edit  func(p *budget.Policy)
		have  []ledger.Line // confirmed before
	}{
		"deny_exceeds_job_cap":          {ask: asked("batch", "1h", group("g", 2, "nvidia/gpu/V100", 8))},
		"deny_exceeds_job_cap_runtime":  {ask: asked("batch", "80h", group("g", 1, "nvidia/gpu/V100", 1)), edit: func(p *budget.Policy) { p.Roots[0].Children[0].Limits = nil }},
		"deny_exceeds_budget":           {ask: asked("batch", "6h", group("g", 1, "nvidia/gpu/V100", 8))},
		"deny_exceeds_budget_gauge":     {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/H100", 8))},
		"deny_budget_exhausted":         {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/V100", 2)), books: admission.Books{"acme": {Posted: posted(month, budget.Cost, 250_400_000)}}},
		"deny_insufficient_budget":      {ask: asked("batch", "2h", group("g", 1, "nvidia/gpu/V100", 2)), books: admission.Books{"acme": {Posted: posted(month, budget.Cost, 200_000_000), Held: held(month.Key(), budget.Cost, 48_000_000)}}},
		"deny_insufficient_by_holds":    {ask: asked("batch", "2h", group("g", 1, "nvidia/gpu/V100", 2)), books: admission.Books{"acme/nlp": {Posted: posted(day, budget.GPUTime("any"), quantity.GPUHour), Held: held("day/any", budget.GPUTime("any"), 39*quantity.GPUHour)}}},
		"deny_insufficient_by_a_moment": {ask: asked("batch", "2h", group("g", 1, "nvidia/gpu/V100", 2)), books: admission.Books{"acme/nlp": {Posted: posted(day, budget.GPUTime("any"), 40*quantity.GPUHour-2*7_235_000+100)}}},
		"deny_concurrency_limit":        {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/H100", 2)), books: admission.Books{"acme/nlp": {Held: held(ledger.ConcurrentKey, budget.GPUs("h100"), 3*quantity.GPU)}}},
		"deny_several_limits": {ask: asked("batch", "9h", group("g", 2, "nvidia/gpu/H100", 3)),
			books: admission.Books{"acme": {Posted: posted(month, budget.Cost, 200_000_000), Held: held(ledger.ConcurrentKey, budget.GPUs("any"), 12*quantity.GPU)}}},
		"deny_resubmission_that_grows": {ask: asked("batch", "1h", group("g", 4, "nvidia/gpu/H100", 1)), have: []ledger.Line{{Group: "g", Count: 2, RuntimeMS: 3_635_000, OnceMS: 3_600_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: 1, PerGPUHour: 2_900_000}}}},
			books: admission.Books{"acme/nlp": {Held: held(ledger.ConcurrentKey, budget.GPUs("h100"), 3*quantity.GPU)}}},
		"deny_lease":                        {ask: asked("service", "", group("g", 4, "nvidia/gpu/V100", 1))},
		"warn":                              {ask: asked("batch", "6h", group("g", 1, "nvidia/gpu/V100", 8)), edit: func(p *budget.Policy) { p.Roots[0].Admit = budget.AdmitWarn }},
		"shadow":                            {ask: asked("batch", "6h", group("g", 1, "nvidia/gpu/V100", 8)), edit: func(p *budget.Policy) { p.Enforcement = budget.Shadow }},
		"shadow_refusal":                    {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/T4", 8)), edit: func(p *budget.Policy) { p.Enforcement = budget.Shadow }},
		"notice":                            {ask: asked("batch", "1h30m", group("g", 1, "nvidia/gpu/V100", 2))},
		"notice_several_classes_and_groups": {ask: asked("batch", "90m", group("head", 1, "nvidia/gpu/H100", 1), group("workers", 3, "nvidia/gpu", 1))},
		"notice_reschedules":                {ask: asked("batch", "90m", jobspec.GroupAsk{Name: "g", Count: 1, UnlimitedReschedules: true, Devices: []jobspec.DeviceAsk{{Name: "gpu", Count: 1}}})},
		"notice_lease":                      {ask: asked("service", "", group("g", 1, "nvidia/gpu/V100", 1))},
		"refusal_no_class":                  {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/T4", 1))},
		"refusal_no_price": {ask: asked("batch", "30h", group("g", 1, "nvidia/gpu/V100", 1)), edit: func(p *budget.Policy) {
			p.RateCards = append(p.RateCards, budget.RateCard{EffectiveFrom: noon.Add(time.Hour), PerGPUHour: map[string]quantity.Amount{"h100": 1}})
		}},
		"refusal_runtime_unknown":   {ask: jobspec.Ask{Namespace: "research", JobID: "train", Type: "batch", Groups: []jobspec.GroupAsk{group("g", 1, "gpu", 1)}}},
		"refusal_runtime_malformed": {ask: asked("batch", "two hours", group("g", 1, "gpu", 1))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := acme(t)
			if tc.edit != nil {
				tc.edit(p)
			}
			golden(t, name, text(p, tc.ask, tc.books, tc.have))
		})
	}
}

// text is what the author of the ask reads.
func text(p *budget.Policy, ask jobspec.Ask, books admission.Books, have []ledger.Line) string {
	b := p.Find("acme/nlp")
	lines, refusal := admission.Need(p, b, ask, admission.Cluster{}, noon)
	var d admission.Decision
	if refusal != nil {
		d = admission.Refuse(p, b, *refusal)
	} else {
		h := ledger.Hold{JobID: ask.JobID, Budget: b.Path, State: ledger.Held}
		if have != nil {
			h.State, h.Lines, h.JobModifyIndex = ledger.Active, have, 7
			h.Charged = ledger.Charges(h, ledger.Calendar{Location: p.Location, Windows: p.Windows()})
		}
		d = admission.Decide(p, b, admission.State{Balances: books}, ledger.Submit(h, lines, 0), lines, noon)
	}
	if d.Outcome == admission.Deny {
		return d.Denial(p, ask)
	}
	return d.Notice(p)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		must.NoError(t, os.WriteFile(file, []byte(got+"\n"), 0o644))
	}
	want, err := os.ReadFile(file)
	must.NoError(t, err)
	must.Eq(t, strings.TrimSuffix(string(want), "\n"), got, must.Sprint("run the test with -update and look at the difference"))
}

func TestReceiptSaysWhatWasEstimatedAndUsed(t *testing.T) {
	t.Parallel()
	p := acme(t)
	h := ledger.Hold{Estimate: ledger.Usage{GPUTime: map[string]quantity.Amount{"v100": 4 * quantity.GPUHour, "any": 4 * quantity.GPUHour}, Cost: 3_600_000},
		Posted: ledger.Usage{GPUTime: map[string]quantity.Amount{"v100": 3 * quantity.GPUHour}, Cost: 2_700_000}}
	golden(t, "receipt", admission.Receipt(p, h))
	golden(t, "notice_ungoverned", admission.Decision{Outcome: admission.Admit, Reason: admission.Ungoverned}.Notice(p))
	golden(t, "refusal_without_budget", admission.Refuse(p, nil, admission.Refusal{Reason: admission.Unmatched,
		Fact: "no budget claims GPU jobs of namespace \"x\"", Remedy: "submit in a namespace that has one"}).Denial(p, asked("batch", "1h")))
}
