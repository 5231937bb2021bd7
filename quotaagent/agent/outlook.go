package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

const (
	// outlookHours is by how much of the past limits are forecast, and causeDays by how
	// much of it the causes are named.
	outlookHours = 8 * 7 * 24
	causeDays    = 7
	// outlookAge is for how long a forecast is taken as it is: it looks at hours.
	outlookAge = time.Minute
)

// limitKey names a limit: the budget's path, the window and the dimension.
type limitKey struct{ budget, window, dimension string }

// outlookCache is what was forecast last.
type outlookCache struct {
	mu       sync.Mutex
	at       time.Time
	revision string
	found    map[limitKey]*forecast.Outlook
}

// addOutlooks adds forecasts to a status; none where the agent keeps no history, or
// cannot read it now: a status is good without them.
func (a *Agent) addOutlooks(ctx context.Context, s *Status) {
	h, err := a.historyOf()
	if err != nil {
		return
	}
	found, err := a.outlooks(ctx, h)
	if err != nil {
		a.logger.Warn("limits not forecast", "error", err)
		return
	}
	for i, b := range s.Budgets {
		for j, l := range b.Limits {
			s.Budgets[i].Limits[j].Outlook = found[limitKey{b.Path, l.Window, l.Dimension}]
		}
	}
}

// outlooks are the forecasts of all limits of calendar periods and of all time.
func (a *Agent) outlooks(ctx context.Context, h *historian) (map[limitKey]*forecast.Outlook, error) {
	c, p, now := &a.outlook, a.Keeper.State().Policy, h.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.at); c.found != nil && c.revision == p.Revision && age >= 0 && age < outlookAge {
		return c.found, nil
	}
	in, err := a.readOutlook(ctx, h, p, now)
	if err != nil {
		return nil, err
	}
	found := make(map[limitKey]*forecast.Outlook)
	for i := range in.standings {
		s := &in.standings[i]
		if limit, finite := s.Limit.Total().Finite(); finite && !s.Limit.Window.Gauge() {
			found[limitKey{s.Budget.Path, s.Limit.Window.String(), string(s.Limit.Dimension)}] = in.outlook(s, limit)
		}
	}
	c.at, c.revision, c.found = now, p.Revision, found
	return found, nil
}

// outlookInput is what forecasts are made of.
type outlookInput struct {
	now       time.Time
	policy    *budget.Policy
	standings []ledger.Standing
	first     time.Time
	hours     map[string]map[budget.Dimension][]quantity.Amount
	holds     []heldWork
	jobs      []report.Row
}

// heldWork is what one hold may still use, and until when at the latest.
type heldWork struct {
	namespace, job, budget string
	until                  time.Time
	charges                ledger.Vector
}

func (a *Agent) readOutlook(ctx context.Context, h *historian, p *budget.Policy, now time.Time) (*outlookInput, error) {
	loc := h.store.Location()
	in := &outlookInput{now: now.In(loc), policy: p}
	began, err := h.store.Began(ctx)
	if err != nil {
		return nil, err
	}
	last := budget.PeriodAt(budget.Hour, now, loc).Start // the present hour is not whole
	n := int(min(outlookHours, max(0, last.Sub(began)/time.Hour)))
	in.first = last.Add(-time.Duration(n) * time.Hour).In(loc)
	if in.hours, err = h.store.Hours(ctx, in.first, n, p.Moved); err != nil {
		return nil, err
	}
	in.jobs, err = h.store.Rows(ctx, report.Query{From: now.AddDate(0, 0, -causeDays).Truncate(time.Hour), To: now, By: []report.Column{report.Budget, report.Namespace, report.Job, report.Class}}, p.Moved)
	if err != nil {
		return nil, err
	}
	holds, _, err := a.Engine.books.holds(ctx)
	if err != nil {
		return nil, err
	}
	cal := ledger.CalendarOf(p)
	for _, held := range holds {
		in.holds = append(in.holds, heldWork{held.Namespace, held.JobID, p.Moved(held.Budget), latestEnd(held.Hold, now), ledger.Charges(*held.Hold, cal)})
	}
	balances, _, err := a.Engine.books.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	grants, err := a.Engine.grants(ctx)
	if err != nil {
		return nil, err
	}
	balances = ledger.MoveBalances(balances, p.Moved)
	p.Walk(func(b *budget.Budget) {
		in.standings = append(in.standings, ledger.Standings(p, b, balances[b.Path], grants, nil, now)...)
	})
	return in, nil
}

// latestEnd is when the last allocation of a hold ends at the latest, as if what has not
// begun began now.
func latestEnd(h *ledger.Hold, now time.Time) time.Time {
	end := now.UnixMilli()
	for _, line := range h.Lines {
		begin := now.UnixMilli()
		for _, t := range h.Tracks {
			if t.Group == line.Group {
				begin = min(begin, t.StartMS)
				end = max(end, t.LeaseMS)
			}
		}
		if !line.Lease {
			end = max(end, begin+line.RuntimeMS)
		}
	}
	return time.UnixMilli(end)
}

func (in *outlookInput) outlook(s *ledger.Standing, limit quantity.Amount) *forecast.Outlook {
	period := budget.PeriodAt(s.Limit.Window, in.now, in.policy.Location)
	d := s.Limit.Dimension
	account := forecast.Account{Now: in.now, End: period.End, Limit: limit, Used: s.Posted, First: in.first}
	for _, path := range slices.Sorted(maps.Keys(in.hours)) {
		hours := in.hours[path][d]
		if hours == nil || !showback.Within(path, s.Budget.Path) {
			continue
		}
		if account.Hours == nil {
			account.Hours = make([]quantity.Amount, len(hours))
		}
		for i, amount := range hours {
			account.Hours[i] = account.Hours[i].Add(amount)
		}
	}
	jobs := make(map[[2]string]quantity.Amount)
	for _, r := range in.jobs {
		if ledger.PostedKind(r.Kind) && showback.Within(r.Key[0], s.Budget.Path) {
			job := [2]string{r.Key[1], r.Key[2]}
			jobs[job] = jobs[job].Add(amountOf(r, d))
		}
	}
	for _, work := range in.holds {
		if !showback.Within(work.budget, s.Budget.Path) {
			continue
		}
		left := work.charges.At(period.Key(), d).Add(work.charges.At(ledger.AnyPeriod(s.Limit.Window), d))
		account.Scheduled = append(account.Scheduled, forecast.Scheduled{Amount: left, Until: work.until})
		job := [2]string{work.namespace, work.job}
		jobs[job] = jobs[job].Add(left)
	}
	causes := make([]forecast.Cause, 0, len(jobs))
	for job, amount := range jobs {
		causes = append(causes, forecast.Cause{Namespace: job[0], JobID: job[1], Amount: amount})
	}
	return &forecast.Outlook{Exhaustion: forecast.Exhaust(account), Causes: forecast.TopCauses(causes)}
}

// amountOf is what a row used of a dimension.
func amountOf(r report.Row, d budget.Dimension) quantity.Amount {
	switch {
	case d == budget.Cost:
		return r.Cost
	case d == budget.Energy:
		return r.Energy
	case d.IsGPUTime() && (d.Class() == budget.AnyClass || d.Class() == r.Key[3]):
		return r.GPUTime
	case d == budget.Tokens(budget.InputTokens):
		return r.InputTokens
	case d == budget.Tokens(budget.CachedTokens):
		return r.CachedTokens
	case d == budget.Tokens(budget.OutputTokens):
		return r.OutputTokens
	}
	return 0
}
