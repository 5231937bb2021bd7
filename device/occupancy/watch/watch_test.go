package watch_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
	"github.com/nomad-governor/governor/device/occupancy/watch"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// look looks and expects no error.
func look(t testing.TB, w *watch.Watcher, samples ...inventory.Sample) []occupancy.Use {
	t.Helper()
	uses, err := w.Look(samples, node())
	must.NoError(t, err)
	return uses
}

const (
	scopeV2 = "/nomad.slice/share.slice/" + alloc + ".train.scope"
	scopeV1 = "/nomad/" + alloc + ".train"
	cgroup2 = "0::" + scopeV2 + "\n"
	cgroup1 = "12:cpuset:/nomad/share\n9:freezer:" + scopeV1 + "\n7:memory:" + scopeV1 + "\n4:cpu,cpuacct:" + scopeV1 + "\n1:name=systemd:/system.slice/nomad.service\n"
	agent   = "0::/system.slice/nomad.service\n"
	session = "0::/user.slice/user-1000.slice/session-3.scope\n"
)

// hosts are the ways in which tasks and others run. g is a grant of gpu0.
func hosts() map[string]func(h *host, g string) {
	executor := process{pid: 50, parent: 1, command: "nomad", program: "/usr/bin/nomad", cgroup: agent, environ: []string{"PATH=/bin"}}
	docker := func(cgroup string) func(h *host, g string) {
		return func(h *host, g string) {
			h.start(process{pid: 60, parent: 1, command: "containerd-shim", cgroup: "0::/system.slice/containerd.service\n"})
			h.start(process{pid: 61, parent: 60, command: "sh", cgroup: cgroup, environ: nomad(alloc, "train", g), mounts: mountinfo(alloc, "train")})
			h.start(process{pid: 70, parent: 61, command: "python3", cgroup: cgroup, environ: nomad(alloc, "train", g), mounts: mountinfo(alloc, "train")})
		}
	}
	return map[string]func(h *host, g string){
		"01 exec on cgroup v2": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 70, parent: 50, command: "python3", uid: 65534, cgroup: cgroup2, environ: nomad(alloc, "train", g)})
		},
		"02 exec on cgroup v1": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 70, parent: 50, command: "python3", uid: 65534, cgroup: cgroup1, environ: nomad(alloc, "train", g)})
		},
		"03 java, a child of the task's process": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 69, parent: 50, command: "java", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 69, command: "java", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
		},
		"04 raw_exec as root": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 70, parent: 50, command: "train.sh", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
		},
		"05 raw_exec where Nomad has no cgroups": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 70, parent: 50, command: "train.sh", cgroup: agent, environ: nomad(alloc, "train", g)})
		},
		"06 raw_exec where Nomad has no cgroups, environment cleared": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 69, parent: 50, command: "train.sh", cgroup: agent, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 69, command: "python3", cgroup: agent})
		},
		"07 docker, systemd driver, v2":  docker("0::/system.slice/docker-" + container + ".scope\n"),
		"08 docker, cgroupfs driver, v2": docker("0::/docker/" + container + "\n"),
		"09 docker, systemd driver, v1":  docker("7:memory:/system.slice/docker-" + container + ".scope\n1:name=systemd:/system.slice/docker-" + container + ".scope\n"),
		"10 docker, cgroupfs driver, v1": docker("9:freezer:/docker/" + container + "\n7:memory:/docker/" + container + "\n0::/\n"),
		"11 podman":                      docker("0::/machine.slice/libpod-" + container + ".scope/container\n"),
		"12 containerd": func(h *host, g string) {
			h.start(process{pid: 70, parent: 60, command: "python3", cgroup: "0::/nomad/train-" + alloc + "\n", environ: nomad(alloc, "train", g)})
		},
		"13 docker, without a grant, with another's variables": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "python3", cgroup: "0::/docker/" + container + "\n", environ: nomad(other, "x"), mounts: mountinfo(alloc, "train")})
		},
		"14 docker, without a grant, environment cleared": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "python3", cgroup: "0::/docker/" + container + "\n", mounts: mountinfo(alloc, "train")})
		},
		"15 a container that Nomad did not start": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "python3", cgroup: "0::/docker/" + container + "\n",
				mounts: "823 634 0:57 / / rw - overlay overlay rw\n824 823 8:2 /opt/nomad/data/alloc/" + other + "/alloc /host/opt/nomad/data/alloc/" + other + "/x/alloc rw - ext4 /dev/sda2 rw\n"})
		},
		"16 a person's shell": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 1, command: "python3", uid: 1000, cgroup: session, environ: []string{"HOME=/h"}})
		},
		"17 a person's shell with a forged grant": func(h *host, g string) {
			h.start(process{pid: 70, parent: 1, command: "python3", uid: 1000, cgroup: session, environ: []string{g + "0"}})
		},
		"18 exec, without a grant": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train")})
		},
		"19 exec, with a forged grant": func(h *host, g string) {
			name, _, _ := strings.Cut(g, "=")
			h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", name+"="+gpu0+":"+strings.Repeat("0", 32)+":"+strings.Repeat("0", 64))})
		},
		"20 exec, with a grant that was widened": func(h *host, g string) {
			h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", strings.Replace(g, "="+gpu0, "="+gpu0+","+gpu1, 1))})
		},
		"21 exec, grant in the task's first process only": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 69, parent: 50, command: "bash", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 69, command: "env", cgroup: cgroup2})
		},
		"22 exec, forked twice, found through the cgroup": func(h *host, g string) {
			h.start(executor)
			h.start(process{pid: 69, parent: 50, command: "bash", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 1, command: "daemon", cgroup: cgroup2})
			h.cgroup(scopeV2, 69, 70, 4000)
		},
		"23 the same on v1": func(h *host, g string) {
			h.start(process{pid: 69, parent: 50, command: "bash", cgroup: cgroup1, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 1, command: "daemon", cgroup: cgroup1})
			h.cgroup("freezer"+scopeV1, 70, 69)
		},
		"24 in a cgroup below the task's": func(h *host, g string) {
			h.start(process{pid: 69, parent: 50, command: "bash", cgroup: "0::" + scopeV2 + "/main\n", environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 1, command: "worker", cgroup: "0::" + scopeV2 + "/workers/1\n"})
			h.cgroup(scopeV2)
			h.cgroup(scopeV2+"/main", 69)
			h.cgroup(scopeV2+"/workers/1", 70)
		},
		"25 the id in the cgroup is another process by now": func(h *host, g string) {
			h.start(process{pid: 69, parent: 50, command: "bash", cgroup: session, environ: nomad(alloc, "train", g)})
			h.start(process{pid: 70, parent: 1, command: "daemon", cgroup: cgroup2, environ: nomad(alloc, "train")})
			h.cgroup(scopeV2, 69, 70)
		},
		"26 a title over the environment, of all processes": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 50, command: "worker", cgroup: cgroup2, environ: []string{"worker: idle\x00\x00\x00rker"}})
			h.cgroup(scopeV2, 70)
		},
		"27 a zombie": func(h *host, g string) {
			h.start(process{pid: 70, parent: 50, command: "python3", state: "Z", cgroup: cgroup2})
		},
		"28 a process that is gone": func(*host, string) {},
		"29 a process whose cgroup is gone": func(h *host, g string) {
			h.start(process{pid: 70, parent: 50, command: "python3", cgroup: "", environ: nomad(alloc, "train", g)})
		},
		"30 the MPS server of root": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 1, command: "nvidia-cuda-mps", program: "/usr/bin/nvidia-cuda-mps-server", cgroup: "0::/system.slice/nvidia-mps.service\n"})
		},
		"31 DCGM of root, updated while it runs": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 1, command: "cache_mgr_main", program: "/usr/bin/nv-hostengine (deleted)", cgroup: "0::/system.slice/nvidia-dcgm.service\n"})
		},
		"32 a container of Nomad's whose root calls itself DCGM": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "dcgm-exporter", program: "/usr/bin/dcgm-exporter", cgroup: "0::/docker/" + container + "\n", environ: nomad(alloc, "train"), mounts: mountinfo(alloc, "train")})
		},
		"33 the same, with its mounts moved to hide whose it is": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "dcgm-exporter", program: "/usr/bin/dcgm-exporter", cgroup: "0::/docker/" + container + "\n",
				environ: nomad("none of that form, at all, anywhere.", "train"), mounts: "902 823 8:2 /opt/nomad/data/alloc/" + alloc + "/train/local /x/" + alloc + " rw - ext4 /dev/sda2 rw\n"})
		},
		"34 DCGM in a container of the operator's": func(h *host, _ string) {
			h.start(process{pid: 70, parent: 60, command: "dcgm-exporter", program: "/usr/bin/dcgm-exporter", cgroup: "0::/docker/" + container + "\n",
				mounts: "823 634 0:57 / / rw - overlay overlay rw\n"})
		},
		"35 a process that is its own ancestor": func(h *host, _ string) {
			h.start(process{pid: 69, parent: 70, command: "a", cgroup: cgroup2, environ: nomad(alloc, "train")})
			h.start(process{pid: 70, parent: 69, command: "b", cgroup: cgroup2})
		},
	}
}

