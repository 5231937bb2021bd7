package admission

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// Alternative is another way to get the work done that fits, as far as the books
// tell: nothing is held for it.
type Alternative struct {
	// Class of the GPUs, and the name to ask for when the job's own device block does
	// not let it have them.
	Class  string
	Device string
	// At is when it fits; zero for now.
	At time.Time
	// GPUs at once and RuntimeMS of one run; Less says that one of them is less than
	// what was asked for.
	GPUs      int64
	RuntimeMS int64
	Less      bool
	// Cost is its worst case.
	Cost quantity.Amount
}

// alternativesMax is how many ways are shown.
const alternativesMax = 3

// Alternatives finds other ways for a job that does not fit: the same number of
// GPUs of other classes, a later time, fewer GPUs, a shorter run. Those that do
// all of the work come first, the cheapest first of all.
func Alternatives(p *budget.Policy, b *budget.Budget, state State, ask jobspec.Ask, h ledger.Hold, d Decision, now time.Time) []Alternative {
	if d.Refusal != nil || len(d.Failed) == 0 || len(d.Lines) == 0 {
		return nil
	}
	if state.Rules == nil {
		state.Rules = RulesOf(p)
	}
	s := search{policy: p, budget: b, state: state, ask: ask, hold: h, now: now}
	out := s.otherClasses(d.Lines)
	out = append(out, s.later(d)...)
	out = append(out, s.less(d.Lines)...)
	slices.SortFunc(out, func(x, y Alternative) int {
		return cmp.Or(compareBool(x.Less, y.Less), cmp.Compare(x.Cost, y.Cost), x.At.Compare(y.At), cmp.Compare(y.GPUs, x.GPUs),
			cmp.Compare(y.RuntimeMS, x.RuntimeMS), strings.Compare(x.Class, y.Class))
	})
	return out[:min(len(out), alternativesMax)]
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// search tries variants of one submission. hold is that of the job before the
// submission, or an empty one.
type search struct {
	policy *budget.Policy
	budget *budget.Budget
	state  State
	ask    jobspec.Ask
	hold   ledger.Hold
	now    time.Time
}

// fits reports whether the budget would let lines run at a time.
func (s search) fits(lines []ledger.Line, at time.Time) bool {
	next := ledger.Submit(s.hold, lines, 0)
	d := Decide(s.policy, s.budget, s.state, next, lines, at)
	return d.Outcome >= Warn && !d.Shadow
}

// describe is an alternative with the price and the size of lines.
func (s search) describe(lines []ledger.Line) Alternative {
	a := Alternative{Cost: Estimate(s.policy, lines).Cost, GPUs: int64(peak(lines) / quantity.GPU)}
	classes := map[string]bool{}
	for _, line := range lines {
		a.RuntimeMS = max(a.RuntimeMS, line.OnceMS)
		for _, n := range line.Needs {
			classes[strings.Join(n.Classes, " or ")] = true
			a.Class = strings.Join(n.Classes, " or ")
		}
	}
	if len(classes) != 1 {
		a.Class = "the same GPUs"
	}
	return a
}

// otherClasses asks for the same number of GPUs of each other class of the same
// kind: whole GPUs for whole ones, shares of one size for shares.
func (s search) otherClasses(lines []ledger.Line) []Alternative {
	var asked []string
	for _, line := range lines {
		for _, n := range line.Needs {
			asked = append(asked, n.Classes...)
		}
	}
	var out []Alternative
	for _, class := range s.policy.Classes {
		if len(class.Devices) == 0 || !s.interchangeable(asked, class.Name) {
			continue
		}
		other, priced := s.withClass(lines, class.Name)
		if !priced || !s.fits(other, s.now) {
			continue
		}
		a := s.describe(other)
		a.Class, a.Device = class.Name, s.deviceFor(class)
		out = append(out, a)
	}
	return out
}

// interchangeable reports whether a class is another one than those asked for and
// counts as much of a GPU as each of them.
func (s search) interchangeable(asked []string, class string) bool {
	whole := func(name string) quantity.Amount {
		for _, share := range s.policy.Counts(name) {
			if share.Class == budget.AnyClass {
				return share.Parts
			}
		}
		return quantity.GPU
	}
	if len(asked) == 0 || len(slices.Compact(slices.Sorted(slices.Values(asked)))) == 1 && asked[0] == class {
		return false
	}
	return !slices.ContainsFunc(asked, func(name string) bool { return whole(name) != whole(class) })
}

// withClass is lines on GPUs of one class; false when it has no
// price, or no bound on its power where energy is limited.
func (s search) withClass(lines []ledger.Line, class string) ([]ledger.Line, bool) {
	out := slices.Clone(lines)
	for i, line := range out {
		until := s.now.Add(time.Duration(line.RuntimeMS) * time.Millisecond)
		rate, priced := metering.DearestRate(s.policy, class, s.ask.Facts(), s.now, until)
		watts := metering.Watts(s.policy, class)
		if !priced && limitsCost(s.policy) || watts == 0 && limitsEnergy(s.budget) {
			return nil, false
		}
		out[i].Needs = slices.Clone(line.Needs)
		for j := range out[i].Needs {
			n := &out[i].Needs[j]
			n.Classes, n.PerGPUHour, n.Watts = []string{class}, rate, watts
		}
	}
	return out, true
}

// deviceFor is the name to ask for to get a class; "" when the device blocks of the
// job let it have one as they are.
func (s search) deviceFor(class budget.Class) string {
	for _, g := range s.ask.Groups {
		for _, d := range g.Devices {
			if !slices.Contains(classesFor(s.policy, g.Name, d, nil), class.Name) {
				return class.Devices[0]
			}
		}
	}
	return ""
}

// later asks again when a period begins in which everything that blocks fits.
func (s search) later(d Decision) []Alternative {
	at, ok := d.unblockedFrom(nil, s.now)
	if !ok || !s.fits(d.Lines, at) {
		return nil
	}
	a := s.describe(d.Lines)
	a.At = at
	return []Alternative{a}
}

// less asks for as many GPUs, and for as long a run, as fit now.
func (s search) less(lines []ledger.Line) []Alternative {
	if len(lines) != 1 || len(lines[0].Needs) != 1 {
		return nil
	}
	var out []Alternative
	try := func(most int64, with func(n int64) ledger.Line) {
		found, lines := largest(most-1, func(n int64) ([]ledger.Line, bool) {
			some := []ledger.Line{with(n)}
			return some, s.fits(some, s.now)
		})
		if found {
			a := s.describe(lines)
			a.Less = true
			out = append(out, a)
		}
	}
	line := lines[0]
	switch {
	case line.Count > 1 && !line.EveryNode:
		try(int64(line.Count), func(n int64) ledger.Line {
			some := line
			some.Count, some.Canaries = int(n), min(line.Canaries, int(n)-1)
			return some
		})
	case line.Count == 1:
		try(line.Needs[0].GPUs, func(n int64) ledger.Line {
			some := line
			some.Needs = slices.Clone(line.Needs)
			some.Needs[0].GPUs = n
			return some
		})
	}
	if minutes := line.OnceMS / quantity.Millis(time.Minute); !line.Lease && minutes > 1 {
		try(minutes, func(n int64) ledger.Line { return shorter(line, n*quantity.Millis(time.Minute)) })
	}
	return out
}

// shorter is a line whose runs are bounded by onceMS.
func shorter(line ledger.Line, onceMS int64) ledger.Line {
	starts := int64(max(1, line.Starts))
	around := max(0, line.RuntimeMS/starts-line.OnceMS)
	line.OnceMS, line.RuntimeMS = onceMS, (onceMS+around)*starts
	return line
}

// largest finds the largest n in [1, most] that fits; more never fits where less
// does not.
func largest(most int64, fits func(n int64) ([]ledger.Line, bool)) (bool, []ledger.Line) {
	var best []ledger.Line
	low, high := int64(1), most
	for low <= high {
		mid := low + (high-low)/2
		if lines, ok := fits(mid); ok {
			best, low = lines, mid+1
		} else {
			high = mid - 1
		}
	}
	return best != nil, best
}

// Text is the alternative in words: "4 x l40s now: 12.40 USD", "4 x h100 from
// 2026-12-01 00:00 CET: 41.00 USD".
func (a Alternative) Text(p *budget.Policy) string {
	text := fmt.Sprintf("%d x %s", a.GPUs, a.Class)
	switch {
	case !a.At.IsZero():
		text += " from " + a.At.In(p.Location).Format(timeLayout)
	case a.Less && a.RuntimeMS > 0:
		text += " for up to " + duration(a.RuntimeMS)
	default:
		text += " now"
	}
	if a.Device != "" {
		text += fmt.Sprintf(", with device %q", a.Device)
	}
	return text + ": " + format(p, budget.Cost, a.Cost)
}

// alternativesText joins the alternatives of a decision.
func (d Decision) alternativesText(p *budget.Policy) string {
	texts := make([]string, len(d.Alternatives))
	for i, a := range d.Alternatives {
		texts[i] = a.Text(p)
	}
	return strings.Join(texts, "; or ")
}
