package admission_test

import (
	"fmt"
	"slices"
	"time"
	_ "time/tzdata"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// world is a policy, its books and the open holds, folded as a store does it:
// the old charge of a hold out, the new one in, on every ancestor.
type world struct {
	policy *budget.Policy
	books  admission.Books
	// direct is what was posted under each budget itself, not its descendants.
	direct map[string]ledger.Vector
	holds  map[string]*ledger.Hold
	now    time.Time
	index  uint64
}

func newWorld(p *budget.Policy, now time.Time) *world {
	return &world{policy: p, books: admission.Books{}, direct: map[string]ledger.Vector{}, holds: map[string]*ledger.Hold{}, now: now, index: 100}
}

func (w *world) calendar() ledger.Calendar {
	return ledger.Calendar{Location: w.policy.Location, Windows: w.policy.Windows()}
}

func (w *world) book(path string) ledger.Balance {
	if _, ok := w.books[path]; !ok {
		w.books[path] = ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
	}
	return w.books[path]
}

// put replaces the hold of a job (nil ends it) and posts.
func (w *world) put(job string, next *ledger.Hold, posted ledger.Vector) {
	path := ""
	if old := w.holds[job]; old != nil {
		path = old.Budget
		for _, a := range ledger.Ancestors(old.Budget) {
			w.book(a).Held.AddAll(old.Charged, -1)
		}
	}
	delete(w.holds, job)
	if next != nil {
		path = next.Budget
		next.Charged = ledger.Charges(*next, w.calendar())
		for _, a := range ledger.Ancestors(next.Budget) {
			w.book(a).Held.AddAll(next.Charged, 1)
		}
		w.holds[job] = next
	}
	for _, a := range ledger.Ancestors(path) {
		w.book(a).Posted.AddAll(posted, 1)
	}
	if _, known := w.direct[path]; !known {
		w.direct[path] = ledger.NewVector()
	}
	w.direct[path].AddAll(posted, 1)
}

// submit decides about lines and holds them if they fit.
func (w *world) submit(job, path string, lines []ledger.Line) admission.Decision {
	next := ledger.Hold{ID: job, Namespace: "default", JobID: job, Budget: path, State: ledger.Held}
	if have := w.holds[job]; have != nil {
		next = *have
	}
	next = ledger.Submit(next, lines, w.now.Add(time.Minute).UnixMilli())
	d := admission.Decide(w.policy, w.policy.Find(path), w.state(), next, lines, w.now)
	if d.Outcome != admission.Deny {
		w.put(job, &next, ledger.Vector{})
	}
	return d
}

func (w *world) confirm(job string) {
	w.index++
	next := ledger.Confirm(*w.holds[job], w.index)
	w.put(job, &next, ledger.Vector{})
}

// post posts all running work of one job.
func (w *world) post(job string) {
	next, posted, _ := metering.Post(w.policy, *w.holds[job], w.now)
	w.put(job, &next, posted)
}

// observe takes in a fact and posts.
func (w *world) observe(job string, o ledger.Observation) {
	seen, _ := ledger.Observe(*w.holds[job], o, w.now.UnixMilli())
	next, posted, _ := metering.Post(w.policy, seen, w.now)
	w.put(job, &next, posted)
}

// excess finds a period of a limited window in which posted plus held (or, with
// postedOnly, posted alone) is over the limit by more than tolerance.
func (w *world) excess(postedOnly bool, tolerance quantity.Amount) string {
	found := ""
	w.policy.Walk(func(b *budget.Budget) {
		book := w.book(b.Path)
		for _, l := range b.Limits {
			limit, _ := l.Ceiling.Finite()
			for _, key := range periodKeys(book, l.Window) {
				total := book.Posted.At(key, l.Dimension)
				if !postedOnly {
					if l.Window != budget.Concurrent && key < budget.PeriodAt(l.Window, w.now, w.policy.Location).Key() {
						continue // nothing can be added to a period that is over
					}
					total = total.Add(book.Held.At(key, l.Dimension))
					if l.Window != budget.Concurrent {
						total = total.Add(book.Held.At(ledger.AnyPeriod(l.Window), l.Dimension))
					}
				}
				allowed := limit
				if l.Dimension == budget.Cost {
					allowed = allowed.Add(tolerance)
				}
				if total > allowed {
					found = fmt.Sprintf("%s %s %s: %d of %d", b.Path, key, l.Dimension, total, limit)
				}
			}
		}
	})
	return found
}

// periodKeys are all keys of a window that anything is charged to, and one that
// nothing is.
func periodKeys(book ledger.Balance, w budget.Window) []string {
	if w == budget.Concurrent {
		return []string{ledger.ConcurrentKey}
	}
	keys := []string{w.String() + "/nothing-yet"}
	for _, v := range []ledger.Vector{book.Posted, book.Held} {
		for _, key := range v.Periods() {
			if key == w.String() || len(key) > len(w.String()) && key[:len(w.String())+1] == w.String()+"/" && key != ledger.AnyPeriod(w) {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// checkFold compares every balance with the sum over holds and own postings
// below it (I2 and I3).
func (w *world) checkFold(t must.T) {
	held, posted := map[string]ledger.Vector{}, map[string]ledger.Vector{}
	sum := func(into map[string]ledger.Vector, path string, v ledger.Vector) {
		for _, a := range ledger.Ancestors(path) {
			if _, known := into[a]; !known {
				into[a] = ledger.NewVector()
			}
			into[a].AddAll(v, 1)
		}
	}
	for _, h := range w.holds {
		sum(held, h.Budget, ledger.Charges(*h, w.calendar()))
	}
	for path, v := range w.direct {
		sum(posted, path, v)
	}
	for path, book := range w.books {
		must.True(t, book.Held.Equal(held[path]), must.Sprintf("held of %s: %v, open holds charge %v", path, book.Held, held[path]))
		must.True(t, book.Posted.Equal(posted[path]), must.Sprintf("posted of %s", path))
	}
}

func mustZone(t must.T, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	must.NoError(t, err)
	return loc
}

// instants next to which windows misbehave.
var edges = []string{
	"2026-03-28T20:00:00+01:00", // the night of 23 hours in Berlin
	"2026-10-24T20:00:00+02:00", // the one of 25
	"2026-12-31T18:00:00+01:00", // hour, day, month, quarter and year end together
	"2026-11-11T11:11:11+01:00",
}

// anyPolicy is a tree of two leaves under a root with limits in some windows.
func anyPolicy(t *rapid.T) *budget.Policy {
	p := &budget.Policy{Location: mustZone(t, "Europe/Berlin"), Currency: "USD", Classes: []budget.Class{
		{Name: "a", Devices: []string{"nvidia/gpu/A"}}, {Name: "b", Devices: []string{"nvidia/gpu/B"}},
	}}
	p.RateCards = []budget.RateCard{{Name: "now", EffectiveFrom: time.Unix(0, 0), PerGPUHour: map[string]quantity.Amount{
		"a": quantity.Amount(rapid.Int64Range(0, 5_000_000).Draw(t, "price of a")), "b": 2_900_001,
	}}}
	root := &budget.Budget{Name: "org", Path: "org"}
	for _, name := range []string{"x", "y"} {
		root.Children = append(root.Children, &budget.Budget{Name: name, Path: "org/" + name, Parent: root, Limits: anyLimits(t, name)})
	}
	for len(root.Limits) == 0 {
		root.Limits = anyLimits(t, "org")
	}
	p.Roots = []*budget.Budget{root}
	return p
}

func anyLimits(t *rapid.T, name string) []budget.Limit {
	var limits []budget.Limit
	for range rapid.IntRange(0, 3).Draw(t, name+" limits") {
		w := rapid.SampledFrom([]budget.Window{budget.Concurrent, budget.Hour, budget.Day, budget.Week, budget.Month, budget.Total}).Draw(t, "window")
		l := budget.Limit{Window: w, Source: budget.Source{File: "p.hcl", Line: 1 + len(limits)}}
		if w == budget.Concurrent {
			l.Dimension = rapid.SampledFrom([]budget.Dimension{budget.GPUs("any"), budget.GPUs("a")}).Draw(t, "gauge")
			l.Ceiling = quantity.LimitOf(quantity.GPU.Mul(rapid.Int64Range(0, 8).Draw(t, "gpus")))
		} else {
			l.Dimension = rapid.SampledFrom([]budget.Dimension{budget.GPUTime("any"), budget.GPUTime("a"), budget.GPUTime("b"), budget.Cost}).Draw(t, "dimension")
			hours := rapid.Int64Range(0, map[bool]int64{true: 4, false: 24}[w == budget.Hour]).Draw(t, "hours")
			l.Ceiling = quantity.LimitOf(quantity.GPUHour.Mul(hours))
			if l.Dimension == budget.Cost {
				l.Ceiling = quantity.LimitOf(quantity.CurrencyUnit.Mul(hours * 2))
			}
		}
		if !slices.ContainsFunc(limits, func(o budget.Limit) bool { return o.Window == l.Window && o.Dimension == l.Dimension }) {
			limits = append(limits, l)
		}
	}
	return limits
}

func anyLines(t *rapid.T, p *budget.Policy) []ledger.Line {
	var lines []ledger.Line
	for _, group := range []string{"g", "h"}[:rapid.IntRange(1, 2).Draw(t, "groups")] {
		starts := rapid.IntRange(1, 2).Draw(t, "starts")
		once := rapid.Int64Range(1, 20*3_600_000).Draw(t, "once")
		if rapid.Bool().Draw(t, "whole hours") { // these fill limits to the brim
			once = rapid.Int64Range(1, 6).Draw(t, "hours") * 3_600_000
		}
		classes := rapid.SampledFrom([][]string{{"a"}, {"b"}, {"a", "b"}}).Draw(t, "classes")
		need := ledger.Need{Classes: classes, GPUs: rapid.Int64Range(1, 3).Draw(t, "gpus")}
		for _, c := range classes {
			need.PerGPUHour = max(need.PerGPUHour, p.RateCards[0].PerGPUHour[c])
		}
		lines = append(lines, ledger.Line{Group: group, Count: rapid.IntRange(0, 3).Draw(t, "count"), Starts: starts,
			OnceMS: once, RuntimeMS: once * int64(starts), Needs: []ledger.Need{need}})
	}
	return lines
}

func (w *world) state() admission.State { return admission.State{Balances: w.books} }
