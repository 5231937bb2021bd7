package enforce_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/enforce"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// world is a policy with what runs under it.
type world struct {
	policy  *budget.Policy
	root    *budget.Budget
	a, b    *budget.Budget
	holds   []ledger.Hold
	posted  map[string]ledger.Vector
	runs    map[string]ledger.Run
	waiting []ledger.Queued
	idle    map[string]time.Duration
}

// newWorld lets work run as it likes.
func newWorld() *world {
	root := &budget.Budget{Name: "acme", Path: "acme"}
	a := &budget.Budget{Name: "a", Path: "acme/a", Parent: root}
	b := &budget.Budget{Name: "b", Path: "acme/b", Parent: root}
	root.Children = []*budget.Budget{a, b}
	root.Stop = &budget.Stop{Signal: "SIGUSR1", Grace: 15 * time.Minute, Then: "stop"}
	return &world{policy: &budget.Policy{Location: time.UTC, Currency: "USD", Roots: []*budget.Budget{root}}, root: root, a: a, b: b,
		posted: map[string]ledger.Vector{}, runs: map[string]ledger.Run{}, idle: map[string]time.Duration{}}
}

func gpuLimit(w budget.Window, gpus int64) budget.Limit {
	if w == budget.Concurrent {
		return budget.Limit{Window: w, Dimension: budget.GPUs(budget.AnyClass), Ceiling: quantity.LimitOf(quantity.GPU.Mul(gpus))}
	}
	return budget.Limit{Window: w, Dimension: budget.GPUTime(budget.AnyClass), Ceiling: quantity.LimitOf(quantity.GPUHour.Mul(gpus))}
}

// job adds a running job of so many allocations with one GPU each.
func (w *world) job(id, path string, priority, count int, began time.Time, change ...func(*ledger.Hold)) {
	h := ledger.Hold{ID: "h-" + id, Namespace: "default", JobID: id, Budget: path, State: ledger.Held, Priority: priority, CreatedMS: began.UnixMilli()}
	line := ledger.Line{Group: "g", Count: count, OnceMS: quantity.Millis(time.Hour), RuntimeMS: quantity.Millis(time.Hour + 30*time.Second), Starts: 1,
		Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 1}}}
	h = ledger.Confirm(ledger.Submit(h, []ledger.Line{line}, 0), 7)
	for i := range count {
		h = started(h, i, began)
	}
	for _, c := range change {
		c(&h)
	}
	w.holds = append(w.holds, h)
}

func started(h ledger.Hold, slot int, began time.Time) ledger.Hold {
	id := fmt.Sprintf("%s-%d", h.JobID, slot)
	h, _ = ledger.Observe(h, ledger.Observation{Alloc: id, Name: fmt.Sprintf("%s.g[%d]", h.JobID, slot), Group: "g", CreateIndex: 8,
		StartMS: began.UnixMilli(), GPUs: []ledger.TrackGPUs{{Class: "v100", IDs: []string{"GPU-" + id}}}}, began.UnixMilli())
	return h
}

func service(h *ledger.Hold) {
	h.Lines[0].Lease, h.Lines[0].OnceMS, h.Lines[0].Starts = true, 0, 0
	for i := range h.Tracks {
		h.Tracks[i].LeaseMS = h.Tracks[i].StartMS + h.Lines[0].RuntimeMS
	}
}

func (w *world) input(now time.Time) enforce.Input {
	books := map[string]ledger.Balance{}
	w.policy.Walk(func(b *budget.Budget) {
		books[b.Path] = ledger.Balance{Held: ledger.NewVector(), Posted: w.posted[b.Path].Clone()}
	})
	for i := range w.holds {
		w.holds[i].Charged = ledger.Charges(w.holds[i], ledger.CalendarOf(w.policy))
		for _, path := range ledger.Ancestors(w.holds[i].Budget) {
			if _, known := books[path]; !known {
				books[path] = ledger.Balance{Held: ledger.NewVector()}
			}
			books[path].Held.AddAll(w.holds[i].Charged, 1)
		}
	}
	return enforce.Input{Policy: w.policy, Holds: w.holds, Books: books, Runs: w.runs, Waiting: w.waiting, IdleFor: w.idle, Now: now}
}

func (w *world) plan(now time.Time) []enforce.Action { return enforce.Plan(w.input(now)) }

