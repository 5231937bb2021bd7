package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

const (
	// lineEvery is how often what is not used is written into the history.
	lineEvery = 5 * time.Minute
	// lineGap is how long a pause between two snapshots is at most that counts: in a
	// longer one nobody looked.
	lineGap = 2 * time.Minute
)

// lines are the GPUs that cost something and do nothing for a budget: those that
// an allocation has and does not use, those that nobody has, and those that are
// used around Governor. They are kept for reports, and change no balance.
type lines struct {
	meter  *Meter
	gauges *gauges

	// What follows belongs to the meter's goroutine.
	last time.Time
	sums map[string]*ledger.Entry

	mu  sync.Mutex
	now []capacity // as of the last snapshot
}

func newLines(m *Meter, g *gauges) *lines {
	return &lines{meter: m, gauges: g, sums: make(map[string]*ledger.Entry)}
}

// look is the duty after a snapshot: what was so at the last one is taken to have
// been so since.
func (l *lines) look(ctx context.Context, _ ledger.Fence, allocations []nomadevents.Allocation) error {
	p, until := l.meter.policy.State().Policy, l.meter.proven
	from := l.last
	l.last = until
	free := l.gauges.capacities(p, allocations)
	l.mu.Lock()
	l.now = free
	l.mu.Unlock()
	if from.IsZero() || !until.After(from) || until.Sub(from) > lineGap {
		return l.write(ctx, until)
	}
	if err := l.unallocated(ctx, p, free, from, until); err != nil {
		return err
	}
	l.idle(p, from, until)
	l.ungoverned(p, from, until)
	return l.write(ctx, until)
}

// add adds [from, until) of n devices to the line that e names.
func (l *lines) add(p *budget.Policy, e ledger.Entry, n int64, from, until time.Time) {
	if n <= 0 || !until.After(from) {
		return
	}
	name := strings.Join([]string{e.Kind, e.Budget, e.Alloc, e.Node, e.Class, e.Cause}, "/")
	sum := l.sums[name]
	if sum == nil {
		e.Key, e.FromMS = fmt.Sprintf("%s/%d", name, from.UnixMilli()), from.UnixMilli()
		sum = &e
		l.sums[name] = sum
	}
	ms := quantity.Amount(until.UnixMilli() - from.UnixMilli()).Mul(n)
	rate, card := metering.PriceAt(p, e.Class, from)
	sum.GPUTime, sum.Cost = sum.GPUTime.Add(ms), sum.Cost.Add(quantity.Cost(ms, rate))
	sum.ToMS, sum.RateCard, sum.Estimated = until.UnixMilli(), card, true
}

