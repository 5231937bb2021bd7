package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
)

func (r *rig) report(q TokenReport) TokenStatus {
	if q.Budget == "" && q.Run == "" {
		q.Budget = "acme/research"
	}
	s, err := r.Engine.ReportTokens(r.ctx, opener, q)
	must.NoError(r.t, err)
	return s
}

func TestReportedTokensArePostedOnceAndSayWhatTheyExceed(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	from, to := r.clock.now().Add(-time.Hour), r.clock.now().Add(-time.Minute)
	q := TokenReport{Key: "minute-1", Model: "llama", Input: 600, Output: 200, From: &from, To: &to, Namespace: "serving", JobID: "llama"}
	s := r.report(q)
	must.Eq(t, "settled", s.State)
	must.Eq(t, "admit", s.Outcome)
	must.False(t, s.OverBudget)
	must.Eq(t, TokenAmounts{Input: 600, Output: 200, Cost: 1400}, s.Used)
	must.Eq(t, s, r.report(q), must.Sprint("sent again it counts once"))
	must.Eq(t, 1400, r.spent("acme"))
	hour := budget.PeriodAt(budget.Hour, from, time.UTC).Key()
	must.Eq(t, 600, r.balance("acme").Posted.At(hour, budget.Tokens(budget.InputTokens)), must.Sprint("in the hour in which it was used"))

	s = r.report(TokenReport{Key: "minute-2", Model: "llama", Output: 900})
	must.True(t, s.OverBudget)
	must.Eq(t, "deny", s.Outcome)
	must.Eq(t, "insufficient_budget", s.Reason)
	contains(t, s.Text, "900 output tokens of llama are posted to budget acme/research", "over budget: it needs 900 output tokens, and budget acme/research has 800 output tokens left for the day",
		"short by 100 output tokens")
	must.Eq(t, 1100, r.postedTokens("acme/research", budget.OutputTokens))

	r.clock.advance(reportWithin - time.Minute)
	must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
	p := r.refused(second(r.Engine.ReportTokens(r.ctx, opener, TokenReport{Key: "minute-1", Budget: "acme/research", Model: "llama", Input: 600, Output: 200, From: &from, To: &to})))
	must.Eq(t, http.StatusBadRequest, p.Status, must.Sprint("too old to be counted again"))
	contains(t, p.Text, "usage is reported within 24h")
	r.clock.advance(5 * time.Minute)
	must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
	all, err := r.Engine.books.requests(r.ctx)
	must.NoError(t, err)
	must.SliceEmpty(t, all)
}

func TestAReportOfAnotherTimeIsAnotherReport(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	from, to := r.clock.now().Add(-2*time.Hour), r.clock.now().Add(-time.Hour)
	q := TokenReport{Key: "10:00", Budget: "acme/research", Model: "llama", Output: 10, From: &from, To: &to}
	r.report(q)
	next := q
	next.From, next.To = &to, new(r.clock.now())
	for _, other := range []TokenReport{next, {Key: q.Key, Budget: q.Budget, Model: q.Model, Output: q.Output}} {
		p := r.refused(second(r.Engine.ReportTokens(r.ctx, opener, other)))
		must.Eq(t, http.StatusConflict, p.Status)
		must.StrContains(t, p.Text, "for 10 output tokens of llama from budget acme/research, used from 2026-03-10T10:00:00Z to 2026-03-10T11:00:00Z; use a key of its own")
	}
	now := TokenReport{Key: "now", Model: "llama", Output: 5}
	s := r.report(now)
	r.clock.advance(time.Minute)
	must.Eq(t, s.ID, r.report(now).ID)
	must.Eq(t, 15, r.postedTokens("acme", budget.OutputTokens))
}

func TestReportsOfAModelWithoutAPriceAreNotFree(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	var told []ledger.Entry
	r.Engine.books.recorder = recorderFunc(func(e []ledger.Entry) { told = append(told, e...) })
	s := r.report(TokenReport{Key: "k", Model: "Lama", Input: 1000, Output: 10})
	must.Eq(t, "no_price", s.Reason)
	must.Eq(t, "warn", s.Outcome)
	must.Eq(t, 1040, s.Used.Cost)
	contains(t, s.Text, `the input tokens of model "Lama" have no price`, "charged as the dearest model that has one")
	must.True(t, told[0].Estimated)
	must.Eq(t, ledger.CauseNoPrice, told[0].Cause)
}

