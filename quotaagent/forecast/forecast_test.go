package forecast_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// The 20th of April 2026, noon.
var now = time.Date(2026, 4, 20, 12, 0, 0, 0, time.UTC)

// days are the n days before now.
func days(n int) []forecast.Day {
	out := make([]forecast.Day, n)
	for i := range out {
		start := time.Date(2026, 4, 20-n+i, 0, 0, 0, 0, time.UTC)
		out[i] = forecast.Day{Start: start, End: start.AddDate(0, 0, 1)}
	}
	return out
}

// used is so many GPUs of a class on each day.
func used(path, class string, gpus ...float64) []forecast.Use {
	var out []forecast.Use
	for i, d := range days(len(gpus)) {
		ms := quantity.Amount(gpus[i] * 24 * 3_600_000)
		out = append(out, forecast.Use{Budget: path, Class: class, Day: d.Start, GPUTime: ms, Cost: quantity.Cost(ms, 2_000_000)})
	}
	return out
}

func TestClasses(t *testing.T) {
	t.Parallel()
	f := forecast.Make(forecast.Input{Now: now, Days: days(4),
		Uses:     append(used("a", "h100", 4, 5, 6, 7), append(used("b", "h100", 1, 1, 1, 1), used("a", "l40s", 3, 3, 3, 3)...)...),
		Supply:   []forecast.Supply{{Class: "h100", GPUs: 8, Free: 1}, {Class: "h100", GPUs: 4}, {Class: "l40s", GPUs: 4, Free: 1}},
		Starting: []forecast.Demand{{Classes: []string{"h100"}, GPUs: 6}, {Classes: []string{"h100", "l40s"}, GPUs: 1}},
		Waiting:  []forecast.Demand{{Classes: []string{"a100"}, GPUs: 2}},
		More:     map[string]int{"h100": 4, "l40s": 8},
	})
	must.Len(t, 3, f.Classes)
	must.Eq(t, forecast.Class{Class: "a100", TrendMilli: new(int64), Waiting: 2}, f.Classes[0])

	h100 := f.Classes[1]
	must.Eq(t, 12, h100.GPUs)
	must.Eq(t, 1, h100.Free)
	must.Eq(t, 6500, h100.MeanMilli)
	must.Eq(t, 8000, h100.PeakMilli)
	must.Eq(t, 1000, *h100.TrendMilli)
	must.Eq(t, time.Date(2026, 4, 23, 12, 0, 0, 0, time.UTC), *h100.FullOn, must.Sprint("8 on the noon of the 19th, one more each day"))
	must.Eq(t, 7, h100.Starting)
	must.Eq(t, 16, h100.With.GPUs)
	must.Eq(t, time.Date(2026, 4, 27, 12, 0, 0, 0, time.UTC), *h100.With.FullOn)
	must.Eq(t, 4, h100.With.Serves)

	l40s := f.Classes[2]
	must.Nil(t, l40s.FullOn, must.Sprint("it does not rise"))
	must.Eq(t, 1, l40s.With.Serves)
}

func TestNoTrendWithoutThreeDays(t *testing.T) {
	t.Parallel()
	f := forecast.Make(forecast.Input{Now: now, Days: days(2), Uses: used("a", "h100", 1, 7), Supply: []forecast.Supply{{Class: "h100", GPUs: 8}}})
	must.Nil(t, f.Classes[0].TrendMilli)
	must.Nil(t, f.Classes[0].FullOn)
	must.Eq(t, 4000, f.Classes[0].MeanMilli)
	f = forecast.Make(forecast.Input{Now: now, Days: days(3), Uses: used("a", "h100", 1, 4, 7)})
	must.Eq(t, 3000, *f.Classes[0].TrendMilli)
	must.Nil(t, f.Classes[0].FullOn, must.Sprint("how many there are is not known"))
	must.Len(t, 0, forecast.Make(forecast.Input{Now: now}).Classes)
}

