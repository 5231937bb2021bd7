package inject

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/device/inventory"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// driver makes the files of NVIDIA's driver, compiled once for all tests.
var driver injecttest.Driver

func TestMain(m *testing.M) {
	var err error
	if driver, err = injecttest.Compile(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// allNodes are the device nodes of a node with three GPUs, of which the last
// has a MIG instance.
var allNodes = []string{
	"dev/nvidia0", "dev/nvidia1", "dev/nvidia2", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia-modeset",
	"dev/nvidia-caps/nvidia-cap1", "dev/nvidia-caps/nvidia-cap2", "dev/nvidia-caps/nvidia-cap12", "dev/nvidia-caps/nvidia-cap13",
	"dev/nvidia-caps-imex-channels/channel0", "dev/nvidia-caps-imex-channels/channel7",
	"dev/nvidia-fs0", "dev/nvidia-fs1", "dev/gdrdrv", "dev/infiniband/uverbs0", "dev/infiniband/rdma_cm", "dev/infiniband/umad0",
}

const someMinors = "config 1\nmonitor 2\ngpu2/gi1/access 12\ngpu2/gi1/ci0/access 13\n"

// root is a stand-in for a whole node, in a directory.
type root struct {
	t   *testing.T
	dir string
}

// newRoot is a node with the driver and all its nodes, and without Docker.
func newRoot(t *testing.T) root {
	t.Helper()
	r := root{t, t.TempDir()}
	must.NoError(t, driver.Install(r.dir, "usr/lib64"))
	for _, name := range allNodes {
		r.write(name, "")
	}
	r.write(minorsFile, someMinors)
	return r
}

func (r root) write(name, text string) {
	r.t.Helper()
	must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, name), []byte(text), 0o644))
}

func (r root) remove(names ...string) {
	r.t.Helper()
	for _, name := range names {
		must.NoError(r.t, os.RemoveAll(filepath.Join(r.dir, name)))
	}
}

// withDocker registers runtimes with Docker.
func (r root) withDocker(text string) { r.write(dockerConfigFile, text) }

const dockerWithRuntime = `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}`

// discover looks at the node; every ordinary file counts as a device node.
func (r root) discover(mode Mode, edit ...func(*Options)) Host {
	r.t.Helper()
	o := Options{Mode: mode, HostRoot: r.dir, DriverRoot: r.dir, DevRoot: r.dir, SpecDir: filepath.Join(r.dir, "var/run/cdi")}
	for _, f := range edit {
		f(&o)
	}
	h, err := discover(o, injecttest.Version, func(info fs.FileInfo) bool { return info.Mode().IsRegular() })
	must.NoError(r.t, err)
	return h
}

// shown replaces what differs from run to run.
func (r root) shown(text string) string { return strings.ReplaceAll(text, r.dir, "ROOT") }

// golden compares with a golden file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		must.NoError(t, injecttest.Write(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	must.NoError(t, err)
	must.Eq(t, string(want), text)
}

// whole is a GPU, instance a MIG instance of the GPU with minor 2, timeShare and
// mpsShare are shares of a GPU.
func whole(minor int64) Device {
	return Device{UUID: fmt.Sprintf("GPU-0000000%d-1111-2222-3333-444444444444", minor), Minor: inventory.Known(minor)}
}

func instance() Device {
	return Device{UUID: "MIG-9c4b7f44-9ad7-5d5b-8a6f-0d1c2b3a4e5f", Minor: inventory.Known[int64](2),
		MIG: &MIG{GPUInstance: 1, ComputeInstance: 0}}
}

func timeShare(minor int64) Device {
	d := whole(minor)
	d.Share = &Share{Strategy: TimeSlicing, Replicas: 4}
	return d
}

func mpsShare(minor int64, pipe string) Device {
	d := whole(minor)
	d.Share = &Share{Strategy: MPS, Replicas: 4, MemoryMiB: 20480, PipeDirectory: pipe}
	return d
}

