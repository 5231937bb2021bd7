package nvml_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nvml"
)

// library is the fake libnvidia-ml.so.1, built once for all tests.
var library string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fakenvml")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		out, err := exec.Command("../fakenvml/build.sh", "--library", dir).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "build the fake library: %v\n%s", err, out)
			return 1
		}
		library = filepath.Join(dir, nvml.DefaultLibrary)
		return m.Run()
	}())
}

// node points the fake library at a fixture and returns a reader of it, and
// the control of the node. Tests share the process's one library, so they do
// not run in parallel.
func node(t testing.TB, name string) (*nvml.Reader, *control.Control) {
	t.Helper()
	return nodeWith(t, name, nil)
}

// nodeWith edits the compiled fixture first.
func nodeWith(t testing.TB, name string, edit func([]byte) []byte) (*nvml.Reader, *control.Control) {
	t.Helper()
	path := filepath.Join("../fakenvml/fixtures", name+".hcl")
	src, err := os.ReadFile(path)
	must.NoError(t, err)
	f, diags := fixture.Decode(src, path)
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	flat := f.Flat("test")
	if edit != nil {
		flat = edit(flat)
	}
	dir := t.TempDir()
	compiled := filepath.Join(dir, "node.flat")
	must.NoError(t, os.WriteFile(compiled, flat, 0o644))
	c, err := control.New(filepath.Join(dir, "control"))
	must.NoError(t, err)
	t.Setenv("FAKENVML_FIXTURE", compiled)
	t.Setenv("FAKENVML_CONTROL", c.Path())
	r := nvml.New(library, time.Now)
	t.Cleanup(r.Close)
	return r, c
}

func read(t *testing.T, r *nvml.Reader) inventory.Readings {
	t.Helper()
	readings, err := r.Read()
	must.NoError(t, err)
	return readings
}

func TestReadsEveryGPU(t *testing.T) {
	r, _ := node(t, "dgxh100")
	readings := read(t, r)
	must.Eq(t, "550.54.15", readings.DriverVersion)
	must.Eq(t, "12.4", readings.CUDAVersion)
	must.Len(t, 8, readings.GPUs)
	must.Len(t, 28, readings.Paths)
	g := readings.GPUs[5]
	must.Eq(t, 5, g.Index)
	must.Eq(t, "", g.Failure)
	must.Eq(t, "NVIDIA H100 80GB HBM3", g.Name)
	must.Eq(t, "0000:a8:00.0", g.PCIBusID, must.Sprint("sysfs form, lower case, no NUL"))
	must.Eq(t, inventory.Known[int64](81559), g.MemoryMiB)
	must.Eq(t, inventory.Known[int64](700000), g.PowerLimitMilliW, must.Sprint("the limit, not the draw"))
	must.Eq(t, inventory.Known[int64](1980), g.CoresClockMHz, must.Sprint("the maximum, not the idle clock"))
	must.Eq(t, inventory.Known[int64](1), g.NUMANode)
	must.Eq(t, "9.0", g.ComputeCapability)
	must.Eq(t, "hopper", g.Architecture)
	must.Len(t, 18, g.Links)
	for _, l := range g.Links {
		must.Eq(t, inventory.Link{Active: true, Remote: inventory.RemoteSwitch, RemotePCI: l.RemotePCI, SpeedMBps: 26562, Version: "4.0"}, l)
	}
}

func TestValueThatOneGPUDoesNotSupportIsUnknownThere(t *testing.T) {
	r, c := node(t, "l40s-x4")
	for _, call := range []string{"nvmlDeviceGetBAR1MemoryInfo", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetDisplayMode",
		"nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetUtilizationRates"} {
		must.NoError(t, c.Fail(call, 1, control.CodeNotSupported))
	}
	readings := read(t, r)
	g := readings.GPUs[1]
	must.Eq(t, "", g.Failure)
	must.False(t, g.BAR1MiB.Known || g.MemoryMiB.Known || g.CoresClockMHz.Known || g.NUMANode.Known)
	must.True(t, g.DisplayEnabled.Known, must.Sprint("display active stands in for the deprecated display mode"))
	must.True(t, readings.GPUs[0].MemoryMiB.Known)
	must.True(t, g.LinksKnown)
	must.Len(t, 0, g.Links)
	samples, err := r.Sample()
	must.NoError(t, err)
	must.False(t, samples[1].GPUPercent.Known)
	must.True(t, samples[1].TemperatureC.Known)
}

