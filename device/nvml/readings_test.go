package nvml_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/inventory"
)

func TestMIGInstancesAreReadWithTheirParts(t *testing.T) {
	r, c := node(t, "mig-h100")
	gpus := read(t, r).GPUs
	must.Eq(t, inventory.Known(true), gpus[0].MIG)
	profiles := []string{}
	for _, m := range gpus[0].Instances {
		must.StrHasPrefix(t, "MIG-", m.UUID)
		must.True(t, m.MemoryMiB.Known && m.ComputeSlices.Known && m.GPUSlices.Known && m.Multiprocessors.Known)
		profiles = append(profiles, m.Profile)
	}
	must.SliceContainsAll(t, []string{"1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb"}, profiles)

	first := gpus[0].Instances[0]
	at := control.Instance{GPUInstance: int(first.GPUInstance), ComputeInstance: int(first.ComputeInstance)}
	must.NoError(t, c.MIGMemory(0, at, 1234))
	must.NoError(t, c.Profiling(0, 900, 800, 700, 600))
	must.NoError(t, c.MIGNumber(0, at, "gpm_sm", 432))
	_, err := r.Sample()
	must.NoError(t, err)
	samples, err := r.Sample()
	must.NoError(t, err)
	found := false
	for _, s := range samples {
		if s.UUID == first.UUID {
			found = true
			must.Eq(t, inventory.Known[int64](1234), s.MemoryUsedMiB)
			must.Eq(t, inventory.Known[int64](432), s.SMActivePermille, must.Sprint("its own part of the GPU"))
			must.False(t, s.TemperatureC.Known, must.Sprint("NVML gives it of the whole GPU alone"))
		}
	}
	must.True(t, found)

	must.NoError(t, c.DestroyMIG(0, at))
	must.Len(t, len(profiles)-1, read(t, r).GPUs[0].Instances)
	must.NoError(t, c.MIGMode(1, true, false))
	must.Eq(t, inventory.Known(false), read(t, r).GPUs[1].MIGPending)
}

func TestEventOfAMIGInstanceNamesIt(t *testing.T) {
	r, c := node(t, "mig-h100")
	m := read(t, r).GPUs[0].Instances[0]
	_, _, err := r.Wait(0)
	must.NoError(t, err)
	must.NoError(t, c.XIDInstance(0, 13, control.Instance{GPUInstance: int(m.GPUInstance), ComputeInstance: int(m.ComputeInstance)}))
	events, _, err := r.Wait(5 * time.Second)
	must.NoError(t, err)
	must.Len(t, 1, events)
	must.Eq(t, inventory.Known(m.GPUInstance), events[0].GPUInstance)
	must.Eq(t, inventory.Known(m.ComputeInstance), events[0].ComputeInstance)
}

func TestFabricOfATrayIsRead(t *testing.T) {
	r, c := node(t, "gb200-tray")
	f := read(t, r).GPUs[0].Fabric
	must.Eq(t, inventory.FabricCompleted, f.State)
	must.True(t, f.MultiNode())
	must.True(t, f.HealthMask.Known)
	must.NoError(t, c.FabricState(0, 2))
	must.Eq(t, inventory.FabricInProgress, read(t, r).GPUs[0].Fabric.State)

	r.Close() // there is one library, and it reads its fixture when it is opened
	single, _ := node(t, "dgxh200")
	must.False(t, read(t, single).GPUs[0].Fabric.MultiNode(), must.Sprint("one host's NVSwitches are no multi-node fabric"))
}

func TestWhatIsWrongWithAGPUIsRead(t *testing.T) {
	r, c := node(t, "dgxh100")
	must.NoError(t, c.RowRemap(2, true, true))
	must.NoError(t, c.ThrottleReasons(2, 0x48))
	must.NoError(t, c.RecoveryAction(2, 2))
	must.NoError(t, c.ECC(2, 5, 7))
	g := read(t, r).GPUs[2]
	must.Eq(t, inventory.Known(true), g.RemapPending)
	must.Eq(t, inventory.Known(true), g.RemapFailure)
	must.Eq(t, inventory.Known[int64](0x48), g.ThrottleReasons)
	must.Eq(t, inventory.Known[int64](2), g.RecoveryAction)
	must.Eq(t, inventory.Known[int64](7), g.ECCUncorrected)
	must.True(t, g.Minor.Known)
}

