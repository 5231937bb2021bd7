package budget_test

import (
	"testing"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
)

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
