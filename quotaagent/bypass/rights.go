package bypass

import (
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// starting are the capabilities that start GPU work, in the order in which they
// are named. "write" and "scale" are expanded into them in Nomad's RulesJSON.
var starting = [...]string{"submit-job", "register-job", "dispatch-job", "scale-job", "revert-job", "force-periodic-job"}

// forcing are those that still start work while registrations are rejected:
// periodic force is not covered (nomad/periodic_endpoint.go).
var forcing = [...]string{"submit-job", "dispatch-job", "force-periodic-job"}

// grant is what somebody may start in the namespaces that match a pattern.
type grant struct {
	pattern      string
	capabilities []string
	// except are known namespaces that the pattern matches and another one decides,
	// which allows nothing.
	except []string
}

// grants are what policies together allow to start, by pattern.
func (f *Facts) grants(policies []Policy) []grant {
	relevant := starting[:]
	if f.RejectRegistration {
		relevant = forcing[:]
	}
	rights := together(policies)
	merged := rights.Namespaces()
	var out []grant
	for pattern, have := range merged {
		g := grant{pattern: pattern}
		for _, c := range relevant {
			if slices.Contains(have, c) {
				g.capabilities = append(g.capabilities, c)
			}
		}
		if len(g.capabilities) == 0 {
			continue
		}
		for _, ns := range f.Namespaces {
			by, _ := rights.Decides(ns)
			if by != pattern && acl.Matches(pattern, ns) && !startsAny(merged[by], relevant) {
				g.except = append(g.except, ns)
			}
		}
		slices.Sort(g.except)
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b grant) int { return strings.Compare(a.pattern, b.pattern) })
	return out
}

// together is what several policies allow.
func together(policies []Policy) acl.Rights {
	rules := make([]acl.Rules, 0, len(policies))
	for _, p := range policies {
		rules = append(rules, p.Rules)
	}
	return acl.Combine(rules...)
}

func startsAny(have, relevant []string) bool {
	return slices.ContainsFunc(have, func(c string) bool { return slices.Contains(relevant, c) })
}

// text is grants in words: "submit-job in default; scale-job in ml-* (not ml-x)".
// Patterns with the same capabilities are named together.
func text(grants []grant) string {
	var order []string
	where := map[string][]string{}
	for _, g := range grants {
		what := strings.Join(g.capabilities, ", ")
		if where[what] == nil {
			order = append(order, what)
		}
		place := g.pattern
		if len(g.except) > 0 {
			place += " (not " + strings.Join(g.except, ", ") + ")"
		}
		where[what] = append(where[what], place)
	}
	parts := make([]string, 0, len(order))
	for _, what := range order {
		noun := "namespace "
		if len(where[what]) > 1 {
			noun = "namespaces "
		}
		parts = append(parts, what+" in "+noun+strings.Join(where[what], ", "))
	}
	return strings.Join(parts, "; ")
}
