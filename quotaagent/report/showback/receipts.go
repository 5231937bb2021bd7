package showback

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/report"
)

//go:embed receipts.html
var receiptsPage string

// WriteReceipts writes receipts as one page, in the way of statements.
func WriteReceipts(w io.Writer, receipts []report.Receipt) error {
	t, err := template.New("receipts").Funcs(template.FuncMap{
		"money": quantity.FormatMoney, "hours": quantity.FormatHours,
		"time":  func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 MST") },
		"style": func() template.CSS { return template.CSS(style) }, //nolint:gosec // it is a file of ours
		"item":  itemName, "amount": itemAmount, "percent": func(r quantity.Ratio) string { return r.String() },
		"join": func(names []string) string { return strings.Join(names, " ") },
		"price": func(p report.Price) string {
			if each, known := p.PerGPUHour(); known {
				return quantity.FormatMoney(each)
			}
			return ""
		},
	}).Parse(receiptsPage)
	if err != nil {
		return fmt.Errorf("the page of receipts: %w", err)
	}
	if err := t.Execute(w, receipts); err != nil {
		return fmt.Errorf("write the receipts: %w", err)
	}
	return nil
}

// itemName is the name of an amount of a receipt for people.
func itemName(i report.Item) string {
	d := budget.Dimension(i.Name)
	if d == budget.Cost {
		return "Cost"
	}
	return d.Name()
}

func itemAmount(i report.Item, a quantity.Amount) string { return budget.Dimension(i.Name).Number(a) }
