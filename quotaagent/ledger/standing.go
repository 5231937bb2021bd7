package ledger

import (
	"fmt"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Health is how far a budget is used (BUDGETS.md, "Over budget").
type Health uint8

// The states of a budget, from best to worst.
const (
	Healthy   Health = iota
	Soft             // past the soft mark: new work is warned, nothing is borrowed
	Full             // nothing is left for new work
	Overdrawn        // more is used than allowed: running work may be concerned
)

var healthNames = [...]string{"ok", "soft", "full", "overdrawn"}

// String is the state's stable name.
func (h Health) String() string {
	if int(h) >= len(healthNames) {
		return fmt.Sprintf("health(%d)", uint8(h))
	}
	return healthNames[h]
}

// Standing is how one limit of a budget stands now.
type Standing struct {
	Health Health
	Budget *budget.Budget
	Limit  EffectiveLimit
	Posted quantity.Amount
	Held   quantity.Amount
}

// Excess is how much more is used than the limit allows: for a gauge what is held,
// else what is posted. Zero or less when it is not overdrawn.
func (s Standing) Excess() quantity.Amount {
	limit, finite := s.Limit.Total().Finite()
	if !finite {
		return 0
	}
	if s.Limit.Window.Gauge() {
		return s.Held.Sub(limit)
	}
	return s.Posted.Sub(limit)
}

// Stand is the worst standing of a budget's own limits, the first written one
// among equals; healthy without a limit when it has none. Ancestors are judged for
// themselves. Overdrawn says that more is posted (for a gauge: held) than allowed,
// where grants count that were active at any time of the period: what was used
// under a grant is not held against the budget when the grant is over.
func Stand(p *budget.Policy, node *budget.Budget, book Balance, grants []Grant, cohort Cohort, now time.Time) Standing {
	worst := Standing{Budget: node}
	for i, s := range Standings(p, node, book, grants, cohort, now) {
		if i == 0 || s.Health > worst.Health {
			worst = s
		}
	}
	return worst
}

// Standings are those of all limits of a budget in the periods that contain now,
// the limits of Rules.Committed last.
func Standings(p *budget.Policy, node *budget.Budget, book Balance, grants []Grant, cohort Cohort, now time.Time) []Standing {
	out := make([]Standing, 0, len(node.Limits)+len(node.Committed))
	for _, limits := range [][]budget.Limit{node.Limits, node.Committed} {
		for _, l := range limits {
			out = append(out, stand(p, node, l, book, grants, cohort, now))
		}
	}
	return out
}

func stand(p *budget.Policy, node *budget.Budget, l budget.Limit, book Balance, grants []Grant, cohort Cohort, now time.Time) Standing {
	period := budget.PeriodAt(l.Window, now, p.Location)
	s := Standing{Budget: node, Limit: Effective(p, node, l, period, book, grants, now), Held: book.HeldIn(period, l.Dimension)}
	if !l.Window.Gauge() {
		s.Posted = book.Posted.At(period.Key(), l.Dimension)
	}
	limit, finite := s.Limit.Total().Finite()
	if !finite {
		return s
	}
	used := s.Posted.Add(s.Held)
	room := limit
	if l.Window == budget.Concurrent && len(cohort) > 0 {
		room = min(room, cohort.Room(node, l.Dimension).Add(s.Limit.Granted))
	}
	past := s
	past.Limit.Granted = GrantedDuring(node, l.Dimension, period, grants, now)
	past.Limit.Borrow = node.Borrow[l.Dimension.Class()]
	if l.Window != budget.Concurrent {
		past.Limit.Borrow = 0
	}
	switch soft := node.EffectiveSoft(); {
	case past.Excess() > 0:
		past.Health = Overdrawn
		return past
	case used >= room:
		s.Health = Full
	case soft != 0 && used > soft.Of(limit):
		s.Health = Soft
	}
	return s
}

// GrantedDuring is what grants added to a limit at any time of a period up to now.
// A gauge and the window of all time have no period: there all count that ever
// did.
func GrantedDuring(node *budget.Budget, d budget.Dimension, period budget.Period, grants []Grant, now time.Time) quantity.Amount {
	total := quantity.Amount(0)
	for _, g := range grants {
		if g.Budget != node.Path || g.FromMS == 0 || g.FromMS > now.UnixMilli() {
			continue
		}
		until := g.UntilMS
		if g.RevokedMS != 0 {
			until = min(until, g.RevokedMS)
		}
		if until > g.FromMS && (period.Start.IsZero() || until > period.Start.UnixMilli()) {
			total = total.Add(max(0, g.Max[d]))
		}
	}
	return total
}
