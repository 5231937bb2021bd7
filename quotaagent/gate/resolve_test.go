package gate

import (
	"net/http"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func TestResolveToken_inNomadsOrder(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		header http.Header
		body   string
		want   string
	}{
		"nothing":                        {},
		"the body":                       {body: "b", want: "b"},
		"a bearer token before the body": {header: http.Header{"Authorization": {"Bearer a"}}, body: "b", want: "a"},
		"the header before all": {
			header: http.Header{"X-Nomad-Token": {" h "}, "Authorization": {"Bearer a"}}, body: "b", want: "h",
		},
		"the first header counts":                 {header: http.Header{"X-Nomad-Token": {"h", "i"}}, want: "h"},
		"an empty header is none":                 {header: http.Header{"X-Nomad-Token": {""}}, body: "b", want: "b"},
		"a header of spaces is an empty token":    {header: http.Header{"X-Nomad-Token": {" "}}, body: "b"},
		"the scheme in any case":                  {header: http.Header{"Authorization": {"bEARER a"}}, want: "a"},
		"only the first word of a bearer token":   {header: http.Header{"Authorization": {"Bearer  a b"}}, want: "a"},
		"another scheme is ignored":               {header: http.Header{"Authorization": {"Basic a"}}, body: "b", want: "b"},
		"a scheme without a value is ignored":     {header: http.Header{"Authorization": {"Bearer"}}, body: "b", want: "b"},
		"an empty bearer token beats the body":    {header: http.Header{"Authorization": {"Bearer "}}, body: "b"},
		"a value without a scheme is not a token": {header: http.Header{"Authorization": {"abc"}}, want: ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.EqOp(t, tc.want, resolveToken(tc.header, tc.body))
		})
	}
}

func TestScopes_followNomad(t *testing.T) {
	t.Parallel()
	multi := &api.Multiregion{Regions: []*api.MultiregionRegion{{Name: "eu"}, {Name: "us"}}}
	cases := map[string]struct {
		query    scope
		body     api.WriteRequest
		ns, reg  string
		multi    *api.Multiregion
		register scope
		validate scope
		write    scope
	}{
		"defaults": {
			register: scope{"default", "own"}, validate: scope{"default", "own"}, write: scope{"default", "own"},
		},
		"the job's own": {
			ns: "j", reg: "rj", register: scope{"j", "rj"}, validate: scope{"j", "own"}, write: scope{"default", "own"},
		},
		"the body before the job": {
			body: api.WriteRequest{Namespace: "b", Region: "rb"}, ns: "j", reg: "rj",
			register: scope{"b", "rb"}, validate: scope{"j", "rb"}, write: scope{"b", "rb"},
		},
		"the query before the job": {
			query: scope{"q", "rq"}, ns: "j", reg: "rj",
			register: scope{"q", "rq"}, validate: scope{"j", "rq"}, write: scope{"q", "rq"},
		},
		"query and body: the query's namespace but, to register, the body's region": {
			query: scope{"q", "rq"}, body: api.WriteRequest{Namespace: "b", Region: "rb"},
			register: scope{"q", "rb"}, validate: scope{"default", "rq"}, write: scope{"q", "rq"},
		},
		"the global region is the agent's, to register": {
			query: scope{"", "global"}, register: scope{"default", "own"}, validate: scope{"default", "global"},
			write: scope{"default", "global"},
		},
		"a job of several regions goes to its first": {
			multi: multi, register: scope{"default", "eu"}, validate: scope{"default", "own"}, write: scope{"default", "own"},
		},
		"or to the one that was asked for": {
			multi: multi, query: scope{"", "us"}, register: scope{"default", "us"}, validate: scope{"default", "us"},
			write: scope{"default", "us"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := &api.Job{Multiregion: tc.multi}
			if tc.ns != "" {
				job.Namespace, job.Region = &tc.ns, &tc.reg
			}
			must.EqOp(t, tc.register, registerScope(job, tc.query, tc.body, "own"))
			must.EqOp(t, tc.validate, validateScope(job, tc.query, tc.body, "own"))
			must.EqOp(t, tc.write, writeScope(tc.query, scope{tc.body.Namespace, tc.body.Region}, "own"))
		})
	}
}

func TestMergeWarnings(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		theirs string
		ours   []string
		want   string
	}{
		"nothing of ours leaves theirs":  {"1 warning:\n\n* x", []string{"", " "}, "1 warning:\n\n* x"},
		"ours alone":                     {"", []string{"a"}, "1 warning:\n\n* a"},
		"two of ours":                    {"", []string{"a", "b"}, "2 warnings:\n\n* a\n* b"},
		"several lines are indented":     {"", []string{"a\nb\n"}, "1 warning:\n\n* a\n  b"},
		"added to one of Nomad's":        {"1 warning:\n\n* x", []string{"a"}, "2 warnings:\n\n* x\n* a"},
		"added to several of Nomad's":    {"2 warnings:\n\n* x\n* y", []string{"a", "b"}, "4 warnings:\n\n* x\n* y\n* a\n* b"},
		"text in another form is a line": {"beware", []string{"a"}, "2 warnings:\n\n* beware\n* a"},
		"a count that is none":           {"99999999999999999999 warnings:\n\n* x", []string{"a"}, "2 warnings:\n\n* 99999999999999999999 warnings:\n\n* x\n* a"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.EqOp(t, tc.want, mergeWarnings(tc.theirs, tc.ours))
		})
	}
}

func TestEscapeID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"web": "web", "a/b": "a%2Fb", "a b%": "a%20b%25", ".": "%2E", "..": "%2E%2E", "../x": "..%2Fx", "a?b#c": "a%3Fb%23c", "a//": "a%2F%2F",
	} {
		must.EqOp(t, want, escapeID(id))
	}
}

func TestGate_aTokenThatNoHeaderCarriesIsRefused(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]string{
		"/v1/jobs": `{"Job":` + gpuJob + `,"SecretID":"a\nb"}`, "/v1/job/train/dispatch": `{"AuthToken":"\u0000"}`,
	} {
		r := newRig(t)
		a := r.do(t, "PUT", path, body)
		must.EqOp(t, http.StatusBadRequest, a.status)
		must.StrContains(t, a.body, "no token of Nomad has")
		must.Len(t, 0, r.nomad.seen)
	}
}
