package gate

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// The tokens of a Nomad that lets nobody start work but the gate.
const (
	agentToken = "secret-agent"
	userToken  = "secret-user"
	rootToken  = "secret-root"
)

// delegatedRig is a gate with a token of its own. The user has policies with these
// rules, as Nomad reads them.
func delegatedRig(t *testing.T, rules ...string) (*rig, *atomic.Int32) {
	t.Helper()
	r := newRig(t, func(c *Config) {
		c.ReadToken, c.Delegation = agentToken, &Delegation{Token: agentToken, Capability: "plan-job"}
	})
	r.nomad.acl = true
	r.nomad.tokens[agentToken] = api.ACLToken{AccessorID: "agent", Type: "client"}
	r.nomad.tokens[rootToken] = api.ACLToken{AccessorID: "root", Type: "management"}
	r.nomad.tokens[userToken] = api.ACLToken{AccessorID: "user", Name: "alice", Type: "client", Policies: []string{"p0"}}
	asked := &atomic.Int32{}
	r.nomad.special = func(w http.ResponseWriter, q *http.Request) bool {
		token := q.Header.Get("X-Nomad-Token")
		name, one := strings.CutPrefix(q.URL.Path, "/v1/acl/policy/")
		switch {
		case q.URL.Path == "/v1/acl/policies":
			asked.Add(1)
			var list []map[string]string
			for i := range rules {
				list = append(list, map[string]string{"Name": fmt.Sprintf("p%d", i)})
			}
			reply(w, list)
		case one:
			asked.Add(1)
			var i int
			_, _ = fmt.Sscanf(name, "p%d", &i)
			_, _ = fmt.Fprintf(w, `{"Name":%q,"RulesJSON":%s}`, name, rules[i])
		case isWrite(q.Method) && token != agentToken && !strings.HasSuffix(q.URL.Path, "/plan") && q.Method != http.MethodDelete:
			http.Error(w, "Permission denied", http.StatusForbidden)
		case q.Method == http.MethodDelete:
			r.nomad.mu.Lock()
			r.nomad.seen = append(r.nomad.seen, seen{method: q.Method, path: q.URL.Path, header: q.Header.Clone()})
			r.nomad.mu.Unlock()
		default:
			return false
		}
		return true
	}
	return r, asked
}

// planner may plan jobs in namespace default, and everything that starts none.
const planner = `{"Namespaces":[{"Name":"default","Capabilities":["read-job","plan-job","deregister-job"]}]}`

func TestDelegated_theGateStartsWorkForWhoMayPlan(t *testing.T) {
	t.Parallel()
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			r, _ := delegatedRig(t, planner)
			r.nomad.put(t, "default", tc.job)
			if name == "revert" {
				r.nomad.put(t, "default", noGPUJob)
			}
			body := strings.Replace(tc.body, `,"PolicyOverride":true`, "", 1)
			a := r.do(t, "PUT", tc.path, body, "X-Nomad-Token", userToken)
			must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
			must.Len(t, 1, r.admitter.asked)
			must.SliceContains(t, r.admitter.asked[0].Identity.Names, "token:alice", must.Sprint("who asks is the user"))
			writes := r.nomad.writes()
			must.Len(t, 1, writes)
			must.EqOp(t, agentToken, writes[0].header.Get("X-Nomad-Token"))
			must.True(t, r.admitter.settled()[0].Accepted)
		})
	}
}

func TestDelegated_aJobWithoutGPUsToo(t *testing.T) {
	t.Parallel()
	r, asked := delegatedRig(t, planner)
	for range 3 {
		a := r.do(t, "PUT", "/v1/jobs", register(cpuJob), "X-Nomad-Token", userToken)
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	}
	must.Len(t, 0, r.admitter.asked)
	must.EqOp(t, 2, asked.Load(), must.Sprint("the policies are remembered"))
	for _, w := range r.nomad.writes() {
		must.EqOp(t, agentToken, w.header.Get("X-Nomad-Token"))
	}
	must.StrContains(t, r.do(t, "PUT", "/v1/job/cpu/plan", planBody(cpuJob), "X-Nomad-Token", userToken).body, "Diff")
	last := r.nomad.writes()
	must.EqOp(t, userToken, last[len(last)-1].header.Get("X-Nomad-Token"), must.Sprint("Nomad itself decides about a plan"))
	ended := r.do(t, "DELETE", "/v1/job/cpu", "", "X-Nomad-Token", userToken)
	must.EqOp(t, http.StatusOK, ended.status, must.Sprint(ended.body))
	last = r.nomad.writes()
	must.EqOp(t, userToken, last[len(last)-1].header.Get("X-Nomad-Token"), must.Sprint("what starts nothing is the user's own"))
}

func planBody(job string) string { return `{"Job":` + job + `,"Diff":true}` }

// withVolume is a job whose group has a volume and whose task mounts it.
func withVolume(volume, mount string) string {
	return strings.Replace(gpuJob, `"Tasks":[{`, `"Volumes":{"v":`+volume+`},"Tasks":[{"VolumeMounts":[`+mount+`],`, 1)
}

