package gang_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

// policy limits nothing that these tests reach, and lets no job wait for budget: what
// waits here waits for GPUs.
const policy = `
governor {
  enforcement = "enforce"
  unmatched   = "deny"
  timezone    = "UTC"
  currency    = "USD"
}

gpu_class "all" {
  devices = ["nvidia/gpu/Tesla V100-SXM2-16GB", "nvidia/gpu/NVIDIA H100 80GB HBM3", "nvidia/gpu/Quadro RTX 8000", "nvidia/gpu/NVIDIA L40S",
    "nvidia/gpu-share/NVIDIA L40S-shared-2", "nvidia/mig/NVIDIA A100-SXM4-40GB MIG 1g.5gb"]
}

budget "lab" {
  match {
    namespaces = ["default"]
  }
  limit "day" {
    gpu_hours = 100000
  }
  per_job {
    default_runtime = "1h"
  }
}
`

// scene is one test on its cluster.
type scene struct {
	*cluster.Cluster
	t *testing.T
}

func (s *scene) api() *api.Client {
	s.t.Helper()
	client, err := s.API(s.NomadAddr)
	must.NoError(s.t, err)
	s.t.Cleanup(client.Close)
	return client
}

func (s *scene) apply() {
	s.t.Helper()
	dir := s.t.TempDir()
	must.NoError(s.t, os.WriteFile(filepath.Join(dir, "lab.hcl"), []byte(policy), 0o600))
	result, err := s.GovernorCLI(s.t.Context(), "budget", "apply", "-auto-approve", dir)
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
}

// governor is what the CLI prints.
func (s *scene) governor(args ...string) string {
	s.t.Helper()
	result, err := s.GovernorCLI(s.t.Context(), args...)
	must.NoError(s.t, err)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return strings.Join(strings.Fields(result.Output()), " ")
}

// nomad runs the stock CLI through the gate.
func (s *scene) nomad(args ...string) cluster.Result {
	s.t.Helper()
	result, err := s.Nomad(s.t.Context(), s.GovernorAddr, args...)
	must.NoError(s.t, err)
	return result
}

// job is a job with one group.
type job struct {
	id, kind, script string
	device           string // "nvidia/gpu" when empty
	count, gpus      int
	meta             map[string]string
	constraint       string
}

