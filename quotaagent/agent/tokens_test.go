package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// tokenPolicy has prices for one model, and in research 1,000 output tokens a day, 5,000
// input tokens a month, 0.02 USD in all.
var tokenPolicy = strings.Replace(strings.Replace(testPolicy(8, "100"), `namespaces = ["default"] }`, `
      namespaces = ["default"]
      identities = ["token:default"]
    }
    limit "day" { tokens = { output = 1000 } }
    limit "month" { tokens = { input = 5000 } }
    limit "total" { cost = 0.02 }`, 1), `effective_from = "2026-01-01T00:00:00Z"`, `effective_from = "2026-01-01T00:00:00Z"
  tokens "llama" {
    input_per_million  = 1
    cached_per_million = 0.1
    output_per_million = 4
  }`, 1)

func newTokenRig(t testing.TB) *rig { return newRigOn(t, openStore(t), tokenPolicy) }

// askTokens is a request for tokens of research.
func askTokens(key string, input, output quantity.Amount) TokenRequest {
	return TokenRequest{Key: key, Budget: "acme/research", Model: "llama", InputTokens: input, MaxOutputTokens: output}
}

func (r *rig) authorize(q TokenRequest) TokenStatus {
	s, err := r.Engine.AuthorizeTokens(r.ctx, opener, q)
	must.NoError(r.t, err)
	return s
}

// refused is the problem of an answer.
func (r *rig) refused(err error) *api.Problem {
	var p *api.Problem
	must.True(r.t, errors.As(err, &p), must.Sprintf("%v is no answer to the caller", err))
	return p
}

// postedTokens is all of a kind that is posted to a budget.
func (r *rig) postedTokens(path string, kind budget.TokenKind) quantity.Amount {
	return r.balance(path).Posted.At(budget.Total.String(), budget.Tokens(kind))
}

func (r *rig) spent(path string) quantity.Amount {
	return r.balance(path).Posted.At(budget.Total.String(), budget.Cost)
}

func TestARequestHoldsWhatItMayUseAndPostsWhatItUsed(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	s := r.authorize(askTokens("a", 1000, 400))
	must.Eq(t, "held", s.State)
	must.Eq(t, TokenAmounts{Input: 1000, Cached: 1000, Output: 400, Cost: 2600}, s.Held)
	must.Eq(t, "admit", s.Outcome)
	must.Eq(t, "fits", s.Reason)
	must.Eq(t, r.clock.now().Add(5*time.Minute), *s.Expires)
	must.Eq(t, `at most 1,000 input and 400 output tokens of llama = 0.0026 USD, from budget acme/research; after this 600 output tokens left of 1,000 output tokens in each day in budget acme/research, set at budgets.hcl:32`, s.Text)
	day := budget.PeriodAt(budget.Day, r.clock.now(), time.UTC)
	for _, path := range []string{"acme", "acme/research"} {
		must.Eq(t, 400, r.balance(path).HeldIn(day, budget.Tokens(budget.OutputTokens)), must.Sprint(path))
		must.Eq(t, 2600, r.balance(path).HeldIn(budget.Period{Window: budget.Total}, budget.Cost), must.Sprint(path))
	}
	must.SliceEmpty(t, r.open(), must.Sprint("it is no job's"))

	again := r.authorize(askTokens("a", 1000, 400))
	must.Eq(t, s.ID, again.ID)
	must.Eq(t, s.Held, again.Held)

	used := TokenUsage{ID: s.ID, Input: 700, Cached: 300, Output: 150}
	ended, err := r.Engine.SettleTokens(r.ctx, opener, used)
	must.NoError(t, err)
	must.Eq(t, TokenAmounts{Input: 700, Cached: 300, Output: 150, Cost: 1330}, ended.Used)
	must.Eq(t, TokenAmounts{}, ended.Held)
	must.Eq(t, "settled", ended.State)
	must.Eq(t, "700 input, 300 cached and 150 output tokens of llama are posted to budget acme/research, for 0.00133 USD", ended.Text)
	ended, err = r.Engine.SettleTokens(r.ctx, opener, used) // said again
	must.NoError(t, err)
	must.Eq(t, 1330, ended.Used.Cost)
	for _, path := range []string{"acme", "acme/research"} {
		must.True(t, r.balance(path).Held.IsZero(), must.Sprint(path))
		must.Eq(t, 150, r.postedTokens(path, budget.OutputTokens))
		must.Eq(t, 300, r.postedTokens(path, budget.CachedTokens))
		must.Eq(t, 700, r.postedTokens(path, budget.InputTokens))
		must.Eq(t, 1330, r.spent(path))
	}
	p := r.refused(second(r.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: s.ID, Input: 1})))
	must.Eq(t, http.StatusConflict, p.Status)
	contains(t, p.Text, "is settled already, with 700 input, 300 cached and 150 output tokens")
	must.Eq(t, http.StatusConflict, r.refused(second(r.Engine.VoidTokens(r.ctx, opener, TokenVoid{s.ID}))).Status)
}

