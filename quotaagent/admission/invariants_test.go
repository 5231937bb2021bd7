package admission_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// run is one allocation in the simulated cluster.
type run struct {
	job, group, name, class string
	gpus, once              int64
	startsLeft, started     int
	id                      string
	start, end              time.Time
	price                   quantity.Amount
	live                    bool
}

// cluster starts admitted work whenever it likes and lets it use all that it is
// bounded to.
type cluster struct {
	*world
	runs []*run
	// changed says that some job was changed while it ran.
	changed bool
}

func (c *cluster) admit(t *rapid.T, n int) {
	job := fmt.Sprintf("job-%d", n)
	lines := anyLines(t, c.policy)
	if c.submit(job, rapid.SampledFrom([]string{"org", "org/x", "org/y"}).Draw(t, "budget"), lines).Outcome == admission.Deny {
		return
	}
	c.register(t, job, lines)
}

// change submits a job that runs with other lines. Nomad then stops what runs
// and starts all of it anew.
func (c *cluster) change(t *rapid.T) {
	job := rapid.SampledFrom(c.runs).Draw(t, "changes").job
	lines := anyLines(t, c.policy)
	if c.submit(job, c.holds[job].Budget, lines).Outcome == admission.Deny {
		return
	}
	var others []*run
	for _, r := range c.runs {
		switch {
		case r.job != job:
			others = append(others, r)
		case r.live:
			defer c.end(r) // after the job is registered, in the same instant
		}
	}
	c.runs = others
	c.changed = true
	c.register(t, job, lines)
}

func (c *cluster) register(t *rapid.T, job string, lines []ledger.Line) {
	c.confirm(job)
	for _, l := range lines {
		for i := range l.Count {
			class := rapid.SampledFrom(l.Needs[0].Classes).Draw(t, "class")
			c.runs = append(c.runs, &run{job: job, group: l.Group, name: fmt.Sprintf("%s.%s[%d]", job, l.Group, i), class: class,
				gpus: l.Needs[0].GPUs, once: l.OnceMS, startsLeft: l.Starts, price: c.policy.RateCards[0].PerGPUHour[class]})
		}
	}
}

// start begins one run now; end ends one that is due, or early.
func (c *cluster) start(r *run) {
	c.index++
	r.started++
	r.startsLeft--
	r.id = fmt.Sprintf("%s#%d", r.name, c.index)
	r.start, r.end, r.live = c.now, c.now.Add(time.Duration(r.once)*time.Millisecond), true
	c.observe(r.job, r.observation(c.index))
}

func (r *run) observation(index uint64) ledger.Observation {
	ids := make([]string, r.gpus)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s/%d", r.id, i)
	}
	return ledger.Observation{Alloc: r.id, Name: r.name, Group: r.group, CreateIndex: index, StartMS: r.start.UnixMilli(),
		GPUs: []ledger.TrackGPUs{{Class: r.class, IDs: ids, PerGPUHour: r.price}}}
}

func (c *cluster) end(r *run) {
	o := r.observation(c.index)
	o.EndMS, o.Done = min(c.now.UnixMilli(), r.end.UnixMilli()), r.startsLeft == 0
	r.live = false
	c.observe(r.job, o)
}

// advance moves time forward; runs that reach their bound end exactly there.
func (c *cluster) advance(d time.Duration) {
	to := c.now.Add(d)
	for {
		var next *run
		for _, r := range c.runs {
			if r.live && !r.end.After(to) && (next == nil || r.end.Before(next.end)) {
				next = r
			}
		}
		if next == nil {
			c.now = to
			return
		}
		c.now = next.end
		c.end(next)
	}
}

// toEdge is how far it is to just before, at, or after the next window boundary.
func (c *cluster) toEdge(t *rapid.T) time.Duration {
	w := rapid.SampledFrom([]budget.Window{budget.Hour, budget.Day, budget.Month}).Draw(t, "edge of")
	end := budget.PeriodAt(w, c.now, c.policy.Location).End
	return max(0, end.Sub(c.now)+time.Duration(rapid.Int64Range(-2, 2).Draw(t, "off"))*time.Minute)
}

// TestInvariantI1_NothingAdmittedOverspends is I1, by brute force: whatever Decide admits,
// and however work then starts, waits, fails and starts again, no limit is
// exceeded in any period, neither by promises at admission nor by usage ever.
func TestInvariantI1_NothingAdmittedOverspends(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now, err := time.Parse(time.RFC3339, rapid.SampledFrom(edges).Draw(t, "begin"))
		must.NoError(t, err)
		c := &cluster{world: newWorld(anyPolicy(t), now)}
		steps := rapid.IntRange(5, 40).Draw(t, "steps")
		// Half even rounding of each piece of cost may differ by a micro-unit from that of
		// the whole.
		tolerance := func() quantity.Amount { return quantity.Amount(20 * (len(c.runs) + 1)) }
		for n := range steps {
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1:
				for more := range 4 {
					before := len(c.runs)
					c.admit(t, 10*n+more)
					if len(c.runs) > before {
						must.Eq(t, "", c.excessOfGrowth(t, tolerance()), must.Sprint("promised over a limit"))
					}
				}
			case 2, 3:
				for _, r := range c.runs {
					if !r.live && r.startsLeft > 0 && rapid.Bool().Draw(t, "start") {
						c.start(r)
					}
				}
			case 4:
				if rapid.Bool().Draw(t, "to an edge") {
					c.advance(c.toEdge(t))
				} else {
					c.advance(time.Duration(rapid.Int64Range(1, 30*3_600_000).Draw(t, "ms")) * time.Millisecond)
				}
			case 6:
				if len(c.runs) > 0 {
					c.change(t)
				}
			case 5:
				for _, r := range c.runs {
					if r.live && rapid.Bool().Draw(t, "end early") {
						c.end(r)
					} else if r.live {
						c.post(r.job)
					}
				}
			}
			must.Eq(t, "", c.excess(true, tolerance()), must.Sprint("used over a limit"))
			c.checkFold(t)
		}
		for range 3 { // and everything that was admitted runs to its end
			for _, r := range c.runs {
				if !r.live && r.startsLeft > 0 {
					c.start(r)
				}
			}
			c.advance(50 * time.Hour)
			must.Eq(t, "", c.excess(true, tolerance()), must.Sprint("used over a limit at the end"))
		}
	})
}

