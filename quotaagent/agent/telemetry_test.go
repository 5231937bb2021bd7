package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prometheus "github.com/prometheus/common/model"
	"github.com/shoenig/test/must"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/burn"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// scraped is what an agent shows, by metric.
func (r *rig) scraped() map[string]*dto.MetricFamily {
	w := httptest.NewRecorder()
	r.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, MetricsPath, nil))
	must.Eq(r.t, http.StatusOK, w.Code)
	parser := expfmt.NewTextParser(prometheus.UTF8Validation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(w.Body.String()))
	must.NoError(r.t, err)
	return out
}

// value is that of the one series with these labels; "key=value".
func value(t reporter, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	found := []float64{}
	for _, m := range families[name].GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		fits := true
		for _, l := range labels {
			fits = fits && have[l]
		}
		if fits {
			found = append(found, m.GetGauge().GetValue()+m.GetCounter().GetValue()+float64(m.GetHistogram().GetSampleCount()))
		}
	}
	must.Len(t, 1, found, must.Sprintf("%s %v", name, labels))
	return found[0]
}

func TestMetricsSayWhatTheLedgerSays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	must.False(t, r.run(r.job("train", 2, 2)).Denied)
	must.True(t, r.run(r.job("huge", 1, 99)).Denied)
	must.NoError(t, r.board.look(r.ctx))
	have := r.scraped()
	must.Eq(t, 1, value(t, have, "governor_decisions_total", "verdict=admit", "reason=fits", "request=register"))
	must.Eq(t, 1, value(t, have, "governor_decisions_total", "verdict=deny", "request=register"))
	must.Eq(t, 2, value(t, have, "governor_decision_duration_seconds", "request=register"))
	must.Eq(t, 4, value(t, have, "governor_budget_held", "budget=acme", "dimension=gpus", "class=any"))
	must.Eq(t, 4, value(t, have, "governor_budget_available", "budget=acme", "dimension=gpus", "class=any"))
	must.Eq(t, 8, value(t, have, "governor_budget_limit", "budget=acme", "dimension=gpus", "class=any"))
	must.Eq(t, 1000*3600, value(t, have, "governor_budget_limit", "budget=acme", "dimension=gpu_seconds", "window=month"))
	must.Eq(t, 1, value(t, have, "governor_budget_state", "budget=acme", "state=ok"))
	must.Eq(t, 1, value(t, have, "governor_leader"))
	must.Eq(t, 1, value(t, have, "governor_policy_last_reload_successful"))
	must.Positive(t, value(t, have, "governor_ledger_commits_total", "result=ok"))
	must.Eq(t, 0, value(t, have, "governor_ledger_snapshot_age_seconds"))

	r.nomad.start("default", "train", 0, 2)
	r.nomad.start("default", "train", 1, 2)
	must.NoError(t, r.settle())
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.settle())
	must.NoError(t, r.settle())
	records, err := r.store.Read(r.ctx, policyPrefix+"budgets.hcl")
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte("budget {"), Version: records[0].Version}}))
	must.NoError(t, r.Keeper.Load(r.ctx))
	r.clock.advance(20 * time.Second)
	have = r.scraped()
	posted := float64(r.posted("acme/research")) / 1000
	must.Positive(t, posted)
	must.Eq(t, posted, value(t, have, "governor_gpu_seconds_total", "budget=acme/research", "class=v100", "basis=allocated"))
	must.Eq(t, 0, value(t, have, "governor_policy_last_reload_successful"))
	must.Positive(t, value(t, have, "governor_ledger_snapshot_age_seconds"))
	must.MapContainsKey(t, have, "governor_meter_lag_seconds")
	must.Eq(t, 0, value(t, have, "governor_reconcile_drift"))
}

