package budgetspec

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// measure is an amount of one dimension.
type measure struct {
	dimension budget.Dimension
	limit     quantity.Limit
	at        hcl.Range
}

// amounts are those measures that have an end.
func amounts(measures []measure) map[budget.Dimension]quantity.Amount {
	finite := make(map[budget.Dimension]quantity.Amount, len(measures))
	for _, m := range measures {
		if amount, ok := m.limit.Finite(); ok {
			finite[m.dimension] = amount
		}
	}
	return finite
}

// measured reads what the language calls by a name: cost, energy, gpu_hours, gpus,
// tokens, jobs. What is how diagnostics call it, and as changes its unit.
func (d *decoder) measured(name string, expr hclsyntax.Expression, what string, at hcl.Range, as func(unit) unit) []measure {
	one := func(dimension budget.Dimension, u unit) []measure {
		limit, ok := d.amount(expr, what, as(u))
		if !ok {
			return nil
		}
		return []measure{{dimension, limit, at}}
	}
	byClass := func(dimension func(string) budget.Dimension, u unit) []measure {
		var out []measure
		for _, a := range d.byClassOf(expr, what, at, as(u)) {
			out = append(out, measure{dimension(a.class), a.limit, a.at})
		}
		return out
	}
	switch name {
	case "cost":
		return one(budget.Cost, moneyUnit())
	case "energy":
		return one(budget.Energy, energyUnit())
	case "jobs":
		return one(budget.Jobs, jobUnit())
	case "gpu_hours":
		return byClass(budget.GPUTime, gpuHourUnit())
	case "gpus":
		return byClass(budget.GPUs, gpuUnit())
	case "tokens":
		return d.byKind(expr, what, as(tokenUnit()))
	}
	panic("budgetspec: no measure is called " + name)
}

// byKind reads { input = 1000, output = 100 }.
func (d *decoder) byKind(expr hclsyntax.Expression, what string, u unit) []measure {
	var kinds []string
	for _, kind := range budget.TokenKinds() {
		kinds = append(kinds, string(kind))
	}
	var out []measure
	for _, i := range d.object(expr, what, `{ input = 1000000, output = 100000 }`) {
		if !slices.Contains(kinds, i.key) {
			d.report(unknownKey(i.keyAt, what, i.key, kinds))
			continue
		}
		if limit, ok := d.amount(i.value, what+" of "+strconv.Quote(i.key), u); ok {
			out = append(out, measure{budget.Tokens(budget.TokenKind(i.key)), limit, i.at})
		}
	}
	return out
}

// maxima reads { cost = 5000, gpu_hours = { h100 = 10 } }, whose keys are names of
// measures.
func (d *decoder) maxima(attr *hclsyntax.Attribute, names []string) []measure {
	var out []measure
	for _, i := range d.object(attr.Expr, attr.Name, `{ cost = 500 }`) {
		if !slices.Contains(names, i.key) {
			d.report(unknownKey(i.keyAt, attr.Name, i.key, names))
			continue
		}
		out = append(out, d.measured(i.key, i.value, i.key+" in "+attr.Name, i.at, unit.only)...)
	}
	return out
}

// all reads the attributes with these names, in their order.
func (d *decoder) all(attrs map[string]*hclsyntax.Attribute, names []string, as func(unit) unit) []measure {
	var out []measure
	for _, name := range names {
		if attr := attrs[name]; attr != nil {
			out = append(out, d.measured(name, attr.Expr, name, attr.Range(), as)...)
		}
	}
	return out
}

// asLimit leaves a unit as it is.
func asLimit(u unit) unit { return u }

// empty reports whether somebody wrote nothing into a block.
func empty(block *hclsyntax.Block) bool {
	return len(block.Body.Attributes)+len(block.Body.Blocks) == 0
}

func (d *decoder) limitBlock(b *budget.Budget, block *hclsyntax.Block, windows map[budget.Window]hcl.Range) {
	known := d.open(limitSpec(), block.Body)
	name, ok := d.label(block, limitSpec())
	if !ok {
		return
	}
	window, ok := budget.ParseWindow(name)
	if !ok {
		d.report(unknownWindow(block.LabelRanges[0], name))
		return
	}
	if first, taken := windows[window]; taken {
		d.report(duplicateName(block.DefRange(), "limit", name, first))
		return
	}
	windows[window] = block.DefRange()
	measures := d.all(known.attributes, []string{"gpu_hours", "cost", "energy", "tokens"}, asLimit)
	before := len(b.Limits)
	for _, m := range measures {
		d.limit(b, window, m)
	}
	inner := d.only("rollover", known.blocks)
	if len(measures) == 0 && (empty(block) || inner != nil) {
		d.report(missing(block.DefRange(), "limit", "gpu_hours, cost, energy or tokens", "cost = 1000"))
		return
	}
	if inner != nil {
		d.rolloverBlock(b.Limits[before:], window, inner)
	}
}

