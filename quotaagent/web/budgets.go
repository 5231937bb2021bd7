package web

import (
	"cmp"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/web/draw"
)

const (
	// limitRows is about how many limits a page of budgets shows.
	limitRows = 45
	// dayRows and jobRows bound the tables of a statement.
	dayRows = 31
	topRows = 15
)

// limitData is one limit with what is expected of it.
type limitData struct {
	Limit
	// Forecast is what is expected at the rate of the last days; nil where nothing is.
	Forecast *forecast.Limit
}

// budgetData is one budget in the tree.
type budgetData struct {
	Budget
	Rows []limitData
	// Burn is how its first limit of a month burns down; nil where it has none.
	Burn *burnData
}

// burnData is a burn-down with what it is of.
type burnData struct {
	draw.Curve
	What       string
	Limit      Limit
	Start, End time.Time
	// AtEnd is what is left at the end by the forecast; nil where that is not known.
	AtEnd *quantity.Amount
}

// budgetsData is the tree.
type budgetsData struct {
	*Overview
	Query    string
	Budgets  []budgetData
	Paging   paging
	Forecast string
}

// budgets shows the tree.
func (h *Handler) budgets(v *visit) (view, error) {
	o, err := h.overview.get(v.Context())
	if err != nil {
		return view{}, err
	}
	d := budgetsData{Overview: o, Query: v.query("q")}
	var found []Budget
	for _, b := range o.Budgets {
		if strings.Contains(strings.ToLower(b.Path+" "+b.Owner), strings.ToLower(d.Query)) {
			found = append(found, b)
		}
	}
	most := 1
	for _, b := range found {
		most = max(most, len(b.Limits))
	}
	shown, paging := pageOf(v, found, max(1, limitRows/most), "budget")
	d.Paging = paging
	f, err := h.forecast.get(v.Context())
	if err != nil {
		d.Forecast = h.told(v, err, "There is no forecast now.")
	} else {
		d.Forecast = strings.Join(f.Incomplete, "; ")
	}
	days := h.daysOf(v)
	for _, b := range shown {
		one := budgetData{Budget: b}
		for _, l := range b.Limits {
			one.Rows = append(one.Rows, limitData{l, expected(f, b.Path, l)})
		}
		if l, ok := burnable(b.Limits, budget.Month.String()); ok && days != nil {
			one.Burn = h.burn(o, l, expected(f, b.Path, l), below(days.Lines, b.Path), 150, 34)
		}
		d.Budgets = append(d.Budgets, one)
	}
	return view{template: "budgets", title: "Budgets", section: "budgets", data: d}, nil
}

// daysOf is what was used on each day of this month, by budget; nil without a history.
func (h *Handler) daysOf(v *visit) *report.Statement {
	s, err := h.Past.Statement(v.Context(), report.Query{By: []report.Column{report.Budget, report.Day}})
	if err != nil {
		h.told(v, err, "")
		return nil
	}
	return &s
}

// below sums up the days of a budget and of what is below it. The lines have the budget
// and the day as their keys.
func below(lines []report.Line, path string) []report.Line {
	byDay := map[string]report.Line{}
	for _, l := range lines {
		if l.Key[0] == path || strings.HasPrefix(l.Key[0], path+"/") {
			sum := byDay[l.Key[1]]
			sum.Key, sum.Amounts = []string{l.Key[1]}, sum.Add(l.Amounts)
			byDay[l.Key[1]] = sum
		}
	}
	out := make([]report.Line, 0, len(byDay))
	for _, l := range byDay {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b report.Line) int { return cmp.Compare(a.Key[0], b.Key[0]) })
	return out
}

// told is an error in words for who looks: its own where they are for him.
func (h *Handler) told(v *visit, err error, otherwise string) string {
	var p *Problem
	if errors.As(err, &p) {
		return p.Text
	}
	h.Failed(v.Request, err)
	return otherwise
}

// expected is the forecast of a limit.
func expected(f Forecast, path string, l Limit) *forecast.Limit {
	if f.Days == 0 {
		return nil // by nothing nothing is to be expected
	}
	for i := range f.Limits {
		if e := &f.Limits[i]; e.Budget == path && e.Window == l.Window && e.Dimension == l.Dimension {
			return e
		}
	}
	return nil
}

