package ledger

import (
	"slices"
	"strings"
	"time"
)

// Submit records an unconfirmed submission: on a new hold or on the open one of
// the same job. expiresMS is when it is given up if nobody confirms it. The
// worst case is that it changes the job, so that everything starts again. Of
// several submissions at the same time any may win: then all are bounded.
func Submit(h Hold, lines []Line, expiresMS int64) Hold {
	next := submit(h, lines, expiresMS)
	next.Former = fewer(next.Former)
	return next
}

func submit(h Hold, lines []Line, expiresMS int64) Hold {
	next := h.Clone()
	next.Pending, next.ExpiresMS, next.Unchanged = slices.Clone(lines), expiresMS, false
	if h.Pending != nil {
		next.Pending, next.ExpiresMS = mergeLines(h.Pending, lines), max(h.ExpiresMS, expiresMS)
	} else {
		next.PendingMS = h.SubmittedMS
	}
	if next.Pending == nil {
		next.Pending = []Line{}
	}
	next.InFlight++
	return next
}

// SubmitUnchanged records the submission of exactly the job that is registered:
// Nomad keeps what runs and does not start again what finished, so the hold does
// not grow. If Nomad answers with a new index after all, Confirm sees it.
func SubmitUnchanged(h Hold, lines []Line, expiresMS int64) Hold {
	next := submit(h, lines, expiresMS)
	if next.Unchanged = h.State == Active && (h.Pending == nil || h.Unchanged); !next.Unchanged {
		next.Former = fewer(next.Former)
	}
	return next
}

// Confirm ends an unconfirmed submission that Nomad registered at index. An
// unchanged index means that Nomad found nothing new in it: what finished stays
// finished. Confirming the same index again changes nothing.
func Confirm(h Hold, index uint64) Hold {
	next := h.resolveOne()
	if h.State == Active && h.JobModifyIndex == index {
		if h.Unchanged { // the same job, perhaps by another policy
			next.Lines = carryLines(h)
		}
		return next // else it is the answer to what was confirmed without one
	}
	next.Lines = carryLines(h)
	if h.Pending != nil {
		next.LinesMS = h.PendingMS
	}
	if index < h.JobModifyIndex {
		// A later submission was confirmed first, or Nomad's state was restored
		// from a backup: either job may be the one that stays.
		next.Lines, next.LinesMS = mergeLines(h.Lines, next.Lines), min(h.LinesMS, next.LinesMS)
	}
	if h.State == Active && len(h.Lines) > 0 {
		next.Former = formerOf(h)
	}
	next.State = Active
	next.JobModifyIndex = max(h.JobModifyIndex, index)
	next.StoredIndex = next.JobModifyIndex
	next.Slots = map[string]Slot{}
	for name, s := range h.Slots {
		if s.Index > index { // it came before the answer
			next.Slots[name] = s.youngest()
		}
	}
	if h.State == Held {
		next.FirstIndex = index
	}
	return next
}

// RegisterWithin is how long after its admission a submission is registered at the
// latest; the gate gives up before. Until then the job is what it was.
const RegisterWithin = 2 * time.Minute

// SendWithin is how long after its admission a submission is sent at the latest: what
// remains of RegisterWithin is for its way to Nomad.
const SendWithin = 90 * time.Second

// replacedBy is when the last submission was registered at the latest.
func (h Hold) replacedBy() int64 { return h.SubmittedMS + RegisterWithin.Milliseconds() }

// formerOf are the former versions of a hold whose present one becomes one too.
func formerOf(h Hold) []Former {
	return append(slices.Clone(h.Former), Former{Lines: h.Lines, Slots: h.Slots, JobModifyIndex: h.JobModifyIndex, FromMS: h.LinesMS, ToMS: h.replacedBy()})
}

// formerMax is how many former versions a hold keeps apart when the next submission of
// its job is decided: enough for any time without a leader, who forgets them. More of
// them than that are one that needs as much as any, which bounds the document. What they
// charge together is not what each charges for itself, so that they become one only
// where it is decided about.
const formerMax = 64

func fewer(former []Former) []Former {
	for len(former) > formerMax {
		a, b := former[0], former[1]
		oldest := Former{Lines: mergeLines(a.Lines, b.Lines), JobModifyIndex: a.JobModifyIndex, FromMS: a.FromMS, ToMS: max(a.ToMS, b.ToMS)}
		former = append([]Former{oldest}, former[2:]...)
	}
	return former
}

