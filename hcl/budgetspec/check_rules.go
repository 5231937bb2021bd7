package budgetspec

import (
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// checkRules finds rules that are certain to have no effect, or another one than
// anybody wants. What depends on the jobs is not for it to judge.
func (d *decoder) checkRules() {
	d.checkCohorts()
	d.checkWatts()
	d.checkWatched()
	fair := false
	d.policy.Walk(func(b *budget.Budget) { fair = fair || b.EffectiveQueue().Order == budget.ByFairShare })
	d.policy.Walk(func(b *budget.Budget) {
		d.checkBorrowing(b)
		d.checkOverrides(b)
		d.checkRunning(b)
		d.checkAlerts(b)
		if b.Queue != nil && !anywhere(b, func(n *budget.Budget) bool { return n.EffectiveAdmit() == budget.AdmitQueue }) {
			d.report(idleQueue(d.at(b, "queue"), b.Path))
		}
		if b.FairShare != nil && !fair {
			d.report(idleFairShare(d.at(b, "fair_share"), b.Path))
		}
	})
	d.checkShadowed()
}

// below reports whether a property holds for a budget or one below it.
func below(b *budget.Budget, holds func(*budget.Budget) bool) bool {
	return holds(b) || slices.ContainsFunc(b.Children, func(c *budget.Budget) bool { return below(c, holds) })
}

// anywhere reports whether a property holds for a budget, one above or one below.
func anywhere(b *budget.Budget, holds func(*budget.Budget) bool) bool {
	return slices.ContainsFunc(b.Ancestry(), holds) || below(b, holds)
}

// checkCohorts finds cohorts in which nobody can lend, or the same GPUs twice.
func (d *decoder) checkCohorts() {
	members := map[string][]*budget.Budget{}
	d.policy.Walk(func(b *budget.Budget) {
		if b.Cohort == "" {
			return
		}
		members[b.Cohort] = append(members[b.Cohort], b)
		for _, a := range b.Ancestry()[1:] {
			if a.Cohort == b.Cohort {
				d.report(nestedCohort(d.at(b, "cohort"), b.Cohort, a))
			}
		}
	})
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if b := members[name][0]; len(members[name]) == 1 {
			d.report(loneCohort(d.at(b, "cohort"), b.Path, name))
		}
	}
}

// nominal is what a budget has of a class by itself; false without such a limit.
func nominal(b *budget.Budget, class string) (quantity.Limit, bool) {
	for _, l := range b.Limits {
		if l.Window == budget.Concurrent && l.Dimension == budget.GPUs(class) {
			return l.Ceiling, true
		}
	}
	return quantity.Limit{}, false
}

func (d *decoder) checkBorrowing(b *budget.Budget) {
	for _, class := range slices.Sorted(maps.Keys(b.Borrow)) {
		at, most := d.at(b, "borrow "+class), b.Borrow[class]
		_, limited := nominal(b, class)
		switch {
		case most == 0:
		case b.Cohort == "":
			d.report(borrowWithoutCohort(at))
		case !limited:
			d.report(borrowWithoutLimit(at, class))
		case !slices.ContainsFunc(d.policy.Cohort(b.Cohort), func(m *budget.Budget) bool { return m != b && lends(m, class) }):
			d.report(nobodyLends(at, class, b.Cohort))
		}
	}
	for _, class := range slices.Sorted(maps.Keys(b.Lend)) {
		at := d.at(b, "lend "+class)
		own, limited := nominal(b, class)
		all, finite := own.Finite()
		most, bounded := b.Lend[class].Finite()
		switch {
		case b.Cohort == "":
			d.report(lendWithoutCohort(at))
		case !limited:
			d.report(lendWithoutLimit(at, class))
		case finite && bounded && most > all:
			d.report(lendBeyondOwn(at, class, quantity.FormatExact(most, quantity.GPU), quantity.FormatExact(all, quantity.GPU)))
		}
	}
}

// lends reports whether a member of a cohort has anything to lend.
func lends(b *budget.Budget, class string) bool {
	none := func(l quantity.Limit) bool {
		amount, finite := l.Finite()
		return finite && amount == 0
	}
	own, limited := nominal(b, class)
	lend, says := b.Lend[class]
	return limited && !none(own) && (!says || !none(lend))
}

func (d *decoder) checkOverrides(b *budget.Budget) {
	for _, o := range b.Overrides {
		at := d.at(b, "override "+o.Name)
		limits := func(dimension budget.Dimension) bool {
			return slices.ContainsFunc(slices.Concat(b.Limits, b.Committed), func(l budget.Limit) bool { return l.Dimension == dimension })
		}
		if len(o.Max) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(o.Max)), limits) {
			d.report(idleOverride(at, b.Path))
		}
		if o.Max[budget.Cost] > 0 && o.Approvals == 0 {
			d.report(moneyWithoutApproval(at, d.policy.Currency, quantity.FormatMoney(o.Max[budget.Cost])))
		}
	}
	overrides := func(n *budget.Budget) bool { return len(n.Overrides) > 0 && n.EffectiveLevel() == budget.SoftMandatory }
	if b.Enforcement == budget.SoftMandatory && !below(b, overrides) {
		d.report(softWithoutOverride(d.at(b, "enforcement"), b.Path))
	}
}

