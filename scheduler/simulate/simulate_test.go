package simulate_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/scheduler/clustermap"
	"github.com/nomad-governor/governor/scheduler/simulate"
)

var update = flag.Bool("update", false, "write the golden files")

func grown(t testing.TB, text string) simulate.Cluster {
	t.Helper()
	var c simulate.Cluster
	must.NoError(t, c.Grow(text))
	return c
}

// traced reads the lines of a trace below a header.
func traced(t testing.TB, header string, lines ...string) []simulate.Job {
	t.Helper()
	trace, err := simulate.ParseTrace("jobs.csv", []byte(header+"\n"+strings.Join(lines, "\n")))
	must.NoError(t, err)
	return trace.Jobs
}

func ran(t testing.TB, c simulate.Cluster, jobs []simulate.Job, o simulate.Options) simulate.Result {
	t.Helper()
	r, err := simulate.Run(c, jobs, o)
	must.NoError(t, err)
	return r
}

func TestJobsWaitForGPUsAndAreOvertakenByThoseThatFit(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus", "0,100,6", "10,50,4", "20,30,2")
	r := ran(t, grown(t, "1xdgx-h100"), jobs, simulate.Options{})
	must.Eq(t, simulate.Waits{Mean: 30_000, P50: 0, P95: 90_000, P99: 90_000, Max: 90_000}, r.Wait, must.Sprint("the pair runs from 20 on, the quad from 100 on"))
	must.Eq(t, 150_000, r.MakespanMS)
	must.Eq(t, quantity.Amount(600_000+200_000+60_000), r.BusyMS)
	must.Eq(t, 860_000*simulate.Million/(8*150_000), r.Utilisation)
	must.Eq(t, quantity.Amount(10*2+0*30+50*2)*1000, r.IdleMS, must.Sprint("two are idle from 10 to 20, and from 50 to 100"))
	must.Eq(t, 120*simulate.Million/(90*8), r.Fragmented)
	must.Eq(t, 1, r.WaitingMax)

	r = ran(t, grown(t, "1xdgx-h100"), jobs, simulate.Options{Backfill: 1})
	must.Eq(t, 90_000, r.Wait.P95)
	must.Eq(t, (90_000+80_000)/3, r.Wait.Mean, must.Sprint("nobody overtakes"))
	must.Eq(t, 2, r.WaitingMax)
}

func TestWhatIsLargerThanANodeTakesWholeNodes(t *testing.T) {
	t.Parallel()
	r := ran(t, grown(t, "3xdgx-h100"), traced(t, "submit_time,duration,gpus", "0,100,12", "0,10,8", "0,10,9", "0,10,25"), simulate.Options{})
	must.Eq(t, 3, r.Jobs)
	must.Eq(t, simulate.NeverFit{Jobs: 1, FirstLine: 5, GPUs: 25}, r.NeverFit)
	must.Eq(t, simulate.Waits{Mean: 33_333, P95: 100_000, P99: 100_000, Max: 100_000}, r.Wait, must.Sprint("the 9 need two nodes, of which 12 GPUs have one until 100"))
	must.Eq(t, quantity.Amount(16*100+8*10+16*10)*1000, r.BusyMS, must.Sprint("12 GPUs are 2 nodes"))
	must.Eq(t, simulate.Million, r.AtIdeal)
}

func TestAllocationsOfAJobStartTogether(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus,count", "0,100,6,1", "1,100,12,3", "2,10,4,1")
	r := ran(t, grown(t, "2xhgx-h100-4"), jobs, simulate.Options{})
	must.Eq(t, 2, r.NeverFit.Jobs, must.Sprint("one allocation of 6, three of 4 on two nodes"))
	must.Eq(t, 1, r.Jobs)
	r = ran(t, grown(t, "2xdgx-h100"), jobs, simulate.Options{})
	must.Eq(t, 0, r.NeverFit.Jobs)
	must.Eq(t, 99_000, r.Wait.Max, must.Sprint("6 are taken: three sets of 4 fit when they are free"))
}

func TestLimitsOfBudgets(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus,budget", "0,100,4,a/x", "1,100,4,a/y", "2,100,4,ab", "3,100,5,a/x")
	r := ran(t, grown(t, "4xdgx-h100"), jobs, simulate.Options{Limits: []simulate.Limit{{Budget: "a", GPUs: 4}}})
	must.Eq(t, simulate.NeverFit{Jobs: 1, FirstLine: 5, GPUs: 5}, r.NeverFit)
	must.Eq(t, []simulate.BudgetUse{{Budget: "a/x", Jobs: 1, BusyMS: 400_000}, {Budget: "a/y", Jobs: 1, BusyMS: 400_000, WaitMS: 99_000}, {Budget: "ab", Jobs: 1, BusyMS: 400_000}}, r.Budgets)
	must.Eq(t, 0, r.Fragmented, must.Sprint("who waits for a limit does not wait for GPUs"))
	must.Eq(t, 1, r.WaitingMax)
}