func told(actions []enforce.Action) []string {
	out := []string{}
	for _, a := range actions {
		text := fmt.Sprintf("%s %s %s", a.JobID, a.Step, a.Ending.Cause)
		if len(a.Allocs) > 0 {
			text += fmt.Sprint(" ", a.Allocs)
		}
		if a.Group != "" {
			text += fmt.Sprintf(" %s=%d", a.Group, a.Count)
		}
		out = append(out, text)
	}
	return out
}

// act does what is planned, as the agent does: what is stopped has ended at once.
func (w *world) act(actions []enforce.Action, now time.Time) {
	for _, a := range actions {
		i := slices.IndexFunc(w.holds, func(h ledger.Hold) bool { return h.ID == a.HoldID })
		h, e := &w.holds[i], a.Ending
		switch a.Step {
		case enforce.Begin, enforce.Signal:
			e.SignalMS = now.UnixMilli()
			h.Ending = &e
		case enforce.StopAllocations:
			e.DoneMS = now.UnixMilli()
			h.Ending = &e
			for _, id := range a.Allocs {
				*h, _ = ledger.Observe(*h, ledger.Observation{Alloc: id, EndMS: now.UnixMilli()}, now.UnixMilli())
				at := slices.IndexFunc(h.Tracks, func(t ledger.Track) bool { return t.Alloc == id })
				h.Slots[h.Tracks[at].Name] = h.Slots[h.Tracks[at].Name].Ended(h.Tracks[at])
				h.Tracks = slices.Delete(h.Tracks, at, at+1)
			}
		case enforce.StopJob:
			w.holds = slices.Delete(w.holds, i, i+1)
		case enforce.Scale, enforce.Restore:
			e.DoneMS = now.UnixMilli()
			h.Ending = &e
			h.Lines[0].Count = a.Count
			h.Tracks = h.Tracks[:min(len(h.Tracks), a.Count)]
		case enforce.Cancel:
			h.Ending = nil
		}
	}
}

// fits reports whether a restored count fits into the limits, as the agent decides.
func (w *world) fits(a enforce.Action) bool {
	tried := *w
	tried.holds = slices.Clone(w.holds)
	i := slices.IndexFunc(tried.holds, func(h ledger.Hold) bool { return h.ID == a.HoldID })
	tried.holds[i] = tried.holds[i].Clone()
	tried.holds[i].Lines = slices.Clone(tried.holds[i].Lines)
	tried.holds[i].Lines[0].Count = a.Count
	books := tried.input(noon).Books
	fits := true
	w.policy.Walk(func(b *budget.Budget) {
		fits = fits && len(enforce.Overdrawn(w.policy, b, books, nil, noon)) == 0
	})
	return fits
}

func TestNothingIsDoneWithoutARule(t *testing.T) {
	t.Parallel()
	overdrawn := func(w *world) {
		w.root.Limits = []budget.Limit{gpuLimit(budget.Concurrent, 1), gpuLimit(budget.Month, 1)}
		month := budget.PeriodAt(budget.Month, noon, time.UTC).Key()
		w.posted["acme"] = ledger.VectorOf(map[string]map[budget.Dimension]quantity.Amount{month: {budget.GPUTime(budget.AnyClass): 2 * quantity.GPUHour}})
		w.job("x", "acme/a", 50, 4, noon)
	}
	cases := map[string]func(w *world){
		"work may finish":         func(w *world) { overdrawn(w); w.root.Running = budget.LetFinish },
		"nothing is said":         overdrawn,
		"the limits are advisory": func(w *world) { overdrawn(w); w.root.Running, w.root.Enforcement = budget.StopRunning, budget.Advisory },
		"shadow mode":             func(w *world) { overdrawn(w); w.root.Running, w.policy.Enforcement = budget.StopRunning, budget.Shadow },
		"nothing is overdrawn":    func(w *world) { w.root.Running = budget.StopRunning; w.job("x", "acme/a", 50, 4, noon) },
		"its budget is gone": func(w *world) {
			overdrawn(w)
			w.root.Running = budget.StopRunning
			w.holds[0].Budget = "acme/gone"
			w.root.Limits = nil
		},
		"full is not overdrawn": func(w *world) {
			w.root.Limits = []budget.Limit{gpuLimit(budget.Concurrent, 4)}
			w.root.Running = budget.StopRunning
			w.job("x", "acme/a", 50, 4, noon)
		},
		"it is in the first half":  func(w *world) { w.job("x", "acme/a", 50, 1, noon.Add(-20*time.Minute)) },
		"nobody knows who is idle": func(w *world) { w.root.MaxIdle = time.Minute; w.job("x", "acme/a", 50, 1, noon.Add(-20*time.Minute)) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			change(w)
			must.Eq(t, []string{}, told(w.plan(noon)))
		})
	}
	must.SliceEmpty(t, enforce.Plan(enforce.Input{Now: noon}))
}

