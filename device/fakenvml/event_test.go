package fakenvml_test

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

// listen registers every GPU for XIDs.
func (n node) listen(t *testing.T) nvml.EventSet {
	t.Helper()
	set, ret := n.EventSetCreate()
	must.Eq(t, nvml.SUCCESS, ret)
	t.Cleanup(func() { must.Eq(t, nvml.SUCCESS, set.Free()) })
	for i := range n.fixture.GPUs {
		must.Eq(t, nvml.SUCCESS, n.gpu(t, i).RegisterEvents(nvml.EventTypeXidCriticalError, set))
	}
	return set
}

const noInstance = 0xFFFFFFFF

func TestXIDNamesTheMIGDeviceOrNone(t *testing.T) {
	n := open(t, "mig-h100")
	set := n.listen(t)
	must.NoError(t, n.XIDInstance(5, 43, control.Instance{GPUInstance: 1, ComputeInstance: 1}))
	must.NoError(t, n.XID(5, 95))
	data, ret := set.Wait(5000)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, nvml.EventData{Device: n.gpu(t, 5), EventType: nvml.EventTypeXidCriticalError, EventData: 43,
		GpuInstanceId: 1, ComputeInstanceId: 1}, data)
	data, ret = set.Wait(5000)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, nvml.EventData{Device: n.gpu(t, 5), EventType: nvml.EventTypeXidCriticalError, EventData: 95,
		GpuInstanceId: noInstance, ComputeInstanceId: noInstance}, data)
	_, ret = set.Wait(0)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, devices(t, n.gpu(t, 5))[0].RegisterEvents(nvml.EventTypeXidCriticalError, set),
		must.Sprint("a MIG device has no events of its own"))
}

// The waiter sleeps in the kernel until the control file is replaced.
func TestEventWakesTheWaiterAtOnce(t *testing.T) {
	n := open(t, "mig-h100")
	set := n.listen(t)
	type result struct {
		at   time.Time
		data nvml.EventData
		ret  nvml.Return
	}
	woken := make(chan result, 1)
	go func() {
		data, ret := set.Wait(60_000)
		woken <- result{time.Now(), data, ret}
	}()
	must.NoError(t, n.Power(0, 1)) // no event: the waiter goes on
	start := time.Now()
	must.NoError(t, n.XID(3, 79))
	got := <-woken
	must.Eq(t, nvml.SUCCESS, got.ret)
	must.Eq(t, 79, got.data.EventData)
	must.Less(t, time.Second, got.at.Sub(start))
}

// A waiter that looked twenty times a second would give up its processor as
// often.
func TestWaiterSleepsThroughout(t *testing.T) {
	n := open(t, "mig-h100")
	set := n.listen(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	other := filepath.Join(filepath.Dir(n.Path()), "other") // beside the control file: nobody's business
	must.NoError(t, os.WriteFile(other, nil, 0o644))
	before := switches(t)
	start := time.Now()
	_, ret := set.Wait(400)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret)
	must.GreaterEq(t, 400*time.Millisecond, time.Since(start))
	must.Less(t, 6, switches(t)-before)
}

// switches is how often this thread gave up its processor.
func switches(t *testing.T) int64 {
	t.Helper()
	const thread = 1 // RUSAGE_THREAD
	var usage syscall.Rusage
	must.NoError(t, syscall.Getrusage(thread, &usage))
	return usage.Nvcsw
}

func TestLibraryWithoutAControlFileWaitsItsTime(t *testing.T) {
	n := open(t, "mig-h100")
	t.Setenv("FAKENVML_CONTROL", "")
	set := n.listen(t)
	_, ret := set.Wait(30)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret)
	t.Setenv("FAKENVML_CONTROL", filepath.Join(t.TempDir(), "absent", "control"))
	other := n.listen(t)
	_, ret = other.Wait(120)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret, must.Sprint("its directory cannot be watched"))
}
