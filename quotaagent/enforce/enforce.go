package enforce

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Input is all that enforcement follows from.
type Input struct {
	Policy *budget.Policy
	// Holds are all open holds, Books the balances by budget path.
	Holds []ledger.Hold
	Books map[string]ledger.Balance
	// Grants are all that counted at any time of a live period.
	Grants []ledger.Grant
	// Runs are agent runs by id.
	Runs map[string]ledger.Run
	// Waiting are the jobs in the queue.
	Waiting []ledger.Queued
	// IdleFor says for how long the GPUs of an allocation were not used, by allocation
	// id. One that is missing is in use, or nobody knows.
	IdleFor map[string]time.Duration
	Now     time.Time
}

// What an ending does (ledger.Ending.Action).
const (
	ActionStop     = "stop"
	ActionThrottle = "throttle"
)

// Step is what is to be done next about one hold.
type Step uint8

// The steps.
const (
	// Begin stores Action.Ending, and sends its signal to Action.Allocs.
	Begin Step = iota
	// Signal sends the signal once more: it is not known to have been sent.
	Signal
	// StopAllocations stops Action.Allocs, StopJob the whole job.
	StopAllocations
	StopJob
	// Scale sets the count of Action.Group to Action.Count. Restore does too, once
	// the cause of a throttle is gone, if the budget has room for it.
	Scale
	Restore
	// Cancel removes the ending: its cause is gone, or it is done.
	Cancel
)

var stepNames = [...]string{"begin", "signal", "stop_allocations", "stop_job", "scale", "restore", "cancel"}

// String is the step's stable name.
func (s Step) String() string { return stepNames[s] }

// Action is one step for one hold.
type Action struct {
	Step                     Step
	Namespace, JobID, HoldID string
	// Before is the ending that the hold has, nil for none: if it is another one by
	// now, the action is obsolete. Ending is the one that it gets, but for the times
	// at which the step is taken.
	Before *ledger.Ending
	Ending ledger.Ending
	// Signal for the tasks of Allocs, "" for none.
	Signal string
	Allocs []string
	Group  string
	Count  int
	// Text is one sentence that says why.
	Text string
}

// AtOnce reports whether a whole job is stopped as soon as that is stored: without a
// signal and without a grace there is nothing to wait for.
func (a Action) AtOnce() bool {
	return a.Step == Begin && a.Ending.Action == ActionStop && a.Signal == "" && len(a.Ending.Allocs) == 0 && a.Ending.StopMS <= a.Ending.SignalMS
}

// repeatAfter is how long an ordered stop may take before it is ordered again.
// It is longer than nearly every kill_timeout.
const repeatAfter = time.Minute

// nextAfter is the pause between two stops of allocations of one job, whose times
// are up one after the other.
const nextAfter = 10 * time.Second

// want is how a hold should end.
type want struct {
	action string
	cause  admission.Reason
	budget string
	signal string
	grace  time.Duration
	// allocs are those concerned (nil for the whole job), due those of them whose
	// time is up now; whole says that the job is to be stopped when it is.
	allocs, due []string
	timed       bool // due says when, not the grace
	stopMS      int64
	// group and count are the next step of a throttle; every is its pause.
	group string
	count int
	every time.Duration
	text  string
}

// Plan is the next step of every hold that needs one, by namespace and job id.
// It is deterministic. In shadow mode nothing is enforced.
func Plan(in Input) []Action {
	if in.Policy == nil || in.Policy.Enforcement == budget.Shadow {
		return nil
	}
	byJob := func(a, b ledger.Hold) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID))
	}
	if !slices.IsSortedFunc(in.Holds, byJob) { // holds are large, and the meter keeps them in order
		in.Holds = slices.Clone(in.Holds)
		slices.SortFunc(in.Holds, byJob)
	}
	p := planner{Input: in, wants: make(map[string]want), borrowing: make(map[string]bool)}
	p.launches()
	p.runs()
	p.overBudget()
	p.reclaim()
	p.runtime()
	p.idle()
	var actions []Action
	for _, h := range in.Holds {
		if action, ok := p.next(h); ok {
			action.Namespace, action.JobID, action.HoldID, action.Before = h.Namespace, h.JobID, h.ID, h.Ending
			actions = append(actions, action)
		}
	}
	return actions
}

type planner struct {
	Input
	wants map[string]want // by hold id; the first cause counts
	// borrowing says of members of cohorts, by path, whether they borrow.
	borrowing map[string]bool
}

