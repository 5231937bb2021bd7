package showback

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// WriteCSV writes a statement for spreadsheets, a record for each number that is not
// zero: where it is in the statement, what it measures, and how much in a unit for people
// and in whole base units, which add up exactly.
func (s Statement) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	t := table{s: &s, records: [][]string{{"budget", "from", "to", "section", "item", "measure", "amount", "unit", "base_amount", "base_unit"}}}
	for _, part := range []struct {
		item string
		of   report.Amounts
	}{{"opening", s.Account.Opening}, {"used", s.Account.Used}, {"corrected", s.Account.Corrected}, {"closing", s.Account.Closing},
		{"of that overdraft", s.Account.Overdraft}, {"of that estimated", s.Account.Estimated}} {
		t.amounts("account", part.item, part.of)
	}
	for _, l := range s.Limits {
		t.limit(l)
	}
	for _, g := range s.Grants {
		for _, d := range sortedDimensions(g.Adds) {
			t.add("grant", g.ID, d, g.Adds[d])
		}
	}
	for _, g := range s.Groups {
		for _, l := range g.Lines {
			t.amounts("by "+g.By, strings.Join(l.Key, "/"), l.Amounts)
		}
	}
	if s.Held != nil {
		for _, h := range s.Held.Jobs {
			t.amounts("held", h.Namespace+"/"+h.JobID, report.Amounts{GPUTime: h.GPUTime, Cost: h.Cost})
		}
	}
	for _, l := range s.Loans {
		t.add("loan", "borrowed", budget.GPUs(l.Class), l.Borrowed)
		t.add("loan", "lent", budget.GPUs(l.Class), l.Lent)
	}
	t.amounts("idle", "held and not used", s.Idle.Allocated)
	t.amounts("idle", "share of free capacity", s.Idle.Share)
	for _, c := range s.Corrections {
		t.amounts("correction", c.Key, report.Amounts{GPUTime: c.GPUTime, Cost: c.Cost, Energy: c.Energy})
	}
	if err := out.WriteAll(t.records); err != nil {
		return fmt.Errorf("write the statement: %w", err)
	}
	return nil
}

// table collects the records of a statement.
type table struct {
	s       *Statement
	records [][]string
}

// add adds one number, if it is not zero.
func (t *table) add(section, item string, d budget.Dimension, a quantity.Amount) {
	if a == 0 {
		return
	}
	amount, unit, base := report.Money(a), t.s.Currency, "micro-"+t.s.Currency
	switch {
	case d.IsGPUTime():
		unit, base = "GPU-hours", "GPU-ms"
	case d.IsGPUs():
		unit, base = "GPUs", fmt.Sprintf("1/%d GPU", int64(quantity.GPU))
	case d == budget.Energy:
		unit, base = "kWh", "J"
	case d != budget.Cost:
		unit, base = "count", "count"
	}
	if d != budget.Cost {
		amount = strings.ReplaceAll(d.Number(a), ",", "")
	}
	t.records = append(t.records, []string{report.Plain(t.s.Budget), t.s.From.Format(time.RFC3339), t.s.To.Format(time.RFC3339), section, report.Plain(item), d.Key(),
		amount, unit, strconv.FormatInt(int64(a), 10), base})
}

func (t *table) amounts(section, item string, a report.Amounts) {
	t.add(section, item, budget.GPUTime(budget.AnyClass), a.GPUTime)
	t.add(section, item, budget.Cost, a.Cost)
	t.add(section, item, budget.Energy, a.Energy)
	t.add(section, item, budget.Tokens(budget.InputTokens), a.InputTokens)
	t.add(section, item, budget.Tokens(budget.CachedTokens), a.CachedTokens)
	t.add(section, item, budget.Tokens(budget.OutputTokens), a.OutputTokens)
}

func (t *table) limit(l Limit) {
	d := budget.Dimension(l.Dimension)
	section := "limit " + PeriodName(l)
	for _, part := range []struct {
		item string
		of   quantity.Amount
	}{{"ceiling", l.Ceiling}, {"carried in", l.Carry}, {"granted", l.Granted}, {"borrowable", l.Borrow}, {"allowance", l.Allowance},
		{"used", l.Used}, {"held", l.Held}, {"left", l.Left}} {
		t.add(section, part.item, d, part.of)
	}
}

// PeriodName names the period of a limit: "month 2026-03", "quarter 2026-Q1".
func PeriodName(l Limit) string {
	switch {
	case l.Start == nil:
		return l.Window
	case l.Window == budget.Quarter.String():
		return fmt.Sprintf("quarter %d-Q%d", l.Start.Year(), (int(l.Start.Month())+2)/3)
	}
	layouts := map[string]string{budget.Hour.String(): "2006-01-02 15:04", budget.Month.String(): "2006-01", budget.Year.String(): "2006"}
	layout, ok := layouts[l.Window]
	if !ok {
		layout = time.DateOnly
	}
	return l.Window + " " + l.Start.Format(layout)
}
