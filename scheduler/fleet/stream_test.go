package fleet

import (
	"slices"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func stateOf(cpu int64, left ...int16) state {
	s := state{cpu: cpu, memory: unlimited, gpus: len(left)}
	copy(s.left[:], left)
	slices.Sort(s.left[:s.gpus])
	return s
}

func TestWaste(t *testing.T) {
	t.Parallel()
	eight := Typical{Ask: Ask{CPUMilli: 1000, GPUs: 1, GPUMilli: 800}, Count: 1}
	whole := Typical{Ask: Ask{CPUMilli: 1000, GPUs: 2, GPUMilli: WholeGPU}, Count: 1}
	plain := Typical{Ask: Ask{CPUMilli: 1000}, Count: 1}
	rare := Typical{Ask: Ask{CPUMilli: 1000, GPUs: 1, GPUMilli: 200}, Count: 1}
	eights := eight
	eights.Count = 1_000_000
	cases := map[string]struct {
		typical []Typical
		state   state
		want    int64 // milli on average
	}{
		"what is left over is idle":                {[]Typical{eight}, stateOf(9000, 1000, 1000, 300), 200 + 200 + 300},
		"GPUs without CPU are idle":                {[]Typical{eight}, stateOf(1999, 1000, 1000), 200 + 1000},
		"whole GPUs without a partner are idle":    {[]Typical{whole}, stateOf(9000, 1000, 1000, 1000, 500), 1000 + 500},
		"without work for GPUs all are idle":       {[]Typical{plain}, stateOf(9000, 1000, 500), 1500},
		"without any work all are idle":            {nil, stateOf(9000, 1000, 500), 1500},
		"a node without GPUs wastes none":          {[]Typical{eight}, stateOf(9000), 0},
		"work that is too rare fills no hole":      {[]Typical{eights, rare}, stateOf(9000, 200), 200},
		"work of which all comes fills every hole": {[]Typical{rare}, stateOf(9000, 200, 400), 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := newStream(kindsFor("", c.typical)).waste(&c.state)
			must.EqOp(t, c.want*rollouts, got)
		})
	}
}

// The sets of kinds that fit are a shortcut: trying one kind after the other
// comes to the same.
func TestWasteIsWhatTryingComesTo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var typical []Typical
		for range rapid.IntRange(1, 70).Draw(t, "kinds") {
			a := Ask{CPUMilli: rapid.Int64Range(0, 9).Draw(t, "cpu"), MemoryMiB: rapid.Int64Range(0, 9).Draw(t, "memory"), GPUs: rapid.IntRange(0, 4).Draw(t, "GPUs")}
			switch {
			case a.GPUs == 1:
				a.GPUMilli = rapid.IntRange(1, WholeGPU).Draw(t, "milli")
			case a.GPUs > 1:
				a.GPUMilli = WholeGPU
			}
			typical = append(typical, Typical{Ask: a, Count: rapid.Int64Range(0, 99).Draw(t, "count")})
		}
		s := newStream(kindsFor("", typical))
		v := stateOf(rapid.Int64Range(0, 30).Draw(t, "cpu left"), rapid.SliceOfN(rapid.Int16Range(0, WholeGPU), 0, NodeGPUs).Draw(t, "left")...)
		if rapid.Bool().Draw(t, "bounded") {
			v.memory = rapid.Int64Range(0, 30).Draw(t, "memory left")
		}
		want := int64(0)
		for r := range s.futures {
			w := v
			for _, kind := range s.futures[r][:shortest<<(r%lengths)] {
				if len(s.kinds) == 0 || !w.fits(&s.kinds[kind]) {
					continue
				}
				at := 0
				if s.kinds[kind].gpus == 1 {
					at = w.tightest(s.kinds[kind].milli)
				}
				w.take(&s.kinds[kind], at)
			}
			want += w.idle()
		}
		must.EqOp(t, want, s.waste(&v))
	})
}

func TestKindsFor(t *testing.T) {
	t.Parallel()
	a := Ask{CPUMilli: 1000, GPUs: 1, GPUMilli: 500}
	b := a
	b.Models = []string{"T4"}
	c := a
	c.Models = []string{"A100"}
	kinds := kindsFor("T4", []Typical{{a, 10}, {b, 5}, {c, 7}, {Ask{CPUMilli: 1}, 100}, {Ask{CPUMilli: 2}, 0}})
	want := []weighed{{demandOf(&Ask{CPUMilli: 1}), 100 * 100}, {demandOf(&a), 15 * 600}}
	must.True(t, slices.Equal(want, kinds), must.Sprint(kinds))

	many := make([]Typical, 100)
	for i := range many {
		many[i] = Typical{Ask{CPUMilli: int64(i)}, int64(i + 1)}
	}
	kinds = kindsFor("T4", many)
	must.Len(t, kindsMax, kinds)
	must.EqOp(t, 99, kinds[0].cpu)
}
