package place_test

import (
	"math/bits"
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// members lists the bits of a mask.
func members(mask uint64) []int {
	var out []int
	for i := range 64 {
		if mask>>i&1 == 1 {
			out = append(out, i)
		}
	}
	return out
}

// slowRing tries every order of the GPUs.
func slowRing(m *topology.Matrix, set uint64) int {
	at := members(set)
	if len(at) < 2 {
		return 0
	}
	best := 0
	var walk func(path []int, rest []int, bottleneck int)
	walk = func(path, rest []int, bottleneck int) {
		if len(rest) == 0 {
			best = max(best, min(bottleneck, m.EffectiveMBps(path[len(path)-1], path[0])))
			return
		}
		for i, next := range rest {
			others := append(append([]int{}, rest[:i]...), rest[i+1:]...)
			walk(append(path[:len(path):len(path)], next), others, min(bottleneck, m.EffectiveMBps(path[len(path)-1], next)))
		}
	}
	walk(at[:1], at[1:], 1<<40)
	return best
}

// oracle knows the rings of all subsets and defines everything else again,
// without the product's tables.
type oracle struct {
	m     *topology.Matrix
	rings map[uint64]int
	packs map[[2]uint64]int64
}

func newOracle(m *topology.Matrix) *oracle {
	o := &oracle{m: m, rings: map[uint64]int{}, packs: map[[2]uint64]int64{}}
	for set := range uint64(1) << m.Size() {
		o.rings[set] = slowRing(m, set)
	}
	return o
}

func (o *oracle) sum(set uint64) (total int) {
	at := members(set)
	for i := range at {
		for j := range i {
			total += o.m.EffectiveMBps(at[i], at[j])
		}
	}
	return total
}

func (o *oracle) numa(set uint64) int {
	seen := map[int]bool{}
	for _, i := range members(set) {
		seen[o.m.NUMA(i)] = true
	}
	return len(seen)
}

// pack is the largest sum of rings over disjoint sets of one size.
func (o *oracle) pack(free uint64, size int) int64 {
	if bits.OnesCount64(free) < size {
		return 0
	}
	key := [2]uint64{free, uint64(size)}
	if known, ok := o.packs[key]; ok {
		return known
	}
	var best int64
	for set := range uint64(1) << o.m.Size() {
		if set&^free == 0 && bits.OnesCount64(set) == size {
			best = max(best, int64(size*o.rings[set])+o.pack(free&^set, size))
		}
	}
	o.packs[key] = best
	return best
}

func (o *oracle) quality(set, free uint64) sets.Quality {
	left := free &^ set
	return sets.Quality{RingMBps: o.rings[set], SumMBps: o.sum(set), NUMANodes: o.numa(set),
		LeftMBps: o.pack(left, 2) + o.pack(left, 4) + o.pack(left, 8)}
}

// better compares as the documentation of Quality says, then by PCI order.
func better(a, b sets.Quality, setA, setB uint64) bool {
	switch {
	case a.RingMBps != b.RingMBps:
		return a.RingMBps > b.RingMBps
	case a.SumMBps != b.SumMBps:
		return a.SumMBps > b.SumMBps
	case a.NUMANodes != b.NUMANodes:
		return a.NUMANodes < b.NUMANodes
	case a.LeftMBps != b.LeftMBps:
		return a.LeftMBps > b.LeftMBps
	}
	left, right := members(setA), members(setB)
	for i := range left {
		if left[i] != right[i] {
			return left[i] < right[i]
		}
	}
	return false
}

// checkAllMasks compares every answer for a topology with brute force.
func checkAllMasks(t must.T, m *topology.Matrix) {
	o, p := newOracle(m), place.New()
	for free := range uint64(1) << m.Size() {
		for k := 1; k <= bits.OnesCount64(free); k++ {
			var want uint64
			for set := range uint64(1) << m.Size() {
				if set&^free == 0 && bits.OnesCount64(set) == k &&
					(want == 0 || better(o.quality(set, free), o.quality(want, free), set, want)) {
					want = set
				}
			}
			got, q, ok := p.Best(m, free, k)
			must.True(t, ok)
			must.Eq(t, want, got, must.Sprintf("free %b, k %d", free, k))
			must.Eq(t, o.quality(want, free), q)
		}
	}
}

func TestBestEqualsBruteForceOnEveryMaskOfTheFixtures(t *testing.T) {
	t.Parallel()
	for name, m := range fixtures() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkAllMasks(t, m)
		})
	}
}

