package access_test

import (
	"fmt"
	"net"
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

// byCertificate gives namespace default to whom a certificate names.
const byCertificate = `
budget "acme" {
  limit "month" {
    cost = 1000
  }
  match {
    identities = ["cert:spiffe://corp/ml/*"]
  }

  per_job {
    default_runtime = "1h"
  }
}
`

// secured is a gate over HTTPS that asks for client certificates, in front of a Nomad
// without ACLs.
type secured struct {
	address string
	ca      *certtest.Authority
}

func secure(t *testing.T, nomad string, users *certtest.Authority, dir string) secured {
	t.Helper()
	root, err := toolchain.Root()
	must.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	bind := free.Addr().String()
	must.NoError(t, free.Close())
	s := secured{address: "https://" + bind, ca: certtest.New(t, dir, "ca")}
	pair := s.ca.Server(t, "gate")
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
tls {
  cert_file      = %q
  key_file       = %q
  client_ca_file = %q
}
identity {
  client_certificates = true
}
`, bind, dir, nomad, pair.Cert, pair.Key, users.File), 0o600))
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
	return s
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

// The stock CLI works through HTTPS, and where Nomad has no ACLs budgets know people
// by their certificates.
func TestOverTLS(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{})
	dir := t.TempDir()
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

	prices, _, _ := strings.Cut(exampleBudgets(t), "\nbudget ")
	policy := filepath.Join(dir, "policy.hcl")
	must.NoError(t, os.WriteFile(policy, []byte(prices+byCertificate), 0o600))
	text, err = s.command(t, ann, governor, "budget", "apply", "-auto-approve", policy)
	must.NoError(t, err, must.Sprint(text))
	job := filepath.Join(dir, "job.nomad.hcl")
	must.NoError(t, os.WriteFile(job, []byte(story.Job{ID: "mine", GPUs: 2, Device: "nvidia/gpu/Tesla V100-SXM2-16GB", MaxRuntime: "10m"}.HCL()), 0o600))
	text, err = s.command(t, bob, nomad, "job", "run", "-detach", job)
	must.Error(t, err)
	must.StrContains(t, text, "(unmatched)")
	must.StrContains(t, text, "cert:spiffe://corp/web/bob")
	text, err = s.command(t, ann, nomad, "job", "run", "-detach", job)
	must.NoError(t, err, must.Sprint(text))
	must.StrContains(t, text, "from budget acme")
}
