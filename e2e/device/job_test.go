package device_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/docker"
)

// job is one task in one group. It is tried once unless it says otherwise: what
// fails stays as it is.
type job struct {
	id string
	// client is the name of the node that must run it; empty means any.
	client string
	// driver is "exec" or "docker"; empty means exec.
	driver string
	// devices is HCL inside the resources block; see gpus.
	devices string
	// script is run by sh before the task sleeps until it is stopped.
	script string
	// task and config are more HCL inside the task block and its config.
	task, config string
	// group is more HCL inside the group block, such as a volume.
	group string
	// restart and reschedule are the inside of these blocks; empty means never.
	restart, reschedule string
}

// gpus is a device block for a number of GPUs, each of them one of ids unless
// there are none.
func gpus(count int, ids ...string) string { return pinned("nvidia/gpu", count, ids...) }

// pinned is a device block for a number of devices, each of them one of ids
// unless there are none.
func pinned(device string, count int, ids ...string) string {
	if len(ids) == 0 {
		return fmt.Sprintf("device %q {\n  count = %d\n}\n", device, count)
	}
	return fmt.Sprintf(`device %q {
  count = %d
  constraint {
    attribute = "${device.ids}"
    operator  = "set_contains_any"
    value     = %q
  }
}
`, device, count, strings.Join(ids, ","))
}

// printed ends the output of a task's script.
const printed = "-- all is printed"

func (j job) hcl() string {
	driver, config, constraint := j.driver, j.config, ""
	if driver == "" {
		driver = "exec"
	}
	if driver == "docker" {
		config += fmt.Sprintf("\nimage = %q\nnetwork_mode = \"none\"\n", docker.Image)
	}
	if j.client != "" {
		constraint = fmt.Sprintf("constraint {\n  attribute = \"${node.unique.name}\"\n  value = %q\n}\n", j.client)
	}
	script := strings.Join([]string{j.script, "echo '" + printed + "'", "exec sleep 3600"}, "\n")
	return fmt.Sprintf(`job %q {
  type = "batch"
  %s
  group "g" {
    %s
    restart {
      %s
    }
    reschedule {
      %s
    }

    task "t" {
      driver       = %q
      kill_timeout = "1s"
      %s
      config {
        command = "/bin/sh"
        args    = ["-c", <<-SCRIPT
%s
SCRIPT
        ]
        %s
      }
      resources {
        cpu    = 50
        memory = 32
        %s
      }
    }
  }
}
`, j.id, constraint, j.group, cmp.Or(j.restart, "attempts = 0\n      mode     = \"fail\""), cmp.Or(j.reschedule, "attempts  = 0\n      unlimited = false"), driver, j.task, escaped(script), config, j.devices)
}

// escaped keeps the shell's ${} from HCL.
func escaped(script string) string { return strings.ReplaceAll(script, "${", "$${") }

// register registers a job that its test does not expect to run at once.
func (n *nodes) register(t *testing.T, j job) {
	t.Helper()
	_, err := n.Register(t.Context(), n.Addr(), j.hcl())
	must.NoError(t, err, must.Sprint(j.hcl()))
}

// run runs a job and waits until its task runs. The job is stopped with the test.
func (n *nodes) run(t *testing.T, j job) *api.Allocation {
	t.Helper()
	n.register(t, j)
	return n.running(t, j.id)
}

// running waits until a registered job runs, and stops it with the test.
func (n *nodes) running(t *testing.T, id string) *api.Allocation {
	t.Helper()
	allocations, err := n.WaitAllocations(t.Context(), id, 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Len(t, 1, allocations)
	t.Cleanup(func() {
		if err := n.StopJob(context.WithoutCancel(t.Context()), id); err != nil {
			t.Errorf("stop job %s: %v", id, err)
		}
	})
	return allocations[0]
}

// output is what a task's script has printed since the task was last started,
// all of it. It is read from the client's directory: Nomad may say of a task that
// runs "not started yet. No logs available" until something happens to the task
// (1.11.3: what alloc_runner.go, AllocState, read before, clientAlloc writes back).
func (n *nodes) output(t *testing.T, allocation *api.Allocation) string {
	t.Helper()
	runs := n.task(t, allocation).Restarts + 1
	var text string
	must.NoError(t, cluster.Poll(t.Context(), "wait for the output of "+allocation.JobID, func() error {
		got, err := os.ReadFile(filepath.Join(n.Dir, allocation.NodeName, "alloc", allocation.ID, "alloc", "logs", "t.stdout.0"))
		if err != nil {
			return err
		}
		whole := strings.Split(string(got), printed+"\n")
		if uint64(len(whole)) != runs+1 {
			return fmt.Errorf("so far: %q", got)
		}
		text = whole[runs-1]
		return nil
	}))
	return text
}

// task is the present state of an allocation's task.
func (n *nodes) task(t *testing.T, allocation *api.Allocation) *api.TaskState {
	t.Helper()
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	now, _, err := client.Allocations().Info(allocation.ID, nil)
	must.NoError(t, err)
	must.MapContainsKey(t, now.TaskStates, "t")
	return now.TaskStates["t"]
}

// restart restarts a running task in its allocation, and waits until it runs.
func (n *nodes) restart(t *testing.T, allocation *api.Allocation) {
	t.Helper()
	before := n.task(t, allocation).Restarts
	result, err := n.Nomad(t.Context(), n.Addr(), "alloc", "restart", allocation.ID)
	must.NoError(t, err)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	must.NoError(t, cluster.Poll(t.Context(), "wait for the restart of "+allocation.JobID, func() error {
		if now := n.task(t, allocation); now.State != "running" || now.Restarts != before+1 {
			return fmt.Errorf("it is %s after %d restarts", now.State, now.Restarts)
		}
		return nil
	}))
}

// environment is what a task whose script is env has in its environment.
func (n *nodes) environment(t *testing.T, allocation *api.Allocation) map[string]string {
	t.Helper()
	env := map[string]string{}
	for line := range strings.Lines(n.output(t, allocation)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			env[name] = value
		}
	}
	return env
}

