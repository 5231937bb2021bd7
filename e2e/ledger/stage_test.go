package ledger_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"golang.org/x/sync/semaphore"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// The GPUs of the stage: three nodes with eight H100 each and one with four L40S.
const (
	h100 = "nvidia/gpu/NVIDIA H100 80GB HBM3"
	l40s = "nvidia/gpu/NVIDIA L40S"
)

// common is the part of the policy that all scenes share. A scene adds one root
// budget, named like itself.
const common = `
governor {
  enforcement = "enforce"
  unmatched   = "deny"
  timezone    = "Europe/Berlin"
  currency    = "USD"
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00+01:00"

  gpu "h100" { per_hour = 3.60 }
  gpu "l40s" { per_hour = 0.90 }

  tokens "llama-3.1-8b" {
    input_per_million  = 0.20
    cached_per_million = 0.02
    output_per_million = 0.80
  }
}
`

// startTimeout bounds the start of the cluster on two busy cores.
const startTimeout = 4 * time.Minute

// stage is the one cluster of this package, started by the first scene.
var stage struct {
	sync.Mutex
	cluster *cluster.Cluster
	err     error
	weights string // the directory of hostVolume
	// policies are the files in force, by name.
	policies map[string]string
}

// TestMain lets many scenes play at once, whatever the number of processors: nearly all
// the time is spent waiting for Nomad. It closes the cluster behind them.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := strike(code != 0); err != nil {
		fmt.Fprintf(os.Stderr, "close the cluster: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// strike closes the cluster; after a failure it keeps the logs.
func strike(failed bool) error {
	stage.Lock()
	defer stage.Unlock()
	if stage.cluster == nil {
		return nil
	}
	if root, err := toolchain.Root(); failed && err == nil {
		dir := filepath.Join(root, "e2e", "_out", "failed", "ledger")
		if err := stage.cluster.SaveLogs(dir); err != nil {
			fmt.Fprintf(os.Stderr, "logs not kept: %v\n", err)
		}
		fmt.Fprintf(os.Stderr, "all logs: %s\n%s\n", dir, stage.cluster.LogTails(8))
	}
	return errors.Join(stage.cluster.Close(), os.RemoveAll(stage.weights))
}

// hostVolume is on hopper3 alone.
const hostVolume = "llama-3-70b"

// raise starts the cluster, once.
func raise() (*cluster.Cluster, error) {
	stage.Lock()
	defer stage.Unlock()
	if stage.cluster != nil || stage.err != nil {
		return stage.cluster, stage.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if stage.weights, stage.err = os.MkdirTemp("", "weights"); stage.err != nil {
		return nil, stage.err
	}
	stage.cluster, stage.err = cluster.Start(ctx, cluster.Options{Consul: true, Governor: true, Clients: []cluster.ClientOptions{
		{Name: "hopper1", Fixture: "dgxh100"}, {Name: "hopper2", Fixture: "dgxh100"},
		{Name: "hopper3", Fixture: "dgxh100", HostVolumes: map[string]string{hostVolume: stage.weights}}, {Name: "ada", Fixture: "l40s-x4"},
	}})
	stage.policies = map[string]string{"common.hcl": common}
	return stage.cluster, stage.err
}

// scene is one test on the stage. Its name is that of its namespace and of its
// root budget.
type scene struct {
	*cluster.Cluster
	t    *testing.T
	name string
}

// h100sForScenes is how many of the 24 H100s scenes may hold at a time: with two left, some
// node of the three has two free ones for whoever has announced them.
const h100sForScenes = 22

// h100s are the GPUs that the scenes at play have announced.
var h100s = semaphore.NewWeighted(h100sForScenes)

// play begins a scene that plays at the same time as the others, once there are as many
// H100s free as it says that it holds at most: an allocation and the one in its place
// count twice, since the first has its GPUs until it has stopped. It must leave the
// servers alone. There are four L40S for all.
func play(t *testing.T, name string, most int64) *scene {
	t.Helper()
	t.Parallel()
	must.NoError(t, h100s.Acquire(t.Context(), most))
	t.Cleanup(func() { h100s.Release(most) }) // after the scene's own, which stops its jobs
	return alone(t, name)
}

// alone begins a scene during which no other plays, so that it may stop servers.
// It must leave them running.
func alone(t *testing.T, name string) *scene {
	t.Helper()
	c, err := raise()
	must.NoError(t, err, must.Sprint("start the cluster"))
	s := &scene{Cluster: c, t: t, name: name}
	_, err = s.api().Namespaces().Register(&api.Namespace{Name: name}, nil)
	must.NoError(t, err)
	t.Cleanup(s.stopAll)
	return s
}

// in is the scene in another namespace, which it must have made: "<name>-<more>".
func (s *scene) in(namespace string) *scene {
	s.t.Helper()
	other := *s
	other.name = namespace
	s.t.Cleanup(other.stopAll)
	return &other
}

// api is a client of Nomad itself, for looking; jobs go through the gate.
func (s *scene) api() *api.Client {
	s.t.Helper()
	client, err := s.API(s.NomadAddr)
	must.NoError(s.t, err)
	s.t.Cleanup(client.Close)
	return client
}

func (s *scene) query() *api.QueryOptions {
	return (&api.QueryOptions{Namespace: s.name}).WithContext(s.t.Context())
}

// stopAll ends the scene's jobs, and waits until they hold nothing.
func (s *scene) stopAll() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Minute)
	defer cancel()
	client, err := s.API(s.NomadAddr)
	must.NoError(s.t, err)
	defer client.Close()
	jobs, _, err := client.Jobs().List((&api.QueryOptions{Namespace: s.name}).WithContext(ctx))
	must.NoError(s.t, err)
	for _, j := range jobs {
		_, _, err := client.Jobs().Deregister(j.ID, false, (&api.WriteOptions{Namespace: s.name}).WithContext(ctx))
		must.NoError(s.t, err)
	}
	must.NoError(s.t, cluster.Poll(ctx, "wait until nothing of "+s.name+" holds budget", func() error {
		now, err := s.fetch(ctx)
		if err != nil {
			return err
		}
		for _, h := range now.Holds {
			if h.Namespace == s.name {
				return fmt.Errorf("job %s: %+v", h.JobID, h)
			}
		}
		return nil
	}))
}

