package agent

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
)

// keepHistory gives the rig's agent a history of its own.
func (r *rig) keepHistory(t testing.TB) *history.Store {
	past, err := history.Open(filepath.Join(t.TempDir(), "history.db"), r.clock.now)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, past.Close()) })
	r.withHistory(past, Peers{})
	return past
}

// withHistory begins a new agent process with a history.
func (r *rig) withHistory(past *history.Store, p Peers) {
	r.Agent = New(Options{Name: "test", Store: r.store, Nomad: r.nomad, Placer: r.placer, Logger: hclog.NewNullLogger(), Now: r.clock.now,
		Registrar: r.registrar, History: past, Peers: p})
	must.NoError(r.t, r.Keeper.Load(r.ctx))
	must.NoError(r.t, r.history.keep(r.ctx))
	r.Meter.begin()
}

// statementBy is the statement of all time.
func (r *rig) statementBy(columns ...report.Column) report.Statement {
	s, err := r.statement(r.ctx, report.Query{From: noon.AddDate(-1, 0, 0), To: noon.AddDate(1, 0, 0), By: columns}, nil)
	must.NoError(r.t, err)
	return s
}

func (r *rig) verified() UsageCheck {
	c, err := r.compare(r.ctx, r.history)
	must.NoError(r.t, err)
	return c
}

// work runs a job of one allocation for a time, and settles it.
func (r *rig) work(id string, gpus int, d time.Duration) {
	must.False(r.t, r.run(r.job(id, 1, gpus)).Denied)
	alloc := r.nomad.start("default", id, 0, gpus)
	must.NoError(r.t, r.settle())
	r.clock.advance(d)
	must.NoError(r.t, r.settle())
	r.nomad.finish(alloc)
	must.NoError(r.t, r.settle())
}

func TestWhatIsPostedIsInTheHistoryAndHasAReceipt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	r.work("train", 2, 30*time.Minute)

	s := r.statementBy(report.Budget, report.Job, report.Class)
	must.Len(t, 1, s.Lines)
	must.Eq(t, []string{"acme/research", "train", "v100"}, s.Lines[0].Key)
	must.Eq(t, r.facts(), int64(s.Total.GPUTime))
	must.Eq(t, r.posted("acme"), int64(s.Total.GPUTime))

	receipts, err := r.history.store.Receipts(r.ctx, "default", "train", 10)
	must.NoError(t, err)
	must.Len(t, 1, receipts)
	must.Eq(t, ledger.Settled, receipts[0].Outcome)
	must.Eq(t, "fits", receipts[0].Reason)
	for _, i := range receipts[0].Items {
		must.True(t, i.Balanced(), must.Sprint(i))
	}
	must.Eq(t, quantity.Amount(r.facts()), receipts[0].Prices[0].GPUTime)

	c := r.verified()
	must.SliceEmpty(t, c.Differences)
	must.Greater(t, 5, c.Periods)
	must.Eq(t, 0, c.Older)
}

func TestEveryHoldThatIsClosedHasAReceipt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	// Voided: Nomad refuses.
	v := r.admit(r.job("voided", 1, 1))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	// Expired: nobody confirms it, and Nomad does not have it.
	r.admit(r.job("expired", 1, 1))
	r.clock.advance(confirmWithin + time.Second)
	must.NoError(t, r.settle())
	for job, outcome := range map[string]string{"voided": ledger.Voided, "expired": ledger.Expired} {
		receipts, err := past.Receipts(r.ctx, "default", job, 10)
		must.NoError(t, err)
		must.Len(t, 1, receipts, must.Sprint(job))
		must.Eq(t, outcome, receipts[0].Outcome)
		for _, i := range receipts[0].Items {
			must.True(t, i.Balanced(), must.Sprint(i))
			must.Eq(t, 0, i.Posted)
			must.True(t, i.Name == "energy_j" || i.Voided+i.Expired > 0, must.Sprint(i))
		}
	}
	must.SliceEmpty(t, r.open())
}

func TestDecisionsAreKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	must.True(t, r.admit(r.job("large", 1, 9)).Denied)
	must.NoError(t, r.history.flush(r.ctx))
	found, err := past.Decisions(r.ctx, "default", "large", 10)
	must.NoError(t, err)
	must.Len(t, 1, found)
	must.Eq(t, "deny", found[0].Outcome)
	must.Eq(t, 9, found[0].GPUs)
	contains(t, found[0].Text, `job "large" in namespace "default" was not registered`, "9 GPUs", "what to do")

	must.False(t, r.run(r.job("small", 1, 2)).Denied)
	must.NoError(t, r.history.flush(r.ctx))
	found, err = past.Decisions(r.ctx, "default", "small", 10)
	must.NoError(t, err)
	contains(t, found[0].Text, "at most 2 x", "from budget acme/research")

	plan := r.job("planned", 1, 2)
	plan.Kind = gate.Plan
	r.admit(plan)
	must.NoError(t, r.history.flush(r.ctx))
	found, err = past.Decisions(r.ctx, "default", "planned", 10)
	must.NoError(t, err)
	must.True(t, found[0].Plan)
	must.Eq(t, "", found[0].Text, must.Sprint("there are too many plans"))
}