// write records the lines that are long enough.
func (l *lines) write(ctx context.Context, until time.Time) error {
	var entries []ledger.Entry
	for name, e := range l.sums {
		if until.UnixMilli()-e.FromMS >= lineEvery.Milliseconds() || e.ToMS < until.UnixMilli() {
			entries = append(entries, *e)
			delete(l.sums, name)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	slices.SortFunc(entries, func(a, b ledger.Entry) int { return strings.Compare(a.Key, b.Key) })
	l.meter.books.counted(entries)
	return l.meter.books.recorder.Record(ctx, entries)
}

// unallocated is the capacity that nobody has, by node pool and class. By the
// policy it is a line of its own, that of the budgets which are guaranteed it, or
// none.
func (l *lines) unallocated(ctx context.Context, p *budget.Policy, free []capacity, from, until time.Time) error {
	if p.Meter.Idle == budget.IdleNone {
		return nil
	}
	var owners map[string][]owner
	if p.Meter.Idle == budget.IdleOwner {
		balances, _, err := l.meter.books.allBalances(ctx)
		if err != nil {
			return err
		}
		owners = ownersOf(p, balances)
	}
	for _, c := range free {
		left := int64(c.free)
		e := ledger.Entry{Kind: ledger.UnallocatedEntry, Class: c.class, Cause: "node pool " + c.pool}
		for i := range owners[c.class] {
			o := &owners[c.class][i]
			n := min(left, o.unused)
			owned := e
			owned.Budget = o.path
			l.add(p, owned, n, from, until)
			left, o.unused = left-n, o.unused-n
		}
		l.add(p, e, left, from, until)
	}
	return nil
}

// owner is a budget with a guarantee of GPUs, and how many of them it does not use.
type owner struct {
	path   string
	unused int64
}

// ownersOf are the budgets with a number of GPUs of a class of their own, by class
// and in the order of their paths. Of budgets below one another the lowest counts.
func ownersOf(p *budget.Policy, balances map[string]ledger.Balance) map[string][]owner {
	all := make(map[string][]owner)
	p.Walk(func(b *budget.Budget) {
		for _, limit := range b.Limits {
			ceiling, finite := limit.Ceiling.Finite()
			class := limit.Dimension.Class()
			if limit.Window != budget.Concurrent || !finite || class == budget.AnyClass || limit.Dimension != budget.GPUs(class) {
				continue
			}
			all[class] = slices.DeleteFunc(all[class], func(o owner) bool { return strings.HasPrefix(b.Path, o.path+"/") })
			held := balances[b.Path].Held.At(ledger.ConcurrentKey, limit.Dimension)
			all[class] = append(all[class], owner{b.Path, max(0, int64(ceiling.Sub(held)/quantity.GPU))})
		}
	})
	for _, list := range all {
		slices.SortFunc(list, func(a, b owner) int { return strings.Compare(a.path, b.path) })
	}
	return all
}

// idle is what allocations have and do not use.
func (l *lines) idle(p *budget.Policy, from, until time.Time) {
	spans := l.gauges.idle(l.meter.open, l.meter.interval())
	for _, h := range l.meter.open {
		for _, t := range h.Live() {
			idle, known := spans[t.Alloc]
			if !known {
				continue
			}
			begin := idle.from
			if begin.Before(from) {
				begin = from
			}
			for _, g := range t.GPUs {
				if g.EndMS != 0 {
					continue
				}
				l.add(p, ledger.Entry{Kind: ledger.IdleEntry, Budget: h.Budget, Namespace: h.Namespace, JobID: h.JobID, HoldID: h.ID, Run: h.Run,
					Alloc: t.Alloc, Node: t.Node, Submitter: h.Accessor, Class: g.Class, GPUs: g.IDs}, int64(len(g.IDs)), begin, until)
			}
		}
	}
}

// ungoverned is the work of allocations without a hold, and of processes that use
// GPUs which they do not hold.
func (l *lines) ungoverned(p *budget.Policy, from, until time.Time) {
	class := func(name string) string {
		if class, ok := p.ClassOf(name); ok {
			return class
		}
		return unclassified
	}
	for _, a := range l.meter.Strays() {
		begin := from
		if a.Created.After(begin) {
			begin = a.Created
		}
		for _, d := range a.Devices {
			l.add(p, ledger.Entry{Kind: ledger.UngovernedEntry, Namespace: a.Namespace, JobID: a.JobID, Alloc: a.ID, Node: a.NodeID,
				Class: class(d.Name), GPUs: d.IDs}, int64(len(d.IDs)), begin, until)
		}
	}
	for _, r := range l.gauges.rogues(l.meter.interval()) {
		l.add(p, ledger.Entry{Kind: ledger.UngovernedEntry, Node: r.node, Class: class(l.gauges.deviceName(r.gauge.ID)), GPUs: []string{r.gauge.ID},
			Cause: "processes " + r.gauge.Rogue}, 1, from, until)
	}
}

// IdleStatus is an allocation whose GPUs are not used.
type IdleStatus struct {
	Namespace string    `json:"namespace"`
	JobID     string    `json:"job_id"`
	Budget    string    `json:"budget"`
	Alloc     string    `json:"alloc"`
	Node      string    `json:"node"`
	GPUs      []string  `json:"gpus"`
	Since     time.Time `json:"since"`
}

// CapacityStatus is how many GPUs of a class a node pool has, and how many of them
// no allocation has.
type CapacityStatus struct {
	Pool  string `json:"pool"`
	Class string `json:"class"`
	GPUs  int    `json:"gpus"`
	Free  int    `json:"free"`
}

// RogueStatus is a GPU that processes use which do not hold it.
type RogueStatus struct {
	Node      string `json:"node"`
	GPU       string `json:"gpu"`
	Processes string `json:"processes"`
}

// status adds the lines to a status.
func (l *lines) status(out *Status, holds []heldAt) {
	interval := l.meter.interval()
	spans := l.gauges.idle(holds, interval)
	for _, h := range holds {
		for _, t := range h.Live() {
			if idle, known := spans[t.Alloc]; known {
				out.Idle = append(out.Idle, IdleStatus{Namespace: h.Namespace, JobID: h.JobID, Budget: h.Budget, Alloc: t.Alloc, Node: t.Node,
					GPUs: idsOf(t), Since: idle.from})
			}
		}
	}
	slices.SortFunc(out.Idle, func(a, b IdleStatus) int { return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Alloc, b.Alloc)) })
	for _, r := range l.gauges.rogues(interval) {
		out.Rogue = append(out.Rogue, RogueStatus{Node: r.nodeName, GPU: r.gauge.ID, Processes: r.gauge.Rogue})
	}
	for _, c := range l.capacity() {
		out.Capacity = append(out.Capacity, CapacityStatus{Pool: c.pool, Class: c.class, GPUs: c.all, Free: c.free})
	}
}

// capacity is what there was at the last snapshot.
func (l *lines) capacity() []capacity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}
