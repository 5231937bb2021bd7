package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// client is what Nomad would see: the plugin of this test's process, which
// reads the fake library through the shipped program as its worker. A stream
// that ends or a message with an error fails the test.
type client struct {
	t       *testing.T
	plugin  *plugin.Plugin
	control *control.Control
	dir     string // with the library and the fixture
	ids     []string
	health  func() []string
	driver  func() string
}

// connect starts a plugin on a fixture. Its end checks that no process is left
// and that this one never loaded the library.
func connect(t *testing.T, name string) *client {
	t.Helper()
	dir := t.TempDir()
	c := &client{t: t, dir: dir}
	c.place("libnvidia-ml.so.1", contents(t, library()))
	c.place("node.flat", contents(t, flat(name)))
	var err error
	c.control, err = control.New(filepath.Join(dir, "control"))
	must.NoError(t, err)
	t.Setenv("FAKENVML_FIXTURE", filepath.Join(dir, "node.flat"))
	t.Setenv("FAKENVML_CONTROL", c.control.Path())
	c.plugin = plugin.New(hclog.NewNullLogger(), plugin.Parts{Source: supervise(program, hclog.NewNullLogger())}, time.Now)
	settings, err := deviceconfig.Parse(fmt.Appendf(nil, "nvml_library_path = %q\nstate_dir = %q\n",
		filepath.Join(dir, "libnvidia-ml.so.1"), filepath.Join(dir, "state")), "config.hcl", plugin.Name)
	must.NoError(t, err)
	must.NoError(t, c.plugin.Configure(settings))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.plugin.Fingerprint(ctx)
	must.NoError(t, err)
	latest := <-stream
	refresh := func() {
		select {
		case next, open := <-stream:
			must.True(t, open, must.Sprint("the stream ended"))
			must.Nil(t, next.Error)
			latest = next
		default:
		}
	}
	must.Len(t, 1, latest.Devices)
	for _, d := range latest.Devices[0].Devices {
		c.ids = append(c.ids, d.ID)
	}
	c.health = func() []string {
		refresh()
		var descriptions []string
		for i, d := range latest.Devices[0].Devices {
			must.Eq(t, c.ids[i], d.ID, must.Sprint("the order never changes"))
			must.Eq(t, d.HealthDesc == "", d.Healthy)
			descriptions = append(descriptions, d.HealthDesc)
		}
		return descriptions
	}
	c.driver = func() string {
		refresh()
		return *latest.Devices[0].Attributes["driver_version"].String
	}
	t.Cleanup(func() {
		cancel()
		for range stream { // ends
		}
		must.NoError(t, c.plugin.Close())
		must.SliceEmpty(t, children(t), must.Sprint("a process is left, or was not waited for"))
		must.StrNotContains(t, string(contents(t, "/proc/self/maps")), "libnvidia-ml")
	})
	return c
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	must.NoError(t, err)
	return raw
}

// place puts a file into the node's directory, as an installer does.
func (c *client) place(name string, raw []byte) {
	c.t.Helper()
	must.NoError(c.t, os.WriteFile(filepath.Join(c.dir, "new"), raw, 0o755))
	must.NoError(c.t, os.Rename(filepath.Join(c.dir, "new"), filepath.Join(c.dir, name)))
}

// all waits until every device has the description; "" is healthy.
func (c *client) all(want string) {
	c.t.Helper()
	c.each(slices.Repeat([]string{want}, len(c.ids)))
}

func (c *client) each(want []string) {
	c.t.Helper()
	must.Wait(c.t, wait.InitialSuccess(wait.ErrorFunc(func() error {
		if got := c.health(); !slices.Equal(want, got) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	}), wait.Timeout(2*time.Minute), wait.Gap(10*time.Millisecond)))
}

// children are the processes of this one, ended ones that nobody waited for
// too.
func children(t *testing.T) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must.NoError(t, err)
	var found []int
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		end := bytes.LastIndex(raw, []byte(") "))
		fields := strings.Fields(string(raw[end+2:])) // state, parent
		if fields[1] == strconv.Itoa(os.Getpid()) {
			id, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must.NoError(t, err)
			found = append(found, id)
		}
	}
	return found
}

func (c *client) worker() int {
	c.t.Helper()
	pids := children(c.t)
	must.Len(c.t, 1, pids)
	return pids[0]
}

