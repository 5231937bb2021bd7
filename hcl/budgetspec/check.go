package budgetspec

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// check looks for what only the whole module can show.
func (d *decoder) check() {
	if len(d.policy.Roots) == 0 && !d.diags.HasErrors() {
		d.report(noBudget())
		return
	}
	d.checkClasses()
	d.checkMoves()
	d.checkPrices()
	d.policy.Walk(func(b *budget.Budget) {
		d.checkReach(b)
		d.checkRuntime(b)
		d.checkLimits(b)
		d.checkOversubscription(b)
	})
	d.checkOverlaps()
	d.checkRules()
}

func (d *decoder) checkClasses() {
	declared := slices.Sorted(maps.Keys(d.classes))
	if len(declared) == 0 && len(d.uses) == 0 && !d.diags.HasErrors() {
		d.report(noClass())
	}
	for _, use := range d.uses {
		if _, ok := d.classes[use.class]; !ok {
			d.report(unknownClass(use.at, use.class, declared))
		}
	}
	for _, use := range d.shared {
		for _, c := range d.policy.Classes {
			if c.Name == use.class && len(c.Shares) > 0 {
				d.report(shareOfShare(use.at, use.class, c.Source))
			}
		}
	}
}

// checkPrices finds classes that the newest rate card does not price. Without
// any limit on cost that is harmless, and without any rate card intended.
func (d *decoder) checkPrices() {
	if len(d.policy.RateCards) == 0 {
		if len(d.costs) > 0 && len(d.cards) == 0 {
			d.report(noRateCard(d.costs[0]))
		}
		return
	}
	newest := d.policy.RateCards[len(d.policy.RateCards)-1]
	for _, class := range d.policy.Classes {
		if d.incomplete[newest.Name] || priced(newest, class) {
			continue
		}
		if len(d.costs) > 0 {
			d.report(noPriceForLimit(d.classes[class.Name], class.Name, newest.Name, d.costs[0]))
		} else {
			d.report(noPrice(d.classes[class.Name], class.Name, newest.Name))
		}
	}
}

// priced reports whether a card prices a class: by itself, or all that it is a
// part of.
func priced(card budget.RateCard, class budget.Class) bool {
	if _, ok := card.PerGPUHour[class.Name]; ok || len(class.Shares) == 0 {
		return ok
	}
	return !slices.ContainsFunc(class.Shares, func(s budget.Share) bool {
		_, ok := card.PerGPUHour[s.Class]
		return !ok
	})
}

// checkReach finds budgets that no job can ever draw from.
func (d *decoder) checkReach(b *budget.Budget) {
	if b.Match == nil && len(b.Children) == 0 && !d.diags.HasErrors() {
		d.report(unreachable(d.places[b].header, b.Path))
	}
}

// checkRuntime finds default runtimes that a bound here or above forbids: every
// job without a runtime of its own would be refused.
func (d *decoder) checkRuntime(b *budget.Budget) {
	for _, a := range b.Ancestry() {
		if b.PerJob.DefaultRuntime > 0 && a.PerJob.MaxRuntime > 0 && b.PerJob.DefaultRuntime > a.PerJob.MaxRuntime {
			d.report(defaultBeyondMax(d.places[b].defaultRuntime, runtimes{b.PerJob.DefaultRuntime, a.PerJob.MaxRuntime}, a))
			return
		}
	}
}

type runtimes struct{ standard, most time.Duration }

// checkLimits finds limits that can never bind because a limit above is lower,
// or because the sum over all classes in the same budget is.
func (d *decoder) checkLimits(b *budget.Budget) {
	for _, l := range b.Limits {
		amount, finite := l.Ceiling.Finite()
		if !finite {
			continue
		}
		if lower, found := tighter(b, l, amount); found && anyOf(l.Dimension) == lower.Dimension && l.Dimension != lower.Dimension {
			d.report(classBeyondAny(d.limitAt(b, l), describe(l), describe(lower)))
			continue
		}
		for _, a := range b.Ancestry()[1:] {
			if lower, found := tighter(a, l, amount); found {
				d.report(childBeyondParent(d.limitAt(b, l), describe(l), describe(lower), a.Path, lower.Source))
				break
			}
		}
	}
}

