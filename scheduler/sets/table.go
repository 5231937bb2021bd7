package sets

import (
	"fmt"
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// MaxGPUs is the largest group for which every subset is tabulated: 2^16
// subsets take some 2 MB and 0.1 s, once for each topology.
const MaxGPUs = 16

// Table answers for one topology which k of the free GPUs are the best. It
// holds the quality of every subset; answers are computed when first asked for.
// A Table is not safe for concurrent use.
type Table struct {
	matrix *topology.Matrix
	gpus   int
	// By subset: ring bottleneck, sum of pairs, NUMA nodes, network of each GPU, path to
	// the NIC of the farthest.
	ring    []int32
	sum     []int32
	numa    []uint8
	network []int32
	nic     []topology.Path
	// left is, by set of free GPUs, what they are still worth: packings of the
	// ring bottlenecks. Judging by a packing and not by the one best set that
	// remains is what keeps whole pairs and quads together.
	left []int64
	// best[k][free] is the answer, 0 where it is not yet computed.
	best [MaxGPUs + 1][]uint16
}

// New tabulates a topology of at most MaxGPUs; the matrix must not change
// afterwards.
func New(m *topology.Matrix) *Table {
	n := m.Size()
	if n > MaxGPUs {
		panic(fmt.Sprintf("sets: %d GPUs, a table holds %d", n, MaxGPUs))
	}
	t := &Table{matrix: m, gpus: n, ring: ringBottlenecks(m)}
	t.sum = make([]int32, 1<<n)
	t.numa = make([]uint8, 1<<n)
	t.network, t.nic = make([]int32, 1<<n), make([]topology.Path, 1<<n)
	toOthers := m.Network()
	for set := range 1 << n {
		t.sum[set] = int32(sumMBps(m, uint64(set)))
		t.numa[set] = uint8(numaNodes(m, uint64(set)))
		network, path := toOthers.MBps(uint64(set))
		t.network[set], t.nic[set] = int32(network), path
	}
	t.left = packings(n, t.ring)
	return t
}

// ringBottlenecks gives for every subset the largest bandwidth b such that a
// cycle through all its GPUs uses only links of at least b: Held and Karp's
// dynamic programme with min and max in place of sum and min. A path starts at
// the lowest GPU of the set; path[set][last] is its best bottleneck.
func ringBottlenecks(m *topology.Matrix) []int32 {
	n := m.Size()
	var w [MaxGPUs][MaxGPUs]int32
	for i := range n {
		for j := range n {
			w[i][j] = int32(m.EffectiveMBps(i, j))
		}
	}
	const unlimited = 1<<31 - 1
	path := make([][MaxGPUs]int32, 1<<n)
	ring := make([]int32, 1<<n)
	for i := range n {
		path[1<<i][i] = unlimited
	}
	for set := 1; set < 1<<n; set++ {
		low := bits.TrailingZeros(uint(set))
		outside := (1<<n - 1) &^ set &^ (1<<low - 1)
		for lasts := set; lasts != 0; lasts &= lasts - 1 {
			last := bits.TrailingZeros(uint(lasts))
			bottleneck := path[set][last]
			if bottleneck == 0 {
				continue
			}
			if last != low {
				ring[set] = max(ring[set], min(bottleneck, w[last][low]))
			}
			for nexts := outside; nexts != 0; nexts &= nexts - 1 {
				next := bits.TrailingZeros(uint(nexts))
				to := &path[set|1<<next][next]
				*to = max(*to, min(bottleneck, w[last][next]))
			}
		}
	}
	return ring
}

// packings gives for every set of free GPUs the most that jobs of 2, 4 and 8
// GPUs could make of it: for each of these sizes, the size times the largest sum
// of rings over disjoint sets of that size.
func packings(n int, ring []int32) []int64 {
	left := make([]int64, 1<<n)
	pack := [3][]int64{make([]int64, 1<<n), make([]int64, 1<<n), make([]int64, 1<<n)}
	for free := 1; free < 1<<n; free++ {
		low := free & -free
		rest := free ^ low
		best := [3]int64{pack[0][rest], pack[1][rest], pack[2][rest]}
		for sub := rest; sub != 0; sub = (sub - 1) & rest {
			set := sub | low
			size := bits.OnesCount(uint(set))
			if size != 2 && size != 4 && size != 8 {
				continue
			}
			at := bits.TrailingZeros(uint(size)) - 1
			best[at] = max(best[at], int64(size)*int64(ring[set])+pack[at][free^set])
		}
		for i := range pack {
			pack[i][free] = best[i]
			left[free] += best[i]
		}
	}
	return left
}

// GPUs is the number of GPUs of the topology.
func (t *Table) GPUs() int { return t.gpus }

// Quality says how good a set is that is taken out of the free GPUs.
func (t *Table) Quality(set, free uint64) Quality {
	return Quality{
		RingMBps:    int(t.ring[set]),
		SumMBps:     int(t.sum[set]),
		NUMANodes:   int(t.numa[set]),
		NetworkMBps: int(t.network[set]),
		NICPath:     t.nic[set],
		LeftMBps:    t.left[free&^set],
	}
}

// Left is what free GPUs are still worth, see Quality.LeftMBps.
func (t *Table) Left(free uint64) int64 { return t.left[free] }

// Best returns the best k GPUs out of free; 1 <= k <= number of free GPUs.
func (t *Table) Best(free uint64, k int) uint64 {
	if t.best[k] == nil {
		t.best[k] = make([]uint16, 1<<t.gpus)
	}
	if t.best[k][free] == 0 {
		t.best[k][free] = uint16(t.search(free, k))
	}
	return uint64(t.best[k][free])
}

// search compares all sets of k GPUs out of free.
func (t *Table) search(free uint64, k int) uint64 {
	var best uint64
	var bestQuality Quality
	for set := range subsets(free, k) {
		q := t.Quality(set, free)
		if order := q.Compare(bestQuality); best == 0 || order > 0 || order == 0 && pciFirst(set, best) {
			best, bestQuality = set, q
		}
	}
	return best
}
