package sets

import (
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

const (
	// rateGPUs is the largest set whose rings are packed exactly.
	rateGPUs = 8
	// packStepsMax bounds the search for disjoint rings in one set. The machines
	// that are sold need some hundred steps; a dense mesh of eight GPUs with many
	// links to each pair could take minutes.
	packStepsMax = 4096
)

// ringRates gives for every subset the bandwidth of all its rings together, in
// effective MB/s per direction. A collective runs one ring over every link
// that it can: two GPUs use all their links, a switch gives each GPU all of
// its own, and in a mesh each cycle through all GPUs carries two rings, one in
// each direction, and no link is in two cycles. A set without a cycle of
// NVLinks has the bottleneck of its best ring. In a mesh of more than rateGPUs
// the cycles are those of that bottleneck alone, a lower bound.
func ringRates(m *topology.Matrix, ring []int32) []int32 {
	rates := make([]int32, len(ring))
	copy(rates, ring)
	if m.Switched() {
		return rates
	}
	one, linked := linkSpeed(m)
	if !linked {
		return rates
	}
	for set := range rates {
		size := bits.OnesCount(uint(set))
		if size < 3 {
			continue
		}
		cycles := 0
		if size <= rateGPUs {
			cycles = newPacking(m, uint64(set)).most()
		} else if linkedRing(m, uint64(set)) {
			cycles = int(ring[set]) / one
		}
		rates[set] = max(rates[set], int32(2*cycles*one))
	}
	return rates
}

// linkSpeed is the effective speed of one NVLink, and whether there is one.
func linkSpeed(m *topology.Matrix) (mbps int, linked bool) {
	for i := range m.Size() {
		for j := range i {
			if links := m.Links(i, j); links > 0 && m.LinkMBps() > 0 {
				return m.EffectiveMBps(i, j) / links, true
			}
		}
	}
	return 0, false
}

// linkedRing reports whether every GPU of the set has NVLinks to two others of
// it, as a ring of NVLinks needs.
func linkedRing(m *topology.Matrix, set uint64) bool {
	for _, i := range Members(set) {
		neighbours := 0
		for _, j := range Members(set) {
			if m.Links(i, j) > 0 {
				neighbours++
			}
		}
		if neighbours < 2 {
			return false
		}
	}
	return true
}

// packing searches the most cycles through all GPUs of a set of which no two
// share a link.
type packing struct {
	size  int
	links [rateGPUs][rateGPUs]int // what earlier cycles left
	path  [rateGPUs]int           // the cycle that is being built, from GPU 0
	steps int
}

func newPacking(m *topology.Matrix, set uint64) *packing {
	at := Members(set)
	p := &packing{size: len(at)}
	for i := range at {
		for j := range at {
			p.links[i][j] = m.Links(at[i], at[j])
		}
	}
	return p
}

// bound is how many cycles the links allow at most: each takes two at every GPU.
func (p *packing) bound() int {
	least := -1
	for i := range p.size {
		degree := 0
		for j := range p.size {
			degree += p.links[i][j]
		}
		if least < 0 || degree/2 < least {
			least = degree / 2
		}
	}
	return least
}

func (p *packing) most() int {
	bound := p.bound()
	if bound == 0 {
		return 0
	}
	return p.extend(1, 1, bound, 0)
}

// extend lengthens the path of the given length, and returns the most cycles
// found in all, at least best. It stops when they reach the bound.
func (p *packing) extend(length int, used uint, bound, best int) int {
	if p.steps++; p.steps > packStepsMax {
		return best
	}
	last := p.path[length-1]
	if length == p.size {
		// Each cycle is walked in one of its two directions only.
		if p.links[last][0] == 0 || p.path[1] > last {
			return best
		}
		p.take(-1)
		path := p.path
		best = max(best, 1+p.most())
		p.path = path
		p.take(+1)
		return best
	}
	for next := 1; next < p.size && best < bound; next++ {
		if used>>next&1 == 0 && p.links[last][next] > 0 {
			p.path[length] = next
			best = p.extend(length+1, used|1<<next, bound, best)
		}
	}
	return best
}

// take changes the links along the whole path by one.
func (p *packing) take(change int) {
	for i := range p.size {
		a, b := p.path[i], p.path[(i+1)%p.size]
		p.links[a][b] += change
		p.links[b][a] += change
	}
}
