package budget

import "time"

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
