package ledger_test

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// Use is posted every few seconds. What remains after a week is half of what a
// week ago was used, however finely it was posted.
func TestUseDecaysHoweverOftenItIsPosted(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for _, every := range []time.Duration{time.Second, 30 * time.Second, time.Hour} {
		u, now := ledger.Use{}, at
		for ; now.Before(at.Add(6 * time.Hour)); now = now.Add(every) {
			u = u.Plus(quantity.Amount(every.Milliseconds()), now, week)
		}
		for ; now.Before(at.Add(week)); now = now.Add(12 * time.Hour) {
			u = u.Plus(1, now, week)
		}
		half := quantity.Amount(3 * time.Hour.Milliseconds())
		left := u.At(at.Add(week+3*time.Hour), week)
		must.Between(t, half-half/50, left, half+half/50, must.Sprint(every))
	}
}

func TestUseFollowsItsBudget(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	posted := ledger.NewVector()
	posted.Add(budget.Total.String(), budget.GPUTime(budget.AnyClass), 1000)
	books := map[string]ledger.Balance{}
	for _, path := range []string{"a/b", "a", "c"} {
		b := ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
		if path != "c" {
			b.Post(posted, now, time.Hour)
		}
		books[path] = b
	}
	moved := ledger.MovePosted(books, "a/b", "c")
	must.Eq(t, 0, moved["a"].Use.GPUTime)
	must.Eq(t, 1000, moved["c"].Use.GPUTime)
	must.Eq(t, 500, moved["c"].Use.At(now.Add(time.Hour), time.Hour))
}
