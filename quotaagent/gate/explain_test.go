package gate

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

const explained = `{"Job":{"ID":"train","Datacenters":["dc1"],"TaskGroups":[{"Name":"g","Tasks":[{"Name":"t","Driver":"exec","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}}]}]},"PolicyOverride":true}`

func ask(g *Gate, token, query, body string) (Verdict, error) {
	r := httptest.NewRequest(http.MethodPost, "/governor/v1/jobs/estimate"+query, strings.NewReader(body))
	r.Header.Set("X-Nomad-Token", token)
	return g.Explain(r, []byte(body))
}

func TestExplainDecidesAsAPlanAndSendsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "research", `{"ID":"train"}`)
	r.admitter.verdict = Verdict{Reason: "fits", Account: "all of it"}
	v, err := ask(r.newGate(t), "", "?namespace=research", explained)
	must.NoError(t, err)
	must.Eq(t, any("all of it"), v.Account)
	must.Len(t, 1, r.admitter.asked)
	s := r.admitter.asked[0]
	must.Eq(t, Plan, s.Kind)
	must.True(t, s.Explain)
	must.True(t, s.PolicyOverride)
	must.Eq(t, "research", s.Ask.Namespace)
	must.NotNil(t, s.Stored, must.Sprint("it is judged beside the job that is there"))
	must.Len(t, 0, r.nomad.writes())

	plan := r.do(t, "PUT", "/v1/job/train/plan?namespace=research", explained)
	must.Eq(t, 200, plan.status)
	must.Len(t, 2, r.admitter.asked)
	s.Explain, s.Fresh = false, false
	must.Eq(t, s, r.admitter.asked[1], must.Sprint("the gate decides about the same"))
}

func TestExplainNeedsTheRightToReadTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	r.nomad.tokens["user"] = api.ACLToken{AccessorID: "u", Name: "user", Type: "client"}
	g := r.newGate(t)
	_, err := ask(g, "unknown", "", explained)
	status, text := Told(err)
	must.Eq(t, 403, status)
	must.Eq(t, "Nomad answered: Permission denied", text)
	must.SliceEmpty(t, r.admitter.asked)
	_, err = ask(g, "user", "", explained)
	must.NoError(t, err)
}

func TestWhatExplainCannotAnswerIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.newGate(t)
	_, err := ask(g, "", "", `{"Job":{}}`)
	status, text := Told(err)
	must.Eq(t, 400, status)
	must.StrContains(t, text, "Governor cannot read this request")

	r.admitter.err = errLedger
	_, err = ask(g, "", "", explained)
	status, text = Told(err)
	must.Eq(t, 503, status)
	must.StrContains(t, text, "Governor cannot decide about GPU job \"train\" now")

	v, err := ask(g, "", "?region=elsewhere", explained)
	must.NoError(t, err)
	must.Nil(t, v.Account)
	must.StrContains(t, v.Message, `this Governor governs region "global" only`)

	status, text = Told(errors.New("connection refused"))
	must.Eq(t, 502, status)
	must.StrContains(t, text, "got no answer from Nomad")
}
