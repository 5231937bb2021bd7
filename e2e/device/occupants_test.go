package device_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/occupancy"
	"github.com/nomad-governor/governor/e2e/cluster"
)

// allowedCommand may use the GPUs of the watched client without holding them.
const allowedCommand = "site-monitor"

// use is a process on a GPU of the watched client.
type use struct {
	gpu, pid int
	// owner is whose process it is; nil when it is outside of Nomad.
	owner *api.Allocation
	// rogue is why it may not use the GPU, and verdict how the metrics count
	// it; both are empty when it may.
	rogue, verdict string
}

// text is what is said of a rogue use.
func (u use) text(ids []string) string {
	who := fmt.Sprintf("process %d (sleep)", u.pid)
	if u.owner != nil {
		who += fmt.Sprintf(" of task %q in allocation %s", "t", u.owner.ID)
	}
	return fmt.Sprintf("%s on %s: %s", who, ids[u.gpu], u.rogue)
}

// gpusUsedByOthers: who uses a GPU without holding it is told from who may, by
// what Nomad gave to its task, for tasks of both drivers and for processes
// outside of Nomad.
func gpusUsedByOthers(t *testing.T, n *nodes) {
	ids := n.devices(t, watchedClient, 8)
	hold := func(name, driver string, gpu int) *api.Allocation {
		return n.run(t, job{id: name, client: watchedClient, driver: driver, devices: gpus(1, ids[gpu]), script: "env"})
	}
	holder, contained, robbed := hold("holder", "exec", 0), hold("holder-docker", "docker", 1), hold("robbed", "exec", 6)
	strangers := n.bothDrivers(t, job{id: "stranger", client: watchedClient})
	stranger, container := strangers["exec"], strangers["docker"]

	const nothing = "the task was given no GPU; give it a device block"
	uses := []use{
		{0, n.process(t, holder), holder, "", ""},
		{1, n.process(t, contained), contained, "", ""},
		{2, n.process(t, stranger), stranger, nothing, "not_held"},
		{3, n.process(t, container), container, nothing, "not_held"},
		{4, outside(t, "sleep"), nil, "it belongs to no Nomad allocation", "outside"},
		{5, n.process(t, holder), holder, "the task was given other devices and uses this one too", "not_held"},
		{6, n.process(t, robbed), robbed, "", ""},
		{7, outside(t, allowedCommand), nil, "", ""},
	}
	n.begin(t, uses...)
	n.judged(t, ids, uses)

	// Whose the grant is, is known by now.
	name, grant := grantOf(t, n.environment(t, robbed))
	thief := n.run(t, job{id: "thief", client: watchedClient, task: fmt.Sprintf("env {\n  %s = %q\n}\n", name, grant)})
	stolen := use{6, n.process(t, thief), thief, "its grant belongs to another allocation", "not_held"}
	n.begin(t, stolen)
	uses = append(uses, stolen)
	n.judged(t, ids, uses)
	n.measured(t, robbed, ids[6], stolen.text(ids))

	for _, u := range uses { // it is looked at again and again, and logged once
		lines := logLines(n.Client(watchedClient), "a GPU is used by somebody who does not hold it", "device_id="+ids[u.gpu]+" ", "pid="+strconv.Itoa(u.pid)+" ")
		wanted := 0
		if u.rogue != "" {
			wanted = 1
		}
		must.Len(t, wanted, lines, must.Sprintf("%+v", u))
	}
	must.NoError(t, n.Client(watchedClient).Control.EndProcess(uses[4].gpu, uses[4].pid))
	n.judged(t, ids, slices.Delete(uses, 4, 5))
	for _, a := range []*api.Allocation{holder, contained, robbed} {
		n.untouched(t, a)
		n.shown(t, a, cluster.Devices(a)...)
	}
	n.shownOf(t, watchedClient)
}

// begin puts processes on GPUs.
func (n *nodes) begin(t *testing.T, uses ...use) {
	t.Helper()
	for _, u := range uses {
		must.NoError(t, n.Client(watchedClient).Control.StartProcess(control.Process{GPU: u.gpu, PID: u.pid, Kind: control.Compute, Bytes: 1 << 30}))
	}
}

