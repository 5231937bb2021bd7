package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
)

// TestALimitIsForecastFromHistoryAndHolds: what is used and held brings the date, and
// names those who do most.
func TestALimitIsForecastFromHistoryAndHolds(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, openStore(t), testPolicy(8, "100"))
	r.keepHistory(t)
	monthly := limitKey{"acme", "month", string(budget.GPUTime(budget.AnyClass))}
	outlook := func() *forecast.Outlook {
		r.clock.advance(outlookAge) // it is not taken from before
		found, err := r.outlooks(r.ctx, r.history)
		must.NoError(t, err)
		return found[monthly]
	}
	o := outlook()
	must.Nil(t, o.P50, must.Sprint("nothing was used"))
	must.SliceEmpty(t, o.Causes)

	for range 4 { // 16 GPU-hours a day: 36 are left for the 17 days that follow
		r.work("train", 2, 6*time.Hour)
		r.work("eval", 1, 4*time.Hour)
		r.clock.advance(14 * time.Hour)
	}
	o = outlook()
	must.NotNil(t, o.P50)
	must.Eq(t, 96, o.Hours)
	must.Between(t, 2*24*time.Hour, o.P50.Sub(r.clock.now()), 3*24*time.Hour)
	must.False(t, o.P90.After(*o.P50))
	must.Eq(t, "train", o.Causes[0].JobID)
	must.Eq(t, 750_000, o.Causes[0].Share)

	must.False(t, r.run(r.job("large", 1, 8)).Denied) // eight hours may come at once
	later := outlook()
	must.True(t, !later.P90.After(*o.P90))
	must.Eq(t, "large", later.Causes[len(later.Causes)-1].JobID)

	status, err := r.Engine.Status(r.ctx, r.Meter)
	must.NoError(t, err)
	r.addOutlooks(r.ctx, &status)
	asked := 0
	for _, b := range status.Budgets {
		for _, l := range b.Limits {
			if l.Outlook != nil {
				asked++
				must.NotEq(t, "concurrent", l.Window)
			}
		}
	}
	must.Eq(t, 2, asked)
	view, err := r.capacity(r.ctx, 3, nil)
	must.NoError(t, err)
	for _, l := range view.Limits {
		must.Eq(t, l.Window != "concurrent", l.Outlook != nil)
	}
	must.NotNil(t, stated(t, r.showbackOf("acme", "2026-03"), "month 2026-03", budget.GPUTime(budget.AnyClass)).Outlook)
	must.Positive(t, quantity.Amount(len(later.Causes)))
}
