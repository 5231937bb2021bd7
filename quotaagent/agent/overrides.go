package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// overridePrefix is where grants are kept. There is one document for each person
// and rule, so that nobody collects several live grants of one rule, however
// many agents they ask at once.
const overridePrefix = "override/"

func overrideKey(path, rule, accessor string) string {
	sum := sha256.Sum256([]byte(path + "\x00" + rule + "\x00" + accessor))
	return overridePrefix + hex.EncodeToString(sum[:12])
}

// ReasonMeta is the key of a job's meta that says why -policy-override is used.
const ReasonMeta = "governor_reason"

// reasonMax bounds the reason of an override, in bytes.
const reasonMax = 1000

// anonymous is the accessor of everybody when Nomad runs without ACLs.
const anonymous = "anonymous"

// callerOf is who submits, in the form of the API.
func callerOf(id gate.Identity) api.Caller {
	return api.Caller{Accessor: cmp.Or(id.Accessor, anonymous), Names: id.Names}
}

// OverrideRequest asks for a break-glass grant.
type OverrideRequest struct {
	// Budget is a path, Rule the label of its override block.
	Budget string `json:"budget"`
	Rule   string `json:"rule"`
	Reason string `json:"reason,omitempty"`
	// Max by the names of the language ("cost", "gpu_hours"), in its units; none
	// means all that the rule allows.
	Max map[string]string `json:"max,omitempty"`
}

// OverrideStatus is a grant as people see it.
type OverrideStatus struct {
	ledger.Grant
	State ledger.GrantState `json:"state"`
	// Adds is Max for people: "cost 500.00 USD".
	Adds []string `json:"adds"`
}

func refusal(status int, format string, args ...any) error {
	return &api.Problem{Status: status, Text: fmt.Sprintf(format, args...)}
}

// RequestOverride makes a request, which counts at once if it needs no approval.
func (e *Engine) RequestOverride(ctx context.Context, who api.Caller, r OverrideRequest) (OverrideStatus, error) {
	p := e.policy.State().Policy
	b := p.Find(r.Budget)
	if b == nil {
		return OverrideStatus{}, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", r.Budget)
	}
	rule, ok := b.FindOverride(r.Rule)
	if !ok {
		return OverrideStatus{}, refusal(http.StatusNotFound, "budget %s has no override %.100q; it has: %s", b.Path, r.Rule, orNone(ruleNames(b)))
	}
	most, err := requestedMax(p, rule, r.Max)
	if err != nil {
		return OverrideStatus{}, err
	}
	g, _, err := e.requestOverride(ctx, who, b, rule, r.Reason, most)
	return e.overrideStatus(p, g), err
}

func ruleNames(b *budget.Budget) []string {
	var names []string
	for _, o := range b.Overrides {
		names = append(names, o.Name)
	}
	return names
}

// requestedMax is what a request asks for, checked against its rule.
func requestedMax(p *budget.Policy, rule budget.Override, texts map[string]string) (ledger.Amounts, error) {
	if len(texts) == 0 {
		return maps.Clone(rule.Max), nil
	}
	asked, err := budget.ParseAmounts(texts)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "max: %v", err)
	}
	for _, d := range slices.Sorted(maps.Keys(asked)) {
		most, allowed := rule.Max[d]
		switch {
		case !allowed:
			return nil, refusal(http.StatusForbidden, "override %q (%s) adds nothing to %s; it adds: %s", rule.Name, rule.Source, d.Key(), strings.Join(amountTexts(p, rule.Max), ", "))
		case asked[d] > most:
			return nil, refusal(http.StatusForbidden, "you ask for %s, and override %q (%s) adds at most %s; ask for no more", d.Format(asked[d], p.Currency), rule.Name, rule.Source, d.Format(most, p.Currency))
		}
	}
	return asked, nil
}

