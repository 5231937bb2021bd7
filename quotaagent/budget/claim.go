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
)

var claimOutcomeNames = [...]string{"unclaimed", "claimed", "ambiguous", "narrow_refused"}

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
}

// Claim finds the budget that a job draws from: the deepest one whose Match
// fits the namespace and the identity (Identity.Names of the submitter). When
// budgets on different paths fit, narrow decides: the path that the job itself
// names in its meta `governor_budget`. Because a job's author writes it, narrow
// can only choose among the budgets that fit. In particular it cannot choose
// the parent of one that fits, which would slip past the limits of the child.
//
// The budget is nil unless the outcome is Claimed.
func (p *Policy) Claim(namespace string, identity []string, narrow string) (*Budget, ClaimResult) {
	candidates := p.candidates(namespace, identity)
	result := ClaimResult{Narrow: narrow}
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

// candidates are the deepest matching budgets of every path, in path order.
func (p *Policy) candidates(namespace string, identity []string) []*Budget {
	var deepest func(b *Budget) []*Budget
	deepest = func(b *Budget) []*Budget {
		var found []*Budget
		for _, child := range b.Children {
			found = append(found, deepest(child)...)
		}
		if len(found) == 0 && b.Match.Matches(namespace, identity) {
			found = append(found, b)
		}
		return found
	}
	var found []*Budget
	for _, root := range p.Roots {
		found = append(found, deepest(root)...)
	}
	return found
}

// Matches reports whether a job in the namespace, submitted by someone with
// these names, fits the rule. A nil rule fits nothing.
func (m *Match) Matches(namespace string, identity []string) bool {
	if m == nil {
		return false
	}
	if len(m.Namespaces) > 0 && !matchesAny(m.Namespaces, namespace) {
		return false
	}
	return len(m.Identities) == 0 || matchesAny(m.Identities, identity...)
}

// Overlaps reports whether a job whose submitter has a single name could fit
// both rules. Somebody with several roles may fit two rules that do not
// overlap; such a job is ambiguous only when it comes.
func (m *Match) Overlaps(other *Match) bool {
	return m != nil && other != nil &&
		listsOverlap(m.Namespaces, other.Namespaces) && listsOverlap(m.Identities, other.Identities)
}

// Within reports whether the budget is other or lies below it.
func (b *Budget) Within(other *Budget) bool {
	return b.Path == other.Path || strings.HasPrefix(b.Path, other.Path+"/")
}