func (d *decoder) checkRunning(b *budget.Budget) {
	if s := b.Stop; s != nil && s.Signal != "" && s.Grace == 0 {
		d.report(stopWithoutGrace(d.at(b, "stop"), s.Signal))
	}
	if b.Throttle != nil && !below(b, func(n *budget.Budget) bool { return n.EffectiveRunning() == budget.ThrottleRunning }) {
		d.report(idleThrottle(d.at(b, "throttle"), b.Path))
	}
	if b.Running != budget.RunningInherit && b.Running != budget.LetFinish && b.Enforcement == budget.Advisory {
		d.report(advisoryEnd(d.at(b, "running")))
	}
	if b.EffectiveRunning() == budget.ThrottleRunning && len(b.Children) == 0 && onlyBatch(b.Match) {
		d.report(throttledBatch(d.places[b].match, b.Path))
	}
}

// onlyBatch reports whether a rule claims nothing but jobs that end by themselves:
// they have no count that could be lowered.
func onlyBatch(m *budget.Match) bool {
	return m != nil && m.When != nil && slices.Contains([]string{`job.type == "batch"`, `job.type == "sysbatch"`}, m.When.String())
}

// checkAlerts finds alerts about limits that there are not.
func (d *decoder) checkAlerts(b *budget.Budget) {
	for _, a := range b.Alerts {
		if (a.When.Uses("limit") || a.When.Uses("forecast") || a.When.Uses(burnRate)) && len(b.Limits) == 0 {
			d.report(alertWithoutLimit(d.at(b, "alert "+a.Name), b.Path))
		}
	}
}

// checkWatts finds classes whose energy nothing bounds although it is limited or
// priced.
func (d *decoder) checkWatts() {
	watts := map[string]int64{}
	for _, c := range d.policy.Classes {
		watts[c.Name] = c.Watts
	}
	limit, limited := d.energyLimit()
	for _, c := range d.policy.Classes {
		shares := len(c.Shares) > 0 && !slices.ContainsFunc(c.Shares, func(s budget.Share) bool { return watts[s.Class] == 0 })
		if c.Watts > 0 || shares {
			continue
		}
		if limited {
			d.report(noWattsForLimit(d.classes[c.Name], c.Name, limit))
		} else if i := slices.IndexFunc(d.policy.RateCards, func(r budget.RateCard) bool { return r.Energy != nil }); i >= 0 && len(d.costs) > 0 {
			d.report(noWattsForPrice(d.classes[c.Name], c.Name, d.policy.RateCards[i].Energy.Source))
		}
	}
}

// energyLimit is the first limit on energy.
func (d *decoder) energyLimit() (at budget.Source, found bool) {
	d.policy.Walk(func(b *budget.Budget) {
		for _, l := range slices.Concat(b.Limits, b.Committed) {
			if !found && l.Dimension == budget.Energy {
				at, found = l.Source, true
			}
		}
		if j := b.PerJob.Energy; j != nil && !found {
			at, found = j.Source, true
		}
	})
	return at, found
}

// checkShadowed finds match rules that never claim a job: because a budget below
// claims each first, or because nobody is called so.
func (d *decoder) checkShadowed() {
	d.policy.Walk(func(b *budget.Budget) {
		m := b.Match
		if m == nil {
			return
		}
		for _, child := range b.Children {
			if below(child, func(n *budget.Budget) bool { return covers(n.Match, m) }) {
				d.report(shadowed(d.places[b].match, b.Path, child))
				break
			}
		}
		if len(m.Identities) > 0 && !slices.ContainsFunc(m.Identities, namesSomebody) {
			d.report(nobodyIsCalled(d.places[b].match, strings.Join(m.Identities, ", ")))
		}
	})
}

// covers reports whether whatever fits one rule is certain to fit the other.
func covers(wide, narrow *budget.Match) bool {
	return wide != nil && (wide.When == nil || narrow.When != nil && wide.When.String() == narrow.When.String()) &&
		coversList(wide.Namespaces, narrow.Namespaces) && coversList(wide.Identities, narrow.Identities) && coversList(wide.NodePools, narrow.NodePools)
}

func coversList(wide, narrow []string) bool {
	if len(wide) == 0 || slices.Contains(wide, "*") {
		return true
	}
	return len(narrow) > 0 && !slices.ContainsFunc(narrow, func(p string) bool { return !slices.Contains(wide, p) })
}

// namesSomebody reports whether a pattern may fit the name of a submitter: the
// only type that has a name is management.
func namesSomebody(pattern string) bool {
	name, isType := strings.CutPrefix(pattern, "type:")
	return !isType || strings.Contains(name, "*") || name == "management"
}
