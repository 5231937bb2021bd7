package agent

import (
	"context"
	"errors"
	"net/http"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/api"
)

// Routes are the agent's endpoints. A new one is a line here and a method.
func (a *Agent) Routes() []api.Route {
	return []api.Route{
		{Method: "GET", Path: "/governor/v1/health", Right: api.Anyone, Serve: a.serveHealth},
		{Method: "GET", Path: "/governor/v1/status", Right: api.Read, Serve: a.serveStatus},
		{Method: "GET", Path: "/governor/v1/policy", Right: api.Read, Serve: a.servePolicy},
		{Method: "POST", Path: "/governor/v1/policy/plan", Right: api.Read, BodyMax: api.UploadMax, Serve: a.servePlan},
		{Method: "PUT", Path: "/governor/v1/policy", Right: api.Write, BodyMax: api.UploadMax, Serve: a.serveApply},
		{Method: "GET", Path: "/governor/v1/overrides", Right: api.Read, Serve: a.serveOverrides},
		{Method: "POST", Path: "/governor/v1/overrides", Right: api.Read, Serve: a.serveOverrideRequest},
		{Method: "POST", Path: "/governor/v1/overrides/{id}/approve", Right: api.Read, Serve: a.serveOverrideApprove},
		{Method: "POST", Path: "/governor/v1/overrides/{id}/revoke", Right: api.Read, Serve: a.serveOverrideRevoke},
	}
}

func (a *Agent) serveHealth(context.Context, api.Call) (any, error) {
	return map[string]bool{"ok": true}, nil
}

func (a *Agent) serveStatus(ctx context.Context, _ api.Call) (any, error) {
	return a.Engine.Status(ctx, a.Meter)
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
	effect, err := a.Engine.Plan(ctx, u.Files)
	return effect, problem(err)
}

func (a *Agent) serveApply(ctx context.Context, c api.Call) (any, error) {
	u, err := api.DecodeUpload(c)
	if err != nil {
		return nil, err
	}
	err = a.Keeper.Apply(ctx, u.Files, u.Version, c.Caller.Accessor, u.Commit)
	return map[string]bool{"applied": true}, problem(err)
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
