package gate

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

const (
	cpuJob    = `{"ID":"cpu","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t"}]}],"Future":{"x":1.50}}`
	gpuJob    = `{"ID":"train","Type":"batch","TaskGroups":[{"Name":"g","Count":2,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}}]}],"Future":{"x":1.50}}`
	noGPUJob  = `{"ID":"train","Type":"batch","TaskGroups":[{"Name":"g","Count":1,"Tasks":[{"Name":"t"}]}]}`
	statement = "needs 4 GPUs, limit is 2\n  set at acme.hcl:12\nask for less"
)

func register(job string) string { return `{ "Job": ` + job + ` }` }

func TestGate_aJobWithoutGPUsNeverAsksTheAdmitter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.err = errLedger
	for _, path := range []string{"/v1/jobs", "/v1/job/cpu", "/v1/job/cpu/plan", "/v1/validate/job"} {
		a := r.do(t, "PUT", path, register(cpuJob))
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(path, a.body))
	}
	must.Len(t, 0, r.admitter.asked)
	for _, w := range r.nomad.writes() {
		must.EqOp(t, `{"Job":`+cpuJob+`}`, w.body)
	}
}

func TestGate_anAdmittedJobIsForwardedAsJudged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{
		Warnings: []string{"estimate: 4.00 USD\nleft: 10.00 USD"},
		Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{
			Group: "g", Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}},
		}}},
	}
	source := `"Submission":{"Source":"job \"train\" {\n  # \u003c\n}","Format":"hcl2"}`
	a := r.do(t, "POST", "/v1/jobs?namespace=ml", `{"Job":`+gpuJob+`,`+source+`}`)
	must.EqOp(t, http.StatusOK, a.status)
	var response api.JobRegisterResponse
	must.NoError(t, json.Unmarshal([]byte(a.body), &response))
	must.EqOp(t, "2 warnings:\n\n* theirs\n* estimate: 4.00 USD\n  left: 10.00 USD", response.Warnings)

	must.Len(t, 1, r.admitter.asked)
	s := r.admitter.asked[0]
	must.EqOp(t, Register, s.Kind)
	must.EqOp(t, 4, s.Ask.GPUs())
	must.EqOp(t, "ml", s.Ask.Namespace)
	must.EqOp(t, "ml", *s.Job.Namespace)
	must.EqOp(t, "global", s.Ask.Region)
	must.Nil(t, s.Stored)
	must.Eq(t, []string{NameACLDisabled}, s.Identity.Names)
	must.Eq(t, []Outcome{{Known: true, Accepted: true, JobModifyIndex: 10}}, r.admitter.settled())

	writes := r.nomad.writes()
	must.Len(t, 1, writes)
	must.EqOp(t, strings.Replace(`{"Job":`+gpuJob+`,`+source+`}`, `}]}}]}]`,
		`}]}}],"Constraints":[{"LTarget":"${node.unique.id}","RTarget":"","Operand":"is_set"}]}]`, 1), writes[0].body)
	must.EqOp(t, "namespace=ml", writes[0].query)
	must.EqOp(t, strings.TrimPrefix(r.gate.URL, "http://"), writes[0].host)
}

func TestGate_planAppliesTheSamePatchAndHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Warnings: []string{"w"}, Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{
		Group: "g", Affinities: []jobspec.Affinity{{LTarget: "${node.unique.id}", RTarget: "n", Operand: "=", Weight: 100}},
	}}}}
	a := r.do(t, "PUT", "/v1/job/train/plan", `{"Job":`+gpuJob+`,"Diff":true}`)
	must.EqOp(t, http.StatusOK, a.status)
	must.EqOp(t, `{"Diff":{"Type":"Added"},"Future":1,"JobModifyIndex":0,"Warnings":"1 warning:\n\n* w"}`, strings.TrimSpace(a.body))
	must.StrContains(t, r.nomad.writes()[0].body, `"Affinities":[{"LTarget":"${node.unique.id}","RTarget":"n","Operand":"=","Weight":100}]`)
	must.Len(t, 0, r.admitter.settled())
	must.EqOp(t, Plan, r.admitter.asked[0].Kind)
}