// untouched checks that a task runs on as it was: the same process, never
// restarted, with its devices.
func (n *nodes) untouched(t *testing.T, before *api.Allocation) {
	t.Helper()
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	stubs, _, err := client.Jobs().Allocations(before.JobID, true, nil)
	must.NoError(t, err)
	must.Len(t, 1, stubs)
	must.Eq(t, before.ID, stubs[0].ID)
	after, _, err := client.Allocations().Info(before.ID, nil)
	must.NoError(t, err)
	must.Eq(t, api.AllocClientStatusRunning, after.ClientStatus)
	must.Eq(t, api.AllocDesiredStatusRun, after.DesiredStatus)
	was, is := before.TaskStates["t"], after.TaskStates["t"]
	must.Eq(t, was.StartedAt, is.StartedAt)
	must.Eq(t, 0, is.Restarts)
	must.Eq(t, cluster.Devices(before), cluster.Devices(after))
}

// blocked waits until a registered job waits for a node, and returns why it
// was placed nowhere.
func (n *nodes) blocked(t *testing.T, id string) *api.AllocationMetric {
	t.Helper()
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	var why *api.AllocationMetric
	must.NoError(t, cluster.Poll(t.Context(), "wait for job "+id+" to be blocked", func() error {
		evaluations, _, err := client.Jobs().Evaluations(id, nil)
		if err != nil {
			return err
		}
		waits := false
		for _, e := range evaluations {
			waits = waits || e.Status == api.EvalStatusBlocked
			if metric := e.FailedTGAllocs["g"]; metric != nil {
				why = metric
			}
		}
		if !waits || why == nil {
			return errors.New("it is not")
		}
		return nil
	}))
	allocations, _, err := client.Jobs().Allocations(id, true, nil)
	must.NoError(t, err)
	must.SliceEmpty(t, allocations)
	return why
}

// What Nomad says where a node has too few healthy devices that match, counting
// those in use; and where it has enough, which are in use, or are not those that
// the job names.
const (
	noneThere = "missing devices"
	noneFree  = "devices: no devices match request"
)

// reasons are the words with which Nomad says why a job was placed nowhere.
func reasons(metric *api.AllocationMetric) []string {
	var words []string
	for _, counts := range []map[string]int{metric.ConstraintFiltered, metric.DimensionExhausted, metric.ClassFiltered} {
		for reason := range counts {
			words = append(words, reason)
		}
	}
	return words
}

// inside runs a shell script in a running task, beside its own process, and
// returns what it prints. It must not be used after a restart of the client:
// Nomad's executor then dies of it, and the task with it (Nomad issue 27815).
func (n *nodes) inside(t *testing.T, allocation *api.Allocation, script string) string {
	t.Helper()
	result, err := n.Nomad(t.Context(), n.Addr(), "alloc", "exec", "-i=false", "-t=false", allocation.ID, "/bin/sh", "-c", script)
	must.NoError(t, err)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	return result.Stdout
}

// openNodes is a script that tries to open the nodes that placeNodes made.
const openNodes = `for node in /local/probe/dev/nvidia* /local/probe/dev/nvidia-caps/*; do [ ! -c "$node" ] || cat "$node" 2>&1 || true; done`

// placeNodes makes device nodes like NVIDIA's in the directory of an
// allocation's task. The task sees them whatever it was given, so that opening
// one asks its control group alone.
func (n *nodes) placeNodes(t *testing.T, allocation *api.Allocation, gpus int, capabilities ...int) {
	t.Helper()
	taskDir := filepath.Join(n.Dir, allocation.NodeName, "alloc", allocation.ID, "t", "local")
	must.NoError(t, cluster.MakeDeviceNodes(filepath.Join(taskDir, "probe"), gpus, capabilities...))
}

// answer is what cat says of a node that it cannot open.
var answer = regexp.MustCompile(`(?m)^cat: /local/probe/dev/(\S+): (.*)$`)

// opened reads what openNodes printed: the nodes, and whether the task's
// control group allows each. Those that are allowed have no driver.
func opened(t *testing.T, output string) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	for _, match := range answer.FindAllStringSubmatch(output, -1) {
		switch match[2] {
		case "No such device or address":
			allowed[match[1]] = true
		case "Operation not permitted":
			allowed[match[1]] = false
		default:
			t.Fatalf("opening %s says %q: neither allowed nor denied", match[1], match[2])
		}
	}
	return allowed
}

// openable reports which of NVIDIA's device nodes a running task may open.
func (n *nodes) openable(t *testing.T, allocation *api.Allocation, gpus int, capabilities ...int) map[string]bool {
	t.Helper()
	n.placeNodes(t, allocation, gpus, capabilities...)
	return opened(t, n.inside(t, allocation, openNodes))
}