func TestCPUMemoryAndClass(t *testing.T) {
	t.Parallel()
	m := clustermap.Map{Nodes: []clustermap.Node{
		{Name: "a", Ready: true, CPUMHz: 1000, MemoryMiB: 64, Groups: []clustermap.Group{{Device: "nvidia/gpu/A", GPUs: make([]clustermap.GPU, 4)}}},
		{Name: "b", Ready: true, Groups: []clustermap.Group{{Device: "nvidia/gpu/B", GPUs: make([]clustermap.GPU, 2)}}},
	}}
	c, err := simulate.OfMap(m, false)
	must.NoError(t, err)
	for _, policy := range simulate.Policies() {
		jobs := traced(t, "submit_time,duration,gpus,class,cpu,memory", "0,10,1,a,600,1", "0,10,1,nvidia/gpu/a,600,1", "0,10,1,A,1,60", "0,10,1,A,1001,1", "0,10,2,B,9000,9000")
		r := ran(t, c, jobs, simulate.Options{Policy: policy})
		must.Eq(t, 1, r.NeverFit.Jobs, must.Sprint("1001 MHz of 1000"))
		must.Eq(t, 10_000, r.Wait.Max, must.Sprint("twice 600 MHz do not fit at once"))
		must.Eq(t, 2500, r.Wait.Mean, must.Sprint(policy))
		must.Eq(t, 0, r.Several, must.Sprint("links are not known"))
	}
}

func TestTheClusterOfAMap(t *testing.T) {
	t.Parallel()
	pair := topology.New(2, 25781, 15750)
	pair.Set(0, 1, 2, topology.PathNode)
	group := func(states ...clustermap.State) clustermap.Group {
		g := clustermap.Group{Device: "nvidia/gpu/A"}
		for _, s := range states {
			g.GPUs = append(g.GPUs, clustermap.GPU{State: s})
		}
		return g
	}
	linked := group(clustermap.Free, clustermap.Held)
	linked.Topology = pair.Encode()
	other := group(clustermap.Unhealthy)
	other.Device = "nvidia/gpu/B"
	m := clustermap.Map{Nodes: []clustermap.Node{
		{Name: "b", Ready: true, Groups: []clustermap.Group{linked, other}},
		{Name: "a", Ready: true, Groups: []clustermap.Group{group(clustermap.Freeing, clustermap.Reserved)}},
		{Name: "away", Groups: []clustermap.Group{linked}},
	}}
	c, err := simulate.OfMap(m, false)
	must.NoError(t, err)
	must.Eq(t, []string{"A", "A#2", "B"}, []string{c.Classes[0].Name, c.Classes[1].Name, c.Classes[2].Name})
	must.Eq(t, []simulate.Node{{Name: "a", Class: "A#2"}, {Name: "b/A", Class: "A"}, {Name: "b/B", Class: "B", Out: 1}}, c.Nodes)
	must.Eq(t, 4, c.GPUs())
	c, err = simulate.OfMap(m, true)
	must.NoError(t, err)
	must.Eq(t, 1, c.GPUs(), must.Sprint("what is held stays so"))
	must.NoError(t, c.Grow("2xA"))
	must.Eq(t, simulate.Node{Name: "A-2", Class: "A"}, c.Nodes[4])
	must.NoError(t, c.Drain("b"))
	must.Len(t, 3, c.Nodes)
	must.ErrorContains(t, c.Drain("b"), `there is no node "b" to drain`)

	twice := clustermap.Map{Nodes: []clustermap.Node{m.Nodes[1], m.Nodes[1]}}
	_, err = simulate.OfMap(twice, false)
	must.ErrorContains(t, err, `two nodes are called "a@"`)
	twice.Nodes[0].ID, twice.Nodes[1].ID = "12345678-a", "87654321-b"
	c, err = simulate.OfMap(twice, false)
	must.NoError(t, err)
	must.Eq(t, "a@12345678 a@87654321", c.Nodes[0].Name+" "+c.Nodes[1].Name)
	large := clustermap.Node{Name: "a", Ready: true, Groups: []clustermap.Group{
		{Device: "nvidia/gpu/A", GPUs: make([]clustermap.GPU, 17)}, {Device: "nvidia/gpu-share/A", GPUs: make([]clustermap.GPU, 4)}}}
	_, err = simulate.OfMap(clustermap.Map{Nodes: []clustermap.Node{large}}, false)
	must.EqError(t, err, "no node of the cluster has whole GPUs and takes new work; nvidia/gpu-share/A (no whole GPUs) on 1 of the nodes; nvidia/gpu/A (17 in one group, up to 16 are simulated) on 1 of the nodes")
	c, err = simulate.OfMap(clustermap.Map{Nodes: []clustermap.Node{large, m.Nodes[0]}}, false)
	must.NoError(t, err)
	must.Eq(t, []string{"nvidia/gpu-share/A (no whole GPUs) on 1 of the nodes", "nvidia/gpu/A (17 in one group, up to 16 are simulated) on 1 of the nodes"}, c.LeftOut)
	must.Len(t, 2, c.Nodes)
	linked.Topology = "1;3"
	wrong := clustermap.Map{Nodes: []clustermap.Node{{Name: "a", Ready: true, Groups: []clustermap.Group{linked}}}}
	_, err = simulate.OfMap(wrong, false)
	must.ErrorContains(t, err, "the topology of nvidia/gpu/A on node a does not fit its 2 GPUs")
	_, err = simulate.OfMap(clustermap.Map{Nodes: m.Nodes[2:]}, false)
	must.ErrorContains(t, err, "no node of the cluster has whole GPUs and takes new work")
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus", "5,10,1", "6,10,1")
	for want, o := range map[string]simulate.Options{
		`there is no policy "best": the policies are governor, best-set, best-fit, spread, nomad`: {Policy: "best"},
		"backfill is -1: it must be 1 to 10000 waiting jobs that are looked at":                   {Backfill: -1},
		"budget a has two limits":                        {Limits: []simulate.Limit{{Budget: "a"}, {Budget: "a"}}},
		"the limit =1 names no budget, or is negative":   {Limits: []simulate.Limit{{GPUs: 1}}},
		"the limit a=-1 names no budget, or is negative": {Limits: []simulate.Limit{{Budget: "a", GPUs: -1}}},
	} {
		_, err := simulate.Run(grown(t, "1xdgx-1v"), jobs, o)
		must.EqError(t, err, want)
	}
	_, err := simulate.Run(simulate.Cluster{}, jobs, simulate.Options{})
	must.EqError(t, err, "the cluster has no nodes")
	jobs[0], jobs[1] = jobs[1], jobs[0]
	_, err = simulate.Run(grown(t, "1xdgx-1v"), jobs, simulate.Options{})
	must.EqError(t, err, "the jobs are not in the order of their submission")
	var c simulate.Cluster
	for text, want := range map[string]string{
		"dgx-1v":        `"dgx-1v" is no number of nodes: write it like 4xdgx-h100`,
		"0xdgx-1v":      `"0xdgx-1v" is no number of nodes`,
		"1xnothing":     `there is no machine type "nothing": the types are dgx-1v, `,
		"100001xdgx-1v": "makes more than 100000 nodes",
	} {
		must.ErrorContains(t, c.Grow(text), want)
	}
}