func TestLookOnEveryKindOfHost(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	names := make([]string, 0, len(hosts()))
	for name := range hosts() {
		names = append(names, name)
	}
	for _, name := range sorted(names) {
		h := newHost(t)
		w := h.open(newClock())
		hosts()[name](h, grant(t, w, gpu0))
		uses := look(t, w, on(gpu0, 70))
		must.Len(t, 1, uses)
		u := uses[0]
		user := "?"
		if u.UID.Known {
			user = fmt.Sprint(u.UID.Value)
		}
		fmt.Fprintf(&out, "%s\n    %s, %s; allocation %q task %q by %s, user %s, container %.8q, command %q\n",
			name, u.Verdict, u.Reason, u.AllocID, u.Task, u.By, user, u.Container, u.Command)
	}
	golden := filepath.Join("testdata", "hosts.golden")
	if *update {
		must.NoError(t, os.WriteFile(golden, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	must.NoError(t, err)
	must.Eq(t, string(want), out.String())
}

func sorted(names []string) []string {
	for i := range names {
		for j := i; j > 0 && names[j] < names[j-1]; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}

func TestAProcessOnSeveralDevicesIsJudgedOnEach(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	env := nomad(alloc, "train", grant(t, w, gpu0), grant(t, w, mig0, gpu1+"::2"))
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: env})
	h.start(process{pid: 71, parent: 1, command: "bash", uid: 5, cgroup: session})
	third := node().Devices[2].GPU.UUID
	mig := on(third)
	for _, gi := range []int64{8, 7} {
		mig.Processes = append(mig.Processes, inventory.Process{PID: 70, GPUInstance: inventory.Known(gi), ComputeInstance: inventory.Known[int64](0)})
	}
	var got []string
	for _, u := range look(t, w, mig, on(gpu1, 71, 70), on(mig0, 70), on(gpu0, 70), on("", 0)) {
		got = append(got, fmt.Sprintf("%s %d %s %s %d", u.DeviceID, u.PID, u.Verdict, u.Reason, u.MemoryMiB.Value))
	}
	must.Eq(t, []string{
		gpu0 + " 70 held grant_valid 1024",
		gpu1 + "::2 70 held grant_valid 1024",
		gpu1 + " 71 outside no_allocation 1024",
		mig0 + " 70 held grant_valid 1024", // listed twice, once with its memory
		mig1 + " 70 not_held grant_of_other_device 0",
	}, got)
}

func TestAnotherProcessWithTheSameIDIsAnotherProcess(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", grant(t, w, gpu0))})
	must.Eq(t, occupancy.Held, look(t, w, on(gpu0, 70))[0].Verdict)
	h.end(70)
	h.start(process{pid: 70, parent: 1, command: "bash", start: 9999, cgroup: session})
	u := look(t, w, on(gpu0, 70))[0]
	must.Eq(t, [2]any{occupancy.Outside, "bash"}, [2]any{u.Verdict, u.Command})
}

func TestAHolderIsReadOnceAndOthersAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := newClock()
	w := h.open(c)
	g := grant(t, w, gpu0)
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
	h.start(process{pid: 71, parent: 1, command: "late", cgroup: cgroup2, environ: nomad(alloc, "train")})
	verdicts := func() [2]occupancy.Verdict {
		uses := look(t, w, on(gpu0, 70), on(gpu1, 71))
		return [2]occupancy.Verdict{uses[0].Verdict, uses[1].Verdict}
	}
	must.Eq(t, [2]occupancy.Verdict{occupancy.Held, occupancy.NotHeld}, verdicts())

	// Both change: the holder clears its environment, the other gets a grant.
	h.write(h.file(70, "environ"), "")
	h.write(h.file(71, "environ"), strings.Join(nomad(alloc, "train", grant(t, w, gpu1)), "\x00"))
	must.Eq(t, [2]occupancy.Verdict{occupancy.Held, occupancy.NotHeld}, verdicts(), must.Sprint("what is known is believed"))
	c.now = c.now.Add(29 * time.Second)
	must.Eq(t, [2]occupancy.Verdict{occupancy.Held, occupancy.NotHeld}, verdicts())
	c.now = c.now.Add(time.Second)
	must.Eq(t, [2]occupancy.Verdict{occupancy.Held, occupancy.Held}, verdicts(), must.Sprint("after a while it is read again"))
}

func TestAGrantIsTheHoldersAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	g := grant(t, w, gpu0)
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
	look(t, w, on(gpu0, 70))

	w = h.open(newClock())
	thief := strings.ReplaceAll(cgroup2, alloc, other)
	h.start(process{pid: 71, parent: 1, command: "thief", cgroup: thief, environ: nomad(other, "train", g)})
	h.write(h.file(70, "environ"), "")
	uses := look(t, w, on(gpu0, 70, 71))
	must.Eq(t, occupancy.SeenBefore, uses[0].Reason)
	must.Eq(t, occupancy.GrantNotTheirs, uses[1].Reason)

	// The device goes to another allocation: what is left of the first one
	// does not hold it any more.
	h.start(process{pid: 72, parent: 1, command: "next", cgroup: thief, environ: nomad(other, "train", grant(t, h.open(newClock()), gpu0))})
	uses = look(t, h.open(newClock()), on(gpu0, 70, 72))
	must.Eq(t, [2]occupancy.Verdict{occupancy.NotHeld, occupancy.Held}, [2]occupancy.Verdict{uses[0].Verdict, uses[1].Verdict})
}

