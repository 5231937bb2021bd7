package metering

import (
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// CardPrice is the list price of a class on a rate card, before modifiers, in
// micro-units for a GPU-hour. A class that is not on the card but counts as
// shares of classes that are (a MIG instance) costs its shares of their prices.
// It is false when neither is priced.
func CardPrice(p *budget.Policy, card budget.RateCard, class string) (quantity.Amount, bool) {
	if price, ok := card.PerGPUHour[class]; ok {
		return price, true
	}
	shares := sharesOf(p, class)
	total := quantity.Amount(0)
	for _, s := range shares {
		price, ok := card.PerGPUHour[s.Class]
		if !ok {
			return 0, false
		}
		total = total.Add(quantity.MulDiv(price, int64(s.Parts), int64(quantity.GPU)))
	}
	return total, len(shares) > 0
}

func sharesOf(p *budget.Policy, class string) []budget.Share {
	for _, c := range p.Classes {
		if c.Name == class {
			return c.Shares
		}
	}
	return nil
}

// Watts bounds what one device of a class draws: what its gpu_class says, else
// its shares of what the classes that it is part of may draw. It is 0 when the
// policy does not say.
func Watts(p *budget.Policy, class string) int64 {
	bound := func(name string) (own int64, shares []budget.Share) {
		for _, c := range p.Classes {
			if c.Name == name {
				return c.Watts, c.Shares
			}
		}
		return 0, nil
	}
	own, shares := bound(class)
	if own != 0 {
		return own
	}
	total := quantity.Amount(0)
	for _, s := range shares {
		whole, _ := bound(s.Class)
		if whole == 0 {
			return 0
		}
		total = total.Add(quantity.MulDivUp(s.Parts, whole, int64(quantity.GPU)))
	}
	return int64(total)
}

// energyPerHour bounds what the energy of one device costs for an hour, in
// micro-units; 0 when the card does not price energy.
func energyPerHour(p *budget.Policy, card budget.RateCard, class string) quantity.Amount {
	if card.Energy == nil {
		return 0
	}
	// watts x hours / 1000 are kWh; PUE is in millionths.
	perHour := quantity.Amount(Watts(p, class)).Mul(int64(card.Energy.PerKWh))
	return quantity.MulDivUp(perHour, int64(card.Energy.PUE), 1000*int64(quantity.RatioOne))
}

// EnergyCost prices energy in joules, PUE included, rounded half to even. Callers
// price cumulative energy and post the difference.
func EnergyCost(rate *budget.EnergyRate, joules quantity.Amount) quantity.Amount {
	if rate == nil {
		return 0
	}
	// The price of a joule is PerKWh x PUE / (3,600,000 x 1,000,000).
	perKWh := quantity.MulDiv(rate.PerKWh, int64(rate.PUE), int64(quantity.RatioOne))
	return quantity.MulDiv(joules, int64(perKWh), int64(quantity.KWh))
}

// payer is whose price it is: modifiers may depend on the job and on who
// submitted it.
type payer struct {
	job       budget.JobFacts
	submitter budget.SubmitterFacts
	// anybody says that the submitter is not known.
	anybody bool
}

// DearestRate is the highest price of one device of a class for an hour, in
// micro-units, at any time in [from, to]: on all rate cards in force then, with
// their modifiers, and with energy at the bound of its watts where a card prices
// it. Modifiers that depend on the submitter count if they make it dearer. It is
// false when one of the cards has no price for the class, or when none is in
// force at from.
func DearestRate(p *budget.Policy, class string, job budget.JobFacts, from, to time.Time) (quantity.Amount, bool) {
	return dearestRate(p, class, payer{job: job, anybody: true}, from, to)
}

// DearestAnywhere is DearestRate for work that may run at any time from from on:
// on every rate card that is or comes into force, whatever schedules are on.
func DearestAnywhere(p *budget.Policy, class string, job budget.JobFacts, from time.Time) (quantity.Amount, bool) {
	who := payer{job: job, anybody: true}
	card, priced := p.RateAt(from)
	rate, ok := dearestOn(p, card, class, who, from)
	priced = priced && ok
	for _, later := range p.RateCards {
		if later.EffectiveFrom.After(from) {
			next, ok := dearestOn(p, later, class, who, later.EffectiveFrom)
			rate, priced = max(rate, next), priced && ok
		}
	}
	return rate, priced
}

func dearestRate(p *budget.Policy, class string, who payer, from, to time.Time) (quantity.Amount, bool) {
	card, priced := p.RateAt(from)
	rate, ok := dearestOn(p, card, class, who, from)
	priced = priced && ok
	for _, later := range p.RateCards {
		if later.EffectiveFrom.After(from) && !later.EffectiveFrom.After(to) {
			next, ok := dearestOn(p, later, class, who, later.EffectiveFrom)
			rate, priced = max(rate, next), priced && ok
		}
	}
	return rate, priced
}

// dearestOn is the highest price on one card in any state of the schedules,
// energy at its bound included.
func dearestOn(p *budget.Policy, card budget.RateCard, class string, who payer, at time.Time) (quantity.Amount, bool) {
	list, priced := CardPrice(p, card, class)
	rate := quantity.Amount(0)
	for _, on := range scheduleStates(p, card) {
		rate = max(rate, multiplied(list, dearestMultipliers(card, who, at, on)))
	}
	return rate.Add(energyPerHour(p, card, class)), priced
}

// jointSchedules is how many schedules are looked at together, in all states
// that they can have. With more, each modifier counts as it is dearest.
const jointSchedules = 4

// scheduleStates are the states that the policy's schedules may be in, as far as
// the card depends on them; a nil state is an unknown one.
func scheduleStates(p *budget.Policy, card budget.RateCard) []map[string]bool {
	if !usesSchedules(card) {
		return []map[string]bool{{}}
	}
	if len(p.Schedules) > jointSchedules {
		return []map[string]bool{nil}
	}
	states := []map[string]bool{{}}
	for _, s := range p.Schedules {
		for _, state := range slices.Clone(states) {
			on := maps.Clone(state)
			state[s.Name], on[s.Name] = false, true
			states = append(states, on)
		}
	}
	return states
}

func usesSchedules(card budget.RateCard) bool {
	return slices.ContainsFunc(card.Modifiers, func(m budget.Modifier) bool { return m.When != nil && m.When.Uses("schedule") })
}

// dearestMultipliers are those that apply, and of those whose condition depends
// on what is not known the ones that make it dearer.
func dearestMultipliers(card budget.RateCard, who payer, at time.Time, schedules map[string]bool) []quantity.Ratio {
	var out []quantity.Ratio
	for _, m := range card.Modifiers {
		applies := m.Multiply > quantity.RatioOne
		if !unknownTo(m, who, schedules) {
			applies = holds(m, who, at, schedules)
		}
		if applies {
			out = append(out, m.Multiply)
		}
	}
	return out
}

func unknownTo(m budget.Modifier, who payer, schedules map[string]bool) bool {
	return m.When != nil && (m.When.Uses("now") || who.anybody && m.When.Uses("submitter") || schedules == nil && m.When.Uses("schedule"))
}

// holds reports whether a modifier applies. One whose condition cannot be
// decided, because the job lacks what it asks for, does not.
func holds(m budget.Modifier, who payer, at time.Time, schedules map[string]bool) bool {
	if m.When == nil {
		return true
	}
	yes, err := m.When.Holds(budget.Facts{Now: at, Job: who.job, Submitter: who.submitter, Schedules: schedules})
	return err == nil && yes
}

// multiplied is a price times all multipliers, rounded half to even once.
func multiplied(price quantity.Amount, by []quantity.Ratio) quantity.Amount {
	switch len(by) {
	case 0:
		return price
	case 1:
		return by[0].Of(price)
	}
	product, scale := big.NewInt(int64(price)), big.NewInt(1)
	for _, m := range by {
		product.Mul(product, big.NewInt(int64(m)))
		scale.Mul(scale, big.NewInt(int64(quantity.RatioOne)))
	}
	whole, rest := new(big.Int).QuoRem(product, scale, new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(scale); c > 0 || c == 0 && whole.Bit(0) == 1 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return quantity.MaxAmount
	}
	return quantity.Amount(whole.Int64())
}
