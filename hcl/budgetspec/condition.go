package budgetspec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

// conditionPartsMax bounds the parts of a condition: people read it.
const conditionPartsMax = 500

// condition is an expression that is evaluated for each job. It is never changed,
// so it can be evaluated in many places at once.
type condition struct {
	expr hclsyntax.Expression
	// text is the expression on one line, values the constants in it.
	text, values string
	source       []byte
	// policy has the zone in which now is written.
	policy *budget.Policy
	roots  []string
	// facts, constants and rates are what the parts of the expression refer to.
	facts     map[*hclsyntax.ScopeTraversalExpr]boundFact
	constants map[*hclsyntax.ScopeTraversalExpr]cty.Value
	rates     map[*hclsyntax.FunctionCallExpr]time.Duration
}

// boundFact is a fact and what follows it in the reference.
type boundFact struct {
	fact
	rest hcl.Traversal
}

// condition reads an expression that is true or false of a job at a time. It may
// refer to the given roots: "job", "submitter", "request", "now", "schedule",
// "estimate", "limit", "forecast", "burn_rate", which is a function.
// Mistakes that show without a job are reported.
func (d *decoder) condition(attr *hclsyntax.Attribute, roots ...string) (budget.Condition, bool) {
	c := &condition{
		expr: attr.Expr, source: d.source[attr.Expr.Range().Filename], policy: d.policy,
		facts: map[*hclsyntax.ScopeTraversalExpr]boundFact{}, constants: map[*hclsyntax.ScopeTraversalExpr]cty.Value{},
		rates: map[*hclsyntax.FunctionCallExpr]time.Duration{},
	}
	b := &binder{decoder: d, condition: c, allowed: roots}
	_ = hclsyntax.Walk(attr.Expr, b)
	d.diags = append(d.diags, b.problems...)
	if b.problems.HasErrors() || b.failed {
		return nil, false
	}
	c.text = canonical(attr.Expr.Range().SliceBytes(c.source))
	c.values = c.constantText()
	m := &machine{names: &checkedNames{c}, checking: true, left: lateStepsMax}
	v, problem := m.eval(c.expr, nil)
	if problem != nil {
		d.report(problem)
		return nil, false
	}
	if t := v.Type(); t != cty.Bool && t != cty.DynamicPseudoType || v.IsNull() {
		d.report(notACondition(attr.Expr.Range(), d.written(attr.Expr)))
		return nil, false
	}
	return c, true
}

// binder finds what the parts of a condition refer to.
type binder struct {
	*decoder
	*condition
	allowed  []string
	parts    int
	locals   []map[string]struct{}
	problems hcl.Diagnostics
	// failed says that a reference is to something that is wrong itself, which was
	// reported there.
	failed bool
}

// Enter implements hclsyntax.Walker.
func (b *binder) Enter(node hclsyntax.Node) hcl.Diagnostics {
	if b.parts++; b.parts == conditionPartsMax {
		b.problems = append(b.problems, conditionTooLarge(b.expr.Range()))
	}
	if b.parts >= conditionPartsMax {
		return nil
	}
	switch e := node.(type) {
	case hclsyntax.ChildScope:
		b.locals = append(b.locals, e.LocalNames)
	case *hclsyntax.ScopeTraversalExpr:
		b.bind(e)
	case *hclsyntax.FunctionCallExpr:
		if e.Name == burnRate {
			b.bindRate(e)
		}
	case *hclsyntax.BinaryOpExpr:
		if e.Op == hclsyntax.OpEqual || e.Op == hclsyntax.OpNotEqual {
			b.compareWords(e.LHS, e.RHS)
			b.compareWords(e.RHS, e.LHS)
		}
	}
	return nil
}

// Exit implements hclsyntax.Walker.
func (b *binder) Exit(node hclsyntax.Node) hcl.Diagnostics {
	if _, ok := node.(hclsyntax.ChildScope); ok && len(b.locals) > 0 {
		b.locals = b.locals[:len(b.locals)-1]
	}
	return nil
}

func (b *binder) isLocal(name string) bool {
	return slices.ContainsFunc(b.locals, func(names map[string]struct{}) bool {
		_, ok := names[name]
		return ok
	})
}

// bind finds what one reference stands for.
func (b *binder) bind(e *hclsyntax.ScopeTraversalExpr) {
	root := e.Traversal.RootName()
	switch {
	case b.isLocal(root):
	case slices.Contains(b.allowed, root):
		f, rest, problem := b.lateFact(e.Traversal)
		if problem != nil {
			b.problems = append(b.problems, problem)
			return
		}
		b.facts[e] = boundFact{f, rest}
		b.use(root)
	case slices.Contains(lateRoots(), root) || root == "notify":
		b.problems = append(b.problems, rootNotHere(e.Range(), root, b.allowed))
	default:
		v, problem := b.static(e.Traversal)
		if problem != nil {
			b.problems = append(b.problems, problem)
		}
		b.failed = b.failed || problem == nil && !v.IsWhollyKnown()
		b.constants[e] = v
	}
}

func (b *binder) use(root string) {
	if !slices.Contains(b.roots, root) {
		b.roots = append(b.roots, root)
	}
}

