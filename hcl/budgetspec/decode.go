package budgetspec

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

const anyClass = budget.AnyClass

// decoder builds one policy from the bodies of all files and remembers where
// everything was written, for the checks that need the whole.
type decoder struct {
	policy *budget.Policy
	// watched are the budgets that notifiers name.
	watched []watchedBudget
	diags   hcl.Diagnostics
	source  map[string][]byte

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
	// uses are the places that name a class, shared those of them in a share.
	uses, shared []classUse
	// schedules, notify and asserts are where blocks with these labels are declared
	// first; labels of notify are joined by a dot.
	schedules, notify, asserts map[string]hcl.Range
	// moves are where the policy's moves stand.
	moves     []hcl.Range
	variables map[string]*variable
	locals    map[string]*local
	// busy are the locals that are being computed, the outermost first.
	busy []string
	// stepsLeft bounds the work of all expressions together.
	stepsLeft int
	// broken says that a file could not be read: what it declares is not missing.
	broken bool
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
	// attributes are where attributes and blocks stand that checks are about, by
	// name: "cohort", "borrow", "lend h100", "stop".
	attributes map[string]hcl.Range
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
		schedules:  map[string]hcl.Range{},
		notify:     map[string]hcl.Range{},
		asserts:    map[string]hcl.Range{},
		variables:  map[string]*variable{},
		locals:     map[string]*local{},
		stepsLeft:  moduleStepsMax,
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

// module decodes one file. What it declares for expressions is known already.
func (d *decoder) module(body *hclsyntax.Body) {
	for _, block := range d.open(moduleSpec(), body).blocks {
		switch block.Type {
		case "governor":
			d.governorBlock(block)
		case "gpu_class":
			d.classBlock(block)
		case "rate_card":
			d.rateCardBlock(block)
		case "schedule":
			d.scheduleBlock(block)
		case "notify":
			d.notifyBlock(block)
		case "assert":
			d.assertBlock(block)
		case "moved":
			d.movedBlock(block)
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
	for _, c := range d.policy.RateCards {
		slices.SortFunc(c.Modifiers, func(a, b budget.Modifier) int { return strings.Compare(a.Name, b.Name) })
	}
	slices.SortFunc(d.policy.Schedules, func(a, b budget.Schedule) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(d.policy.Notifiers, func(a, b budget.Notifier) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
	})
	slices.SortFunc(d.policy.Asserts, func(a, b budget.Assert) int { return strings.Compare(a.Name, b.Name) })
	byName := func(a, b *budget.Budget) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(d.policy.Roots, byName)
	d.policy.Walk(func(b *budget.Budget) {
		slices.SortFunc(b.Children, byName)
		byWindow := func(x, y budget.Limit) int {
			return cmp.Or(cmp.Compare(x.Window, y.Window), strings.Compare(string(x.Dimension), string(y.Dimension)))
		}
		slices.SortFunc(b.Limits, byWindow)
		slices.SortFunc(b.Committed, byWindow)
		slices.SortFunc(b.Alerts, func(x, y budget.Alert) int { return strings.Compare(x.Name, y.Name) })
		slices.SortFunc(b.Overrides, func(x, y budget.Override) int { return strings.Compare(x.Name, y.Name) })
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
	known := d.open(governorSpec(), block.Body)
	attrs := known.attributes
	if inner := d.only("meter", known.blocks); inner != nil {
		d.meterBlock(inner)
	}
	if attr := attrs["enforcement"]; attr != nil {
		if word, ok := d.choice(attr, []string{"enforce", "shadow"}); ok && word == "shadow" {
			d.policy.Enforcement = budget.Shadow
		}
	}
	if attr := attrs["unmatched"]; attr != nil {
		if word, ok := d.choice(attr, []string{"deny", "allow"}); ok && word == "allow" {
			d.policy.Unmatched = budget.UnmatchedAllow
		}
	}
	if attr := attrs["out_of_band"]; attr != nil {
		if word, ok := d.choice(attr, []string{"govern", "report"}); ok && word == "report" {
			d.policy.OutOfBand = budget.OutOfBandReport
		}
	}
	if attr := attrs["on_failure"]; attr != nil {
		d.choice(attr, []string{"closed"})
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

// The bounds of a meter's interval: more often would load the servers for
// nothing, and less often would leave work without a bound for long.
const (
	intervalMin = 5 * time.Second
	intervalMax = 10 * time.Minute
)

func (d *decoder) meterBlock(block *hclsyntax.Block) {
	d.noLabel(block)
	attrs := d.open(meterSpec(), block.Body).attributes
	meter := &d.policy.Meter
	if attr := attrs["basis"]; attr != nil {
		if word, ok := d.choice(attr, []string{"allocated", "running"}); ok && word == "running" {
			meter.Basis = budget.Running
		}
	}
	if attr := attrs["interval"]; attr != nil {
		interval := d.duration(attr)
		if interval != 0 && (interval < intervalMin || interval > intervalMax) {
			d.report(outOfRange(attr.Expr.Range(), attr.Name, d.written(attr.Expr), fmt.Sprintf("from %q to %q", formatDuration(intervalMin), formatDuration(intervalMax))))
		}
		meter.Interval = interval
	}
	if attr := attrs["idle"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"shared", "owner", "none"}); word {
		case "owner":
			meter.Idle = budget.IdleOwner
		case "none":
			meter.Idle = budget.IdleNone
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
	if attr := attrs["watts"]; attr != nil {
		if watts, ok := d.count(attr, countRange{least: 1, most: wattsMax}); ok {
			class.Watts = int64(watts)
		}
	}
	if attr := attrs["share"]; attr != nil {
		class.Shares = d.shares(attr, name)
	}
	d.policy.Classes = append(d.policy.Classes, class)
}

// wattsMax is more than any single device draws.
const wattsMax = 100_000

// shares reads { h100 = 1 / 7 }: as how much of other classes one device counts.
func (d *decoder) shares(attr *hclsyntax.Attribute, class string) []budget.Share {
	var shares []budget.Share
	part := gpuUnit().only()
	for _, i := range d.object(attr.Expr, attr.Name, `{ h100 = 1 / 7 }`) {
		if i.key == class || i.key == anyClass {
			d.report(badShare(i.keyAt, class, i.key))
			continue
		}
		d.useClass(i.key, i.keyAt)
		parts, ok := d.finite(i.value, attr.Name+" of "+strconv.Quote(i.key), part)
		switch {
		case !ok:
		case parts > quantity.GPU:
			d.report(largeShare(i.value.Range(), i.key, d.written(i.value)))
		default:
			shares = append(shares, budget.Share{Class: i.key, Parts: parts})
			d.shared = append(d.shared, classUse{i.key, i.keyAt})
		}
	}
	slices.SortFunc(shares, func(a, b budget.Share) int { return strings.Compare(a.Class, b.Class) })
	return shares
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
