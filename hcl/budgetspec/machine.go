package budgetspec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Bounds on the work of expressions, in steps: one for each part that is
// evaluated, each element that a function looks at and each textStep bytes of
// text that it makes. A step takes about a microsecond.
const (
	stepsMax       = 30_000    // for one value
	moduleStepsMax = 2_000_000 // for all values of a module
	lateStepsMax   = 10_000    // each time that a condition is evaluated
	textStep       = 32
)

// exponentMax bounds numbers, in bits: as text they have at most 5,000 digits.
const exponentMax = 1 << 14

// names gives the machine what an expression refers to.
type names interface {
	// reference is the value of a reference that the expression itself does not
	// bind, and the steps that remain to be followed from there.
	reference(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic)
	// burnRate is the value of a call of burn_rate.
	burnRate(e *hclsyntax.FunctionCallExpr) (cty.Value, *hcl.Diagnostic)
	// written is an expression as it stands in the file.
	written(expr hclsyntax.Expression) string
}

// machine evaluates one expression as HCL does, but in a bounded number of
// steps and up to the first mistake.
type machine struct {
	names names
	// checking is set where references have values that are unknown, to find
	// mistakes before they matter: lists then stand for lists of any length.
	checking bool
	left     int
}

// scope is what an expression binds: a variable of a for expression or, without a
// name, the element of a splat.
type scope struct {
	outer  *scope
	name   string
	symbol *hclsyntax.AnonSymbolExpr
	value  cty.Value
}

// spend takes steps from what is left.
func (m *machine) spend(steps int, at hclsyntax.Expression) *hcl.Diagnostic {
	if m.left -= steps; m.left < 0 {
		return tooMuchWork(at.Range())
	}
	return nil
}

// charge takes the steps for a value that was made, and refuses numbers out of
// bounds.
func (m *machine) charge(v cty.Value, at hclsyntax.Expression) (cty.Value, *hcl.Diagnostic) {
	steps, inBounds := size(v, m.left+1)
	if !inBounds {
		return cty.DynamicVal, numberOutOfBounds(at.Range(), m.names.written(at))
	}
	if problem := m.spend(steps, at); problem != nil {
		return cty.DynamicVal, problem
	}
	return v, nil
}

// size counts the parts of a value, at most up to a limit, and reports whether
// all its numbers are in bounds.
func size(v cty.Value, limit int) (steps int, inBounds bool) {
	if v.IsNull() || !v.IsKnown() {
		return 1, true
	}
	switch t := v.Type(); {
	case t == cty.String:
		return 1 + len(v.AsString())/textStep, true
	case t == cty.Number:
		f := v.AsBigFloat()
		exponent := f.MantExp(nil)
		return 1, !f.IsInf() && exponent <= exponentMax && exponent >= -exponentMax
	case t == cty.Bool || t.IsCapsuleType() || !v.CanIterateElements():
		return 1, true
	}
	steps = 1
	for it := v.ElementIterator(); it.Next() && steps <= limit; {
		key, element := it.Element()
		if key.Type() == cty.String && key.IsKnown() {
			steps += len(key.AsString()) / textStep
		}
		n, ok := size(element, limit-steps)
		if !ok {
			return steps, false
		}
		steps += n
	}
	return steps, true
}

// eval evaluates an expression. What is wrong comes as a problem, and then the
// value is unknown.
func (m *machine) eval(expr hclsyntax.Expression, s *scope) (cty.Value, *hcl.Diagnostic) {
	if problem := m.spend(1, expr); problem != nil {
		return cty.DynamicVal, problem
	}
	switch e := expr.(type) {
	case *hclsyntax.LiteralValueExpr:
		return m.charge(e.Val, e)
	case *hclsyntax.ParenthesesExpr:
		return m.eval(e.Expression, s)
	case *hclsyntax.TemplateWrapExpr:
		return m.eval(e.Wrapped, s)
	case *hclsyntax.ObjectConsKeyExpr:
		return m.key(e, s)
	case *hclsyntax.ScopeTraversalExpr:
		return m.reference(e, s)
	case *hclsyntax.RelativeTraversalExpr:
		source, problem := m.eval(e.Source, s)
		if problem != nil {
			return cty.DynamicVal, problem
		}
		return m.follow(source, e.Traversal)
	case *hclsyntax.AnonSymbolExpr:
		for ; s != nil; s = s.outer {
			if s.symbol == e {
				return s.value, nil
			}
		}
		return cty.DynamicVal, nil
	case *hclsyntax.IndexExpr:
		return m.indexed(e, s)
	case *hclsyntax.FunctionCallExpr:
		return m.call(e, s)
	case *hclsyntax.ConditionalExpr:
		return m.conditional(e, s)
	case *hclsyntax.BinaryOpExpr:
		return m.binary(e, s)
	case *hclsyntax.UnaryOpExpr:
		return m.unary(e, s)
	case *hclsyntax.ForExpr:
		return m.forEach(e, s)
	case *hclsyntax.SplatExpr:
		return m.splat(e, s)
	}
	return m.construct(expr, s)
}

