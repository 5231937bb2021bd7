package sets

import (
	"cmp"
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Quality is how good a set of GPUs is. Fields are compared in this order.
type Quality struct {
	// RingMBps is the bottleneck of the best ring through all GPUs of the set, in
	// effective MB/s per direction; for two GPUs their link, for one GPU 0.
	RingMBps int
	// SumMBps is the sum of the effective bandwidths of all pairs.
	SumMBps int
	// NUMANodes is the number of host NUMA nodes; unknown ones count as one.
	NUMANodes int
	// NetworkMBps is what each GPU of the set has to other hosts when all of them send,
	// and NICPath how the farthest of them reaches its NICs, as in
	// topology.Matrix.NetworkMBps; zero without NICs.
	NetworkMBps int
	NICPath     topology.Path
	// LeftMBps is the value of what stays free, the most that jobs of
	// 2, 4 and 8 GPUs could make of it: the higher, the less the choice hurts them.
	LeftMBps int64
}

// Compare is positive when q is better than o.
func (q Quality) Compare(o Quality) int {
	return cmp.Or(
		cmp.Compare(q.RingMBps, o.RingMBps),
		cmp.Compare(q.SumMBps, o.SumMBps),
		cmp.Compare(o.NUMANodes, q.NUMANodes),
		cmp.Compare(q.NetworkMBps, o.NetworkMBps),
		cmp.Compare(distance(o.NICPath), distance(q.NICPath)),
		cmp.Compare(q.LeftMBps, o.LeftMBps),
	)
}

// distance orders paths, an unknown one last.
func distance(path topology.Path) int {
	if path == topology.PathUnknown {
		return int(topology.PathSystem) + 1
	}
	return int(path)
}

func sumMBps(m *topology.Matrix, set uint64) int {
	total := 0
	for rest := set; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		for others := rest & (rest - 1); others != 0; others &= others - 1 {
			total += m.EffectiveMBps(i, bits.TrailingZeros64(others))
		}
	}
	return total
}

func numaNodes(m *topology.Matrix, set uint64) int {
	seen := map[int]bool{}
	for rest := set; rest != 0; rest &= rest - 1 {
		seen[m.NUMA(bits.TrailingZeros64(rest))] = true
	}
	return len(seen)
}
