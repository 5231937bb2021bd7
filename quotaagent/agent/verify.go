package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// UsageCheck is the comparison of the history with the balances (BUDGETS.md, I5).
type UsageCheck struct {
	At time.Time `json:"at"`
	// Currency of the policy.
	Currency string `json:"currency"`
	// History is what the file of this agent has.
	History history.State `json:"history"`
	// Balances and Periods are how many were compared; Older are the periods that
	// began before the history, which cannot be.
	Balances int `json:"balances"`
	Periods  int `json:"periods"`
	Older    int `json:"older"`
	// Waiting are entries that are in outboxes and not in the history yet; they are
	// counted as if they were.
	Waiting     int          `json:"waiting"`
	Differences []Difference `json:"differences"`
	// Conflicts are entries that say something else than others with their keys.
	Conflicts []history.Conflict `json:"conflicts"`
	// Incomplete says in sentences what may be missing in the history.
	Incomplete []string `json:"incomplete"`
}

// Difference is an amount that the history and a balance do not agree on.
type Difference struct {
	Budget    string           `json:"budget"`
	Period    string           `json:"period"`
	Dimension budget.Dimension `json:"dimension"`
	Balance   quantity.Amount  `json:"balance"`
	History   quantity.Amount  `json:"history"`
}

const (
	// verifyAttempts bounds how often the comparison is made while work is posted:
	// only a difference that stays is one.
	verifyAttempts = 5
	verifyPause    = 300 * time.Millisecond
	// verifyAsks bounds the time for asking the other agents first.
	verifyAsks = 5 * time.Second
)

func (a *Agent) serveVerify(ctx context.Context, _ api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	return a.verify(ctx, h)
}

// verify compares the history with the balances until they agree, or have disagreed
// often enough.
func (a *Agent) verify(ctx context.Context, h *historian) (UsageCheck, error) {
	if a.peers.options.Address != "" {
		asking, cancel := context.WithTimeout(ctx, verifyAsks)
		a.peers.round(asking)
		cancel()
	}
	for try := 1; ; try++ {
		c, err := a.compare(ctx, h)
		if err != nil || len(c.Differences) == 0 || try == verifyAttempts {
			return c, err
		}
		pause(ctx, verifyPause)
	}
}

func (a *Agent) compare(ctx context.Context, h *historian) (UsageCheck, error) {
	c := UsageCheck{At: h.now(), Differences: []Difference{}, Conflicts: []history.Conflict{}, Incomplete: []string{}}
	p := a.Keeper.State().Policy
	c.Currency = p.Currency
	balances, _, err := a.Engine.books.allBalances(ctx)
	if err != nil {
		return c, err
	}
	waiting, err := a.waiting(ctx, h)
	if err != nil {
		return c, err
	}
	began, err := h.store.Began(ctx)
	if err != nil {
		return c, err
	}
	c.Balances, c.Waiting = len(balances), len(waiting)
	periods := make(map[string]ledger.Vector) // by budget, what the history says
	for _, period := range periodsOf(balances) {
		from, to, known := bounds(period, p.Location)
		if !known {
			continue
		}
		posted, err := h.store.Posted(ctx, from, to, p.Moved)
		if err != nil {
			return c, err
		}
		for path, amounts := range posted {
			addPosted(periods, path, ledger.VectorOf(map[string]map[budget.Dimension]quantity.Amount{period: amounts}))
		}
	}
	for _, e := range waiting {
		addPosted(periods, p.Moved(e.Budget), e.PostedVector(p.Location, allWindows()))
	}
	for _, path := range sortedKeys(balances) {
		c.compareBalance(path, balances[path], periods[path], began, p.Location)
	}
	if c.History, err = h.store.State(ctx); err != nil {
		return c, err
	}
	found, err := h.store.Conflicts(ctx)
	if err != nil {
		return c, err
	}
	c.Conflicts = append(c.Conflicts, found...)
	_, missing := a.complete(ctx, h)
	c.Incomplete = append(c.Incomplete, missing...)
	return c, nil
}

// waiting are the entries in outboxes that are not in the history.
func (a *Agent) waiting(ctx context.Context, h *historian) ([]ledger.Entry, error) {
	holds, unreadable, err := a.Engine.books.holdsAnew(ctx)
	if err == nil {
		err = unreadable
	}
	if err != nil {
		return nil, err
	}
	remains, _, err := a.Engine.books.remains(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := a.Engine.books.requests(ctx)
	if err != nil {
		return nil, err
	}
	var out []ledger.Entry
	for _, held := range slices.Concat(holds, requests) {
		out = append(out, held.Entries()...)
	}
	for _, r := range remains {
		out = append(out, r.Hold.Entries()...)
	}
	return h.store.Missing(ctx, out)
}

// addPosted adds what is posted to a budget to it and all its ancestors.
func addPosted(periods map[string]ledger.Vector, path string, v ledger.Vector) {
	for _, ancestor := range ledger.Ancestors(path) {
		if _, known := periods[ancestor]; !known {
			periods[ancestor] = ledger.NewVector()
		}
		periods[ancestor].AddAll(v, 1)
	}
}

// periodsOf are the keys of all periods that balances have, in order.
func periodsOf(balances map[string]ledger.Balance) []string {
	keys := make(map[string]bool)
	for _, b := range balances {
		for _, key := range b.Posted.Periods() {
			keys[key] = true
		}
	}
	return sortedKeys(keys)
}

// bounds are the beginning and the end of the period with a key; both are zero for
// all time.
func bounds(key string, loc *time.Location) (from, to time.Time, known bool) {
	if key == budget.Total.String() {
		return from, to, true
	}
	w, ok := ledger.WindowOf(key)
	if !ok {
		return from, to, false
	}
	_, text, _ := strings.Cut(key, "/")
	from, err := time.Parse(budget.PeriodKeyLayout, text)
	if err != nil {
		return from, to, false
	}
	return from, budget.PeriodAt(w, from, loc).End, true
}

// compareBalance compares all periods of one balance. What a balance has from
// before the history began cannot be in it.
func (c *UsageCheck) compareBalance(path string, b ledger.Balance, want ledger.Vector, began time.Time, loc *time.Location) {
	keys := make(map[string]bool)
	for _, key := range b.Posted.Periods() {
		keys[key] = true
	}
	for _, key := range sortedKeys(keys) {
		from, _, known := bounds(key, loc)
		if !known {
			continue
		}
		if from.Before(began) && (b.SinceMS == 0 || b.SinceMS < began.UnixMilli()) {
			c.Older++
			continue
		}
		c.Periods++
		difference := ledger.NewVector()
		difference.AddRow(key, b.Posted.Row(key), 1)
		difference.AddRow(key, want.Row(key), -1)
		for _, one := range difference.Row(key) {
			d := one.Dimension
			c.Differences = append(c.Differences, Difference{path, key, d, b.Posted.At(key, d), want.At(key, d)})
		}
	}
	slices.SortFunc(c.Differences, func(x, y Difference) int {
		return cmp.Or(strings.Compare(x.Budget, y.Budget), strings.Compare(x.Period, y.Period), strings.Compare(string(x.Dimension), string(y.Dimension)))
	})
}

// Sentence is a difference for people.
func (d Difference) Sentence(currency string) string {
	return fmt.Sprintf("%s of %s in %s: the balance has %s, the history %s", d.Dimension.Key(), d.Budget, d.Period, d.Dimension.Format(d.Balance, currency), d.Dimension.Format(d.History, currency))
}
