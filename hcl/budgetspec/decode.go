package budgetspec

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

const anyClass = budget.AnyClass

// decoder builds one policy from the bodies of all files and remembers where
// everything was written, for the checks that need the whole.
type decoder struct {
	policy *budget.Policy
	diags  hcl.Diagnostics
	source map[string][]byte

	governor *hclsyntax.Block
	// classes and devices by name: where they were declared first.
	classes map[string]hcl.Range
	devices map[string]deviceUse
	cards   map[string]hcl.Range
	// starts names the rate card that begins at an instant (in UTC).
	starts map[time.Time]string
	// incomplete are the rate cards with a price that could not be read: what
	// they lack has been reported already.
	incomplete map[string]bool
	// uses are the places that name a class.
	uses []classUse
	// costs are the places of all finite limits on cost.
	costs  []hcl.Range
	places map[*budget.Budget]*places
	// tooMany is the first budget beyond budgetsMax, or nil.
	tooMany *hclsyntax.Block
}

type deviceUse struct {
	class string
	at    hcl.Range
}

type classUse struct {
	class string
	at    hcl.Range
}

// places are where the parts of one budget were written.
type places struct {
	header, match  hcl.Range
	limits         map[limitKey]hcl.Range
	defaultRuntime hcl.Range
}

type limitKey struct {
	window    budget.Window
	dimension budget.Dimension
}

func newDecoder(revision string) *decoder {
	return &decoder{
		policy:     &budget.Policy{Revision: revision, Location: time.UTC, Currency: defaultCurrency},
		source:     map[string][]byte{},
		classes:    map[string]hcl.Range{},
		devices:    map[string]deviceUse{},
		cards:      map[string]hcl.Range{},
		starts:     map[time.Time]string{},
		incomplete: map[string]bool{},
		places:     map[*budget.Budget]*places{},
	}
}

func (d *decoder) report(problem *hcl.Diagnostic) { d.diags = append(d.diags, problem) }

func (d *decoder) useClass(class string, at hcl.Range) {
	if class != anyClass {
		d.uses = append(d.uses, classUse{class, at})
	}
}

// useCost remembers a limit that needs prices.
func (d *decoder) useCost(ceiling quantity.Limit, at hcl.Range) {
	if _, finite := ceiling.Finite(); finite {
		d.costs = append(d.costs, at)
	}
}

func sourceOf(at hcl.Range) budget.Source {
	return budget.Source{File: at.Filename, Line: at.Start.Line}
}

// module decodes one file.
func (d *decoder) module(body *hclsyntax.Body) {
	for _, block := range d.open(moduleSpec(), body).blocks {
		switch block.Type {
		case "governor":
			d.governorBlock(block)
		case "gpu_class":
			d.classBlock(block)
		case "rate_card":
			d.rateCardBlock(block)
		case "budget":
			if b := d.budgetBlock(block, nil); b != nil {
				d.policy.Roots = d.adopt(d.policy.Roots, b)
			}
		}
	}
}

