package ledger

import (
	"cmp"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
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

// add notes what a version of the job may have used between two moments: the
// allocations of which none is known to run and that have not ended for good.
func (u unseen) add(r reading, fromMS, toMS, versions int64) {
	fromMS = max(fromMS, r.hold.CreatedMS, r.hold.SeenMS)
	if toMS <= fromMS {
		return
	}
	for _, line := range r.lines {
		span := unseenSpan{fromMS: fromMS, toMS: toMS, line: line, tailMS: line.tail(), versions: versions}
		names := r.slotNames(line)
		for _, name := range names {
			if _, running := r.liveTrack(name); !running && (line.Lease || !r.slot(name).Done) {
				span.leftMS = r.remaining(line, name)
				u[name] = append(u[name], span)
			}
		}
		span.leftMS = line.RuntimeMS
		for i := range max(0, line.Count-len(names)) {
			name := line.Group + "\x00" + strconv.Itoa(i) // whichever it is
			u[name] = append(u[name], span)
		}
	}
}

// tail is how long an allocation may go on beside its successor.
func (l Line) tail() int64 {
	if l.OverlapMS > 0 || l.Lease || l.Starts <= 0 {
		return l.OverlapMS
	}
	return max(0, l.RuntimeMS/int64(l.Starts)-l.OnceMS)
}

func (u unseen) charges(cal Calendar) Vector {
	v := Vector{}
	names := slices.Sorted(maps.Keys(u))
	for i := 0; i < len(names); {
		needs, ms, tails := together(u[names[i]])
		count, group := int64(1), u[names[i]][0].line.Group // of equal ones, so that a price is rounded once for a line
		for i++; i < len(names) && u[names[i]][0].line.Group == group; i++ {
			next, nextMS, nextTails := together(u[names[i]])
			if nextMS != ms || nextTails != tails || !reflect.DeepEqual(next, needs) {
				break
			}
			count++
		}
		chargeAny(v, needs, count, ms, cal)
		chargeAny(v, needs, count, tails, cal)
	}
	return v
}

// together is what versions of a job may have used one after the other: as much as
// any needs, for as long as there was one, and beside that what they took to end.
func together(spans []unseenSpan) (needs []Need, length, tails int64) {
	slices.SortStableFunc(spans, func(a, b unseenSpan) int { return cmp.Compare(a.fromMS, b.fromMS) })
	var left, tail, versions, end int64
	lease := false
	for i, s := range spans {
		if needs = mergeNeeds(needs, s.line.Needs); i == 0 {
			end = s.fromMS
		}
		if begin := max(end, s.fromMS); s.toMS > begin {
			length += s.toMS - begin
			end = s.toMS
		}
		lease = lease || s.line.Lease
		left = addMillis(left, timesMillis(s.leftMS, s.versions))
		tail, versions = max(tail, s.tailMS), versions+s.versions
	}
	if !lease {
		length = min(length, left)
	}
	return needs, length, timesMillis(tail, versions-1)
}

// timesMillis multiplies a length of time and stays in range; neither is negative.
func timesMillis(length, n int64) int64 {
	if n > 0 && length > math.MaxInt64/n {
		return math.MaxInt64
	}
	return length * n
}
