package agent

import (
	"context"
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
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// TokenUsage says what an authorized request used.
type TokenUsage struct {
	ID string `json:"id"`
	// Input without those that were read from the cache, which are Cached.
	Input  quantity.Amount `json:"input"`
	Cached quantity.Amount `json:"cached,omitempty"`
	Output quantity.Amount `json:"output"`
}

func (u TokenUsage) tokens() ledger.Tokens {
	out := ledger.Tokens{}
	for kind, n := range map[budget.TokenKind]quantity.Amount{budget.InputTokens: u.Input, budget.CachedTokens: u.Cached, budget.OutputTokens: u.Output} {
		if n != 0 {
			out[kind] = n
		}
	}
	return out
}

// checkTokenID keeps what is no id of a request from becoming a key.
func checkTokenID(id string) error {
	plain := func(r rune) bool { return r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' }
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool { return !plain(r) }) {
		return noRequest(id)
	}
	return nil
}

func noRequest(id string) error {
	return refusal(http.StatusNotFound, "there is no request for tokens %.80q; it was never authorized, or ended more than %s ago", id, budget.FormatDuration(endedKept))
}

// SettleTokens posts what a request used, and gives back the rest of what was held.
// Said again it changes nothing. One that was posted at what was held is corrected.
func (e *Engine) SettleTokens(ctx context.Context, who api.Caller, u TokenUsage) (TokenStatus, error) {
	amounts := map[string]quantity.Amount{"input": u.Input, "cached": u.Cached, "output": u.Output}
	for _, name := range sortedKeys(amounts) {
		if n := amounts[name]; n < 0 || n > usedMost {
			return TokenStatus{}, refusal(http.StatusBadRequest, "%s is %d; it must be from 0 to %d", name, n, quantity.Amount(usedMost))
		}
	}
	used := u.tokens()
	return e.endTokens(ctx, who, u.ID, func(h ledger.Hold, rest, nowMS int64) (ledger.TokenEnd, error) {
		switch {
		case h.State == ledger.Settled && maps.Equal(h.Request.Used, used):
			return ledger.TokenEnd{}, errNoChange
		case h.State == ledger.Settled:
			return ledger.TokenEnd{}, refusal(http.StatusConflict, "request %s is settled already, with %s; `governor usage correct` changes what is posted",
				h.ID, admission.TokensText(h.Request.Used))
		case h.State == ledger.Voided:
			return ledger.TokenEnd{}, refusal(http.StatusConflict, "request %s was voided, and has used nothing; report what it used with `governor tokens report`", h.ID)
		}
		return ledger.SettleTokens(h, used, rest, nowMS), nil
	})
}

// TokenVoid names a request that never ran.
type TokenVoid struct {
	ID string `json:"id"`
}

// VoidTokens gives back all that is held for a request which never ran.
func (e *Engine) VoidTokens(ctx context.Context, who api.Caller, r TokenVoid) (TokenStatus, error) {
	return e.endTokens(ctx, who, r.ID, func(h ledger.Hold, rest, nowMS int64) (ledger.TokenEnd, error) {
		switch h.State {
		case ledger.Voided:
			return ledger.TokenEnd{}, errNoChange
		case ledger.Settled:
			return ledger.TokenEnd{}, refusal(http.StatusConflict, "request %s is settled already, with %s; `governor usage correct` changes what is posted",
				h.ID, admission.TokensText(h.Request.Used))
		case ledger.Held, ledger.Active, ledger.Expired:
		}
		return ledger.VoidTokens(h, rest, nowMS), nil
	})
}

// endTokens ends a request in one commit, or corrects how it ended. Whoever was
// authorized may do that, and a management token.
func (e *Engine) endTokens(ctx context.Context, who api.Caller, id string, end func(h ledger.Hold, rest, nowMS int64) (ledger.TokenEnd, error)) (TokenStatus, error) {
	if err := checkTokenID(id); err != nil {
		return TokenStatus{}, err
	}
	state := e.policy.State()
	if !state.Loaded { // in which periods it counts is not known
		return TokenStatus{}, fmt.Errorf("%w: %w", ledger.ErrUnavailable, errNotLoaded)
	}
	p := state.Policy
	var out ledger.Hold
	err := e.books.update(ctx, ledger.Fence{}, target{key: tokenKey(id), calendar: e.rulesOf(p).Calendar}, func(v view) (change, error) {
		switch {
		case v.hold.Hold == nil:
			return change{}, noRequest(id)
		case v.hold.Accessor != who.Accessor && !manages(who.Names):
			return change{}, refusal(http.StatusForbidden, "request %s was authorized for somebody else; it is ended by who asked for it, or with a management token", id)
		}
		out = *v.hold.Hold
		ended, err := end(out, v.balances[out.Budget].TokenRest, e.now().UnixMilli())
		if err != nil {
			return change{}, err
		}
		out = ended.Hold
		return e.tokenChange(ended)
	})
	if err != nil {
		return TokenStatus{}, err
	}
	return tokenStatus(p, out, endedText(p, out)), nil
}

// tokenChange posts how a request ended.
func (e *Engine) tokenChange(ended ledger.TokenEnd) (change, error) {
	c := change{hold: &ended.Hold, entries: ended.Entries, tokenRest: &ended.Rest, posted: ledger.NewVector()}
	for _, entry := range ended.Entries {
		if err := entry.Validate(); err != nil {
			return change{}, refusal(http.StatusBadRequest, "%v", err)
		}
		c.posted.AddAll(entry.PostedVector(e.rulesOf(e.policy.State().Policy).Calendar.Location, allWindows()), 1)
	}
	return c, nil
}

// endedText says how a request ended, in a sentence.
func endedText(p *budget.Policy, h ledger.Hold) string {
	r := h.Request
	switch h.State {
	case ledger.Voided:
		return "nothing is posted, and nothing held any more"
	case ledger.Held, ledger.Active:
		return "it is open"
	}
	text := fmt.Sprintf("%s of %s are posted to budget %s, for %s", admission.TokensText(r.Used), r.Model, h.Budget, admission.MoneyText(p, r.UsedCost))
	if over := h.Overdrawn(); len(over) > 0 {
		text += "; that is more than was held, by " + admission.TokensText(over)
	}
	return text
}

const (
	// reportWithin is how late usage may be reported. A report is kept for as long as it
	// could be sent again, so that it counts once.
	reportWithin = 24 * time.Hour
	// reportAhead is by how much the clock of who reports may be ahead.
	reportAhead = time.Minute
)

// TokenReport says what was used already, for gateways that authorize nothing.
type TokenReport struct {
	// Key makes a report that is sent again count once, of the same caller.
	Key string `json:"key"`
	// Budget is the path of the budget that pays; or Run is the agent run that does.
	Budget string `json:"budget,omitempty"`
	Run    string `json:"run,omitempty"`
	Model  string `json:"model"`
	// Input without those that were read from the cache, which are Cached.
	Input  quantity.Amount `json:"input"`
	Cached quantity.Amount `json:"cached,omitempty"`
	Output quantity.Amount `json:"output"`
	// From and To are when it was used; without them it is now.
	From *time.Time `json:"from,omitempty"`
	To   *time.Time `json:"to,omitempty"`
	// Namespace and JobID are the job that serves the model, for reports.
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
}

// times are when the usage of a report was, within what can be reported now.
func (r TokenReport) times(now time.Time) (from, to time.Time, err error) {
	if (r.From == nil) != (r.To == nil) {
		return from, to, refusal(http.StatusBadRequest, "the report has only one of from and to; give both, or neither for now")
	}
	if r.From == nil {
		return now, now, nil
	}
	switch from, to = *r.From, *r.To; {
	case to.Before(from) || to.Sub(from) > reportWithin:
		return from, to, refusal(http.StatusBadRequest, "the report is from %s to %s; it must end after it begins, and be of at most %s",
			from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339), budget.FormatDuration(reportWithin))
	case to.After(now.Add(reportAhead)):
		return from, to, refusal(http.StatusBadRequest, "the report is until %s, which is still to come", to.UTC().Format(time.RFC3339))
	case now.Sub(to) >= reportWithin:
		return from, to, refusal(http.StatusBadRequest, "the report is until %s; usage is reported within %s, and later with `governor usage correct`",
			to.UTC().Format(time.RFC3339), budget.FormatDuration(reportWithin))
	}
	return from, to, nil
}

