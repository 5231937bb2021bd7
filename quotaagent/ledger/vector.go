package ledger

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Vector is an amount for each period and dimension. Periods are keyed by
// budget.Period.Key, plus two kinds of key that only holds use: "concurrent"
// for gauges and AnyPeriod(w) for work that may still fall into any period of w.
// The gauge Committed is charged like a window without an end: read it, as all
// windows, with Balance.HeldIn.
//
// It is a reference, like a map: copies share the amounts, the zero value can be
// read and not written. A hold has some dozen amounts and few have more than a
// hundred, which a sorted array holds in less space than maps, and finds sooner.
// Zero amounts are not stored, so equal vectors have equal amounts.
type Vector struct{ cells *[]Cell }

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
		keys[w] = unique.Make(budget.Window(w).String() + "/" + anySuffix).Value()
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

// anyOf is the key of AnyPeriod for the window of a period's key.
func anyOf(period string) string {
	name, _, _ := strings.Cut(period, "/")
	for w, known := range windowNames {
		if known == name {
			return anyPeriods[w]
		}
	}
	return name + "/" + anySuffix
}

// Cell is one amount of a Vector.
type Cell struct {
	Period    string
	Dimension budget.Dimension
	Amount    quantity.Amount
}

// Row are the amounts of one period, in the order of their dimensions.
type Row []Cell

// NewVector is an empty vector that can be written.
func NewVector() Vector { return Vector{cells: new([]Cell)} }

// smallVector is NewVector with room for what GPUs of one class come to in the windows
// that most policies have, all in one piece of memory.
func smallVector() Vector {
	v := new(struct {
		cells []Cell
		room  [10]Cell
	})
	v.cells = v.room[:0]
	return Vector{cells: &v.cells}
}

// VectorOf is the vector with these amounts, by period and dimension.
func VectorOf(amounts map[string]map[budget.Dimension]quantity.Amount) Vector {
	v := NewVector()
	for period, dims := range amounts {
		for d, a := range dims {
			v.Add(period, d, a)
		}
	}
	return v
}

// all are the amounts in order.
func (v Vector) all() []Cell {
	if v.cells == nil {
		return nil
	}
	return *v.cells
}

// All are the amounts by period and dimension, in order. The vector must not be
// written meanwhile.
func (v Vector) All() iter.Seq[Cell] { return slices.Values(v.all()) }

// Len is how many amounts are not zero.
func (v Vector) Len() int { return len(v.all()) }

// IsZero reports whether there are none.
func (v Vector) IsZero() bool { return v.Len() == 0 }

// Equal reports whether two vectors have the same amounts.
func (v Vector) Equal(w Vector) bool { return slices.Equal(v.all(), w.all()) }

// linear is up to how many cells are looked at one by one.
const linear = 24

// start is the index of the first cell of a period, or where it would be.
func (v Vector) start(period string) int {
	cells := v.all()
	if len(cells) > linear {
		at, _ := slices.BinarySearchFunc(cells, period, func(c Cell, period string) int { return strings.Compare(c.Period, period) })
		return at
	}
	if period == "" {
		return 0
	}
	for i := range cells { // the first letter tells most windows apart
		if at := cells[i].Period; at != "" && at[0] >= period[0] && (at == period || at > period) {
			return i
		}
	}
	return len(cells)
}

// find is the index of an amount, or where it would be.
func (v Vector) find(period string, d budget.Dimension) (at int, found bool) {
	cells := v.all()
	for at = v.start(period); at < len(cells) && cells[at].Period == period; at++ {
		if cells[at].Dimension >= d {
			return at, cells[at].Dimension == d
		}
	}
	return at, false
}

// Row are the amounts of one period. They are those of the vector, not a copy: it
// must not be written while they are read.
func (v Vector) Row(period string) Row {
	from, to := v.span(period)
	return v.all()[from:to]
}

// RowsOf are the rows of a period and of AnyPeriod of its window ("" for none), and
// whether there are amounts of later periods of the window. All of these lie side by
// side: keys of periods of one window have the same length and first letter, those of
// other windows begin with another letter or are as long as none of them, and what may
// fall into any period comes last.
func (v Vector) RowsOf(period, anyPeriod string) (row, anywhere Row, later bool) {
	cells := v.all()
	from, to := v.span(period)
	row = cells[from:to]
	for to < len(cells) && len(cells[to].Period) == len(period) && cells[to].Period[0] == period[0] {
		later = true
		if anyPeriod == "" {
			break
		}
		to++
	}
	from = to
	for anyPeriod != "" && to < len(cells) && cells[to].Period == anyPeriod {
		to++
	}
	return row, cells[from:to], later
}

// span are the indexes of the first amount of a period and of the first behind it, both
// where it would be for none.
func (v Vector) span(period string) (from, to int) {
	cells := v.all()
	from = v.start(period)
	for to = from; to < len(cells) && cells[to].Period == period; {
		to++
	}
	return from, to
}

// At is the amount of one dimension.
func (r Row) At(d budget.Dimension) quantity.Amount {
	for i := range r {
		if r[i].Dimension == d {
			return r[i].Amount
		}
	}
	return 0
}

