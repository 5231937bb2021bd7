package budget_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// tree builds acme with research (and nlp below it) and serving.
func tree() *budget.Policy {
	acme := &budget.Budget{Name: "acme", Path: "acme"}
	research := &budget.Budget{Name: "research", Path: "acme/research", Parent: acme, Match: &budget.Match{Namespaces: []string{"research*", "shared"}}}
	nlp := &budget.Budget{Name: "nlp", Path: "acme/research/nlp", Parent: research, Match: &budget.Match{Namespaces: []string{"research-nlp"}, Identities: []string{"role:nlp-*", "token:ada"}}}
	serving := &budget.Budget{Name: "serving", Path: "acme/serving", Parent: acme, Match: &budget.Match{Namespaces: []string{"shared", "inference"}}}
	research.Children = []*budget.Budget{nlp}
	acme.Children = []*budget.Budget{research, serving}
	return &budget.Policy{Roots: []*budget.Budget{acme}}
}

func facts(namespace string, identity []string) budget.Facts {
	return budget.Facts{Job: budget.JobFacts{Namespace: namespace}, Submitter: budget.SubmitterFacts{Names: identity}}
}

// matches is Match.Matches for rules without conditions, which cannot fail.
func matches(m *budget.Match, namespace string) bool {
	ok, err := m.Matches(facts(namespace, nil))
	return ok && err == nil
}

func TestClaim(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		namespace string
		identity  []string
		narrow    string
		outcome   budget.ClaimOutcome
		path      string
		paths     []string
	}{
		"no budget matches":                               {"default", nil, "", budget.Unclaimed, "", nil},
		"one budget matches":                              {"inference", nil, "", budget.Claimed, "acme/serving", []string{"acme/serving"}},
		"the deepest of a path wins":                      {"research-nlp", []string{"role:nlp-eu"}, "", budget.Claimed, "acme/research/nlp", []string{"acme/research/nlp"}},
		"any name of the identity may match":              {"research-nlp", []string{"policy:x", "token:ada"}, "", budget.Claimed, "acme/research/nlp", []string{"acme/research/nlp"}},
		"the identity decides":                            {"research-nlp", []string{"role:vision"}, "", budget.Claimed, "acme/research", []string{"acme/research"}},
		"an anonymous submitter has no name":              {"research-nlp", nil, "", budget.Claimed, "acme/research", []string{"acme/research"}},
		"two leaves are ambiguous":                        {"shared", nil, "", budget.Ambiguous, "", []string{"acme/research", "acme/serving"}},
		"the job chooses one of two":                      {"shared", nil, "acme/serving", budget.Claimed, "acme/serving", []string{"acme/research", "acme/serving"}},
		"the job may repeat what is clear":                {"inference", nil, "acme/serving", budget.Claimed, "acme/serving", []string{"acme/serving"}},
		"the job may not take another's budget":           {"inference", nil, "acme/research", budget.NarrowRefused, "", []string{"acme/serving"}},
		"the job may not slip past its team to its group": {"research-nlp", []string{"token:ada"}, "acme/research", budget.NarrowRefused, "", []string{"acme/research/nlp"}},
		"the job may not name the common parent":          {"shared", nil, "acme", budget.NarrowRefused, "", []string{"acme/research", "acme/serving"}},
		"a wrong choice is never forgiven":                {"default", nil, "acme/serving", budget.NarrowRefused, "", nil},
		"a path is not a pattern":                         {"shared", nil, "acme/*", budget.NarrowRefused, "", []string{"acme/research", "acme/serving"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, result := tree().Claim(facts(tc.namespace, tc.identity), tc.narrow)
			must.Eq(t, budget.ClaimResult{Outcome: tc.outcome, Candidates: tc.paths, Narrow: tc.narrow}, result)
			if tc.path == "" {
				must.Nil(t, b)
				return
			}
			must.Eq(t, tc.path, b.Path)
		})
	}
}

func TestClaimOutcomesHaveStableNames(t *testing.T) {
	t.Parallel()
	must.Eq(t, "unclaimed claimed ambiguous narrow_refused match_failed claim_outcome(9)",
		strings.Join([]string{budget.Unclaimed.String(), budget.Claimed.String(), budget.Ambiguous.String(), budget.NarrowRefused.String(), budget.MatchFailed.String(), budget.ClaimOutcome(9).String()}, " "))
}

func anyGlob() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.RuneFrom([]rune("ab*")), 0, 6, -1)
}

