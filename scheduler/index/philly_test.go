package index

import (
	"cmp"
	"container/heap"
	"encoding/csv"
	"fmt"
	"math/bits"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/sets"
	"github.com/nomad-governor/governor/scheduler/sets/setstest"
	"github.com/shoenig/test/must"
)

// job is one of the trace, in seconds.
type job struct {
	arrives, runs float64
	gpus          int
}

// philly reads jobs from..to of the trace in the order of their arrival.
func philly(t *testing.T, from, to int) []job {
	t.Helper()
	folder := os.Getenv("GOVERNOR_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	file, err := os.Open(filepath.Join(folder, "philly", "sia_philly.csv"))
	if err != nil {
		t.Skipf("the Philly trace is not here (GOVERNOR_DATA names the folder of the data): %v", err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	must.NoError(t, err)
	var jobs []job
	for _, row := range rows[1:] {
		at, err := time.Parse(time.DateTime, row[0])
		must.NoError(t, err)
		runs, err := strconv.ParseFloat(row[1], 64)
		must.NoError(t, err)
		gpus, err := strconv.Atoi(row[2])
		must.NoError(t, err)
		jobs = append(jobs, job{float64(at.Unix()), runs, gpus})
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.arrives, b.arrives) })
	return jobs[from:to]
}

// placer is a policy with the nodes that it places on.
type placer interface {
	// place takes GPUs of one node.
	place(k int) (node int, set uint64, ok bool)
	free(node int, set uint64)
	// idle takes n nodes whose GPUs are all free.
	idle(n int) (nodes []int, ok bool)
}

// ending is a running job.
type ending struct {
	at    float64
	nodes []int
	set   uint64
}

type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].at < e[j].at }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// measured is what a policy did to the jobs of a trace.
type measured struct {
	ring, atIdeal, wait float64
}

// replay starts jobs in the order of arrival; of the first 50 that wait, those
// that fit may overtake.
func replay(jobs []job, p placer, rate, ideal []int) measured {
	const backfill = 50
	var m measured
	var running endings
	var waiting []job
	weight, several := 0.0, 0
	start := func(j job, now float64) bool {
		e := ending{at: now + j.runs}
		if j.gpus > 8 {
			nodes, ok := p.idle((j.gpus + 7) / 8)
			if !ok {
				return false
			}
			e.nodes, e.set = nodes, 0xff
		} else {
			node, set, ok := p.place(j.gpus)
			if !ok {
				return false
			}
			e.nodes, e.set = []int{node}, set
		}
		heap.Push(&running, e)
		m.wait += now - j.arrives
		if j.gpus > 1 && j.gpus <= 8 {
			good := float64(rate[e.set]) / float64(ideal[j.gpus])
			m.ring += good * float64(j.gpus) * j.runs
			weight += float64(j.gpus) * j.runs
			several++
			if good == 1 {
				m.atIdeal++
			}
		}
		return true
	}
	next := 0
	for next < len(jobs) || len(running) > 0 {
		var now float64
		if next < len(jobs) && (len(running) == 0 || jobs[next].arrives <= running[0].at) {
			now = jobs[next].arrives
			waiting = append(waiting, jobs[next])
			next++
		} else {
			e := heap.Pop(&running).(ending)
			now = e.at
			for _, n := range e.nodes {
				p.free(n, e.set)
			}
		}
		tooLarge := 1 << 30 // what did not fit just now, and all that is larger
		for i := 0; i < min(backfill, len(waiting)); {
			switch {
			case waiting[i].gpus >= tooLarge:
				i++
			case start(waiting[i], now):
				waiting = slices.Delete(waiting, i, i+1)
			default:
				tooLarge = waiting[i].gpus
				i++
			}
		}
	}
	return measured{m.ring / weight, m.atIdeal / float64(several), m.wait / float64(len(jobs))}
}

// plain is a policy that looks at all nodes.
type plain struct {
	nodes []uint64 // free GPUs
	node  func(nodes []uint64, k int) int
	set   setstest.Chooser
}

func newPlain(n int, node func([]uint64, int) int, set setstest.Chooser) *plain {
	p := &plain{nodes: make([]uint64, n), node: node, set: set}
	for i := range p.nodes {
		p.nodes[i] = 0xff
	}
	return p
}

func (p *plain) place(k int) (int, uint64, bool) {
	at := p.node(p.nodes, k)
	if at < 0 {
		return 0, 0, false
	}
	set := p.set(p.nodes[at], k)
	p.nodes[at] &^= set
	return at, set, true
}

func (p *plain) free(node int, set uint64) { p.nodes[node] |= set }

func (p *plain) idle(n int) ([]int, bool) {
	var nodes []int
	for i, free := range p.nodes {
		if free == 0xff && len(nodes) < n {
			nodes = append(nodes, i)
		}
	}
	if len(nodes) < n {
		return nil, false
	}
	for _, i := range nodes {
		p.nodes[i] = 0
	}
	return nodes, true
}

// least is the node with the least cost of those that fit.
func least(cost func(free uint64, k int) int) func([]uint64, int) int {
	return func(nodes []uint64, k int) int {
		best, bestCost := -1, 0
		for i, free := range nodes {
			if bits.OnesCount64(free) < k {
				continue
			}
			if c := cost(free, k); best < 0 || c < bestCost {
				best, bestCost = i, c
			}
		}
		return best
	}
}

