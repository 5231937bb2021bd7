package ledger_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func drawTokens(t *rapid.T, label string, most int) ledger.Tokens {
	out := ledger.Tokens{}
	for _, kind := range budget.TokenKinds() {
		out[kind] = quantity.Amount(rapid.IntRange(0, most).Draw(t, label+" "+string(kind)))
	}
	return out
}

// However small and many requests are, what they cost together is rounded once, and none
// costs more than was held for it.
func TestTheCostOfTokensIsRoundedOnceForAllOfABudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		exact, posted, rest := new(big.Int), quantity.Amount(0), int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			prices := drawTokens(t, "price of", 3_000_000)
			used := drawTokens(t, "used", 4)
			cost, next := ledger.TokenCost(prices, used, rest)
			must.Between(t, 0, cost, ledger.MostTokenCost(prices, used))
			must.Between(t, -500_000, next, 500_000)
			posted, rest = posted.Add(cost), next
			for kind, n := range used {
				exact.Add(exact, big.NewInt(int64(n)*int64(prices[kind])))
			}
		}
		difference := new(big.Int).Sub(exact, big.NewInt(int64(posted)*1_000_000))
		must.Eq(t, rest, difference.Int64(), must.Sprint("what is left over is what was not posted"))
	})
}

func TestACostOfTokensBeyondRangeIsTheLargestAmount(t *testing.T) {
	t.Parallel()
	many := ledger.Tokens{budget.OutputTokens: quantity.MaxAmount}
	dear := ledger.Tokens{budget.OutputTokens: 1_000_000_000_000}
	must.Eq(t, quantity.MaxAmount, ledger.MostTokenCost(dear, many))
	cost, _ := ledger.TokenCost(dear, many, 0)
	must.Eq(t, quantity.MaxAmount, cost)
}

// requestAt is a request that was authorized at noon of a day.
func requestAt(asked ledger.Tokens) ledger.Hold {
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC).UnixMilli()
	prices := ledger.Tokens{budget.InputTokens: 1_000_000, budget.CachedTokens: 100_000, budget.OutputTokens: 4_000_000}
	r := ledger.Authorized("m", asked, prices, "r")
	return ledger.Hold{ID: "t-1", Budget: "acme", State: ledger.Held, CreatedMS: at, ExpiresMS: at + 1000, Request: &r}
}

var dayAndMonth = ledger.Calendar{Location: time.UTC, Windows: []budget.Window{budget.Committed, budget.Day, budget.Month, budget.Total}}

// Whatever a request turns out to use, within what it asked for, is covered by what it
// held in the same periods; then it holds nothing.
func TestARequestForTokensHoldsAllThatItMayPost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		asked := drawTokens(t, "asked", 500)
		h := requestAt(asked)
		held := ledger.Charges(h, dayAndMonth)
		used := ledger.Tokens{}
		used[budget.InputTokens] = quantity.Amount(rapid.IntRange(0, int(asked[budget.InputTokens])).Draw(t, "input"))
		prompt := asked[budget.InputTokens].Add(asked[budget.CachedTokens]).Sub(used[budget.InputTokens])
		used[budget.CachedTokens] = quantity.Amount(rapid.IntRange(0, int(prompt)).Draw(t, "cached"))
		used[budget.OutputTokens] = quantity.Amount(rapid.IntRange(0, int(asked[budget.OutputTokens])).Draw(t, "output"))
		rest := rapid.Int64Range(-500_000, 500_000).Draw(t, "rest")
		end := ledger.SettleTokens(h, used, rest, h.CreatedMS+7)
		must.True(t, ledger.Charges(end.Hold, dayAndMonth).IsZero())
		must.MapEmpty(t, end.Hold.Overdrawn())
		for _, e := range end.Entries {
			must.Eq(t, ledger.TokensEntry, e.Kind)
			must.NoError(t, e.Validate())
			for c := range e.PostedVector(time.UTC, []budget.Window{budget.Day, budget.Month, budget.Total}).All() {
				must.LessEq(t, held.At(c.Period, c.Dimension), c.Amount, must.Sprintf("%s in %s", c.Dimension, c.Period))
			}
		}
	})
}

// A request that is posted at what was held, and corrected later, comes to the same as
// one that was settled in time.
func TestALateSettlementComesToTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h, used := requestAt(drawTokens(t, "asked", 50)), drawTokens(t, "used", 70)
		rest := rapid.Int64Range(-500_000, 500_000).Draw(t, "rest")
		expired := ledger.ExpireTokens(h, rest, h.ExpiresMS)
		late := ledger.SettleTokens(expired.Hold, used, expired.Rest, h.ExpiresMS+9)
		posted := ledger.NewVector()
		for _, e := range append(expired.Entries, late.Entries...) {
			posted.AddAll(e.PostedVector(time.UTC, []budget.Window{budget.Day}), 1)
		}
		day := budget.PeriodAt(budget.Day, time.UnixMilli(h.CreatedMS), time.UTC).Key()
		for kind, n := range used {
			must.Eq(t, n, posted.At(day, budget.Tokens(kind)), must.Sprint(kind))
		}
		cost, _ := ledger.TokenCost(h.Request.PerMillion, used, rest)
		must.LessEq(t, 1, max(cost-posted.At(day, budget.Cost), posted.At(day, budget.Cost)-cost))
		must.Eq(t, ledger.State(ledger.Settled), late.Hold.State)
		if len(expired.Entries) > 0 {
			must.True(t, expired.Entries[0].Estimated)
			must.Eq(t, ledger.CauseUnsettled, expired.Entries[0].Cause)
		}
		void := ledger.VoidTokens(expired.Hold, expired.Rest, h.ExpiresMS+9)
		must.MapEmpty(t, void.Hold.Request.Used)
	})
}