// limit records one limit and where it was written.
func (d *decoder) limit(b *budget.Budget, w budget.Window, m measure) {
	l := budget.Limit{Window: w, Dimension: m.dimension, Ceiling: m.limit, Source: sourceOf(m.at)}
	if w == budget.Committed {
		b.Committed = append(b.Committed, l)
	} else {
		b.Limits = append(b.Limits, l)
	}
	d.places[b].limits[limitKey{w, m.dimension}] = m.at
	if m.dimension == budget.Cost {
		d.useCost(m.limit, m.at)
	}
}

func (d *decoder) committedBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(committedSpec(), block, "gpu_hours, cost or energy", "gpu_hours = 2000").attributes
	for _, m := range d.all(attrs, []string{"gpu_hours", "cost", "energy"}, asLimit) {
		d.limit(b, budget.Committed, m)
	}
}

// rolloverBlock gives the limits of one window what they carry over.
func (d *decoder) rolloverBlock(limits []budget.Limit, window budget.Window, block *hclsyntax.Block) {
	d.noLabel(block)
	attrs := d.open(rolloverSpec(), block.Body).attributes
	if window == budget.Total {
		d.report(endlessRollover(block.DefRange()))
		return
	}
	carry, most := attrs["carry"], attrs["max"]
	if carry == nil && most == nil {
		d.report(missing(block.DefRange(), "rollover", "carry or max", `carry = "10%"`))
		return
	}
	rule := budget.Rollover{Periods: 1, Source: sourceOf(block.DefRange())}
	if carry != nil {
		rule.Share = d.percent(carry)
	}
	if attr := attrs["expires"]; attr != nil {
		rule.Periods = d.periods(attr, window)
	}
	maxima := map[budget.Dimension]quantity.Amount{}
	if most != nil {
		measures := d.maxima(most, []string{"gpu_hours", "cost", "energy", "tokens"})
		maxima = amounts(measures)
		for _, m := range measures {
			if !slices.ContainsFunc(limits, func(l budget.Limit) bool { return l.Dimension == m.dimension }) {
				d.report(rolloverWithoutLimit(m.at, m.dimension.Key()))
			}
		}
	}
	for i := range limits {
		limits[i].Rollover = capped(rule, limits[i], maxima)
	}
}

// capped is the rollover of one limit: the share of it, at most the maximum for
// its dimension. The model keeps whichever is less, for both are known here.
func capped(rule budget.Rollover, l budget.Limit, maxima map[budget.Dimension]quantity.Amount) *budget.Rollover {
	most, limited := maxima[l.Dimension]
	ceiling, finite := l.Ceiling.Finite()
	switch {
	case !limited && rule.Share == 0:
		return nil
	case limited && (rule.Share == 0 || !finite || most < rule.Share.Of(ceiling)):
		rule.Share, rule.Most = 0, &most
	}
	return &rule
}

// periodsMax is for how many periods a rest can be carried: the ledger keeps no
// more.
const periodsMax = 50

var calendarSpan = regexp.MustCompile(`^([1-9][0-9]{0,2}) (hour|day|week|month|quarter|year)s?$`)

// perPeriod says how many periods of a window a calendar span has; 0 where it is
// no whole number of them.
func perPeriod(span string, window budget.Window) int {
	switch {
	case span == window.String():
		return 1
	case span == "week" && window == budget.Day:
		return 7
	case span == "quarter" && window == budget.Month:
		return 3
	case span == "year" && window == budget.Month:
		return 12
	case span == "year" && window == budget.Quarter:
		return 4
	}
	return 0
}

// periods reads a time in the calendar, "1 month" or "2 weeks", as a number of
// periods of a window; 1 where it is wrong.
func (d *decoder) periods(attr *hclsyntax.Attribute, window budget.Window) int {
	text, ok := d.text(attr)
	if !ok {
		return 1
	}
	parts := calendarSpan.FindStringSubmatch(strings.ToLower(text))
	if parts == nil {
		d.report(badSpan(attr.Expr.Range(), text, window))
		return 1
	}
	n, _ := strconv.Atoi(parts[1]) // at most three digits
	n *= perPeriod(parts[2], window)
	if n < 1 || n > periodsMax {
		d.report(badSpan(attr.Expr.Range(), text, window))
		return 1
	}
	return n
}