func TestOfTwoAllocationsWithOneGrantTheOlderHasIt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	g := grant(t, w, gpu0)
	h.start(process{pid: 70, parent: 1, start: 900, command: "thief", cgroup: strings.ReplaceAll(cgroup2, alloc, other), environ: nomad(other, "train", g)})
	h.start(process{pid: 71, parent: 1, start: 800, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
	uses := look(t, w, on(gpu0, 70, 71))
	must.Eq(t, occupancy.GrantNotTheirs, uses[0].Reason)
	must.Eq(t, occupancy.GrantValid, uses[1].Reason)
}

func TestAllocationsFromBeforeGrantsAreNotAccused(t *testing.T) {
	t.Parallel()
	h := newHost(t,
		process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train")},
		process{pid: 80, parent: 1, command: "sh", cgroup: "0::/docker/" + container + "\n", mounts: mountinfo(other, "web")},
		process{pid: 90, parent: 1, command: "sh", cgroup: agent, environ: nomad("99999999-9999-9999-9999-999999999999", "x")},
		process{pid: 91, parent: 1, command: "sh", cgroup: session},
	)
	h.write(filepath.Join(h.proc().Root, "meminfo"), "")
	w := h.open(newClock())
	reasons := func() (list []occupancy.Reason) {
		for _, u := range look(t, w, on(gpu0, 70, 80, 90, 91)) {
			list = append(list, u.Reason)
		}
		return list
	}
	want := []occupancy.Reason{occupancy.BeforeGrants, occupancy.BeforeGrants, occupancy.BeforeGrants, occupancy.NoAllocation}
	must.Eq(t, want, reasons())
	w = h.open(newClock())
	must.Eq(t, want, reasons(), must.Sprint("also after a restart"))

	// One that comes later is.
	h.start(process{pid: 92, parent: 1, command: "x", cgroup: strings.ReplaceAll(cgroup2, alloc, "88888888-8888-8888-8888-888888888888"), environ: nomad("88888888-8888-8888-8888-888888888888", "x")})
	must.Eq(t, occupancy.NotHeld, look(t, h.open(newClock()), on(gpu0, 92))[0].Verdict)
}

func TestALookGoesOnWhereTheRegisterCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	g := grant(t, w, gpu0)
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", g)})
	must.NoError(t, os.Rename(h.state(), h.state()+".away"))
	uses, err := w.Look([]inventory.Sample{on(gpu0, 70)}, node())
	must.ErrorContains(t, err, "write the register of grants")
	must.Eq(t, occupancy.Held, uses[0].Verdict)
	variables, err := w.Grant([]string{gpu1})
	must.ErrorContains(t, err, "write the register of grants")
	must.MapLen(t, 1, variables)

	// It is written when that is possible again, though nothing new happened.
	must.NoError(t, os.Rename(h.state()+".away", h.state()))
	look(t, w, on(gpu0, 70))
	stored, err := os.ReadFile(filepath.Join(h.state(), "grants.json"))
	must.NoError(t, err)
	must.StrContains(t, string(stored), gpu1)
	must.StrContains(t, string(stored), `"alloc_id": "`+alloc+`"`)
}

