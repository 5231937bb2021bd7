package gate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// hook asks a webhook as NACP does.
func (r *rig) hook(t *testing.T, kind WebhookKind, body string, edits ...func(*Config)) (int, webhookAnswer) {
	t.Helper()
	g := r.newGate(t, edits...)
	recorder := httptest.NewRecorder()
	g.Webhook(kind).ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body)))
	var answer webhookAnswer
	if recorder.Code == http.StatusOK {
		must.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &answer), must.Sprint(recorder.Body.String()))
		must.NotNil(t, answer.Errors)
		must.NotNil(t, answer.Warnings)
	}
	return recorder.Code, answer
}

func nacp(job, context string) string { return `{"job":` + job + `,"context":` + context + `}` }

func TestWebhook_decidesWithoutHolding(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Warnings: []string{"governor: at most 4 GPUs"}, Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{
		Group: "g", Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}}}}}}
	const caller = `{"clientIP":"10.0.0.1","accessorID":"acc-a","resolveToken":true,"tokenInfo":{"AccessorID":"acc-a","Name":"ada","Type":"client","Policies":["ml"]}}`
	for kind, operations := range map[WebhookKind]int{WebhookValidator: 0, WebhookMutator: 1} {
		status, answer := r.hook(t, kind, nacp(gpuJob, caller))
		must.EqOp(t, http.StatusOK, status)
		must.SliceEmpty(t, answer.Errors)
		must.Eq(t, []string{"governor: at most 4 GPUs"}, answer.Warnings)
		must.Len(t, operations, answer.Patch)
	}
	must.Len(t, 2, r.admitter.asked)
	s := r.admitter.asked[0]
	must.EqOp(t, Plan, s.Kind)
	must.EqOp(t, 4, s.Ask.GPUs())
	must.Eq(t, Identity{Accessor: "acc-a", Names: []string{"policy:ml", "token:ada"}}, s.Identity)
	must.SliceEmpty(t, r.admitter.settled())

	r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "too much"}
	_, answer := r.hook(t, WebhookMutator, nacp(gpuJob, `{"accessorID":"acc-b"}`))
	must.Eq(t, []string{"too much"}, answer.Errors)
	must.SliceEmpty(t, answer.Patch)
	must.Eq(t, Identity{Accessor: "acc-b"}, r.admitter.asked[2].Identity)
}

func TestWebhook_whatCannotBeDecidedIsAnError(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, answer := r.hook(t, WebhookValidator, nacp(cpuJob, `null`))
	must.SliceEmpty(t, answer.Errors)
	must.SliceEmpty(t, r.admitter.asked)

	for name, body := range map[string]string{"no job": `{}`, "no JSON": `x`, "a list": `{"job":[]}`, "two groups": nacp(`{"ID":"a","TaskGroups":{}}`, `null`)} {
		_, answer = r.hook(t, WebhookValidator, body)
		must.Len(t, 1, answer.Errors, must.Sprint(name))
	}
	r.admitter.err = errLedger
	_, answer = r.hook(t, WebhookValidator, nacp(gpuJob, `null`))
	must.Len(t, 1, answer.Errors)
	must.StrContains(t, answer.Errors[0], "the ledger is not reachable")
	r.nomad.Close()
	_, answer = r.hook(t, WebhookMutator, nacp(gpuJob, `null`))
	must.Len(t, 1, answer.Errors)

	recorder := httptest.NewRecorder()
	r.newGate(t).Webhook(WebhookValidator).ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	must.EqOp(t, http.StatusMethodNotAllowed, recorder.Code)
}

// A proxy that asks does not pass the token on: what is stored is read with the
// agent's own.
func TestWebhook_readsWithTheAgentsToken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	r.nomad.tokens["secret-agent"] = api.ACLToken{AccessorID: "agent", Type: "client"}
	reading := func(c *Config) { c.ReadToken = "secret-agent" }
	status, answer := r.hook(t, WebhookValidator, nacp(gpuJob, `{"accessorID":"acc-a"}`), reading)
	must.EqOp(t, http.StatusOK, status)
	must.SliceEmpty(t, answer.Errors)
	must.Len(t, 1, r.admitter.asked)
	must.Eq(t, Identity{Accessor: "acc-a"}, r.admitter.asked[0].Identity)
}

// What a webhook says is carried out without the gate: it reads the stored job each time.
func TestWebhook_remembersNoStoredJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hook := r.gate.Config.Handler.(*Gate).Webhook(WebhookValidator)
	r.plan(t)
	for i := range 2 {
		w := httptest.NewRecorder()
		hook.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"job":`+gpuJob+`}`)))
		must.EqOp(t, http.StatusOK, w.Code, must.Sprint(w.Body))
		must.EqOp(t, i+2, r.nomad.asked("GET", "/v1/job/train"))
		must.True(t, r.admitter.asked[i+1].Fresh)
	}
}
