package agent

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// MetricsPath is where Prometheus finds the metrics.
const MetricsPath = "/governor/v1/metrics"

// Routes are the agent's endpoints. A new one is a line here and a method.
func (a *Agent) Routes() []api.Route {
	return []api.Route{
		{Method: "GET", Path: "/governor/v1/health", Right: api.Anyone, Serve: a.serveHealth},
		{Method: "GET", Path: "/governor/v1/status", Right: api.Read, Serve: a.serveStatus},
		{Method: "GET", Path: "/governor/v1/agents", Right: api.Read, Serve: a.serveAgents},
		{Method: "GET", Path: observedPath, Right: api.Read, Serve: a.serveObserved},
		{Method: "GET", Path: selfPath, Right: api.Read, Serve: a.serveSelf},
		{Method: "POST", Path: "/governor/v1/operator/step-down", Right: api.Read, Serve: a.serveStepDown},
		{Method: "GET", Path: "/governor/v1/operator/debug", Right: api.Read, Serve: a.serveDebug},
		{Method: "GET", Path: "/governor/v1/operator/profile/{name}", Right: api.Read, Serve: a.serveProfile},
		{Method: "GET", Path: MetricsPath, Right: a.metricsRight(), Serve: a.serveMetrics},
		{Method: "GET", Path: "/governor/v1/policy", Right: api.Read, Serve: a.servePolicy},
		{Method: "POST", Path: "/governor/v1/policy/plan", Right: api.Read, BodyMax: api.UploadMax, Serve: a.servePlan},
		{Method: "PUT", Path: "/governor/v1/policy", Right: api.Write, BodyMax: api.UploadMax, Serve: a.serveApply},
		{Method: "GET", Path: "/governor/v1/policy/history", Right: api.Read, Serve: a.serveHistory},
		{Method: "GET", Path: "/governor/v1/policy/history/{nr}", Right: api.Read, Serve: a.servePastPolicy},
		{Method: "POST", Path: "/governor/v1/policy/rollback", Right: api.Write, Serve: a.serveRollback},
		{Method: "GET", Path: "/governor/v1/budgets/{path...}", Right: api.Read, Serve: a.serveBudget},
		{Method: "GET", Path: "/governor/v1/queue", Right: api.Read, Serve: a.serveQueue},
		{Method: "GET", Path: "/governor/v1/jobs/why", Right: api.Read, Serve: a.serveWhy},
		{Method: "GET", Path: "/governor/v1/jobs/decision", Right: api.Read, Serve: a.serveJobDecision},
		{Method: "GET", Path: "/governor/v1/overrides", Right: api.Read, Serve: a.serveOverrides},
		{Method: "POST", Path: "/governor/v1/overrides", Right: api.Read, Serve: a.serveOverrideRequest},
		{Method: "POST", Path: "/governor/v1/overrides/{id}/approve", Right: api.Read, Serve: a.serveOverrideApprove},
		{Method: "POST", Path: "/governor/v1/overrides/{id}/revoke", Right: api.Read, Serve: a.serveOverrideRevoke},
		{Method: "GET", Path: "/governor/v1/runs", Right: api.Read, Serve: a.serveRuns},
		{Method: "POST", Path: "/governor/v1/runs", Right: api.Read, Serve: a.serveRunOpen},
		{Method: "GET", Path: "/governor/v1/runs/{id}", Right: api.Read, Serve: a.serveRun},
		{Method: "POST", Path: "/governor/v1/runs/{id}/close", Right: api.Read, Serve: a.serveRunClose},
		{Method: "POST", Path: "/governor/v1/tokens/authorize", Right: api.Read, Serve: serveTokens(a.Engine.AuthorizeTokens)},
		{Method: "POST", Path: "/governor/v1/tokens/settle", Right: api.Read, Serve: serveTokens(a.Engine.SettleTokens)},
		{Method: "POST", Path: "/governor/v1/tokens/void", Right: api.Read, Serve: serveTokens(a.Engine.VoidTokens)},
		{Method: "POST", Path: "/governor/v1/tokens/report", Right: api.Read, Serve: serveTokens(a.Engine.ReportTokens)},
		{Method: "GET", Path: "/governor/v1/alerts", Right: api.Read, Serve: a.serveAlerts},
		{Method: "POST", Path: "/governor/v1/alerts/try", Right: api.Write, Serve: a.serveAlertTry},
		{Method: "GET", Path: "/governor/v1/audit", Right: api.Read, Serve: a.serveAudit},
		{Method: "GET", Path: "/governor/v1/usage", Right: api.Read, Serve: a.serveReport},
		{Method: "GET", Path: "/governor/v1/statements/{path...}", Right: api.Read, Serve: a.serveShowback},
		{Method: "GET", Path: "/governor/v1/usage/efficiency", Right: api.Read, Serve: a.serveEfficiency},
		{Method: "GET", Path: "/governor/v1/usage/export", Right: api.Read, Serve: a.serveExport},
		{Method: "GET", Path: "/governor/v1/usage/trace", Right: api.Read, Serve: a.serveTrace},
		{Method: "GET", Path: "/governor/v1/usage/verify", Right: api.Read, Serve: a.serveVerify},
		{Method: "POST", Path: "/governor/v1/usage/corrections", Right: api.Write, Serve: a.serveCorrection},
		{Method: "GET", Path: "/governor/v1/capacity", Right: api.Read, Serve: a.serveCapacity},
		{Method: "GET", Path: "/governor/v1/receipts", Right: api.Read, Serve: a.serveReceipts},
		{Method: "GET", Path: "/governor/v1/decisions", Right: api.Read, Serve: a.serveDecisions},
		{Method: "GET", Path: "/governor/v1/decisions/{id}", Right: api.Read, Serve: a.serveDecision},
		{Method: "POST", Path: "/governor/v1/history/log", Right: api.Read, BodyMax: 1 << 20, Serve: a.serveLog},
	}
}

