package injection

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject"
	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// refused are the device nodes that NVIDIA's toolkit gives and we do not.
var refused = map[string]string{
	"/dev/nvidia-modeset": "sets display modes; a task with a display needs NVIDIA's runtime for its other files too",
}

// withheld are the files that NVIDIA's toolkit mounts and we do not, by a
// pattern of their path on the host.
var withheld = map[string]string{
	"LIB/libEGL_nvidia.so.*":                       "graphics: needs vendor files and links that a mount cannot make",
	"LIB/libGLX_nvidia.so.*":                       "graphics",
	"LIB/libnvidia-eglcore.so.*":                   "graphics",
	"LIB/libnvidia-glcore.so.*":                    "graphics",
	"LIB/libnvidia-rtcore.so.*":                    "graphics",
	"LIB/libnvidia-tls.so.*":                       "graphics",
	"LIB/libnvoptix.so.*":                          "graphics: ray tracing, needs nvoptix.bin and the libraries above",
	"LIB/libnvidia-fbc.so.*":                       "captures a screen",
	"LIB/libnvidia-ngx.so.*":                       "graphics: image scaling",
	"LIB/vdpau/libvdpau_nvidia.so.*":               "decodes video for an X server",
	"LIB/libnvidia-nscq.so.*":                      "administers NVSwitches, which belong to all tasks of the host",
	"LIB/libnvidia-sandboxutils.so.*":              "is for programs that set up containers",
	"/usr/share/glvnd/egl_vendor.d/10_nvidia.json": "graphics",
	"/usr/share/nvidia/nvoptix.bin":                "graphics",
	"/usr/bin/nvidia-persistenced":                 "a daemon of the host",
	"/usr/bin/nvidia-imex":                         "a daemon of the host",
	"/usr/bin/nvidia-imex-ctl":                     "controls a daemon of the host",
	"/run/nvidia-persistenced/socket":              "commands a daemon of the host",
	"/run/nvidia-fabricmanager/socket":             "commands a daemon of the host, which partitions all GPUs",
	"/lib/firmware/nvidia/*/gsp_*.bin":             "the kernel loads it, from the host",
}

// dropped are the variables that NVIDIA's toolkit sets and we do not.
var dropped = map[string]string{
	"NVIDIA_VISIBLE_DEVICES": "makes Nomad's Docker driver ask for NVIDIA's runtime",
	"NVIDIA_CTK_LIBCUDA_DIR": "is read by the hooks of NVIDIA's toolkit, which nobody runs",
}

// linksNotMade are names that NVIDIA's toolkit gives to libraries that we do
// mount, and we do not.
var linksNotMade = map[string]string{
	"gbm/nvidia-drm_gbm.so": "graphics: another name of libnvidia-allocator",
}

// device is one of the node's GPUs, or a MIG instance.
func device(uuid string, minor int64, mig *inject.MIG) inject.Device {
	return inject.Device{UUID: uuid, Minor: inventory.Known(minor), MIG: mig}
}

// devices are what the node has; description says the same to NVIDIA's toolkit.
// The minors are not the indices, as on nodes whose GPUs were enumerated anew.
var devices = []inject.Device{
	device("GPU-00000000-1111-2222-3333-444444444444", 1, nil),
	device("GPU-00000001-1111-2222-3333-444444444444", 0, nil),
	device("MIG-00000002-1111-2222-3333-444444444444", 3, &inject.MIG{GPUInstance: 7, ComputeInstance: 0}),
	device("MIG-00000003-1111-2222-3333-444444444444", 3, &inject.MIG{GPUInstance: 9, ComputeInstance: 1}),
}

const description = `{"driver_version": "` + injecttest.Version + `", "gpus": [
  {"uuid": "GPU-00000000-1111-2222-3333-444444444444", "minor": 1, "pci_bus_id": "00000000:3B:00.0"},
  {"uuid": "GPU-00000001-1111-2222-3333-444444444444", "minor": 0, "pci_bus_id": "00000000:5E:00.0"},
  {"uuid": "GPU-00000002-1111-2222-3333-444444444444", "minor": 3, "pci_bus_id": "00000000:86:00.0", "instances": [
    {"uuid": "MIG-00000002-1111-2222-3333-444444444444", "gpu_instance": 7, "compute_instance": 0},
    {"uuid": "MIG-00000003-1111-2222-3333-444444444444", "gpu_instance": 9, "compute_instance": 1}]}]}`

