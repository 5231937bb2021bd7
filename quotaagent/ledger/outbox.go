package ledger

import "slices"

// Remains is a hold that has ended, kept for a while: for its receipt, and for
// what of its history may not have been recorded yet, which is in its outbox.
type Remains struct {
	Hold    Hold  `json:"hold"`
	EndedMS int64 `json:"ended_ms"`
}

// PutOut returns the hold with entries in its outbox, behind those that are
// there. What an entry has in common with its hold is left out of the stored
// form: Entries puts it back.
func (h Hold) PutOut(entries []Entry) Hold {
	h.Outbox = slices.Clone(h.Outbox)
	for _, e := range entries {
		h.Outbox = append(h.Outbox, h.strip(e))
	}
	return h
}

// Sent returns the hold with an empty outbox: all of it has been recorded.
func (h Hold) Sent() Hold {
	h.Outbox = nil
	return h
}

// Entries are those of the outbox, whole.
func (h Hold) Entries() []Entry {
	entries := make([]Entry, len(h.Outbox))
	for i, e := range h.Outbox {
		entries[i] = h.fill(e)
	}
	return entries
}

// strip leaves out what a hold never changes.
func (h Hold) strip(e Entry) Entry {
	if e.Namespace == h.Namespace && e.JobID == h.JobID && e.HoldID == h.ID {
		e.Namespace, e.JobID, e.HoldID = "", "", ""
	}
	return e
}

// fill puts back what strip left out. Every entry in an outbox is of a job.
func (h Hold) fill(e Entry) Entry {
	if e.JobID == "" {
		e.Namespace, e.JobID, e.HoldID = h.Namespace, h.JobID, h.ID
	}
	return e
}
