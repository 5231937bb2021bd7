package sets_test

import (
	"math"
	"math/bits"
	"math/rand"
	"path/filepath"
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func shipped(t testing.TB) map[string]*topology.Matrix {
	t.Helper()
	found, err := setstest.Fixtures(filepath.Join("..", "..", "device", "fakenvml", "fixtures"))
	must.NoError(t, err)
	must.Greater(t, 25, len(found), must.Sprint("the fixtures were not found"))
	return found
}

// pciBefore reports whether a set comes before another of its size.
func pciBefore(a, b uint64) bool {
	differ := a ^ b
	return a&(differ&-differ) != 0
}

// bestOf compares all sets of k GPUs out of free.
func bestOf(free uint64, k int, better func(a, b uint64) bool) uint64 {
	var best uint64
	for set := free; set != 0; set = (set - 1) & free {
		if bits.OnesCount64(set) == k && (best == 0 || better(set, best)) {
			best = set
		}
	}
	return best
}

// first reports whether a is better than b: the first criterion in which they
// differ decides, more is better; then PCI order.
func first(a, b uint64, criteria ...func(set uint64) int) bool {
	for _, of := range criteria {
		if of(a) != of(b) {
			return of(a) > of(b)
		}
	}
	return pciBefore(a, b)
}

// checkAll compares every answer of the tables with brute force, on every set of
// free GPUs and for every k.
func checkAll(t must.T, m *topology.Matrix) (answers int) {
	o, table := setstest.NewOracle(m), sets.New(m)
	joint := sets.NewJoint(table, sets.Preserving())
	left := o.Pack(o.Ring)
	rate := make([]int, len(o.Rate))
	for set := range rate {
		if k := bits.OnesCount(uint(set)); k > 1 {
			rate[set] = o.Rate[set] * sets.Unit / o.Ideal[k]
		}
		must.Eq(t, rate[set], joint.Rate(uint64(set)), must.Sprintf("rate of %b", set))
	}
	value := o.Pack(rate)
	of := func(values []int) func(uint64) int { return func(set uint64) int { return values[set] } }
	numa := func(set uint64) int { return -o.NUMA[set] }
	near := func(set uint64) int {
		if o.NICPath[set] == topology.PathUnknown {
			return -100
		}
		return -int(o.NICPath[set])
	}
	for free := range uint64(1) << m.Size() {
		must.Eq(t, value[free], joint.Value(free))
		leaves := func(values []int) func(uint64) int { return func(set uint64) int { return values[free&^set] } }
		for k := 1; k <= bits.OnesCount64(free); k++ {
			want := bestOf(free, k, func(a, b uint64) bool {
				return first(a, b, of(o.Ring), of(o.Sum), numa, of(o.Network), near, leaves(left))
			})
			must.Eq(t, want, table.Best(free, k), must.Sprintf("best of %b, k %d", free, k))
			must.Eq(t, sets.Quality{RingMBps: o.Ring[want], SumMBps: o.Sum[want], NUMANodes: o.NUMA[want],
				NetworkMBps: o.Network[want], NICPath: o.NICPath[want], LeftMBps: int64(left[free&^want])}, table.Quality(want, free))

			score := func(set uint64) int { return 4*rate[set] + value[free&^set] }
			want = bestOf(free, k, func(a, b uint64) bool {
				return first(a, b, score, leaves(left), of(o.Ring), of(o.Sum), numa, of(o.Network), near)
			})
			must.Eq(t, want, joint.Set(free, k), must.Sprintf("joint of %b, k %d", free, k))
			loss := value[free] - value[free&^want]
			cost := 100*loss + 1000*bits.OnesCount64(free&^want)*sets.Unit/m.Size()
			if k > 1 {
				mbps := rate[want] * o.Ideal[k] / sets.Unit
				whole := math.Ilogb(float64(mbps))
				halvings := whole*sets.Unit + (mbps-1<<whole)*sets.Unit>>whole
				cost += 500*30*sets.Unit - 500*halvings
			} else {
				cost += 1000 * loss / 4
			}
			must.Eq(t, int32(cost>>10), joint.Cost(free, k))
			answers += 2
		}
	}
	return answers
}

// Half the bandwidth costs the same, whether it is that a machine has no better set
// free or that it has no better one at all.
func TestMachinesOfSeveralTopologiesAreComparedByTheirBandwidth(t *testing.T) {
	t.Parallel()
	pairs := func(links, other int) *topology.Matrix {
		m := topology.New(4, 25781, 15750)
		m.Set(0, 1, links, topology.PathNode)
		m.Set(2, 3, other, topology.PathNode)
		return m
	}
	fast, slow := sets.NewJoint(sets.New(pairs(4, 2)), sets.Packed()), sets.NewJoint(sets.New(pairs(2, 2)), sets.Packed())
	must.Eq(t, 2*slow.IdealMBps(2), fast.IdealMBps(2))
	must.Eq(t, fast.Ring(0b1100), slow.Ring(0b1100))
	half := int32(sets.Packed().Rate * sets.Unit / 2 >> 10)
	must.Eq(t, fast.Cost(0b1111, 2)+half, slow.Cost(0b1111, 2))
	// The same pair, in a machine that could have a better one.
	must.Eq(t, slow.Cost(0b1100, 2), fast.Cost(0b1100, 2))
	must.Eq(t, sets.Packed().CostUntabled(2, slow.IdealMBps(2), 0, 4), slow.Cost(0b1100, 2))
	must.Less(t, sets.Packed().CostUntabled(2, 0, 0, 4), slow.Cost(0b1111, 2), must.Sprint("links that are not known are the worst"))
}

func TestEveryAnswerOnTheShippedTopologiesIsTheBest(t *testing.T) {
	t.Parallel()
	for name, m := range shipped(t) {
		if m.Size() > 8 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Logf("%d answers, all optimal", checkAll(t, m))
		})
	}
}

