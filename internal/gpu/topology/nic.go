package topology

import "fmt"

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

// Near are the NICs that GPU i sends through, as a mask, and how it reaches them: the
// nearest ones, as NCCL takes them. Without one at a known distance the mask is 0 and the
// path unknown.
func (m *Matrix) Near(i int) (nics uint64, path Path) {
	for nic := range m.nics {
		switch p := m.NICPath(i, nic); {
		case p == PathUnknown:
		case path == PathUnknown || p < path:
			nics, path = 1<<nic, p
		case p == path:
			nics |= 1 << nic
		}
	}
	return nics, path
}

// NetworkMBps is what each GPU of a set has to other hosts, in one direction, when all of
// them send: each through its nearest NICs, which it shares with the others of the set that
// are near them, and through what the path to them carries of its PCIe link (pathPercent).
// The slowest GPU counts, since the others wait for it. It is 0 where a GPU has no NIC at
// a known distance, and where no speed is known. The second result is the farthest
// path from a GPU of the set to its nearest NIC: NCCL reads GPU memory from the NIC
// itself only up to PXB unless told otherwise (NCCL_NET_GDR_LEVEL).
func (m *Matrix) NetworkMBps(set uint64) (mbps int, farthest Path) {
	if len(m.nics) == 0 {
		return 0, PathUnknown
	}
	var near [MaxGPUs]uint64
	var paths [MaxGPUs]Path
	var sharers [MaxNICs]int
	for i := range m.size {
		if set>>i&1 == 0 {
			continue
		}
		near[i], paths[i] = m.Near(i)
		if paths[i] == PathUnknown {
			return 0, PathUnknown
		}
		farthest = max(farthest, paths[i])
		for nic := range m.nics {
			sharers[nic] += int(near[i] >> nic & 1)
		}
	}
	first := true
	for i := range m.size {
		if set>>i&1 == 0 {
			continue
		}
		share := 0
		for nic, speed := range m.nics {
			if near[i]>>nic&1 == 1 {
				share += speed / sharers[nic]
			}
		}
		share = min(share, m.pcieOver(paths[i]))
		if first || share < mbps {
			mbps, first = share, false
		}
	}
	return mbps, farthest
}