func TestGate_aDeniedJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Denied: true, Reason: "over_limit", Message: statement}

	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusForbidden, a.status)
	must.EqOp(t, "over_limit", a.reason)
	must.EqOp(t, "text/plain; charset=utf-8", a.header.Get("Content-Type"))
	must.EqOp(t, statement+"\n", a.body)
	must.Len(t, 0, r.nomad.writes())
	must.Len(t, 0, r.admitter.settled())

	a = r.do(t, "PUT", "/v1/job/train/plan", register(gpuJob))
	must.EqOp(t, http.StatusOK, a.status)
	must.StrContains(t, a.body, `"Warnings":"1 warning:\n\n* needs 4 GPUs, limit is 2\n    set at acme.hcl:12\n  ask for less"`)

	a = r.do(t, "PUT", "/v1/validate/job", register(gpuJob))
	must.EqOp(t, http.StatusOK, a.status)
	var v api.JobValidateResponse
	must.NoError(t, json.Unmarshal([]byte(a.body), &v))
	must.EqOp(t, api.JobValidateResponse{DriverConfigValidated: true, Error: statement}.Error, v.Error)
	must.Eq(t, []string{statement}, v.ValidationErrors)
}

func TestGate_whenTheAdmitterCannotDecide(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.err = errLedger
	for _, path := range []string{"/v1/jobs", "/v1/job/train/plan"} {
		a := r.do(t, "PUT", path, register(gpuJob))
		must.EqOp(t, http.StatusServiceUnavailable, a.status)
		must.EqOp(t, ReasonUndecided, a.reason)
		golden(t, "undecided", a.body)
	}
	must.Len(t, 0, r.nomad.writes())
	a := r.do(t, "PUT", "/v1/validate/job", register(gpuJob))
	must.EqOp(t, http.StatusOK, a.status)
	must.StrContains(t, a.body, "the ledger is not reachable")
}

func TestGate_preservedGPUsCountAsAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	body := `{"Job":` + noGPUJob + `,"PreserveResources":true,"PreserveCounts":true}`
	a := r.do(t, "PUT", "/v1/jobs", body)
	must.EqOp(t, http.StatusOK, a.status)
	must.Len(t, 1, r.admitter.asked)
	must.EqOp(t, 4, r.admitter.asked[0].Ask.GPUs())
	must.EqOp(t, `{"Job":`+noGPUJob+`,"PreserveResources":true,"PreserveCounts":true,"EnforceIndex":true,"JobModifyIndex":10}`,
		r.nomad.writes()[0].body)
}

// What is held for a job that is registered already does not cover that everything of it
// starts again, which it does once it has changed, or was purged, before it is there.
func TestGate_whatWasDecidedAsTheStoredJobIsDecidedAnewOnceThatChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	r.admitter.verdict = Verdict{AsStored: true}
	changes := 2
	r.nomad.special = func(_ http.ResponseWriter, req *http.Request) bool {
		if isWrite(req.Method) && changes > 0 {
			changes--
			r.nomad.put(t, "default", noGPUJob)
		}
		return false
	}
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	must.Eq(t, []Outcome{{Known: true}, {Known: true}, {Known: true, Accepted: true, JobModifyIndex: 40}}, r.admitter.settled())
	must.EqOp(t, 20, *r.admitter.asked[1].Stored.JobModifyIndex)
	writes := r.nomad.writes()
	must.EqOp(t, `{"Job":`+gpuJob+`,"EnforceIndex":true,"JobModifyIndex":30}`, writes[2].body)

	changes = 9
	a = r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusServiceUnavailable, a.status)
	must.EqOp(t, ReasonUndecided, a.reason)
	golden(t, "changing", a.body)
	must.Len(t, 6, r.admitter.settled())
}

