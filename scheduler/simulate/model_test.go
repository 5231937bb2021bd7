package simulate

import (
	"fmt"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
)

// A machine type is what the fixture of the fake NVML is: the same links, and the same
// bandwidths as the plugin publishes of it.
func TestMachinesAreTheFixtures(t *testing.T) {
	t.Parallel()
	fixtures, err := setstest.Fixtures(filepath.Join("..", "..", "device", "fakenvml", "fixtures"))
	must.NoError(t, err)
	must.True(t, slices.IsSorted(Machines()))
	for _, m := range machines {
		must.NotNil(t, fixtures[m.fixture], must.Sprint(m.fixture))
		must.Eq(t, fixtures[m.fixture].Encode(), m.topology, must.Sprint(m.name))
		class, ok := machine(m.name)
		must.True(t, ok)
		must.Eq(t, m.topology, class.Topology.Encode())
	}
}

// modelled is a job of the model: times in milliseconds.
type modelled struct {
	job   Job
	start int64
	state int // 0 to come, 1 waits, 2 runs, 3 is over
}

// model is the slow and obvious reference, for nodes of one GPU each, on which GPUs are
// all alike: it looks at every millisecond.
func model(gpus int, jobs []Job, o Options) []int64 {
	all := make([]modelled, len(jobs))
	for i, j := range jobs {
		all[i] = modelled{job: j}
	}
	inUse := func(under string) int {
		n := 0
		for i := range all {
			if all[i].state == 2 && (under == "" || all[i].job.Budget == under || strings.HasPrefix(all[i].job.Budget, under+"/")) {
				n += all[i].job.GPUs
			}
		}
		return n
	}
	for now, over := int64(0), 0; over < len(all); now++ {
		for again := true; again; { // a job of no length makes room for others at once
			again = false
			for i := range all {
				j := &all[i]
				switch {
				case j.state == 0 && j.job.SubmitMS <= now:
					j.state = 1
				case j.state == 2 && j.start+j.job.DurationMS <= now:
					j.state = 3
					over++
				}
			}
			looked := 0
			for i := range all {
				j := &all[i]
				if j.state != 1 || looked == o.Backfill {
					continue
				}
				within := true
				for _, l := range o.Limits {
					if j.job.Budget == l.Budget || strings.HasPrefix(j.job.Budget, l.Budget+"/") {
						within = within && inUse(l.Budget)+j.job.GPUs <= l.GPUs
					}
				}
				if !within {
					continue
				}
				if inUse("")+j.job.GPUs > gpus {
					looked++
					continue
				}
				j.state, j.start = 2, now
				again = again || j.job.DurationMS == 0
			}
		}
	}
	var waits []int64
	for i := range all {
		waits = append(waits, all[i].start-all[i].job.SubmitMS)
	}
	return waits
}

func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gpus := rapid.IntRange(1, 6).Draw(t, "gpus")
		c := Cluster{Classes: []Class{{Name: "one", Device: "d", GPUs: 1}}}
		must.NoError(t, c.Grow(fmt.Sprintf("%dxone", gpus)))
		o := Options{Policy: rapid.SampledFrom(Policies()).Draw(t, "policy"), Backfill: rapid.IntRange(1, 4).Draw(t, "backfill")}
		for _, budget := range []string{"a", "a/b", "c"} {
			if n := rapid.IntRange(0, 9).Draw(t, budget); n < 6 {
				o.Limits = append(o.Limits, Limit{budget, max(n, 2)})
			}
		}
		var jobs []Job
		at := int64(0)
		for i := range rapid.IntRange(1, 25).Draw(t, "jobs") {
			at += int64(rapid.IntRange(0, 3).Draw(t, "later"))
			jobs = append(jobs, Job{Line: i, SubmitMS: at, DurationMS: int64(rapid.IntRange(0, 12).Draw(t, "ms")), GPUs: rapid.IntRange(1, min(2, gpus)).Draw(t, "needs"),
				Budget: rapid.SampledFrom([]string{"", "a", "a/b", "a/b/d", "ab", "c"}).Draw(t, "budget")})
		}
		r, err := Run(c, jobs, o)
		must.NoError(t, err)
		want := model(gpus, jobs, o)
		must.Eq(t, len(jobs), r.Jobs)
		must.Eq(t, waitsOf(want), r.Wait)
		busy, byBudget, waits := quantity.Amount(0), quantity.Amount(0), int64(0)
		for i, j := range jobs {
			busy, waits = busy.Add(gpuTime(j.GPUs, j.DurationMS)), waits+want[i]
		}
		for _, b := range r.Budgets {
			byBudget = byBudget.Add(b.BusyMS)
		}
		must.Eq(t, busy, r.BusyMS, must.Sprint("what is used over time is what the jobs had"))
		must.Eq(t, busy, byBudget)
	})
}

