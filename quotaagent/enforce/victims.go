package enforce

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// under reports whether a budget path is another one or below it.
func under(path, ancestor string) bool {
	return path == ancestor || strings.HasPrefix(path, ancestor+"/")
}

// contribution is what a hold adds to the use of a limit from now on: what it
// charges, or for a period everything that it may still use in it.
func contribution(h ledger.Hold, l budget.Limit) quantity.Amount {
	if l.Window == budget.Concurrent {
		return h.Charged.At(ledger.ConcurrentKey, l.Dimension)
	}
	total := quantity.Amount(0)
	for c := range h.Charged.All() {
		if name, _, _ := strings.Cut(c.Period, "/"); c.Dimension == l.Dimension && name == l.Window.String() {
			total = total.Add(c.Amount)
		}
	}
	if h.Run != "" && !l.Window.Gauge() {
		// Its run holds this from the budget, but it is the job that uses it.
		total = max(total, h.Drawn[l.Dimension])
	}
	return total
}

// victims are the holds that add to the use of a limit, those that give back
// first in front: who borrows, the lowest priority, the newest.
func (p *planner) victims(b *budget.Budget, l budget.Limit) []ledger.Hold {
	var out []ledger.Hold
	for _, h := range p.Holds {
		if h.State == ledger.Active && under(h.Budget, b.Path) && contribution(h, l) > 0 {
			out = append(out, h)
		}
	}
	p.sort(out)
	return out
}

