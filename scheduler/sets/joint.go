package sets

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// Unit is a job at the best rate of its size, in the numbers of a Joint.
const Unit = 1 << 12

// preserve is the part of what free GPUs are worth that counts as much as the
// rate of the set that is taken out of them: one fourth. It was chosen by churn
// on meshes and pairs with six mixes of sizes, of which docs/performance.md
// shows one; from a fourth to a half changes little.
const preserve = 4

// Weights say what taking GPUs of a machine costs, to compare machines, in
// thousandths. Which GPUs of the machine are taken does not depend on them.
type Weights struct {
	// Rate is for the bandwidth of all rings of the set: half the bandwidth costs half of
	// Rate, and so does every further halving, on one machine as between machines of
	// several topologies. One GPU has no rings: for it, Rate is for what later jobs
	// lose, a fourth as within the machine.
	Rate int
	// Packing is for the share of the machine's GPUs that stay free: with it,
	// machines that are nearly full are filled first.
	Packing int
	// Preserve is for what the free GPUs lose: what jobs of 2, 4 and 8 GPUs could
	// make of them, each GPU of a job at the best rate of its size counting as one.
	Preserve int
}

// Packed are the weights for a cluster that should make no job wait longer than
// best fit does: bandwidth first, then the fullest machine.
func Packed() Weights { return Weights{Rate: 1000, Packing: 500} }

// Preserving are weights that also spare machines that whole pairs and quads
// would be taken from. On the Philly trace that is no better than Packed; it is
// for clusters of mostly large jobs, and for comparison.
func Preserving() Weights { return Weights{Rate: 1000, Packing: 1000, Preserve: 100} }

// Valid reports whether the weights can be computed with.
func (w Weights) Valid() bool {
	for _, weight := range []int{w.Rate, w.Packing, w.Preserve} {
		if weight < 0 || weight > 2000 {
			return false
		}
	}
	return true
}

// packing is what it costs that some of a machine's GPUs stay free.
func (w Weights) packing(left, gpus int) int64 {
	return int64(w.Packing) * int64(left) * Unit / int64(gpus)
}

// rateMBpsMax is more than any machine's rings have, in MB/s, as a power of two.
const rateMBpsMax = 30

// slower is what it costs that a set has no more than that bandwidth.
func (w Weights) slower(mbps int) int64 {
	if mbps < 1 {
		return int64(w.Rate) * Unit / 2 * rateMBpsMax
	}
	return int64(w.Rate) * (rateMBpsMax*Unit - log2(mbps)) / 2
}

// log2 is the logarithm in Units, rounded down between powers of two by a straight
// line: it is the same on every machine.
func log2(n int) int64 {
	whole := bits.Len(uint(n)) - 1
	return int64(whole)*Unit + int64(n-1<<whole)*Unit>>whole
}

// CostUntabled is Joint.Cost for a machine that is too large for a Joint, or whose
// links are not known: k GPUs are taken whose ring has some MB/s (0: not known), and some
// of all GPUs of the machine, one at least, stay free.
func (w Weights) CostUntabled(k, ringMBps, left, gpus int) int32 {
	cost := w.packing(left, gpus)
	if k > 1 {
		cost += w.slower(ringMBps)
	}
	return int32(cost >> 10)
}

// Joint tabulates for one topology which GPUs to take out of every set of free
// ones, and what that costs under the weights, so that machines can be compared.
// It is complete once made, does not change, and may be used by several
// goroutines at once.
type Joint struct {
	gpus    int
	weights Weights
	ring    []int32            // by set, as in the Table
	rate    []int32            // by set, in Units; 0 for one GPU
	ideal   [MaxGPUs + 1]int32 // by size, the best rate on an empty machine, in MB/s
	value   []int32            // by set of free GPUs, in Units
	// chosen[k][free] and cost[k][free], for k up to the number of free GPUs.
	chosen [][]uint16
	cost   [][]int32
}

// NewJoint weighs the sets of a table. It takes some 0.2 s for 16 GPUs.
func NewJoint(t *Table, w Weights) *Joint {
	if !w.Valid() {
		panic(fmt.Sprintf("sets: weights %+v are outside 0..2000", w))
	}
	j := &Joint{gpus: t.gpus, weights: w, ring: t.ring}
	j.rate, j.ideal = unitRates(t)
	j.value = make([]int32, len(j.rate))
	for free, value := range packings(t.gpus, j.rate) {
		j.value[free] = int32(value)
	}
	j.chosen, j.cost = make([][]uint16, t.gpus+1), make([][]int32, t.gpus+1)
	for k := 1; k <= t.gpus; k++ {
		j.chosen[k], j.cost[k] = make([]uint16, 1<<t.gpus), make([]int32, 1<<t.gpus)
	}
	j.choose(t)
	return j
}

