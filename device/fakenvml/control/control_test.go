package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

func open(t *testing.T) (*control.Control, func() []string) {
	t.Helper()
	c, err := control.New(filepath.Join(t.TempDir(), "control"))
	must.NoError(t, err)
	return c, func() []string {
		raw, err := os.ReadFile(c.Path())
		must.NoError(t, err)
		return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	}
}

func TestEveryChangeIsALineAndResetKeepsOnlyEvents(t *testing.T) {
	t.Parallel()
	c, lines := open(t)
	must.Eq(t, []string{"fakenvml 1"}, lines())
	must.NoError(t, errors.Join(c.SetGPULost(3), c.Memory(0, 2), c.Power(0, 100), c.Utilisation(0, 50, 20),
		c.XID(1, 79), c.XIDInstance(2, 48, control.Instance{GPUInstance: 9}), c.Hang("nvmlDeviceGetName", 1500*time.Millisecond), c.Fail("*", 2, control.CodeGPULost),
		c.LinkDown(0, 5), c.DriverVersion("560.1"), c.InitError(control.CodeDriverNotLoaded)))
	must.Eq(t, []string{
		"fakenvml 1", "fail * 2 15", "gpu 0 memory_used 2097152", "gpu 0 power_usage 100000", "gpu 0 util_gpu 50",
		"gpu 0 util_memory 20", "gpu 3 lost 1", "hang nvmlDeviceGetName 1500", "link 0 5 down",
		"system driver_version 560.1", "system init_error 9", "xid 1 1 79", "xid 2 2 48 9 0"}, lines())
	must.NoError(t, errors.Join(c.ClearLost(3), c.Hang("nvmlDeviceGetName", 0), c.ClearFail("*", 2), c.LinkUp(0, 5)))
	must.SliceContains(t, lines(), "link 0 5 up")
	must.SliceNotContains(t, lines(), "gpu 3 lost 1")
	must.NoError(t, c.Reset())
	must.Eq(t, []string{"fakenvml 1", "xid 1 1 79", "xid 2 2 48 9 0"}, lines())
}

func TestMIGDeviceIsMadeBeforeItIsDescribed(t *testing.T) {
	t.Parallel()
	c, lines := open(t)
	i := control.Instance{GPUInstance: 7}
	must.NoError(t, errors.Join(
		c.MIGMemory(0, i, 1),
		c.CreateMIG(0, control.MIG{Instance: i, UUID: "MIG-a", Profile: "1g.10gb", MemoryMiB: 2, ComputeSlices: 1}),
		c.MIGMemory(0, i, 1), c.MIGMemory(0, control.Instance{GPUInstance: 7, ComputeInstance: 1}, 3), c.MIGMode(0, true, false)))
	must.Eq(t, []string{"fakenvml 1", "gpu 0 mig_mode 1", "gpu 0 mig_pending 0", "mig 0 7 0 new MIG-a 1g.10gb", "mig 0 7 0 compute_slices 1",
		"mig 0 7 0 memory_total 2097152", "mig 0 7 0 memory_used 1048576", "mig 0 7 1 memory_used 3145728"}, lines())
	must.NoError(t, c.DestroyMIG(0, i))
	must.Eq(t, []string{"fakenvml 1", "gpu 0 mig_mode 1", "gpu 0 mig_pending 0", "mig 0 7 0 gone", "mig 0 7 1 memory_used 3145728"}, lines())
	must.NoError(t, c.NotSupported(0, "power_usage"))
	must.SliceContains(t, lines(), "gpu 0 power_usage none")
}

func TestProcessesAndHealthAreLines(t *testing.T) {
	t.Parallel()
	c, lines := open(t)
	on := &control.Instance{GPUInstance: 7, ComputeInstance: 1}
	must.NoError(t, errors.Join(
		c.StartProcess(control.Process{GPU: 1, PID: 10, Kind: control.Compute, Bytes: 5}),
		c.StartProcess(control.Process{GPU: 1, PID: 10, Kind: control.Graphics, Bytes: -1}),
		c.StartProcess(control.Process{GPU: 1, PID: 100, Kind: control.MPS, Bytes: 6, Instance: on}),
		c.LinkCounter(0, 2, "replay", 7), c.LinkCounter(0, control.AllLinks, "replay", 1),
		c.ThrottleReasons(0, 64), c.ECC(0, 1, 2), c.RowRemap(0, true, false), c.RetiredPages(0, 3, 4, true),
		c.FabricState(0, control.FabricInProgress), c.FabricSummary(0, control.FabricLimited), c.Profiling(0, 1, 2, 3, 4)))
	must.Eq(t, []string{
		"fakenvml 1", "count 0 * replay 1", "count 0 2 replay 7",
		"gpu 0 ecc_volatile_dbe 2", "gpu 0 ecc_volatile_sbe 1", "gpu 0 fabric_state 2", "gpu 0 fabric_summary 3",
		"gpu 0 gpm_dram 4", "gpu 0 gpm_graphics 1", "gpu 0 gpm_sm 2", "gpu 0 gpm_tensor 3",
		"gpu 0 remap_failure 0", "gpu 0 remap_pending 1", "gpu 0 retired_dbe 4", "gpu 0 retired_pending 1", "gpu 0 retired_sbe 3",
		"gpu 0 throttle 64",
		"process 1 10 compute 5", "process 1 10 graphics none", "process 1 100 mps 6 7 1"}, lines())
	must.NoError(t, c.EndProcess(1, 10))
	must.SliceContains(t, lines(), "process 1 100 mps 6 7 1")
	must.Len(t, 18, lines())
}

func TestReadersNeverSeeHalfAFile(t *testing.T) {
	t.Parallel()
	c, lines := open(t)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 50 {
				if err := c.Memory(worker, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		must.Eq(t, "fakenvml 1", lines()[0])
	}
	wg.Wait()
	must.Len(t, 5, lines())
	entries, err := os.ReadDir(filepath.Dir(c.Path()))
	must.NoError(t, err)
	must.Len(t, 1, entries, must.Sprint("temporary files are left"))
}

func TestDirectoryThatDoesNotExistIsAnError(t *testing.T) {
	t.Parallel()
	_, err := control.New(filepath.Join(t.TempDir(), "absent", "control"))
	must.ErrorContains(t, err, "write control file")
}
