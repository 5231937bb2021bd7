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
	// ConfidentialComputing says whether the GPUs encrypt what leaves them.
	ConfidentialComputing Maybe[bool]
	// NICs are those of the host that carry RDMA and are up, by PCI address.
	NICs []NIC
}

// NIC is a network card that carries RDMA: InfiniBand, or Ethernet with RoCE.
type NIC struct {
	// Name is that of its RDMA device, "mlx5_0".
	Name, PCIBusID string
	// MBps is what its active ports carry together in one direction.
	MBps int64
	// Paths is how the GPU with each PCI address reaches it; one that is missing is not
	// known.
	Paths map[string]topology.Path
}

// Path is the PCIe path between the GPUs with these UUIDs.
type Path struct {
	A, B  string
	Level topology.Path
	// P2P says whether each can read the other's memory, over PCIe or NVLink.
	P2P Maybe[bool]
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

	// Serial and BoardPart identify the board; two GPUs of one board share
	// them. Empty when not known.
	Serial, BoardPart string
	// Minor numbers the device node: /dev/nvidia<Minor>. It is not Index.
	Minor Maybe[int64]
	// ModuleID is the GPU's place on its baseboard (SXM), from 1.
	ModuleID Maybe[int64]

	// ComputeCapability ("9.0"), Architecture ("hopper") and Brand ("nvidia")
	// are empty when not known.
	ComputeCapability, Architecture, Brand string
	// Virtualization is "none", "passthrough", "vgpu", "host_vgpu" or
	// "host_vsga"; Addressing is "none", "hmm" or "ats"; ComputeMode is
	// "default", "exclusive_process" or "prohibited". Empty when not known.
	Virtualization, Addressing, ComputeMode string

	MemoryMiB        Maybe[int64] // frame buffer; unknown where memory is the host's
	BAR1MiB          Maybe[int64]
	PowerLimitMilliW Maybe[int64] // the limit in force
	CoresClockMHz    Maybe[int64] // maximum graphics clock
	MemoryClockMHz   Maybe[int64] // maximum
	Cores            Maybe[int64]
	PCIeGeneration   Maybe[int64] // maximum of GPU and slot
	PCIeWidth        Maybe[int64] // lanes, maximum of GPU and slot
	NUMANode         Maybe[int64] // the host's node
	MemoryNUMANode   Maybe[int64] // the GPU's own memory node, on coherent hosts
	DisplayEnabled   Maybe[bool]
	Persistence      Maybe[bool]
	ECC              Maybe[bool]
	MIG              Maybe[bool]  // MIG mode is on
	MIGPending       Maybe[bool]  // MIG mode after the next reset
	C2CLinks         Maybe[int64] // NVLink-C2C to the host's processor
	C2CMBps          Maybe[int64] // all C2C links, one direction

	// Instances are the MIG instances, by GPU instance and compute instance.
	Instances []MIGInstance

	// LinksKnown is false where NVML cannot say whether there are NVLinks.
	LinksKnown bool
	Links      []Link

	// RecoveryAction is NVML's field 230; 0 means none is needed.
	RecoveryAction Maybe[int64]
	// RemapFailure says that a row could not be remapped: the board is to
	// be replaced. RemapPending says that a row waits for a reset.
	RemapFailure, RemapPending Maybe[bool]
	// RetiredPending says that memory pages wait for a reset to be retired
	// (GPUs before Ampere).
	RetiredPending Maybe[bool]
	// ECCUncorrected counts, and EnergyMilliJ sums, since the driver was
	// loaded or the GPU was reset. Energy that falls tells of a reset.
	ECCUncorrected, EnergyMilliJ Maybe[int64]
	// ThrottleReasons is NVML's mask of clocks event reasons.
	ThrottleReasons Maybe[int64]
	// Fabric is the GPU's place in a multi-node NVLink fabric.
	Fabric Fabric
}

// MIGInstance is one MIG device of a GPU.
type MIGInstance struct {
	// UUID ("MIG-...") identifies it.
	UUID string
	// GPUInstance and ComputeInstance are the ids within the GPU; XIDs name them.
	GPUInstance, ComputeInstance int64
	// Profile is NVIDIA's name of its size, "1g.10gb" or "1g.10gb+me".
	Profile string

	MemoryMiB       Maybe[int64]
	ComputeSlices   Maybe[int64] // of the GPU's seven, this compute instance's
	GPUSlices       Maybe[int64] // of the GPU's seven, the GPU instance's
	Multiprocessors Maybe[int64]
	CopyEngines     Maybe[int64]
	Decoders        Maybe[int64]
	Encoders        Maybe[int64]
	JPEGEngines     Maybe[int64]
	OFAEngines      Maybe[int64]
}

// FabricState is how far a GPU's registration with the fabric manager is
// (nvmlGpuFabricState_t).
type FabricState uint8

// The states of a GPU in a fabric.
const (
	FabricNotSupported FabricState = iota
	FabricNotStarted
	FabricInProgress
	FabricCompleted
)

// Fabric is what NVML's fabric information says of one GPU.
type Fabric struct {
	State FabricState
	// Status is the registration's NVML return code, once completed.
	Status int64
	// ClusterUUID and Clique name the NVLink domain; all zeros and 0 on a
	// host whose NVSwitches connect only its own GPUs. ClusterUUID is empty
	// when not known.
	ClusterUUID string
	Clique      int64
	// HealthMask is NVML's mask of two-bit states (1 true, 2 false, 0 not
	// supported), of version 3 or 2; unknown where the driver has none.
	HealthMask Maybe[int64]
	// Summary is 1 healthy, 2 unhealthy, 3 limited; 0 when not known.
	Summary int64
}

// MultiNode reports whether the GPU's NVLinks reach other hosts.
func (f Fabric) MultiNode() bool {
	return f.State == FabricCompleted && f.ClusterUUID != "" && f.ClusterUUID != "00000000-0000-0000-0000-000000000000"
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

// Watched is what a wait for news has brought.
type Watched struct {
	Events []Event
	// Digest differs from the one before when a reading would.
	Digest string
	// Eventless says that there are no events to wait for: the wait was none.
	Eventless bool
}

// Event is an XID error that the driver reported for the GPU with this UUID,
// or for an unknown GPU when it is empty; or, with XID 0, another report that
// calls for a reading. GPUInstance and ComputeInstance name
// the MIG instance; unknown when the whole GPU is meant.
type Event struct {
	UUID                         string
	XID                          int64
	GPUInstance, ComputeInstance Maybe[int64]
}
