package device_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

const (
	shareType = "nvidia/gpu-share"
	slicedGPU = shareType + "/NVIDIA H100 80GB HBM3-shared-2"
	mpsGPU    = shareType + "/NVIDIA H100 80GB HBM3-mps-4"
)

// sharingConfig shares two GPUs of the client by index, and one by its PCI
// address through an MPS daemon that listens in a directory.
func sharingConfig(mps string) string {
	return fmt.Sprintf(`fingerprint_period = "1s"
mps_pipe_directory = %q

sharing {
  gpus     = ["0", "1"]
  replicas = 2
}

sharing {
  gpus     = ["0000:75:00.0", "NVIDIA B200*"]
  strategy = "mps"
  replicas = 4
}
`, mps)
}

// ofStrategy is a device block for shares of a sharing strategy.
func ofStrategy(count int, strategy string) string {
	return fmt.Sprintf(`device %q {
  count = %d
  constraint {
    attribute = "${device.attr.sharing_strategy}"
    value     = %q
  }
}
`, shareType, count, strategy)
}

// gpuOf is the UUID of a share's GPU.
func gpuOf(share string) string {
	uuid, _, _ := strings.Cut(share, "::")
	return uuid
}

// sharesOfGPUs: several jobs on one GPU, and whole GPUs beside it.
func sharesOfGPUs(t *testing.T, n *nodes, mps string) {
	f := fixtureOf(t, n.Client(sharesClient))
	first, second := f.UUID(sharesClient, 0), f.UUID(sharesClient, 1)
	now := n.wait(t, sharesClient, "offers shares", exactly(map[string]int{slicedGPU: 4, mpsGPU: 4, wholeH100: 5}))
	for group, wanted := range map[string]map[string]string{
		slicedGPU: {gpu.AttrShareCount: "2", gpu.AttrSharingStrategy: "time-slicing", gpu.AttrShareMemory: "40779 MiB",
			gpu.AttrMemory: "40779 MiB", gpu.AttrDeviceCount: "4", gpu.AttrGPUCount: "2"},
		mpsGPU: {gpu.AttrShareCount: "4", gpu.AttrSharingStrategy: "mps", gpu.AttrShareMemory: "20389 MiB",
			gpu.AttrDeviceCount: "4", gpu.AttrGPUCount: "1"},
		wholeH100: {gpu.AttrMemory: "81559 MiB", gpu.AttrGPUCount: "5"},
	} {
		for name, value := range wanted {
			must.Eq(t, value, now.attributes(group)[name], must.Sprint(group, " ", name))
		}
	}

	var together []*api.Allocation
	for i := range 2 {
		share := inventory.ShareID(first, i)
		a := n.run(t, job{id: fmt.Sprintf("share-%d", i), client: sharesClient, devices: pinned(shareType, 1, share), script: "env"})
		must.Eq(t, []string{share}, cluster.Devices(a))
		must.Eq(t, first, n.environment(t, a)[gpu.EnvCUDAVisible])
		n.shown(t, a, share)
		together = append(together, a)
	}
	for _, a := range together {
		n.untouched(t, a)
	}
	whole := n.run(t, job{id: "whole", client: sharesClient, devices: gpus(5)})
	for _, id := range cluster.Devices(whole) {
		must.False(t, slices.Contains([]string{first, second, f.UUID(sharesClient, 2)}, id), must.Sprint("a shared GPU is not whole: ", id))
	}
	n.register(t, job{id: "whole-sixth", client: sharesClient, devices: gpus(1)})
	why := n.blocked(t, "whole-sixth")
	must.SliceContains(t, reasons(why), noneFree, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "whole-sixth"))
	n.shownOf(t, sharesClient)
	for _, a := range together {
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}
	twoShares(t, n, first, second)
	mpsShares(t, n, mps)
}

// refusal is why the plugin does not give a task two shares of one GPU.
const refusal = "both are shares of one GPU, and two shares give a task no more than one; ask for a count of 1, or for whole GPUs"