// What cannot be decided is counted as that, and a scrape goes on while the store does
// not answer.
func TestAScrapeDoesNotNeedTheStore(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := newRigOn(t, store, testPolicy(8, "1000"))
	must.NoError(t, r.board.look(r.ctx))
	store.mu.Lock()
	store.down = ledger.ErrUnavailable
	store.mu.Unlock()
	_, err := r.Engine.Admit(r.ctx, r.job("train", 1, 1))
	must.ErrorIs(t, err, ledger.ErrUnavailable)
	must.ErrorIs(t, r.board.look(r.ctx), ledger.ErrUnavailable)
	store.mu.Lock()
	reads := store.reads + store.lists
	store.mu.Unlock()
	r.clock.advance(time.Minute)
	have := r.scraped()
	store.mu.Lock()
	defer store.mu.Unlock()
	must.Eq(t, reads, store.reads+store.lists)
	must.Eq(t, 1, value(t, have, "governor_decisions_failed_total"))
	must.Eq(t, 60, value(t, have, "governor_ledger_snapshot_age_seconds"))
	must.Eq(t, 8, value(t, have, "governor_budget_limit", "budget=acme", "dimension=gpus", "class=any"), must.Sprint("as last read"))
}

func TestReadingMetricsTakesATokenUnlessItIsSaidOtherwise(t *testing.T) {
	t.Parallel()
	right := func(a *Agent) api.Right {
		for _, route := range a.Routes() {
			if route.Path == MetricsPath {
				return route.Right
			}
		}
		t.Fatal("no such route")
		return 0
	}
	r := newRig(t)
	must.Eq(t, api.Read, right(r.Agent))
	r.openMetrics = true
	must.Eq(t, api.Anyone, right(r.Agent))
}

// An agent that begins to watch knows from the history how fast budgets were used.
func TestRatesOfUseBeginWithTheHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	r.work("train", 4, 3*time.Hour)
	must.NoError(t, r.board.look(r.ctx))
	account := burn.Account{Budget: "acme", Dimension: budget.GPUTime(budget.AnyClass)}
	r.clock.advance(time.Minute)
	must.NoError(t, r.board.look(r.ctx))
	used, known := r.board.rates.Used(account, 6*time.Hour)
	must.True(t, known)
	must.Between(t, 119*quantity.GPUHour/10, used, 12*quantity.GPUHour)
	rate := value(t, r.scraped(), "governor_budget_burn_rate", "budget=acme", "dimension=gpu_seconds", "over=6h")
	must.InDelta(t, 12.0/6/(1000.0/744), rate, .02)
}

// A decision within a trace has spans of its own, and is the example of its histogram.
func TestADecisionIsAPartOfTheTraceOfItsRequest(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	ctx, request := provider.Tracer("test").Start(t.Context(), "PUT /v1/jobs")
	r := newRig(t)
	_, err := r.Engine.Admit(ctx, r.job("train", 1, 1))
	must.NoError(t, err)
	names := []string{}
	for _, s := range spans.Ended() {
		must.Eq(t, request.SpanContext().TraceID(), s.SpanContext().TraceID())
		names = append(names, s.Name())
	}
	must.Eq(t, []string{"place", "hold"}, names)
	w := httptest.NewRecorder()
	scrape := httptest.NewRequest(http.MethodGet, MetricsPath, nil)
	scrape.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	r.MetricsHandler().ServeHTTP(w, scrape)
	must.StrContains(t, w.Body.String(), `# {trace_id="`+request.SpanContext().TraceID().String()+`"} `)
	request.End()
	must.NoError(t, provider.Shutdown(t.Context()))
}

func TestResultsOfTransactionsHaveFixedNames(t *testing.T) {
	t.Parallel()
	must.Eq(t, "ok", resultOf(nil))
	must.Eq(t, "conflict", resultOf(ledger.ErrConflict))
	must.Eq(t, "unavailable", resultOf(errors.Join(ledger.ErrUnavailable, context.Canceled)))
	must.Eq(t, "error", resultOf(context.Canceled))
}