func TestTwoPluginsOfOneDirectoryKeepEachOthersGrants(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	left := h.open(newClock()) // of an agent that was killed
	old := grant(t, left, gpu0)
	now := h.open(newClock())
	fresh := grant(t, now, gpu0, gpu1)
	grant(t, left, mig0)
	h.start(process{pid: 70, parent: 1, command: "python3", cgroup: cgroup2, environ: nomad(alloc, "train", fresh)})
	h.start(process{pid: 71, parent: 1, command: "python3", cgroup: strings.ReplaceAll(cgroup2, alloc, other), environ: nomad(other, "train", old)})
	uses := look(t, h.open(newClock()), on(gpu0, 70, 71))
	must.Eq(t, occupancy.GrantValid, uses[0].Reason)
	must.Eq(t, occupancy.GrantSuperseded, uses[1].Reason)
}

func TestGrantRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	w := h.open(newClock())
	_, err := w.Grant(nil)
	must.ErrorContains(t, err, "a grant names 1 to 512")
	short, err := watch.Open(watch.Options{Dir: h.state(), Proc: h.proc(), Random: strings.NewReader("x"), Now: newClock().Now})
	must.NoError(t, err)
	variables, err := short.Grant([]string{gpu0})
	must.ErrorContains(t, err, "make a grant")
	must.Nil(t, variables)
}