func TestModeChosen(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		mode    Mode
		edit    func(root)
		want    Mode
		reason  string
		finding string // part of the only finding; "" means none
	}{
		"auto takes the runtime that Docker has": {
			Auto, func(r root) { r.withDocker(dockerWithRuntime) }, Runtime, `Docker has the runtime "nvidia"`, "",
		},
		"auto gives nodes and no mounts where Docker has no such runtime": {
			Auto, func(r root) { r.withDocker(`{"runtimes": {"runsc": {}}}`) }, CDI, "the libraries and device nodes of driver 570.86.15 are here", "",
		},
		"auto says that tasks of a Docker without the runtime lack libraries": {
			Auto, func(r root) {
				must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "usr/bin/dockerd"), nil, 0o755))
			}, CDI, "Docker has no runtime", "its tasks get device nodes and no driver libraries",
		},
		"auto gives nodes and no mounts where there is no Docker": {
			Auto, func(root) {}, CDI, `Docker has no runtime "nvidia", and`, "",
		},
		"auto sets variables only where there is no device node": {
			Auto, func(r root) { r.remove("dev") }, Env, "there is no device node of a GPU below", "variables only",
		},
		"a node with the nodes of something else has no device node of a GPU": {
			Auto, func(r root) { r.remove("dev"); r.write("dev/nvidia-modeset", "") }, Env, "there is no device node of a GPU below", "variables only",
		},
		"auto says that the toolkit is not registered with Docker": {
			Auto, func(r root) {
				must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "usr/bin/nvidia-container-runtime"), nil, 0o755))
			}, CDI, "Docker has no runtime", "nvidia-container-runtime is installed",
		},
		"a broken configuration of Docker is a finding and no runtime": {
			Auto, func(r root) { r.withDocker(`{"runtimes": `) }, CDI, "Docker has no runtime", "Docker's runtimes: ",
		},
		"a configured mode is taken as it is": {
			CDI, func(r root) { r.withDocker(dockerWithRuntime) }, CDI, `the mode "cdi" is configured`, "",
		},
		"the mode runtime without the runtime is a finding": {
			Runtime, func(root) {}, Runtime, `the mode "runtime" is configured`, `has no runtime "nvidia", which Nomad's Docker driver needs`,
		},
		"a default runtime that shows every GPU is a finding in the mode devices": {
			Devices, func(r root) { r.withDocker(`{"default-runtime": "nvidia"}`) }, Devices, "configured", "sees every GPU of the node",
		},
		"a missing control node is a finding in the mode devices": {
			Devices, func(r root) { r.remove("dev/nvidia-uvm") }, Devices, "configured", "the device node /dev/nvidia-uvm does not exist",
		},
		"a missing control node is the runtime's to make in the mode runtime": {
			Runtime, func(r root) { r.remove("dev/nvidia-uvm"); r.withDocker(dockerWithRuntime) }, Runtime, "configured", "",
		},
		"the node of a profiler may be missing": {
			Devices, func(r root) { r.remove("dev/nvidia-uvm-tools") }, Devices, "configured", "",
		},
		"a missing library is a finding in the mode devices": {
			Devices, func(r root) { r.remove("usr/lib64/libcuda.so.570.86.15") }, Devices, "configured", "libcuda.so.570.86.15 is in none of the usual library directories",
		},
		"a missing library does not concern the mode runtime": {
			Runtime, func(r root) { r.remove("usr/lib64"); r.withDocker(dockerWithRuntime) }, Runtime, "configured", "",
		},
		"a damaged library is a finding": {
			Devices, func(r root) { r.write("usr/lib64/libnvidia-nvvm.so.570.86.15", "cut") }, Devices, "configured", "libnvidia-nvvm.so.570.86.15 is not a shared library",
		},
		"a line of MIG minors that is not understood is a finding": {
			Devices, func(r root) { r.write(minorsFile, someMinors+"gpu2/gi1/ci0/profile 14\n") }, Devices, "configured", "neither a GPU instance nor a compute instance",
		},
		"the mode env asks for nothing": {
			Env, func(r root) { r.remove("dev", "usr") }, Env, "configured", "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			c.edit(r)
			h := r.discover(c.mode, func(o *Options) {
				if c.want == CDI { // the directory that engines read
					o.SpecDir = ""
				}
			})
			must.Eq(t, c.want, h.Mode)
			must.StrContains(t, h.Reason, c.reason)
			if c.finding == "" {
				must.SliceEmpty(t, h.Findings)
				return
			}
			must.Len(t, 1, h.Findings, must.Sprintf("%v", h.Findings))
			must.StrContains(t, h.Findings[0].What, c.finding)
			must.NotEq(t, "", h.Findings[0].Advice)
		})
	}
}

func TestAnUnusualSpecificationDirectoryIsAFinding(t *testing.T) {
	t.Parallel()
	h := newRoot(t).discover(CDI)
	must.Len(t, 1, h.Findings)
	must.StrContains(t, h.Findings[0].What, "podman and Docker do not look by default")
}