// Trap 8: an unknown balance is no reason to stop anything.
func TestTrap8NothingIsStoppedForWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, 1)}, budget.StopRunning
	w.job("x", "acme/a", 50, 4, noon)
	in := w.input(noon)
	in.Books = map[string]ledger.Balance{}
	must.SliceEmpty(t, enforce.Plan(in))
}

// Trap 7: where Nomad does not bound the run time, the agent does: a signal in
// time for a checkpoint, then the end.
func TestTrap7MaxRuntimeIsSignalledThenStopped(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.job("x", "acme/a", 50, 2, noon)
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	must.SliceEmpty(t, w.plan(at(44)))
	begun := w.plan(at(45))
	must.Eq(t, []string{"x begin max_runtime [x-0 x-1]"}, told(begun))
	must.Eq(t, "SIGUSR1", begun[0].Signal)
	w.act(begun, at(45))
	must.SliceEmpty(t, w.plan(at(59)))
	must.Eq(t, []string{"x stop_job max_runtime"}, told(w.plan(at(60))))
}

func TestOnlyWhatIsBeyondItsTimeIsStopped(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Stop = nil // then there is no signal: it would end the run early
	w.job("x", "acme/a", 50, 2, noon, func(h *ledger.Hold) { h.Tracks[1].StartMS += quantity.Millis(30 * time.Minute) })
	now := noon.Add(time.Hour)
	must.SliceEmpty(t, w.plan(now.Add(-time.Second)))
	for _, want := range []string{"x begin max_runtime [x-0]", "x stop_allocations max_runtime [x-0]"} {
		actions := w.plan(now)
		must.Eq(t, []string{want}, told(actions))
		must.Eq(t, "", actions[0].Signal)
		w.act(actions, now)
	}
	must.Eq(t, []string{"x cancel max_runtime"}, told(w.plan(now)))
	// Nomad starts the slot again, which has no time left but what stopping takes.
	w.holds[0] = started(w.holds[0], 2, now)
	w.holds[0].Tracks[1].Name = "x.g[0]"
	w.act(w.plan(now), now)
	must.SliceEmpty(t, w.plan(now.Add(29*time.Second)))
	later := now.Add(31 * time.Second)
	w.act(w.plan(later), later)
	must.Eq(t, []string{"x stop_job max_runtime"}, told(w.plan(later)))
}

func TestVictims(t *testing.T) {
	t.Parallel()
	ago := func(m int) time.Time { return noon.Add(-time.Duration(m) * time.Minute) }
	cases := map[string]struct {
		limit int64
		jobs  func(w *world)
		want  []string
	}{
		"the lowest priority first": {limit: 4, jobs: func(w *world) {
			w.job("high", "acme/a", 90, 3, ago(1))
			w.job("low", "acme/a", 10, 3, ago(20))
		}, want: []string{"low begin over_budget"}},
		"then the newest": {limit: 4, jobs: func(w *world) {
			w.job("new", "acme/a", 50, 3, ago(1))
			w.job("old", "acme/a", 50, 3, ago(20))
		}, want: []string{"new begin over_budget"}},
		"as many as needed": {limit: 2, jobs: func(w *world) {
			for i := range 5 {
				w.job(fmt.Sprint("j", i), "acme/a", 50, 1, ago(i))
			}
		}, want: []string{"j0 begin over_budget", "j1 begin over_budget", "j2 begin over_budget"}},
		"not a small one beside a large one that is enough": {limit: 4, jobs: func(w *world) {
			w.job("small", "acme/a", 10, 1, ago(1))
			w.job("large", "acme/a", 50, 4, ago(2))
			w.job("precious", "acme/a", 90, 3, ago(2))
		}, want: []string{"large begin over_budget"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, c.limit)}, budget.StopRunning
			c.jobs(w)
			must.Eq(t, c.want, told(w.plan(noon)))
		})
	}
}

