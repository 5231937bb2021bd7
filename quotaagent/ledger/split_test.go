package ledger

import (
	"math/big"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func zones(t testing.TB) []*time.Location {
	var out []*time.Location
	for _, name := range []string{"UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"} {
		loc, err := time.LoadLocation(name)
		must.NoError(t, err)
		out = append(out, loc)
	}
	return out
}

func TestTheHoursOfAnEntryAddUpToIt(t *testing.T) {
	t.Parallel()
	all := zones(t)
	rapid.Check(t, func(t *rapid.T) {
		loc := rapid.SampledFrom(all).Draw(t, "zone")
		// Around the end of summer time in Berlin, 2026-10-25T01:00Z.
		from := time.Date(2026, 10, 24, 20, 0, 0, 0, time.UTC).UnixMilli() + rapid.Int64Range(0, 12*3_600_000).Draw(t, "from")
		amount := rapid.Int64Range(-int64(largestAmount), int64(largestAmount))
		e := Entry{Key: "k", Kind: UsageEntry, Class: "h100", FromMS: from, ToMS: from + rapid.Int64Range(0, 40*3_600_000).Draw(t, "length"),
			GPUTime: quantity.Amount(amount.Draw(t, "gpu")), Cost: quantity.Amount(amount.Draw(t, "cost")), Energy: quantity.Amount(rapid.Int64Range(-3, 3).Draw(t, "energy")),
			Tokens: map[budget.TokenKind]quantity.Amount{budget.OutputTokens: quantity.Amount(amount.Draw(t, "tokens"))}}
		must.NoError(t, e.Validate())
		sum, covered, previous := Entry{Tokens: map[budget.TokenKind]quantity.Amount{}}, int64(0), time.Time{}
		for _, p := range e.Hours(loc) {
			sum.GPUTime, sum.Cost, sum.Energy = sum.GPUTime.Add(p.GPUTime), sum.Cost.Add(p.Cost), sum.Energy.Add(p.Energy)
			sum.Tokens[budget.OutputTokens] = sum.Tokens[budget.OutputTokens].Add(p.Tokens[budget.OutputTokens])
			covered += p.Hour.Overlap(time.UnixMilli(e.FromMS), time.UnixMilli(e.ToMS))
			must.True(t, previous.IsZero() || previous.Equal(p.Hour.Start), must.Sprint("hours follow each other"))
			previous = p.Hour.End
			// No part is a whole unit away from its exact share.
			if n := len(e.Hours(loc)); n > 1 {
				exact := new(big.Int).Mul(big.NewInt(int64(e.Cost)), big.NewInt(p.Hour.Overlap(time.UnixMilli(e.FromMS), time.UnixMilli(e.ToMS))))
				off := new(big.Int).Sub(exact, new(big.Int).Mul(big.NewInt(int64(p.Cost)), big.NewInt(e.ToMS-e.FromMS)))
				must.True(t, off.CmpAbs(big.NewInt(e.ToMS-e.FromMS)) < 0)
			}
		}
		must.Eq(t, e.ToMS-e.FromMS, covered)
		must.Eq(t, e.GPUTime, sum.GPUTime)
		must.Eq(t, e.Cost, sum.Cost)
		must.Eq(t, e.Energy, sum.Energy)
		must.Eq(t, e.Tokens[budget.OutputTokens], sum.Tokens[budget.OutputTokens])
	})
}

func TestWhatAnEntryPosts(t *testing.T) {
	t.Parallel()
	berlin := zones(t)[1]
	at := time.Date(2026, 10, 31, 23, 30, 0, 0, berlin).UnixMilli() // the last half hour of October
	e := Entry{Key: "k", Kind: UsageEntry, Class: "h100", FromMS: at, ToMS: at + 3_600_000, GPUTime: 7_200_001, Cost: 5_800_001}
	got := e.PostedVector(berlin, []budget.Window{budget.Month, budget.Total})
	want := NewVector()
	for period, a := range map[string][2]quantity.Amount{"month/2026-09-30T22:00Z": {3_600_001, 2_900_001}, "month/2026-10-31T23:00Z": {3_600_000, 2_900_000},
		"total": {7_200_001, 5_800_001}} {
		want.Add(period, budget.GPUTime("h100"), a[0])
		want.Add(period, budget.GPUTime(budget.AnyClass), a[0])
		want.Add(period, budget.Cost, a[1])
	}
	must.Eq(t, want, got)
	e.Kind = OverdraftEntry
	must.Eq(t, NewVector(), e.PostedVector(berlin, []budget.Window{budget.Month}), must.Sprint("usage says it already"))
}

func TestAnEntryThatCannotBeKeptSaysWhy(t *testing.T) {
	t.Parallel()
	good := Entry{Key: "k", Kind: UsageEntry, FromMS: 10, ToMS: 20}
	must.NoError(t, good.Validate())
	for want, change := range map[string]func(*Entry){
		"has no key":                  func(e *Entry) { e.Key = "" },
		`has kind "use"`:              func(e *Entry) { e.Kind = "use" },
		"must end no earlier":         func(e *Entry) { e.ToMS = 9 },
		"after 1970":                  func(e *Entry) { e.FromMS = -1 },
		"ten years at most":           func(e *Entry) { e.ToMS = 1 << 62 },
		"an amount of -9000000000000": func(e *Entry) { e.Cost = -9_000_000_000_000_000 },
		"an amount of 90000000000000": func(e *Entry) {
			e.Tokens = map[budget.TokenKind]quantity.Amount{budget.InputTokens: 9_000_000_000_000_000}
		},
	} {
		e := good
		change(&e)
		must.ErrorContains(t, e.Validate(), want)
	}
}

func TestTheReceiptOfAHold(t *testing.T) {
	t.Parallel()
	h := Hold{ID: "h-1", Namespace: "default", JobID: "train", Budget: "acme", State: Active, CreatedMS: 5, Accessor: "a",
		Posted: Usage{Cost: 7}, Estimate: Usage{Cost: 10}, Ending: &Ending{Cause: "budget_exhausted"}}
	e := ReceiptOf(h, 50)
	must.NoError(t, e.Validate())
	must.Eq(t, &Receipt{Outcome: Settled, CreatedMS: 5, EndedMS: 50, Posted: Usage{Cost: 7}, Estimate: Usage{Cost: 10}, Stopped: "budget_exhausted"}, e.Receipt)
	h.State, h.ExpiresMS = Held, 60
	must.Eq(t, Voided, ReceiptOf(h, 50).Receipt.Outcome)
	must.Eq(t, Expired, ReceiptOf(h, 60).Receipt.Outcome)
}
