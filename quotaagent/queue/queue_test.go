package queue_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/queue"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

const capacity = 8

// policy has a budget with two children; rules change them.
func policy(rules ...func(root, a, b *budget.Budget)) *budget.Policy {
	root := &budget.Budget{Name: "acme", Path: "acme"}
	a := &budget.Budget{Name: "a", Path: "acme/a", Parent: root}
	b := &budget.Budget{Name: "b", Path: "acme/b", Parent: root}
	root.Children = []*budget.Budget{a, b}
	root.Limits = []budget.Limit{{Window: budget.Concurrent, Dimension: budget.GPUs(budget.AnyClass), Ceiling: quantity.LimitOf(quantity.GPU.Mul(capacity))}}
	for _, rule := range rules {
		rule(root, a, b)
	}
	return &budget.Policy{Location: time.UTC, Roots: []*budget.Budget{root}}
}

// fits is the arithmetic of one limit: GPUs at once in acme.
func fits(q ledger.Queued, books queue.Books, _ time.Time) bool {
	need := quantity.Amount(0)
	for _, line := range q.Lines {
		for _, n := range line.Needs {
			need = need.Add(quantity.GPU.Mul(n.GPUs).Mul(int64(line.Count)))
		}
	}
	return books["acme"].Held.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass)).Add(need) <= quantity.GPU.Mul(capacity)
}

func waiting(id, path string, gpus int64, length time.Duration, since time.Time) ledger.Queued {
	line := ledger.Line{Group: "g", Count: 1, RuntimeMS: quantity.Millis(length), OnceMS: quantity.Millis(length), Starts: 1,
		Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: gpus}}}
	if length == 0 {
		line = ledger.Line{Group: "g", Count: 1, RuntimeMS: quantity.Millis(time.Hour), Lease: true, Needs: line.Needs}
	}
	return ledger.Queued{Namespace: "default", JobID: id, Budget: path, SinceMS: since.UnixMilli(), Lines: []ledger.Line{line}}
}

// running is a hold of a job that began at a time.
func running(q ledger.Queued, began time.Time) ledger.Hold {
	h := ledger.Confirm(queue.Hold(q), 7)
	h, _ = ledger.Observe(h, ledger.Observation{Alloc: q.JobID + "-0", Name: q.JobID + ".g[0]", Group: "g", CreateIndex: 8, StartMS: began.UnixMilli(),
		GPUs: []ledger.TrackGPUs{{Class: "v100", IDs: ids(q.Lines[0].Needs[0].GPUs)}}}, began.UnixMilli())
	h.Charged = ledger.Charges(h, ledger.Calendar{Location: time.UTC})
	return h
}

func ids(n int64) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("GPU-%d", i))
	}
	return out
}

func books(holds []ledger.Hold) queue.Books {
	out := queue.Books{}
	for _, h := range holds {
		for _, path := range ledger.Ancestors(h.Budget) {
			b, ok := out[path]
			if !ok {
				b = ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
			}
			b.Held.AddAll(h.Charged, 1)
			out[path] = b
		}
	}
	return out
}

func plan(p *budget.Policy, holds []ledger.Hold, now time.Time, jobs ...ledger.Queued) []queue.Place {
	return queue.Plan(queue.Input{Policy: p, Waiting: jobs, Holds: holds, Books: books(holds), Now: now, Fits: fits})
}

// told writes places as "job position expected", the ones that start marked.
func told(places []queue.Place) []string {
	var out []string
	for _, p := range places {
		when := "?"
		if p.ExpectedMS != 0 {
			when = time.UnixMilli(p.ExpectedMS).UTC().Format("15:04")
		}
		if p.Start {
			when = "now"
		}
		out = append(out, fmt.Sprintf("%s %d/%d %s", p.Queued.JobID, p.Position, p.Overall, when))
	}
	return out
}

