package budgetspec

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// condition is an expression that is evaluated late, for each job.
type condition struct {
	expr  hclsyntax.Expression
	text  string
	roots []string
}

// condition reads an expression that is true or false of a job at a time. It may
// refer to the given roots: of "job", "submitter", "request", "now", "schedule",
// "estimate", "limit", "forecast" and the function "burn_rate".
func (d *decoder) condition(attr *hclsyntax.Attribute, roots ...string) (budget.Condition, bool) {
	c := &condition{expr: attr.Expr, text: d.written(attr.Expr)}
	for _, traversal := range attr.Expr.Variables() {
		root := traversal.RootName()
		if !slices.Contains(roots, root) {
			d.report(reference(traversal.SourceRange(), root))
			return nil, false
		}
		c.roots = append(c.roots, root)
	}
	return c, true
}

// Uses implements budget.Condition.
func (c *condition) Uses(root string) bool { return slices.Contains(c.roots, root) }

// String implements budget.Condition.
func (c *condition) String() string { return c.text }

// Holds implements budget.Condition.
func (c *condition) Holds(f budget.Facts) (bool, error) {
	schedules := map[string]cty.Value{}
	for name, on := range f.Schedules {
		schedules[name] = cty.BoolVal(on)
	}
	ctx := &hcl.EvalContext{
		Variables: map[string]cty.Value{
			"schedule": cty.ObjectVal(schedules),
			"job":      cty.ObjectVal(map[string]cty.Value{"type": cty.StringVal(f.Job.Type), "namespace": cty.StringVal(f.Job.Namespace)}),
			"forecast": cty.ObjectVal(map[string]cty.Value{"cost": cty.NumberFloatVal(f.Forecast.Cost)}),
			"limit":    cty.ObjectVal(map[string]cty.Value{"cost": cty.NumberFloatVal(f.Limit.Cost)}),
		},
		Functions: map[string]function.Function{"burn_rate": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "over", Type: cty.String}},
			Type:   function.StaticReturnType(cty.Number),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				over, err := time.ParseDuration(args[0].AsString())
				if err != nil {
					return cty.NilVal, fmt.Errorf("burn_rate: %w", err)
				}
				rate, err := f.BurnRate(over)
				return cty.NumberFloatVal(rate), err
			},
		})},
	}
	v, diags := c.expr.Value(ctx)
	if diags.HasErrors() {
		return false, fmt.Errorf("condition %s: %w", c.text, diags)
	}
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.Bool {
		return false, fmt.Errorf("condition %s is neither true nor false", c.text)
	}
	return v.True(), nil
}
