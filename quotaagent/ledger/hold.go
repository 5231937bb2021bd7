package ledger

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// State is where a hold stands. A hold that ends is removed; what it charged is
// then posted (used), voided (not needed) or expired (never confirmed).
//
//	          Nomad accepted            job dead, all posted
//	Held ───────────────────► Active ─────────────────────► (settled)
//	  │ Nomad refused                 resubmission: Active with Pending lines
//	  ├──────────► (voided)
//	  └ TTL ─────► (expired)
type State string

// The states of an open hold.
const (
	Held   State = "held"
	Active State = "active"
)

// Hold is the promise made to one job: its worst case, less what is posted.
// There is at most one open hold for each namespace and job id. A Hold is a
// value: the functions of this package return changed copies.
type Hold struct {
	// ID is unique among all holds ever made.
	ID        string `json:"id"`
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// Budget is the path of the budget that the job draws from.
	Budget string `json:"budget"`
	// Run is the envelope that the job draws from, "" for none: its time and money
	// are charged to the run, which holds them from the budget already.
	Run string `json:"run,omitempty"`
	// Capped are the dimensions that its run has caps for: the run holds those, and
	// every other one the job charges to its budgets itself. Drawn is what the hold
	// now contributes to Run.Held.
	Capped []budget.Dimension `json:"capped,omitempty"`
	Drawn  Amounts            `json:"drawn,omitempty"`
	// Accessor and Identity say who submitted it last; Facts describe the job, for
	// prices that depend on it.
	Accessor string          `json:"accessor,omitempty"`
	Identity []string        `json:"identity,omitempty"`
	Facts    budget.JobFacts `json:"facts,omitzero"`
	// Priority of the budget at the last submission, then Nomad's of the job: who
	// gives back first.
	Priority    int   `json:"priority,omitempty"`
	JobPriority int   `json:"job_priority,omitempty"`
	State       State `json:"state"`
	// CreatedMS and ExpiresMS are Unix milliseconds; an unconfirmed submission
	// expires then.
	CreatedMS int64 `json:"created_ms"`
	ExpiresMS int64 `json:"expires_ms,omitempty"`
	// SubmittedMS is when the job was submitted last: until then what runs may have
	// used GPUs without anything of it being posted yet.
	SubmittedMS int64 `json:"submitted_ms,omitempty"`
	// PendingMS is when the first of the unconfirmed submissions was made, LinesMS when
	// the confirmed need was: no allocation of it began before. SeenMS is a moment of
	// which all allocations are known.
	PendingMS int64 `json:"pending_ms,omitempty"`
	LinesMS   int64 `json:"lines_ms,omitempty"`
	SeenMS    int64 `json:"seen_ms,omitempty"`
	// StoredIndex is the JobModifyIndex before the unconfirmed submission (0: no
	// job); JobModifyIndex is that of the last confirmed one.
	StoredIndex    uint64 `json:"stored_index,omitempty"`
	JobModifyIndex uint64 `json:"job_modify_index,omitempty"`
	// FirstIndex is the JobModifyIndex of the first confirmation: an ended
	// allocation that is older belongs to an earlier life of the job id.
	FirstIndex uint64 `json:"first_index,omitempty"`
	// LastIndex is the CreateIndex of the newest allocation that was taken in: what is
	// not newer is of this life of the job id, or of an earlier one.
	LastIndex uint64 `json:"last_index,omitempty"`
	// Lines is the confirmed need; Pending that of an unconfirmed submission.
	// While both exist the hold charges the larger of the two. An empty Pending
	// is a submission that needs nothing, and not the same as none.
	Lines   []Line `json:"lines,omitempty"`
	Pending []Line `json:"pending"`
	// Former is what the job was before its last changes, until somebody has looked
	// at what runs of it: allocations of it may have started that nobody has seen.
	Former []Former `json:"former,omitempty"`
	// InFlight counts the submissions that are not confirmed or voided yet;
	// Pending bounds them all, for any of them may be the one that Nomad keeps.
	InFlight int `json:"in_flight,omitempty"`
	// Guessed counts the submissions that were confirmed by what Nomad had, and whose
	// answer may still come until GuessedUntilMS: it then counts for nothing more.
	Guessed        int   `json:"guessed,omitempty"`
	GuessedUntilMS int64 `json:"guessed_until_ms,omitempty"`
	// Unchanged says that the unconfirmed submission is the registered job once
	// more: Nomad will find nothing new in it, so nothing starts again.
	Unchanged bool `json:"unchanged,omitempty"`
	// Tracks are the allocations not yet posted to their end, by id.
	Tracks []Track `json:"tracks,omitempty"`
	// Finished are the ids of allocations posted to their end, sorted: each fact
	// is posted once, however often Nomad shows it.
	Finished []string `json:"finished,omitempty"`
	// Slots is what ended allocations used, by allocation name.
	Slots map[string]Slot `json:"slots,omitempty"`
	// Charged is what this hold now contributes to its budgets' held amounts.
	Charged Vector `json:"charged,omitzero"`
	// Posted is all that was posted for it.
	Posted Usage `json:"posted"`
	// Estimate is the worst case as admitted, and Reason that of the decision, for
	// the receipt.
	Estimate Usage  `json:"estimate"`
	Reason   string `json:"reason,omitempty"`
	// Outbox is the history of what was posted last, until it is certain that it was
	// recorded; see PutOut and Entries.
	Outbox []Entry `json:"outbox,omitempty"`
	// Ending is how the job is being brought to an end by policy; nil if it is not.
	Ending *Ending `json:"ending,omitempty"`
	// Refused is the reason why a launch that Nomad made by itself should not run, and
	// RefusedWhy the sentence for people; "" for all other jobs.
	Refused    string `json:"refused,omitempty"`
	RefusedWhy string `json:"refused_why,omitempty"`
	// Gang is what was seen of a gang that did not run as a whole; nil for all others.
	Gang *Gang `json:"gang,omitempty"`
	// Placement is the offer that the job was pinned to, opaque to the ledger.
	Placement json.RawMessage `json:"placement,omitempty"`
	// Request is what it is for instead of a job; nil for a job. Of the rest it then only
	// has who it is of, when it expires, and what it charges.
	Request *TokenRequest `json:"request,omitempty"`
}

