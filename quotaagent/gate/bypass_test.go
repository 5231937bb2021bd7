package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// dial opens a connection to the gate, for requests that no client of the
// standard library sends.
func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.gate.URL, "http://"))
	must.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

func answerOn(t *testing.T, c net.Conn) got {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	must.NoError(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	return got{response.StatusCode, response.Header.Get(ReasonHeader), response.Header, string(raw)}
}

func TestGate_aTargetThatHidesItsPathReachesNobody(t *testing.T) {
	t.Parallel()
	// A target without a leading slash has no path to classify, but Nomad would
	// find one in what is left when it is written again.
	for _, target := range []string{"x:http://nomad/v1/jobs", "x:v1/jobs", "http:v1/jobs"} {
		for _, method := range []string{"PUT", "GET"} {
			r := newRig(t)
			c := r.dial(t)
			body := register(gpuJob)
			_, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: nomad\r\nContent-Length: %d\r\n\r\n%s", method, target, len(body), body)
			must.NoError(t, err)
			a := answerOn(t, c)
			must.EqOp(t, http.StatusBadRequest, a.status, must.Sprint(method, target))
			must.EqOp(t, ReasonBadRequest, a.reason)
			r.nomad.mu.Lock()
			must.Len(t, 0, r.nomad.seen)
			r.nomad.mu.Unlock()
		}
	}
}

func TestGate_aJobThatGainsGPUsBeforeTheBodyArrivesIsJudgedWithThem(t *testing.T) {
	t.Parallel()
	for route, job := range map[string]string{"scale": gpuJob, "dispatch/payload": strings.Replace(gpuTemplate, "tune", "train", 1)} {
		r := newRig(t)
		r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "no"}
		r.nomad.put(t, "default", noGPUJob)
		c := r.dial(t)
		body := `{"Count":100,"Target":{"Group":"g"}}`
		_, err := fmt.Fprintf(c, "PUT /v1/job/train/%s HTTP/1.1\r\nHost: nomad\r\nContent-Length: %d\r\n\r\n%s", route, len(body), body[:5])
		must.NoError(t, err)
		// The gate must not have judged yet. That cannot be polled: give it the
		// time in which it would have.
		time.Sleep(50 * time.Millisecond)
		r.nomad.put(t, "default", job)
		_, err = io.WriteString(c, body[5:])
		must.NoError(t, err)
		a := answerOn(t, c)
		must.EqOp(t, "exceeds_budget", a.reason, must.Sprint(route, a.body))
		must.Len(t, 0, r.nomad.writes())
	}
}

func TestGate_scaleIsBoundToTheJobThatWasJudged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", noGPUJob) // at index 10
	r.do(t, "PUT", "/v1/job/train/scale", `{"Count":3,"Target":{"Group":"g"},"Future":1.50}`)
	must.StrContains(t, r.do(t, "PUT", "/v1/job/train/scale", `{"Count":3,"JobModifyIndex":7}`).body, "Enforcing job modify index 7")
	// A job that may appear meanwhile was not judged.
	must.EqOp(t, http.StatusNotFound, r.do(t, "PUT", "/v1/job/absent/scale", `{"Count":3}`).status)
	writes := r.nomad.writes()
	must.Len(t, 2, writes)
	must.EqOp(t, `{"Count":3,"JobModifyIndex":9223372036854775807}`, writes[1].body)
	must.EqOp(t, `{"Count":3,"Target":{"Group":"g"},"Future":1.50,"JobModifyIndex":10}`, writes[0].body)
}

func TestGate_keptValuesAreThoseThatWereJudgedAlsoWithoutGPUs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", noGPUJob) // at index 10
	a := r.do(t, "PUT", "/v1/jobs", `{"Job":`+noGPUJob+`,"PreserveResources":true}`)
	must.EqOp(t, http.StatusOK, a.status)
	must.EqOp(t, `{"Job":`+noGPUJob+`,"PreserveResources":true,"EnforceIndex":true,"JobModifyIndex":10}`, r.nomad.writes()[0].body)

	// An index of the user's that is not the judged one may be a later job's.
	a = r.do(t, "PUT", "/v1/jobs", `{"Job":`+noGPUJob+`,"PreserveCounts":true,"EnforceIndex":true,"JobModifyIndex":99}`)
	must.EqOp(t, http.StatusInternalServerError, a.status)
	must.StrContains(t, a.body, "Enforcing job modify index 99: job exists with conflicting job modify index: 20")
	must.Len(t, 1, r.nomad.writes())
	must.Len(t, 0, r.admitter.asked)
}

func TestGate_pinsOfKeptDevicesDoNotFailTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	r.admitter.verdict = Verdict{Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{
		Group:       "g",
		Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}},
		Devices:     []jobspec.DevicePatch{{Task: "t", Constraints: []jobspec.Constraint{{LTarget: "${device.ids}", RTarget: "a", Operand: "set_contains_any"}}}},
	}}}}
	a := r.do(t, "PUT", "/v1/jobs", `{"Job":`+noGPUJob+`,"PreserveResources":true}`)
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	must.True(t, r.admitter.asked[0].KeepsResources)
	must.StrContains(t, r.nomad.writes()[0].body, "node.unique.id")
	must.StrNotContains(t, r.nomad.writes()[0].body, "device.ids")
}

func TestGate_aJobOfAnotherRegionLeavesTheHoldsOfThisOneAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	a := r.do(t, "PUT", "/v1/jobs?region=other", register(noGPUJob))
	must.EqOp(t, http.StatusOK, a.status)
	must.Len(t, 0, r.admitter.asked)
}

// Nomad 1.11.3 makes a version the current one when it is marked as stable.
func TestGate_markingAVersionAsStableBringsNoGPUsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)   // version 0
	r.nomad.put(t, "default", noGPUJob) // version 1
	for _, body := range []string{`{"JobID":"train","JobVersion":0,"Stable":true}`, `{"jobid":"train","Stable":false}`} {
		a := r.do(t, "PUT", "/v1/job/train/stable", body)
		must.EqOp(t, http.StatusForbidden, a.status)
		must.EqOp(t, ReasonStable, a.reason)
		golden(t, "stable", a.body)
	}
	must.Len(t, 0, r.nomad.writes())
	for _, body := range []string{`{"JobID":"train","JobVersion":1,"Stable":true}`, `{"JobID":"train","JobVersion":9}`, `{"JobID":"other"}`} {
		must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/job/train/stable", body).status, must.Sprint(body))
	}
	must.Len(t, 3, r.nomad.writes())
	must.Len(t, 0, r.admitter.asked)
}