func TestWhatUsesUpAPeriodIsStoppedAltogether(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.a.Limits, w.a.Running = []budget.Limit{gpuLimit(budget.Day, 1)}, budget.StopRunning
	day := budget.PeriodAt(budget.Day, noon, time.UTC)
	w.posted["acme/a"] = ledger.VectorOf(map[string]map[budget.Dimension]quantity.Amount{day.Key(): {budget.GPUTime(budget.AnyClass): 3 * quantity.GPUHour / 2}})
	w.job("x", "acme/a", 50, 1, noon, service)
	w.job("y", "acme/a", 90, 1, noon, service)
	w.job("other", "acme/b", 10, 1, noon, service)
	begun := w.plan(noon)
	must.Eq(t, []string{"x begin over_budget", "y begin over_budget"}, told(begun))
	must.Eq(t, "budget acme/a is over its limit of 1 GPU-hours by 0.5 GPU-hours", begun[0].Text)
	w.act(begun, noon)
	must.SliceEmpty(t, w.plan(noon.Add(14*time.Minute)))
	must.Eq(t, []string{"x stop_job over_budget", "y stop_job over_budget"}, told(w.plan(noon.Add(15*time.Minute))))

	// The window is renewed before the grace is over.
	must.Eq(t, []string{"x cancel over_budget", "y cancel over_budget"}, told(w.plan(day.End)))
}

func TestAnEndingGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, 1)}, budget.StopRunning
	w.job("x", "acme/a", 50, 2, noon)
	e := w.plan(noon)[0].Ending
	w.holds[0].Ending = &e // stored, and then the leader died before the signal
	again := w.plan(noon.Add(time.Second))
	must.Eq(t, []string{"x signal over_budget [x-0 x-1]"}, told(again))
	w.act(again, noon.Add(time.Second))
	must.SliceEmpty(t, w.plan(noon.Add(2*time.Second)))
	must.SliceEmpty(t, w.plan(noon.Add(15*time.Minute)), must.Sprint("the grace counts from the signal"))
	must.Eq(t, []string{"x stop_job over_budget"}, told(w.plan(noon.Add(15*time.Minute+time.Second))))
	w.holds[0].Ending.DoneMS = noon.Add(15 * time.Minute).UnixMilli() // ordered, but it runs on
	must.SliceEmpty(t, w.plan(noon.Add(15*time.Minute+59*time.Second)))
	must.Eq(t, []string{"x stop_job over_budget"}, told(w.plan(noon.Add(16*time.Minute))))

	w.root.Limits[0].Ceiling = quantity.LimitOf(quantity.GPU.Mul(9))
	w.holds[0].Ending.DoneMS = 0
	must.Eq(t, []string{"x cancel over_budget"}, told(w.plan(noon.Add(16*time.Minute))))
}

func TestThrottleGoesDownInStepsAndNeverBelowItsMinimum(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Running = budget.ThrottleRunning
	w.root.Throttle = &budget.Throttle{MinCount: 2, Step: quantity.RatioOne / 4, Every: 10 * time.Minute}
	w.root.Limits = []budget.Limit{gpuLimit(budget.Day, 1)}
	day := budget.PeriodAt(budget.Day, noon, time.UTC)
	w.posted["acme"] = ledger.VectorOf(map[string]map[budget.Dimension]quantity.Amount{day.Key(): {budget.GPUTime(budget.AnyClass): 2 * quantity.GPUHour}})
	w.job("web", "acme/a", 50, 8, noon, service)
	w.job("train", "acme/a", 50, 2, noon)
	var counts []int
	for m := range 60 {
		now := noon.Add(time.Duration(m) * time.Minute)
		actions := slices.DeleteFunc(w.plan(now), func(a enforce.Action) bool { return a.JobID == "train" })
		for _, a := range actions {
			must.Eq(t, 0, m%10)
			counts = append(counts, a.Count)
		}
		w.act(actions, now)
	}
	must.Eq(t, []int{6, 4, 3, 2}, counts)
	must.Eq(t, map[string]ledger.Throttled{"g": {Was: 8, Is: 2}}, w.holds[0].Ending.Throttled)

	// In a new period it goes back up in the same steps.
	w.holds = w.holds[:1]
	counts = nil
	for m := range 60 {
		now := day.End.Add(time.Duration(m) * time.Minute)
		actions := w.plan(now)
		for _, a := range actions {
			if a.Step == enforce.Restore {
				must.Eq(t, 0, m%10)
				counts = append(counts, a.Count)
			}
		}
		w.act(actions, now)
	}
	must.Eq(t, []int{4, 6, 8}, counts)
	must.Nil(t, w.holds[0].Ending)
}