func TestDelegated_whatNomadWouldLookAt(t *testing.T) {
	t.Parallel()
	const readonly, writable = `{"Type":"host","Source":"data","ReadOnly":true}`, `{"Type":"host","Source":"data"}`
	const csi = `{"Type":"csi","Source":"disk"}`
	const mount = `{"Volume":"v","Destination":"/v"}`
	const both = `{"Volume":"v","Destination":"/v","PropagationMode":"bidirectional"}`
	plugin := strings.Replace(gpuJob, `"Tasks":[{`, `"Tasks":[{"CSIPluginConfig":{"ID":"p","Type":"node"},`, 1)
	for name, tc := range map[string]struct {
		rules, body, lacks string
	}{
		"nothing":                        {`{}`, register(gpuJob), `one of plan-job, submit-job, register-job in namespace "default"`},
		"another namespace":              {strings.Replace(planner, "default", "ml", 1), register(gpuJob), `in namespace "default"`},
		"nomad's own right":              {`{"Namespaces":[{"Name":"default","Capabilities":["register-job"]}]}`, register(gpuJob), ""},
		"a denied namespace":             {`{"Namespaces":[{"Name":"default","Policy":"deny","Capabilities":["deny"]},{"Name":"default","Capabilities":["plan-job"]}]}`, register(gpuJob), "plan-job"},
		"a volume to read":               {planner, register(withVolume(readonly, mount)), `mount-readonly for host volume "data", because group "g" mounts it as "v"`},
		"a volume to write":              {planner, register(withVolume(writable, mount)), `mount-readwrite for host volume "data"`},
		"a volume that may be read only": {`{"Namespaces":[{"Name":"*","Capabilities":["plan-job"]}],"HostVolumes":[{"Name":"data","Capabilities":["mount-readonly"]}]}`, register(withVolume(writable, mount)), "mount-readwrite"},
		"a volume that may be written":   {`{"Namespaces":[{"Name":"*","Capabilities":["plan-job"]}],"HostVolumes":[{"Name":"da*","Capabilities":["mount-readwrite"]}]}`, register(withVolume(writable, both)), ""},
		"propagation of one to read":     {`{"Namespaces":[{"Name":"*","Capabilities":["plan-job"]}],"HostVolumes":[{"Name":"data","Capabilities":["mount-readonly"]}]}`, register(withVolume(readonly, both)), "mount-readwrite"},
		"a csi volume":                   {planner, register(withVolume(csi, mount)), `csi-mount-volume in namespace "default"`},
		"a csi volume that may be":       {`{"Namespaces":[{"Name":"*","Capabilities":["plan-job","csi-mount-volume"]}],"Plugin":{"Policy":"read"}}`, register(withVolume(csi, mount)), ""},
		"a csi plugin":                   {planner, register(plugin), "csi-register-plugin"},
		"the override":                   {planner, strings.Replace(register(gpuJob), `{ "Job":`, `{"PolicyOverride":true,"Job":`, 1), "sentinel-override"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := delegatedRig(t, tc.rules)
			a := r.do(t, "PUT", "/v1/jobs", tc.body, "X-Nomad-Token", userToken)
			if tc.lacks == "" {
				must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
				return
			}
			must.EqOp(t, http.StatusForbidden, a.status)
			must.EqOp(t, ReasonPermission, a.reason)
			must.StrContains(t, a.body, tc.lacks)
			must.Len(t, 0, r.admitter.asked)
			must.Len(t, 0, r.nomad.writes())
		})
	}
}

func TestDelegated_managementAndNobody(t *testing.T) {
	t.Parallel()
	r, asked := delegatedRig(t, planner)
	a := r.do(t, "PUT", "/v1/jobs", register(withVolume(`{"Type":"host","Source":"data"}`, `{"Volume":"v"}`)), "X-Nomad-Token", rootToken)
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	must.EqOp(t, agentToken, r.nomad.writes()[0].header.Get("X-Nomad-Token"), must.Sprint("the job's token does not change with who submits"))
	must.EqOp(t, 0, asked.Load())

	a = r.do(t, "PUT", "/v1/jobs", register(gpuJob), "X-Nomad-Token", "secret-unknown")
	must.EqOp(t, http.StatusForbidden, a.status)
	must.Len(t, 1, r.nomad.writes())
}

func TestDelegated_theGatesOwnTokenIsNotEnough(t *testing.T) {
	t.Parallel()
	r, _ := delegatedRig(t, planner)
	theirs := r.nomad.special
	r.nomad.special = func(w http.ResponseWriter, q *http.Request) bool {
		if isWrite(q.Method) {
			http.Error(w, "Job registration, dispatch, and scale are disabled by the scheduler configuration", http.StatusForbidden)
			return true
		}
		return theirs(w, q)
	}
	for _, job := range []string{gpuJob, cpuJob} {
		a := r.do(t, "PUT", "/v1/jobs", register(job), "X-Nomad-Token", userToken)
		must.EqOp(t, http.StatusForbidden, a.status)
		must.EqOp(t, ReasonOwnToken, a.reason)
		must.StrContains(t, a.body, "disabled by the scheduler configuration")
	}
	must.Eq(t, []Outcome{{Known: true}}, r.admitter.settled())
}

func TestDelegated_withoutACLsTokensMeanNothing(t *testing.T) {
	t.Parallel()
	r, _ := delegatedRig(t)
	r.nomad.acl, r.nomad.special = false, nil
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob))
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	must.EqOp(t, "", r.nomad.writes()[0].header.Get("X-Nomad-Token"))
}
