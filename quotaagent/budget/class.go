package budget

import (
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
)

// class finds a class by its name; false for one that the policy does not have.
func (p *Policy) class(name string) (Class, bool) {
	i := slices.IndexFunc(p.Classes, func(c Class) bool { return c.Name == name })
	if i < 0 {
		return Class{}, false
	}
	return p.Classes[i], true
}

// Counts says as how much of which classes one device of a class counts, in
// order of the class names: of its own as one, of those in its shares as their
// parts, and of AnyClass as the sum of its shares or, without any, as one.
func (p *Policy) Counts(class string) []Share {
	c, _ := p.class(class)
	counts := []Share{{Class: class, Parts: quantity.GPU}}
	total := quantity.Amount(0)
	for _, s := range c.Shares {
		total = total.Add(s.Parts)
		if s.Class != class && s.Class != AnyClass {
			counts = append(counts, s)
		}
	}
	if len(c.Shares) == 0 {
		total = quantity.GPU
	}
	counts = append(counts, Share{Class: AnyClass, Parts: total})
	slices.SortFunc(counts, func(a, b Share) int { return strings.Compare(a.Class, b.Class) })
	return counts
}