// What somebody else did to a job in between is not undone.
func TestWhoChangesAThrottledJobHasTheLastWord(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.job("web", "acme/a", 50, 5, noon, service)
	w.holds[0].Ending = &ledger.Ending{Action: enforce.ActionThrottle, Cause: "over_budget", Budget: "acme", DoneMS: noon.UnixMilli(),
		Throttled: map[string]ledger.Throttled{"g": {Was: 8, Is: 4}}}
	must.Eq(t, []string{"web cancel over_budget"}, told(w.plan(noon.Add(time.Hour))))
	w.holds[0].Lines[0].Count = 4
	must.Eq(t, []string{"web restore over_budget g=6"}, told(w.plan(noon.Add(time.Hour))))
	w.holds[0].Pending = []ledger.Line{}
	must.SliceEmpty(t, w.plan(noon.Add(time.Hour)), must.Sprint("a change is on its way"))
}

// A job that is submitted again after it was told to stop begins anew.
func TestAStopIsNotForALaterLifeOfTheJob(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, 4)}, budget.StopRunning
	w.job("x", "acme/a", 50, 2, noon)
	ordered := noon.Add(-10 * time.Minute)
	w.holds[0].Ending = &ledger.Ending{Action: enforce.ActionStop, Cause: "over_budget", DoneMS: ordered.UnixMilli(), JobIndex: 7}
	must.Eq(t, []string{"x stop_job over_budget"}, told(w.plan(noon)), must.Sprint("the same job runs on"))
	w.holds[0].Pending = []ledger.Line{}
	must.SliceEmpty(t, w.plan(noon), must.Sprint("it may be the later one by now"))
	w.holds[0].Pending, w.holds[0].JobModifyIndex = nil, 9
	must.Eq(t, []string{"x cancel over_budget"}, told(w.plan(noon)))
	w.root.Limits[0] = gpuLimit(budget.Concurrent, 1)
	again := w.plan(noon)
	must.Eq(t, []string{"x begin over_budget"}, told(again))
	must.Eq(t, noon.Add(15*time.Minute).UnixMilli(), again[0].Ending.StopMS)
}

// A signal that cannot be sent delays the end by one grace, not for ever; one
// that is sent late leaves the whole grace.
func TestAnEndingWhoseSignalIsLate(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, 1)}, budget.StopRunning
	w.job("x", "acme/a", 50, 2, noon)
	e := w.plan(noon)[0].Ending
	w.holds[0].Ending = &e
	must.Eq(t, []string{"x signal over_budget [x-0 x-1]"}, told(w.plan(noon.Add(29*time.Minute))))
	must.Eq(t, []string{"x stop_job over_budget"}, told(w.plan(noon.Add(30*time.Minute))))
	w.act(w.plan(noon.Add(29*time.Minute)), noon.Add(29*time.Minute))
	must.SliceEmpty(t, w.plan(noon.Add(43*time.Minute)))
	must.Eq(t, []string{"x stop_job over_budget"}, told(w.plan(noon.Add(44*time.Minute))))
}

// Trap 7: nobody led when the time was up. The job still gets its checkpoint.
func TestTrap7MaxRuntimeWithoutALeaderAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.job("x", "acme/a", 50, 1, noon)
	late := noon.Add(2 * time.Hour)
	begun := w.plan(late)
	must.Eq(t, []string{"x begin max_runtime [x-0]"}, told(begun))
	w.act(begun, late)
	w.holds[0].Ending.StopMS = begun[0].Ending.StopMS
	must.Eq(t, []string{"x stop_job max_runtime"}, told(w.plan(late.Add(time.Second))), must.Sprint("its time with the grace is long over"))

	// Within the grace after the end what is left of it counts from the signal.
	w = newWorld()
	w.job("x", "acme/a", 50, 1, noon)
	late = noon.Add(50 * time.Minute)
	w.act(w.plan(late), late)
	must.SliceEmpty(t, w.plan(noon.Add(64*time.Minute)))
	must.Eq(t, []string{"x stop_job max_runtime"}, told(w.plan(noon.Add(65*time.Minute))))
}

func TestRunsThatAreOver(t *testing.T) {
	t.Parallel()
	d := budget.GPUTime(budget.AnyClass)
	cases := map[string]struct {
		run  ledger.Run
		want []string
	}{
		"open":        {ledger.Run{UntilMS: noon.Add(time.Hour).UnixMilli()}, []string{}},
		"its time up": {ledger.Run{UntilMS: noon.UnixMilli()}, []string{"x begin run_expired"}},
		"closed":      {ledger.Run{UntilMS: noon.Add(time.Hour).UnixMilli(), ClosedMS: noon.UnixMilli()}, []string{"x begin run_expired"}},
		"exhausted": {ledger.Run{UntilMS: noon.Add(time.Hour).UnixMilli(), Caps: ledger.Amounts{d: 10}, Posted: ledger.Amounts{d: 11}},
			[]string{"x begin run_exhausted"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			c.run.ID = "r1"
			w.runs["r1"] = c.run
			w.job("x", "acme/a", 50, 1, noon, func(h *ledger.Hold) { h.Run = "r1" })
			w.job("y", "acme/a", 50, 1, noon, func(h *ledger.Hold) { h.Run = "unknown" })
			must.Eq(t, c.want, told(w.plan(noon)))
		})
	}
}

