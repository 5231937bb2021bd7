package bypass

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// parse reads a policy as Nomad 1.11.3 answers it.
func parse(t *testing.T, name, raw string) Policy {
	t.Helper()
	var rules acl.Rules
	must.NoError(t, json.Unmarshal([]byte(raw), &rules))
	return Policy{Name: name, Rules: rules}
}

// user is what Nomad 1.11.3 answers for: namespace "default" { policy = "write" },
// namespace "ml-*" { capabilities = ["submit-job"] }, operator { policy = "read" }.
const user = `{"Agent":null,"ExtraKeysHCL":null,"HostVolumes":null,"Namespaces":[{"Capabilities":["list-jobs","parse-job","read-job","csi-list-volume",
"csi-read-volume","read-job-scaling","list-scaling-policies","read-scaling-policy","host-volume-read","scale-job","submit-job","dispatch-job","read-logs",
"read-fs","alloc-exec","alloc-lifecycle","csi-mount-volume","csi-write-volume","submit-recommendation","host-volume-create","host-volume-read"],
"Name":"default","Policy":"write","Variables":null},{"Capabilities":["submit-job"],"Name":"ml-*","Policy":"","Variables":{"Paths":[{"PathSpec":"app/*","Capabilities":["read","list"]}]}}],
"Node":null,"NodePools":[{"Name":"gpu","Policy":"read","Capabilities":["read"]}],"Operator":{"Capabilities":["license-read","keyring-read"],"Policy":"read"},"Plugin":null,"Quota":null,"Raw":"","Sentinel":null}`

// sick is a cluster with every way around.
func sick(t *testing.T) Facts {
	reader := policyOf("reader", rule("default", "read-job"))
	runner := policyOf("runner", rule("default", "submit-job"))
	runner.Job, runner.Description = &JobACL{Namespace: "default", JobID: "ci/runner", Group: "g", Task: "t"}, "it's for CI"
	team := policyOf("team-ml", rule("*", "submit-job"), rule("secret", "deny"))
	return Facts{
		Namespaces: []string{"default", "ml-a", "secret"},
		Own:        []string{"aaaaaaaa-agent"},
		Tokens: []Token{
			{Accessor: "bbbbbbbb-bob", Name: "bob", Roles: []string{"ml"}},
			{Accessor: "aaaaaaaa-agent", Name: "governor", Policies: []string{"governor"}},
			{Accessor: "cccccccc-copy", Name: "copy", Policies: []string{"governor"}},
			{Accessor: "11111111-root", Name: "root", Management: true},
			{Accessor: "00000000-boot", Name: "Bootstrap Token", Management: true},
			{Accessor: "dddddddd-alice", Name: "alice", Roles: []string{"ml"}},
			{Accessor: "eeeeeeee-eve", Name: "eve", Policies: []string{"user"}, Expired: true},
			{Accessor: "ffffffff-ray", Name: "ray", Policies: []string{"reader"}},
		},
		Roles: []Role{{ID: "r1", Name: "ml", Policies: []string{"user", "reader"}}, {ID: "r2", Name: "team-ml", Policies: []string{"team-ml"}}},
		Policies: []Policy{parse(t, "user", user), policyOf("governor", rule("*", "list-jobs", "read-job", "submit-job", "alloc-lifecycle")), reader, runner, team,
			policyOf("anonymous", rule("default", "scale-job")), policyOf("spare", rule("default", "register-job"))},
		Bindings: []Binding{{ID: "b1", AuthMethod: "okta", Type: "role", Name: "team-${value.team}", Selector: "value.team != none"},
			{ID: "b2", AuthMethod: "okta", Type: "management"}, {ID: "b3", AuthMethod: "github", Type: "policy", Name: "reader"}},
		Agent:     Agent{Name: "server", Version: "1.11.3", MaxConns: 100},
		Addresses: []Address{{Agent: "agent server", URL: "http://10.0.0.1:4646", Answers: true, Detail: "200 without a token"}, {Agent: "client gpu-2", URL: "http://[fd00::2]:4646", Answers: true, Detail: "403 without a token"}, {Agent: "client gpu-1", URL: "http://10.0.0.2:4646", Detail: "no answer"}},
		Probed:    true, Gate: "10.0.0.5",
		Clients: []Client{
			{ID: "n1", Name: "gpu-1", Drivers: map[string]map[string]string{"raw_exec": {"driver.raw_exec": "true"},
				"docker": {"driver.docker.privileged.enabled": "true", "driver.docker.volumes.enabled": "true", "driver.docker.runtimes": "io.containerd.runc.v2,nvidia,runc"}}},
			{ID: "n2", Name: "gpu-2", Drivers: map[string]map[string]string{"docker": {"driver.docker.runtimes": "runc"}, "exec": {}}},
		},
		Ungoverned:    []Work{{Namespace: "research", JobID: "tr ain", Alloc: "12345678-abcd", Node: "gpu-1"}},
		UnknownWrites: true,
	}
}

