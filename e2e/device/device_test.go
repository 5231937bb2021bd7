package device_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// The clients, each for what is done to its GPUs.
const (
	faultyClient   = "faulty"   // single GPUs fail
	restartClient  = "worker"   // its worker is killed, its driver upgraded
	hangingClient  = "hanging"  // its driver hangs
	laterClient    = "later"    // gets its driver later
	ordinaryClient = "ordinary" // all is well
	filesClient    = "files"    // hands out device nodes and mounts libraries
	cdiClient      = "cdi"      // hands out device nodes and CDI names, as by default
	migClient      = "mig"      // has MIG instances of all sizes
	singleClient   = "single"   // offers MIG instances as GPUs
	islandsClient  = "islands"  // groups its GPUs by NUMA node
	sharesClient   = "shares"   // shares some of its GPUs
	lenientClient  = "lenient"  // says itself what conditions mean
	strictClient   = "strict"   // withholds degraded GPUs
	settingsClient = "settings" // is configured in many ways
	watchedClient  = "watched"  // somebody uses its GPUs without holding them
)

// TestPluginOnRealNomad plays what befalls GPU nodes on clients of one cluster,
// all at once: nearly all the time is spent waiting for Nomad, which tells its
// servers of a change 5 to 10 s later.
func TestPluginOnRealNomad(t *testing.T) {
	mps := t.TempDir()
	c := clustertest.Start(t, cluster.Options{Docker: true, Clients: []cluster.ClientOptions{
		{Name: faultyClient, Fixture: "dgxh100"},
		{Name: restartClient, Fixture: "l40s-x4"},
		{Name: hangingClient, Fixture: "l40s-x4"},
		{Name: laterClient, Fixture: "l40s-x4", NoDriver: true},
		{Name: ordinaryClient, Fixture: "l40s-x4"},
		{Name: filesClient, Fixture: "l40s-x4", DriverFiles: true, PluginConfig: "injection = \"devices\"\n",
			HostVolumes: map[string]string{"data": dataVolume(t)}},
		{Name: cdiClient, Fixture: "l40s-x4", DriverFiles: true, HostVolumes: map[string]string{"data": dataVolume(t)}},
		{Name: migClient, Fixture: "mig-h100", Metrics: true, PluginConfig: migConfig},
		{Name: singleClient, Fixture: "mig-a100-single", PluginConfig: "mig_strategy = \"single\"\n"},
		{Name: islandsClient, Fixture: "pcie-box-8", PluginConfig: "topology_groups = \"numa\"\n"},
		{Name: sharesClient, Fixture: "dgxh100", PluginConfig: sharingConfig(mps)},
		{Name: lenientClient, Fixture: "dgxh100", PluginConfig: lenientConfig},
		{Name: strictClient, Fixture: "l40s-x4", PluginConfig: strictConfig},
		{Name: settingsClient, Fixture: "l40s-x4", NoDriver: true, DriverFiles: true},
		{Name: watchedClient, Fixture: "dgxh100", Metrics: true, PluginConfig: fmt.Sprintf("rogue_exempt = [%q]\n", allowedCommand)},
	}})
	n := follow(t, c)
	t.Cleanup(func() {
		if losses := n.losses(); len(losses) > 0 {
			t.Errorf("nodes lost devices:\n%s", strings.Join(losses, "\n"))
		}
		for _, client := range c.Clients {
			if t.Failed() {
				t.Logf("what Nomad knew of node %s:\n%s", client.Name, n.story(client.Name))
			}
		}
	})

	var wg sync.WaitGroup
	defer wg.Wait()
	// Not t.Parallel, which would run no more of them at once than there are
	// processors.
	play := func(name string, test func(t *testing.T, n *nodes)) {
		wg.Go(func() { t.Run(name, func(t *testing.T) { test(t, n) }) })
	}
	play("a driver that hangs for a minute", driverHangs)
	for _, f := range faults() {
		play("a GPU fails: "+f.name, f.play)
	}
	play("the driver is upgraded, and workers die", workerDies)
	play("the driver is loaded later", driverComesLater)
	play("what tasks receive", tasksReceive)
	play("device nodes and libraries", filesInTasks)
	play("device nodes and CDI names", cdiInTasks)
	play("MIG instances", migInstances)
	play("MIG instances as GPUs", migAsGPUs)
	play("shares of GPUs", func(t *testing.T, n *nodes) { sharesOfGPUs(t, n, mps) })
	play("groups by NUMA node", numaIslands)
	play("conditions mean what the configuration says", healthByChoice)
	play("degraded GPUs are withheld", degradedWithheld)
	play("all settings, and wrong ones", settingsCount)
	play("Prometheus", metricsOfGPUs)
	play("who uses GPUs without holding them", gpusUsedByOthers)
}

// fault is one way in which a GPU fails.
type fault struct {
	name string
	// gpus are two GPUs of the client: one that a job holds, and a free one.
	gpus [2]int
	// why is part of the reason that the node shows.
	why    string
	begin  func(c *control.Control, gpu int) error
	repair func(c *control.Control, gpu int) error
	// shown is called when the node has shown it, or will not; nil for nothing.
	shown func()
}

