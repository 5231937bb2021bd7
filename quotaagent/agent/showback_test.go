package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

// showbackOf is the statement of a budget for a time as the command line gives it.
func (r *rig) showbackOf(path, from string) showback.Statement {
	begin, end, err := report.ParseTime(from, "", r.clock.now(), time.UTC)
	must.NoError(r.t, err)
	s, err := r.showback(r.ctx, path, begin, end, nil)
	must.NoError(r.t, err)
	return s
}

// stated is the account of one limit of a statement.
func stated(t *testing.T, s showback.Statement, name string, d budget.Dimension) showback.Limit {
	t.Helper()
	for _, l := range s.Limits {
		if showback.PeriodName(l) == name && l.Dimension == string(d) {
			must.True(t, l.Unlimited || l.Allowance == l.Used.Add(l.Held).Add(l.Left), must.Sprint(l))
			return l
		}
	}
	t.Fatalf("the statement has no limit %s %s: %v", name, d, s.Limits)
	return showback.Limit{}
}

// TestAStatementIsTheLedgersAndTheHistorys: its amounts are those of the balances and of
// the usage report, and the closing of a month is the opening of the next.
func TestAStatementIsTheLedgersAndTheHistorys(t *testing.T) {
	t.Parallel()
	policy := strings.Replace(testPolicy(8, "10"), "cost      = 100000", "cost      = 100000\n    rollover {\n      carry   = \"50%\"\n      expires = \"1 month\"\n    }", 1)
	r := newRigOn(t, openStore(t), policy)
	r.keepHistory(t)
	r.work("train", 2, 3*time.Hour) // 6 hours in March
	_, err := r.correct(r.ctx, api.Caller{Accessor: "boss"}, CorrectionRequest{ID: "refund-01", Budget: "acme/research", Namespace: "default", JobID: "train",
		Reason: "the node was broken", Amounts: map[string]string{"cost": "-3.6", "gpu_hours.v100": "-1"}})
	must.NoError(t, err)

	march := r.showbackOf("acme", "2026-03")
	must.True(t, march.Open)
	must.Eq(t, 5*quantity.GPUHour, march.Account.Closing.GPUTime)
	must.Eq(t, r.posted("acme"), int64(march.Account.Closing.GPUTime))
	must.Eq(t, r.balance("acme").Posted.At(budget.Total.String(), budget.Cost), march.Account.Closing.Cost)
	must.Eq(t, r.statementBy(report.Budget).Total.Amounts, march.Account.Closing)
	must.Eq(t, -quantity.GPUHour, march.Account.Corrected.GPUTime)
	must.Eq(t, "the node was broken", march.Corrections[0].Reason)
	open := stated(t, march, "month 2026-03", budget.GPUTime(budget.AnyClass))
	must.Eq(t, 5*quantity.GPUHour, open.Left)

	r.clock.advance(30 * 24 * time.Hour) // the 9th of April
	must.False(t, r.run(r.job("later", 1, 1)).Denied)
	r.nomad.start("default", "later", 0, 1)
	must.NoError(t, r.settle())
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.settle())
	april := r.showbackOf("acme", "2026-04")
	must.Eq(t, march.Account.Closing, april.Account.Opening)
	must.Eq(t, r.posted("acme"), int64(april.Account.Closing.GPUTime))
	must.Positive(t, april.Account.Used.GPUTime)
	must.Len(t, 1, april.Held.Jobs)
	must.Eq(t, heldNow(*r.holdOf("default", "later")).GPUTime[budget.AnyClass], april.Held.GPUTime)
	must.Positive(t, april.Held.GPUTime)
	must.Greater(t, 0, stated(t, april, "month 2026-04", budget.GPUTime(budget.AnyClass)).Carry)

	closed := r.showbackOf("acme", "2026-03")
	must.False(t, closed.Open)
	must.Nil(t, closed.Held)
	must.Eq(t, march.Account, closed.Account)
	was := stated(t, closed, "month 2026-03", budget.GPUTime(budget.AnyClass))
	must.Eq(t, [3]quantity.Amount{10 * quantity.GPUHour, 5 * quantity.GPUHour, 5 * quantity.GPUHour}, [3]quantity.Amount{was.Allowance, was.Used, was.Left})
}

// TestAClosedMonthHasTheLimitsThatItHad, and the overrides that counted in it, also those
// that the ledger has forgotten.
func TestAClosedMonthHasTheLimitsThatItHad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	r.Keeper.keepHistory(r.ctx, &budget.Policy{}, r.Keeper.State())
	grant := ledger.Grant{ID: "o-1", Budget: "acme", Rule: "glass", Accessor: "oncall", Reason: "the demo", Max: ledger.Amounts{budget.Cost: 7_000_000},
		RequestedMS: r.clock.now().UnixMilli()}.Activate(r.clock.now().UnixMilli(), 8*time.Hour)
	value, err := ledger.Encode(grant)
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: overridePrefix + "o-1", Value: value}}))

	r.clock.advance(60 * 24 * time.Hour)
	r.edit(testPolicy(8, "77"))
	r.Keeper.keepHistory(r.ctx, &budget.Policy{}, r.Keeper.State())
	before := r.showbackOf("acme", "2026-03")
	tidier := &tidier{engine: r.Engine}
	must.NoError(t, tidier.tick(r.ctx, ledger.Fence{}))
	all, err := r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	must.SliceEmpty(t, all, must.Sprint("the ledger has forgotten it"))

	s := r.showbackOf("acme", "2026-03")
	must.Eq(t, 1000*quantity.GPUHour, stated(t, s, "month 2026-03", budget.GPUTime(budget.AnyClass)).Ceiling)
	must.Eq(t, 7_000_000, stated(t, s, "month 2026-03", budget.Cost).Granted)
	must.Len(t, 1, s.Grants)
	must.Eq(t, before.Grants, s.Grants)
	must.Eq(t, 77*quantity.GPUHour, stated(t, r.showbackOf("acme", "2026-05"), "month 2026-05", budget.GPUTime(budget.AnyClass)).Ceiling)
	must.SliceEmpty(t, r.showbackOf("acme", "2026-05").Grants)
	kept, err := past.Grants(r.ctx, time.UnixMilli(0))
	must.NoError(t, err)
	must.Eq(t, []ledger.Grant{func() ledger.Grant { grant.EndTold = false; return grant }()}, kept)
	must.SliceEmpty(t, r.verified().Differences)
}

func TestNoStatementOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	_, err := r.showback(r.ctx, "acme/none", noon.AddDate(0, 0, -1), noon, nil)
	must.ErrorContains(t, err, `there is no budget "acme/none"`)
	_, err = r.showback(r.ctx, "acme", noon.AddDate(0, 0, 1), noon.AddDate(0, 0, 2), nil)
	must.ErrorContains(t, err, "still to come")
}
