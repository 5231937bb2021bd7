package gate

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

const (
	gpuTemplate = `{"ID":"tune","Type":"batch","ParameterizedJob":{"Payload":"optional","MetaOptional":["governor_run"]},"TaskGroups":[{"Name":"g","Count":2,` +
		`"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}}]}]}`
	gpuCron = `{"ID":"nightly","Type":"batch","Periodic":{"Enabled":true,"Spec":"0 3 * * *","SpecType":"cron"},"TaskGroups":[{"Name":"g",` +
		`"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}}]}]}`
)

// starts are the requests that start work from a stored job.
var starts = map[string]struct {
	job, path, body string
	kind            Kind
	gpus            int
}{
	"scale":            {gpuJob, "/v1/job/train/scale", `{"Count":9,"Target":{"Group":"g"},"PolicyOverride":true}`, Scale, 18},
	"dispatch":         {gpuTemplate, "/v1/job/tune/dispatch", `{"Meta":{"governor_run":"r1"},"Priority":70}`, Dispatch, 4},
	"dispatch_payload": {gpuTemplate, "/v1/job/tune/dispatch/payload", "\x00not json", Dispatch, 4},
	"periodic_force":   {gpuCron, "/v1/job/nightly/periodic/force", "", PeriodicForce, 2},
	"revert":           {gpuJob, "/v1/job/train/revert", `{"JobID":"train","JobVersion":0}`, Revert, 4},
}

// startRig has the job of a start; a revert has something to revert.
func startRig(t *testing.T, name string) *rig {
	r := newRig(t)
	r.nomad.put(t, "default", starts[name].job)
	if name == "revert" {
		r.nomad.put(t, "default", noGPUJob)
	}
	return r
}

func TestStored_theAdmitterDecides(t *testing.T) {
	t.Parallel()
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, name)
			r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "no"}
			a := r.do(t, "PUT", tc.path, tc.body)
			must.EqOp(t, http.StatusForbidden, a.status)
			must.EqOp(t, "exceeds_budget", a.reason)
			must.EqOp(t, "no\n", a.body)
			must.Len(t, 1, r.admitter.asked)
			s := r.admitter.asked[0]
			must.EqOp(t, tc.kind, s.Kind)
			must.EqOp(t, tc.gpus, s.Ask.GPUs())
			must.EqOp(t, name == "scale", s.PolicyOverride)
			must.False(t, s.Ask.Template())
			must.EqOp(t, tc.kind.Launches(), s.Stored == nil, must.Sprint("a launch is a job of its own"))
			must.Len(t, 0, r.nomad.writes())
			if name == "dispatch" {
				must.EqOp(t, "r1", s.Ask.Meta["governor_run"])
				must.EqOp(t, 70, s.Ask.Priority)
			}
		})
	}
}

func TestStored_theOutcomeIsThatOfTheJobThatRuns(t *testing.T) {
	t.Parallel()
	want := map[string]Outcome{
		"scale":            {Known: true, Accepted: true, JobModifyIndex: 20},
		"dispatch":         {Known: true, Accepted: true, JobModifyIndex: 20, JobID: "tune/dispatch-20"},
		"dispatch_payload": {Known: true, Accepted: true, JobModifyIndex: 20, JobID: "tune/dispatch-20"},
		"periodic_force":   {Known: true, Accepted: true, JobModifyIndex: 20, JobID: "nightly/periodic-20"},
		"revert":           {Known: true, Accepted: true, JobModifyIndex: 30},
	}
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, name)
			a := r.do(t, "PUT", tc.path, tc.body)
			must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
			settled := r.admitter.settled()
			must.Len(t, 1, settled)
			must.EqOp(t, want[name].JobID != "", settled[0].Job != nil)
			settled[0].Job = nil
			must.Eq(t, want[name], settled[0])
			writes := r.nomad.writes()
			must.Len(t, 1, writes)
			must.EqOp(t, tc.path, writes[0].path)
			must.EqOp(t, tc.kind == Dispatch, strings.Contains(writes[0].query, "idempotency_token=governor-"))
			if tc.kind != Scale {
				must.EqOp(t, tc.body, writes[0].body)
			}
		})
	}
}