const minors = `config 1
monitor 2
gpu3/gi7/access 66
gpu3/gi7/ci0/access 67
gpu3/gi9/access 84
gpu3/gi9/ci0/access 85
gpu3/gi9/ci1/access 86
`

var nodes = []string{
	"nvidia0", "nvidia1", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset",
	"nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap2", "nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67",
	"nvidia-caps/nvidia-cap84", "nvidia-caps/nvidia-cap85", "nvidia-caps/nvidia-cap86",
}

// node makes a stand-in for a node in a directory, and finds the program that
// runs NVIDIA's generator in it.
func node(t *testing.T, libraryDir string) (root, nvcdi string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes device nodes and changes the root directory: run it as root")
	}
	nvcdi, err := toolchain.Ensure(t.Context(), toolchain.NVCDI(), t.Output())
	must.NoError(t, err)
	driver, err := injecttest.Compile()
	must.NoError(t, err)
	root = t.TempDir()
	must.NoError(t, driver.Install(root, libraryDir))
	for _, name := range nodes {
		file := filepath.Join(root, "dev", name)
		must.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		const null = 1<<8 | 3 // some character device
		must.NoError(t, syscall.Mknod(file, syscall.S_IFCHR|0o666, null))
	}
	must.NoError(t, injecttest.Write(filepath.Join(root, "proc/driver/nvidia-caps/mig-minors"), []byte(minors), 0o644))
	return root, nvcdi
}

// layouts are where distributions put the driver's libraries.
func layouts() map[string]string {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return map[string]string{"Fedora and SUSE": "/usr/lib64", "Debian and Ubuntu": "/usr/lib/" + triplet}
}

// run runs a program and decodes what it prints.
func run(t *testing.T, into any, stdin string, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	must.NoError(t, err, must.Sprint(stderr.String()))
	must.NoError(t, json.Unmarshal(out, into))
}

// edits are the parts of a CDI specification that we compare.
type edits struct {
	Env         []string
	DeviceNodes []struct{ Path, HostPath string }
	Mounts      []struct{ HostPath, ContainerPath string }
	Hooks       []struct{ Args []string }
}

type specification struct {
	Devices []struct {
		Name           string
		ContainerEdits edits
	}
	ContainerEdits edits
}

func discover(t *testing.T, mode inject.Mode, root string) inject.Host {
	t.Helper()
	h, err := inject.Discover(inject.Options{Mode: mode, HostRoot: root, DriverRoot: root, DevRoot: root}, injecttest.Version)
	must.NoError(t, err)
	must.SliceEmpty(t, h.Findings)
	return h
}

func TestGrantsAreThoseOfNVIDIAsToolkit(t *testing.T) {
	t.Parallel()
	for name, libraryDir := range layouts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, nvcdi := node(t, libraryDir)
			if path.Dir(libraryDir) == "/usr/lib" { // as on every present Debian
				must.NoError(t, os.RemoveAll(filepath.Join(root, "lib")))
				must.NoError(t, os.Symlink("usr/lib", filepath.Join(root, "lib")))
				must.NoError(t, injecttest.Write(filepath.Join(root, "usr/lib/firmware/nvidia", injecttest.Version, "gsp_ga10x.bin"), nil, 0o644))
			}
			var theirs specification
			run(t, &theirs, description, nvcdi, "spec", root)
			ours := discover(t, inject.Devices, root)
			must.Len(t, len(devices), theirs.Devices)
			for _, d := range devices {
				g, err := ours.Reserve([]inject.Device{d})
				must.NoError(t, err)
				compareNodes(t, d, g, theirs)
				compareMounts(t, root, libraryDir, g, theirs.ContainerEdits)
			}
			for _, pair := range theirs.ContainerEdits.Env {
				name, _, _ := strings.Cut(pair, "=")
				must.MapContainsKey(t, dropped, name)
			}
			must.Len(t, len(dropped), theirs.ContainerEdits.Env)
		})
	}
}

