package metrics_test

import (
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metrics"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// full is an agent of which everything is known: each metric has a series.
func full() *metrics.Metrics {
	m := metrics.New(func() time.Time { return noon.Add(4 * time.Second) }, "0.1.0")
	m.Watch(metrics.Facts{
		Leader: func() bool { return true },
		Lag:    func() (time.Duration, bool) { return 5500 * time.Millisecond, true },
		Local: func() (metrics.Local, bool) {
			return metrics.Local{Ungoverned: 2, Capacity: []metrics.Capacity{{Pool: "default", Class: "h100", GPUs: 16, Free: 3}}}, true
		},
		Policy: func() metrics.Policy {
			return metrics.Policy{Revision: "99fe51006984", Enforcement: "enforce", Currency: "USD", Loaded: true, Since: noon.Add(-time.Hour)}
		},
		HistoryFailing: func() (failing, kept bool) { return false, true },
	})
	m.Decided(metrics.Decision{Verdict: "admit", Reason: "fits", Request: "register"})
	m.Decided(metrics.Decision{Verdict: "deny", Reason: "exceeds_budget", Request: "plan", Shadow: true})
	m.Took("register", 3*time.Millisecond, false, "")
	m.Took("register", 30*time.Millisecond, true, "4bf92f3577b34da6a3ce929d0e0e4736")
	m.Released(2 * time.Minute)
	m.Committed(2*time.Millisecond, "ok")
	m.Committed(time.Millisecond, "conflict")
	m.Conflicted()
	m.Enforced("stopped")
	m.Audited("policy.applied")
	m.Notified("webhook.finops", "ok")
	m.Posted([]ledger.Entry{
		{Kind: ledger.UsageEntry, Budget: "acme/research", Class: "h100", GPUTime: 3_600_500, Cost: 2_500_001, Energy: 1_000_000},
		{Kind: ledger.OverdraftEntry, Budget: "acme/research", Class: "h100", GPUTime: 60_000, Cause: "kill_grace"},
		{Kind: ledger.IdleEntry, Budget: "acme/research", Class: "h100", GPUTime: 30_000},
		{Kind: ledger.UnallocatedEntry, Class: "h100", GPUTime: 900_000, Cause: "node pool default"},
		{Kind: ledger.UngovernedEntry, Class: "h100", GPUTime: 1000},
		{Kind: ledger.TokensEntry, Budget: "acme/research", Model: "llama-3.1-8b", Cost: 2, Tokens: ledger.Tokens{budget.InputTokens: 900, budget.CachedTokens: 100, budget.OutputTokens: 250}},
		{Kind: ledger.TokensEntry, Budget: "acme/research", Model: "no-such-model", Tokens: ledger.Tokens{budget.OutputTokens: 8}},
		{Kind: ledger.CorrectionEntry, Budget: "acme/research", Model: "llama-3.1-8b", Cost: -1, Tokens: ledger.Tokens{budget.OutputTokens: -50}},
		{Kind: ledger.CorrectionEntry, Budget: "acme/research", Author: "ada", Cost: 70, Tokens: ledger.Tokens{budget.OutputTokens: 50}},
	}, posting)
	runsOut := noon.Add(12 * time.Hour)
	m.Show(metrics.Board{At: noon, Overrides: 1, Bypasses: 2, Outbox: map[string]int{"webhook.finops": 3},
		Alerts: []metrics.Alert{{Budget: "acme", Name: "fast_burn", Severity: "page"}},
		Budgets: []metrics.Budget{
			{Path: "acme", State: "ok"},
			{Path: "acme/research", State: "soft", Queued: 4, Limits: []metrics.Limit{
				{Window: "concurrent", Dimension: budget.GPUs("h100"), Ceiling: 4 * quantity.GPU, Held: quantity.GPU / 2},
				{Window: "month", Dimension: budget.Cost, Ceiling: 12_000 * quantity.CurrencyUnit, Posted: 10_000_010_000, Held: 20_000,
					End: noon.Add(24 * time.Hour), RunsOut: []metrics.RunsOut{{Forecast: "p50", At: &runsOut}, {Forecast: "p90"}}, Burn: []metrics.Burn{{Over: "1h", Rate: 14.5}}},
				{Window: "month", Dimension: budget.GPUTime(budget.AnyClass), Unlimited: true, Posted: quantity.GPUHour, End: noon.Add(24 * time.Hour)},
				{Window: "total", Dimension: budget.Energy, Ceiling: quantity.KWh, Posted: 2 * quantity.KWh},
			}},
		}})
	return m
}

// posting is a policy that prices one model.
var posting = metrics.Posting{Basis: "allocated", Currency: "USD", Priced: func(model string) bool { return model == "llama-3.1-8b" }}

// scrape is what a handler answers.
func scrape(t must.T, h http.Handler, accept string) string {
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	must.Eq(t, http.StatusOK, w.Code)
	body, err := io.ReadAll(w.Body)
	must.NoError(t, err)
	return string(body)
}

// own leaves out what Go, the process and the handler say about themselves.
func own(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		name := line
		for _, about := range []string{"# HELP ", "# TYPE ", "# UNIT "} {
			name = strings.TrimPrefix(name, about)
		}
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), got)
}

func TestExposition(t *testing.T) {
	t.Parallel()
	text := scrape(t, full().Handler(), "text/plain")
	golden(t, "exposition.txt", own(text))
	must.StrContains(t, text, "go_goroutines ")
	must.StrContains(t, text, "process_resident_memory_bytes ")
}

