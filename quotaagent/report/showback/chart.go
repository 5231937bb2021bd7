package showback

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// The size of the chart, in its own units, and how many days it can show.
const (
	chartWidth  = 720
	chartHeight = 180
	chartDays   = 400
)

// chart is what was spent from day to day, added up, against the limit.
type chart struct {
	Width, Height int
	// Line and Area are the path of the sums.
	Line, Area string
	// Limit is where the limit is, if there is one for this time.
	HasLimit bool
	Limit    int64
	// Text says the same in words.
	Text string
}

// chartOf draws the days of a statement; nil where nothing was spent.
func chartOf(s Statement) *chart {
	spent := make(map[string]quantity.Amount)
	for _, g := range s.Groups {
		for _, l := range g.Lines {
			if g.By == "day" {
				spent[l.Key[0]] = l.Cost
			}
		}
	}
	sums, days := []quantity.Amount{}, 0
	total, most := quantity.Amount(0), quantity.Amount(0)
	for p := budget.PeriodAt(budget.Day, s.From, s.From.Location()); p.Start.Before(s.To) && days < chartDays; p = p.Next(s.From.Location()) {
		days++
		if p.Start.After(s.Made) {
			continue // still to come
		}
		total = total.Add(spent[p.Start.Add(p.End.Sub(p.Start)/2).Format(time.DateOnly)])
		sums, most = append(sums, total), max(most, total)
	}
	if most <= 0 || days < 2 {
		return nil
	}
	c := &chart{Width: chartWidth, Height: chartHeight, Text: fmt.Sprintf("%s %s in %d days", quantity.FormatMoney(total), s.Currency, len(sums))}
	scale := most
	if limit, ok := s.costLimit(); ok {
		scale = max(scale, limit)
		c.HasLimit, c.Limit = true, height(limit, scale)
		c.Text += ", of a limit of " + quantity.FormatMoney(limit) + " " + s.Currency
	}
	var line strings.Builder
	for i, sum := range sums {
		fmt.Fprintf(&line, "%s%d,%d", map[bool]string{true: "M", false: " L"}[i == 0], (i+1)*chartWidth/days, height(sum, scale))
	}
	c.Line = line.String()
	c.Area = fmt.Sprintf("M0,%d L%s L%d,%d Z", chartHeight, strings.TrimPrefix(c.Line, "M"), len(sums)*chartWidth/days, chartHeight)
	return c
}

// costLimit is what the time allowed to spend; false where no limit is of exactly it.
func (s Statement) costLimit() (quantity.Amount, bool) {
	for _, l := range s.Limits {
		if l.Dimension == string(budget.Cost) && !l.Unlimited && l.Start != nil && l.Start.Equal(s.From) && l.End.Equal(s.To) {
			return l.Allowance, true
		}
	}
	return 0, false
}

// height is where an amount is, from the top.
func height(a, scale quantity.Amount) int64 {
	const margin = 8
	return chartHeight - int64(quantity.MulDiv(max(0, a), chartHeight-margin, int64(scale)))
}
