package access_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/internal/certtest"
)

// budgetOf is the policy in which the jobs of some identities have a budget.
func budgetOf(t *testing.T, dir, identity string) (file string) {
	t.Helper()
	prices, _, _ := strings.Cut(exampleBudgets(t), "\nbudget ")
	file = filepath.Join(dir, "policy.hcl")
	must.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `%s
budget "acme" {
  limit "month" {
    cost = 1000
  }
  match {
    identities = [%q]
  }

  per_job {
    default_runtime = "1h"
  }
}
`, prices, identity), 0o600))
	return file
}

// mine is a job file of a job with GPUs.
func mine(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "job.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte(story.Job{ID: "mine", GPUs: 2, Device: "nvidia/gpu/Tesla V100-SXM2-16GB", MaxRuntime: "10m"}.HCL()), 0o600))
	return file
}

// secured is a gate over HTTPS that asks for client certificates, in front of a Nomad
// without ACLs.
type secured struct {
	address string
	ca      *certtest.Authority
}

func secure(t *testing.T, nomad string, users *certtest.Authority, dir string) secured {
	t.Helper()
	s := secured{ca: certtest.New(t, dir, "ca")}
	pair := s.ca.Server(t, "gate")
	s.address = "https://" + embedded(t, nomad, dir, fmt.Sprintf(`tls {
  cert_file      = %q
  key_file       = %q
  client_ca_file = %q
}
identity {
  client_certificates = true
}
`, pair.Cert, pair.Key, users.File))
	return s
}

// embedded starts an agent with the embedded store and more configuration, in front of a
// Nomad without ACLs, and returns its address.
func embedded(t *testing.T, nomad, dir, more string) string {
	t.Helper()
	root, err := toolchain.Root()
	must.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	bind := free.Addr().String()
	must.NoError(t, free.Close())
	config := filepath.Join(dir, "agent.hcl")
	must.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `bind = %q
data_dir = %q
dev = true
nomad {
  address = %q
}
gate {
  infeasible = "allow"
}
%s`, bind, dir, nomad, more), 0o600))
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	must.NoError(t, err)
	agent := exec.Command(filepath.Join(root, "bin", "governor"), "agent", "-config="+config)
	agent.Stdout, agent.Stderr = log, log
	must.NoError(t, agent.Start())
	t.Cleanup(func() {
		must.NoError(t, agent.Process.Signal(syscall.SIGTERM))
		must.NoError(t, agent.Wait(), must.Sprint("it ends with exit code 0"))
		must.NoError(t, log.Close())
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Log(string(text))
		}
	})
	return bind
}

