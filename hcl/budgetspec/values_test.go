package budgetspec

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func evaluate(t must.T, text string) *big.Float {
	expr, diags := hclsyntax.ParseExpression([]byte(text), "test", hcl.InitialPos)
	must.False(t, diags.HasErrors())
	v, diags := expr.Value(nil)
	must.False(t, diags.HasErrors())
	return v.AsBigFloat()
}

func TestDecimalNumbersAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		micros := rapid.Int64Range(1, int64(quantity.MaxAmount)).Draw(t, "micros")
		text := fmt.Sprintf("%d.%06d", micros/1_000_000, micros%1_000_000)
		got, problem := exact(evaluate(t, text), moneyUnit())
		must.Eq(t, numberFine, problem)
		must.Eq(t, quantity.Amount(micros), got)

		_, problem = exact(evaluate(t, text+"000000000000000001"), moneyUnit())
		must.True(t, problem == numberTooFine || problem == numberTooLarge)
	})
}

func TestFractionsOfAnHourAreExactWhenTheyAreWholeMilliseconds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n, parts := rapid.Int64Range(1, 1_000_000).Draw(t, "n"), rapid.Int64Range(1, 1000).Draw(t, "parts")
		got, problem := exact(evaluate(t, fmt.Sprintf("%d / %d", n, parts)), gpuHourUnit())
		if n*int64(quantity.GPUHour)%parts != 0 {
			must.Eq(t, numberTooFine, problem)
			return
		}
		must.Eq(t, numberFine, problem)
		must.Eq(t, quantity.Amount(n*int64(quantity.GPUHour)/parts), got)
	})
}

func TestNumbersThatAreNoLimits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]numberProblem{
		"0": numberZero, "-0": numberZero, "0.0": numberZero, "-1": numberNegative, "-1 / 0": numberNegative,
		"1 / 0": numberTooLarge, "1e4000": numberTooLarge, "9223372036854.775808": numberTooLarge,
		"0.0000001": numberTooFine, "1e-400": numberTooFine, "0.0000004": numberTooFine, "0.0000006": numberTooFine,
		"9223372036854.775807": numberFine,
	} {
		_, got := exact(evaluate(t, text), moneyUnit())
		must.Eq(t, want, got, must.Sprint(text))
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "72h": 72 * time.Hour, "30d": 720 * time.Hour, "2w": 336 * time.Hour,
		"1w2d3h4m5.5s": 219*time.Hour + 4*time.Minute + 5*time.Second + 500*time.Millisecond, "1d12h": 36 * time.Hour, "1s": time.Second,
		"1000ms": time.Second, "0d1h": time.Hour,
	} {
		got, err := parseDuration(text)
		must.NoError(t, err, must.Sprint(text))
		must.Eq(t, want, got, must.Sprint(text))
	}
	for text, want := range map[string]error{
		"": errDurationForm, "5": errDurationForm, "d": errDurationForm, "1.5d": errDurationForm, "-1d": errDurationForm, "+1d": errDurationForm,
		"1d1w": errDurationForm, "1w1w": errDurationForm, "3d-1h": errDurationForm, "1h1d": errDurationForm, " 1h": errDurationForm, "1 h": errDurationForm,
		"0s": errDurationPositive, "0d": errDurationPositive, "-5m": errDurationPositive, "999ms": errDurationShort,
		"1.0001s": errDurationFine, "36501d": errDurationLong, "5215w": errDurationLong, "36500d1h": errDurationLong, "99999999999w": errDurationForm,
	} {
		_, err := parseDuration(text)
		must.ErrorIs(t, err, want, must.Sprint(text))
	}
}

func TestFormattedDurationsAreReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1000, int64(durationMax/time.Millisecond)).Draw(t, "ms")) * time.Millisecond
		got, err := parseDuration(formatDuration(d))
		must.NoError(t, err)
		must.Eq(t, d, got)
	})
	must.Eq(t, "72h 4h30m 5m 10m5s 10s", strings.Join([]string{
		formatDuration(72 * time.Hour), formatDuration(270 * time.Minute), formatDuration(5 * time.Minute), formatDuration(605 * time.Second), formatDuration(10 * time.Second),
	}, " "))
}

