package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

const (
	// capacityDays is by how many days a forecast is made, and at most.
	capacityDays    = 14
	capacityDaysMax = 366
	// decisionsMax bounds the decisions that are looked at.
	decisionsMax = 10_000
)

// Capacity is a forecast of demand and of what there is for it.
type Capacity struct {
	Time     time.Time `json:"time"`
	Currency string    `json:"currency"`
	// From and To are the whole days that it is made by, and Days their number.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Days int       `json:"days"`
	forecast.Forecast
	// Refused are the jobs that were refused since From and not admitted afterwards, as
	// far as this agent decided about them, by reason.
	Refused []RefusedJobs `json:"refused"`
	// Incomplete says in sentences what it does not know.
	Incomplete []string `json:"incomplete"`
}

// RefusedJobs are jobs that were refused for one reason.
type RefusedJobs struct {
	Reason string `json:"reason"`
	Jobs   int    `json:"jobs"`
	GPUs   int64  `json:"gpus"`
}

func (a *Agent) serveCapacity(ctx context.Context, c api.Call) (any, error) {
	days, more := capacityDays, map[string]int{}
	if text := c.Query("days"); text != "" {
		var err error
		if days, err = strconv.Atoi(text); err != nil || days < 1 || days > capacityDaysMax {
			return nil, refusal(http.StatusBadRequest, "days is %.40q; it must be a number of whole days from 1 to %d", text, capacityDaysMax)
		}
	}
	for _, part := range strings.FieldsFunc(c.Query("add"), func(r rune) bool { return r == ',' }) {
		class, number, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(number)
		if err != nil || class == "" || n < 1 || n > 1_000_000 {
			return nil, refusal(http.StatusBadRequest, "add is %.80q; it must be <class>=<GPUs>, several with commas", part)
		}
		more[class] += n
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	out, err := a.capacity(ctx, days, more)
	for i := range out.Limits {
		out.Limits[i].Outlook = s.outlook(out.Limits[i].Outlook)
	}
	return out, err
}

// capacity makes the forecast by so many whole days before today, or as many as the
// history has.
func (a *Agent) capacity(ctx context.Context, days int, more map[string]int) (Capacity, error) {
	h, err := a.historyOf()
	if err != nil {
		return Capacity{}, err
	}
	if err := h.flush(ctx); err != nil {
		return Capacity{}, err
	}
	p := a.Keeper.State().Policy
	for class := range more {
		if !slices.ContainsFunc(p.Classes, func(have budget.Class) bool { return have.Name == class }) {
			return Capacity{}, refusal(http.StatusBadRequest, "there is no GPU class %.80q in the policy", class)
		}
	}
	began, err := h.store.Began(ctx)
	if err != nil {
		return Capacity{}, err
	}
	in := forecast.Input{Now: h.now().In(h.store.Location()), Days: wholeDays(h.now(), began, days, h.store.Location()), More: more}
	out := Capacity{Time: in.Now, Currency: p.Currency, Days: len(in.Days), Refused: []RefusedJobs{}, Incomplete: []string{}}
	out.From, out.To = in.Now, in.Now
	if out.Days > 0 {
		out.From, out.To = in.Days[0].Start, in.Days[out.Days-1].End
		if in.Uses, err = a.usesOf(ctx, h, p, out.From, out.To); err != nil {
			return out, err
		}
	}
	if out.Days < days {
		out.Incomplete = append(out.Incomplete, fmt.Sprintf("the history has %s of the %d that were asked for", plural(out.Days, "whole day"), days))
	}
	if err := a.Engine.capacityNow(ctx, p, a.Meter, &in); err != nil {
		return out, err
	}
	if said, ok := a.observed(ctx); ok {
		in.Supply = supplyOf(said.Capacity)
	}
	if len(in.Supply) == 0 {
		out.Incomplete = append(out.Incomplete, "how many GPUs there are is not known: the leading agent has not looked yet, or does not answer")
	}
	out.Forecast = forecast.Make(in)
	found, err := a.outlooks(ctx, h)
	if err != nil {
		return out, err
	}
	for i, l := range out.Limits {
		out.Limits[i].Outlook = found[limitKey{l.Budget, l.Window, l.Dimension}]
	}
	out.Refused, err = refusedSince(ctx, h, out.From)
	return out, err
}

// wholeDays are the days before today that the history has from beginning to end, at
// most so many.
func wholeDays(now, began time.Time, most int, loc *time.Location) []forecast.Day {
	var out []forecast.Day
	for end := budget.PeriodAt(budget.Day, now, loc).Start; len(out) < most; {
		day := budget.PeriodAt(budget.Day, end.Add(-time.Millisecond), loc)
		if day.Start.Before(began) {
			break
		}
		out = append(out, forecast.Day{Start: day.Start, End: day.End})
		end = day.Start
	}
	slices.Reverse(out)
	return out
}

// usesOf is what was used on each day, by budget and class.
func (a *Agent) usesOf(ctx context.Context, h *historian, p *budget.Policy, from, to time.Time) ([]forecast.Use, error) {
	rows, err := h.store.Rows(ctx, report.Query{From: from, To: to, By: []report.Column{report.Budget, report.Class, report.Day}}, p.Moved)
	if err != nil {
		return nil, err
	}
	var out []forecast.Use
	for _, r := range rows {
		if !ledger.PostedKind(r.Kind) {
			continue
		}
		day, err := time.ParseInLocation(time.DateOnly, r.Key[2], h.store.Location())
		if err != nil {
			return nil, fmt.Errorf("day of a sum: %w", err)
		}
		out = append(out, forecast.Use{Budget: r.Key[0], Class: r.Key[1], Day: budget.PeriodAt(budget.Day, day.Add(12*time.Hour), h.store.Location()).Start,
			GPUTime: r.GPUTime, Cost: r.Cost, Energy: r.Energy})
	}
	return out, nil
}

func supplyOf(all []CapacityStatus) []forecast.Supply {
	out := make([]forecast.Supply, 0, len(all))
	for _, c := range all {
		out = append(out, forecast.Supply{Class: c.Class, GPUs: c.GPUs, Free: c.Free})
	}
	return out
}

// capacityNow adds what there is now, what waits for it, and how the limits stand.
func (e *Engine) capacityNow(ctx context.Context, p *budget.Policy, m *Meter, in *forecast.Input) error {
	status, err := e.Status(ctx, m)
	if err != nil {
		return err
	}
	in.Supply = supplyOf(status.Capacity)
	holds, _, err := e.books.holds(ctx)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.State == ledger.Active && len(h.Tracks) == 0 && len(h.Finished) == 0 {
			in.Starting = append(in.Starting, demands(h.Lines)...)
		}
	}
	waiting, err := e.allQueued(ctx)
	if err != nil {
		return err
	}
	for _, q := range waiting {
		in.Waiting = append(in.Waiting, demands(q.Lines)...)
	}
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return err
	}
	grants, err := e.grants(ctx)
	if err != nil {
		return err
	}
	balances = ledger.MoveBalances(balances, p.Moved)
	p.Walk(func(b *budget.Budget) {
		in.Standings = append(in.Standings, ledger.Standings(p, b, balances[b.Path], grants, ledger.CohortOf(p, b, balances), in.Now)...)
	})
	return nil
}

