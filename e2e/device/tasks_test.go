package device_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

// tasksReceive is what Nomad makes of a reservation, for one task after the
// other on one client. Much of it is Nomad's doing and not the plugin's; it is
// here because users of the plugin meet it, and to notice when it changes.
func tasksReceive(t *testing.T, n *nodes) {
	for _, test := range []struct {
		name string
		play func(t *testing.T, n *nodes)
	}{
		{"of two device blocks only the last one's GPUs are visible and measured", twoBlocks},
		{"a template may replace the variables of a reservation, an env block may not", variablesReplaced},
		{"the control group allows what the task was given and nothing else", controlGroup},
		{"the variables of a reservation outlive a restart of client and task", clientRestarts},
	} {
		t.Run(test.name, func(t *testing.T) { test.play(t, n) })
	}
}

// bothDrivers runs a job with the exec driver and with docker, and returns the
// allocations by driver.
func (n *nodes) bothDrivers(t *testing.T, j job) map[string]*api.Allocation {
	t.Helper()
	ids := map[string]string{}
	for _, driver := range []string{"exec", "docker"} {
		one := j
		one.driver, one.id = driver, j.id+"-"+driver
		ids[driver] = one.id
		n.register(t, one)
	}
	allocations := map[string]*api.Allocation{}
	for driver, id := range ids {
		allocations[driver] = n.running(t, id)
	}
	return allocations
}

// twoBlocks: Nomad reserves each block by itself and merges the answers by
// name, so that the last one's variables remain, and it keeps one block's
// statistics for each group.
func twoBlocks(t *testing.T, n *nodes) {
	a := n.run(t, job{id: "two-blocks", client: ordinaryClient, devices: gpus(1) + gpus(2), script: "env"})
	var blocks [][]string
	for _, device := range a.AllocatedResources.Tasks["t"].Devices {
		blocks = append(blocks, slices.Sorted(slices.Values(device.DeviceIDs)))
	}
	must.Len(t, 2, blocks)
	must.Len(t, 1, blocks[0])
	must.Len(t, 2, blocks[1])

	env := n.environment(t, a)
	for _, name := range []string{gpu.EnvNVIDIAVisible, gpu.EnvCUDAVisible} {
		must.SliceContainsAll(t, blocks[1], strings.Split(env[name], ","), must.Sprint(name))
	}
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	must.NoError(t, cluster.Poll(t.Context(), "wait for statistics of two-blocks", func() error {
		usage, err := client.Allocations().Stats(a, nil)
		if err != nil {
			return err
		}
		var measured []string
		if task := usage.Tasks["t"]; task != nil {
			for _, group := range task.ResourceUsage.DeviceStats {
				measured = slices.AppendSeq(measured, maps.Keys(group.InstanceStats))
			}
		}
		if slices.Sort(measured); !slices.Equal(blocks[1], measured) {
			return fmt.Errorf("they are of %v, not of %v", measured, blocks[1])
		}
		return nil
	}))
}

// variablesReplaced: with the docker driver a template that names other GPUs
// reaches NVIDIA's runtime, which Nomad has chosen because of the reservation.
func variablesReplaced(t *testing.T, n *nodes) {
	const block = `env {
  NVIDIA_VISIBLE_DEVICES = "all"
}
`
	const template = `template {
  data        = "NVIDIA_VISIBLE_DEVICES=all"
  destination = "local/variables"
  env         = true
}
`
	blocks := n.bothDrivers(t, job{id: "env-block", client: ordinaryClient, devices: gpus(1), script: "env", task: block})
	templates := n.bothDrivers(t, job{id: "template", client: ordinaryClient, devices: gpus(1), script: "env", task: template})
	for driver := range blocks {
		must.Eq(t, cluster.Devices(blocks[driver])[0], n.environment(t, blocks[driver])[gpu.EnvNVIDIAVisible], must.Sprint(driver))
		env := n.environment(t, templates[driver])
		must.Eq(t, "all", env[gpu.EnvNVIDIAVisible], must.Sprint(driver))
		must.Eq(t, cluster.Devices(templates[driver])[0], env[gpu.EnvCUDAVisible], must.Sprint(driver))
	}
	container, err := n.Docker.Inspect(t.Context(), "t-"+templates["docker"].ID)
	must.NoError(t, err)
	must.Eq(t, "nvidia", container.HostConfig.Runtime)
	must.SliceContains(t, container.Config.Env, gpu.EnvNVIDIAVisible+"=all")
}

// controlGroup: what the driver was told of the devices is what the kernel
// enforces, also for nodes that the task gets hold of in another way.
func controlGroup(t *testing.T, n *nodes) {
	root := t.TempDir()
	must.NoError(t, cluster.MakeDeviceNodes(root, 4))
	given := fmt.Sprintf("devices = [{\n  host_path = %q\n  container_path = \"/dev/nvidia2\"\n}]", filepath.Join(root, "dev", "nvidia2"))
	n.register(t, job{id: "given", client: ordinaryClient, driver: "docker", config: given})
	n.register(t, job{id: "given-nothing", client: ordinaryClient, driver: "docker", devices: gpus(1)})
	n.register(t, job{id: "given-nothing-exec", client: ordinaryClient, devices: gpus(1)})

	nothing := map[string]bool{"nvidia-uvm": false, "nvidia-uvm-tools": false, "nvidia-modeset": false, "nvidiactl": false,
		"nvidia0": false, "nvidia1": false, "nvidia2": false, "nvidia3": false, "nvidia-caps/nvidia-cap1": false}
	one := maps.Clone(nothing)
	one["nvidia2"] = true
	must.Eq(t, one, n.openable(t, n.running(t, "given"), 4, 1))
	must.Eq(t, nothing, n.openable(t, n.running(t, "given-nothing"), 4, 1))
	must.Eq(t, nothing, n.openable(t, n.running(t, "given-nothing-exec"), 4, 1))
}

// clientRestarts: Nomad keeps what a reservation said of the environment, and
// does not reserve again.
func clientRestarts(t *testing.T, n *nodes) {
	allocations := n.bothDrivers(t, job{id: "restarts", client: ordinaryClient, devices: gpus(1), script: "env"})
	visible := func(driver string) string {
		env := n.environment(t, allocations[driver])
		must.Eq(t, env[gpu.EnvNVIDIAVisible], env[gpu.EnvCUDAVisible])
		return env[gpu.EnvCUDAVisible]
	}
	for driver, allocation := range allocations {
		must.Eq(t, cluster.Devices(allocation)[0], visible(driver))
	}
	client := n.Client(ordinaryClient)
	restartAgent(t, n, client)
	for driver, allocation := range allocations {
		n.untouched(t, allocation)
		n.restart(t, allocation)
		must.Eq(t, cluster.Devices(allocation)[0], visible(driver), must.Sprint(driver))
	}
}