func (p *planner) sort(holds []ledger.Hold) {
	slices.SortFunc(holds, func(x, y ledger.Hold) int {
		bx, by := p.borrows(x), p.borrows(y)
		return cmp.Or(-compareBool(bx, by), cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.JobPriority, y.JobPriority),
			cmp.Compare(y.CreatedMS, x.CreatedMS), strings.Compare(x.ID, y.ID))
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// borrows reports whether the hold is of a budget that uses more GPUs than are
// its own.
func (p *planner) borrows(h ledger.Hold) bool {
	member := p.memberOf(h.Budget)
	if member == nil {
		return false
	}
	borrows, known := p.borrowing[member.Path]
	if !known {
		cohort, held := ledger.CohortOf(p.Policy, member, p.Books), p.Books[member.Path].Held.Row(ledger.ConcurrentKey)
		for _, c := range held {
			borrows = borrows || cohort.Borrowed(member, c.Dimension, c.Amount) > 0
		}
		p.borrowing[member.Path] = borrows
	}
	return borrows
}

// memberOf is the nearest budget up the tree that is in a cohort, or nil.
func (p *planner) memberOf(path string) *budget.Budget {
	b := p.Policy.Find(path)
	for ; b != nil; b = b.Parent {
		if b.Cohort != "" {
			return b
		}
	}
	return nil
}

// chosen are the holds to be ended for one overdrawn limit. Of GPUs held at once
// as many as bring it back under the limit; of what was used up in a period all,
// for whatever goes on only uses more.
func (p *planner) chosen(b *budget.Budget, s ledger.Standing, cause admission.Reason) []ledger.Hold {
	victims := p.victims(b, s.Limit.Limit)
	if !s.Limit.Window.Gauge() {
		return victims
	}
	return p.enough(victims, s.Excess(), cause, func(h ledger.Hold) quantity.Amount { return contribution(h, s.Limit.Limit) })
}

// enough takes victims from the front until they give back an amount, and leaves
// out whom it does not need. Those that are being ended already come first.
func (p *planner) enough(victims []ledger.Hold, amount quantity.Amount, cause admission.Reason, gives func(ledger.Hold) quantity.Amount) []ledger.Hold {
	victims = slices.Clone(victims)
	ending := func(h ledger.Hold) bool { return h.Ending != nil && h.Ending.Cause == string(cause) }
	slices.SortStableFunc(victims, func(a, b ledger.Hold) int { return -compareBool(ending(a), ending(b)) })
	var out []ledger.Hold
	sum := quantity.Amount(0)
	for _, h := range victims {
		if sum >= amount {
			break
		}
		out, sum = append(out, h), sum.Add(gives(h))
	}
	for i := len(out) - 1; i >= 0; i-- {
		if less := sum.Sub(gives(out[i])); less >= amount {
			out, sum = slices.Delete(out, i, i+1), less
		}
	}
	return out
}

// reclaimEvery is the pause between two rounds of reclaim in a cohort, so that work
// is not pushed to and fro.
const reclaimEvery = time.Minute

// reclaim takes lent GPUs back for jobs that wait for them, from those who borrow.
func (p *planner) reclaim() {
	missing := make(map[string]map[budget.Dimension]quantity.Amount)
	lenders := make(map[string]*budget.Budget)
	for _, q := range p.Waiting {
		member := p.memberOf(q.Budget)
		if q.Reason != string(admission.WaitingForReclaim) || member == nil || q.ReleasingMS != 0 {
			continue
		}
		if missing[member.Path] == nil {
			missing[member.Path], lenders[member.Path] = make(map[budget.Dimension]quantity.Amount), member
		}
		for _, need := range needs(p.Policy, q) {
			missing[member.Path][need.Dimension] = missing[member.Path][need.Dimension].Add(need.Amount)
		}
	}
	for _, path := range sortedKeys(missing) {
		p.reclaimFor(lenders[path], missing[path])
	}
}

// needs is how many GPUs a job that waits will hold at once.
func needs(policy *budget.Policy, q ledger.Queued) ledger.Row {
	h := ledger.Submit(ledger.Hold{Namespace: q.Namespace, JobID: q.JobID, Budget: q.Budget, State: ledger.Held}, q.Lines, 0)
	return ledger.Charges(h, ledger.CalendarOf(policy)).Row(ledger.ConcurrentKey)
}

func (p *planner) reclaimFor(lender *budget.Budget, missing map[budget.Dimension]quantity.Amount) {
	cohort := ledger.CohortOf(p.Policy, lender, p.Books)
	rule := lender.EffectiveReclaim()
	for _, d := range sortedKeys(missing) {
		short := p.short(cohort, lender, d, missing[d])
		if short <= 0 {
			continue
		}
		text := fmt.Sprintf("budget %s wants back %s that it has lent", lender.Path, d.Format(short, p.Policy.Currency))
		for _, h := range p.borrowers(cohort, lender, rule, d, short) {
			w := stopping(p.Policy.Find(h.Budget), admission.Reclaimed, text)
			w.grace, w.budget = rule.Grace, lender.Path
			p.wish(h, w)
		}
	}
}

// short is how much of what a lender needs, within its own limit, others use.
func (p *planner) short(cohort ledger.Cohort, lender *budget.Budget, d budget.Dimension, need quantity.Amount) quantity.Amount {
	for _, l := range lender.Limits {
		own, finite := l.Ceiling.Finite()
		if l.Window != budget.Concurrent || l.Dimension != d || !finite {
			continue
		}
		held := p.Books[lender.Path].Held.At(ledger.ConcurrentKey, d)
		return min(own, held.Add(need)).Sub(cohort.Room(lender, d))
	}
	return 0
}

// borrowers are the holds that must go for a lender to get back an amount.
func (p *planner) borrowers(cohort ledger.Cohort, lender *budget.Budget, rule budget.Reclaim, d budget.Dimension, amount quantity.Amount) []ledger.Hold {
	var victims []ledger.Hold
	given := make(map[string]quantity.Amount)
	candidates := slices.Clone(p.Holds)
	p.sort(candidates)
	fresh := !p.reclaimedLately(cohort, rule)
	for _, h := range candidates {
		member := p.memberOf(h.Budget)
		gives := h.Charged.At(ledger.ConcurrentKey, d)
		if member == nil || member.Cohort != lender.Cohort || member.Path == lender.Path || gives <= 0 || h.State != ledger.Active {
			continue
		}
		ending := h.Ending != nil && h.Ending.Cause == string(admission.Reclaimed)
		if !ending && (!fresh || !rule.AnyPriority && h.Priority >= lender.EffectivePriority() || p.young(h, rule)) {
			continue
		}
		borrowed := cohort.Borrowed(member, d, p.Books[member.Path].Held.At(ledger.ConcurrentKey, d))
		if given[member.Path] >= borrowed {
			continue
		}
		given[member.Path] = given[member.Path].Add(gives)
		victims = append(victims, h)
	}
	return p.enough(victims, amount, admission.Reclaimed, func(h ledger.Hold) quantity.Amount { return h.Charged.At(ledger.ConcurrentKey, d) })
}

// young reports whether a job has not had its least time yet, or has not begun.
func (p *planner) young(h ledger.Hold, rule budget.Reclaim) bool {
	oldest := h.CreatedMS
	for i, t := range h.Live() {
		if i == 0 || t.StartMS < oldest {
			oldest = t.StartMS
		}
	}
	return p.Now.UnixMilli()-oldest < quantity.Millis(rule.MinRuntime)
}

// reclaimedLately reports whether a round of reclaim in the cohort began a moment
// ago: what it gives back must show first.
func (p *planner) reclaimedLately(cohort ledger.Cohort, rule budget.Reclaim) bool {
	return slices.ContainsFunc(p.Holds, func(h ledger.Hold) bool {
		if h.Ending == nil || h.Ending.Cause != string(admission.Reclaimed) {
			return false
		}
		inside := slices.ContainsFunc(cohort, func(m ledger.Member) bool { return under(h.Budget, m.Budget.Path) })
		began := h.Ending.StopMS - quantity.Millis(rule.Grace)
		return inside && p.Now.UnixMilli()-began < quantity.Millis(reclaimEvery)
	})
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