// burnable is the limit of which a burn-down is drawn: one of the window, or of any with
// periods for "", of money if there is one.
func burnable(limits []Limit, window string) (Limit, bool) {
	best, found := Limit{}, false
	for _, l := range limits {
		d := budget.Dimension(l.Dimension)
		drawn := d == budget.Cost || d == budget.GPUTime(budget.AnyClass)
		if l.Start == nil || l.Unlimited || !drawn || (window != "" && l.Window != window) {
			continue
		}
		if !found || (budget.Dimension(best.Dimension) != budget.Cost && d == budget.Cost) {
			best, found = l, true
		}
	}
	return best, found
}

// burn draws how a limit burns down, by what was used on each day of its period. It ends
// with what the ledger says is posted.
func (h *Handler) burn(o *Overview, l Limit, f *forecast.Limit, days []report.Line, width, height int) *burnData {
	b := draw.Burn{Start: *l.Start, End: *l.End, Now: o.Time, Limit: l.Limit}
	used := quantity.Amount(0)
	for _, day := range days {
		at, err := time.ParseInLocation(time.DateOnly, day.Key[0], h.Zone())
		if err != nil || at.Before(l.Start.Add(-24*time.Hour)) {
			continue
		}
		amount := day.Cost
		if budget.Dimension(l.Dimension).IsGPUTime() {
			amount = day.GPUTime
		}
		used = used.Add(amount)
		if end := at.AddDate(0, 0, 1); end.Before(o.Time) {
			b.Left = append(b.Left, draw.Left{At: end, Amount: l.Limit.Sub(used)})
		}
	}
	b.Left = append(b.Left, draw.Left{At: o.Time, Amount: l.Limit.Sub(l.Posted)})
	if f != nil && f.AtEnd != nil {
		left := l.Limit.Sub(*f.AtEnd)
		b.AtEnd = &left
	}
	curve, ok := draw.BurnDown(b, width, height)
	if !ok {
		return nil
	}
	return &burnData{Curve: curve, What: budget.Dimension(l.Dimension).Noun(o.Currency), Limit: l, Start: *l.Start, End: *l.End, AtEnd: b.AtEnd}
}

// statementData is one budget with everything that applies to it.
type statementData struct {
	*Overview
	Detail
	Budget   budgetData
	Days     report.Statement
	DayRows  []report.Line
	Classes  []report.Line
	Top      []report.Line
	TopOf    int
	Hidden   int
	Jobs     []Job
	JobsOf   int
	Waiting  []Waiting
	Grants   []Override
	Months   []monthLink
	Month    string
	Download template.URL
	Trouble  string
	Current  bool
}

// monthLink leads to the statement of another month.
type monthLink struct {
	Name    string
	Link    template.URL
	Current bool
}

// statement shows one budget.
func (h *Handler) statement(v *visit) (view, error) {
	name := strings.Trim(v.PathValue("path"), "/")
	detail := h.Rules.Budget(name)
	if detail == nil {
		return view{}, problem(http.StatusNotFound, "There is no budget %.200q in the policy in force.", name)
	}
	o, err := h.overview.get(v.Context())
	if err != nil {
		return view{}, err
	}
	d := statementData{Overview: o, Detail: *detail}
	if i := slices.IndexFunc(o.Budgets, func(b Budget) bool { return b.Path == name }); i >= 0 {
		d.Budget.Budget = o.Budgets[i]
	}
	f, err := h.forecast.get(v.Context())
	if err != nil {
		h.told(v, err, "")
	}
	for _, l := range d.Budget.Limits {
		d.Budget.Rows = append(d.Budget.Rows, limitData{l, expected(f, name, l)})
	}
	if err := h.account(v, &d, f); err != nil {
		d.Trouble = h.told(v, err, "What was used cannot be read now; the agent's log has the cause.")
	}
	d.jobs(v.viewer)
	grants, err := h.Books.Overrides(v.Context())
	if err != nil {
		return view{}, err
	}
	d.Grants = slices.DeleteFunc(grants, func(g Override) bool { return g.Budget != name })
	return view{template: "statement", title: name, section: "budgets", crumbs: []crumb{{"Budgets", Prefix + "budgets"}}, data: d}, nil
}

