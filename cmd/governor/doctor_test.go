package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/bypass"
)

// wardNomad is a Nomad whose facts only the token "root" reads, and the agent's own
// "root" too: with ways around the gate, or with none.
func wardNomad(open bool) http.HandlerFunc {
	answers := map[string]string{
		"/v1/namespaces":                       `[{"Name":"default"},{"Name":"research"}]`,
		"/v1/acl/policies":                     `[{"Name":"user"},{"Name":"runner"}]`,
		"/v1/acl/policy/user":                  `{"Name":"user","Rules":"x","RulesJSON":{"Namespaces":[{"Name":"*","Policy":"write","Capabilities":["read-job","submit-job","dispatch-job"]}]}}`,
		"/v1/acl/policy/runner":                `{"Name":"runner","JobACL":{"Namespace":"research","JobID":"ci"},"Rules":"x","RulesJSON":{"Namespaces":[{"Name":"research","Capabilities":["read-job"]}]}}`,
		"/v1/acl/tokens":                       `[{"AccessorID":"11111111-root","Name":"root","Type":"management"},{"AccessorID":"22222222-user","Name":"user","Type":"client","Policies":["user"]}]`,
		"/v1/acl/roles":                        `[]`,
		"/v1/acl/binding-rules":                `[]`,
		"/v1/operator/scheduler/configuration": `{"SchedulerConfig":{"ModifyIndex":5,"RejectJobRegistration":false}}`,
		"/v1/agent/self": `{"config":{"NodeName":"srv","AdvertiseAddrs":{"HTTP":"127.0.0.1:1"},"Ports":{"HTTP":1},"Limits":{"HTTPMaxConnsPerClient":0},
			"TLSConfig":{"EnableHTTP":true,"VerifyHTTPSClient":true}},"member":{"Name":"srv.global","Tags":{"build":"1.11.3"}}}`,
		"/v1/agent/members": `{"Members":[{"Name":"srv.global","Addr":"127.0.0.1","Status":"alive"}]}`,
		"/v1/nodes":         `[]`,
	}
	if open {
		answers["/v1/acl/policy/runner"] = strings.Replace(answers["/v1/acl/policy/runner"], `"read-job"`, `"read-job","dispatch-job"`, 1)
		answers["/v1/acl/policy/anonymous"] = `{"Name":"anonymous","Rules":"x","RulesJSON":{"Namespaces":[{"Name":"default","Capabilities":["submit-job"]}]}}`
		answers["/v1/nodes"] = `[{"ID":"n1","Name":"gpu-1","Status":"ready","Drivers":{"raw_exec":{"Detected":true},"docker":{"Detected":true,"Attributes":{"driver.docker.privileged.enabled":"true"}}},
			"NodeResources":{"Devices":[{"Vendor":"nvidia","Type":"gpu","Name":"H100"}]}}]`
		answers["/v1/node/n1"] = `{"ID":"n1","Name":"gpu-1","HTTPAddr":"127.0.0.1:1"}`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		body, there := answers[r.URL.Path]
		switch {
		case !there && strings.HasPrefix(r.URL.Path, "/v1/acl/policy/"):
			http.Error(w, "ACL policy not found", http.StatusNotFound)
		case !there:
			stubNomad(w, r)
		case r.Header.Get("X-Nomad-Token") != "root" && r.URL.Path == "/v1/acl/policies":
			stubNomad(w, r) // every token may read its own
		case r.Header.Get("X-Nomad-Token") != "root" && r.URL.Path != "/v1/nodes":
			http.Error(w, "Permission denied", http.StatusForbidden)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Nomad-Index", "7")
			_, _ = w.Write([]byte(body))
		}
	}
}

func TestGateHost(t *testing.T) {
	for address, want := range map[string]string{"http://10.0.0.5:4640": "10.0.0.5", "https://gate.example": "gate.example", "http://[fd00::5]:4640": "fd00::5", "http://0.0.0.0:4640": "127.0.0.1"} {
		host, err := gateHost(address)
		must.NoError(t, err)
		must.Eq(t, want, host)
	}
	_, err := gateHost("gate")
	must.Error(t, err)
}

// What only the leader knows is not taken for nothing.
func TestAnAgentThatDoesNotLead(t *testing.T) {
	var facts bypass.Facts
	addStatus(&facts, agent.Status{Bypasses: &agent.BypassStatus{UnknownWrites: true, Accessors: []string{"a"}}})
	must.True(t, facts.UnknownWrites)
	must.Eq(t, []string{"a"}, facts.Own)
	must.Len(t, 1, facts.Missing)
	must.Eq(t, bypass.CheckGate, facts.Missing[0].Check)

	facts = bypass.Facts{}
	addStatus(&facts, agent.Status{Observed: true, Ungoverned: []agent.StrayStatus{{Namespace: "n", JobID: "j", Alloc: "a", Node: "x"}}})
	must.Eq(t, []bypass.Work{{Namespace: "n", JobID: "j", Alloc: "a", Node: "x"}}, facts.Ungoverned)
	must.Len(t, 1, facts.Missing, must.Sprint("an agent without a watch does not tell its settings"))
}

func TestWrapped(t *testing.T) {
	var out bytes.Buffer
	printWrapped(&out, strings.Repeat("word ", 25)+strings.Repeat("x", 120))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	must.Eq(t, []string{"    " + strings.TrimSpace(strings.Repeat("word ", 19)), "    " + strings.TrimSpace(strings.Repeat("word ", 6)), "    " + strings.Repeat("x", 120)}, lines)
}