func TestGate_anIndexOfTheUsersIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob) // at index 10
	r.admitter.verdict = Verdict{AsStored: true}
	a := r.do(t, "PUT", "/v1/jobs", `{"Job":`+gpuJob+`,"EnforceIndex":true,"JobModifyIndex":20}`)
	must.EqOp(t, http.StatusInternalServerError, a.status)
	must.EqOp(t, "Enforcing job modify index 20: job exists with conflicting job modify index: 10", a.body)
	must.Len(t, 0, r.nomad.writes(), must.Sprint("it may be the index of a later job"))
	r.nomad.special = func(_ http.ResponseWriter, req *http.Request) bool {
		if isWrite(req.Method) {
			r.nomad.put(t, "default", noGPUJob)
		}
		return false
	}
	a = r.do(t, "PUT", "/v1/jobs", `{"Job":`+gpuJob+`,"EnforceIndex":true,"JobModifyIndex":10}`)
	must.EqOp(t, "Enforcing job modify index 10: job exists with conflicting job modify index: 20", a.body)
	must.Eq(t, []Outcome{{Known: true}, {Known: true}}, r.admitter.settled())
}

func TestGate_aJobThatGivesUpItsGPUsIsStillAskedAbout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	a := r.do(t, "PUT", "/v1/jobs", register(noGPUJob))
	must.EqOp(t, http.StatusOK, a.status)
	must.Len(t, 1, r.admitter.asked)
	must.EqOp(t, 0, r.admitter.asked[0].Ask.GPUs())
	must.NotNil(t, r.admitter.asked[0].Stored)
}

func TestGate_findsStoredJobsOfAnyName(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"team/train", "a/plan", "a/summary", "..", "a//b", "a b?c", "x/versions"} {
		r := newRig(t)
		name, err := json.Marshal(id)
		must.NoError(t, err)
		job := strings.Replace(gpuJob, `"train"`, string(name), 1)
		r.nomad.put(t, "default", job)
		a := r.do(t, "PUT", "/v1/jobs", register(job))
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(id, a.body))
		must.Len(t, 1, r.admitter.asked)
		must.NotNil(t, r.admitter.asked[0].Stored, must.Sprint(id))
		must.EqOp(t, id, *r.admitter.asked[0].Stored.ID)
	}
}

func TestGate_anUnchangedJobKeepsItsIndex(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob) // JobModifyIndex 10, ModifyIndex 13
	r.nomad.special = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut {
			reply(w, api.JobRegisterResponse{EvalID: "e", EvalCreateIndex: 99, JobModifyIndex: 13})
			return true
		}
		return false
	}
	r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.Eq(t, []Outcome{{Known: true, Accepted: true, JobModifyIndex: 10}}, r.admitter.settled())
}

func TestGate_settlesOnceWithWhatIsKnown(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		status int
		body   string
		hang   bool
		want   Outcome
		answer int
	}{
		"a refused job":               {status: 400, body: "bad", want: Outcome{Known: true}, answer: 400},
		"forbidden":                   {status: 403, body: "Permission denied", want: Outcome{Known: true}, answer: 403},
		"failed validation":           {status: 500, body: "1 error occurred: missing driver", want: Outcome{Known: true}, answer: 500},
		"leadership lost":             {status: 500, body: "leadership lost while committing log", want: Outcome{}, answer: 500},
		"no leader":                   {status: 500, body: "No cluster leader", want: Outcome{}, answer: 500},
		"a gateway that gave up":      {status: 504, body: "x", want: Outcome{}, answer: 504},
		"success that makes no sense": {status: 200, body: "oops", want: Outcome{}, answer: 200},
		"a connection that breaks":    {hang: true, want: Outcome{}, answer: 502},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.nomad.special = func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method != http.MethodPut {
					return false
				}
				if tc.hang {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
				return true
			}
			a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
			must.EqOp(t, tc.answer, a.status)
			if !tc.hang {
				must.EqOp(t, tc.body, a.body)
			}
			must.Eq(t, []Outcome{tc.want}, r.admitter.settled())
		})
	}
}