func golden(t *testing.T, name string, findings []Finding) {
	t.Helper()
	got, err := json.MarshalIndent(findings, "", "  ")
	must.NoError(t, err)
	path := filepath.Join("testdata", name+".json")
	if *update {
		must.NoError(t, os.WriteFile(path, append(got, '\n'), 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), string(got)+"\n")
}

func TestEveryWay(t *testing.T) {
	t.Parallel()
	golden(t, "sick", Examine(sick(t)))
}

func TestACLsOff(t *testing.T) {
	t.Parallel()
	f := Facts{ACLsOff: true, RejectRegistration: true, Agent: Agent{Name: "server", Version: "1.11.1", HTTPS: true}}
	golden(t, "acls_off", Examine(f))
}

// A cluster in which everything is closed has notes alone.
func TestHealthy(t *testing.T) {
	t.Parallel()
	f := sick(t)
	f.UnknownWrites, f.Ungoverned, f.Clients, f.Agent = false, nil, nil, Agent{Name: "server", Version: "1.11.3", HTTPS: true, VerifyClients: true}
	for i := range f.Addresses {
		f.Addresses[i].Answers = false
	}
	f.Policies = slices.DeleteFunc(f.Policies, func(p Policy) bool { return p.Name == "anonymous" || p.Name == "runner" })
	must.Eq(t, 0, Count(Examine(f), Open))
	must.Eq(t, 0, Count(Examine(f), NotChecked))
	must.Positive(t, Count(Examine(f), Note))
}

// Where the gate starts work with its own token, nobody else needs a right to, whether or
// not Nomad answers them: each is open. What lets people submit through the gate is
// left to them.
func TestDelegated(t *testing.T) {
	t.Parallel()
	f := sick(t)
	f.Addresses, f.Delegated = nil, "plan-job"
	ours := policyOf("planner", rule("default", "plan-job", "submit-job"), rule("only", "plan-job"))
	f.Policies = append(f.Policies, ours)
	f.Tokens = append(f.Tokens, Token{Accessor: "99999999-pat", Name: "pat", Policies: []string{"planner"}})
	findings := Examine(f)
	for _, found := range findings {
		if found.Code == TokenSubmits {
			must.Eq(t, Open, found.Severity, must.Sprint(found.Subject))
		}
	}
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Code == TokenSubmits && strings.Contains(f.Subject, "planner") })
	must.NonNegative(t, i)
	must.StrContains(t, findings[i].Why, "plan-job allows it")
	must.SliceLen(t, 1, findings[i].Close)
	must.StrContains(t, findings[i].Close[0], "plan-job")
	must.StrNotContains(t, findings[i].Close[0], "submit-job")
	f.Delegated = ""
	must.False(t, slices.ContainsFunc(Examine(f), func(f Finding) bool { return f.Code == TokenSubmits && f.Severity == Open }))
}

