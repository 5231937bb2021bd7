package ledger

import (
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Balance is the account of one budget: what was posted in each live period
// and what open holds of it and its descendants charge.
type Balance struct {
	// SinceMS is when the balance was first written: nothing is carried over from
	// periods that ended before. 0 when it is not known.
	SinceMS int64  `json:"since_ms,omitempty"`
	Posted  Vector `json:"posted"`
	Held    Vector `json:"held"`
	// Use is what of the past counts for fair share.
	Use Use `json:"use,omitzero"`
	// TokenRest is what rounding has left over of the cost of the budget's own tokens, in
	// millionths of a micro-unit; see TokenCost.
	TokenRest int64 `json:"token_rest,omitempty"`
}

// Clone is a deep copy.
func (b Balance) Clone() Balance {
	return Balance{SinceMS: b.SinceMS, Posted: b.Posted.Clone(), Held: b.Held.Clone(), Use: b.Use, TokenRest: b.TokenRest}
}

// Begun is the balance with the time of its first write, which later ones keep.
func (b Balance) Begun(nowMS int64) Balance {
	if b.SinceMS == 0 {
		b.SinceMS = nowMS
	}
	return b
}

// HeldIn is what open holds charge to one period: what is placed in it, and
// what may still fall into it.
func (b Balance) HeldIn(p budget.Period, d budget.Dimension) quantity.Amount {
	if p.Window == budget.Concurrent {
		return b.Held.At(ConcurrentKey, d)
	}
	return b.Held.At(p.Key(), d).Add(b.Held.At(AnyPeriod(p.Window), d))
}

// Prune drops posted periods that ended more than keep before now, and that no
// rollover can need any more. They stay readable in history; the balance only
// carries what decisions need.
func (b Balance) Prune(now time.Time, keep time.Duration, cal Calendar) {
	for _, key := range b.Posted.Periods() {
		w, end, ok := periodEndAtMost(key)
		if !ok {
			continue
		}
		rollover := time.Duration(budget.LongestMillis(w)) * time.Millisecond * time.Duration(cal.keep[w]+1)
		if cal.keep[w] == 0 {
			rollover = 0
		}
		if end.Before(now.Add(-max(keep, rollover))) {
			b.Posted.Drop(func(c Cell) bool { return c.Period == key })
		}
	}
}

// periodEndAtMost is an upper bound of the end of the period with this key.
func periodEndAtMost(key string) (budget.Window, time.Time, bool) {
	name, start, found := strings.Cut(key, "/")
	if !found {
		return 0, time.Time{}, false
	}
	w, ok := budget.ParseWindow(name)
	if !ok {
		return 0, time.Time{}, false
	}
	from, err := time.Parse(budget.PeriodKeyLayout, start)
	if err != nil {
		return 0, time.Time{}, false
	}
	return w, from.Add(time.Duration(budget.LongestMillis(w)) * time.Millisecond), true
}