func second[T any](_ T, err error) error { return err }

func TestRequestsForTokensAreRefusedWithWhatWouldHelp(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	r.authorize(askTokens("a", 100, 700))
	refuse := func(q TokenRequest) *api.Problem {
		t.Helper()
		return r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, q)))
	}
	p := refuse(askTokens("b", 100, 301)) // others hold it
	must.Eq(t, http.StatusTooManyRequests, p.Status)
	must.Eq(t, 5*time.Second, p.RetryAfter)
	must.Eq(t, "insufficient_budget", p.Reason)
	contains(t, p.Text, "the request was not authorized: it needs 301 output tokens, and budget acme/research has 300 output tokens left for the day until 2026-03-11 00:00 UTC (insufficient_budget)",
		"asked       100 input and 301 output tokens of llama = 0.001304 USD",
		"wait until other requests and jobs of this budget end", "ask for fewer tokens")

	r.settleTokens(r.authorize(askTokens("c", 0, 300)), 0, 0, 300)
	p = refuse(askTokens("d", 100, 701)) // it does not fit today any more
	must.Eq(t, http.StatusTooManyRequests, p.Status)
	must.Eq(t, 12*time.Hour, p.RetryAfter)
	p = refuse(askTokens("e", 100, 1001))
	must.Eq(t, http.StatusForbidden, p.Status)
	must.Eq(t, 0, p.RetryAfter)
	must.Eq(t, "exceeds_budget", p.Reason)
	p = refuse(TokenRequest{Key: "f", Budget: "acme/research", Model: "Llama", InputTokens: 1})
	must.Eq(t, http.StatusForbidden, p.Status)
	must.Eq(t, "no_price", p.Reason)
	contains(t, p.Text, `the input tokens of model "Llama" have no price on a rate card that is in force now, while budgets limit cost`,
		`name a model that has one (llama), or have tokens "Llama" { input_per_million = ... } added to the rate_card`)
}

func (r *rig) settleTokens(s TokenStatus, input, cached, output quantity.Amount) TokenStatus {
	ended, err := r.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: s.ID, Input: input, Cached: cached, Output: output})
	must.NoError(r.t, err)
	return ended
}

func TestWhoMayAskForTokens(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	stranger := api.Caller{Accessor: "s", Names: []string{"token:side"}}
	p := r.refused(second(r.Engine.AuthorizeTokens(r.ctx, stranger, askTokens("a", 1, 1))))
	must.Eq(t, http.StatusForbidden, p.Status)
	must.Eq(t, "tokens of budget acme/research are for the identities of its match rule: token:default; you are token:side", p.Text)
	s := r.authorize(askTokens("a", 1, 1))
	must.Eq(t, http.StatusForbidden, r.refused(second(r.Engine.SettleTokens(r.ctx, stranger, TokenUsage{ID: s.ID}))).Status)
	must.Eq(t, http.StatusForbidden, r.refused(second(r.Engine.VoidTokens(r.ctx, stranger, TokenVoid{s.ID}))).Status)
	theirs, err := r.Engine.AuthorizeTokens(r.ctx, root, askTokens("a", 1, 1)) // the same key of somebody else
	must.NoError(t, err)
	must.NotEq(t, s.ID, theirs.ID)
	_, err = r.Engine.VoidTokens(r.ctx, root, TokenVoid{s.ID})
	must.NoError(t, err)
	_, err = r.Engine.VoidTokens(r.ctx, root, TokenVoid{theirs.ID})
	must.NoError(t, err)
	must.True(t, r.balance("acme").Held.IsZero())
	must.True(t, r.balance("acme").Posted.IsZero())
	p = r.refused(second(r.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: s.ID, Input: 1})))
	must.Eq(t, http.StatusConflict, p.Status)
	contains(t, p.Text, "was voided")
	for _, id := range []string{"", "t-none", "../hold/x", strings.Repeat("a", 65)} {
		must.Eq(t, http.StatusNotFound, r.refused(second(r.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: id}))).Status, must.Sprint(id))
	}
}

