package device_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

const wholeL40S = "nvidia/gpu/NVIDIA L40S"

// lenientConfig says of conditions other than by default what they mean.
const lenientConfig = `health {
  unhealthy = ["xid_31", "row_remap_pending"]
  degraded  = ["xid_79"]
  ignore    = ["xid_48", "recovery_action"]
}
`

// healthByChoice: conditions mean what the health block says.
func healthByChoice(t *testing.T, n *nodes) {
	client := n.Client(lenientClient)
	ids := n.devices(t, lenientClient, 8)
	for gpu, xid := range []int{79, 31, 48} { // in force until the driver asks for no recovery any more
		must.NoError(t, errors.Join(client.Control.RecoveryAction(gpu, 1), client.Control.XID(gpu, xid)))
	}
	must.NoError(t, client.Control.RowRemap(3, true, false))
	n.wait(t, lenientClient, "shows a GPU degraded", degraded("xid_79: the GPU has fallen off the bus", ids[0]))
	n.wait(t, lenientClient, "shows the XID", unhealthy("xid_31", ids[1]))
	now := n.wait(t, lenientClient, "shows the row", unhealthy("row_remap_pending", ids[3]))
	must.NoError(t, healthy(ids[2], ids[4], ids[5], ids[6], ids[7])(now))
	must.Eq(t, "6", now.attribute(gpu.AttrHealthyCount))
	must.Eq(t, "1", now.attribute(gpu.AttrDegradedCount))
	must.NoError(t, cluster.Poll(t.Context(), "wait for the count of the XID that is ignored", func() error {
		all, err := n.figures(lenientClient)
		if err == nil && number(all[ids[2]], "xid.last") != 48 {
			err = fmt.Errorf("the last XID is %d", number(all[ids[2]], "xid.last"))
		}
		return err
	}))

	n.run(t, job{id: "on-degraded", client: lenientClient, devices: gpus(2, ids[0], ids[2])})
	n.register(t, job{id: "on-unhealthy", client: lenientClient, devices: gpus(1, ids[1], ids[3])})
	why := n.blocked(t, "on-unhealthy")
	must.SliceContains(t, reasons(why), noneFree, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "on-unhealthy"))
	for _, s := range n.history(lenientClient, 0) {
		must.NoError(t, healthy(ids[2])(s))
	}
}

// strictConfig withholds degraded GPUs. Of ten good readings, which are needed by
// default, only some would fit in the time that the test waits.
const strictConfig = `health_period      = "8s"
fingerprint_period = "5s"

health {
  withhold_degraded = true
  clean_readings    = 1
}
`

// degradedWithheld: a GPU that is degraded is not offered until one reading
// without its trouble.
func degradedWithheld(t *testing.T, n *nodes) {
	client := n.Client(strictClient)
	ids := n.devices(t, strictClient, 4)
	must.NoError(t, client.Control.RowRemap(1, true, false))
	n.wait(t, strictClient, "withholds the GPU", unhealthy("row_remap_pending", ids[1]))
	n.register(t, job{id: "withheld", client: strictClient, devices: gpus(1, ids[1])})
	why := n.blocked(t, "withheld")
	must.SliceContains(t, reasons(why), noneFree, must.Sprintf("%+v", why))
	must.NoError(t, client.Control.RowRemap(1, false, false))
	n.wait(t, strictClient, "offers the GPU again", healthy(ids...))
	must.Eq(t, []string{ids[1]}, cluster.Devices(n.running(t, "withheld")))
}

// wrongConfigs are blocks that keep a client from starting, and what it says.
func wrongConfigs() []struct{ block, text string } {
	return []struct{ block, text string }{
		{`topology_groups = "rack"`, `topology_groups is "rack"; it must be one of "off", "nvlink", "numa", "pcie", "auto"`},
		{`fingerprint_period = "10"`, `fingerprint_period is "10", which is not a duration; write it with a unit, such as "10s"`},
		{`ignored_gpu_ids = ["0"]`, `ignored_gpu_ids has "0", which is not a GPU UUID`},
		{`imex_channels = [5000]`, `imex_channels has 5000; channels are numbered 0 to 2047`},
		{`prometheus_address = "localhost:metrics"`, `prometheus_address is "localhost:metrics"; write an IP address and a port, such as "127.0.0.1:9400"`},
		{`library_dir = "/"`, `the library directory is "/"; it must be below /`},
		{`stats = "maybe"`, `a bool is required`},
		{`topology_group = "numa"`, `No argument or block type is named "topology_group". Did you mean "topology_groups"?`},
		{"sharing {\n  gpus = [\"*\"]\n  replicas = 1\n}", `sharing block 1: replicas is 1; it must be between 2 and 48`},
		{"sharing {\n  gpus = [\"*\"]\n  replicas = 2.5\n}", `decode the plugin block, in which numbers must be whole`},
		{"sharing {\n  gpus = [\"*\"]\n}", `The argument "replicas" is required`},
		{"sharing {\n  gpus = [\"0\"]\n  replicas = 2\n}\nsharing {\n  gpus = [\"1\"]\n  strategy = \"luck\"\n  replicas = 2\n}",
			`sharing block 2: strategy is "luck"; it must be one of "time-slicing", "mps"`},
		{"health {\n  degraded = [\"xid_seventy\"]\n}", `health: degraded has "xid_seventy"; an XID is written xid_79`},
		{"health {\n  clean_readings = -1\n}", `health: clean_readings is -1; it must be between 1 and 1000, or 0 for the default`},
	}
}

