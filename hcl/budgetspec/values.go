package budgetspec

import (
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/zclconf/go-cty/cty"
)

// The words for what people elsewhere write as 0 and mean opposite things by.
const (
	wordNone      = "none"
	wordUnlimited = "unlimited"
)

// value evaluates an expression that must be constant in this release.
func (d *decoder) value(expr hclsyntax.Expression) (cty.Value, bool) {
	if problem := firstDynamic(expr); problem != nil {
		d.report(problem)
		return cty.NilVal, false
	}
	v, diags := expr.Value(nil)
	d.diags = append(d.diags, diags...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	if v.IsNull() || !v.IsWhollyKnown() {
		d.report(noValue(expr.Range()))
		return cty.NilVal, false
	}
	return v, true
}

// firstDynamic is about the first part of an expression that depends on
// anything but itself, or nil.
func firstDynamic(expr hclsyntax.Expression) *hcl.Diagnostic {
	var problem *hcl.Diagnostic
	_ = hclsyntax.VisitAll(expr, func(node hclsyntax.Node) hcl.Diagnostics {
		if problem != nil {
			return nil //nolint:nilerr // a diagnostic found before is not an error of this node
		}
		switch e := node.(type) {
		case *hclsyntax.ScopeTraversalExpr:
			problem = reference(e.Range(), e.Traversal.RootName())
		case *hclsyntax.FunctionCallExpr:
			problem = notImplemented(e.NameRange, e.Name+"()")
		case *hclsyntax.ForExpr:
			problem = notImplemented(e.OpenRange, "for")
		case *hclsyntax.SplatExpr:
			problem = notImplemented(e.Range(), "[*]")
		}
		return nil
	})
	return problem
}

// text reads a string that is not empty.
func (d *decoder) text(attr *hclsyntax.Attribute) (string, bool) {
	return d.textOf(attr.Expr, attr.Name)
}

func (d *decoder) textOf(expr hclsyntax.Expression, what string) (string, bool) {
	v, ok := d.value(expr)
	if !ok {
		return "", false
	}
	if v.Type() != cty.String {
		d.report(wrongType(expr.Range(), what, d.written(expr), "text in quotes"))
		return "", false
	}
	if v.AsString() == "" {
		d.report(emptyText(expr.Range(), what))
		return "", false
	}
	return v.AsString(), true
}

// choice reads one of a few words; planned are words of the full language.
func (d *decoder) choice(attr *hclsyntax.Attribute, words, planned []string) (string, bool) {
	word, ok := d.text(attr)
	switch {
	case !ok:
		return "", false
	case slices.Contains(words, word):
		return word, true
	case slices.Contains(planned, word):
		d.report(notImplemented(attr.Expr.Range(), attr.Name+" = "+strconv.Quote(word)))
	default:
		d.report(wrongWord(attr.Expr.Range(), attr.Name, word, words))
	}
	return "", false
}

// element is one string of a list.
type element struct {
	text string
	at   hcl.Range
}

// elementsMax bounds a list or map; patterns can say more in fewer words.
const elementsMax = 256

// list reads a list of strings with at least one element.
func (d *decoder) list(attr *hclsyntax.Attribute) []element {
	tuple, ok := unwrap(attr.Expr).(*hclsyntax.TupleConsExpr)
	if !ok {
		if problem := firstDynamic(attr.Expr); problem != nil {
			d.report(problem)
			return nil
		}
		d.report(wrongType(attr.Expr.Range(), attr.Name, d.written(attr.Expr), `a list, such as ["a", "b"]`))
		return nil
	}
	if len(tuple.Exprs) == 0 {
		d.report(emptyList(attr.Expr.Range(), attr.Name))
	}
	if len(tuple.Exprs) > elementsMax {
		d.report(longList(attr.Expr.Range(), attr.Name, len(tuple.Exprs)))
		return nil
	}
	var elements []element
	for _, expr := range tuple.Exprs {
		text, ok := d.textOf(expr, "each element of "+attr.Name)
		if !ok {
			continue
		}
		if i := slices.IndexFunc(elements, func(e element) bool { return e.text == text }); i >= 0 {
			d.report(repeatedElement(expr.Range(), attr.Name, text))
			continue
		}
		elements = append(elements, element{text, expr.Range()})
	}
	return elements
}

// unwrap removes parentheses.
func unwrap(expr hclsyntax.Expression) hclsyntax.Expression {
	for {
		p, ok := expr.(*hclsyntax.ParenthesesExpr)
		if !ok {
			return expr
		}
		expr = p.Expression
	}
}

// duration reads a length of time such as "72h", "30d" or "1w2d"; zero if it
// is wrong, and then that is reported.
func (d *decoder) duration(attr *hclsyntax.Attribute) time.Duration {
	v, ok := d.value(attr.Expr)
	if !ok {
		return 0
	}
	if v.Type() != cty.String {
		d.report(durationWithoutUnit(attr.Expr.Range(), attr.Name, d.written(attr.Expr)))
		return 0
	}
	length, err := parseDuration(v.AsString())
	if err != nil {
		d.report(badDuration(attr.Expr.Range(), attr.Name, v.AsString(), err))
		return 0
	}
	return length
}

// amount reads a positive number of units, or where the unit has these words
// "none" (zero) and "unlimited".
func (d *decoder) amount(expr hclsyntax.Expression, what string, u unit) (quantity.Limit, bool) {
	v, ok := d.value(expr)
	if !ok {
		return quantity.Limit{}, false
	}
	switch v.Type() {
	case cty.String:
		switch word := v.AsString(); {
		case word == wordNone && u.none:
			return quantity.LimitOf(0), true
		case word == wordUnlimited && u.unlimited:
			return quantity.Unlimited, true
		}
		d.report(notANumber(expr.Range(), what, d.written(expr), u))
		return quantity.Limit{}, false
	case cty.Number:
		a, problem := exact(v.AsBigFloat(), u)
		if problem != numberFine {
			d.report(badNumber(expr.Range(), what, d.written(expr), u, problem))
			return quantity.Limit{}, false
		}
		return quantity.LimitOf(a), true
	}
	d.report(notANumber(expr.Range(), what, d.written(expr), u))
	return quantity.Limit{}, false
}

// numberProblem says why a number cannot be a limit.
type numberProblem uint8

const (
	numberFine numberProblem = iota
	numberZero
	numberNegative
	numberTooLarge
	numberTooFine
)

// HCL computes with 512 bits, so that 0.1 is not quite a tenth. A number within
// 2^-toleranceBits of a whole number of base units is that number: nobody can
// write a finer difference in fewer than 100 digits.
const toleranceBits = 380

// precision holds the product of such a number and any base unit exactly.
const precision = 1024

// exact converts a number of units to whole base units.
func exact(f *big.Float, u unit) (quantity.Amount, numberProblem) {
	switch {
	case f.Sign() == 0:
		return 0, numberZero
	case f.Sign() < 0:
		return 0, numberNegative
	case f.IsInf() || f.MantExp(nil) > 64:
		return 0, numberTooLarge
	}
	scaled := new(big.Float).SetPrec(precision).Mul(f, new(big.Float).SetInt64(int64(u.base)))
	whole, _ := new(big.Float).Add(scaled, big.NewFloat(0.5)).Int(nil)
	if !whole.IsInt64() {
		return 0, numberTooLarge
	}
	rest := new(big.Float).Sub(scaled, new(big.Float).SetInt(whole))
	if whole.Sign() == 0 || rest.Sign() != 0 && rest.MantExp(nil) > -toleranceBits {
		return 0, numberTooFine
	}
	return quantity.Amount(whole.Int64()), numberFine
}

// classAmount is an amount for one GPU class, or for budget.AnyClass.
type classAmount struct {
	class string
	limit quantity.Limit
	at    hcl.Range
}

// byClass reads { h100 = 8, any = 16 }; a plain amount means "any".
func (d *decoder) byClass(attr *hclsyntax.Attribute, u unit) []classAmount {
	return d.byClassOf(attr.Expr, attr.Name, attr.Range(), u)
}

// byClassOf is byClass of an expression; at is where a plain amount stands.
func (d *decoder) byClassOf(expr hclsyntax.Expression, what string, at hcl.Range, u unit) []classAmount {
	if _, object := unwrap(expr).(*hclsyntax.ObjectConsExpr); !object {
		limit, ok := d.amount(expr, what, u)
		if !ok {
			return nil
		}
		return []classAmount{{anyClass, limit, at}}
	}
	var amounts []classAmount
	for _, item := range d.object(expr, what, `{ any = 8 }`) {
		d.useClass(item.key, item.keyAt)
		if limit, ok := d.amount(item.value, what+" of "+strconv.Quote(item.key), u); ok {
			amounts = append(amounts, classAmount{item.key, limit, item.at})
		}
	}
	return amounts
}

// item is one element of an object.
type item struct {
	key   string
	value hclsyntax.Expression
	// keyAt is where the key stands, at the key and the value.
	keyAt, at hcl.Range
}

// object reads { a = 1, b = 2 } with at least one element and no key twice; what
// is wrong with it is reported. The example is for who wrote none.
func (d *decoder) object(expr hclsyntax.Expression, what, example string) []item {
	object, ok := unwrap(expr).(*hclsyntax.ObjectConsExpr)
	if !ok {
		if problem := firstDynamic(expr); problem != nil {
			d.report(problem)
			return nil
		}
		d.report(wrongType(expr.Range(), what, d.written(expr), "a map, such as "+example))
		return nil
	}
	if len(object.Items) == 0 {
		d.report(emptyMap(expr.Range(), what, example))
	}
	if len(object.Items) > elementsMax {
		d.report(longList(expr.Range(), what, len(object.Items)))
		return nil
	}
	var items []item
	for _, i := range object.Items {
		key, ok := d.key(i.KeyExpr)
		if !ok {
			continue
		}
		at := hcl.RangeBetween(i.KeyExpr.Range(), i.ValueExpr.Range())
		if slices.ContainsFunc(items, func(have item) bool { return have.key == key }) {
			d.report(repeatedElement(at, what, key))
			continue
		}
		items = append(items, item{key, i.ValueExpr, i.KeyExpr.Range(), at})
	}
	return items
}

// key reads a key: a bare word, text in quotes or, for a class such as 4090, a
// number.
func (d *decoder) key(expr hclsyntax.Expression) (string, bool) {
	v, ok := d.value(expr)
	if !ok {
		return "", false
	}
	switch v.Type() {
	case cty.String:
		return v.AsString(), true
	case cty.Number:
		return d.written(expr), true
	}
	d.report(wrongType(expr.Range(), "a key", d.written(expr), "a name, such as that of a GPU class"))
	return "", false
}

// writtenMax bounds how much of a source text a diagnostic repeats.
const writtenMax = 60

// written is an expression as it stands in the file, on one line.
func (d *decoder) written(expr hclsyntax.Expression) string {
	return abridge(string(expr.Range().SliceBytes(d.source[expr.Range().Filename])))
}
