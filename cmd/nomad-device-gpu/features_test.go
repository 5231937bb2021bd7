package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject"
	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// feature is something that nomad-device-nvidia lacks.
type feature struct {
	fixture string
	config  string
	// shows checks that it is there, in what Nomad is told and tasks are given.
	shows func(t *testing.T, n *nomad)
	// also is another test of it, in depth or on a real Nomad: its file, and its
	// function or what that plays. Empty when there is none.
	also [2]string
}

// There: none of these.
func TestDefect16TheFeaturesThatWereMissingAreThere(t *testing.T) {
	t.Parallel()
	const onNomad = "../../e2e/device/files_test.go"
	for name, f := range map[string]feature{
		"direct NVLinks": {
			fixture: "dgx1v", shows: directLinks,
			also: [2]string{"../../device/inventory/inventory_test.go", "TestGroupAttributes"},
		},
		"NVSwitch": {
			fixture: "dgxh100", shows: switchedLinks,
			also: [2]string{"../../device/inventory/inventory_test.go", "TestSwitchedLinksAreTheLesserSides"},
		},
		"PCIe topology": {
			fixture: "pcie-box-8", shows: pciePaths,
			also: [2]string{"main_test.go", "TestFingerprintTopologyAndHealthOfEachFixture"},
		},
		"NUMA nodes": {
			fixture: "dgxa100", shows: numaNodes,
			also: [2]string{"../../device/inventory/layout_test.go", "TestTopologyGroups"},
		},
		"NICs": {
			fixture: "hgxh100-rdma", shows: networkCards,
			also: [2]string{"../../device/nic/nic_test.go", "TestPathsAreThoseThatTheKernelsTreeShows"},
		},
		"compute capability and architecture": {
			fixture: "dgxh100", shows: attributesOf("gpu/NVIDIA H100 80GB HBM3", map[string]string{gpu.AttrComputeCapability: "9.0", gpu.AttrArchitecture: "hopper"}),
			also: [2]string{"../../device/nvml/nvml_test.go", "TestReadsEveryGPU"},
		},
		"CUDA version": {
			fixture: "gb10", shows: attributesOf("gpu/NVIDIA GB10", map[string]string{gpu.AttrCUDAVersion: "13.0"}),
			also: [2]string{"../../device/nvml/nvml_test.go", "TestReadsEveryGPU"},
		},
		"MIG profiles and slices": {
			fixture: "mig-h100", shows: attributesOf("mig/NVIDIA H100 80GB HBM3 MIG 3g.40gb", map[string]string{
				gpu.AttrMIGProfile: "3g.40gb", gpu.AttrMIGGPUSlices: "3", gpu.AttrMIGComputeSlices: "3", gpu.AttrMultiprocessors: "60", gpu.AttrMemory: "40448 MiB",
				gpu.AttrMIGCopyEngines: "3", gpu.AttrMIGDecoders: "3", gpu.AttrMIGJPEGEngines: "3"}),
			also: [2]string{"../../device/inventory/layout_test.go", "TestMIGGroupHasTheInstancesValues"},
		},
		"compute mode": {
			fixture: "t4", shows: figureOf("compute_mode", "default"),
		},
		"serial number": {
			fixture: "t4", shows: figureOf("board.serial", "1324220012345"),
		},
		"sharing by time slicing": {
			fixture: "l40s-x4", config: `sharing {
  gpus     = ["0", "1"]
  replicas = 4
}`, shows: timeShares,
			also: [2]string{"../../device/plugin/parts_test.go", "TestTwoSharesOfOneGPUAreRefusedAndOfTwoAreNot"},
		},
		"sharing by MPS": {
			fixture: "l40s-x4", config: `mps_pipe_directory = "MPS"
sharing {
  gpus     = ["NVIDIA L40S"]
  strategy = "mps"
  replicas = 2
}`, shows: mpsShares,
			also: [2]string{"../../device/inject/grant_test.go", "TestMPSVariables"},
		},
		"CDI": {
			fixture: "l40s-x4", config: `injection = "cdi"`, shows: cdiNames,
			also: [2]string{onNomad, "cdiInTasks"},
		},
		"device nodes": {
			fixture: "l40s-x4", config: `injection = "devices"`, shows: deviceNodes,
			also: [2]string{onNomad, "filesInTasks"},
		},
		"tasks of exec": {
			fixture: "l40s-x4", config: `injection = "devices"`, shows: libraries,
			also: [2]string{onNomad, `"exec"`},
		},
		"tasks of podman": {
			fixture: "l40s-x4", config: `injection = "cdi"`, shows: namesForPodman,
			also: [2]string{"../../e2e/injection/engine_test.go", "TestEnginesGiveWhatTheModeDevicesGives"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, f.fixture)
			config := strings.ReplaceAll(f.config, "MPS", m.dir)
			if strings.HasPrefix(config, "injection") {
				config += m.installDriver()
			}
			f.shows(t, m.start(config))
			if f.also[0] != "" {
				must.StrContains(t, string(contents(t, f.also[0])), f.also[1])
			}
		})
	}
}

