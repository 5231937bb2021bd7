package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/shoenig/test/must"
)

// ask makes one request to the agent's API as somebody.
func ask(a *Agent, who api.Caller, method, path string, body io.Reader) *httptest.ResponseRecorder {
	handler := api.Handler(a.Routes(), func(*http.Request, api.Right) (api.Caller, int, string) { return who, 0, "" }, func(*http.Request, error) {})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(method, path, body))
	return w
}

// get reads one path as somebody who may not manage.
func get(a *Agent, path string) *httptest.ResponseRecorder {
	return ask(a, api.Caller{Accessor: "u", Names: []string{"token:user"}}, http.MethodGet, path, nil)
}

// A decision is found by its ID, and by its job: the latest one, the n-th latest, and the
// latest one by a time.
func TestADecisionIsShownWithWhatItMeans(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	began := r.clock.now()
	must.True(t, r.admit(r.job("train", 1, 9)).Denied)
	r.clock.advance(time.Hour)
	must.False(t, r.run(r.job("train", 1, 2)).Denied)

	show := func(path string) DecisionView {
		t.Helper()
		var v DecisionView
		answer := get(r.Agent, path)
		must.Eq(t, http.StatusOK, answer.Code, must.Sprint(answer.Body))
		must.NoError(t, json.Unmarshal(answer.Body.Bytes(), &v))
		return v
	}
	const about = "/governor/v1/jobs/decision?namespace=default&job=train"
	fits, refused := show(about), show(about+"&n=2")
	must.Eq(t, []string{"admit", "fits", "register", "test"}, []string{fits.Outcome, fits.Reason, fits.Request, fits.Agent})
	must.Eq(t, "The worst case fits every limit.", fits.Meaning)
	must.SliceEmpty(t, fits.Incomplete)
	must.Eq(t, []string{"deny", "exceeds_budget"}, []string{refused.Outcome, refused.Reason})
	must.Eq(t, r.Keeper.State().Policy.Revision, refused.Revision)
	must.RegexMatch(t, regexp.MustCompile(`^budgets\.hcl:[1-9]`), refused.Source)
	contains(t, refused.Text, refused.Source)
	contains(t, refused.Author, "Ask for fewer GPUs")
	must.Eq(t, refused, show("/governor/v1/decisions/"+refused.ID))
	must.Eq(t, refused, show(about+"&at="+began.UTC().Format(time.RFC3339)))
	must.Eq(t, fits, show(about+"&at="+began.UTC().Format("2006")))
	must.Eq(t, fits, show(about+"&at="+began.AddDate(0, 1, 0).UTC().Format(time.RFC3339)), must.Sprint("a time to come"))

	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/governor/v1/jobs/decision":                               {400, "job is missing"},
		"/governor/v1/jobs/decision?job=none":                      {404, `no agent remembers a decision about job \"none\" in namespace \"default\"`},
		about + "&n=3":                                             {404, "no agent remembers a 3rd latest decision about"},
		about + "&n=0":                                             {400, `n is \"0\"; it must be a number from 1, for the latest decision, to 10000`},
		about + "&at=2020":                                         {404, "made until 2020-12-31T23:59:59Z"},
		about + "&at=noon":                                         {400, `at is \"noon\"; it must be a day`},
		"/governor/v1/decisions/train":                             {400, `\"train\" is not the ID of a decision, such as d-3f9c1a0b-812`},
		"/governor/v1/decisions/" + refused.ID + "00":              {404, "there is none, or it is older than the last 100000 that each keeps"},
		"/governor/v1/decisions?job=train&limit=1&at=2020&limit=1": {200, `"decisions": []`},
	} {
		answer := get(r.Agent, path)
		must.Eq(t, want.status, answer.Code, must.Sprint(path))
		contains(t, answer.Body.String(), want.text)
	}
}

// Each agent keeps its own decisions, and any of them answers for all.
func TestAnyAgentShowsTheDecisionsOfAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	r.both(a, b)
	at := func(agent *served, gpus int) {
		r.Agent = agent.Agent
		must.True(t, r.admit(r.job("train", 1, gpus)).Denied)
		r.clock.advance(time.Minute)
	}
	at(a, 9)
	at(b, 10)
	at(a, 11)
	ask := func(agent *served, path string, into any) *httptest.ResponseRecorder {
		w := agentAnswer(agent, path)
		if into != nil {
			must.Eq(t, http.StatusOK, w.Code, must.Sprint(w.Body))
			must.NoError(t, json.Unmarshal(w.Body.Bytes(), into))
		}
		return w
	}
	for _, agent := range []*served{a, b} {
		var list DecisionList
		ask(agent, "/governor/v1/decisions?limit=2", &list)
		must.Eq(t, []int64{11, 10}, []int64{list.Decisions[0].GPUs, list.Decisions[1].GPUs})
		must.Eq(t, []string{"a", "b"}, []string{list.Decisions[0].Agent, list.Decisions[1].Agent})
		must.Len(t, 2, list.Decisions)
		must.SliceEmpty(t, list.Incomplete)
		var own DecisionList
		ask(agent, "/governor/v1/decisions?own=true", &own)
		must.Eq(t, map[*served]int{a: 2, b: 1}[agent], len(own.Decisions))
		var second, byID DecisionView
		ask(agent, "/governor/v1/jobs/decision?job=train&n=2", &second)
		must.Eq(t, int64(10), second.GPUs)
		must.Eq(t, "b", second.Agent)
		ask(agent, "/governor/v1/decisions/"+second.ID, &byID)
		must.Eq(t, second, byID)
		var why JobReason
		ask(agent, "/governor/v1/jobs/why?job=train", &why)
		must.Len(t, 3, why.Decisions)
		panel, err := agent.Panel(r.ctx, "default", "train")
		must.NoError(t, err)
		must.Eq(t, list.Decisions[0].AtMS, panel.Decision.At.UnixMilli())
		none := ask(agent, "/governor/v1/decisions/"+second.ID+"00", nil)
		must.Eq(t, http.StatusNotFound, none.Code)
		must.StrNotContains(t, none.Body.String(), "does not answer")
	}

	// One that does not answer is named, and not waited for twice.
	b.down.Store(true)
	var list DecisionList
	ask(a, "/governor/v1/decisions", &list)
	must.Len(t, 2, list.Decisions)
	missing := "agent b at " + b.peers.options.Address + " does not answer: its decisions are missing"
	must.Eq(t, []string{missing}, list.Incomplete)
	a.peers.round(r.ctx)
	b.asked.Store(0)
	ask(a, "/governor/v1/decisions", &list)
	must.Eq(t, []string{missing}, list.Incomplete)
	must.Eq(t, 0, b.asked.Load())
	none := ask(a, "/governor/v1/decisions/d-00000000-1", nil)
	contains(t, none.Body.String(), missing)
}

// agentAnswer asks an agent as somebody whom the others know by the same token.
func agentAnswer(a *served, path string) *httptest.ResponseRecorder {
	w, q := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
	q.Header.Set("X-Nomad-Token", "secret")
	a.handler.ServeHTTP(w, q)
	return w
}

func TestOrdinal(t *testing.T) {
	t.Parallel()
	must.Eq(t, "11th latest ", ordinal(11))
	must.Eq(t, "21st latest 22nd latest 113th latest ", ordinal(21)+ordinal(22)+ordinal(113))
}
