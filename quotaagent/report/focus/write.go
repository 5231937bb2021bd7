package focus

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// Version of the specification that the columns follow.
const Version = "1.2"

// unassigned is the account of what is no budget's, where there are several
// organisations or none.
const unassigned = "unassigned"

// column is one column of the table.
type column struct {
	name string
	text func(w *Writer, r *row) string
}

// columns are the 21 that FOCUS 1.2 makes mandatory, those conditional and recommended
// ones that there is something to say in, and our own, which begin with x_.
func columns() []column {
	return append(append(mandatory(), optional()...), own()...)
}

func mandatory() []column {
	return []column{
		{"BilledCost", func(_ *Writer, r *row) string { return report.Money(r.cost) }},
		{"BillingAccountId", func(w *Writer, r *row) string { return w.account(r) }},
		{"BillingAccountName", func(w *Writer, r *row) string { return w.account(r) }},
		{"BillingCurrency", func(w *Writer, _ *row) string { return w.currency }},
		{"BillingPeriodEnd", func(_ *Writer, r *row) string { return instant(r.BillingEnd) }},
		{"BillingPeriodStart", func(_ *Writer, r *row) string { return instant(r.BillingStart) }},
		{"ChargeCategory", func(_ *Writer, r *row) string { return r.category }},
		{"ChargeClass", func(_ *Writer, r *row) string { return only(r.Late, "Correction") }},
		{"ChargeDescription", func(_ *Writer, r *row) string { return r.description }},
		{"ChargePeriodEnd", func(_ *Writer, r *row) string { return instant(r.End) }},
		{"ChargePeriodStart", func(_ *Writer, r *row) string { return instant(r.Start) }},
		{"ContractedCost", func(_ *Writer, r *row) string { return report.Money(r.list) }}, // nothing is negotiated
		{"EffectiveCost", func(_ *Writer, r *row) string { return report.Money(r.cost) }},
		{"InvoiceIssuerName", func(w *Writer, r *row) string { return w.account(r) }},
		{"ListCost", func(_ *Writer, r *row) string { return report.Money(r.list) }},
		{"PricingQuantity", func(_ *Writer, r *row) string { return only(r.sku != "", decimal(r.quantity)) }},
		{"PricingUnit", func(_ *Writer, r *row) string { return r.unit }},
		{"ProviderName", func(w *Writer, r *row) string { return w.account(r) }},
		{"PublisherName", func(*Writer, *row) string { return "Governor" }},
		{"ServiceCategory", func(_ *Writer, r *row) string { return r.service.category }},
		{"ServiceName", func(_ *Writer, r *row) string { return r.service.name }},
	}
}

func optional() []column {
	unused := func(r *row) bool { return r.Kind == ledger.UnallocatedEntry }
	return []column{
		{"CapacityReservationId", func(w *Writer, r *row) string {
			return only(unused(r), strings.Join([]string{"idle", cmp.Or(r.Budget, w.account(r)), orNone(r.Class)}, "/"))
		}},
		{"CapacityReservationStatus", func(_ *Writer, r *row) string { return only(unused(r), "Unused") }},
		{"ChargeFrequency", func(_ *Writer, r *row) string {
			if r.sku == "" {
				return "One-Time"
			}
			return "Usage-Based"
		}},
		{"ConsumedQuantity", func(_ *Writer, r *row) string { return only(r.category == "Usage", decimal(r.quantity)) }},
		{"ConsumedUnit", func(_ *Writer, r *row) string { return only(r.category == "Usage", r.unit) }},
		{"ListUnitPrice", func(_ *Writer, r *row) string { return only(r.sku != "", report.Money(r.unitPrice)) }},
		{"PricingCategory", func(_ *Writer, r *row) string {
			switch {
			case r.sku == "":
				return ""
			case r.dynamic:
				return "Dynamic"
			}
			return "Standard"
		}},
		{"ResourceId", func(_ *Writer, r *row) string { return only(r.Job != "", r.Namespace+"/"+r.Job) }},
		{"ResourceName", func(_ *Writer, r *row) string { return only(r.Job != "", r.Namespace+"/"+r.Job) }},
		{"ResourceType", func(_ *Writer, r *row) string { return only(r.Job != "", "Nomad job") }},
		{"ServiceSubcategory", func(_ *Writer, r *row) string { return r.service.subcategory }},
		{"SkuId", func(_ *Writer, r *row) string { return r.sku }},
		{"SkuMeter", func(_ *Writer, r *row) string { return r.meter }},
		{"SkuPriceId", func(_ *Writer, r *row) string { return r.sku }},
		{"SubAccountId", func(_ *Writer, r *row) string { return r.Budget }},
		{"SubAccountName", func(_ *Writer, r *row) string { return r.Budget }},
		{"Tags", func(_ *Writer, r *row) string { return tags(r) }},
	}
}

