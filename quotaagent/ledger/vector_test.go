package ledger_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// amountsByName is a vector the obvious way, and the form in which it is stored.
type amountsByName map[string]map[budget.Dimension]quantity.Amount

func (m amountsByName) add(period string, d budget.Dimension, a quantity.Amount) {
	if m[period] == nil {
		m[period] = map[budget.Dimension]quantity.Amount{}
	}
	if m[period][d] += a; m[period][d] == 0 {
		delete(m[period], d)
	}
	if len(m[period]) == 0 {
		delete(m, period)
	}
}

func anyPeriodKey(t *rapid.T) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{ledger.ConcurrentKey, "total", "total/any", "committed", "committed/any", "week/any", "month/any"}),
		rapid.Custom(func(t *rapid.T) string {
			window := rapid.SampledFrom([]string{"hour", "day", "week", "month"}).Draw(t, "window")
			return window + "/2026-03-" + rapid.SampledFrom([]string{"01", "09", "10", "28"}).Draw(t, "day") + "T00:00Z"
		}),
	).Draw(t, "period")
}

// TestAVectorIsItsAmounts compares a vector with maps: whatever is added and removed, it
// says what they say, and is stored as they are.
func TestAVectorIsItsAmounts(t *testing.T) {
	t.Parallel()
	dimension := rapid.SampledFrom([]budget.Dimension{budget.Cost, budget.Energy, "gpu_ms/any", "gpu_ms/h100", "gpus/any", `odd "<class>"`})
	rapid.Check(t, func(t *rapid.T) {
		v, want := ledger.NewVector(), amountsByName{}
		other := ledger.NewVector()
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			period, d, a := anyPeriodKey(t), dimension.Draw(t, "dimension"), quantity.Amount(rapid.Int64Range(-2, 2).Draw(t, "amount"))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				other.Add(period, d, a)
			case 1:
				v.AddAll(other, -1)
				for c := range other.All() {
					want.add(c.Period, c.Dimension, -c.Amount)
				}
			case 2:
				v.Drop(func(c ledger.Cell) bool { return c.Period == period && c.Dimension == d })
				want.add(period, d, -want[period][d])
			default:
				v.Add(period, d, a)
				want.add(period, d, a)
			}
		}
		must.Eq(t, slices.Sorted(maps.Keys(want)), v.Periods())
		must.True(t, ledger.VectorOf(want).Equal(v))
		for _, period := range append(v.Periods(), anyPeriodKey(t)) {
			row, anywhere, later := v.RowsOf(period, "")
			must.Len(t, len(want[period]), row)
			must.Len(t, 0, anywhere)
			for d, a := range want[period] {
				must.Eq(t, a, row.At(d))
				must.Eq(t, a, v.At(period, d))
			}
			if w, dated := ledger.WindowOf(period); dated {
				must.Eq(t, slices.ContainsFunc(v.Periods(), func(key string) bool {
					of, ok := ledger.WindowOf(key)
					return ok && of == w && key > period
				}), later, must.Sprint(period))
				with, anywhere, still := v.RowsOf(period, ledger.AnyPeriod(w))
				must.Eq(t, row, with)
				must.Eq(t, v.Row(ledger.AnyPeriod(w)), anywhere)
				must.Eq(t, later, still)
			}
		}
		stored, err := json.Marshal(v)
		must.NoError(t, err)
		reference, err := json.Marshal(want)
		must.NoError(t, err)
		must.Eq(t, string(reference), string(stored))
		var back ledger.Vector
		must.NoError(t, json.Unmarshal(stored, &back))
		must.True(t, back.Equal(v))
	})
}

func TestAVectorIsAReference(t *testing.T) {
	t.Parallel()
	v := ledger.NewVector()
	same, copied := v, v.Clone()
	v.Add("total", budget.Cost, 5)
	must.Eq(t, 5, same.At("total", budget.Cost))
	must.Eq(t, 0, copied.At("total", budget.Cost))
	v.AddAll(v, -1)
	must.True(t, same.IsZero())
	must.Eq(t, 0, ledger.Vector{}.At("total", budget.Cost), must.Sprint("the zero value can be read"))
	text, err := json.Marshal(ledger.Hold{Charged: ledger.Vector{}})
	must.NoError(t, err)
	must.StrNotContains(t, string(text), "charged")
	text, err = json.Marshal(ledger.Balance{Posted: ledger.NewVector()})
	must.NoError(t, err)
	must.StrContains(t, string(text), `"posted":{},"held":null`)
	must.ErrorContains(t, json.Unmarshal([]byte(`{"total": 5}`), &v), "amounts by period and dimension")
}
