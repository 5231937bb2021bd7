package simulate

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// BackfillDefault is how many waiting jobs are looked at.
const BackfillDefault = 50

// backfillMax bounds it.
const backfillMax = 10_000

// Limit bounds the GPUs that the jobs of a budget, and of those below it, have at once.
type Limit struct {
	Budget string
	GPUs   int
}

// Options say how jobs are placed.
type Options struct {
	// Policy is one of Policies; "" means Governor.
	Policy string
	// Backfill is how many of the waiting jobs are looked at, from the first on: 1 lets
	// nobody overtake, 0 means BackfillDefault.
	Backfill int
	// Limits by budget, each once.
	Limits []Limit
	// Progress is told now and then how many jobs have arrived and left; nil for nobody.
	Progress func(done, total int)
}

func (o *Options) fill() error {
	o.Policy, o.Backfill = cmp.Or(o.Policy, Governor), cmp.Or(o.Backfill, BackfillDefault)
	if !slices.Contains(Policies(), o.Policy) {
		_, err := ruleOf(o.Policy)
		return err
	}
	if o.Backfill < 1 || o.Backfill > backfillMax {
		return fmt.Errorf("backfill is %d: it must be 1 to %d waiting jobs that are looked at", o.Backfill, backfillMax)
	}
	seen := map[string]bool{}
	for _, l := range o.Limits {
		switch {
		case l.Budget == "" || l.GPUs < 0:
			return fmt.Errorf("the limit %s=%d names no budget, or is negative", l.Budget, l.GPUs)
		case seen[l.Budget]:
			return fmt.Errorf("budget %s has two limits", l.Budget)
		}
		seen[l.Budget] = true
	}
	return nil
}

// work is a job as it is placed.
type work struct {
	Job
	count int // allocations
	need  need
	// limits that it falls under, as indexes.
	limits []int
	shape  int // equal for equal needs
}

func (w *work) gpus() int { return w.count * w.need.gpus }

// run is one simulation.
type run struct {
	placer  placer
	classes []*sets.Joint // nil where the topology is not known
	of      []int         // the class of each node
	options Options

	jobs    []work
	queue   []int // waiting jobs, ascending
	running endings
	serial  int
	// failed are shapes that did not fit since GPUs became free last.
	failed []*work
	used   []int // GPUs by limit
	capped []int // jobs that wait for a limit, ascending
	m      measures
}

// ending is a running job.
type ending struct {
	at     int64
	serial int
	job    int
	grants []grant
}

type endings []ending

// Len implements heap.Interface.
func (e endings) Len() int { return len(e) }

// Less implements heap.Interface.
func (e endings) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}

// Swap implements heap.Interface.
func (e endings) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push implements heap.Interface.
func (e *endings) Push(x any) { *e = append(*e, x.(ending)) }

