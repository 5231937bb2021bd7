package showback_test

import (
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	march = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	april = march.AddDate(0, 1, 0)
)

// golden compares a text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path) //nolint:gosec // a file of the test
	must.NoError(t, err)
	must.Eq(t, string(want), got)
}

func row(kind, path, namespace, job, class, day string, hours int64) report.Row {
	ms := quantity.Amount(hours) * quantity.GPUHour // at 2.90 an hour
	return report.Row{Kind: kind, Key: []string{path, namespace, job, "22222222-user", class, "2026", "", day},
		Amounts: report.Amounts{GPUTime: ms, Cost: quantity.Amount(hours) * 2_900_000, Energy: 700 * quantity.Amount(hours) * 3600}}
}

func everyone(kind, path, class string, hours int64) report.Row {
	r := row(kind, path, "", "", class, "", hours)
	r.Key = []string{path, class}
	return r
}

// example is the statement of a month that is not over.
func example() showback.Input {
	total := budget.Period{Window: budget.Total}
	month := budget.PeriodAt(budget.Month, march, time.UTC)
	limit := func(w budget.Window, p budget.Period, d budget.Dimension, ceiling quantity.Amount) ledger.EffectiveLimit {
		return ledger.EffectiveLimit{Limit: budget.Limit{Window: w, Dimension: d, Ceiling: quantity.LimitOf(ceiling), Source: budget.Source{File: "acme.hcl", Line: 12}}, Period: p}
	}
	cost := limit(budget.Month, month, budget.Cost, 300_000_000)
	cost.Carry, cost.Granted = 20_000_000, 50_000_000
	gpus := limit(budget.Concurrent, budget.Period{Window: budget.Concurrent}, budget.GPUs("h100"), 8*quantity.GPU)
	gpus.Borrow = 4 * quantity.GPU
	open := limit(budget.Total, total, budget.GPUTime("any"), 0)
	open.Ceiling = quantity.Unlimited
	in := showback.Input{
		Head: showback.Head{Budget: "acme/research", Description: "Language models & <evals>", Owner: "research@acme.example", From: march, To: april, Zone: "UTC", Currency: "USD",
			Made: march.AddDate(0, 0, 19).Add(12 * time.Hour), Revision: "0f1e2d3c4b5a6978", Open: true},
		Opening: []report.Row{{Kind: ledger.UsageEntry, Key: []string{}, Amounts: report.Amounts{GPUTime: 100 * quantity.GPUHour, Cost: 290_000_000}},
			{Kind: ledger.IdleEntry, Key: []string{}, Amounts: report.Amounts{GPUTime: quantity.GPUHour}}},
		Rows: []report.Row{
			row(ledger.UsageEntry, "acme/research", "research", "train", "h100", "2026-03-09", 32),
			row(ledger.UsageEntry, "acme/research/nlp", "=nlp", "eval", "l40s", "2026-03-10", 20),
			row(ledger.UsageEntry, "acme/research/nlp/small", "nlp", "tune", "h100", "2026-03-12", 8),
			row(ledger.CorrectionEntry, "acme/research", "research", "train", "h100", "2026-03-09", -4),
			row(ledger.OverdraftEntry, "acme/research", "research", "train", "h100", "2026-03-09", 2),
			row(ledger.IdleEntry, "acme/research", "research", "train", "h100", "2026-03-09", 3),
		},
		Everyone: []report.Row{
			everyone(ledger.UsageEntry, "acme/research", "h100", 28), everyone(ledger.UsageEntry, "acme/research/nlp/small", "h100", 8),
			everyone(ledger.UsageEntry, "acme/research-x", "h100", 36), everyone(ledger.UnallocatedEntry, "", "h100", 100),
			everyone(ledger.UnallocatedEntry, "", "l40s", 7), everyone(ledger.UsageEntry, "acme/research/nlp", "l40s", 20), everyone(ledger.UnallocatedEntry, "", "a100", 5),
		},
		Corrections: []ledger.Entry{{Key: "correction/refund-01", Kind: ledger.CorrectionEntry, Budget: "acme/research", Namespace: "research", JobID: "train", Author: "11111111-root",
			Cause: "node gpu-7 was broken", FromMS: march.AddDate(0, 0, 8).UnixMilli(), GPUTime: -4 * quantity.GPUHour, Cost: -11_600_000}},
		Grants: []ledger.Grant{{ID: "o-1", Budget: "acme/research", Rule: "oncall", Accessor: "33333333-oncall", Reason: "the deadline moved",
			Max: ledger.Amounts{budget.Cost: 50_000_000}, FromMS: march.AddDate(0, 0, 8).UnixMilli(), UntilMS: april.UnixMilli()}},
		Limits: []showback.Limit{showback.LimitOf(gpus, 0, 6*quantity.GPU), showback.LimitOf(cost, 162_400_000, 46_400_000), showback.LimitOf(open, 156*quantity.GPUHour, 0)},
		Loans:  []showback.Loan{{Class: "h100", Cohort: "hopper", Borrowed: 0, Lent: 2 * quantity.GPU}},
		Holds: []showback.Hold{{Namespace: "research", JobID: "train", Budget: "acme/research", GPUTime: 12 * quantity.GPUHour, Cost: 34_800_000},
			{Namespace: "nlp", JobID: "serve", Budget: "acme/research/nlp", GPUTime: 4 * quantity.GPUHour, Cost: 11_600_000}},
	}
	return in
}