func demands(lines []ledger.Line) []forecast.Demand {
	var out []forecast.Demand
	for _, line := range lines {
		for _, n := range line.Needs {
			out = append(out, forecast.Demand{Classes: n.Classes, GPUs: n.GPUs * int64(line.Count)})
		}
	}
	return out
}

// refusedSince are the jobs of which the latest submission was refused.
func refusedSince(ctx context.Context, h *historian, since time.Time) ([]RefusedJobs, error) {
	decisions, err := h.store.Decisions(ctx, "", "", decisionsMax)
	if err != nil {
		return nil, err
	}
	seen, sums := map[[2]string]bool{}, map[string]*RefusedJobs{}
	for _, d := range decisions {
		job := [2]string{d.Namespace, d.JobID}
		if d.Plan || d.AtMS < since.UnixMilli() || seen[job] {
			continue
		}
		seen[job] = true
		if d.Outcome != admission.Deny.String() {
			continue
		}
		if sums[d.Reason] == nil {
			sums[d.Reason] = &RefusedJobs{Reason: d.Reason}
		}
		sums[d.Reason].Jobs++
		sums[d.Reason].GPUs += d.GPUs
	}
	out := []RefusedJobs{}
	for _, reason := range slices.Sorted(maps.Keys(sums)) {
		out = append(out, *sums[reason])
	}
	slices.SortStableFunc(out, func(a, b RefusedJobs) int { return cmp.Compare(b.GPUs, a.GPUs) })
	return out, nil
}