func TestWrongReportsAreExplained(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	at := func(d time.Duration) *time.Time { t := r.clock.now().Add(d); return &t }
	for want, q := range map[string]TokenReport{
		"it must end after it begins":             {From: at(-time.Minute), To: at(-time.Hour)},
		"which is still to come":                  {From: at(0), To: at(time.Hour)},
		"usage is reported within 24h, and later": {From: at(-25 * time.Hour), To: at(-24 * time.Hour)},
		"only one of from and to":                 {From: at(0)},
	} {
		q.Key, q.Budget, q.Model, q.Input = "k", "acme/research", "llama", 1
		p := r.refused(second(r.Engine.ReportTokens(r.ctx, opener, q)))
		must.Eq(t, http.StatusBadRequest, p.Status)
		must.StrContains(t, p.Text, want)
	}
}

func TestAReportOfARunCountsInIt(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), strings.Replace(tokenPolicy, `limit "day"`, `per_run {
      cost       = 0.01
      wall_clock = "6h"
    }
    limit "day"`, 1))
	run := r.openRun(RunRequest{})
	s := r.report(TokenReport{Key: "a", Run: run.ID, Model: "llama", Output: 3000})
	must.True(t, s.OverBudget)
	contains(t, s.Text, fmt.Sprintf("agent run %s has 0.01 USD of 0.01 USD left", run.ID))
	must.Eq(t, 12000, r.runNow(run.ID).Posted[budget.Cost])
	s = r.report(TokenReport{Key: "b", Model: "llama", Output: 3})
	contains(t, s.Text, "serves requests of agent runs only", "this request names no open run")
}

func TestAReportOfAClosedRunSaysWhatItExceedsOfItsBudget(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), strings.Replace(tokenPolicy, `limit "day"`, `per_run {
      tokens     = { output = 700 }
      wall_clock = "6h"
    }
    limit "day"`, 1))
	var runs [2]RunStatus
	for i := range runs {
		runs[i] = r.openRun(RunRequest{})
		closed, err := r.Engine.CloseRun(r.ctx, opener, runs[i].ID)
		must.NoError(t, err)
		must.Eq(t, RunClosed, closed.State)
	}
	for i, run := range runs { // within the caps of each, and together above the day's limit
		s := r.report(TokenReport{Key: run.ID, Run: run.ID, Model: "llama", Output: 600})
		must.Eq(t, i == 1, s.OverBudget, must.Sprint(s.Text))
	}
}

// level is the token policy with a setting in research.
func level(setting string) string {
	return strings.Replace(tokenPolicy, `limit "day"`, setting+"\n    limit \"day\"", 1)
}

func TestLimitsOfTokensFollowTheLevelsOfEnforcement(t *testing.T) {
	t.Parallel()
	much := askTokens("much", 10, 1001)
	for name, c := range map[string]struct {
		policy, outcome, reason, text string
	}{
		"advisory": {level(`enforcement = "advisory"`), "warn", "exceeds_budget",
			"budget acme/research is advisory and lets this request in; enforced, it would be refused: it needs 1,001 output tokens"},
		"shadow": {strings.Replace(tokenPolicy, "governor {", "governor {\n  enforcement = \"shadow\"", 1), "warn", "exceeds_budget",
			"shadow mode lets this request in; enforced, it would be refused"},
		"warn": {level(`over_budget { admit = "warn" }`), "warn", "fits_with_warning", "over a limit that only warns: 1,000 output tokens in each day"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRigOn(t, openStore(t), c.policy)
			s := r.authorize(much)
			must.Eq(t, c.outcome, s.Outcome)
			must.Eq(t, c.reason, s.Reason)
			contains(t, s.Text, c.text)
			again := r.authorize(much)
			must.Eq(t, c.outcome, again.Outcome)
			must.Eq(t, c.reason, again.Reason)
		})
	}
	t.Run("queue", func(t *testing.T) {
		t.Parallel()
		r := newRigOn(t, openStore(t), level(`over_budget { admit = "queue" }`))
		r.authorize(askTokens("a", 0, 900))
		p := r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, askTokens("b", 0, 101))))
		must.Eq(t, http.StatusTooManyRequests, p.Status, must.Sprint("a request does not wait"))
	})
}

