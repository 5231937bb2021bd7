package ledger

import (
	"slices"
	"strings"
)

// replaced reports whether an allocation of a later version is known by a name of a
// line: none of this version comes any more. That is not certain of services, of which
// several versions run side by side.
func (r reading) replaced(line Line, name string) bool {
	return !line.Lease && r.until > 0 && r.seen[name].index > r.until
}

// replacedUnknown counts the replaced allocations of a line by whose names none of this
// version is known.
func (r reading) replacedUnknown(line Line, known []string) int {
	if len(r.seen) == 0 {
		return 0
	}
	n, prefix := 0, r.hold.JobID+"."+line.Group+"["
	for name := range r.seen {
		if strings.HasPrefix(name, prefix) && indexOf(name) < line.Count && r.replaced(line, name) && !slices.Contains(known, name) {
			n++
		}
	}
	return n
}

// ofPending reports whether an allocation is of the last submission that is not confirmed
// yet: it has come after that, although the one before it had ended for good, or runs and
// was not lost.
func (r reading) ofPending(t Track) bool {
	line, ok := r.line(t.Group)
	if !ok || line.Lease || t.StartMS < r.hold.SubmittedMS || t.CreateIndex <= r.hold.JobModifyIndex {
		return false
	}
	if before, known := r.hold.Slots[t.Name]; known && before.Done && before.Index < t.CreateIndex {
		return true
	}
	return r.hold.besideOlder(t)
}

// superseded reports whether a running allocation of an earlier version has its
// successor beside it, or had: it is being stopped.
func (r reading) superseded(t Track) bool {
	if line, ok := r.line(t.Group); ok && !line.Lease {
		replaced := !r.current(t) || r.replaced(line, t.Name) || r.hold.Pending != nil && !t.Unknown && t.NextMS >= r.hold.PendingMS
		return replaced && r.seen[t.Name].index > t.CreateIndex
	}
	return !r.current(t) && slices.ContainsFunc(r.hold.Tracks, func(other Track) bool {
		return other.EndMS == 0 && other.Name == t.Name && r.current(other)
	})
}

// stopped is when an allocation that is superseded has ended at the latest. What a
// service uses until then is posted as it happens.
func (r reading) stopped(t Track) int64 {
	line, ok := r.line(t.Group)
	if !ok || line.Lease {
		return t.MarkMS
	}
	from := t.NextMS
	if from == 0 {
		from = r.seen[t.Name].startMS
	}
	held, tail := r.hold.ownEnd(t)
	return min(held, addMillis(min(from, r.hold.replacedBy()), tail))
}

// ownEnd is until when the version of the job that an allocation was placed for lets it
// run, and how much longer it may take to end.
func (h Hold) ownEnd(t Track) (heldMS, tailMS int64) {
	if t.CreateIndex <= h.JobModifyIndex {
		for _, f := range slices.Backward(h.Former) {
			if t.CreateIndex > f.JobModifyIndex {
				h.Slots, h.Lines = f.Slots, f.Lines
				break
			}
		}
	}
	own := reading{hold: &h, lines: h.Lines}
	if line, ok := own.line(t.Group); ok {
		tailMS = line.tail()
	}
	if t.OwnMS != 0 {
		return t.OwnMS, tailMS
	}
	return own.heldUntil(t), tailMS
}

// replaceableFrom is until when an allocation of an earlier version is charged for
// itself, whatever comes after it: until it is replaced and has ended.
func (h Hold) replaceableFrom(t Track) int64 {
	held, tail := h.ownEnd(t)
	return max(t.MarkMS, h.SubmittedMS, min(addMillis(h.replacedBy(), tail), held))
}

// tail is how long an allocation may go on beside its successor.
func (l Line) tail() int64 {
	switch {
	case l.TailMS > 0:
		return l.TailMS
	case l.OverlapMS > 0 || l.Lease || l.Starts <= 0:
		return l.OverlapMS
	}
	return max(0, l.RuntimeMS/int64(l.Starts)-l.OnceMS)
}
