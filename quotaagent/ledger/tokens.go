package ledger

import (
	"math/big"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Tokens are numbers of tokens by kind.
type Tokens = map[budget.TokenKind]quantity.Amount

// TokenRequest is what a hold is for that is of no job: one request to a language
// model, or a block of them. Nomad knows nothing of it, and it holds no GPUs. What it
// uses belongs to the period in which it was authorized, at the prices of that moment.
//
//	       used
//	Held ────────────────────────────────────────────► Settled
//	  │ never ran                                         ▲
//	  ├───────────────────────────────► Voided            │ corrected
//	  │ nobody said                       ▲ corrected     │
//	  └──────────────► Expired, posted at what was held ──┘
type TokenRequest struct {
	Model string `json:"model"`
	// Most it may use, and MostCost what that costs at most, in micro-units. Of its input
	// it may turn out that it is in the cache, and then it counts as cached: it is held
	// as either.
	Most     Tokens          `json:"most"`
	MostCost quantity.Amount `json:"most_cost,omitempty"`
	// PerMillion are the prices, in micro-units for a million tokens, and RateCard the
	// price list that they are from.
	PerMillion Tokens `json:"per_million,omitempty"`
	RateCard   string `json:"rate_card,omitempty"`
	// Outcome of the decision that admitted it.
	Outcome string `json:"outcome,omitempty"`
	// Used and UsedCost are what is posted for it; EndedMS is when it ended, 0 while it
	// is open.
	Used     Tokens          `json:"used,omitempty"`
	UsedCost quantity.Amount `json:"used_cost,omitempty"`
	EndedMS  int64           `json:"ended_ms,omitempty"`
	// FromMS and ToMS are when what was reported after the fact was used; 0 for what was
	// authorized before.
	FromMS int64 `json:"from_ms,omitempty"`
	ToMS   int64 `json:"to_ms,omitempty"`
}

// Authorized is a request that may use so many tokens, those of the input that are
// known to be in the cache apart.
func Authorized(model string, asked, perMillion Tokens, rateCard string) TokenRequest {
	input, cached := asked[budget.InputTokens], asked[budget.CachedTokens]
	most := positive(Tokens{budget.InputTokens: input, budget.CachedTokens: input.Add(cached), budget.OutputTokens: asked[budget.OutputTokens]})
	dearest := Tokens{budget.InputTokens: max(perMillion[budget.InputTokens], perMillion[budget.CachedTokens]),
		budget.CachedTokens: perMillion[budget.CachedTokens], budget.OutputTokens: perMillion[budget.OutputTokens]}
	return TokenRequest{Model: model, Most: most, MostCost: MostTokenCost(dearest, asked), PerMillion: positive(perMillion), RateCard: rateCard}
}

// Reported is a request of which is only said what it used, in [fromMS, toMS].
func Reported(model string, used, perMillion Tokens, rateCard string, fromMS, toMS int64) TokenRequest {
	return TokenRequest{Model: model, Most: positive(used), MostCost: MostTokenCost(perMillion, used), PerMillion: positive(perMillion), RateCard: rateCard,
		FromMS: fromMS, ToMS: toMS}
}

// Why amounts of tokens are more than was held, estimated or corrected.
const (
	// CauseAboveHold: a request used more than it was authorized for.
	CauseAboveHold = "above_hold"
	// CauseUnsettled: nobody said in time what a request used.
	CauseUnsettled = "unsettled"
	// CauseSettledLate and CauseVoidedLate: somebody said so after that.
	CauseSettledLate = "settled_late"
	CauseVoidedLate  = "voided_late"
	// CauseNoPrice: the model has no price, and was charged as the dearest that has one.
	CauseNoPrice = "no_price"
)

// Holds reports whether the hold holds anything: one of a request that has ended is
// kept for a while, for whoever asks or says so again.
func (h Hold) Holds() bool { return h.Request == nil || h.State == Held }

// requestCharges is what an open request charges: it uses its tokens in the periods in
// which it was authorized, whenever that is known.
func requestCharges(h Hold, cal Calendar) Vector {
	v := NewVector()
	if h.State != Held {
		return v
	}
	at := time.UnixMilli(h.CreatedMS)
	for _, w := range cal.Windows {
		key := w.String()
		if !w.Gauge() {
			key = budget.PeriodAt(w, at, cal.Location).Key()
		}
		for kind, n := range h.Request.Most {
			v.Add(key, budget.Tokens(kind), n)
		}
		v.Add(key, budget.Cost, h.Request.MostCost)
	}
	return v
}

// million is how many tokens a price is for.
const million = 1_000_000

// exactCost is the price of tokens in millionths of a micro-unit.
func exactCost(perMillion, tokens Tokens) *big.Int {
	sum := new(big.Int)
	for kind, n := range tokens {
		sum.Add(sum, new(big.Int).Mul(big.NewInt(int64(n)), big.NewInt(int64(perMillion[kind]))))
	}
	return sum
}

// MostTokenCost is what tokens cost at most, rounded up.
func MostTokenCost(perMillion, tokens Tokens) quantity.Amount {
	whole, rest := new(big.Int).DivMod(exactCost(perMillion, tokens), big.NewInt(million), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	return inRange(whole)
}

func inRange(a *big.Int) quantity.Amount {
	if !a.IsInt64() {
		return quantity.MaxAmount
	}
	return quantity.Amount(a.Int64())
}

// TokenCost is what tokens cost, where rest is what was left over by the rounding of
// what was posted before, in millionths of a micro-unit, and next what is left over
// then. It rounds the sum of both half to even, so that however small requests are,
// their costs add up to what all of their tokens cost together. It is never more than
// MostTokenCost, which was held.
func TokenCost(perMillion, tokens Tokens, rest int64) (cost quantity.Amount, next int64) {
	exact := exactCost(perMillion, tokens)
	sum := new(big.Int).Add(exact, big.NewInt(rest))
	whole, part := new(big.Int).DivMod(sum, big.NewInt(million), new(big.Int))
	if twice := 2 * part.Int64(); twice > million || twice == million && whole.Bit(0) == 1 {
		whole.Add(whole, big.NewInt(1))
	}
	if exact.Sign() >= 0 {
		if most := big.NewInt(int64(MostTokenCost(perMillion, tokens))); whole.Cmp(most) > 0 {
			whole = most
		}
	}
	left := new(big.Int).Sub(sum, new(big.Int).Mul(whole, big.NewInt(million)))
	if !left.IsInt64() { // the cost is out of range, which Entry.Validate refuses
		return quantity.MaxAmount, rest
	}
	return inRange(whole), left.Int64()
}

// TokenEnd is what becomes of a request when it ends, or is corrected after its end.
type TokenEnd struct {
	Hold    Hold
	Entries []Entry
	// Rest is that of the budget then: see TokenCost.
	Rest int64
}

// SettleTokens posts what a request used. One that was posted at what was held because
// nobody had said so is corrected.
func SettleTokens(h Hold, used Tokens, rest, nowMS int64) TokenEnd {
	if h.State == Expired {
		return correctTokens(h, Settled, used, CauseSettledLate, rest, nowMS)
	}
	return endTokens(h, Settled, used, "", rest, nowMS)
}

// ExpireTokens posts a request of which nobody has said what it used, at what was held:
// as cached counts only what was said to be.
func ExpireTokens(h Hold, rest, nowMS int64) TokenEnd {
	return endTokens(h, Expired, h.Request.Asked(), CauseUnsettled, rest, nowMS)
}

// ReportTokens posts what was used without a hold. guessed says that the model has no
// price of its own.
func ReportTokens(h Hold, rest, nowMS int64, guessed bool) TokenEnd {
	cause := ""
	if guessed {
		cause = CauseNoPrice
	}
	return endTokens(h, Settled, h.Request.Most, cause, rest, nowMS)
}

// VoidTokens ends a request that never ran. One that was posted at what was held is
// taken back.
func VoidTokens(h Hold, rest, nowMS int64) TokenEnd {
	if h.State == Expired {
		return correctTokens(h, Voided, nil, CauseVoidedLate, rest, nowMS)
	}
	request := *h.Request
	request.EndedMS = nowMS
	h.State, h.ExpiresMS, h.Request = Voided, 0, &request
	return TokenEnd{Hold: h, Rest: rest}
}

func endTokens(h Hold, state State, used Tokens, cause string, rest, nowMS int64) TokenEnd {
	request := *h.Request
	request.EndedMS, request.Used = nowMS, positive(used)
	request.UsedCost, rest = TokenCost(request.PerMillion, request.Used, rest)
	h.State, h.ExpiresMS, h.Request = state, 0, &request
	if len(request.Used) == 0 {
		return TokenEnd{Hold: h, Rest: rest} // nothing to tell
	}
	e := h.tokenEntry("", TokensEntry)
	e.Tokens, e.Cost, e.Cause, e.Estimated = request.Used, request.UsedCost, cause, cause != ""
	return TokenEnd{Hold: h, Entries: append([]Entry{e}, h.overdraft()...), Rest: rest}
}

// correctTokens posts the difference between what is posted and what was used.
func correctTokens(h Hold, state State, used Tokens, cause string, rest, nowMS int64) TokenEnd {
	request := *h.Request
	difference := Tokens{}
	for _, kind := range budget.TokenKinds() {
		if n := used[kind].Sub(request.Used[kind]); n != 0 {
			difference[kind] = n
		}
	}
	cost, rest := TokenCost(request.PerMillion, difference, rest)
	request.Used, request.UsedCost, request.EndedMS = positive(used), request.UsedCost.Add(cost), nowMS
	h.State, h.Request = state, &request
	if len(difference) == 0 {
		return TokenEnd{Hold: h, Rest: rest}
	}
	e := h.tokenEntry("/late", CorrectionEntry)
	e.Tokens, e.Cost, e.Cause = difference, cost, cause
	return TokenEnd{Hold: h, Entries: append([]Entry{e}, h.overdraft()...), Rest: rest}
}

// overdraft is the line of what a request used beyond what was held for it; none where
// it did not.
func (h Hold) overdraft() []Entry {
	over := h.Overdrawn()
	if len(over) == 0 {
		return nil
	}
	e := h.tokenEntry("/over", OverdraftEntry)
	e.Tokens, e.Cost, e.Cause = over, max(0, h.Request.UsedCost.Sub(h.Request.MostCost)), CauseAboveHold
	return []Entry{e}
}

// Overdrawn is what a request used beyond what was held for it.
func (h Hold) Overdrawn() Tokens {
	r, over := h.Request, Tokens{}
	if r.ToMS != 0 {
		return over // nothing was held for it
	}
	for kind, n := range r.Used {
		if more := n.Sub(r.Most[kind]); more > 0 {
			over[kind] = more
		}
	}
	// Input and cached tokens are one prompt, of which every token is one of the two.
	prompt := r.Used[budget.InputTokens].Add(r.Used[budget.CachedTokens])
	if more := prompt.Sub(r.Most[budget.CachedTokens]); more > over[budget.InputTokens].Add(over[budget.CachedTokens]) {
		over[budget.InputTokens] = more.Sub(over[budget.CachedTokens])
	}
	return over
}

// tokenEntry is the line of a request, without amounts. An id may be used again long
// after its hold has ended, so that the key names the moment too.
func (h Hold) tokenEntry(suffix, kind string) Entry {
	e := Entry{Key: "tokens/" + h.ID + "/" + time.UnixMilli(h.CreatedMS).UTC().Format("20060102T150405.000") + suffix, Kind: kind, Budget: h.Budget,
		Namespace: h.Namespace, JobID: h.JobID, HoldID: h.ID, Run: h.Run, Submitter: h.Accessor, FromMS: h.CreatedMS, ToMS: h.CreatedMS,
		Model: h.Request.Model, RateCard: h.Request.RateCard}
	if h.Request.ToMS != 0 {
		e.FromMS, e.ToMS = h.Request.FromMS, h.Request.ToMS
	}
	return e
}

// positive are the kinds of which there are any; nil where there are none, as it is
// stored.
func positive(t Tokens) Tokens {
	var out Tokens
	for kind, n := range t {
		if n > 0 && out == nil {
			out = Tokens{}
		}
		if n > 0 {
			out[kind] = n
		}
	}
	return out
}

// Asked are the tokens that were asked for, each as one kind.
func (r TokenRequest) Asked() Tokens {
	if r.ToMS != 0 {
		return r.Most
	}
	return positive(Tokens{budget.InputTokens: r.Most[budget.InputTokens], budget.CachedTokens: r.Most[budget.CachedTokens].Sub(r.Most[budget.InputTokens]),
		budget.OutputTokens: r.Most[budget.OutputTokens]})
}