func TestEveryAnswerOnRandomTopologiesIsTheBest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "gpus")
		m := topology.New(n, rapid.SampledFrom([]int{0, 14062, 25781, 53125}).Draw(t, "link"), rapid.SampledFrom([]int{0, 15750, 63000}).Draw(t, "pcie"))
		m.SetSwitched(rapid.Bool().Draw(t, "switched"))
		for i := range n {
			m.SetNUMA(i, rapid.IntRange(-1, 2).Draw(t, "numa"))
			for j := range i {
				m.Set(i, j, rapid.IntRange(0, 2).Draw(t, "links"), topology.Path(rapid.IntRange(0, 6).Draw(t, "path")))
			}
		}
		nics := rapid.SliceOfN(rapid.SampledFrom([]int{0, 12500, 25000, 50000}), 0, 4).Draw(t, "NICs")
		m.SetNICs(nics)
		for i := range n {
			for nic := range nics {
				m.SetNICPath(i, nic, topology.Path(rapid.IntRange(0, 6).Draw(t, "path to a NIC")))
			}
		}
		checkAll(t, m)
	})
}

// On a machine whose GPUs are all joined alike the network decides.
func TestGPUsThatAreJoinedAlikeAreChosenByTheirNICs(t *testing.T) {
	t.Parallel()
	m := shipped(t)["hgxh100-rdma"]
	must.Eq(t, 4, m.NICs(), must.Sprint("the one that is down is none"))
	table := sets.New(m)
	joint := sets.NewJoint(table, sets.Packed())
	for _, c := range []struct {
		free uint64
		k    int
		want uint64
	}{
		{0xff, 2, 0b101}, {0xff, 4, 0b1111}, {0b11110011, 2, 0b01010000}, {0b00110011, 2, 0b11}, {0b11001111, 3, 0b111},
	} {
		must.Eq(t, c.want, table.Best(c.free, c.k), must.Sprintf("best %d of %08b", c.k, c.free))
		must.Eq(t, c.want, joint.Set(c.free, c.k), must.Sprintf("joint %d of %08b", c.k, c.free))
	}
	must.Eq(t, 50_000, table.Quality(0b101, 0xff).NetworkMBps)
	must.Eq(t, 25_000, table.Quality(0b11, 0xff).NetworkMBps)
}

