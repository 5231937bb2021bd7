package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// tokenTTL is how long a request for tokens may be open that says nothing of it,
	// tokenTTLMost how long it may say.
	tokenTTL     = 5 * time.Minute
	tokenTTLMost = time.Hour
	// tokensMost bounds the tokens of a kind in one request, usedMost in one report.
	tokensMost = 1_000_000_000
	usedMost   = 1_000_000_000_000
	// tokenTextMax bounds the key, the model, the namespace and the job of a request,
	// in bytes.
	tokenTextMax = 256
)

// TokenRequest asks for tokens: for one request to a language model, or for a block of
// them.
type TokenRequest struct {
	// Key makes a request that is sent again count once: of the same caller it stands
	// for the same hold until a few minutes after that has ended.
	Key string `json:"key"`
	// Budget is the path of the budget that pays; or Run is the agent run that does.
	Budget string `json:"budget,omitempty"`
	Run    string `json:"run,omitempty"`
	// Model as the rate card calls it.
	Model string `json:"model"`
	// InputTokens are those of the prompt, without the CachedTokens that are known to be
	// in the model's cache. MaxOutputTokens bounds the answer.
	InputTokens     quantity.Amount `json:"input_tokens"`
	CachedTokens    quantity.Amount `json:"cached_tokens,omitempty"`
	MaxOutputTokens quantity.Amount `json:"max_output_tokens"`
	// Namespace and JobID are the job that serves the model, for reports.
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	// TTL is for how long nobody needs to say what was used, such as "2m"; "" is five
	// minutes. Then it is posted at what is held.
	TTL string `json:"ttl,omitempty"`
	// PolicyOverride asks for what an override of the budget adds, as the flag of nomad
	// job run does, and Reason says why.
	PolicyOverride bool   `json:"policy_override,omitempty"`
	Reason         string `json:"reason,omitempty"`
}

func (r TokenRequest) tokens() ledger.Tokens {
	return ledger.Tokens{budget.InputTokens: r.InputTokens, budget.CachedTokens: r.CachedTokens, budget.OutputTokens: r.MaxOutputTokens}
}

// TokenAmounts are tokens by kind, with their cost in micro-units.
type TokenAmounts struct {
	Input  quantity.Amount `json:"input"`
	Cached quantity.Amount `json:"cached"`
	Output quantity.Amount `json:"output"`
	Cost   quantity.Amount `json:"cost"`
}

func tokenAmounts(t ledger.Tokens, cost quantity.Amount) TokenAmounts {
	return TokenAmounts{Input: t[budget.InputTokens], Cached: t[budget.CachedTokens], Output: t[budget.OutputTokens], Cost: cost}
}

// TokenStatus is a request for tokens as its caller sees it.
type TokenStatus struct {
	ID string `json:"id"`
	// State is held, settled, voided or expired.
	State     string `json:"state"`
	Budget    string `json:"budget"`
	Run       string `json:"run,omitempty"`
	Model     string `json:"model"`
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	// Held is what is held while it is open, Used what is posted for it.
	Held TokenAmounts `json:"held"`
	Used TokenAmounts `json:"used"`
	// Currency of the costs, and RateCard that they are from.
	Currency string `json:"currency"`
	RateCard string `json:"rate_card,omitempty"`
	// Expires is when it is posted at what is held; only while it is open.
	Expires *time.Time `json:"expires,omitempty"`
	// Outcome is admit, warn or, of a report over a limit that refuses, deny. Reason is
	// one of docs/reasons.md, and Text says both in a sentence.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Text    string `json:"text"`
	// OverBudget says that what was reported goes over a limit.
	OverBudget bool `json:"over_budget,omitempty"`
}

func tokenStatus(p *budget.Policy, h ledger.Hold, text string) TokenStatus {
	r := h.Request
	s := TokenStatus{ID: h.ID, State: string(h.State), Budget: h.Budget, Run: h.Run, Model: r.Model, Namespace: h.Namespace, JobID: h.JobID,
		Used: tokenAmounts(r.Used, r.UsedCost), Currency: p.Currency, RateCard: r.RateCard, Outcome: r.Outcome, Reason: h.Reason, Text: text}
	if h.Holds() {
		expires := time.UnixMilli(h.ExpiresMS).UTC()
		s.Held, s.Expires = tokenAmounts(r.Most, r.MostCost), &expires
	}
	return s
}

// tokenKey names the hold of a request for tokens.
func tokenKey(id string) string { return tokensPrefix + id }