// bindRate reads the span of burn_rate("1h"), which must be constant.
func (b *binder) bindRate(e *hclsyntax.FunctionCallExpr) {
	if !slices.Contains(b.allowed, burnRate) {
		b.problems = append(b.problems, rateNotHere(e.NameRange))
		return
	}
	if len(e.Args) != 1 {
		b.problems = append(b.problems, badRateSpan(e.Range(), b.decoder.written(e)))
		return
	}
	v, ok := b.value(e.Args[0])
	if !ok {
		b.failed = true
		return
	}
	text, _ := asText(v)
	over, err := parseDuration(text)
	if err != nil || v.Type() != cty.String {
		b.problems = append(b.problems, badRateSpan(e.Args[0].Range(), b.decoder.written(e.Args[0])))
		return
	}
	b.rates[e] = over
	b.use(burnRate)
}

// compareWords finds comparisons with a word that the fact never is.
func (b *binder) compareWords(expr, with hclsyntax.Expression) {
	e, ok := unwrap(expr).(*hclsyntax.ScopeTraversalExpr)
	if !ok || len(e.Traversal) != 2 || b.isLocal(e.Traversal.RootName()) {
		return
	}
	name, _ := stepName(e.Traversal[1])
	words := b.factsOf(e.Traversal.RootName())[name].words
	word, ok := literalText(with)
	if len(words) == 0 || !ok || slices.Contains(words, word) {
		return
	}
	b.problems = append(b.problems, neverThatWord(with.Range(), b.decoder.written(e), word, words))
}

// literalText is the text of an expression that is nothing but text in quotes.
func literalText(expr hclsyntax.Expression) (string, bool) {
	template, ok := unwrap(expr).(*hclsyntax.TemplateExpr)
	if !ok || !template.IsStringLiteral() {
		return "", false
	}
	literal, ok := template.Parts[0].(*hclsyntax.LiteralValueExpr)
	if !ok || literal.Val.Type() != cty.String {
		return "", false
	}
	return literal.Val.AsString(), true
}

// Uses implements budget.Condition; also for the function "burn_rate".
func (c *condition) Uses(root string) bool { return slices.Contains(c.roots, root) }

// String implements budget.Condition: the expression on one line, formatted, and
// the values of the variables and locals in it. Conditions that can differ in what
// they hold of do not look the same.
func (c *condition) String() string { return c.text + c.values }

// longValue is where the text of a constant is replaced by its digest.
const longValue = 200

// constantText says what the variables and locals of the condition are: " (var.x =
// 5)".
func (c *condition) constantText() string {
	texts := map[string]string{}
	for e, v := range c.constants {
		text := canonical(hclwrite.TokensForValue(v).Bytes())
		if len(text) > longValue {
			digest := sha256.Sum256([]byte(text))
			text = abridge(text) + " " + hex.EncodeToString(digest[:8])
		}
		texts[canonical(e.Range().SliceBytes(c.source))] = text
	}
	if len(texts) == 0 {
		return ""
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		all = append(all, name+" = "+texts[name])
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// written is a part of the expression as it stands in the file.
func (c *condition) written(expr hclsyntax.Expression) string {
	return abridge(string(expr.Range().SliceBytes(c.source)))
}

// Holds implements budget.Condition.
func (c *condition) Holds(f budget.Facts) (bool, error) {
	m := &machine{names: &jobNames{condition: c, given: &f}, left: lateStepsMax}
	v, problem := m.eval(c.expr, nil)
	if problem == nil {
		v, problem = m.truth(v, c.expr)
	}
	if problem != nil {
		return false, fmt.Errorf("%s (%s): %s: %s", abridge(c.text), place(c.expr.Range()), strings.ToLower(problem.Summary), problem.Detail)
	}
	return v.True(), nil
}

// checkedNames gives each reference a typical value, to find mistakes without a
// job.
type checkedNames struct{ *condition }

func (c *checkedNames) reference(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	if f, ok := c.facts[e]; ok {
		return f.typical, f.rest, nil
	}
	return c.constant(e)
}

func (c *checkedNames) burnRate(*hclsyntax.FunctionCallExpr) (cty.Value, *hcl.Diagnostic) {
	return cty.UnknownVal(cty.Number), nil
}

func (c *condition) constant(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	if v, ok := c.constants[e]; ok {
		return v, nil, nil
	}
	return cty.DynamicVal, nil, reference(e.Range(), e.Traversal.RootName())
}

// jobNames gives references the values of a job.
type jobNames struct {
	*condition
	given *budget.Facts
}

func (n *jobNames) reference(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	f, ok := n.facts[e]
	if !ok {
		return n.constant(e)
	}
	v, known := f.get(n.given, n.policy.Location)
	if !known {
		return cty.DynamicVal, nil, notKnown(e.Range(), n.written(e))
	}
	return v, f.rest, nil
}

func (n *jobNames) burnRate(e *hclsyntax.FunctionCallExpr) (cty.Value, *hcl.Diagnostic) {
	if n.given.BurnRate == nil {
		return cty.DynamicVal, notKnown(e.Range(), n.written(e))
	}
	rate, err := n.given.BurnRate(n.rates[e])
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return cty.DynamicVal, noRate(e.Range(), n.written(e), err)
	}
	return cty.NumberFloatVal(rate), nil
}