func TestWhoStartsAndWhen(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	six := []ledger.Hold{running(waiting("busy", "acme/a", 6, 2*time.Hour, noon), noon.Add(-time.Hour))}
	cases := map[string]struct {
		holds []ledger.Hold
		jobs  []ledger.Queued
		want  []string
	}{
		"what fits starts": {jobs: []ledger.Queued{waiting("x", "acme/a", 8, time.Hour, ago(time.Minute))}, want: []string{"x 1/1 now"}},
		"the head waits for the end of what runs": {holds: six, jobs: []ledger.Queued{waiting("x", "acme/a", 8, time.Hour, ago(time.Minute))},
			want: []string{"x 1/1 13:00"}},
		"a small job that ends before the head begins is backfilled": {holds: six, jobs: []ledger.Queued{
			waiting("big", "acme/a", 8, time.Hour, ago(time.Minute)), waiting("small", "acme/b", 2, time.Hour, noon)},
			want: []string{"big 1/1 13:00", "small 1/2 now"}},
		"a small job that would delay the head waits": {holds: six, jobs: []ledger.Queued{
			waiting("big", "acme/a", 8, time.Hour, ago(time.Minute)), waiting("long", "acme/b", 1, 90*time.Minute, noon)},
			want: []string{"big 1/1 13:00", "long 1/2 14:00"}},
		"a long job that leaves the head its room is backfilled": {holds: six, jobs: []ledger.Queued{
			waiting("big", "acme/a", 6, time.Hour, ago(time.Minute)), waiting("long", "acme/b", 2, 90*time.Minute, noon)},
			want: []string{"big 1/1 13:00", "long 1/2 now"}},
		"no end is known for what waits for a service": {holds: []ledger.Hold{running(waiting("service", "acme/a", 6, 0, noon), noon)},
			jobs: []ledger.Queued{waiting("big", "acme/a", 8, time.Hour, ago(time.Minute)), waiting("small", "acme/a", 2, time.Hour, noon)},
			want: []string{"big 1/1 ?", "small 2/2 now"}},
		"once it has aged nobody takes what it needs": {holds: []ledger.Hold{running(waiting("service", "acme/a", 6, 0, noon), noon)},
			jobs: []ledger.Queued{waiting("big", "acme/a", 8, time.Hour, ago(13*time.Hour)), waiting("small", "acme/a", 2, time.Hour, noon)},
			want: []string{"big 1/1 ?", "small 2/2 ?"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, told(plan(policy(), c.holds, noon, c.jobs...)))
		})
	}
}

func TestTheOrderOfTheQueue(t *testing.T) {
	t.Parallel()
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	order := func(o budget.QueueOrder) func(root, a, b *budget.Budget) {
		return func(root, _, _ *budget.Budget) { root.Queue = &budget.Queue{Order: o} }
	}
	low, high := 10, 90
	jobs := []ledger.Queued{waiting("a1", "acme/a", 1, time.Hour, at(1)), waiting("a2", "acme/a", 1, time.Hour, at(2)),
		waiting("b1", "acme/b", 1, time.Hour, at(3)), waiting("b2", "acme/b", 1, time.Hour, at(4))}
	urgent := slices.Clone(jobs)
	urgent[1].Priority = 80
	cases := map[string]struct {
		rules []func(root, a, b *budget.Budget)
		jobs  []ledger.Queued
		use   queue.Use
		now   time.Time
		want  []string
	}{
		"first in, first out": {jobs: urgent, want: []string{"a1", "a2", "b1", "b2"}},
		"by priority of the budget": {jobs: jobs, rules: []func(root, a, b *budget.Budget){order(budget.ByPriority),
			func(_, a, b *budget.Budget) { a.Priority, b.Priority = &low, &high }}, want: []string{"b1", "b2", "a1", "a2"}},
		"by priority of the job": {jobs: urgent, rules: []func(root, a, b *budget.Budget){order(budget.ByPriority)}, want: []string{"a2", "a1", "b1", "b2"}},
		"by fair share": {jobs: jobs, rules: []func(root, a, b *budget.Budget){order(budget.ByFairShare)},
			use: queue.Use{"acme": 90, "acme/a": 80, "acme/b": 10}, want: []string{"b1", "a1", "b2", "a2"}},
		"by fair share with weights": {jobs: jobs, rules: []func(root, a, b *budget.Budget){order(budget.ByFairShare),
			func(_, a, _ *budget.Budget) { a.FairShare = &budget.FairShare{Weight: 10} }},
			use: queue.Use{"acme": 90, "acme/a": 80, "acme/b": 10}, want: []string{"a1", "b1", "a2", "b2"}},
		"what has aged comes first": {jobs: jobs, rules: []func(root, a, b *budget.Budget){order(budget.ByPriority),
			func(_, a, b *budget.Budget) { a.Priority, b.Priority = &low, &high }}, now: at(12*60 + 2), want: []string{"a1", "a2", "b1", "b2"}},
		"a shorter timeout ages sooner": {jobs: jobs, rules: []func(root, a, b *budget.Budget){order(budget.ByPriority),
			func(_, a, b *budget.Budget) {
				a.Priority, b.Priority = &low, &high
				a.Queue = &budget.Queue{Order: budget.ByPriority, Timeout: time.Hour}
			}}, now: at(16), want: []string{"a1", "b1", "b2", "a2"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := c.now
			if now.IsZero() {
				now = at(5)
			}
			for range 5 {
				var got []string
				for _, q := range queue.Order(policy(c.rules...), c.jobs, c.use, now) {
					got = append(got, q.JobID)
				}
				must.Eq(t, c.want, got)
				c.jobs = slices.Clone(c.jobs)
				slices.Reverse(c.jobs)
			}
		})
	}
}