// judged waits until the statistics of the watched client's GPUs and its metrics
// say of all uses what they are, and of nothing else.
func (n *nodes) judged(t *testing.T, ids []string, uses []use) {
	t.Helper()
	var wanted []series
	rogue, processes := make([]string, len(ids)), make([]int64, len(ids))
	for gpu, id := range ids {
		verdicts := map[string]float64{"not_held": 0, "outside": 0}
		for _, u := range uses {
			if u.gpu != gpu {
				continue
			}
			processes[gpu]++
			if u.rogue != "" {
				rogue[gpu] = u.text(ids)
				verdicts[u.verdict]++
			}
		}
		wanted = append(wanted, series{"governor_gpu_processes", map[string]string{"UUID": id}, float64(processes[gpu])},
			series{"governor_gpu_unjudged_processes", map[string]string{"UUID": id}, 0})
		for verdict, count := range verdicts {
			wanted = append(wanted, series{"governor_gpu_rogue_processes", map[string]string{"UUID": id, "verdict": verdict}, count})
		}
	}
	must.NoError(t, cluster.Poll(t.Context(), "wait for the statistics of the processes", func() error {
		now, err := n.figures(watchedClient)
		if err != nil {
			return err
		}
		var errs []error
		for gpu, id := range ids {
			if got, why := number(now[id], "processes"), text(now[id], "processes.rogue"); got != processes[gpu] || why != rogue[gpu] {
				errs = append(errs, fmt.Errorf("GPU %d has %d processes, %q; not %d, %q", gpu, got, why, processes[gpu], rogue[gpu]))
			}
		}
		return errors.Join(errs...)
	}))
	n.scraped(t, watchedClient, wanted...)
}

// measured waits until the statistics of an allocation's own GPU say who else
// uses it.
func (n *nodes) measured(t *testing.T, a *api.Allocation, id, rogue string) {
	t.Helper()
	must.NoError(t, cluster.Poll(t.Context(), "wait for the statistics of "+a.JobID, func() error {
		now, err := n.taskFigures(a)
		if err != nil {
			return err
		}
		if got := text(now[id], "processes.rogue"); got != rogue {
			return fmt.Errorf("they say %q", got)
		}
		return nil
	}))
}

// grantOf is the variable with which a task proves that it holds its devices.
func grantOf(t *testing.T, env map[string]string) (name, grant string) {
	t.Helper()
	for name, value := range env {
		if strings.HasPrefix(name, occupancy.EnvGrant+"_") {
			return name, value
		}
	}
	t.Fatalf("there is no grant in %v", env)
	return "", ""
}

// process is the id, on this machine, of the process that an allocation's task
// has become: sleep.
func (n *nodes) process(t *testing.T, a *api.Allocation) int {
	t.Helper()
	belongs := func(pid int) bool { // by the name of its control group
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return err == nil && strings.Contains(string(group), a.ID)
	}
	if container, err := n.Docker.Inspect(t.Context(), "t-"+a.ID); err == nil {
		belongs = func(pid int) bool { return pid == container.State.Pid }
	}
	var found int
	must.NoError(t, cluster.Poll(t.Context(), "find the process of "+a.JobID, func() error {
		commands, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			return err
		}
		for _, file := range commands {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return err
			}
			if command, err := os.ReadFile(file); err == nil && string(command) == "sleep\n" && belongs(pid) {
				found = pid
				return nil
			}
		}
		return errors.New("there is none")
	}))
	return found
}

// outside starts a process of that name, outside of Nomad, until the end of the
// test, and returns its id.
func outside(t *testing.T, command string) int {
	t.Helper()
	program, err := exec.LookPath("sleep")
	must.NoError(t, err)
	named := filepath.Join(t.TempDir(), command)
	must.NoError(t, os.Symlink(program, named))
	cmd := exec.Command(named, "3600")
	cmd.Env = []string{}
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
