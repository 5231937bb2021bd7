package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
)

func TestWholeDays(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	must.NoError(t, err)
	at := func(month time.Month, day, hour int) time.Time {
		return time.Date(2026, month, day, hour, 0, 0, 0, berlin)
	}
	days := wholeDays(at(3, 30, 9), at(3, 27, 0), 14, berlin)
	must.Len(t, 3, days, must.Sprint("the history begins with the 27th; today is not whole"))
	must.Eq(t, at(3, 27, 0), days[0].Start)
	must.Eq(t, 23*time.Hour, days[2].End.Sub(days[2].Start), must.Sprint("the clocks went forward on the 29th"))
	must.Len(t, 2, wholeDays(at(3, 30, 9), at(3, 27, 1), 14, berlin), must.Sprint("of the 27th an hour is missing"))
	must.Len(t, 2, wholeDays(at(3, 30, 9), at(1, 1, 0), 2, berlin))
	must.SliceEmpty(t, wholeDays(at(3, 30, 9), at(3, 30, 8), 14, berlin))
}

func TestCapacityComesFromHistoryLedgerAndQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	r.clock.advance(12 * time.Hour) // midnight
	for range 3 {
		r.work("train", 4, 6*time.Hour)
		r.clock.advance(18 * time.Hour)
	}
	must.False(t, r.run(batch(r.nomad, "default", "starts", 1, 3, time.Hour)).Denied)
	must.True(t, r.run(batch(r.nomad, "default", "huge", 1, 9, time.Hour)).Denied)
	must.True(t, r.run(batch(r.nomad, "default", "less", 1, 9, time.Hour)).Denied)
	must.False(t, r.run(batch(r.nomad, "default", "less", 1, 1, time.Hour)).Denied, must.Sprint("admitted after all"))

	c, err := r.capacity(r.ctx, 14, map[string]int{"v100": 2})
	must.NoError(t, err)
	must.Eq(t, 3, c.Days)
	must.Len(t, 1, c.Classes)
	v100 := c.Classes[0]
	must.Eq(t, "v100", v100.Class)
	must.Eq(t, 1000, v100.MeanMilli, must.Sprint("4 GPUs for a quarter of each day"))
	must.Eq(t, 4, v100.Starting, must.Sprint("what has its budget and does not run"))
	must.Eq(t, 2, v100.With.Serves)
	must.Eq(t, []RefusedJobs{{Reason: "exceeds_budget", Jobs: 1, GPUs: 9}}, c.Refused)
	must.Len(t, 2, c.Incomplete, must.Sprint("11 days are missing, and nobody has seen the GPUs"))
	for _, l := range c.Limits {
		if l.Budget == "acme" && l.Dimension == "gpu_ms/any" {
			must.Eq(t, 24*quantity.GPUHour, l.PerDay)
			must.Eq(t, 72*quantity.GPUHour, l.Used)
		}
	}
	_, err = r.capacity(r.ctx, 14, map[string]int{"h900": 2})
	must.ErrorContains(t, err, `there is no GPU class "h900" in the policy`)
}