func TestWrongRequestsForTokensAreExplained(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	for want, q := range map[string]TokenRequest{
		"key is missing":                              {Budget: "acme/research", Model: "llama", InputTokens: 1},
		"model is missing":                            {Key: "k", Budget: "acme/research", InputTokens: 1},
		"names neither a budget nor a run":            {Key: "k", Model: "llama", InputTokens: 1},
		`there is no budget "acme/none"`:              {Key: "k", Budget: "acme/none", Model: "llama", InputTokens: 1},
		"input_tokens is -1; it must be from 0":       askTokens("k", -1, 1),
		"max_output_tokens is 1000000001":             askTokens("k", 1, 1_000_000_001),
		"the request is for no tokens":                askTokens("k", 0, 0),
		`ttl is "2h"; it must be a time from 1s to`:   {Key: "k", Budget: "acme/research", Model: "llama", InputTokens: 1, TTL: "2h"},
		`job_id is "serve" without a namespace`:       {Key: "k", Budget: "acme/research", Model: "llama", InputTokens: 1, JobID: "serve"},
		`model is " llama"`:                           {Key: "k", Budget: "acme/research", Model: " llama", InputTokens: 1},
		`key has 257 bytes; it may have 256`:          askTokens(strings.Repeat("k", 257), 1, 1),
		`there is no agent run "r-none"`:              {Key: "k", Run: "r-none", Model: "llama", InputTokens: 1},
		`this key stands for another request already`: askTokens("taken", 1, 2),
	} {
		if strings.HasPrefix(want, "this key") {
			r.authorize(askTokens("taken", 1, 1))
		}
		must.StrContains(t, r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, q))).Text, want)
	}
}

func TestARequestOfWhichNobodySaysAnythingIsPostedAtWhatIsHeld(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]struct {
		say   func(r *rig, id string) (TokenStatus, error)
		left  quantity.Amount
		state string
	}{
		"settled late": {func(r *rig, id string) (TokenStatus, error) {
			return r.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: id, Input: 100, Cached: 400, Output: 10})
		}, 180, "settled"},
		"voided late": {func(r *rig, id string) (TokenStatus, error) { return r.Engine.VoidTokens(r.ctx, opener, TokenVoid{id}) }, 0, "voided"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTokenRig(t)
			q := askTokens("a", 500, 400)
			q.TTL = "1m"
			s := r.authorize(q)
			r.clock.advance(59 * time.Second)
			must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
			must.Eq(t, 0, r.spent("acme"))
			r.clock.advance(time.Second)
			for range 2 {
				must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
			}
			must.Eq(t, 2100, r.spent("acme"))
			must.Eq(t, 400, r.postedTokens("acme/research", budget.OutputTokens))
			must.True(t, r.balance("acme").Held.IsZero())
			must.Eq(t, "expired", r.authorize(q).State)

			r.clock.advance(time.Hour)
			must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
			ended, err := late.say(r, s.ID)
			must.NoError(t, err)
			must.Eq(t, late.state, ended.State)
			must.Eq(t, late.left, r.spent("acme"))
			ended, err = late.say(r, s.ID)
			must.NoError(t, err)
			must.Eq(t, late.left, ended.Used.Cost)
			must.Eq(t, late.left, r.spent("acme/research"))
			r.clock.advance(endedKept)
			must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
			must.Eq(t, http.StatusNotFound, r.refused(second(late.say(r, s.ID))).Status)
		})
	}
}

