package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// goStage sets a test up as scripts are.
type goStage struct{ t *testing.T }

func (s goStage) Check(err error)                 { must.NoError(s.t, err) }
func (s goStage) Defer(f func())                  { s.t.Cleanup(f) }
func (s goStage) Logf(format string, args ...any) { s.t.Logf(format, args...) }

func (s goStage) ReadFile(name string) string {
	content, err := os.ReadFile(name)
	must.NoError(s.t, err)
	return string(content)
}

// browse is a client that keeps cookies, and signs in with a token unless that is "".
func browse(t *testing.T, address, token string) func(path string) (status int, text string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must.NoError(t, err)
	client := &http.Client{Jar: jar}
	t.Cleanup(client.CloseIdleConnections)
	if token != "" {
		answer, err := client.PostForm(address+"/governor/sign-in", url.Values{"token": {token}})
		must.NoError(t, err)
		must.NoError(t, answer.Body.Close())
		must.EqOp(t, http.StatusOK, answer.StatusCode)
	}
	return func(path string) (int, string) {
		answer, err := client.Get(address + path)
		must.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		must.NoError(t, err)
		return answer.StatusCode, string(body)
	}
}

// applyBudgets applies the example budgets.
func applyBudgets(t *testing.T, address string) {
	t.Helper()
	env := environment{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard, getenv: func(name string) string {
		return map[string]string{"GOVERNOR_ADDR": address, "NOMAD_TOKEN": "root"}[name]
	}}
	must.EqOp(t, 0, applyCommand(env).run([]string{"-auto-approve", "../../hcl/examples"}))
}

func TestPagesOfARealAgent(t *testing.T) {
	t.Parallel()
	address := startAgent(t, goStage{t}, "-gpus")
	applyBudgets(t, address)
	root := browse(t, address, "root")
	for path, wants := range map[string][]string{
		"/governor":                            {"Overview"},
		"/governor/":                           {"Overview", "GPUs free", "acme"},
		"/governor/budgets":                    {"acme/research", "12,000.00", "budgets.hcl:71"},
		"/governor/budgets/acme/research":      {"Settings that apply", "limit month cost", "Burn-down"},
		"/governor/jobs":                       {"No jobs"},
		"/governor/topology":                   {"Tesla V100-SXM2-16GB", "of 8 free", "Best free"},
		"/governor/policy":                     {"budgets.hcl", "11111111-root", "Revisions"},
		"/governor/policy/files/budgets.hcl":   {`budget &#34;research&#34;`},
		"/governor/audit":                      {"policy.applied"},
		"/governor/decisions":                  {"No decisions"},
		"/governor/v1/usage?by=day&format=csv": {"day,"},
	} {
		status, text := root(path)
		must.EqOp(t, http.StatusOK, status, must.Sprint(path))
		for _, want := range wants {
			must.StrContains(t, text, want, must.Sprint(path))
		}
	}
	status, text := root("/governor/none")
	must.EqOp(t, http.StatusNotFound, status)
	must.StrContains(t, text, "<h1>Not Found</h1>")

	nobody := browse(t, address, "")
	_, text = nobody("/governor/budgets")
	must.StrContains(t, text, "<h1>Sign in</h1>")
	status, _ = nobody("/governor/v1/status")
	must.EqOp(t, http.StatusForbidden, status)
}

func TestPagesShowOnlyWhatATokenReads(t *testing.T) {
	t.Parallel()
	address := startAgent(t, goStage{t}, "-known-jobs")
	applyBudgets(t, address)
	_, text := browse(t, address, "root")("/governor/jobs")
	must.StrContains(t, text, "team/eval")
	must.StrContains(t, text, "train")
	user := browse(t, address, "user")
	_, text = user("/governor/jobs")
	must.StrContains(t, text, "train")
	must.StrNotContains(t, text, "team/eval")
	status, text := user("/governor/jobs/research/train")
	must.EqOp(t, http.StatusOK, status)
	for _, want := range []string{"Cost so far", "7.25", "2 x h100", "acme/research", "Limits on the way to the root"} {
		must.StrContains(t, text, want)
	}
	status, _ = user("/governor/jobs/default/team%2Feval")
	must.EqOp(t, http.StatusNotFound, status)
	status, text = browse(t, address, "root")("/governor/jobs/default/team%2Feval")
	must.EqOp(t, http.StatusOK, status)
	must.StrContains(t, text, "admitted")
	_, text = user("/governor/audit")
	must.StrContains(t, text, "needs a Nomad management token")
}

func TestPagesShowTheQueueAndReceipts(t *testing.T) {
	t.Parallel()
	address := startAgent(t, goStage{t}, "-queue")
	applyBudgets(t, address)
	root := browse(t, address, "root")
	_, text := root("/governor/jobs?state=waiting")
	must.StrContains(t, text, "1–3 of 3 jobs")
	_, text = root("/governor/jobs/research/train")
	must.StrContains(t, text, "Position")
	must.StrContains(t, text, "Expected to start")

	address = startAgent(t, goStage{t}, "-usage")
	applyBudgets(t, address)
	_, text = browse(t, address, "root")("/governor/jobs?state=ended")
	must.StrContains(t, text, "settled")
	_, text = browse(t, address, "root")("/governor/jobs/research/train")
	must.StrContains(t, text, "Receipts")
	must.StrContains(t, text, "139.20")
	_, text = browse(t, address, "root")("/governor/budgets/acme/research")
	must.StrContains(t, strings.ReplaceAll(text, "\n", ""), `<th scope="row">2026-03-09</th>`)
}
