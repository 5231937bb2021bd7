package report_test

import (
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// ended is the receipt of a hold that was closed, in GPU-hours.
func ended(job, kind string, asked, used int64, change func(r *ledger.Receipt)) ledger.Entry {
	usage := func(hours int64) ledger.Usage {
		ms := quantity.Amount(hours) * quantity.GPUHour
		return ledger.Usage{GPUTime: map[string]quantity.Amount{"h100": ms}, Cost: quantity.Amount(hours) * 2_000_000}
	}
	r := ledger.Receipt{Outcome: ledger.Settled, JobType: kind, Estimate: usage(asked), Posted: usage(used), Starts: 1}
	r.Estimate.GPUTime["any"] = quantity.Amount(asked) * quantity.GPUHour
	if change != nil {
		change(&r)
	}
	return ledger.Entry{Kind: ledger.ReceiptEntry, Budget: "acme", Namespace: "ml", JobID: job, Submitter: "u", Receipt: &r}
}

func TestUnitCosts(t *testing.T) {
	t.Parallel()
	hours := func(n int64) report.Amounts {
		return report.Amounts{GPUTime: quantity.Amount(n) * quantity.GPUHour, Cost: quantity.Amount(n) * 2_000_000}
	}
	rows := []report.Row{{Kind: ledger.UsageEntry, Key: []string{"ml"}, Amounts: hours(50)}, {Kind: ledger.IdleEntry, Key: []string{"ml"}, Amounts: hours(10)},
		{Kind: ledger.UsageEntry, Key: []string{"web"}, Amounts: hours(5)}, {Kind: ledger.OverdraftEntry, Key: []string{"ml"}, Amounts: hours(3)},
		{Kind: ledger.UnallocatedEntry, Key: []string{""}, Amounts: hours(45)}, {Kind: ledger.UngovernedEntry, Key: []string{""}, Amounts: hours(1)}}
	e := report.MakeEfficiency(report.Query{}, report.Namespace, "UTC", "USD", rows, []ledger.Entry{
		ended("good", "batch", 20, 10, nil),
		ended("retried", "batch", 20, 12, func(r *ledger.Receipt) { r.Starts, r.Retried = 3, 4*quantity.GPUHour }),
		ended("failed", "batch", 8, 8, func(r *ledger.Receipt) { r.FailedSlots, r.Failed = 1, 8*quantity.GPUHour }),
		ended("stopped", "batch", 2, 3, func(r *ledger.Receipt) { r.Stopped = "over_budget" }),
		ended("serves", "service", 30, 17, nil),
		ended("refused", "batch", 9, 0, func(r *ledger.Receipt) { r.Outcome = ledger.Voided }),
		ended("never", "batch", 9, 0, nil),
	})
	must.Len(t, 2, e.Lines)
	ml := e.Lines[0]
	must.Eq(t, "ml", ml.Key)
	must.Eq(t, 2_000_000, *ml.CostPerGPUHour)
	must.Eq(t, 2_500_000, *ml.CostPerBusyGPUHour, must.Sprint("100 for 40 hours that were used"))
	must.Eq(t, 20_000_000, *ml.CostPerJob, must.Sprint("50 hours of five jobs"))
	must.Eq(t, 33_000_000, *ml.CostPerGoodJob, must.Sprint("33 hours of batch jobs, two good ones"))
	must.Eq(t, report.JobSums{Ended: 5, Good: 2, Bad: 2, Starts: 7, Cost: 100_000_000, BatchCost: 66_000_000, Asked: 80 * quantity.GPUHour, Used: 50 * quantity.GPUHour,
		Unused: 31 * quantity.GPUHour, Retried: 4 * quantity.GPUHour, Failed: 8 * quantity.GPUHour}, ml.Jobs)
	must.Nil(t, e.Lines[1].CostPerJob)
	must.Eq(t, hours(45), e.Unallocated)
	must.Eq(t, hours(55), e.Total.Used)
	must.Eq(t, hours(1), e.Ungoverned)
}

// TestEfficiencyAddsUp: lines add up to the total, and no more is idle or unused in it
// than in them.
func TestEfficiencyAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var rows []report.Row
		var receipts []ledger.Entry
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			key := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "key")
			rows = append(rows, report.Row{Kind: rapid.SampledFrom(ledger.EntryKinds()).Draw(t, "kind"), Key: []string{key},
				Amounts: report.Amounts{GPUTime: quantity.Amount(rapid.Int64Range(0, 1e12).Draw(t, "ms")), Cost: quantity.Amount(rapid.Int64Range(0, 1e12).Draw(t, "cost"))}})
			one := ended("j", "batch", rapid.Int64Range(0, 99).Draw(t, "asked"), rapid.Int64Range(0, 99).Draw(t, "used"), nil)
			one.Namespace = key
			receipts = append(receipts, one)
		}
		e := report.MakeEfficiency(report.Query{}, report.Namespace, "UTC", "USD", rows, receipts)
		var sum report.EfficiencyLine
		for _, l := range e.Lines {
			sum.Used, sum.Idle = sum.Used.Add(l.Used), sum.Idle.Add(l.Idle)
			sum.Jobs.Ended, sum.Jobs.Cost, sum.Jobs.Unused = sum.Jobs.Ended+l.Jobs.Ended, sum.Jobs.Cost.Add(l.Jobs.Cost), sum.Jobs.Unused.Add(l.Jobs.Unused)
		}
		must.Eq(t, e.Total.Used, sum.Used)
		must.Eq(t, e.Total.Idle, sum.Idle)
		must.Eq(t, [2]quantity.Amount{e.Total.Jobs.Cost, e.Total.Jobs.Unused}, [2]quantity.Amount{sum.Jobs.Cost, sum.Jobs.Unused})
		must.Eq(t, e.Total.Jobs.Ended, sum.Jobs.Ended)
	})
}

func TestEfficiencyColumns(t *testing.T) {
	t.Parallel()
	_, err := report.ParseEfficiencyColumn("day")
	must.ErrorContains(t, err, `cannot be grouped by "day"; it can by one of: budget, namespace, user, job`)
	must.Eq(t, []report.Column{report.Namespace, report.Job}, report.EfficiencyKeys(report.Job))
}