func exampleStatement() showback.Statement {
	s := showback.Make(example())
	s.CompleteTo = s.Made
	s.Incomplete = append(s.Incomplete, "the history begins at 2026-03-02T00:00:00Z: what was used before is not in it")
	return s
}

func TestStatementInItsForms(t *testing.T) {
	t.Parallel()
	s := exampleStatement()
	var page, table bytes.Buffer
	must.NoError(t, s.WriteHTML(&page))
	must.NoError(t, s.WriteCSV(&table))
	golden(t, "statement.html", page.String())
	golden(t, "statement.csv", table.String())
	must.StrNotContains(t, page.String(), "<script")
	must.StrNotContains(t, page.String(), "<evals>", must.Sprint("what people wrote is escaped"))
	must.StrContains(t, table.String(), "'=nlp", must.Sprint("no spreadsheet takes it for a formula"))
}

func TestReceiptsAsAPage(t *testing.T) {
	t.Parallel()
	var page bytes.Buffer
	must.NoError(t, showback.WriteReceipts(&page, []report.Receipt{{HoldID: "h-1", Namespace: "research", JobID: "train", Budget: "acme/research", Submitter: "22222222-user",
		Identity: []string{"token:<user>"}, Outcome: ledger.Settled, Reason: "fits", Stopped: "max_runtime", CreatedMS: march.UnixMilli(), EndedMS: april.UnixMilli(),
		Items: []report.Item{{Name: "gpu_ms/h100", Held: 40 * quantity.GPUHour, Posted: 30 * quantity.GPUHour, Voided: 10 * quantity.GPUHour, Waste: 250_000},
			{Name: "energy_j", Posted: quantity.KWh}, {Name: "cost", Held: 100_000_000, Posted: 110_000_000, Overdraft: 10_000_000}},
		Prices: []report.Price{{Class: "h100", RateCard: "2026", GPUTime: 30 * quantity.GPUHour, Cost: 110_000_000}},
		Starts: 3, Retried: 2 * quantity.GPUHour, Failed: quantity.GPUHour, Idle: quantity.GPUHour, Estimated: quantity.GPUHour}}))
	golden(t, "receipts.html", page.String())
}

func TestAPeriodThatIsOverHoldsNothing(t *testing.T) {
	t.Parallel()
	in := example()
	in.Open, in.Rows, in.Loans, in.Grants, in.Corrections, in.Limits, in.Holds = false, nil, nil, nil, nil, nil, nil
	s := showback.Make(in)
	must.Nil(t, s.Held)
	var page bytes.Buffer
	must.NoError(t, s.WriteHTML(&page))
	must.StrContains(t, page.String(), "Nothing was used.")
	must.StrContains(t, page.String(), "closed")
}

func TestALongListOfJobsStillAddsUpOnThePage(t *testing.T) {
	t.Parallel()
	in := example()
	for i := range 70 {
		in.Rows = append(in.Rows, row(ledger.UsageEntry, "acme/research", "batch", fmt.Sprint("sweep-", i), "h100", "2026-03-11", int64(1+i)))
	}
	var page bytes.Buffer
	must.NoError(t, showback.Make(in).WriteHTML(&page))
	must.StrContains(t, page.String(), "23 others")
	must.StrNotContains(t, page.String(), ">batch/sweep-3<")
	must.StrContains(t, page.String(), ">batch/sweep-69<")
}

