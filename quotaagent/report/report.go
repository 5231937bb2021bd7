package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Column is what the lines of a statement are grouped by.
type Column string

// The columns. Day and Month are calendar periods in the zone of the policy; User
// is the accessor of the token that submitted.
const (
	Budget    Column = "budget"
	Namespace Column = "namespace"
	Job       Column = "job"
	User      Column = "user"
	Class     Column = "class"
	RateCard  Column = "rate_card"
	Model     Column = "model"
	Day       Column = "day"
	Month     Column = "month"
)

// Columns are all columns, in the order of their use.
func Columns() []Column {
	return []Column{Budget, Namespace, Job, User, Class, RateCard, Model, Day, Month}
}

// ParseColumns reads a list such as "budget,class".
func ParseColumns(text string) ([]Column, error) {
	var columns []Column
	for _, name := range strings.Split(text, ",") {
		c := Column(strings.TrimSpace(name))
		if !slices.Contains(Columns(), c) {
			return nil, fmt.Errorf("a statement cannot be grouped by %q; it can by: %s", name, joinColumns(Columns()))
		}
		if slices.Contains(columns, c) {
			return nil, fmt.Errorf("a statement is grouped by %q twice; name each once", name)
		}
		columns = append(columns, c)
	}
	return columns, nil
}

func joinColumns(columns []Column) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = string(c)
	}
	return strings.Join(names, ", ")
}

// Query is what a statement is about: [From, To), and of all usage only what has
// each of the values that are not empty.
type Query struct {
	From, To time.Time
	By       []Column
	// Budget is a path: what is below it counts too.
	Budget                      string
	Namespace, Job, User, Class string
}

// Amounts are what was used. GPUTime in GPU-milliseconds, Cost in micro-units,
// Energy in joules.
type Amounts struct {
	GPUTime      quantity.Amount `json:"gpu_ms"`
	Cost         quantity.Amount `json:"cost"`
	Energy       quantity.Amount `json:"energy_j"`
	InputTokens  quantity.Amount `json:"input_tokens"`
	CachedTokens quantity.Amount `json:"cached_tokens"`
	OutputTokens quantity.Amount `json:"output_tokens"`
}

// Add is the sum of both.
func (a Amounts) Add(b Amounts) Amounts {
	return Amounts{GPUTime: a.GPUTime.Add(b.GPUTime), Cost: a.Cost.Add(b.Cost), Energy: a.Energy.Add(b.Energy),
		InputTokens: a.InputTokens.Add(b.InputTokens), CachedTokens: a.CachedTokens.Add(b.CachedTokens), OutputTokens: a.OutputTokens.Add(b.OutputTokens)}
}

// Sub is the difference of both.
func (a Amounts) Sub(b Amounts) Amounts {
	return Amounts{GPUTime: a.GPUTime.Sub(b.GPUTime), Cost: a.Cost.Sub(b.Cost), Energy: a.Energy.Sub(b.Energy),
		InputTokens: a.InputTokens.Sub(b.InputTokens), CachedTokens: a.CachedTokens.Sub(b.CachedTokens), OutputTokens: a.OutputTokens.Sub(b.OutputTokens)}
}

// Tokens is the number of tokens of all kinds.
func (a Amounts) Tokens() quantity.Amount {
	return a.InputTokens.Add(a.CachedTokens).Add(a.OutputTokens)
}

// Row is a sum of entries of one kind that agree in the columns of a query.
type Row struct {
	Kind string
	// Estimated says that these amounts could not be observed.
	Estimated bool
	// Key has a value for each column.
	Key []string
	Amounts
}

// Line is one line of a statement.
type Line struct {
	// Key has a value for each column of the statement.
	Key []string `json:"key"`
	// What was used, tokens and corrections included.
	Amounts
	// Of that: what was corrected, was beyond what was held, was estimated, and was
	// held but idle.
	Corrected Amounts `json:"corrected"`
	Overdraft Amounts `json:"overdraft"`
	Estimated Amounts `json:"estimated"`
	Idle      Amounts `json:"idle"`
}

func (l *Line) add(r Row) {
	switch {
	case ledger.PostedKind(r.Kind):
		l.Amounts = l.Add(r.Amounts)
		if r.Kind == ledger.CorrectionEntry {
			l.Corrected = l.Corrected.Add(r.Amounts)
		}
		if r.Estimated {
			l.Estimated = l.Estimated.Add(r.Amounts)
		}
	case r.Kind == ledger.OverdraftEntry:
		l.Overdraft = l.Overdraft.Add(r.Amounts)
	case r.Kind == ledger.IdleEntry:
		l.Idle = l.Idle.Add(r.Amounts)
	}
}