// reportHold is a report as the hold that it never was.
func (e *Engine) reportHold(by payer, r TokenReport) (ledger.Hold, *admission.Refusal, error) {
	tokens := map[string]quantity.Amount{"input": r.Input, "cached": r.Cached, "output": r.Output}
	if err := checkTokens(r.Key, r.Model, r.Namespace, r.JobID, tokens, usedMost); err != nil {
		return ledger.Hold{}, nil, err
	}
	now := e.now()
	from, to, err := r.times(now)
	if err != nil {
		return ledger.Hold{}, nil, err
	}
	used := TokenUsage{Input: r.Input, Cached: r.Cached, Output: r.Output}.tokens()
	prices, card, refused := admission.TokenPrices(by.policy, r.Model, used, by.run, from)
	if refused != nil {
		prices = metering.DearestTokens(by.policy, from) // a wrong name must not make it free
	}
	request := ledger.Reported(r.Model, used, prices, card, from.UnixMilli(), to.UnixMilli())
	return ledger.Hold{ID: requestID(reportedID, by.who, r.Key), Namespace: r.Namespace, JobID: r.JobID, Accessor: by.who.Accessor, Identity: by.who.Names,
		State: ledger.Held, CreatedMS: now.UnixMilli(), Request: &request}, refused, nil
}