func TestLostGPUFailsAloneAndComesBack(t *testing.T) {
	r, c := node(t, "dgx1v")
	before, err := r.Probe()
	must.NoError(t, err)
	must.NoError(t, c.SetGPULost(3))
	after, err := r.Probe()
	must.NoError(t, err)
	must.NotEq(t, before, after)
	readings := read(t, r)
	must.Eq(t, "gpu_lost: the GPU has fallen off the bus (NVML code 15)", readings.GPUs[3].Failure)
	for i, g := range readings.GPUs {
		must.Eq(t, i == 3, g.Failure != "")
	}
	samples, err := r.Sample()
	must.NoError(t, err)
	must.Len(t, 7, samples)
	must.NoError(t, c.ClearLost(3))
	must.Eq(t, "", read(t, r).GPUs[3].Failure)
	again, err := r.Probe()
	must.NoError(t, err)
	must.Eq(t, before, again)
}

func TestSessionIsOpenedAgainWhileAGPUIsLost(t *testing.T) {
	_, c := node(t, "dgx1v")
	clock := time.Unix(0, 0)
	r := nvml.New(library, func() time.Time { return clock })
	t.Cleanup(r.Close)
	read(t, r)
	must.NoError(t, c.SetGPULost(0))
	must.NoError(t, c.InitError(control.CodeDriverNotLoaded)) // shows whether init is called
	read(t, r)
	_, err := r.Probe()
	must.NoError(t, err, must.Sprint("opened again too soon"))
	clock = clock.Add(time.Minute)
	read(t, r)
	_, err = r.Probe()
	must.ErrorIs(t, err, nvml.ErrNotReady)
}

// XIDs that have come and were not asked for yet outlive the session.
func TestXIDsOutliveTheSession(t *testing.T) {
	_, c := node(t, "dgx1v")
	clock := time.Unix(0, 0)
	r := nvml.New(library, func() time.Time { return clock })
	t.Cleanup(r.Close)
	gpus := read(t, r).GPUs
	must.NoError(t, c.SetGPULost(0))
	for _, e := range [][2]int{{0, 79}, {1, 74}, {2, 74}} {
		must.NoError(t, c.XID(e[0], e[1]))
	}
	clock = clock.Add(time.Minute)
	read(t, r)          // ends the session
	_, err := r.Probe() // and begins the next
	must.NoError(t, err)
	want := []inventory.Event{{UUID: gpus[0].UUID, XID: 79}, {UUID: gpus[1].UUID, XID: 74}, {UUID: gpus[2].UUID, XID: 74}}
	events, eventless, err := r.Wait(time.Second)
	must.NoError(t, err)
	must.False(t, eventless)
	must.Eq(t, want, events)
	must.NoError(t, c.XID(3, 31))
	events, _, err = r.Wait(time.Second)
	must.NoError(t, err)
	must.Eq(t, []inventory.Event{{UUID: gpus[3].UUID, XID: 31}}, events)
}

func TestXIDNamesItsGPUEvenWhenItIsLost(t *testing.T) {
	r, c := node(t, "dgx1v")
	readings := read(t, r)
	must.NoError(t, c.XID(2, 48))
	must.NoError(t, c.SetGPULost(6))
	must.NoError(t, c.XID(6, 79))
	for _, want := range []inventory.Event{{UUID: readings.GPUs[2].UUID, XID: 48}, {UUID: readings.GPUs[6].UUID, XID: 79}} {
		events, eventless, err := r.Wait(5 * time.Second)
		must.NoError(t, err)
		must.False(t, eventless)
		must.Eq(t, []inventory.Event{want}, events)
	}
	events, _, err := r.Wait(50 * time.Millisecond)
	must.NoError(t, err)
	must.Len(t, 0, events, must.Sprint("an event is delivered once"))
}

func TestDriverWithoutEventsSaysSo(t *testing.T) {
	r, c := node(t, "l40s-x4")
	must.NoError(t, c.Fail("nvmlDeviceGetSupportedEventTypes", -1, control.CodeNotSupported))
	_, eventless, err := r.Wait(time.Second)
	must.NoError(t, err)
	must.True(t, eventless)
}

func TestNVMLThatStopsAnsweringIsAnErrorUntilItAnswers(t *testing.T) {
	r, c := node(t, "l40s-x4")
	must.NoError(t, c.InitError(control.CodeVersionMismatch))
	_, err := r.Read()
	must.ErrorIs(t, err, nvml.ErrNotReady)
	must.ErrorContains(t, err, "differs from the loaded kernel driver's")
	must.NoError(t, c.InitError(0))
	must.Len(t, 4, read(t, r).GPUs)
	must.NoError(t, c.CallError(control.CodeDriverNotLoaded))
	_, err = r.Read()
	must.ErrorIs(t, err, nvml.ErrNotReady)
	must.ErrorContains(t, err, "the NVIDIA kernel driver is not loaded")
	must.NoError(t, c.CallError(0))
	must.NoError(t, c.DriverVersion("560.35.03"))
	must.Eq(t, "560.35.03", read(t, r).DriverVersion)
}

