package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// Whatever happens to commits, processes and clocks: what requests hold and used never
// exceeds a limit, each of them ends once, the balances are what the entries of the
// history say, and cost is rounded once for all of a budget.
func TestTokensNeverExceedALimitAndTheirEntriesGiveTheBalances(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		dir, n := fastDir(t), 0
		tokensAtRandom(t, func() modelBacking {
			n++
			store, err := sqlite.Open(filepath.Join(dir, fmt.Sprintf("%d.db", n)))
			must.NoError(t, err)
			return store
		})
	})
	t.Run("Consul", func(t *testing.T) {
		t.Parallel()
		server, n := consultest.Start(t), 0
		tokensAtRandom(t, func() modelBacking {
			n++
			store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: fmt.Sprintf("tokens-%d", n)}, hclog.NewNullLogger())
			must.NoError(t, err)
			return store
		})
	})
}

// tokenWorld is what the test knows by itself of the requests that it made.
type tokenWorld struct {
	*rig
	rt    *rapid.T
	store *unsure
	open  []TokenStatus
	late  []TokenStatus // expired, as far as the test knows
	used  map[string]ledger.Tokens
	// entries are what recorders were told, or what waits in outboxes, by key.
	entries map[string]ledger.Entry
	made    int
}

func tokensAtRandom(t *testing.T, open func() modelBacking) {
	admitted, refused, lost := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		backing := open()
		defer func() { must.NoError(rt, backing.Close()) }()
		w := &tokenWorld{rig: newRigOn(t, backing, tokenPolicy), rt: rt, used: map[string]ledger.Tokens{}, entries: map[string]ledger.Entry{}}
		w.t = rt
		w.store = &unsure{modelBacking: backing, next: func() int { return rapid.IntRange(0, 2).Draw(rt, "answer") }}
		w.restart()
		for range rapid.IntRange(4, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"ask", "ask", "ask", "settle", "settle", "void", "time", "sweep", "restart", "settle late"}).Draw(rt, "step") {
			case "ask":
				if w.askTokens() {
					admitted++
				} else {
					refused++
				}
			case "settle":
				w.settleOne(&w.open)
			case "settle late":
				w.settleOne(&w.late)
			case "void":
				w.voidOne()
			case "time":
				w.clock.advance(time.Duration(rapid.IntRange(1, 4*3600).Draw(rt, "seconds")) * time.Second)
			case "sweep":
				_ = w.Engine.sweepTokens(w.ctx, ledger.Fence{})
			case "restart":
				w.restart()
			}
			w.check()
		}
		lost += w.store.lost
	})
	must.Positive(t, admitted)
	must.Positive(t, refused)
	must.Positive(t, lost, must.Sprint("no answer was lost"))
}

// restart begins a new process, which records the history again, as a new leader does.
func (w *tokenWorld) restart() {
	w.recorder = recorderFunc(w.enter)
	w.start(w.store)
	w.Engine.books.wait = func(context.Context, time.Duration) {}
}

func (w *tokenWorld) enter(entries []ledger.Entry) {
	for _, e := range entries {
		if have, known := w.entries[e.Key]; known {
			must.Eq(w.rt, have, e, must.Sprint("two entries with one key"))
		}
		w.entries[e.Key] = e
	}
}

// insist does something until the answer is known, as a gateway does that gets a 503.
func (w *tokenWorld) insist(do func() (TokenStatus, error)) (TokenStatus, error) {
	for {
		s, err := do()
		if !isUnavailable(err) {
			return s, err
		}
	}
}

func (w *tokenWorld) askTokens() bool {
	w.made++
	q := askTokens(fmt.Sprintf("key-%d", w.made), quantity.Amount(rapid.IntRange(0, 900).Draw(w.rt, "input")), quantity.Amount(rapid.IntRange(1, 400).Draw(w.rt, "output")))
	q.CachedTokens = quantity.Amount(rapid.IntRange(0, 90).Draw(w.rt, "cached"))
	q.TTL = fmt.Sprintf("%ds", rapid.IntRange(1, 3600).Draw(w.rt, "ttl"))
	s, err := w.insist(func() (TokenStatus, error) { return w.Engine.AuthorizeTokens(w.ctx, opener, q) })
	if err != nil {
		w.refused(err)
		return false
	}
	w.open = append(w.open, s)
	return true
}

