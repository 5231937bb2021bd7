package budget

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
