package queue

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// agedAfter is when a job that waits is not overtaken any more, where the queue
// has no timeout: what was submitted in the morning has its turn by the evening.
// It does not follow from how long others wait: where everybody waits for long,
// nobody would ever have waited longer than the others by some factor. And it is
// long enough for the order of the queue to matter in one that is busy.
const agedAfter = 12 * time.Hour

// AgedAfter is how long a job of this budget waits before it is not overtaken
// any more: a quarter of the queue's timeout, or 12 hours without one.
func AgedAfter(q budget.Queue) time.Duration {
	if q.Timeout > 0 {
		return q.Timeout / 4
	}
	return agedAfter
}

// Use is the use of each budget that counts for its fair share: past use, the
// older the less (see ledger.Use).
type Use map[string]quantity.Amount

// Order sorts jobs that wait. Aged ones come first, the oldest first of all. The
// others are ordered budget by budget from the leaves up: where the jobs of
// several budgets meet, the rule is the strongest that one of them, or the budget
// above them, sets (fair share before priority before first in, first out). Jobs
// of one budget keep their order among each other. The order of the input does
// not matter.
func Order(p *budget.Policy, waiting []ledger.Queued, use Use, now time.Time) []ledger.Queued {
	var aged []ledger.Queued
	own := make(map[string][]ledger.Queued)
	for _, q := range waiting {
		if aging(p, q, now) {
			aged = append(aged, q)
			continue
		}
		own[q.Budget] = append(own[q.Budget], q)
	}
	slices.SortFunc(aged, byTime)
	o := orderer{own: own, use: use}
	var lists []list
	for _, root := range p.Roots {
		lists = append(lists, o.subtree(root))
	}
	// Budgets that are gone from the policy: their jobs come by time.
	for path, jobs := range own {
		if p.Find(path) == nil {
			slices.SortFunc(jobs, byTime)
			lists = append(lists, list{path: path, jobs: jobs, weight: 1})
		}
	}
	slices.SortFunc(lists, func(a, b list) int { return strings.Compare(a.path, b.path) })
	return append(aged, o.merge(budget.FIFO, lists)...)
}

// aging reports whether a job is not overtaken any more.
func aging(p *budget.Policy, q ledger.Queued, now time.Time) bool {
	rule := budget.Queue{}
	if b := p.Find(q.Budget); b != nil {
		rule = b.EffectiveQueue()
	}
	return now.UnixMilli()-q.SinceMS >= quantity.Millis(AgedAfter(rule))
}

func byTime(a, b ledger.Queued) int {
	return cmp.Or(cmp.Compare(a.SinceMS, b.SinceMS), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID))
}

type orderer struct {
	own map[string][]ledger.Queued
	use Use
}

// list is the ordered jobs of one budget and what is below it.
type list struct {
	path     string
	jobs     []ledger.Queued
	order    budget.QueueOrder
	priority int
	weight   int64
	used     quantity.Amount
}

func (o orderer) subtree(b *budget.Budget) list {
	out := list{path: b.Path, order: b.EffectiveQueue().Order, priority: b.EffectivePriority(), weight: 1, used: o.use[b.Path]}
	if b.FairShare != nil && b.FairShare.Weight > 0 {
		out.weight = b.FairShare.Weight
	}
	mine := slices.Clone(o.own[b.Path])
	slices.SortFunc(mine, func(x, y ledger.Queued) int {
		if out.order == budget.ByPriority {
			return cmp.Or(cmp.Compare(y.Priority, x.Priority), byTime(x, y))
		}
		return byTime(x, y)
	})
	lists := []list{}
	if len(mine) > 0 {
		// Beside its children, a budget's own jobs count as those of one more child.
		lists = append(lists, list{path: b.Path, jobs: mine, order: out.order, priority: out.priority, weight: 1, used: o.ownUse(b)})
	}
	for _, child := range b.Children {
		if below := o.subtree(child); len(below.jobs) > 0 {
			lists = append(lists, below)
			out.order = max(out.order, below.order)
		}
	}
	out.jobs = o.merge(out.order, lists)
	return out
}

// ownUse is what a budget used apart from its children.
func (o orderer) ownUse(b *budget.Budget) quantity.Amount {
	used := o.use[b.Path]
	for _, child := range b.Children {
		used = used.Sub(o.use[child.Path])
	}
	return max(0, used)
}

// merge interleaves ordered lists by what stands first in each.
func (o orderer) merge(order budget.QueueOrder, lists []list) []ledger.Queued {
	lists = slices.DeleteFunc(slices.Clone(lists), func(l list) bool { return len(l.jobs) == 0 })
	var out []ledger.Queued
	for len(lists) > 0 {
		best := 0
		for i := range lists[1:] {
			if before(order, lists[i+1], lists[best]) {
				best = i + 1
			}
		}
		next := lists[best].jobs[0]
		out = append(out, next)
		lists[best].jobs = lists[best].jobs[1:]
		// What stands in line counts as used, or one budget's jobs would all come
		// at once (Kueue's entry penalty).
		lists[best].used = lists[best].used.Add(worth(next))
		if len(lists[best].jobs) == 0 {
			lists = slices.Delete(lists, best, best+1)
		}
	}
	return out
}

// before reports whether the first job of a comes before that of b.
func before(order budget.QueueOrder, a, b list) bool {
	x, y := a.jobs[0], b.jobs[0]
	first := 0
	switch order {
	case budget.FIFO:
	case budget.ByPriority:
		first = cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(y.Priority, x.Priority))
	case budget.ByFairShare:
		first = cmp.Compare(share(a), share(b))
	}
	return cmp.Or(first, byTime(x, y)) < 0
}

// share is use by weight.
func share(l list) quantity.Amount { return l.used / quantity.Amount(l.weight) }

// worth is the GPU time of a job in the worst case.
func worth(q ledger.Queued) quantity.Amount {
	total := quantity.Amount(0)
	for _, line := range q.Lines {
		for _, n := range line.Needs {
			total = total.Add(quantity.Amount(line.RuntimeMS).Mul(n.GPUs).Mul(int64(line.Count)))
		}
	}
	return total
}
