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

	"github.com/nomad-governor/governor/internal/gpu"
)

// writeRequest is what Nomad's own requests embed (nomad/structs/structs.go); those
// of dispatch and revert are read into it from the body.
type writeRequest struct{ Region, Namespace, AuthToken, IdempotencyToken string }

// nomadDispatch and nomadRevert are Nomad's JobDispatchRequest and JobRevertRequest.
type nomadDispatch struct {
	JobID   string
	Payload []byte
	Meta    map[string]string
	writeRequest
	Priority int
}

type nomadRevert struct {
	JobID               string
	JobVersion          uint64
	EnforcePriorVersion *uint64
	writeRequest
}

// bodyNomad reads what the gate sends as Nomad does, with its own types.
type bodyNomad struct {
	t    *testing.T
	mux  *nomadMux
	told []*http.Request // what changed or planned something
	raw  []byte          // the last body of those
	self []string        // tokens that the gate asked about
}

func (n *bodyNomad) RoundTrip(r *http.Request) (*http.Response, error) {
	var wire bytes.Buffer
	must.NoError(n.t, r.Write(&wire))
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	must.NoError(n.t, err)
	w := httptest.NewRecorder()
	d := n.mux.serve(w, got)
	handler, _ := nomadHandler(got.URL.Path)
	switch {
	case d.effect > writes:
		n.told = append(n.told, got)
		n.raw, err = io.ReadAll(got.Body)
		must.NoError(n.t, err)
		_, _ = io.WriteString(w, `{"JobModifyIndex":9,"DispatchedJobID":"train/dispatch-1"}`)
	case got.URL.Path == "/v1/acl/token/self":
		n.self = append(n.self, got.Header.Get(tokenHeader))
		reply(w, api.ACLToken{AccessorID: "acc", Type: "client"})
	case handler == "/versions":
		_, _ = io.WriteString(w, `{"Versions":[`+storedVersion(1)+`,`+storedVersion(0)+`]}`)
	case strings.HasPrefix(got.URL.Path, "/v1/job/train"):
		_, _ = io.WriteString(w, storedVersion(1))
	default:
		http.NotFound(w, got)
	}
	return w.Result(), nil
}

// storedVersion is the job that scale, dispatch and revert are about.
func storedVersion(n int) string {
	return strings.Replace(gpuTemplate, `{"ID":"tune"`, `{"ID":"train","JobModifyIndex":7,"Version":`+string(rune('0'+n))+`,"Meta":{"version":"`+string(rune('0'+n))+`"}`, 1)
}

// read is decodeBody of Nomad: the first JSON value, whatever follows.
func (n *bodyNomad) read(into any) {
	must.NoError(n.t, json.NewDecoder(bytes.NewReader(n.raw)).Decode(into), must.Sprint(string(n.raw)))
}

// token is parseToken of Nomad.
func (n *bodyNomad) token(inBody string) string {
	if t := n.told[0].Header.Get(tokenHeader); t != "" {
		return strings.TrimSpace(t)
	}
	must.EqOp(n.t, "", n.told[0].Header.Get("Authorization"))
	return inBody
}

var bodyPaths = []string{"/v1/jobs", "/v1/job/train/plan", "/v1/validate/job", "/v1/job/train/scale", "/v1/job/train/dispatch", "/v1/job/train/revert", "/v1/job/train/stable"}

