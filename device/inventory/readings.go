package inventory

import "github.com/nomad-governor/governor/internal/gpu/topology"

// Maybe is a value that NVML may not give. The zero value is "not known".
type Maybe[T comparable] struct {
	Value T
	Known bool
}

// Known is a value that NVML gave.
func Known[T comparable](value T) Maybe[T] { return Maybe[T]{Value: value, Known: true} }

// Readings is one pass over all GPUs of a node.
type Readings struct {
	// DriverVersion and CUDAVersion ("12.4") are empty when not known.
	DriverVersion, CUDAVersion string
	// GPUs has one entry for each index that NVML counts, failed ones too.
	GPUs []GPU
	// Paths holds the common ancestors that NVML gave, one entry a pair.
	Paths []Path
}

// Path is the PCIe path between the GPUs with these UUIDs.
type Path struct {
	A, B  string
	Level topology.Path
}

// GPU is what NVML said about one GPU.
type GPU struct {
	// Index is NVML's, valid until the driver is loaded again.
	Index int
	// Failure says why the GPU did not answer; empty when it did. The
	// other fields of a failed GPU are not looked at.
	Failure string

	// UUID, PCIBusID (sysfs form, "0000:3b:00.0") and Name identify it.
	UUID, PCIBusID, Name string

	// ComputeCapability ("9.0") and Architecture ("hopper") are empty when
	// not known.
	ComputeCapability, Architecture string

	MemoryMiB        Maybe[int64] // frame buffer
	BAR1MiB          Maybe[int64]
	PowerLimitMilliW Maybe[int64] // the limit in force
	CoresClockMHz    Maybe[int64] // maximum graphics clock
	MemoryClockMHz   Maybe[int64] // maximum
	Cores            Maybe[int64]
	PCIeGeneration   Maybe[int64] // maximum of GPU and slot
	PCIeWidth        Maybe[int64] // lanes, maximum of GPU and slot
	NUMANode         Maybe[int64] // the host's node
	DisplayEnabled   Maybe[bool]
	Persistence      Maybe[bool]
	ECC              Maybe[bool]
	MIG              Maybe[bool]

	// LinksKnown is false where NVML cannot say whether there are NVLinks.
	LinksKnown bool
	Links      []Link

	// RecoveryAction is NVML's field 230; 0 means none is needed.
	RecoveryAction Maybe[int64]
	// RemapFailure says that a row could not be remapped: the board is to
	// be replaced.
	RemapFailure Maybe[bool]
}

// Remote is what the far end of an NVLink is.
type Remote uint8

// The far ends that matter to a topology.
const (
	RemoteUnknown Remote = iota
	RemoteGPU
	RemoteSwitch
)

// Link is one NVLink of a GPU.
type Link struct {
	Active bool
	Remote Remote
	// RemotePCI is the far end's PCI bus id in sysfs form, or empty.
	RemotePCI string
	// SpeedMBps is one direction; 0 when not known.
	SpeedMBps int64
	// Version is NVLink's generation, "4.0"; empty when not known.
	Version string
}

// Event is an XID error that the driver reported for the GPU with this UUID,
// or for an unknown GPU when it is empty.
type Event struct {
	UUID string
	XID  int64
}
