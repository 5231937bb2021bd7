package main

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/internal/gpu"
)

// Each test is named after a defect of hashicorp/nomad-device-nvidia (05e83c3) by
// what holds here, and says what that plugin does. The plugin is the one that
// ships, with its worker process, on the fake library.

// There: Healthy is the constant true, and HealthDesc is never set.
func TestDefect01AGPUThatFailsIsUnhealthyWithItsReason(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "dgxh100").start("")
	ids := n.wait("healthy GPUs", conditions(nil)).ids()
	c := n.control
	must.NoError(t, errors.Join(c.SetGPULost(1), c.RecoveryAction(2, 1), c.XID(2, 79), c.RowRemap(3, false, true), c.ThrottleReasons(4, 0x40)))
	why := map[int]string{
		1: "gpu_lost: the GPU has fallen off the bus (NVML code 15)",
		2: "recovery_action: the driver asks to reset the GPU; xid_79: the GPU has fallen off the bus",
		3: "row_remap_failure: row remapping failed: replace the GPU",
		4: "degraded: thermal_slowdown: the hardware slows the GPU down because it is too hot",
	}
	r := n.wait("the faults", conditions(why))
	must.NoError(t, has(gpu.AttrHealthyCount, "5")(r))
	must.NoError(t, has(gpu.AttrDegradedCount, "1")(r))
	for i := range ids {
		_, err := n.plugin.Reserve(ids[i : i+1])
		if unusable := i == 1 || i == 2 || i == 3; unusable {
			must.ErrorContains(t, err, why[i])
		} else {
			must.NoError(t, err)
		}
	}
	must.NoError(t, c.Reset())
	must.NoError(t, has(gpu.AttrHealthyCount, "8")(n.wait("their end", conditions(nil))))
}

// There: only the set of UUIDs is compared, so that a change of anything else is
// never sent.
func TestDefect02EveryValueThatChangesIsSent(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "t4").start("")
	before := n.latest().groups[0].attributes
	for i, c := range []struct {
		key   string
		to    int64
		attr  string
		value string
	}{
		{"power_limit", 60_000, gpu.AttrPower, "60 W"},
		{"clock_max_graphics", 1500, gpu.AttrCoresClock, "1500 MHz"},
		{"clock_max_memory", 5000, gpu.AttrMemoryClock, "5000 MHz"},
		{"persistence", 0, gpu.AttrPersistenceMode, "Disabled"},
		{"display_mode", 1, gpu.AttrDisplayState, "Enabled"},
		{"ecc_mode", 0, gpu.AttrECCMode, "Disabled"},
		{"memory_total", 8 << 30, gpu.AttrMemory, "8192 MiB"},
		{"bar1_total", 1 << 30, gpu.AttrBAR1, "1024 MiB"},
		{"pcie_gen_max", 4, gpu.AttrPCIeGeneration, "4"},
		{"pcie_width_max", 8, gpu.AttrPCIeWidth, "8"},
		{"cores", 2048, gpu.AttrCores, "2048"},
		{"cc_major", 8, gpu.AttrComputeCapability, "8.5"},
		{"virtualization", 1, gpu.AttrVirtualization, "passthrough"},
	} {
		must.NotEq(t, c.value, before[c.attr])
		must.NoError(t, n.control.Number(0, c.key, c.to))
		if i > 0 { // the first one is seen without help too
			n.look()
		}
		n.wait(c.attr, has(c.attr, c.value))
	}
	must.NoError(t, n.control.DriverVersion("560.35.03"))
	n.look()
	n.wait("the driver", has(gpu.AttrDriverVersion, "560.35.03"))

	// A MIG instance that was made anew may have the UUID of the one before.
	n = newMachine(t, "mig-a100-single").start("")
	const group = "mig/NVIDIA A100-SXM4-40GB MIG "
	uuid := n.latest().group(t, group+"1g.5gb").devices[0].id
	must.NoError(t, n.control.CreateMIG(0, control.MIG{Instance: control.Instance{GPUInstance: 7}, UUID: uuid, Profile: "1g.10gb"}))
	n.look()
	r := n.wait("the other profile", func(m message) error {
		if len(m.groups) != 2 {
			return fmt.Errorf("there are %d groups", len(m.groups))
		}
		return nil
	})
	must.Eq(t, uuid, r.group(t, group+"1g.10gb").devices[0].id)
	must.Len(t, 1, r.group(t, group+"1g.10gb").devices)
	must.Len(t, 55, r.group(t, group+"1g.5gb").devices)
	must.Len(t, 56, slices.Compact(slices.Sorted(slices.Values(r.ids()))))
}