func addBodies(f *testing.F) {
	inner := strings.TrimSuffix(strings.TrimPrefix(gpuJob, "{"), "}")
	for _, b := range []string{
		register(gpuJob), register(noGPUJob), register(cpuJob), `{"Job":{` + inner + `,"id":"x"}}`, `{"Job":` + noGPUJob + `,"job":` + gpuJob + `}`,
		`{"job":` + gpuJob + `}`, `{"JOB":{"iD":"train","taskgroups":[{"name":"g","TASKS":[{"name":"t","resources":{"devices":[{"name":"gpu"}]}}]}]}}`,
		`{"Job":{"ID":"train","TaskGroup` + "\u017f" + `":[{"Ta` + "\u017f" + `k` + "\u017f" + `":[{"Name":"t","Re` + "\u017f" + `ources":{"Devices":[{"Name":"gpu"}]}}]}]}}`,
		`{"Job":` + noGPUJob + `} {"Job":` + gpuJob + `}`, `{"Job":` + noGPUJob + `,"Job":` + gpuJob + `}`, `{"Job":{` + inner + `},"\u004aob":null}`,
		`{"Job":` + gpuJob + `,"Namespace":"ml","Region":"global","SecretID":"s3","secretid":"s4"}`, `{"Job":` + gpuJob + `,"SECRETID":"s3","namespace":"ml"}`,
		`{"Job":` + gpuJob + `,"PreserveCounts":true,"EnforceIndex":true,"JobModifyIndex":7}`, `{"Job":` + gpuJob + `,"WriteRequest":{"Region":"x"}}`,
		`{"Job":{"ID":"train","Namespace":"a","Region":"global","Multiregion":{"Regions":[{"Name":"global"}]},"TaskGroups":[{"Name":"g","Count":1e1}]}}`,
		`{"Job":{"ID":"train","TaskGroups":[{"Tasks":[{"KillTimeout":"1s","Config":{"a":{"A":1,"a":2}},"Env":{"X":"","x":""}}]}]}}`,
		`{"Count":3,"Target":{"Group":"g"}}`, `{"count":3,"target":{"Group":"g","group":"h"},"JobModifyIndex":7,"AuthToken":"x"}`, `{"Count":-1,"Count":3}`,
		`{"Meta":{"k":"v","K":"w"},"Priority":70,"AuthToken":"s5","Namespace":"ml","Payload":"aGk="}`, `{"JobID":"train","JobVersion":0,"AuthToken":"s6"}`,
		`{"Job":` + gpuJob + `,"SecretID":"\b"}`, `{"JobID":"train","JobVersion":0,"AuthToken":"a\r\nX-Nomad-Token: b"}`,
		`{"jobid":"train","jobversion":0,"EnforcePriorVersion":1,"Region":"global"}`, `{"JobID":"train","JobVersion":0}x`, "\ufeff{}", `null`, `[]`, `{`, "",
	} {
		for i := range bodyPaths {
			f.Add(uint8(i), "", "", []byte(b))
			f.Add(uint8(i), "namespace=ml&region=global", "s1", []byte(b))
		}
	}
}