// amountTexts are amounts for people, in order of their dimensions.
func amountTexts(p *budget.Policy, amounts ledger.Amounts) []string {
	texts := []string{}
	for _, d := range slices.Sorted(maps.Keys(amounts)) {
		text := d.Format(amounts[d], p.Currency)
		if class := d.Class(); class != "" && class != budget.AnyClass && !d.IsTokens() {
			text = class + " " + text
		}
		texts = append(texts, text)
	}
	return texts
}

// requestOverride finds the live grant of a person and rule, or makes one. made
// says that it is new.
func (e *Engine) requestOverride(ctx context.Context, who api.Caller, b *budget.Budget, rule budget.Override, reason string,
	most ledger.Amounts) (g ledger.Grant, made bool, err error) {
	agent := budget.IsAgent(who.Names)
	reason = strings.TrimSpace(reason)
	switch {
	case !agent && !rule.Allows(who.Names):
		return g, false, refusal(http.StatusForbidden, "override %q of budget %s (%s) is for %s, and you are %s", rule.Name, b.Path, rule.Source,
			strings.Join(rule.Who, ", "), orNone(who.Names))
	case rule.ReasonRequired && reason == "":
		return g, false, refusal(http.StatusBadRequest, "override %q of budget %s (%s) needs a reason; give one with -reason or the job's meta %s",
			rule.Name, b.Path, rule.Source, ReasonMeta)
	case len(reason) > reasonMax:
		return g, false, refusal(http.StatusBadRequest, "the reason has %d bytes; at most %d are kept", len(reason), reasonMax)
	}
	now := e.now()
	next := ledger.Grant{ID: "o-" + e.books.newID(), Budget: b.Path, Rule: rule.Name, Accessor: who.Accessor, Identity: who.Names, Reason: reason,
		Max: most, RequestedMS: now.UnixMilli(), Needed: rule.Approvals}
	if agent {
		next.Needed = max(1, next.Needed) // what acts by itself never has the last word
	}
	if next.Needed == 0 {
		next = next.Activate(now.UnixMilli(), rule.Expires)
	}
	g, err = e.changeGrant(ctx, overrideKey(b.Path, rule.Name, who.Accessor), func(old *ledger.Grant) (ledger.Grant, []AuditEvent, error) {
		if made = old == nil || !old.Live(now.UnixMilli()); !made {
			return *old, nil, errNoChange
		}
		p := e.policy.State().Policy
		return next, e.grantEvents("override.requested", who, next, rule, fmt.Sprintf("%s asked for %s more for budget %s (override %q)", who.Accessor,
			strings.Join(amountTexts(p, next.Max), ", "), next.Budget, next.Rule)), nil
	})
	return g, made && err == nil, err
}

func clockText(p *budget.Policy, ms int64) string {
	return time.UnixMilli(ms).In(p.Location).Format("2006-01-02 15:04:05 MST")
}

// grantEvents are what the auditor hears of a grant that was changed; of one that
// now counts, that too.
func (e *Engine) grantEvents(kind string, who api.Caller, g ledger.Grant, rule budget.Override, text string) []AuditEvent {
	events := []AuditEvent{e.grantEvent(kind, who, g, rule, text)}
	if g.FromMS != 0 && kind != "override.revoked" {
		events = append(events, e.grantEvent("override.activated", who, g, rule,
			fmt.Sprintf("override %s counts until %s", g.ID, clockText(e.policy.State().Policy, g.UntilMS))))
	}
	return events
}

func (e *Engine) grantEvent(kind string, who api.Caller, g ledger.Grant, rule budget.Override, text string) AuditEvent {
	if g.Reason != "" {
		text += ": " + g.Reason
	}
	return AuditEvent{At: e.now(), Kind: kind, Actor: who.Accessor, Names: who.Names, Budget: g.Budget, Subject: g.ID, Text: text, Notify: rule.Notify}
}