// Looked forgets the former versions of the job, once all allocations are observed
// that it had at a moment after the last confirmation: Nomad starts no more of
// them. It reports whether there were any. While an allocation still runs whose
// group the present version does not have, they stay: only they say until when its
// GPUs are held, and what it used since its watermark must not be given back.
func Looked(h Hold) (Hold, bool) {
	present := reading{hold: &h, lines: h.Lines}
	removed := slices.ContainsFunc(h.Live(), func(t Track) bool {
		_, ok := present.line(t.Group)
		return !ok && t.LeaseMS == 0
	})
	if len(h.Former) == 0 || removed {
		return h, false
	}
	next := h.Clone()
	for i, t := range next.Tracks {
		if t.EndMS == 0 && t.OwnMS == 0 && t.CreateIndex <= h.JobModifyIndex {
			next.Tracks[i].OwnMS, _ = h.ownEnd(t)
		}
	}
	next.Former = nil
	return next, true
}

// Guess notes that a submission was confirmed without its answer, which may still
// come until untilMS.
func Guess(h Hold, untilMS int64) Hold {
	next := h.Clone()
	next.Guessed, next.GuessedUntilMS = h.Guessed+1, max(h.GuessedUntilMS, untilMS)
	return next
}

// AnsweredLate takes an answer for one whose submission was confirmed by a guess
// already. It must not count for another submission that is on its way: what that
// one needs would be given back. Where nothing was guessed, ok is false.
func AnsweredLate(h Hold, nowMS int64) (next Hold, ok bool) {
	if h.Guessed == 0 || nowMS >= h.GuessedUntilMS {
		return h, false
	}
	next = h.Clone()
	next.Guessed--
	return next, true
}

// resolveOne counts one submission as answered. Pending stays while others are
// not.
func (h Hold) resolveOne() Hold {
	next := h.Clone()
	next.InFlight = max(0, h.InFlight-1)
	if next.InFlight == 0 {
		next.Pending, next.ExpiresMS, next.PendingMS, next.Unchanged = nil, 0, 0, false
	}
	return next
}

func carryLines(h Hold) []Line {
	if h.Pending == nil {
		return h.Lines
	}
	return h.Pending
}

// Void ends an unconfirmed submission that Nomad refused, or that expired. It
// reports whether anything of the hold remains: false means that the hold ends.
func Void(h Hold) (Hold, bool) {
	if h.State == Held && h.InFlight <= 1 {
		return h, false
	}
	return h.resolveOne(), true
}

// Observation is one allocation as Nomad shows it.
type Observation struct {
	Alloc, Name, Group string
	// Node that it was placed on.
	Node string
	// CreateIndex is the allocation's own.
	CreateIndex uint64
	StartMS     int64
	// EndMS is when it became client-terminal; 0 while it holds its GPUs.
	EndMS     int64
	Done      bool
	Estimated bool
	// Unknown says that Nomad has lost touch with the node.
	Unknown bool
	// RunMS and RanMS are as in Track.
	RunMS, RanMS int64
	GPUs         []TrackGPUs
	// Given are those of the GPUs that other allocations have by now.
	Given []Given
}