// keyOfHold is the key of a hold, of a job or of a request.
func keyOfHold(h ledger.Hold) string {
	if h.Request != nil {
		return tokenKey(h.ID)
	}
	return holdKey(h.Namespace, h.JobID)
}

// requestID is the id that a caller's key stands for: sent again, it is the same.
func requestID(kind string, who api.Caller, key string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + who.Accessor + "\x00" + key))
	return kind + "-" + hex.EncodeToString(sum[:16])
}

// The kinds of ids: requests that are authorized before, and reports after the fact.
const (
	authorizedID = "t"
	reportedID   = "u"
)

// requests lists the holds of all requests for tokens, by id, also those that ended a
// short while ago. With an error it has those that could be read.
func (b *books) requests(ctx context.Context) ([]heldAt, error) {
	records, _, err := b.store.List(ctx, tokensPrefix)
	if err != nil {
		return nil, fmt.Errorf("list requests for tokens: %w", err)
	}
	holds := make([]heldAt, 0, len(records))
	var unreadable error
	for _, r := range records {
		h, err := decodeHold(r)
		if err == nil && h.Request == nil {
			err = fmt.Errorf("%s: it is of no request for tokens", r.Key)
		}
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			continue
		}
		holds = append(holds, h)
	}
	return holds, unreadable
}

// payer is whose tokens a request wants.
type payer struct {
	policy *budget.Policy
	budget *budget.Budget
	// run is the agent run, as it was a moment ago; nil for none.
	run *ledger.Run
	who api.Caller
}

// payerOf finds the budget of a request, and checks that the caller may draw from it.
func (e *Engine) payerOf(ctx context.Context, who api.Caller, path, run string) (payer, error) {
	state := e.policy.State()
	if !state.Loaded {
		return payer{}, fmt.Errorf("%w: %w", ledger.ErrUnavailable, errNotLoaded)
	}
	out := payer{policy: state.Policy, who: who}
	if path == "" && run == "" {
		return out, refusal(http.StatusBadRequest, "the request names neither a budget nor a run; give the one that pays")
	}
	if run != "" {
		if err := checkRunID(run); err != nil {
			return out, err
		}
		v, _, err := e.books.glance(ctx, target{run: run})
		switch {
		case err != nil:
			return out, err
		case v.run == nil:
			return out, noRun(run)
		case v.run.Accessor != who.Accessor && !manages(who.Names):
			return out, refusal(http.StatusForbidden, "agent run %s was opened by somebody else; name a run of your own, or use a management token", run)
		}
		out.run = v.run
		if own := state.Policy.Moved(v.run.Budget); path == "" || path == own {
			path = own
		} else {
			return out, refusal(http.StatusBadRequest, "agent run %s draws from budget %s, and the request names %.200q; leave the budget out", run, own, path)
		}
	}
	out.budget = state.Policy.Find(path)
	switch {
	case out.budget == nil:
		return out, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", path)
	case run == "" && !manages(who.Names) && !out.budget.MayOpenRun(who.Names):
		return out, refusal(http.StatusForbidden, "tokens of budget %s are for the identities of its match rule: %s; you are %s",
			out.budget.Path, orNone(identitiesOf(out.budget)), orNone(who.Names))
	}
	return out, nil
}

