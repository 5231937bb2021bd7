package budget

import (
	"fmt"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Policy is one applied revision of the budget language. The zero value
// governs nothing: it has no budgets and denies what no budget claims.
type Policy struct {
	// Revision is the digest of the source files; it identifies the policy in
	// decisions and logs.
	Revision    string
	Enforcement Enforcement
	Unmatched   Unmatched
	OutOfBand   OutOfBand
	// Location is the zone in which windows begin and end; never nil in a
	// policy from budgetspec.
	Location *time.Location
	// Currency is the ISO 4217 code that costs are shown in.
	Currency string
	// Meter says what is metered and how often.
	Meter Meter
	// Classes in order of their names.
	Classes []Class
	// RateCards in ascending order of EffectiveFrom.
	RateCards []RateCard
	// Schedules, Notifiers, Asserts in order of their names; Moves as written.
	Schedules []Schedule
	Notifiers []Notifier
	Asserts   []Assert
	Moves     []Move
	// Roots in order of their names.
	Roots []*Budget
}

// Enforcement says whether a negative decision blocks.
type Enforcement uint8

// The enforcement modes. The zero value enforces.
const (
	Enforce Enforcement = iota
	Shadow              // decide, hold and record, but never block
)

// Unmatched says what happens to a GPU job that no budget claims.
type Unmatched uint8

// The rules for unclaimed jobs. The zero value denies.
const (
	UnmatchedDeny Unmatched = iota
	UnmatchedAllow
)

// OutOfBand says what happens to GPU work that reached Nomad around the gate.
type OutOfBand uint8

// The rules for work around the gate. The zero value governs it: it is decided like a
// submission, held and paid, and stopped where no budget has room.
const (
	OutOfBandGovern OutOfBand = iota
	OutOfBandReport           // only shown and recorded
)

// Source is where a setting was written.
type Source struct {
	File string
	Line int
}

// String is "file:line", or "" for the zero value.
func (s Source) String() string {
	if s.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// Class is a name for GPUs that count and cost the same.
type Class struct {
	Name string
	// Devices are full device names, "nvidia/gpu/<model>"; no device name is in
	// two classes.
	Devices []string
	// Watts bounds the power of one device before it is measured; 0 when the
	// policy does not say, and then energy cannot be held ahead.
	Watts int64
	// Shares say as how much of other classes one device counts, in order of the
	// class names: a MIG instance is a seventh of a GPU. A device of a class with
	// shares counts towards "any" by the sum of its shares, else as one.
	Shares []Share
	Source Source
}

// Share is a part of a device of another class: Parts of quantity.GPU.
type Share struct {
	Class string
	Parts quantity.Amount
}

// Budget is one node of the tree. All limits of all its ancestors apply to it
// as well.
type Budget struct {
	Name string
	// Path is the names from the root, joined by "/": "acme/research/nlp".
	Path        string
	Description string
	Owner       string
	Parent      *Budget
	// Children in order of their names.
	Children []*Budget
	// Match says which jobs draw from this budget; nil claims none.
	Match *Match
	// Limits of this node alone, ordered by window, then dimension.
	Limits []Limit
	PerJob PerJob
	// Lease is how long a service's GPUs are held ahead; zero inherits.
	Lease time.Duration
	// Admit is what happens to new work beyond a limit; the zero value inherits,
	// and at the root denies.
	Admit Admit
	// Rules are those beyond limits: what may be lent, queued, overridden, and
	// what happens to running work over a limit.
	Rules
	Source Source
}

// Admit is the answer to new work that does not fit.
type Admit uint8

// The answers to work beyond a limit.
const (
	AdmitInherit Admit = iota
	AdmitDeny
	AdmitWarn  // admit, with a warning
	AdmitQueue // register, but start only when it fits
)

// Limit is a ceiling on one dimension in one window.
type Limit struct {
	Window    Window
	Dimension Dimension
	Ceiling   quantity.Limit
	// Rollover carries what is left of a period into the next; nil for none.
	Rollover *Rollover
	Source   Source
}

// PerJob bounds a single job. Nil or zero means that this node sets no bound;
// the bounds of all ancestors apply too.
type PerJob struct {
	// GPUs at once, all groups together.
	GPUs *JobLimit
	// GPUTime in GPU-milliseconds, worst case.
	GPUTime *JobLimit
	// Cost in micro-units, worst case.
	Cost *JobLimit
	// Energy in joules, worst case.
	Energy *JobLimit
	// MaxRuntime of one allocation; zero means none.
	MaxRuntime       time.Duration
	MaxRuntimeSource Source
	// DefaultRuntime is held for a batch job that states none; zero inherits.
	DefaultRuntime time.Duration
	// Reschedules bounds how often a failed batch allocation may start again in
	// the worst case; nil inherits.
	Reschedules *int
}

// JobLimit is one bound on a single job and where it was set.
type JobLimit struct {
	Ceiling quantity.Limit
	Source  Source
}

// Match is a rule for claiming jobs: every list that is not empty must match.
type Match struct {
	// Namespaces are glob patterns ("research-*").
	Namespaces []string
	// Identities are patterns over Identity.Names: "role:nlp-*", "policy:x",
	// "token:name".
	Identities []string
	// NodePools are glob patterns over the job's node pool.
	NodePools []string
	// When is a further condition on the job and its submitter; nil holds always.
	When   Condition
	Source Source
}

// Ancestry is the path from this budget to its root, this budget first.
func (b *Budget) Ancestry() []*Budget {
	var path []*Budget
	for n := b; n != nil; n = n.Parent {
		path = append(path, n)
	}
	return path
}

// Walk calls visit for every budget, parents before children, in path order.
func (p *Policy) Walk(visit func(*Budget)) {
	var walk func([]*Budget)
	walk = func(nodes []*Budget) {
		for _, b := range nodes {
			visit(b)
			walk(b.Children)
		}
	}
	walk(p.Roots)
}

// Find returns the budget with this path, or nil.
func (p *Policy) Find(path string) *Budget {
	var found *Budget
	p.Walk(func(b *Budget) {
		if b.Path == path {
			found = b
		}
	})
	return found
}

// ClassOf returns the class that holds a device name, or false.
func (p *Policy) ClassOf(device string) (string, bool) {
	for _, c := range p.Classes {
		for _, d := range c.Devices {
			if d == device {
				return c.Name, true
			}
		}
	}
	return "", false
}

// RateAt returns the rate card in force at t, or false before the first.
func (p *Policy) RateAt(t time.Time) (RateCard, bool) {
	for i := len(p.RateCards) - 1; i >= 0; i-- {
		if !t.Before(p.RateCards[i].EffectiveFrom) {
			return p.RateCards[i], true
		}
	}
	return RateCard{}, false
}

// Windows returns the calendar windows in which some budget has a limit, in
// the order of the Window constants, without the gauge Concurrent.
func (p *Policy) Windows() []Window {
	var used [windowCount]bool
	p.Walk(func(b *Budget) {
		for _, l := range b.Limits {
			used[l.Window] = true
		}
	})
	var windows []Window
	for w := Hour; w <= Total; w++ {
		if used[w] {
			windows = append(windows, w)
		}
	}
	return windows
}
