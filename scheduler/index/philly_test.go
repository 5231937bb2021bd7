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
	if os.Getenv("XSORT") == "" {
		slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.arrives, b.arrives) })
		jobs = jobs[from:to]
	} else {
		jobs = jobs[from:to]
		slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.arrives, b.arrives) })
	}
	return jobs
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
			XK[j.gpus][0]++
			if good == 1 {
				XK[j.gpus][1]++
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
		for i := 0; i < min(backfill, len(waiting)); {
			if start(waiting[i], now) {
				waiting = slices.Delete(waiting, i, i+1)
			} else {
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
		best, seen := -1, 0
		for _, i := range random.Perm(len(nodes)) {
			if bits.OnesCount64(nodes[i]) < k {
				continue
			}
			if best < 0 || bits.OnesCount64(nodes[i]) < bits.OnesCount64(nodes[best]) {
				best = i
			}
			if seen++; seen == 2 {
				break
			}
		}
		return best
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

func TestPhilly(t *testing.T) {
	jobs := philly(t, 20_000, 50_000)
	m := setstest.DGX1V()
	rate, ideal := setstest.Rates(m)
	nv := setstest.Remember(setstest.NewNVIDIA(m).Choose)
	ring := setstest.Greedy(func(s uint64) int { return rate[s] })
	fullest := least(func(free uint64, k int) int { return bits.OnesCount64(free) })
	emptiest := least(func(free uint64, k int) int { return -bits.OnesCount64(free) })
	greedy := least(func(free uint64, k int) int { return -rate[ring(free, k)]*100 + bits.OnesCount64(free) })
	for _, n := range []int{60, 68} {
		row := func(name string, p placer) {
			start := time.Now()
			o := replay(jobs, p, rate, ideal)
			t.Logf("%-40s N=%d ring %.3f ideal %.3f wait %.0f (%v)", name, n, o.ring, o.atIdeal, o.wait, time.Since(start))
		}
		row("nomad", newPlain(n, nomad(1), setstest.Random(2)))
		row("least allocated + nvidia", newPlain(n, emptiest, nv))
		row("best fit + nvidia", newPlain(n, fullest, nv))
		row("greedy ring then best fit", newPlain(n, greedy, ring))
		for _, w := range []sets.Weights{sets.Packed(), sets.Preserving(), {Rate: 1000, Packing: 500, Preserve: 25}, {Rate: 1000, Packing: 1000, Preserve: 25}, {Rate: 1000, Packing: 500, Preserve: 50}, {Rate: 1000, Packing: 1000, Preserve: 300}} {
			row(fmt.Sprint(w), newIndexed(t, n, sets.NewJoint(sets.New(m), w)))
		}
	}
}