// jobs are those that draw from the budget, or from one below it.
func (d *statementData) jobs(viewer Viewer) {
	inside := func(path string) bool { return path == d.Path || strings.HasPrefix(path, d.Path+"/") }
	for _, j := range d.Overview.Jobs {
		if inside(j.Budget) && viewer.Reads(j.Namespace) {
			d.Jobs = append(d.Jobs, j)
		}
	}
	d.Jobs, d.JobsOf = newest(d.Jobs), len(d.Jobs)
	d.Jobs = d.Jobs[:min(topRows, len(d.Jobs))]
	for _, w := range d.Overview.Waiting {
		if inside(w.Budget) && viewer.Reads(w.Namespace) && len(d.Waiting) < topRows {
			d.Waiting = append(d.Waiting, w)
		}
	}
}

// account reads what was used in a month.
func (h *Handler) account(v *visit, d *statementData, f Forecast) error {
	now := d.Time.In(h.Zone())
	d.Month = cmp.Or(v.query("month"), now.Format("2006-01"))
	from, to, err := report.ParseTime(d.Month, "", now, h.Zone())
	if err != nil || len(d.Month) != len("2006-01") {
		return problem(http.StatusBadRequest, "The month is %.20q; it must be like 2026-03.", d.Month)
	}
	d.Current = !now.Before(from) && now.Before(to)
	this := budget.PeriodAt(budget.Month, now, h.Zone())
	for range 6 {
		month := this.Start.AddDate(0, 0, 14).In(h.Zone()).Format("2006-01")
		d.Months = append(d.Months, monthLink{month, v.with("month", month), month == d.Month})
		this = budget.PeriodAt(budget.Month, this.Start.Add(-time.Millisecond), h.Zone())
	}
	d.Download = template.URL("/governor/v1/usage?" + url.Values{"budget": {d.Path}, "from": {d.Month}, "by": {"day,namespace,job,class"}}.Encode()) // encoded
	q := report.Query{From: from, To: to, Budget: d.Path, By: []report.Column{report.Day}}
	if d.Days, err = h.Past.Statement(v.Context(), q); err != nil {
		return err
	}
	if l, ok := burnable(d.Budget.Limits, ""); ok && d.Current {
		days := d.Days.Lines
		if l.Window != budget.Month.String() {
			q.From, q.To = *l.Start, *l.End
			longer, err := h.Past.Statement(v.Context(), q)
			if err != nil {
				return err
			}
			days = longer.Lines
			q.From, q.To = from, to
		}
		d.Budget.Burn = h.burn(d.Overview, l, expected(f, d.Path, l), days, 640, 160)
	}
	d.DayRows = slices.Clone(d.Days.Lines)
	slices.Reverse(d.DayRows)
	d.DayRows = d.DayRows[:min(dayRows, len(d.DayRows))]
	q.By = []report.Column{report.Class}
	classes, err := h.Past.Statement(v.Context(), q)
	if err != nil {
		return err
	}
	d.Classes = classes.Lines
	return h.topJobs(v, d, q)
}

// topJobs are the dearest jobs of a month.
func (h *Handler) topJobs(v *visit, d *statementData, q report.Query) error {
	q.By = []report.Column{report.Namespace, report.Job}
	byJob, err := h.Past.Statement(v.Context(), q)
	if err != nil {
		return err
	}
	for _, l := range byJob.Lines {
		if !v.viewer.Reads(l.Key[0]) {
			d.Hidden++
			continue
		}
		d.Top = append(d.Top, l)
	}
	slices.SortStableFunc(d.Top, func(a, b report.Line) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(b.GPUTime, a.GPUTime))
	})
	d.TopOf = len(d.Top)
	d.Top = d.Top[:min(topRows, len(d.Top))]
	return nil
}
