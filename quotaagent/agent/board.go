package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/burn"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metrics"
)

const (
	// boardEvery is how often an agent reads the ledger to show and to watch it.
	boardEvery = 15 * time.Second
	// outlookEvery is how often it forecasts when limits are reached.
	outlookEvery = 5 * time.Minute
	// boardWithin bounds one reading.
	boardWithin = 10 * time.Second
)

// burnOver are the times over which rates of use are measured, and shown: those of the
// two pairs of windows in Google's SRE workbook, chapter "Alerting on SLOs".
func burnOver() []time.Duration {
	return []time.Duration{5 * time.Minute, 30 * time.Minute, time.Hour, burn.Longest}
}

// board is what an agent knows of the whole ledger: read at intervals, whether or not
// somebody looks, so that who looks does not wait for the store. Every agent has one:
// what is in the ledger is the same for all, and the rates of use are known at once to
// an agent that becomes the leader.
type board struct {
	agent  *Agent
	logger hclog.Logger
	now    func() time.Time

	mu   sync.Mutex
	last reading
	// outlook is what limits come to, as forecast last.
	outlook   map[limitKey]*forecast.Outlook
	outlookAt time.Time
	rates     *burn.Meter
}

// reading is the ledger as it was read at one time.
type reading struct {
	at     time.Time
	policy *budget.Policy
	// standings of all limits of each budget, by path.
	standings map[string][]ledger.Standing
	balances  map[string]ledger.Balance
	queued    map[string]int
	overrides int
	bypasses  int
	notices   noticeBoard
}

func newBoard(a *Agent, now func() time.Time, logger hclog.Logger) *board {
	return &board{agent: a, logger: logger.Named("board"), now: now, rates: burn.New(), outlook: make(map[limitKey]*forecast.Outlook)}
}

// run reads until ctx ends.
func (b *board) run(ctx context.Context) {
	look := func() error {
		within, cancel := context.WithTimeout(ctx, boardWithin)
		defer cancel()
		return b.look(within)
	}
	failed := func(err error) { b.logger.Warn("ledger not read for metrics and alerts", "error", err) }
	if err := look(); err != nil && ctx.Err() == nil {
		failed(err)
	}
	every(ctx, boardEvery, look, failed)
}

// look reads the ledger and shows it.
func (b *board) look(ctx context.Context) error {
	r, err := b.read(ctx)
	if err != nil {
		return err
	}
	fresh := b.noteRates(r)
	if len(fresh) > 0 {
		b.seed(ctx, r, fresh)
	}
	if err := b.forecast(ctx, r); err != nil {
		b.logger.Debug("no forecast", "error", err)
	}
	b.mu.Lock()
	b.last = r
	shown := b.shown(r)
	b.mu.Unlock()
	b.agent.metrics.Show(shown)
	return nil
}

func (b *board) read(ctx context.Context) (reading, error) {
	e := b.agent.Engine
	p := e.policy.State().Policy
	r := reading{at: b.now(), policy: p, standings: make(map[string][]ledger.Standing), queued: make(map[string]int)}
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return r, err
	}
	r.balances = ledger.MoveBalances(balances, p.Moved)
	grants, err := e.grants(ctx)
	if err != nil {
		return r, err
	}
	for _, g := range grants {
		if g.Active(r.at.UnixMilli()) {
			r.overrides++
		}
	}
	waiting, err := e.allQueued(ctx)
	if err != nil {
		return r, err
	}
	for _, q := range waiting {
		r.queued[p.Moved(q.Budget)]++
	}
	if b.agent.bypasses != nil {
		found, err := b.agent.bypasses.status(ctx, false)
		if err != nil {
			return r, err
		}
		r.bypasses = found.Open
	}
	if r.notices, err = b.agent.notices(ctx); err != nil {
		return r, err
	}
	p.Walk(func(n *budget.Budget) {
		r.standings[n.Path] = ledger.Standings(p, n, r.balances[n.Path], grants, ledger.CohortOf(p, n, r.balances), r.at)
	})
	return r, nil
}

// latest is what was read last, if that is not too old to be acted on.
func (b *board) latest() (reading, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, !b.last.at.IsZero() && b.now().Sub(b.last.at) <= 4*boardEvery
}

// metered reports whether rates are measured of a limit.
func metered(l ledger.EffectiveLimit) bool {
	_, finite := l.Total().Finite()
	return finite && !l.Period.Start.IsZero()
}

