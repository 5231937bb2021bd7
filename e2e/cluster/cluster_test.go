package cluster_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/docker"
)

// envJob prints its environment in a chroot and ends.
const envJob = `
job "print-env" {
  type = "batch"
  group "g" {
    task "t" {
      driver = "exec"
      config {
        command = "/bin/env"
      }
      env {
        GREETING = "hello"
      }
      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
`

// sleepJob runs until it is stopped.
const sleepJob = `
job "sleeper" {
  group "g" {
    task "t" {
      driver = "exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo started; exec sleep 3600"]
      }
      kill_timeout = "1s"
      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
`

// containerJob is sleepJob with the docker driver. It does not listen to signals.
const containerJob = `
job "container" {
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image        = "` + docker.Image + `"
        network_mode = "none"
        command      = "/bin/sh"
        args         = ["-c", "trap '' TERM; echo started; while true; do sleep 1; done"]
      }
      kill_timeout = "1s"
      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
`

// plainClients is a cluster without any part of Governor.
func plainClients(names ...string) cluster.Options {
	opts := cluster.Options{Consul: true}
	for _, name := range names {
		opts.Clients = append(opts.Clients, cluster.ClientOptions{Name: name})
	}
	return opts
}

func TestExecJobRunsInSmallChroot(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := clustertest.Start(t, plainClients("client1", "client2"))

	_, err := c.Register(ctx, c.Addr(), envJob)
	must.NoError(t, err)
	allocations, err := c.WaitAllocations(ctx, "print-env", 1, api.AllocClientStatusComplete)
	must.NoError(t, err)
	must.Len(t, 1, allocations)
	env, err := c.TaskEnv(ctx, allocations[0].ID, "t")
	must.NoError(t, err)
	must.Eq(t, "hello", env["GREETING"])
	must.Eq(t, allocations[0].ID, env["NOMAD_ALLOC_ID"])

	result, err := c.Nomad(ctx, c.Addr(), "job", "status", "print-env")
	must.NoError(t, err)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	must.StrContains(t, result.Stdout, "complete")
	result, err = c.Nomad(ctx, c.Addr(), "job", "status", "no-such-job")
	must.NoError(t, err)
	must.Eq(t, 1, result.ExitCode)
	must.StrContains(t, result.Output(), "no-such-job")
}

func TestPartsSurviveStopKillAndRestart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := clustertest.Start(t, plainClients("client1"))

	_, err := c.Register(ctx, c.Addr(), sleepJob)
	must.NoError(t, err)
	before, err := c.WaitAllocations(ctx, "sleeper", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)

	c.Clients[0].Kill()
	must.False(t, c.Clients[0].Running())
	must.NoError(t, c.Clients[0].Start(ctx))
	must.NoError(t, c.Consul.Restart(ctx))
	c.Server.Kill()
	must.NoError(t, c.Server.Start(ctx))

	after, err := c.WaitAllocations(ctx, "sleeper", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Eq(t, before[0].ID, after[0].ID, must.Sprint("the task must have survived"))
	must.NoError(t, c.StopJob(ctx, "sleeper"))
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := plainClients("client1")
	opts.Docker = true
	c, err := cluster.Start(ctx, opts)
	must.NoError(t, err)
	dir := c.Dir
	closed := false
	defer func() {
		if !closed {
			_ = c.Close()
		}
	}()
	runBothTasks(t, c)
	// A killed client cannot stop its tasks: Close has to.
	c.Clients[0].Kill()

	must.NoError(t, c.Close())
	closed = true
	assertGone(t, dir)
	must.NoError(t, c.Close(), must.Sprint("closing again is harmless"))
}

// runBothTasks runs a task in a chroot and one in a container.
func runBothTasks(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for id, job := range map[string]string{"sleeper": sleepJob, "container": containerJob} {
		_, err := c.Register(t.Context(), c.NomadAddr, job)
		must.NoError(t, err)
		_, err = c.WaitAllocations(t.Context(), id, 1, api.AllocClientStatusRunning)
		must.NoError(t, err)
	}
}

