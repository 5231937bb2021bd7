package gpu

import "strings"

// The first two parts of a device name in a jobspec ("nvidia/gpu/<model>").
const (
	Vendor  = "nvidia"
	TypeGPU = "gpu"
	TypeMIG = "mig"
	// TypeShare is one of several shares of a GPU. It is a type of its own
	// because an ask for nvidia/gpu is served from any group of that type.
	TypeShare = "gpu-share"
)

// Attributes with the names and units of hashicorp/nomad-device-nvidia, so
// that jobspecs written for it keep working. docs/device.md lists where the
// meaning was corrected.
const (
	AttrMemory          = "memory"           // total frame buffer, MiB
	AttrPower           = "power"            // power limit, W
	AttrBAR1            = "bar1"             // BAR1 size, MiB
	AttrDriverVersion   = "driver_version"   // string
	AttrCoresClock      = "cores_clock"      // maximum graphics clock, MHz
	AttrMemoryClock     = "memory_clock"     // maximum memory clock, MHz
	AttrPCIBandwidth    = "pci_bandwidth"    // one way, MB/s
	AttrDisplayState    = "display_state"    // "Enabled" or "Disabled"
	AttrPersistenceMode = "persistence_mode" // "Enabled" or "Disabled"
)

// Attributes that Governor adds.
const (
	AttrGPUCount          = "gpu_count"              // physical GPUs in the group, int
	AttrDeviceCount       = "device_count"           // shares or MIG instances in the group, int
	AttrHealthyCount      = "healthy_count"          // healthy devices in the group, int
	AttrDegradedCount     = "degraded_count"         // healthy, and less than they should be; absent for none, int
	AttrComputeCapability = "compute_capability"     // "9.0"
	AttrArchitecture      = "architecture"           // "hopper"
	AttrCUDAVersion       = "cuda_driver_version"    // "12.8"
	AttrCores             = "cores"                  // CUDA cores per GPU, int
	AttrPCIeGeneration    = "pcie_generation"        // maximum, int
	AttrPCIeWidth         = "pcie_width"             // maximum lanes, int
	AttrNUMANodes         = "numa_nodes"             // number of distinct host NUMA nodes, int
	AttrNVLinkVersion     = "nvlink_version"         // "2.0"
	AttrNVLinkLinks       = "nvlink_links"           // active links per GPU, int (least over the group)
	AttrNVLinkBandwidth   = "nvlink_bandwidth"       // per GPU and direction, all links, MB/s
	AttrNVLinkTopology    = "nvlink_topology"        // none, pairs, mesh or switch
	AttrNVLinkIslandSize  = "nvlink_island_size"     // GPUs in the largest NVLink-connected island, int
	AttrECCMode           = "ecc_mode"               // "Enabled" or "Disabled"
	AttrMIGMode           = "mig_mode"               // "Enabled" or "Disabled"
	AttrBrand             = "brand"                  // "nvidia", "geforce_rtx", …
	AttrAddressing        = "addressing_mode"        // how the GPU sees host memory: "none", "hmm" or "ats"
	AttrVirtualization    = "virtualization"         // "none", "passthrough", "vgpu", "host_vgpu" or "host_vsga"
	AttrC2CBandwidth      = "c2c_bandwidth"          // NVLink-C2C to the host's processor, one way, MB/s
	AttrFabricCluster     = "fabric_cluster"         // UUID of the multi-node NVLink domain's cluster
	AttrFabricClique      = "fabric_clique"          // clique within the cluster, int
	AttrP2P               = "p2p"                    // "all", "some" or "none" of the pairs can read each other's memory
	AttrConfidential      = "confidential_computing" // "Enabled" or "Disabled"
	AttrTopologyGroup     = "topology_group"         // "nvlink0": the island that is this group

	AttrNICs         = "nics"          // RDMA devices of the host that are up, in the topology's order: "mlx5_0,mlx5_1"
	AttrNICCount     = "nic_count"     // int
	AttrNICBandwidth = "nic_bandwidth" // all of them, one way, MB/s

	AttrMIGProfile       = "mig_profile"        // "1g.10gb"
	AttrMIGComputeSlices = "mig_compute_slices" // of the GPU's seven, int
	AttrMIGGPUSlices     = "mig_gpu_slices"     // of the GPU's seven, the GPU instance's, int
	AttrMultiprocessors  = "multiprocessors"    // streaming multiprocessors of a MIG instance, int
	AttrMIGCopyEngines   = "mig_copy_engines"   // int
	AttrMIGDecoders      = "mig_decoders"       // int
	AttrMIGEncoders      = "mig_encoders"       // int
	AttrMIGJPEGEngines   = "mig_jpeg_engines"   // int
	AttrMIGOFAEngines    = "mig_ofa_engines"    // optical flow, int

	AttrSharingStrategy = "sharing_strategy" // "time-slicing" or "mps"
	AttrShareCount      = "share_count"      // shares of each GPU, int
	AttrShareMemory     = "share_memory"     // an equal part of the GPU's, MiB
	// AttrTopology is the compact link matrix of the group, see package
	// topology. The prefix keeps it out of Nomad's computed node class.
	AttrTopology = "unique.topology"
)