// Gang is what is remembered of a gang that runs in part, or was taken back for that.
type Gang struct {
	// PartialMS is since when it was seen to run in part; 0 while all of it runs.
	PartialMS int64 `json:"partial_ms,omitempty"`
	// Rollbacks counts how often in a row it was taken back before.
	Rollbacks int `json:"rollbacks,omitempty"`
}

// Former is a job as it was confirmed before the present one: what it needed, what of
// that was used, and from when to when allocations of it may have run that nobody has
// seen.
type Former struct {
	Lines          []Line          `json:"lines"`
	Slots          map[string]Slot `json:"slots,omitempty"`
	JobModifyIndex uint64          `json:"job_modify_index"`
	FromMS         int64           `json:"from_ms,omitempty"`
	ToMS           int64           `json:"to_ms,omitempty"`
}

// Ending is a stop under way: signal, grace, stop. It is part of the hold, so
// that a new leader goes on where the old one stopped.
type Ending struct {
	// Action is stop or throttle, Cause one of the reasons of docs/reasons.md.
	Action string `json:"action"`
	Cause  string `json:"cause"`
	// Budget is the path whose rule it is.
	Budget string `json:"budget,omitempty"`
	// Why is one sentence for people.
	Why string `json:"why,omitempty"`
	// Allocs are the allocations concerned; empty for the whole job.
	Allocs []string `json:"allocs,omitempty"`
	// Signal for the tasks, "" for none.
	Signal string `json:"signal,omitempty"`
	// SignalMS is when the signal was sent, StopMS when the grace is over, DoneMS
	// when the stop was ordered (or, throttling, the last step was taken).
	SignalMS int64 `json:"signal_ms,omitempty"`
	StopMS   int64 `json:"stop_ms,omitempty"`
	DoneMS   int64 `json:"done_ms,omitempty"`
	// JobIndex is the hold's JobModifyIndex when the stop was ordered: a submission
	// that is confirmed later is not concerned.
	JobIndex uint64 `json:"job_index,omitempty"`
	// Throttled are the groups that were made smaller, by name.
	Throttled map[string]Throttled `json:"throttled,omitempty"`
}

// Throttled is a group with fewer allocations than its author asked for.
type Throttled struct {
	// Was is the count before the first step, Is the one after the last.
	Was int `json:"was"`
	Is  int `json:"is"`
}

// Usage sums GPU time by class, cost and energy.
type Usage struct {
	GPUTime map[string]quantity.Amount `json:"gpu_ms,omitempty"`
	Cost    quantity.Amount            `json:"cost"`
	// Energy in joules.
	Energy quantity.Amount `json:"energy_j,omitempty"`
}