// take takes one of a list.
func (w *tokenWorld) take(list *[]TokenStatus) (TokenStatus, bool) {
	if len(*list) == 0 {
		return TokenStatus{}, false
	}
	i := rapid.IntRange(0, len(*list)-1).Draw(w.rt, "which")
	s := (*list)[i]
	*list = append((*list)[:i:i], (*list)[i+1:]...)
	return s, true
}

func (w *tokenWorld) settleOne(list *[]TokenStatus) {
	s, ok := w.take(list)
	if !ok {
		return
	}
	prompt := int(s.Held.Cached)
	u := TokenUsage{ID: s.ID, Input: quantity.Amount(rapid.IntRange(0, int(s.Held.Input)).Draw(w.rt, "input")),
		Output: quantity.Amount(rapid.IntRange(0, int(s.Held.Output)).Draw(w.rt, "output"))}
	u.Cached = quantity.Amount(rapid.IntRange(0, prompt-int(u.Input)).Draw(w.rt, "cached"))
	if _, err := w.insist(func() (TokenStatus, error) { return w.Engine.SettleTokens(w.ctx, opener, u) }); err == nil {
		w.used[s.ID] = u.tokens()
	} else {
		must.Eq(w.rt, 404, w.refused(err).Status, must.Sprint("it can only be forgotten"))
	}
}

func (w *tokenWorld) voidOne() {
	if s, ok := w.take(&w.open); ok {
		_, err := w.insist(func() (TokenStatus, error) { return w.Engine.VoidTokens(w.ctx, opener, TokenVoid{s.ID}) })
		if err == nil {
			w.used[s.ID] = nil
		}
	}
}

// check compares the books with the requests.
func (w *tokenWorld) check() {
	w.store.sure = true
	defer func() { w.store.sure = false }()
	all, err := w.Engine.books.requests(w.ctx)
	must.NoError(w.rt, err)
	held := ledger.NewVector()
	for _, h := range all {
		held.AddAll(h.Charged, 1)
		w.enter(h.Entries())
		if h.State == ledger.Expired {
			for i, s := range w.open {
				if s.ID == h.ID {
					w.used[s.ID] = h.Request.Asked()
					w.late, w.open = append(w.late, s), append(w.open[:i:i], w.open[i+1:]...)
					break
				}
			}
		}
	}
	posted := ledger.NewVector()
	for _, e := range w.entries {
		posted.AddAll(e.PostedVector(time.UTC, allWindows()), 1)
	}
	prices, exact, tokens := ledger.Tokens{budget.InputTokens: 1_000_000, budget.CachedTokens: 100_000, budget.OutputTokens: 4_000_000}, ledger.Tokens{}, ledger.NewVector()
	for _, used := range w.used {
		for kind, n := range used {
			exact[kind] += n
			tokens.Add(budget.Total.String(), budget.Tokens(kind), n)
		}
	}
	cost, _ := ledger.TokenCost(prices, exact, 0)
	for _, path := range []string{"acme", "acme/research"} {
		b := w.balance(path)
		must.Eq(w.rt, held, b.Held.Clone(), must.Sprint("I3: held of ", path))
		must.Eq(w.rt, ledger.NewVector(), b.Posted.Minus(posted), must.Sprint("I5: posted of ", path))
		for _, kind := range budget.TokenKinds() {
			must.Eq(w.rt, tokens.At(budget.Total.String(), budget.Tokens(kind)), w.postedTokens(path, kind), must.Sprint("posted is what was used: ", kind))
		}
		must.LessEq(w.rt, 1, max(w.spent(path)-cost, cost-w.spent(path)), must.Sprint("rounded once"))
	}
	w.checkLimits()
}

// checkLimits is I1, in every period of which the balance knows.
func (w *tokenWorld) checkLimits() {
	b, p := w.balance("acme/research"), w.Keeper.State().Policy
	for _, l := range p.Find("acme/research").Limits {
		most, _ := l.Ceiling.Finite()
		for at := w.clock.now().AddDate(0, 0, -2); !at.After(w.clock.now()); at = at.AddDate(0, 0, 1) {
			period := budget.PeriodAt(l.Window, at, time.UTC)
			must.LessEq(w.rt, most, b.UsedIn(period, l.Dimension), must.Sprintf("I1: %s in %s", l.Dimension, period.Key()))
		}
	}
}

func isUnavailable(err error) bool {
	return errors.Is(err, ledger.ErrUnavailable)
}