// apply puts the scene's own root budget into force, beside those of the others.
func (s *scene) apply(policy string) {
	s.t.Helper()
	result := s.tryApply(policy)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
}

// tryApply is apply for a policy that may be refused; then the old one stays.
func (s *scene) tryApply(policy string) cluster.Result {
	s.t.Helper()
	stage.Lock()
	defer stage.Unlock()
	file := s.name + ".hcl"
	before, had := stage.policies[file]
	stage.policies[file] = policy
	dir := s.t.TempDir()
	for name, text := range stage.policies {
		must.NoError(s.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	result := s.governor("budget", "apply", "-auto-approve", dir)
	if result.ExitCode != 0 {
		delete(stage.policies, file)
		if had {
			stage.policies[file] = before
		}
	}
	return result
}

// meterEvery has the agent read all statistics this often, for as long as a scene that
// plays alone lasts: it is too much for the machine while others play.
func (s *scene) meterEvery(interval string) {
	s.t.Helper()
	set := func(text string) {
		stage.Lock()
		defer stage.Unlock()
		stage.policies["common.hcl"] = text
	}
	set(strings.Replace(common, "currency    = \"USD\"", fmt.Sprintf("currency    = \"USD\"\n\n  meter {\n    interval = %q\n  }", interval), 1))
	s.t.Cleanup(func() { set(common) }) // in force with what the next scene applies
}

// governor runs the governor CLI against the agent.
func (s *scene) governor(args ...string) cluster.Result {
	s.t.Helper()
	result, err := s.GovernorCLI(s.t.Context(), args...)
	must.NoError(s.t, err)
	return result
}

// nomad runs the stock Nomad CLI through the gate, in the scene's namespace where
// the command has one: nomad("job", "stop", ...).
func (s *scene) nomad(first, second string, args ...string) cluster.Result {
	s.t.Helper()
	all := append([]string{first, second, "-namespace=" + s.name}, args...)
	result, err := s.Nomad(s.t.Context(), s.GovernorAddr, all...)
	must.NoError(s.t, err)
	return result
}

// submit writes a job file and runs it with the stock CLI through the gate. It
// may be refused.
func (s *scene) submit(j job) cluster.Result {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), j.id+".nomad.hcl")
	must.NoError(s.t, os.WriteFile(file, []byte(j.hcl()), 0o644))
	return s.nomad("job", "run", append(slices.Clone(j.flags), "-detach", file)...)
}