// Line is the need of one task group.
type Line struct {
	Group string `json:"group"`
	// Count of allocations (canaries included).
	Count int `json:"count"`
	// Canaries are how many of Count run only during an update.
	Canaries int `json:"canaries,omitempty"`
	// RuntimeMS is how long one allocation and its reschedules hold their GPUs
	// at most; for a lease how far ahead of now they are held.
	RuntimeMS int64 `json:"runtime_ms"`
	// OnceMS is how long a single run is bounded by, before reschedules; 0 for a
	// lease.
	OnceMS int64 `json:"once_ms,omitempty"`
	// TailMS is how much longer one may take to end; of a line that bounds several, whose
	// other lengths do not tell any more.
	TailMS int64 `json:"tail_ms,omitempty"`
	// Starts is how often one allocation may start in the worst case; 0 for a
	// lease.
	Starts int `json:"starts,omitempty"`
	// Lease marks work without an end: its time is held ahead and renewed.
	Lease bool `json:"lease,omitempty"`
	// Overlap is how many allocations an update replaces at once, OverlapMS how long
	// an old one may still hold its GPUs beside its successor.
	Overlap   int   `json:"overlap,omitempty"`
	OverlapMS int64 `json:"overlap_ms,omitempty"`
	// EveryNode says that Count is one for each node: Nomad gives all of them the
	// same name.
	EveryNode bool `json:"every_node,omitempty"`
	// Needs of one allocation, by device ask.
	Needs []Need `json:"needs"`
}

// Need is some GPUs of one allocation.
type Need struct {
	// Classes that could serve it, sorted; one once it is known.
	Classes []string `json:"classes"`
	GPUs    int64    `json:"gpus"`
	// PerGPUHour is the price of the dearest of the classes, in micro-units, energy
	// included.
	PerGPUHour quantity.Amount `json:"per_gpu_hour"`
	// Watts bounds the power of one GPU of the hungriest class; 0 if unknown.
	Watts int64 `json:"watts,omitempty"`
}

// Track is one allocation that holds GPUs.
type Track struct {
	Alloc string `json:"alloc"`
	Name  string `json:"name"`
	Group string `json:"group"`
	// CreateIndex is Nomad's for the allocation; above the hold's JobModifyIndex
	// it was placed for the job as confirmed last.
	CreateIndex uint64 `json:"create_index,omitempty"`
	// StartMS is Nomad's CreateTime, MarkMS the watermark: everything before it
	// is posted. EndMS is when Nomad's servers saw it client-terminal; 0 while it
	// runs.
	StartMS int64 `json:"start_ms"`
	MarkMS  int64 `json:"mark_ms"`
	EndMS   int64 `json:"end_ms,omitempty"`
	// Done says that it ended and will not be replaced (complete or stopped).
	Done bool `json:"done,omitempty"`
	// Estimated marks an end that could not be observed exactly.
	Estimated bool `json:"estimated,omitempty"`
	// Unknown says that Nomad has lost touch with the node: the allocation may run.
	Unknown bool `json:"unknown,omitempty"`
	// RunMS is when its first task started and RanMS when its last one ended, for
	// policies that charge running time only; 0 if that did not happen yet or does
	// not matter.
	RunMS int64 `json:"run_ms,omitempty"`
	RanMS int64 `json:"ran_ms,omitempty"`
	// LeaseMS is until when the GPUs of a lease are held.
	LeaseMS int64 `json:"lease_ms,omitempty"`
	// NextMS is when the first known allocation of the same name began that came after
	// it; 0 for none.
	NextMS int64 `json:"next_ms,omitempty"`
	// OwnMS is until when an earlier version of the job that is forgotten by now let it
	// run; 0 where the versions tell.
	OwnMS int64 `json:"own_ms,omitempty"`
	// Node is the id of the node it runs on.
	Node string      `json:"node,omitempty"`
	GPUs []TrackGPUs `json:"gpus"`
}

// TrackGPUs are the GPUs of one class that an allocation holds.
type TrackGPUs struct {
	Class string   `json:"class"`
	IDs   []string `json:"ids"`
	// PerGPUHour is the price used for what is still held, in micro-units.
	PerGPUHour quantity.Amount `json:"per_gpu_hour"`
	// Watts bounds the power of one GPU for what is still held; 0 if unknown.
	Watts int64 `json:"watts,omitempty"`
	// EndMS is when Nomad gave these GPUs to another allocation, and MarkMS until
	// when they are posted since; 0 for GPUs that the allocation keeps to its end.
	EndMS  int64 `json:"end_ms,omitempty"`
	MarkMS int64 `json:"mark_ms,omitempty"`
	// Energy that they drew; nil before it is measured.
	Energy *Energy `json:"energy,omitempty"`
}

// Slot is the history of one allocation name ("job.group[0]") since the job was
// last changed.
type Slot struct {
	UsedMS int64 `json:"used_ms"`
	// Done says that the youngest allocation, which began at StartMS, ended and
	// will not be replaced.
	Done    bool  `json:"done,omitempty"`
	StartMS int64 `json:"start_ms,omitempty"`
	// EndMS is the latest end of an allocation of the slot, Index the CreateIndex of
	// the youngest and LastMS what that one used.
	EndMS  int64  `json:"end_ms,omitempty"`
	Index  uint64 `json:"index,omitempty"`
	LastMS int64  `json:"last_ms,omitempty"`
	// Again says that the youngest came although the one before it was done: it is of a
	// later version of the job than that.
	Again bool `json:"again,omitempty"`
}