// What many ask in the same second is one line, but what was decided last comes last.
func TestTheSamePlanOnceMoreIsNotKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	ask := func(gpus int) {
		plan := r.job("planned", 1, gpus)
		plan.Kind = gate.Plan
		r.admit(plan)
	}
	other := r.job("other", 1, 2)
	other.Kind = gate.Plan
	for _, gpus := range []int{2, 2, 9, 9, 9, 2, 2} {
		ask(gpus)
		r.admit(other)
		r.clock.advance(time.Millisecond)
	}
	must.NoError(t, r.history.flush(r.ctx))
	found, err := past.Decisions(r.ctx, "default", "planned", 10)
	must.NoError(t, err)
	var gpus []int64
	for _, d := range found {
		gpus = append(gpus, d.GPUs)
	}
	must.Eq(t, []int64{2, 9, 2}, gpus)
	must.NoError(t, r.history.flush(r.ctx))
	found, err = past.Decisions(r.ctx, "default", "other", 10)
	must.NoError(t, err)
	must.Len(t, 1, found)
	for range 2 {
		must.False(t, r.run(r.job("planned", 1, 2)).Denied, must.Sprint("what has effects is kept each time"))
	}
	must.NoError(t, r.history.flush(r.ctx))
	found, err = past.Decisions(r.ctx, "default", "planned", 10)
	must.NoError(t, err)
	must.Len(t, 5, found)
}

func TestACorrectionIsPostedOnceAndInTheHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	r.work("train", 2, 30*time.Minute)
	before := r.statementBy(report.Budget).Total.Amounts
	who := api.Caller{Accessor: "boss"}
	request := CorrectionRequest{ID: "refund-01", Budget: "acme/research", Namespace: "default", JobID: "train", Reason: "the node was broken",
		Amounts: map[string]string{"cost": "-0.5", "gpu_hours.v100": "-0.25"}}
	for range 2 {
		_, err := r.correct(r.ctx, who, request)
		must.NoError(t, err)
	}
	s := r.statementBy(report.Budget)
	must.Eq(t, before.Cost-500_000, s.Total.Cost)
	must.Eq(t, before.GPUTime-900_000, s.Total.GPUTime)
	must.Eq(t, -500_000, s.Total.Corrected.Cost)
	must.Eq(t, int64(s.Total.GPUTime), r.posted("acme"))
	must.SliceEmpty(t, r.verified().Differences)

	wrong := map[string]func(c *CorrectionRequest){
		"takes back more than was posted": func(c *CorrectionRequest) { c.Amounts = map[string]string{"cost": "-5000"} },
		"needs a reason":                  func(c *CorrectionRequest) { c.Reason = " " },
		"needs an amount":                 func(c *CorrectionRequest) { c.Amounts = nil },
		"not of gpus":                     func(c *CorrectionRequest) { c.Amounts = map[string]string{"gpus": "1"} },
		"no budget \"other\"":             func(c *CorrectionRequest) { c.Budget = "other" },
		"id is \"x\"":                     func(c *CorrectionRequest) { c.ID = "x" },
		"still to come":                   func(c *CorrectionRequest) { c.At = "2027-01-01" },
		"it must be a day":                func(c *CorrectionRequest) { c.At = "yesterday" },
	}
	for want, change := range wrong {
		bad := request
		bad.ID = "refund-02"
		change(&bad)
		_, err := r.correct(r.ctx, who, bad)
		var p *api.Problem
		must.True(t, errors.As(err, &p), must.Sprint(want))
		must.StrContains(t, p.Text, want)
	}
	must.SliceEmpty(t, r.verified().Differences)
}

func TestVerifyFindsWhatDoesNotAgree(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	r.work("train", 2, 30*time.Minute)
	must.NoError(t, past.Record(context.Background(), []ledger.Entry{{Key: "smuggled", Kind: ledger.UsageEntry, Budget: "acme/side", FromMS: noon.UnixMilli(),
		ToMS: noon.UnixMilli() + 1000, Cost: 5}}))
	c := r.verified()
	must.SliceNotEmpty(t, c.Differences)
	for _, d := range c.Differences {
		must.Eq(t, "cost", string(d.Dimension))
		must.Eq(t, d.Balance+5, d.History)
		must.True(t, d.Budget == "acme" || d.Budget == "acme/side", must.Sprint(d.Budget))
	}
}
