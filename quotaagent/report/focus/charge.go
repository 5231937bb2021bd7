package focus

import (
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// Charge is what was used of one thing on one day: a row of the history's sums, or one
// correction that a person wrote.
type Charge struct {
	// Kind is one of ledger.EntryKinds.
	Kind      string
	Estimated bool
	Budget    string
	Namespace string
	Job       string
	User      string
	Class     string
	RateCard  string
	Model     string
	report.Amounts
	// [Start, End) is the charge period, [BillingStart, BillingEnd) the month.
	Start, End               time.Time
	BillingStart, BillingEnd time.Time
	// Key, Author and Reason are those of a correction by hand; Late says that it amends a
	// month that was over when it was written.
	Key, Author, Reason string
	Late                bool
}

// Prices is the price list.
type Prices struct {
	// PerGPUHour is what a GPU of a class costs for an hour on a rate card, in
	// micro-units, and EnergyPerKWh what a kilowatt-hour costs with all that the building
	// adds; false where the card has no such price.
	PerGPUHour   func(card, class string) (quantity.Amount, bool)
	EnergyPerKWh func(card string) (quantity.Amount, bool)
}

// row is one charge of one SKU.
type row struct {
	*Charge
	category, description string
	// sku is "" for what has none; quantity is in billionths of the unit.
	sku, meter, unit string
	quantity         quantity.Amount
	cost, list       quantity.Amount
	unitPrice        quantity.Amount
	// dynamic says that a modifier made it cheaper or dearer than the card.
	dynamic         bool
	service         service
	gpuTime, energy quantity.Amount
}

// service is what FOCUS calls the kind of a service.
type service struct{ category, subcategory, name string }

var (
	compute  = service{"Compute", "Other (Compute)", "GPU compute"}
	language = service{"AI and Machine Learning", "Generative AI", "Language models"}
)

// billion is the scale of quantities.
const billion = 1_000_000_000

// rows are the rows of one charge. Their costs add up to its cost exactly: what is not
// energy is GPU time, so that rounding is in one of them and never lost.
func (p Prices) rows(c *Charge) []row {
	if c.Amounts == (report.Amounts{}) {
		return nil
	}
	if c.Author != "" || c.Kind == ledger.CorrectionEntry && c.User == "" {
		return []row{c.adjustment("Correction by hand: " + c.reason())}
	}
	var out []row
	left := c.Cost
	if energy, price, ok := p.energyOf(c); ok {
		r := row{Charge: c, category: "Usage", sku: "energy", meter: "Energy", unit: "kWh", quantity: scaled(c.Energy, quantity.KWh), cost: energy, unitPrice: price,
			service: compute, energy: c.Energy, description: "Energy of " + c.what()}
		left = left.Sub(energy)
		out = append(out, r.priced())
	}
	switch {
	case c.GPUTime != 0:
		price, _ := p.PerGPUHour(c.RateCard, c.Class)
		r := row{Charge: c, category: "Usage", sku: "gpu/" + orNone(c.Class), meter: "GPU Time", unit: "GPU-Hours", quantity: scaled(c.GPUTime, quantity.GPUHour), cost: left,
			unitPrice: price, service: compute, gpuTime: c.GPUTime, description: "GPU time of " + c.what()}
		if len(out) == 0 {
			r.energy = c.Energy
		}
		out = append(out, r.priced())
	case c.Tokens() != 0:
		r := row{Charge: c, category: "Usage", sku: "tokens/" + orNone(c.Model), meter: "Tokens", unit: "1000000 Tokens", quantity: c.Tokens().Mul(1000), cost: left,
			service: language, description: "Tokens of " + c.what()}
		out = append(out, r.priced())
	case len(out) > 0:
		out[0].cost = c.Cost // all of it is energy
		out[0] = out[0].priced()
	default:
		out = append(out, c.adjustment("Cost without a quantity, of "+c.what()))
	}
	return out
}

// energyOf is what the energy of a charge cost; false where its card does not price it,
// or it used none. It is never more than the charge.
func (p Prices) energyOf(c *Charge) (cost, price quantity.Amount, ok bool) {
	price, ok = p.EnergyPerKWh(c.RateCard)
	if !ok || c.Energy == 0 || c.Cost == 0 || (c.Energy < 0) != (c.Cost < 0) {
		return 0, 0, false
	}
	if c.Energy < 0 {
		return max(c.Cost, -quantity.MulDiv(-c.Energy, int64(price), int64(quantity.KWh))), price, true
	}
	return min(c.Cost, quantity.MulDiv(c.Energy, int64(price), int64(quantity.KWh))), price, true
}

func (c *Charge) adjustment(description string) row {
	return row{Charge: c, category: "Adjustment", description: description, cost: c.Cost, list: c.Cost, service: compute, gpuTime: c.GPUTime, energy: c.Energy}
}

func (c *Charge) reason() string {
	if c.Reason == "" {
		return "its entry is not kept any more"
	}
	return c.Reason
}

// what names what was used, and by whom.
func (c *Charge) what() string {
	name := orNone(c.Class)
	switch {
	case c.Kind == ledger.UnallocatedEntry:
		return name + " that nobody had"
	case c.Model != "":
		name = c.Model
	}
	if c.Job != "" {
		name += " by " + c.Namespace + "/" + c.Job
	}
	if c.Kind == ledger.UngovernedEntry {
		name += ", around Governor"
	}
	if c.Kind == ledger.CorrectionEntry {
		name += ", taken back by the meter"
	}
	return name
}

func orNone(text string) string {
	if text == "" {
		return "unclassified"
	}
	return text
}

// priced sets the list cost. It is the list price times the quantity, and never less
// than the cost: where the cost is higher by more than rounding explains, a modifier has
// made it dearer, and the list price is what was charged.
func (r row) priced() row {
	size := func(a quantity.Amount) quantity.Amount { return max(a, -a) }
	cost, amount := size(r.cost), size(r.quantity)
	list := quantity.MulDiv(amount, int64(r.unitPrice), billion)
	if cost > list && cost.Sub(list) > list/1000+2 && amount > 0 {
		r.dynamic = r.unitPrice > 0
		r.unitPrice = quantity.MulDivUp(cost, billion, int64(amount))
		list = quantity.MulDiv(amount, int64(r.unitPrice), billion)
	}
	r.list = max(list, cost)
	r.dynamic = r.dynamic || r.list.Sub(cost) > r.list/1000+2
	if r.quantity < 0 || r.cost < 0 {
		r.list = -r.list
	}
	return r
}

// scaled is an amount in billionths of a unit.
func scaled(a, unit quantity.Amount) quantity.Amount {
	if a < 0 {
		return -quantity.MulDiv(-a, billion, int64(unit))
	}
	return quantity.MulDiv(a, billion, int64(unit))
}

// organisation is the root of the tree that a budget is in.
func organisation(path string) string {
	root, _, _ := strings.Cut(path, "/")
	return root
}
