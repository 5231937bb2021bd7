package admission

import "fmt"

// Outcome orders decisions from worst to best.
type Outcome uint8

// The outcomes.
const (
	Deny  Outcome = iota
	Queue         // register, but start only when it fits
	Warn
	Admit
)

// String is the outcome's stable name.
func (o Outcome) String() string {
	switch o {
	case Deny:
		return "deny"
	case Queue:
		return "queue"
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
	MatchFailed        Reason = "match_failed"         // the condition of a match rule cannot be decided for the job
	UndeclaredGPU      Reason = "undeclared_gpus"      // it can reach GPUs that it was not given
	NoClass            Reason = "no_class"             // a device is in no GPU class
	NoPrice            Reason = "no_price"             // a class or a model has no price while cost is limited
	NoWatts            Reason = "no_watts"             // a class has no bound on its power while energy is limited
	RuntimeUnknown     Reason = "runtime_unknown"      // a batch job without any bound on its run time
	NodesUnknown       Reason = "nodes_unknown"        // a system job while Nomad cannot say on how many nodes it runs
	TooManyAllocations Reason = "too_many_allocations" // more allocations than can be tracked
	AssertionFailed    Reason = "assertion_failed"     // a rule of the policy for every job does not hold
	ModelNotPinned     Reason = "model_not_pinned"     // such a rule that naming the GPU model would satisfy
	PlacementUnknown   Reason = "placement_unknown"    // the job says of its placement what nobody knows
	GangUnknown        Reason = "gang_unknown"         // the job says of its gang what cannot be
	RunRequired        Reason = "run_required"         // the budget only serves jobs of an agent run
	Infeasible         Reason = "infeasible"           // no node could ever serve the ask
	ExceedsJobCap      Reason = "exceeds_job_cap"      // more than one job may ask for
	ExceedsRunCap      Reason = "exceeds_run_cap"      // more than the agent run has left
	Frozen             Reason = "frozen"               // the limit is zero: nothing new is admitted
	ExceedsBudget      Reason = "exceeds_budget"       // more than the whole limit: can never fit
	BudgetExhausted    Reason = "budget_exhausted"     // the limit is already used up
	InsufficientBudget Reason = "insufficient_budget"  // does not fit now, may fit later
	CommittedTooFar    Reason = "committed_too_far"    // too much is promised and not used yet
	ConcurrencyLimit   Reason = "concurrency_limit"    // too many GPUs at once
	WaitingForReclaim  Reason = "waiting_for_reclaim"  // within its own GPUs, but others have borrowed them
	WaitingForApproval Reason = "waiting_for_approval" // an override that it asks for is not approved yet
	WaitingTurn        Reason = "waiting_turn"         // it fits, but others wait for the same and come first
	GangWaits          Reason = "gang_waits"           // not all of a gang fits into the cluster now
	PlannedForGang     Reason = "planned_for_gang"     // the GPUs that it could have are set aside for a gang
	QueueTimeout       Reason = "queue_timeout"        // it waited for budget as long as the queue allows
	OverBudget         Reason = "over_budget"          // running work of an overdrawn budget is ended or throttled
	MaxRuntime         Reason = "max_runtime"          // it has run as long as it was admitted for
	MaxIdle            Reason = "max_idle"             // it held GPUs without using them
	Reclaimed          Reason = "reclaimed"            // it ran on GPUs that their owner wants back
	RunExpired         Reason = "run_expired"          // its agent run is over
	RunExhausted       Reason = "run_exhausted"        // its agent run has used up its caps
	JobWaits           Reason = "job_waits"            // work is to start from a job that waits for budget
	RegionNotGoverned  Reason = "region_not_governed"  // a Nomad region without Governor
	UnknownRoute       Reason = "unknown_route"        // a write that this build does not know
	LedgerUnavailable  Reason = "ledger_unavailable"   // no decision is possible now (503)
	Fits               Reason = "fits"                 // everything fits
	SoftLimit          Reason = "soft_limit"           // it fits, beyond the soft mark of a limit
	FitsWithWarning    Reason = "fits_with_warning"    // over a limit that only warns
	Ungoverned         Reason = "ungoverned"           // no budget claims it and the policy allows that
)

// Reasons are all reason codes in order of precedence.
func Reasons() []Reason {
	return []Reason{
		Unmatched, AmbiguousMatch, BudgetNotAllowed, MatchFailed, UndeclaredGPU, NoClass,
		NoPrice, NoWatts, RuntimeUnknown, NodesUnknown, TooManyAllocations, AssertionFailed,
		ModelNotPinned, PlacementUnknown, GangUnknown, RunRequired, Infeasible, ExceedsJobCap, ExceedsRunCap, Frozen,
		ExceedsBudget, BudgetExhausted, InsufficientBudget, CommittedTooFar, ConcurrencyLimit, WaitingForReclaim,
		WaitingForApproval, WaitingTurn, GangWaits, PlannedForGang, QueueTimeout, OverBudget, MaxRuntime, MaxIdle,
		Reclaimed, RunExpired, RunExhausted, JobWaits, RegionNotGoverned, UnknownRoute, LedgerUnavailable,
		Fits, SoftLimit, FitsWithWarning, Ungoverned,
	}
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