func (j job) file(t *testing.T) string {
	var meta strings.Builder
	for _, key := range slices.Sorted(maps.Keys(j.meta)) {
		fmt.Fprintf(&meta, "    %s = %q\n", key, j.meta[key])
	}
	text := fmt.Sprintf(`job %q {
  type = %q

  meta {
%s  }
  %s

  group "g" {
    count = %d

    restart {
      attempts = 0
      mode     = "fail"
    }

    task "t" {
      driver       = "exec"
      kill_timeout = "1s"

      config {
        command = "/bin/sh"
        args    = ["-c", %q]
      }

      resources {
        cpu    = 50
        memory = 32
        device %q {
          count = %d
        }
      }
    }
  }
}
`, j.id, cmp.Or(j.kind, "batch"), meta.String(), j.constraint, max(1, j.count), cmp.Or(j.script, "exec sleep 3600"), cmp.Or(j.device, "nvidia/gpu"), j.gpus)
	name := filepath.Join(t.TempDir(), j.id+".nomad.hcl")
	must.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// run submits a job, which must be accepted.
func (s *scene) run(j job) string {
	s.t.Helper()
	result := s.nomad("job", "run", "-detach", j.file(s.t))
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return strings.Join(strings.Fields(result.Output()), " ")
}

func (s *scene) eventually(what string, try func() error) {
	s.t.Helper()
	must.NoError(s.t, cluster.Poll(s.t.Context(), "wait until "+what, try))
}

// running waits until exactly n allocations of a job run.
func (s *scene) running(jobID string, n int) []*api.Allocation {
	s.t.Helper()
	client := s.api()
	var found []*api.Allocation
	s.eventually(fmt.Sprintf("%d allocations of job %s run", n, jobID), func() error {
		found = nil
		stubs, _, err := client.Jobs().Allocations(jobID, true, nil)
		must.NoError(s.t, err)
		for _, stub := range stubs {
			if stub.ClientStatus == api.AllocClientStatusRunning && stub.DesiredStatus == api.AllocDesiredStatusRun {
				a, _, err := client.Allocations().Info(stub.ID, nil)
				must.NoError(s.t, err)
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

// gpusOf are the devices of an allocation.
func gpusOf(a *api.Allocation) []string {
	var ids []string
	for _, task := range a.AllocatedResources.Tasks {
		for _, d := range task.Devices {
			ids = append(ids, d.DeviceIDs...)
		}
	}
	slices.Sort(ids)
	return ids
}

// holds is what the agent knows of jobs that hold budget.
func (s *scene) holds() []agent.HoldStatus {
	s.t.Helper()
	client, err := s.API(s.GovernorAddr)
	must.NoError(s.t, err)
	defer client.Close()
	var now agent.Status
	_, err = client.Raw().Query("/governor/v1/status", &now, (&api.QueryOptions{}).WithContext(s.t.Context()))
	must.NoError(s.t, err)
	return now.Holds
}

// exact waits until the allocations of a job are compared with what was offered for
// them, and each got exactly that.
func (s *scene) exact(jobID string, allocations ...*api.Allocation) {
	s.t.Helper()
	s.eventually("the GPUs of job "+jobID+" are compared with the offer", func() error {
		compared := map[string]bool{}
		for _, h := range s.holds() {
			if h.JobID != jobID {
				continue
			}
			for _, v := range h.Placement {
				if v.Difference != "" {
					return fmt.Errorf("%s on %s: %s", v.Alloc, v.Node, v.Difference)
				}
				compared[v.Alloc] = true
			}
		}
		for _, a := range allocations {
			if !compared[a.ID] {
				return fmt.Errorf("%s is not", a.ID)
			}
		}
		return nil
	})
}

// client is a node by its name.
func (s *scene) client(name string) *cluster.Client {
	return s.Clients[slices.IndexFunc(s.Clients, func(c *cluster.Client) bool { return c.Name == name })]
}

// witness follows Nomad's events, and measures for how long each job ran in part.
type witness struct {
	mu     sync.Mutex
	wanted map[string]int
	jobs   map[string]*sighting
	failed error
}

// sighting is one job as the events tell it.
type sighting struct {
	running map[string]bool
	// partial is since when it runs in part, by the servers' clock; zero while it does
	// not. ending says that a part has ended, as it does at the end of the work and when
	// Governor takes a gang back.
	partial time.Time
	ending  bool
	longest time.Duration
	whole   int // how often all of it ran
}

// watch follows the events until the end of the test. Jobs have this many allocations.
func (s *scene) watch(wanted map[string]int) *witness {
	s.t.Helper()
	w := &witness{wanted: wanted, jobs: map[string]*sighting{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	topics := map[api.Topic][]string{api.TopicAllocation: {"*"}}
	events, err := s.api().EventStream().Stream(ctx, topics, 0, (&api.QueryOptions{Namespace: "*"}).WithContext(ctx))
	must.NoError(s.t, err)
	done := make(chan struct{})
	s.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for batch := range events {
			w.take(batch, ctx.Err() != nil)
		}
	}()
	return w
}

func (w *witness) take(batch *api.Events, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if batch.Err != nil {
		if !over && w.failed == nil {
			w.failed = batch.Err
		}
		return
	}
	for i := range batch.Events {
		a, err := batch.Events[i].Allocation()
		if err != nil || a == nil {
			w.failed = cmp.Or(w.failed, err)
			continue
		}
		if want := w.wanted[a.JobID]; want > 0 {
			w.see(a, want)
		}
	}
}

func (w *witness) see(a *api.Allocation, want int) {
	j := w.jobs[a.JobID]
	if j == nil {
		j = &sighting{running: map[string]bool{}}
		w.jobs[a.JobID] = j
	}
	at := time.Unix(0, a.ModifyTime)
	was := len(j.running)
	switch a.ClientStatus {
	case api.AllocClientStatusRunning:
		j.running[a.ID] = true
	case api.AllocClientStatusPending:
	default:
		j.ending = j.ending || j.running[a.ID] && a.ClientStatus == api.AllocClientStatusComplete
		delete(j.running, a.ID)
	}
	switch is := len(j.running); {
	case is == 0:
		j.note(at)
		j.ending = false
	case is >= want:
		j.note(at)
		if was < want {
			j.whole++
		}
	case j.ending:
		j.note(at)
	case j.partial.IsZero():
		j.partial = at
	}
}

// note ends a time in which the job ran in part.
func (j *sighting) note(at time.Time) {
	if !j.partial.IsZero() {
		j.longest = max(j.longest, at.Sub(j.partial))
	}
	j.partial = time.Time{}
}

// of is how often all of a job ran, and for how long a part of it at most until now.
func (w *witness) of(jobID string) (whole int, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.jobs[jobID]
	if j == nil {
		return 0, 0
	}
	longest = j.longest
	if !j.partial.IsZero() {
		longest = max(longest, time.Since(j.partial))
	}
	return j.whole, longest
}

func (w *witness) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}