func TestChangesShowInTheNextSample(t *testing.T) {
	r, c := node(t, "dgx1v")
	must.NoError(t, errors.Join(c.Utilisation(1, 87, 40), c.Memory(1, 12000), c.Power(1, 250), c.Temperature(1, 71), c.Energy(1, 5000)))
	samples, err := r.Sample()
	must.NoError(t, err)
	s := samples[1]
	must.Eq(t, []int64{87, 40, 12000, 16384, 250000, 300000, 71, 5000}, []int64{
		s.GPUPercent.Value, s.MemoryPercent.Value, s.MemoryUsedMiB.Value, s.MemoryTotalMiB.Value,
		s.PowerMilliW.Value, s.PowerLimitMilliW.Value, s.TemperatureC.Value, s.EnergyMilliJ.Value})
	must.NoError(t, c.Reset())
	samples, err = r.Sample()
	must.NoError(t, err)
	must.Eq(t, 0, samples[1].GPUPercent.Value)
}

func TestLinkThatIsDownIsReadAsInactive(t *testing.T) {
	r, c := node(t, "nvlink-pairs")
	must.NoError(t, c.LinkDown(0, 1))
	g := read(t, r).GPUs[0]
	must.Eq(t, []bool{true, false}, []bool{g.Links[0].Active, g.Links[1].Active})
	must.Eq(t, "0000:af:00.0", g.Links[0].RemotePCI)
}

// A virtual machine: the driver does not say what links lead to, and the far
// ends have no address.
func TestOpaqueSwitchIsRecognised(t *testing.T) {
	r, _ := nodeWith(t, "dgxh100", func(flat []byte) []byte {
		flat = bytes.ReplaceAll(flat, []byte("nvlink_remote_type 1"), []byte("nvlink_remote_type 0"))
		for _, bus := range []string{"05", "06", "07", "08"} {
			flat = bytes.ReplaceAll(flat, []byte("switch 0000:"+bus+":00.0"), []byte("switch fffffff:ffff:ff.f"))
		}
		return flat
	})
	for _, l := range read(t, r).GPUs[0].Links {
		must.Eq(t, inventory.RemoteSwitch, l.Remote)
	}
}

func TestCallThatHangsDelaysOnlyItself(t *testing.T) {
	r, c := node(t, "l40s-x4")
	read(t, r)
	must.NoError(t, c.Hang("nvmlDeviceGetUtilizationRates", 400*time.Millisecond))
	start := time.Now()
	sampled := make(chan error, 1)
	go func() {
		_, err := r.Sample()
		sampled <- err
	}()
	read(t, r)
	must.Less(t, 400*time.Millisecond, time.Since(start), must.Sprint("the read waited for the call that hangs"))
	must.NoError(t, <-sampled)
	must.GreaterEq(t, 4*400*time.Millisecond, time.Since(start))
}

func TestBadLibraryIsAnErrorAndNeverACrash(t *testing.T) {
	whole, err := os.ReadFile(library)
	must.NoError(t, err)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must.NoError(t, os.WriteFile(path, content, 0o755))
		return path
	}
	foreign := bytes.Clone(whole)
	foreign[18] = 0x28 // e_machine: 32-bit ARM
	cases := map[string]struct {
		path     string
		sentinel error
		text     string
	}{
		"missing":            {filepath.Join(dir, "absent.so"), nvml.ErrNotFound, "does not exist"},
		"no such name":       {"libno-such-nvml.so.1", nvml.ErrNotFound, "libno-such-nvml.so.1"},
		"empty":              {file("empty.so", nil), nvml.ErrUnusable, "not a complete shared library"},
		"text":               {file("text.so", []byte("INPUT(libfoo.so)")), nvml.ErrUnusable, "not a complete shared library"},
		"directory":          {dir, nvml.ErrUnusable, "not a complete shared library"},
		"another machine":    {file("foreign.so", foreign), nvml.ErrUnusable, "is built for EM_ARM"},
		"another library":    {"libm.so.6", nvml.ErrUnusable, "lacks nvmlInit_v2: it is another library, or older than driver R418"},
		"a program":          {file("program.so", executable(whole)), nvml.ErrUnusable, "is not a shared library"},
		"without its tables": {file("segment.so", whole[:len(whole)/3]), nvml.ErrUnusable, "not a complete shared library"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := nvml.New(tc.path, time.Now)
			defer r.Close()
			for range 2 { // the second try must not find a half-open library
				_, err := r.Read()
				must.ErrorIs(t, err, tc.sentinel)
				must.ErrorContains(t, err, tc.text)
			}
		})
	}
	for size := 0; size < len(whole); size += 997 {
		path := file(fmt.Sprintf("cut%d.so", size), whole[:size])
		_, err := nvml.New(path, time.Now).Read()
		must.ErrorIs(t, err, nvml.ErrUnusable, must.Sprintf("cut to %d bytes", size))
	}
}

