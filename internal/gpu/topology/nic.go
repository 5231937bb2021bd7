package topology

import (
	"fmt"
	"math/bits"
)

// SetNICs records the NICs of the host: what each carries in one direction, in MB/s, 0
// where that is not known. Their paths are unknown until SetNICPath.
func (m *Matrix) SetNICs(mbps []int) {
	if len(mbps) > MaxNICs {
		panic(fmt.Sprintf("topology: %d NICs, %d at most", len(mbps), MaxNICs))
	}
	m.nics = append([]int(nil), mbps...)
	m.nicPaths = make([]Path, m.size*len(mbps))
}

// SetNICPath records how GPU i reaches a NIC.
func (m *Matrix) SetNICPath(i, nic int, path Path) { m.nicPaths[i*len(m.nics)+nic] = path }

// NICs is the number of NICs; 0 also where nobody looked.
func (m *Matrix) NICs() int { return len(m.nics) }

// NICMBps is what a NIC carries in one direction; 0 when not known.
func (m *Matrix) NICMBps(nic int) int { return m.nics[nic] }

// NICPath is how GPU i reaches a NIC.
func (m *Matrix) NICPath(i, nic int) Path { return m.nicPaths[i*len(m.nics)+nic] }

// NICsOf are the NICs that GPU i sends through, as a mask, and how it reaches them: those
// through which most gets out, by their own speed and by what the path to them carries of
// the GPU's PCIe link, and of those that are equal the nearest, as NCCL chooses
// (ncclTopoGetLocal). Without one at a known distance the mask is 0 and the path unknown.
func (m *Matrix) NICsOf(i int) (nics uint64, path Path) {
	most := -1
	for nic, speed := range m.nics {
		p := m.NICPath(i, nic)
		if p == PathUnknown {
			continue
		}
		switch mbps := min(speed, m.pcieOver(p)); {
		case mbps > most, mbps == most && p < path:
			nics, path, most = 1<<nic, p, mbps
		case mbps == most && p == path:
			nics |= 1 << nic
		}
	}
	return nics, path
}

// Network is what sets of GPUs have to other hosts. It does not change with its matrix.
type Network struct {
	speeds []int
	of     [MaxGPUs]struct {
		nics uint64
		path Path
		most int // what the path carries
	}
}

// Network is that of the matrix as it is now.
func (m *Matrix) Network() *Network {
	n := &Network{speeds: m.nics}
	for i := range m.size {
		gpu := &n.of[i]
		if gpu.nics, gpu.path = m.NICsOf(i); gpu.path != PathUnknown {
			gpu.most = m.pcieOver(gpu.path)
		}
	}
	return n
}

// MBps is what each GPU of a set has to other hosts, in one direction, when all of them
// send: each through its NICs, which it shares with the others of the set that have the
// same, and no more than what the path to them carries of its PCIe link (pathPercent). The
// slowest GPU counts, since the others wait for it. It is 0 where a GPU has no NIC at a
// known distance, and where no speed is known. The second result is the farthest path from
// a GPU of the set to its NICs: NCCL has a NIC read GPU memory by itself only up to PXB
// unless told otherwise (NCCL_NET_GDR_LEVEL).
func (n *Network) MBps(set uint64) (mbps int, farthest Path) {
	if len(n.speeds) == 0 || set == 0 {
		return 0, PathUnknown
	}
	var sharers [MaxNICs]int
	for rest := set; rest != 0; rest &= rest - 1 {
		gpu := &n.of[first(rest)]
		if gpu.path == PathUnknown {
			return 0, PathUnknown
		}
		farthest = max(farthest, gpu.path)
		for nics := gpu.nics; nics != 0; nics &= nics - 1 {
			sharers[first(nics)]++
		}
	}
	mbps = -1
	for rest := set; rest != 0; rest &= rest - 1 {
		gpu := &n.of[first(rest)]
		share := 0
		for nics := gpu.nics; nics != 0; nics &= nics - 1 {
			share += n.speeds[first(nics)] / sharers[first(nics)]
		}
		if share = min(share, gpu.most); mbps < 0 || share < mbps {
			mbps = share
		}
	}
	return mbps, farthest
}

// NetworkMBps is Network.MBps of one set.
func (m *Matrix) NetworkMBps(set uint64) (mbps int, farthest Path) { return m.Network().MBps(set) }

// first is the lowest member of a mask.
func first(mask uint64) int { return bits.TrailingZeros64(mask) }
