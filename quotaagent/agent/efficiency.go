package agent

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// serveEfficiency answers what was paid for and did nothing, and what units of work cost.
func (a *Agent) serveEfficiency(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	by, err := report.ParseEfficiencyColumn(cmp.Or(c.Query("by"), defaultBy))
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "by: %v", err)
	}
	q := report.Query{Budget: strings.Trim(c.Query("budget"), "/"), By: report.EfficiencyKeys(by)}
	if q.From, q.To, err = report.ParseTime(c.Query("from"), c.Query("to"), h.now(), h.store.Location()); err != nil {
		return nil, refusal(http.StatusBadRequest, "%v", err)
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	p := a.Keeper.State().Policy
	_, missing := a.complete(ctx, h)
	rows, err := s.rows(q, func(q report.Query) ([]report.Row, error) { return h.store.Rows(ctx, q, p.Moved) })
	if err != nil {
		return nil, err
	}
	receipts, err := h.store.Closed(ctx, q.From, q.To, q.Budget, p.Moved)
	if err != nil {
		return nil, err
	}
	for i := range receipts {
		receipts[i].JobID = s.job(receipts[i].Namespace, receipts[i].JobID)
	}
	e := report.MakeEfficiency(q, by, h.store.Location().String(), p.Currency, rows, receipts)
	state, err := h.store.State(ctx)
	if err != nil {
		return nil, err
	}
	if kept := time.UnixMilli(max(state.FloorMS, state.BeganMS)); q.From.Before(kept) {
		missing = append(missing, "receipts are kept from "+kept.UTC().Format(time.RFC3339)+" on: jobs that ended before are not counted")
	}
	e.Incomplete = append(e.Incomplete, missing...)
	return e, nil
}