// changeGrant changes one grant by compare-and-set, together with the audit
// records of it. With errNoChange nothing is written and the grant that the change
// returned is the answer.
func (e *Engine) changeGrant(ctx context.Context, key string, change func(old *ledger.Grant) (ledger.Grant, []AuditEvent, error)) (ledger.Grant, error) {
	for attempt := 0; ; attempt++ {
		records, err := e.books.store.Read(ctx, key)
		if err != nil {
			return ledger.Grant{}, fmt.Errorf("read override: %w", err)
		}
		var old *ledger.Grant
		if records[0].Version != 0 {
			g, err := ledger.Decode[ledger.Grant](records[0].Value)
			if err != nil {
				return g, fmt.Errorf("%s: %w", key, err)
			}
			old = &g
		}
		next, events, err := change(old)
		if errors.Is(err, errNoChange) {
			return next, nil
		}
		if err != nil {
			return next, err
		}
		value, err := ledger.Encode(next)
		if err != nil {
			return next, fmt.Errorf("encode override: %w", err)
		}
		err = e.chain.commit(ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}}, events...)
		if err == nil || !errors.Is(err, ledger.ErrConflict) || attempt == commitAttempts {
			return next, err
		}
	}
}

// grantKey is a grant with the key of its record: after a move of its budget that
// is not always the one that a new request would have.
type grantKey struct {
	ledger.Grant
	key     string
	version uint64
}

// grants lists all grants, the newest first.
func (e *Engine) grants(ctx context.Context) ([]ledger.Grant, error) {
	keyed, err := e.grantKeys(ctx)
	grants := make([]ledger.Grant, len(keyed))
	for i, g := range keyed {
		grants[i] = g.Grant
	}
	return grants, err
}

func (e *Engine) grantKeys(ctx context.Context) ([]grantKey, error) {
	records, _, err := e.books.store.List(ctx, overridePrefix)
	if err != nil {
		return nil, fmt.Errorf("list overrides: %w", err)
	}
	var out []grantKey
	for _, r := range records {
		g, err := ledger.Decode[ledger.Grant](r.Value)
		if err != nil {
			e.logger.Error("override left out", "key", r.Key, "error", err)
			continue
		}
		out = append(out, grantKey{g, r.Key, r.Version})
	}
	slices.SortFunc(out, func(a, b grantKey) int {
		return cmp.Or(cmp.Compare(b.RequestedMS, a.RequestedMS), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Overrides lists all grants that the store knows.
func (e *Engine) Overrides(ctx context.Context) ([]OverrideStatus, error) {
	grants, err := e.grants(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]OverrideStatus, 0, len(grants))
	for _, g := range grants {
		out = append(out, e.overrideStatus(e.policy.State().Policy, g))
	}
	return out, nil
}

func (e *Engine) overrideStatus(p *budget.Policy, g ledger.Grant) OverrideStatus {
	return OverrideStatus{Grant: g, State: g.State(e.now().UnixMilli()), Adds: amountTexts(p, g.Max)}
}

// findGrant finds a grant by its id.
func (e *Engine) findGrant(ctx context.Context, id string) (grantKey, error) {
	grants, err := e.grantKeys(ctx)
	if err != nil {
		return grantKey{}, err
	}
	for _, g := range grants {
		if g.ID == id {
			return g, nil
		}
	}
	return grantKey{}, refusal(http.StatusNotFound, "there is no override %.40q; `governor override list` lists all", id)
}

// ApproveOverride counts the caller's yes.
func (e *Engine) ApproveOverride(ctx context.Context, who api.Caller, id string) (OverrideStatus, error) {
	p := e.policy.State().Policy
	found, err := e.findGrant(ctx, id)
	if err != nil {
		return OverrideStatus{}, err
	}
	rule, err := ruleOf(p, found.Grant)
	if err != nil {
		return OverrideStatus{}, err
	}
	switch {
	case who.Accessor == anonymous:
		return OverrideStatus{}, refusal(http.StatusForbidden, "Nomad runs without ACLs, so nobody can be told from who asked; nobody can approve")
	case budget.IsAgent(who.Names):
		return OverrideStatus{}, refusal(http.StatusForbidden, "an agent may ask for an override, but never approve one")
	case !rule.Allows(who.Names):
		return OverrideStatus{}, refusal(http.StatusForbidden, "override %q of budget %s (%s) is approved by %s, and you are %s", rule.Name, found.Budget, rule.Source,
			strings.Join(rule.Who, ", "), orNone(who.Names))
	}
	now := e.now().UnixMilli()
	g, err := e.changeGrant(ctx, found.key, func(old *ledger.Grant) (ledger.Grant, []AuditEvent, error) {
		if old == nil || old.ID != id {
			return ledger.Grant{}, nil, replacedGrant(id)
		}
		next, err := old.Approve(ledger.Approval{By: who.Accessor, Identity: who.Names, AtMS: now}, rule.Expires)
		return next, e.grantEvents("override.approved", who, next, rule, fmt.Sprintf("%s approved override %s of budget %s", who.Accessor, id, next.Budget)), grantProblem(err)
	})
	if err != nil {
		return OverrideStatus{}, err
	}
	return e.overrideStatus(p, g), nil
}

func replacedGrant(id string) error {
	return refusal(http.StatusConflict, "override %s was replaced by a newer request; `governor override list` shows it", id)
}

func grantProblem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ledger.ErrOwnRequest):
		return refusal(http.StatusForbidden, "%v", err)
	}
	return refusal(http.StatusConflict, "%v", err)
}