func (p *planner) wish(h ledger.Hold, w want) {
	if have, wished := p.wants[h.ID]; wished && (have.action == ActionStop || w.action == ActionThrottle) {
		return
	}
	p.wants[h.ID] = w
}

// next is the next step of one hold.
func (p *planner) next(h ledger.Hold) (Action, bool) {
	w, wanted := p.wants[h.ID]
	e := h.Ending
	if e != nil && overtaken(h, *e) {
		if !wanted {
			return Action{Step: Cancel, Ending: *e, Text: "the job was submitted anew"}, true
		}
		e = nil
	}
	switch {
	case !wanted && e == nil:
		return Action{}, false
	case !wanted && e.Action == ActionStop && e.DoneMS != 0 && running(h, e.Allocs):
		return p.repeat(h, *e)
	case !wanted && e.Action == ActionThrottle && len(e.Throttled) > 0:
		return p.restore(h, *e)
	case !wanted:
		return Action{Step: Cancel, Ending: *e, Text: gone(*e)}, true
	case w.action == ActionThrottle:
		return p.throttled(h, e, w)
	case e == nil || e.Cause != string(w.cause) || e.Action != w.action || len(fresh(w.allocs, e.Allocs)) > 0:
		return p.begin(e, w), true
	case e.DoneMS != 0 && !w.timed:
		return p.repeat(h, *e)
	case p.due(*e, w):
		return stop(h, *e, w), true
	case unsent(*e, w):
		return p.signalAgain(h, *e, w), true
	}
	return Action{}, false
}

// overtaken reports whether what was done is no longer about the job as it is: it
// was submitted anew after it was told to stop, or its count was changed by
// somebody else.
func overtaken(h ledger.Hold, e ledger.Ending) bool {
	if h.Pending != nil {
		return false // that is not known yet
	}
	for _, line := range h.Lines {
		if t, throttled := e.Throttled[line.Group]; throttled && line.Count-line.Canaries != t.Is {
			return true
		}
	}
	return e.Action == ActionStop && e.DoneMS != 0 && e.JobIndex != 0 && h.JobModifyIndex > e.JobIndex
}

// gone says why an ending is over.
func gone(e ledger.Ending) string {
	if e.DoneMS != 0 && e.Action == ActionStop {
		return "what was to be ended has ended"
	}
	return "its cause is gone (" + e.Cause + ")"
}

// unsent reports whether a signal is wanted that is not known to have been sent.
func unsent(e ledger.Ending, w want) bool { return e.SignalMS == 0 && w.signal != "" }

// due reports whether it is time to stop. The grace counts from the signal; one
// that cannot be sent delays the end by no more than a grace.
func (p *planner) due(e ledger.Ending, w want) bool {
	now := p.Now.UnixMilli()
	switch {
	case w.timed:
		return len(w.due) > 0 && now-e.DoneMS >= quantity.Millis(nextAfter)
	case unsent(e, w):
		return now >= e.StopMS+quantity.Millis(w.grace)
	}
	return now >= e.StopMS
}

// begin stores the intention. What was signalled before is not signalled again.
func (p *planner) begin(old *ledger.Ending, w want) Action {
	now := p.Now.UnixMilli()
	e := ledger.Ending{Action: w.action, Cause: string(w.cause), Budget: w.budget, Why: w.text, Allocs: w.allocs, Signal: w.signal,
		StopMS: now + quantity.Millis(w.grace)}
	if w.timed {
		e.StopMS = w.stopMS
	}
	targets := w.allocs
	if old != nil && old.Cause == string(w.cause) {
		targets = fresh(w.allocs, old.Allocs)
		if old.Action == w.action {
			e.DoneMS = old.DoneMS // the pause between two stops goes on
		}
	}
	if w.signal == "" {
		e.SignalMS = now
	}
	return Action{Step: Begin, Ending: e, Signal: w.signal, Allocs: targets, Text: w.text}
}

// signalAgain sends a signal that may not have been sent. The grace begins anew.
func (p *planner) signalAgain(h ledger.Hold, e ledger.Ending, w want) Action {
	if !w.timed {
		e.StopMS = max(e.StopMS, p.Now.UnixMilli()+quantity.Millis(w.grace))
	}
	return Action{Step: Signal, Ending: e, Signal: w.signal, Allocs: targets(h, e.Allocs), Text: w.text}
}