// noteRates takes the posted amounts of all limits with periods; those of which
// nothing was known before are returned.
func (b *board) noteRates(r reading) (fresh []burn.Account) {
	var readings []burn.Reading
	seen := make(map[burn.Account]bool)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(r.standings)) {
		for _, s := range r.standings[path] {
			account := burn.Account{Budget: path, Dimension: s.Limit.Dimension}
			if !metered(s.Limit) || seen[account] {
				continue
			}
			seen[account] = true
			book, d := r.balances[path], s.Limit.Dimension
			readings = append(readings, burn.Reading{Account: account, Period: s.Limit.Period.Key(), Posted: book.Posted.At(s.Limit.Period.Key(), d),
				Before: func(period string) quantity.Amount { return book.Posted.At(period, d) }})
			if !b.rates.Known(account) {
				fresh = append(fresh, account)
			}
		}
	}
	b.rates.Take(r.at, readings)
	return fresh
}

// seed takes from the history what was posted in the hours before the agent began to
// watch. Within an hour the history's sums say nothing: there the use is taken as even.
func (b *board) seed(ctx context.Context, r reading, accounts []burn.Account) {
	h := b.agent.history
	if h == nil {
		return
	}
	past := make(map[burn.Account][]burn.Past)
	since := make(map[burn.Account]quantity.Amount)
	until := r.at
	for hour := budget.PeriodAt(budget.Hour, r.at, h.store.Location()); r.at.Sub(until) < burn.Longest; {
		posted, err := h.store.Posted(ctx, hour.Start, hour.End, r.policy.Moved)
		if err != nil {
			b.logger.Debug("rates of use begin with now", "error", err)
			return
		}
		totals := rolledUp(posted)
		for _, account := range accounts {
			since[account] = since[account].Add(totals[account.Budget][account.Dimension])
			past[account] = append(past[account], burn.Past{At: hour.Start, Since: since[account]})
		}
		until = hour.Start
		hour = budget.PeriodAt(budget.Hour, hour.Start.Add(-time.Millisecond), h.store.Location())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for account, known := range past {
		b.rates.Seed(account, known)
	}
}

// rolledUp are amounts by budget with those of the budgets below.
func rolledUp(posted map[string]ledger.Amounts) map[string]ledger.Amounts {
	out := make(map[string]ledger.Amounts, len(posted))
	for leaf, amounts := range posted {
		for _, path := range ledger.Ancestors(leaf) {
			if out[path] == nil {
				out[path] = ledger.Amounts{}
			}
			for d, a := range amounts {
				out[path][d] = out[path][d].Add(a)
			}
		}
	}
	return out
}

// rate is how fast a limit is used over a time; false when that is not known. b.mu is
// held.
func (b *board) rate(path string, l ledger.EffectiveLimit, over time.Duration) (float64, bool) {
	if !metered(l) {
		return 0, false
	}
	used, known := b.rates.Used(burn.Account{Budget: path, Dimension: l.Dimension}, over)
	if !known {
		return 0, false
	}
	ceiling, _ := l.Total().Finite()
	return burn.Rate(used, over, ceiling, l.Period)
}

// forecast says when limits are reached, once in a while.
func (b *board) forecast(ctx context.Context, r reading) error {
	h := b.agent.history
	if h == nil || r.at.Sub(b.outlookAt) < outlookEvery && !r.at.Before(b.outlookAt) {
		return nil
	}
	b.outlookAt = r.at
	outlook, err := b.agent.outlooks(ctx, h)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outlook = outlook
	return nil
}

// shown is a reading as metrics show it. b.mu is held.
func (b *board) shown(r reading) metrics.Board {
	out := metrics.Board{At: r.at, Overrides: r.overrides, Bypasses: r.bypasses, Alerts: r.notices.firing, Outbox: r.notices.waiting}
	r.policy.Walk(func(n *budget.Budget) {
		shown := metrics.Budget{Path: n.Path, State: ledger.Healthy.String(), Queued: r.queued[n.Path]}
		worst := ledger.Healthy
		for _, s := range r.standings[n.Path] {
			if s.Health > worst {
				worst, shown.State = s.Health, s.Health.String()
			}
			shown.Limits = append(shown.Limits, b.shownLimit(n.Path, s))
		}
		out.Budgets = append(out.Budgets, shown)
	})
	return out
}

func (b *board) shownLimit(path string, s ledger.Standing) metrics.Limit {
	ceiling, finite := s.Limit.Total().Finite()
	l := metrics.Limit{Window: s.Limit.Window.String(), Dimension: s.Limit.Dimension, Ceiling: ceiling, Unlimited: !finite,
		Posted: s.Posted, Held: s.Held, End: s.Limit.Period.End}
	if next := b.outlook[limitKey{path, s.Limit.Window.String(), string(s.Limit.Dimension)}]; next != nil {
		l.RunsOut = []metrics.RunsOut{{Forecast: "p50", At: next.P50}, {Forecast: "p90", At: next.P90}}
	}
	for _, over := range burnOver() {
		if rate, known := b.rate(path, s.Limit, over); known {
			l.Burn = append(l.Burn, metrics.Burn{Over: budget.FormatDuration(over), Rate: rate})
		}
	}
	return l
}
