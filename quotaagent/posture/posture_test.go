package posture

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/acl"
	"github.com/nomad-governor/governor/quotaagent/bypass"
	"github.com/shoenig/test/must"
)

// now is when the token "old" has expired.
var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// cluster answers as Nomad 1.11.3 does: a status and a body by path. A path that it
// does not have is answered with 403, unless the text says otherwise.
type cluster map[string]string

const denied = "403 Permission denied"

func (c cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, there := c[r.URL.Path]
	if !there {
		body = denied
	}
	if status, text, coded := strings.Cut(body, " "); coded && len(status) == 3 {
		http.Error(w, text, map[string]int{"400": 400, "403": 403, "404": 404, "500": 500}[status])
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Nomad-Index", "7")
	_, _ = w.Write([]byte(body))
}

// whole is what a management token sees.
func whole() cluster {
	return cluster{
		"/v1/acl/token/self": `{"AccessorID":"11111111-root","Name":"root","Type":"management"}`,
		"/v1/namespaces":     `[{"Name":"default"}]`,
		"/v1/acl/policies":   `[{"Name":"user","JobACL":null},{"Name":"wi"}]`,
		"/v1/acl/policy/user": `{"Name":"user","Description":"d","JobACL":null,"Rules":"x","RulesJSON":{"Namespaces":[{"Name":"default","Policy":"write",
			"Capabilities":["submit-job"],"Variables":null}],"Node":{"Policy":"read"},"Operator":null}}`,
		"/v1/acl/policy/wi":        `{"Name":"wi","JobACL":{"Namespace":"default","JobID":"runner","Group":"","Task":""},"Rules":"x","RulesJSON":{"Namespaces":null}}`,
		"/v1/acl/policy/anonymous": "404 ACL policy not found",
		"/v1/acl/tokens": `[{"AccessorID":"11111111-root","Name":"root","Type":"management","Policies":null,"Roles":null,"ExpirationTime":null},
			{"AccessorID":"22222222-user","Name":"alice","Type":"client","Policies":["user"],"Roles":[{"ID":"r","Name":""},{"ID":"deleted","Name":"gone"}],"ExpirationTime":"2026-03-10T13:00:00Z"},
			{"AccessorID":"33333333-old","Name":"old","Type":"client","Policies":["user"],"Roles":null,"ExpirationTime":"2026-03-10T12:00:00Z"}]`,
		"/v1/acl/roles":                        `[{"ID":"r","Name":"ml","Policies":[{"Name":"user"}]}]`,
		"/v1/acl/binding-rules":                `[{"ID":"b","AuthMethod":"okta"}]`,
		"/v1/acl/binding-rule/b":               `{"ID":"b","AuthMethod":"okta","BindType":"role","BindName":"ml","Selector":"x"}`,
		"/v1/operator/scheduler/configuration": `{"SchedulerConfig":{"ModifyIndex":5,"RejectJobRegistration":true}}`,
		"/v1/agent/self": `{"config":{"NodeName":"srv","AdvertiseAddrs":{"HTTP":"10.0.0.1:4646"},"Ports":{"HTTP":4646},"Limits":{"HTTPMaxConnsPerClient":100},
			"TLSConfig":{"EnableHTTP":true,"VerifyHTTPSClient":true},"Version":{"Version":"1.11.3"},"Vaults":[{"Token":"secret"}]},
			"member":{"Name":"srv.global","Tags":{"build":"1.11.3"}}}`,
		"/v1/agent/members": `{"Members":[{"Name":"srv.global","Addr":"10.0.0.1","Status":"alive"},{"Name":"two.global","Addr":"10.0.0.2","Status":"alive"},{"Name":"gone.global","Addr":"10.0.0.3","Status":"left"}]}`,
		"/v1/nodes": `[{"ID":"n1","Name":"gpu-1","Status":"ready","Drivers":{"raw_exec":{"Detected":true,"Attributes":{"driver.raw_exec":"true"}},"docker":{"Detected":false}},
			"NodeResources":{"Devices":[{"Vendor":"nvidia","Type":"gpu","Name":"H100"}]}},
			{"ID":"n2","Name":"cpu-1","Status":"ready","Drivers":{"raw_exec":{"Detected":true}},"NodeResources":{"Devices":null}}]`,
		"/v1/node/n1": `{"ID":"n1","Name":"gpu-1","HTTPAddr":"10.0.1.1:4646","TLSEnabled":true}`,
		"/v1/node/n2": `{"ID":"n2","Name":"cpu-1","HTTPAddr":"10.0.0.1:4646","TLSEnabled":true}`,
	}
}

func serve(t *testing.T, h http.Handler) *Reader {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client, err := api.NewClient(&api.Config{Address: server.URL, SecretID: "secret-root"})
	must.NoError(t, err)
	return New(client, func() time.Time { return now })
}

func TestFacts(t *testing.T) {
	t.Parallel()
	f := serve(t, whole()).Facts(t.Context())
	must.Eq(t, []bypass.Missing(nil), f.Missing)
	must.Eq(t, []bypass.Token{{Accessor: "11111111-root", Name: "root", Management: true}, {Accessor: "22222222-user", Name: "alice", Policies: []string{"user"}, Roles: []string{"ml"}},
		{Accessor: "33333333-old", Name: "old", Policies: []string{"user"}, Expired: true}}, f.Tokens)
	must.Eq(t, []bypass.Role{{ID: "r", Name: "ml", Policies: []string{"user"}}}, f.Roles)
	must.Eq(t, []bypass.Binding{{ID: "b", AuthMethod: "okta", Type: "role", Name: "ml", Selector: "x"}}, f.Bindings)
	must.Eq(t, []string{"user", "wi"}, []string{f.Policies[0].Name, f.Policies[1].Name})
	must.Eq(t, []string{"submit-job"}, f.Policies[0].Rules.Namespaces[0].Capabilities)
	must.Eq(t, &acl.LevelRule{Policy: "read"}, f.Policies[0].Rules.Node)
	must.Nil(t, f.Policies[0].Rules.Operator)
	must.Eq(t, &bypass.JobACL{Namespace: "default", JobID: "runner"}, f.Policies[1].Job)
	must.True(t, f.RejectRegistration)
	must.Eq(t, bypass.Agent{Name: "srv", Version: "1.11.3", HTTPS: true, VerifyClients: true, MaxConns: 100}, f.Agent)
	must.Eq(t, []bypass.Client{{ID: "n1", Name: "gpu-1", Drivers: map[string]map[string]string{"raw_exec": {"driver.raw_exec": "true"}}}}, f.Clients)
	must.Eq(t, []bypass.Address{{Agent: "agent srv", URL: "https://10.0.0.1:4646"}, {Agent: "server two.global", URL: "https://10.0.0.2:4646"}}, f.Addresses)
	all, err := json.Marshal(f)
	must.NoError(t, err)
	must.StrNotContains(t, string(all), "secret")
}

func TestACLsOff(t *testing.T) {
	t.Parallel()
	c := whole()
	c["/v1/acl/token/self"] = "400 ACL support disabled"
	f := serve(t, c).Facts(t.Context())
	must.True(t, f.ACLsOff)
	must.SliceEmpty(t, f.Tokens)
	must.SliceEmpty(t, f.Missing)
}

// Nomad shows to a client token its own policies and roles as if they were all.
func TestClientToken(t *testing.T) {
	t.Parallel()
	c := whole()
	for _, path := range []string{"/v1/acl/tokens", "/v1/acl/binding-rules", "/v1/agent/self"} {
		delete(c, path)
	}
	c["/v1/acl/token/self"] = `{"AccessorID":"22222222-user","Type":"client"}`
	reader := serve(t, c)
	f := reader.Facts(t.Context())
	var missing []bypass.Check
	for _, m := range f.Missing {
		missing = append(missing, m.Check)
		must.Eq(t, "the token may not read it", m.Why)
	}
	want := []bypass.Check{bypass.CheckPolicies, bypass.CheckRoles, bypass.CheckTokens, bypass.CheckAddresses, bypass.CheckBindings, bypass.CheckAgent}
	slices.Sort(missing)
	slices.Sort(want)
	must.Eq(t, want, missing)
	must.Eq(t, "22222222-user", reader.Accessor(t.Context()))
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	client, err := api.NewClient(&api.Config{Address: "http://127.0.0.1:1"})
	must.NoError(t, err)
	f := New(client, time.Now).Facts(t.Context())
	for _, m := range f.Missing {
		must.Eq(t, "Nomad does not answer", m.Why)
	}
	must.SliceLen(t, 5, f.Missing)
}

func TestStamp(t *testing.T) {
	t.Parallel()
	c := whole()
	reader := serve(t, c)
	before := reader.Stamp(t.Context())
	must.Eq(t, before, reader.Stamp(t.Context()))
	c["/v1/operator/scheduler/configuration"] = `{"SchedulerConfig":{"ModifyIndex":6,"RejectJobRegistration":false}}`
	must.NotEq(t, before, reader.Stamp(t.Context()))
}

// What the token may not read is asked for again only with the next facts.
func TestStampOfAClientToken(t *testing.T) {
	t.Parallel()
	c := whole()
	tokens := c["/v1/acl/tokens"]
	delete(c, "/v1/acl/tokens")
	asked := 0
	reader := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/acl/tokens" && r.URL.Query().Has("per_page") {
			asked++
		}
		c.ServeHTTP(w, r)
	}))
	before := reader.Stamp(t.Context())
	must.StrNotContains(t, before, "tokens")
	must.Eq(t, before, reader.Stamp(t.Context()))
	must.Eq(t, 1, asked)
	c["/v1/acl/tokens"] = tokens
	must.Eq(t, before, reader.Stamp(t.Context()))
	reader.Facts(t.Context())
	must.StrContains(t, reader.Stamp(t.Context()), "tokens?per_page=1=7")
}