func executable(library []byte) []byte {
	changed := bytes.Clone(library)
	changed[16] = 2 // e_type: ET_EXEC
	return changed
}

func TestLibraryThatAppearsLaterIsUsed(t *testing.T) {
	node(t, "l40s-x4")
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	r := nvml.New(path, time.Now)
	t.Cleanup(r.Close)
	_, err := r.Read()
	must.ErrorIs(t, err, nvml.ErrNotFound)
	must.NoError(t, os.Symlink(library, path))
	must.Len(t, 4, read(t, r).GPUs)
}

func TestBrokenFixtureIsAnErrorFromTheLibrary(t *testing.T) {
	for name, edit := range map[string]func([]byte) []byte{
		"unknown key":    func(f []byte) []byte { return append(f, "gpu 0 wheels 4\n"...) },
		"no identity":    func(f []byte) []byte { return append(f, "gpu 4 name x\n"...) },
		"another format": func([]byte) []byte { return []byte("fakenvml 2\n") },
		"empty":          func([]byte) []byte { return nil },
		"long line":      func(f []byte) []byte { return append(f, bytes.Repeat([]byte("x"), 5000)...) },
		"bad number":     func(f []byte) []byte { return append(f, "gpu 0 cores 99999999999999999999\n"...) },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := nodeWith(t, "l40s-x4", edit)
			_, err := r.Read()
			must.ErrorIs(t, err, nvml.ErrNotReady)
			must.ErrorContains(t, err, "unknown error (NVML code 999)")
		})
	}
}

func TestBrokenControlFileChangesNothing(t *testing.T) {
	r, c := node(t, "l40s-x4")
	must.NoError(t, c.SetGPULost(1))
	must.NotEq(t, "", read(t, r).GPUs[1].Failure)
	must.NoError(t, os.WriteFile(c.Path()+".new", []byte("fakenvml 1\ngpu 9 lost 1\n"), 0o644))
	must.NoError(t, os.Rename(c.Path()+".new", c.Path()))
	must.NotEq(t, "", read(t, r).GPUs[1].Failure)
	must.NoError(t, c.Reset())
	must.Eq(t, "", read(t, r).GPUs[1].Failure)
}

func TestReplacedLibraryOrAnotherDriversCallsForAFreshProcess(t *testing.T) {
	_, c := node(t, "l40s-x4")
	path := filepath.Join(t.TempDir(), nvml.DefaultLibrary)
	whole, err := os.ReadFile(library)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(path, whole, 0o755))
	r := nvml.New(path, time.Now)
	t.Cleanup(r.Close)
	must.Eq(t, "", r.Outdated(nil), must.Sprint("nothing is loaded yet"))
	read(t, r)
	must.Eq(t, "", r.Outdated(nil))
	must.Eq(t, "", r.Outdated(nvml.ErrNotReady))
	before, err := os.Stat(path)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(path+".new", whole, 0o755))
	must.NoError(t, os.Chtimes(path+".new", before.ModTime(), before.ModTime()))
	must.NoError(t, os.Rename(path+".new", path))
	must.Eq(t, "the driver's library was replaced", r.Outdated(nil), must.Sprint("by one of the same size and time"))
	must.NoError(t, os.Remove(path))
	must.Eq(t, "the driver's library was replaced", r.Outdated(nil))

	other := nvml.New(library, time.Now)
	t.Cleanup(other.Close)
	must.NoError(t, c.CallError(control.CodeVersionMismatch))
	_, err = other.Probe()
	must.ErrorIs(t, err, nvml.ErrNotReady)
	must.ErrorIs(t, err, nvml.ErrMismatch)
	must.Eq(t, "the loaded library is not the kernel driver's", other.Outdated(err))
}