// What Nomad reads from the bytes that the gate forwards is what was judged: the
// same job, in the same namespace and region, for the same token.
func FuzzBody(f *testing.F) {
	addBodies(f)
	mux := newNomadMux()
	f.Fuzz(func(t *testing.T, path uint8, query, token string, body []byte) {
		r, ok := request("PUT", bodyPaths[int(path)%len(bodyPaths)]+"?"+query, string(body))
		if !ok || checkToken(token) != nil {
			return
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		behind, admitter := &bodyNomad{t: t, mux: mux}, &fakeAdmitter{}
		g, err := New(Config{Nomad: &url.URL{Scheme: "http", Host: "nomad:4646"}, Transport: behind, Region: "global", Admitter: admitter})
		must.NoError(t, err)
		kind := Classify(r.Method, r.URL.Path).Kind
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		must.NotEq(t, http.StatusInternalServerError, w.Code, must.Sprint(w.Body.String()))
		if len(behind.told) == 0 {
			return
		}
		must.Len(t, 1, behind.told)
		if kind.governed() {
			sameJob(t, behind, admitter, kind)
		} else {
			sameChange(t, behind, admitter, kind)
		}
	})
}

// sameJob compares a registration, a plan or a validation.
func sameJob(t *testing.T, n *bodyNomad, admitter *fakeAdmitter, kind RouteKind) {
	var theirs api.JobRegisterRequest // the others have a part of its fields
	n.read(&theirs)
	must.NotNil(t, theirs.Job)
	theirs.Job.Canonicalize()
	if len(admitter.asked) == 0 {
		if theirs.PreserveResources || n.other(theirs, kind) {
			return // of another region: not decided here
		}
		for _, g := range theirs.Job.TaskGroups {
			for _, task := range g.Tasks {
				for _, d := range task.Resources.Devices {
					must.False(t, gpu.AskedFor(d.Name), must.Sprint(string(n.raw)))
				}
			}
		}
		return
	}
	judged := admitter.asked[0]
	namespace, region := n.scope(theirs, kind)
	must.EqOp(t, namespace, judged.Ask.Namespace)
	must.EqOp(t, region, judged.Ask.Region)
	secret := theirs.SecretID
	if kind == RouteValidate {
		secret = ""
	}
	must.EqOp(t, n.token(secret), n.self[0])
	must.EqOp(t, theirs.PolicyOverride, judged.PolicyOverride)
	if theirs.PreserveCounts || theirs.PreserveResources {
		must.True(t, theirs.EnforceIndex)
		return // the judged job is the effective one: see TestEffective
	}
	theirs.Job.Namespace, theirs.Job.Region = &namespace, &region
	must.EqOp(t, encoded(t, theirs.Job), encoded(t, judged.Job))
}

// scope is namespaceForJob and regionForJob of Nomad (command/agent/job_endpoint.go).
func (n *bodyNomad) scope(r api.JobRegisterRequest, kind RouteKind) (namespace, region string) {
	query := n.told[0].URL.Query()
	if kind == RouteValidate {
		return firstOf(value(r.Job.Namespace), "default"), firstOf(query.Get("region"), r.Region, "global")
	}
	namespace = firstOf(query.Get("namespace"), r.Namespace, value(r.Job.Namespace), "default")
	region = firstOf(r.Region, query.Get("region"), value(r.Job.Region), "global")
	if m := r.Job.Multiregion; m != nil && len(m.Regions) > 0 {
		for _, other := range m.Regions {
			if other != nil && other.Name == region {
				return namespace, region
			}
		}
		region = m.Regions[0].Name
	}
	return namespace, region
}

func (n *bodyNomad) other(r api.JobRegisterRequest, kind RouteKind) bool {
	_, region := n.scope(r, kind)
	return region != "global"
}

// sameChange compares a scale, a dispatch or a revert of the stored job.
func sameChange(t *testing.T, n *bodyNomad, admitter *fakeAdmitter, kind RouteKind) {
	var judged *Submission
	if len(admitter.asked) > 0 {
		judged = &admitter.asked[0]
	}
	query := n.told[0].URL.Query()
	switch kind {
	case RouteScale:
		var theirs api.ScalingRequest
		n.read(&theirs)
		if theirs.Count == nil || *theirs.Count < 0 || *theirs.Count > countMax || theirs.Target["Group"] != "g" {
			return
		}
		must.NotNil(t, judged)
		must.EqOp(t, int(*theirs.Count), *judged.Job.TaskGroups[0].Count)
		must.EqOp(t, 7, theirs.JobModifyIndex)
		must.EqOp(t, firstOf(query.Get("namespace"), "default"), judged.Ask.Namespace)
		must.EqOp(t, n.token(""), n.self[0])
	case RouteDispatch:
		var theirs nomadDispatch
		n.read(&theirs)
		must.NotNil(t, judged)
		if theirs.Priority != 0 {
			must.EqOp(t, theirs.Priority, *judged.Job.Priority)
		}
		for k, v := range theirs.Meta {
			must.EqOp(t, v, judged.Job.Meta[k])
		}
		must.EqOp(t, firstOf(query.Get("idempotency_token"), theirs.IdempotencyToken), judged.LaunchToken)
		must.EqOp(t, firstOf(query.Get("namespace"), theirs.Namespace, "default"), judged.Ask.Namespace)
		must.EqOp(t, n.token(theirs.AuthToken), n.self[0])
	case RouteRevert:
		var theirs nomadRevert
		n.read(&theirs)
		if theirs.JobID != "train" || theirs.JobVersion != 0 || (theirs.EnforcePriorVersion != nil && *theirs.EnforcePriorVersion != 1) {
			return // Nomad refuses it, or changes nothing
		}
		must.NotNil(t, judged)
		must.EqOp(t, "0", judged.Job.Meta["version"])
		must.EqOp(t, firstOf(query.Get("namespace"), theirs.Namespace, "default"), judged.Ask.Namespace)
		must.EqOp(t, n.token(theirs.AuthToken), n.self[0])
	case RouteStable:
		var theirs nomadRevert
		n.read(&theirs)
		must.False(t, theirs.JobID == "train" && theirs.JobVersion < 2, must.Sprint(string(n.raw)))
	default:
		t.Fatal(kind)
	}
}

func encoded(t *testing.T, job *api.Job) string {
	raw, err := json.Marshal(job)
	must.NoError(t, err)
	return string(raw)
}