// checkTokens says what is wrong with the names and numbers of a request.
func checkTokens(key, model, namespace, job string, tokens map[string]quantity.Amount, most quantity.Amount) error {
	for _, text := range []struct{ name, value string }{{"key", key}, {"model", model}, {"namespace", namespace}, {"job_id", job}} {
		switch {
		case text.value == "" && (text.name == "key" || text.name == "model"):
			return refusal(http.StatusBadRequest, "%s is missing; every request for tokens has one", text.name)
		case len(text.value) > tokenTextMax:
			return refusal(http.StatusBadRequest, "%s has %d bytes; it may have %d", text.name, len(text.value), tokenTextMax)
		case text.value != strings.TrimSpace(text.value) || strings.ContainsFunc(text.value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return refusal(http.StatusBadRequest, "%s is %q; it may not have control characters, nor blanks at its ends", text.name, text.value)
		}
	}
	if namespace == "" && job != "" {
		return refusal(http.StatusBadRequest, "job_id is %q without a namespace; give both, or neither", job)
	}
	sum := quantity.Amount(0)
	for _, name := range sortedKeys(tokens) {
		if n := tokens[name]; n < 0 || n > most {
			return refusal(http.StatusBadRequest, "%s is %d; it must be from 0 to %d", name, n, most)
		}
		sum = sum.Add(tokens[name])
	}
	if sum == 0 {
		return refusal(http.StatusBadRequest, "the request is for no tokens; give %s", strings.Join(sortedKeys(tokens), ", "))
	}
	return nil
}

// tokenHold is the hold of a request, and the reason why there is none.
func (e *Engine) tokenHold(by payer, r TokenRequest) (ledger.Hold, *admission.Refusal, error) {
	err := checkTokens(r.Key, r.Model, r.Namespace, r.JobID, map[string]quantity.Amount{
		"input_tokens": r.InputTokens, "cached_tokens": r.CachedTokens, "max_output_tokens": r.MaxOutputTokens}, tokensMost)
	if err != nil {
		return ledger.Hold{}, nil, err
	}
	lasts := tokenTTL
	if r.TTL != "" {
		if lasts, err = time.ParseDuration(r.TTL); err != nil || lasts < time.Second || lasts > tokenTTLMost {
			return ledger.Hold{}, nil, refusal(http.StatusBadRequest, "ttl is %.40q; it must be a time from 1s to %s, like \"2m\"", r.TTL, budget.FormatDuration(tokenTTLMost))
		}
	}
	now := e.now()
	prices, card, refused := admission.TokenPrices(by.policy, r.Model, r.tokens(), by.run, now)
	request := ledger.Authorized(r.Model, r.tokens(), prices, card)
	h := ledger.Hold{ID: requestID(authorizedID, by.who, r.Key), Namespace: r.Namespace, JobID: r.JobID, Accessor: by.who.Accessor, Identity: by.who.Names,
		State: ledger.Held, CreatedMS: now.UnixMilli(), ExpiresMS: now.Add(lasts).UnixMilli(), Request: &request}
	// What nobody settles is posted at what is held: it must be possible to post that.
	most := ledger.ExpireTokens(h, 0, h.CreatedMS).Entries[0]
	if most.Cost = request.MostCost; most.Validate() != nil {
		return h, nil, refusal(http.StatusBadRequest, "the request costs up to %s, which is more than one request can; ask for fewer tokens, or look at the prices of model %q",
			admission.MoneyText(by.policy, request.MostCost), r.Model)
	}
	return h, refused, nil
}

// AuthorizeTokens holds what a request may use at most, if it fits.
func (e *Engine) AuthorizeTokens(ctx context.Context, who api.Caller, r TokenRequest) (TokenStatus, error) {
	by, err := e.payerOf(ctx, who, r.Budget, r.Run)
	if err != nil {
		return TokenStatus{}, err
	}
	h, refused, err := e.tokenHold(by, r)
	if err != nil {
		return TokenStatus{}, err
	}
	var first *admission.Decision
	if refused != nil {
		d := admission.Refuse(by.policy, by.budget, *refused)
		d.Request = h.Request
		if first = &d; blocked(d) {
			e.tokensDecided(d)
			return TokenStatus{}, e.tokensRefused(by.policy, d, "")
		}
	}
	note := ""
	if r.PolicyOverride {
		if note, err = e.overruleTokens(ctx, by, h, r.Reason); err != nil {
			return TokenStatus{}, err
		}
	}
	return e.holdTokens(ctx, by, r.Run, h, first, note)
}

// holdTokens decides and holds in one commit. first is a decision that stands for the
// one about the books, unless that blocks.
func (e *Engine) holdTokens(ctx context.Context, by payer, run string, h ledger.Hold, first *admission.Decision, note string) (TokenStatus, error) {
	var d admission.Decision
	var held ledger.Hold
	again := false
	err := e.books.update(ctx, ledger.Fence{}, e.tokenTarget(by, run, h), func(v view) (change, error) {
		if again = v.hold.Hold != nil; again {
			held = *v.hold.Hold
			return change{}, sentAgain(held, h, run, by)
		}
		next, state := e.tokenState(by, h, v)
		// It counts in the periods of when it was made, which may have ended meanwhile.
		d = admission.Tokens(by.policy, by.budget, state, next, time.UnixMilli(h.CreatedMS))
		if blocked(d) {
			return change{}, errNoChange
		}
		if first != nil {
			d = *first
		}
		request := *next.Request
		request.Outcome = d.Outcome.String()
		next.Reason, next.Request = string(d.Reason), &request
		held = next
		return change{hold: &next}, nil
	})
	switch {
	case err != nil:
		return TokenStatus{}, err
	case again:
		return tokenStatus(by.policy, held, "this request was authorized before, and is "+string(held.State)), nil
	}
	e.tokensDecided(d)
	if blocked(d) {
		return TokenStatus{}, e.tokensRefused(by.policy, d, note)
	}
	text := strings.TrimPrefix(d.Notice(by.policy), "governor: ")
	if note != "" {
		text += "; " + note
	}
	return tokenStatus(by.policy, held, text), nil
}

// sentAgain is errNoChange for a request that was sent again, and else says that the
// key stands for another one.
func sentAgain(have, asked ledger.Hold, run string, by payer) error {
	was, is := have.Request, asked.Request
	if was.Model == is.Model && maps.Equal(was.Asked(), is.Asked()) && by.policy.Moved(have.Budget) == by.budget.Path && have.Run == run &&
		have.Namespace == asked.Namespace && have.JobID == asked.JobID && usedWhen(have) == usedWhen(asked) {
		return errNoChange
	}
	return refusal(http.StatusConflict, "this key stands for another request already: %s, for %s of %s from budget %s%s; use a key of its own for each request",
		have.ID, admission.TokensText(was.Asked()), was.Model, have.Budget, usedWhen(have))
}

// usedWhen is when what a report is of was used, for people; "" for now, which is another
// moment when it is sent again, and for a request that was authorized before.
func usedWhen(h ledger.Hold) string {
	r := h.Request
	if r.ToMS == 0 || r.FromMS == h.CreatedMS && r.ToMS == h.CreatedMS {
		return ""
	}
	return fmt.Sprintf(", used from %s to %s", time.UnixMilli(r.FromMS).UTC().Format(time.RFC3339Nano), time.UnixMilli(r.ToMS).UTC().Format(time.RFC3339Nano))
}

// tokenTarget is what deciding about a request needs of the books. It is most likely a
// new one.
func (e *Engine) tokenTarget(by payer, run string, h ledger.Hold) target {
	return target{key: tokenKey(h.ID), budget: by.budget.Path, policy: by.policy, run: run, calendar: e.rulesOf(by.policy).Calendar, novel: true}
}

// tokenState is the hold as it would be in these books, and what the decision about it
// depends on.
func (e *Engine) tokenState(by payer, h ledger.Hold, v view) (ledger.Hold, admission.State) {
	next, state := e.stateOf(by.policy, by.budget, h, v)
	if state.Accessor = by.who.Accessor; manages(by.who.Names) {
		state.Accessor = "" // a gateway acts for whoever opened the run
	}
	return next, state
}

// overruleTokens asks for the overrides that lift what blocks a request; the note says
// why it changes nothing.
func (e *Engine) overruleTokens(ctx context.Context, by payer, h ledger.Hold, reason string) (note string, err error) {
	run := ""
	if by.run != nil {
		run = by.run.ID
	}
	v, err := e.books.look(ctx, e.tokenTarget(by, run, h))
	if err != nil || v.hold.Hold != nil {
		return "", err
	}
	next, state := e.tokenState(by, h, v)
	d := admission.Tokens(by.policy, by.budget, state, next, e.now())
	if !blocked(d) || d.Refusal != nil {
		return "", nil
	}
	rules, note := overridable(by.policy, d, by.who)
	if note != "" {
		return note, nil
	}
	ruling, err := e.overrideAll(ctx, by.who, reason, rules)
	if err == nil && ruling.Refusal != nil {
		waits := admission.Refuse(by.policy, by.budget, *ruling.Refusal)
		waits.Request = h.Request
		return "", e.tokensRefused(by.policy, waits, "")
	}
	return ruling.Note, err
}

// tokensRefused is the answer to a request that does not fit: 429 where it may fit
// later, 403 where it never does.
func (e *Engine) tokensRefused(p *budget.Policy, d admission.Decision, note string) error {
	problem := &api.Problem{Status: http.StatusForbidden, Text: d.TokenDenial(p), Reason: string(d.Reason)}
	if wait, later := d.RetryAfter(e.now()); later {
		problem.Status, problem.RetryAfter = http.StatusTooManyRequests, wait
		problem.Text += fmt.Sprintf("\n  %-11s in %s at the earliest", "try again", budget.FormatDuration(wait.Round(time.Second)))
	}
	if note != "" {
		problem.Text += fmt.Sprintf("\n  %-11s %s", "override", note)
	}
	return problem
}

// tokensOf is the kind of request under which decisions about tokens are counted.
const tokensOf = "tokens"
