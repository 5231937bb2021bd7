package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// overruling is what -policy-override makes of a submission that would be blocked.
type overruling struct {
	// Refusal stands in the place of the decision; nil leaves it.
	Refusal *admission.Refusal
	// Note says in a sentence why -policy-override changes nothing; "" otherwise.
	Note string
}

// noted is the verdict with the note, for the author of the job.
func (o overruling) noted(v gate.Verdict) gate.Verdict {
	switch {
	case o.Note == "":
	case v.Denied:
		v.Message += fmt.Sprintf("\n  %-11s %s", "override", o.Note)
	default:
		v.Warnings = append(v.Warnings, "governor: "+o.Note)
	}
	return v
}

// overrule is what -policy-override does before the decision that counts: it looks
// whether the job would be blocked, and finds or asks for the grants that lift
// each limit in its way. From the moment that a grant counts, every decision takes
// it into account by itself.
func (e *Engine) overrule(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, placed Placement) (overruling, error) {
	if !s.PolicyOverride {
		return overruling{}, nil
	}
	v, err := e.books.look(ctx, e.targetOf(p, b, s))
	if err != nil {
		return overruling{}, err
	}
	d, _, err := e.decide(p, b, s, lines, unchanged(s, placed.Patch), v)
	if err != nil || !blocked(d) || d.Refusal != nil {
		return overruling{}, err
	}
	rules, note := overridable(p, d, callerOf(s.Identity))
	if note != "" {
		return overruling{Note: note}, nil
	}
	if !s.Kind.Commits() {
		return overruling{Note: rehearsal(rules)}, nil
	}
	return e.overrideAll(ctx, callerOf(s.Identity), s.Ask.Meta[ReasonMeta], rules)
}

// overrideAll finds or asks for one grant of each rule.
func (e *Engine) overrideAll(ctx context.Context, who api.Caller, reason string, rules []overrideRule) (overruling, error) {
	var out overruling
	for _, r := range rules {
		g, made, err := e.requestOverride(ctx, who, r.budget, r.rule, reason, maps.Clone(r.rule.Max))
		var problem *api.Problem
		switch {
		case errors.As(err, &problem):
			return overruling{Note: problem.Text}, nil
		case err != nil:
			return overruling{}, err
		case g.FromMS == 0:
			out.Refusal = waiting(g)
		case !made:
			out.Note = fmt.Sprintf("your override %s counts already, and it does not fit even so", g.ID)
		}
	}
	return out, nil
}

// rehearsal says what a submission that has no effect would ask for.
func rehearsal(rules []overrideRule) string {
	var texts []string
	for _, r := range rules {
		text := fmt.Sprintf("override %q of budget %s (%s)", r.rule.Name, r.budget.Path, r.rule.Source)
		if r.rule.Approvals > 0 {
			text += ", which takes " + plural(r.rule.Approvals, "approval")
		}
		texts = append(texts, text)
	}
	return "if it is run with -policy-override, it asks for " + strings.Join(texts, "; and ")
}

func waiting(g ledger.Grant) *admission.Refusal {
	missing := g.Needed - len(g.Approvals)
	return &admission.Refusal{Reason: admission.WaitingForApproval,
		Fact:   fmt.Sprintf("override %s of budget %s waits for %s", g.ID, g.Budget, plural(missing, "approval")),
		Remedy: fmt.Sprintf("somebody else whom override %q names runs `governor override approve %s`; then submit again", g.Rule, g.ID)}
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

type overrideRule struct {
	budget *budget.Budget
	rule   budget.Override
}

// overridable are the rules that together lift every limit which blocks; the
// note says why there are none.
func overridable(p *budget.Policy, d admission.Decision, who api.Caller) ([]overrideRule, string) {
	short := map[string]map[budget.Dimension]admission.Check{}
	var nodes []*budget.Budget
	for _, c := range d.Failed {
		switch {
		case c.Kind == admission.JobCap || c.Kind == admission.RunCap:
			return nil, fmt.Sprintf("-policy-override does not lift the bounds of a single job or run (%s)", c.Source)
		case c.Budget.EffectiveAdmit() == budget.AdmitWarn || c.Budget.EffectiveLevel() == budget.Advisory:
			continue
		case c.Budget.EffectiveLevel() != budget.SoftMandatory:
			return nil, fmt.Sprintf("-policy-override does not lift the limits of budget %s (%s): they are hard-mandatory", c.Budget.Path, c.Source)
		}
		if short[c.Budget.Path] == nil {
			short[c.Budget.Path] = map[budget.Dimension]admission.Check{}
			nodes = append(nodes, c.Budget)
		}
		if have, seen := short[c.Budget.Path][c.Dimension]; !seen || c.ShortBy() > have.ShortBy() {
			short[c.Budget.Path][c.Dimension] = c
		}
	}
	var rules []overrideRule
	for _, b := range nodes {
		rule, note := lifting(p, b, short[b.Path], who)
		if note != "" {
			return nil, note
		}
		rules = append(rules, overrideRule{b, rule})
	}
	return rules, ""
}

// lifting is the override of a budget that the caller may use and that adds enough
// to each limit that is short. What acts by itself may ask for any.
func lifting(p *budget.Policy, b *budget.Budget, short map[budget.Dimension]admission.Check, who api.Caller) (budget.Override, string) {
	theirs := slices.DeleteFunc(slices.Clone(b.Overrides), func(o budget.Override) bool {
		return !o.Allows(who.Names) && !budget.IsAgent(who.Names)
	})
	if len(theirs) == 0 {
		return budget.Override{}, fmt.Sprintf("-policy-override does not help: no override of budget %s is for %s", b.Path, orNone(who.Names))
	}
	missing := ""
	for _, o := range theirs {
		missing = ""
		for _, d := range slices.Sorted(maps.Keys(short)) {
			if c := short[d]; c.ShortBy() > o.Max[d] {
				missing = fmt.Sprintf("-policy-override does not help: the job is short by %s of %s, and override %q of budget %s (%s) adds at most %s",
					d.Format(c.ShortBy(), p.Currency), d.Name(), o.Name, b.Path, o.Source, d.Format(o.Max[d], p.Currency))
				break
			}
		}
		if missing == "" {
			return o, ""
		}
	}
	return budget.Override{}, missing
}

// useEvents are the audit records of every grant without which the job would not
// have been admitted.
func (e *Engine) useEvents(p *budget.Policy, s gate.Submission, d admission.Decision) []AuditEvent {
	var events []AuditEvent
	for _, g := range d.Overrides {
		events = append(events, e.grantEvent("override.used", callerOf(s.Identity), g, ruleNow(p, g),
			fmt.Sprintf("job %q in namespace %q was admitted by override %s of budget %s", s.Ask.JobID, s.Ask.Namespace, g.ID, g.Budget)))
	}
	return events
}