// construct evaluates what makes tuples, objects and text: the parts here, the
// whole as HCL does.
func (m *machine) construct(expr hclsyntax.Expression, s *scope) (cty.Value, *hcl.Diagnostic) {
	switch e := expr.(type) {
	case *hclsyntax.TupleConsExpr:
		values, problem := m.all(e.Exprs, s)
		if problem != nil {
			return cty.DynamicVal, problem
		}
		return cty.TupleVal(values), nil
	case *hclsyntax.ObjectConsExpr:
		whole := &hclsyntax.ObjectConsExpr{SrcRange: e.SrcRange, OpenRange: e.OpenRange}
		for _, item := range e.Items {
			values, problem := m.all([]hclsyntax.Expression{item.KeyExpr, item.ValueExpr}, s)
			if problem != nil {
				return cty.DynamicVal, problem
			}
			whole.Items = append(whole.Items, hclsyntax.ObjectConsItem{KeyExpr: constant(values[0], item.KeyExpr), ValueExpr: constant(values[1], item.ValueExpr)})
		}
		return native(whole)
	case *hclsyntax.TemplateExpr:
		if e.IsStringLiteral() {
			return m.eval(e.Parts[0], s)
		}
		values, problem := m.all(e.Parts, s)
		if problem != nil {
			return cty.DynamicVal, problem
		}
		whole := &hclsyntax.TemplateExpr{SrcRange: e.SrcRange}
		for i, v := range values {
			if v.IsNull() {
				return cty.DynamicVal, nothingInText(e.Parts[i].Range(), m.names.written(e.Parts[i]))
			}
			whole.Parts = append(whole.Parts, constant(v, e.Parts[i]))
		}
		return m.text(whole, e)
	case *hclsyntax.TemplateJoinExpr:
		v, problem := m.eval(e.Tuple, s)
		if problem != nil {
			return cty.DynamicVal, problem
		}
		return m.text(&hclsyntax.TemplateJoinExpr{Tuple: constant(v, e.Tuple)}, e)
	}
	return cty.DynamicVal, notAnExpression(expr.Range())
}

func (m *machine) text(whole, at hclsyntax.Expression) (cty.Value, *hcl.Diagnostic) {
	v, problem := native(whole)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	return m.charge(v, at)
}

// all evaluates several expressions.
func (m *machine) all(exprs []hclsyntax.Expression, s *scope) ([]cty.Value, *hcl.Diagnostic) {
	values := make([]cty.Value, len(exprs))
	for i, expr := range exprs {
		v, problem := m.eval(expr, s)
		if problem != nil {
			return nil, problem
		}
		values[i] = v
	}
	return values, nil
}

// constant stands for a part that has been evaluated.
func constant(v cty.Value, at hclsyntax.Expression) hclsyntax.Expression {
	return &hclsyntax.LiteralValueExpr{Val: v, SrcRange: at.Range()}
}

// native lets HCL evaluate an expression whose parts are constant.
func native(whole hclsyntax.Expression) (cty.Value, *hcl.Diagnostic) {
	v, diags := whole.Value(nil)
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			return cty.DynamicVal, &hcl.Diagnostic{Severity: d.Severity, Summary: d.Summary, Detail: d.Detail, Subject: d.Subject}
		}
	}
	return v, nil
}

