package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/report"
)

func TestJobNow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	unknown, err := r.JobNow(r.ctx, "default", "train")
	must.NoError(t, err)
	must.EqOp(t, "unknown", unknown.State)
	must.Nil(t, unknown.Hold)

	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	now, err := r.JobNow(r.ctx, "default", "train")
	must.NoError(t, err)
	must.EqOp(t, "admitted", now.State)
	must.EqOp(t, 2, now.Hold.GPUs)
	must.Len(t, 1, now.Decisions)

	alloc := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.settle())
	now, err = r.JobNow(r.ctx, "default", "train")
	must.NoError(t, err)
	must.EqOp(t, "running", now.State)
	contains(t, now.Asked, "2 x", "for up to")
	must.Len(t, 1, now.Lines)
	must.Len(t, 1, now.Allocations)
	must.EqOp(t, alloc, now.Allocations[0].ID)
	must.Len(t, 2, now.Allocations[0].GPUs)
	must.EqOp(t, -1, now.Allocations[0].GPUs[0].Percent, must.Sprint("nobody reads statistics here"))
	must.Positive(t, now.Hold.Posted.Total())
	must.EqOp(t, now.Hold.Estimate.GPUTime[budget.AnyClass], now.Hold.Held.GPUTime[budget.AnyClass].Add(now.Hold.Posted.Total()))

	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	receipts, err := r.Receipts(r.ctx, "", "", 10)
	must.NoError(t, err)
	must.Len(t, 1, receipts, must.Sprint("an empty job means all"))
	month, err := r.Statement(r.ctx, report.Query{By: []report.Column{report.Budget}})
	must.NoError(t, err)
	must.EqOp(t, quantity.GPUHour, month.Total.GPUTime)
}

func TestTheStatusSaysHowLimitsStand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	health := func() string {
		status, err := r.Status(r.ctx)
		must.NoError(t, err)
		for _, b := range status.Budgets {
			for _, l := range b.Limits {
				if l.Window == budget.Concurrent.String() {
					return l.Health
				}
			}
		}
		return ""
	}
	must.EqOp(t, "ok", health())
	must.False(t, r.run(r.job("all", 1, 8)).Denied)
	must.EqOp(t, "full", health())
}
