package quantity

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Amount is a count of one dimension in that dimension's base unit: parts of
// GPUs for concurrency, GPU-milliseconds for GPU time, micro-units of the
// installation's currency for cost. It is a named type so that nobody adds
// with a bare + and brings overflow back: use Add, Sub and Mul.
type Amount int64

// The largest and smallest amounts; arithmetic saturates there.
const (
	MaxAmount Amount = math.MaxInt64
	MinAmount Amount = math.MinInt64
)

// Units of GPU time and of money.
const (
	// GPUHour is one GPU held for one hour, in GPU-milliseconds.
	GPUHour Amount = 3_600_000
	// CurrencyUnit is one unit of the currency (one dollar), in micro-units.
	CurrencyUnit Amount = 1_000_000
	// GPU is one GPU held, in parts: 5040 = 2^4 x 3^2 x 5 x 7 parts make halves to
	// tenths, twelfths, fourteenths and sixteenths whole numbers, so that shares of
	// GPUs (seven MIG instances) add up exactly.
	GPU Amount = 5040
	// KWh is one kilowatt-hour in joules.
	KWh Amount = 3_600_000
)

// Ratio is a proportion in millionths: 0.6 is 600,000.
type Ratio int64

// RatioOne is the whole.
const RatioOne Ratio = 1_000_000

// Of is the ratio's part of a, rounded half to even; a negative a is taken as zero.
func (r Ratio) Of(a Amount) Amount { return MulDiv(a, int64(r), int64(RatioOne)) }

// OfUp is the ratio's part of a, rounded up.
func (r Ratio) OfUp(a Amount) Amount { return MulDivUp(a, int64(r), int64(RatioOne)) }

// String prints the ratio as a percentage.
func (r Ratio) String() string { return FormatDecimal(Amount(r), Amount(RatioOne)/100, 4) + "%" }

// MulDiv is a*n/d on the exact product, rounded half to even and saturated.
// Negative factors are taken as zero; d must be positive.
func MulDiv(a Amount, n, d int64) Amount {
	q, r, over := mulDiv(a, n, d)
	if over {
		return MaxAmount
	}
	if rest := uint64(d) - r; r > rest || r == rest && q&1 == 1 {
		q++
	}
	return clampAmount(q)
}

// MulDivUp is a*n/d on the exact product, rounded up and saturated.
func MulDivUp(a Amount, n, d int64) Amount {
	q, r, over := mulDiv(a, n, d)
	if over {
		return MaxAmount
	}
	if r > 0 {
		q++
	}
	return clampAmount(q)
}

func mulDiv(a Amount, n, d int64) (q, r uint64, over bool) {
	if a <= 0 || n <= 0 {
		return 0, 0, false
	}
	hi, lo := bits.Mul64(uint64(a), uint64(n))
	if hi >= uint64(d) {
		return 0, 0, true
	}
	q, r = bits.Div64(hi, lo, uint64(d))
	return q, r, false
}

func clampAmount(q uint64) Amount {
	if q > math.MaxInt64 {
		return MaxAmount
	}
	return Amount(q)
}

// Add returns a+b, saturated.
func (a Amount) Add(b Amount) Amount {
	sum := a + b
	if a > 0 && b > 0 && sum < 0 {
		return MaxAmount
	}
	if a < 0 && b < 0 && sum >= 0 {
		return MinAmount
	}
	return sum
}

// Sub returns a-b, saturated.
func (a Amount) Sub(b Amount) Amount {
	if b == MinAmount {
		if a >= 0 {
			return MaxAmount
		}
		return a - b
	}
	return a.Add(-b)
}

// Mul returns a*n, saturated.
func (a Amount) Mul(n int64) Amount {
	negative := (a < 0) != (n < 0)
	hi, lo := bits.Mul64(magnitude(int64(a)), magnitude(n))
	if hi != 0 || lo > math.MaxInt64 {
		if negative {
			return MinAmount
		}
		return MaxAmount
	}
	if negative {
		return -Amount(lo)
	}
	return Amount(lo)
}

// magnitude is |n| as an unsigned number, right for math.MinInt64 too.
func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-(n + 1)) + 1
	}
	return uint64(n)
}

