package inject

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/device/inventory"
)

func TestGrants(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		golden  string // with all libraries only in "devices"
		mode    Mode
		edit    func(*Options)
		docker  string
		devices func(root) []Device
	}{
		"two GPUs through NVIDIA's runtime": {"runtime", Runtime, nil, dockerWithRuntime,
			func(root) []Device { return []Device{whole(1), whole(0)} }},
		"a GPU with libraries": {"devices", Devices, nil, "",
			func(root) []Device { return []Device{whole(1)} }},
		"a GPU with libraries where the linker looks": {"devices_usual_dir", Devices, func(o *Options) { o.LibraryDir = "/usr/lib64/" }, "",
			func(root) []Device { return []Device{whole(0)} }},
		"everything beside GPUs": {"devices_extras", Devices, func(o *Options) {
			o.IMEXChannels, o.GDS, o.GDRCopy, o.RDMA = []int{7, 0, 7}, true, true, true
		}, "", func(r root) []Device {
			r.write("etc/cufile.json", "{}")
			must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "run/udev/data/c1"), nil, 0o644))
			return []Device{whole(0)}
		}},
		"a MIG instance with libraries": {"devices_mig", Devices, nil, "",
			func(root) []Device { return []Device{instance()} }},
		"a MIG instance through NVIDIA's runtime": {"runtime_mig", Runtime, nil, dockerWithRuntime,
			func(root) []Device { return []Device{instance()} }},
		"two GPUs by CDI names": {"cdi", CDI, nil, "",
			func(root) []Device { return []Device{whole(1), whole(0)} }},
		"CDI names for NVIDIA's runtime": {"cdi_runtime", CDI, func(o *Options) { o.Kind = "example.com/gpu" }, dockerWithRuntime,
			func(root) []Device { return []Device{instance()} }},
		"variables only": {"env", Env, nil, "",
			func(root) []Device { return []Device{whole(1), whole(0)} }},
		"a time slice": {"time_slicing", Runtime, nil, dockerWithRuntime,
			func(root) []Device { return []Device{timeShare(0)} }},
		"shares of an MPS daemon": {"mps", Runtime, nil, dockerWithRuntime, func(r root) []Device {
			r.write("run/mps/pipe/log", "")
			r.write("run/mps/shm/segment", "")
			devices := []Device{}
			for _, minor := range []int64{1, 0, 1} { // two shares of the first
				d := mpsShare(minor, filepath.Join(r.dir, "run/mps/pipe"))
				d.Share.ShmDirectory = filepath.Join(r.dir, "run/mps/shm")
				devices = append(devices, d)
			}
			return devices
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			if c.docker != "" {
				r.withDocker(c.docker)
			}
			devices := c.devices(r)
			edits := []func(*Options){}
			if c.edit != nil {
				edits = append(edits, c.edit)
			}
			g, err := r.discover(c.mode, edits...).Reserve(devices)
			must.NoError(t, err)
			text := ""
			for line := range strings.Lines(r.shown(g.String())) {
				if c.golden == "devices" || !strings.Contains(line, "/libnv") {
					text += line
				}
			}
			golden(t, "grant_"+c.golden, text)
		})
	}
}