func TestEverythingMissing(t *testing.T) {
	t.Parallel()
	r := root{t, t.TempDir()}
	h := r.discover(Auto)
	must.Eq(t, Env, h.Mode)
	text := "mode " + string(h.Mode) + ": " + h.Reason + "\n"
	for _, f := range h.Findings {
		text += "\n" + f.What + "\n  " + strings.ReplaceAll(f.Advice, "\n", "\n  ") + "\n"
	}
	golden(t, "nothing", r.shown(text))

	unknown, err := discover(Options{HostRoot: r.dir, DriverRoot: r.dir, DevRoot: r.dir}, "", isCharacterDevice)
	must.NoError(t, err)
	must.Eq(t, Env, unknown.Mode)
	must.StrContains(t, unknown.Findings[1].What, "the driver's version is not known")
}

// TestDiscoverOnThisMachine pins what every test machine without NVIDIA's driver
// gets, and with it what a stand-in for NVML alone gets: both variables.
func TestDiscoverOnThisMachine(t *testing.T) {
	t.Parallel()
	if _, err := os.Lstat("/dev/nvidiactl"); err == nil {
		t.Skip("this machine has NVIDIA's driver")
	}
	h, err := Discover(Options{HostRoot: t.TempDir()}, "550.54.15")
	must.NoError(t, err)
	must.Eq(t, Env, h.Mode)
	g, err := h.Reserve([]Device{{UUID: "GPU-b"}, {UUID: "GPU-a"}})
	must.NoError(t, err)
	must.Eq(t, Grant{Envs: map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a", "NVIDIA_VISIBLE_DEVICES": "GPU-b,GPU-a"}}, g)
}

func TestOnlyDeviceNodesCount(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	h, err := Discover(Options{Mode: Devices, HostRoot: r.dir, DriverRoot: r.dir, DevRoot: r.dir}, injecttest.Version)
	must.NoError(t, err)
	must.SliceEmpty(t, h.Nodes, must.Sprint("ordinary files are no device nodes"))

	r.remove("dev/nvidia1")
	must.NoError(t, os.Symlink("nvidia0", filepath.Join(r.dir, "dev/nvidia1")))
	must.SliceNotContains(t, r.discover(Devices).Nodes, "/dev/nvidia1", must.Sprint("the exec driver does not follow links"))
}

func TestOptions(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		options Options
		want    string // part of the error; "" means none
	}{
		"the zero value is right":                   {Options{}, ""},
		"every field may be set":                    {Options{CDI, "/host", "/run/nvidia/driver", "/host", "/usr/lib64", "/etc/cdi", "example.com/gpu", "nv", []int{0, 1048575}, true, true, true}, ""},
		"a mode that is not one is refused":         {Options{Mode: "docker"}, `the mode is "docker"; it must be one of auto, runtime, devices, cdi, env`},
		"a path is absolute":                        {Options{DriverRoot: "driver"}, `the driver root is "driver"; it must be an absolute path`},
		"the library directory is one of a list":    {Options{LibraryDir: "/a:/b"}, `the library directory is "/a:/b"`},
		"the library directory is not interpolated": {Options{LibraryDir: "/a/${b}"}, "free of"},
		"the library directory is not the root":     {Options{LibraryDir: "/usr/.."}, "it must be below /"},
		"a kind has a vendor and a class":           {Options{Kind: "gpu"}, `the CDI kind is "gpu"`},
		"a kind begins with a letter":               {Options{Kind: "example.com/0gpu"}, "the CDI kind is"},
		"a kind ends with a letter or digit":        {Options{Kind: "example.com/gpu-"}, "the CDI kind is"},
		"a channel is not negative":                 {Options{IMEXChannels: []int{-1}}, "the IMEX channel is -1"},
		"a channel has 20 bits":                     {Options{IMEXChannels: []int{1048576}}, "it must be between 0 and 1048575"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.options.Validate()
			if c.want == "" {
				must.NoError(t, err)
				return
			}
			must.Error(t, err)
			must.StrContains(t, err.Error(), c.want)
			_, err = Discover(c.options, "1")
			must.Error(t, err)
		})
	}
}

func TestParseMode(t *testing.T) {
	t.Parallel()
	for _, m := range modes() {
		got, err := ParseMode(string(m))
		must.NoError(t, err)
		must.Eq(t, m, got)
	}
	got, err := ParseMode("")
	must.NoError(t, err)
	must.Eq(t, Auto, got)
	_, err = ParseMode("Runtime")
	must.EqError(t, err, `the mode is "Runtime"; it must be one of auto, runtime, devices, cdi, env`)
}