// ruleOf is the rule in force by which a grant was asked for. It must still
// allow as much.
func ruleOf(p *budget.Policy, g ledger.Grant) (budget.Override, error) {
	b := p.Find(g.Budget)
	if b == nil {
		return budget.Override{}, refusal(http.StatusConflict, "budget %s of override %s is gone", g.Budget, g.ID)
	}
	rule, ok := b.FindOverride(g.Rule)
	if !ok {
		return rule, refusal(http.StatusConflict, "budget %s has no override %q any more", g.Budget, g.Rule)
	}
	for _, d := range slices.Sorted(maps.Keys(g.Max)) {
		if g.Max[d] > rule.Max[d] {
			return rule, refusal(http.StatusConflict, "override %s asks for %s, and rule %q (%s) now adds at most %s; refuse it and ask again", g.ID,
				d.Format(g.Max[d], p.Currency), rule.Name, rule.Source, d.Format(rule.Max[d], p.Currency))
		}
	}
	return rule, nil
}

// RevokeOverride refuses a request, or takes an active grant back. Who asked may
// do so, those who could approve, and management.
func (e *Engine) RevokeOverride(ctx context.Context, who api.Caller, id string) (OverrideStatus, error) {
	p := e.policy.State().Policy
	found, err := e.findGrant(ctx, id)
	if err != nil {
		return OverrideStatus{}, err
	}
	rule := ruleNow(p, found.Grant)
	if who.Accessor != found.Accessor && (!rule.Allows(who.Names) || budget.IsAgent(who.Names)) && !manages(who.Names) {
		return OverrideStatus{}, refusal(http.StatusForbidden, "override %s may be refused or revoked by who asked for it, by %s, and with a management token; you are %s",
			id, orNone(rule.Who), orNone(who.Names))
	}
	g, err := e.changeGrant(ctx, found.key, func(old *ledger.Grant) (ledger.Grant, []AuditEvent, error) {
		if old == nil || old.ID != id {
			return ledger.Grant{}, nil, replacedGrant(id)
		}
		next, err := old.Revoke(who.Accessor, e.now().UnixMilli())
		return next, e.grantEvents("override.revoked", who, next, rule, fmt.Sprintf("%s revoked override %s of budget %s", who.Accessor, id, next.Budget)), grantProblem(err)
	})
	if err != nil {
		return OverrideStatus{}, err
	}
	return e.overrideStatus(p, g), nil
}

// ruleNow is the rule of a grant as it is in force, or an empty one when it is
// gone: then it names nobody.
func ruleNow(p *budget.Policy, g ledger.Grant) budget.Override {
	b := p.Find(g.Budget)
	if b == nil {
		return budget.Override{}
	}
	rule, _ := b.FindOverride(g.Rule)
	return rule
}

// managementName is the name of whoever has a management token.
const managementName = "type:management"
