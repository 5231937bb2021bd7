package jobs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

// policy limits nothing that these tests reach.
const policy = `
gpu_class "v100" {
  devices = ["nvidia/gpu/Tesla V100-SXM2-16GB"]
}

budget "lab" {
  match {
    namespaces = ["default"]
  }
  concurrent {
    gpus = 1000
  }
}
`

// scene is a cluster on which Governor is a job.
type scene struct {
	*cluster.Cluster
	t        *testing.T
	root     string
	releases releases
	nomad    *api.Client
	front    *balancer
}

func TestGovernorRunsOnTheNomadThatItGoverns(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Consul: true, Services: true, ACL: true,
		Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v", RawExec: true}}})
	root, err := toolchain.Root()
	must.NoError(t, err)
	s := &scene{Cluster: c, t: t, root: root, releases: serve(t, root, "0.1.0", "0.1.1")}
	s.nomad, err = c.API(c.NomadAddr)
	must.NoError(t, err)
	defer s.nomad.Close()
	s.front, c.GovernorAddr = balance(t, c.ConsulAddr)

	s.keepToken()
	// There is no gate yet, so this goes to Nomad itself.
	s.runs(c.NomadAddr, "0.1.0")
	s.front.awaits(t, 3)
	s.apply()
	submissions := s.submitting()
	must.NoError(t, cluster.Poll(t.Context(), "jobs are submitted", submissions.atLeast(3)))
	s.kill()
	must.NoError(t, cluster.Poll(t.Context(), "jobs are submitted while an agent is dead", submissions.atLeast(submissions.count()+5)))
	// The gate lets its own job pass.
	printed := s.runs(c.GovernorAddr, "0.1.1")
	must.StrNotContains(t, printed, "governor: ", must.Sprint("neither priced nor placed"))
	s.deployed(1)
	must.NoError(t, cluster.Poll(t.Context(), "jobs are submitted after the update", submissions.atLeast(submissions.count()+3)))
	s.balances(submissions.stop())
	s.installsThePlugin()
}

// releases are served at an address.
type releases struct {
	url     string
	digests map[string]string // SHA-256, by the archive's name
}

// serve serves releases as `make release` makes them, each with the present binaries.
func serve(t *testing.T, root string, names ...string) releases {
	t.Helper()
	served := releases{digests: map[string]string{}}
	dir := t.TempDir()
	for _, program := range []string{"governor", "nomad-device-gpu"} {
		packed := pack(t, filepath.Join(root, "bin", program))
		for _, release := range names {
			folder := filepath.Join(dir, "v"+release)
			must.NoError(t, os.MkdirAll(folder, 0o755))
			name := archiveName(program, release)
			must.NoError(t, os.WriteFile(filepath.Join(folder, name), packed, 0o644))
			served.digests[name] = fmt.Sprintf("%x", sha256.Sum256(packed))
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	served.url = server.URL
	return served
}

func archiveName(program, release string) string {
	return fmt.Sprintf("%s_%s_linux_%s.tar.gz", program, release, runtime.GOARCH)
}

// pack is an archive of a program.
func pack(t *testing.T, file string) []byte {
	t.Helper()
	program, err := os.ReadFile(file)
	must.NoError(t, err, must.Sprint("run `make dev`"))
	var packed bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&packed, gzip.NoCompression) // it is unpacked six times
	must.NoError(t, err)
	archive := tar.NewWriter(zipped)
	must.NoError(t, archive.WriteHeader(&tar.Header{Name: filepath.Base(file), Mode: 0o755, Size: int64(len(program))}))
	_, err = archive.Write(program)
	must.NoError(t, err)
	must.NoError(t, archive.Close())
	must.NoError(t, zipped.Close())
	return packed.Bytes()
}

// flags are those by which a job file gets a program of a release.
func (r releases) flags(program, release string) []string {
	return []string{"-var=release=" + release, "-var=source=" + r.url, "-var=checksum=sha256:" + r.digests[archiveName(program, release)]}
}

// keepToken makes the agents' token, and keeps it where their job finds it, with the
// commands of docs/production.md.
func (s *scene) keepToken() {
	s.t.Helper()
	s.cli("acl", "policy", "apply", "governor", filepath.Join(s.root, "jobs", "acl", "governor-agent.nomad.hcl"))
	var token api.ACLToken
	made := s.cli("acl", "token", "create", "-name=governor", "-type=client", "-policy=governor", "-json")
	must.NoError(s.t, json.Unmarshal([]byte(made), &token), must.Sprint(made))
	s.cli("var", "put", "nomad/jobs/governor", "nomad_token="+token.SecretID)
}

// cli runs the stock CLI at Nomad itself.
func (s *scene) cli(args ...string) string {
	s.t.Helper()
	result, err := s.Nomad(s.t.Context(), s.NomadAddr, args...)
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return result.Stdout
}

// runs submits the job file of a release and returns what was printed.
func (s *scene) runs(addr, release string) string {
	s.t.Helper()
	return s.submit(addr, "governor.nomad.hcl", append(s.releases.flags("governor", release), "-var=port=0",
		"-var=nomad_address="+s.NomadAddr, "-var=consul_address="+s.ConsulAddr, "-var=drain=500ms", "-var=min_healthy_time=500ms"))
}

// submit runs a file of jobs/ with the stock CLI.
func (s *scene) submit(addr, file string, flags []string) string {
	s.t.Helper()
	args := append([]string{"job", "run", "-detach"}, flags...)
	result, err := s.Nomad(s.t.Context(), addr, append(args, filepath.Join(s.root, "jobs", file))...)
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return result.Output()
}

// apply puts the policy into force, and waits until all agents have heard of it.
func (s *scene) apply() {
	s.t.Helper()
	file, err := s.WriteFile("lab.hcl", policy)
	must.NoError(s.t, err)
	result, err := s.GovernorCLI(s.t.Context(), "budget", "apply", "-auto-approve", file)
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	client, err := s.API(s.GovernorAddr)
	must.NoError(s.t, err)
	defer client.Close()
	must.NoError(s.t, cluster.Poll(s.t.Context(), "all agents have the budgets", func() error {
		for range s.front.count() { // each in turn
			var status agent.Status
			if _, err := client.Raw().Query("/governor/v1/status", &status, nil); err != nil {
				return err
			}
			if len(status.Budgets) == 0 {
				return errors.New("one has none")
			}
		}
		return nil
	}))
}

// kill ends one agent as a crash does.
func (s *scene) kill() {
	s.t.Helper()
	allocations, err := s.WaitAllocations(s.t.Context(), "governor", 3, api.AllocClientStatusRunning)
	must.NoError(s.t, err)
	must.NoError(s.t, s.nomad.Allocations().Signal(allocations[0], nil, "agent", "SIGKILL"))
}

// deployed waits until all agents are those of a version of the job.
func (s *scene) deployed(version uint64) {
	s.t.Helper()
	must.NoError(s.t, cluster.Poll(s.t.Context(), "the update", func() error {
		d, _, err := s.nomad.Jobs().LatestDeployment("governor", nil)
		if err != nil {
			return err
		}
		if d.JobVersion != version || d.Status != api.DeploymentStatusSuccessful {
			return fmt.Errorf("version %d is %s: %s", d.JobVersion, d.Status, d.StatusDescription)
		}
		return nil
	}))
}

// submissions are jobs that somebody submits one after the other.
type submissions struct {
	mu       sync.Mutex
	accepted []string
	failed   error
	stop     func() []string
}

func (s *submissions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted)
}