func faults() []fault {
	// A GPU that is lost has the plugin open NVML again, and what the driver reports
	// meanwhile nobody hears.
	heard := make(chan struct{})
	return []fault{
		{
			"XID 79", [2]int{0, 1}, "79",
			func(c *control.Control, gpu int) error {
				return errors.Join(c.RecoveryAction(gpu, 1), c.XID(gpu, 79))
			},
			func(c *control.Control, gpu int) error { return c.RecoveryAction(gpu, 0) },
			sync.OnceFunc(func() { close(heard) }),
		},
		{
			"it is lost", [2]int{2, 3}, "lost",
			func(c *control.Control, gpu int) error {
				<-heard
				return c.SetGPULost(gpu)
			},
			(*control.Control).ClearLost,
			nil,
		},
		{
			"a memory row cannot be remapped", [2]int{4, 5}, "remap",
			func(c *control.Control, gpu int) error { return c.Number(gpu, "remap_failure", 1) },
			func(c *control.Control, gpu int) error { return c.Number(gpu, "remap_failure", 0) },
			nil,
		},
		{
			"its driver asks for a reboot", [2]int{6, 7}, "reboot",
			func(c *control.Control, gpu int) error { return c.RecoveryAction(gpu, 2) },
			func(c *control.Control, gpu int) error { return c.RecoveryAction(gpu, 0) },
			nil,
		},
	}
}

// play lets a GPU fail that a job uses, and one that is free: the node shows
// both with the reason, the job runs on, a new one waits until the GPU is well.
func (f fault) play(t *testing.T, n *nodes) {
	if f.shown == nil {
		f.shown = func() {}
	}
	defer f.shown()
	client := n.Client(faultyClient)
	ids := n.history(faultyClient, 0)[0].ids()
	used, spare := ids[f.gpus[0]], ids[f.gpus[1]]
	name := strings.ReplaceAll(strings.ToLower(f.name), " ", "-")
	holder := n.run(t, job{id: "holds-" + name, devices: gpus(1, used)})
	must.Eq(t, []string{used}, cluster.Devices(holder))

	for _, gpu := range f.gpus {
		must.NoError(t, f.begin(client.Control, gpu))
	}
	n.wait(t, faultyClient, "shows the fault", unhealthy(f.why, used, spare))
	f.shown()
	n.register(t, job{id: "waits-" + name, devices: gpus(1, spare)})
	why := n.blocked(t, "waits-"+name)
	must.SliceContains(t, reasons(why), noneThere, must.Sprintf("%+v", why))
	n.untouched(t, holder)

	for _, gpu := range f.gpus {
		must.NoError(t, f.repair(client.Control, gpu))
	}
	n.wait(t, faultyClient, "shows the repair", healthy(used, spare))
	placed := n.running(t, "waits-"+name)
	must.Eq(t, []string{spare}, cluster.Devices(placed))
	n.untouched(t, holder)
	for _, s := range n.history(faultyClient, 0) {
		for _, id := range []string{used, spare} {
			d := s.devices[slices.Index(ids, id)]
			must.True(t, d.healthy || strings.Contains(d.why, f.why), must.Sprintf("another GPU's fault: %+v", d))
		}
	}
}

// plugin is the process id of a client's plugin.
func plugin(t *testing.T, client *cluster.Client) int {
	t.Helper()
	pid, err := client.PluginPID()
	must.NoError(t, err)
	return pid
}

// restartAgent restarts a client and waits until it has another plugin.
func restartAgent(t *testing.T, n *nodes, client *cluster.Client) {
	t.Helper()
	before := plugin(t, client)
	n.restartClient(t, client)
	must.NoError(t, cluster.Poll(t.Context(), "wait for another plugin", func() error {
		pid, err := client.PluginPID()
		if err == nil && pid == before {
			err = errors.New("it is the one before")
		}
		return err
	}))
}

// nextWorker waits for a worker that is not the one before.
func nextWorker(t *testing.T, client *cluster.Client, before int) int {
	t.Helper()
	var worker int
	must.NoError(t, cluster.Poll(t.Context(), "wait for another worker of "+client.Name, func() error {
		pid, err := client.WorkerPID()
		if err == nil && pid == before {
			err = fmt.Errorf("process %d is still it", pid)
		}
		worker = pid
		return err
	}))
	return worker
}

