package ledger

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Balance is the account of one budget: what was posted in each live period
// and what open holds of it and its descendants charge.
type Balance struct {
	Posted Vector `json:"posted"`
	Held   Vector `json:"held"`
}

// DecodeBalance reads a balance document; no bytes are the empty account.
func DecodeBalance(value []byte) (Balance, error) {
	b := Balance{Posted: Vector{}, Held: Vector{}}
	if len(value) == 0 {
		return b, nil
	}
	if err := json.Unmarshal(value, &b); err != nil {
		return Balance{}, fmt.Errorf("decode balance: %w", err)
	}
	if b.Posted == nil {
		b.Posted = Vector{}
	}
	if b.Held == nil {
		b.Held = Vector{}
	}
	return b, nil
}

// Encode is the stored form; equal balances have equal bytes.
func (b Balance) Encode() ([]byte, error) { return json.Marshal(b) }

// Clone is a deep copy.
func (b Balance) Clone() Balance { return Balance{Posted: b.Posted.Clone(), Held: b.Held.Clone()} }

// HeldIn is what open holds charge to one period: what is placed in it, and
// what may still fall into it.
func (b Balance) HeldIn(p budget.Period, d budget.Dimension) quantity.Amount {
	if p.Window == budget.Concurrent {
		return b.Held.At(ConcurrentKey, d)
	}
	return b.Held.At(p.Key(), d).Add(b.Held.At(AnyPeriod(p.Window), d))
}

// Prune drops posted periods that ended more than keep before now. They stay
// readable in history; the balance only carries what decisions need.
func (b Balance) Prune(now time.Time, keep time.Duration) {
	for key := range b.Posted {
		end, ok := periodEndAtMost(key)
		if ok && end.Before(now.Add(-keep)) {
			delete(b.Posted, key)
		}
	}
}

// periodEndAtMost is an upper bound of the end of the period with this key.
func periodEndAtMost(key string) (time.Time, bool) {
	name, start, found := strings.Cut(key, "/")
	if !found {
		return time.Time{}, false
	}
	w, ok := budget.ParseWindow(name)
	if !ok {
		return time.Time{}, false
	}
	from, err := time.Parse(budget.PeriodKeyLayout, start)
	if err != nil {
		return time.Time{}, false
	}
	return from.Add(time.Duration(budget.LongestMillis(w)) * time.Millisecond), true
}
