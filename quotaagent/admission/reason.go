package admission

import "fmt"

// Outcome orders decisions from worst to best.
type Outcome uint8

// The outcomes.
const (
	Deny Outcome = iota
	Warn
	Admit
)

// String is the outcome's stable name.
func (o Outcome) String() string {
	switch o {
	case Deny:
		return "deny"
	case Warn:
		return "warn"
	case Admit:
		return "admit"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Reason is a stable code for why a decision came out as it did. docs/reasons.md
// lists each with its meaning and remedy; a test compares the two.
type Reason string

// The reasons, in order of precedence: when several apply, the first is shown.
const (
	Unmatched          Reason = "unmatched"            // no budget claims the job
	AmbiguousMatch     Reason = "ambiguous_match"      // several budgets claim it
	BudgetNotAllowed   Reason = "budget_not_allowed"   // the job names a budget that it may not use
	UndeclaredGPU      Reason = "undeclared_gpus"      // it can reach GPUs that it was not given
	NoClass            Reason = "no_class"             // a device is in no GPU class
	NoPrice            Reason = "no_price"             // a class has no price while cost is limited
	NoWatts            Reason = "no_watts"             // a class has no bound on its power while energy is limited
	RuntimeUnknown     Reason = "runtime_unknown"      // a batch job without any bound on its run time
	NodesUnknown       Reason = "nodes_unknown"        // a system job while Nomad cannot say on how many nodes it runs
	TooManyAllocations Reason = "too_many_allocations" // more allocations than can be tracked
	Infeasible         Reason = "infeasible"           // no node could ever serve the ask
	ExceedsJobCap      Reason = "exceeds_job_cap"      // more than one job may ask for
	ExceedsBudget      Reason = "exceeds_budget"       // more than the whole limit: can never fit
	BudgetExhausted    Reason = "budget_exhausted"     // the limit is already used up
	InsufficientBudget Reason = "insufficient_budget"  // does not fit now, may fit later
	ConcurrencyLimit   Reason = "concurrency_limit"    // too many GPUs at once
	RouteNotGoverned   Reason = "route_not_governed"   // a route that is not governed yet
	RegionNotGoverned  Reason = "region_not_governed"  // a Nomad region without Governor
	UnknownRoute       Reason = "unknown_route"        // a write that this build does not know
	LedgerUnavailable  Reason = "ledger_unavailable"   // no decision is possible now (503)
	Fits               Reason = "fits"                 // everything fits
	FitsWithWarning    Reason = "fits_with_warning"    // over a limit that only warns
	Ungoverned         Reason = "ungoverned"           // no budget claims it and the policy allows that
)

// Reasons are all reason codes in order of precedence.
func Reasons() []Reason {
	return []Reason{Unmatched, AmbiguousMatch, BudgetNotAllowed, UndeclaredGPU, NoClass, NoPrice, NoWatts, RuntimeUnknown,
		NodesUnknown, TooManyAllocations, Infeasible, ExceedsJobCap, ExceedsBudget, BudgetExhausted, InsufficientBudget, ConcurrencyLimit,
		RouteNotGoverned, RegionNotGoverned, UnknownRoute, LedgerUnavailable, Fits, FitsWithWarning, Ungoverned}
}

// Precedence is the position of the reason in Reasons.
func (r Reason) Precedence() int {
	for i, other := range Reasons() {
		if r == other {
			return i
		}
	}
	return len(Reasons())
}