// Of sixteen GPUs there are 43 million sets in sets: some are compared here,
// with the table's own qualities. Those of subsets of eight are checked above.
func TestAnswersOnSixteenGPUsAreTheBest(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewSource(1))
	one := sets.NewJoint(sets.New(setstest.DGX1V()), sets.Packed())
	for name, m := range map[string]*topology.Matrix{"dgx2": shipped(t)["dgx2"], "two meshes": twoMeshes()} {
		table := sets.New(m)
		joint := sets.NewJoint(table, sets.Packed())
		must.Eq(t, 16, m.Size())
		for set := range uint64(1) << 8 {
			if name == "two meshes" { // each half has the rates that it has alone
				must.Eq(t, one.Rate(set), joint.Rate(set))
				must.Eq(t, one.Rate(set), joint.Rate(set<<8))
			}
		}
		for range 12 {
			free := uint64(random.Intn(1<<16) & (random.Intn(1<<16) | random.Intn(1<<16) | random.Intn(1<<16)))
			for k := 1; k <= bits.OnesCount64(free); k++ {
				quality := func(set uint64) sets.Quality { return table.Quality(set, free) }
				want := bestOf(free, k, func(a, b uint64) bool {
					order := quality(a).Compare(quality(b))
					return order > 0 || order == 0 && pciBefore(a, b)
				})
				must.Eq(t, want, table.Best(free, k), must.Sprintf("%s: best of %b, k %d", name, free, k))
				want = bestOf(free, k, func(a, b uint64) bool {
					return first(a, b,
						func(set uint64) int { return 4*joint.Rate(set) + joint.Value(free&^set) },
						func(set uint64) int { return int(table.Left(free &^ set)) },
						func(set uint64) int { return quality(set).RingMBps }, func(set uint64) int { return quality(set).SumMBps },
						func(set uint64) int { return -quality(set).NUMANodes })
				})
				must.Eq(t, want, joint.Set(free, k), must.Sprintf("%s: joint of %b, k %d", name, free, k))
			}
		}
	}
}

// twoMeshes is two cube meshes side by side.
func twoMeshes() *topology.Matrix {
	one := setstest.DGX1V()
	m := topology.New(16, one.LinkMBps(), one.PCIeMBps())
	for i := range 16 {
		m.SetNUMA(i, i/4)
		for j := range i {
			m.Set(i, j, 0, topology.PathSystem)
			if i/8 == j/8 {
				m.Set(i, j, one.Links(i%8, j%8), one.Path(i%8, j%8))
			}
		}
	}
	return m
}

func TestASwitchGivesEverySetItsFullRate(t *testing.T) {
	t.Parallel()
	joint := sets.NewJoint(sets.New(setstest.Switched(8, 18, 26562)), sets.Packed())
	for set := range uint64(1) << 8 {
		if bits.OnesCount64(set) > 1 {
			must.Eq(t, sets.Unit, joint.Rate(set))
		}
	}
}

func TestLargeGroupsUseOneIslandThatIsLargeEnough(t *testing.T) {
	t.Parallel()
	m := topology.New(24, 25781, 15750)
	for i := range 24 {
		for j := range i {
			m.Set(i, j, 0, topology.PathSystem)
			if i/8 == j/8 {
				m.Set(i, j, 2, topology.PathNode)
			}
		}
	}
	set, q := sets.Large(m, 0xff0f0f, 6)
	must.Eq(t, 0x3f0000, set)
	must.Eq(t, 40000, q.RingMBps)
	set, _ = sets.Large(m, 0x0f0f0f, 6)
	must.Eq(t, 0x00030f, set)
}

func TestJointRefusesWeightsThatItCannotComputeWith(t *testing.T) {
	t.Parallel()
	must.True(t, sets.Packed().Valid())
	must.True(t, sets.Preserving().Valid())
	must.False(t, sets.Weights{Rate: -1}.Valid())
	must.False(t, sets.Weights{Packing: 2001}.Valid())
}