// What Nomad is expected to refuse is not decided about: it must stay refused when the
// job changes between the look at it and the request.
func TestStored_aRevertThatNomadWillRefuseIsBoundToTheVersionLookedAt(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"JobID":"train","JobVersion":1}`:                          `{"JobID":"train","JobVersion":1,"EnforcePriorVersion":1}`,
		`{"JobID":"train","JobVersion":7}`:                          `{"JobID":"train","JobVersion":7,"EnforcePriorVersion":1}`,
		`{"JobID":"other","JobVersion":0}`:                          `{"JobID":"other","JobVersion":0,"EnforcePriorVersion":1}`,
		`{"JobID":"train","JobVersion":0,"EnforcePriorVersion":7}`:  `{"JobID":"train","JobVersion":0,"EnforcePriorVersion":7}`,
		`{"JobID":"train","JobVersion":0,"enforcepriorversion":42}`: `{"JobID":"train","JobVersion":0,"enforcepriorversion":42}`,
	} {
		r := newRig(t)
		r.nomad.put(t, "default", gpuJob)
		r.nomad.put(t, "default", noGPUJob)
		r.do(t, "PUT", "/v1/job/train/revert", body)
		writes := r.nomad.writes()
		must.Len(t, 1, writes)
		must.EqOp(t, want, writes[0].body)
		must.Len(t, 0, r.admitter.asked)
	}
}

func TestStored_aRefusalOfNomadsIsSettled(t *testing.T) {
	t.Parallel()
	for name, tc := range starts {
		r := startRig(t, name)
		r.nomad.special = func(w http.ResponseWriter, req *http.Request) bool {
			if isWrite(req.Method) {
				http.Error(w, "job scaling blocked due to active deployment", http.StatusBadRequest)
			}
			return isWrite(req.Method)
		}
		a := r.do(t, "PUT", tc.path, tc.body)
		must.EqOp(t, http.StatusBadRequest, a.status)
		must.Eq(t, []Outcome{{Known: true}}, r.admitter.settled(), must.Sprint(name))
	}
}

func TestStored_anAnswerThatIsLostIsUnknown(t *testing.T) {
	t.Parallel()
	for name, tc := range starts {
		r := startRig(t, name)
		r.nomad.special = func(_ http.ResponseWriter, req *http.Request) bool {
			if isWrite(req.Method) {
				panic(http.ErrAbortHandler)
			}
			return false
		}
		must.EqOp(t, http.StatusBadGateway, r.do(t, "PUT", tc.path, tc.body).status)
		must.Eq(t, []Outcome{{}}, r.admitter.settled(), must.Sprint(name))
	}
}

func TestStored_theTokenOfTheClientNamesTheDispatch(t *testing.T) {
	t.Parallel()
	r := startRig(t, "dispatch")
	for _, path := range []string{"/v1/job/tune/dispatch?idempotency_token=mine", "/v1/job/tune/dispatch/payload?idempotency_token=mine"} {
		must.EqOp(t, http.StatusOK, r.do(t, "PUT", path, `{"IdempotencyToken":"other"}`).status)
	}
	for i, o := range r.admitter.settled() {
		must.EqOp(t, "mine", r.admitter.asked[i].LaunchToken)
		must.EqOp(t, "tune/dispatch-20", o.JobID, must.Sprint("the second one is the first"))
	}
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/job/tune/dispatch", `{"IdempotencyToken":"body"}`).status)
	must.EqOp(t, "body", r.admitter.asked[2].LaunchToken)
	must.EqOp(t, "", r.nomad.writes()[2].query)
}

func TestStored_whatStartsNoGPUWorkPasses(t *testing.T) {
	t.Parallel()
	plain := func(job string) string {
		return strings.ReplaceAll(job, `,"Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2}]}`, "")
	}
	for name, tc := range starts {
		r := newRig(t)
		r.nomad.put(t, "default", plain(tc.job))
		r.nomad.put(t, "default", plain(tc.job))
		a := r.do(t, "PUT", tc.path, tc.body)
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(name, a.body))
		must.Len(t, 0, r.admitter.asked)
	}
	// What changes nothing, or what Nomad itself refuses, is Nomad's to answer.
	r := newRig(t)
	r.nomad.put(t, "default", gpuJob)
	for path, body := range map[string]string{
		"/v1/job/train/dispatch":           `{}`, // it is not parameterized
		"/v1/job/train/periodic/force":     "",   // nor periodic
		"/v1/job/train/revert":             `{"JobID":"train","JobVersion":7}`,
		"/v1/job/missing/dispatch":         `{}`,
		"/v1/job/missing/periodic/force":   "",
		"/v1/job/missing/revert":           `{"JobID":"missing","JobVersion":0}`,
		"/v1/job/missing/dispatch/payload": "x",
	} {
		must.EqOp(t, http.StatusInternalServerError, r.do(t, "PUT", path, body).status, must.Sprint(path))
	}
	must.EqOp(t, http.StatusNotFound, r.do(t, "PUT", "/v1/job/missing/scale", `{"Count":1}`).status)
	must.Len(t, 0, r.admitter.asked)
}

func TestStored_whoMayScaleNeedNotBeAbleToRead(t *testing.T) {
	t.Parallel()
	for _, reader := range []string{"", "secret-agent"} {
		r := newRig(t, func(c *Config) { c.ReadToken = reader })
		r.nomad.put(t, "default", gpuJob)
		r.nomad.acl = true
		r.nomad.tokens["secret-agent"] = api.ACLToken{AccessorID: "agent", Policies: []string{"governor"}}
		r.nomad.tokens["secret-scaler"] = api.ACLToken{AccessorID: "scaler", Policies: []string{"scaler"}}
		a := r.do(t, "PUT", "/v1/job/train/scale", starts["scale"].body, "X-Nomad-Token", "secret-scaler")
		if reader == "" {
			must.EqOp(t, http.StatusForbidden, a.status)
			must.Len(t, 0, r.nomad.writes())
			continue
		}
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
		must.EqOp(t, "scaler", r.admitter.asked[0].Identity.Accessor)
		must.EqOp(t, "secret-scaler", r.nomad.writes()[0].header.Get("X-Nomad-Token"), must.Sprint("what is changed, the user changes"))
	}
}