func (a *Agent) serveHealth(context.Context, api.Call) (any, error) {
	return map[string]bool{"ok": true}, nil
}

func (a *Agent) serveStatus(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	status, err := a.Status(ctx)
	if err != nil {
		return nil, err
	}
	if c.Query("forecast") == "true" {
		a.addOutlooks(ctx, &status)
	}
	return s.status(status), nil
}

func (a *Agent) servePolicy(context.Context, api.Call) (any, error) {
	state := a.Keeper.State()
	return struct {
		PolicyStatus
		Files []budgetspec.File `json:"files"`
	}{policyStatus(state), state.Files}, nil
}

func (a *Agent) servePlan(ctx context.Context, c api.Call) (any, error) {
	u, err := api.DecodeUpload(c)
	if err != nil {
		return nil, err
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	effect, err := a.Engine.Plan(ctx, u.Files, s)
	return effect, problem(err)
}

func (a *Agent) serveApply(ctx context.Context, c api.Call) (any, error) {
	u, err := api.DecodeUpload(c)
	if err != nil {
		return nil, err
	}
	err = a.Keeper.apply(ctx, u.Files, u.Version, origin{author: c.Caller.Accessor, names: c.Caller.Names, commit: u.Commit})
	return map[string]bool{"applied": true}, problem(err)
}

func (a *Agent) serveHistory(ctx context.Context, _ api.Call) (any, error) {
	return a.Keeper.History(ctx)
}

func (a *Agent) servePastPolicy(ctx context.Context, c api.Call) (any, error) {
	nr, err := strconv.Atoi(c.Var("nr"))
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "%.40q is not the number of a revision", c.Var("nr"))
	}
	return a.Keeper.PolicyAt(ctx, nr)
}

func (a *Agent) serveRollback(ctx context.Context, c api.Call) (any, error) {
	r, err := api.Decode[RollbackRequest](c)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"applied": true}, problem(a.Keeper.Rollback(ctx, c.Caller, r))
}