// workerDies exchanges the driver, which takes another worker, and then kills
// worker after worker.
func workerDies(t *testing.T, n *nodes) {
	client := n.Client(restartClient)
	ids := n.devices(t, restartClient, 4)
	pid := plugin(t, client)
	holder := n.run(t, job{id: "holds-worker", client: restartClient, devices: gpus(1)})

	const version = "999.12.34"
	worker := nextWorker(t, client, 0)
	mark := n.mark(restartClient)
	must.NotEq(t, version, n.history(restartClient, 0)[0].attribute("driver_version"))
	must.NoError(t, client.UpgradeDriver(version))
	n.wait(t, restartClient, "shows the new driver", func(s state) error {
		if got := s.attribute("driver_version"); got != version {
			return fmt.Errorf("its driver is %s", got)
		}
		return nil
	})
	for _, s := range n.history(restartClient, mark) {
		must.NoError(t, healthy(ids...)(s), must.Sprint("an upgrade is no fault of the devices"))
	}
	worker = nextWorker(t, client, worker)
	must.Eq(t, pid, plugin(t, client))
	n.untouched(t, holder)

	for range 4 {
		must.NoError(t, syscall.Kill(worker, syscall.SIGKILL))
		worker = nextWorker(t, client, worker)
	}
	n.answered(t, client, ids, time.Now())
	n.wait(t, restartClient, "has healthy devices after its workers died", healthy(ids...))
	n.run(t, job{id: "after-worker", client: restartClient, devices: gpus(3)})
	must.Eq(t, pid, plugin(t, client))
	n.untouched(t, holder)
}

// driverHangs keeps one call of the driver from returning for a minute.
func driverHangs(t *testing.T, n *nodes) {
	client := n.Client(hangingClient)
	ids := n.devices(t, hangingClient, 4)
	pid := plugin(t, client)
	holder := n.run(t, job{id: "holds-hanging", client: hangingClient, devices: gpus(1)})

	const call = "nvmlDeviceGetCount_v2"
	must.NoError(t, client.Control.Hang(call, time.Minute))
	over := time.After(time.Minute)
	n.wait(t, hangingClient, "shows that the driver hangs", unhealthy("nvml_hang", ids...))
	n.register(t, job{id: "waits-hanging", client: hangingClient, devices: gpus(1)})
	why := n.blocked(t, "waits-hanging")
	must.SliceContains(t, reasons(why), noneThere, must.Sprintf("%+v", why))
	n.untouched(t, holder)
	<-over
	must.NoError(t, unhealthy("nvml_hang", ids...)(n.wait(t, hangingClient, "is known", func(state) error { return nil })))
	must.Eq(t, pid, plugin(t, client))

	must.NoError(t, client.Control.Hang(call, 0))
	n.wait(t, hangingClient, "shows that the driver answers", healthy(ids...))
	n.running(t, "waits-hanging")
	must.Eq(t, pid, plugin(t, client))
	n.untouched(t, holder)
}

// driverComesLater installs a driver on a client that runs without one, and
// loads it after that.
func driverComesLater(t *testing.T, n *nodes) {
	client := n.Client(laterClient)
	must.SliceEmpty(t, n.history(laterClient, 0)[0].devices)
	agent, pid := client.PID(), plugin(t, client)
	must.NoError(t, client.Control.InitError(control.CodeDriverNotLoaded))
	must.NoError(t, client.InstallDriver())
	must.NoError(t, cluster.Poll(t.Context(), "wait until a worker finds the library", func() error {
		worker, err := client.WorkerPID()
		if err != nil {
			return err
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", worker))
		if err == nil && !strings.Contains(string(maps), client.Library()) {
			err = errors.New("it has not")
		}
		return err
	}))
	must.Len(t, 1, n.history(laterClient, 0), must.Sprint("a driver that is not loaded offers nothing"))
	must.NoError(t, client.Control.InitError(0))
	ids := n.devices(t, laterClient, 4)
	must.Eq(t, agent, client.PID())
	must.Eq(t, pid, plugin(t, client))
	allocation := n.run(t, job{id: "uses-later", client: laterClient, devices: gpus(4)})
	must.SliceContainsAll(t, ids, cluster.Devices(allocation))
	driverReleased(t, n, client, ids)
	n.untouched(t, allocation)
	must.Eq(t, pid, plugin(t, client))
}

// driverReleased lets go of the driver by the operator's command, so that nothing
// of the plugin's has its library open, and takes it again.
func driverReleased(t *testing.T, n *nodes, client *cluster.Client, ids []string) {
	out, err := n.PluginCommand(t.Context(), client, "release")
	must.NoError(t, err)
	must.StrContains(t, out, "nomad-device-gpu resume")
	n.wait(t, client.Name, "shows that the driver is released", unhealthy("driver_released", ids...))
	must.NoError(t, cluster.Poll(t.Context(), "wait for the end of the worker", func() error {
		if worker, err := client.WorkerPID(); err == nil {
			return fmt.Errorf("process %d has the driver open", worker)
		}
		return nil
	}))
	_, err = n.PluginCommand(t.Context(), client, "resume")
	must.NoError(t, err)
	n.wait(t, client.Name, "has its driver again", healthy(ids...))
	out, err = n.PluginCommand(t.Context(), client, "doctor")
	must.NoError(t, err, must.Sprint("all is well, by the client's own configuration"))
	must.StrContains(t, out, "[ok  ] 4 GPUs")
}
