package budgetspec

import (
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

func (d *decoder) rateCardBlock(block *hclsyntax.Block) {
	known := d.open(rateCardSpec(), block.Body)
	name, ok := d.name(block, rateCardSpec())
	if !ok {
		return
	}
	if first, taken := d.cards[name]; taken {
		d.report(duplicateName(block.DefRange(), "rate_card", name, first))
		return
	}
	d.cards[name] = block.DefRange()
	card := budget.RateCard{Name: name, PerGPUHour: map[string]quantity.Amount{}, Source: sourceOf(block.DefRange())}
	d.prices(&card, known.blocks)
	if len(block.Body.Blocks) == 0 {
		d.report(missing(block.DefRange(), "rate_card", "the price of any GPU", `gpu "h100" { per_hour = 2.90 }`))
	}
	attr := known.attributes["effective_from"]
	if attr == nil {
		d.report(missing(block.DefRange(), "rate_card", "effective_from", `effective_from = "2026-07-01T00:00:00+02:00"`))
		return
	}
	text, ok := d.text(attr)
	if !ok {
		return
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		d.report(badTime(attr.Expr.Range(), text))
		return
	}
	card.EffectiveFrom = at.UTC()
	if other, taken := d.starts[card.EffectiveFrom]; taken {
		d.report(simultaneousCards(attr.Expr.Range(), text, name, other, d.cards[other]))
		return
	}
	d.starts[card.EffectiveFrom] = name
	d.policy.RateCards = append(d.policy.RateCards, card)
}

// prices decodes what a card prices.
func (d *decoder) prices(card *budget.RateCard, blocks []*hclsyntax.Block) {
	gpus, models, modifiers := map[string]hcl.Range{}, map[string]hcl.Range{}, map[string]hcl.Range{}
	for _, b := range blocks {
		switch b.Type {
		case "gpu":
			before := len(d.diags)
			d.priceBlock(b, card.PerGPUHour, gpus)
			d.incomplete[card.Name] = d.incomplete[card.Name] || len(d.diags) > before
		case "tokens":
			d.tokensBlock(b, card, models)
		case "modifier":
			d.modifierBlock(b, card, modifiers)
		}
	}
	if b := d.only("energy", blocks); b != nil {
		d.energyBlock(b, card)
	}
}

func (d *decoder) priceBlock(block *hclsyntax.Block, prices map[string]quantity.Amount, places map[string]hcl.Range) {
	attrs := d.open(priceSpec(), block.Body).attributes
	class, ok := d.label(block, priceSpec())
	if !ok {
		return
	}
	if class == anyClass {
		d.report(priceOfAny(block.LabelRanges[0]))
		return
	}
	d.useClass(class, block.LabelRanges[0])
	if first, taken := places[class]; taken {
		d.report(duplicateName(block.DefRange(), "gpu", class, first))
		return
	}
	places[class] = block.DefRange()
	attr := attrs["per_hour"]
	if attr == nil {
		d.report(missing(block.DefRange(), "gpu", "per_hour", "per_hour = 2.90"))
		return
	}
	if price, ok := d.finite(attr.Expr, attr.Name, priceUnit("GPUs of the class are free")); ok {
		prices[class] = price
	}
}

func (d *decoder) energyBlock(block *hclsyntax.Block, card *budget.RateCard) {
	d.noLabel(block)
	attrs := d.open(energySpec(), block.Body).attributes
	rate := &budget.EnergyRate{PUE: quantity.RatioOne, Source: sourceOf(block.DefRange())}
	if attr := attrs["pue"]; attr != nil {
		if pue, ok := d.factor(attr, factorUnit(), 100, pueMax); ok {
			rate.PUE = pue
		}
	}
	attr := attrs["per_kwh"]
	if attr == nil {
		d.report(missing(block.DefRange(), "energy", "per_kwh", "per_kwh = 0.21"))
		return
	}
	if price, ok := d.finite(attr.Expr, attr.Name, moneyUnit().only()); ok {
		rate.PerKWh = price
		card.Energy = rate
	}
}

// pueMax is, in hundredths, beyond any power usage effectiveness that was ever
// measured.
const pueMax = 1000

// modelMax is the longest name of a language model.
const modelMax = 256

func (d *decoder) tokensBlock(block *hclsyntax.Block, card *budget.RateCard, models map[string]hcl.Range) {
	attrs := d.open(tokensSpec(), block.Body).attributes
	model, ok := d.label(block, tokensSpec())
	if !ok {
		return
	}
	if model == "" || len(model) > modelMax || model != strings.TrimSpace(model) {
		d.report(badModel(block.LabelRanges[0], model))
		return
	}
	if first, taken := models[model]; taken {
		d.report(duplicateName(block.DefRange(), "tokens", model, first))
		return
	}
	models[model] = block.DefRange()
	rate := budget.TokenRate{PerMillion: map[budget.TokenKind]quantity.Amount{}, Source: sourceOf(block.DefRange())}
	priced := false
	for _, kind := range budget.TokenKinds() {
		attr := attrs[string(kind)+"_per_million"]
		if attr == nil {
			continue
		}
		priced = true
		if price, ok := d.finite(attr.Expr, attr.Name, priceUnit("these tokens are free")); ok {
			rate.PerMillion[kind] = price
		}
	}
	if !priced {
		d.report(missing(block.DefRange(), "tokens", "any price", "output_per_million = 0.40"))
		return
	}
	if card.Tokens == nil {
		card.Tokens = map[string]budget.TokenRate{}
	}
	card.Tokens[model] = rate
}

// factorMax is, in hundredths, the most that a price may be multiplied by.
const factorMax = 100_000

func (d *decoder) modifierBlock(block *hclsyntax.Block, card *budget.RateCard, names map[string]hcl.Range) {
	attrs := d.open(modifierSpec(), block.Body).attributes
	name, ok := d.name(block, modifierSpec())
	if !ok {
		return
	}
	if first, taken := names[name]; taken {
		d.report(duplicateName(block.DefRange(), "modifier", name, first))
		return
	}
	names[name] = block.DefRange()
	m := budget.Modifier{Name: name, Source: sourceOf(block.DefRange())}
	when, multiply := attrs["when"], attrs["multiply"]
	if when == nil {
		d.report(missing(block.DefRange(), "modifier", "when", "when = schedule.night"))
	}
	if multiply == nil {
		d.report(missing(block.DefRange(), "modifier", "multiply", "multiply = 0.6"))
	}
	if when == nil || multiply == nil {
		return
	}
	m.Multiply, _ = d.factor(multiply, factorUnit().orNone(`"none" where GPU time is free then`), 0, factorMax)
	// Amounts and other times are not known for every instant of the past.
	if m.When, ok = d.condition(when, "schedule", "job", "submitter"); ok {
		card.Modifiers = append(card.Modifiers, m)
	}
}
