package device_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

// listNodes is a script that lists the device nodes of NVIDIA's that a task has
// in its own /dev, and what opening each says: it has no driver, or it is denied.
const listNodes = `for node in /dev/nvidia*; do [ ! -c "$node" ] || cat "$node" 2>&1 || true; done`

// preload maps the driver's main library, found by its SONAME alone, and shows
// from where.
const preload = `LD_PRELOAD=libcuda.so.1 cat /proc/self/maps`

var ownNode = regexp.MustCompile(`(?m)^cat: /dev/(nvidia\S*): (.*)$`)

// filesInTasks: with injection = "devices" a task has its GPUs' nodes in /dev
// and no others, can open them, and cannot open another GPU's node that it gets
// hold of; and it finds the driver's libraries by SONAME. No NVIDIA runtime is
// involved, with exec or docker.
func filesInTasks(t *testing.T, n *nodes) {
	allocations := n.bothDrivers(t, job{id: "files", client: filesClient, devices: gpus(2), script: "env"})
	held := map[string]bool{}
	for driver, allocation := range allocations {
		ids := cluster.Devices(allocation)
		must.Len(t, 2, ids)
		env := n.environment(t, allocation)
		must.SliceContainsAll(t, ids, strings.Split(env[gpu.EnvCUDAVisible], ","), must.Sprint(driver))
		must.MapNotContainsKey(t, env, gpu.EnvNVIDIAVisible, must.Sprint("it would demand NVIDIA's runtime of Docker"))

		mine := map[string]bool{"nvidiactl": true, "nvidia-uvm": true, "nvidia-uvm-tools": true}
		for _, id := range ids {
			mine[fmt.Sprintf("nvidia%d", n.index(t, filesClient, id))] = true
			must.False(t, held[id], must.Sprint("held by two tasks: ", id))
			held[id] = true
		}
		answers := map[string]string{}
		for _, m := range ownNode.FindAllStringSubmatch(n.inside(t, allocation, listNodes), -1) {
			answers[m[1]] = m[2]
		}
		must.Eq(t, slices.Sorted(maps.Keys(mine)), slices.Sorted(maps.Keys(answers)), must.Sprint(driver))
		for node, answer := range answers {
			must.Eq(t, "No such device or address", answer, must.Sprintf("%s in %s: allowed, and without a driver", node, driver))
		}
		for node, allowed := range n.openable(t, allocation, 4) {
			must.Eq(t, mine[node], allowed, must.Sprintf("%s in %s, through a node made elsewhere", node, driver))
		}

		maps := n.inside(t, allocation, preload)
		must.StrContains(t, maps, "/usr/local/nvidia/lib64/libcuda.so.1", must.Sprint(driver))
	}
	container, err := n.Docker.Inspect(t.Context(), "t-"+allocations["docker"].ID)
	must.NoError(t, err)
	must.NotEq(t, "nvidia", container.HostConfig.Runtime)
	state := n.wait(t, filesClient, "shows its driver", func(s state) error {
		if got := s.attribute("driver_version"); got != injecttest.Version {
			return fmt.Errorf("its driver is %s", got)
		}
		return nil
	})
	must.Len(t, 4, state.devices)
	for _, allocation := range allocations {
		must.NoError(t, n.StopJob(t.Context(), allocation.JobID))
	}
	mountsAndVolumes(t, n)
	nodesAfterRestarts(t, n)
}

// volumeJob mounts the client's volume and lists it and the device nodes.
func volumeJob(id, client, driver string) job {
	return job{id: id, client: client, driver: driver, devices: gpus(1),
		group:  "volume \"data\" {\n  type = \"host\"\n  source = \"data\"\n}\n",
		task:   "volume_mount {\n  volume = \"data\"\n  destination = \"/data\"\n}\n",
		script: "echo /data/*\n" + listNodes}
}

// volumeMark is a file in the clients' volume.
const volumeMark = "the-volume-is-here"

// dataVolume is a directory for tasks to mount.
func dataVolume(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, volumeMark), nil, 0o644))
	return dir
}

// mountsAndVolumes: Nomad (1.11.3, task_runner_hooks.go, setMounts) replaces the
// mounts of a task's volumes by those of the reservation when it first starts.
// It is why auto never mounts. When Nomad mends it this fails, and auto may.
func mountsAndVolumes(t *testing.T, n *nodes) {
	for _, driver := range []string{"exec", "docker"} {
		a := n.run(t, volumeJob("mounts-"+driver, filesClient, driver))
		must.StrNotContains(t, n.output(t, a), volumeMark, must.Sprint(driver))
		n.restart(t, a)
		must.StrContains(t, n.output(t, a), volumeMark, must.Sprint("a restart in place has both: ", driver))
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}
}

// nodesAfterRestarts: of a reservation Nomad keeps the variables alone across a
// restart of the client, so that a task which starts again after that has no
// device nodes. A job that must not meet this asks for a new allocation instead:
// restart { attempts = 0 }.
func nodesAfterRestarts(t *testing.T, n *nodes) {
	client := n.Client(filesClient)
	a := n.run(t, job{id: "nodes-restart", client: filesClient, devices: gpus(1), script: listNodes + "; env"})
	must.StrContains(t, n.output(t, a), "/dev/nvidiactl: No such device or address")
	restartAgent(t, n, client)
	n.untouched(t, a)
	n.restart(t, a)
	out := n.output(t, a)
	must.StrNotContains(t, out, "/dev/nvidiactl: No such device or address")
	must.StrContains(t, out, gpu.EnvCUDAVisible+"="+cluster.Devices(a)[0])
}

// cdiInTasks: where Docker has no NVIDIA runtime auto gives device nodes and CDI
// names, and a task keeps its volumes.
func cdiInTasks(t *testing.T, n *nodes) {
	for _, driver := range []string{"exec", "docker"} {
		one := volumeJob("cdi-"+driver, cdiClient, driver)
		one.script += "; env; echo ${GOVERNOR_CDI_DEVICE_0}"
		a := n.run(t, one)
		out, id := n.output(t, a), cluster.Devices(a)[0]
		must.StrContains(t, out, volumeMark, must.Sprint(driver))
		must.StrContains(t, out, fmt.Sprintf("cat: /dev/nvidia%d: No such device or address", n.index(t, cdiClient, id)), must.Sprint(driver))
		must.StrContains(t, out, "GOVERNOR_CDI_DEVICES=governor.nomad/gpu="+id, must.Sprint(driver))
		must.StrContains(t, out, gpu.EnvCUDAVisible+"="+id)
		must.StrNotContains(t, out, gpu.EnvNVIDIAVisible)
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}
	spec, err := os.ReadFile(n.Client(cdiClient).CDISpec())
	must.NoError(t, err)
	for _, id := range n.devices(t, cdiClient, 4) {
		must.StrContains(t, string(spec), id)
	}
}

// index is the number of a client's GPU by NVML, which is that of its node in
// the fixtures.
func (n *nodes) index(t *testing.T, client, id string) int {
	t.Helper()
	at := slices.Index(n.history(client, 0)[0].ids(), id)
	must.GreaterEq(t, 0, at)
	return at
}