func TestTokensOfARunDrawFromItsCaps(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), strings.Replace(tokenPolicy, `limit "day"`, `per_run {
      cost       = 0.01
      tokens     = { output = 500 }
      jobs       = 1
      wall_clock = "6h"
    }
    limit "day"`, 1))
	p := r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, askTokens("a", 10, 10))))
	must.Eq(t, http.StatusForbidden, p.Status)
	must.Eq(t, "run_required", p.Reason)
	contains(t, p.Text, "serves requests of agent runs only", "this request names no open run", "open a run of this budget and give its id as run")

	run := r.openRun(RunRequest{})
	before := r.balance("acme").Held
	in := func(key string, input, output quantity.Amount) TokenRequest {
		return TokenRequest{Key: key, Run: run.ID, Model: "llama", InputTokens: input, MaxOutputTokens: output}
	}
	s := r.authorize(in("a", 1000, 300))
	must.Eq(t, "acme/research", s.Budget)
	now := r.runNow(run.ID)
	must.Eq(t, 1, now.Requests)
	must.Eq(t, 0, now.Open)
	must.Eq(t, 0, now.Jobs)
	must.Eq(t, 300, now.Held[budget.Tokens(budget.OutputTokens)])
	difference := r.balance("acme").Held.Minus(before)
	must.Eq(t, 0, difference.At(budget.Total.String(), budget.Cost), must.Sprint("its money is the run's"))
	month := budget.PeriodAt(budget.Month, r.clock.now(), time.UTC).Key()
	must.Eq(t, 1000, difference.At(month, budget.Tokens(budget.InputTokens)), must.Sprint("its input has no cap, and is its own"))

	p = r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, in("b", 10, 201))))
	must.Eq(t, http.StatusTooManyRequests, p.Status)
	must.Eq(t, "exceeds_run_cap", p.Reason)
	r.settleTokens(s, 1000, 0, 300)
	p = r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, in("b", 10, 201))))
	must.Eq(t, http.StatusForbidden, p.Status, must.Sprint("what is used does not come back"))
	now = r.runNow(run.ID)
	must.Eq(t, 0, now.Requests)
	must.Eq(t, 2200, now.Posted[budget.Cost])
	must.Eq(t, 300, now.Posted[budget.Tokens(budget.OutputTokens)])

	open := r.authorize(in("c", 10, 200))
	closed, err := r.Engine.CloseRun(r.ctx, opener, run.ID)
	must.NoError(t, err)
	must.Eq(t, RunClosing, closed.State)
	must.Eq(t, 200, r.balance("acme").HeldIn(budget.PeriodAt(budget.Day, r.clock.now(), time.UTC), budget.Tokens(budget.OutputTokens)))
	r.settleTokens(open, 10, 0, 20)
	must.True(t, r.balance("acme").Held.IsZero(), must.Sprint(r.balance("acme").Held))
	must.Eq(t, RunClosed, r.runNow(run.ID).State)
	p = r.refused(second(r.Engine.AuthorizeTokens(r.ctx, root, in("d", 1, 1))))
	contains(t, p.Text, "is over")
	must.NoError(t, r.settle())
	must.Eq(t, 0, r.Meter.drift.Load())
}

func TestARequestIsCheckedInThePeriodThatItCountsInThoughThatHasEndedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	midnight := budget.PeriodAt(budget.Day, r.clock.now(), time.UTC).End
	r.clock.advance(midnight.Sub(r.clock.now()) - time.Second)
	r.authorize(askTokens("before", 1, 1000))
	by, err := r.Engine.payerOf(r.ctx, opener, "acme/research", "")
	must.NoError(t, err)
	h, _, err := r.Engine.tokenHold(by, askTokens("late", 1, 1))
	must.NoError(t, err)
	r.clock.advance(2 * time.Second) // it waits for its turn
	p := r.refused(second(r.Engine.holdTokens(r.ctx, by, "", h, nil, "")))
	must.Eq(t, "insufficient_budget", p.Reason)
	must.Eq(t, 5*time.Second, p.RetryAfter)
	r.authorize(askTokens("late", 1, 1000))
}

func TestNothingIsPostedBeforeTheBudgetsWereRead(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	s := r.authorize(askTokens("a", 100, 10))
	young := New(Options{Name: "young", Store: r.store, Nomad: r.nomad, Placer: r.placer, Actor: r.actor, Auditor: r.actor, Logger: hclog.NewNullLogger(), Now: r.clock.now})
	must.ErrorIs(t, second(young.Engine.SettleTokens(r.ctx, opener, TokenUsage{ID: s.ID, Input: 100})), ledger.ErrUnavailable, must.Sprint("in which time zone its day is nobody knows"))
	must.ErrorIs(t, second(young.Engine.VoidTokens(r.ctx, opener, TokenVoid{s.ID})), errNotLoaded)
	must.Eq(t, 0, r.spent("acme"))
}