// run submits a job that must be accepted and run, and returns its allocations.
func (s *scene) run(j job) []*api.Allocation {
	s.t.Helper()
	result := s.submit(j)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return s.running(j.id, max(1, j.count))
}

// running waits until exactly n allocations of a job run, and returns them.
func (s *scene) running(jobID string, n int) []*api.Allocation {
	s.t.Helper()
	var found []*api.Allocation
	s.eventually(fmt.Sprintf("%d allocations of job %s run", n, jobID), func() error {
		found = nil
		for _, a := range s.allocations(jobID) {
			if a.ClientStatus == api.AllocClientStatusRunning && a.DesiredStatus == api.AllocDesiredStatusRun {
				found = append(found, a)
			}
		}
		if len(found) != n {
			return cluster.Detail(func() string {
				return fmt.Sprintf("there are %d: %s", len(found), s.nomad("job", "status", jobID).Output())
			})
		}
		return nil
	})
	return found
}

// allocations are all of a job that Nomad knows, oldest first.
func (s *scene) allocations(jobID string) []*api.Allocation {
	s.t.Helper()
	client := s.api()
	stubs, _, err := client.Jobs().Allocations(jobID, true, s.query())
	must.NoError(s.t, err)
	var all []*api.Allocation
	for _, stub := range stubs {
		a, _, err := client.Allocations().Info(stub.ID, s.query())
		must.NoError(s.t, err)
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *api.Allocation) int { return cmp.Compare(a.CreateIndex, b.CreateIndex) })
	return all
}

// ended waits until an allocation is client-terminal, and returns it.
func (s *scene) ended(id string) *api.Allocation {
	s.t.Helper()
	var a *api.Allocation
	s.eventually("allocation "+id+" ends", func() error {
		now, _, err := s.api().Allocations().Info(id, s.query())
		must.NoError(s.t, err)
		a = now
		switch a.ClientStatus {
		case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
			return nil
		}
		return fmt.Errorf("it is %s", a.ClientStatus)
	})
	return a
}

// output is what task "t" of an allocation printed on stdout. It is read from the
// client's directory, where it stays for a while after the end.
func (s *scene) output(a *api.Allocation) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, a.NodeName, "alloc", a.ID, "alloc", "logs", "t.stdout.0"))
	must.NoError(s.t, err)
	return string(text)
}

// printed waits until the output of an allocation contains a text.
func (s *scene) printed(a *api.Allocation, text string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("job %s prints %q", a.JobID, text), func() error {
		if got := s.output(a); !strings.Contains(got, text) {
			return fmt.Errorf("so far: %q", got)
		}
		return nil
	})
}

// eventually waits up to a minute until try returns nil.
func (s *scene) eventually(what string, try func() error) {
	s.t.Helper()
	must.NoError(s.t, cluster.Poll(s.t.Context(), "wait until "+what, try))
}

// status is the agent's status document.
func (s *scene) status() agent.Status {
	s.t.Helper()
	now, err := s.fetch(s.t.Context())
	must.NoError(s.t, err)
	return now
}