func TestIdleWorkIsStoppedWhenAllOfItIsIdle(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.root.MaxIdle = 30 * time.Minute
	w.job("x", "acme/a", 50, 2, noon)
	w.idle["x-0"] = 30 * time.Minute
	now := noon.Add(30 * time.Minute)
	must.SliceEmpty(t, w.plan(now))
	w.idle["x-1"] = 30*time.Minute - 1
	must.SliceEmpty(t, w.plan(now))
	w.idle["x-1"] = 30 * time.Minute
	must.Eq(t, []string{"x begin max_idle"}, told(w.plan(now)))
}

// Random worlds: acting on the plan again and again brings every budget that
// says stop under its limit of GPUs, ends no more than needed, never touches who
// is within, and comes to rest.
func TestEnforcementConvergesAndIsMinimal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		rules := []budget.RunningRule{budget.LetFinish, budget.StopRunning, budget.ThrottleRunning}
		for _, b := range []*budget.Budget{w.root, w.a, w.b} {
			b.Limits = []budget.Limit{gpuLimit(budget.Concurrent, rapid.Int64Range(0, 12).Draw(t, "limit"))}
			b.Running = rapid.SampledFrom(rules).Draw(t, "rule")
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "jobs") {
			kind := func(*ledger.Hold) {}
			if rapid.Bool().Draw(t, "service") {
				kind = service
			}
			w.job(fmt.Sprint("j", i), rapid.SampledFrom([]string{"acme/a", "acme/b"}).Draw(t, "budget"), rapid.IntRange(0, 3).Draw(t, "priority"),
				rapid.IntRange(1, 5).Draw(t, "count"), noon.Add(time.Duration(i)*time.Second), kind)
		}
		shuffled := w.input(noon)
		shuffled.Holds = rapid.Permutation(shuffled.Holds).Draw(t, "order")
		must.Eq(t, told(w.plan(noon)), told(enforce.Plan(shuffled)))

		over := func(b *budget.Budget) bool {
			return len(enforce.Overdrawn(w.policy, b, w.input(noon).Books, nil, noon)) > 0
		}
		legal := map[string]bool{"acme": over(w.root), "acme/a": over(w.a), "acme/b": over(w.b)}
		now, rests := noon, 0
		for range 200 {
			actions := slices.DeleteFunc(w.plan(now), func(a enforce.Action) bool { return a.Step == enforce.Restore && !w.fits(a) })
			for _, a := range actions {
				must.True(t, legal[a.Ending.Budget], must.Sprintf("%s for %s, which was within its limit, at %s: %+v", a.Step, a.Ending.Budget, now.Sub(noon), a.Ending))
				must.True(t, a.Step != enforce.Scale || a.Count >= 1)
			}
			if rests++; len(actions) > 0 {
				rests = 0
			}
			w.act(actions, now)
			now = now.Add(5 * time.Second)
			if len(actions) == 0 {
				now = now.Add(5 * time.Minute)
			}
			if now.Sub(noon) > 39*time.Minute || rests > 4 { // the run times end later
				break
			}
		}
		for _, b := range []*budget.Budget{w.root, w.a, w.b} {
			if b.Running == budget.StopRunning {
				must.False(t, over(b), must.Sprint(b.Path))
			}
		}
	})
}

// BenchmarkPlan is one look at ten thousand running jobs of which none is to be
// ended.
func BenchmarkPlan(b *testing.B) {
	w := newWorld()
	w.root.Limits, w.root.Running = []budget.Limit{gpuLimit(budget.Concurrent, 20_000)}, budget.StopRunning
	for i := range 10_000 {
		w.job(fmt.Sprintf("j%05d", i), "acme/a", 50, 1, noon)
	}
	in := w.input(noon.Add(time.Minute))
	b.ResetTimer()
	for b.Loop() {
		if len(enforce.Plan(in)) != 0 {
			b.Fatal("something is to be ended")
		}
	}
}