// unitRates are the ring rates of all sets, against the best of their size.
func unitRates(t *Table) (rates []int32, ideal [MaxGPUs + 1]int32) {
	rates = ringRates(t.matrix, t.ring)
	for set, rate := range rates {
		size := bits.OnesCount(uint(set))
		ideal[size] = max(ideal[size], rate)
	}
	for set, rate := range rates {
		rates[set] = 0
		if size := bits.OnesCount(uint(set)); size > 1 {
			rates[set] = int32(int64(rate) * Unit / int64(ideal[size]))
		}
	}
	return rates, ideal
}

// choose compares, for every set of free GPUs, all sets out of it. What they are
// compared by is packed into one number, the most important first: the score,
// what stays free, and the set's place in the order of sets.
func (j *Joint) choose(t *Table) {
	left, order := ranks(t.left), setOrder(t)
	score := make([]uint64, len(j.rate)) // of a set, and of what it leaves
	worth := make([]uint64, len(j.rate))
	for set := range j.rate {
		score[set] = uint64(preserve)*uint64(j.rate[set])<<32 | uint64(order.place[set])
		worth[set] = uint64(j.value[set])<<32 | uint64(left[set])<<16
	}
	for free := 1; free < 1<<j.gpus; free++ {
		var best [MaxGPUs + 1]uint64
		for set := free; set != 0; set = (set - 1) & free {
			k := bits.OnesCount(uint(set))
			best[k] = max(best[k], score[set]+worth[free&^set])
		}
		for k := 1; k <= bits.OnesCount(uint(free)); k++ {
			set := order.sets[best[k]&0xffff]
			j.chosen[k][free] = set
			j.cost[k][free] = j.costOf(uint64(set), uint64(free))
		}
	}
}

// ranks numbers the values in ascending order; equal ones get one number.
func ranks(values []int64) []uint16 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	out := make([]uint16, len(values))
	for i, v := range values {
		at, _ := slices.BinarySearch(sorted, v)
		out[i] = uint16(at)
	}
	return out
}

// order is all sets of a topology, the worst first.
type order struct {
	sets  []uint16
	place []uint16
}

// setOrder compares sets by their own quality, then by PCI order.
func setOrder(t *Table) order {
	o := order{sets: make([]uint16, 1<<t.gpus), place: make([]uint16, 1<<t.gpus)}
	for set := range o.sets {
		o.sets[set] = uint16(set)
	}
	slices.SortFunc(o.sets, func(a, b uint16) int {
		return cmp.Or(
			cmp.Compare(t.ring[a], t.ring[b]),
			cmp.Compare(t.sum[a], t.sum[b]),
			cmp.Compare(t.numa[b], t.numa[a]),
			cmp.Compare(t.network[a], t.network[b]),
			cmp.Compare(distance(t.nic[b]), distance(t.nic[a])),
			cmp.Compare(bits.Reverse16(a), bits.Reverse16(b)), // the lowest GPU counts most
		)
	})
	for at, set := range o.sets {
		o.place[set] = uint16(at)
	}
	return o
}

// costOf is the sum over the weights, in thousandths of a Unit divided by 1024.
func (j *Joint) costOf(set, free uint64) int32 {
	left := free &^ set
	loss := int64(j.value[free] - j.value[left])
	cost := int64(j.weights.Preserve)*loss + j.weights.packing(bits.OnesCount64(left), j.gpus)
	if set&(set-1) == 0 {
		cost += int64(j.weights.Rate) * loss / preserve
	} else {
		cost += j.weights.slower(int(int64(j.rate[set]) * int64(j.ideal[bits.OnesCount64(set)]) / Unit))
	}
	return int32(cost >> 10)
}

// GPUs is the number of GPUs of the topology.
func (j *Joint) GPUs() int { return j.gpus }

// Set returns the k GPUs to take out of free: the highest sum of their rate and
// a fourth of what is left, then the highest Quality.LeftMBps, then the best
// ring, sum, NUMA nodes and network, then the first in PCI order.
// 1 <= k <= number of free GPUs.
func (j *Joint) Set(free uint64, k int) uint64 { return uint64(j.chosen[k][free]) }

// Cost is what taking Set(free, k) costs on a machine, for comparison with other
// machines under the same weights; the least is the best.
func (j *Joint) Cost(free uint64, k int) int32 { return j.cost[k][free] }

// Ring is the bottleneck of the best ring through a set, as Quality.RingMBps.
func (j *Joint) Ring(set uint64) int { return int(j.ring[set]) }

// Rate is the bandwidth of all rings of a set against the best of its size on an
// empty machine, in Units; 0 for one GPU.
func (j *Joint) Rate(set uint64) int { return int(j.rate[set]) }

// IdealMBps is the bandwidth of all rings of the best set of k GPUs on an empty
// machine, per direction; 0 for one GPU.
func (j *Joint) IdealMBps(k int) int { return int(j.ideal[k]) }

// Value is what free GPUs are worth to jobs of 2, 4 and 8 GPUs, in Units.
func (j *Joint) Value(free uint64) int { return int(j.value[free]) }

// Weights are those that the sets were weighed by.
func (j *Joint) Weights() Weights { return j.weights }