// A GPU lost in the fake is unhealthy in the stream within seconds, refused by
// Reserve, and healthy again afterwards.
func TestPluginFollowsTheLibrary(t *testing.T) {
	c := connect(t, "dgx1v")
	must.Len(t, 8, c.ids)
	must.StrContains(t, string(contents(t, fmt.Sprintf("/proc/%d/maps", c.worker()))), c.dir+"/libnvidia-ml.so.1")
	must.StrNotContains(t, string(contents(t, fmt.Sprintf("/proc/%d/environ", c.worker()))), "NOMAD_PLUGIN_MAGIC_COOKIE")
	victim := func(want string) {
		t.Helper()
		all := make([]string, 8)
		all[3] = want
		c.each(all)
	}
	must.NoError(t, c.control.SetGPULost(3))
	victim("gpu_lost: the GPU has fallen off the bus (NVML code 15)")
	_, err := c.plugin.Reserve([]string{c.ids[3]})
	must.ErrorContains(t, err, "gpu_lost")
	must.NoError(t, c.control.ClearLost(3))
	victim("")
	must.NoError(t, c.control.RecoveryAction(3, 1))
	must.NoError(t, c.control.XID(3, 95))
	victim("recovery_action: the driver asks to reset the GPU; xid_95: uncontained memory error")
	must.NoError(t, c.control.RecoveryAction(3, 0))
	victim("")
	r, err := c.plugin.Reserve([]string{c.ids[3]})
	must.NoError(t, err)
	must.Eq(t, c.ids[3], r.Envs["CUDA_VISIBLE_DEVICES"])
}

func TestKilledWorkerIsSeenAndReplaced(t *testing.T) {
	c := connect(t, "l40s-x4")
	for range 2 {
		before := c.worker()
		must.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		c.all("nvml_worker: the process that reads NVML ended (signal: killed)")
		_, err := c.plugin.Reserve(c.ids[:1])
		must.ErrorContains(t, err, "nvml_worker")
		c.all("")
		must.NotEq(t, before, c.worker())
	}
}

func TestCallThatHangsEndsTheWorkerAndNotThePlugin(t *testing.T) {
	c := connect(t, "l40s-x4")
	before := c.worker()
	must.NoError(t, c.control.Hang("nvmlDeviceGetCount_v2", time.Hour))
	c.all("nvml_hang: a call into the driver does not return")
	must.NoError(t, c.control.Hang("nvmlDeviceGetCount_v2", 0))
	c.all("")
	must.NotEq(t, before, c.worker())
}

func TestAnotherDriverIsFoundWithoutARestart(t *testing.T) {
	c := connect(t, "l40s-x4")
	old := c.driver()
	must.NotEq(t, "999.12.34", old)
	before := c.worker()
	upgrade := func() { // a process that stays would go on with the old ones
		fixture := contents(t, filepath.Join(c.dir, "node.flat"))
		must.True(t, bytes.Contains(fixture, []byte(old)))
		c.place("node.flat", bytes.ReplaceAll(fixture, []byte(old), []byte("999.12.34")))
		c.place("libnvidia-ml.so.1", append(contents(t, library()), "another version"...))
	}
	upgrade()
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		for _, description := range c.health() {
			must.Eq(t, "", description, must.Sprint("a clean upgrade is no fault of the devices"))
		}
		return c.driver() == "999.12.34"
	}), wait.Timeout(time.Minute), wait.Gap(10*time.Millisecond)))
	must.NotEq(t, before, c.worker())
}

// A driver is unloaded and removed, half of the next one is there for a while,
// then all of it.
func TestDriverThatGoesAndComesBack(t *testing.T) {
	c := connect(t, "l40s-x4")
	must.NoError(t, os.Remove(filepath.Join(c.dir, "libnvidia-ml.so.1")))
	c.all("nvml_unavailable: NVML library not found: " + c.dir + "/libnvidia-ml.so.1 does not exist")
	must.StrNotContains(t, string(contents(t, fmt.Sprintf("/proc/%d/maps", c.worker()))), "libnvidia-ml",
		must.Sprint("nothing may keep the driver loaded"))
	whole := contents(t, library())
	c.place("libnvidia-ml.so.1", whole[:100])
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		return strings.Contains(c.health()[0], "NVML library is unusable")
	}), wait.Timeout(time.Minute), wait.Gap(10*time.Millisecond)))
	must.NoError(t, c.control.InitError(control.CodeVersionMismatch))
	c.place("libnvidia-ml.so.1", whole)
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		return strings.Contains(c.health()[0], "differs from the loaded kernel driver's")
	}), wait.Timeout(2*time.Minute), wait.Gap(10*time.Millisecond)))
	must.NoError(t, c.control.InitError(0))
	c.all("")
}

// A node without a driver has a worker that waits for one.
func TestDriverThatComesLater(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("FAKENVML_FIXTURE", flat("l40s-x4"))
	open := supervise(program, hclog.NewNullLogger())
	source := open(plugin.Settings{LibraryPath: filepath.Join(dir, "libnvidia-ml.so.1")})
	t.Cleanup(source.Close)
	_, err := source.Read()
	must.ErrorContains(t, err, "NVML library not found")
	must.NoError(t, os.WriteFile(filepath.Join(dir, "libnvidia-ml.so.1"), contents(t, library()), 0o755))
	readings, err := source.Read()
	must.NoError(t, err)
	must.Len(t, 4, readings.GPUs)
}
