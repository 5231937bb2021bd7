package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

// serveShowback answers the statement of one budget.
func (a *Agent) serveShowback(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	from, to, err := report.ParseTime(c.Query("from"), c.Query("to"), h.now(), h.store.Location())
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "%v", err)
	}
	write, known := map[string]func(showback.Statement, io.Writer) error{"": nil, "json": nil, "csv": showback.Statement.WriteCSV, "html": showback.Statement.WriteHTML}[c.Query("format")]
	if !known {
		return nil, refusal(http.StatusBadRequest, "format is %.40q; it must be json, csv or html", c.Query("format"))
	}
	sees, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	s, err := a.showback(ctx, strings.Trim(c.Var("path"), "/"), from, to, sees)
	if err != nil || write == nil {
		return s, err
	}
	return api.Raw{Type: "text/" + c.Query("format") + "; charset=utf-8", Write: func(w io.Writer) error { return write(s, w) }}, nil
}

// showback is the statement of a budget for [from, to), as somebody may see it.
func (a *Agent) showback(ctx context.Context, path string, from, to time.Time, sees clearance) (showback.Statement, error) {
	h, err := a.historyOf()
	if err != nil {
		return showback.Statement{}, err
	}
	p, now := a.Keeper.State().Policy, h.now()
	if from.After(now) {
		return showback.Statement{}, refusal(http.StatusBadRequest, "the time begins at %s, which is still to come", from.Format(time.RFC3339))
	}
	in := showback.Input{Head: showback.Head{Budget: path, From: from, To: to, Zone: h.store.Location().String(), Currency: p.Currency, Made: now.UTC(),
		Revision: p.Revision, Open: now.Before(to)}, Idle: p.Meter.Idle}
	complete, missing := a.complete(ctx, h) // before the sums are read: they are no older
	if !in.Open {
		then, err := a.Keeper.inForce(ctx, to.Add(-time.Millisecond))
		if err != nil {
			missing = append(missing, err.Error()+"; the limits are those of the policy now in force")
		} else {
			in.Revision, in.Idle = then.Revision, then.Meter.Idle
			if then.Find(path) != nil {
				p = then
			}
		}
	}
	node := p.Find(path)
	if node == nil {
		return showback.Statement{}, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", path)
	}
	in.Description, in.Owner = node.Description, node.Owner
	if err := a.showbackUsage(ctx, h, &in); err != nil {
		return showback.Statement{}, err
	}
	if err := a.showbackBooks(ctx, h, p, node, &in); err != nil {
		return showback.Statement{}, err
	}
	sees.showback(&in)
	s := showback.Make(in)
	began, err := h.store.Began(ctx)
	if err != nil {
		return s, err
	}
	if from.Before(began) {
		missing = append(missing, "the history begins at "+began.UTC().Format(time.RFC3339)+": what was used before is not in it")
	}
	s.CompleteTo, s.Incomplete = complete.UTC(), append(s.Incomplete, missing...)
	return s, nil
}

// showbackUsage reads what was used, all of one moment, and the corrections.
func (a *Agent) showbackUsage(ctx context.Context, h *historian, in *showback.Input) error {
	moved := a.Keeper.State().Policy.Moved
	begin := budget.PeriodAt(budget.Month, time.UnixMilli(0), h.store.Location()).Start
	rows, err := h.store.RowsOf(ctx, []report.Query{
		{From: begin, To: in.From, Budget: in.Budget},
		{From: in.From, To: in.To, Budget: in.Budget, By: showback.Columns()},
		{From: in.From, To: in.To, By: showback.EveryoneColumns()},
	}, moved)
	if err != nil {
		return err
	}
	in.Opening, in.Rows, in.Everyone = rows[0], rows[1], rows[2]
	in.Corrections, err = h.store.Corrections(ctx, in.From, in.To, in.Budget, moved)
	return err
}

// showbackBooks adds what the ledger knows: limits, grants, loans and holds.
func (a *Agent) showbackBooks(ctx context.Context, h *historian, p *budget.Policy, node *budget.Budget, in *showback.Input) error {
	grants, err := a.grantsOf(ctx, h, in)
	if err != nil {
		return err
	}
	if !in.Open {
		in.Limits, err = a.closedLimits(ctx, h, p, node, in, grants)
		return err
	}
	balances, _, err := a.Engine.books.allBalances(ctx)
	if err != nil {
		return err
	}
	balances = ledger.MoveBalances(balances, p.Moved)
	cohort := ledger.CohortOf(p, node, balances)
	found, err := a.outlooks(ctx, h)
	if err != nil {
		return err
	}
	for _, s := range ledger.Standings(p, node, balances[node.Path], grants, cohort, in.Made) {
		limit := showback.LimitOf(s.Limit, s.Posted, s.Held)
		limit.Outlook = found[limitKey{node.Path, limit.Window, limit.Dimension}]
		in.Limits = append(in.Limits, limit)
		if d := s.Limit.Dimension; s.Limit.Window == budget.Concurrent && len(cohort) > 0 && d.IsGPUs() {
			in.Loans = append(in.Loans, showback.Loan{Class: d.Class(), Cohort: node.Cohort, Borrowed: cohort.Borrowed(node, d, s.Held), Lent: cohort.Lent(node, d)})
		}
	}
	holds, _, err := a.Engine.books.holds(ctx)
	if err != nil {
		return err
	}
	for _, held := range holds {
		path := p.Moved(held.Budget)
		if !showback.Within(path, node.Path) {
			continue
		}
		left := heldNow(*held.Hold)
		in.Holds = append(in.Holds, showback.Hold{Namespace: held.Namespace, JobID: held.JobID, Budget: path, GPUTime: left.GPUTime[budget.AnyClass], Cost: left.Cost})
	}
	return nil
}

