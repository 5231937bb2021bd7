package budget

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Change is one setting that differs between two policies.
type Change struct {
	// Action is "+" for new, "-" for gone, "~" for changed.
	Action string `json:"action"`
	Block  string `json:"block"`
	// Name is "" for the block itself.
	Name    string `json:"name,omitempty"`
	Was     string `json:"was,omitempty"`
	Becomes string `json:"becomes,omitempty"`
	// Source is where the new setting stands, or stood if it is gone: "file:line".
	Source string `json:"source,omitempty"`
}

// String is the change in one line.
func (c Change) String() string {
	head := c.Action + " " + strings.TrimSpace(c.Block+" "+c.Name)
	switch {
	case c.Action == "~":
		return head + ": " + c.Was + " -> " + c.Becomes
	case c.Name == "":
		return head
	}
	return head + ": " + c.Was + c.Becomes
}

// Compare lists what differs, block by block: those of the new policy in its
// order, then those that are gone.
func Compare(old, next *Policy) []Change {
	before, after := old.Settings(), next.Settings()
	was, becomes := index(before), index(after)
	changes := []Change{}
	for _, group := range blocks(before, after) {
		for _, s := range after {
			if s.Block != group {
				continue
			}
			c := Change{Action: "+", Block: s.Block, Name: s.Name, Becomes: s.Value, Source: s.Source.String()}
			if w, existed := was[s.key()]; existed {
				c.Action, c.Was = "~", w.Value
			}
			if c.Action == "+" || c.Was != c.Becomes {
				changes = append(changes, c)
			}
		}
		for _, s := range before {
			if _, stays := becomes[s.key()]; s.Block == group && !stays {
				changes = append(changes, Change{Action: "-", Block: s.Block, Name: s.Name, Was: s.Value, Source: s.Source.String()})
			}
		}
	}
	return changes
}

func (s Setting) key() [2]string { return [2]string{s.Block, s.Name} }

func index(settings []Setting) map[[2]string]Setting {
	m := make(map[[2]string]Setting, len(settings))
	for _, s := range settings {
		m[s.key()] = s
	}
	return m
}

func blocks(before, after []Setting) []string {
	var names []string
	seen := map[string]bool{}
	for _, s := range slices.Concat(after, before) {
		if !seen[s.Block] {
			seen[s.Block] = true
			names = append(names, s.Block)
		}
	}
	return names
}

// Retroaction is a way in which a new policy would change prices that are in
// force already.
type Retroaction struct {
	// Source is where the new policy does so, or where the old one had what is gone.
	Source Source
	// Gone says that Source is in the old policy.
	Gone bool
	// Text says what, and what to do instead, in a few sentences.
	Text string
}

// String begins with file and line.
func (r Retroaction) String() string {
	if r.Source == (Source{}) {
		return r.Text
	}
	return r.Source.String() + ": " + r.Text
}

// Retroactive lists what of a new policy would change prices that are in force:
// prices are never retroactive. A policy without any rate card in force can be
// replaced by any other.
func Retroactive(old, next *Policy, now time.Time) []Retroaction {
	var found []Retroaction
	cards := map[string]RateCard{}
	for _, c := range next.RateCards {
		cards[c.Name] = c
	}
	effective := map[string]bool{}
	for _, c := range old.RateCards {
		if c.EffectiveFrom.After(now) {
			continue
		}
		effective[c.Name] = true
		after, stays := cards[c.Name]
		if !stays {
			found = append(found, Retroaction{c.Source, true, fmt.Sprintf("rate_card %q is effective since %s and may not be removed. "+
				"Put it back as it was (`governor budget show -files` prints it); to end its prices, add a rate_card with a later effective_from.", c.Name, since(c, old))})
			continue
		}
		if line := changed(c, after, old, next); line != "" {
			found = append(found, Retroaction{after.Source, false, fmt.Sprintf("rate_card %q is effective since %s and may not be changed: %s. "+
				"Put it back as it was, and add a rate_card with the new price and an effective_from that is yet to come.", c.Name, since(c, old), line)})
		}
	}
	if len(effective) == 0 {
		return nil
	}
	for _, c := range next.RateCards {
		if !effective[c.Name] && !c.EffectiveFrom.After(now) {
			found = append(found, Retroaction{c.Source, false, fmt.Sprintf("rate_card %q is new and would be effective from %s, which is past. "+
				"Prices are never retroactive: choose an effective_from that is yet to come.", c.Name, since(c, next))})
		}
	}
	return found
}

func since(c RateCard, p *Policy) string {
	location := p.Location
	if location == nil {
		location = time.UTC
	}
	return c.EffectiveFrom.In(location).Format("2006-01-02 15:04 MST")
}

// changed is the first difference between two states of a card that is
// effective, the schedules that its modifiers name included; "" for none.
func changed(was, is RateCard, old, next *Policy) string {
	a := &Policy{Currency: old.Currency, Location: old.Location, RateCards: []RateCard{was}, Schedules: named(old.Schedules, was)}
	b := &Policy{Currency: next.Currency, Location: old.Location, RateCards: []RateCard{is}, Schedules: named(next.Schedules, was)}
	if zone(old) != zone(next) && len(a.Schedules) > 0 {
		return fmt.Sprintf("its schedules are in the zone %s, and would be in %s", zone(old), zone(next))
	}
	for _, c := range Compare(a, b) {
		return strings.TrimPrefix(c.String()[len("+ "):], "rate_card "+was.Name+" ")
	}
	return ""
}

func zone(p *Policy) string {
	if p.Location == nil {
		return ""
	}
	return p.Location.String()
}

// named are the schedules that a card's modifiers refer to.
func named(schedules []Schedule, c RateCard) []Schedule {
	var out []Schedule
	for _, s := range schedules {
		if slices.ContainsFunc(c.Modifiers, func(m Modifier) bool { return refers(m.When.String(), "schedule."+s.Name) }) {
			out = append(out, s)
		}
	}
	return out
}

// refers reports whether an expression contains a reference, and not only one
// that begins like it.
func refers(expression, reference string) bool {
	for rest := expression; ; {
		i := strings.Index(rest, reference)
		if i < 0 {
			return false
		}
		rest = rest[i+len(reference):]
		if rest == "" || !strings.ContainsAny(rest[:1], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") {
			return true
		}
	}
}