// settingsCount: a wrong block keeps the client from starting, and says why; of
// a right one all parts count, as Nomad reads its own HCL.
func settingsCount(t *testing.T, n *nodes) {
	client := n.Client(settingsClient)
	must.NoError(t, client.Stop())
	for _, wrong := range wrongConfigs() {
		must.NoError(t, client.ConfigurePlugin(wrong.block+"\n"))
		before, err := os.ReadFile(client.LogPath)
		must.NoError(t, err)
		must.ErrorContains(t, client.Start(t.Context()), "exited before it was ready", must.Sprint(wrong.block))
		after, err := os.ReadFile(client.LogPath)
		must.NoError(t, err)
		must.StrContains(t, string(after[len(before):]), wrong.text, must.Sprint(wrong.block))
	}

	f := fixtureOf(t, client)
	id := func(gpu int) string { return f.UUID(settingsClient, gpu) }
	library := client.Library() + ".elsewhere"
	must.NoError(t, client.InstallDriver())
	must.NoError(t, os.Rename(client.Library(), library))
	makeNodes(t, filepath.Join(client.DriverRoot(), "dev"), append(extraNodes(), "nvidia-caps-imex-channels/channel1"))
	must.NoError(t, client.ConfigurePlugin(everything(library, id(1))))
	must.NoError(t, client.Start(t.Context()))
	n.wait(t, settingsClient, "has the devices of its configuration", exactly(map[string]int{wholeL40S: 2, shareType + "/NVIDIA L40S-shared-3": 3}))
	script := "for node in /dev/nvidia-caps-imex-channels/* /dev/nvidia-fs* /dev/gdrdrv /dev/infiniband/*; do [ ! -c $node ] || echo $node; done; env"
	for driver, a := range n.bothDrivers(t, job{id: "everything", client: settingsClient, devices: gpus(1), script: script}) {
		ids := cluster.Devices(a)
		must.SliceContains(t, []string{id(0), id(3)}, ids[0], must.Sprint(driver))
		var nodes []string
		for line := range strings.Lines(n.output(t, a)) {
			if node, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "/dev/"); ok {
				nodes = append(nodes, node)
			}
		}
		slices.Sort(nodes)
		must.Eq(t, extraNodes(), nodes, must.Sprint(driver))
		env := n.environment(t, a)
		must.Eq(t, "/opt/gpu", env["LD_LIBRARY_PATH"], must.Sprint(driver))
		must.Eq(t, ids[0], env[gpu.EnvCUDAVisible], must.Sprint(driver))
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}
	figures, err := n.figures(settingsClient)
	must.NoError(t, err)
	must.MapEmpty(t, figures, must.Sprint("stats = false"))

	n.leave(n.wait(t, settingsClient, "is known", func(state) error { return nil }).ids()...)
	must.NoError(t, client.ConfigurePlugin("enabled = false\n"))
	n.restartClient(t, client)
	n.wait(t, settingsClient, "offers nothing", exactly(map[string]int{}))
}

// everything sets each part of the configuration that the cluster does not.
func everything(library, ignored string) string {
	return fmt.Sprintf(`enabled            = true
ignored_gpu_ids    = [%q]
fingerprint_period = "2s"
health_period      = "500ms"
nvml_library_path  = %q
stats              = false
mig_strategy       = "none"
topology_groups    = "off"
injection          = "devices"
library_dir        = "/opt/gpu"
docker_runtime     = "nvidia"
imex_channels      = [0, 3]
gds                = true
gdrcopy            = true
rdma               = true
mps_pipe_directory = "/run/mps"
mps_shm_directory  = "/dev/shm"
rogue_exempt       = ["one", "two"]

sharing {
  gpus     = ["2"]
  strategy = "time-slicing"
  replicas = 3
}

sharing {
  gpus     = ["NVIDIA H*"]
  strategy = "mps"
  replicas = 48
}

health {
  withhold_degraded = true
  clean_readings    = 5
  unhealthy         = ["xid_31"]
  degraded          = ["xid_79", "xid_95"]
  ignore            = []
}
`, ignored, library)
}

// extraNodes are the device nodes below /dev that tasks get by everything, of
// those that are not a GPU's, sorted.
func extraNodes() []string {
	return []string{"gdrdrv", "infiniband/rdma_cm", "infiniband/uverbs0", "nvidia-caps-imex-channels/channel0",
		"nvidia-caps-imex-channels/channel3", "nvidia-fs0"}
}

// makeNodes makes device nodes by these names in a directory. They are like
// /dev/null.
func makeNodes(t *testing.T, dir string, names []string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.NoError(t, unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	}
}