// There: an error of any call about any GPU is the error of the fingerprint, and
// Nomad drops all devices until the client is restarted.
func TestDefect03AnErrorOfOneGPUConcernsNoOther(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "dgx2").start("")
	before := n.latest().ids()
	must.NoError(t, n.control.SetGPULost(15)) // and what is wrong is read each 100 ms
	n.wait("the lost GPU", conditions(map[int]string{15: "gpu_lost: the GPU has fallen off the bus (NVML code 15)"}))
	mark := len(n.heard(0))
	type answer struct {
		call string
		code int
	}
	var answers []answer
	for _, call := range gpuCalls(t) {
		for _, code := range []int{control.CodeUnknown, control.CodeNotSupported, control.CodeGPULost} {
			answers = append(answers, answer{call, code})
		}
	}
	const fallible = 14 // GPUs 1 to 14
	for turn, chunk := range slices.Collect(slices.Chunk(answers, fallible)) {
		for i, a := range chunk {
			must.NoError(t, n.control.Fail(a.call, 1+i, a.code))
		}
		// A message with this version is of a reading in which the calls fail.
		version := fmt.Sprintf("999.%d", turn)
		must.NoError(t, n.control.DriverVersion(version))
		n.wait(fmt.Sprint("a reading with ", chunk), has(gpu.AttrDriverVersion, version))
		for i, a := range chunk {
			must.NoError(t, n.control.ClearFail(a.call, 1+i))
		}
	}
	for _, r := range n.heard(mark) {
		must.Eq(t, before, r.ids())
		must.Eq(t, "", r.devices()[0].why)
		must.StrHasPrefix(t, "gpu_lost", r.devices()[15].why)
	}
	must.NoError(t, n.control.ClearLost(15))
	n.wait("sixteen healthy GPUs", conditions(nil))
}

// gpuCalls are the functions of the library that are asked of one GPU.
func gpuCalls(t *testing.T) []string {
	t.Helper()
	file, err := elf.Open(library())
	must.NoError(t, err)
	defer file.Close()
	symbols, err := file.DynamicSymbols()
	must.NoError(t, err)
	var calls []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && strings.HasPrefix(s.Name, "nvmlDevice") && s.Name != "nvmlDeviceGetCount" && s.Name != "nvmlDeviceGetCount_v2" {
			calls = append(calls, s.Name)
		}
	}
	slices.Sort(calls)
	must.Greater(t, 60, len(calls))
	return calls
}

// record is a log that can be read while it is written.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// There: NVML is initialised once, so that a driver that is loaded later is never
// found, and a node without one has an error in its log.
func TestDefect04ADriverThatComesLaterIsFound(t *testing.T) {
	t.Parallel()
	m, log := newMachine(t, "l40s-x4"), &record{}
	m.logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: log})
	must.NoError(t, os.Rename(filepath.Join(m.dir, "libnvidia-ml.so.1"), filepath.Join(m.dir, "not yet")))
	must.NoError(t, m.control.InitError(control.CodeDriverNotLoaded)) // files are installed before the module is loaded
	p := m.newPlugin()
	must.NoError(t, p.Configure(m.settings("")))
	n := m.attend(p)
	must.SliceEmpty(t, n.latest().groups)
	logs := func(what string) {
		t.Helper()
		must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return strings.Contains(log.String(), what) }),
			wait.Timeout(30*time.Second), wait.Gap(5*time.Millisecond)), must.Sprint("waiting for ", what))
	}
	logs("no GPU is offered: reason=\"NVML library not found")
	must.NoError(t, os.Rename(filepath.Join(m.dir, "not yet"), filepath.Join(m.dir, "libnvidia-ml.so.1")))
	logs("the NVIDIA kernel driver is not loaded")
	must.NoError(t, m.control.InitError(0))
	must.NoError(t, conditions(nil)(n.wait("four GPUs", many(4))))
	must.Len(t, 2, n.heard(0), must.Sprint("no GPU, and then all"))
	must.StrNotContains(t, log.String(), "[ERROR]")
}

