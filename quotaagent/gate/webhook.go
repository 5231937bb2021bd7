package gate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// WebhookKind says what a webhook answers.
type WebhookKind uint8

// The webhooks that the admission proxy NACP calls: a validator says whether a job may
// run, a mutator also where.
const (
	WebhookValidator WebhookKind = iota
	WebhookMutator
)

// webhookRequest is what NACP sends: the job, and what it knows of the caller. It
// does not say whether the job is planned, validated or registered.
type webhookRequest struct {
	Job     json.RawMessage `json:"job"`
	Context struct {
		AccessorID string        `json:"accessorID"`
		TokenInfo  *api.ACLToken `json:"tokenInfo"`
	} `json:"context"`
}

// webhookAnswer is what NACP reads; Patch only of a mutator.
type webhookAnswer struct {
	Errors   []string            `json:"errors"`
	Warnings []string            `json:"warnings"`
	Patch    []jobspec.Operation `json:"patch,omitempty"`
}

// Webhook decides for a proxy that asks before it forwards a job. Nothing is held:
// the proxy does not say what becomes of the job. A job that it registers is held when
// it is seen at Nomad, like any other that comes around the gate. What cannot be
// decided is an error, so that the proxy refuses it.
//
// The caller must be trusted: who submits is what it says.
func (g *Gate) Webhook(kind WebhookKind) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer g.recover(w, r)
		if r.Method != http.MethodPost && r.Method != http.MethodPut {
			w.Header().Set("Allow", "POST, PUT")
			refuse(http.StatusMethodNotAllowed, ReasonUnknownRoute, "A webhook takes POST or PUT.").write(w)
			return
		}
		body, err := g.readBody(w, r)
		if err != nil {
			g.answer(w, r, err)
			return
		}
		answer, err := g.webhook(r.Context(), kind, body)
		if err != nil {
			g.logger.Warn("webhook not decided", "error", err)
			answer = webhookAnswer{Errors: []string{wordsOf(err)}}
		}
		if answer.Errors == nil {
			answer.Errors = []string{}
		}
		if answer.Warnings == nil {
			answer.Warnings = []string{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// wordsOf is an error as the author of a job reads it.
func wordsOf(err error) string {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.text
	}
	return "Governor cannot decide about this job now; its log has the details. Nothing was registered. Try again shortly."
}

func (g *Gate) webhook(ctx context.Context, kind WebhookKind, body []byte) (webhookAnswer, error) {
	var request webhookRequest
	if err := json.Unmarshal(body, &request); err != nil || len(request.Job) == 0 {
		return webhookAnswer{}, refuse(http.StatusBadRequest, ReasonBadRequest, `Governor cannot read this webhook request: it must be a JSON object with "job".`)
	}
	submitted, err := jobspec.ParseStored(request.Job)
	if err != nil {
		return webhookAnswer{}, refuseBody(err)
	}
	// The proxy does not pass the token on: the stored job is read with the agent's own.
	s := &submission{kind: Plan, fresh: true, request: jobspec.Request{Job: submitted.Job}, token: g.config.ReadToken}
	s.scope = registerScope(submitted.Job, scope{}, api.WriteRequest{}, g.config.Region)
	if s.job, err = jobspec.Canonicalize(submitted.Job); err != nil {
		return webhookAnswer{}, refuseBody(err)
	}
	s.job.Namespace, s.job.Region = &s.scope.namespace, &s.scope.region
	wants, err := g.resolve(ctx, s)
	if err != nil || !wants {
		return webhookAnswer{}, err
	}
	verdict, err := g.decideFor(ctx, s, g.webhookIdentity(request))
	if err != nil {
		return webhookAnswer{}, err
	}
	if verdict.Denied {
		return webhookAnswer{Errors: []string{verdict.Message}, Warnings: verdict.Warnings}, nil
	}
	out := webhookAnswer{Warnings: verdict.Warnings}
	if kind == WebhookMutator {
		if out.Patch, err = submitted.Operations(verdict.Patch); err != nil {
			return webhookAnswer{}, err
		}
	}
	return out, nil
}

// webhookIdentity is who the proxy says has submitted the job.
func (g *Gate) webhookIdentity(r webhookRequest) func(context.Context) (Identity, error) {
	return func(ctx context.Context) (Identity, error) {
		switch t := r.Context.TokenInfo; {
		case t != nil && t.AccessorID != "":
			return Identity{Accessor: t.AccessorID, Names: g.identities.tokenNames(t)}, nil
		case r.Context.AccessorID != "":
			return Identity{Accessor: r.Context.AccessorID}, nil
		}
		return g.identities.identify(ctx, "")
	}
}
