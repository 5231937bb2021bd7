package ledger

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Calendar is what of a policy the ledger needs to charge holds: how time
// divides into periods, and what GPUs count as. It does not change; make it with
// CalendarOf. One without counts takes every GPU as a whole one of its class.
type Calendar struct {
	Location *time.Location
	// Windows in which some budget has a limit, Committed included; without
	// Concurrent, which is always charged. In the order of their names, which is that
	// of a Vector.
	Windows []budget.Window
	// counts says what a device of a class counts as.
	counts map[string][]counted
	// halfLives are those of budgets that set one, by path.
	halfLives map[string]time.Duration
	// keep is how many periods of a window before the present one a rollover needs.
	keep map[budget.Window]int
}

// counted is one class towards which a device counts.
type counted struct {
	class      string
	parts      quantity.Amount
	gpus, time budget.Dimension
}

// CalendarOf is the calendar of a policy.
func CalendarOf(p *budget.Policy) Calendar {
	cal := Calendar{Location: p.Location, Windows: p.Windows(), counts: make(map[string][]counted, len(p.Classes)), keep: map[budget.Window]int{},
		halfLives: map[string]time.Duration{}}
	for _, c := range p.Classes {
		cal.counts[c.Name] = countedAs(p.Counts(c.Name))
	}
	committed := false
	p.Walk(func(b *budget.Budget) {
		committed = committed || len(b.Committed) > 0
		if halfLife := b.EffectiveHalfLife(); halfLife != budget.DefaultHalfLife {
			cal.halfLives[b.Path] = halfLife
		}
		for _, l := range b.Limits {
			if l.Rollover != nil {
				cal.keep[l.Window] = max(cal.keep[l.Window], horizon(l.Rollover))
			}
		}
	})
	if committed {
		cal.Windows = append(cal.Windows, budget.Committed)
	}
	slices.SortFunc(cal.Windows, func(a, b budget.Window) int { return strings.Compare(a.String(), b.String()) })
	return cal
}

// HalfLife is how fast past use of a budget is forgotten.
func (c Calendar) HalfLife(path string) time.Duration {
	if halfLife, ok := c.halfLives[path]; ok {
		return halfLife
	}
	return budget.DefaultHalfLife
}

func countedAs(shares []budget.Share) []counted {
	out := make([]counted, len(shares))
	for i, s := range shares {
		out[i] = counted{class: s.Class, parts: s.Parts, gpus: budget.GPUs(s.Class), time: budget.GPUTime(s.Class)}
	}
	return out
}

// countsOf is what one device of a class counts as.
func (c Calendar) countsOf(class string) []counted {
	if known, ok := c.counts[class]; ok {
		return known
	}
	return countedAs([]budget.Share{{Class: class, Parts: quantity.GPU}, {Class: budget.AnyClass, Parts: quantity.GPU}})
}

// CountsOfAny is as how much of each class one device counts at most that is of
// one of the classes given, in parts of a GPU (quantity.GPU).
func (c Calendar) CountsOfAny(classes []string) iter.Seq2[string, quantity.Amount] {
	return func(yield func(string, quantity.Amount) bool) {
		for _, one := range c.countsOfAny(classes) {
			if !yield(one.class, one.parts) {
				return
			}
		}
	}
}

// countsOfAny is what one device counts as at most when any of several classes
// may serve: towards each class as the one of them that counts most.
func (c Calendar) countsOfAny(classes []string) []counted {
	if len(classes) == 1 {
		return c.countsOf(classes[0])
	}
	var out []counted
	for _, class := range classes {
		for _, one := range c.countsOf(class) {
			i := slices.IndexFunc(out, func(have counted) bool { return have.class == one.class })
			if i < 0 {
				out = append(out, one)
				continue
			}
			out[i].parts = max(out[i].parts, one.parts)
		}
	}
	return out
}