func anyText() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 8, -1)
}

func TestGlobsMatchLikeTheRegularExpression(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		glob, text := anyGlob().Draw(t, "glob"), anyText().Draw(t, "text")
		want := regexp.MustCompile(`\A(?s:` + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, `.*`) + `)\z`).MatchString(text)
		m := &budget.Match{Namespaces: []string{glob}}
		must.Eq(t, want, matches(m, text))
	})
}

// Every text of up to 8 letters that both globs match exists if and only if
// they overlap: two globs of 6 characters need no longer witness.
func TestGlobsOverlapWhenSomeTextMatchesBoth(t *testing.T) {
	t.Parallel()
	texts := []string{""}
	for from := 0; len(texts[len(texts)-1]) < 8; {
		end := len(texts)
		for _, s := range texts[from:end] {
			texts = append(texts, s+"a", s+"b")
		}
		from = end
	}
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringOfN(rapid.RuneFrom([]rune("ab*")), 1, 4, -1)
		a, b := &budget.Match{Namespaces: []string{short.Draw(t, "a")}}, &budget.Match{Namespaces: []string{short.Draw(t, "b")}}
		want := slices.ContainsFunc(texts, func(s string) bool { return matches(a, s) && matches(b, s) })
		must.Eq(t, want, a.Overlaps(b))
		must.Eq(t, want, b.Overlaps(a))
	})
}

func TestRulesOverlapOnlyWhenBothListsDo(t *testing.T) {
	t.Parallel()
	a := &budget.Match{Namespaces: []string{"x"}, Identities: []string{"role:a"}}
	must.True(t, a.Overlaps(&budget.Match{Namespaces: []string{"x"}}))
	must.True(t, a.Overlaps(&budget.Match{Identities: []string{"role:*"}}))
	must.False(t, a.Overlaps(&budget.Match{Namespaces: []string{"x"}, Identities: []string{"role:b"}}))
	must.False(t, a.Overlaps(&budget.Match{Namespaces: []string{"y"}}))
	must.False(t, a.Overlaps(nil))
}

func TestValuesAreInheritedFromTheNearestBudget(t *testing.T) {
	t.Parallel()
	p := tree()
	acme, research, nlp := p.Find("acme"), p.Find("acme/research"), p.Find("acme/research/nlp")

	must.Eq(t, budget.DefaultLease, nlp.EffectiveLease())
	must.Eq(t, 0, nlp.EffectiveDefaultRuntime())
	must.Eq(t, budget.AdmitDeny, nlp.EffectiveAdmit())
	must.Eq(t, 7, nlp.WorstCaseReschedules(7, false))
	must.Eq(t, budget.UnlimitedReschedules, nlp.WorstCaseReschedules(7, true))

	two, none := 2, 0
	acme.Lease, acme.Admit, acme.PerJob = time.Hour, budget.AdmitWarn, budget.PerJob{DefaultRuntime: time.Minute, Reschedules: &two}
	must.Eq(t, time.Hour, nlp.EffectiveLease())
	must.Eq(t, time.Minute, nlp.EffectiveDefaultRuntime())
	must.Eq(t, budget.AdmitWarn, nlp.EffectiveAdmit())
	must.Eq(t, 2, nlp.WorstCaseReschedules(7, false))
	must.Eq(t, 2, nlp.WorstCaseReschedules(7, true))
	must.Eq(t, 1, nlp.WorstCaseReschedules(1, false))

	research.Lease, research.Admit, research.PerJob = time.Minute, budget.AdmitDeny, budget.PerJob{DefaultRuntime: time.Second, Reschedules: &none}
	must.Eq(t, time.Minute, nlp.EffectiveLease())
	must.Eq(t, time.Second, nlp.EffectiveDefaultRuntime())
	must.Eq(t, budget.AdmitDeny, nlp.EffectiveAdmit())
	must.Eq(t, 0, nlp.WorstCaseReschedules(7, true))
	must.Eq(t, time.Hour, p.Find("acme/serving").EffectiveLease())
}

func TestWithinIsByPathNotByPrefix(t *testing.T) {
	t.Parallel()
	p := tree()
	must.True(t, p.Find("acme/research/nlp").Within(p.Find("acme")))
	must.True(t, p.Find("acme").Within(p.Find("acme")))
	must.False(t, p.Find("acme").Within(p.Find("acme/research")))
	must.False(t, p.Find("acme/serving").Within(&budget.Budget{Path: "acme/serv"}))
}
