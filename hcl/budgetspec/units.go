package budgetspec

import (
	"math/big"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/zclconf/go-cty/cty"
)

// unit is what a number in the language counts.
type unit struct {
	// name in the plural, for people.
	name string
	// base is how many base units one is: exactly so many are stored.
	base quantity.Amount
	// finest is the smallest step, for people.
	finest string
	// words says what to write instead of zero, for people.
	words string
	// none and unlimited say which of these words may stand for a number.
	none, unlimited bool
}

const limitWords = `"none" for nothing or "unlimited" for no limit`

// limitOf is a unit of limits, which may be nothing and may be without end.
func limitOf(name string, base quantity.Amount, finest string) unit {
	return unit{name: name, base: base, finest: finest, words: limitWords, none: true, unlimited: true}
}

func gpuUnit() unit { return limitOf("GPUs", quantity.GPU, "1/5040 of a GPU") }

func gpuHourUnit() unit {
	return limitOf("GPU-hours", quantity.GPUHour, "one GPU-millisecond (1/3600000 of a GPU-hour)")
}

func moneyUnit() unit {
	return limitOf("units of the currency", quantity.CurrencyUnit, "one millionth of the currency")
}

func energyUnit() unit { return limitOf("kWh", quantity.KWh, "one joule (1/3600000 kWh)") }

func tokenUnit() unit { return limitOf("tokens", 1, "one token") }

func jobUnit() unit { return limitOf("jobs", 1, "one job") }

// priceUnit is for prices; free says of what none is the price of.
func priceUnit(free string) unit { return moneyUnit().orNone(`"none" where ` + free) }

// factorUnit is a number without a unit.
func factorUnit() unit {
	return unit{name: "parts", base: quantity.Amount(quantity.RatioOne), finest: "one millionth"}
}

// orNone is the unit where "none" may stand for zero, and there is no unlimited
// amount.
func (u unit) orNone(words string) unit {
	u.words, u.none, u.unlimited = words, true, false
	return u
}

// only is the unit where nothing but a positive number will do.
func (u unit) only() unit {
	u.words, u.none, u.unlimited = "", false, false
	return u
}

// finite reads a number of units that is not without end: the unit must not have
// the word.
func (d *decoder) finite(expr hclsyntax.Expression, what string, u unit) (quantity.Amount, bool) {
	limit, ok := d.amount(expr, what, u)
	if !ok {
		return 0, false
	}
	amount, finite := limit.Finite()
	return amount, finite
}

// factor reads a number between two others, in parts of quantity.RatioOne; least
// and most are given in hundredths.
func (d *decoder) factor(attr *hclsyntax.Attribute, u unit, least, most int64) (quantity.Ratio, bool) {
	amount, ok := d.finite(attr.Expr, attr.Name, u)
	if !ok {
		return 0, false
	}
	const hundredth = quantity.Amount(quantity.RatioOne) / 100
	low, high := hundredth.Mul(least), hundredth.Mul(most)
	if amount != 0 && (amount < low || amount > high) {
		text := func(a quantity.Amount) string { return quantity.FormatExact(a, quantity.Amount(quantity.RatioOne)) }
		span := "from " + text(low) + " to " + text(high)
		if low == 0 {
			span = "above 0 and at most " + text(high)
		}
		d.report(outOfRange(attr.Expr.Range(), attr.Name, d.written(attr.Expr), span))
		return 0, false
	}
	return quantity.Ratio(amount), true
}

// percentPlaces is how many decimals a percentage may have: it is kept in
// millionths.
const percentPlaces = 4

// percent reads a part of something: "80%", at most "100%"; zero if it is wrong,
// and then that is reported.
func (d *decoder) percent(attr *hclsyntax.Attribute) quantity.Ratio {
	v, ok := d.value(attr.Expr)
	if !ok {
		return 0
	}
	if v.Type() == cty.String {
		if number, found := strings.CutSuffix(v.AsString(), "%"); found {
			amount, err := quantity.ParseDecimal(number, quantity.Amount(quantity.RatioOne)/100)
			if err == nil && amount <= quantity.Amount(quantity.RatioOne) {
				return quantity.Ratio(amount)
			}
		}
	}
	d.report(badPercent(attr.Expr.Range(), attr.Name, d.written(attr.Expr)))
	return 0
}

// countRange is what a whole number may be; why explains it, for people.
type countRange struct {
	least, most int
	why         string
}

// count reads a whole number in a range; "none" is zero, where that is in it.
func (d *decoder) count(attr *hclsyntax.Attribute, c countRange) (int, bool) {
	v, ok := d.value(attr.Expr)
	if !ok {
		return 0, false
	}
	if v.Type() == cty.String && v.AsString() == wordNone && c.least <= 0 {
		return 0, true
	}
	if v.Type() == cty.Number {
		n, accuracy := v.AsBigFloat().Int64()
		if accuracy == big.Exact && n >= int64(c.least) && n <= int64(c.most) {
			return int(n), true
		}
	}
	d.report(badCount(attr.Expr.Range(), attr.Name, d.written(attr.Expr), c))
	return 0, false
}

// isWord reports whether an expression is a certain word.
func (d *decoder) isWord(expr hclsyntax.Expression, word string) bool {
	v, problem := d.evaluate(expr, &staticNames{d})
	return problem == nil && v.RawEquals(cty.StringVal(word))
}
