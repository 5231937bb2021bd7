package budget_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
)

func TestCountsOfADevice(t *testing.T) {
	t.Parallel()
	p := &budget.Policy{Classes: []budget.Class{
		{Name: "h100"},
		{Name: "h100-1g", Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 7}}},
		{Name: "pair", Shares: []budget.Share{{Class: "a", Parts: quantity.GPU}, {Class: "b", Parts: quantity.GPU}}},
	}}
	cases := map[string][]budget.Share{
		"h100":    {{Class: "h100", Parts: quantity.GPU}, {Class: "any", Parts: quantity.GPU}},
		"h100-1g": {{Class: "h100-1g", Parts: quantity.GPU}, {Class: "h100", Parts: 720}, {Class: "any", Parts: 720}},
		"pair":    {{Class: "pair", Parts: quantity.GPU}, {Class: "a", Parts: quantity.GPU}, {Class: "b", Parts: quantity.GPU}, {Class: "any", Parts: 2 * quantity.GPU}},
		"gone":    {{Class: "gone", Parts: quantity.GPU}, {Class: "any", Parts: quantity.GPU}},
	}
	for class, want := range cases {
		must.Eq(t, want, p.Counts(class), must.Sprint(class))
	}
}

func TestCohortMembersInPathOrder(t *testing.T) {
	t.Parallel()
	b := func(path, cohort string, children ...*budget.Budget) *budget.Budget {
		return &budget.Budget{Path: path, Rules: budget.Rules{Cohort: cohort}, Children: children}
	}
	p := &budget.Policy{Roots: []*budget.Budget{b("a", "", b("a/x", "pool"), b("a/y", "other")), b("b", "pool")}}
	var paths []string
	for _, m := range p.Cohort("pool") {
		paths = append(paths, m.Path)
	}
	must.Eq(t, []string{"a/x", "b"}, paths)
	must.SliceEmpty(t, p.Cohort(""))
}