func own() []column {
	return []column{
		{"x_Author", func(_ *Writer, r *row) string { return r.Author }},
		{"x_EnergyJoules", func(_ *Writer, r *row) string { return strconv.FormatInt(int64(r.energy), 10) }},
		{"x_Entry", func(_ *Writer, r *row) string { return r.Key }},
		{"x_Estimated", func(_ *Writer, r *row) string { return strconv.FormatBool(r.Estimated) }},
		{"x_GpuClass", func(_ *Writer, r *row) string { return r.Class }},
		{"x_GpuMilliseconds", func(_ *Writer, r *row) string { return strconv.FormatInt(int64(r.gpuTime), 10) }},
		{"x_Kind", func(_ *Writer, r *row) string { return r.Kind }},
		{"x_RateCard", func(_ *Writer, r *row) string { return r.RateCard }},
	}
}

func only(when bool, text string) string {
	if when {
		return text
	}
	return ""
}

func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// decimal writes billionths as a plain number.
func decimal(a quantity.Amount) string {
	digits, sign := strconv.FormatInt(int64(a), 10), ""
	if a < 0 {
		digits, sign = digits[1:], "-"
	}
	if len(digits) < 10 {
		digits = strings.Repeat("0", 10-len(digits)) + digits
	}
	whole, rest := digits[:len(digits)-9], strings.TrimRight(digits[len(digits)-9:], "0")
	if rest == "" {
		return sign + whole
	}
	return sign + whole + "." + rest
}

// tags are key and value pairs under our prefix.
func tags(r *row) string {
	set := map[string]string{}
	for name, value := range map[string]string{"namespace": r.Namespace, "job": r.Job, "user": r.User, "model": r.Model} {
		if value != "" {
			set["governor/"+name] = value
		}
	}
	text, err := json.Marshal(set)
	if err != nil {
		return "{}" // texts always encode
	}
	return string(text)
}

// Writer writes charges as they come.
type Writer struct {
	out      *csv.Writer
	prices   Prices
	currency string
	// fallback is the account of what is no budget's.
	fallback string
	columns  []column
	record   []string
}

// NewWriter begins a table. roots are the organisations of the policy.
func NewWriter(w io.Writer, prices Prices, currency string, roots []string) (*Writer, error) {
	x := &Writer{out: csv.NewWriter(w), prices: prices, currency: currency, fallback: unassigned, columns: columns()}
	if len(roots) == 1 {
		x.fallback = roots[0]
	}
	head := make([]string, len(x.columns))
	for i, c := range x.columns {
		head[i] = c.name
	}
	x.record = make([]string, len(head))
	if err := x.out.Write(head); err != nil {
		return nil, fmt.Errorf("write the export: %w", err)
	}
	return x, nil
}

func (w *Writer) account(r *row) string {
	if root := organisation(r.Budget); root != "" {
		return root
	}
	return w.fallback
}

// Write writes the rows of one charge.
func (w *Writer) Write(c Charge) error {
	for _, r := range w.prices.rows(&c) {
		for i, column := range w.columns {
			w.record[i] = column.text(w, &r)
		}
		if err := w.out.Write(w.record); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
	}
	return nil
}

// Flush writes what is buffered; it is called once at the end.
func (w *Writer) Flush() error {
	w.out.Flush()
	if err := w.out.Error(); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	return nil
}