// At is the amount of one period and dimension.
func (v Vector) At(period string, d budget.Dimension) quantity.Amount { return v.Row(period).At(d) }

// Add adds an amount in place.
func (v Vector) Add(period string, d budget.Dimension, a quantity.Amount) {
	if a == 0 {
		return
	}
	cells := *v.cells
	if n := len(cells); n == 0 || period > cells[n-1].Period || period == cells[n-1].Period && d > cells[n-1].Dimension {
		if cap(cells) == 0 {
			cells = make([]Cell, 0, 8)
		}
		*v.cells = append(cells, Cell{Period: period, Dimension: d, Amount: a})
		return
	}
	at, found := v.find(period, d)
	if !found {
		*v.cells = slices.Insert(cells, at, Cell{Period: period, Dimension: d, Amount: a})
		return
	}
	if cells[at].Amount = cells[at].Amount.Add(a); cells[at].Amount == 0 {
		*v.cells = slices.Delete(cells, at, at+1)
	}
}

// AddAll adds every amount of w times sign (1 or -1) in place.
func (v Vector) AddAll(w Vector, sign int64) {
	if v.cells != nil && v.cells == w.cells {
		w = w.Clone()
	}
	for _, c := range w.all() {
		v.Add(c.Period, c.Dimension, c.Amount.Mul(sign))
	}
}

// AddRow adds the amounts of a row to a period in place.
func (v Vector) AddRow(period string, r Row, sign int64) {
	for _, c := range r {
		v.Add(period, c.Dimension, c.Amount.Mul(sign))
	}
}

// Drop removes the amounts that gone names, in place.
func (v Vector) Drop(gone func(c Cell) bool) {
	if v.cells != nil {
		*v.cells = slices.DeleteFunc(*v.cells, gone)
	}
}

// Clone is a deep copy, which can be written.
func (v Vector) Clone() Vector {
	cells := slices.Clone(v.all())
	return Vector{cells: &cells}
}

// larger is the least vector by which every period and dimension holds as much
// as by either, what may fall into any period included.
func larger(v, w Vector) Vector {
	switch { // nothing that is charged is negative, whatever else counts beside it
	case v.IsZero():
		return w
	case w.IsZero():
		return v
	}
	out := NewVector()
	for _, either := range []Vector{v, w} {
		for c := range either.All() {
			period, d := c.Period, c.Dimension
			if _, done := out.find(period, d); !done {
				out.Add(period, d, max(v.heldIn(period, d), w.heldIn(period, d)).Sub(max(v.anywhere(period, d), w.anywhere(period, d))))
			}
		}
	}
	return out
}

// anywhere is what may fall into any period of the window that a key belongs to;
// nothing for the key of any period itself and for gauges.
func (v Vector) anywhere(period string, d budget.Dimension) quantity.Amount {
	if key := anyOf(period); key != period {
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
func (v Vector) Periods() []string {
	var keys []string
	for c := range v.All() {
		if len(keys) == 0 || keys[len(keys)-1] != c.Period {
			keys = append(keys, c.Period)
		}
	}
	return keys
}

// String is the vector as it is stored.
func (v Vector) String() string {
	text, _ := v.MarshalJSON()
	return string(text)
}

// MarshalJSON implements json.Marshaler: an object of periods with an object of
// dimensions each, both in order.
func (v Vector) MarshalJSON() ([]byte, error) {
	if v.cells == nil {
		return []byte("null"), nil
	}
	out := make([]byte, 0, 16+48*v.Len())
	out = append(out, '{')
	period := ""
	for i, c := range v.all() {
		switch {
		case i == 0 || c.Period != period:
			if i > 0 {
				out = append(out, '}', ',')
			}
			period = c.Period
			out = append(appendText(out, period), ':', '{')
		default:
			out = append(out, ',')
		}
		out = append(appendText(out, string(c.Dimension)), ':')
		out = strconv.AppendInt(out, int64(c.Amount), 10)
	}
	if v.Len() > 0 {
		out = append(out, '}')
	}
	return append(out, '}'), nil
}

// appendText appends a JSON string.
func appendText(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			text, _ := json.Marshal(s) // a string cannot fail
			return append(out, text...)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Vector) UnmarshalJSON(text []byte) error {
	var amounts map[string]map[budget.Dimension]quantity.Amount
	if err := json.Unmarshal(text, &amounts); err != nil {
		return fmt.Errorf("amounts by period and dimension: %w", err)
	}
	if amounts == nil {
		*v = Vector{}
		return nil
	}
	n := 0
	for _, dims := range amounts {
		n += len(dims)
	}
	cells := make([]Cell, 0, n)
	for _, period := range slices.Sorted(maps.Keys(amounts)) {
		dims := amounts[period]
		for _, d := range slices.Sorted(maps.Keys(dims)) {
			if dims[d] != 0 {
				cells = append(cells, Cell{Period: unique.Make(period).Value(), Dimension: unique.Make(d).Value(), Amount: dims[d]})
			}
		}
	}
	*v = Vector{cells: &cells}
	return nil
}
