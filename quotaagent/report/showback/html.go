package showback

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

//go:embed statement.html
var page string

//go:embed report.css
var style string

// linesShown bounds the lines of a group on the page; those that follow are one line
// together.
const linesShown = 50

// WriteHTML writes a statement as one page without scripts and without anything from
// elsewhere, for screens and for paper.
func (s Statement) WriteHTML(w io.Writer) error {
	t, err := template.New("statement").Funcs(template.FuncMap{
		"money": quantity.FormatMoney, "hours": quantity.FormatHours,
		"kwh":    func(a quantity.Amount) string { return quantity.FormatDecimal(a, quantity.KWh, 2) },
		"tokens": func(a quantity.Amount) string { return quantity.FormatDecimal(a, 1, 0) },
		"gpus":   quantity.FormatGPUs,
		"time":   func(t time.Time) string { return t.Format("2006-01-02 15:04 MST") },
		"day":    func(t time.Time) string { return t.Format(time.DateOnly) },
		"style":  func() template.CSS { return template.CSS(style) }, //nolint:gosec // it is a file of ours
		"period": PeriodName, "number": number, "noun": s.noun, "adds": s.adds, "key": keyText, "title": groupTitle,
		"signed": func(a quantity.Amount) bool { return a < 0 }, "meter": meter,
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("the page of statements: %w", err)
	}
	if err := t.Execute(w, view{Statement: s, Chart: chartOf(s), Shown: shown(s.Groups)}); err != nil {
		return fmt.Errorf("write the statement: %w", err)
	}
	return nil
}

// view is what the page is made of.
type view struct {
	Statement
	Chart *chart
	Shown []Group
}

// Energy and Tokens say whether there is anything to show in their columns.
func (v view) Energy() bool { return v.Account.Closing.Energy != 0 }

// Tokens says whether tokens were counted.
func (v view) Tokens() bool { return v.Account.Closing.Tokens() != 0 }

// Title is the name of the time: that of the day, month or year that it is, or from when
// to when.
func (v view) Title() string {
	for window, layout := range map[budget.Window]string{budget.Day: "2 January 2006", budget.Month: "January 2006", budget.Year: "2006"} {
		if p := budget.PeriodAt(window, v.From, v.From.Location()); p.Start.Equal(v.From) && p.End.Equal(v.To) {
			return v.From.Format(layout)
		}
	}
	return v.From.Format("2006-01-02 15:04") + " to " + v.To.Format("2006-01-02 15:04")
}

func number(l Limit, a quantity.Amount) string { return budget.Dimension(l.Dimension).Number(a) }

func (s Statement) noun(l Limit) string { return budget.Dimension(l.Dimension).Noun(s.Currency) }

// adds is what a grant adds, in words.
func (s Statement) adds(a ledger.Amounts) string {
	var texts []string
	for _, d := range sortedDimensions(a) {
		texts = append(texts, d.Format(a[d], s.Currency))
	}
	return strings.Join(texts, ", ")
}

func sortedDimensions(a ledger.Amounts) []budget.Dimension { return slices.Sorted(maps.Keys(a)) }

// keyText is a key for people.
func keyText(key []string) string {
	if text := strings.Trim(strings.Join(key, "/"), "/"); text != "" {
		return text
	}
	return "none"
}

func groupTitle(by string) string {
	return map[string]string{"budget": "Budget", "class": "GPU class", "user": "Submitted by", "namespace": "Namespace", "job": "Job", "model": "Model",
		"rate_card": "Rate card", "day": "Day"}[by]
}

// shown are the groups with so many lines that they can be read, the largest of long
// ones: what is left is one line, so that they add up all the same.
func shown(groups []Group) []Group {
	out := make([]Group, 0, len(groups))
	for _, g := range groups {
		if len(g.Lines) == 0 {
			continue
		}
		if g.By != "day" {
			g.Lines = slices.Clone(g.Lines)
			slices.SortStableFunc(g.Lines, func(a, b report.Line) int { return int(max(-1, min(1, b.Cost.Sub(a.Cost)))) })
		}
		if rest := len(g.Lines) - linesShown; rest > 1 && g.By != "day" {
			others := report.Line{Key: []string{fmt.Sprintf("%d others", rest)}}
			for _, l := range g.Lines[linesShown:] {
				others.Amounts, others.Corrected, others.Idle = others.Add(l.Amounts), others.Corrected.Add(l.Corrected), others.Idle.Add(l.Idle)
			}
			g.Lines = append(slices.Clone(g.Lines[:linesShown]), others)
		}
		out = append(out, g)
	}
	return out
}

// meter is how much of a limit is used and held, in percent, for a bar.
func meter(l Limit) map[string]int64 {
	part := func(a quantity.Amount) int64 {
		if l.Allowance <= 0 {
			return 0
		}
		return int64(quantity.MulDiv(max(0, min(a, l.Allowance)), 100, int64(l.Allowance)))
	}
	used := part(l.Used)
	return map[string]int64{"used": used, "held": min(part(l.Held), 100-used)}
}