// finish puts everything in its documented order, after all files.
func (d *decoder) finish() {
	if d.tooMany != nil {
		d.report(tooManyBudgets(d.tooMany.DefRange()))
	}
	slices.SortFunc(d.policy.Classes, func(a, b budget.Class) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(d.policy.RateCards, func(a, b budget.RateCard) int {
		return cmp.Or(a.EffectiveFrom.Compare(b.EffectiveFrom), strings.Compare(a.Name, b.Name))
	})
	byName := func(a, b *budget.Budget) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(d.policy.Roots, byName)
	d.policy.Walk(func(b *budget.Budget) {
		slices.SortFunc(b.Children, byName)
		slices.SortFunc(b.Limits, func(x, y budget.Limit) int {
			return cmp.Or(cmp.Compare(x.Window, y.Window), strings.Compare(string(x.Dimension), string(y.Dimension)))
		})
	})
}

// adopt adds a budget to its siblings unless its name is taken.
func (d *decoder) adopt(siblings []*budget.Budget, b *budget.Budget) []*budget.Budget {
	for _, s := range siblings {
		if s.Name == b.Name {
			d.report(duplicateName(d.places[b].header, "budget", b.Path, d.places[s].header))
			return siblings
		}
	}
	return append(siblings, b)
}

func (d *decoder) governorBlock(block *hclsyntax.Block) {
	if d.governor != nil {
		d.report(repeatedBlock(block.DefRange(), "governor", d.governor.DefRange()))
		return
	}
	d.governor = block
	d.noLabel(block)
	attrs := d.open(governorSpec(), block.Body).attributes
	if attr := attrs["enforcement"]; attr != nil {
		if word, ok := d.choice(attr, []string{"enforce", "shadow"}, nil); ok && word == "shadow" {
			d.policy.Enforcement = budget.Shadow
		}
	}
	if attr := attrs["unmatched"]; attr != nil {
		if word, ok := d.choice(attr, []string{"deny", "allow"}, nil); ok && word == "allow" {
			d.policy.Unmatched = budget.UnmatchedAllow
		}
	}
	if attr := attrs["on_failure"]; attr != nil {
		d.choice(attr, []string{"closed"}, nil)
	}
	if attr := attrs["timezone"]; attr != nil {
		if name, ok := d.text(attr); ok {
			loc, known := zone(name)
			if !known {
				d.report(unknownZone(attr.Expr.Range(), name))
			} else {
				d.policy.Location = loc
			}
		}
	}
	if attr := attrs["currency"]; attr != nil {
		if code, ok := d.text(attr); ok {
			if !validCurrency(code) {
				d.report(unknownCurrency(attr.Expr.Range(), code))
			}
			d.policy.Currency = code
		}
	}
}

func (d *decoder) classBlock(block *hclsyntax.Block) {
	attrs := d.open(classSpec(), block.Body).attributes
	name, ok := d.name(block, classSpec())
	if !ok {
		return
	}
	if name == anyClass {
		d.report(reservedClass(block.LabelRanges[0]))
		return
	}
	if first, taken := d.classes[name]; taken {
		d.report(duplicateName(block.DefRange(), "gpu_class", name, first))
		return
	}
	d.classes[name] = block.DefRange()
	class := budget.Class{Name: name, Source: sourceOf(block.DefRange())}
	attr := attrs["devices"]
	if attr == nil {
		d.report(missing(block.DefRange(), "gpu_class", "devices", `devices = ["nvidia/gpu/NVIDIA L40S"]`))
	} else {
		for _, e := range d.list(attr) {
			if !validDevice(e.text) {
				d.report(badDevice(e.at, e.text))
				continue
			}
			if first, taken := d.devices[e.text]; taken {
				d.report(deviceInTwoClasses(e.at, e.text, name, first))
				continue
			}
			d.devices[e.text] = deviceUse{name, e.at}
			class.Devices = append(class.Devices, e.text)
		}
	}
	d.policy.Classes = append(d.policy.Classes, class)
}

// validDevice reports whether a name has Nomad's three parts. Only the model
// may contain blanks or slashes.
func validDevice(name string) bool {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 || strings.ContainsAny(parts[0]+parts[1], " \t") || strings.Contains(name, "*") {
		return false
	}
	return !slices.ContainsFunc(parts, func(p string) bool { return p == "" || p != strings.TrimSpace(p) })
}

func (d *decoder) rateCardBlock(block *hclsyntax.Block) {
	known := d.open(rateCardSpec(), block.Body)
	name, ok := d.name(block, rateCardSpec())
	if !ok {
		return
	}
	if first, taken := d.cards[name]; taken {
		d.report(duplicateName(block.DefRange(), "rate_card", name, first))
		return
	}
	d.cards[name] = block.DefRange()
	card := budget.RateCard{Name: name, PerGPUHour: map[string]quantity.Amount{}, Source: sourceOf(block.DefRange())}
	prices := map[string]hcl.Range{}
	for _, b := range known.blocks {
		before := len(d.diags)
		d.priceBlock(b, card.PerGPUHour, prices)
		d.incomplete[name] = d.incomplete[name] || len(d.diags) > before
	}
	if len(block.Body.Blocks) == 0 {
		d.report(missing(block.DefRange(), "rate_card", "the price of any GPU", `gpu "h100" { per_hour = 2.90 }`))
	}
	attr := known.attributes["effective_from"]
	if attr == nil {
		d.report(missing(block.DefRange(), "rate_card", "effective_from", `effective_from = "2026-07-01T00:00:00+02:00"`))
		return
	}
	text, ok := d.text(attr)
	if !ok {
		return
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		d.report(badTime(attr.Expr.Range(), text))
		return
	}
	card.EffectiveFrom = at.UTC()
	if other, taken := d.starts[card.EffectiveFrom]; taken {
		d.report(simultaneousCards(attr.Expr.Range(), text, name, other, d.cards[other]))
		return
	}
	d.starts[card.EffectiveFrom] = name
	d.policy.RateCards = append(d.policy.RateCards, card)
}

func (d *decoder) priceBlock(block *hclsyntax.Block, prices map[string]quantity.Amount, places map[string]hcl.Range) {
	attrs := d.open(priceSpec(), block.Body).attributes
	class, ok := d.label(block, priceSpec())
	if !ok {
		return
	}
	if class == anyClass {
		d.report(priceOfAny(block.LabelRanges[0]))
		return
	}
	d.useClass(class, block.LabelRanges[0])
	if first, taken := places[class]; taken {
		d.report(duplicateName(block.DefRange(), "gpu", class, first))
		return
	}
	places[class] = block.DefRange()
	attr := attrs["per_hour"]
	if attr == nil {
		d.report(missing(block.DefRange(), "gpu", "per_hour", "per_hour = 2.90"))
		return
	}
	limit, ok := d.amount(attr.Expr, attr.Name, priceUnit())
	if !ok {
		return
	}
	price, finite := limit.Finite()
	if !finite {
		d.report(unlimitedPrice(attr.Expr.Range()))
		return
	}
	prices[class] = price
}

// count reads a whole number that may be zero.
func (d *decoder) count(attr *hclsyntax.Attribute, most int) (int, bool) {
	v, ok := d.value(attr.Expr)
	if !ok {
		return 0, false
	}
	if v.Type() == cty.String && v.AsString() == wordNone {
		return 0, true
	}
	if v.Type() == cty.Number {
		n, accuracy := v.AsBigFloat().Int64()
		if accuracy == big.Exact && n >= 0 && n <= int64(most) {
			return int(n), true
		}
	}
	d.report(badCount(attr.Expr.Range(), attr.Name, d.written(attr.Expr), most))
	return 0, false
}
