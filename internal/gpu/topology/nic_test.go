package topology_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// Two GPUs share a NIC at 400 Gb/s, a third has one of its own, and a fourth reaches both
// through the other NUMA node.
func host() *topology.Matrix {
	m := topology.New(4, 26562, 63000)
	m.SetNICs([]int{50000, 50000})
	for i, paths := range [][2]topology.Path{
		{topology.PathSingle, topology.PathNode}, {topology.PathSingle, topology.PathNode},
		{topology.PathNode, topology.PathSingle}, {topology.PathSystem, topology.PathSystem},
	} {
		m.SetNICPath(i, 0, paths[0])
		m.SetNICPath(i, 1, paths[1])
	}
	return m
}

func TestGPUsOfASetShareTheNICsThatAreNearestToThem(t *testing.T) {
	t.Parallel()
	m := host()
	near, path := m.NICsOf(1)
	must.Eq(t, 0b01, near)
	must.Eq(t, topology.PathSingle, path)
	near, _ = m.NICsOf(3)
	must.Eq(t, 0b11, near)
	for set, want := range map[uint64]struct {
		mbps int
		path topology.Path
	}{
		0b0001: {50000, topology.PathSingle},
		0b0011: {25000, topology.PathSingle}, // one NIC for two
		0b0101: {50000, topology.PathSingle}, // one for each
		0b1000: {25200, topology.PathSystem}, // two thirds of a PCIe link do not get that far
		0b1001: {25000, topology.PathSystem}, // the first GPU shares its only NIC
		0:      {0, topology.PathUnknown},
	} {
		mbps, path := m.NetworkMBps(set)
		must.Eq(t, want.mbps, mbps, must.Sprintf("%04b", set))
		must.Eq(t, want.path, path, must.Sprintf("%04b", set))
	}
}

func TestAGPUWithoutANICAtAKnownDistanceHasNoNetwork(t *testing.T) {
	t.Parallel()
	m := host()
	m.SetNICPath(2, 0, topology.PathUnknown)
	m.SetNICPath(2, 1, topology.PathUnknown)
	mbps, path := m.NetworkMBps(0b0101)
	must.Zero(t, mbps)
	must.Eq(t, topology.PathUnknown, path)
	mbps, _ = m.NetworkMBps(0b0001)
	must.Eq(t, 50000, mbps)
	must.Eq(t, "1;1;0;0;d;-1;", topology.New(1, 0, 0).Encode(), must.Sprint("hosts without NICs are written as before there were any"))
}

// A slow NIC beside a GPU is not what it sends through.
func TestASlowNICThatIsNearTakesNothingAway(t *testing.T) {
	t.Parallel()
	m := topology.New(2, 26562, 63000)
	set := func(slow bool) {
		speeds := []int{50000, 50000}
		if slow {
			speeds = append(speeds, 3125) // the management network
		}
		m.SetNICs(speeds)
		for i := range 2 {
			m.SetNICPath(i, 0, topology.PathNode)
			m.SetNICPath(i, 1, topology.PathNode)
			if slow {
				m.SetNICPath(i, 2, topology.PathHostBridge)
			}
		}
	}
	set(false)
	mbps, path := m.NetworkMBps(0b11)
	must.Eq(t, 37_800, mbps)
	must.Eq(t, topology.PathNode, path)
	set(true)
	mbps, _ = m.NetworkMBps(0b11)
	must.Eq(t, 37_800, mbps)
	nics, _ := m.NICsOf(0)
	must.Eq(t, 0b011, nics)
}

// A NIC more, of whatever speed and wherever it is, leaves a GPU alone no less.
func TestANICMoreIsNoLessForAGPU(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMatrix(t)
		if m.Size() == 0 {
			return
		}
		i := rapid.IntRange(0, m.Size()-1).Draw(t, "GPU")
		before, _ := m.NetworkMBps(1 << i)
		var speeds []int
		var paths []topology.Path
		for nic := range m.NICs() {
			speeds, paths = append(speeds, m.NICMBps(nic)), append(paths, m.NICPath(i, nic))
		}
		m.SetNICs(append(speeds, rapid.IntRange(0, 100_000).Draw(t, "speed")))
		for nic, path := range paths {
			m.SetNICPath(i, nic, path)
		}
		m.SetNICPath(i, len(paths), topology.Path(rapid.IntRange(0, int(topology.PathSystem)).Draw(t, "path")))
		after, _ := m.NetworkMBps(1 << i)
		must.LessEq(t, after, before)
	})
}

// More GPUs in a set never leave each more.
func TestALargerSetHasNoMoreForEachGPU(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMatrix(t)
		if m.Size() == 0 {
			return
		}
		all := uint64(1)<<m.Size() - 1
		set := rapid.Uint64Range(1, all).Draw(t, "set")
		one := rapid.IntRange(0, m.Size()-1).Draw(t, "one more")
		few, near := m.NetworkMBps(set)
		more, far := m.NetworkMBps(set | 1<<one)
		must.LessEq(t, few, more)
		if far != topology.PathUnknown {
			must.LessEq(t, far, near)
		}
	})
}
