package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// ofRequest is how refusals call a request for tokens.
var ofRequest = worded{"request", "send the request", "give its id as run"}

// Tokens checks a request for tokens against every ancestor, dimension and window, and
// one of an agent run against its caps. h is its hold as it would be, before the books
// have charged it. A request does not queue: a decision of Queue says that it may fit
// later, see RetryAfter.
func Tokens(p *budget.Policy, b *budget.Budget, state State, h ledger.Hold, now time.Time) Decision {
	if refusal := runRefusal(b, state, ofRequest, now); refusal != nil {
		d := Refuse(p, b, *refusal)
		d.Request, d.Run = h.Request, state.Run
		return d
	}
	x := tokenDecider(p, b, state, h, now)
	x.growth = ledger.Charges(h, x.rules.Calendar)
	if state.Run != nil {
		x.draws = ledger.Draws(h, x.rules.Calendar)
	}
	return x.decide(b)
}

// TokensUsed checks what was used already, by an entry that is about to be posted:
// nothing refuses it, and the decision says over which limits it goes.
func TokensUsed(p *budget.Policy, b *budget.Budget, state State, h ledger.Hold, e ledger.Entry) Decision {
	at := time.UnixMilli(e.FromMS)
	x := tokenDecider(p, b, state, h, at)
	x.growth = e.PostedVector(x.rules.Calendar.Location, calendarWindows(x.rules.Calendar))
	if state.Run != nil {
		x.draws = ledger.Amounts{}
		for _, c := range e.PostedVector(x.rules.Calendar.Location, []budget.Window{budget.Total}).Row(budget.Total.String()) {
			x.draws[c.Dimension] = c.Amount
		}
		if state.Run.ClosedMS == 0 { // it holds this from its budgets; a run that is closed has given it back
			x.growth.Drop(func(c ledger.Cell) bool { return slices.Contains(state.Run.Capped(), c.Dimension) })
		}
	}
	return x.decide(b)
}

// OutsideRun says why usage belongs to no agent run that may go on, where it should; nil
// where all is well.
func OutsideRun(b *budget.Budget, run *ledger.Run, now time.Time) *Refusal {
	return runRefusal(b, State{Run: run}, ofRequest, now)
}

func calendarWindows(cal ledger.Calendar) []budget.Window {
	return slices.DeleteFunc(slices.Clone(cal.Windows), budget.Window.Gauge)
}

// tokenDecider begins a decision about a request. It is no job, so that caps on jobs do
// not count it.
func tokenDecider(p *budget.Policy, b *budget.Budget, state State, h ledger.Hold, now time.Time) decider {
	state.Joined = true
	x := decider{policy: p, state: state, now: now}
	x.prepare()
	x.d = Decision{Budget: b, Run: state.Run, Request: h.Request}
	return x
}

// TokenPrices are the prices of a request, or the reason why it has none while cost is
// limited: the name of the model may be a mistake, and must not be a way around the
// budget. A run with a cap on cost limits it too.
func TokenPrices(p *budget.Policy, model string, asked ledger.Tokens, run *ledger.Run, now time.Time) (perMillion ledger.Tokens, card string, refusal *Refusal) {
	perMillion, card = metering.TokenPrices(p, model, now)
	capped := false
	if run != nil {
		_, capped = run.Caps[budget.Cost]
	}
	if !capped && !limitsCost(p) {
		return perMillion, card, nil
	}
	for _, kind := range budget.TokenKinds() {
		if _, priced := perMillion[kind]; !priced && asked[kind] > 0 {
			return perMillion, card, &Refusal{Reason: NoPrice,
				Fact:   fmt.Sprintf("the %s tokens of model %q have no price on a rate card that is in force now, while budgets limit cost", kind, model),
				Remedy: fmt.Sprintf("name a model that has one%s, or have tokens %q { %s_per_million = ... } added to the rate_card", pricedModels(p, now), model, kind)}
		}
	}
	return perMillion, card, nil
}

// modelsShown is how many models are named in a message.
const modelsShown = 8

func pricedModels(p *budget.Policy, now time.Time) string {
	card, _ := p.RateAt(now)
	var names []string
	for name := range card.Tokens {
		names = append(names, name)
	}
	slices.Sort(names)
	switch {
	case len(names) == 0:
		return ""
	case len(names) > modelsShown:
		names = append(names[:modelsShown], "...")
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// retrySoon is when a request may fit that others keep out with what they hold: they
// end all the time.
const retrySoon = 5 * time.Second

// RetryAfter is in how long a request that is refused may fit, if nobody else comes; it
// is false for one that never does without a change of the budget or the request.
func (d Decision) RetryAfter(now time.Time) (time.Duration, bool) {
	if d.Refusal != nil || len(d.Failed) == 0 {
		return 0, false
	}
	wait := retrySoon
	for _, c := range d.Failed {
		if !c.blocks() {
			continue
		}
		switch {
		case c.heldByOthers():
		case c.Need > c.Most || c.Period.End.IsZero():
			return 0, false
		default:
			wait = max(wait, c.Period.End.Sub(now))
		}
	}
	return wait, true
}

// heldByOthers reports whether a check would hold if nobody else held anything.
func (c *Check) heldByOthers() bool { return c.Posted.Add(c.Need) <= c.Limit }

// what is the noun for what the decision is about.
func (d Decision) what() string {
	if d.Request != nil {
		return ofRequest.what
	}
	return ofJob.what
}

// others are those that hold something beside it.
func (d Decision) others() string {
	if d.Request != nil {
		return "requests and jobs"
	}
	return "jobs"
}

// tokensText is what a request may use at most: "1,000 input and 200 output tokens of
// m = 0.02 USD".
func (d Decision) tokensText(p *budget.Policy) string {
	asked := d.Request.Asked()
	return fmt.Sprintf("%s of %s = %s", TokensText(asked), d.Request.Model, MoneyText(p, d.Request.MostCost))
}

// TokensText is numbers of tokens for people: "1,000 input and 200 output tokens".
func TokensText(t ledger.Tokens) string {
	var parts []string
	for _, kind := range budget.TokenKinds() {
		if n := t[kind]; n != 0 {
			parts = append(parts, fmt.Sprintf("%s %s", quantity.FormatDecimal(n, 1, 0), kind))
		}
	}
	switch n := len(parts); n {
	case 0:
		return "no tokens"
	case 1:
		return parts[0] + " tokens"
	default:
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1] + " tokens"
	}
}

// MoneyText is an amount of money for people. One that two digits would show as nothing,
// such as that of a few tokens, has all of its digits.
func MoneyText(p *budget.Policy, cost quantity.Amount) string {
	if cost != 0 && max(cost, -cost) < quantity.CurrencyUnit/200 {
		return quantity.FormatDecimal(cost, quantity.CurrencyUnit, 6) + " " + p.Currency
	}
	return budget.Cost.Format(cost, p.Currency)
}

// TokenDenial is the text for a person whose request for tokens is refused; see Denial.
func (d Decision) TokenDenial(p *budget.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the request was not authorized: %s (%s)\n", d.headline(p), d.Reason)
	d.explain(&b, p)
	return strings.TrimRight(b.String(), "\n")
}

// TokenExcess says over which limit what was used goes, in a sentence.
func (d Decision) TokenExcess(p *budget.Policy) string {
	if len(d.Failed) == 0 {
		return ""
	}
	c := d.Failed[0]
	return fmt.Sprintf("%s; limit: %s, short by %s", d.headline(p), c.limitText(p), c.short(p))
}