// assertGone checks that no process, mount, cgroup or file of a cluster is left.
func assertGone(t *testing.T, dir string) {
	t.Helper()
	must.NoError(t, traces(dir))
	_, err := os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// traces finds processes, mounts and cgroups of a cluster.
func traces(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), dir) {
		return fmt.Errorf("something is mounted below %s", dir)
	}
	for _, pattern := range []string{"*", "*/*"} {
		groups, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", pattern, filepath.Base(dir)+"-*"))
		if err != nil || len(groups) > 0 {
			return fmt.Errorf("cgroups are left: %v (%w)", groups, err)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, process := range processes {
		for _, name := range []string{"cmdline", "environ"} {
			text, _ := os.ReadFile(filepath.Join(process, name)) // none if it has ended
			if strings.Contains(string(text), dir) {
				return fmt.Errorf("process %s is left: its %s is %q", filepath.Base(process), name, text)
			}
		}
	}
	return nil
}

func TestDetachedClusterRunsOnAndIsStoppedByItsState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := cluster.Start(ctx, plainClients("client1"))
	must.NoError(t, err)
	state, err := c.Detach()
	must.NoError(t, err)
	stopped := false
	defer func() {
		if !stopped {
			_ = cluster.StopDetached(state)
		}
	}()
	must.Len(t, 3, state.Processes)
	for _, p := range state.Processes {
		must.True(t, p.Running(), must.Sprint(p.Name))
		reused := p
		reused.StartTicks++
		must.False(t, reused.Running(), must.Sprint("another start time is another process"))
	}
	must.NoError(t, cluster.StopDetached(state))
	stopped = true
	assertGone(t, state.Dir)
}

func TestACLServerHasAManagementToken(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := clustertest.Start(t, cluster.Options{ACL: true})
	must.UUIDv4(t, c.Token)
	result, err := c.Nomad(ctx, c.Addr(), "acl", "token", "self")
	must.NoError(t, err)
	must.StrContains(t, result.Stdout, "management")
	c.Token = ""
	result, err = c.Nomad(ctx, c.Addr(), "job", "status")
	must.NoError(t, err)
	must.Eq(t, 1, result.ExitCode)
	must.StrContains(t, result.Output(), "Permission denied")
}

func TestFailedStartShowsTheLogAndLeavesNothing(t *testing.T) {
	t.Parallel()
	_, err := cluster.Start(t.Context(), cluster.Options{Clients: []cluster.ClientOptions{{Name: "server"}}})
	must.ErrorContains(t, err, `two parts are called "server"`)
}

func TestWatchdogCleansUpAfterAKilledHarness(t *testing.T) {
	if os.Getenv("GOVERNOR_TEST_DIE") != "" {
		c, err := cluster.Start(t.Context(), cluster.Options{Consul: true, Docker: true, Clients: []cluster.ClientOptions{{Name: "client1"}}})
		must.NoError(t, err)
		runBothTasks(t, c)
		_, _ = os.Stdout.WriteString("dir=" + c.Dir + "\n")
		time.Sleep(time.Minute) // killed long before
		return
	}
	t.Parallel()
	self, err := os.Executable()
	must.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestWatchdogCleansUpAfterAKilledHarness$")
	cmd.Env = append(os.Environ(), "GOVERNOR_TEST_DIE=1")
	stdout, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	var dir string
	buffer := make([]byte, 4096)
	for dir == "" {
		n, err := stdout.Read(buffer)
		must.NoError(t, err)
		if _, rest, ok := strings.Cut(string(buffer[:n]), "dir="); ok {
			dir, _, _ = strings.Cut(rest, "\n")
		}
	}
	must.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	must.NoError(t, cluster.Poll(t.Context(), "wait for the watchdog", func() error { return traces(dir) }))
	_, err = os.Stat(dir + "/logs/consul.log")
	must.NoError(t, err, must.Sprint("the logs stay"))
	must.NoError(t, os.RemoveAll(dir))
}
