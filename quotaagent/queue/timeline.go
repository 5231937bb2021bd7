package queue

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// timeline is what the books are expected to hold from now on, as a step
// function: each point's books are in force until the next point.
type timeline struct {
	in       Input
	calendar ledger.Calendar
	points   []point
	// crowd is what aged jobs charge for which no time was found, such as those
	// that wait for a service to end. Nobody behind them may take what they need.
	crowd []charge
}

type point struct {
	at    time.Time
	books Books
}

// charge is what one job charges to its budget and all above it.
type charge struct {
	budget string
	vector ledger.Vector
}

// pointsMax bounds the steps of a timeline that come from the ends of holds.
// Later ends all count at the last of them: nobody is promised a time too early
// by that.
const pointsMax = 128

func newTimeline(in Input) *timeline {
	t := &timeline{in: in, calendar: ledger.CalendarOf(in.Policy)}
	ends := t.ends()
	times := []time.Time{in.Now}
	for _, e := range ends {
		times = append(times, e.at)
	}
	times = append(times, t.renewals()...)
	slices.SortFunc(times, time.Time.Compare)
	times = slices.CompactFunc(times, time.Time.Equal)
	books := in.Books
	for _, at := range times {
		books = maps.Clone(books)
		if books == nil {
			books = Books{}
		}
		for len(ends) > 0 && !ends[0].at.After(at) {
			t.end(books, ends[0].charge, in.Now, ends[0].at)
			ends = ends[1:]
		}
		t.points = append(t.points, point{at, books})
	}
	return t
}

// ending is when a hold gives back what it charges.
type ending struct {
	at time.Time
	charge
}

// ends lists when holds end at the latest, in order of time. Work without an end
// is not in it.
func (t *timeline) ends() []ending {
	var out []ending
	for _, h := range t.in.Holds {
		if at, ok := t.endOf(h); ok {
			out = append(out, ending{at, charge{h.Budget, h.Charged}})
		}
	}
	slices.SortFunc(out, func(a, b ending) int { return a.at.Compare(b.at) })
	if len(out) > pointsMax {
		last := out[len(out)-1].at
		for i := pointsMax - 1; i < len(out); i++ {
			out[i].at = last
		}
	}
	return out
}

// endOf is when the last allocation of a hold has used up its time, if it began
// now where it does not run yet.
func (t *timeline) endOf(h ledger.Hold) (time.Time, bool) {
	now := t.in.Now.UnixMilli()
	end := int64(0)
	for _, lines := range [][]ledger.Line{h.Lines, h.Pending} {
		length, ok := lengthOf(lines)
		if !ok {
			return time.Time{}, false
		}
		if len(h.Live())+len(h.Slots) < countOf(lines) {
			end = max(end, now+length)
		}
	}
	for _, track := range h.Live() {
		if track.LeaseMS > 0 {
			return time.Time{}, false
		}
		end = max(end, h.HeldUntil(track))
	}
	return time.UnixMilli(max(end, now+1)), true
}

// lengthOf is how long a job holds its GPUs at most; false for work without an
// end.
func lengthOf(lines []ledger.Line) (ms int64, bounded bool) {
	for _, line := range lines {
		if line.Lease {
			return 0, false
		}
		ms = max(ms, line.RuntimeMS)
	}
	return ms, true
}

func countOf(lines []ledger.Line) int {
	count := 0
	for _, line := range lines {
		count += line.Count
	}
	return count
}

// renewals are the next beginnings of each window: what was used before does not
// count any more.
func (t *timeline) renewals() []time.Time {
	var out []time.Time
	for _, w := range t.calendar.Windows {
		if w == budget.Total || w.Gauge() {
			continue
		}
		next := budget.PeriodAt(w, t.in.Now, t.calendar.Location).Next(t.calendar.Location)
		out = append(out, next.Start, next.Next(t.calendar.Location).Start)
	}
	return out
}

// end turns what a job held between two instants into what it has used: its GPUs
// are free again, and its time is spent in every period between.
func (t *timeline) end(books Books, c charge, from, to time.Time) {
	used := t.used(c.vector, from, to)
	for _, path := range ledger.Ancestors(c.budget) {
		b := copyOf(books, path)
		b.Held.AddAll(c.vector, -1)
		b.Posted.AddAll(used, 1)
		books[path] = b
	}
}