// Ended is the slot after one more allocation of it ended. The order in which
// ends are learned does not matter for what is used and whether it is done.
func (s Slot) Ended(t Track) Slot {
	used := max(0, t.EndMS-t.StartMS)
	s.UsedMS += used
	s.EndMS = max(s.EndMS, t.EndMS)
	if t.CreateIndex > s.Index {
		s.Again = s.Again || s.Done
		s.Index, s.LastMS = t.CreateIndex, used
	}
	if t.StartMS >= s.StartMS {
		s.Done, s.StartMS = t.Done, t.StartMS
	}
	return s
}

// youngest is the slot of a job of which the youngest allocation alone is.
func (s Slot) youngest() Slot {
	s.UsedMS, s.Again = s.LastMS, false
	return s
}

// JobKey names a job in store keys. Job ids may hold any character but spaces
// and NUL, slashes included: the two parts are told apart by a NUL.
func (h Hold) JobKey() string { return h.Namespace + "\x00" + h.JobID }

// Live returns the tracks that have not ended.
func (h Hold) Live() []Track {
	var live []Track
	for _, t := range h.Tracks {
		if t.EndMS == 0 {
			live = append(live, t)
		}
	}
	return live
}

// LineOf is the confirmed need of a group.
func (h Hold) LineOf(group string) (Line, bool) {
	for _, line := range h.Lines {
		if line.Group == group {
			return line, true
		}
	}
	return Line{}, false
}

// Count is how many allocations the confirmed need has at most.
func (h Hold) Count() int {
	count := 0
	for _, line := range h.Lines {
		count += line.Count
	}
	return count
}

// Ancestors returns the paths of a budget and all its ancestors, leaf first.
// Holds outlive edits of the tree, so this goes by path, not by policy.
func Ancestors(path string) []string {
	paths := []string{path}
	for {
		cut := strings.LastIndexByte(path, '/')
		if cut < 0 {
			return paths
		}
		path = path[:cut]
		paths = append(paths, path)
	}
}

// Finish notes an allocation that is posted to its end. It used nothing of the time of
// a later version of the job than its own.
func (h *Hold) Finish(t Track) {
	if at, known := slices.BinarySearch(h.Finished, t.Alloc); !known {
		h.Finished = slices.Insert(h.Finished, at, t.Alloc)
	}
	if t.CreateIndex > h.JobModifyIndex {
		slot := h.Slots[t.Name].Ended(t)
		slot.Again = slot.Again || h.besideOlder(t)
		h.Slots[t.Name] = slot
		return
	}
	for i := len(h.Former) - 1; i >= 0; i-- {
		if f := h.Former[i]; t.CreateIndex > f.JobModifyIndex {
			h.Former = slices.Clone(h.Former)
			h.Former[i].Slots = maps.Clone(f.Slots)
			if f.Slots == nil {
				h.Former[i].Slots = map[string]Slot{}
			}
			h.Former[i].Slots[t.Name] = h.Former[i].Slots[t.Name].Ended(t)
			return
		}
	}
	slot := h.Slots[t.Name]
	slot.EndMS = max(slot.EndMS, t.EndMS)
	h.Slots[t.Name] = slot
}

// besideOlder reports whether an allocation for the job as it is or as submitted has an
// older one of its name beside it, which therefore is being replaced.
func (h Hold) besideOlder(t Track) bool {
	return slices.ContainsFunc(h.Tracks, func(other Track) bool {
		return other.Name == t.Name && other.EndMS == 0 && !other.Unknown && other.CreateIndex > h.JobModifyIndex && other.CreateIndex < t.CreateIndex
	})
}

// Clone is a deep copy of what later functions change.
func (h Hold) Clone() Hold {
	c := h
	c.Tracks = slices.Clone(h.Tracks)
	c.Finished = slices.Clone(h.Finished)
	c.Slots = make(map[string]Slot, len(h.Slots))
	for name, s := range h.Slots {
		c.Slots[name] = s
	}
	c.Charged = h.Charged.Clone()
	c.Posted = h.Posted
	c.Posted.GPUTime = make(map[string]quantity.Amount, len(h.Posted.GPUTime))
	for class, ms := range h.Posted.GPUTime {
		c.Posted.GPUTime[class] = ms
	}
	return c
}

// Total is the GPU time of all classes.
func (u Usage) Total() quantity.Amount {
	total := quantity.Amount(0)
	for _, ms := range u.GPUTime {
		total = total.Add(ms)
	}
	return total
}
