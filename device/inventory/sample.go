package inventory

// Sample is the numbers that move, of one GPU at one time. The MIG instances of
// a GPU have samples of their own.
type Sample struct {
	// UUID names the GPU or MIG instance. Failure says why it did not answer.
	UUID, Failure string

	// Memory. Used leaves out what the driver reserves, where it says so.
	MemoryUsedMiB, MemoryTotalMiB    Maybe[int64]
	MemoryFreeMiB, MemoryReservedMiB Maybe[int64]
	BAR1UsedMiB, BAR1TotalMiB        Maybe[int64]

	PowerMilliW, PowerLimitMilliW Maybe[int64]
	EnergyMilliJ                  Maybe[int64] // since the driver was loaded

	GPUPercent, MemoryPercent      Maybe[int64]
	EncoderPercent, DecoderPercent Maybe[int64]
	JPEGPercent, OFAPercent        Maybe[int64]

	TemperatureC, MemoryTemperatureC  Maybe[int64]
	SlowdownC, FanPercent             Maybe[int64]
	GraphicsMHz, SMMHz, MemoryMHz     Maybe[int64]
	VideoMHz                          Maybe[int64]
	ThrottleReasons, PerformanceState Maybe[int64]
	ECCCorrected, ECCUncorrected      Maybe[int64] // since the driver was loaded
	// By place, since the driver was loaded: L1 and L2 cache, and memory.
	ECCCorrectedL1, ECCUncorrectedL1         Maybe[int64]
	ECCCorrectedL2, ECCUncorrectedL2         Maybe[int64]
	ECCCorrectedMemory, ECCUncorrectedMemory Maybe[int64]
	ECCCorrectedAll, ECCUncorrectedAll       Maybe[int64] // over the board's life

	PCIeReplays, PCIeGeneration, PCIeLanes Maybe[int64]
	PCIeSentKBps, PCIeReceivedKBps         Maybe[int64] // over the last 20 ms

	// NVLink counters over all links of the GPU: KiB of data since the driver
	// was loaded, and link errors.
	NVLinkSentKiB, NVLinkReceivedKiB             Maybe[int64]
	NVLinkReplays, NVLinkRecoveries, NVLinkCRC   Maybe[int64]
	RemappedCorrectable, RemappedUncorrectable   Maybe[int64]
	RetiredPagesSingleBit, RetiredPagesDoubleBit Maybe[int64]
	RemapPending, RemapFailure                   Maybe[bool]

	// Profiling counters, in thousandths of the time between two samples
	// (NVML's GPU performance monitoring, Hopper and newer).
	GraphicsActivePermille, SMActivePermille Maybe[int64]
	TensorActivePermille, DRAMActivePermille Maybe[int64]

	// ProcessesKnown is false where NVML cannot list processes.
	ProcessesKnown bool
	Processes      []Process
}

// Process is one process with a compute context on a GPU.
type Process struct {
	// PID is in the PID namespace of the plugin.
	PID int64
	// MemoryMiB is the GPU memory that it uses.
	MemoryMiB Maybe[int64]
	// GPUInstance and ComputeInstance name the MIG instance; unknown on a
	// whole GPU.
	GPUInstance, ComputeInstance Maybe[int64]
	// MPS says that it is a client of the MPS server.
	MPS bool
}