// There: power is the draw at the time of the fingerprint, and in the statistics
// milliwatts of watts.
func TestDefect05PowerIsTheLimitAndItsUseIsInWatts(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "dgxh100").start("")
	must.NoError(t, has(gpu.AttrPower, "700 W")(n.latest()))
	mark := len(n.heard(0))
	id := n.latest().ids()[2]
	for _, watts := range []int{345, 690} {
		must.NoError(t, n.control.Power(2, watts))
		n.measure("the draw", is(id, "power.usage", fmt.Sprintf("%d / 700 W", watts)))
	}
	must.NoError(t, n.control.Number(5, "power_limit", 500_000))
	n.look()
	n.wait("the lower limit", has(gpu.AttrPower, "500 W"))
	must.Len(t, 1, n.heard(mark), must.Sprint("the draw is no attribute"))
}

// There: the clocks are those of the moment, which are low while nobody uses the
// GPU.
func TestDefect06ClocksAreTheMaximum(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "rtx3090x4").start("")
	must.NoError(t, has(gpu.AttrCoresClock, "2100 MHz")(n.latest()))
	must.NoError(t, has(gpu.AttrMemoryClock, "9751 MHz")(n.latest()))
	mark := len(n.heard(0))
	id := n.latest().ids()[0]
	for graphics, memory := range map[int64]int64{210: 405, 1860: 9501} {
		must.NoError(t, errors.Join(n.control.Number(0, "clock_graphics", graphics), n.control.Number(0, "clock_memory", memory)))
		n.measure("the present clock", is(id, "clock.graphics", fmt.Sprintf("%d MHz", graphics)))
		n.measure("that of the memory", is(id, "clock.memory", fmt.Sprintf("%d MHz", memory)))
	}
	must.NoError(t, n.control.Number(0, "clock_max_graphics", 2000))
	n.look()
	n.wait("a lower maximum", has(gpu.AttrCoresClock, "2000 MHz"))
	must.Len(t, 1, n.heard(mark), must.Sprint("the present clocks are no attributes"))
}

// There: a lane's speed by a table in which generation 5 is not twice generation 4,
// and 1 and 2 are nothing.
func TestDefect07PCIBandwidthIsThatOfEachGeneration(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "t4").start("")
	for _, c := range []struct {
		generation, width int64
		want              string
	}{
		{1, 16, "4000 MB/s"}, {2, 16, "8000 MB/s"}, {3, 16, "15750 MB/s"}, {4, 16, "31500 MB/s"}, {5, 16, "63000 MB/s"}, {6, 16, "121000 MB/s"},
		{5, 8, "31500 MB/s"}, {4, 4, "7875 MB/s"}, {3, 1, "984 MB/s"}, {7, 16, ""}, // of what is not known there is no guess
	} {
		must.NoError(t, errors.Join(n.control.Number(0, "pcie_gen_max", c.generation), n.control.Number(0, "pcie_width_max", c.width)))
		n.look()
		n.wait(fmt.Sprint(c), has(gpu.AttrPCIBandwidth, c.want))
	}
}