// command runs a program with a certificate; the zero pair is none.
func (s secured) command(t *testing.T, pair certtest.Pair, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NOMAD_ADDR=" + s.address, "GOVERNOR_ADDR=" + s.address, "NOMAD_CACERT=" + s.ca.File}
	if pair.Cert != "" {
		cmd.Env = append(cmd.Env, "NOMAD_CLIENT_CERT="+pair.Cert, "NOMAD_CLIENT_KEY="+pair.Key)
	}
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// The stock CLI works through HTTPS, and where Nomad has no ACLs budgets know people by
// their certificates, or by what an authenticating proxy says.
func TestPeopleAreKnownWithoutACLs(t *testing.T) {
	c, dir := clustertest.Start(t, cluster.Options{}), t.TempDir()
	t.Run("by certificate", func(t *testing.T) { overTLS(t, c, dir) })
	t.Run("behind an authenticating proxy", func(t *testing.T) { behindProxy(t, c) })
}

func overTLS(t *testing.T, c *cluster.Cluster, dir string) {
	users := certtest.New(t, dir, "users")
	ann, bob := users.Client(t, "ann", "spiffe://corp/ml/ann"), users.Client(t, "bob", "spiffe://corp/web/bob")
	s := secure(t, c.NomadAddr, users, dir)
	root, err := toolchain.Root()
	must.NoError(t, err)
	governor := filepath.Join(root, "bin", "governor")
	nomad, _, err := toolchain.Find(t.Context(), toolchain.Nomad())
	must.NoError(t, err)
	must.NoError(t, cluster.Poll(t.Context(), "the gate serves", func() error {
		text, err := s.command(t, ann, nomad, "server", "members")
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	}))

	text, err := s.command(t, certtest.Pair{}, nomad, "status")
	must.Error(t, err)
	must.StrContains(t, text, "certificate required")

	text, err = s.command(t, ann, governor, "budget", "apply", "-auto-approve", budgetOf(t, dir, "cert:spiffe://corp/ml/*"))
	must.NoError(t, err, must.Sprint(text))
	job := mine(t, dir)
	text, err = s.command(t, bob, nomad, "job", "run", "-detach", job)
	must.Error(t, err)
	must.StrContains(t, text, "(unmatched)")
	must.StrContains(t, text, "cert:spiffe://corp/web/bob")
	text, err = s.command(t, ann, nomad, "job", "run", "-detach", job)
	must.NoError(t, err, must.Sprint(text))
	must.StrContains(t, text, "from budget acme")
}

// behindProxy is a gate that believes a proxy who its users are: only the proxy, which
// comes from an address of its own, and only where it says so once.
func behindProxy(t *testing.T, c *cluster.Cluster) {
	const proxyAddress = "127.0.0.7"
	dir := t.TempDir()
	gate := embedded(t, c.NomadAddr, dir, fmt.Sprintf(`identity {
  header {
    name          = "X-Forwarded-User"
    trusted_cidrs = ["%s/32"]
  }
}
`, proxyAddress))
	proxy, stranger := authenticating(t, gate, proxyAddress), authenticating(t, gate, "127.0.0.8")
	run := func(address, user, program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NOMAD_ADDR=" + address, "GOVERNOR_ADDR=" + address}
		if user != "" {
			cmd.Env = append(cmd.Env, "NOMAD_HTTP_AUTH="+user+":secret")
		}
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	root, err := toolchain.Root()
	must.NoError(t, err)
	nomad, _, err := toolchain.Find(t.Context(), toolchain.Nomad())
	must.NoError(t, err)
	must.NoError(t, cluster.Poll(t.Context(), "the gate serves", func() error {
		text, err := run(proxy, "ann", nomad, "server", "members")
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	}))
	text, err := run("http://"+gate, "", filepath.Join(root, "bin", "governor"), "budget", "apply", "-auto-approve", budgetOf(t, dir, "user:ann"))
	must.NoError(t, err, must.Sprint(text))

	job := mine(t, dir)
	text, err = run(proxy, "bob", nomad, "job", "run", "-detach", job)
	must.Error(t, err)
	must.StrContains(t, text, "user:bob")
	text, err = run(proxy, "twice", nomad, "job", "run", "-detach", job)
	must.Error(t, err)
	must.StrContains(t, text, "Have the proxy in front of Governor replace the header")
	text, err = run(proxy, "ann", nomad, "job", "run", "-detach", job)
	must.NoError(t, err, must.Sprint(text))
	must.StrContains(t, text, "from budget acme")
	// Whoever comes from elsewhere is nobody, whatever they say.
	text, err = run(stranger, "ann", nomad, "job", "run", "-detach", job)
	must.Error(t, err)
	must.StrContains(t, text, "(unmatched)")
	must.StrContains(t, text, "acl:disabled")
	must.StrNotContains(t, text, "user:ann")
}

// authenticating is a proxy that knows its users and connects from an address.
func authenticating(t *testing.T, gate, from string) (address string) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: &http.Transport{DialContext: dialer.DialContext},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: gate})
			user, _, _ := r.In.BasicAuth() // whose password it is, is the proxy's business
			r.Out.Header.Set("X-Forwarded-User", user)
			if user == "twice" {
				r.Out.Header.Add("X-Forwarded-User", "ann")
			}
		}})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
