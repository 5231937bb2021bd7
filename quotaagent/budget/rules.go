package budget

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Rules are a budget's rules beyond its limits. Zero values set nothing here:
// most rules are inherited from the nearest ancestor that sets them (inherit.go
// says which), as noted.
type Rules struct {
	// Enforcement is how binding this budget's limits are; inherited.
	Enforcement Level
	// Priority orders budgets for reclaim and queues, 0 to 100; nil inherits, 50
	// at the root.
	Priority *int
	// Cohort names the group of budgets that lend to each other; not inherited.
	Cohort string
	// Borrow is how many GPUs of a class, in parts, this budget may hold beyond its
	// concurrent limit, taken from what cohort members do not use. Lend is how much
	// of its own limit others may take; a class that is missing lends all of it.
	Borrow map[string]quantity.Amount
	Lend   map[string]quantity.Limit
	// Reclaim says how this budget gets back what it lent; nil inherits.
	Reclaim *Reclaim
	// Committed bounds what is promised and not used yet: limits of the window
	// Committed, over all time.
	Committed []Limit
	// Soft is the part of a limit from which on new work is warned and nothing
	// borrowed; zero inherits, and without any there is no such mark.
	Soft quantity.Ratio
	// Running is what happens to running work once a limit is overdrawn; inherited.
	Running  RunningRule
	Throttle *Throttle
	Stop     *Stop
	Queue    *Queue
	// FairShare of this budget among its siblings.
	FairShare *FairShare
	// Overrides in order of their names; they apply to this budget's own limits.
	Overrides []Override
	// PerRun caps one agent run; nil when jobs need none. Inherited.
	PerRun *PerRun
	Alerts []Alert
	// MaxIdle is how long GPUs may be held without use; zero inherits, and without
	// any for ever.
	MaxIdle time.Duration
	// Undeclared allows jobs that can reach GPUs without asking for devices.
	// Inherited; the zero value refuses them at the root.
	Undeclared Undeclared
	// Placement is how jobs get their GPUs that do not say so themselves. Inherited;
	// without any the node pool and the agent's configuration decide.
	Placement Placement
}

// Level is how binding a limit is, in Sentinel's words.
type Level uint8

// The enforcement levels. Where none is set, limits are soft-mandatory for those
// whom an override of the budget names, and hard-mandatory for everybody else.
const (
	LevelInherit  Level = iota
	Advisory            // decide, hold and record, but never block
	SoftMandatory       // blocks, but may be overridden
	HardMandatory       // blocks
)

// Undeclared says whether GPUs may be used without a device block.
type Undeclared uint8

// The rules for GPUs without a device block.
const (
	UndeclaredInherit Undeclared = iota
	UndeclaredDeny
	UndeclaredAllow
)

// Placement is how jobs get their GPUs.
type Placement uint8

// The modes of placement.
const (
	PlacementInherit Placement = iota
	PlacementRequire           // the best GPUs are pinned
	PlacementPrefer            // their node is preferred
	PlacementOff               // Nomad decides
)

// Reclaim is how GPUs that were lent come back.
type Reclaim struct {
	// Any victim may be chosen, or only borrowers of a lower priority.
	AnyPriority bool
	// Grace between the signal and the stop.
	Grace time.Duration
	// MinRuntime is how long borrowed GPUs are left to a job at least.
	MinRuntime time.Duration
}

// RunningRule is what happens to running work of an overdrawn budget.
type RunningRule uint8

// The rules for running work. The default at the root lets it finish.
const (
	RunningInherit RunningRule = iota
	LetFinish
	ThrottleRunning
	StopRunning
)

// Throttle scales groups of service jobs down, step by step.
type Throttle struct {
	// MinCount is what a group keeps.
	MinCount int
	// Step is the part of a group's present count taken away at once, rounded up.
	Step quantity.Ratio
	// Every is the pause between two steps.
	Every time.Duration
}

// Stop ends running work: a signal, time to write a checkpoint, the end.
type Stop struct {
	// Signal for every task, such as "SIGUSR1"; "" sends none.
	Signal string
	Grace  time.Duration
	// Then is "stop", the only end there is.
	Then string
}

// Queue orders jobs that wait for budget.
type Queue struct {
	Order QueueOrder
	// Timeout ends the wait; zero waits for ever.
	Timeout time.Duration
	Source  Source
}

// QueueOrder is who comes first.
type QueueOrder uint8

// The orders. In each, a job that has waited long enough is not overtaken any more.
const (
	FIFO        QueueOrder = iota
	ByPriority             // the budget's priority, then the job's
	ByFairShare            // who used least of its share
)

// FairShare weighs a budget against its siblings.
type FairShare struct {
	Weight int64
	// HalfLife is how fast past use is forgotten; zero means DefaultHalfLife.
	HalfLife time.Duration
}

// Override is a rule for break-glass grants.
type Override struct {
	Name string
	// Who may use it: patterns like Match.Identities.
	Who []string
	// Max is the most that one grant adds to a limit.
	Max map[Dimension]quantity.Amount
	// Expires is how long a grant lasts.
	Expires time.Duration
	// ReasonRequired refuses a grant without a reason.
	ReasonRequired bool
	// Approvals by others that a grant needs before it counts.
	Approvals int
	// Notify are names of notifiers, "webhook.finops".
	Notify []string
	Source Source
}

// PerRun caps one agent run: its envelope.
type PerRun struct {
	// Caps by dimension: cost, GPU time, energy, tokens, jobs.
	Caps map[Dimension]JobLimit
	// Concurrency is the most jobs of a run at once; 0 for no bound.
	Concurrency int
	// WallClock is how long a run may last; zero means a day.
	WallClock time.Duration
	Source    Source
}

// Alert tells somebody when a condition becomes true.
type Alert struct {
	Name   string
	When   Condition
	Notify []string
	Source Source
}

// Rollover carries what was not used of one period into the next.
type Rollover struct {
	// Share of the limit that is carried at most, or Most as an amount; exactly one
	// is set.
	Share quantity.Ratio
	Most  *quantity.Amount
	// Periods is for how many periods after its own the carry can be used; at
	// least 1. What was carried is used first, the oldest first of all.
	Periods int
	Source  Source
}
