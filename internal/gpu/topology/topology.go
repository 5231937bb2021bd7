package topology

import (
	"fmt"
	"slices"
)

// Path is how two GPUs reach each other without NVLink, from nearest to
// farthest: NVML's common-ancestor levels, in nvidia-smi's names.
type Path uint8

// The levels of nvmlDeviceGetTopologyCommonAncestor.
const (
	PathUnknown    Path = iota // NVML does not say (a virtual machine)
	PathInternal               // one board
	PathSingle                 // PIX: one PCIe switch
	PathMultiple               // PXB: several PCIe switches
	PathHostBridge             // PHB: one host bridge
	PathNode                   // NODE: host bridges of one NUMA node
	PathSystem                 // SYS: across NUMA nodes
)

const pathLetters = "?ixmhns"

// String is nvidia-smi's name for the level.
func (p Path) String() string {
	names := [...]string{"?", "INT", "PIX", "PXB", "PHB", "NODE", "SYS"}
	if int(p) >= len(names) {
		return "?"
	}
	return names[p]
}

// The bounds that Parse enforces.
const (
	// MaxGPUs in one group: the largest single hosts have 16.
	MaxGPUs = 64
	// MaxLinks between one pair: NVML_NVLINK_MAX_LINKS.
	MaxLinks = 36
	// MaxNICs of one host: more than any that is sold has.
	MaxNICs = 64
	// maxMBps is more than any link carries.
	maxMBps = 1 << 30
	// UnknownNUMA marks a GPU whose host NUMA node is not known.
	UnknownNUMA = -1
)

// Matrix is the topology of one group. Use New, then Set and SetNUMA. A Matrix
// is not safe for concurrent change; reading it is.
type Matrix struct {
	size     int
	linkMBps int // one NVLink, one direction, as NVML reports it; 0 without NVLink
	pcieMBps int // one GPU's PCIe link, one direction; 0 when not known
	switched bool
	numa     []int
	links    []uint8 // row-major, symmetric
	paths    []Path
	nics     []int  // one direction in MB/s
	nicPaths []Path // by GPU, then NIC
}

// New returns the matrix of size GPUs without links, with unknown paths and
// NUMA nodes. linkMBps and pcieMBps are one direction of one NVLink and of one
// GPU's PCIe link. size must be in [0, MaxGPUs].
func New(size, linkMBps, pcieMBps int) *Matrix {
	if size < 0 || size > MaxGPUs {
		panic(fmt.Sprintf("topology: size %d is outside 0..%d", size, MaxGPUs))
	}
	m := &Matrix{size: size, linkMBps: linkMBps, pcieMBps: pcieMBps}
	m.numa = make([]int, size)
	for i := range m.numa {
		m.numa[i] = UnknownNUMA
	}
	m.links = make([]uint8, size*size)
	m.paths = make([]Path, size*size)
	return m
}

// Set records the active NVLinks between GPUs i and j (through NVSwitch: the
// lesser of the two sides' active links) and their PCIe path.
func (m *Matrix) Set(i, j, links int, path Path) {
	if i == j || links < 0 || links > MaxLinks {
		panic(fmt.Sprintf("topology: pair %d,%d with %d links", i, j, links))
	}
	m.links[i*m.size+j], m.links[j*m.size+i] = uint8(links), uint8(links)
	m.paths[i*m.size+j], m.paths[j*m.size+i] = path, path
}

// SetNUMA records the host NUMA node of GPU i, or UnknownNUMA.
func (m *Matrix) SetNUMA(i, node int) { m.numa[i] = node }

// SetSwitched records that the NVLinks go through NVSwitch.
func (m *Matrix) SetSwitched(switched bool) { m.switched = switched }

// Size is the number of GPUs.
func (m *Matrix) Size() int { return m.size }

// Links is the number of NVLinks between i and j; 0 for i == j.
func (m *Matrix) Links(i, j int) int { return int(m.links[i*m.size+j]) }

