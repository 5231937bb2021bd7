package budgetspec

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
)

// symbol is how an operation is written.
func symbol(op *hclsyntax.Operation) string {
	return map[*hclsyntax.Operation]string{
		hclsyntax.OpLogicalOr: "||", hclsyntax.OpLogicalAnd: "&&", hclsyntax.OpLogicalNot: "!",
		hclsyntax.OpEqual: "==", hclsyntax.OpNotEqual: "!=",
		hclsyntax.OpGreaterThan: ">", hclsyntax.OpGreaterThanOrEqual: ">=", hclsyntax.OpLessThan: "<", hclsyntax.OpLessThanOrEqual: "<=",
		hclsyntax.OpAdd: "+", hclsyntax.OpSubtract: "-", hclsyntax.OpMultiply: "*", hclsyntax.OpDivide: "/", hclsyntax.OpModulo: "%",
		hclsyntax.OpNegate: "-",
	}[op]
}

// typeName is a type in words.
func typeName(t cty.Type) string {
	switch t {
	case cty.String:
		return "text"
	case cty.Bool:
		return "true or false"
	case cty.Number:
		return "a number"
	}
	return t.FriendlyNameForConstraint()
}

func (m *machine) unary(e *hclsyntax.UnaryOpExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	v, problem := m.eval(e.Val, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	v, problem = m.operand(v, e.Val, e.Op)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	return m.apply(e, e.Op, v)
}

func (m *machine) binary(e *hclsyntax.BinaryOpExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	left, problem := m.eval(e.LHS, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	if left, problem = m.operand(left, e.LHS, e.Op); problem != nil {
		return cty.DynamicVal, problem
	}
	if (e.Op == hclsyntax.OpLogicalAnd || e.Op == hclsyntax.OpLogicalOr) && left.IsKnown() && left.True() == (e.Op == hclsyntax.OpLogicalOr) && !m.checking {
		return left, nil
	}
	right, problem := m.eval(e.RHS, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	if right, problem = m.operand(right, e.RHS, e.Op); problem != nil {
		return cty.DynamicVal, problem
	}
	if e.Op == hclsyntax.OpEqual || e.Op == hclsyntax.OpNotEqual {
		if problem := m.comparable(e, left, right); problem != nil {
			return cty.DynamicVal, problem
		}
	}
	return m.apply(e, e.Op, left, right)
}

// operands is the type of what an operation is done with; DynamicPseudoType for
// any.
func operands(op *hclsyntax.Operation) cty.Type {
	switch op {
	case hclsyntax.OpEqual, hclsyntax.OpNotEqual:
		return cty.DynamicPseudoType
	case hclsyntax.OpLogicalAnd, hclsyntax.OpLogicalOr, hclsyntax.OpLogicalNot:
		return cty.Bool
	}
	return cty.Number
}

// operand converts a value for an operation that needs a type.
func (m *machine) operand(v cty.Value, at hclsyntax.Expression, op *hclsyntax.Operation) (cty.Value, *hcl.Diagnostic) {
	t := operands(op)
	if t == cty.DynamicPseudoType {
		return v, nil
	}
	if v.IsNull() {
		return cty.DynamicVal, nothingToCompute(at.Range(), m.names.written(at), symbol(op))
	}
	if m.checking && v.Type() == cty.String {
		return cty.DynamicVal, wrongOperand(at.Range(), m.names.written(at), symbol(op), typeName(v.Type()), t)
	}
	got, err := convert.Convert(v, t)
	if err != nil {
		return cty.DynamicVal, wrongOperand(at.Range(), m.names.written(at), symbol(op), typeName(v.Type()), t)
	}
	if _, inBounds := size(got, 1); !inBounds {
		return cty.DynamicVal, numberOutOfBounds(at.Range(), m.names.written(at))
	}
	return got, nil
}

// comparable refuses what can never be equal, and charges for long values.
func (m *machine) comparable(e *hclsyntax.BinaryOpExpr, left, right cty.Value) *hcl.Diagnostic {
	a, b := left.Type(), right.Type()
	if m.checking && a.IsPrimitiveType() && b.IsPrimitiveType() && a != b {
		return neverEqual(e.Range(), m.names.written(e), typeName(a), typeName(b))
	}
	steps, _ := size(left, m.left+1)
	return m.spend(steps, e)
}

func (m *machine) apply(e hclsyntax.Expression, op *hclsyntax.Operation, args ...cty.Value) (cty.Value, *hcl.Diagnostic) {
	switch op {
	case hclsyntax.OpEqual:
		return args[0].Equals(args[1]), nil
	case hclsyntax.OpNotEqual:
		return args[0].Equals(args[1]).Not(), nil
	}
	v, err := op.Impl.Call(args)
	if err != nil {
		return cty.DynamicVal, notComputable(e.Range(), m.names.written(e), err)
	}
	return m.charge(v, e)
}

// conditional evaluates a ? b : c. Both results are evaluated, for their common
// type; what is wrong with the one not taken does not matter.
func (m *machine) conditional(e *hclsyntax.ConditionalExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	condition, problem := m.eval(e.Condition, s)
	if problem != nil {
		return cty.DynamicVal, problem
	}
	if condition, problem = m.truth(condition, e.Condition); problem != nil {
		return cty.DynamicVal, problem
	}
	var results [2]cty.Value
	for i, expr := range []hclsyntax.Expression{e.TrueResult, e.FalseResult} {
		v, problem := m.eval(expr, s)
		if problem != nil {
			if m.left < 0 || !condition.IsKnown() || condition.True() == (i == 0) {
				return cty.DynamicVal, problem
			}
			v = cty.DynamicVal
		}
		results[i] = v
	}
	return native(&hclsyntax.ConditionalExpr{
		Condition: constant(condition, e.Condition), TrueResult: constant(results[0], e.TrueResult), FalseResult: constant(results[1], e.FalseResult),
		SrcRange: e.SrcRange,
	})
}

// truth is a value as true or false, which may be unknown.
func (m *machine) truth(v cty.Value, at hclsyntax.Expression) (cty.Value, *hcl.Diagnostic) {
	got, err := convert.Convert(v, cty.Bool)
	if err != nil || v.IsNull() || v.Type() == cty.String {
		return cty.DynamicVal, notACondition(at.Range(), m.names.written(at))
	}
	return got, nil
}

// call evaluates a call of a function.
func (m *machine) call(e *hclsyntax.FunctionCallExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	switch e.Name {
	case "try", "can":
		return m.attempt(e, s)
	case burnRate:
		return m.names.burnRate(e)
	}
	f, ok := functionNamed(e.Name)
	if !ok {
		return cty.DynamicVal, unknownFunction(e.NameRange, e.Name)
	}
	args, problem := m.arguments(e, s)
	if problem != nil || args == nil {
		return cty.DynamicVal, problem
	}
	known := true
	for i, arg := range args {
		at := e.Args[min(i, len(e.Args)-1)]
		if args[i], problem = m.argument(e, f.param(i), arg, at); problem != nil {
			return cty.DynamicVal, problem
		}
		known = known && args[i].IsWhollyKnown()
	}
	if len(args) < len(f.params) || len(args) > len(f.params) && f.rest == nil {
		return cty.DynamicVal, wrongArgumentCount(e.Range(), e.Name, len(args), f.Function)
	}
	if problem := m.spend(f.steps(args), e); problem != nil {
		return cty.DynamicVal, problem
	}
	v, err := f.Call(args)
	if err != nil {
		if m.checking && !known {
			return cty.DynamicVal, nil // it may work with other values
		}
		return cty.DynamicVal, callFailed(e.Range(), m.names.written(e), err)
	}
	return m.charge(v, e)
}

// arguments evaluates the arguments of a call; nil when nobody knows yet how
// many there are.
func (m *machine) arguments(e *hclsyntax.FunctionCallExpr, s *scope) ([]cty.Value, *hcl.Diagnostic) {
	args, problem := m.all(e.Args, s)
	if problem != nil || !e.ExpandFinal {
		return args, problem
	}
	last := args[len(args)-1]
	t := last.Type()
	if !last.IsKnown() && (t == cty.DynamicPseudoType || t.IsListType() || t.IsSetType()) {
		return nil, nil
	}
	if last.IsNull() || !t.IsListType() && !t.IsSetType() && !t.IsTupleType() {
		at := e.Args[len(args)-1]
		return nil, notACollection(at.Range(), m.names.written(at))
	}
	return append(slices.Clip(args[:len(args)-1]), last.AsValueSlice()...), nil
}

// argument converts one argument.
func (m *machine) argument(e *hclsyntax.FunctionCallExpr, param *function.Parameter, v cty.Value, at hclsyntax.Expression) (cty.Value, *hcl.Diagnostic) {
	if param == nil || param.Type == cty.DynamicPseudoType || param.Type.Equals(v.Type()) {
		return v, nil // one too many, or right as it is
	}
	got, err := convert.Convert(v, param.Type)
	if err != nil {
		return cty.DynamicVal, wrongArgument(at.Range(), m.names.written(at), e.Name, param.Name, param.Type)
	}
	if _, inBounds := size(got, m.left); !inBounds {
		return cty.DynamicVal, numberOutOfBounds(at.Range(), m.names.written(at))
	}
	return got, nil
}

// attempt evaluates try, the first of its arguments that works, and can, whether
// its argument works.
func (m *machine) attempt(e *hclsyntax.FunctionCallExpr, s *scope) (cty.Value, *hcl.Diagnostic) {
	if len(e.Args) == 0 || e.ExpandFinal || e.Name == "can" && len(e.Args) > 1 {
		return cty.DynamicVal, wrongAttempt(e.Range(), e.Name)
	}
	var problem *hcl.Diagnostic
	for _, arg := range e.Args {
		var v cty.Value
		v, problem = m.eval(arg, s)
		switch {
		case m.left < 0:
			return cty.DynamicVal, problem
		case problem == nil && !v.IsWhollyKnown():
			if e.Name == "can" {
				return cty.UnknownVal(cty.Bool), nil
			}
			return cty.DynamicVal, nil
		case e.Name == "can":
			return cty.BoolVal(problem == nil), nil
		case problem == nil:
			return v, nil
		}
	}
	return cty.DynamicVal, problem
}
