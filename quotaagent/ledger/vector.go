package ledger

import (
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Vector is an amount for each period and dimension. Periods are keyed by
// budget.Period.Key, plus two kinds of key that only holds use: "concurrent"
// for gauges and AnyPeriod(w) for work that may still fall into any period of w.
// The gauge Committed is charged like a window without an end: read it, as all
// windows, with Balance.HeldIn.
// Zero amounts are not stored, so equal vectors are equal maps.
type Vector map[string]map[budget.Dimension]quantity.Amount

// ConcurrentKey is the key of the gauges.
const ConcurrentKey = "concurrent"

// AnyPeriod is the key under which work that has not been placed yet counts in
// every period of a window, for it may start at any time (BUDGETS.md,
// "Admission": checking only the current window overspends the next one).
func AnyPeriod(w budget.Window) string { return anyPeriods[w] }

const anySuffix = "any"

// anyPeriods are the keys of AnyPeriod by window.
var anyPeriods = func() (keys [budget.Committed + 1]string) {
	for w := range keys {
		keys[w] = budget.Window(w).String() + "/" + anySuffix
	}
	return keys
}()

// WindowOf is the window of a key that names a period which begins at a time;
// false for gauges, for all time, and for what may fall into any period.
func WindowOf(key string) (budget.Window, bool) {
	for _, w := range datedWindows {
		name := windowNames[w]
		if len(key) > len(name) && key[0] == name[0] && key[len(name)] == '/' && key[:len(name)] == name {
			return w, key[len(name)+1:] != anySuffix
		}
	}
	return 0, false
}

// datedWindows are those whose periods begin at a time.
var datedWindows = [...]budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year}

var windowNames = func() (names [budget.Committed + 1]string) {
	for w := range names {
		names[w] = budget.Window(w).String()
	}
	return names
}()

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

// drop removes the dimensions that gone names, from all periods but the gauge of
// GPUs held at once.
func (v Vector) drop(gone func(d budget.Dimension) bool) {
	for period, dims := range v {
		if period == ConcurrentKey {
			continue
		}
		for d := range dims {
			if gone(d) {
				delete(dims, d)
			}
		}
		if len(dims) == 0 {
			delete(v, period)
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

// larger is the least vector by which every period and dimension holds as much
// as by either, what may fall into any period included.
func larger(v, w Vector) Vector {
	switch { // nothing that is charged is negative, whatever else counts beside it
	case len(v) == 0:
		return w
	case len(w) == 0:
		return v
	}
	out := Vector{}
	for _, either := range []Vector{v, w} {
		for period, dims := range either {
			for d := range dims {
				if _, done := out[period][d]; !done {
					out.Add(period, d, max(v.heldIn(period, d), w.heldIn(period, d)).Sub(max(v.anywhere(period, d), w.anywhere(period, d))))
				}
			}
		}
	}
	return out
}

// anywhere is what may fall into any period of the window that a key belongs to;
// nothing for the key of any period itself and for gauges.
func (v Vector) anywhere(period string, d budget.Dimension) quantity.Amount {
	window, _, _ := strings.Cut(period, "/")
	if key := window + "/" + anySuffix; key != period {
		return v.At(key, d)
	}
	return 0
}

// heldIn is all that counts in the period with this key.
func (v Vector) heldIn(period string, d budget.Dimension) quantity.Amount {
	return v.At(period, d).Add(v.anywhere(period, d))
}

// Minus is v - w as a new vector.
func (v Vector) Minus(w Vector) Vector {
	c := v.Clone()
	c.AddAll(w, -1)
	return c
}

// Periods returns the keys in order.
func (v Vector) Periods() []string { return slices.Sorted(maps.Keys(v)) }
