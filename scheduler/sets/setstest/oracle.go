package setstest

import (
	"math/bits"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Oracle defines everything that the tables hold a second time, slowly and
// plainly. It is meant for at most eight GPUs.
type Oracle struct {
	M *topology.Matrix
	// Ring, Sum, NUMA and Rate are those of sets.Table and sets.Joint, by set.
	Ring, Sum, NUMA, Rate []int
	// Network and NICPath are those of sets.Quality, by set.
	Network []int
	NICPath []topology.Path
	// Ideal is the best rate of each size.
	Ideal []int
}

// NewOracle tries every order of the GPUs of every set.
func NewOracle(m *topology.Matrix) *Oracle {
	size := 1 << m.Size()
	o := &Oracle{M: m, Ring: make([]int, size), Sum: make([]int, size), NUMA: make([]int, size), Rate: make([]int, size), Ideal: make([]int, m.Size()+1),
		Network: make([]int, size), NICPath: make([]topology.Path, size)}
	for set := range size {
		at := members(uint64(set))
		o.Ring[set] = ringOf(m, at)
		nodes := map[int]bool{}
		for i, a := range at {
			nodes[m.NUMA(a)] = true
			for _, b := range at[:i] {
				o.Sum[set] += m.EffectiveMBps(a, b)
			}
		}
		o.NUMA[set] = len(nodes)
		o.Network[set], o.NICPath[set] = networkOf(m, at)
		o.Rate[set] = o.Ring[set]
		if len(at) > 2 && !m.Switched() {
			o.Rate[set] = max(o.Rate[set], 2*cyclesOf(m, at)*oneLink(m))
		}
		o.Ideal[len(at)] = max(o.Ideal[len(at)], o.Rate[set])
	}
	return o
}

// networkOf lets each GPU send through an equal part of each of its NICs, and takes the
// slowest.
func networkOf(m *topology.Matrix, at []int) (slowest int, farthest topology.Path) {
	users := map[int]int{}
	for _, i := range at {
		_, _, nics := nicsOf(m, i)
		for _, nic := range nics {
			users[nic]++
		}
	}
	for n, i := range at {
		path, most, nics := nicsOf(m, i)
		if len(nics) == 0 {
			return 0, topology.PathUnknown
		}
		speed := 0
		for _, nic := range nics {
			speed += m.NICMBps(nic) / users[nic]
		}
		if speed = min(speed, most); n == 0 || speed < slowest {
			slowest = speed
		}
		farthest = max(farthest, path)
	}
	return slowest, farthest
}

// nicsOf are the NICs of a GPU that most gets out through, on the nearest path among
// equals, and what that path carries.
func nicsOf(m *topology.Matrix, i int) (path topology.Path, carries int, nics []int) {
	over := func(path topology.Path) int {
		pcie := topology.New(2, 0, m.PCIeMBps())
		pcie.Set(0, 1, 0, path)
		return pcie.EffectiveMBps(0, 1)
	}
	best := -1
	for nic := range m.NICs() {
		if p := m.NICPath(i, nic); p != topology.PathUnknown {
			best = max(best, min(m.NICMBps(nic), over(p)))
		}
	}
	for path = topology.PathInternal; path <= topology.PathSystem; path++ {
		for nic := range m.NICs() {
			if m.NICPath(i, nic) == path && min(m.NICMBps(nic), over(path)) == best {
				nics = append(nics, nic)
			}
		}
		if len(nics) > 0 {
			return path, over(path), nics
		}
	}
	return topology.PathUnknown, 0, nil
}

func ringOf(m *topology.Matrix, at []int) int {
	switch len(at) {
	case 0, 1:
		return 0
	case 2:
		return m.EffectiveMBps(at[0], at[1])
	}
	best := 0
	for _, cycle := range cycles(len(at)) {
		bottleneck := m.EffectiveMBps(at[cycle[0]], at[cycle[len(cycle)-1]])
		for i := 1; i < len(cycle); i++ {
			bottleneck = min(bottleneck, m.EffectiveMBps(at[cycle[i-1]], at[cycle[i]]))
		}
		best = max(best, bottleneck)
	}
	return best
}

// oneLink is the effective speed of one NVLink.
func oneLink(m *topology.Matrix) int {
	if m.LinkMBps() == 0 {
		return 0
	}
	pair := topology.New(2, m.LinkMBps(), 0)
	pair.Set(0, 1, 1, topology.PathUnknown)
	return pair.EffectiveMBps(0, 1)
}

// Pack is, for every set of free GPUs, the sum over the sizes 2, 4 and 8 of the
// size times the largest sum of worths over disjoint sets of that size.
func (o *Oracle) Pack(worth []int) []int {
	total := make([]int, len(worth))
	for _, size := range []int{2, 4, 8} {
		best := make([]int, len(worth))
		for free := range worth {
			for set := free; set != 0; set = (set - 1) & free {
				if bits.OnesCount(uint(set)) == size {
					best[free] = max(best[free], size*worth[set]+best[free&^set])
				}
			}
			total[free] += best[free]
		}
	}
	return total
}
