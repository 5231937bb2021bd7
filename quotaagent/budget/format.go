package budget

import (
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Format prints an amount of a dimension with its unit, without the GPU class:
// "12.40 USD", "4.02 GPU-hours", "1 GPU", "3.5 kWh", "400,000 output tokens".
func (d Dimension) Format(a quantity.Amount, currency string) string {
	if d == Cost {
		return quantity.FormatMoney(a) + " " + currency
	}
	unit := d.unit()
	if a == quantity.GPU && d.IsGPUs() || a == 1 && (d == Jobs || d.IsTokens()) {
		unit = strings.TrimSuffix(unit, "s")
	}
	return d.Number(a) + " " + unit
}

// Number prints an amount of a dimension without its unit.
func (d Dimension) Number(a quantity.Amount) string {
	switch {
	case d == Cost:
		return quantity.FormatMoney(a)
	case d == Energy:
		return quantity.FormatDecimal(a, quantity.KWh, 4)
	case d.IsGPUTime():
		return quantity.FormatHours(a)
	case d.IsGPUs():
		return quantity.FormatGPUs(a)
	}
	return quantity.FormatDecimal(a, 1, 0)
}

// Noun names a dimension in a table: "cost in USD", "h100 GPU-hours", "kWh".
func (d Dimension) Noun(currency string) string {
	if d == Cost {
		return "cost in " + currency
	}
	return d.Name()
}

// Name is the dimension in words: "cost", "h100 GPU-hours", "GPUs".
func (d Dimension) Name() string {
	if class := d.Class(); class != AnyClass && class != "" && !d.IsTokens() {
		return class + " " + d.unit()
	}
	return d.unit()
}

func (d Dimension) unit() string {
	switch {
	case d.IsGPUTime():
		return "GPU-hours"
	case d.IsGPUs():
		return "GPUs"
	case d == Energy:
		return "kWh"
	case d == Jobs:
		return "jobs"
	case d.IsTokens():
		return d.Class() + " tokens"
	}
	return string(d)
}