func TestGate_aClientThatLeavesDoesNotStopTheRegistration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	r.nomad.special = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut {
			close(arrived)
			<-release
		}
		return false
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.gate.URL+"/v1/jobs", strings.NewReader(register(gpuJob)))
	must.NoError(t, err)
	ctx, leave := contextWithCancel(t)
	go func() { <-arrived; leave() }()
	_, err = transport.RoundTrip(request.WithContext(ctx)) //nolint:bodyclose // there is no response
	close(release)                                         // Nomad answers only now that nobody waits for it
	must.ErrorIs(t, err, context.Canceled)
	eventually(t, "the hold is settled", func() bool { return len(r.admitter.settled()) == 1 })
	must.Eq(t, []Outcome{{Known: true, Accepted: true, JobModifyIndex: 10}}, r.admitter.settled())
}

func TestGate_nomadDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.Close()
	for _, job := range []string{gpuJob, cpuJob} {
		a := r.do(t, "PUT", "/v1/jobs", register(job))
		must.EqOp(t, http.StatusBadGateway, a.status)
		golden(t, "unreachable", a.body)
	}
	must.EqOp(t, http.StatusBadGateway, r.do(t, "GET", "/v1/jobs", "").status)
	must.Len(t, 0, r.admitter.asked)
}

func TestGate_aPanicIsA500AndTheHoldIsSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.panics = true
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusInternalServerError, a.status)
	must.EqOp(t, ReasonInternal, a.reason)
	must.EqOp(t, http.StatusOK, r.do(t, "GET", "/v1/nodes", "").status)
}

func TestGate_aPatchThatDoesNotFitRegistersNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict.Patch = jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "elsewhere"}}}
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusServiceUnavailable, a.status)
	must.Eq(t, []Outcome{{Known: true}}, r.admitter.settled())
	must.Len(t, 0, r.nomad.writes())
}

func TestGate_badBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.BodyMax = 1000 })
	cases := map[string]struct {
		path, body string
		header     []string
		status     int
		reason     string
	}{
		"body_invalid":        {path: "/v1/jobs", body: "{\n \"Job\": x", status: 400, reason: ReasonBadRequest},
		"body_duplicate":      {path: "/v1/jobs", body: `{"Job":{"ID":"a","ID":"b"}}`, status: 400, reason: ReasonBadRequest},
		"body_case":           {path: "/v1/jobs", body: `{"Job":` + cpuJob + `,"job":` + gpuJob + `}`, status: 400, reason: ReasonBadRequest},
		"body_empty":          {path: "/v1/jobs", status: 400, reason: ReasonBadRequest},
		"body_trailing":       {path: "/v1/jobs", body: register(cpuJob) + register(gpuJob), status: 400, reason: ReasonBadRequest},
		"body_other_id":       {path: "/v1/job/other", body: register(gpuJob), status: 400, reason: ReasonBadRequest},
		"body_type":           {path: "/v1/jobs", body: `{"Job":{"ID":"a","TaskGroups":{}}}`, status: 400, reason: ReasonBadRequest},
		"body_too_large":      {path: "/v1/jobs", body: register(`"` + strings.Repeat("x", 1000) + `"`), status: 413, reason: ReasonBodyTooLarge},
		"body_gzip":           {path: "/v1/jobs", body: "x", header: []string{"Content-Encoding", "gzip"}, status: 415, reason: ReasonBodyEncoding},
		"body_dispatch_twice": {path: "/v1/job/a/dispatch", body: `{"AuthToken":"a","authtoken":"b"}`, status: 400, reason: ReasonBadRequest},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := r.do(t, "PUT", tc.path, tc.body, tc.header...)
			must.EqOp(t, tc.status, a.status)
			must.EqOp(t, tc.reason, a.reason)
			golden(t, name, a.body)
		})
	}
	must.Len(t, 0, r.nomad.writes())
}

func TestGate_aSlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.BodyTimeout = 50 * time.Millisecond })
	status := sendPart(t, r.gate.URL, "PUT /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	must.StrHasPrefix(t, "HTTP/1.1 400", status)
}

