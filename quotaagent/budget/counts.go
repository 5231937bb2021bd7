package budget

import "github.com/nomad-governor/governor/internal/quantity"

// Counts lists the classes towards which one device of a class counts, and as
// how much of a device of each: its own class first and whole, then the classes
// that it is a share of, and AnyClass last. A class that the policy does not know
// (holds outlive policies) counts as itself and as one of any.
func (p *Policy) Counts(class string) []Share {
	out := []Share{{Class: class, Parts: quantity.GPU}}
	whole := quantity.GPU
	for _, c := range p.Classes {
		if c.Name != class || len(c.Shares) == 0 {
			continue
		}
		whole = 0
		for _, s := range c.Shares {
			out = append(out, s)
			whole = whole.Add(s.Parts)
		}
	}
	return append(out, Share{Class: AnyClass, Parts: whole})
}

// Cohort lists the budgets that lend to each other under a name, in path order.
func (p *Policy) Cohort(name string) []*Budget {
	var members []*Budget
	if name == "" {
		return members
	}
	p.Walk(func(b *Budget) {
		if b.Cohort == name {
			members = append(members, b)
		}
	})
	return members
}
