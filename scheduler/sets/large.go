package sets

import (
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Large is for groups of more than MaxGPUs, which no single host of today has:
// islands first. Every NVLink island with enough free GPUs offers its best set
// (exact when the island has at most MaxGPUs free), and the best of these wins,
// from the island with the fewest GPUs to spare. When no island is large enough
// the GPUs are taken from the largest ones. 1 <= k <= number of free GPUs.
func Large(m *topology.Matrix, free uint64, k int) (uint64, Quality) {
	set := chooseLarge(m, free, k)
	return set, qualityLarge(m, set)
}

func chooseLarge(m *topology.Matrix, free uint64, k int) uint64 {
	var best uint64
	var bestQuality Quality
	bestSpare := 0
	for _, island := range m.Islands() {
		members := maskOf(island) & free
		spare := bits.OnesCount64(members) - k
		if spare < 0 {
			continue
		}
		set := bestOfIsland(m, members, k)
		q := qualityLarge(m, set)
		order := q.Compare(bestQuality)
		if best == 0 || order > 0 || order == 0 && spare < bestSpare {
			best, bestQuality, bestSpare = set, q, spare
		}
	}
	if best != 0 {
		return best
	}
	return acrossIslands(m, free, k)
}

// bestOfIsland is exact for at most MaxGPUs members.
func bestOfIsland(m *topology.Matrix, members uint64, k int) uint64 {
	if bits.OnesCount64(members) > MaxGPUs {
		return First(members, k)
	}
	at := Members(members)
	chosen := New(restrict(m, at)).Best(1<<len(at)-1, k)
	var set uint64
	for _, i := range Members(chosen) {
		set |= 1 << at[i]
	}
	return set
}

// acrossIslands takes whole islands while they fit, the largest first, then
// the rest from the next largest.
func acrossIslands(m *topology.Matrix, free uint64, k int) uint64 {
	var set uint64
	for left := k; left > 0; {
		var largest uint64
		for _, island := range m.Islands() {
			members := maskOf(island) & free &^ set
			if bits.OnesCount64(members) > bits.OnesCount64(largest) {
				largest = members
			}
		}
		take := min(left, bits.OnesCount64(largest))
		set |= First(largest, take)
		left -= take
	}
	return set
}

// qualityLarge has the exact ring for sets of at most MaxGPUs; for larger
// ones the ring in PCI order, a lower bound. It does not value what is left.
func qualityLarge(m *topology.Matrix, set uint64) Quality {
	q := Quality{SumMBps: sumMBps(m, set), NUMANodes: numaNodes(m, set)}
	q.NetworkMBps, q.NICPath = m.NetworkMBps(set)
	at := Members(set)
	if len(at) <= MaxGPUs {
		rings := ringBottlenecks(restrict(m, at))
		q.RingMBps = int(rings[len(rings)-1])
		return q
	}
	for i := range at {
		link := m.EffectiveMBps(at[i], at[(i+1)%len(at)])
		if i == 0 || link < q.RingMBps {
			q.RingMBps = link
		}
	}
	return q
}

// restrict is the matrix of some of the GPUs, renumbered.
func restrict(m *topology.Matrix, at []int) *topology.Matrix {
	sub := topology.New(len(at), m.LinkMBps(), m.PCIeMBps())
	sub.SetSwitched(m.Switched())
	speeds := make([]int, m.NICs())
	for nic := range speeds {
		speeds[nic] = m.NICMBps(nic)
	}
	sub.SetNICs(speeds)
	for i := range at {
		sub.SetNUMA(i, m.NUMA(at[i]))
		for nic := range speeds {
			sub.SetNICPath(i, nic, m.NICPath(at[i], nic))
		}
		for j := i + 1; j < len(at); j++ {
			sub.Set(i, j, m.Links(at[i], at[j]), m.Path(at[i], at[j]))
		}
	}
	return sub
}