func TestProgressEndsAtTheEnd(t *testing.T) {
	t.Parallel()
	last := 0
	ran(t, grown(t, "1xdgx-1v"), traced(t, "submit_time,duration,gpus", "0,1,8", "0,1,8", "9,1,8"), simulate.Options{Progress: func(done, total int) {
		must.GreaterEq(t, last, done)
		must.Eq(t, 6, total)
		last = done
	}})
	must.Eq(t, 6, last)
}

func TestPlot(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus", "0,7200,6", "600,3600,4", "1200,1800,2", "4000,9000,8", "9000,600,1")
	var results []simulate.Result
	for _, nodes := range []string{"1xdgx-1v", "1xdgx-1v,1xpcie-l40s-4"} {
		r := ran(t, grown(t, nodes), jobs, simulate.Options{})
		r.Name = "nodes=" + nodes + " & <a name that is too long for the legend>"
		results = append(results, r)
	}
	got := simulate.Plot(results)
	path := filepath.Join("testdata", "plot.svg")
	if *update {
		must.NoError(t, os.MkdirAll("testdata", 0o755))
		must.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), string(got))
	must.StrContains(t, string(simulate.Plot(nil)), "</svg>")
}

func TestAResultIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	jobs := traced(t, "submit_time,duration,gpus,budget", "0,100,3,a", "0,90,2,b", "5,50,4,a", "6,44,1,b", "7,31,8,a", "8,12,2,b")
	for _, policy := range simulate.Policies() {
		c := grown(t, "2xdgx-1v,1xpcie-a40-8")
		one, err := json.Marshal(ran(t, c, jobs, simulate.Options{Policy: policy}))
		must.NoError(t, err)
		c.Nodes[0], c.Nodes[2] = c.Nodes[2], c.Nodes[0]
		other, err := json.Marshal(ran(t, c, jobs, simulate.Options{Policy: policy}))
		must.NoError(t, err)
		must.Eq(t, string(one), string(other), must.Sprint("the order of nodes does not matter: ", policy))
	}
}
