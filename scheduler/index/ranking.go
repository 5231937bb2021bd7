package index

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/sets"
)

// ranking is, for every k, all sets of free GPUs that have k, in the order of
// what taking k of them costs: on equal costs the one that loses less of its
// value, then the one with fewer GPUs, then the lower mask.
type ranking struct {
	at [][]uint16 // at[k][rank] is the mask
	of [][]uint16 // of[k][mask] is the rank
}

func newRanking(j *sets.Joint) *ranking {
	n := j.GPUs()
	r := &ranking{at: make([][]uint16, n+1), of: make([][]uint16, n+1)}
	for k := 1; k <= n; k++ {
		for free := 1; free < 1<<n; free++ {
			if bits.OnesCount(uint(free)) >= k {
				r.at[k] = append(r.at[k], uint16(free))
			}
		}
		slices.SortFunc(r.at[k], func(a, b uint16) int {
			return cmp.Or(
				cmp.Compare(j.Cost(uint64(a), k), j.Cost(uint64(b), k)),
				cmp.Compare(loss(j, uint64(a), k), loss(j, uint64(b), k)),
				cmp.Compare(bits.OnesCount16(a), bits.OnesCount16(b)),
				cmp.Compare(a, b),
			)
		})
		r.of[k] = make([]uint16, 1<<n)
		for rank, free := range r.at[k] {
			r.of[k][free] = uint16(rank)
		}
	}
	return r
}

// loss is how much of their value free GPUs lose when k of them are taken.
func loss(j *sets.Joint, free uint64, k int) int {
	return j.Value(free) - j.Value(free&^j.Set(free, k))
}
