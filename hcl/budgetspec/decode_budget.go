package budgetspec

import (
	"cmp"
	"slices"
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
	d.places[b] = &places{header: block.DefRange(), limits: map[limitKey]hcl.Range{}, attributes: map[string]hcl.Range{}}
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
	d.rules(b, known.blocks)
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
	d.ruleAttributes(b, attrs)
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
		match.Identities = d.identities(attr)
	}
	if attr := attrs["node_pools"]; attr != nil {
		for _, e := range d.list(attr) {
			if !validPoolPattern(e.text) {
				d.report(badNodePool(e.at, e.text))
				continue
			}
			match.NodePools = append(match.NodePools, e.text)
		}
	}
	if attr := attrs["when"]; attr != nil {
		// Not on time: a job would change its budget as it runs.
		if when, ok := d.condition(attr, "job", "submitter"); ok {
			match.When = when
		}
	}
	if empty(block) || len(block.Body.Attributes) == 1 && attrs["description"] != nil {
		d.report(emptyMatch(block.DefRange()))
	}
	b.Match = match
}

// identities reads a list of patterns for who somebody is.
func (d *decoder) identities(attr *hclsyntax.Attribute) []string {
	var patterns []string
	for _, e := range d.list(attr) {
		if problem := checkIdentity(e); problem != nil {
			d.report(problem)
			continue
		}
		patterns = append(patterns, e.text)
	}
	return patterns
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

// validPoolPattern reports whether some node pool can match: Nomad allows
// letters, digits, dashes and underscores.
func validPoolPattern(pattern string) bool {
	return validNamespacePattern(strings.ReplaceAll(pattern, "_", "-"))
}

// identityKinds are what a submitter is known by.
func identityKinds() []string {
	return []string{"cert", "mcp", "oidc", "policy", "role", "token", "type", "user", "workload"}
}

// identityWords are names of those whom no token names, and of all tasks.
func identityWords() []string { return []string{"acl:disabled", "anonymous", "workload"} }

// checkIdentity returns what is wrong with "kind:name", or nil.
func checkIdentity(e element) *hcl.Diagnostic {
	kind, name, _ := strings.Cut(e.text, ":")
	switch {
	case slices.Contains(identityWords(), e.text),
		slices.Contains(identityKinds(), kind) && name != "" && len(e.text) <= patternMax:
		return nil
	}
	return badIdentity(e.at, e.text, kind)
}

func (d *decoder) concurrentBlock(b *budget.Budget, block *hclsyntax.Block) {
	known := d.rule(concurrentSpec(), block, "gpus", "gpus = { h100 = 8 }")
	for _, m := range d.all(known.attributes, []string{"gpus"}, asLimit) {
		d.limit(b, budget.Concurrent, m)
	}
	d.borrowing(b, known.attributes)
	if inner := d.only("reclaim", known.blocks); inner != nil {
		d.reclaimBlock(b, inner)
	}
}

func (d *decoder) perJobBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(perJobSpec(), block, "gpus, gpu_hours, cost, energy, max_runtime, default_runtime or reschedules", `default_runtime = "4h"`).attributes
	b.PerJob.GPUs = d.jobLimit(attrs["gpus"], gpuUnit())
	b.PerJob.GPUTime = d.jobLimit(attrs["gpu_hours"], gpuHourUnit())
	b.PerJob.Energy = d.jobLimit(attrs["energy"], energyUnit())
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
		if n, ok := d.count(attr, countRange{most: reschedulesMax, why: "the worst case of a job counts this many further starts, so it cannot be unlimited"}); ok {
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