// compareNodes compares the nodes of one device, and those of every task.
func compareNodes(t *testing.T, d inject.Device, g inject.Grant, theirs specification) {
	t.Helper()
	want := map[string]bool{}
	for _, n := range theirs.ContainerEdits.DeviceNodes {
		want[n.Path] = true
	}
	for p := range refused {
		must.MapContainsKey(t, want, p, must.Sprint("an intended difference that is none any more"))
		delete(want, p)
	}
	for _, device := range theirs.Devices {
		if device.Name != d.UUID {
			continue
		}
		for _, n := range device.ContainerEdits.DeviceNodes {
			want[n.Path] = true
		}
	}
	got := []string{}
	for _, n := range g.Nodes {
		got = append(got, n.TaskPath)
	}
	must.Eq(t, slices.Sorted(maps.Keys(want)), got, must.Sprint(d.UUID))
}

// compareMounts compares which files of the host a task sees, and under which
// names it finds the libraries.
func compareMounts(t *testing.T, root, libraryDir string, g inject.Grant, theirs edits) {
	t.Helper()
	files, names := map[string]bool{}, map[string]bool{}
	used := map[string]bool{} // intended differences that are there
	libraries := map[string]string{}
	for _, m := range theirs.Mounts {
		if pattern := matching(m.HostPath, libraryDir); pattern != "" {
			used[pattern] = true
			continue
		}
		files[m.HostPath] = true
		if name, ok := strings.CutPrefix(m.ContainerPath, libraryDir+"/"); ok {
			names[name], libraries[name] = true, name
		}
	}
	// Links are made one upon another, in any order.
	pairs := links(t, libraryDir, theirs)
	for range pairs {
		for link, target := range pairs {
			if library := libraries[path.Join(path.Dir(link), target)]; library != "" {
				libraries[link], names[link] = library, true
			}
		}
	}
	for link := range linksNotMade {
		must.True(t, names[link], must.Sprint("an intended difference that is none any more: ", link))
		delete(names, link)
	}
	must.Eq(t, slices.Sorted(maps.Keys(withheld)), slices.Sorted(maps.Keys(used)), must.Sprint("intended differences that are none any more"))

	gotFiles, gotNames := map[string]bool{}, map[string]bool{}
	for _, m := range g.Mounts {
		must.True(t, m.ReadOnly)
		host, ok := strings.CutPrefix(m.HostPath, root)
		must.True(t, ok)
		gotFiles[host] = true
		if name, ok := strings.CutPrefix(m.TaskPath, inject.DefaultLibraryDir+"/"); ok {
			gotNames[name] = true
		} else {
			must.Eq(t, host, m.TaskPath, must.Sprint("programs and files are where they are on the host"))
		}
	}
	must.Eq(t, slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(gotFiles)))
	must.Eq(t, slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(gotNames)))
}

// matching is the pattern of withheld that a path on the host matches, or "".
func matching(hostPath, libraryDir string) string {
	for pattern := range withheld {
		full := strings.Replace(pattern, "LIB", libraryDir, 1)
		for _, p := range []string{full, "/usr" + full} { // where /lib is a link into /usr
			if match, err := path.Match(p, hostPath); err == nil && match {
				return pattern
			}
		}
	}
	return ""
}

// links are the links that the hooks of a specification make in the library
// directory: names relative to it, and their targets.
func links(t *testing.T, libraryDir string, e edits) map[string]string {
	t.Helper()
	made := map[string]string{}
	for _, hook := range e.Hooks {
		must.SliceContains(t, hook.Args, "create-symlinks", must.Sprint("a hook that is not compared"))
		for i, arg := range hook.Args {
			if i == 0 || hook.Args[i-1] != "--link" {
				continue
			}
			target, link, ok := strings.Cut(arg, "::")
			must.True(t, ok)
			name, ok := strings.CutPrefix(link, libraryDir+"/")
			must.True(t, ok, must.Sprint(link))
			made[name] = target
		}
	}
	must.MapNotEmpty(t, made)
	return made
}
