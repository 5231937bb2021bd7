package setstest

import (
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// RingRate is the model by which placements are measured: the number of NVLink
// cycles through all GPUs of the set that share no link, times 50 GB/s (a ring
// of 25 GB/s in each direction), or 10 GB/s over PCIe where there is none. Two
// GPUs have one ring for each link. It is meant for at most eight GPUs.
func RingRate(m *topology.Matrix, set uint64) int {
	at := members(set)
	if len(at) < 2 {
		return 0
	}
	if len(at) == 2 {
		return max(10, 25*m.Links(at[0], at[1]))
	}
	return max(10, 50*cyclesOf(m, at))
}

func cyclesOf(m *topology.Matrix, at []int) int {
	links := make([][]int, len(at))
	for i := range at {
		links[i] = make([]int, len(at))
		for j := range at {
			links[i][j] = m.Links(at[i], at[j])
		}
	}
	return disjoint(links, cycles(len(at)))
}

// cycles lists every cycle through n points, each in one direction, from 0.
func cycles(n int) [][]int {
	var all [][]int
	var walk func(path []int, used uint)
	walk = func(path []int, used uint) {
		if len(path) == n {
			if path[1] < path[n-1] {
				all = append(all, append([]int(nil), path...))
			}
			return
		}
		for next := 1; next < n; next++ {
			if used>>next&1 == 0 {
				walk(append(path, next), used|1<<next)
			}
		}
	}
	walk([]int{0}, 1)
	return all
}

// disjoint is the most of the cycles, with repetition, that the links carry.
func disjoint(links [][]int, from [][]int) int {
	best := 0
	for i, cycle := range from {
		if change(links, cycle, -1) {
			best = max(best, 1+disjoint(links, from[i:]))
		}
		change(links, cycle, +1)
	}
	return best
}

// change adds to the links along a cycle and reports whether all are still there.
func change(links [][]int, cycle []int, by int) bool {
	ok := true
	for i, a := range cycle {
		b := cycle[(i+1)%len(cycle)]
		links[a][b] += by
		links[b][a] += by
		ok = ok && links[a][b] >= 0
	}
	return ok
}

// Rates tabulates RingRate over all sets, and the best rate of each size.
func Rates(m *topology.Matrix) (rate []int, ideal []int) {
	rate, ideal = make([]int, 1<<m.Size()), make([]int, m.Size()+1)
	for set := range rate {
		size := bits.OnesCount(uint(set))
		rate[set] = RingRate(m, uint64(set))
		ideal[size] = max(ideal[size], rate[set])
	}
	return rate, ideal
}

func members(mask uint64) []int {
	var out []int
	for ; mask != 0; mask &= mask - 1 {
		out = append(out, bits.TrailingZeros64(mask))
	}
	return out
}
