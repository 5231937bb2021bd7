package watch_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy/watch"
)

const (
	gpu0  = "GPU-00000000-0000-0000-0000-000000000000"
	gpu1  = "GPU-11111111-1111-1111-1111-111111111111"
	mig0  = "MIG-aaaaaaaa-0000-0000-0000-000000000000"
	mig1  = "MIG-bbbbbbbb-0000-0000-0000-000000000000"
	alloc = "0d2ed5a1-6a0c-cc34-3f4a-9c0c1d8a8f4b"
	other = "7c1f4e0b-11e5-9d3c-6f1c-2b7d5e0a9911"

	container = "4f5e6d7c8b9a00112233445566778899aabbccddeeff00112233445566778899"
)

// process is one process of a made-up host.
type process struct {
	pid, parent int64
	command     string
	program     string // what exe leads to
	start       uint64 // 0 is 100 and the pid
	uid         int64
	state       string // "S" when empty
	cgroup      string // the whole file
	environ     []string
	mounts      string
}

// host is a /proc and a /sys/fs/cgroup in a directory.
type host struct {
	t    testing.TB
	root string
}

func newHost(t testing.TB, processes ...process) *host {
	t.Helper()
	h := &host{t: t, root: t.TempDir()}
	must.NoError(t, os.MkdirAll(h.proc().Root, 0o755))
	for _, p := range processes {
		h.start(p)
	}
	return h
}

func (h *host) proc() watch.Proc {
	return watch.Proc{Root: filepath.Join(h.root, "proc"), CgroupRoot: filepath.Join(h.root, "cgroup")}
}

func (h *host) write(name, text string) {
	h.t.Helper()
	must.NoError(h.t, os.MkdirAll(filepath.Dir(name), 0o755))
	must.NoError(h.t, os.WriteFile(name, []byte(text), 0o644))
}

func (h *host) file(pid int64, name string) string {
	return filepath.Join(h.proc().Root, strconv.FormatInt(pid, 10), name)
}

// start makes a process, as the kernel of 2024 shows one.
func (h *host) start(p process) {
	h.t.Helper()
	if p.start == 0 {
		p.start = 100 + uint64(p.pid)
	}
	if p.state == "" {
		p.state = "S"
	}
	h.write(h.file(p.pid, "stat"), fmt.Sprintf("%d (%s) %s %d %d %d 0 -1 4194560 1200 0 3 0 120 44 0 0 20 0 9 0 %d 1073741824 2048 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
		p.pid, p.command, p.state, p.parent, p.pid, p.pid, p.start))
	h.write(h.file(p.pid, "status"), fmt.Sprintf("Name:\t%s\nUmask:\t0022\nState:\t%s (sleeping)\nPPid:\t%d\nUid:\t%d\t%d\t%d\t%d\n", p.command, p.state, p.parent, p.uid, p.uid, p.uid, p.uid))
	h.write(h.file(p.pid, "cgroup"), p.cgroup)
	environ := ""
	for _, entry := range p.environ {
		environ += entry + "\x00"
	}
	h.write(h.file(p.pid, "environ"), environ)
	h.write(h.file(p.pid, "mountinfo"), p.mounts)
	if p.program != "" {
		must.NoError(h.t, os.Symlink(p.program, h.file(p.pid, "exe")))
	}
}

func (h *host) end(pid int64) {
	h.t.Helper()
	must.NoError(h.t, os.RemoveAll(filepath.Dir(h.file(pid, "stat"))))
}

// cgroup makes a cgroup with processes in it.
func (h *host) cgroup(path string, pids ...int64) {
	h.t.Helper()
	text := ""
	for _, pid := range pids {
		text += fmt.Sprintf("%d\n", pid)
	}
	h.write(filepath.Join(h.proc().CgroupRoot, path, "cgroup.procs"), text)
}

// randomness is the same bytes in every test: 1, 2, 3 and so on.
type randomness struct{ next byte }

func (r *randomness) Read(p []byte) (int, error) {
	for i := range p {
		r.next++
		p[i] = r.next
	}
	return len(p), nil
}

var _ io.Reader = (*randomness)(nil)

// clock is a time that tests move.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time { return c.now }

// open opens a watcher of a host. Its state directory lasts as long as the host.
func (h *host) open(c *clock) *watch.Watcher {
	h.t.Helper()
	w, err := watch.Open(watch.Options{Dir: h.state(), Proc: h.proc(), Random: &randomness{}, Now: c.Now})
	must.NoError(h.t, err)
	return w
}

func (h *host) state() string { return filepath.Join(h.root, "state") }

// grant gives devices and returns the variable as it is in an environment.
func grant(t testing.TB, w *watch.Watcher, ids ...string) string {
	t.Helper()
	variables, err := w.Grant(ids)
	must.NoError(t, err)
	must.MapLen(t, 1, variables)
	for name, value := range variables {
		return name + "=" + value
	}
	return ""
}

// nomad is the rest of what Nomad puts into a task's environment.
func nomad(allocID, task string, more ...string) []string {
	return append([]string{"PATH=/usr/bin:/bin", "NOMAD_ALLOC_ID=" + allocID, "NOMAD_SHORT_ALLOC_ID=" + allocID[:8],
		"NOMAD_TASK_NAME=" + task, "NOMAD_GROUP_NAME=g"}, more...)
}

// mountinfo is that of a container of Nomad's docker driver.
func mountinfo(allocID, task string) string {
	dir := "/opt/nomad/data/alloc/" + allocID
	return strings.Join([]string{
		"823 634 0:57 / / rw,relatime master:253 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A",
		"824 823 0:60 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw",
		"901 823 8:2 " + dir + "/alloc /alloc rw,relatime - ext4 /dev/sda2 rw",
		"902 823 8:2 " + dir + "/" + task + "/local /local rw,relatime - ext4 /dev/sda2 rw",
		"903 823 0:52 / /secrets rw,relatime - tmpfs tmpfs rw,size=1024k",
	}, "\n") + "\n"
}

// node is two whole GPUs and one in MIG mode.
func node() inventory.Inventory {
	return inventory.Inventory{Devices: []inventory.Device{
		{GPU: inventory.GPU{UUID: gpu0}},
		{GPU: inventory.GPU{UUID: gpu1}},
		{GPU: inventory.GPU{UUID: "GPU-22222222-2222-2222-2222-222222222222", Instances: []inventory.MIGInstance{
			{UUID: mig0, GPUInstance: 7}, {UUID: mig1, GPUInstance: 8}}}},
	}}
}

// on is a sample of a GPU with processes.
func on(uuid string, pids ...int64) inventory.Sample {
	s := inventory.Sample{UUID: uuid, ProcessesKnown: true}
	for _, pid := range pids {
		s.Processes = append(s.Processes, inventory.Process{PID: pid, MemoryMiB: inventory.Known[int64](1024)})
	}
	return s
}
