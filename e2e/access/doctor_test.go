package access_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// ways is what `governor doctor -json` prints.
type ways struct {
	Open     int `json:"open"`
	Findings []struct {
		Code, Severity, Subject, What string
		Who, Close                    []string
	} `json:"findings"`
}

// index finds a finding by its code and a part of its subject or text; -1 without.
func (w ways) index(code, part string) int {
	for i, f := range w.Findings {
		if f.Code == code && strings.Contains(f.Subject+" "+f.What, part) {
			return i
		}
	}
	return -1
}

// patient is a cluster with a doctor.
type patient struct {
	*cluster.Cluster
	t     *testing.T
	admin *api.Client
	path  string // directory with a program named nomad
}

func (p *patient) doctor(token string, args ...string) (ways, cluster.Result) {
	p.t.Helper()
	result := governor(p.t.Context(), p.t, p.Cluster, token, append([]string{"doctor", "-json"}, args...)...)
	var w ways
	must.NoError(p.t, json.Unmarshal([]byte(result.Stdout), &w), must.Sprint(result.Output()))
	return w, result
}

// named wants a finding, and returns the commands that close it.
func (p *patient) named(code, part string) []string {
	p.t.Helper()
	w, result := p.doctor(p.Token)
	i := w.index(code, part)
	must.NotEq(p.t, -1, i, must.Sprintf("%s %s is not found:\n%s", code, part, result.Output()))
	return w.Findings[i].Close
}

// closes runs what doctor printed, and wants the finding gone.
func (p *patient) closes(code, part string) {
	p.t.Helper()
	commands := p.named(code, part)
	must.SliceNotEmpty(p.t, commands)
	for _, command := range commands {
		p.shell(command)
	}
	w, result := p.doctor(p.Token)
	must.Eq(p.t, -1, w.index(code, part), must.Sprintf("%q did not close it:\n%s", commands, result.Output()))
}

// shell runs a command as an operator does, with the stock CLI and a management
// token, through the gate.
func (p *patient) shell(command string) {
	p.t.Helper()
	sh := exec.CommandContext(p.t.Context(), "sh", "-c", command)
	sh.Env = []string{"PATH=" + p.path + ":" + os.Getenv("PATH"), "NOMAD_ADDR=" + p.GovernorAddr, "NOMAD_TOKEN=" + p.Token, "HOME=" + p.Dir}
	out, err := sh.CombinedOutput()
	must.NoError(p.t, err, must.Sprintf("%s\n%s", command, out))
}

func (p *patient) policy(name, rules string, job *api.JobACL) {
	p.t.Helper()
	_, err := p.admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: name, Description: "it's for " + name, Rules: rules, JobACL: job}, nil)
	must.NoError(p.t, err)
}

// registers tries to register a job directly at Nomad, around the gate.
func (p *patient) registers(token, id string) int {
	p.t.Helper()
	return p.registersBy(http.DefaultClient, p.NomadAddr, token, id)
}

func (p *patient) registersBy(client *http.Client, addr, token, id string) int {
	p.t.Helper()
	body := fmt.Sprintf(`{"Job": {"ID": %q, "Name": %q, "Type": "batch", "Datacenters": ["nowhere"], "TaskGroups": [{"Name": "g",
		"Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/true"}}]}]}}`, id, id)
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPut, addr+"/v1/jobs", strings.NewReader(body))
	must.NoError(p.t, err)
	if token != "" {
		request.Header.Set("X-Nomad-Token", token)
	}
	response, err := client.Do(request)
	must.NoError(p.t, err)
	must.NoError(p.t, response.Body.Close())
	return response.StatusCode
}

// drifted waits until the audit log has a record about a way.
func (p *patient) drifted(kind, item string) {
	p.t.Helper()
	must.NoError(p.t, cluster.Poll(p.t.Context(), kind+" of "+item, func() error {
		log := governor(p.t.Context(), p.t, p.Cluster, p.Token, "audit", "list", "-json")
		for line := range strings.Lines(log.Stdout) {
			var r struct{ Kind, Subject string }
			if json.Unmarshal([]byte(line), &r) == nil && r.Kind == kind && r.Subject == item {
				return nil
			}
		}
		return fmt.Errorf("not in the audit log:\n%s", log.Output())
	}))
}

