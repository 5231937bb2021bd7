package budget

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// What applies where neither a budget nor its ancestors say anything.
const (
	// DefaultLease is how long a service's GPUs are held ahead: a day, so that
	// a service that is started always has tomorrow's budget or is not started.
	DefaultLease = 24 * time.Hour
	// DefaultAdmit refuses work that does not fit: a limit is a limit.
	DefaultAdmit = AdmitDeny
	// UnlimitedReschedules stands in for "unlimited" in the worst case of a job
	// that Nomad would reschedule for ever. Without a bound no such job could be
	// admitted; three keeps the hold within a few times the plain run, and usage
	// beyond the hold is still posted.
	UnlimitedReschedules = 3
)

// EffectiveLease is the lease of the nearest budget up the tree that sets one,
// else DefaultLease.
func (b *Budget) EffectiveLease() time.Duration {
	for n := b; n != nil; n = n.Parent {
		if n.Lease != 0 {
			return n.Lease
		}
	}
	return DefaultLease
}

// EffectiveDefaultRuntime is what a batch job that states no runtime is held
// for, from the nearest budget that sets it; zero when none does, and then such
// a job cannot be bounded.
func (b *Budget) EffectiveDefaultRuntime() time.Duration {
	for n := b; n != nil; n = n.Parent {
		if n.PerJob.DefaultRuntime != 0 {
			return n.PerJob.DefaultRuntime
		}
	}
	return 0
}

// EffectiveReschedules is the nearest bound on reschedules up the tree; false
// when no budget sets one and the job's own number counts.
func (b *Budget) EffectiveReschedules() (int, bool) {
	for n := b; n != nil; n = n.Parent {
		if n.PerJob.Reschedules != nil {
			return *n.PerJob.Reschedules, true
		}
	}
	return 0, false
}

// WorstCaseReschedules is how many reschedules the need of a job counts: the
// job's own number, UnlimitedReschedules for one without end, and never more
// than the budget's bound.
func (b *Budget) WorstCaseReschedules(own int, unlimited bool) int {
	bound, bounded := b.EffectiveReschedules()
	switch {
	case unlimited && bounded:
		return bound
	case unlimited:
		return UnlimitedReschedules
	case bounded:
		return min(own, bound)
	}
	return own
}

// EffectiveAdmit is the answer of the nearest budget that gives one to work
// that does not fit, else DefaultAdmit; never AdmitInherit.
func (b *Budget) EffectiveAdmit() Admit {
	for n := b; n != nil; n = n.Parent {
		if n.Admit != AdmitInherit {
			return n.Admit
		}
	}
	return DefaultAdmit
}

// The defaults of rules that no budget on the path sets.
const (
	// DefaultPriority lies in the middle of 0 to 100, as Nomad's.
	DefaultPriority = 50
	// DefaultGrace is the time for a checkpoint between the signal and the end.
	DefaultGrace = 5 * time.Minute
	// DefaultMinRuntime keeps borrowed GPUs from being pushed to and fro.
	DefaultMinRuntime = 5 * time.Minute
	// DefaultHalfLife of past use is a week, as Slurm's PriorityDecayHalfLife.
	DefaultHalfLife = 7 * 24 * time.Hour
	// DefaultWallClock of an agent run.
	DefaultWallClock = 24 * time.Hour
)

// inherited is the first value up the tree that is set.
func inherited[T any](b *Budget, get func(*Budget) (T, bool), otherwise T) T {
	for n := b; n != nil; n = n.Parent {
		if value, set := get(n); set {
			return value
		}
	}
	return otherwise
}

// pointed is inherited for rules kept as pointers; nil when there are none.
func pointed[T any](b *Budget, get func(*Budget) *T) *T {
	return inherited(b, func(n *Budget) (*T, bool) { p := get(n); return p, p != nil }, nil)
}

