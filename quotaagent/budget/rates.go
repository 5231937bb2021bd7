package budget

import (
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// RateCard is the price list from EffectiveFrom on, until the next one. It is
// immutable once it is effective: prices are never retroactive.
type RateCard struct {
	Name          string
	EffectiveFrom time.Time
	// PerGPUHour is the price of one GPU of a class for an hour, in micro-units
	// of the currency.
	PerGPUHour map[string]quantity.Amount
	// Energy is the price of what GPUs draw; nil when it is not priced.
	Energy *EnergyRate
	// Tokens are the prices of language models by model name.
	Tokens map[string]TokenRate
	// Modifiers multiply the price of GPU time, in order of their names. Those
	// that hold at an instant all apply.
	Modifiers []Modifier
	Source    Source
}

// EnergyRate is the price of energy.
type EnergyRate struct {
	// PerKWh in micro-units of the currency.
	PerKWh quantity.Amount
	// PUE is what the building draws for each watt of the GPUs (power usage
	// effectiveness, ISO/IEC 30134-2); at least 1.
	PUE    quantity.Ratio
	Source Source
}

// TokenRate is the price of a million tokens of each kind, in micro-units.
type TokenRate struct {
	PerMillion map[TokenKind]quantity.Amount
	Source     Source
}

// Modifier multiplies the price of GPU time while its condition holds. The
// condition may depend on schedules, the job and its submitter; not on amounts.
type Modifier struct {
	Name     string
	When     Condition
	Multiply quantity.Ratio
	Source   Source
}

// Schedule is a weekly time of day, in the policy's zone. It begins on each of
// Days at Start on the local clock, and lasts until the clock next shows End: on
// the following day if End is not after Start.
type Schedule struct {
	Name string
	// Days by time.Weekday.
	Days [7]bool
	// Start and End are minutes since local midnight, 0 to 1439.
	Start, End int
	Source     Source
}

// Meter says what is metered and how often.
type Meter struct {
	// Basis is what a GPU is charged for.
	Basis Basis
	// Interval is how often running work is posted; zero means DefaultInterval.
	Interval time.Duration
	// Idle is who bears capacity that nobody holds.
	Idle Idle
}

// DefaultInterval is how often running work is posted unless the policy says.
const DefaultInterval = 30 * time.Second

// Basis is what a GPU is charged for.
type Basis uint8

// The bases. The zero value charges from the placement of the allocation to its
// end, because the GPU is unavailable to others for exactly that time; Running
// only while a task runs.
const (
	Allocated Basis = iota
	Running
)

// Idle is who bears the capacity that nobody holds.
type Idle uint8

// The rules for idle capacity: a line of its own that all share by use, the
// budget that is guaranteed the GPUs, or no line.
const (
	IdleShared Idle = iota
	IdleOwner
	IdleNone
)