// The policy "governor" is what the product does: it takes the node and the GPUs that
// placement prefers.
func TestGovernorPlacesAsPlacementDoes(t *testing.T) {
	t.Parallel()
	placer := place.New()
	rapid.Check(t, func(t *rapid.T) {
		var c Cluster
		must.NoError(t, c.Grow(rapid.SampledFrom([]string{"3xdgx-1v", "2xdgx-1v,2xpcie-a40-8", "1xh100-nvl,2xhgx-h100-4,1xdgx-a100", "2xgb200-tray,1xpcie-l40s-4"}).Draw(t, "cluster")))
		for i := range c.Nodes {
			c.Nodes[i].Out = uint64(rapid.IntRange(0, 1<<c.class(c.Nodes[i].Class).GPUs-1).Draw(t, "out"))
		}
		slices.SortFunc(c.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		k := rapid.IntRange(1, 8).Draw(t, "gpus")
		r, err := newRun(&c, Options{Policy: Governor})
		must.NoError(t, err)
		accepts := make([]bool, len(c.Classes))
		for i := range accepts {
			accepts[i] = true
		}
		g, ok := r.placer.place(&need{gpus: k, accepts: accepts})
		offer, _ := placer.Place(snapshotOf(&c), cluster.Ask{JobID: "j", Type: "batch", Datacenters: []string{"*"}, Groups: []cluster.GroupAsk{{
			Name: "g", Count: 1, Devices: []cluster.DeviceAsk{{Task: "t", Name: "gpu", Count: k}}}}})
		if offer.Infeasible != nil || len(offer.Groups[0].Nodes) == 0 {
			must.False(t, ok)
			return
		}
		must.True(t, ok)
		first := offer.Groups[0].Nodes[0]
		must.Eq(t, first.NodeName, c.Nodes[g.node].Name)
		var ids []string
		for i := range 16 {
			if g.set>>i&1 == 1 {
				ids = append(ids, fmt.Sprintf("%s-gpu-%d", first.NodeName, i))
			}
		}
		must.Eq(t, first.Sets[0].IDs, ids)
	})
}

func snapshotOf(c *Cluster) cluster.Snapshot {
	var s cluster.Snapshot
	for i := range c.Nodes {
		n := &c.Nodes[i]
		class := c.class(n.Class)
		g := cluster.Group{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Model: shortDevice(class.Device), Topology: class.Topology, TopologyText: class.Topology.Encode()}
		for at := range class.GPUs {
			d := cluster.Device{ID: fmt.Sprintf("%s-gpu-%d", n.Name, at), Healthy: true}
			if n.Out>>at&1 == 1 {
				d.Use = cluster.Use{AllocID: "other"}
			}
			g.Devices = append(g.Devices, d)
		}
		s.Nodes = append(s.Nodes, cluster.Node{ID: n.Name, Name: n.Name, Datacenter: "dc1", Ready: true, Groups: []cluster.Group{g}})
	}
	return s
}

func poolOf(t must.T, c *Cluster, policy string) *pool {
	tables := make([]*sets.Table, len(c.Classes))
	for i := range c.Classes {
		m := c.Classes[i].Topology
		if m == nil {
			m = topology.New(c.Classes[i].GPUs, 0, 0)
		}
		tables[i] = sets.New(m)
	}
	p, err := newPool(c, tables, policy)
	must.NoError(t, err)
	return p
}

// No GPU is given twice, and what was given comes back.
func TestPoolsGiveWhatIsFree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c Cluster
		must.NoError(t, c.Grow("2xdgx-1v,1xpcie-l40s-4"))
		for i := range c.Classes {
			c.Classes[i].CPU, c.Classes[i].MemoryMiB = 100, 100
		}
		slices.SortFunc(c.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		policy := rapid.SampledFrom(Policies()).Draw(t, "policy")
		var p placer
		if policy == Governor {
			r, err := newRun(&c, Options{Policy: Governor})
			must.NoError(t, err)
			p = r.placer
		} else {
			p = poolOf(t, &c, policy)
		}
		free, cpu, mem := make([]uint64, len(c.Nodes)), make([]int, len(c.Nodes)), make([]int, len(c.Nodes))
		for i := range c.Nodes {
			free[i], cpu[i], mem[i] = c.usable(&c.Nodes[i]), 100, 100
		}
		var has []grant
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(has) > 0 && rapid.IntRange(0, 2).Draw(t, "ends") == 0 {
				at := rapid.IntRange(0, len(has)-1).Draw(t, "which")
				g := has[at]
				p.free(g)
				free[g.node], cpu[g.node], mem[g.node] = free[g.node]|g.set, cpu[g.node]+g.cpu, mem[g.node]+g.mem
				has = slices.Delete(has, at, at+1)
				continue
			}
			n := need{gpus: rapid.IntRange(1, 8).Draw(t, "gpus"), cpu: rapid.IntRange(0, 60).Draw(t, "cpu"), memoryMiB: rapid.IntRange(0, 60).Draw(t, "mem"),
				accepts: []bool{true, rapid.Bool().Draw(t, "pcie")}}
			possible := false
			for i := range c.Nodes {
				class := slices.IndexFunc(c.Classes, func(class Class) bool { return class.Name == c.Nodes[i].Class })
				possible = possible || n.accepts[class] && bits.OnesCount64(free[i]) >= n.gpus && cpu[i] >= n.cpu && mem[i] >= n.memoryMiB
			}
			g, ok := p.place(&n)
			must.Eq(t, possible, ok)
			if !ok {
				continue
			}
			must.Eq(t, n.gpus, bits.OnesCount64(g.set))
			must.Eq(t, 0, g.set&^free[g.node], must.Sprint("given twice"))
			free[g.node], cpu[g.node], mem[g.node] = free[g.node]&^g.set, cpu[g.node]-g.cpu, mem[g.node]-g.mem
			must.True(t, cpu[g.node] >= 0 && mem[g.node] >= 0)
			has = append(has, g)
		}
	})
}
