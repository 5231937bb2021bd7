package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Record is one thing that somebody did, or that a rule did. Its fields are in the
// order of their names in JSON: that is the canonical form which is hashed.
type Record struct {
	// Actor is the accessor of who did it, "kv-edit" for an edit in the store and
	// "governor" for a rule.
	Actor string `json:"actor"`
	// AtMS is when, on the clock of the agent that recorded it.
	AtMS int64 `json:"at_ms"`
	// Budget is the path concerned.
	Budget string `json:"budget,omitempty"`
	// Hash of this record, in hex: see Sum.
	Hash string `json:"hash,omitempty"`
	// Kind is stable, such as "override.approved".
	Kind string `json:"kind"`
	// Names are the actor's.
	Names []string `json:"names,omitempty"`
	// Notify are the notifiers that must hear of it.
	Notify []string `json:"notify,omitempty"`
	// Prev is the hash of the record before; "" in the first one.
	Prev string `json:"prev,omitempty"`
	// Seq counts up from 1.
	Seq uint64 `json:"seq"`
	// Subject is the id of the revision, override, run or job.
	Subject string `json:"subject,omitempty"`
	// Text is one sentence for people.
	Text string `json:"text"`
}

// Head is the end of a chain: how many records it has, and the hash of the last.
// The zero Head is that of an empty chain.
type Head struct {
	Hash string `json:"hash"`
	Seq  uint64 `json:"seq"`
}

// Canonical is the record as it is hashed: JSON without white space, fields in
// the order of their names, no hash of its own, and no escapes but those that JSON
// requires. The chain depends on it: it must never change.
func (r Record) Canonical() []byte {
	r.Hash, r.Prev = "", ""
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(r) // texts and numbers always encode
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// Sum is the hash that the record must have: SHA-256 over the hash of the record
// before it, as text, followed by the canonical form; in hex.
func (r Record) Sum() string {
	sum := sha256.Sum256(append([]byte(r.Prev), r.Canonical()...))
	return hex.EncodeToString(sum[:])
}

// Append puts a record behind the end of a chain and returns it as chained, with
// the new end.
func (h Head) Append(r Record) (Record, Head) {
	r = r.valid()
	r.Seq, r.Prev = h.Seq+1, h.Hash
	r.Hash = r.Sum()
	return r, Head{Seq: r.Seq, Hash: r.Hash}
}

// valid is the record with texts that JSON gives back as they are.
func (r Record) valid() Record {
	for _, text := range []*string{&r.Actor, &r.Budget, &r.Kind, &r.Subject, &r.Text} {
		*text = strings.ToValidUTF8(*text, "\uFFFD")
	}
	for _, texts := range []*[]string{&r.Names, &r.Notify} {
		*texts = slices.Clone(*texts)
		for i, text := range *texts {
			(*texts)[i] = strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	return r
}

// BrokenError says where a chain does not hold.
type BrokenError struct {
	// Seq is the number of the first record that is wrong or missing.
	Seq  uint64
	Text string
}

// Error says what is wrong with which record.
func (e *BrokenError) Error() string { return fmt.Sprintf("audit record %d %s", e.Seq, e.Text) }

// Verify follows the records from the end of what was verified before, and
// returns the new end. The error is a *BrokenError.
func (h Head) Verify(records []Record) (Head, error) {
	for _, r := range records {
		switch {
		case r.Seq > h.Seq+1:
			return h, &BrokenError{Seq: h.Seq + 1, Text: fmt.Sprintf("is missing: record %d follows after %d", r.Seq, h.Seq)}
		case r.Seq != h.Seq+1:
			return h, &BrokenError{Seq: r.Seq, Text: "is there twice"}
		case r.Prev != h.Hash:
			return h, &BrokenError{Seq: r.Seq, Text: "does not follow the record before it: one of the two was changed"}
		case r.Hash != r.Sum():
			return h, &BrokenError{Seq: r.Seq, Text: "does not have the hash of its content: it was changed"}
		}
		h = Head{Seq: r.Seq, Hash: r.Hash}
	}
	return h, nil
}

// Before is the end of the chain before a record: where to begin when older
// records are out of reach.
func Before(r Record) Head {
	if r.Seq == 0 {
		return Head{}
	}
	return Head{Seq: r.Seq - 1, Hash: r.Prev}
}