func TestReserveRefuses(t *testing.T) {
	t.Parallel()
	with := func(d Device, edit func(*Device)) []Device {
		if d.Share != nil {
			share := *d.Share
			d.Share = &share
		}
		edit(&d)
		return []Device{d}
	}
	cases := map[string]struct {
		mode    Mode
		edit    func(root)
		options func(*Options)
		devices []Device
		want    string
	}{
		"no device":               {Env, nil, nil, nil, "reserve no GPU: no device was asked for"},
		"a device without id":     {Env, nil, nil, []Device{{}}, `"" is not a UUID`},
		"an id that is two":       {Env, nil, nil, []Device{{UUID: "GPU-a,GPU-b"}}, `"GPU-a,GPU-b" is not a UUID`},
		"a GPU twice":             {Env, nil, nil, []Device{whole(0), whole(0)}, "it is asked for twice"},
		"a GPU and a share of it": {Env, nil, nil, []Device{whole(0), timeShare(0)}, "it is shared in another way than GPU-00000000"},
		"a missing node of a GPU": {Devices, func(r root) { r.remove("dev/nvidia1") }, nil, []Device{whole(0), whole(1)},
			"the device node /dev/nvidia1 does not exist, and the task's GPUs would not work without it; run nvidia-modprobe -c 1 on the node"},
		"a missing node for unified memory": {CDI, func(r root) { r.remove("dev/nvidia-uvm") }, nil, []Device{whole(0)},
			"the device node /dev/nvidia-uvm does not exist, and the task's GPUs would not work without it; run nvidia-modprobe -u -c 0 on the node"},
		"a missing node of a MIG instance": {Devices, func(r root) { r.remove("dev/nvidia-caps/nvidia-cap13") }, nil, []Device{instance()},
			"run nvidia-modprobe -f /proc/driver/nvidia/capabilities/gpu2/mig/gi1/ci0/access on the node"},
		"a MIG instance that the kernel does not list": {Devices, func(r root) { r.write(minorsFile, "gpu2/gi1/access 12\n") }, nil, []Device{instance()},
			"/proc/driver/nvidia-caps/mig-minors has no entry gpu2/gi1/ci0/access"},
		"a missing IMEX channel": {Devices, nil, func(o *Options) { o.IMEXChannels = []int{3} }, []Device{whole(0)},
			"the device node /dev/nvidia-caps-imex-channels/channel3 does not exist"},
		"missing nodes of GPUDirect Storage": {Devices, func(r root) { r.remove("dev/nvidia-fs0", "dev/nvidia-fs1") }, func(o *Options) { o.GDS = true }, []Device{whole(0)},
			"the device node /dev/nvidia-fs0 does not exist, and the task's GPUs would not work without it; load GPUDirect Storage (modprobe nvidia-fs)"},
		"a missing library": {Devices, func(r root) { r.remove("usr/lib64/libcuda.so.570.86.15") }, nil, []Device{whole(0)},
			"the driver's library libcuda.so.570.86.15 was not found"},
		"a GPU of unknown minor": {Devices, nil, nil, with(whole(0), func(d *Device) { d.Minor = inventory.Maybe[int64]{} }),
			"the driver does not say which device node GPU-00000000-1111-2222-3333-444444444444 has"},
		"a name that is none in CDI": {CDI, nil, nil, with(instance(), func(d *Device) { d.UUID = "MIG-GPU-1/1/0" }),
			"MIG-GPU-1/1/0 cannot be the name of a CDI device"},
		"a strategy that is none": {Env, nil, nil, with(timeShare(0), func(d *Device) { d.Share.Strategy = "vgpu" }),
			`its sharing strategy is "vgpu"; it must be time-slicing or mps`},
		"a share of nothing":                   {Env, nil, nil, with(timeShare(0), func(d *Device) { d.Share.Replicas = 0 }), "a GPU has at least one"},
		"negative memory":                      {Env, nil, nil, with(mpsShare(0, "/a"), func(d *Device) { d.Share.MemoryMiB = -1 }), "its memory is -1 MiB"},
		"more shares than there are":           {Env, nil, nil, slices.Repeat([]Device{timeShare(0)}, 5), "it has 4 shares, and more are asked for"},
		"shares of different sizes of one GPU": {Env, nil, nil, append([]Device{timeShare(0)}, with(timeShare(0), func(d *Device) { d.Share.Replicas = 2 })...), "it is asked for twice"},
		"a MIG instance shared by MPS": {Env, nil, nil, with(mpsShare(0, "/a"), func(d *Device) { d.MIG = &MIG{} }),
			"a MIG instance cannot be shared by MPS"},
		"a relative pipe directory": {Env, nil, nil, []Device{mpsShare(0, "pipe")}, `its MPS pipe directory is "pipe"`},
		"two MPS daemons":           {Env, nil, nil, []Device{mpsShare(0, "/a"), mpsShare(1, "/b")}, "its MPS daemon is another than that of GPU-00000000"},
		"an MPS daemon that does not run": {Env, nil, nil, []Device{mpsShare(0, "/nonexistent/pipe")},
			"the directory /nonexistent/pipe of the MPS daemon does not exist"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			if c.edit != nil {
				c.edit(r)
			}
			edits := []func(*Options){}
			if c.options != nil {
				edits = append(edits, c.options)
			}
			g, err := r.discover(c.mode, edits...).Reserve(c.devices)
			must.Error(t, err)
			must.StrContains(t, err.Error(), c.want)
			must.StrHasPrefix(t, "reserve ", err.Error())
			must.Eq(t, Grant{}, g)
		})
	}
}