func anyInput(t *rapid.T) showback.Input {
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	amounts := func() report.Amounts {
		a := rapid.Int64Range(-1_000_000_000, 1_000_000_000_000)
		return report.Amounts{GPUTime: quantity.Amount(a.Draw(t, "ms")), Cost: quantity.Amount(a.Draw(t, "cost")), Energy: quantity.Amount(a.Draw(t, "j")), OutputTokens: quantity.Amount(a.Draw(t, "tokens"))}
	}
	in := showback.Input{Head: showback.Head{Budget: "a/b", From: march, To: april, Made: march.AddDate(0, 0, 9), Open: rapid.Bool().Draw(t, "open"), Currency: "USD"},
		Idle: budget.Idle(rapid.IntRange(0, 2).Draw(t, "idle"))}
	for range rapid.IntRange(0, 30).Draw(t, "rows") {
		kind := pick("kind", ledger.EntryKinds()...)
		in.Rows = append(in.Rows, report.Row{Kind: kind, Estimated: rapid.Bool().Draw(t, "estimated"), Amounts: amounts(),
			Key: []string{pick("budget", "a/b", "a/b/c", "a/b/c/d"), pick("ns", "n1", "n2"), pick("job", "j1", "j2", ""), pick("user", "u1", ""), pick("class", "h100", ""), "r", pick("model", "m", ""), pick("day", "2026-03-01", "2026-03-31")}})
		in.Opening = append(in.Opening, report.Row{Kind: kind, Key: []string{}, Amounts: amounts()})
	}
	return in
}

// TestEverythingAddsUp: opening, what was used and what was corrected are the closing, and
// every grouping adds up to what was used and corrected, to the smallest unit.
func TestEverythingAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		s := showback.Make(in)
		must.Eq(t, s.Account.Closing, s.Account.Opening.Add(s.Account.Used).Add(s.Account.Corrected))
		var posted report.Amounts
		for _, r := range in.Rows {
			if ledger.PostedKind(r.Kind) {
				posted = posted.Add(r.Amounts)
			}
		}
		must.Eq(t, posted, s.Account.Used.Add(s.Account.Corrected))
		must.SliceNotEmpty(t, s.Groups)
		for _, g := range s.Groups {
			sum := report.Amounts{}
			for _, l := range g.Lines {
				sum = sum.Add(l.Amounts)
			}
			must.Eq(t, posted, sum, must.Sprint(g.By))
			must.Eq(t, posted, g.Total.Amounts, must.Sprint(g.By))
			must.Eq(t, s.Account.Corrected, g.Total.Corrected, must.Sprint(g.By))
		}
		checkCSV(t, s, posted)
		must.NoError(t, s.WriteHTML(&bytes.Buffer{}))
	})
}

// checkCSV adds up the table of a statement by its base units.
func checkCSV(t *rapid.T, s showback.Statement, posted report.Amounts) {
	var text bytes.Buffer
	must.NoError(t, s.WriteCSV(&text))
	records, err := csv.NewReader(&text).ReadAll()
	must.NoError(t, err)
	sums := map[string]int64{}
	for _, r := range records[1:] {
		var n int64
		_, err := fmt.Sscan(r[8], &n)
		must.NoError(t, err)
		sums[r[3]+" "+r[5]] += n
		if r[3] == "account" {
			sums[r[3]+" "+r[4]+" "+r[5]] += n
		}
	}
	for _, g := range s.Groups {
		must.Eq(t, int64(posted.Cost), sums["by "+g.By+" cost"], must.Sprint(g.By))
		must.Eq(t, int64(posted.GPUTime), sums["by "+g.By+" gpu_hours"], must.Sprint(g.By))
	}
	must.Eq(t, int64(s.Account.Closing.Cost), sums["account closing cost"])
}

