package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/notice"
)

const (
	// anomalyHours are the hours with which the last one is compared, and anomalyLeast
	// how many of them the history must have.
	anomalyHours, anomalyLeast = 7 * 24, 24
	// anomalyTimes is how many times as much as in the busiest of them must be used, and
	// anomalySmall what is never worth a word.
	anomalyTimes = 3
	anomalySmall = 2 * quantity.GPUHour
)

// anomalies compares what each budget used in the last whole hour with the busiest
// hour of the week before, by the sums of the history. It belongs to the teller's
// goroutine.
type anomalies struct {
	hour time.Time
	// used is the GPU time of each budget by the beginning of the hour.
	used  map[int64]map[string]quantity.Amount
	found []notice.Condition
}

// look returns what is found, computed anew once an hour.
func (x *anomalies) look(ctx context.Context, a *Agent, r reading) []notice.Condition {
	if a.history == nil {
		return nil
	}
	loc := a.history.store.Location()
	last := budget.PeriodAt(budget.Hour, budget.PeriodAt(budget.Hour, r.at, loc).Start.Add(-time.Millisecond), loc)
	if last.Start.Equal(x.hour) {
		return x.found
	}
	found, err := x.compute(ctx, a, r, last)
	if err != nil {
		a.board.logger.Debug("no comparison with other hours", "error", err)
		return x.found
	}
	x.hour, x.found = last.Start, found
	return found
}

func (x *anomalies) compute(ctx context.Context, a *Agent, r reading, last budget.Period) ([]notice.Condition, error) {
	store := a.history.store
	began, err := store.Began(ctx)
	if err != nil {
		return nil, err
	}
	fresh := make(map[int64]map[string]quantity.Amount, anomalyHours+1)
	highest, compared := make(map[string]quantity.Amount), 0
	for hour := last; len(fresh) <= anomalyHours && !hour.Start.Before(began); {
		at := hour.Start.UnixMilli()
		used, known := x.used[at]
		if !known || len(fresh) == 0 {
			posted, err := store.Posted(ctx, hour.Start, hour.End, r.policy.Moved)
			if err != nil {
				return nil, err
			}
			used = make(map[string]quantity.Amount)
			for path, amounts := range rolledUp(posted) {
				used[path] = amounts[budget.GPUTime(budget.AnyClass)]
			}
		}
		if len(fresh) > 0 {
			compared++
			for path, n := range used {
				highest[path] = max(highest[path], n)
			}
		}
		fresh[at] = used
		hour = budget.PeriodAt(budget.Hour, hour.Start.Add(-time.Millisecond), store.Location())
	}
	x.used = fresh
	if compared < anomalyLeast {
		return nil, nil
	}
	var out []notice.Condition
	r.policy.Walk(func(n *budget.Budget) {
		used, most := fresh[last.Start.UnixMilli()][n.Path], highest[n.Path]
		out = append(out, notice.Condition{Key: "anomaly/" + n.Path, Holds: used >= anomalySmall && used > most.Mul(anomalyTimes), Kind: "budget.anomaly", Subject: n.Path,
			Data: notice.Data{Severity: "warning", Budget: n.Path, Owner: n.Owner, Text: fmt.Sprintf("budget %s used %s GPU-hours from %s to %s, and %s in the busiest of the %d hours before",
				n.Path, quantity.FormatHours(used), last.Start.Format("15:04"), last.End.Format("15:04 MST"), quantity.FormatHours(most), compared)},
			Ended: fmt.Sprintf("budget %s uses as much as in other hours again", n.Path)})
	})
	return out, nil
}
