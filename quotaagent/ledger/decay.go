package ledger

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Use is past use that counts for fair share: the older, the less. It is part of
// the balance and changes in the commit that posts, so that every agent orders the
// queue alike.
type Use struct {
	// GPUTime is what remains of it at AtMS, in GPU-milliseconds of any class.
	GPUTime quantity.Amount `json:"gpu_ms,omitempty"`
	AtMS    int64           `json:"at_ms,omitempty"`
}

// stepsOfUse is into how many steps a half-life is divided: what is used within
// one counts as used at its beginning. Without steps, use that is posted every few
// seconds would be rounded to no decay at all.
const stepsOfUse = 256

// Plus is the use with what was used now. A negative amount takes back.
func (u Use) Plus(gpuTime quantity.Amount, now time.Time, halfLife time.Duration) Use {
	if gpuTime == 0 {
		return u
	}
	if u.AtMS == 0 || now.UnixMilli()-u.AtMS >= quantity.Millis(halfLife/stepsOfUse) {
		u = Use{GPUTime: u.At(now, halfLife), AtMS: now.UnixMilli()}
	}
	u.GPUTime = max(0, u.GPUTime.Add(gpuTime))
	return u
}

// At is what remains of the use at a time.
func (u Use) At(now time.Time, halfLife time.Duration) quantity.Amount {
	return Decay(u.GPUTime, now.Sub(time.UnixMilli(u.AtMS)), halfLife)
}

// plusUse adds use of another time; sign -1 takes it out.
func (u Use) plusUse(other Use, sign int64) Use {
	if other.AtMS == 0 {
		return u
	}
	at := time.UnixMilli(max(u.AtMS, other.AtMS))
	sum := u.At(at, budget.DefaultHalfLife)
	if u.AtMS == 0 {
		sum = 0
	}
	return Use{GPUTime: max(0, sum.Add(other.At(at, budget.DefaultHalfLife).Mul(sign))), AtMS: at.UnixMilli()}
}

// Post adds what was posted, and counts it as used now.
func (b *Balance) Post(posted Vector, now time.Time, halfLife time.Duration) {
	b.Posted.AddAll(posted, 1)
	b.Use = b.Use.Plus(posted.At(budget.Total.String(), budget.GPUTime(budget.AnyClass)), now, halfLife)
}

// halvings are 2^-(1/2), 2^-(1/4), 2^-(1/8)... in parts of one.
var halvings = [...]int64{707106781187, 840896415254, 917004043205, 957603280699, 978572062088, 989228013194, 994599423484,
	997296056085, 998647112891, 999323327503, 999661606496, 999830788932, 999915390887, 999957694548, 999978847050, 999989423469}

// one is the unit of halvings.
const one = 1_000_000_000_000

// Decay is what remains of an amount after a time, if half of it is forgotten in
// each half-life. Applying it in steps gives what one step gives, but for
// rounding.
func Decay(a quantity.Amount, elapsed, halfLife time.Duration) quantity.Amount {
	if elapsed <= 0 || halfLife <= 0 {
		return a
	}
	whole := elapsed / halfLife
	if whole >= 63 {
		return 0
	}
	a >>= uint(whole)
	rest := elapsed % halfLife
	for _, factor := range halvings {
		// rest/halfLife written in binary: the bit after the point.
		if rest >= halfLife-rest {
			a, rest = quantity.MulDiv(a, factor, one), rest-(halfLife-rest)
			continue
		}
		rest *= 2
	}
	return a
}
