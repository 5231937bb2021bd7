package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// defaultBy is what statements are grouped by.
const defaultBy = "budget"

// statement is the account of usage that a query asks for, as somebody may see it, and
// what may be missing in it.
func (a *Agent) statement(ctx context.Context, q report.Query, s clearance) (report.Statement, error) {
	h, err := a.historyOf()
	if err != nil {
		return report.Statement{}, err
	}
	p := a.Keeper.State().Policy
	to, missing := a.complete(ctx, h) // before the sums are read: they are no older
	rows, err := s.rows(q, func(q report.Query) ([]report.Row, error) { return h.store.Rows(ctx, q, p.Moved) })
	if err != nil {
		return report.Statement{}, err
	}
	out := report.Make(q, h.store.Location().String(), p.Currency, rows)
	began, err := h.store.Began(ctx)
	if err != nil {
		return out, err
	}
	if q.From.Before(began) {
		missing = append(missing, "the history begins at "+began.UTC().Format(time.RFC3339)+": what was used before is not in it")
	}
	out.CompleteTo, out.Incomplete = to.UTC(), append(out.Incomplete, missing...)
	return out, nil
}

// complete is until when the history of this agent has everything, with sentences
// about what may be missing besides.
func (a *Agent) complete(ctx context.Context, h *historian) (time.Time, []string) {
	to, missing := a.peers.complete(h.now())
	earlier := func(at time.Time) {
		if at.Before(to) {
			to = at
		}
	}
	if since, cause := h.trouble(); !since.IsZero() {
		earlier(since)
		missing = append(missing, fmt.Sprintf("this agent cannot record since %s: %v", since.UTC().Format(time.RFC3339), cause))
	}
	holds, _, err := a.Engine.books.holds(ctx)
	if err != nil {
		a.logger.Warn("holds not read", "error", err)
		return to, append(missing, "the ledger cannot be read now: what runs may not be posted")
	}
	for _, held := range holds {
		for _, t := range held.Live() {
			earlier(time.UnixMilli(t.MarkMS))
		}
	}
	requests, err := a.Engine.books.requests(ctx)
	if err != nil {
		a.logger.Warn("requests for tokens not read", "error", err)
		return to, append(missing, "the ledger cannot be read now: tokens may not be posted")
	}
	for _, held := range requests {
		if held.Holds() {
			earlier(time.UnixMilli(held.CreatedMS)) // then it counts, when it is settled
		}
	}
	return to, missing
}

// queryOf reads the parameters of a report.
func (a *Agent) queryOf(c api.Call, h *historian) (report.Query, error) {
	q := report.Query{Budget: strings.Trim(c.Query("budget"), "/"), Namespace: c.Query("namespace"), Job: c.Query("job"), User: c.Query("user"), Class: c.Query("class")}
	by := c.Query("by")
	if by == "" {
		by = defaultBy
	}
	columns, err := report.ParseColumns(by)
	if err != nil {
		return q, refusal(http.StatusBadRequest, "by: %v", err)
	}
	q.By = columns
	q.From, q.To, err = report.ParseTime(c.Query("from"), c.Query("to"), h.now(), h.store.Location())
	if err != nil {
		return q, refusal(http.StatusBadRequest, "%v", err)
	}
	return q, nil
}

func (a *Agent) serveReport(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	q, err := a.queryOf(c, h)
	if err != nil {
		return nil, err
	}
	sees, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	s, err := a.statement(ctx, q, sees)
	if err != nil {
		return nil, err
	}
	switch c.Query("format") {
	case "", "json":
		return s, nil
	case "csv":
		return api.Raw{Type: "text/csv; charset=utf-8", Write: func(w io.Writer) error { return s.WriteCSV(w) }}, nil
	}
	return nil, refusal(http.StatusBadRequest, "format is %.40q; it must be json or csv", c.Query("format"))
}

// limitOf reads how many answers are wanted: at most most.
func limitOf(c api.Call, usual, most int) (int, error) {
	text := c.Query("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, refusal(http.StatusBadRequest, "limit is %.40q; it must be a number from 1 to %d", text, most)
	}
	return n, nil
}

// jobOf reads which job is meant.
func jobOf(c api.Call) (namespace, job string) {
	namespace = c.Query("namespace")
	if namespace == "" {
		namespace = "default"
	}
	return namespace, c.Query("job")
}

func (a *Agent) serveReceipts(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(c, 10, 1000)
	if err != nil {
		return nil, err
	}
	namespace, job := jobOf(c)
	if job == "" {
		return nil, refusal(http.StatusBadRequest, "job is missing: give the id of a job, and its namespace if that is not default")
	}
	if err := a.mustRead(c, namespace); err != nil {
		return nil, err
	}
	return h.store.Receipts(ctx, namespace, job, limit)
}

func (a *Agent) serveLog(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	r, err := api.Decode[LogRequest](c)
	if err != nil {
		return nil, err
	}
	if r.Limit < 1 || r.Limit > 10*pageSize {
		return nil, refusal(http.StatusBadRequest, "limit is %d; it must be from 1 to %d", r.Limit, 10*pageSize)
	}
	if r.Heads == nil {
		r.Heads = history.Heads{}
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	page, err := h.store.Since(ctx, r.Heads, r.Limit)
	if err != nil {
		return nil, err
	}
	for i := range page.Entries {
		if n := page.Entries[i].Entry.Namespace; n != "" && !s.reads(n) {
			return nil, refusal(http.StatusForbidden, "the history is for agents, whose token may read the jobs of all namespaces")
		}
	}
	return page, nil
}

// reportTime reads one point in time, as statements do.
func reportTime(text string, now time.Time, loc *time.Location) (begin, end time.Time, err error) {
	return report.ParseTime(text, "", now.Add(time.Millisecond), loc)
}

// serveTrace answers what ran as a trace for governor simulate.
func (a *Agent) serveTrace(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	from, to, err := report.ParseTime(c.Query("from"), c.Query("to"), h.now(), h.store.Location())
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "%v", err)
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	p := a.Keeper.State().Policy
	runs, err := h.store.Ran(ctx, from, to, strings.Trim(c.Query("budget"), "/"), p.Moved)
	if errors.Is(err, history.ErrTooMuch) {
		return nil, refusal(http.StatusBadRequest, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	for i := range runs {
		runs[i].Job = s.job(runs[i].Namespace, runs[i].Job)
	}
	return api.Raw{Type: "text/csv; charset=utf-8", Write: func(w io.Writer) error { return report.WriteTrace(w, runs, tracedDevice(p)) }}, nil
}

// tracedDevice is the name of the GPUs of a class, "" where it has several.
func tracedDevice(p *budget.Policy) func(class string) string {
	return func(name string) string {
		for _, class := range p.Classes {
			if class.Name == name && len(class.Devices) == 1 {
				return class.Devices[0]
			}
		}
		return ""
	}
}
