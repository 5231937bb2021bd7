package ledger

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// EffectiveLimit is a limit as it counts in one period: what was written, and
// what was added to it.
type EffectiveLimit struct {
	budget.Limit
	Period budget.Period
	// Carry is what earlier periods left over, Granted what grants add, Borrow what
	// may be taken from the cohort at most (gauges only).
	Carry, Granted, Borrow quantity.Amount
}

// Total is the limit with all that was added to it.
func (l EffectiveLimit) Total() quantity.Limit {
	ceiling, finite := l.Ceiling.Finite()
	if !finite {
		return quantity.Unlimited
	}
	return quantity.LimitOf(ceiling.Add(l.Carry).Add(l.Granted).Add(l.Borrow))
}

// Effective is what a limit of a node allows new work in a period: its ceiling,
// what the node's earlier periods left over (only in the period that contains
// now, because later ones have no past yet), and the grants of the node that are
// active now. A gauge also borrows, unless another limit of the node is past its
// soft mark. What the cohort can really lend is a second question: see Cohort.
func Effective(p *budget.Policy, node *budget.Budget, limit budget.Limit, period budget.Period, book Balance, grants []Grant, now time.Time) EffectiveLimit {
	e := EffectiveLimit{Limit: limit, Period: period}
	e.Carry, e.Granted, e.Borrow = Extras(p, node, &limit, &period, &book, grants, now)
	return e
}

// Extras is what Effective adds to the ceiling of a limit.
func Extras(p *budget.Policy, node *budget.Budget, limit *budget.Limit, period *budget.Period, book *Balance, grants []Grant, now time.Time) (carry, granted, borrow quantity.Amount) {
	for i := range grants {
		if g := &grants[i]; g.Budget == node.Path && g.Active(now.UnixMilli()) {
			granted = granted.Add(max(0, g.Max[limit.Dimension]))
		}
	}
	if limit.Rollover != nil {
		carry = carryInto(p, *limit, *period, *book, now)
	}
	if limit.Window == budget.Concurrent && len(node.Borrow) > 0 {
		if most := node.Borrow[limit.Dimension.Class()]; most > 0 && !pastSoft(p, node, *book, grants, now) {
			borrow = most
		}
	}
	return carry, granted, borrow
}

// pastSoft reports whether some limit of the node other than a gauge is used
// beyond its soft mark.
func pastSoft(p *budget.Policy, node *budget.Budget, book Balance, grants []Grant, now time.Time) bool {
	soft := node.EffectiveSoft()
	if soft == 0 {
		return false
	}
	for _, l := range node.Limits {
		if l.Window.Gauge() {
			continue
		}
		period := budget.PeriodAt(l.Window, now, p.Location)
		limit, finite := Effective(p, node, l, period, book, grants, now).Total().Finite()
		if finite && book.UsedIn(period, l.Dimension) > soft.Of(limit) {
			return true
		}
	}
	return false
}

// UsedIn is what is posted and held in a period.
func (b Balance) UsedIn(p budget.Period, d budget.Dimension) quantity.Amount {
	held := b.HeldIn(p, d)
	if p.Window.Gauge() {
		return held
	}
	return b.Posted.At(p.Key(), d).Add(held)
}

// horizon is how many periods before the present one count for a rollover: those
// whose rest may still be there, and as many again, because what was carried into
// them was used first. What was carried from even further back is taken as used,
// which errs on the safe side.
func horizon(r *budget.Rollover) int {
	return 2 * min(max(1, r.Periods), maxRollover)
}

// RolloverReach is how many periods before one count for what a limit carries into it;
// 0 for a limit that carries nothing.
func RolloverReach(l budget.Limit) int {
	if l.Rollover == nil {
		return 0
	}
	return horizon(l.Rollover)
}

// maxRollover bounds for how many periods a rest may be carried.
const maxRollover = 50

// carryInto is what earlier periods leave for the period that contains now.
func carryInto(p *budget.Policy, limit budget.Limit, period budget.Period, book Balance, now time.Time) quantity.Amount {
	ceiling, finite := limit.Ceiling.Finite()
	if limit.Rollover == nil || !finite || book.SinceMS == 0 || period.Start.IsZero() ||
		now.Before(period.Start) || !now.Before(period.End) {
		return 0
	}
	var used []quantity.Amount // the youngest first
	for earlier := period; len(used) < horizon(limit.Rollover); {
		earlier = budget.PeriodAt(limit.Window, earlier.Start.Add(-time.Millisecond), p.Location)
		if earlier.End.UnixMilli() <= book.SinceMS {
			break
		}
		used = append(used, book.Posted.At(earlier.Key(), limit.Dimension).Add(book.Held.At(earlier.Key(), limit.Dimension)))
	}
	return carry(limit.Rollover, ceiling, used)
}

// carry is what is left over after periods whose use is given, the youngest
// first. In each, what was carried into it is used first, the oldest first of all.
func carry(r *budget.Rollover, ceiling quantity.Amount, used []quantity.Amount) quantity.Amount {
	most := r.Share.Of(ceiling)
	if r.Most != nil {
		most = *r.Most
	}
	// left[age] is what remains of the rest of the period age+1 periods ago.
	left := make([]quantity.Amount, min(max(1, r.Periods), maxRollover))
	for i := len(used) - 1; i >= 0; i-- {
		use := used[i]
		for age := len(left) - 1; age >= 0; age-- {
			taken := min(left[age], max(0, use))
			left[age] -= taken
			use -= taken
		}
		copy(left[1:], left) // the oldest expires
		left[0] = min(max(0, most), max(0, ceiling.Sub(use)))
	}
	total := quantity.Amount(0)
	for _, a := range left {
		total = total.Add(a)
	}
	return total
}
