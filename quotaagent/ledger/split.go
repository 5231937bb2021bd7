package ledger

import (
	"math/bits"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Part is the part of an entry that falls into one hour.
type Part struct {
	Hour budget.Period
	// GPUTime in GPU-milliseconds, Cost in micro-units, Energy in joules.
	GPUTime, Cost, Energy quantity.Amount
	Tokens                map[budget.TokenKind]quantity.Amount
	// Shares is the GPU time that counts towards each class, any included.
	Shares map[string]quantity.Amount
}

// Hours shares an entry out among the hours of a zone that it overlaps, by time.
// The parts of every amount add up to exactly that amount: what rounding leaves
// goes to the largest remainders, the earlier first. An entry without a length
// belongs to the hour of its instant.
func (e Entry) Hours(loc *time.Location) []Part {
	hours, lengths := e.overlaps(loc)
	parts := make([]Part, len(hours))
	gpu, cost, energy := share(e.GPUTime, lengths), share(e.Cost, lengths), share(e.Energy, lengths)
	for i, p := range hours {
		parts[i] = Part{Hour: p, GPUTime: gpu[i], Cost: cost[i], Energy: energy[i]}
	}
	for class, a := range e.Counts() {
		for i, part := range share(a, lengths) {
			if parts[i].Shares == nil {
				parts[i].Shares = make(map[string]quantity.Amount)
			}
			parts[i].Shares[class] = part
		}
	}
	for _, kind := range budget.TokenKinds() {
		if e.Tokens[kind] == 0 {
			continue
		}
		for i, a := range share(e.Tokens[kind], lengths) {
			if parts[i].Tokens == nil {
				parts[i].Tokens = make(map[budget.TokenKind]quantity.Amount)
			}
			parts[i].Tokens[kind] = a
		}
	}
	return parts
}

// Counts is the GPU time that counts towards each class, any included.
func (e Entry) Counts() map[string]quantity.Amount {
	switch {
	case e.Shares != nil:
		return e.Shares
	case e.Class == "" || e.GPUTime == 0:
		return nil
	}
	return map[string]quantity.Amount{e.Class: e.GPUTime, budget.AnyClass: e.GPUTime}
}

// overlaps are the hours that the entry overlaps, and the milliseconds of it in
// each.
func (e Entry) overlaps(loc *time.Location) ([]budget.Period, []int64) {
	from, to := time.UnixMilli(e.FromMS), time.UnixMilli(e.ToMS)
	p := budget.PeriodAt(budget.Hour, from, loc)
	if !p.End.Before(to) {
		return []budget.Period{p}, []int64{1}
	}
	var hours []budget.Period
	var lengths []int64
	for ; ; p = p.Next(loc) {
		hours, lengths = append(hours, p), append(lengths, p.Overlap(from, to))
		if !p.End.Before(to) {
			return hours, lengths
		}
	}
}

// share divides an amount by weights, of which at least one is positive; the
// parts add up to the amount. A negative amount is shared as its magnitude.
func share(a quantity.Amount, weights []int64) []quantity.Amount {
	parts := make([]quantity.Amount, len(weights))
	if len(weights) == 1 || a == 0 {
		parts[0] = a
		return parts
	}
	total := uint64(0)
	for _, w := range weights {
		total += uint64(w)
	}
	magnitude, sign := uint64(a), quantity.Amount(1)
	if a < 0 {
		magnitude, sign = uint64(-(a+1))+1, -1
	}
	remainders, left := make([]uint64, len(weights)), magnitude
	for i, w := range weights {
		high, low := bits.Mul64(magnitude, uint64(w))
		q, r := bits.Div64(high, low, total) // w <= total, so the quotient fits
		parts[i], remainders[i] = quantity.Amount(q)*sign, r
		left -= q
	}
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case remainders[i] > remainders[j]:
			return -1
		case remainders[i] < remainders[j]:
			return 1
		}
		return 0
	})
	for _, i := range order[:left] {
		parts[i] += sign
	}
	return parts
}
