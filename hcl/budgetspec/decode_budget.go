package budgetspec

import (
	"cmp"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

const (
	// depthMax bounds the levels of budgets. Admission checks and writes one
	// document per level, all in one Consul transaction of at most 64 operations.
	depthMax = 16
	// budgetsMax keeps the checks that compare budgets in pairs well below a
	// second.
	budgetsMax = 2000
	// reschedulesMax is where a worst case stops meaning anything.
	reschedulesMax = 1000
)

// budgetBlock decodes one budget with its children; nil without a usable name.
func (d *decoder) budgetBlock(block *hclsyntax.Block, parent *budget.Budget) *budget.Budget {
	known := d.open(budgetSpec(), block.Body)
	name, ok := d.name(block, budgetSpec())
	if !ok {
		return nil
	}
	b := &budget.Budget{Name: name, Path: name, Description: known.description, Parent: parent, Source: sourceOf(block.DefRange())}
	if parent != nil {
		b.Path = parent.Path + "/" + name
		if strings.Count(b.Path, "/") >= depthMax {
			d.report(tooManyLevels(block.DefRange(), b.Path))
			return nil
		}
	}
	if len(d.places) == budgetsMax {
		d.tooMany = cmp.Or(d.tooMany, block)
		return nil
	}
	d.places[b] = &places{header: block.DefRange(), limits: map[limitKey]hcl.Range{}}
	d.budgetAttributes(b, known.attributes)
	if inner := d.only("match", known.blocks); inner != nil {
		d.matchBlock(b, inner)
	}
	if inner := d.only("concurrent", known.blocks); inner != nil {
		d.concurrentBlock(b, inner)
	}
	if inner := d.only("per_job", known.blocks); inner != nil {
		d.perJobBlock(b, inner)
	}
	if inner := d.only("over_budget", known.blocks); inner != nil {
		d.overBudgetBlock(b, inner)
	}
	windows := map[budget.Window]hcl.Range{}
	for _, inner := range known.blocks {
		switch inner.Type {
		case "limit":
			d.limitBlock(b, inner, windows)
		case "budget":
			if child := d.budgetBlock(inner, b); child != nil {
				b.Children = d.adopt(b.Children, child)
			}
		}
	}
	return b
}

func (d *decoder) budgetAttributes(b *budget.Budget, attrs map[string]*hclsyntax.Attribute) {
	if attr := attrs["owner"]; attr != nil {
		b.Owner, _ = d.text(attr)
	}
	if attr := attrs["lease"]; attr != nil {
		b.Lease = d.duration(attr)
	}
}

func (d *decoder) matchBlock(b *budget.Budget, block *hclsyntax.Block) {
	d.noLabel(block)
	d.places[b].match = block.DefRange()
	attrs := d.open(matchSpec(), block.Body).attributes
	match := &budget.Match{Source: sourceOf(block.DefRange())}
	if attr := attrs["namespaces"]; attr != nil {
		for _, e := range d.list(attr) {
			if !validNamespacePattern(e.text) {
				d.report(badNamespace(e.at, e.text))
				continue
			}
			match.Namespaces = append(match.Namespaces, e.text)
		}
	}
	if attr := attrs["identities"]; attr != nil {
		for _, e := range d.list(attr) {
			if problem := checkIdentity(e); problem != nil {
				d.report(problem)
				continue
			}
			match.Identities = append(match.Identities, e.text)
		}
	}
	if attrs["namespaces"] == nil && attrs["identities"] == nil {
		d.report(emptyMatch(block.DefRange()))
	}
	b.Match = match
}

// patternMax is the longest name of a namespace in Nomad, and enough for any
// role or token.
const patternMax = 128

// validNamespacePattern reports whether some namespace can match: Nomad allows
// letters, digits and dashes.
func validNamespacePattern(pattern string) bool {
	return len(pattern) <= patternMax && !strings.ContainsFunc(pattern, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '*'
	})
}

// identityKinds are what a submitter is known by in this release; the others
// belong to the full language.
func identityKinds() (known, planned []string) {
	return []string{"policy", "role", "token", "type"}, []string{"mcp", "oidc", "user"}
}

// checkIdentity returns what is wrong with "kind:name", or nil.
func checkIdentity(e element) *hcl.Diagnostic {
	kind, name, found := strings.Cut(e.text, ":")
	known, planned := identityKinds()
	for _, k := range planned {
		if found && k == kind {
			return notImplemented(e.at, "identity \""+kind+":\"")
		}
	}
	for _, k := range known {
		if found && k == kind && name != "" && len(e.text) <= patternMax {
			return nil
		}
	}
	return badIdentity(e.at, e.text, kind)
}

