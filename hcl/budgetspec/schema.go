package budgetspec

import (
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// blockSpec is the shape of one kind of block.
type blockSpec struct {
	kind string
	// label is what the block's one label means; "" for a block without.
	label      string
	attributes []string
	blocks     []string
}

// The shapes of the language. A description is allowed wherever a name is.
func moduleSpec() blockSpec {
	return blockSpec{kind: "file", blocks: []string{
		"assert", "budget", "governor", "gpu_class", "locals", "moved", "notify", "rate_card", "schedule", "variable",
	}}
}

// sensitive is known in order to be refused by name.
func variableSpec() blockSpec {
	return blockSpec{
		kind: "variable", label: "name", attributes: []string{"default", "description", "sensitive", "type"}, blocks: []string{"validation"},
	}
}

func validationSpec() blockSpec {
	return blockSpec{kind: "validation", attributes: []string{"condition", "error_message"}}
}

func scheduleSpec() blockSpec {
	return blockSpec{kind: "schedule", label: "name", attributes: []string{"days", "description", "end", "start"}}
}

func notifySpec() blockSpec {
	return blockSpec{kind: "notify", label: "kind and name", attributes: []string{"budgets", "description", "events", "format", "secret_env", "url"}}
}

func assertSpec() blockSpec {
	return blockSpec{kind: "assert", label: "name", attributes: []string{"condition", "description", "error_message"}}
}

func movedSpec() blockSpec {
	return blockSpec{kind: "moved", attributes: []string{"description", "from", "to"}}
}

func governorSpec() blockSpec {
	return blockSpec{
		kind:       "governor",
		attributes: []string{"description", "enforcement", "unmatched", "out_of_band", "on_failure", "timezone", "currency"},
		blocks:     []string{"meter"},
	}
}

func meterSpec() blockSpec {
	return blockSpec{kind: "meter", attributes: []string{"description", "basis", "interval", "idle"}}
}

func classSpec() blockSpec {
	return blockSpec{kind: "gpu_class", label: "name", attributes: []string{"description", "devices", "watts", "share"}}
}

func rateCardSpec() blockSpec {
	return blockSpec{
		kind: "rate_card", label: "name",
		attributes: []string{"description", "effective_from"},
		blocks:     []string{"gpu", "energy", "tokens", "modifier"},
	}
}

func priceSpec() blockSpec {
	return blockSpec{kind: "gpu", label: "GPU class", attributes: []string{"description", "per_hour"}}
}

func energySpec() blockSpec {
	return blockSpec{kind: "energy", attributes: []string{"description", "per_kwh", "pue"}}
}

func tokensSpec() blockSpec {
	return blockSpec{
		kind: "tokens", label: "model",
		attributes: []string{"description", "input_per_million", "cached_per_million", "output_per_million"},
	}
}

func budgetSpec() blockSpec {
	return blockSpec{
		kind: "budget", label: "name",
		attributes: []string{"description", "owner", "enforcement", "priority", "cohort", "lease", "soft", "max_idle", "undeclared_gpus"},
		blocks: []string{
			"match", "placement", "concurrent", "limit", "max_committed", "per_job", "per_run", "over_budget", "queue", "fair_share", "override", "alert", "budget",
		},
	}
}

func matchSpec() blockSpec {
	return blockSpec{kind: "match", attributes: []string{"description", "namespaces", "identities", "node_pools", "when"}}
}

func placementSpec() blockSpec {
	return blockSpec{kind: "placement", attributes: []string{"description", "mode"}}
}

func concurrentSpec() blockSpec {
	return blockSpec{kind: "concurrent", attributes: []string{"description", "gpus", "borrow", "lend"}, blocks: []string{"reclaim"}}
}

func reclaimSpec() blockSpec {
	return blockSpec{kind: "reclaim", attributes: []string{"description", "from", "grace", "min_runtime"}}
}

func limitSpec() blockSpec {
	return blockSpec{
		kind: "limit", label: "window",
		attributes: []string{"description", "gpu_hours", "cost", "energy", "tokens"},
		blocks:     []string{"rollover"},
	}
}

func rolloverSpec() blockSpec {
	return blockSpec{kind: "rollover", attributes: []string{"description", "carry", "max", "expires"}}
}

func committedSpec() blockSpec {
	return blockSpec{kind: "max_committed", attributes: []string{"description", "gpu_hours", "cost", "energy"}}
}

func perJobSpec() blockSpec {
	return blockSpec{
		kind:       "per_job",
		attributes: []string{"description", "gpus", "max_runtime", "default_runtime", "gpu_hours", "cost", "energy", "reschedules"},
	}
}

func perRunSpec() blockSpec {
	return blockSpec{
		kind:       "per_run",
		attributes: []string{"description", "gpu_hours", "cost", "energy", "tokens", "jobs", "concurrency", "wall_clock"},
	}
}

func overBudgetSpec() blockSpec {
	return blockSpec{kind: "over_budget", attributes: []string{"description", "admit", "running"}, blocks: []string{"throttle", "stop"}}
}

func throttleSpec() blockSpec {
	return blockSpec{kind: "throttle", attributes: []string{"description", "min_count", "step", "every"}}
}

func stopSpec() blockSpec {
	return blockSpec{kind: "stop", attributes: []string{"description", "signal", "grace", "then"}}
}

func queueSpec() blockSpec {
	return blockSpec{kind: "queue", attributes: []string{"description", "order", "timeout"}}
}

func fairShareSpec() blockSpec {
	return blockSpec{kind: "fair_share", attributes: []string{"description", "weight", "half_life"}}
}

func overrideSpec() blockSpec {
	return blockSpec{
		kind: "override", label: "name",
		attributes: []string{"description", "who", "max", "expires", "reason", "approval", "notify"},
	}
}

func alertSpec() blockSpec {
	return blockSpec{kind: "alert", label: "name", attributes: []string{"description", "when", "notify"}}
}

func modifierSpec() blockSpec {
	return blockSpec{kind: "modifier", label: "name", attributes: []string{"description", "when", "multiply"}}
}

// contents are the parts of a body that its spec knows.
type contents struct {
	// description says nothing to a machine; it must be text all the same.
	description string
	attributes  map[string]*hclsyntax.Attribute
	blocks      []*hclsyntax.Block
}

// open sorts a body into what the spec knows and reports the rest.
func (d *decoder) open(spec blockSpec, body *hclsyntax.Body) contents {
	known := contents{attributes: map[string]*hclsyntax.Attribute{}}
	for name, attr := range body.Attributes {
		switch {
		case slices.Contains(spec.attributes, name):
			known.attributes[name] = attr
		case slices.Contains(spec.blocks, name):
			d.report(isBlock(attr.NameRange, name))
		default:
			d.report(unknownName(attr.NameRange, "attribute", name, spec))
		}
	}
	for _, block := range body.Blocks {
		switch {
		case slices.Contains(spec.blocks, block.Type):
			known.blocks = append(known.blocks, block)
		case slices.Contains(spec.attributes, block.Type):
			d.report(isAttribute(block.TypeRange, block.Type))
		default:
			d.report(unknownName(block.TypeRange, "block", block.Type, spec))
		}
	}
	if attr := known.attributes["description"]; attr != nil {
		known.description, _ = d.text(attr)
	}
	return known
}

// only returns the single block of a kind, or nil, and reports further ones.
func (d *decoder) only(kind string, blocks []*hclsyntax.Block) *hclsyntax.Block {
	var first *hclsyntax.Block
	for _, block := range blocks {
		switch {
		case block.Type != kind:
		case first == nil:
			first = block
		default:
			d.report(repeatedBlock(block.DefRange(), kind, first.DefRange()))
		}
	}
	return first
}

// noLabel reports labels of a block that has none.
func (d *decoder) noLabel(block *hclsyntax.Block) {
	if len(block.Labels) > 0 {
		d.report(wrongLabels(block.DefRange(), block.Type, "", len(block.Labels)))
	}
}

// rule opens a block without a label that has no effect without one of the things
// in what; example is one of them.
func (d *decoder) rule(spec blockSpec, block *hclsyntax.Block, what, example string) contents {
	d.noLabel(block)
	known := d.open(spec, block.Body)
	if empty(block) {
		d.report(missing(block.DefRange(), block.Type, what, example))
	}
	return known
}

// label returns the one label of a block.
func (d *decoder) label(block *hclsyntax.Block, spec blockSpec) (string, bool) {
	if len(block.Labels) != 1 {
		d.report(wrongLabels(block.DefRange(), block.Type, spec.label, len(block.Labels)))
		return "", false
	}
	return block.Labels[0], true
}

// nameMax keeps paths of budgets short enough for keys, labels and tables.
const nameMax = 64

// name returns the label of a block that declares something.
func (d *decoder) name(block *hclsyntax.Block, spec blockSpec) (string, bool) {
	name, ok := d.label(block, spec)
	if !ok {
		return "", false
	}
	if !validName(name) {
		d.report(badName(block.LabelRanges[0], block.Type, name))
		return "", false
	}
	return name, true
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return name != "" && len(name) <= nameMax
}