func TestAPolicyOverrideLiftsALimitOfTokens(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), level(`enforcement = "soft-mandatory"
    override "tokens" {
      who     = ["token:default"]
      max     = { tokens = { output = 500 } }
      expires = "1h"
      reason  = "required"
    }`))
	q := askTokens("a", 10, 1400)
	must.Eq(t, http.StatusForbidden, r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, q))).Status)
	q.PolicyOverride = true
	p := r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, q)))
	contains(t, p.Text, "needs a reason")
	q.Reason = "demo"
	s := r.authorize(q)
	must.Eq(t, "held", s.State)
	contains(t, s.Text, "admitted by override")
	must.StrContains(t, r.auditKinds(), "override.requested override.activated")
	q = askTokens("b", 10, 300)
	q.PolicyOverride, q.Reason = true, "demo"
	p = r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, q)))
	contains(t, p.Text, "counts already, and it does not fit even so")
}

func TestRequestsMoveWithTheirBudgetAndFollowTheWindows(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	s := r.authorize(askTokens("a", 100, 100))
	r.edit(strings.Replace(tokenPolicy, `limit "month" { tokens`, `limit "hour" { tokens = { output = 100 } }
    limit "month" { tokens`, 1))
	must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
	hour := budget.PeriodAt(budget.Hour, r.clock.now(), time.UTC)
	must.Eq(t, 100, r.balance("acme").HeldIn(hour, budget.Tokens(budget.OutputTokens)))
	r.edit(strings.Replace(tokenPolicy, `budget "research" {`, `budget "labs" {`, 1) + "\nmoved {\n  from = \"acme/research\"\n  to   = \"acme/labs\"\n}\n")
	must.Eq(t, "", r.Keeper.State().Broken)
	for range 2 {
		must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
		must.NoError(t, r.Engine.move(r.ctx, ledger.Fence{}, r.Keeper.State().Policy))
	}
	must.True(t, r.balance("acme/research").Held.IsZero())
	ended := r.settleTokens(s, 100, 0, 50)
	must.Eq(t, "acme/labs", ended.Budget)
	must.Eq(t, 50, r.postedTokens("acme/labs", budget.OutputTokens))
	must.NoError(t, r.settle())
	must.Eq(t, 0, r.Meter.drift.Load())
}

func TestTheHistoryOfTokensSurvivesAnAgentThatDies(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	f := &fragile{Recorder: recorderFunc(func([]ledger.Entry) {})}
	f.broken.Store(true)
	r.Engine.books.recorder = f
	r.settleTokens(r.authorize(askTokens("a", 100, 100)), 100, 0, 50)
	open := r.authorize(askTokens("b", 100, 100))
	r.start(r.store) // nobody was told
	r.keepHistory(t)
	must.NoError(t, r.settle())
	must.Eq(t, 150, r.statementBy(report.Budget).Total.Tokens())
	r.settleTokens(open, 10, 0, 10)
	r.clock.advance(2 * endedKept)
	must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
	must.Eq(t, 170, r.statementBy(report.Budget).Total.Tokens())
	c := r.verified()
	must.SliceEmpty(t, c.Differences)
	must.SliceEmpty(t, c.Conflicts)
}

func TestTokensOverHTTP(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	handler := api.Handler(r.Routes(), func(*http.Request, api.Right) (api.Caller, int, string) { return opener, 0, "" }, func(*http.Request, error) {})
	post := func(path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/governor/v1/tokens/"+path, strings.NewReader(body)))
		return w
	}
	w := post("authorize", `{"key": "a", "budget": "acme/research", "model": "llama", "input_tokens": 10, "max_output_tokens": 600}`)
	must.Eq(t, http.StatusOK, w.Code, must.Sprint(w.Body))
	var s TokenStatus
	must.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
	must.Eq(t, quantity.Amount(600), s.Held.Output)
	w = post("authorize", `{"key": "b", "budget": "acme/research", "model": "llama", "input_tokens": 10, "max_output_tokens": 600}`)
	must.Eq(t, http.StatusTooManyRequests, w.Code)
	must.Eq(t, "5", w.Header().Get("Retry-After"))
	var failure api.Failure
	must.NoError(t, json.Unmarshal(w.Body.Bytes(), &failure))
	must.Eq(t, "insufficient_budget", failure.Reason)
	must.Eq(t, http.StatusOK, post("void", `{"id": "`+s.ID+`"}`).Code)
	must.Eq(t, http.StatusOK, post("report", `{"key": "c", "budget": "acme/research", "model": "llama", "output": 7}`).Code)
	must.Eq(t, http.StatusBadRequest, post("settle", `{"id": "x", "tokens": 7}`).Code)
}