// Observe records a fact about one allocation of a confirmed hold. Observing
// the same fact again changes nothing. A running allocation is always taken in,
// an ended one only if it belongs to this hold and was not posted before. The
// lease of work without an end is counted from nowMS. It reports whether the
// hold changed.
func Observe(h Hold, o Observation, nowMS int64) (Hold, bool) {
	if h.State != Active {
		return h, false
	}
	if _, finished := slices.BinarySearch(h.Finished, o.Alloc); finished {
		return h, false
	}
	if i := slices.IndexFunc(h.Tracks, func(t Track) bool { return t.Alloc == o.Alloc }); i >= 0 {
		t, changed := h.Tracks[i].observed(o)
		if !changed {
			return h, false
		}
		next := h.Clone()
		next.Tracks[i] = t
		return next, true
	}
	if o.EndMS != 0 && o.CreateIndex <= h.FirstIndex {
		return h, false
	}
	next := h.Clone()
	next.LastIndex = max(next.LastIndex, o.CreateIndex)
	if o.Node != "" && h.everyNode(o.Group) {
		o.Name += "@" + o.Node
	}
	t := Track{Alloc: o.Alloc, Name: o.Name, Group: o.Group, CreateIndex: o.CreateIndex, StartMS: o.StartMS, MarkMS: o.StartMS,
		Done: o.Done, Estimated: o.Estimated, Unknown: o.Unknown, RunMS: o.RunMS, RanMS: o.RanMS, Node: o.Node, GPUs: o.GPUs}
	t.give(o.Given)
	if o.EndMS != 0 {
		t.EndMS = max(o.EndMS, o.StartMS)
	}
	if length, lease := h.IsLease(o.Group); lease {
		t.LeaseMS = max(o.StartMS, nowMS) + length
	}
	for i, other := range next.Tracks {
		switch {
		case other.Name != t.Name:
		case other.CreateIndex < t.CreateIndex && (other.NextMS == 0 || other.NextMS > t.StartMS):
			next.Tracks[i].NextMS = t.StartMS
		case other.CreateIndex > t.CreateIndex && (t.NextMS == 0 || t.NextMS > other.StartMS):
			t.NextMS = other.StartMS
		}
	}
	at, _ := slices.BinarySearchFunc(next.Tracks, o.Alloc, func(t Track, id string) int { return strings.Compare(t.Alloc, id) })
	next.Tracks = slices.Insert(next.Tracks, at, t)
	return next, true
}

// observed is the track with what is new in a fact, and whether anything is. An
// end is final; GPUs that were given away do not come back.
func (t Track) observed(o Observation) (Track, bool) {
	changed := t.give(o.Given)
	if t.EndMS != 0 {
		return t, changed
	}
	if t.RunMS == 0 && o.RunMS != 0 {
		t.RunMS, changed = o.RunMS, true
	}
	if o.EndMS == 0 && t.Unknown != o.Unknown {
		t.Unknown, changed = o.Unknown, true
	}
	if o.EndMS != 0 {
		t.EndMS, t.RanMS, t.Done, t.Estimated = max(o.EndMS, t.StartMS), o.RanMS, o.Done, o.Estimated
		changed = true
	}
	return t, changed
}

// Ends is when the allocation of a track is over at the latest, in Unix milliseconds, for
// work that is admitted for some time; known is false for a lease, which has no end, and
// for a group that the hold does not know.
func (h Hold) Ends(t Track) (ms int64, known bool) {
	for _, line := range h.need() {
		if line.Group == t.Group {
			return t.StartMS + line.once(), !line.Lease
		}
	}
	return 0, false
}

// IsLease reports whether the group's allocations are held by a rolling lease.
func (h Hold) IsLease(group string) (leaseMS int64, ok bool) {
	for _, line := range h.need() {
		if line.Group == group && line.Lease {
			return line.RuntimeMS, true
		}
	}
	return 0, false
}

// everyNode reports whether the group has an allocation on each node.
func (h Hold) everyNode(group string) bool {
	return slices.ContainsFunc(h.need(), func(l Line) bool { return l.Group == group && l.EveryNode })
}

// RenewalDue reports whether Renew would move a lease.
func RenewalDue(h Hold, nowMS int64) bool {
	return slices.ContainsFunc(h.Tracks, func(t Track) bool {
		_, due := h.renewal(t, nowMS)
		return due
	})
}

// renewal is the length of the lease of an allocation, and whether it is to be
// moved.
func (h Hold) renewal(t Track, nowMS int64) (lengthMS int64, due bool) {
	if t.EndMS != 0 {
		return 0, false
	}
	length, lease := h.IsLease(t.Group)
	left := t.LeaseMS - nowMS
	return length, lease && (left < length/2 || left > length+length/2) && t.LeaseMS != nowMS+length
}

// Renew moves the lease of every live allocation to nowMS plus its length, once
// less than half of it is left. A lease that reaches further than one and a half
// lengths (the clock was ahead when it was renewed) is cut back. It reports
// whether anything moved.
func Renew(h Hold, nowMS int64) (Hold, bool) {
	next, moved := h, false
	for i, t := range h.Tracks {
		length, due := h.renewal(t, nowMS)
		if !due {
			continue
		}
		if !moved {
			next, moved = h.Clone(), true
		}
		next.Tracks[i].LeaseMS = nowMS + length
	}
	return next, moved
}
