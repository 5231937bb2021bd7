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
func (b *bill) versionAt(class string, startMS, atMS int64) version {
	p, at := b.policy, time.UnixMilli(atMS)
	v := version{beginMS: startMS}
	if next, changes := nextCard(p, at); changes {
		v.untilMS = firstMilli(next)
	}
	card, found := p.RateAt(at)
	if !found {
		return v
	}
	v.card, v.energy = card.Name, card.Energy
	v.beginMS = max(startMS, firstMilli(card.EffectiveFrom))
	list, _ := CardPrice(p, card, class)
	var on map[string]bool
	if usesSchedules(card) {
		b.schedules = b.schedules.at(p, atMS)
		on = b.schedules.on
		if until := b.schedules.untilMS; until != 0 && (v.untilMS == 0 || until < v.untilMS) {
			v.untilMS = until
		}
	}
	var by []quantity.Ratio
	for _, m := range card.Modifiers {
		if holds(m, b.who, at, on) {
			by = append(by, m.Multiply)
		}
	}
	v.rate = multiplied(list, by)
	return v
}

// firstMilli is the first whole millisecond that is not before an instant: a price
// that begins within a millisecond counts from the next one on.
func firstMilli(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// PriceAt is what one GPU of a class costs for an hour at an instant for work
// that is nobody's, in micro-units: on the card, with the modifiers that then
// apply, without energy. It also names the card; "" before the first.
func PriceAt(p *budget.Policy, class string, at time.Time) (rate quantity.Amount, card string) {
	b := bill{policy: p}
	v := b.versionAt(class, at.UnixMilli(), at.UnixMilli())
	return v.rate, v.card
}

// schedules is which of them are on in [fromMS, untilMS); an untilMS of 0 means
// that none changes any more.
type schedules struct {
	on              map[string]bool
	fromMS, untilMS int64
}

// at is the state of the schedules at an instant.
func (s schedules) at(p *budget.Policy, atMS int64) schedules {
	if s.on != nil && atMS >= s.fromMS && (s.untilMS == 0 || atMS < s.untilMS) {
		return s
	}
	at := time.UnixMilli(atMS)
	s = schedules{on: p.SchedulesAt(at), fromMS: atMS}
	for _, one := range p.Schedules {
		if next := one.Next(at, p.Location); !next.IsZero() && (s.untilMS == 0 || next.UnixMilli() < s.untilMS) {
			s.untilMS = next.UnixMilli()
		}
	}
	return s
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
