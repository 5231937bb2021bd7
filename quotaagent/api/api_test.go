package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake records what its routes are called with, and answers all with one error.
type fake struct {
	err     error
	applied *Upload
	author  Caller
}

func (f *fake) routes() []Route {
	say := func(text string) func(context.Context, Call) (any, error) {
		return func(context.Context, Call) (any, error) { return map[string]string{"is": text}, f.err }
	}
	return []Route{
		{Method: "GET", Path: "/governor/v1/health", Right: Anyone, Serve: say("<healthy>")},
		{Method: "GET", Path: "/governor/v1/status", Right: Read, Serve: say("status")},
		{Method: "GET", Path: "/governor/v1/budgets/{path...}", Right: Read, Serve: func(_ context.Context, c Call) (any, error) {
			return []string{c.Var("path"), c.Query("at")}, f.err
		}},
		{Method: "DELETE", Path: "/governor/v1/runs/{id}", Right: Read, Serve: say("gone")},
		{Method: "GET", Path: "/governor/v1/bug", Right: Read, Serve: func(context.Context, Call) (any, error) { return func() {}, nil }},
		{Method: "GET", Path: "/governor/v1/export", Right: Read, Serve: func(context.Context, Call) (any, error) {
			return Raw{Type: "text/csv", Write: func(w io.Writer) error {
				_, _ = io.WriteString(w, "a,b\n")
				return f.err
			}}, nil
		}},
		{Method: "PUT", Path: "/governor/v1/policy", Right: Write, BodyMax: UploadMax, Serve: func(_ context.Context, c Call) (any, error) {
			u, err := DecodeUpload(c)
			if err != nil {
				return nil, err
			}
			f.applied, f.author = &u, c.Caller
			return map[string]bool{"applied": true}, f.err
		}},
		{Method: "POST", Path: "/governor/v1/small", Right: Read, Serve: func(_ context.Context, c Call) (any, error) {
			v, err := Decode[struct{ A string }](c)
			return v, err
		}},
	}
}

const good = `{"files":[{"name":"a.hcl","content":"YQ=="}],"version":"v1","commit":"c1"}`