// Millis converts a duration to whole milliseconds, rounding up, so that a
// bound derived from it is never too small.
func Millis(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

// Cost prices a GPU time: ms GPU-milliseconds at perHour micro-units per
// GPU-hour, rounded half to even on the exact product. Negative inputs are
// taken as zero. Callers price cumulative time and post the difference, so
// that rounding never drifts (BUDGETS.md, "Units and time").
func Cost(ms, perHour Amount) Amount {
	return MulDiv(ms, int64(perHour), int64(GPUHour))
}

// Limit is a ceiling on one dimension: a finite amount, or Unlimited. The zero
// value is a limit of zero (nothing is allowed), never "no limit".
type Limit struct {
	amount    Amount
	unlimited bool
}

// Unlimited is the limit that nothing exceeds.
var Unlimited = Limit{unlimited: true}

// LimitOf returns a finite limit.
func LimitOf(a Amount) Limit { return Limit{amount: a} }

// Finite returns the limit's amount, and false if it is Unlimited.
func (l Limit) Finite() (Amount, bool) { return l.amount, !l.unlimited }

// Allows reports whether total stays within the limit.
func (l Limit) Allows(total Amount) bool { return l.unlimited || total <= l.amount }

// String prints the base units, or "unlimited".
func (l Limit) String() string {
	if l.unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(int64(l.amount), 10)
}

// FormatDecimal prints amount/unit with up to places decimals, rounded half
// away from zero, without trailing zeros, with thousands separated by commas:
// FormatDecimal(5_400_000, GPUHour, 2) is "1.5".
func FormatDecimal(a, unit Amount, places int) string {
	scale := int64(1)
	for range places {
		scale *= 10
	}
	hi, lo := bits.Mul64(magnitude(int64(a)), uint64(scale))
	if hi >= uint64(unit) {
		return "over " + strconv.FormatInt(int64(MaxAmount/unit), 10)
	}
	q, r := bits.Div64(hi, lo, uint64(unit))
	if r >= uint64(unit)-r {
		q++
	}
	whole, frac := q/uint64(scale), q%uint64(scale)
	text := groupThousands(strconv.FormatUint(whole, 10))
	if frac != 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%0*d", places, frac), "0")
	}
	if a < 0 && q != 0 {
		text = "-" + text
	}
	return text
}

// FormatExact prints amount/unit without rounding: with as many decimals as it
// needs, or where six are not enough as a fraction of whole numbers, "1/7".
func FormatExact(a, unit Amount) string {
	const placesMax = 6
	divisor := max(1, gcd(magnitude(int64(a)), uint64(unit)))
	parts := uint64(unit) / divisor
	for places, scale := 0, uint64(1); places <= placesMax; places, scale = places+1, scale*10 {
		if scale%parts != 0 {
			continue
		}
		if hi, _ := bits.Mul64(magnitude(int64(a)), scale); hi < uint64(unit) {
			return FormatDecimal(a, unit, places)
		}
	}
	sign := ""
	if a < 0 {
		sign = "-"
	}
	return sign + groupThousands(strconv.FormatUint(magnitude(int64(a))/divisor, 10)) + "/" + strconv.FormatUint(parts, 10)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func groupThousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// FormatMoney prints micro-units as "12.40": always two decimals, commas
// between thousands, rounded half away from zero.
func FormatMoney(a Amount) string {
	text := FormatDecimal(a, CurrencyUnit, 2)
	dot := strings.IndexByte(text, '.')
	switch {
	case dot < 0:
		return text + ".00"
	case len(text)-dot == 2:
		return text + "0"
	}
	return text
}

// FormatGPUs prints parts of GPUs as a number of GPUs: whole ones without decimals.
func FormatGPUs(a Amount) string { return FormatDecimal(a, GPU, 3) }

// FormatHours prints GPU-milliseconds as GPU-hours: two decimals, and four below
// ten hours, where minutes matter.
func FormatHours(a Amount) string {
	if -10*GPUHour < a && a < 10*GPUHour {
		return FormatDecimal(a, GPUHour, 4)
	}
	return FormatDecimal(a, GPUHour, 2)
}
