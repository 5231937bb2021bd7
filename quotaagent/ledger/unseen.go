package ledger

import (
	"cmp"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// unseen is what allocations that nobody has seen may have used, by the name that
// they would have. One version of a job replaces the other, so that at any moment only
// one of them has an allocation of a name; it may end a little later than the next one
// begins.
//
// What it charges stays the same when a submission is confirmed, which turns the
// present version into a former one and an unconfirmed one into the present: nobody
// decides then.
type unseen map[string][]unseenSpan

// unseenSpan is between which moments versions of a job may have had an allocation.
type unseenSpan struct {
	fromMS, toMS int64
	line         Line
	// leftMS is what the allocation may use; of a lease any time. tailMS is how much
	// longer it may run when the next version begins, and versions how many there are.
	leftMS, tailMS, versions int64
}

// seenTo is until when what allocations of a name used is known, and the youngest of
// them.
type seenTo struct {
	ms      int64
	index   uint64
	startMS int64
}

// seen is that by name: one of a name that is not known yet began later.
func (h Hold) seen() map[string]seenTo {
	if len(h.Slots) == 0 && len(h.Former) == 0 && len(h.Tracks) == 0 {
		return nil
	}
	seen := map[string]seenTo{}
	note := func(name string, ms int64, index uint64, startMS int64) {
		s := seen[name]
		s.ms = max(s.ms, ms)
		if index > s.index {
			s.index, s.startMS = index, startMS
		}
		seen[name] = s
	}
	for name, s := range h.Slots {
		note(name, s.EndMS, s.Index, s.StartMS)
	}
	for _, f := range h.Former {
		for name, s := range f.Slots {
			note(name, s.EndMS, s.Index, s.StartMS)
		}
	}
	for _, t := range h.Tracks {
		to := t.EndMS
		if to == 0 {
			to = max(t.StartMS, t.MarkMS)
		}
		note(t.Name, to, t.CreateIndex, t.StartMS)
	}
	return seen
}

// add notes what a version of the job may have used between two moments: the
// allocations that have not ended for good. Until seen, all of a name are known; what
// one that runs uses is charged with it, and only its end may lap over.
func (u unseen) add(r reading, fromMS, toMS, versions int64) unseen {
	fromMS = max(fromMS, r.hold.CreatedMS, r.hold.SeenMS)
	if toMS <= fromMS {
		return u
	}
	if u == nil {
		u = unseen{}
	}
	for _, line := range r.lines {
		span := unseenSpan{fromMS: fromMS, toMS: toMS, line: line, tailMS: line.tail(), versions: versions}
		names := r.slotNames(line)
		for _, name := range names {
			live, running := r.liveTrack(name)
			if r.replaced(line, name) || running && (line.Lease || r.current(live)) || !running && !line.Lease && r.slot(name).Done {
				continue // nothing of this version comes any more, or it is charged as what runs
			}
			next := span
			next.fromMS, next.leftMS = max(fromMS, r.seen[name].ms), r.remaining(line, name)
			if running {
				held, _ := r.hold.ownEnd(live)
				next.fromMS = max(next.fromMS, live.MarkMS, held) // not replaceableFrom, which a submission moves
				if u[name] == nil {
					next.versions++ // with the one that runs
				}
			}
			next.fromMS = min(next.fromMS, toMS)
			u[name] = append(u[name], next)
		}
		span.leftMS = line.RuntimeMS
		for _, name := range r.unknownNames(line, names) {
			next := span
			next.fromMS = min(max(fromMS, r.seen[name].ms), toMS)
			u[name] = append(u[name], next)
		}
	}
	return u
}

// unknownNames are those that the further allocations of a line have which are not
// known, and may come.
func (r reading) unknownNames(line Line, known []string) []string {
	var names []string
	n := line.Count - len(known) - r.replacedUnknown(line, known)
	for i := 0; n > len(names) && i < line.Count; i++ {
		name := r.hold.JobID + "." + line.Group + "[" + strconv.Itoa(i) + "]"
		if !slices.Contains(known, name) && !r.replaced(line, name) {
			names = append(names, name)
		}
	}
	for len(names) < n { // those of one on each node have the node in their names
		names = append(names, line.Group+"\x00"+strconv.Itoa(len(names)))
	}
	return names
}

func (u unseen) charges(cal Calendar) Vector {
	v := NewVector()
	names := slices.Sorted(maps.Keys(u))
	for i := 0; i < len(names); {
		s := together(u[names[i]])
		count, group := int64(1), u[names[i]][0].line.Group // of equal ones, so that a price is rounded once for a line
		for i++; i < len(names) && u[names[i]][0].line.Group == group && reflect.DeepEqual(together(u[names[i]]), s); i++ {
			count++
		}
		s.charge(v, count, cal)
	}
	return v
}

// sequence is what versions of a job may have used one after the other: as much as any
// needs, for as long as there was one, and beside that what they took to end.
type sequence struct {
	needs []Need
	// times are when there was one, apart from one another and in their order.
	times [][2]int64
	// mostMS is how much of it they may use, tailsMS beside it, until tailMS after.
	mostMS, tailsMS, tailMS int64
}

func together(spans []unseenSpan) sequence {
	slices.SortStableFunc(spans, func(a, b unseenSpan) int { return cmp.Compare(a.fromMS, b.fromMS) })
	s, versions, lease := sequence{}, int64(0), false
	for _, span := range spans {
		s.needs = mergeNeeds(s.needs, span.line.Needs)
		if last := len(s.times) - 1; last >= 0 && span.fromMS <= s.times[last][1] {
			s.times[last][1] = max(s.times[last][1], span.toMS)
		} else {
			s.times = append(s.times, [2]int64{span.fromMS, span.toMS})
		}
		lease = lease || span.line.Lease
		s.mostMS = addMillis(s.mostMS, timesMillis(span.leftMS, span.versions))
		s.tailMS, versions = max(s.tailMS, span.tailMS), versions+span.versions
	}
	if lease {
		s.mostMS = math.MaxInt64
	}
	s.tailsMS = timesMillis(s.tailMS, versions-1)
	return s
}

// charge charges count of them to the periods in which they may have run.
func (s sequence) charge(v Vector, count int64, cal Calendar) {
	from, to := s.times[0][0], s.times[len(s.times)-1][1]
	if s.tailsMS > 0 {
		to = addMillis(to, s.tailMS)
	}
	for _, w := range cal.Windows {
		longest := budget.LongestMillis(w)
		if longest < 0 || (to-from)/longest >= maxPlaced {
			ms := addMillis(min(s.mostMS, s.length(math.MinInt64, math.MaxInt64)), s.tailsMS)
			key := w.String()
			if longest >= 0 {
				ms, key = min(ms, longest), AnyPeriod(w)
			}
			s.add(v, key, ms, count, cal)
			continue
		}
		for p := budget.PeriodAt(w, time.UnixMilli(from), cal.Location); ; p = p.Next(cal.Location) {
			ms := addMillis(min(s.mostMS, s.length(p.Start.UnixMilli(), p.End.UnixMilli())), s.tailsMS)
			s.add(v, p.Key(), min(ms, p.Millis()), count, cal)
			if p.End.UnixMilli() >= to {
				break
			}
		}
	}
}

// length is how much of the times lies between two moments.
func (s sequence) length(fromMS, toMS int64) int64 {
	total := int64(0)
	for _, t := range s.times {
		total += max(0, min(t[1], toMS)-max(t[0], fromMS))
	}
	return total
}

func (s sequence) add(v Vector, period string, ms, count int64, cal Calendar) {
	for _, n := range s.needs {
		addTime(v, period, cal.countsOfAny(n.Classes), quantity.Amount(ms).Mul(int64(quantity.Amount(n.GPUs).Mul(count))), n.PerGPUHour, n.Watts)
	}
}

// timesMillis multiplies a length of time and stays in range; neither is negative.
func timesMillis(length, n int64) int64 {
	if n > 0 && length > math.MaxInt64/n {
		return math.MaxInt64
	}
	return length * n
}