// stop orders the end.
func stop(h ledger.Hold, e ledger.Ending, w want) Action {
	if len(e.Allocs) == 0 || len(w.allocs) == 0 {
		return Action{Step: StopJob, Ending: e, Text: w.text}
	}
	for _, t := range h.Live() {
		if !slices.Contains(w.due, t.Alloc) {
			return Action{Step: StopAllocations, Ending: e, Allocs: w.due, Text: w.text}
		}
	}
	return Action{Step: StopJob, Ending: e, Text: w.text}
}

// repeat orders a stop again that has no effect yet. What is on its way to Nomad
// may be a new life of the job, which is not concerned.
func (p *planner) repeat(h ledger.Hold, e ledger.Ending) (Action, bool) {
	if h.Pending != nil || !running(h, e.Allocs) || p.Now.UnixMilli()-e.DoneMS < quantity.Millis(repeatAfter) {
		return Action{}, false
	}
	a := Action{Step: StopJob, Ending: e, Text: "it was told to stop and still runs"}
	if len(e.Allocs) > 0 {
		a.Step, a.Allocs = StopAllocations, targets(h, e.Allocs)
	}
	return a, true
}

// running reports whether one of the allocations lives; nil means any.
func running(h ledger.Hold, allocs []string) bool { return len(targets(h, allocs)) > 0 }

// targets are the live allocations among some; nil means all.
func targets(h ledger.Hold, allocs []string) []string {
	var out []string
	for _, t := range h.Live() {
		if len(allocs) == 0 || slices.Contains(allocs, t.Alloc) {
			out = append(out, t.Alloc)
		}
	}
	return out
}

// fresh are the ids of a that are not in b.
func fresh(a, b []string) []string {
	var out []string
	for _, id := range a {
		if !slices.Contains(b, id) {
			out = append(out, id)
		}
	}
	return out
}

// throttled is the next step of a throttle: one at once, and then one in every
// pause.
func (p *planner) throttled(h ledger.Hold, e *ledger.Ending, w want) (Action, bool) {
	now := p.Now.UnixMilli()
	before := ledger.Ending{}
	if e != nil && e.Action == ActionThrottle {
		before = *e
	}
	if now-before.DoneMS < quantity.Millis(w.every) || w.group == "" {
		return Action{}, false // not yet, or as small as it may become
	}
	ending := ledger.Ending{Action: ActionThrottle, Cause: string(w.cause), Budget: w.budget, Why: w.text, StopMS: now, SignalMS: now,
		Throttled: maps.Clone(before.Throttled)}
	if ending.Throttled == nil {
		ending.Throttled = make(map[string]ledger.Throttled)
	}
	line, _ := h.LineOf(w.group)
	step := ledger.Throttled{Was: line.Count - line.Canaries, Is: w.count}
	if earlier, again := ending.Throttled[w.group]; again {
		step.Was = earlier.Was
	}
	ending.Throttled[w.group] = step
	return Action{Step: Scale, Ending: ending, Group: w.group, Count: w.count, Text: w.text}, true
}

// restore is the next step of a throttle whose cause is gone: back up, as slowly
// as it went down.
func (p *planner) restore(h ledger.Hold, e ledger.Ending) (Action, bool) {
	rule := p.throttleOf(h, e)
	if h.Pending != nil || p.Now.UnixMilli()-e.DoneMS < quantity.Millis(rule.Every) {
		return Action{}, false
	}
	ending := e
	ending.Throttled = maps.Clone(e.Throttled)
	for _, group := range sortedKeys(e.Throttled) {
		t := e.Throttled[group]
		if _, known := h.LineOf(group); !known || t.Is >= t.Was {
			delete(ending.Throttled, group)
			continue
		}
		t.Is = min(t.Was, t.Is+max(1, int(rule.Step.OfUp(quantity.Amount(t.Was)))))
		ending.Throttled[group] = t
		return Action{Step: Restore, Ending: ending, Group: group, Count: t.Is, Text: gone(e)}, true
	}
	return Action{Step: Cancel, Ending: e, Text: gone(e)}, true
}

// throttleOf is the rule by which a hold was throttled.
func (p *planner) throttleOf(h ledger.Hold, e ledger.Ending) budget.Throttle {
	for _, path := range []string{e.Budget, h.Budget} {
		if b := p.Policy.Find(path); b != nil {
			return b.EffectiveThrottle()
		}
	}
	return (&budget.Budget{}).EffectiveThrottle()
}
