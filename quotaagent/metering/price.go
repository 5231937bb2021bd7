package metering

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// payerOf is who pays for a hold.
func payerOf(h ledger.Hold) payer {
	return payer{job: h.Facts, submitter: budget.SubmitterFacts{Accessor: h.Accessor, Names: h.Identity}}
}

// version is the price of a class for one payer from some instant on: that of one
// rate card, with the modifiers that apply.
type version struct {
	// rate is what one GPU costs for an hour, without energy, in micro-units.
	rate quantity.Amount
	card string
	// energy is its price; nil when the card has none.
	energy *budget.EnergyRate
	// beginMS is from when time is summed up: the start of the allocation, or that
	// of the rate card if it is later.
	beginMS int64
	// untilMS is when it may change; 0 for never.
	untilMS int64
}

// cost is the price of [fromMS, toMS) of some GPUs: the difference of two
// cumulative prices since the version's begin, so that many small postings add up
// to exactly one large one.
func (v version) cost(fromMS, toMS, gpus int64) quantity.Amount {
	until := func(ms int64) quantity.Amount {
		return quantity.Cost(quantity.Amount(ms-v.beginMS).Mul(gpus), v.rate)
	}
	return until(toMS).Sub(until(fromMS))
}

// versionAt is the price of a class at an instant, for an allocation that began
// at startMS. Before the first rate card, and for a class without a price, it is
// zero.
func versionAt(p *budget.Policy, class string, who payer, startMS, atMS int64) version {
	at := time.UnixMilli(atMS)
	v := version{beginMS: startMS}
	if next, changes := nextCard(p, at); changes {
		v.untilMS = next.UnixMilli()
	}
	card, found := p.RateAt(at)
	if !found {
		return v
	}
	v.card, v.energy = card.Name, card.Energy
	v.beginMS = max(startMS, card.EffectiveFrom.UnixMilli())
	list, _ := CardPrice(p, card, class)
	if len(card.Modifiers) == 0 {
		v.rate = list
		return v
	}
	on, until := schedulesAt(p, card, at)
	if !until.IsZero() && (v.untilMS == 0 || until.UnixMilli() < v.untilMS) {
		v.untilMS = until.UnixMilli()
	}
	var by []quantity.Ratio
	for _, m := range card.Modifiers {
		if holds(m, who, at, on) {
			by = append(by, m.Multiply)
		}
	}
	v.rate = multiplied(list, by)
	return v
}

// PriceAt is what one GPU of a class costs for an hour at an instant for anybody,
// in micro-units: that of the card with modifiers that depend on nobody, without
// energy.
func PriceAt(p *budget.Policy, class string, at time.Time) (rate quantity.Amount, card string) {
	v := versionAt(p, class, payer{}, at.UnixMilli(), at.UnixMilli())
	return v.rate, v.card
}

// schedulesAt is which schedules are on, and when that changes next; empty and
// zero when the card does not depend on schedules.
func schedulesAt(p *budget.Policy, card budget.RateCard, at time.Time) (on map[string]bool, until time.Time) {
	on = make(map[string]bool, len(p.Schedules))
	if !usesSchedules(card) {
		return on, until
	}
	for _, s := range p.Schedules {
		on[s.Name] = s.Contains(at, p.Location)
		next := s.Next(at, p.Location)
		if !next.IsZero() && (until.IsZero() || next.Before(until)) {
			until = next
		}
	}
	return on, until
}

// nextCard is when the first rate card after t becomes effective.
func nextCard(p *budget.Policy, t time.Time) (time.Time, bool) {
	for _, card := range p.RateCards {
		if card.EffectiveFrom.After(t) {
			return card.EffectiveFrom, true
		}
	}
	return time.Time{}, false
}