// The values of AttrNVLinkTopology.
const (
	NVLinkNone   = "none"   // no GPU has an active NVLink to another
	NVLinkPairs  = "pairs"  // islands of two
	NVLinkMesh   = "mesh"   // direct links, islands of more than two
	NVLinkSwitch = "switch" // all GPUs reach each other through NVSwitch
)

// The values of AttrP2P.
const (
	P2PAll  = "all"
	P2PSome = "some"
	P2PNone = "none"
)

// Variables that tell a task which GPUs are its own: UUIDs, comma separated.
const (
	EnvNVIDIAVisible = "NVIDIA_VISIBLE_DEVICES" // read by NVIDIA's container runtime
	EnvCUDAVisible   = "CUDA_VISIBLE_DEVICES"   // read by CUDA
)

// DeviceName joins vendor, type and model as Nomad does:
// "nvidia/gpu/Tesla V100-SXM2-16GB".
func DeviceName(vendor, typ, model string) string {
	return vendor + "/" + typ + "/" + model
}

// MatchesName reports whether a device block's name, as written in a jobspec,
// can be served by the group vendor/type/model. It follows Nomad's
// RequestedDevice.ID and DeviceIdTuple.Matches (nomad/structs): one part is a
// type, two are vendor/type, three are vendor/type/model; each part must be
// equal, and an empty part stands for any. An empty name asks for nothing.
func MatchesName(asked, vendor, typ, model string) bool {
	if asked == "" {
		return false
	}
	parts := strings.SplitN(asked, "/", 3)
	var want [3]string // vendor, type, model
	switch len(parts) {
	case 1:
		want[1] = parts[0]
	case 2:
		want[0], want[1] = parts[0], parts[1]
	default:
		want = [3]string(parts)
	}
	for i, have := range [3]string{vendor, typ, model} {
		if want[i] != "" && want[i] != have {
			return false
		}
	}
	return true
}

// AskedFor reports whether a device block's name, as written in a jobspec, can
// be served by GPUs, shares of them or MIG instances: its type says so, or is
// left open.
func AskedFor(asked string) bool {
	parts := strings.SplitN(asked, "/", 3)
	typ := parts[0]
	if len(parts) > 1 {
		typ = parts[1]
	}
	return asked != "" && (IsType(typ) || typ == "")
}

// IsType reports whether a device type is one of a GPU or a part of one.
func IsType(typ string) bool { return typ == TypeGPU || typ == TypeMIG || typ == TypeShare }

// SplitName is the inverse of DeviceName; ok is false unless name has all
// three parts.
func SplitName(name string) (vendor, typ, model string, ok bool) {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}