func TestAHostThatWasNotDiscoveredGrantsNothing(t *testing.T) {
	t.Parallel()
	for _, h := range []Host{{}, {Mode: Auto}} {
		_, err := h.Reserve([]Device{whole(0)})
		must.Error(t, err)
	}
}

func TestRuntimeLeavesMissingNodesToTheRuntime(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.withDocker(dockerWithRuntime)
	r.remove("dev/nvidia-uvm", "dev/nvidia1")
	unknown := whole(1)
	unknown.Minor = inventory.Maybe[int64]{}
	for name, d := range map[string]Device{"a node that is missing": whole(1), "a minor that is not known": unknown} {
		t.Run(name, func(t *testing.T) {
			g, err := r.discover(Auto).Reserve([]Device{d})
			must.NoError(t, err)
			must.Eq(t, d.UUID, g.Envs["NVIDIA_VISIBLE_DEVICES"])
			paths := []string{}
			for _, n := range g.Nodes {
				paths = append(paths, n.TaskPath)
			}
			must.Eq(t, []string{"/dev/nvidia-uvm-tools", "/dev/nvidiactl"}, paths)
		})
	}
}

func TestMPSVariables(t *testing.T) {
	t.Parallel()
	pipe := t.TempDir()
	share := func(minor, replicas, memoryMiB int64) Device {
		d := mpsShare(minor, pipe)
		d.Share.Replicas, d.Share.MemoryMiB = replicas, memoryMiB
		return d
	}
	cases := map[string]struct {
		devices         []Device
		threads, memory string
	}{
		"a share has its part of the multiprocessors": {[]Device{share(0, 3, 1000)}, "33", "0=1000M"},
		"two shares of one GPU have twice that":       {[]Device{share(0, 3, 1000), share(0, 3, 1000)}, "66", "0=2000M"},
		"all shares of a GPU have all":                {[]Device{share(0, 2, 1000), share(0, 2, 1000)}, "100", "0=2000M"},
		"the least part bounds the task on all GPUs":  {[]Device{share(0, 2, 1000), share(1, 10, 200)}, "10", "0=1000M,1=200M"},
		"no part is zero, which would mean no limit":  {[]Device{share(0, 200, 1)}, "1", "0=1M"},
		"a share without a limit of memory sets none": {[]Device{share(0, 2, 0)}, "50", ""},
		"limits count the devices that the task sees": {[]Device{share(0, 2, 0), share(1, 2, 7)}, "50", "1=7M"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := Host{Mode: Env}.Reserve(c.devices)
			must.NoError(t, err)
			must.Eq(t, c.threads, g.Envs[envMPSThreads])
			memory, set := g.Envs[envMPSMemory]
			must.Eq(t, c.memory, memory)
			must.Eq(t, c.memory != "", set)
			must.Eq(t, pipe, g.Envs[envMPSPipe])
			must.Eq(t, []Mount{{TaskPath: pipe, HostPath: pipe}}, g.Mounts)
		})
	}
}

func TestVariablesOfOtherModesAreNotSet(t *testing.T) {
	t.Parallel()
	want := map[Mode]string{
		Runtime: "CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES",
		Devices: "CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH", // NVIDIA_VISIBLE_DEVICES makes Nomad ask Docker for the runtime
		CDI:     "CUDA_VISIBLE_DEVICES GOVERNOR_CDI_DEVICES GOVERNOR_CDI_DEVICE_0",
		Env:     "CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES",
	}
	r := newRoot(t)
	for mode, names := range want {
		g, err := r.discover(mode).Reserve([]Device{whole(0)})
		must.NoError(t, err)
		must.Eq(t, strings.Fields(names), slices.Sorted(maps.Keys(g.Envs)), must.Sprint(mode))
	}
}