func TestOpenMetricsHasTheTraceOfASlowDecision(t *testing.T) {
	t.Parallel()
	text := scrape(t, full().Handler(), "application/openmetrics-text; version=1.0.0")
	must.StrContains(t, text, `# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.03`)
	must.StrHasSuffix(t, "# EOF\n", text)
	must.Eq(t, 1, strings.Count(text, "# EOF"))
	must.StrContains(t, text, "# TYPE governor_energy_joules counter\n# UNIT governor_energy_joules joules\ngovernor_energy_joules_total{")
	must.StrContains(t, text, "# UNIT governor_budget_window_end_timestamp_seconds seconds\n")
}

func TestAScrapeIsPackedForWhomWantsIt(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	full().Handler().ServeHTTP(w, r)
	must.Eq(t, "gzip", w.Header().Get("Content-Encoding"))
	unpacked, err := gzip.NewReader(w.Body)
	must.NoError(t, err)
	text, err := io.ReadAll(unpacked)
	must.NoError(t, err)
	must.Eq(t, own(scrape(t, full().Handler(), "text/plain")), own(string(text)))
}

// Whatever budgets are called, Prometheus reads back what was meant.
func TestNamesAreEscaped(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.String().Draw(t, "path")
		m := metrics.New(func() time.Time { return noon }, "0.1.0")
		m.Show(metrics.Board{At: noon, Budgets: []metrics.Budget{{Path: path, Queued: 7}}})
		depth := families(t, m)["governor_queue_depth"].GetMetric()[0]
		must.Eq(t, strings.ToValidUTF8(path, "\uFFFD"), depth.GetLabel()[0].GetValue())
		must.Eq(t, 7, depth.GetGauge().GetValue())
	})
}

func TestNothingIsShownOfALedgerThatWasNotRead(t *testing.T) {
	t.Parallel()
	m := metrics.New(func() time.Time { return noon }, "0.1.0")
	m.Watch(metrics.Facts{Leader: func() bool { return false }, Lag: func() (time.Duration, bool) { return 0, false },
		Local: func() (metrics.Local, bool) { return metrics.Local{}, false }, Policy: func() metrics.Policy { return metrics.Policy{} },
		HistoryFailing: func() (failing, kept bool) { return false, false }})
	text := own(scrape(t, m.Handler(), "text/plain"))
	must.StrContains(t, text, "governor_leader 0\n")
	for _, absent := range []string{"governor_budget", "governor_ledger_snapshot", "governor_meter_lag", "governor_policy", "governor_history", "governor_ungoverned"} {
		must.StrNotContains(t, text, absent)
	}
}

// families are all metrics by name, as Prometheus' own parser reads them.
func families(t must.T, m *metrics.Metrics) map[string]*dto.MetricFamily {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(scrape(t, m.Handler(), "text/plain")))
	must.NoError(t, err)
	return out
}

// A counter never goes down, and shows exactly what was posted once nothing is taken
// back any more.
func TestWhatIsTakenBackIsLeftOutOfWhatComesNext(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := metrics.New(func() time.Time { return noon }, "0.1.0")
		net, shown, highest := int64(0), 0.0, int64(0)
		for _, d := range rapid.SliceOfN(rapid.Int64Range(-1_000_000_007, 1_000_000_007), 1, 40).Draw(t, "cost") {
			m.Posted([]ledger.Entry{{Kind: ledger.UsageEntry, Budget: "acme", Cost: quantity.Amount(d)}}, posting)
			net += d
			highest = max(highest, net)
			if f := families(t, m)["governor_cost_total"]; f != nil {
				now := f.GetMetric()[0].GetCounter().GetValue()
				must.GreaterEq(t, shown, now)
				shown = now
			}
		}
		must.Eq(t, highest, int64(math.Round(shown*1e6)), must.Sprint("to the millionth"))
	})
}

// A thousand additions of a tenth are a hundred exactly, as no sum of floats is.
func TestMoneyIsCountedAsIntegers(t *testing.T) {
	t.Parallel()
	m := metrics.New(func() time.Time { return noon }, "0.1.0")
	for range 1000 {
		m.Posted([]ledger.Entry{{Kind: ledger.UsageEntry, Budget: "acme", Cost: 100_000}}, posting)
	}
	must.Eq(t, 100, families(t, m)["governor_cost_total"].GetMetric()[0].GetCounter().GetValue())
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	allowed := strings.Fields("action alert basis budget cause class currency dimension enforcement forecast kind le model node_pool notifier over reason request result revision severity shadow state type verdict version window")
	for name, f := range families(t, full()) {
		if !strings.HasPrefix(name, "governor_") {
			continue
		}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				must.SliceContains(t, allowed, l.GetName(), must.Sprint(name))
			}
		}
	}
}

// large is a ledger of many budgets, each with six limits.
func large(budgets int) metrics.Board {
	b := metrics.Board{At: noon}
	for i := range budgets {
		one := metrics.Budget{Path: fmt.Sprintf("acme/dept-%02d/team-%04d", i%50, i), State: "ok"}
		for _, w := range []string{"day", "month"} {
			for _, d := range []budget.Dimension{budget.Cost, budget.GPUTime(budget.AnyClass), budget.GPUTime("h100")} {
				one.Limits = append(one.Limits, metrics.Limit{Window: w, Dimension: d, Ceiling: 1000, Posted: 10, Held: 5, End: noon.Add(time.Hour),
					Burn: []metrics.Burn{{Over: "5m", Rate: 1}, {Over: "30m", Rate: 1}, {Over: "1h", Rate: 1}, {Over: "6h", Rate: 1}}})
			}
		}
		b.Budgets = append(b.Budgets, one)
	}
	return b
}

// BenchmarkScrape1000Budgets is one scrape of a thousand budgets with six limits each.
func BenchmarkScrape1000Budgets(b *testing.B) {
	m := full()
	m.Show(large(1000))
	h := m.Handler()
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		size = w.Body.Len()
	}
	b.ReportMetric(float64(size), "B/scrape")
}
