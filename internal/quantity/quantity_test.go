package quantity_test

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func saturate(n *big.Int) quantity.Amount {
	if n.Cmp(big.NewInt(int64(quantity.MaxAmount))) > 0 {
		return quantity.MaxAmount
	}
	if n.Cmp(big.NewInt(int64(quantity.MinAmount))) < 0 {
		return quantity.MinAmount
	}
	return quantity.Amount(n.Int64())
}

// edgy draws numbers near the ends of int64 as often as small ones.
func edgy() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64(), rapid.Int64Range(-10, 10),
		rapid.Int64Range(int64(quantity.MaxAmount)-3, int64(quantity.MaxAmount)),
		rapid.Int64Range(int64(quantity.MinAmount), int64(quantity.MinAmount)+3))
}

func TestArithmeticAgreesWithBigIntegersAndSaturates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := edgy().Draw(t, "a"), edgy().Draw(t, "b")
		bigA, bigB := big.NewInt(a), big.NewInt(b)
		must.Eq(t, saturate(new(big.Int).Add(bigA, bigB)), quantity.Amount(a).Add(quantity.Amount(b)))
		must.Eq(t, saturate(new(big.Int).Sub(bigA, bigB)), quantity.Amount(a).Sub(quantity.Amount(b)))
		must.Eq(t, saturate(new(big.Int).Mul(bigA, bigB)), quantity.Amount(a).Mul(b))
	})
}

func TestCostIsHalfEvenOfTheExactQuotient(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<50).Draw(t, "ms")
		rate := rapid.OneOf(rapid.Int64Range(0, 1<<40), rapid.Int64Range(0, 9)).Draw(t, "rate")
		unit := big.NewInt(int64(quantity.GPUHour))
		product := new(big.Int).Mul(big.NewInt(ms), big.NewInt(rate))
		q, r := new(big.Int).QuoRem(product, unit, new(big.Int))
		switch new(big.Int).Lsh(r, 1).Cmp(unit) {
		case 1:
			q.Add(q, big.NewInt(1))
		case 0:
			if q.Bit(0) == 1 {
				q.Add(q, big.NewInt(1))
			}
		}
		must.Eq(t, saturate(q), quantity.Cost(quantity.Amount(ms), quantity.Amount(rate)))
	})
}

func TestCostExamples(t *testing.T) {
	t.Parallel()
	// Two H100s for 90 minutes at 2.90 per GPU-hour.
	must.Eq(t, 8_700_000, quantity.Cost(2*90*60*1000, 2_900_000))
	must.Eq(t, 0, quantity.Cost(1_800_000, 1)) // exactly half rounds to even
	must.Eq(t, 2, quantity.Cost(5_400_000, 1))
	must.Eq(t, 0, quantity.Cost(-5, 1))
	must.Eq(t, quantity.MaxAmount, quantity.Cost(quantity.MaxAmount, quantity.MaxAmount))
}

func TestZeroLimitAllowsNothing(t *testing.T) {
	t.Parallel()
	var zero quantity.Limit
	must.False(t, zero.Allows(1))
	must.True(t, zero.Allows(0))
	must.True(t, quantity.Unlimited.Allows(quantity.MaxAmount))
	_, finite := quantity.Unlimited.Finite()
	must.False(t, finite)
	must.Eq(t, "unlimited", quantity.Unlimited.String())
	must.Eq(t, "7", quantity.LimitOf(7).String())
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1.5":           quantity.FormatHours(5_400_000),
		"0":             quantity.FormatHours(0),
		"0.01":          quantity.FormatHours(36_000),
		"1,024":         quantity.FormatHours(1024 * 3_600_000),
		"-2":            quantity.FormatHours(-7_200_000),
		"12.40":         quantity.FormatMoney(12_400_000),
		"250,000.00":    quantity.FormatMoney(250_000_000_000),
		"-0.05":         quantity.FormatMoney(-50_000),
		"2,562,047,788": quantity.FormatDecimal(quantity.MaxAmount, quantity.GPUHour*1000, 0),
		"0.00":          quantity.FormatMoney(-1),
	} {
		must.Eq(t, want, got)
	}
}

func TestMillisRoundsUp(t *testing.T) {
	t.Parallel()
	must.Eq(t, 1, quantity.Millis(1))
	must.Eq(t, 1500, quantity.Millis(1500*time.Millisecond))
}

// FormatExact says the whole truth: its text is the amount again.
func TestFormatExactIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]quantity.Amount{1, quantity.GPU, quantity.GPUHour, quantity.CurrencyUnit, quantity.Amount(quantity.RatioOne) / 100}).Draw(t, "unit")
		a := quantity.Amount(edgy().Draw(t, "amount"))
		text := strings.ReplaceAll(quantity.FormatExact(a, unit), ",", "")
		r, ok := new(big.Rat).SetString(text)
		must.True(t, ok, must.Sprint(text))
		must.Eq(t, 0, r.Cmp(big.NewRat(int64(a), int64(unit))), must.Sprint(text))
	})
	must.Eq(t, "1/7 0.5 2.9 1,200 0 -0.000001 1/3", strings.Join([]string{
		quantity.FormatExact(720, quantity.GPU), quantity.FormatExact(2520, quantity.GPU), quantity.FormatExact(2_900_000, quantity.CurrencyUnit),
		quantity.FormatExact(1200, 1), quantity.FormatExact(0, quantity.KWh), quantity.FormatExact(-1, quantity.CurrencyUnit), quantity.FormatExact(1_200_000, quantity.GPUHour),
	}, " "))
}