// matrix is the topology of the only group.
func matrix(t *testing.T, n *nomad) *topology.Matrix {
	t.Helper()
	r := n.latest()
	must.Len(t, 1, r.groups)
	m, err := topology.Parse(r.groups[0].attributes[gpu.AttrTopology])
	must.NoError(t, err)
	must.Eq(t, len(r.devices()), m.Size())
	return m
}

func directLinks(t *testing.T, n *nomad) {
	attributesOf("gpu/Tesla V100-SXM2-16GB", map[string]string{gpu.AttrNVLinkTopology: gpu.NVLinkMesh, gpu.AttrNVLinkVersion: "2.0",
		gpu.AttrNVLinkLinks: "6", gpu.AttrNVLinkBandwidth: "154686 MB/s", gpu.AttrNVLinkIslandSize: "8"})(t, n)
	m := matrix(t, n)
	must.Eq(t, []int{2, 1, 0}, []int{m.Links(0, 3), m.Links(0, 1), m.Links(0, 5)})
}

func switchedLinks(t *testing.T, n *nomad) {
	attributesOf("gpu/NVIDIA H100 80GB HBM3", map[string]string{gpu.AttrNVLinkTopology: gpu.NVLinkSwitch, gpu.AttrNVLinkLinks: "18", gpu.AttrNVLinkIslandSize: "8"})(t, n)
	m := matrix(t, n)
	must.True(t, m.Switched())
	must.Eq(t, 18, m.Links(0, 7))
}

func pciePaths(t *testing.T, n *nomad) {
	m := matrix(t, n)
	must.Eq(t, []topology.Path{topology.PathSingle, topology.PathMultiple, topology.PathSystem}, []topology.Path{m.Path(0, 1), m.Path(0, 2), m.Path(0, 4)})
	must.MapContainsKeys(t, n.latest().groups[0].attributes, []string{gpu.AttrPCIeGeneration, gpu.AttrPCIeWidth})
}

func numaNodes(t *testing.T, n *nomad) {
	m := matrix(t, n)
	must.Eq(t, []int{3, 3, 1, 1, 7, 7, 5, 5}, []int{m.NUMA(0), m.NUMA(1), m.NUMA(2), m.NUMA(3), m.NUMA(4), m.NUMA(5), m.NUMA(6), m.NUMA(7)})
	must.NoError(t, has(gpu.AttrNUMANodes, "4")(n.latest()))
	figureOf("numa.node", "3")(t, n)
}

func networkCards(t *testing.T, n *nomad) {
	attributesOf("gpu/NVIDIA H100 80GB HBM3", map[string]string{gpu.AttrNICs: "mlx5_0,mlx5_1,mlx5_2,mlx5_3", gpu.AttrNICCount: "4", gpu.AttrNICBandwidth: "200000 MB/s"})(t, n)
	m := matrix(t, n)
	must.Eq(t, []topology.Path{topology.PathSingle, topology.PathNode, topology.PathSystem, topology.PathSystem},
		[]topology.Path{m.NICPath(1, 0), m.NICPath(1, 1), m.NICPath(1, 2), m.NICPath(1, 3)})
}

