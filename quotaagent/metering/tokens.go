package metering

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// TokenPrices are the prices of a million tokens of a model at an instant, in
// micro-units, and the rate card that they are on. Cached tokens without a price of
// their own cost what input costs. What has no price is left out; none at all for a
// model that is on no card.
func TokenPrices(p *budget.Policy, model string, at time.Time) (perMillion ledger.Tokens, card string) {
	prices, found := p.RateAt(at)
	if !found {
		return nil, ""
	}
	rate, known := prices.Tokens[model]
	if !known {
		return nil, prices.Name
	}
	return withCached(rate.PerMillion), prices.Name
}

func withCached(listed ledger.Tokens) ledger.Tokens {
	out := make(ledger.Tokens, len(listed)+1)
	for kind, price := range listed {
		out[kind] = price
	}
	if input, priced := out[budget.InputTokens]; priced {
		if _, own := out[budget.CachedTokens]; !own {
			out[budget.CachedTokens] = input
		}
	}
	return out
}

// DearestTokens are, kind by kind, the highest prices of any model on the rate card
// that is in force at an instant.
func DearestTokens(p *budget.Policy, at time.Time) ledger.Tokens {
	prices, _ := p.RateAt(at)
	dearest := make(map[budget.TokenKind]quantity.Amount)
	for _, rate := range prices.Tokens {
		for kind, price := range withCached(rate.PerMillion) {
			dearest[kind] = max(dearest[kind], price)
		}
	}
	return dearest
}