// key evaluates the key of an object, where a bare word is text.
func (m *machine) key(e *hclsyntax.ObjectConsKeyExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	if e.ForceNonLiteral {
		return m.eval(e.Wrapped, s)
	}
	if word := hcl.ExprAsKeyword(e.Wrapped); word != "" {
		return cty.StringVal(word), nil
	}
	if reference, ok := e.Wrapped.(*hclsyntax.ScopeTraversalExpr); ok {
		return cty.DynamicVal, ambiguousKey(reference.Range(), m.names.written(reference))
	}
	return m.eval(e.Wrapped, s)
}

func (m *machine) reference(e *hclsyntax.ScopeTraversalExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	root := e.Traversal.RootName()
	for ; s != nil; s = s.outer {
		if s.name == root && s.symbol == nil {
			return m.follow(s.value, e.Traversal[1:])
		}
	}
	v, rest, problem := m.names.reference(e)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	return m.follow(v, rest)
}

// follow takes the steps of a reference from a value.
func (m *machine) follow(v cty.Value, steps hcl.Traversal) (cty.Value, *hcl.Diagnostic) {
	for _, step := range steps {
		var problem *hcl.Diagnostic
		switch step := step.(type) {
		case hcl.TraverseAttr:
			v, problem = attribute(v, step)
		case hcl.TraverseIndex:
			v, problem = m.element(v, step.Key, step.SrcRange)
		default:
			problem = notAnExpression(steps.SourceRange())
		}
		if problem != nil {
			return cty.DynamicVal, problem
		}
	}
	return v, nil
}

// attribute is v.name.
func attribute(v cty.Value, step hcl.TraverseAttr) (cty.Value, *hcl.Diagnostic) {
	t := v.Type()
	switch {
	case t == cty.DynamicPseudoType && !v.IsKnown():
		return cty.DynamicVal, nil
	case v.IsNull():
		return cty.DynamicVal, ofNothing(step.SrcRange, step.Name)
	case t.IsObjectType():
		if !t.HasAttribute(step.Name) {
			return cty.DynamicVal, unknownAttribute(step.SrcRange, step.Name, attributeNames(t))
		}
	case t.IsMapType():
		if v.IsKnown() && v.HasIndex(cty.StringVal(step.Name)).False() {
			return cty.DynamicVal, noSuchKey(step.SrcRange, step.Name)
		}
	default:
		return cty.DynamicVal, unknownAttribute(step.SrcRange, step.Name, nil)
	}
	got, diags := hcl.GetAttr(v, step.Name, &step.SrcRange)
	return got, firstError(diags)
}

func firstError(diags hcl.Diagnostics) *hcl.Diagnostic {
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			return d
		}
	}
	return nil
}

