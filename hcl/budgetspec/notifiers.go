package budgetspec

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// notifierUse is a place that names a notifier.
type notifierUse struct {
	name string
	at   hcl.Range
}

// notifiers reads [notify.webhook.finops].
func (d *decoder) notifiers(attr *hclsyntax.Attribute) []string {
	tuple, ok := unwrap(attr.Expr).(*hclsyntax.TupleConsExpr)
	if !ok {
		d.report(wrongType(attr.Expr.Range(), attr.Name, d.written(attr.Expr), "a list, such as [notify.webhook.finops]"))
		return nil
	}
	if len(tuple.Exprs) == 0 {
		d.report(emptyList(attr.Expr.Range(), attr.Name))
	}
	var names []string
	for _, expr := range tuple.Exprs {
		name, ok := notifierName(expr)
		switch {
		case !ok:
			d.report(badNotifier(expr.Range(), d.written(expr)))
		case slices.Contains(names, name):
			d.report(repeatedElement(expr.Range(), attr.Name, name))
		default:
			names = append(names, name)
			d.notifies = append(d.notifies, notifierUse{name, expr.Range()})
		}
	}
	return names
}

// notifierName is "webhook.finops" of the reference notify.webhook.finops.
func notifierName(expr hclsyntax.Expression) (string, bool) {
	traversal, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || traversal.RootName() != "notify" || len(traversal) != 3 {
		return "", false
	}
	var parts []string
	for _, step := range traversal[1:] {
		switch s := step.(type) {
		case hcl.TraverseAttr:
			parts = append(parts, s.Name)
		case hcl.TraverseIndex:
			if s.Key.Type() != cty.String {
				return "", false
			}
			parts = append(parts, s.Key.AsString())
		}
	}
	return strings.Join(parts, "."), len(parts) == 2
}