func TestWaitingLongerThanTheQueueAllowsExpires(t *testing.T) {
	t.Parallel()
	q := waiting("x", "acme/a", 1, time.Hour, noon)
	q.UntilMS = noon.Add(time.Hour).UnixMilli()
	must.False(t, plan(policy(), nil, noon.Add(time.Hour-time.Millisecond), q)[0].Expired)
	late := plan(policy(), nil, noon.Add(time.Hour), q)[0]
	must.True(t, late.Expired)
	must.False(t, late.Start)
}

func TestANewWindowMakesRoom(t *testing.T) {
	t.Parallel()
	p := policy(func(root, _, _ *budget.Budget) {
		root.Limits = append(root.Limits, budget.Limit{Window: budget.Day, Dimension: budget.GPUTime(budget.AnyClass), Ceiling: quantity.LimitOf(quantity.GPUHour)})
	})
	day := budget.PeriodAt(budget.Day, noon, time.UTC)
	spent := queue.Books{"acme": {Held: ledger.NewVector(), Posted: ledger.VectorOf(map[string]map[budget.Dimension]quantity.Amount{day.Key(): {budget.GPUTime(budget.AnyClass): quantity.GPUHour}})}}
	places := queue.Plan(queue.Input{Policy: p, Waiting: []ledger.Queued{waiting("x", "acme/a", 1, time.Hour, noon)}, Books: spent, Now: noon,
		Fits: func(_ ledger.Queued, b queue.Books, at time.Time) bool {
			return b["acme"].Posted.At(budget.PeriodAt(budget.Day, at, time.UTC).Key(), budget.GPUTime(budget.AnyClass)) == 0
		}})
	must.Eq(t, day.End.UnixMilli(), places[0].ExpectedMS)
}

func TestUseIsForgottenByHalves(t *testing.T) {
	t.Parallel()
	must.Eq(t, quantity.Amount(500), ledger.Decay(1000, time.Hour, time.Hour))
	must.Eq(t, quantity.Amount(250), ledger.Decay(1000, 2*time.Hour, time.Hour))
	must.Eq(t, quantity.Amount(707), ledger.Decay(1000, 30*time.Minute, time.Hour))
	must.Eq(t, quantity.Amount(0), ledger.Decay(1<<62, 100*time.Hour, time.Hour))
	must.Eq(t, quantity.Amount(1000), ledger.Decay(1000, 0, time.Hour))
	rapid.Check(t, func(t *rapid.T) {
		a := quantity.Amount(rapid.Int64Range(1_000_000, 1<<50).Draw(t, "a"))
		x := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "x"))
		y := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "y"))
		once, twice := ledger.Decay(a, x+y, 24*time.Hour), ledger.Decay(ledger.Decay(a, x, 24*time.Hour), y, 24*time.Hour)
		must.LessEq(t, once/10_000+40, max(once, twice)-min(once, twice))
	})
}

