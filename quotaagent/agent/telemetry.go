package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/version"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metrics"
)

// measure has the parts of an agent count what they do. Call it before the agent
// runs, after its history is there.
func (a *Agent) measure(b *books, now func() time.Time) {
	m := metrics.New(now, version.String())
	a.metrics = m
	a.board = newBoard(a, now, a.logger)
	b.conflicted = m.Conflicted
	b.committed = func(d time.Duration, err error) { m.Committed(d, resultOf(err)) }
	b.counted = func(entries []ledger.Entry) {
		p := a.Keeper.State().Policy
		m.Posted(entries, metrics.Posting{Basis: basisOf(p), Currency: p.Currency, Priced: func(model string) bool { return priced(p, model) }})
	}
	decided := a.Engine.decided
	a.Engine.decided = func(s gate.Submission, d admission.Decision) {
		decided(s, d)
		m.Decided(metrics.Decision{Verdict: d.Outcome.String(), Reason: string(d.Reason), Request: s.Kind.String(), Shadow: d.Shadow})
	}
	a.Engine.tokensDecided = func(d admission.Decision) {
		m.Decided(metrics.Decision{Verdict: d.Outcome.String(), Reason: string(d.Reason), Request: tokensOf, Shadow: d.Shadow})
	}
	a.Engine.took = func(s gate.Submission, d time.Duration, err error, trace string) {
		m.Took(s.Kind.String(), d, err != nil, trace)
	}
	a.Engine.released = m.Released
	m.Watch(metrics.Facts{Leader: a.Meter.Leading, Lag: a.Meter.lag, Local: a.Meter.local, Policy: a.policyFacts, HistoryFailing: a.historyFails})
}

func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ledger.ErrConflict):
		return "conflict"
	case errors.Is(err, ledger.ErrUnavailable):
		return "unavailable"
	}
	return "error"
}

// priced reports whether some rate card names a model.
func priced(p *budget.Policy, model string) bool {
	return slices.ContainsFunc(p.RateCards, func(c budget.RateCard) bool {
		_, known := c.Tokens[model]
		return known
	})
}

// basisOf is from when to when usage counts, by the policy.
func basisOf(p *budget.Policy) string {
	return [...]string{"allocated", "running"}[p.Meter.Basis]
}

func (a *Agent) policyFacts() metrics.Policy {
	state := a.Keeper.State()
	s := policyStatus(state)
	return metrics.Policy{Revision: short(s.Revision), Enforcement: s.Enforcement, Currency: s.Currency, Broken: s.Broken != "", Loaded: state.Loaded, Since: s.Since}
}

func (a *Agent) historyFails() (failing, kept bool) {
	if a.history == nil {
		return false, false
	}
	since, _ := a.history.trouble()
	return !since.IsZero(), true
}

// countedAuditor counts audit records, and steps of enforcement by them.
type countedAuditor struct{ agent *Agent }

// Record implements Auditor.
func (c countedAuditor) Record(e AuditEvent) {
	c.agent.metrics.Audited(e.Kind)
	if action, enforced := strings.CutPrefix(e.Kind, "enforcement."); enforced {
		c.agent.metrics.Enforced(action)
	}
}

// lag is by how much what is metered is behind; false where this agent does not lead.
func (m *Meter) lag() (time.Duration, bool) {
	if !m.Leading() {
		return 0, false
	}
	proven := m.provenMS.Load()
	if proven == 0 {
		return 0, false // its term has just begun
	}
	return max(0, m.now().Sub(time.UnixMilli(proven))), true
}

// local is what the leader sees beside the ledger.
func (m *Meter) local() (metrics.Local, bool) {
	if !m.Leading() {
		return metrics.Local{}, false
	}
	out := metrics.Local{Drift: int(m.drift.Load())}
	for _, a := range m.Strays() {
		out.Ungoverned += len(a.IDs())
	}
	if m.lines != nil {
		for _, c := range m.lines.capacity() {
			out.Capacity = append(out.Capacity, metrics.Capacity{Pool: c.pool, Class: c.class, GPUs: c.all, Free: c.free})
		}
	}
	return out, true
}

// MetricsHandler serves the agent's metrics to Prometheus.
func (a *Agent) MetricsHandler() http.Handler { return a.metrics.Handler() }

// metricsRight is what reading the metrics takes: they say what budgets have and use,
// as the status does.
func (a *Agent) metricsRight() api.Right {
	if a.openMetrics {
		return api.Anyone
	}
	return api.Read
}

func (a *Agent) serveMetrics(context.Context, api.Call) (any, error) { return a.MetricsHandler(), nil }