func TestDoctor(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{ACL: true, Governor: true, Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v"}}})
	admin, err := c.API(c.NomadAddr)
	must.NoError(t, err)
	defer admin.Close()
	p := &patient{Cluster: c, t: t, admin: admin, path: t.TempDir()}
	nomad, _, err := toolchain.Find(t.Context(), toolchain.Nomad())
	must.NoError(t, err)
	must.NoError(t, os.Symlink(nomad, filepath.Join(p.path, "nomad")))
	step := func(name string, run func(p *patient)) {
		t.Run(name, func(t *testing.T) {
			of := *p
			of.t = t
			run(&of)
		})
	}
	step("nomad answers besides through the gate, until nobody else reaches it", unfenced)
	step("a token that may submit", submitting)
	step("what a token may not read is not checked", unread)
	step("a policy of a workload", workloads)
	step("people who log in", logins)
	step("the anonymous policy, and the agent notices", anonymous)
	step("registration is rejected, and taken again", rejecting)
	step("work without a hold", strays)
	step("the agent keeps no secret", secrets)
}

// unfenced finds the addresses of the server and of the client. The command that
// closes them is tried where it locks nobody else out: see fence.
func unfenced(p *patient) {
	w, result := p.doctor(p.Token)
	must.Eq(p.t, 1, result.ExitCode)
	for agent, addr := range map[string]string{"agent server": p.NomadAddr, "client client1": p.Clients[0].Addr} {
		i := w.index("nomad_reachable", agent+" "+addr)
		must.NotEq(p.t, -1, i, must.Sprint(result.Output()))
		must.StrContains(p.t, w.Findings[i].What, "200 without a token")
	}
	must.NotEq(p.t, -1, w.index("plain_http", "agent server"))
	text := governor(p.t.Context(), p.t, p.Cluster, p.Token, "doctor")
	must.Eq(p.t, 1, text.ExitCode)
	must.StrContains(p.t, text.Stdout, "Open ways around the gate")
	must.StrContains(p.t, text.Stdout, "\n      $ iptables -I INPUT ")
	must.Eq(p.t, -1, w.index("token_can_submit", ""), must.Sprint("the agent's own token is no way around"))
	must.NotEq(p.t, -1, w.index("management_tokens", "1 management token"))
	must.NotEq(p.t, -1, w.index("agent_tokens", "1 token"))

	port := strings.TrimPrefix(p.Clients[0].Addr, "http://127.0.0.1:")
	w, _ = p.doctor(p.Token, "-gate=127.0.0.2")
	i := w.index("nomad_reachable", p.Clients[0].Addr)
	fence(p.t, w.Findings[i].Close[0], port)
	must.NoError(p.t, p.Clients[0].Stop())
	w, _ = p.doctor(p.Token)
	must.Eq(p.t, -1, w.index("nomad_reachable", p.Clients[0].Addr), must.Sprint("nobody answers there any more"))
	must.NoError(p.t, p.Clients[0].Start(p.t.Context()))
}

func submitting(p *patient) {
	p.policy("user", `namespace "default" { policy = "write" }
namespace "secret-*" { policy = "deny" }
node { policy = "read" }`, nil)
	role, _, err := p.admin.ACLRoles().Create(&api.ACLRole{Name: "ml-team", Policies: []*api.ACLRolePolicyLink{{Name: "user"}}}, nil)
	must.NoError(p.t, err)
	token, _, err := p.admin.ACLTokens().Create(&api.ACLToken{Name: "alice", Type: "client", Roles: []*api.ACLTokenRoleLink{{ID: role.ID}}}, nil)
	must.NoError(p.t, err)
	must.Eq(p.t, http.StatusOK, p.registers(token.SecretID, "around"))
	w, result := p.doctor(p.Token)
	i := w.index("token_can_submit", "role ml-team")
	must.NotEq(p.t, -1, i, must.Sprint(result.Output()))
	must.Eq(p.t, "open", w.Findings[i].Severity)
	must.StrContains(p.t, w.Findings[i].What, "submit-job, dispatch-job, scale-job in namespace default")
	must.Eq(p.t, []string{fmt.Sprintf("token alice (%.8s)", token.AccessorID)}, w.Findings[i].Who)
	must.StrNotContains(p.t, result.Output(), token.SecretID)
	p.closes("token_can_submit", "role ml-team")
	must.Eq(p.t, http.StatusForbidden, p.registers(token.SecretID, "around2"))
	kept, _, err := p.admin.ACLPolicies().Info("user", nil)
	must.NoError(p.t, err)
	must.Eq(p.t, "it's for user", kept.Description)
	user, err := p.NomadAs(p.t.Context(), token.SecretID, p.NomadAddr, "job", "stop", "-purge", "-detach", "around")
	must.NoError(p.t, err)
	must.StrContains(p.t, user.Output(), "403", must.Sprint("purge is not among what remains"))
	user, err = p.NomadAs(p.t.Context(), token.SecretID, p.NomadAddr, "job", "stop", "-detach", "around")
	must.NoError(p.t, err)
	must.Eq(p.t, 0, user.ExitCode, must.Sprint("stopping remains: "+user.Output()))
	user, err = p.NomadAs(p.t.Context(), token.SecretID, p.NomadAddr, "node", "status")
	must.NoError(p.t, err)
	must.Eq(p.t, 0, user.ExitCode, must.Sprint("the rest of the policy remains: "+user.Output()))

	shared, _, err := p.admin.ACLTokens().Create(&api.ACLToken{Name: "copy", Type: "client", Policies: []string{"governor"}}, nil)
	must.NoError(p.t, err)
	must.Eq(p.t, []string{"nomad acl token delete " + shared.AccessorID}, p.named("token_can_submit", "policy governor"),
		must.Sprint("the agent needs the policy itself"))
	p.closes("token_can_submit", "policy governor")
}

func unread(p *patient) {
	for _, f := range []string{"ACL tokens", "ACL roles", "ACL policies", "binding rules of auth methods"} {
		w, result := p.doctor(p.GovernorToken)
		must.NotEq(p.t, -1, w.index("not_checked", f), must.Sprint(result.Output()))
		must.Eq(p.t, -1, w.index("not_checked", "scheduler"), must.Sprint("the agent's policy lets it read that"))
	}
	w, result := p.doctor(p.Token)
	must.Eq(p.t, -1, w.index("not_checked", ""), must.Sprint(result.Output()))
}

func workloads(p *patient) {
	p.policy("runner", `namespace "default" { capabilities = ["read-job", "dispatch-job"] }`, &api.JobACL{Namespace: "default", JobID: "ci/runner", Group: "g"})
	w, _ := p.doctor(p.Token)
	i := w.index("workload_can_submit", "policy runner")
	must.NotEq(p.t, -1, i)
	must.Eq(p.t, "open", w.Findings[i].Severity)
	must.Eq(p.t, []string{"tasks of job ci/runner, group g in namespace default"}, w.Findings[i].Who)
	p.closes("workload_can_submit", "policy runner")
	kept, _, err := p.admin.ACLPolicies().Info("runner", nil)
	must.NoError(p.t, err)
	must.Eq(p.t, &api.JobACL{Namespace: "default", JobID: "ci/runner", Group: "g"}, kept.JobACL)
	must.StrContains(p.t, kept.Rules, "read-job")
}

// logins lets everybody in who has a JWT of a key, as the role of users.
func logins(p *patient) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must.NoError(p.t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must.NoError(p.t, err)
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	_, _, err = p.admin.ACLAuthMethods().Create(&api.ACLAuthMethod{Name: "ci", Type: "JWT", TokenLocality: "local", MaxTokenTTL: time.Hour,
		Config: &api.ACLAuthMethodConfig{JWTValidationPubKeys: []string{public}}}, nil)
	must.NoError(p.t, err)
	p.policy("deployer", `namespace "ml-*" { policy = "scale" }`, nil)
	rule, _, err := p.admin.ACLBindingRules().Create(&api.ACLBindingRule{AuthMethod: "ci", BindType: "policy", BindName: "deploy${value.suffix}", Selector: "value.suffix != none"}, nil)
	must.NoError(p.t, err)
	w, result := p.doctor(p.Token)
	i := w.index("login_can_submit", rule.ID)
	must.NotEq(p.t, -1, i, must.Sprint(result.Output()))
	must.StrContains(p.t, w.Findings[i].What, "get policy deploy${value.suffix}: scale-job in namespace ml-*")
	must.Eq(p.t, []string{"who logs in with ci and matches value.suffix != none"}, w.Findings[i].Who)
	p.closes("login_can_submit", rule.ID)
	p.closes("policy_can_submit", "policy deployer")
}

func anonymous(p *patient) {
	p.policy("anonymous", `namespace "*" { capabilities = ["submit-job"] }`, nil)
	must.Eq(p.t, http.StatusOK, p.registers("", "nobody"))
	p.named("anonymous_can_submit", "namespace *")
	p.drifted("bypass.opened", "anonymous_can_submit policy anonymous")
	status := governor(p.t.Context(), p.t, p.Cluster, p.Token, "budget", "status")
	must.StrContains(p.t, status.Stdout, "around it open: anonymous_can_submit")
	must.StrContains(p.t, p.Governor.LogTail(1000), "[WARN]  governor.bypass: a way around the gate: without any token: submit-job in namespace *")
	p.closes("anonymous_can_submit", "")
	must.Eq(p.t, http.StatusForbidden, p.registers("", "nobody2"))
	p.drifted("bypass.closed", "anonymous_can_submit policy anonymous")
	status = governor(p.t.Context(), p.t, p.Cluster, p.Token, "budget", "status")
	must.StrNotContains(p.t, status.Stdout, "around it open")
}

// rejecting turns Nomad's switch on and off with the commands that doctor prints.
func rejecting(p *patient) {
	p.policy("user", `namespace "default" { policy = "write" }`, nil)
	p.named("token_can_submit", "dispatch-job, scale-job in namespace default")
	p.closes("registration_open", "")
	w, _ := p.doctor(p.Token)
	must.NotEq(p.t, -1, w.index("token_can_submit", "submit-job, dispatch-job in namespace default"),
		must.Sprint("periodic force is not rejected"))
	token, _, err := p.admin.ACLTokens().Create(&api.ACLToken{Name: "bob", Type: "client", Policies: []string{"user"}}, nil)
	must.NoError(p.t, err)
	must.Eq(p.t, http.StatusForbidden, p.registers(token.SecretID, "rejected"))
	p.drifted("bypass.opened", "registration_rejected")
	p.drifted("bypass.closed", "registration_open")
	p.closes("registration_rejected", "")
	must.Eq(p.t, http.StatusOK, p.registers(token.SecretID, "accepted"))
	p.named("registration_open", "")
}

// strays runs a GPU job around the gate.
func strays(p *patient) {
	file, err := p.WriteFile("stray.nomad.hcl", story.Job{ID: "stray", GPUs: 1, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
	must.NoError(p.t, err)
	result, err := p.NomadAs(p.t.Context(), p.Token, p.NomadAddr, "job", "run", "-detach", file)
	must.NoError(p.t, err)
	must.Eq(p.t, 0, result.ExitCode, must.Sprint(result.Output()))
	_, err = p.WaitAllocations(p.t.Context(), "stray", 1, api.AllocClientStatusRunning)
	must.NoError(p.t, err)
	must.NoError(p.t, cluster.Poll(p.t.Context(), "the job is seen", func() error {
		if w, result := p.doctor(p.Token); w.index("ungoverned_work", "job stray in namespace default") < 0 {
			return fmt.Errorf("%s", result.Output())
		}
		return nil
	}))
	socket(p, "stray")
	for _, command := range p.named("ungoverned_work", "job stray") {
		p.shell(command)
	}
	must.NoError(p.t, cluster.Poll(p.t.Context(), "the job has ended", func() error {
		if w, result := p.doctor(p.Token); w.index("ungoverned_work", "") >= 0 {
			return fmt.Errorf("%s", result.Output())
		}
		return nil
	}))
}

// socket submits a job from inside a task: its socket takes any token, so that
// fencing Nomad's addresses leaves that way to whoever may submit.
func socket(p *patient, job string) {
	p.t.Helper()
	token, _, err := p.admin.ACLTokens().Create(&api.ACLToken{Name: "carol", Type: "client", Policies: []string{"user"}}, nil)
	must.NoError(p.t, err)
	stubs, _, err := p.admin.Jobs().Allocations(job, true, nil)
	must.NoError(p.t, err)
	found, err := filepath.Glob(filepath.Join(p.Dir, "client1", "alloc*", stubs[0].ID, "*", "secrets", "api.sock"))
	must.NoError(p.t, err)
	must.SliceNotEmpty(p.t, found, must.Sprint("the task has a socket"))
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", found[0])
	}}}
	defer client.CloseIdleConnections()
	for secret, want := range map[string]int{"": http.StatusUnauthorized, token.SecretID: http.StatusOK} {
		must.Eq(p.t, want, p.registersBy(&client, "http://task", secret, "inside"))
	}
	p.closes("token_can_submit", "policy user")
	must.Eq(p.t, http.StatusForbidden, p.registersBy(&client, "http://task", token.SecretID, "inside2"))
}

