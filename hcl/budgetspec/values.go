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

// value evaluates an expression that must be known when the policy is read. What
// is unknown depends on something wrong that was reported where it is.
func (d *decoder) value(expr hclsyntax.Expression) (cty.Value, bool) {
	v, problem := d.evaluate(expr, &staticNames{d})
	if problem != nil {
		d.report(problem)
		return cty.NilVal, false
	}
	if v.IsNull() {
		d.report(noValue(expr.Range()))
		return cty.NilVal, false
	}
	return v, v.IsWhollyKnown()
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

// choice reads one of a few words.
func (d *decoder) choice(attr *hclsyntax.Attribute, words []string) (string, bool) {
	word, ok := d.text(attr)
	if ok && !slices.Contains(words, word) {
		d.report(wrongWord(attr.Expr.Range(), attr.Name, word, words))
		return "", false
	}
	return word, ok
}

// part is one element of a list: where it was written, or the whole list where
// that is computed.
type part struct {
	value cty.Value
	at    hcl.Range
}

// elementsMax bounds a list or map; patterns can say more in fewer words.
const elementsMax = 256

// elements reads a list with at least one element; want says what it should be.
func (d *decoder) elements(attr *hclsyntax.Attribute, want string) []part {
	var parts []part
	var count int
	if tuple, ok := unwrap(attr.Expr).(*hclsyntax.TupleConsExpr); ok {
		count = len(tuple.Exprs)
		for _, expr := range tuple.Exprs[:min(count, elementsMax)] {
			if v, ok := d.value(expr); ok {
				parts = append(parts, part{v, expr.Range()})
			}
		}
	} else {
		v, ok := d.value(attr.Expr)
		if !ok {
			return nil
		}
		if t := v.Type(); !t.IsListType() && !t.IsTupleType() && !t.IsSetType() {
			d.report(wrongType(attr.Expr.Range(), attr.Name, d.written(attr.Expr), want))
			return nil
		}
		count = v.LengthInt()
		for _, element := range v.AsValueSlice() {
			if element.IsNull() {
				d.report(noValue(attr.Expr.Range()))
				continue
			}
			parts = append(parts, part{element, attr.Expr.Range()})
		}
	}
	switch {
	case count == 0:
		d.report(emptyList(attr.Expr.Range(), attr.Name))
	case count > elementsMax:
		d.report(longList(attr.Expr.Range(), attr.Name, count))
		return nil
	}
	return parts
}

// element is one string of a list.
type element struct {
	text string
	at   hcl.Range
}

// list reads a list of strings with at least one element.
func (d *decoder) list(attr *hclsyntax.Attribute) []element {
	var elements []element
	for _, p := range d.elements(attr, `a list, such as ["a", "b"]`) {
		what := "each element of " + attr.Name
		switch {
		case p.value.Type() != cty.String:
			d.report(wrongType(p.at, what, d.writtenAt(p.at), "text in quotes"))
		case p.value.AsString() == "":
			d.report(emptyText(p.at, what))
		case slices.ContainsFunc(elements, func(e element) bool { return e.text == p.value.AsString() }):
			d.report(repeatedElement(p.at, attr.Name, p.value.AsString()))
		default:
			elements = append(elements, element{p.value.AsString(), p.at})
		}
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
	if !d.isObject(expr) {
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

// isObject reports whether an expression is a map, of whatever: also one that is
// computed.
func (d *decoder) isObject(expr hclsyntax.Expression) bool {
	if _, ok := unwrap(expr).(*hclsyntax.ObjectConsExpr); ok {
		return true
	}
	v, problem := d.evaluate(expr, &staticNames{d})
	return problem == nil && (v.Type().IsObjectType() || v.Type().IsMapType())
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
		v, ok := d.value(expr)
		if !ok {
			return nil
		}
		if t := v.Type(); !t.IsObjectType() && !t.IsMapType() {
			d.report(wrongType(expr.Range(), what, d.written(expr), "a map, such as "+example))
			return nil
		}
		object = &hclsyntax.ObjectConsExpr{}
		for it := v.ElementIterator(); it.Next(); {
			key, element := it.Element()
			object.Items = append(object.Items, hclsyntax.ObjectConsItem{KeyExpr: constant(key, expr), ValueExpr: constant(element, expr)})
		}
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
func (d *decoder) written(expr hclsyntax.Expression) string { return d.writtenAt(expr.Range()) }

func (d *decoder) writtenAt(at hcl.Range) string {
	return abridge(string(at.SliceBytes(d.source[at.Filename])))
}