// BudgetView is one budget with everything that applies to it.
type BudgetView struct {
	Path        string                    `json:"path"`
	Description string                    `json:"description,omitempty"`
	Owner       string                    `json:"owner,omitempty"`
	Source      string                    `json:"source"`
	Children    []string                  `json:"children"`
	Settings    []budget.EffectiveSetting `json:"settings"`
}

func (a *Agent) serveBudget(_ context.Context, c api.Call) (any, error) {
	p := a.Keeper.State().Policy
	b := p.Find(c.Var("path"))
	if b == nil {
		return nil, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", c.Var("path"))
	}
	v := BudgetView{Path: b.Path, Description: b.Description, Owner: b.Owner, Source: b.Source.String(), Children: []string{}, Settings: b.EffectiveSettings(p.Currency)}
	for _, child := range b.Children {
		v.Children = append(v.Children, child.Path)
	}
	return v, nil
}

func (a *Agent) serveOverrides(ctx context.Context, _ api.Call) (any, error) {
	return a.Engine.Overrides(ctx)
}

func (a *Agent) serveOverrideRequest(ctx context.Context, c api.Call) (any, error) {
	r, err := api.Decode[OverrideRequest](c)
	if err != nil {
		return nil, err
	}
	return a.Engine.RequestOverride(ctx, c.Caller, r)
}

func (a *Agent) serveOverrideApprove(ctx context.Context, c api.Call) (any, error) {
	return a.Engine.ApproveOverride(ctx, c.Caller, c.Var("id"))
}

func (a *Agent) serveOverrideRevoke(ctx context.Context, c api.Call) (any, error) {
	return a.Engine.RevokeOverride(ctx, c.Caller, c.Var("id"))
}

func (a *Agent) serveRuns(ctx context.Context, _ api.Call) (any, error) {
	return a.Engine.Runs(ctx)
}

func (a *Agent) serveRunOpen(ctx context.Context, c api.Call) (any, error) {
	r, err := api.Decode[RunRequest](c)
	if err != nil {
		return nil, err
	}
	return a.Engine.OpenRun(ctx, c.Caller, r)
}

func (a *Agent) serveRun(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	run, err := a.Engine.RunNow(ctx, c.Var("id"))
	run.OpenJobs = keep(s, run.OpenJobs, func(job *string) string {
		namespace, _, _ := strings.Cut(*job, "/")
		return namespace
	})
	return run, err
}

func (a *Agent) serveRunClose(ctx context.Context, c api.Call) (any, error) {
	return a.Engine.CloseRun(ctx, c.Caller, c.Var("id"))
}

// serveTokens serves one way to ask for tokens, or to say what became of them.
func serveTokens[R any](do func(ctx context.Context, who api.Caller, r R) (TokenStatus, error)) func(ctx context.Context, c api.Call) (any, error) {
	return func(ctx context.Context, c api.Call) (any, error) {
		r, err := api.Decode[R](c)
		if err != nil {
			return nil, err
		}
		return do(ctx, c.Caller, r)
	}
}

func (a *Agent) serveAudit(ctx context.Context, c api.Call) (any, error) {
	if !manages(c.Caller.Names) {
		return nil, refusal(http.StatusForbidden, "the audit log names people and their reasons; reading it needs a Nomad management token")
	}
	from := uint64(1)
	if text := c.Query("from"); text != "" {
		var err error
		if from, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, refusal(http.StatusBadRequest, "from is %.40q, which is not the number of an audit record", text)
		}
	}
	return a.chain.log(ctx, from)
}

// problem gives errors that are the caller's their HTTP status.
func problem(err error) error {
	var diags *DiagnosticsError
	var upload *UploadError
	switch {
	case errors.As(err, &upload):
		return &api.Problem{Status: http.StatusBadRequest, Text: upload.Text}
	case errors.As(err, &diags):
		return &api.Problem{Status: http.StatusBadRequest, Text: diags.Text}
	case errors.Is(err, ErrPolicyChanged):
		return &api.Problem{Status: http.StatusConflict, Text: err.Error() + "; plan again"}
	}
	return err
}