func (s *scene) fetch(ctx context.Context) (agent.Status, error) {
	var now agent.Status
	client, err := s.API(s.GovernorAddr)
	if err != nil {
		return now, err
	}
	defer client.Close()
	_, err = client.Raw().Query("/governor/v1/status", &now, (&api.QueryOptions{}).WithContext(ctx))
	return now, err
}

// hold is what a job of the scene holds; nil when it holds nothing.
func (s *scene) hold(jobID string) *agent.HoldStatus {
	s.t.Helper()
	for _, h := range s.status().Holds {
		if h.Namespace == s.name && h.JobID == jobID {
			return &h
		}
	}
	return nil
}

// settled waits until a job holds nothing any more.
func (s *scene) settled(jobID string) {
	s.t.Helper()
	s.eventually("job "+jobID+" holds nothing", func() error {
		if h := s.hold(jobID); h != nil {
			return fmt.Errorf("%+v", *h)
		}
		return nil
	})
}

// limit is one limit of a budget in its current period.
func (s *scene) limit(path string, w budget.Window, d budget.Dimension) agent.LimitStatus {
	s.t.Helper()
	for _, b := range s.status().Budgets {
		for _, l := range b.Limits {
			if b.Path == path && l.Window == w.String() && l.Dimension == string(d) {
				return l
			}
		}
	}
	s.t.Fatalf("budget %s has no limit of %s in a %s", path, d, w)
	return agent.LimitStatus{}
}

// says checks that a text contains each of the parts, however its words are spaced.
func (s *scene) says(text string, parts ...string) {
	s.t.Helper()
	flat := strings.Join(strings.Fields(text), " ")
	for _, part := range parts {
		must.StrContains(s.t, flat, strings.Join(strings.Fields(part), " "))
	}
}

// job is a job of one group with one task, "t", of the exec driver.
type job struct {
	id string
	// kind is batch (also if empty), service or system.
	kind string
	// count of allocations; 0 means one. priority is Nomad's; 0 means its default.
	count, priority int
	// gpus of each allocation, of the device (h100 if empty).
	gpus   int
	device string
	// meta of the job.
	meta map[string]string
	// script is what sh runs; it sleeps until it is stopped if empty. Tasks have sh,
	// env, sleep, cat, sort, date and true.
	script string
	// killTimeout is of the task; "1s" if empty.
	killTimeout string
	// extra is more HCL inside the job block, inGroup in that of its group.
	extra, inGroup string
	// flags of nomad job run.
	flags []string
}

func (j job) hcl() string {
	var meta, device strings.Builder
	for _, key := range sortedKeys(j.meta) {
		fmt.Fprintf(&meta, "    %s = %q\n", key, j.meta[key])
	}
	if j.gpus > 0 {
		fmt.Fprintf(&device, "device %q {\n          count = %d\n        }", cmp.Or(j.device, h100), j.gpus)
	}
	reschedule := "reschedule {\n      attempts  = 0\n      unlimited = false\n    }"
	if j.kind == "service" || j.kind == "system" {
		reschedule = j.inGroup
	}
	return fmt.Sprintf(`job %q {
  type     = %q
  priority = %d

  meta {
%s  }
  %s

  group "g" {
    count = %d

    restart {
      attempts = 0
      mode     = "fail"
    }
    %s

    task "t" {
      driver       = "exec"
      kill_timeout = %q

      config {
        command = "/bin/sh"
        args    = ["-c", <<-SCRIPT
%s
SCRIPT
        ]
      }

      resources {
        cpu    = 50
        memory = 32
        %s
      }
    }
  }
}
`, j.id, cmp.Or(j.kind, "batch"), cmp.Or(j.priority, 50), meta.String(), j.extra, max(1, j.count), reschedule,
		cmp.Or(j.killTimeout, "1s"), strings.ReplaceAll(cmp.Or(j.script, "exec sleep 3600"), "${", "$${"), device.String())
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