// standing is one limit, of which some is used.
func standing(path string, w budget.Window, d budget.Dimension, limit, posted, held quantity.Amount) ledger.Standing {
	return ledger.Standing{Budget: &budget.Budget{Path: path}, Posted: posted, Held: held,
		Limit: ledger.EffectiveLimit{Limit: budget.Limit{Window: w, Dimension: d, Ceiling: quantity.LimitOf(limit)}}}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	hours := func(n int64) quantity.Amount { return quantity.GPUHour.Mul(n) }
	anyTime := budget.GPUTime(budget.AnyClass)
	f := forecast.Make(forecast.Input{Now: now, Days: days(4),
		Uses: append(used("acme/x", "h100", 1, 2, 3, 4), used("acmes", "l40s", 9, 9, 9, 9)...), // 240 GPU-hours of acme, 60 a day, at 2
		Standings: []ledger.Standing{
			standing("acme", budget.Month, anyTime, hours(1000), hours(400), 0),
			standing("acme", budget.Month, anyTime, hours(1100), hours(400), 0),
			standing("acme", budget.Month, budget.Cost, 500_000_000, 500_000_000, 0),
			standing("acme/x", budget.Total, budget.GPUTime("h100"), hours(460), hours(400), 0),
			standing("acme/x", budget.Total, budget.GPUTime("l40s"), hours(460), hours(400), 0),
			standing("acme", budget.Concurrent, budget.GPUs(budget.AnyClass), 6*quantity.GPU, 0, 5*quantity.GPU),
			standing("acme", budget.Concurrent, budget.Jobs, 6, 0, 5),
			{Budget: &budget.Budget{Path: "acme"}, Limit: ledger.EffectiveLimit{Limit: budget.Limit{Window: budget.Month, Dimension: budget.Cost, Ceiling: quantity.Unlimited}}},
		}})
	must.Len(t, 6, f.Limits, must.Sprint("neither jobs nor what is unlimited"))
	month := f.Limits[0]
	must.Eq(t, hours(60), month.PerDay)
	must.Eq(t, hours(400+630), *month.AtEnd, must.Sprint("ten days and a half are left"))
	must.Eq(t, now.AddDate(0, 0, 10), *month.RunsOut)
	must.Nil(t, f.Limits[1].RunsOut, must.Sprint("1030 are less than 1100"))
	must.Eq(t, now, *f.Limits[2].RunsOut, must.Sprint("it is used up"))
	must.Eq(t, 120_000_000, f.Limits[2].PerDay)
	must.Eq(t, now.AddDate(0, 0, 1), *f.Limits[3].RunsOut)
	must.Nil(t, f.Limits[3].AtEnd)
	must.Nil(t, f.Limits[4].RunsOut, must.Sprint("nothing of that class is used"))
	gauge := f.Limits[5]
	must.Eq(t, 5*quantity.GPU, gauge.Used)
	must.Eq(t, 5*quantity.GPU/2, gauge.PerDay, must.Sprint("the mean of 1, 2, 3 and 4"))
	must.Eq(t, time.Date(2026, 4, 21, 12, 0, 0, 0, time.UTC), *gauge.RunsOut)
}

// More GPUs never run out earlier, the line really is as high then, and usage in another
// order is the same usage.
func TestWhenTheLineIsReached(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 20).Draw(t, "days")
		gpus := make([]float64, n)
		for i := range gpus {
			gpus[i] = float64(rapid.IntRange(0, 4000).Draw(t, "gpus")) / 100
		}
		in := forecast.Input{Now: now, Days: days(n), Uses: used("a", "h100", gpus...),
			Supply: []forecast.Supply{{Class: "h100", GPUs: rapid.IntRange(1, 60).Draw(t, "supply")}}, More: map[string]int{"h100": rapid.IntRange(1, 20).Draw(t, "more")}}
		c := forecast.Make(in).Classes[0]
		in.Uses = rapid.Permutation(in.Uses).Draw(t, "order")
		must.Eq(t, c, forecast.Make(in).Classes[0])
		if c.FullOn == nil {
			must.Nil(t, c.With.FullOn)
			return
		}
		must.False(t, c.FullOn.Before(now))
		must.True(t, c.With.FullOn == nil || !c.With.FullOn.Before(*c.FullOn))
		var mx, my, sxy, sxx float64
		for i, y := range gpus {
			mx, my = mx+float64(i)/float64(n), my+y/float64(n)
		}
		for i, y := range gpus {
			sxy, sxx = sxy+(float64(i)-mx)*(y-my), sxx+(float64(i)-mx)*(float64(i)-mx)
		}
		height := func(at time.Time) float64 {
			return my + sxy/sxx*(at.Sub(in.Days[0].Start.Add(12*time.Hour)).Hours()/24-mx)
		}
		const near = 0.05 // of a GPU: the line is computed from thousandths
		if c.FullOn.After(now) {
			must.InDelta(t, float64(c.GPUs), height(*c.FullOn), near)
		} else {
			last := in.Days[n-1].Start.Add(12 * time.Hour)
			must.Greater(t, float64(c.GPUs)-near, max(height(now), height(last)))
		}
	})
}
