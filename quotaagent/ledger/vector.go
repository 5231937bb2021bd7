package ledger

import (
	"maps"
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Vector is an amount for each period and dimension. Periods are keyed by
// budget.Period.Key, plus two kinds of key that only holds use: "concurrent"
// for gauges and AnyPeriod(w) for work that may still fall into any period of w.
// Zero amounts are not stored, so equal vectors are equal maps.
type Vector map[string]map[budget.Dimension]quantity.Amount

// ConcurrentKey is the key of the gauges.
const ConcurrentKey = "concurrent"

// AnyPeriod is the key under which work that has not been placed yet counts in
// every period of a window, for it may start at any time (BUDGETS.md,
// "Admission": checking only the current window overspends the next one).
func AnyPeriod(w budget.Window) string { return w.String() + "/" + anySuffix }

const anySuffix = "any"

// Add adds an amount in place.
func (v Vector) Add(period string, d budget.Dimension, a quantity.Amount) {
	if a == 0 {
		return
	}
	dims := v[period]
	if dims == nil {
		dims = make(map[budget.Dimension]quantity.Amount)
		v[period] = dims
	}
	dims[d] = dims[d].Add(a)
	if dims[d] == 0 {
		delete(dims, d)
		if len(dims) == 0 {
			delete(v, period)
		}
	}
}

// AddAll adds every amount of w times sign (1 or -1) in place.
func (v Vector) AddAll(w Vector, sign int64) {
	for period, dims := range w {
		for d, a := range dims {
			v.Add(period, d, a.Mul(sign))
		}
	}
}

// At is the amount of one period and dimension.
func (v Vector) At(period string, d budget.Dimension) quantity.Amount { return v[period][d] }

// Clone is a deep copy.
func (v Vector) Clone() Vector {
	c := make(Vector, len(v))
	for period, dims := range v {
		c[period] = maps.Clone(dims)
	}
	return c
}

// larger is the larger amount of each period and dimension.
func larger(v, w Vector) Vector {
	out := v.Clone()
	for period, dims := range w {
		for d, a := range dims {
			if have := out.At(period, d); a > have {
				out.Add(period, d, a.Sub(have))
			}
		}
	}
	return out
}

// Minus is v - w as a new vector.
func (v Vector) Minus(w Vector) Vector {
	c := v.Clone()
	c.AddAll(w, -1)
	return c
}

// Periods returns the keys in order.
func (v Vector) Periods() []string { return slices.Sorted(maps.Keys(v)) }