func TestKeyLastsAndIsOnlyThePlugins(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := watch.LoadKey(dir, &randomness{})
	must.NoError(t, err)
	second, err := watch.LoadKey(dir, strings.NewReader("not needed"))
	must.NoError(t, err)
	g, err := first.Grant([]string{gpu0}, strings.Repeat("0", 32))
	must.NoError(t, err)
	_, ok := second.Verify(g)
	must.True(t, ok)

	path := filepath.Join(dir, "grant.key")
	info, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())
	info, err = os.Stat(dir)
	must.NoError(t, err)
	must.Eq(t, 0o700, info.Mode().Perm())
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.Len(t, 1, entries, must.Sprint("nothing else is left"))
}

func TestLoadKeyRefuses(t *testing.T) {
	t.Parallel()
	good := strings.Repeat("ab", 32) + "\n"
	for name, c := range map[string]struct {
		prepare func(dir string) error
		want    string
	}{
		"a key that others can read":           {func(dir string) error { return os.WriteFile(filepath.Join(dir, "grant.key"), []byte(good), 0o640) }, "is open to others (mode 0640)"},
		"a key that is none":                   {func(dir string) error { return os.WriteFile(filepath.Join(dir, "grant.key"), []byte("x"), 0o600) }, "is damaged; it must be 64 hexadecimal digits"},
		"an empty key":                         {func(dir string) error { return os.WriteFile(filepath.Join(dir, "grant.key"), nil, 0o600) }, "is damaged"},
		"a link to a key":                      {func(dir string) error { return os.Symlink("/dev/null", filepath.Join(dir, "grant.key")) }, "open the grant key"},
		"a folder for a key":                   {func(dir string) error { return os.Mkdir(filepath.Join(dir, "grant.key"), 0o700) }, "is open to others"},
		"a directory that others can write in": {func(dir string) error { return os.Chmod(dir, 0o777) }, "can be changed by others (mode 0777)"},
		"no randomness":                        {func(string) error { return nil }, "make a grant key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must.NoError(t, c.prepare(dir))
			_, err := watch.LoadKey(dir, strings.NewReader(""))
			must.ErrorContains(t, err, c.want)
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := watch.LoadKey(file, &randomness{})
	must.ErrorContains(t, err, "make the state directory")
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	must.NoError(t, os.MkdirAll(h.state(), 0o700))
	h.write(filepath.Join(h.state(), "grants.json"), "{")
	_, err := watch.Open(watch.Options{Dir: h.state(), Proc: h.proc(), Random: &randomness{}, Now: newClock().Now})
	must.ErrorContains(t, err, "is damaged; remove it, and the allocations that run then are not judged")
	must.NoError(t, os.Remove(filepath.Join(h.state(), "grants.json")))
	_, err = watch.Open(watch.Options{Dir: h.state(), Proc: watch.Proc{Root: "/nowhere"}, Random: &randomness{}, Now: newClock().Now})
	must.ErrorContains(t, err, "list the allocations that run")
	must.True(t, errors.Is(err, os.ErrNotExist))
}

func BenchmarkLook(b *testing.B) {
	h := newHost(b)
	w := h.open(newClock())
	samples := make([]inventory.Sample, 8)
	var inv inventory.Inventory
	for i := range samples {
		uuid := fmt.Sprintf("GPU-%08d-0000-0000-0000-000000000000", i)
		id := fmt.Sprintf("%08d%s", i, alloc[8:])
		inv.Devices = append(inv.Devices, inventory.Device{GPU: inventory.GPU{UUID: uuid}})
		env := nomad(id, "train", grant(b, w, uuid))
		var pids []int64
		for p := range int64(4) {
			pid := 1000 + int64(i)*10 + p
			h.start(process{pid: pid, parent: 1, command: "python3", cgroup: strings.ReplaceAll(cgroup2, alloc, id), environ: env})
			pids = append(pids, pid)
		}
		samples[i] = on(uuid, pids...)
	}
	for name, fresh := range map[string]bool{"steady": false, "first": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if fresh {
					w = h.open(newClock())
				}
				uses, err := w.Look(samples, inv)
				if err != nil || len(uses) != 32 || uses[0].Verdict != occupancy.Held {
					b.Fatal(err, uses)
				}
			}
		})
	}
}