// pinnedJob is gpuJob as placement has left it, and with a tag.
const pinnedJob = `{"ID":"train","Type":"batch","VersionTag":{"Name":"good"},"TaskGroups":[{"Name":"g","Count":1,` +
	`"Constraints":[{"LTarget":"${attr.kernel.name}","RTarget":"linux","Operand":"="},{"LTarget":"${node.unique.id}","Operand":"is_set"}],` +
	`"Affinities":[{"LTarget":"${node.unique.id}","RTarget":"n1","Operand":"is","Weight":100}],` +
	`"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu","Count":2,"Constraints":[{"LTarget":"${device.ids}","RTarget":"a,b","Operand":"set_contains_any"}]}]}}]}]}`

func TestStored_aRevertIsPlacedAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.put(t, "default", pinnedJob)
	r.nomad.put(t, "default", noGPUJob)
	r.nomad.sources = map[string]string{"train@0": `{"Source":"job \"train\" {}","Format":"hcl2"}`}
	r.admitter.verdict = Verdict{Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g",
		Devices: []jobspec.DevicePatch{{Task: "t", Constraints: []jobspec.Constraint{{LTarget: "${device.ids}", RTarget: "c,d", Operand: "set_contains_any"}}}}}}}}
	a := r.do(t, "PUT", "/v1/job/train/revert", `{"JobID":"train","JobVersion":0,"EnforcePriorVersion":1}`)
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	must.Eq(t, []Outcome{{Known: true, Accepted: true, JobModifyIndex: 30}}, r.admitter.settled())
	must.Len(t, 0, r.admitter.asked[0].Job.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints, must.Sprint("placement sees the job as its author wrote it"))
	writes := r.nomad.writes()
	must.Len(t, 1, writes)
	must.EqOp(t, "/v1/jobs", writes[0].path)
	var sent struct {
		api.JobRegisterRequest
		Submission *api.JobSubmission
	}
	must.NoError(t, json.Unmarshal([]byte(writes[0].body), &sent))
	must.True(t, sent.EnforceIndex)
	must.EqOp(t, 20, sent.JobModifyIndex)
	must.EqOp(t, `job "train" {}`, sent.Submission.Source)
	must.Nil(t, sent.Job.VersionTag)
	group := sent.Job.TaskGroups[0]
	must.Len(t, 1, group.Constraints, must.Sprint("the author's stays"))
	must.Len(t, 0, group.Affinities)
	pins := group.Tasks[0].Resources.Devices[0].Constraints
	must.Len(t, 1, pins)
	must.EqOp(t, "c,d", pins[0].RTarget)
}

func TestStored_whoMayOnlyRevertGetsTheVersionAsItWas(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.ReadToken = "secret-agent" })
	r.nomad.put(t, "default", pinnedJob)
	r.nomad.put(t, "default", noGPUJob)
	r.nomad.acl = true
	r.nomad.tokens["secret-agent"] = api.ACLToken{AccessorID: "agent", Policies: []string{"governor"}}
	r.nomad.tokens["secret-reverter"] = api.ACLToken{AccessorID: "reverter", Policies: []string{"scaler"}}
	a := r.do(t, "PUT", "/v1/job/train/revert", `{"JobID":"train","JobVersion":0}`, "X-Nomad-Token", "secret-reverter")
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	writes := r.nomad.writes()
	must.EqOp(t, "/v1/job/train/revert", writes[len(writes)-1].path)
	must.EqOp(t, `{"JobID":"train","JobVersion":0}`, writes[len(writes)-1].body)
	must.Eq(t, []Outcome{{Known: true, Accepted: true, JobModifyIndex: 30}}, r.admitter.settled())
}

func TestGate_readsNothingForWhoHasNoToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.ReadToken = "secret-agent" })
	r.nomad.acl = true
	r.nomad.tokens["secret-agent"] = api.ACLToken{AccessorID: "agent", Type: "client"}
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusForbidden, a.status)
	must.EqOp(t, "Permission denied\n", a.body)
	must.Len(t, 0, r.admitter.asked)
}

func TestGate_whatWasDecidedTooLongAgoIsNotSent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Until: time.Now().Add(-time.Second)}
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusServiceUnavailable, a.status)
	golden(t, "too_late", a.body)
	must.Len(t, 0, r.nomad.writes())
	must.Eq(t, []Outcome{{Known: true}}, r.admitter.settled())
}
