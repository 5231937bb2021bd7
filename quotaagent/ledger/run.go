package ledger

import (
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Draws is all that a hold may still use, over all time: what a job of an agent
// run contributes to Run.Held. GPUs held at once are not among it, for they are
// charged to the budgets.
func Draws(h Hold, cal Calendar) Amounts {
	cal.Windows = []budget.Window{budget.Total}
	drawn := Amounts{}
	for c := range wholeCharges(h, cal).All() {
		if c.Period != ConcurrentKey {
			drawn[c.Dimension] = drawn[c.Dimension].Add(c.Amount)
		}
	}
	return drawn
}

// RunCharges is what an agent run contributes to the held amounts of its
// budgets: all of its caps that is not posted yet, at whatever time until its end
// it may be used, hence in any period. A run that was closed only keeps what its
// open jobs and requests may still use.
func RunCharges(run Run, cal Calendar) Vector {
	v := NewVector()
	if run.ClosedMS != 0 && run.Open == 0 && run.Requests == 0 {
		return v
	}
	for _, d := range cal.runDimensions(run.Caps) {
		left := cal.runCap(run.Caps, d)
		if run.ClosedMS != 0 {
			left = min(left, run.Held[d])
		} else {
			left = left.Sub(run.Posted[d])
		}
		for _, w := range cal.Windows {
			v.Add(AnyPeriod(w), d, max(0, left))
		}
	}
	return v
}

// runDimensions are those of budgets that the caps of a run bound, sorted: a cap
// on the GPU time of any class bounds that of every class.
func (c Calendar) runDimensions(caps Amounts) []budget.Dimension {
	var dims []budget.Dimension
	for d := range caps {
		if d != budget.Jobs {
			dims = append(dims, d)
		}
	}
	if _, ok := caps[budget.GPUTime(budget.AnyClass)]; ok {
		for class := range c.counts {
			if d := budget.GPUTime(class); !slices.Contains(dims, d) {
				dims = append(dims, d)
			}
		}
	}
	slices.Sort(dims)
	return dims
}

// runCap is the most of a dimension that a run may use. A device may count as
// more of one class than of any: then a cap on any allows more of the class.
func (c Calendar) runCap(caps Amounts, d budget.Dimension) quantity.Amount {
	own, capped := caps[d]
	whole, wholeCapped := caps[budget.GPUTime(budget.AnyClass)]
	if !d.IsGPUTime() || d.Class() == budget.AnyClass || !wholeCapped {
		return own
	}
	most := whole
	for _, counts := range c.counts {
		var of, all quantity.Amount
		for _, one := range counts {
			switch one.class {
			case d.Class():
				of = one.parts
			case budget.AnyClass:
				all = one.parts
			}
		}
		if all > 0 {
			most = max(most, quantity.MulDivUp(whole, int64(of), int64(all)))
		}
	}
	if capped {
		return min(own, most)
	}
	return most
}

// Capped lists the dimensions that the run has caps for, sorted: Hold.Capped of
// its jobs.
func (r Run) Capped() []budget.Dimension {
	dims := make([]budget.Dimension, 0, len(r.Caps))
	for d := range r.Caps {
		dims = append(dims, d)
	}
	slices.Sort(dims)
	return dims
}

// coveredBy reports whether caps on some dimensions bound this one.
func coveredBy(capped []budget.Dimension, d budget.Dimension) bool {
	return slices.Contains(capped, d) || d.IsGPUTime() && slices.Contains(capped, budget.GPUTime(budget.AnyClass))
}
