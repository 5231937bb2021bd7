package agent

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/api"
)

// The namespaces of the two tenants of newTenants; the jobs of the first have "secret" in
// their names.
const secretly = "default"

// newTenants has every kind of trace that a job leaves: one that ran and was corrected, one
// that runs, one that waits, one that was refused, and work around the gate; and beside
// them one of namespace side, called "known".
func newTenants(t *testing.T) (r *rig, refused string) {
	t.Helper()
	r, _ = newQueueRig(t)
	r.keepHistory(t)
	r.work("secret-past", 2, time.Hour)
	_, err := r.correct(r.ctx, api.Caller{Accessor: "boss"}, CorrectionRequest{ID: "refund-01", Budget: "acme/research", Namespace: secretly, JobID: "secret-past",
		Reason: "the node was broken", Amounts: map[string]string{"cost": "-1"}})
	must.NoError(t, err)
	must.False(t, r.run(r.wholeIn("side", "known", 1, time.Hour)).Denied)
	must.False(t, r.run(r.whole("secret-now", 4, time.Hour)).Denied)
	r.nomad.start(secretly, "secret-now", 0, 4)
	must.NoError(t, r.settle())
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.settle())
	must.False(t, r.run(r.whole("secret-waits", 8, time.Hour)).Denied)
	must.True(t, r.admit(r.whole("secret-refused", 9, time.Hour)).Denied)
	r.nomad.start("elsewhere", "secret-stray", 0, 1)
	must.NoError(t, r.settle())
	latest := get(r.Agent, "/governor/v1/jobs/decision?namespace=default&job=secret-refused")
	must.Eq(t, http.StatusOK, latest.Code, must.Sprint(latest.Body))
	refused = regexp.MustCompile(`d-[0-9a-f]{8}-[0-9]+`).FindString(latest.Body.String())
	must.NotEq(t, "", refused)
	return r, refused
}

// tenantQuestions are the routes that tell of jobs, with what to ask.
func tenantQuestions(refused string) map[string]string {
	return map[string]string{
		"GET /governor/v1/status":               "/governor/v1/status?forecast=true",
		"GET /governor/v1/observed":             "/governor/v1/observed",
		"GET /governor/v1/queue":                "/governor/v1/queue",
		"GET /governor/v1/jobs/why":             "/governor/v1/jobs/why?namespace=default&job=secret-waits",
		"GET /governor/v1/jobs/decision":        "/governor/v1/jobs/decision?namespace=default&job=secret-past",
		"GET /governor/v1/usage":                "/governor/v1/usage?by=user,job&from=2026",
		"GET /governor/v1/statements/{path...}": "/governor/v1/statements/acme?from=2026-03",
		"GET /governor/v1/usage/efficiency":     "/governor/v1/usage/efficiency?by=job&from=2026",
		"GET /governor/v1/usage/export":         "/governor/v1/usage/export?from=2026",
		"GET /governor/v1/usage/trace":          "/governor/v1/usage/trace?from=2026",
		"GET /governor/v1/capacity":             "/governor/v1/capacity",
		"GET /governor/v1/receipts":             "/governor/v1/receipts?namespace=default&job=secret-past",
		"GET /governor/v1/decisions":            "/governor/v1/decisions",
		"GET /governor/v1/decisions/{id}":       "/governor/v1/decisions/" + refused,
		"POST /governor/v1/policy/plan":         "/governor/v1/policy/plan",
		"POST /governor/v1/history/log":         "/governor/v1/history/log",
	}
}

// What the API tells of single jobs it tells those who may read them in Nomad. Every route
// is asked: a new one that tells of jobs fails here until it is one of tenantQuestions.
func TestNobodyLearnsOfJobsThatTheTokenMayNotRead(t *testing.T) {
	t.Parallel()
	r, refused := newTenants(t)
	everything := api.Caller{Accessor: "finops", Names: []string{"token:finops"}}
	little := everything
	little.Sees = func() (func(string) bool, error) {
		return func(namespace string) bool { return namespace == "side" }, nil
	}
	questions := tenantQuestions(refused)
	for _, route := range r.Routes() {
		name := route.Method + " " + route.Path
		path, tells := questions[name]
		if !tells {
			if route.Method != http.MethodGet || strings.Contains(route.Path, "profile") {
				continue
			}
			path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(route.Path, "acme")
		}
		body := ""
		if route.Method == http.MethodPost {
			body = `{"limit":100}`
		}
		if strings.HasSuffix(name, "/policy/plan") {
			upload, err := json.Marshal(api.Upload{Files: files(strings.Replace(queuePolicy, "gpus = { any = 8 }", "gpus = { any = 2 }", 1))})
			must.NoError(t, err)
			body = string(upload)
		}
		all := ask(r.Agent, everything, route.Method, path, strings.NewReader(body))
		must.Eq(t, tells, strings.Contains(all.Body.String(), "secret"), must.Sprintf("%s: %d %s", name, all.Code, all.Body))
		some := ask(r.Agent, little, route.Method, path, strings.NewReader(body))
		answer := some.Body.String()
		must.StrNotContains(t, answer, "secret", must.Sprint(name))
		if slices.Contains([]string{"GET /governor/v1/status", "GET /governor/v1/decisions"}, name) {
			must.StrContains(t, answer, `"known"`, must.Sprint("its own it learns"))
		}
	}
}

func TestWhatATokenMayNotReadIsSaidSo(t *testing.T) {
	t.Parallel()
	r, refused := newTenants(t)
	who := api.Caller{Accessor: "u", Names: []string{"token:u"}, Sees: func() (func(string) bool, error) {
		return func(string) bool { return false }, nil
	}}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/governor/v1/jobs/why?job=secret-waits":    {403, `your token may not read the jobs of namespace \"default\": that needs the capability read-job there`},
		"/governor/v1/receipts?job=secret-past":     {403, "capability read-job"},
		"/governor/v1/jobs/decision?job=x":          {403, "capability read-job"},
		"/governor/v1/decisions/" + refused:         {404, "no agent has a decision " + refused},
		"/governor/v1/decisions?limit=3":            {200, "[]"},
		"/governor/v1/usage?job=secret-past&by=job": {200, `"lines":[]`},
		"/governor/v1/usage?by=job":                 {200, `"(a job of another namespace)"`},
	} {
		answer := ask(r.Agent, who, http.MethodGet, path, nil)
		must.Eq(t, want.code, answer.Code, must.Sprint(path, answer.Body))
		must.StrContains(t, strings.Join(strings.Fields(answer.Body.String()), ""), strings.Join(strings.Fields(want.text), ""), must.Sprint(path))
	}
	who.Sees = func() (func(string) bool, error) { return nil, http.ErrServerClosed }
	must.Eq(t, http.StatusServiceUnavailable, ask(r.Agent, who, http.MethodGet, "/governor/v1/status", nil).Code)
}
