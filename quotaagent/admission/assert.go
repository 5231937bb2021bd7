package admission

import (
	"fmt"
	"slices"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Asserted is the refusal of a job for which a rule of the policy does not hold,
// the first by name; nil when all hold. A rule that cannot be decided does not
// hold: it is about something that the job does not say.
func Asserted(p *budget.Policy, facts budget.Facts) *Refusal {
	for _, a := range p.Asserts {
		holds, err := a.Condition.Holds(facts)
		switch {
		case err != nil:
			return &Refusal{Reason: AssertionFailed,
				Fact:   fmt.Sprintf("assert %q (%s) cannot be decided for this job: %v", a.Name, a.Source, err),
				Remedy: "give the job what the rule asks for, or have the rule corrected"}
		case holds:
			continue
		}
		r := &Refusal{Reason: AssertionFailed, Fact: fmt.Sprintf("%s (assert %q, %s)", a.Message, a.Name, a.Source),
			Remedy: "change the job as the message says"}
		if device, ok := unpinned(p, a, facts); ok {
			r.Reason = ModelNotPinned
			r.Remedy = fmt.Sprintf("name the model: device %q", device)
		}
		return r
	}
	return nil
}

// unpinned reports whether a rule only fails because device blocks leave their
// model open: it would hold if they named one that the policy knows, which is
// returned.
func unpinned(p *budget.Policy, a budget.Assert, facts budget.Facts) (device string, ok bool) {
	isOpen := func(d budget.DeviceFacts) bool { return d.Model == "" }
	if !slices.ContainsFunc(facts.Job.Devices, isOpen) {
		return "", false
	}
	for _, class := range p.Classes {
		for _, name := range class.Devices {
			vendor, typ, model, split := gpu.SplitName(name)
			if !split {
				continue
			}
			pinned := facts
			pinned.Job.Devices = slices.Clone(facts.Job.Devices)
			for i, d := range pinned.Job.Devices {
				if isOpen(d) {
					pinned.Job.Devices[i].Vendor, pinned.Job.Devices[i].Type, pinned.Job.Devices[i].Model = vendor, typ, model
					pinned.Job.Devices[i].Name = name
				}
			}
			if holds, err := a.Condition.Holds(pinned); err == nil && holds {
				return name, true
			}
		}
	}
	return "", false
}

// EstimateFacts is a worst case in the units of the language.
func EstimateFacts(u ledger.Usage) budget.Amounts {
	a := budget.Amounts{Cost: float64(u.Cost) / float64(quantity.CurrencyUnit), Energy: float64(u.Energy) / float64(quantity.KWh),
		GPUHours: make(map[string]float64, len(u.GPUTime))}
	for class, ms := range u.GPUTime {
		a.GPUHours[class] = float64(ms) / float64(quantity.GPUHour)
	}
	return a
}
