package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// claim finds the budget, or says why there is none. Both nil: nothing claims
// the job and the policy lets it run.
func claim(p *budget.Policy, s gate.Submission, now time.Time) (*budget.Budget, *admission.Refusal) {
	b, result := p.Claim(factsOf(s, now, p), s.Ask.Meta[admission.BudgetMeta])
	switch result.Outcome {
	case budget.Claimed:
		return b, nil
	case budget.Ambiguous:
		return nil, &admission.Refusal{Reason: admission.AmbiguousMatch,
			Fact:   "several budgets claim this job: " + strings.Join(result.Candidates, ", "),
			Remedy: fmt.Sprintf("pick one with meta { %s = \"...\" }, or make their match rules disjoint", admission.BudgetMeta)}
	case budget.NarrowRefused:
		return nil, &admission.Refusal{Reason: admission.BudgetNotAllowed,
			Fact:   fmt.Sprintf("the job names budget %q, which it may not draw from", result.Narrow),
			Remedy: "name one of: " + orNone(result.Candidates)}
	case budget.MatchFailed:
		return nil, &admission.Refusal{Reason: admission.MatchFailed,
			Fact:   fmt.Sprintf("the match rule of budget %s cannot be decided for this job: %s", result.Failed, result.Error),
			Remedy: "give the job what the rule asks for, or have the rule corrected"}
	case budget.Unclaimed:
	}
	if p.Unmatched == budget.UnmatchedAllow {
		return nil, nil
	}
	fact := fmt.Sprintf("no budget claims GPU jobs of namespace %q for %s", s.Ask.Namespace, orNone(s.Identity.Names))
	remedy := "add a match rule to a budget, or submit in a namespace that has one"
	if len(p.Roots) == 0 {
		fact, remedy = "no budgets are applied yet", "apply some with `governor budget apply <dir>`"
	}
	return nil, &admission.Refusal{Reason: admission.Unmatched, Fact: fact, Remedy: remedy}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}
