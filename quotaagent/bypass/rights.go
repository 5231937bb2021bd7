package bypass

import (
	"slices"
	"strings"
)

// starting are the capabilities that start GPU work, in the order in which they
// are named. "write" and "scale" are expanded into them in Nomad's RulesJSON.
var starting = [...]string{"submit-job", "register-job", "dispatch-job", "scale-job", "revert-job", "force-periodic-job"}

// forcing are those that still start work while registrations are rejected:
// periodic force is not covered (nomad/periodic_endpoint.go).
var forcing = [...]string{"submit-job", "dispatch-job", "force-periodic-job"}

const denied = "deny"

// grant is what somebody may start in the namespaces that match a pattern.
type grant struct {
	pattern      string
	capabilities []string
	// except are known namespaces that the pattern matches and another one decides,
	// which allows nothing.
	except []string
}

// merge is what several policies allow together, by pattern: the union, unless one
// denies.
func merge(policies []Policy) map[string][]string {
	merged := map[string][]string{}
	for _, p := range policies {
		for _, ns := range p.Rules.Namespaces {
			have := merged[ns.Name]
			switch {
			case slices.Contains(have, denied):
			case slices.Contains(ns.Capabilities, denied), ns.Policy == denied:
				merged[ns.Name] = []string{denied}
			default:
				merged[ns.Name] = append(have, ns.Capabilities...)
			}
		}
	}
	return merged
}

// decides is the pattern that decides about a namespace: its own name, or else the
// glob that is nearest to it in length.
func decides(merged map[string][]string, namespace string) (string, bool) {
	if _, own := merged[namespace]; own {
		return namespace, true
	}
	best, found, least := "", false, 0
	for pattern := range merged {
		if !strings.Contains(pattern, "*") || !matches(pattern, namespace) {
			continue
		}
		difference := len(namespace) - len(pattern) + strings.Count(pattern, "*")
		if !found || difference < least || difference == least && pattern < best {
			best, found, least = pattern, true, difference
		}
	}
	return best, found
}

// matches reports whether a glob, in which * is any text, matches.
func matches(glob, text string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}

// grants are what policies together allow to start, by pattern.
func (f *Facts) grants(policies []Policy) []grant {
	relevant := starting[:]
	if f.RejectRegistration {
		relevant = forcing[:]
	}
	merged := merge(policies)
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
			by, _ := decides(merged, ns)
			if by != pattern && matches(pattern, ns) && !startsAny(merged[by], relevant) {
				g.except = append(g.except, ns)
			}
		}
		slices.Sort(g.except)
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b grant) int { return strings.Compare(a.pattern, b.pattern) })
	return out
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
