package ledger

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
)

const (
	// packAbove is the size in bytes from which documents are stored compressed:
	// small ones stay readable for whoever looks into the store.
	packAbove = 32 << 10
	// packed is the first byte of a compressed document. No JSON text begins with it.
	packed byte = 0x01
	// unpackedMax bounds what a compressed document may grow to: a hold with the most
	// allocations that fit has a tenth of it.
	unpackedMax = 64 << 20
)

// encode is the stored form of a document: JSON, compressed when it is large.
// Equal documents have equal bytes.
func encode(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil || len(text) <= packAbove {
		return text, err
	}
	var out bytes.Buffer
	out.WriteByte(packed)
	w := gzip.NewWriter(&out) // no name and no time: equal texts become equal bytes
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decode reads what encode wrote.
func decode(value []byte, v any) error {
	if len(value) == 0 || value[0] != packed {
		return json.Unmarshal(value, v)
	}
	r, err := gzip.NewReader(bytes.NewReader(value[1:]))
	if err != nil {
		return fmt.Errorf("uncompress: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, unpackedMax+1))
	if err != nil {
		return fmt.Errorf("uncompress: %w", err)
	}
	if len(text) > unpackedMax {
		return fmt.Errorf("uncompress: more than %d bytes", unpackedMax)
	}
	return json.Unmarshal(text, v)
}

// Encode and Decode are the stored form of a Run, a Grant, a Queued, a Remains or
// a Template.
func Encode[T Run | Grant | Queued | Remains | Template](v T) ([]byte, error) { return encode(v) }

// Decode reads what Encode wrote.
func Decode[T Run | Grant | Queued | Remains | Template](value []byte) (T, error) {
	var v T
	if err := decode(value, &v); err != nil {
		return v, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}

// storedHold is a hold with the outbox spread over its allocations: what belongs
// to one allocation repeats its ids, and compresses away beside them.
type storedHold struct {
	Hold
	Tracks []storedTrack `json:"tracks,omitempty"`
}

type storedTrack struct {
	Track
	Outbox []Entry `json:"outbox,omitempty"`
}

// EncodeHold and DecodeHold are the stored form of a hold. The order of the
// outbox is not kept.
func EncodeHold(h Hold) ([]byte, error) {
	if len(h.Outbox) == 0 || len(h.Tracks) == 0 {
		return encode(h)
	}
	stored, at := storedHold{Hold: h}, make(map[string]int, len(h.Tracks))
	for i, t := range h.Tracks {
		stored.Tracks, at[t.Alloc] = append(stored.Tracks, storedTrack{Track: t}), i
	}
	stored.Outbox = nil
	for _, e := range h.Outbox {
		if i, running := at[e.Alloc]; running {
			stored.Tracks[i].Outbox = append(stored.Tracks[i].Outbox, e)
		} else {
			stored.Outbox = append(stored.Outbox, e)
		}
	}
	return encode(stored)
}

// DecodeHold reads what EncodeHold wrote.
func DecodeHold(value []byte) (Hold, error) {
	var stored storedHold
	if err := decode(value, &stored); err != nil {
		return Hold{}, fmt.Errorf("decode hold: %w", err)
	}
	h := stored.Hold
	for _, t := range stored.Tracks {
		h.Tracks, h.Outbox = append(h.Tracks, t.Track), append(h.Outbox, t.Outbox...)
	}
	return h, nil
}

// DecodeBalance reads a balance document; no bytes are the empty account.
func DecodeBalance(value []byte) (Balance, error) {
	b := Balance{Posted: NewVector(), Held: NewVector()}
	if len(value) == 0 {
		return b, nil
	}
	if err := decode(value, &b); err != nil {
		return Balance{}, fmt.Errorf("decode balance: %w", err)
	}
	if b.Posted.cells == nil {
		b.Posted = NewVector()
	}
	if b.Held.cells == nil {
		b.Held = NewVector()
	}
	return b, nil
}

// Encode is the stored form; equal balances have equal bytes.
func (b Balance) Encode() ([]byte, error) { return encode(b) }

// EncodeDocument and DecodeDocument are the stored form of any other document.
func EncodeDocument(v any) ([]byte, error) { return encode(v) }

// DecodeDocument reads what EncodeDocument wrote.
func DecodeDocument(value []byte, v any) error { return decode(value, v) }