func (d *decoder) limitAt(b *budget.Budget, l budget.Limit) hcl.Range {
	return d.places[b].limits[limitKey{l.Window, l.Dimension}]
}

// tighter finds a limit of b in the same window, on the same dimension or on
// the sum that contains it, that is below amount.
func tighter(b *budget.Budget, l budget.Limit, amount quantity.Amount) (budget.Limit, bool) {
	for _, other := range b.Limits {
		if other.Window != l.Window || other.Dimension != l.Dimension && other.Dimension != anyOf(l.Dimension) {
			continue
		}
		if most, finite := other.Ceiling.Finite(); finite && most < amount {
			return other, true
		}
	}
	return budget.Limit{}, false
}

// anyOf is the dimension that sums a dimension over all classes.
func anyOf(d budget.Dimension) budget.Dimension {
	switch {
	case d.IsGPUs():
		return budget.GPUs(anyClass)
	case d.IsGPUTime():
		return budget.GPUTime(anyClass)
	}
	return d
}

// checkOversubscription finds limits that all children together exceed although
// each alone fits.
func (d *decoder) checkOversubscription(b *budget.Budget) {
	for _, l := range b.Limits {
		most, finite := l.Ceiling.Finite()
		if !finite {
			continue
		}
		var total quantity.Amount
		var names []string
		for _, child := range b.Children {
			share := share(child, l.Window, l.Dimension)
			if share > most { // said by checkLimits already
				total = 0
				break
			}
			if share > 0 {
				total = total.Add(share)
				names = append(names, strconv.Quote(child.Name))
			}
		}
		if total > most {
			sum := l
			sum.Ceiling = quantity.LimitOf(total)
			d.report(oversubscribed(d.limitAt(b, l), describe(l), describe(sum), strings.Join(names, ", ")))
		}
	}
}

// share is what a child's own limits let it take of a dimension of its parent;
// 0 when it sets none.
func share(child *budget.Budget, w budget.Window, dimension budget.Dimension) quantity.Amount {
	var exactly, parts quantity.Amount
	for _, l := range child.Limits {
		amount, finite := l.Ceiling.Finite()
		if l.Window != w || !finite {
			continue
		}
		switch {
		case l.Dimension == dimension:
			exactly = amount
		case anyOf(l.Dimension) == dimension:
			parts = parts.Add(amount)
		}
	}
	if exactly > 0 {
		return exactly
	}
	return parts
}

// checkOverlaps finds pairs of budgets that can claim the same job. One below
// the other is fine: the deeper one wins.
func (d *decoder) checkOverlaps() {
	var matching []*budget.Budget
	d.policy.Walk(func(b *budget.Budget) {
		// One without any valid pattern would seem to claim everything.
		if m := b.Match; m != nil && (len(m.Namespaces)+len(m.Identities)+len(m.NodePools) > 0 || m.When != nil) {
			matching = append(matching, b)
		}
	})
	reported := 0
	for i, b := range matching {
		for _, first := range matching[:i] {
			if reported < diagnosticsMax && !b.Within(first) && b.Match.Overlaps(first.Match) {
				d.report(overlap(d.places[b].match, b.Path, first.Path, first.Match.Source))
				reported++
			}
		}
	}
}

// describe prints a limit for people: "32,000 GPU-hours of h100 per month".
func describe(l budget.Limit) string {
	amount, _ := l.Ceiling.Finite()
	class := " of " + l.Dimension.Class()
	if l.Dimension.Class() == anyClass {
		class = " of all classes together"
	}
	var text string
	switch {
	case l.Dimension.IsGPUs():
		noun := " GPUs"
		if amount == quantity.GPU {
			noun = " GPU"
		}
		return quantity.FormatGPUs(amount) + noun + class + " at once"
	case l.Dimension.IsGPUTime():
		text = quantity.FormatHours(amount) + " GPU-hours" + class
	case l.Dimension == budget.Cost:
		text = "a cost of " + quantity.FormatMoney(amount)
	default:
		text = l.Dimension.Format(amount, "")
	}
	if l.Window == budget.Total {
		return text + " in total"
	}
	if l.Window == budget.Committed {
		return text + " promised at once"
	}
	return text + " per " + l.Window.String()
}
