package topology_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func genMatrix(t *rapid.T) *topology.Matrix {
	size := rapid.IntRange(0, 16).Draw(t, "size")
	m := topology.New(size, rapid.SampledFrom([]int{0, 14062, 25781, 53125, 99}).Draw(t, "link"),
		rapid.IntRange(0, 64000).Draw(t, "pcie"))
	m.SetSwitched(rapid.Bool().Draw(t, "switched"))
	for i := range size {
		m.SetNUMA(i, rapid.IntRange(-1, 9).Draw(t, "numa"))
		for j := i + 1; j < size; j++ {
			m.Set(i, j, rapid.IntRange(0, topology.MaxLinks).Draw(t, "links"),
				topology.Path(rapid.IntRange(0, int(topology.PathSystem)).Draw(t, "path")))
		}
	}
	nics := rapid.SliceOfN(rapid.IntRange(0, 100000), 0, 5).Draw(t, "NICs")
	m.SetNICs(nics)
	for i := range size {
		for nic := range nics {
			m.SetNICPath(i, nic, topology.Path(rapid.IntRange(0, int(topology.PathSystem)).Draw(t, "path to a NIC")))
		}
	}
	return m
}

func TestParseInvertsEncode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMatrix(t)
		back, err := topology.Parse(m.Encode())
		must.NoError(t, err)
		must.Eq(t, m.Encode(), back.Encode())
		for i := range m.Size() {
			must.Eq(t, m.NUMA(i), back.NUMA(i))
			for nic := range m.NICs() {
				must.Eq(t, m.NICPath(i, nic), back.NICPath(i, nic))
				must.Eq(t, m.NICMBps(nic), back.NICMBps(nic))
			}
			for j := range m.Size() {
				must.Eq(t, m.EffectiveMBps(i, j), back.EffectiveMBps(i, j))
				must.Eq(t, m.EffectiveMBps(j, i), back.EffectiveMBps(i, j))
				must.Eq(t, i == j, m.EffectiveMBps(i, j) == 0)
			}
		}
	})
}

func TestIslandsPartitionTheGPUs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMatrix(t)
		island := make(map[int]int)
		for k, members := range m.Islands() {
			for _, i := range members {
				_, seen := island[i]
				must.False(t, seen)
				island[i] = k
			}
		}
		must.MapLen(t, m.Size(), island)
		for i := range m.Size() {
			for j := range m.Size() {
				if m.Links(i, j) > 0 {
					must.Eq(t, island[i], island[j])
				}
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("1;2;25781;15754;d;0,1;2s")
	f.Add("1;0;0;0;s;;")
	f.Add("1;2;0;0;d;-1,0;0?")
	f.Add("2;2;0;63000;d;0,1;0s;50000,25000;issi")
	f.Add("2;0;0;0;d;;;50000;")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := topology.Parse(text)
		if err != nil {
			must.Nil(t, m)
			return
		}
		must.Eq(t, text, m.Encode()) // there is one spelling of each matrix
	})
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       `version "", this build reads "1" and "2"`,
		"1;0":                    "2 parts separated by ';', want 7",
		"3;0;0;0;d;;":            `version "3"`,
		"1;65;0;0;d;;":           `size "65", want a number in 0..64`,
		"1;1;x;0;d;0;":           `NVLink speed "x"`,
		"1;1;0;-1;d;0;":          `PCIe speed "-1"`,
		"1;1;0;0;q;0;":           `link kind "q"`,
		"1;2;0;0;d;0;0s":         "1 NUMA nodes for 2 GPUs",
		"1;2;0;0;d;0,a;0s":       `NUMA node "a"`,
		"1;2;0;0;d;0,0;0":        "pairs take 1 characters, want 2",
		"1;2;0;0;d;0,0;!s":       `pair 0,1 is "!s"`,
		"1;02;0;0;d;0,0;0s":      `size "02"`,
		"1;2;0;0;d;0,0;0s;extra": "8 parts",
		"2;1;0;0;d;0;":           "7 parts separated by ';', want 9",
		"2;1;0;0;d;0;;x;i":       `NIC speed "x"`,
		"2;1;0;0;d;0;;50000;is":  "paths to NICs take 2 characters, want 1",
		"2;1;0;0;d;0;;50000;!":   `path 0 of GPU 0 to a NIC is "!"`,
	} {
		_, err := topology.Parse(text)
		must.ErrorContains(t, err, want)
	}
}

func TestEffectiveBandwidthRanksPathsAsNCCLDoes(t *testing.T) {
	t.Parallel()
	v100 := topology.New(3, 25781, 15754)
	v100.Set(0, 1, 2, topology.PathSystem)
	v100.Set(0, 2, 1, topology.PathSingle)
	v100.Set(1, 2, 0, topology.PathSystem)
	must.Eq(t, 40000, v100.EffectiveMBps(0, 1))
	must.Eq(t, 20000, v100.EffectiveMBps(0, 2))
	must.Eq(t, 6301, v100.EffectiveMBps(1, 2))
	h100 := topology.New(2, 26562, 63015)
	h100.Set(0, 1, 18, topology.PathNode)
	must.Eq(t, 18*20600, h100.EffectiveMBps(0, 1))
	rubin := topology.New(2, 106250, 0)
	rubin.Set(0, 1, 1, topology.PathNode)
	must.Eq(t, 85000, rubin.EffectiveMBps(0, 1)) // unknown generation: four fifths
}

func TestPeakBandwidthIsWhatTheLinksAreRated(t *testing.T) {
	t.Parallel()
	m := topology.New(3, 26562, 63000)
	m.Set(0, 1, 18, topology.PathNode)
	m.Set(0, 2, 0, topology.PathSystem)
	m.Set(1, 2, 0, topology.PathSystem)
	must.Eq(t, 18*26562, m.PeakMBps(0, 1))
	must.Eq(t, 63000, m.PeakMBps(0, 2))
	must.Zero(t, m.PeakMBps(1, 1))
	must.Zero(t, topology.New(2, 0, 0).PeakMBps(0, 1))
}