// Pop implements heap.Interface.
func (e *endings) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// Run replays jobs, which must be in the order of their submission, on a cluster.
func Run(c Cluster, jobs []Job, o Options) (Result, error) {
	if err := o.fill(); err != nil {
		return Result{}, err
	}
	c = c.Clone()
	slices.SortFunc(c.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	r, err := newRun(&c, o)
	if err != nil {
		return Result{}, err
	}
	never, err := r.prepare(&c, jobs)
	if err != nil {
		return Result{}, err
	}
	r.m.begin(len(r.jobs), c.GPUs())
	for next, left := 0, 0; next < len(r.jobs) || len(r.running) > 0; {
		now := r.next(next)
		for len(r.running) > 0 && r.running[0].at == now {
			r.end(heap.Pop(&r.running).(ending))
			left++
		}
		for ; next < len(r.jobs) && r.jobs[next].SubmitMS == now; next++ {
			r.queue = append(r.queue, next)
		}
		r.pass(now)
		r.m.sample(now, len(r.queue)+len(r.capped), len(r.queue) > 0)
		if o.Progress != nil {
			o.Progress(next+left, 2*len(r.jobs))
		}
	}
	out := r.m.result()
	out.Policy, out.Nodes, out.GPUs, out.NeverFit = r.options.Policy, len(c.Nodes), c.GPUs(), never
	return out, nil
}

func newRun(c *Cluster, o Options) (*run, error) {
	if len(c.Nodes) == 0 {
		return nil, errors.New("the cluster has no nodes")
	}
	r := &run{options: o, used: make([]int, len(o.Limits))}
	tables, joints := make([]*sets.Table, len(c.Classes)), make([]*sets.Joint, len(c.Classes))
	r.classes = make([]*sets.Joint, len(c.Classes))
	for i := range c.Classes {
		class := &c.Classes[i]
		m := class.Topology
		if m == nil {
			m = topology.New(class.GPUs, 0, 0)
		}
		tables[i] = sets.New(m)
		joints[i] = sets.NewJoint(tables[i], sets.Packed())
		if class.Topology != nil {
			r.classes[i] = joints[i]
		}
	}
	for i := range c.Nodes {
		r.of = append(r.of, slices.IndexFunc(c.Classes, func(class Class) bool { return class.Name == c.Nodes[i].Class }))
	}
	var err error
	if o.Policy == Governor {
		r.placer, err = newIndexed(c, joints)
	} else {
		r.placer, err = newPool(c, tables, o.Policy)
	}
	return r, err
}

// next is when something happens next.
func (r *run) next(arriving int) int64 {
	if arriving < len(r.jobs) && (len(r.running) == 0 || r.jobs[arriving].SubmitMS <= r.running[0].at) {
		return r.jobs[arriving].SubmitMS
	}
	return r.running[0].at
}

// end gives back what a job had, and lets those go on that waited for its limits.
func (r *run) end(e ending) {
	w := &r.jobs[e.job]
	for _, g := range e.grants {
		r.placer.free(g)
	}
	r.failed = r.failed[:0]
	r.m.busy -= w.gpus()
	for _, l := range w.limits {
		r.used[l] -= w.gpus()
	}
	if len(w.limits) == 0 {
		return
	}
	r.capped = slices.DeleteFunc(r.capped, func(job int) bool {
		over := r.over(&r.jobs[job])
		if !over {
			r.queue = inserted(r.queue, job)
		}
		return !over
	})
}

func inserted(list []int, job int) []int {
	at, _ := slices.BinarySearch(list, job)
	return slices.Insert(list, at, job)
}

// pass starts what fits of the first waiting jobs.
func (r *run) pass(now int64) {
	for i := 0; i < min(r.options.Backfill, len(r.queue)); {
		job := r.queue[i]
		w := &r.jobs[job]
		if r.over(w) {
			r.queue = slices.Delete(r.queue, i, i+1)
			r.capped = inserted(r.capped, job)
			continue
		}
		if r.hopeless(w) || !r.start(job, now) {
			i++
			continue
		}
		r.queue = slices.Delete(r.queue, i, i+1)
	}
}

// over reports whether the job would exceed a limit.
func (r *run) over(w *work) bool {
	return slices.ContainsFunc(w.limits, func(l int) bool { return r.used[l]+w.gpus() > r.options.Limits[l].GPUs })
}

// hopeless reports whether something that asks for no more did not fit just now.
func (r *run) hopeless(w *work) bool {
	return slices.ContainsFunc(r.failed, func(f *work) bool {
		return f.shape == w.shape || f.Class == w.Class && f.count <= w.count && f.need.gpus <= w.need.gpus && f.CPU <= w.CPU && f.MemoryMiB <= w.MemoryMiB
	})
}

// start gives all allocations of a job their GPUs, or none.
func (r *run) start(job int, now int64) bool {
	w := &r.jobs[job]
	grants := make([]grant, 0, w.count)
	for range w.count {
		g, ok := r.placer.place(&w.need)
		if !ok {
			for _, g := range slices.Backward(grants) {
				r.placer.free(g)
			}
			r.failed = append(r.failed, w)
			return false
		}
		grants = append(grants, g)
	}
	for _, l := range w.limits {
		r.used[l] += w.gpus()
	}
	r.serial++
	heap.Push(&r.running, ending{at: now + w.DurationMS, serial: r.serial, job: job, grants: grants})
	r.m.started(w, now, r.quality(w, grants))
	return true
}

// quality is the rate of the worst ring of a job's allocations, against the best of
// their size, in sets.Unit; -1 where an allocation has one GPU, or links that are not
// known.
func (r *run) quality(w *work, grants []grant) int {
	worst := sets.Unit
	for _, g := range grants {
		joint := r.classes[r.of[g.node]]
		if joint == nil || w.need.gpus < 2 {
			return -1
		}
		worst = min(worst, joint.Rate(g.set))
	}
	return worst
}

// prepare makes work of jobs. Those that an idle cluster could not run are counted and
// left out.
func (r *run) prepare(c *Cluster, jobs []Job) (never NeverFit, err error) {
	type key struct {
		gpus, count, cpu, mem int
		class, budget         string
	}
	known := map[key]*work{}
	for i := range jobs {
		j := &jobs[i]
		if i > 0 && j.SubmitMS < jobs[i-1].SubmitMS {
			return never, errors.New("the jobs are not in the order of their submission")
		}
		if j.GPUs < 1 || j.DurationMS < 0 || j.Count < 0 || j.Count > 0 && j.GPUs%j.Count != 0 {
			return never, fmt.Errorf("the job of line %d asks for %d GPUs in %d allocations for %d ms", j.Line, j.GPUs, j.Count, j.DurationMS)
		}
		k := key{j.GPUs, j.Count, j.CPU, j.MemoryMiB, j.Class, j.Budget}
		w, seen := known[k]
		if !seen {
			w = r.workOf(c, j)
			if w != nil {
				w.shape = len(known)
			}
			known[k] = w
		}
		if w == nil {
			never.add(j)
			continue
		}
		placed := *w
		placed.Job = *j
		r.jobs = append(r.jobs, placed)
	}
	return never, nil
}

// workOf is what a job asks of the cluster; nil when it could never run. A job that does
// not say how many allocations it has is one if it fits on a node, else whole nodes.
func (r *run) workOf(c *Cluster, j *Job) *work {
	w := &work{Job: *j, count: j.Count, need: need{cpu: j.CPU, memoryMiB: j.MemoryMiB, accepts: make([]bool, len(c.Classes))}}
	for i := range c.Classes {
		class := &c.Classes[i]
		w.need.accepts[i] = j.Class == "" || strings.EqualFold(j.Class, class.Name) || strings.EqualFold(j.Class, class.Device) || strings.EqualFold(j.Class, shortDevice(class.Device))
	}
	largest := 0
	for i := range c.Nodes {
		if w.need.accepts[r.of[i]] {
			largest = max(largest, bits.OnesCount64(c.usable(&c.Nodes[i])))
		}
	}
	if largest == 0 {
		return nil
	}
	switch {
	case w.count > 0:
		w.need.gpus = j.GPUs / j.Count
	case j.GPUs <= largest:
		w.count, w.need.gpus = 1, j.GPUs
	default:
		w.count, w.need.gpus = (j.GPUs+largest-1)/largest, largest
	}
	for i, l := range r.options.Limits {
		if j.Budget == l.Budget || strings.HasPrefix(j.Budget, l.Budget+"/") {
			if w.gpus() > l.GPUs {
				return nil
			}
			w.limits = append(w.limits, i)
		}
	}
	if r.room(c, &w.need, w.count) < w.count {
		return nil
	}
	return w
}

// room is how many allocations fit on an idle cluster, up to enough of them.
func (r *run) room(c *Cluster, n *need, enough int) int {
	total := 0
	for i := range c.Nodes {
		class := &c.Classes[r.of[i]]
		if !n.accepts[r.of[i]] {
			continue
		}
		fits := bits.OnesCount64(c.usable(&c.Nodes[i])) / n.gpus
		if n.cpu > 0 {
			fits = min(fits, orUnlimited(class.CPU)/n.cpu)
		}
		if n.memoryMiB > 0 {
			fits = min(fits, orUnlimited(class.MemoryMiB)/n.memoryMiB)
		}
		if total += fits; total >= enough {
			break
		}
	}
	return total
}