// nomad looks at two random nodes that fit and takes the fuller one.
func nomad(seed int64) func([]uint64, int) int {
	random := rand.New(rand.NewSource(seed))
	return func(nodes []uint64, k int) int {
		var fitting []int
		for i, free := range nodes {
			if bits.OnesCount64(free) >= k {
				fitting = append(fitting, i)
			}
		}
		if len(fitting) == 0 {
			return -1
		}
		one, other := fitting[random.Intn(len(fitting))], fitting[random.Intn(len(fitting))]
		if bits.OnesCount64(nodes[other]) < bits.OnesCount64(nodes[one]) {
			return other
		}
		return one
	}
}

// indexed is the product.
type indexed struct {
	x    *Index
	name map[string]int
}

func newIndexed(t *testing.T, n int, j *sets.Joint) *indexed {
	t.Helper()
	p := &indexed{x: New(), name: map[string]int{}}
	must.NoError(t, p.x.AddClass(Class{ID: "dgx1v", Joint: j}))
	for i := range n {
		id := fmt.Sprintf("node-%d", i)
		p.name[id] = i
		must.NoError(t, p.x.Add(Node{ID: id, Class: "dgx1v", Free: 0xff}))
	}
	return p
}

func (p *indexed) place(k int) (int, uint64, bool) {
	o, ok := p.x.Place(Ask{GPUs: k})
	return p.name[o.Node], o.Set, ok
}

func (p *indexed) free(node int, set uint64) {
	if err := p.x.Free(Offer{Node: fmt.Sprintf("node-%d", node), Set: set}); err != nil {
		panic(err)
	}
}

func (p *indexed) idle(n int) ([]int, bool) {
	offers, ok := p.x.Gang(Ask{GPUs: 8}, n)
	var nodes []int
	for _, o := range offers {
		nodes = append(nodes, p.name[o.Node])
	}
	return nodes, ok
}

// contender is a policy by name.
type contender struct {
	name string
	on   func(nodes int) placer
}

func contenders(t *testing.T, m *topology.Matrix, rate []int) []contender {
	nvidia := setstest.Remember(setstest.NewNVIDIA(m).Choose)
	ring := setstest.Greedy(func(s uint64) int { return rate[s] })
	fullest := least(func(free uint64, k int) int { return bits.OnesCount64(free) })
	emptiest := least(func(free uint64, k int) int { return -bits.OnesCount64(free) })
	greedy := least(func(free uint64, k int) int { return -100*rate[ring(free, k)] + bits.OnesCount64(free) })
	table := sets.New(m)
	joint, preserving := sets.NewJoint(table, sets.Packed()), sets.NewJoint(table, sets.Preserving())
	return []contender{
		{"Nomad batch: 2 random nodes, random GPUs", func(n int) placer { return newPlain(n, nomad(1), setstest.Random(2)) }},
		{"least allocated + NVIDIA best effort", func(n int) placer { return newPlain(n, emptiest, nvidia) }},
		{bestFit, func(n int) placer { return newPlain(n, fullest, nvidia) }},
		{"cluster greedy ring, then best fit", func(n int) placer { return newPlain(n, greedy, ring) }},
		{packed, func(n int) placer { return newIndexed(t, n, joint) }},
		{"index, sets.Preserving", func(n int) placer { return newIndexed(t, n, preserving) }},
	}
}

const (
	bestFit = "best-fit node + NVIDIA best effort"
	packed  = "index, sets.Packed"
)

// streams are the trace as it is and others with one job in 500 left out.
// Which jobs meet is chance: one stream more or less is three points at the best
// rate and four percent of waiting, so policies are compared by the mean.
func streams(jobs []job, count int) [][]job {
	all := [][]job{jobs}
	for seed := 1; seed < count; seed++ {
		random := rand.New(rand.NewSource(int64(seed)))
		all = append(all, slices.DeleteFunc(slices.Clone(jobs), func(job) bool { return random.Intn(500) == 0 }))
	}
	return all
}

// TestPhilly replays a real arrival process.
func TestPhilly(t *testing.T) {
	t.Parallel()
	count := 6
	if os.Getenv("GOVERNOR_CHURN") == "full" {
		count = 40
	}
	all := streams(philly(t, 20_000, 50_000), count)
	m := setstest.DGX1V()
	rate, ideal := setstest.Rates(m)
	for _, nodes := range []int{60, 68} {
		t.Logf("%d nodes, the trace as it is | mean of %d streams: ring rate / at the best / mean wait in s", nodes, count)
		once, means := map[string]measured{}, map[string]measured{}
		for _, c := range contenders(t, m, rate) {
			var sum, as measured
			for i, jobs := range all {
				o := replay(jobs, c.on(nodes), rate, ideal)
				if i == 0 {
					as = o
				}
				sum.ring, sum.atIdeal, sum.wait = sum.ring+o.ring, sum.atIdeal+o.atIdeal, sum.wait+o.wait
			}
			k := float64(len(all))
			mean := measured{sum.ring / k, sum.atIdeal / k, sum.wait / k}
			t.Logf("%-42s .%03.0f / %4.1f %% / %6.0f | .%03.0f / %4.1f %% / %6.0f",
				c.name, 1000*as.ring, 100*as.atIdeal, as.wait, 1000*mean.ring, 100*mean.atIdeal, mean.wait)
			once[c.name], means[c.name] = as, mean
		}
		must.GreaterEq(t, map[int]float64{60: 0.71, 68: 0.77}[nodes], once[packed].atIdeal)
		must.LessEq(t, 1.02*once[bestFit].wait, once[packed].wait)
		must.GreaterEq(t, means[bestFit].atIdeal+0.08, means[packed].atIdeal)
		must.LessEq(t, 1.02*means[bestFit].wait, means[packed].wait)
	}
}