// What changes slowly is asked in every fifth probe, so a change shows in one of
// the next five.
func TestProbeSeesAGPUThatNeedsSomething(t *testing.T) {
	for name, tc := range map[string]struct {
		fixture string
		change  func(*control.Control, inventory.GPU) error
	}{
		"recovery": {"dgxh100", func(c *control.Control, _ inventory.GPU) error { return c.RecoveryAction(0, 1) }},
		"remap":    {"dgxh100", func(c *control.Control, _ inventory.GPU) error { return c.RowRemap(0, true, false) }},
		"slowdown": {"dgxh100", func(c *control.Control, _ inventory.GPU) error { return c.ThrottleReasons(0, 0x40) }},
		"a MIG instance that is destroyed": {"mig-h100", func(c *control.Control, g inventory.GPU) error {
			m := g.Instances[0]
			return c.DestroyMIG(0, control.Instance{GPUInstance: int(m.GPUInstance), ComputeInstance: int(m.ComputeInstance)})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, c := node(t, tc.fixture)
			first := read(t, r).GPUs[0]
			before, err := r.Probe()
			must.NoError(t, err)
			same, err := r.Probe()
			must.NoError(t, err)
			must.Eq(t, before, same)
			must.NoError(t, tc.change(c, first))
			seen := false
			for range 5 {
				now, err := r.Probe()
				must.NoError(t, err)
				seen = seen || now != before
			}
			must.True(t, seen)
		})
	}
}

func TestSamplesHaveProcessesTrafficAndProfile(t *testing.T) {
	r, c := node(t, "dgxh200")
	must.NoError(t, c.StartProcess(control.Process{GPU: 3, PID: 4242, Kind: control.Compute, Bytes: 512 << 20}))
	must.NoError(t, c.StartProcess(control.Process{GPU: 3, PID: 4343, Kind: control.MPS, Bytes: -1}))
	must.NoError(t, c.StartProcess(control.Process{GPU: 3, PID: 4444, Kind: control.Graphics, Bytes: 1}))
	must.NoError(t, c.Profiling(3, 900, 800, 700, 600))
	_, err := r.Sample()
	must.NoError(t, err)
	samples, err := r.Sample() // counters are of the time between two
	must.NoError(t, err)
	s := samples[3]
	must.True(t, s.ProcessesKnown)
	must.Eq(t, []inventory.Process{{PID: 4242, MemoryMiB: inventory.Known[int64](512)}, {PID: 4343, MPS: true}}, s.Processes,
		must.Sprint("who only draws is not listed"))
	must.Eq(t, inventory.Known[int64](900), s.GraphicsActivePermille)
	must.Eq(t, inventory.Known[int64](800), s.SMActivePermille)
	must.Eq(t, inventory.Known[int64](700), s.TensorActivePermille)
	must.Eq(t, inventory.Known[int64](600), s.DRAMActivePermille)
	for i, other := range samples {
		if i != 3 {
			must.SliceEmpty(t, other.Processes)
		}
	}
}

func TestPCIeTrafficIsMeasuredWhereThereAreNoCounters(t *testing.T) {
	r, c := node(t, "l40s-x4")
	must.NoError(t, c.Number(2, "pcie_tx", 123))
	must.NoError(t, c.Number(2, "pcie_rx", 456))
	samples, err := r.Sample()
	must.NoError(t, err)
	must.Eq(t, inventory.Known[int64](123), samples[2].PCIeSentKBps)
	must.Eq(t, inventory.Known[int64](456), samples[2].PCIeReceivedKBps)
}

func TestNVLinkErrorsAreSummed(t *testing.T) {
	for _, fixture := range []string{"dgxh200", "dgxa100"} {
		r, c := node(t, fixture)
		must.NoError(t, c.LinkCounter(0, 1, "replay", 3))
		must.NoError(t, c.LinkCounter(0, 2, "replay", 4))
		samples, err := r.Sample()
		must.NoError(t, err)
		must.Eq(t, inventory.Known[int64](7), samples[0].NVLinkReplays, must.Sprint(fixture))
	}
}