// TestTheSharesOfFreeCapacityAddUpToAllOfIt: of budgets that divide the tree, and of one
// and those below it.
func TestTheSharesOfFreeCapacityAddUpToAllOfIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		leaves := []string{"a", "a-x", "a/b", "a/b/c", "a/d", "b", "z/y"}
		var rows []report.Row
		for _, path := range leaves {
			rows = append(rows, everyone(ledger.UsageEntry, path, "h100", rapid.Int64Range(0, 40).Draw(t, path)))
		}
		rows = append(rows, everyone(ledger.UsageEntry, "b", "h100", 1)) // somebody used it
		free := report.Row{Kind: ledger.UnallocatedEntry, Key: []string{"", "h100"}, Amounts: report.Amounts{
			GPUTime: quantity.Amount(rapid.Int64Range(0, 1_000_000_000).Draw(t, "free")), Cost: quantity.Amount(rapid.Int64Range(0, 1_000_000_000).Draw(t, "worth"))}}
		rows = append(rows, free)
		share := func(path string) report.Amounts {
			return showback.Make(showback.Input{Head: showback.Head{Budget: path, From: march, To: april}, Everyone: rows}).Idle.Share
		}
		sum := report.Amounts{}
		for _, root := range []string{"a", "a-x", "b", "z"} {
			sum = sum.Add(share(root))
		}
		must.Eq(t, free.Amounts, sum)
		must.True(t, share("a/b").GPUTime <= share("a").GPUTime)
	})
}

func TestWhoBearsFreeCapacity(t *testing.T) {
	t.Parallel()
	s := exampleStatement()
	must.Eq(t, "shared", s.Idle.Rule)
	must.Eq(t, 57*quantity.GPUHour, s.Idle.Share.GPUTime, must.Sprint("half of 100 h100 hours, all 7 of l40s, none of what nobody used"))
	in := example()
	in.Idle = budget.IdleOwner
	in.Everyone = append(in.Everyone, everyone(ledger.UnallocatedEntry, "acme/research/nlp", "h100", 9), everyone(ledger.UnallocatedEntry, "acme/research-x", "h100", 9))
	must.Eq(t, 9*quantity.GPUHour, showback.Make(in).Idle.Share.GPUTime)
	in.Idle = budget.IdleNone
	must.Eq(t, 0, showback.Make(in).Idle.Share.GPUTime)
}

func TestALimitIsUsedHeldAndLeft(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := func(name string) quantity.Amount {
			return quantity.Amount(rapid.Int64Range(0, 1_000_000_000_000).Draw(t, name))
		}
		e := ledger.EffectiveLimit{Limit: budget.Limit{Window: budget.Month, Dimension: budget.Cost, Ceiling: quantity.LimitOf(amount("ceiling"))},
			Carry: amount("carry"), Granted: amount("granted"), Borrow: amount("borrow")}
		l := showback.LimitOf(e, amount("used"), amount("held"))
		must.Eq(t, l.Allowance, l.Ceiling.Add(l.Carry).Add(l.Granted).Add(l.Borrow))
		must.Eq(t, l.Allowance, l.Used.Add(l.Held).Add(l.Left))
	})
}

func TestGrantsThatCounted(t *testing.T) {
	t.Parallel()
	at := func(day int) int64 { return march.AddDate(0, 0, day-1).UnixMilli() }
	for name, c := range map[string]struct {
		grant ledger.Grant
		want  bool
	}{
		"in it":                  {ledger.Grant{Budget: "a/b", FromMS: at(3), UntilMS: at(5)}, true},
		"of a budget below":      {ledger.Grant{Budget: "a/b/c", FromMS: at(3), UntilMS: at(5)}, true},
		"of another":             {ledger.Grant{Budget: "a/bc", FromMS: at(3), UntilMS: at(5)}, false},
		"never approved":         {ledger.Grant{Budget: "a/b"}, false},
		"ended before":           {ledger.Grant{Budget: "a/b", FromMS: at(-5), UntilMS: at(1)}, false},
		"revoked before":         {ledger.Grant{Budget: "a/b", FromMS: at(-5), UntilMS: at(9), RevokedMS: at(-2)}, false},
		"began before, ended in": {ledger.Grant{Budget: "a/b", FromMS: at(-5), UntilMS: at(2)}, true},
		"begins afterwards":      {ledger.Grant{Budget: "a/b", FromMS: at(32), UntilMS: at(40)}, false},
	} {
		must.Eq(t, c.want, showback.Counted(c.grant, "a/b", march, april), must.Sprint(name))
	}
	must.True(t, strings.HasPrefix(showback.PeriodName(showback.Limit{Window: "quarter", Start: &april}), "quarter 2026-Q2"))
}