// ReportTokens posts usage after the fact. It is never refused for lack of budget: the
// answer says when it goes over a limit.
func (e *Engine) ReportTokens(ctx context.Context, who api.Caller, r TokenReport) (TokenStatus, error) {
	by, err := e.payerOf(ctx, who, r.Budget, r.Run)
	if err != nil {
		return TokenStatus{}, err
	}
	h, refused, err := e.reportHold(by, r)
	if err != nil {
		return TokenStatus{}, err
	}
	var d admission.Decision
	var out ledger.Hold
	err = e.books.update(ctx, ledger.Fence{}, e.tokenTarget(by, r.Run, h), func(v view) (change, error) {
		d = admission.Decision{}
		if v.hold.Hold != nil {
			out = *v.hold.Hold
			return change{}, sentAgain(out, h, r.Run, by)
		}
		next, state := e.tokenState(by, h, v)
		ended := ledger.ReportTokens(next, v.balances[next.Budget].TokenRest, e.now().UnixMilli(), refused != nil)
		d = admission.TokensUsed(by.policy, by.budget, state, ended.Hold, ended.Entries[0])
		request := *ended.Hold.Request
		request.Outcome = d.Outcome.String()
		ended.Hold.Request, ended.Hold.Reason = &request, string(d.Reason)
		if refused != nil {
			request.Outcome, ended.Hold.Reason = min(d.Outcome, admission.Warn).String(), string(refused.Reason)
		}
		out = ended.Hold
		return e.tokenChange(ended)
	})
	if err != nil {
		return TokenStatus{}, err
	}
	return e.reported(by, out, d, refused), nil
}

// reported is the answer to a report.
func (e *Engine) reported(by payer, h ledger.Hold, d admission.Decision, refused *admission.Refusal) TokenStatus {
	text := endedText(by.policy, h)
	if refused != nil {
		text += fmt.Sprintf("; %s, so that it is charged as the dearest model that has one: %s", refused.Fact, refused.Remedy)
		e.logger.Warn("tokens of a model without a price were reported", "budget", h.Budget, "model", h.Request.Model)
	}
	if outside := admission.OutsideRun(by.budget, by.run, e.now()); outside != nil {
		text += "; " + outside.Fact
	}
	s := tokenStatus(by.policy, h, text)
	if excess := d.TokenExcess(by.policy); excess != "" {
		s.OverBudget = true
		s.Text += "; over budget: " + excess
	}
	return s
}
