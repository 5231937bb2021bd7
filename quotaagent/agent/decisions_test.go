package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
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
	must.SliceEmpty(t, fits.Others)
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
		"/governor/v1/jobs/decision?job=none":                      {404, `agent test remembers no decision about job \"none\" in namespace \"default\"`},
		about + "&n=3":                                             {404, "no 3rd latest decision about"},
		about + "&n=0":                                             {400, `n is \"0\"; it must be a number from 1, for the latest decision, to 10000`},
		about + "&at=2020":                                         {404, "made until 2020-12-31T23:59:59Z"},
		about + "&at=noon":                                         {400, `at is \"noon\"; it must be a day`},
		"/governor/v1/decisions/train":                             {400, `\"train\" is not the ID of a decision, such as d-3f9c1a0b-812`},
		"/governor/v1/decisions/" + refused.ID + "00":              {404, "it is another agent's, or older than the last 100000 that are kept"},
		"/governor/v1/decisions?job=train&limit=1&at=2020&limit=1": {200, "[]"},
	} {
		answer := get(r.Agent, path)
		must.Eq(t, want.status, answer.Code, must.Sprint(path))
		contains(t, answer.Body.String(), want.text)
	}
}

// Each agent keeps its own decisions, and names the others.
func TestAnAgentNamesThoseThatKeepOtherDecisions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	r.peers.known = map[string]*peer{"b": {replica: replica{Name: "gov-3", Address: "http://10.0.0.3:4640"}}, "a": {replica: replica{Name: "gov-2", Address: "http://10.0.0.2:4640"}}}
	answer := get(r.Agent, "/governor/v1/jobs/decision?job=train")
	must.Eq(t, http.StatusNotFound, answer.Code)
	contains(t, answer.Body.String(), "Each agent keeps its own decisions: ask the others with -address: gov-2 at http://10.0.0.2:4640, gov-3 at http://10.0.0.3:4640")
	must.Eq(t, "11th latest ", ordinal(11))
	must.Eq(t, "21st latest 22nd latest 113th latest ", ordinal(21)+ordinal(22)+ordinal(113))
}