// There: the PCI address ends in the NULs of a C string and has the digits of
// NVML, so that it is never equal to that of a NUMA node's device.
func TestDefect08PCIAddressesAreThoseOfSysfs(t *testing.T) {
	t.Parallel()
	var want []string
	n := newMachine(t, "gb300-tray").start("")
	for _, g := range decoded(t, "gb300-tray").GPUs {
		want = append(want, g.PCIBusID)
	}
	var got []string
	for _, d := range n.latest().devices() {
		got = append(got, d.bus)
	}
	must.Eq(t, slices.Sorted(slices.Values(want)), got)
	must.StrNotContains(t, n.latest().all, `\u0000`)

	sysfs := regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.0$`)
	for _, name := range fixtures(t) {
		for _, g := range printed(t, name) {
			for _, d := range g.Devices {
				must.RegexMatch(t, sysfs, d.PCIBusID, must.Sprint(name))
			}
		}
	}
}

// printed is what the command line says of a fixture.
func printed(t *testing.T, name string) []jsonGroup {
	t.Helper()
	code, stdout, stderr := invoke(t, flat(name), "fingerprint", "-json", "-nvml-library-path", library(), "-config", configFor(t, name))
	must.Zero(t, code, must.Sprint(stderr))
	var groups []jsonGroup
	must.NoError(t, json.Unmarshal([]byte(stdout), &groups))
	must.SliceNotEmpty(t, groups)
	return groups
}

// decoded is a fixture as it is written.
func decoded(t *testing.T, name string) *fixture.Fixture {
	t.Helper()
	path := filepath.Join(fakeSource, "fixtures", name+".hcl")
	f, diags := fixture.Decode(contents(t, path), path)
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	return f
}

// There: the states are "0" and "1", and a driver that does not answer the question
// for the display, which R580 deprecates, loses all GPUs.
func TestDefect09StatesAreWordsAndAnUnansweredQuestionLosesNothing(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "display-and-compute").start("")
	state := func(attr string) map[string]string {
		states := map[string]string{}
		for _, g := range n.latest().groups {
			states[g.name] = g.attributes[attr]
		}
		return states
	}
	const small, large = "gpu/NVIDIA T400 4GB", "gpu/NVIDIA GeForce RTX 4090"
	must.Eq(t, map[string]string{small: "Enabled", large: "Disabled"}, state(gpu.AttrDisplayState))
	must.Eq(t, map[string]string{small: "Disabled", large: "Disabled"}, state(gpu.AttrPersistenceMode))
	const deprecated = 26 // NVML_ERROR_DEPRECATED
	answers := func(what string, as map[string]string) {
		t.Helper()
		n.look()
		n.wait(what, func(m message) error {
			for _, g := range m.groups {
				if got := g.attributes[gpu.AttrDisplayState]; got != as[g.name] {
					return fmt.Errorf("%s is %q", g.name, got)
				}
			}
			return errors.Join(many(2)(m), conditions(nil)(m))
		})
	}
	must.NoError(t, errors.Join(n.control.Number(0, "display_active", 0), n.control.Fail("nvmlDeviceGetDisplayMode", -1, deprecated)))
	answers("whether a display is active in its place", map[string]string{small: "Disabled", large: "Disabled"})
	must.NoError(t, errors.Join(n.control.Fail("nvmlDeviceGetPersistenceMode", -1, control.CodeNotSupported), n.control.Fail("nvmlDeviceGetDisplayActive", -1, control.CodeNotSupported)))
	answers("GPUs without a display state", map[string]string{})
	must.Eq(t, map[string]string{small: "", large: ""}, state(gpu.AttrPersistenceMode))
	for _, g := range printed(t, "gb10") { // its driver is of that kind
		must.Eq(t, "Disabled", g.Attributes[gpu.AttrDisplayState])
	}
}

// There: one metric that a GPU does not support fails the statistics of all GPUs.
func TestDefect10AFigureThatIsNotSupportedIsMissingAlone(t *testing.T) {
	t.Parallel()
	n := newMachine(t, "dgxh100").start("")
	ids := n.latest().ids()
	for turn, c := range []struct {
		call string
		keys []string
	}{
		{"nvmlDeviceGetUtilizationRates", []string{"gpu.utilization", "memory.utilization"}},
		{"nvmlDeviceGetEncoderUtilization", []string{"encoder.utilization"}},
		{"nvmlDeviceGetDecoderUtilization", []string{"decoder.utilization"}},
		{"nvmlDeviceGetClockInfo", []string{"clock.graphics", "clock.sm", "clock.memory", "clock.video"}},
		{"nvmlDeviceGetTotalEccErrors", []string{"ecc.corrected", "ecc.uncorrected", "ecc.corrected.lifetime", "ecc.uncorrected.lifetime"}},
		{"nvmlDeviceGetPowerUsage", []string{"power.usage"}},
		{"nvmlDeviceGetBAR1MemoryInfo", []string{"memory.bar1"}},
		{"nvmlDeviceGetPcieReplayCounter", []string{"pcie.replays"}},
		{"nvmlDeviceGetRemappedRows", []string{"memory.remapped.correctable", "memory.remapped.uncorrectable"}},
	} {
		before := n.measure("all figures", func(stats map[string]figures) error {
			if stats[ids[1]][c.keys[0]] == "" {
				return errors.New("it has none")
			}
			return nil
		})
		must.NoError(t, n.control.Fail(c.call, 1, []int{control.CodeNotSupported, control.CodeUnknown}[turn%2]))
		after := n.measure("one without", is(ids[1], c.keys[0], ""))
		must.MapLen(t, 8, after)
		for _, key := range c.keys {
			must.MapContainsKey(t, before[ids[1]], key)
			must.MapNotContainsKey(t, after[ids[1]], key)
			must.MapContainsKey(t, after[ids[0]], key, must.Sprint("of another GPU"))
		}
		must.MapLen(t, len(before[ids[1]])-len(c.keys), after[ids[1]], must.Sprint("the others are there: ", c.call))
		must.StrHasSuffix(t, " / 81559 MiB", after[ids[1]]["summary"])
		must.NoError(t, n.control.ClearFail(c.call, 1))
	}
}

// There: a group has the attributes of its first GPU, whatever the others are.
func TestDefect11AGroupHasWhatEachOfItsGPUsHas(t *testing.T) {
	t.Parallel()
	for _, odd := range []int{0, 2} { // the first GPU, and another
		n := newMachine(t, "l40s-x4").start("")
		must.NoError(t, errors.Join(
			n.control.Number(odd, "power_limit", 200_000), n.control.Number(odd, "clock_max_graphics", 1800), n.control.Number(odd, "pcie_width_max", 8),
			n.control.Number(odd, "persistence", 0), n.control.NotSupported(odd, "ecc_mode"), n.control.NotSupported(odd, "bar1_total"),
			n.control.Number(odd, "memory_total", 24<<30))) // last: it is read first, and a reading may be under way
		n.look()
		for attr, want := range map[string]string{
			gpu.AttrMemory: "24576 MiB", gpu.AttrGPUCount: "4", gpu.AttrPower: "200 W", gpu.AttrCoresClock: "1800 MHz", gpu.AttrPCIBandwidth: "15750 MB/s", gpu.AttrMemoryClock: "9001 MHz",
			gpu.AttrPersistenceMode: "", gpu.AttrECCMode: "", gpu.AttrBAR1: "", gpu.AttrArchitecture: "ada",
		} {
			n.wait(fmt.Sprint("GPU ", odd), has(attr, want))
		}
	}
}

// There: groups are sent in the order of a Go map, which Nomad takes for a change.
func TestDefect12WhateverNVMLsOrderTheMessageIsTheSame(t *testing.T) {
	t.Parallel()
	order := []int{0, 1, 2, 3, 4, 5, 6, 7}
	random := rand.New(rand.NewPCG(1, 2))
	var first string
	for turn := range 50 {
		m := newMachine(t, "mig-h100")
		m.place("node.flat", mixed(t, order).Flat(""))
		n := m.start("sharing {\n  gpus = [\"0000:97:00.0\"]\n  replicas = 2\n}")
		r := n.latest()
		if turn == 0 {
			first = r.all
			must.Len(t, 12, r.groups)
			must.Len(t, 16, r.devices())
		}
		must.Eq(t, first, r.all, must.Sprint(turn, order))
		n.closed()
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
}

// mixed is a node with two models, MIG instances of all profiles and GPUs without,
// as NVML numbers it: the GPU at index i is the order[i]th of the fixture.
func mixed(t *testing.T, order []int) *fixture.Fixture {
	t.Helper()
	f := decoded(t, "mig-h100")
	for i := range f.GPUs {
		g := &f.GPUs[i]
		g.UUID = f.UUID("", i)
		g.Numbers["minor"] = int64(i)
		for k := range g.Instances {
			g.Instances[k].UUID = f.MIGUUID("", i, k)
		}
		if i%2 == 0 && len(g.Instances) == 0 {
			g.Texts["name"] = "Other H100"
		}
	}
	permuted := *f
	permuted.GPUs, permuted.Links, permuted.Levels = nil, nil, nil
	for _, i := range order {
		permuted.GPUs = append(permuted.GPUs, f.GPUs[i])
		var links, levels []int
		for _, j := range order {
			links, levels = append(links, f.Links[i][j]), append(levels, f.Levels[i][j])
		}
		permuted.Links, permuted.Levels = append(permuted.Links, links), append(permuted.Levels, levels)
	}
	return &permuted
}

// There: a message is sent without a look at the context, so that the goroutine of
// a stream whose reader is gone waits for ever.
func TestDefect13AStreamWhoseReaderIsGoneEnds(t *testing.T) {
	before := goleak.IgnoreCurrent()
	n := newMachine(t, "l40s-x4").start("")
	ctx, cancel := context.WithCancel(context.Background())
	unread, err := n.plugin.Fingerprint(ctx) // its first message waits
	must.NoError(t, err)
	read, err := n.plugin.Fingerprint(ctx)
	must.NoError(t, err)
	<-read
	stats, err := n.plugin.Stats(ctx, 100*time.Millisecond) // nor are these read
	must.NoError(t, err)
	must.NoError(t, n.control.SetGPULost(1))
	n.wait("a second message", conditions(map[int]string{1: "gpu_lost: the GPU has fallen off the bus (NVML code 15)"}))
	cancel()
	n.closed()
	must.NoError(t, goleak.Find(before))
	for range unread { // it is closed
		t.Fatal("a message after the end")
	}
	for range stats {
		t.Fatal("statistics after the end")
	}
}

// There: the ids of an earlier configuration are ignored for ever.
func TestDefect14GPUsThatAreNoLongerIgnoredAreOffered(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "l40s-x4")
	all := m.start("").latest().ids()
	ignoring := func(ids []string) plugin.Settings {
		return m.settings("ignored_gpu_ids = " + asJSON(append([]string{}, ids...)))
	}
	for _, ignored := range [][]string{{all[1], all[3]}, {all[1]}, nil} {
		p := m.newPlugin()
		must.NoError(t, p.Configure(ignoring(all)))
		must.NoError(t, p.Configure(ignoring(ignored)))
		n := m.attend(p)
		n.wait("devices", many(len(all)-len(ignored)))
		must.Eq(t, slices.DeleteFunc(slices.Clone(all), func(id string) bool { return slices.Contains(ignored, id) }), n.latest().ids())
		for _, id := range ignored {
			_, err := p.Reserve([]string{id})
			must.ErrorContains(t, err, "this node has no such GPU")
		}
		n.closed()
	}
}

// There: a GPU in MIG mode without an instance is not listed at all, and the
// instances have no statistics.
func TestDefect15GPUsInMIGModeAreListedAndMeasured(t *testing.T) {
	t.Parallel()
	const whole, cut = "gpu/NVIDIA A100-SXM4-40GB", "mig/NVIDIA A100-SXM4-40GB MIG 1g.5gb"
	n := newMachine(t, "mig-a100-single").start("")
	must.Len(t, 1, n.latest().groups)
	instances := n.latest().group(t, cut).devices
	must.Len(t, 56, instances)
	must.NoError(t, errors.Join(n.control.Power(0, 123), n.control.Temperature(0, 71), n.control.MIGMemory(0, control.Instance{GPUInstance: 8}, 1000)))
	want := map[string]string{"mig.parent.power": "123 / 400 W", "mig.parent.temperature": "71 C", "memory.used": "1000 / 4864 MiB", "health": "healthy"}
	must.MapLen(t, 56, n.measure("the instance's own memory, and its GPU's power and temperature", func(stats map[string]figures) error {
		var errs []error
		for key, value := range want {
			errs = append(errs, is(instances[1].id, key, value)(stats))
		}
		return errors.Join(errs...)
	}))

	for id := 7; id <= 13; id++ {
		must.NoError(t, n.control.DestroyMIG(0, control.Instance{GPUInstance: id}))
	}
	n.look()
	r := n.wait("the GPU without instances", func(m message) error {
		if len(m.groups) != 2 {
			return fmt.Errorf("there are %d groups", len(m.groups))
		}
		return many(50)(m)
	})
	must.Len(t, 49, r.group(t, cut).devices)
	bare := r.group(t, whole).devices
	must.Len(t, 1, bare)
	must.False(t, bare[0].healthy)
	must.StrHasPrefix(t, "mig_no_instances: MIG mode is on and there are no instances: create some", bare[0].why)
	must.Eq(t, instances[0].bus, bare[0].bus)
	n.measure("figures of the GPU without instances", is(bare[0].id, "power.usage", "123 / 400 W"))

	const uuid = "MIG-0c1d2e3f-0000-4000-8000-000000000001"
	must.NoError(t, n.control.CreateMIG(0, control.MIG{Instance: control.Instance{GPUInstance: 9}, UUID: uuid, Profile: "3g.20gb"}))
	n.look()
	r = n.wait("an instance in the GPU's place", func(m message) error {
		if !slices.Contains(m.ids(), uuid) {
			return errors.New("it is not there")
		}
		return many(50)(m)
	})
	made := r.group(t, "mig/NVIDIA A100-SXM4-40GB MIG 3g.20gb")
	must.Eq(t, []deviceSent{{id: uuid, bus: bare[0].bus, healthy: true}}, made.devices)
	must.Eq(t, "3g.20gb", made.attributes[gpu.AttrMIGProfile])
}