func TestNothingIsHeldThatCouldNotBePosted(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), strings.Replace(strings.Replace(tokenPolicy, "governor {", "governor {\n  enforcement = \"shadow\"", 1),
		"output_per_million = 4", "output_per_million = 4000000000", 1))
	p := r.refused(second(r.Engine.AuthorizeTokens(r.ctx, opener, askTokens("a", 1, tokensMost))))
	must.Eq(t, http.StatusBadRequest, p.Status)
	must.StrContains(t, p.Text, `costs up to 4,000,000,000,000.00 USD, which is more than one request can; ask for fewer tokens, or look at the prices of model "llama"`)
	must.True(t, r.balance("acme").Held.IsZero())
}

func TestUsageAboveTheHoldIsPostedAsAnOverdraft(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	var told []ledger.Entry
	r.Engine.books.recorder = recorderFunc(func(e []ledger.Entry) { told = append(told, e...) })
	s := r.authorize(askTokens("a", 100, 10))
	ended := r.settleTokens(s, 60, 50, 1200)
	contains(t, ended.Text, "that is more than was held, by 10 input and 1,190 output tokens")
	must.Len(t, 2, told)
	must.Eq(t, ledger.TokensEntry, told[0].Kind)
	must.Eq(t, ledger.OverdraftEntry, told[1].Kind)
	must.Eq(t, ledger.CauseAboveHold, told[1].Cause)
	must.Eq(t, ledger.Tokens{budget.InputTokens: 10, budget.OutputTokens: 1190}, told[1].Tokens)
	must.Eq(t, 1200, r.postedTokens("acme", budget.OutputTokens), must.Sprint("facts are posted once"))

	s = r.authorize(askTokens("late", 100, 0))
	r.clock.advance(tokenTTL)
	must.NoError(t, r.Engine.sweepTokens(r.ctx, ledger.Fence{}))
	told = nil
	r.settleTokens(s, 150, 0, 0)
	must.Len(t, 2, told)
	must.Eq(t, ledger.CauseSettledLate, told[0].Cause)
	must.Eq(t, ledger.OverdraftEntry, told[1].Kind)
	must.Eq(t, ledger.Tokens{budget.InputTokens: 50}, told[1].Tokens)
	must.Eq(t, 50, told[1].Cost)
}

// recorderFunc is a recorder that only tells.
type recorderFunc func(entries []ledger.Entry)

// Record implements Recorder.
func (f recorderFunc) Record(_ context.Context, entries []ledger.Entry) error {
	f(entries)
	return nil
}

func TestCostsOfManySmallRequestsAddUp(t *testing.T) {
	t.Parallel()
	r := newTokenRig(t)
	for i := range 10 { // of 0.3 micro-units each
		r.settleTokens(r.authorize(TokenRequest{Key: fmt.Sprint(i), Budget: "acme/research", Model: "llama", CachedTokens: 3}), 0, 3, 0)
	}
	must.Eq(t, 3, r.spent("acme/research"))
}

func TestManyGatewaysTogetherNeverExceedALimit(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		manyGateways(t, openStore(t))
	})
	t.Run("Consul", func(t *testing.T) {
		t.Parallel()
		store, err := consulkv.New(consulkv.Config{Address: consultest.Start(t).Addr, Prefix: "gateways"}, hclog.NewNullLogger())
		must.NoError(t, err)
		t.Cleanup(func() { must.NoError(t, store.Close()) })
		manyGateways(t, store)
	})
}

func manyGateways(t *testing.T, store Store) {
	r := newRigOn(t, store, tokenPolicy)
	other := r.second(r.store)
	var all sync.WaitGroup
	var mu sync.Mutex
	admitted := quantity.Amount(0)
	for n := range 40 {
		e := []*Engine{r.Engine, other.Engine}[n%2]
		all.Go(func() {
			if _, err := e.AuthorizeTokens(r.ctx, opener, askTokens(fmt.Sprint(n), 10, 70)); err == nil {
				mu.Lock()
				admitted += 70
				mu.Unlock()
			}
		})
	}
	all.Wait()
	must.Eq(t, 980, admitted)
	day := budget.PeriodAt(budget.Day, r.clock.now(), time.UTC)
	must.Eq(t, 980, r.balance("acme").HeldIn(day, budget.Tokens(budget.OutputTokens)))
}