// What could not be read is said, and nothing is concluded from it.
func TestMissing(t *testing.T) {
	t.Parallel()
	for _, check := range checks() {
		f := sick(t)
		f.Missing = []Missing{{Check: check, Why: "the token may not read it", Look: "look"}}
		findings := Examine(f)
		must.Eq(t, 1, Count(findings, NotChecked), must.Sprint(check))
		i := slices.IndexFunc(findings, func(f Finding) bool { return f.Severity == NotChecked })
		must.Eq(t, string(check)+": the token may not read it", findings[i].What)
		must.Eq(t, []string{"look"}, findings[i].Close)
	}
	f := sick(t)
	f.Missing = []Missing{{Check: CheckTokens}}
	must.False(t, slices.ContainsFunc(Examine(f), func(f Finding) bool { return f.Code == TokenSubmits || f.Code == PolicySubmits }))
}

// The order of the facts does not matter.
func TestOrder(t *testing.T) {
	t.Parallel()
	want := Examine(sick(t))
	for seed := range int64(50) {
		f, random := sick(t), rand.New(rand.NewSource(seed))
		random.Shuffle(len(f.Tokens), func(i, j int) { f.Tokens[i], f.Tokens[j] = f.Tokens[j], f.Tokens[i] })
		random.Shuffle(len(f.Policies), func(i, j int) { f.Policies[i], f.Policies[j] = f.Policies[j], f.Policies[i] })
		random.Shuffle(len(f.Roles), func(i, j int) { f.Roles[i], f.Roles[j] = f.Roles[j], f.Roles[i] })
		random.Shuffle(len(f.Clients), func(i, j int) { f.Clients[i], f.Clients[j] = f.Clients[j], f.Clients[i] })
		random.Shuffle(len(f.Addresses), func(i, j int) { f.Addresses[i], f.Addresses[j] = f.Addresses[j], f.Addresses[i] })
		random.Shuffle(len(f.Namespaces), func(i, j int) { f.Namespaces[i], f.Namespaces[j] = f.Namespaces[j], f.Namespaces[i] })
		random.Shuffle(len(f.Bindings), func(i, j int) { f.Bindings[i], f.Bindings[j] = f.Bindings[j], f.Bindings[i] })
		must.Eq(t, want, Examine(f), must.Sprint(seed))
	}
}

// The command that closes a policy writes one with which nothing can be started,
// and everything else as before.
func TestWithoutStarting(t *testing.T) {
	t.Parallel()
	must.Eq(t, `echo '{"namespace":{"default":{"capabilities":["alloc-exec","alloc-lifecycle","csi-list-volume","csi-mount-volume","csi-read-volume","csi-write-volume","deregister-job","evaluate-job","host-volume-create","host-volume-read","list-jobs","list-scaling-policies","parse-job","plan-job","promote-deployment","read-fs","read-job","read-job-scaling","read-logs","read-scaling-policy","submit-recommendation"]},"ml-*":{"capabilities":["deregister-job","evaluate-job","plan-job","promote-deployment"],"variables":{"path":{"app/*":{"capabilities":["list","read"]}}}}},"node_pool":{"gpu":{"capabilities":["read"]}},"operator":{"capabilities":["keyring-read","license-read"],"policy":"read"}}' | nomad acl policy apply user -`,
		withoutStarting(parse(t, "user", user), true, ""))
	must.Eq(t, "nomad acl policy delete user", withoutStarting(policyOf("user", rule("*", "submit-job", "scale-job")), false, ""))
	twice := policyOf("p", rule("default", "submit-job"), rule("default", "deny"))
	must.Eq(t, `echo '{"namespace":{"default":{"capabilities":["deny"]}}}' | nomad acl policy apply p -`, withoutStarting(twice, false, ""), must.Sprint("deny is kept"))
}

// Every code is documented.
func TestDocs(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/agent.md")
	must.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), "bypass.go", nil, 0)
	must.NoError(t, err)
	codes := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type != nil || len(spec.Values) != 1 {
			return true
		}
		if code, isText := spec.Values[0].(*ast.BasicLit); isText && code.Kind == token.STRING {
			codes++
			must.StrContains(t, string(docs), "`"+strings.Trim(code.Value, `"`)+"`")
		}
		return true
	})
	must.Greater(t, 20, codes)
}