// drawn is a random queue and what runs beside it, within the capacity.
func drawn(t *rapid.T) (holds []ledger.Hold, jobs []ledger.Queued) {
	free := int64(capacity)
	for i := range rapid.IntRange(0, 4).Draw(t, "running") {
		gpus := rapid.Int64Range(0, free).Draw(t, "gpus")
		if gpus == 0 {
			continue
		}
		free -= gpus
		length := time.Duration(rapid.IntRange(1, 300).Draw(t, "minutes")) * time.Minute
		began := noon.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "ago")) * time.Minute)
		holds = append(holds, running(waiting(fmt.Sprintf("r%d", i), "acme/a", gpus, length, noon), began))
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "waiting") {
		jobs = append(jobs, waiting(fmt.Sprintf("w%d", i), rapid.SampledFrom([]string{"acme/a", "acme/b", "acme"}).Draw(t, "budget"),
			rapid.Int64Range(1, capacity).Draw(t, "gpus"), time.Duration(rapid.IntRange(1, 300).Draw(t, "minutes"))*time.Minute,
			noon.Add(-time.Duration(rapid.IntRange(0, 1000).Draw(t, "waits"))*time.Minute)))
	}
	return holds, jobs
}

func TestTheOrderOfTheInputDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		holds, jobs := drawn(t)
		want := told(plan(policy(), holds, noon, jobs...))
		shuffledHolds, shuffledJobs := rapid.Permutation(holds).Draw(t, "holds"), rapid.Permutation(jobs).Draw(t, "jobs")
		must.Eq(t, want, told(plan(policy(), shuffledHolds, noon, shuffledJobs...)))
	})
}

// Trap 11: strict order blocks small jobs, best effort starves large ones. What
// may start now is started: then nobody who still waits is expected later than
// before, and the capacity is kept.
func TestTrap11BackfillDelaysNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		holds, jobs := drawn(t)
		before := plan(policy(), holds, noon, jobs...)
		expected := make(map[string]int64)
		var left []ledger.Queued
		for _, p := range before {
			if p.Start {
				holds = append(holds, running(p.Queued, noon))
				continue
			}
			expected[p.Queued.JobID] = p.ExpectedMS
			left = append(left, p.Queued)
		}
		must.LessEq(t, quantity.GPU.Mul(capacity), books(holds)["acme"].Held.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass)))
		for _, p := range plan(policy(), holds, noon, left...) {
			must.False(t, p.Start, must.Sprintf("%s may start only after the others did", p.Queued.JobID))
			must.LessEq(t, expected[p.Queued.JobID], p.ExpectedMS, must.Sprint(p.Queued.JobID))
		}
	})
}

// Trap 11: however many small jobs keep coming, a large one has its turn: at the
// latest when it has aged and all that ran then has ended.
func TestTrap11NobodyStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		low, high := 10, 90
		p := policy(func(root, a, b *budget.Budget) {
			root.Queue = &budget.Queue{Order: budget.ByPriority}
			a.Priority, b.Priority = &low, &high
		})
		const longest = 2 * time.Hour
		big := waiting("big", "acme/a", capacity, time.Hour, noon)
		jobs, holds, n := []ledger.Queued{big}, []ledger.Hold{}, 0
		for now := noon; ; now = now.Add(30 * time.Minute) {
			must.LessEq(t, queue.AgedAfter(budget.Queue{})+longest+time.Hour, now.Sub(noon), must.Sprint("big starves"))
			holds = slices.DeleteFunc(holds, func(h ledger.Hold) bool { return h.HeldUntil(h.Tracks[0]) <= now.UnixMilli() })
			for range rapid.IntRange(1, 3).Draw(t, "arrivals") {
				n++
				jobs = append(jobs, waiting(fmt.Sprintf("s%d", n), "acme/b", rapid.Int64Range(1, 4).Draw(t, "gpus"),
					time.Duration(rapid.IntRange(10, 120).Draw(t, "minutes"))*time.Minute, now))
			}
			for _, place := range plan(p, holds, now, jobs...) {
				if !place.Start {
					continue
				}
				if place.Queued.JobID == "big" {
					return
				}
				holds = append(holds, running(place.Queued, now))
				jobs = slices.DeleteFunc(jobs, func(q ledger.Queued) bool { return q.JobID == place.Queued.JobID })
			}
		}
	})
}
