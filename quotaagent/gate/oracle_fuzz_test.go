package gate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// vectors are ways to write a path; <> is replaced by each route that starts work.
var vectors = []string{
	"/v1/jobs<>", "/v1/job/train<>", "/v1/job/team%2Ftrain<>", "/v1/job/team/train<>", "/v1/job/a%2fplan<>", "/v1/job/plan<>", "/v1/job/<>",
	"/v1/job//<>", "/v1/job/x/dispatch<>", "/%76%31/jobs<>", "/v1/%6a%6f%62/train<>", "/v1%2Fjobs<>", "/v1/job%2Ftrain<>", "//v1/jobs<>",
	"/v1//jobs<>", "/v1/./job/train<>", "/v1/x/../jobs<>", "/v1/x/%2e%2e/jobs<>", "/ui/../v1/jobs<>", "/v1/job/..%2Fjobs<>", "/v1/job/train<>/",
	"/v1/job/train<>%2F", "/v1/job/train<>?a=b;c", "/v1/job/train<>?namespace=x&region=y", "http://nomad/v1/job/train<>", "http://other:1/v1/jobs<>",
	"x:/v1/jobs<>", "/v1/job/train%00<>", "/v1/job/tr%C3%A9<>", "/v1/job/train%20<>", "/v1/job/train<>#f", "/V1/JOBS<>", "/v1/job/train;x<>", "/v1/job/train%3Fx<>",
	"/v1/job/%2e<>", "/v1/job/..<>",
}

var workSuffixes = []string{
	"", "/plan", "/scale", "/dispatch", "/dispatch/payload", "/periodic/force", "/revert", "/evaluate", "/stable", "/versions/v/tag", "/tag", "/%70lan",
	"%2Fscale", "/dispatch%2Fpayload", "/periodic%2fforce", "/summary", "/action",
}

var methods = []string{"PUT", "POST", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "CONNECT", "put"}

// everyRequest is each vector, and each route of Nomad, in all its spellings.
func everyRequest(do func(target string)) {
	for _, v := range vectors {
		for _, s := range workSuffixes {
			do(strings.Replace(v, "<>", s, 1))
		}
	}
	for pattern := range nomadRoutes {
		path := strings.TrimPrefix(pattern, "GET ")
		do(path)
		do(path + "x")
		do(path + "x/y")
	}
	for _, path := range []string{"/v1/client/allocation/a/restart", "/v1/client/allocation/a/gc", "/v1/client/allocation/a/exec", "/v1/client/allocation/a/pause",
		"/v1/client/allocation/a/stats", "/v1/client/allocation/a/b/gc", "/v1/allocation/a/stop", "/v1/allocation/a/checks", "/v1/deployment/promote/d",
		"/v1/deployment/fail/d", "/v1/node/n/drain", "/v1/node/n/eligibility", "/v1/node/n/purge", "/v1/agent/keyring/use", "/v1/agent/keyring/list",
		"/v1/operator/raft/peer", "/v1/operator/keyring/rotate", "/v1/validate/job/", "/v1/jobs/", "/v1/job", "*", "/"} {
		do(path)
	}
}

// addRequests seeds a fuzz test.
func addRequests(f *testing.F) {
	everyRequest(func(target string) { f.Add("PUT", target) })
	for _, method := range methods {
		f.Add(method, "/v1/job/train")
	}
}

// request is what a server makes of a request line, and false for what it refuses
// before any handler.
func request(method, target, body string) (*http.Request, bool) {
	head := method + " " + target + " HTTP/1.1\r\nHost: nomad:4646\r\n\r\n"
	if strings.ContainsAny(method+target, "\r\n") {
		return nil, false
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		return nil, false
	}
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	return r, true
}

// What Nomad does with a request is what the gate takes it for.
func FuzzClassify(f *testing.F) {
	addRequests(f)
	nomad := newNomadMux()
	f.Fuzz(func(t *testing.T, method, target string) { isTakenForWhatItDoes(t, nomad, method, target) })
}

func TestClassify_takesEveryRequestForWhatNomadDoes(t *testing.T) {
	t.Parallel()
	nomad := newNomadMux()
	for _, method := range methods {
		everyRequest(func(target string) { isTakenForWhatItDoes(t, nomad, method, target) })
	}
}