// A port that goes down is no way for a job, and one that comes back is.
func TestNICsAreThoseThatAreUp(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "hgxh100-rdma")
	n := m.start("")
	port := func(name, state string) {
		must.NoError(t, os.WriteFile(filepath.Join(m.sys(), "class", "infiniband", name, "ports", "1", "state"), []byte(state), 0o644))
	}
	must.NoError(t, has(gpu.AttrNICs, "mlx5_0,mlx5_1,mlx5_2,mlx5_3")(n.latest()))
	port("mlx5_1", "1: DOWN\n")
	n.wait("the NIC that is down to be left out", has(gpu.AttrNICs, "mlx5_0,mlx5_2,mlx5_3"))
	must.Eq(t, 3, matrix(t, n).NICs())
	port("mlx5_4", "4: ACTIVE\n")
	port("mlx5_1", "4: ACTIVE\n")
	n.wait("all of them", has(gpu.AttrNICs, "mlx5_0,mlx5_1,mlx5_2,mlx5_3,mlx5_4"))
	must.NoError(t, has(gpu.AttrNICBandwidth, "225000 MB/s")(n.latest()))
}

// A NIC whose driver does not answer is no reason to doubt the GPUs.
func TestANICThatHangsConcernsNoGPU(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "hgxh100-rdma")
	state := filepath.Join(m.sys(), "class", "infiniband", "mlx5_1", "ports", "1", "state")
	must.NoError(t, os.Remove(state))
	must.NoError(t, syscall.Mkfifo(state, 0o600)) // nobody writes: whoever reads it waits
	n := m.start("")
	for range 3 {
		time.Sleep(time.Second)
		for _, d := range n.latest().devices() {
			must.True(t, d.healthy, must.Sprint(d.why))
		}
	}
	must.MapNotContainsKey(t, n.latest().groups[0].attributes, gpu.AttrNICs, must.Sprint("nothing was ever read"))
}

// attributesOf is a feature that shows in a group's attributes.
func attributesOf(name string, want map[string]string) func(*testing.T, *nomad) {
	return func(t *testing.T, n *nomad) {
		t.Helper()
		g := n.latest().group(t, name)
		for attr, text := range want {
			must.Eq(t, text, g.attributes[attr], must.Sprint(attr))
		}
	}
}

// figureOf is a feature that shows in the statistics of the first device.
func figureOf(key, want string) func(*testing.T, *nomad) {
	return func(t *testing.T, n *nomad) {
		t.Helper()
		n.measure(key, is(n.latest().ids()[0], key, want))
	}
}

func timeShares(t *testing.T, n *nomad) {
	must.Len(t, 2, n.latest().group(t, "gpu/NVIDIA L40S").devices)
	shares := n.latest().group(t, "gpu-share/NVIDIA L40S-shared-4").devices
	must.Len(t, 8, shares)
	attributesOf("gpu-share/NVIDIA L40S-shared-4", map[string]string{gpu.AttrSharingStrategy: "time-slicing", gpu.AttrShareCount: "4", gpu.AttrShareMemory: "11517 MiB",
		gpu.AttrMemory: "11517 MiB", gpu.AttrGPUCount: "2", gpu.AttrDeviceCount: "8"})(t, n)
	r, err := n.plugin.Reserve([]string{shares[6].id})
	must.NoError(t, err)
	uuid, _, _ := strings.Cut(shares[6].id, "::")
	must.Eq(t, uuid, r.Envs[gpu.EnvCUDAVisible])
}