func secrets(p *patient) {
	tokens, _, err := p.admin.ACLTokens().List(nil)
	must.NoError(p.t, err)
	_, doctor := p.doctor(p.Token)
	audit := governor(p.t.Context(), p.t, p.Cluster, p.Token, "audit", "list", "-json")
	for _, stub := range tokens {
		token, _, err := p.admin.ACLTokens().Info(stub.AccessorID, nil)
		must.NoError(p.t, err)
		for _, text := range []string{doctor.Output(), audit.Output(), p.Governor.LogTail(100000)} {
			must.StrNotContains(p.t, text, token.SecretID)
		}
	}
}

// The environment that makes the test binary the other side of fence: a command, and
// a port.
const (
	fenceCommand = "GOVERNOR_TEST_FENCE_COMMAND"
	fencePort    = "GOVERNOR_TEST_FENCE_PORT"
)

// TestMain is also the main function of the process that fence starts.
func TestMain(m *testing.M) {
	if command := os.Getenv(fenceCommand); command != "" {
		if err := fenced(command, os.Getenv(fencePort)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fence runs a command that doctor printed in a network of its own, where nobody
// else is locked out.
func fence(t *testing.T, command, port string) {
	t.Helper()
	for _, program := range []string{"unshare", "ip", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("the command that fences an address is not tried: %v", err)
			return
		}
	}
	self, err := os.Executable()
	must.NoError(t, err)
	process := exec.CommandContext(t.Context(), "unshare", "--net", self)
	process.Env = append(os.Environ(), fenceCommand+"="+command, fencePort+"="+port)
	out, err := process.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	must.StrContains(t, string(out), "fenced")
}

// fenced is the other side of fence: an address answers everybody before the command,
// and the gate alone afterwards.
func fenced(command, port string) error {
	const user, gate = "127.0.0.1", "127.0.0.2"
	if !slices.Contains(strings.Fields(command), gate) {
		return fmt.Errorf("the command does not name the gate: %s", command)
	}
	if err := sh("ip link set lo up"); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	answers := func(from string) bool {
		dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	if !answers(user) || !answers(gate) {
		return errors.New("nobody may be locked out before the command")
	}
	if err := sh(command); err != nil {
		return err
	}
	if answers(user) || !answers(gate) {
		return fmt.Errorf("after %q the user is answered: %v, the gate: %v", command, answers(user), answers(gate))
	}
	fmt.Println("fenced")
	return nil
}

func sh(command string) error {
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}