func isTakenForWhatItDoes(t *testing.T, nomad *nomadMux, method, target string) {
	r, ok := request(method, target, "")
	if !ok || r.Method == http.MethodConnect || r.URL.Opaque != "" { // the gate answers these itself
		return
	}
	theirs, ours := nomad.serve(httptest.NewRecorder(), r), Classify(r.Method, r.URL.Path)
	switch theirs.effect {
	case nothing: // whatever the gate does, it does no harm
	case reads:
		must.True(t, ours.Kind == RouteRead || ours.Kind == RouteOutside, must.Sprint(method, target, ours.Kind))
	case writes:
		must.EqOp(t, RouteWrite, ours.Kind, must.Sprint(method, target))
	case registers, plans, validates, scales, dispatches, dispatchesPayload, forces, reverts, marksStable:
		must.EqOp(t, kinds[theirs.effect], ours.Kind, must.Sprint(method, target))
	}
	if strings.HasPrefix(r.URL.Path, "/v1/job/") && theirs.effect != nothing {
		must.EqOp(t, theirs.jobID, ours.JobID, must.Sprint(method, target))
	}
}

// oracleNomad is a Nomad in which every job exists, wants GPUs, and can be scaled,
// dispatched, forced and reverted. It reads requests from the bytes that the gate
// writes.
type oracleNomad struct {
	nomad *nomadMux
	job   string
	did   []did
	seen  []*http.Request
}

func (o *oracleNomad) RoundTrip(r *http.Request) (*http.Response, error) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		return nil, err
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	d := o.nomad.serve(w, got)
	o.did, o.seen = append(o.did, d), append(o.seen, got)
	handler, _ := nomadHandler(got.URL.Path)
	switch {
	case got.URL.Path == "/v1/acl/token/self":
		reply(w, api.ACLToken{AccessorID: "acls-disabled", Type: "client"})
	case d.effect == reads && strings.HasPrefix(got.URL.Path, "/v1/job/") && handler == "/versions":
		_, _ = io.WriteString(w, `{"Versions":[`+o.version(1)+`,`+o.version(0)+`]}`)
	case d.effect == reads && strings.HasPrefix(got.URL.Path, "/v1/job/") && handler == "":
		_, _ = io.WriteString(w, o.version(1))
	}
	return w.Result(), nil
}

func (o *oracleNomad) version(n int) string {
	return strings.Replace(o.job, "{", `{"Version":`+string(rune('0'+n))+`,"JobModifyIndex":7,`, 1)
}

// allKinds is a job that can be dispatched and forced. No Nomad accepts one, but so
// no route has an excuse.
const allKinds = `{"ID":%s,"Type":"batch","ParameterizedJob":{"Payload":"optional"},"Periodic":{"Enabled":true,"Spec":"0 3 * * *","SpecType":"cron"},` +
	`"TaskGroups":[{"Name":"g","Count":2,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}}]}]}`

// A client that is denied everything starts nothing, however it writes its request;
// and what the gate does not decide about reaches Nomad as it was sent.
func FuzzNoWayAround(f *testing.F) {
	addRequests(f)
	nomad := newNomadMux()
	f.Fuzz(func(t *testing.T, method, target string) { startsNothing(t, nomad, method, target) })
}

func TestGate_noSpellingOfARequestIsAWayAround(t *testing.T) {
	t.Parallel()
	nomad := newNomadMux()
	for _, method := range methods {
		everyRequest(func(target string) { startsNothing(t, nomad, method, target) })
	}
}

func startsNothing(t *testing.T, nomad *nomadMux, method, target string) {
	id := ""
	if r, ok := request(method, target, ""); ok && strings.Contains(target, "/job") {
		_, id = nomadHandler(r.URL.Path)
	}
	id = firstOf(id, "train")
	named, err := json.Marshal(id)
	must.NoError(t, err)
	job := strings.Replace(allKinds, "%s", string(named), 1)
	r, ok := request(method, target, `{"Job":`+job+`,"JobID":`+string(named)+`,"JobVersion":0,"Count":9,"Target":{"Group":"g"}}`)
	if !ok {
		return
	}
	behind := &oracleNomad{nomad: nomad, job: job}
	g, err := New(Config{Nomad: &url.URL{Scheme: "http", Host: "nomad:4646"}, Transport: behind, Region: "global",
		Admitter: &fakeAdmitter{verdict: Verdict{Denied: true, Reason: "exceeds_budget", Message: "no"}}})
	must.NoError(t, err)
	route, path, query, host := Classify(r.Method, r.URL.Path), r.URL.EscapedPath(), r.URL.RawQuery, r.Host
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	for _, d := range behind.did {
		must.False(t, d.effect.starts(), must.Sprint(method, target, d, route.Kind))
	}
	must.NotEq(t, http.StatusInternalServerError, w.Code)
	passes := route.Kind == RouteOutside || route.Kind == RouteRead || route.Kind == RouteWrite
	if passes && w.Code == http.StatusOK && len(behind.seen) > 0 {
		got := behind.seen[len(behind.seen)-1]
		must.EqOp(t, method, got.Method)
		must.EqOp(t, query, got.URL.RawQuery)
		must.EqOp(t, path, got.URL.EscapedPath())
		must.EqOp(t, host, got.Host)
	}
}
