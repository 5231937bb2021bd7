package cluster_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
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
	c, err := cluster.Start(ctx, plainClients("client1"))
	must.NoError(t, err)
	dir, addr := c.Dir, c.NomadAddr
	closed := false
	defer func() {
		if !closed {
			_ = c.Close()
		}
	}()
	_, err = c.Register(ctx, addr, sleepJob)
	must.NoError(t, err)
	_, err = c.WaitAllocations(ctx, "sleeper", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	// A killed client cannot stop its task: Close has to.
	c.Clients[0].Kill()

	must.NoError(t, c.Close())
	closed = true
	assertGone(t, dir)
	must.NoError(t, c.Close(), must.Sprint("closing again is harmless"))
}

// assertGone checks that no process, mount, cgroup or file of a cluster is left.
func assertGone(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	must.StrNotContains(t, string(mounts), dir)
	out, err := exec.CommandContext(t.Context(), "ps", "-eo", "args").Output()
	must.NoError(t, err)
	must.StrNotContains(t, string(out), dir)
	_, err = os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
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
		c, err := cluster.Start(t.Context(), cluster.Options{Consul: true})
		must.NoError(t, err)
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
	must.NoError(t, cluster.Poll(t.Context(), "wait for the watchdog", func() error {
		out, err := exec.CommandContext(t.Context(), "ps", "-eo", "args").Output()
		if err != nil {
			return err
		}
		if strings.Contains(string(out), dir) {
			return os.ErrExist
		}
		return nil
	}))
	_, err = os.Stat(dir + "/logs/consul.log")
	must.NoError(t, err, must.Sprint("the logs stay"))
	must.NoError(t, os.RemoveAll(dir))
}
