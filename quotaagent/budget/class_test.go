package budget_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

func TestCounts(t *testing.T) {
	t.Parallel()
	p := &budget.Policy{Classes: []budget.Class{
		{Name: "h100", Watts: 700},
		{Name: "h100-1g", Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 7}}},
		{Name: "l4"},
		{Name: "mixed", Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 2}, {Class: "l4", Parts: quantity.GPU / 2}}},
	}}
	one := quantity.GPU
	cases := map[string][]budget.Share{
		"h100":    {{Class: "any", Parts: one}, {Class: "h100", Parts: one}},
		"h100-1g": {{Class: "any", Parts: one / 7}, {Class: "h100", Parts: one / 7}, {Class: "h100-1g", Parts: one}},
		"l4":      {{Class: "any", Parts: one}, {Class: "l4", Parts: one}},
		"mixed": {{Class: "any", Parts: one}, {Class: "h100", Parts: one / 2}, {Class: "l4", Parts: one / 2},
			{Class: "mixed", Parts: one}},
		"unknown": {{Class: "any", Parts: one}, {Class: "unknown", Parts: one}},
	}
	for class, tc := range cases {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, tc, p.Counts(class))
		})
	}
}