func (d *decoder) concurrentBlock(b *budget.Budget, block *hclsyntax.Block) {
	d.noLabel(block)
	known := d.open(concurrentSpec(), block.Body)
	attr := known.attributes["gpus"]
	if attr == nil {
		if len(block.Body.Attributes)+len(block.Body.Blocks) == 0 {
			d.report(missing(block.DefRange(), "concurrent", "gpus", "gpus = { h100 = 8 }"))
		}
		return
	}
	for _, a := range d.byClass(attr, gpuUnit()) {
		d.limit(b, budget.Concurrent, budget.GPUs(a.class), a)
	}
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
	if len(block.Body.Attributes)+len(block.Body.Blocks) == 0 {
		d.report(missing(block.DefRange(), "limit", "gpu_hours or cost", "cost = 1000"))
	}
	if attr := known.attributes["gpu_hours"]; attr != nil {
		for _, a := range d.byClass(attr, gpuHourUnit()) {
			d.limit(b, window, budget.GPUTime(a.class), a)
		}
	}
	if attr := known.attributes["cost"]; attr != nil {
		if ceiling, ok := d.amount(attr.Expr, attr.Name, moneyUnit()); ok {
			d.limit(b, window, budget.Cost, classAmount{limit: ceiling, at: attr.Range()})
			d.useCost(ceiling, attr.Range())
		}
	}
}

// limit records one limit and where it was written.
func (d *decoder) limit(b *budget.Budget, w budget.Window, dimension budget.Dimension, a classAmount) {
	b.Limits = append(b.Limits, budget.Limit{Window: w, Dimension: dimension, Ceiling: a.limit, Source: sourceOf(a.at)})
	d.places[b].limits[limitKey{w, dimension}] = a.at
}

func (d *decoder) perJobBlock(b *budget.Budget, block *hclsyntax.Block) {
	d.noLabel(block)
	attrs := d.open(perJobSpec(), block.Body).attributes
	if len(block.Body.Attributes)+len(block.Body.Blocks) == 0 {
		d.report(missing(block.DefRange(), "per_job", "gpus, gpu_hours, cost, max_runtime, default_runtime or reschedules", `default_runtime = "4h"`))
	}
	b.PerJob.GPUs = d.jobLimit(attrs["gpus"], gpuUnit())
	b.PerJob.GPUTime = d.jobLimit(attrs["gpu_hours"], gpuHourUnit())
	b.PerJob.Cost = d.jobLimit(attrs["cost"], moneyUnit())
	if limit := b.PerJob.Cost; limit != nil {
		d.useCost(limit.Ceiling, attrs["cost"].Range())
	}
	if attr := attrs["max_runtime"]; attr != nil {
		b.PerJob.MaxRuntime = d.duration(attr)
		b.PerJob.MaxRuntimeSource = sourceOf(attr.Range())
	}
	if attr := attrs["default_runtime"]; attr != nil {
		b.PerJob.DefaultRuntime = d.duration(attr)
		d.places[b].defaultRuntime = attr.Expr.Range()
	}
	if attr := attrs["reschedules"]; attr != nil {
		if n, ok := d.count(attr, reschedulesMax); ok {
			b.PerJob.Reschedules = &n
		}
	}
}

func (d *decoder) jobLimit(attr *hclsyntax.Attribute, u unit) *budget.JobLimit {
	if attr == nil {
		return nil
	}
	ceiling, ok := d.amount(attr.Expr, attr.Name, u)
	if !ok {
		return nil
	}
	return &budget.JobLimit{Ceiling: ceiling, Source: sourceOf(attr.Range())}
}

func (d *decoder) overBudgetBlock(b *budget.Budget, block *hclsyntax.Block) {
	d.noLabel(block)
	attr := d.open(overBudgetSpec(), block.Body).attributes["admit"]
	if attr == nil {
		if len(block.Body.Attributes)+len(block.Body.Blocks) == 0 {
			d.report(missing(block.DefRange(), "over_budget", "admit", `admit = "deny"`))
		}
		return
	}
	switch word, _ := d.choice(attr, []string{"deny", "warn"}, []string{"queue"}); word {
	case "deny":
		b.Admit = budget.AdmitDeny
	case "warn":
		b.Admit = budget.AdmitWarn
	}
}
