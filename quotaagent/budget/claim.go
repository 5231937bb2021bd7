package budget

import (
	"fmt"
	"slices"
	"strings"
)

// ClaimOutcome says whether a job has exactly one budget.
type ClaimOutcome uint8

// The outcomes of Claim. The zero value claims nothing.
const (
	// Unclaimed: no budget matches; Policy.Unmatched says what happens.
	Unclaimed ClaimOutcome = iota
	// Claimed: exactly one budget, which Claim returned.
	Claimed
	// Ambiguous: several budgets on different paths match and the job names
	// none of them.
	Ambiguous
	// NarrowRefused: the job names a budget that it may not draw from.
	NarrowRefused
	// MatchFailed: the condition of a match rule cannot be evaluated for this
	// job, so that nobody knows which budget it belongs to. It is denied.
	MatchFailed
)

var claimOutcomeNames = [...]string{"unclaimed", "claimed", "ambiguous", "narrow_refused", "match_failed"}

// String is the outcome's stable name.
func (o ClaimOutcome) String() string {
	if int(o) >= len(claimOutcomeNames) {
		return fmt.Sprintf("claim_outcome(%d)", uint8(o))
	}
	return claimOutcomeNames[o]
}

// ClaimResult explains a claim to people and to the audit log.
type ClaimResult struct {
	Outcome ClaimOutcome
	// Candidates are the paths of the budgets that the job may draw from, in
	// order: one when claimed without a choice, none when unclaimed.
	Candidates []string
	// Narrow is the path that the job named, or "".
	Narrow string
	// Failed is the path of the budget whose condition failed and Error says why;
	// both only when the outcome is MatchFailed.
	Failed, Error string
}

// Claim finds the budget that a job draws from: the deepest one whose Match
// fits the job and its submitter. When budgets on different paths fit, narrow
// decides: the path that the job itself names in its meta `governor_budget`.
// Because a job's author writes it, narrow can only choose among the budgets
// that fit. In particular it cannot choose the parent of one that fits, which
// would slip past the limits of the child.
//
// The budget is nil unless the outcome is Claimed.
func (p *Policy) Claim(f Facts, narrow string) (*Budget, ClaimResult) {
	result := ClaimResult{Narrow: narrow}
	candidates, failure := p.candidates(f)
	if failure != nil {
		result.Outcome, result.Failed, result.Error = MatchFailed, failure.path, failure.cause.Error()
		return nil, result
	}
	for _, b := range candidates {
		result.Candidates = append(result.Candidates, b.Path)
	}
	if narrow != "" {
		i := slices.Index(result.Candidates, narrow)
		if i < 0 {
			result.Outcome = NarrowRefused
			return nil, result
		}
		result.Outcome = Claimed
		return candidates[i], result
	}
	switch len(candidates) {
	case 0:
		result.Outcome = Unclaimed
		return nil, result
	case 1:
		result.Outcome = Claimed
		return candidates[0], result
	}
	result.Outcome = Ambiguous
	return nil, result
}

// matchFailure is the first match rule, in path order, that cannot be decided.
type matchFailure struct {
	path  string
	cause error
}

// candidates are the deepest matching budgets of every path, in path order.
func (p *Policy) candidates(f Facts) ([]*Budget, *matchFailure) {
	var failure *matchFailure
	var deepest func(b *Budget) []*Budget
	deepest = func(b *Budget) []*Budget {
		var found []*Budget
		for _, child := range b.Children {
			found = append(found, deepest(child)...)
		}
		if len(found) > 0 || failure != nil {
			return found
		}
		matches, err := b.Match.Matches(f)
		if err != nil {
			failure = &matchFailure{b.Path, err}
		}
		if matches {
			found = append(found, b)
		}
		return found
	}
	var found []*Budget
	for _, root := range p.Roots {
		found = append(found, deepest(root)...)
	}
	if failure != nil {
		return nil, failure
	}
	return found, nil
}

// Matches reports whether a job fits the rule. A nil rule fits nothing. The
// condition is evaluated last, and only for jobs that the lists let through; its
// error is returned.
func (m *Match) Matches(f Facts) (bool, error) {
	switch {
	case m == nil,
		len(m.Namespaces) > 0 && !matchesAny(m.Namespaces, f.Job.Namespace),
		len(m.NodePools) > 0 && !matchesAny(m.NodePools, f.Job.NodePool),
		len(m.Identities) > 0 && !matchesAny(m.Identities, f.Submitter.Names...):
		return false, nil
	case m.When == nil:
		return true, nil
	}
	return m.When.Holds(f)
}

// Overlaps reports whether a job whose submitter has a single name could fit
// both rules. Somebody with several roles may fit two rules that do not
// overlap; such a job is ambiguous only when it comes. Different conditions are
// taken to exclude each other: nobody can tell without a job.
func (m *Match) Overlaps(other *Match) bool {
	return m != nil && other != nil &&
		listsOverlap(m.Namespaces, other.Namespaces) && listsOverlap(m.Identities, other.Identities) &&
		listsOverlap(m.NodePools, other.NodePools) && conditionText(m.When) == conditionText(other.When)
}

func conditionText(c Condition) string {
	if c == nil {
		return ""
	}
	return c.String()
}

// Within reports whether the budget is other or lies below it.
func (b *Budget) Within(other *Budget) bool {
	return b.Path == other.Path || strings.HasPrefix(b.Path, other.Path+"/")
}