// grantsOf are all grants that are known, those that the ledger forgot included; those
// that counted go into the statement.
func (a *Agent) grantsOf(ctx context.Context, h *historian, in *showback.Input) ([]ledger.Grant, error) {
	grants, err := a.Engine.grants(ctx)
	if err != nil {
		return nil, err
	}
	old, err := h.store.Grants(ctx, in.From)
	if err != nil {
		return nil, err
	}
	for _, g := range old {
		if !slices.ContainsFunc(grants, func(have ledger.Grant) bool { return have.ID == g.ID }) {
			grants = append(grants, g)
		}
	}
	moved := a.Keeper.State().Policy.Moved
	for i := range grants {
		grants[i].Budget = moved(grants[i].Budget)
		if showback.Counted(grants[i], in.Budget, in.From, in.To) {
			in.Grants = append(in.Grants, grants[i])
		}
	}
	return grants, nil
}

// closedLimits are the limits of a time that is over: those whose periods are no shorter
// than it, as they stood at its end.
func (a *Agent) closedLimits(ctx context.Context, h *historian, p *budget.Policy, node *budget.Budget, in *showback.Input, grants []ledger.Grant) ([]showback.Limit, error) {
	balances, _, err := a.Engine.books.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	out := []showback.Limit{}
	last := in.To.Add(-time.Millisecond)
	for _, l := range node.Limits {
		period := budget.PeriodAt(l.Window, last, p.Location)
		if l.Window.Gauge() || period.Start.After(in.From) {
			continue
		}
		book := ledger.Balance{SinceMS: balances[node.Path].SinceMS, Posted: ledger.NewVector(), Held: ledger.NewVector()}
		used, err := a.postedIn(ctx, h, node.Path, l.Dimension, period.Start, in.To)
		if err != nil {
			return nil, err
		}
		earlier := period
		for range ledger.RolloverReach(l) {
			earlier = budget.PeriodAt(l.Window, earlier.Start.Add(-time.Millisecond), p.Location)
			amount, err := a.postedIn(ctx, h, node.Path, l.Dimension, earlier.Start, earlier.End)
			if err != nil {
				return nil, err
			}
			book.Posted.Add(earlier.Key(), l.Dimension, amount)
		}
		e := ledger.Effective(p, node, l, period, book, nil, last)
		e.Granted = ledger.GrantedDuring(node, l.Dimension, period, grants, last)
		out = append(out, showback.LimitOf(e, used, 0))
	}
	return out, nil
}

// postedIn is what a budget and all below it were charged in [from, to), by the history;
// a zero from is from the beginning on.
func (a *Agent) postedIn(ctx context.Context, h *historian, path string, d budget.Dimension, from, to time.Time) (quantity.Amount, error) {
	if from.IsZero() {
		from = budget.PeriodAt(budget.Month, time.UnixMilli(0), h.store.Location()).Start
	}
	posted, err := h.store.Posted(ctx, from, to, a.Keeper.State().Policy.Moved)
	if err != nil {
		return 0, err
	}
	total := quantity.Amount(0)
	for _, below := range sortedKeys(posted) {
		if showback.Within(below, path) {
			total = total.Add(posted[below][d])
		}
	}
	return total, nil
}

// inForce is the policy that was in force at an instant.
func (k *PolicyKeeper) inForce(ctx context.Context, at time.Time) (*budget.Policy, error) {
	past, err := k.past(ctx)
	if err != nil {
		return nil, err
	}
	now := k.State().Policy
	for i, s := range slices.Backward(past) {
		switch {
		case s.Time.After(at):
			continue
		case i == len(past)-1 && s.Digest == now.Revision:
			return now, nil
		case s.Packed == nil:
			return nil, fmt.Errorf("the files of revision %d, which was in force then, were too large to be kept", s.Nr)
		}
		files, err := unpack(s.Packed)
		if err != nil {
			return nil, fmt.Errorf("revision %d, which was in force then, cannot be read: %w", s.Nr, err)
		}
		p, diags := budgetspec.Parse(files)
		if diags.HasErrors() {
			return nil, fmt.Errorf("revision %d, which was in force then, cannot be read any more: %s", s.Nr, diags.Error())
		}
		return p, nil
	}
	return nil, fmt.Errorf("no revision of the policy is kept that was in force on %s", at.Format(time.DateOnly))
}