func (m *machine) indexed(e *hclsyntax.IndexExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	values, problem := m.all([]hclsyntax.Expression{e.Collection, e.Key}, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	return m.element(values[0], values[1], e.BracketRange)
}

// element is v[key].
func (m *machine) element(v, key cty.Value, at hcl.Range) (cty.Value, *hcl.Diagnostic) {
	t := v.Type()
	if key.IsKnown() && !key.IsNull() && key.Type() == cty.String {
		if t.IsObjectType() || t.IsMapType() {
			return attribute(v, hcl.TraverseAttr{Name: key.AsString(), SrcRange: at})
		}
	}
	got, diags := hcl.Index(v, key, &at)
	if m.checking && diags.HasErrors() && (t.IsListType() || t.IsTupleType()) {
		if _, err := convert.Convert(key, cty.Number); err == nil {
			return anyElement(v), nil // a list may be longer
		}
	}
	if diags.HasErrors() {
		text, _ := asText(key)
		return cty.DynamicVal, noSuchElement(at, text)
	}
	return got, nil
}

// anyElement is an element of a list of any length.
func anyElement(v cty.Value) cty.Value {
	if v.IsNull() || !v.IsKnown() || v.LengthInt() == 0 {
		return cty.DynamicVal
	}
	return v.AsValueSlice()[0]
}

// forEach evaluates a for expression.
func (m *machine) forEach(e *hclsyntax.ForExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	coll, problem := m.eval(e.CollExpr, s)
	switch {
	case problem != nil:
		return cty.DynamicVal, problem
	case coll.Type() == cty.DynamicPseudoType && !coll.IsNull(), !coll.IsKnown() && coll.Type().IsCollectionType():
		return cty.DynamicVal, nil
	case coll.IsNull() || !coll.CanIterateElements():
		return cty.DynamicVal, notACollection(e.CollExpr.Range(), m.names.written(e.CollExpr))
	}
	r := forResult{keys: map[string][]cty.Value{}}
	for it := coll.ElementIterator(); it.Next(); {
		key, v := it.Element()
		inner := &scope{outer: s, name: e.ValVar, value: v}
		if e.KeyVar != "" {
			inner = &scope{outer: inner, name: e.KeyVar, value: key}
		}
		if problem := m.forElement(e, inner, &r); problem != nil {
			return cty.DynamicVal, problem
		}
	}
	if r.unknown {
		return cty.DynamicVal, nil
	}
	if e.KeyExpr == nil {
		return cty.TupleVal(r.values), nil
	}
	object := map[string]cty.Value{}
	for key, values := range r.keys {
		object[key] = values[0]
		if e.Group {
			object[key] = cty.TupleVal(values)
		}
	}
	return cty.ObjectVal(object), nil
}

// forResult collects what a for expression makes.
type forResult struct {
	values  []cty.Value
	keys    map[string][]cty.Value
	unknown bool
}

func (m *machine) forElement(e *hclsyntax.ForExpr, s *scope, r *forResult) *hcl.Diagnostic {
	if e.CondExpr != nil {
		include, problem := m.converted(e.CondExpr, s, cty.Bool)
		switch {
		case problem != nil:
			return problem
		case !include.IsKnown():
			r.unknown = true // but look at the rest for mistakes
		case include.False():
			return nil
		}
	}
	key := cty.NilVal
	if e.KeyExpr != nil {
		var problem *hcl.Diagnostic
		if key, problem = m.converted(e.KeyExpr, s, cty.String); problem != nil {
			return problem
		}
	}
	v, problem := m.eval(e.ValExpr, s)
	switch {
	case problem != nil:
		return problem
	case e.KeyExpr == nil:
		r.values = append(r.values, v)
	case !key.IsKnown():
		r.unknown = true
	case !e.Group && r.keys[key.AsString()] != nil:
		return repeatedKey(e.KeyExpr.Range(), key.AsString())
	default:
		r.keys[key.AsString()] = append(r.keys[key.AsString()], v)
	}
	return nil
}

// converted evaluates an expression whose value must have a type and not be null.
func (m *machine) converted(expr hclsyntax.Expression, s *scope, t cty.Type) (cty.Value, *hcl.Diagnostic) {
	v, problem := m.eval(expr, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	got, err := convert.Convert(v, t)
	if err != nil || v.IsNull() {
		return cty.DynamicVal, wrongType(expr.Range(), "this part", m.names.written(expr), typeName(t))
	}
	return got, nil
}

// splat evaluates list[*].x: a list of the elements' x. Anything but a list stands
// for the list of itself, and null for the empty one.
func (m *machine) splat(e *hclsyntax.SplatExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	source, problem := m.eval(e.Source, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	t := source.Type()
	isList := t.IsListType() || t.IsSetType() || t.IsTupleType()
	switch {
	case source.IsNull() && !isList:
		return cty.EmptyTupleVal, nil
	case source.IsNull():
		return cty.DynamicVal, notACollection(e.Source.Range(), m.names.written(e.Source))
	case !source.IsKnown():
		return cty.DynamicVal, nil
	case !isList:
		source = cty.TupleVal([]cty.Value{source})
	}
	var values []cty.Value
	for it := source.ElementIterator(); it.Next(); {
		_, element := it.Element()
		v, problem := m.eval(e.Each, &scope{outer: s, symbol: e.Item, value: element})
		if problem != nil {
			return cty.DynamicVal, problem
		}
		values = append(values, v)
	}
	switch {
	case t.IsTupleType() || !isList || !cty.CanListVal(values):
		return cty.TupleVal(values), nil
	case len(values) == 0: // of what type nothing is
		v, problem := m.eval(e.Each, &scope{outer: s, symbol: e.Item, value: cty.UnknownVal(t.ElementType())})
		return cty.ListValEmpty(v.Type()), problem
	}
	return cty.ListVal(values), nil
}
