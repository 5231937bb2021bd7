package budgetspec

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// valuesMax bounds variables, and locals; valueSizeMax the parts of one value,
// and conversionMax the work of converting one to the type of its variable.
const (
	valuesMax     = 1000
	valueSizeMax  = 10_000
	conversionMax = 1_000_000
)

// variable is a declared variable.
type variable struct {
	name     string
	header   hcl.Range
	declared cty.Type
	defaults *typeexpr.Defaults
	// parts is how many parts the type has.
	parts int
	// standard is the default, or nil.
	standard    *hclsyntax.Attribute
	validations []*hclsyntax.Block
	// value is unknown until it is computed, and stays so when that fails.
	value cty.Value
	// at is where the value was written.
	at hcl.Range
}

// local is a named expression.
type local struct {
	attr  *hclsyntax.Attribute
	state localState
	value cty.Value
}

type localState uint8

const (
	localNew localState = iota
	localBusy
	localDone
)

// isVarsFile reports whether a file gives values to variables.
func isVarsFile(name string) bool { return strings.HasSuffix(name, ".vars.hcl") }

// declare finds all that expressions can refer to, and computes the values of
// variables and locals. The bodies are those of all files.
func (d *decoder) declare(bodies map[string]*hclsyntax.Body) {
	given := map[string]*hclsyntax.Attribute{}
	for _, file := range slices.Sorted(maps.Keys(bodies)) {
		body := bodies[file]
		if isVarsFile(file) {
			d.varsFile(body, given)
			continue
		}
		for _, block := range body.Blocks {
			switch block.Type {
			case "variable":
				d.variableBlock(block)
			case "locals":
				d.localsBlock(block)
			case "schedule":
				d.declareBlock(d.schedules, block, 1)
			case "notify":
				d.declareBlock(d.notify, block, 2)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if d.variables[name] == nil && !d.broken {
			d.report(unknownVariableValue(given[name].NameRange, name, slices.Sorted(maps.Keys(d.variables))))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.variables)) {
		d.variableValue(d.variables[name], given[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.locals)) {
		d.localValue(name)
	}
	for _, name := range slices.Sorted(maps.Keys(d.variables)) {
		for _, block := range d.variables[name].validations {
			d.validation(d.variables[name], block)
		}
	}
}

// declareBlock remembers a block that can be referred to by its labels.
func (d *decoder) declareBlock(known map[string]hcl.Range, block *hclsyntax.Block, labels int) {
	name := strings.Join(block.Labels, ".")
	if _, taken := known[name]; !taken && len(block.Labels) == labels {
		known[name] = block.DefRange()
	}
}

// varsFile reads the values that a file gives to variables.
func (d *decoder) varsFile(body *hclsyntax.Body, given map[string]*hclsyntax.Attribute) {
	for _, block := range body.Blocks {
		d.report(blockInVarsFile(block.DefRange(), block.Type))
	}
	for _, name := range slices.Sorted(maps.Keys(body.Attributes)) {
		attr := body.Attributes[name]
		if first := given[name]; first != nil {
			d.report(twoValues(attr.NameRange, name, first.NameRange))
			continue
		}
		given[name] = attr
	}
}

func (d *decoder) variableBlock(block *hclsyntax.Block) {
	known := d.open(variableSpec(), block.Body)
	name, ok := d.identifier(block, variableSpec())
	if !ok {
		return
	}
	if first := d.variables[name]; first != nil {
		d.report(duplicateName(block.DefRange(), "variable", name, first.header))
		return
	}
	if len(d.variables) == valuesMax {
		d.report(tooManyValues(block.DefRange(), "variables"))
		return
	}
	v := &variable{
		name: name, header: block.DefRange(), declared: cty.DynamicPseudoType, standard: known.attributes["default"],
		validations: known.blocks, value: cty.DynamicVal, at: block.DefRange(),
	}
	d.variables[name] = v
	if attr := known.attributes["sensitive"]; attr != nil {
		d.report(sensitiveVariable(attr.NameRange, name))
	}
	if attr := known.attributes["type"]; attr != nil {
		parts, ok := typeParts(attr.Expr)
		if !ok {
			d.report(badType(attr.Expr.Range(), d.written(attr.Expr)))
			return
		}
		v.parts = parts
		t, defaults, diags := typeexpr.TypeConstraintWithDefaults(attr.Expr)
		if diags.HasErrors() {
			d.report(badType(attr.Expr.Range(), d.written(attr.Expr)))
			return
		}
		v.declared, v.defaults = t, defaults
	}
}

// typeParts counts the parts of a type; false for one that HCL would have to
// compute something for, which has no bounds.
func typeParts(expr hclsyntax.Expression) (parts int, ok bool) {
	ok = true
	_ = hclsyntax.VisitAll(expr, func(node hclsyntax.Node) hcl.Diagnostics {
		parts++
		switch e := node.(type) {
		case *hclsyntax.LiteralValueExpr:
			_, inBounds := size(e.Val, 1)
			ok = ok && inBounds
		case *hclsyntax.TemplateExpr, *hclsyntax.TupleConsExpr, *hclsyntax.ObjectConsExpr, *hclsyntax.ObjectConsKeyExpr,
			*hclsyntax.FunctionCallExpr, *hclsyntax.ScopeTraversalExpr, *hclsyntax.ParenthesesExpr, *hclsyntax.UnaryOpExpr:
		default:
			ok = false
		}
		return nil
	})
	return parts, ok
}

// identifier returns the label of a block that declares a name for expressions.
func (d *decoder) identifier(block *hclsyntax.Block, spec blockSpec) (string, bool) {
	name, ok := d.label(block, spec)
	if !ok {
		return "", false
	}
	if !hclsyntax.ValidIdentifier(name) || len(name) > nameMax {
		d.report(badIdentifier(block.LabelRanges[0], block.Type, name))
		return "", false
	}
	return name, true
}

// variableValue computes a variable from the value given in a vars file, or its
// default.
func (d *decoder) variableValue(v *variable, given *hclsyntax.Attribute) {
	if v.standard != nil { // also when it does not count, so that it is right
		v.at = v.standard.Expr.Range()
		v.value = d.variableFrom(v, v.standard.Expr)
	}
	switch {
	case given != nil:
		v.at = given.Expr.Range()
		v.value = d.variableFrom(v, given.Expr)
	case v.standard == nil && !d.broken:
		d.report(noVariableValue(v.header, v.name))
	}
}

func (d *decoder) variableFrom(v *variable, expr hclsyntax.Expression) cty.Value {
	value, problem := d.evaluate(expr, &constantNames{d})
	switch {
	case problem != nil:
		d.report(problem)
		return cty.DynamicVal
	case value.IsNull():
		d.report(noValue(expr.Range()))
		return cty.DynamicVal
	}
	if steps, _ := size(value, conversionMax); product(steps, v.parts) > conversionMax {
		d.report(valueTooLarge(expr.Range())) // each part of the one may get all parts of the other
		return cty.DynamicVal
	}
	if v.defaults != nil {
		value = v.defaults.Apply(value)
	}
	got, err := convert.Convert(value, v.declared)
	if err != nil {
		d.report(wrongVariableType(expr.Range(), v.name, d.written(expr), v.declared, err))
		return cty.DynamicVal
	}
	return d.bounded(got, expr)
}

// bounded refuses values that are too large to be used many times.
func (d *decoder) bounded(v cty.Value, expr hclsyntax.Expression) cty.Value {
	if steps, _ := size(v, valueSizeMax+1); steps > valueSizeMax {
		d.report(valueTooLarge(expr.Range()))
		return cty.DynamicVal
	}
	return v
}

// validation checks the value of a variable by a rule of its own.
func (d *decoder) validation(v *variable, block *hclsyntax.Block) {
	d.noLabel(block)
	attrs := d.open(validationSpec(), block.Body).attributes
	condition, message := attrs["condition"], attrs["error_message"]
	if condition == nil || message == nil {
		d.report(missing(block.DefRange(), "validation", "both condition and error_message", `condition = var.`+v.name+` != ""`))
		return
	}
	if !refersTo(condition.Expr, "var", v.name) {
		d.report(aboutSomethingElse(condition.Expr.Range(), v.name))
		return
	}
	text, ok := d.text(message)
	if !ok || !v.value.IsWhollyKnown() {
		return
	}
	truth, ok := d.value(condition.Expr)
	switch {
	case !ok:
	case truth.Type() != cty.Bool:
		d.report(notACondition(condition.Expr.Range(), d.written(condition.Expr)))
	case truth.False():
		d.report(invalidVariable(v.at, v.name, text, condition.Range()))
	}
}

// refersTo reports whether an expression refers to root.name.
func refersTo(expr hclsyntax.Expression, root, name string) bool {
	return slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool {
		if t.RootName() != root || len(t) < 2 {
			return false
		}
		step, ok := stepName(t[1])
		return ok && step == name
	})
}

func (d *decoder) localsBlock(block *hclsyntax.Block) {
	d.noLabel(block)
	for _, inner := range block.Body.Blocks {
		d.report(isAttribute(inner.TypeRange, inner.Type))
	}
	for _, name := range slices.Sorted(maps.Keys(block.Body.Attributes)) {
		attr := block.Body.Attributes[name]
		if first := d.locals[name]; first != nil {
			d.report(duplicateLocal(attr.NameRange, name, first.attr.NameRange))
			continue
		}
		if len(d.locals) == valuesMax {
			d.report(tooManyValues(attr.NameRange, "locals"))
			return
		}
		d.locals[name] = &local{attr: attr, value: cty.DynamicVal}
	}
}

// localValue is the value of a local, computed when it is first needed; unknown
// when it cannot be.
func (d *decoder) localValue(name string) cty.Value {
	l := d.locals[name]
	switch l.state {
	case localDone:
		return l.value
	case localBusy:
		start := slices.Index(d.busy, name)
		d.report(circular(l.attr.NameRange, d.circle(append(slices.Clone(d.busy[start:]), name))))
		return cty.DynamicVal
	case localNew:
	}
	l.state = localBusy
	d.busy = append(d.busy, name)
	v, problem := d.evaluate(l.attr.Expr, &staticNames{d})
	d.busy = d.busy[:len(d.busy)-1]
	l.state = localDone
	if problem != nil {
		d.report(problem)
		return l.value
	}
	l.value = d.bounded(v, l.attr.Expr)
	return l.value
}

// circle writes a path of locals that ends where it begins.
func (d *decoder) circle(path []string) string {
	steps := make([]string, len(path))
	for i, name := range path {
		steps[i] = "local." + name
		if i < len(path)-1 {
			steps[i] += " (" + place(d.locals[name].attr.NameRange) + ")"
		}
	}
	return strings.Join(steps, " -> ")
}

// evaluate computes an expression within the bounds of a module.
func (d *decoder) evaluate(expr hclsyntax.Expression, n names) (cty.Value, *hcl.Diagnostic) {
	m := &machine{names: n, left: min(stepsMax, d.stepsLeft)}
	start := m.left
	v, problem := m.eval(expr, nil)
	d.stepsLeft -= start - max(0, m.left)
	return v, problem
}

// constantNames refuses all references: the value of a variable stands for itself.
type constantNames struct{ *decoder }

func (n *constantNames) reference(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	if isStaticRoot(e.Traversal.RootName()) || slices.Contains(lateRoots(), e.Traversal.RootName()) {
		return cty.DynamicVal, nil, notConstant(e.Range(), n.written(e))
	}
	return cty.DynamicVal, nil, reference(e.Range(), e.Traversal.RootName())
}

func (n *constantNames) burnRate(e *hclsyntax.FunctionCallExpr) (cty.Value, *hcl.Diagnostic) {
	return cty.DynamicVal, rateNotHere(e.NameRange)
}

// staticNames gives what is known when a policy is read: variables, locals and the
// names of notifiers.
type staticNames struct{ *decoder }

func (n *staticNames) reference(e *hclsyntax.ScopeTraversalExpr) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	return n.staticReference(e.Traversal)
}

func (n *staticNames) burnRate(e *hclsyntax.FunctionCallExpr) (cty.Value, *hcl.Diagnostic) {
	return cty.DynamicVal, rateNotHere(e.NameRange)
}

func isStaticRoot(root string) bool { return root == "var" || root == "local" || root == "notify" }

// static is the value of a static reference with all its steps.
func (d *decoder) static(t hcl.Traversal) (cty.Value, *hcl.Diagnostic) {
	v, rest, problem := d.staticReference(t)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	return (&machine{}).follow(v, rest)
}

// staticReference finds a static reference. What could not be computed is unknown:
// that was reported where it is.
func (d *decoder) staticReference(t hcl.Traversal) (cty.Value, hcl.Traversal, *hcl.Diagnostic) {
	root := t.RootName()
	name, at := "", t.SourceRange()
	if len(t) > 1 {
		name, _ = stepName(t[1])
		at = t[1].SourceRange()
	}
	switch {
	case slices.Contains(lateRoots(), root):
		return cty.DynamicVal, nil, tooEarly(t.SourceRange(), root)
	case !isStaticRoot(root):
		return cty.DynamicVal, nil, reference(t.SourceRange(), root)
	case root == "notify":
		v, problem := d.notifierReference(t)
		return v, nil, problem
	case root == "var" && d.variables[name] != nil:
		return d.variables[name].value, t[2:], nil
	case root == "local" && d.locals[name] != nil:
		return d.localValue(name), t[2:], nil
	}
	declared := slices.Sorted(maps.Keys(d.locals))
	if root == "var" {
		declared = slices.Sorted(maps.Keys(d.variables))
	}
	if name == "" {
		return cty.DynamicVal, nil, incompleteReference(t.SourceRange(), root, declared)
	}
	if d.broken {
		return cty.DynamicVal, nil, nil // it may be in the file that is broken
	}
	return cty.DynamicVal, nil, undeclared(at, root, name, declared)
}
