package budget_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

func TestCountsAndWatts(t *testing.T) {
	t.Parallel()
	p := &budget.Policy{Classes: []budget.Class{
		{Name: "h100", Watts: 700},
		{Name: "h100-1g", Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 7}}},
		{Name: "l4"},
		{Name: "mixed", Shares: []budget.Share{{Class: "h100", Parts: quantity.GPU / 2}, {Class: "l4", Parts: quantity.GPU / 2}}},
	}}
	one := quantity.GPU
	cases := map[string]struct {
		counts []budget.Share
		watts  int64
	}{
		"h100":    {[]budget.Share{{Class: "any", Parts: one}, {Class: "h100", Parts: one}}, 700},
		"h100-1g": {[]budget.Share{{Class: "any", Parts: one / 7}, {Class: "h100", Parts: one / 7}, {Class: "h100-1g", Parts: one}}, 100},
		"l4":      {[]budget.Share{{Class: "any", Parts: one}, {Class: "l4", Parts: one}}, 0},
		"mixed": {[]budget.Share{{Class: "any", Parts: one}, {Class: "h100", Parts: one / 2}, {Class: "l4", Parts: one / 2},
			{Class: "mixed", Parts: one}}, 0},
		"unknown": {[]budget.Share{{Class: "any", Parts: one}, {Class: "unknown", Parts: one}}, 0},
	}
	for class, tc := range cases {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, tc.counts, p.Counts(class))
			must.EqOp(t, tc.watts, p.WattsOf(class))
		})
	}
}
