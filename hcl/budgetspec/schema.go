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
	// planned are names of the full language that this release does not
	// implement. They are refused by name: a rule that is written down and has
	// no effect is worse than none.
	planned []string
}

// The shapes of this release. A description is allowed wherever a name is.
func moduleSpec() blockSpec {
	return blockSpec{
		kind:    "file",
		blocks:  []string{"governor", "gpu_class", "rate_card", "budget"},
		planned: []string{"variable", "locals", "schedule", "notify", "assert", "moved"},
	}
}

func governorSpec() blockSpec {
	return blockSpec{
		kind:       "governor",
		attributes: []string{"description", "enforcement", "unmatched", "on_failure", "timezone", "currency"},
		planned:    []string{"meter"},
	}
}

func classSpec() blockSpec {
	return blockSpec{
		kind: "gpu_class", label: "name",
		attributes: []string{"description", "devices"},
		planned:    []string{"watts", "share"},
	}
}

func rateCardSpec() blockSpec {
	return blockSpec{
		kind: "rate_card", label: "name",
		attributes: []string{"description", "effective_from"},
		blocks:     []string{"gpu"},
		planned:    []string{"energy", "tokens", "modifier"},
	}
}

func priceSpec() blockSpec {
	return blockSpec{kind: "gpu", label: "GPU class", attributes: []string{"description", "per_hour"}}
}

func budgetSpec() blockSpec {
	return blockSpec{
		kind: "budget", label: "name",
		attributes: []string{"description", "owner", "lease"},
		blocks:     []string{"match", "concurrent", "limit", "per_job", "over_budget", "budget"},
		planned: []string{
			"alert", "cohort", "fair_share", "max_committed", "max_idle", "override", "per_run", "priority", "queue", "soft",
		},
	}
}

func matchSpec() blockSpec {
	return blockSpec{kind: "match", attributes: []string{"description", "namespaces", "identities"}, planned: []string{"node_pools", "when"}}
}

func concurrentSpec() blockSpec {
	return blockSpec{kind: "concurrent", attributes: []string{"description", "gpus"}, planned: []string{"borrow", "lend", "reclaim"}}
}

func limitSpec() blockSpec {
	return blockSpec{
		kind: "limit", label: "window",
		attributes: []string{"description", "gpu_hours", "cost"},
		planned:    []string{"energy", "rollover", "tokens"},
	}
}

func perJobSpec() blockSpec {
	return blockSpec{
		kind:       "per_job",
		attributes: []string{"description", "gpus", "max_runtime", "default_runtime", "gpu_hours", "cost", "reschedules"},
		planned:    []string{"energy", "tokens"},
	}
}

func overBudgetSpec() blockSpec {
	return blockSpec{kind: "over_budget", attributes: []string{"description", "admit"}, planned: []string{"running", "stop", "throttle"}}
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
		case slices.Contains(spec.planned, name):
			d.report(notImplemented(attr.NameRange, name))
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
		case slices.Contains(spec.planned, block.Type):
			d.report(notImplemented(block.TypeRange, block.Type))
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