// Statement is an account of usage.
type Statement struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Zone is that of the policy, in which days and months are.
	Zone     string   `json:"zone"`
	Currency string   `json:"currency"`
	By       []Column `json:"by"`
	Lines    []Line   `json:"lines"`
	// Total is the sum of the lines.
	Total Line `json:"total"`
	// Unallocated is capacity that nobody held, Ungoverned what was used around
	// Governor: neither is any budget's, nor in the lines.
	Unallocated Amounts `json:"unallocated"`
	Ungoverned  Amounts `json:"ungoverned"`
	// CompleteTo is until when all usage is in it, as far as this agent knows;
	// Incomplete says in sentences what may be missing.
	CompleteTo time.Time `json:"complete_to"`
	Incomplete []string  `json:"incomplete"`
}

// Make puts rows together to a statement. Rows with equal keys become one line.
func Make(q Query, zone, currency string, rows []Row) Statement {
	s := Statement{From: q.From, To: q.To, Zone: zone, Currency: currency, By: q.By, Lines: []Line{}, Incomplete: []string{}, Total: Line{Key: []string{}}}
	at := make(map[string]int)
	for _, r := range rows {
		switch r.Kind {
		case ledger.UnallocatedEntry:
			s.Unallocated = s.Unallocated.Add(r.Amounts)
			continue
		case ledger.UngovernedEntry:
			s.Ungoverned = s.Ungoverned.Add(r.Amounts)
			continue
		}
		name := strings.Join(r.Key, "\x00")
		i, known := at[name]
		if !known {
			i = len(s.Lines)
			at[name] = i
			s.Lines = append(s.Lines, Line{Key: slices.Clone(r.Key)})
		}
		s.Lines[i].add(r)
		s.Total.add(r)
	}
	s.Lines = slices.DeleteFunc(s.Lines, Line.empty)
	slices.SortFunc(s.Lines, func(a, b Line) int { return slices.CompareFunc(a.Key, b.Key, cmp.Compare[string]) })
	return s
}

// empty reports whether a line says nothing: what was posted and taken back.
func (l Line) empty() bool {
	none := Amounts{}
	return l.Amounts == none && l.Corrected == none && l.Overdraft == none && l.Estimated == none && l.Idle == none
}

// ParseTime reads the time of a statement: days ("2026-03-01"), months ("2026-03"),
// years ("2026") or instants of RFC 3339. A day, month or year as the end is the
// beginning of it, so that 2026-03 to 2026-04 is March. Without an end it is one
// unit of the beginning, or up to now for an instant; without either it is the
// month of now.
func ParseTime(from, to string, now time.Time, loc *time.Location) (begin, end time.Time, err error) {
	if from == "" && to == "" {
		month := budget.PeriodAt(budget.Month, now, loc)
		return month.Start, month.End, nil
	}
	if from == "" {
		return begin, end, fmt.Errorf("to is %q and from is missing; give both", to)
	}
	begin, next, err := parsePoint(from, now, loc)
	if err != nil {
		return begin, end, fmt.Errorf("from %w", err)
	}
	end = next
	if to != "" {
		if end, _, err = parsePoint(to, now, loc); err != nil {
			return begin, end, fmt.Errorf("to %w", err)
		}
	}
	if !begin.Before(end) {
		return begin, end, fmt.Errorf("the time ends at %s, before it has begun at %s", end.Format(time.RFC3339), begin.Format(time.RFC3339))
	}
	return begin, end, nil
}

// parsePoint reads one point in time, and the end of the unit that it names.
func parsePoint(text string, now time.Time, loc *time.Location) (at, end time.Time, err error) {
	for _, unit := range []struct {
		layout string
		window budget.Window
	}{{"2006", budget.Year}, {"2006-01", budget.Month}, {"2006-01-02", budget.Day}} {
		date, err := time.Parse(unit.layout, text)
		if err != nil {
			continue
		}
		// Noon is never skipped by a clock change, and never twice.
		p := budget.PeriodAt(unit.window, time.Date(date.Year(), date.Month(), date.Day(), 12, 0, 0, 0, loc), loc)
		return p.Start, p.End, nil
	}
	at, err = time.Parse(time.RFC3339, text)
	if err != nil {
		return at, end, fmt.Errorf("is %q; it must be a day (2026-03-01), a month (2026-03), a year (2026) or a time (2026-03-01T12:00:00Z)", text)
	}
	return at.In(loc), now, nil
}