// Path is the PCIe path between i and j.
func (m *Matrix) Path(i, j int) Path { return m.paths[i*m.size+j] }

// NUMA is the host NUMA node of GPU i, or UnknownNUMA.
func (m *Matrix) NUMA(i int) int { return m.numa[i] }

// LinkMBps is the speed of one NVLink in one direction, as NVML reports it.
func (m *Matrix) LinkMBps() int { return m.linkMBps }

// PCIeMBps is the speed of one GPU's PCIe link in one direction.
func (m *Matrix) PCIeMBps() int { return m.pcieMBps }

// Switched reports whether the NVLinks go through NVSwitch.
func (m *Matrix) Switched() bool { return m.switched }

// effectiveLink maps the NVLink speeds that NVML reports (MB/s) to what a
// collective gets out of one link: NCCL's constants, src/graph/topo.h
// (SM60_NVLINK_BW 18, SM70 20, SM80 20, SM86 12, SM90 20.6, SM100 40.1 GB/s).
var effectiveLink = []struct{ reported, effective int }{
	{14062, 12000}, {20000, 18000}, {25000, 20000}, {25781, 20000},
	{26562, 20600}, {50000, 40100}, {53125, 40100},
}

// pathPercent is the share of the PCIe link's speed that a pair gets over
// each path. The order is nvidia-smi's; the sizes are a judgement from NCCL's
// socket and host-bridge constants, and only the order matters to placement.
var pathPercent = [...]int{PathUnknown: 30, PathInternal: 100, PathSingle: 95,
	PathMultiple: 85, PathHostBridge: 70, PathNode: 60, PathSystem: 40}

// EffectiveMBps is the bandwidth between GPUs i and j, one direction, as a
// ring or tree of NCCL would see it: NVLinks times the effective speed of one,
// or the PCIe path where there is no NVLink. It is at least 1 for i != j.
func (m *Matrix) EffectiveMBps(i, j int) int {
	if i == j {
		return 0
	}
	if n := m.Links(i, j); n > 0 && m.linkMBps > 0 {
		return n * m.effectiveLinkMBps()
	}
	return m.pcieOver(m.Path(i, j))
}

// pcieOver is what a path carries of a GPU's PCIe link.
func (m *Matrix) pcieOver(path Path) int {
	pcie := m.pcieMBps
	if pcie == 0 {
		pcie = 12000 // PCIe 3.0 x16, NCCL's PCI_BW
	}
	return max(1, pcie*pathPercent[path]/100)
}

// PeakMBps is the bandwidth between GPUs i and j, one direction, as their links
// are rated: NVLinks times the speed of one, or the PCIe link of one GPU where
// there is no NVLink; 0 when not known.
func (m *Matrix) PeakMBps(i, j int) int {
	if i == j {
		return 0
	}
	if n := m.Links(i, j); n > 0 && m.linkMBps > 0 {
		return n * m.linkMBps
	}
	return m.pcieMBps
}

func (m *Matrix) effectiveLinkMBps() int {
	best, distance := 0, -1
	for _, e := range effectiveLink {
		d := e.reported - m.linkMBps
		if d < 0 {
			d = -d
		}
		if distance < 0 || d < distance {
			best, distance = e.effective, d
		}
	}
	if distance*10 > m.linkMBps { // no generation that we know: four fifths, as theirs
		return m.linkMBps * 4 / 5
	}
	return best
}

// Islands returns the groups of GPUs connected by NVLink, each ascending, the
// whole in order of the first member. A GPU without NVLink is its own island.
func (m *Matrix) Islands() [][]int {
	seen := make([]bool, m.size)
	var islands [][]int
	for start := range m.size {
		if seen[start] {
			continue
		}
		seen[start] = true
		members := []int{start}
		for k := 0; k < len(members); k++ {
			for j := range m.size {
				if !seen[j] && m.Links(members[k], j) > 0 {
					seen[j] = true
					members = append(members, j)
				}
			}
		}
		slices.Sort(members)
		islands = append(islands, members)
	}
	return islands
}