// The long list of clients is not read each time that ACLs change.
func TestClientsAreReadSeldom(t *testing.T) {
	t.Parallel()
	c := whole()
	lists, at := 0, now
	reader := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/nodes" {
			lists++
		}
		c.ServeHTTP(w, r)
	}))
	reader.now = func() time.Time { return at }
	first := reader.Facts(t.Context()).Clients
	at = at.Add(clientsFor - time.Second)
	must.Eq(t, first, reader.Facts(t.Context()).Clients)
	must.Eq(t, 1, lists)
	at = at.Add(time.Second)
	must.Eq(t, first, reader.Facts(t.Context()).Clients)
	must.Eq(t, 2, lists)
}

// Every address is tried without the token of the caller; one that nobody serves
// does not answer.
func TestProbe(t *testing.T) {
	t.Parallel()
	var tokens []string
	open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tokens = append(tokens, r.Header.Get("X-Nomad-Token")) }))
	defer open.Close()
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	defer tls.Close()
	c := whole()
	c["/v1/node/n1"] = `{"ID":"n1","Name":"gpu-1","HTTPAddr":"` + strings.TrimPrefix(tls.URL, "https://") + `","TLSEnabled":true}`
	c["/v1/node/n2"] = `{"ID":"n2","Name":"cpu-1","HTTPAddr":"` + strings.TrimPrefix(open.URL, "http://") + `"}`
	f := bypass.Facts{Addresses: []bypass.Address{{Agent: "agent srv", URL: "http://127.0.0.1:1"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	serve(t, c).Probe(ctx, &f, "10.0.0.5")
	must.Eq(t, []bypass.Address{
		{Agent: "agent srv", URL: "http://127.0.0.1:1", Detail: "no answer"},
		{Agent: "client cpu-1", URL: open.URL, Answers: true, Detail: "200 without a token"},
		{Agent: "client gpu-1", URL: tls.URL, Answers: true, Detail: "403 without a token"},
	}, f.Addresses)
	must.Eq(t, []string{""}, tokens)
	must.Eq(t, "10.0.0.5", f.Gate)
}