// EffectivePriority is the priority of the nearest budget that sets one.
func (b *Budget) EffectivePriority() int {
	if p := pointed(b, func(n *Budget) *int { return n.Priority }); p != nil {
		return *p
	}
	return DefaultPriority
}

// EffectiveRunning is what happens to running work; never RunningInherit.
func (b *Budget) EffectiveRunning() RunningRule {
	return inherited(b, func(n *Budget) (RunningRule, bool) { return n.Running, n.Running != RunningInherit }, LetFinish)
}

// EffectiveThrottle is how running work is throttled.
func (b *Budget) EffectiveThrottle() Throttle {
	if t := pointed(b, func(n *Budget) *Throttle { return n.Throttle }); t != nil {
		return *t
	}
	return Throttle{MinCount: 1, Step: quantity.RatioOne / 4, Every: 10 * time.Minute}
}

// EffectiveStop is how running work is stopped.
func (b *Budget) EffectiveStop() Stop {
	if s := pointed(b, func(n *Budget) *Stop { return n.Stop }); s != nil {
		return *s
	}
	return Stop{Signal: "SIGTERM", Grace: DefaultGrace, Then: "stop"}
}

// EffectiveQueue orders the jobs that wait for this budget.
func (b *Budget) EffectiveQueue() Queue {
	if q := pointed(b, func(n *Budget) *Queue { return n.Queue }); q != nil {
		return *q
	}
	return Queue{}
}

// EffectiveReclaim is how lent GPUs come back.
func (b *Budget) EffectiveReclaim() Reclaim {
	if r := pointed(b, func(n *Budget) *Reclaim { return n.Reclaim }); r != nil {
		return *r
	}
	return Reclaim{Grace: DefaultGrace, MinRuntime: DefaultMinRuntime}
}

// EffectivePerRun is the cap of an agent run; nil when there is none.
func (b *Budget) EffectivePerRun() *PerRun {
	return pointed(b, func(n *Budget) *PerRun { return n.PerRun })
}

// EffectiveSoft is the part of a limit from which on there are warnings; zero
// when there is no such mark.
func (b *Budget) EffectiveSoft() quantity.Ratio {
	return inherited(b, func(n *Budget) (quantity.Ratio, bool) { return n.Soft, n.Soft != 0 }, 0)
}

// EffectiveMaxIdle is how long GPUs may be held without use; zero for ever.
func (b *Budget) EffectiveMaxIdle() time.Duration {
	return inherited(b, func(n *Budget) (time.Duration, bool) { return n.MaxIdle, n.MaxIdle != 0 }, 0)
}

// AllowsUndeclared reports whether jobs may reach GPUs without a device block.
func (b *Budget) AllowsUndeclared() bool {
	return inherited(b, func(n *Budget) (Undeclared, bool) { return n.Undeclared, n.Undeclared != UndeclaredInherit }, UndeclaredDeny) == UndeclaredAllow
}

// EffectivePlacement is the mode of the nearest budget up the tree that states one:
// "require", "prefer" or "off", and which budget that is; "" and nil where none does.
func (b *Budget) EffectivePlacement() (mode string, from *Budget) {
	for n := b; n != nil; n = n.Parent {
		if n.Placement != PlacementInherit {
			return n.Placement.word(), n
		}
	}
	return "", nil
}

// EffectiveLevel is how binding this budget's own limits are.
func (b *Budget) EffectiveLevel() Level {
	otherwise := HardMandatory
	if len(b.Overrides) > 0 {
		otherwise = SoftMandatory
	}
	return inherited(b, func(n *Budget) (Level, bool) { return n.Enforcement, n.Enforcement != LevelInherit }, otherwise)
}

// EffectiveHalfLife is how fast past use of this budget is forgotten.
func (b *Budget) EffectiveHalfLife() time.Duration {
	f := pointed(b, func(n *Budget) *FairShare { return n.FairShare })
	if f == nil || f.HalfLife == 0 {
		return DefaultHalfLife
	}
	return f.HalfLife
}
