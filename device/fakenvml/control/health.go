package control

import (
	"fmt"
	"strconv"
)

// ThrottleReasons sets NVML's mask of clocks event reasons.
func (c *Control) ThrottleReasons(index int, mask int64) error {
	return c.set(gpuKey(index, "throttle"), mask)
}

// ECC sets how many memory errors were corrected and not since the driver was
// loaded.
func (c *Control) ECC(index, corrected, uncorrected int) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "ecc_volatile_sbe"): int64(corrected), gpuKey(index, "ecc_volatile_dbe"): int64(uncorrected)})
}

// RowRemap says whether a row waits for a reset to be remapped, and whether
// one could not be.
func (c *Control) RowRemap(index int, pending, failure bool) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "remap_pending"): number(pending), gpuKey(index, "remap_failure"): number(failure)})
}

// RetiredPages sets how many pages are retired for single-bit and double-bit
// errors, and whether some wait for a reset.
func (c *Control) RetiredPages(index, singleBit, doubleBit int, pending bool) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "retired_sbe"): int64(singleBit), gpuKey(index, "retired_dbe"): int64(doubleBit),
		gpuKey(index, "retired_pending"): number(pending)})
}

// LinkCounter sets a counter of one NVLink of the GPU, or of all of them when
// link is AllLinks; src/keys.h lists the counters.
func (c *Control) LinkCounter(index, link int, counter string, value int64) error {
	which := strconv.Itoa(link)
	if link == AllLinks {
		which = "*"
	}
	return c.set(fmt.Sprintf("count %d %s %s", index, which, counter), value)
}

// AllLinks stands for every NVLink of a GPU.
const AllLinks = -1

// States of a GPU in a multi-node NVLink fabric, and of the fabric's health
// (NVML_GPU_FABRIC_*).
const (
	FabricNotStarted = 1
	FabricInProgress = 2
	FabricCompleted  = 3

	FabricHealthy   = 1
	FabricUnhealthy = 2
	FabricLimited   = 3

	FabricYes = 1
	FabricNo  = 2
)

// FabricState sets how far the GPU's registration with the fabric is.
func (c *Control) FabricState(index, state int) error {
	return c.set(gpuKey(index, "fabric_state"), int64(state))
}

// FabricSummary sets the summary of the fabric's health. Its parts are the keys
// that begin with "fabric_", for Number.
func (c *Control) FabricSummary(index, summary int) error {
	return c.set(gpuKey(index, "fabric_summary"), int64(summary))
}

// Profiling sets what GPU performance monitoring says, in permille of the time.
func (c *Control) Profiling(index, graphics, sm, tensor, dram int) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "gpm_graphics"): int64(graphics), gpuKey(index, "gpm_sm"): int64(sm),
		gpuKey(index, "gpm_tensor"): int64(tensor), gpuKey(index, "gpm_dram"): int64(dram)})
}
