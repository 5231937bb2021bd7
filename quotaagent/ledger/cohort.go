package ledger

import (
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Member is one budget of a cohort with what it holds.
type Member struct {
	Budget  *budget.Budget
	Balance Balance
}

// Cohort are all budgets that lend to each other under one name. Of each class, a
// member keeps what it does not lend for itself, and the rest is a pool. What a
// member uses beyond what it keeps comes from the pool, whose own lendable part is
// in it too. So the members together never use more than their limits allow them
// together, and no member is kept from what it does not lend (Kueue's rule for a
// flat cohort: T = sum of min(lend, nominal), keps/79).
type Cohort []Member

// CohortOf is the cohort that a budget belongs to; nil when it is in none.
func CohortOf(p *budget.Policy, node *budget.Budget, balances map[string]Balance) Cohort {
	var c Cohort
	for _, b := range p.Cohort(node.Cohort) {
		c = append(c, Member{Budget: b, Balance: balances[b.Path]})
	}
	return c
}

// nominal is the ceiling of a node on GPUs held at once; false when it has none.
func nominal(node *budget.Budget, d budget.Dimension) (quantity.Limit, bool) {
	for _, l := range node.Limits {
		if l.Window == budget.Concurrent && l.Dimension == d {
			return l.Ceiling, true
		}
	}
	return quantity.Limit{}, false
}

// split is how a node's ceiling divides: what it keeps, and what it lends.
func split(node *budget.Budget, d budget.Dimension) (kept, lent quantity.Amount) {
	ceiling, limited := nominal(node, d)
	if !limited {
		return 0, 0
	}
	all, finite := ceiling.Finite()
	if !finite {
		all = quantity.MaxAmount
	}
	lent = all
	if lend, ok := node.Lend[d.Class()]; ok {
		if most, bounded := lend.Finite(); bounded {
			lent = min(all, max(0, most))
		}
	}
	if !finite {
		return quantity.MaxAmount, lent
	}
	return all - lent, lent
}

// Pool is what the members lend of a dimension together, and how much of it is in
// use by members other than the one with this path.
func (c Cohort) Pool(d budget.Dimension, except string) (lent, used quantity.Amount) {
	for _, m := range c {
		if _, limited := nominal(m.Budget, d); !limited {
			continue
		}
		kept, lends := split(m.Budget, d)
		lent = lent.Add(lends)
		if m.Budget.Path != except {
			used = used.Add(max(0, m.Balance.Held.At(ConcurrentKey, d).Sub(kept)))
		}
	}
	return lent, used
}

// Room is the most that a member may hold of a dimension beside what the others
// use of the pool now.
func (c Cohort) Room(node *budget.Budget, d budget.Dimension) quantity.Amount {
	kept, _ := split(node, d)
	lent, used := c.Pool(d, node.Path)
	return kept.Add(max(0, lent.Sub(used)))
}

// Most is the most that a member could ever hold of a dimension, were nobody else
// to use anything.
func (c Cohort) Most(node *budget.Budget, d budget.Dimension) quantity.Amount {
	kept, _ := split(node, d)
	lent, _ := c.Pool(d, node.Path)
	return kept.Add(lent)
}

// Borrowed is how much a member holds beyond its own ceiling, and Lent how much of
// its ceiling the others use: what is missing in the pool up to what it lends.
func (c Cohort) Borrowed(node *budget.Budget, d budget.Dimension, held quantity.Amount) quantity.Amount {
	ceiling, limited := nominal(node, d)
	all, finite := ceiling.Finite()
	if !limited || !finite {
		return 0
	}
	return max(0, held.Sub(all))
}

// Lent is how much of a member's ceiling it cannot have now because others use it.
func (c Cohort) Lent(node *budget.Budget, d budget.Dimension) quantity.Amount {
	ceiling, limited := nominal(node, d)
	all, finite := ceiling.Finite()
	if !limited || !finite || len(c) == 0 {
		return 0
	}
	return max(0, all.Sub(c.Room(node, d)))
}
