package fgdtest

import (
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/shoenig/test/must"
)

// The paper's measure, by hand: half of the pods want a whole GPU and 4 CPUs, a
// quarter 300 milli and 1 CPU, a quarter only CPU.
func TestFragmentation(t *testing.T) {
	t.Parallel()
	typical := []fleet.Typical{
		{Ask: fleet.Ask{CPUMilli: 4000, GPUs: 1, GPUMilli: 1000}, Count: 2},
		{Ask: fleet.Ask{CPUMilli: 1000, GPUs: 1, GPUMilli: 300}, Count: 1},
		{Ask: fleet.Ask{CPUMilli: 1000}, Count: 1},
	}
	cases := map[string]struct {
		cpu  int64
		left []int
		want float64
	}{
		"a free GPU is useless for those without": {4000, []int{1000}, 1000.0 / 4},
		"a rest is too small for whole ones":      {4000, []int{500}, 500.0*2/4 + 500.0/4},
		"a rest next to a free GPU":               {4000, []int{1000, 200}, 200.0*2/4 + 200.0/4 + 1200.0/4},
		"too little CPU for whole ones":           {3999, []int{1000}, 1000.0*2/4 + 1000.0/4},
		"no CPU":                                  {0, []int{1000, 700}, 1700},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &Experiment{Nodes: []fleet.Node{{ID: "a", CPUMilli: c.cpu, GPUs: c.left}}, Names: []string{"a"}}
			f := newFGD(e, typical, nil)
			must.InDelta(t, c.want, f.fragmentation(&f.machines[0]), 1e-9)
		})
	}
}

func TestReferenceScores(t *testing.T) {
	t.Parallel()
	m := func(tags uint, cpu int64, left ...int) *machine {
		m := &machine{cpu: cpu, left: left, tags: tags}
		for _, l := range left {
			m.idle += l
		}
		return m
	}
	half := &fleet.Ask{CPUMilli: 64000, GPUs: 1, GPUMilli: 500}
	two := &fleet.Ask{CPUMilli: 64000, GPUs: 2, GPUMilli: 1000}
	plain := &fleet.Ask{CPUMilli: 1000}
	cases := map[string]struct{ got, want int }{
		"DotProd":                           {dotProduct(m(0, 128000, 1000, 1000, 1000, 1000), half), 73}, // 1 - (.5 + .5*.0625)/2
		"BestFit":                           {bestFit(m(0, 128000, 1000, 1000), two), 75},
		"Clustering, an empty node":         {clustering(m(0, 1, 1000, 1000, 1000, 1000), half), 25 + 12},
		"Clustering, its own kind":          {clustering(m(1, 1, 0, 1000), half), 75 + 21},
		"Clustering, among others":          {clustering(m(1|1<<2, 1, 0, 1000), half), 50 + 21},
		"Clustering, others":                {clustering(m(1<<2, 1, 0, 1000), half), 21},
		"Clustering, no GPU":                {clustering(m(1<<2, 1, 0, 1000), plain), 0},
		"Packing, a shared GPU":             {packing(m(0, 1, 1000, 600), half), 94},
		"Packing, a free GPU of a used one": {packing(m(0, 1, 1000, 400), half), 49},
		"Packing, a free node":              {packing(m(0, 1, 1000, 1000), two), 31},
		"Packing, no GPU":                   {packing(m(0, 1, 1000, 1000), plain), 0},
		"FGD, no change":                    {sigmoid(0), 50},
		"FGD, a GPU less of fragmentation":  {sigmoid(1000), 73},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.EqOp(t, c.want, c.got)
		})
	}
}