// used is what a charge comes to when it is used up between two instants.
func (t *timeline) used(v ledger.Vector, from, to time.Time) ledger.Vector {
	out := ledger.NewVector()
	for _, key := range v.Periods() {
		name, _, _ := strings.Cut(key, "/")
		window, calendar := budget.ParseWindow(name)
		switch {
		case !calendar:
			continue // a gauge
		case key != ledger.AnyPeriod(window):
			out.AddRow(key, v.Row(key), 1)
			continue
		}
		for p, n := budget.PeriodAt(window, from, t.calendar.Location), 0; ; p, n = p.Next(t.calendar.Location), n+1 {
			out.AddRow(p.Key(), v.Row(key), 1)
			if window == budget.Total || !p.End.Before(to) || n >= pointsMax {
				break
			}
		}
	}
	return out
}

// schedule finds the earliest time from which on the job fits beside everything
// that is before it, and takes it. Without search the only time is now.
func (t *timeline) schedule(q ledger.Queued, aged, search bool) (time.Time, bool) {
	c := charge{q.Budget, t.charges(q)}
	for i := range t.points {
		if t.fitsFrom(q, i) {
			at := t.points[i].at
			t.take(q, c, i)
			return at, true
		}
		if !search {
			break
		}
	}
	if aged || !search {
		t.crowd = append(t.crowd, c)
	}
	return time.Time{}, false
}

// fitsFrom reports whether the job fits from a point on for as long as it may
// hold its GPUs, beside the jobs before it that begin meanwhile.
func (t *timeline) fitsFrom(q ledger.Queued, first int) bool {
	length, bounded := lengthOf(q.Lines)
	until := t.points[first].at.Add(time.Duration(length) * time.Millisecond)
	for _, p := range t.points[first:] {
		if bounded && !p.at.Before(until) {
			break
		}
		books := p.books
		if len(t.crowd) > 0 {
			books = maps.Clone(books)
			for _, c := range t.crowd {
				hold(books, c)
			}
		}
		if !t.in.Fits(q, books, p.at) {
			return false
		}
	}
	return true
}

// take reserves the job's place in the books from a point on.
func (t *timeline) take(q ledger.Queued, c charge, first int) {
	from := t.points[first].at
	length, bounded := lengthOf(q.Lines)
	until := from.Add(time.Duration(length) * time.Millisecond)
	if bounded {
		t.split(until)
	}
	for i := first; i < len(t.points); i++ {
		p := t.points[i]
		p.books = maps.Clone(p.books)
		hold(p.books, c)
		if bounded && !p.at.Before(until) {
			t.end(p.books, c, from, until)
		}
		t.points[i] = p
	}
}

// split makes sure that there is a point at an instant.
func (t *timeline) split(at time.Time) {
	i, found := slices.BinarySearchFunc(t.points, at, func(p point, at time.Time) int { return p.at.Compare(at) })
	if found || i == 0 {
		return
	}
	t.points = slices.Insert(t.points, i, point{at, t.points[i-1].books})
}

// charges is what a job charges once it is admitted.
func (t *timeline) charges(q ledger.Queued) ledger.Vector {
	return ledger.Charges(Hold(q), t.calendar)
}

// Hold is the hold that a job which waits would get.
func Hold(q ledger.Queued) ledger.Hold {
	h := ledger.Hold{Namespace: q.Namespace, JobID: q.JobID, Budget: q.Budget, Run: q.Run, Facts: q.Facts, State: ledger.Held,
		Accessor: q.Accessor, Identity: q.Identity, JobPriority: q.Priority, StoredIndex: q.JobModifyIndex, FirstIndex: q.JobModifyIndex}
	return ledger.Submit(h, q.Lines, 0)
}

// hold adds a charge to books, which must be the caller's own; their balances
// may be shared.
func hold(books Books, c charge) {
	for _, path := range ledger.Ancestors(c.budget) {
		b := copyOf(books, path)
		b.Held.AddAll(c.vector, 1)
		books[path] = b
	}
}

func copyOf(books Books, path string) ledger.Balance {
	b, ok := books[path]
	if !ok {
		return ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
	}
	return b.Clone()
}