func (s *submissions) atLeast(n int) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.accepted) < n && s.failed == nil {
			return fmt.Errorf("%d of %d", len(s.accepted), n)
		}
		return nil
	}
}

// submitting submits jobs until stop, which returns those that were accepted. One that
// is refused ends it.
func (s *scene) submitting() *submissions {
	s.t.Helper()
	client, err := s.API(s.GovernorAddr)
	must.NoError(s.t, err)
	job, err := client.Jobs().ParseHCL(story.Job{ID: "work", GPUs: 1, Device: "nvidia/gpu", MaxRuntime: "1h"}.HCL(), true)
	must.NoError(s.t, err)
	submitted := &submissions{}
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		defer client.Close()
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprintf("work-%d", i)
			job.ID, job.Name = &id, &id
			_, _, err := client.Jobs().Register(job, nil)
			submitted.mu.Lock()
			if err != nil {
				submitted.failed = fmt.Errorf("submit job %d: %w", i, err)
				submitted.mu.Unlock()
				return
			}
			submitted.accepted = append(submitted.accepted, id)
			submitted.mu.Unlock()
			time.Sleep(250 * time.Millisecond)
		}
	})
	submitted.stop = func() []string {
		cancel()
		running.Wait()
		must.NoError(s.t, submitted.failed)
		return submitted.accepted
	}
	return submitted
}

// balances wants each job registered and held once, and nothing else.
func (s *scene) balances(jobs []string) {
	s.t.Helper()
	for _, id := range jobs {
		job, _, err := s.nomad.Jobs().Info(id, nil)
		must.NoError(s.t, err)
		must.Eq(s.t, 0, *job.Version, must.Sprint(id))
	}
	result, err := s.GovernorCLI(s.t.Context(), "budget", "status", "-json")
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	var status agent.Status
	must.NoError(s.t, json.Unmarshal([]byte(result.Stdout), &status))
	must.Len(s.t, len(jobs), status.Holds)
	must.Len(s.t, 0, status.Ungoverned)
	must.Eq(s.t, quantity.Amount(len(jobs))*quantity.GPU, status.Budgets[0].Limits[0].Held)
	verified, err := s.GovernorCLI(s.t.Context(), "usage", "verify")
	must.NoError(s.t, err)
	must.Eq(s.t, 0, verified.ExitCode, must.Sprint(verified.Output()))
	s.t.Logf("%d jobs were submitted meanwhile", len(jobs))
}

// installsThePlugin has a job put the device plugin where a client would load it.
func (s *scene) installsThePlugin() {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "plugins")
	s.submit(s.GovernorAddr, "nomad-device-gpu.nomad.hcl", append(s.releases.flags("nomad-device-gpu", "0.1.0"), "-var=plugin_dir="+dir))
	allocations, err := s.WaitAllocations(s.t.Context(), "nomad-device-gpu", 1, api.AllocClientStatusComplete)
	must.NoError(s.t, err)
	printed, err := s.Stdout(s.t.Context(), allocations[0].ID, "install")
	must.NoError(s.t, err)
	must.StrContains(s.t, printed, "What remains:")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must.NoError(s.t, err)
	must.Eq(s.t, []string{filepath.Join(dir, "nomad-device-gpu")}, files, must.Sprint("and nothing else that Nomad would start"))
	version, err := exec.CommandContext(s.t.Context(), files[0], "version").Output()
	must.NoError(s.t, err)
	must.StrContains(s.t, printed, strings.TrimSpace(string(version)))
}