// excessOfGrowth checks all that is promised right after an admission. Work that
// has started again after a failure may hold a little more than it can use, but
// never an admission more than fits.
func (c *cluster) excessOfGrowth(t *rapid.T, tolerance quantity.Amount) string {
	if c.changed {
		return c.excess(true, tolerance)
	}
	for _, r := range c.runs {
		if r.started > 0 && r.startsLeft+r.started > 1 {
			return c.excess(true, tolerance)
		}
	}
	return c.excess(false, tolerance)
}

// TestInvariantI9_MoreNeverDenies is I9: raising a limit or freeing what is held or posted
// never turns a yes into a no.
func TestInvariantI9_MoreNeverDenies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now, err := time.Parse(time.RFC3339, rapid.SampledFrom(edges).Draw(t, "begin"))
		must.NoError(t, err)
		w := newWorld(anyPolicy(t), now)
		for n := range rapid.IntRange(0, 4).Draw(t, "jobs before") {
			if job := fmt.Sprintf("job-%d", n); w.submit(job, "org/x", anyLines(t, w.policy)).Outcome == admission.Admit {
				w.confirm(job)
			}
		}
		lines := anyLines(t, w.policy)
		h := ledger.Submit(ledger.Hold{JobID: "new", Budget: "org/x", State: ledger.Held}, lines, 0)
		before := admission.Decide(w.policy, w.policy.Find("org/x"), w.state(), h, lines, w.now)
		switch rapid.SampledFrom([]string{"raise", "lift", "end a job"}).Draw(t, "more") {
		case "raise":
			w.policy.Walk(func(b *budget.Budget) {
				for i, l := range b.Limits {
					limit, _ := l.Ceiling.Finite()
					b.Limits[i].Ceiling = quantity.LimitOf(limit.Add(quantity.Amount(rapid.Int64Range(0, 1<<40).Draw(t, "by"))))
				}
			})
		case "lift":
			w.policy.Walk(func(b *budget.Budget) {
				for i := range b.Limits {
					b.Limits[i].Ceiling = quantity.Unlimited
				}
			})
		case "end a job":
			for n := range 4 {
				if job := fmt.Sprintf("job-%d", n); w.holds[job] != nil {
					w.put(job, nil, ledger.Vector{})
				}
			}
		}
		after := admission.Decide(w.policy, w.policy.Find("org/x"), w.state(), h, lines, w.now)
		must.True(t, after.Outcome >= before.Outcome, must.Sprintf("was %s, now %s", before.Outcome, after.Outcome))
	})
}

// anywhere counts what falls into one period as what may fall into any.
func anywhere(v ledger.Vector) ledger.Vector {
	out := ledger.NewVector()
	for c := range v.All() {
		window, _, _ := strings.Cut(c.Period, "/")
		if c.Period != ledger.ConcurrentKey {
			c.Period = window + "/any"
		}
		out.Add(c.Period, c.Dimension, c.Amount)
	}
	return out
}

// TestSameSubmissionTwice is that a repeated submission holds no more GPUs, and no
// more time than what the first one may start until the second one is registered: by
// what a hold knows they may differ. Once the first is confirmed, the same job again
// holds nothing more.
func TestSameSubmissionTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(anyPolicy(t), time.UnixMilli(1_790_000_000_000))
		lines := anyLines(t, w.policy)
		if w.submit("job", "org/y", lines).Outcome == admission.Deny {
			t.Skip("does not fit")
		}
		once := w.holds["job"].Charged
		twice := ledger.Charges(ledger.Submit(*w.holds["job"], lines, 0), w.calendar())
		short := slices.Clone(lines)
		for i, line := range short {
			most := ledger.RegisterWithin.Milliseconds()
			short[i].RuntimeMS = min(most, line.RuntimeMS)
			if line.Lease {
				short[i].RuntimeMS = most
			}
			short[i].Starts, short[i].OnceMS, short[i].Overlap = 1, short[i].RuntimeMS, 0
		}
		until := ledger.Charges(ledger.Submit(ledger.Hold{State: ledger.Held}, short, 0), w.calendar())
		until.Drop(func(c ledger.Cell) bool { return c.Period == ledger.ConcurrentKey })
		until.AddAll(once, 1)
		must.Eq(t, anywhere(until), anywhere(twice))

		w.confirm("job")
		next := ledger.SubmitUnchanged(*w.holds["job"], lines, 0)
		must.Eq(t, once, ledger.Charges(next, w.calendar()))
	})
}
