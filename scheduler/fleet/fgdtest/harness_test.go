package fgdtest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
)

func TestRead(t *testing.T) {
	t.Parallel()
	nodes, err := fgdtest.ReadNodes(strings.NewReader("sn,cpu_milli,memory_mib,gpu,model\nn1,64000,262144,2,P100\n"))
	must.NoError(t, err)
	must.Eq(t, []fleet.Node{{ID: "n1", Model: "P100", CPUMilli: 64000, MemoryMiB: 262144, GPUs: []int{1000, 1000}}}, nodes)

	pods, err := fgdtest.ReadPods(strings.NewReader("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\np1,4000,8192,1,460,T4|P100,LS\np2,1,2,0,0,,BE\n"))
	must.NoError(t, err)
	must.Eq(t, []fgdtest.Pod{
		{Name: "p1", Ask: fleet.Ask{CPUMilli: 4000, MemoryMiB: 8192, GPUs: 1, GPUMilli: 460, Models: []string{"T4", "P100"}}},
		{Name: "p2", Ask: fleet.Ask{CPUMilli: 1, MemoryMiB: 2}},
	}, pods)
	_, err = fgdtest.ReadPods(strings.NewReader("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np1,4000,8192,1,460\n"))
	must.NoError(t, err) // some lists name no models

	_, err = fgdtest.ReadNodes(strings.NewReader("sn,cpu_milli,memory_mib,gpu,model\nn1,many,262144,2,P100\n"))
	must.EqError(t, err, `line 2, column cpu_milli: strconv.ParseInt: parsing "many": invalid syntax`)
	_, err = fgdtest.ReadPods(strings.NewReader("name,cpu_milli\np1,1\n"))
	must.EqError(t, err, "line 2, column memory_mib: is missing")
	_, err = fgdtest.ReadResults(strings.NewReader(""))
	must.EqError(t, err, "read results: header: EOF")
}

func TestArrange(t *testing.T) {
	t.Parallel()
	nodes := fgdtest.SyntheticNodes(50, 3)
	capacity := 0
	for i := range nodes {
		capacity += len(nodes[i].GPUs) * fleet.WholeGPU
	}
	for name, count := range map[string]int{"too few pods are repeated": 20, "too many are thinned out": 2000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pods := fgdtest.SyntheticTrace(count, 3)
			e := fgdtest.Arrange(nodes, pods, 42)
			demand := 0
			for i := range e.Pods {
				demand += e.Pods[i].Ask.TotalMilli()
			}
			must.Between(t, 1.25, float64(demand)/float64(capacity), 1.37)
			slices.Reverse(pods)
			again := fgdtest.Arrange(nodes, pods, 42)
			must.Eq(t, e.Pods, again.Pods)
			must.Eq(t, e.Names, again.Names)
			must.NotEq(t, e.Pods, fgdtest.Arrange(nodes, pods, 43).Pods)
		})
	}
}

func TestTypicalOf(t *testing.T) {
	t.Parallel()
	ask := func(cpu, memory int64) fgdtest.Pod {
		return fgdtest.Pod{Ask: fleet.Ask{CPUMilli: cpu, MemoryMiB: memory, GPUs: 1, GPUMilli: 500}}
	}
	pods := slices.Concat(
		slices.Repeat([]fgdtest.Pod{ask(1, 10), ask(1, 30)}, 45), slices.Repeat([]fgdtest.Pod{ask(2, 5)}, 6), slices.Repeat([]fgdtest.Pod{ask(3, 5)}, 4))
	typical := fgdtest.TypicalOf(pods)
	must.Eq(t, []fleet.Typical{{Ask: ask(1, 20).Ask, Count: 90}, {Ask: ask(2, 5).Ask, Count: 6}}, typical)
}

// Every policy runs to the end under the eyes of the harness, and two runs of one
// seed are the same.
func TestPoliciesRun(t *testing.T) {
	t.Parallel()
	nodes, pods := fgdtest.SyntheticNodes(60, 5), fgdtest.SyntheticTrace(400, 5)
	makers := map[string]maker{"ours": fgdtest.NewOurs, "FGD with random ties": fgdtest.NewFGDWithRandomTies}
	for _, name := range fgdtest.Policies() {
		makers[name] = named(name)
	}
	for name, policy := range makers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := run(t, nodes, pods, []int64{1, 2}, policy)
			must.Eq(t, first.allocation, run(t, nodes, pods, []int64{1, 2}, policy).allocation)
			must.Between(t, 50, first.mean(), 100)
		})
	}
}

// stubborn always gives the same answer.
type stubborn struct {
	gpus []int
	ok   bool
}

func (s stubborn) Place(*fleet.Ask) (int, []int, bool) { return 0, s.gpus, s.ok }

func TestRunCatchesWrongPolicies(t *testing.T) {
	t.Parallel()
	pods := []fgdtest.Pod{{Name: "p", Ask: fleet.Ask{CPUMilli: 1, GPUs: 1, GPUMilli: 600}}}
	node := fleet.Node{ID: "n", Model: "T4", CPUMilli: 8, GPUs: []int{1000, 1000}}
	cases := map[string]struct {
		policy stubborn
		want   string
	}{
		"it turns away what has room":  {stubborn{}, "pod p: turned away although node 0-n has room"},
		"it places what has no room":   {stubborn{[]int{0}, true}, "pod p: placed on GPU 0 of node 0-n, which has no room"},
		"it names too many GPUs":       {stubborn{[]int{0, 1}, true}, "pod p: placed on node 0-n, which has no room"},
		"it names a GPU that is not":   {stubborn{[]int{2}, true}, "pod p: placed on GPU 2 of node 0-n, which has no room"},
		"it names one that is nowhere": {stubborn{[]int{-1}, true}, "pod p: placed on GPU -1 of node 0-n, which has no room"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := fgdtest.Run(fgdtest.Arrange([]fleet.Node{node}, pods, 1), c.policy)
			must.EqError(t, err, c.want)
		})
	}
}
