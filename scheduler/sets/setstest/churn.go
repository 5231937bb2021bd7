package setstest

import (
	"math/bits"
	"math/rand"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Chooser takes k GPUs out of the free ones.
type Chooser func(free uint64, k int) uint64

// Outcome is how well the jobs with several GPUs were connected.
type Outcome struct {
	// Ring is the mean of their ring rate over the best of their size.
	Ring float64
	// AtIdeal is the share that had that best rate.
	AtIdeal float64
}

// Mix is the sizes of the jobs of a churn, each as likely as it is often there.
func Mix() []int { return []int{1, 1, 1, 2, 2, 2, 3, 4, 4, 8} }

// Churn keeps one machine full: before each job random others leave until it
// fits. It is where a choice that is the best now is paid for later.
func Churn(m *topology.Matrix, choose Chooser, mix []int, jobs int, seed int64) Outcome {
	rate, ideal := Rates(m)
	random := rand.New(rand.NewSource(seed))
	free := uint64(1)<<m.Size() - 1
	var running []uint64
	var out Outcome
	several := 0
	for range jobs {
		k := mix[random.Intn(len(mix))]
		for bits.OnesCount64(free) < k {
			leaves := random.Intn(len(running))
			free |= running[leaves]
			running[leaves] = running[len(running)-1]
			running = running[:len(running)-1]
		}
		set := choose(free, k)
		free &^= set
		running = append(running, set)
		if k == 1 {
			continue
		}
		several++
		out.Ring += float64(rate[set]) / float64(ideal[k])
		if rate[set] == ideal[k] {
			out.AtIdeal++
		}
	}
	out.Ring /= float64(several)
	out.AtIdeal /= float64(several)
	return out
}

// Remember makes a slow chooser usable for many jobs; it must depend on its
// arguments alone.
func Remember(choose Chooser) Chooser {
	type question struct {
		free uint64
		k    int
	}
	answers := map[question]uint64{}
	return func(free uint64, k int) uint64 {
		q := question{free, k}
		set, ok := answers[q]
		if !ok {
			set = choose(free, k)
			answers[q] = set
		}
		return set
	}
}

// FirstFree takes the GPUs in PCI order.
func FirstFree(free uint64, k int) uint64 {
	var set uint64
	for range k {
		set |= free & -free
		free &= free - 1
	}
	return set
}

// Random takes any k of the free GPUs.
func Random(seed int64) Chooser {
	random := rand.New(rand.NewSource(seed))
	return func(free uint64, k int) uint64 {
		at := members(free)
		random.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
		var set uint64
		for _, i := range at[:k] {
			set |= 1 << i
		}
		return set
	}
}

// Greedy takes the set with the highest value, the first in PCI order among
// equals.
func Greedy(value func(set uint64) int) Chooser {
	return greedy(value, before)
}

// GreedyLast is Greedy with the last in PCI order among equals: how much a
// greedy choice depends on luck.
func GreedyLast(value func(set uint64) int) Chooser {
	return greedy(value, func(a, b uint64) bool { return before(b, a) })
}

func greedy(value func(set uint64) int, preferred func(a, b uint64) bool) Chooser {
	return Remember(func(free uint64, k int) uint64 {
		best, most := uint64(0), -1
		for set := free; set != 0; set = (set - 1) & free {
			if bits.OnesCount64(set) != k {
				continue
			}
			if v := value(set); v > most || v == most && preferred(set, best) {
				best, most = set, v
			}
		}
		return best
	})
}

// before reports whether a has the lowest GPU in which the sets differ.
func before(a, b uint64) bool {
	differ := a ^ b
	return a&(differ&-differ) != 0
}

// PairSum is the sum of the bandwidths of all pairs: 50 GB/s for each NVLink,
// 10 GB/s for a pair without.
func PairSum(m *topology.Matrix) func(set uint64) int {
	return func(set uint64) int {
		total := 0
		for _, i := range members(set) {
			for _, j := range members(set) {
				if j >= i {
					break
				}
				total += max(10, 50*m.Links(i, j))
			}
		}
		return total
	}
}
