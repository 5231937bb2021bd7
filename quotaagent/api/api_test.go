package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a backend with one error for everything.
type fake struct {
	err     error
	applied *Upload
	author  string
}

func (f *fake) Status(context.Context) (any, error) { return map[string]string{"is": "status"}, f.err }
func (f *fake) Policy(context.Context) (any, error) { return map[string]string{"is": "policy"}, f.err }
func (f *fake) Plan(_ context.Context, files []budgetspec.File) (any, error) {
	return map[string]int{"files": len(files)}, f.err
}
func (f *fake) Apply(_ context.Context, u Upload, author string) error {
	f.applied, f.author = &u, author
	return f.err
}

const good = `{"files":[{"name":"a.hcl","content":"YQ=="}],"version":"v1","commit":"c1"}`

func TestRoutes(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		method, path, body, token string
		err                       error
		status                    int
		says, never               string
	}{
		"health needs no token":       {method: "GET", path: "/governor/v1/health", status: 200, says: `{"ok":true}`},
		"status":                      {method: "GET", path: "/governor/v1/status", token: "reader", status: 200, says: `"is": "status"`},
		"a HEAD of status":            {method: "HEAD", path: "/governor/v1/status", token: "reader", status: 200},
		"policy":                      {method: "GET", path: "/governor/v1/policy", token: "reader", status: 200, says: `"is": "policy"`},
		"plan":                        {method: "POST", path: "/governor/v1/policy/plan", token: "reader", body: good, status: 200, says: `"files": 1`},
		"apply":                       {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, status: 200, says: `"applied": true`},
		"status without a token":      {method: "GET", path: "/governor/v1/status", status: 403, says: "governor: no token"},
		"apply by a reader":           {method: "PUT", path: "/governor/v1/policy", token: "reader", body: good, status: 403, says: "may not write"},
		"apply by nobody":             {method: "PUT", path: "/governor/v1/policy", body: good, status: 403},
		"plan by nobody":              {method: "POST", path: "/governor/v1/policy/plan", body: good, status: 403},
		"an unknown path":             {method: "GET", path: "/governor/v1/stat", token: "reader", status: 404, says: "there is no GET /governor/v1/stat"},
		"the wrong method":            {method: "DELETE", path: "/governor/v1/status", token: "writer", status: 405, says: "GET"},
		"apply with POST":             {method: "POST", path: "/governor/v1/policy", token: "writer", body: good, status: 405, says: "GET, HEAD, PUT"},
		"no body":                     {method: "PUT", path: "/governor/v1/policy", token: "writer", status: 400, says: "the body is empty"},
		"no JSON":                     {method: "PUT", path: "/governor/v1/policy", token: "writer", body: "budget {", status: 400, says: "not a policy upload"},
		"an unknown field":            {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"file":[]}`, status: 400, says: `unknown field "file"`},
		"no files":                    {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[]}`, status: 400, says: "no files"},
		"more after the upload":       {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good + good, status: 400, says: "more follows"},
		"content that is no base64":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[{"name":"a","content":"%"}]}`, status: 400, says: "not a policy upload"},
		"a body that is too large":    {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"commit":"` + strings.Repeat("x", maxPolicyBytes) + `"}`, status: 413, says: "at most"},
		"a commit that is too long":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[{"name":"a.hcl"}],"commit":"` + strings.Repeat("x", 300) + `"}`, status: 400, says: "at most 256"},
		"a problem of the caller":     {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, err: &Problem{Status: 409, Text: "plan again"}, status: 409, says: "plan again"},
		"a ledger that is away":       {method: "GET", path: "/governor/v1/status", token: "reader", err: errors.New("Get http://10.0.0.1: refused"), status: 503, says: "ledger cannot be read", never: "10.0.0.1"},
		"a ledger away on an apply":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, err: errors.New("timeout"), status: 503, says: "may or may not"},
		"a job id is no path of ours": {method: "GET", path: "/governor/", token: "reader", status: 404},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{err: c.err}
			var logged error
			handler := Handler(f, func(r *http.Request, write bool) (string, int, string) {
				switch token := r.Header.Get("X-Nomad-Token"); {
				case token == "":
					return "", 403, "no token"
				case write && token != "writer":
					return "", 403, "may not write"
				default:
					return token, 0, ""
				}
			}, func(_ *http.Request, err error) { logged = err })
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			if c.token != "" {
				r.Header.Set("X-Nomad-Token", c.token)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			body, err := io.ReadAll(w.Result().Body)
			must.NoError(t, err)
			must.Eq(t, c.status, w.Code, must.Sprint(string(body)))
			must.StrContains(t, string(body)+w.Header().Get("Allow"), c.says)
			if c.never != "" {
				must.StrNotContains(t, string(body), c.never)
			}
			must.Eq(t, c.status == 503, logged != nil, must.Sprint("the log has the cause"))
			if w.Code == 200 && c.method != "HEAD" {
				must.Eq(t, "application/json", w.Header().Get("Content-Type"))
			}
			if c.method == "PUT" && (c.status == 200 || c.status == 409) {
				must.Eq(t, "writer", f.author)
				must.Eq(t, Upload{Files: []budgetspec.File{{Name: "a.hcl", Content: []byte("a")}}, Version: "v1", Commit: "c1"}, *f.applied)
			}
			if c.status == 403 || c.status == 400 || c.status == 413 {
				must.Nil(t, f.applied)
			}
		})
	}
}