func TestNearestForgivesSlipsOfThePen(t *testing.T) {
	t.Parallel()
	words := []string{"budget", "governor", "gpu_class", "rate_card", "cost"}
	for word, want := range map[string]string{
		"budegt": "budget", "Budget": "budget", "gpuclass": "gpu_class", "costs": "cost", "ratecards": "rate_card",
		"x": "", "": "", "quota": "", "zebra": "",
	} {
		must.Eq(t, want, nearest(word, words), must.Sprint(word))
	}
}

func TestDistanceCountsEdits(t *testing.T) {
	t.Parallel()
	letters := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := letters.Draw(t, "a"), letters.Draw(t, "b")
		must.Eq(t, a == b, distance(a, b) == 0)
		must.Eq(t, distance(a, b), distance(b, a))
		must.LessEq(t, max(len(a), len(b)), distance(a, b))
		must.Eq(t, len(a), distance(a, ""))
		i := rapid.IntRange(0, len(a)).Draw(t, "i")
		must.Eq(t, 1, distance(a, a[:i]+"x"+a[i:]))
	})
}

func TestNamesAndZonesAndCurrencies(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"a": true, "4090": true, "a-b_c": true, "": false, "-a": false, "_a": false, "A": false, "a.b": false, "a/b": false, "ä": false} {
		must.Eq(t, want, validName(name), must.Sprint(name))
	}
	for name, want := range map[string]bool{"UTC": true, "Europe/Berlin": true, "Local": false, "": false, "../etc/passwd": false, "posix/UTC": false, "localtime": false} {
		_, got := zone(name)
		must.Eq(t, want, got, must.Sprint(name))
	}
	for code, want := range map[string]bool{"EUR": true, "XCR": true, "EUX": false, "eur": false, "EU": false, "": false, "R E": false, "X1A": false} {
		must.Eq(t, want, validCurrency(code), must.Sprint(code))
	}
	must.Eq(t, "America/New_York", zoneWithCapitals("america/new_york"))
	must.Eq(t, "UTC", zoneWithCapitals("utc"))
	must.Eq(t, "", zoneWithCapitals("mars/olympus"))
}

// With both, a rollover carries the lesser of the part and the amount.
func TestTheLesserOfCarryAndMaxCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ceiling := quantity.Amount(rapid.Int64Range(0, 1_000_000_000).Draw(t, "ceiling"))
		share := quantity.Ratio(rapid.Int64Range(0, int64(quantity.RatioOne)).Draw(t, "share"))
		most := quantity.Amount(rapid.Int64Range(1, 1_000_000_000).Draw(t, "most"))
		limits := map[budget.Dimension]quantity.Amount{}
		capsCost := rapid.Bool().Draw(t, "caps cost")
		if capsCost {
			limits[budget.Cost] = most
		}
		got := capped(budget.Rollover{Share: share, Periods: 2}, budget.Limit{Dimension: budget.Cost, Ceiling: quantity.LimitOf(ceiling)}, limits)
		if !capsCost && share == 0 {
			must.Nil(t, got)
			return
		}
		want := share.Of(ceiling)
		if capsCost && (share == 0 || most < want) {
			want = most
		}
		carried := got.Share.Of(ceiling)
		if got.Most != nil {
			must.Eq(t, 0, got.Share)
			carried = *got.Most
		}
		must.Eq(t, want, carried)
		must.Eq(t, 2, got.Periods)
	})
}

func TestSpansOfTheCalendar(t *testing.T) {
	t.Parallel()
	for span, want := range map[[2]string]int{
		{"month", "month"}: 1, {"quarter", "month"}: 3, {"year", "month"}: 12, {"year", "quarter"}: 4, {"week", "day"}: 7,
		{"month", "week"}: 0, {"day", "hour"}: 0, {"month", "day"}: 0, {"week", "month"}: 0,
	} {
		window, ok := budget.ParseWindow(span[1])
		must.True(t, ok)
		must.Eq(t, want, perPeriod(span[0], window), must.Sprint(span))
	}
}