// twoShares: Nomad knows nothing of the GPUs behind shares. Of a group of at
// most eight it takes neighbours, which are of different GPUs; where only shares
// of one GPU are free the plugin refuses them. Nomad does not restart such a
// task in its place: the job's reschedule block says when it is placed again.
func twoShares(t *testing.T, n *nodes, first, second string) {
	for i := range 3 {
		a := n.run(t, job{id: fmt.Sprintf("two-shares-%d", i), client: sharesClient, devices: ofStrategy(2, "time-slicing"), script: "env"})
		n.spread(t, a, first, second)
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}

	for i := range 2 {
		n.run(t, job{id: fmt.Sprintf("second-%d", i), client: sharesClient, devices: pinned(shareType, 1, inventory.ShareID(second, i))})
	}
	n.register(t, job{id: "refused", client: sharesClient, devices: ofStrategy(2, "time-slicing"), script: "env",
		restart:    "attempts = 3\nmode = \"fail\"",
		reschedule: "attempts = 0\ndelay = \"5s\"\ndelay_function = \"constant\"\nunlimited = true"})
	failed := n.failed(t, "refused")
	must.Eq(t, []string{inventory.ShareID(first, 0), inventory.ShareID(first, 1)}, cluster.Devices(failed))
	must.StrContains(t, events(failed), refusal)
	must.StrContains(t, events(failed), "Not Restarting: Error was unrecoverable")

	must.NoError(t, n.StopJob(t.Context(), "second-0"))
	a := n.running(t, "refused") // it may have been refused again
	must.NotEq(t, "", a.PreviousAllocation)
	n.spread(t, a, first, second)
}

// failed waits until an allocation of a job has failed.
func (n *nodes) failed(t *testing.T, id string) *api.Allocation {
	t.Helper()
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	var found *api.Allocation
	must.NoError(t, cluster.Poll(t.Context(), "wait until an allocation of "+id+" has failed", func() error {
		stubs, _, err := client.Jobs().Allocations(id, true, nil)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(stubs, func(s *api.AllocationListStub) bool { return s.ClientStatus == api.AllocClientStatusFailed })
		if at < 0 {
			return fmt.Errorf("none of %d has", len(stubs))
		}
		found, _, err = client.Allocations().Info(stubs[at].ID, nil)
		return err
	}))
	return found
}

// spread checks that a task has a share of each of two GPUs.
func (n *nodes) spread(t *testing.T, a *api.Allocation, first, second string) {
	t.Helper()
	gpus := []string{}
	for _, share := range cluster.Devices(a) {
		gpus = append(gpus, gpuOf(share))
	}
	slices.Sort(gpus)
	wanted := slices.Sorted(slices.Values([]string{first, second}))
	must.Eq(t, wanted, gpus)
	visible := strings.Split(n.environment(t, a)[gpu.EnvCUDAVisible], ",")
	must.Eq(t, []string{first, second}, visible, must.Sprint("in the order of their PCI addresses"))
}

// events are what Nomad says happened to an allocation's task.
func events(a *api.Allocation) string {
	var lines []string
	for _, e := range a.TaskStates["t"].Events {
		lines = append(lines, e.Type+": "+e.DisplayMessage)
	}
	return strings.Join(lines, "\n")
}

// mpsShares: shares of the MPS daemon are offered while it runs.
func mpsShares(t *testing.T, n *nodes, mps string) {
	ids := n.wait(t, sharesClient, "is known", func(state) error { return nil }).members()[mpsGPU]
	must.Len(t, 4, ids)
	n.wait(t, sharesClient, "says that the daemon is missing", unhealthy("mps_daemon", ids...))
	n.register(t, job{id: "mps", client: sharesClient, devices: ofStrategy(1, "mps"), script: "env"})
	why := n.blocked(t, "mps")
	must.SliceContains(t, reasons(why), noneThere, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "mps"))

	pid := filepath.Join(mps, "nvidia-cuda-mps-control.pid")
	must.NoError(t, os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))
	n.wait(t, sharesClient, "finds the daemon", healthy(ids...))
	allocations := n.bothDrivers(t, job{id: "mps", client: sharesClient, devices: ofStrategy(1, "mps"), script: "env; echo $CUDA_MPS_PIPE_DIRECTORY/*"})
	for driver, a := range allocations {
		share := cluster.Devices(a)[0]
		must.SliceContains(t, ids, share)
		env := n.environment(t, a)
		must.Eq(t, gpuOf(share), env[gpu.EnvCUDAVisible], must.Sprint(driver))
		must.Eq(t, mps, env["CUDA_MPS_PIPE_DIRECTORY"], must.Sprint(driver))
		must.Eq(t, "25", env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], must.Sprint(driver))
		must.Eq(t, "0=20389M", env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], must.Sprint(driver))
		must.StrContains(t, n.output(t, a), pid, must.Sprint("the daemon's directory in the task: ", driver))
		n.shown(t, a, share)
	}
	must.NoError(t, os.Remove(pid))
	n.wait(t, sharesClient, "says that the daemon is gone", unhealthy("mps_daemon", ids...))
	for _, a := range allocations {
		n.untouched(t, a)
	}
}
