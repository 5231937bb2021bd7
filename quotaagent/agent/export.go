package agent

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/focus"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

// exportMax bounds the time of one export.
const exportMax = 10 * 366 * 24 * time.Hour

// serveExport answers the usage of whole days as FOCUS data, day by day as it is read.
func (a *Agent) serveExport(_ context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	loc := h.store.Location()
	from, to, err := report.ParseTime(c.Query("from"), c.Query("to"), h.now(), loc)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "%v", err)
	}
	for name, at := range map[string]time.Time{"from": from, "to": to} {
		if !budget.PeriodAt(budget.Day, at, loc).Start.Equal(at) {
			return nil, refusal(http.StatusBadRequest, "%s is %s: an export is of whole days; give days, months or years", name, at.Format(time.RFC3339))
		}
	}
	if to.Sub(from) > exportMax {
		return nil, refusal(http.StatusBadRequest, "an export is of ten years at most; give a later from")
	}
	if format := c.Query("format"); format != "" && format != "focus" {
		return nil, refusal(http.StatusBadRequest, "format is %.40q; it must be focus", format)
	}
	sees, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	x := &export{sees: sees, store: h.store, policy: a.Keeper.State().Policy, now: h.now(), idle: c.Query("idle") == "true",
		query: report.Query{From: from, To: to, Budget: strings.Trim(c.Query("budget"), "/"), By: showback.Columns()}}
	if x.query.Budget != "" && x.policy.Find(x.query.Budget) == nil {
		return nil, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", x.query.Budget)
	}
	ctx := c.Request().Context()
	return api.Raw{Type: "text/csv; charset=utf-8", Write: func(w io.Writer) error { return x.write(ctx, w) }}, nil
}

// export writes what was used in a time.
type export struct {
	store  *history.Store
	policy *budget.Policy
	now    time.Time
	query  report.Query
	// sees says which jobs are named.
	sees clearance
	// idle says that what nobody had, and what was used around Governor, is wanted too.
	idle bool
}

func (x *export) write(ctx context.Context, out io.Writer) error {
	var roots []string
	for _, b := range x.policy.Roots {
		roots = append(roots, b.Name)
	}
	w, err := focus.NewWriter(out, x.prices(), x.policy.Currency, roots)
	if err != nil {
		return err
	}
	byHand, err := x.store.Corrections(ctx, x.query.From, x.query.To, x.query.Budget, x.policy.Moved)
	if err != nil {
		return err
	}
	q := x.query
	if tomorrow := budget.PeriodAt(budget.Day, x.now, x.store.Location()).End; q.To.After(tomorrow) {
		q.To = tomorrow // nothing can be there
	}
	err = x.store.Days(ctx, q, x.policy.Moved, func(day budget.Period, rows []report.Row) error { return x.day(w, day, rows, byHand) })
	if err != nil {
		return err
	}
	return w.Flush()
}

// day writes one day: each correction by hand for itself, with its reason, and the rest
// as summed up.
func (x *export) day(w *focus.Writer, day budget.Period, rows []report.Row, byHand []ledger.Entry) error {
	known := make(map[string]report.Amounts)
	for _, e := range byHand {
		if e.FromMS < day.Start.UnixMilli() || e.FromMS >= day.End.UnixMilli() {
			continue
		}
		c := x.charge(day, correctionRow(e))
		c.Key, c.Author, c.Reason = e.Key, e.Author, e.Cause
		c.Late = e.WrittenMS >= c.BillingEnd.UnixMilli()
		if err := x.put(w, c); err != nil {
			return err
		}
		known[seriesOf(c)] = known[seriesOf(c)].Add(c.Amounts)
	}
	for _, r := range rows {
		nobodys := r.Kind == ledger.UnallocatedEntry || r.Kind == ledger.UngovernedEntry
		if !ledger.PostedKind(r.Kind) && (!nobodys || !x.idle) {
			continue
		}
		c := x.charge(day, r)
		if name := seriesOf(c); r.Kind == ledger.CorrectionEntry && known[name] != (report.Amounts{}) {
			c.Amounts = c.Sub(known[name])
			delete(known, name)
		}
		if err := x.put(w, c); err != nil {
			return err
		}
	}
	return nil
}

// put writes a charge as its reader may see it.
func (x *export) put(w *focus.Writer, c focus.Charge) error {
	c.Job = x.sees.job(c.Namespace, c.Job)
	return w.Write(c)
}

// correctionRow is an entry as the row of sums that it is counted in.
func correctionRow(e ledger.Entry) report.Row {
	return report.Row{Kind: e.Kind, Estimated: e.Estimated, Key: []string{e.Budget, e.Namespace, e.JobID, e.Submitter, e.Class, e.RateCard, e.Model, ""},
		Amounts: report.Amounts{GPUTime: e.GPUTime, Cost: e.Cost, Energy: e.Energy, InputTokens: e.Tokens[budget.InputTokens],
			CachedTokens: e.Tokens[budget.CachedTokens], OutputTokens: e.Tokens[budget.OutputTokens]}}
}

// charge is a row of sums as a charge; its key is that of showback.Columns.
func (x *export) charge(day budget.Period, r report.Row) focus.Charge {
	month := budget.PeriodAt(budget.Month, day.Start.Add(day.End.Sub(day.Start)/2), x.store.Location())
	return focus.Charge{Kind: r.Kind, Estimated: r.Estimated, Budget: r.Key[0], Namespace: r.Key[1], Job: r.Key[2], User: r.Key[3], Class: r.Key[4], RateCard: r.Key[5],
		Model: r.Key[6], Amounts: r.Amounts, Start: day.Start, End: day.End, BillingStart: month.Start, BillingEnd: month.End}
}

// seriesOf names the row of sums that a correction is counted in.
func seriesOf(c focus.Charge) string {
	return strings.Join([]string{c.Budget, c.Namespace, c.Job, c.User, c.Class, c.RateCard, c.Model}, "\x00")
}

// prices are those of the policy in force, which keeps the cards of the past.
func (x *export) prices() focus.Prices {
	card := func(name string) (budget.RateCard, bool) {
		i := slices.IndexFunc(x.policy.RateCards, func(c budget.RateCard) bool { return c.Name == name })
		if i < 0 {
			return budget.RateCard{}, false
		}
		return x.policy.RateCards[i], true
	}
	return focus.Prices{
		PerGPUHour: func(name, class string) (quantity.Amount, bool) {
			c, found := card(name)
			if !found {
				return 0, false
			}
			return metering.CardPrice(x.policy, c, class)
		},
		EnergyPerKWh: func(name string) (quantity.Amount, bool) {
			c, found := card(name)
			if !found || c.Energy == nil {
				return 0, false
			}
			return metering.EnergyCost(c.Energy, quantity.KWh), true
		},
	}
}