func authorizeTest(r *http.Request, right Right) (Caller, int, string) {
	switch token := r.Header.Get("X-Nomad-Token"); {
	case token == "":
		return Caller{}, 403, "no token"
	case right == Write && token != "writer":
		return Caller{}, 403, "may not write"
	default:
		return Caller{Accessor: token, Names: []string{"token:" + token}}, 0, ""
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		method, path, body, token string
		err                       error
		status                    int
		says, never               string
	}{
		"health needs no token":       {method: "GET", path: "/governor/v1/health", status: 200, says: `"is": "<healthy>"`},
		"status":                      {method: "GET", path: "/governor/v1/status", token: "reader", status: 200, says: `"is": "status"`},
		"a HEAD of status":            {method: "HEAD", path: "/governor/v1/status", token: "reader", status: 200},
		"a path with slashes":         {method: "GET", path: "/governor/v1/budgets/a/b%2Fc?at=now", token: "reader", status: 200, says: "\"a/b/c\",\n  \"now\""},
		"apply":                       {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, status: 200, says: `"applied": true`},
		"status without a token":      {method: "GET", path: "/governor/v1/status", status: 403, says: `"error": "no token"`},
		"apply by a reader":           {method: "PUT", path: "/governor/v1/policy", token: "reader", body: good, status: 403, says: "may not write"},
		"apply by nobody":             {method: "PUT", path: "/governor/v1/policy", body: good, status: 403},
		"an unknown path":             {method: "GET", path: "/governor/v1/stat", token: "reader", status: 404, says: "there is no GET /governor/v1/stat"},
		"the wrong method":            {method: "DELETE", path: "/governor/v1/status", token: "writer", status: 405, says: "GET"},
		"apply with POST":             {method: "POST", path: "/governor/v1/policy", token: "writer", body: good, status: 405, says: "PUT"},
		"only DELETE":                 {method: "PUT", path: "/governor/v1/runs/1", token: "writer", status: 405, says: "but DELETE"},
		"no body":                     {method: "PUT", path: "/governor/v1/policy", token: "writer", status: 400, says: "is empty"},
		"no JSON":                     {method: "PUT", path: "/governor/v1/policy", token: "writer", body: "budget {", status: 400, says: "cannot be read"},
		"an unknown field":            {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"file":[]}`, status: 400, says: `unknown field \"file\"`},
		"no files":                    {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[]}`, status: 400, says: "no files"},
		"more after the upload":       {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good + good, status: 400, says: "more follows"},
		"rubbish after the upload":    {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good + "]", status: 400, says: "cannot be read"},
		"content that is no base64":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[{"name":"a","content":"%"}]}`, status: 400, says: "cannot be read"},
		"a body that is too large":    {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"commit":"` + strings.Repeat("x", UploadMax) + `"}`, status: 413, says: "at most 1048576 bytes"},
		"a body above the usual":      {method: "POST", path: "/governor/v1/small", token: "reader", body: `{"A":"` + strings.Repeat("x", bodyMax) + `"}`, status: 413, says: "at most 65536 bytes"},
		"a commit that is too long":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: `{"files":[{"name":"a.hcl"}],"commit":"` + strings.Repeat("x", 300) + `"}`, status: 400, says: "at most 256"},
		"a problem of the caller":     {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, err: &Problem{Status: 409, Text: "plan again"}, status: 409, says: `{` + "\n" + `  "error": "plan again"`},
		"a ledger that is away":       {method: "GET", path: "/governor/v1/status", token: "reader", err: errors.New("Get http://10.0.0.1: refused"), status: 503, says: "ledger cannot be read", never: "10.0.0.1"},
		"a ledger away on an apply":   {method: "PUT", path: "/governor/v1/policy", token: "writer", body: good, err: errors.New("timeout"), status: 503, says: "may or may not"},
		"a bug":                       {method: "GET", path: "/governor/v1/bug", token: "reader", status: 500, says: "because of a bug"},
		"an answer that is not JSON":  {method: "GET", path: "/governor/v1/export", token: "reader", status: 200, says: "a,b"},
		"a job id is no path of ours": {method: "GET", path: "/governor/", token: "reader", status: 404},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{err: c.err}
			var logged error
			handler := Handler(f.routes(), authorizeTest, func(_ *http.Request, err error) { logged = err })
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
			must.Eq(t, c.status >= 500, logged != nil, must.Sprint("the log has the cause"))
			if c.method != "HEAD" && c.says != "a,b" {
				must.Eq(t, "application/json", w.Header().Get("Content-Type"))
				must.True(t, json.Valid(body))
			}
			if c.method == "PUT" && (c.status == 200 || c.status == 409) {
				must.Eq(t, Caller{Accessor: "writer", Names: []string{"token:writer"}}, f.author)
				must.Eq(t, Upload{Files: []budgetspec.File{{Name: "a.hcl", Content: []byte("a")}}, Version: "v1", Commit: "c1"}, *f.applied)
			}
			if c.status == 403 || c.status == 400 || c.status == 413 {
				must.Nil(t, f.applied)
			}
		})
	}
}

// FuzzRequests sends anything: every answer is JSON (or an export), with a
// status of ours, and nothing is applied without the right to.
func FuzzRequests(f *testing.F) {
	f.Add("PUT", "/governor/v1/policy", "writer", good)
	f.Add("PUT", "/governor/v1/policy", "reader", good)
	f.Add("GET", "/governor/v1/budgets/a/../b", "reader", "")
	f.Add("POST", "/governor/v1/small", "reader", `{"A":1}{`)
	f.Add("GET", "/governor/v1/runs/%00", "", "")
	f.Fuzz(func(t *testing.T, method, path, token, body string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(target.Path, Prefix) {
			t.Skip()
		}
		r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		if token != "" {
			r.Header.Set("X-Nomad-Token", token)
		}
		fake := &fake{}
		w := httptest.NewRecorder()
		Handler(fake.routes(), authorizeTest, func(*http.Request, error) {}).ServeHTTP(w, r)
		must.SliceContains(t, []int{200, 301, 307, 400, 403, 404, 405, 413, 500}, w.Code)
		if w.Header().Get("Content-Type") == "application/json" && method != "HEAD" {
			must.True(t, json.Valid(w.Body.Bytes()))
		}
		must.True(t, fake.applied == nil || token == "writer")
	})
}
