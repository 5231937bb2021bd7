package gate

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// Trap 1: some path of Nomad's API starts GPU work and is not judged. For every
// way of writing a job's id, each of them asks the admitter, or passes because it
// starts nothing of its own.
func TestTrap1EveryPathThatStartsGPUWorkIsGated(t *testing.T) {
	t.Parallel()
	ids := map[string]string{"train": "train", "team/train": "team%2Ftrain", "team/train ": "team/train%20", "a.b_c": "a.b_c", "plan": "plan",
		"x/dispatch/y": "x%2Fdispatch%2Fy", "é": "%C3%A9"}
	for id, escaped := range ids {
		r := newRig(t)
		r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "no"}
		job := strings.Replace(gpuJob, `"ID":"train"`, `"ID":`+quoted(id), 1)
		r.nomad.put(t, "default", job)
		r.nomad.put(t, "default", strings.Replace(noGPUJob, `"ID":"train"`, `"ID":`+quoted(id), 1))
		r.nomad.put(t, "default", job)
		for _, path := range []string{"/v1/jobs", "/v1/job/" + escaped} {
			before := len(r.admitter.asked)
			a := r.do(t, "PUT", path, register(job))
			must.EqOp(t, http.StatusForbidden, a.status, must.Sprint(id, path, a.body))
			must.Len(t, before+1, r.admitter.asked, must.Sprint(id, path))
			must.EqOp(t, id, r.admitter.asked[before].Ask.JobID)
		}
		for suffix, body := range map[string]string{"/scale": `{"Count":9,"Target":{"Group":"g"}}`, "/dispatch": `{}`, "/dispatch/payload": "x", "/periodic/force": "",
			"/revert": `{"JobID":` + quoted(id) + `,"JobVersion":0}`} {
			switch suffix {
			case "/dispatch", "/dispatch/payload":
				r.nomad.put(t, "default", strings.Replace(gpuTemplate, `"ID":"tune"`, `"ID":`+quoted(id), 1))
			case "/periodic/force":
				r.nomad.put(t, "default", strings.Replace(gpuCron, `"ID":"nightly"`, `"ID":`+quoted(id), 1))
			}
			asked := len(r.admitter.asked)
			a := r.do(t, "POST", "/v1/job/"+escaped+suffix, body)
			must.EqOp(t, http.StatusForbidden, a.status, must.Sprint(id, suffix, a.body))
			must.Len(t, asked+1, r.admitter.asked, must.Sprint(id, suffix, a.reason))
		}
		must.Len(t, 0, r.nomad.writes(), must.Sprint("nothing reached Nomad of ", id))
		// These start only what a registration was judged for.
		for _, path := range []string{"/v1/job/" + escaped + "/evaluate?force_reschedule=true", "/v1/deployment/promote/d", "/v1/deployment/pause/d"} {
			must.EqOp(t, http.StatusOK, r.do(t, "PUT", path, "{}").status, must.Sprint(path))
		}
	}
}

func quoted(text string) string {
	raw, _ := json.Marshal(text)
	return string(raw)
}

// The page's button went around the budgets: Nomad's own page, and whatever else
// calls its API, is no other way than the command line's.
func TestLiteLLMUIBypassThePageOfNomadIsJudgedToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "no"}
	for _, agent := range []string{"Mozilla/5.0", "nomad-autoscaler", "Terraform"} {
		a := r.do(t, "POST", "/v1/jobs", register(gpuJob), "User-Agent", agent, "Referer", r.gate.URL+"/ui/jobs/run", "Origin", r.gate.URL,
			"X-Requested-With", "XMLHttpRequest", "Sec-Fetch-Site", "same-origin")
		want := http.StatusForbidden
		if agent == "Mozilla/5.0" {
			want = http.StatusConflict // else Nomad's page would not show why
		}
		must.EqOp(t, want, a.status)
		must.EqOp(t, "no\n", a.body)
	}
	must.Len(t, 3, r.admitter.asked)
	must.Len(t, 0, r.nomad.writes())
}

// Trap 9: what a client says about itself is believed. Only Nomad says who a token
// is; headers of proxies and the job's own meta change nothing.
func TestTrap9NobodyIsWhoTheySayTheyAre(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	r.nomad.tokens["secret-a"] = api.ACLToken{AccessorID: "acc-a", Name: "ada", Type: "client", Policies: []string{"ml"}}
	r.nomad.tokens["secret-root"] = api.ACLToken{AccessorID: "acc-root", Name: "root", Type: "management"}
	spoofed := strings.Replace(gpuJob, `"Type":"batch"`, `"Type":"batch","NomadTokenID":"acc-root","Meta":{"identity":"type:management","governor_identity":"token:root"}`, 1)
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs", register(spoofed), "X-Nomad-Token", "secret-a", "X-Forwarded-For", "127.0.0.1",
		"X-Forwarded-User", "root", "X-Real-Ip", "127.0.0.1", "X-Governor-Identity", "type:management", "Forwarded", "for=127.0.0.1").status)
	must.Len(t, 1, r.admitter.asked)
	must.Eq(t, Identity{Accessor: "acc-a", Names: []string{"policy:ml", "token:ada"}}, r.admitter.asked[0].Identity)
	must.EqOp(t, http.StatusForbidden, r.do(t, "PUT", "/v1/jobs", register(gpuJob), "X-Nomad-Token", "made-up").status)

	// A management token passes Nomad's ACLs and not the budgets; what it is, the
	// budgets and the audit see.
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs", register(gpuJob), "X-Nomad-Token", "secret-root").status)
	must.Len(t, 2, r.admitter.asked)
	must.SliceContains(t, r.admitter.asked[1].Identity.Names, "type:management")
}

// Trap 17: what was reserved for a job that Nomad then finds invalid, also because
// of what was added to it, stays reserved. Nomad's answer reaches the author as it
// is, and the admitter hears that the job was refused.
func TestTrap17AJobThatNomadFindsInvalidIsSettledAsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g", Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "=", RTarget: "n"}}}}}}
	r.nomad.special = func(w http.ResponseWriter, request *http.Request) bool {
		if request.URL.Path != "/v1/jobs" {
			return false
		}
		http.Error(w, "1 error occurred:\n\t* Task group g validation failed", http.StatusInternalServerError)
		return true
	}
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusInternalServerError, a.status)
	must.StrContains(t, a.body, "Task group g validation failed")
	must.Eq(t, []Outcome{{Known: true}}, r.admitter.settled())

	// nomad job validate asks Nomad itself and holds nothing.
	must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/validate/job", register(gpuJob)).status)
	must.Len(t, 1, r.admitter.settled())
}

// Trap 18: what is added to a job differs from one submission to the next, and so
// restarts what runs. The same file is forwarded as the same bytes.
func TestTrap18TheSameFileIsForwardedAsTheSameBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admitter.verdict = Verdict{Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g",
		Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "set_contains_any", RTarget: "n1,n2"}},
		Devices:     []jobspec.DevicePatch{{Task: "t", Constraints: []jobspec.Constraint{{LTarget: "${device.ids}", Operand: "set_contains_any", RTarget: "GPU-1"}}}}}}}}
	for range 3 {
		must.EqOp(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs", register(gpuJob)).status)
	}
	writes := r.nomad.writes()
	must.Len(t, 3, writes)
	must.EqOp(t, writes[0].body, writes[1].body)
	must.EqOp(t, writes[0].body, writes[2].body)
	for _, added := range []string{"governor", "h-", "hold"} {
		must.False(t, strings.Contains(writes[0].body, added), must.Sprint(added))
	}
}