func TestGate_regionsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do(t, "PUT", "/v1/jobs?region=eu", register(gpuJob))
	must.EqOp(t, http.StatusForbidden, a.status)
	must.EqOp(t, ReasonRegionNotGoverned, a.reason)
	golden(t, "region", a.body)
	must.EqOp(t, http.StatusForbidden, r.do(t, "PUT", "/v1/jobs", `{"Job":`+gpuJob+`,"Region":"eu"}`).status)
	must.Len(t, 0, r.admitter.asked)
	must.Len(t, 0, r.nomad.writes())
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs?region=eu", register(cpuJob)).status)
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs?region=global", register(gpuJob)).status)
}

func TestGate_unknownWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do(t, "POST", "/v1/future", "{}")
	must.EqOp(t, http.StatusForbidden, a.status)
	must.EqOp(t, ReasonUnknownRoute, a.reason)
	golden(t, "unknown", a.body)
	must.EqOp(t, http.StatusOK, r.do(t, "GET", "/v1/future", "").status)
	open := newRig(t, func(c *Config) { c.AllowUnknownWrites = true })
	must.EqOp(t, http.StatusOK, open.do(t, "POST", "/v1/future", "{}").status)
}

func TestNew_refusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	_, err := New(Config{})
	must.ErrorContains(t, err, "configure gate: the address of Nomad must be a URL such as http://127.0.0.1:4646")
	_, err = NewTransport(TLS{CertFile: "x"})
	must.ErrorContains(t, err, "certificate and key must be given together")
	_, err = NewTransport(TLS{CAFile: "testdata/none"})
	must.ErrorContains(t, err, "read the certificates for Nomad: open testdata/none")
}

// Whatever the client promises of it: Nomad would start a second one, or refuse that and
// so give back what is held for the first.
func TestGate_whatStartsWorkIsSentOnce(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		r := newRig(t)
		var sent atomic.Int32
		r.nomad.special = func(w http.ResponseWriter, q *http.Request) bool {
			if q.URL.Path != "/v1/jobs" {
				return false
			}
			_, _ = io.Copy(io.Discard, q.Body)
			if sent.Add(1) == 1 {
				reply(w, struct{}{}) // so that the connection is kept
				return true
			}
			panic(http.ErrAbortHandler) // and closed without an answer
		}
		must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs", register(gpuJob)).status)
		must.Len(t, 1, r.admitter.settled())
		must.EqOp(t, http.StatusBadGateway, r.do(t, "PUT", "/v1/jobs", register(gpuJob), header, "k").status)
		must.EqOp(t, 2, sent.Load())
		must.Eq(t, Outcome{}, r.admitter.settled()[1])
	}
}

// preparing is an Admitter that wants to know early.
type preparing struct {
	*fakeAdmitter
	prepared atomic.Int32
}

func (p *preparing) Prepare() { p.prepared.Add(1) }

func TestGate_whatWillBeNeededIsBegunBeforeTheJobIsLookedUp(t *testing.T) {
	t.Parallel()
	p := &preparing{}
	r := newRig(t, func(c *Config) {
		p.fakeAdmitter = c.Admitter.(*fakeAdmitter)
		c.Admitter = p
	})
	for path, c := range map[string]struct {
		body  string
		wants int32
	}{
		"/v1/jobs":                  {register(gpuJob), 1},
		"/v1/jobs?x=no GPUs":        {register(cpuJob), 0},
		"/v1/jobs?region=elsewhere": {register(gpuJob), 0},
		"/v1/job/train/plan":        {register(gpuJob), 0},
		"/v1/validate/job":          {register(gpuJob), 0},
	} {
		p.prepared.Store(0)
		p.asked = nil
		began := time.Now()
		r.do(t, "PUT", strings.ReplaceAll(path, " ", "%20"), c.body)
		must.EqOp(t, c.wants, p.prepared.Load(), must.Sprint(path))
		for _, s := range p.asked {
			must.EqOp(t, c.wants == 1, !s.Since.IsZero(), must.Sprint(path))
			must.True(t, s.Since.IsZero() || !s.Since.Before(began))
		}
	}
}