func mpsShares(t *testing.T, n *nomad) {
	shares := n.latest().group(t, "gpu-share/NVIDIA L40S-mps-2").devices
	must.Len(t, 8, shares)
	must.StrHasPrefix(t, "mps_daemon: no MPS control daemon serves "+n.dir, shares[0].why)
	n.place("nvidia-cuda-mps-control.pid", []byte(strconv.Itoa(os.Getpid()))) // a daemon that lives
	n.wait("the daemon", conditions(nil))
	r, err := n.plugin.Reserve([]string{shares[0].id})
	must.NoError(t, err)
	must.Eq(t, "50", r.Envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
	must.Eq(t, "0=23034M", r.Envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"])
	must.Eq(t, n.dir, r.Envs["CUDA_MPS_PIPE_DIRECTORY"])
	must.Len(t, 1, r.Mounts)
	must.Eq(t, n.dir, r.Mounts[0].TaskPath)
	must.False(t, r.Mounts[0].ReadOnly)
}

// installDriver gives the machine what the driver installs beside NVML, for the
// first and the third GPU and all, and returns the configuration for it.
func (m *machine) installDriver() string {
	m.t.Helper()
	must.NoError(m.t, m.control.DriverVersion(injecttest.Version))
	root := filepath.Join(m.dir, "root")
	driver, err := injecttest.Compile()
	must.NoError(m.t, err)
	must.NoError(m.t, driver.Install(root, "usr/lib64"))
	must.NoError(m.t, os.MkdirAll(filepath.Join(root, "dev"), 0o755))
	for _, name := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia2"} {
		const null, nothing = 1<<8 | 3, 0 // a device that is nothing needs no privilege
		path := filepath.Join(root, "dev", name)
		err := syscall.Mknod(path, syscall.S_IFCHR|0o666, null)
		if err != nil {
			err = syscall.Mknod(path, syscall.S_IFCHR|0o666, nothing)
		}
		must.NoError(m.t, err)
	}
	return fmt.Sprintf("\ndriver_root = %q\ndev_root = %q\ncdi_spec_dir = %q\n", root, root, filepath.Join(m.dir, "cdi"))
}

// given is what a task gets: variables, and files of the host by their path in
// the task.
type given struct {
	env           map[string]string
	mounts, nodes map[string]string
}

// reserve is what a task gets for the first and the third GPU, and their ids.
func reserve(t *testing.T, n *nomad) (g given, first, third string) {
	t.Helper()
	all := n.latest().ids()
	must.Len(t, 4, all)
	r, err := n.plugin.Reserve([]string{all[2], all[0]})
	must.NoError(t, err)
	must.Eq(t, all[0]+","+all[2], r.Envs[gpu.EnvCUDAVisible], must.Sprint("whatever else is lost when the client restarts"))
	g = given{r.Envs, map[string]string{}, map[string]string{}}
	for _, m := range r.Mounts {
		must.True(t, m.ReadOnly, must.Sprint(m.TaskPath))
		g.mounts[m.TaskPath] = m.HostPath
	}
	for _, d := range r.Devices {
		must.Eq(t, "rw", d.CgroupPerms, must.Sprint(d.TaskPath))
		g.nodes[d.TaskPath] = d.HostPath
	}
	_, err = n.plugin.Reserve([]string{all[1]})
	must.ErrorContains(t, err, "the device node /dev/nvidia1 does not exist")
	return g, all[0], all[2]
}

func cdiNames(t *testing.T, n *nomad) {
	g, first, third := reserve(t, n)
	must.Eq(t, "governor.nomad/gpu="+first+",governor.nomad/gpu="+third, g.env[inject.EnvCDIDevices])
	spec := string(contents(t, filepath.Join(n.dir, "cdi", "governor.nomad-gpu.json")))
	for _, part := range []string{`"name": "` + first + `"`, `"/dev/nvidia2"`, "libcuda.so." + injecttest.Version} {
		must.StrContains(t, spec, part)
	}
}

func deviceNodes(t *testing.T, n *nomad) {
	g, _, _ := reserve(t, n)
	want := map[string]string{}
	for _, path := range []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidia2", "/dev/nvidiactl"} {
		want[path] = filepath.Join(n.dir, "root", path)
	}
	must.Eq(t, want, g.nodes)
}

// libraries: exec knows of no runtime of NVIDIA's.
func libraries(t *testing.T, n *nomad) {
	g, _, _ := reserve(t, n)
	must.MapNotContainsKey(t, g.env, gpu.EnvNVIDIAVisible)
	must.Eq(t, inject.DefaultLibraryDir, g.env[inject.EnvLibraryPath])
	must.MapContainsKeys(t, g.mounts, []string{inject.DefaultLibraryDir + "/libcuda.so.1", inject.DefaultLibraryDir + "/libnvidia-ml.so.1", "/usr/bin/nvidia-smi"})
}

// namesForPodman: its driver takes devices = ["${GOVERNOR_CDI_DEVICE_0}"], and of
// a reservation variables and mounts alone.
func namesForPodman(t *testing.T, n *nomad) {
	g, first, third := reserve(t, n)
	must.Eq(t, "governor.nomad/gpu="+first, g.env[inject.EnvCDIDevicePrefix+"0"])
	must.Eq(t, "governor.nomad/gpu="+third, g.env[inject.EnvCDIDevicePrefix+"1"])
	must.MapNotContainsKey(t, g.env, gpu.EnvNVIDIAVisible)
	must.MapEmpty(t, g.mounts)
}