func TestBestEqualsBruteForceOnRandomTopologies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "gpus")
		m := topology.New(n, rapid.SampledFrom([]int{14062, 25781, 53125}).Draw(t, "link"), 15750)
		for i := range n {
			m.SetNUMA(i, rapid.IntRange(-1, 2).Draw(t, "numa"))
			for j := i + 1; j < n; j++ {
				m.Set(i, j, rapid.IntRange(0, 3).Draw(t, "links"), topology.Path(rapid.IntRange(0, 6).Draw(t, "path")))
			}
		}
		checkAllMasks(t, m)
	})
}

func TestDGX1VGivesNV2PairsAndFullyLinkedQuads(t *testing.T) {
	t.Parallel()
	m, p := dgx1v(), place.New()

	set, q, ok := p.Best(m, 0xff, 2)
	must.True(t, ok)
	at := members(set)
	must.Eq(t, 2, m.Links(at[0], at[1]))
	must.Eq(t, 40000, q.RingMBps)

	set, _, ok = p.Best(m, 0xff, 4)
	must.True(t, ok)
	for _, i := range members(set) {
		for _, j := range members(set) {
			must.True(t, i == j || m.Links(i, j) > 0, must.Sprintf("GPUs %d and %d of %v", i, j, members(set)))
		}
	}
}

func TestASingleGPUIsTakenWhereItBreaksNoPair(t *testing.T) {
	t.Parallel()
	// GPU 0 is in use, so its partner 3 has lost its pair already.
	set, _, ok := place.New().Best(rtx8000x4(), 0b1110, 1)
	must.True(t, ok)
	must.Eq(t, 0b1000, set)
}

func TestBestRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		free uint64
		k    int
	}{
		"more than are free":       {0b11, 3},
		"none":                     {0b11, 0},
		"a negative number":        {0b11, -1},
		"a GPU beyond the machine": {1 << 9, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, ok := place.New().Best(dgx1v(), c.free, c.k)
			must.False(t, ok)
		})
	}
}

// islands of 4, 12 and 8 GPUs: 24 in all, more than are tabulated.
func threeIslands() *topology.Matrix {
	m := topology.New(24, 25781, 15750)
	island := func(i int) int {
		switch {
		case i < 4:
			return 0
		case i < 16:
			return 1
		}
		return 2
	}
	for i := range 24 {
		m.SetNUMA(i, island(i))
		for j := i + 1; j < 24; j++ {
			if island(i) == island(j) {
				m.Set(i, j, 2, topology.PathNode)
			} else {
				m.Set(i, j, 0, topology.PathSystem)
			}
		}
	}
	return m
}

func TestLargeGroupsUseWholeIslands(t *testing.T) {
	t.Parallel()
	m, p := threeIslands(), place.New()
	cases := map[string]struct {
		k    int
		want uint64
	}{
		"the smallest island that is large enough": {4, 0x00000f},
		"a middle one":                       {6, 0x3f0000},
		"the largest one":                    {9, 0x001ff0},
		"two islands when one is not enough": {14, 0x03fff0},
		"everything":                         {24, 0xffffff},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, _, ok := p.Best(m, 0xffffff, c.k)
			must.True(t, ok)
			must.Eq(t, c.want, set, must.Sprintf("%x", set))
		})
	}
}

func TestSixteenGPUsAnswerLikeTheirHalves(t *testing.T) {
	t.Parallel()
	// Two cube meshes side by side: the best set for k <= 8 has the ring and the
	// sum of the best set of one of them.
	one, p := dgx1v(), place.New()
	two := topology.New(16, one.LinkMBps(), one.PCIeMBps())
	for i := range 16 {
		two.SetNUMA(i, i/4)
		for j := i + 1; j < 16; j++ {
			if i/8 == j/8 {
				two.Set(i, j, one.Links(i%8, j%8), one.Path(i%8, j%8))
			} else {
				two.Set(i, j, 0, topology.PathSystem)
			}
		}
	}
	for k := 2; k <= 8; k++ {
		_, want, _ := p.Best(one, 0xff, k)
		_, got, ok := p.Best(two, 0xffff, k)
		must.True(t, ok)
		must.Eq(t, want.RingMBps, got.RingMBps)
		must.Eq(t, want.SumMBps, got.SumMBps)
	}
}
