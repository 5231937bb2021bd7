package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// History leaves the books through outboxes. What is posted is put into the
// hold's outbox in the same commit, or into its remains when the hold has ended;
// only then the recorder is told. An outbox is emptied no earlier than this
// process knows that its recorder has it. So a crash between any two instructions
// loses nothing: the next leader begins its term by recording all outboxes once
// more, and an entry that is recorded already is nothing new.

const (
	// outboxMax is how many entries may wait in one outbox for a recorder that does
	// not work. From then on nothing more is posted for the hold: metering stops
	// before history is lost.
	outboxMax = 20_000
	// remainsFor is how long what is left of an ended hold is kept.
	remainsFor = 15 * time.Minute
	// recordedMost is of how many outboxes it is remembered that they are recorded.
	recordedMost = 50_000
	// markFor is how long the mark of an agent that no longer commits is kept: far
	// longer than any answer can be late.
	markFor = 24 * time.Hour
)

// forgetful keeps no history: for an agent that was given no recorder.
type forgetful struct{}

// Record implements Recorder.
func (forgetful) Record(context.Context, []ledger.Entry) error { return nil }

// sent is the hold with its outbox emptied, as far as its entries are recorded.
func (b *books) sent(ctx context.Context, key string, h ledger.Hold) (ledger.Hold, error) {
	if len(h.Outbox) == 0 || b.isRecorded(key, outboxName(h)) {
		return h.Sent(), nil
	}
	err := b.recorder.Record(ctx, h.Entries())
	if err == nil {
		return h.Sent(), nil
	}
	if len(h.Outbox) > outboxMax {
		return h, fmt.Errorf("%d lines of history wait to be recorded: %w", len(h.Outbox), err)
	}
	return h, nil
}

// record tells the recorder what was committed for the requests.
func (b *books) record(ctx context.Context, requests []*wish) {
	var entries []ledger.Entry
	for _, r := range requests {
		if r.err == nil {
			entries = append(entries, r.entries...)
			b.audited(r.audit)
		}
	}
	if len(entries) == 0 {
		return
	}
	b.counted(entries)
	if err := b.recorder.Record(ctx, entries); err != nil {
		b.unrecorded(fmt.Errorf("record history: %w", err))
		return
	}
	for _, r := range requests {
		if r.err == nil && len(r.entries) > 0 {
			b.setRecorded(r.target.key, r.outbox)
		}
	}
}

func (b *books) isRecorded(key, outbox string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recorded[key] == outbox
}

func (b *books) setRecorded(key, outbox string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.recorded) >= recordedMost {
		clear(b.recorded) // what is not known to be recorded is recorded again
	}
	b.recorded[key] = outbox
}

// keepRecorded forgets the outboxes of holds that are gone.
func (b *books) keepRecorded(holds []heldAt) {
	open := make(map[string]bool, len(holds))
	for _, h := range holds {
		open[keyOfHold(*h.Hold)] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.recorded {
		if !open[key] {
			delete(b.recorded, key)
		}
	}
}

// remains are what is left of ended holds, with the versions of their records.
func (b *books) remains(ctx context.Context) (remains []ledger.Remains, records []ledger.Record, err error) {
	records, _, err = b.store.List(ctx, settledPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list settled holds: %w", err)
	}
	remains = make([]ledger.Remains, len(records))
	for i, r := range records {
		if remains[i], err = ledger.Decode[ledger.Remains](r.Value); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.Key, err)
		}
	}
	return remains, records, nil
}

// livedTo is the index up to which allocations are of earlier lives of a hold's job id,
// as far as something is left of those; 0 for none.
func (b *books) livedTo(ctx context.Context, h ledger.Hold) (uint64, error) {
	remains, _, err := b.remains(ctx)
	index := uint64(0)
	for _, r := range remains {
		if r.Hold.Namespace == h.Namespace && r.Hold.JobID == h.JobID && r.Hold.ID != h.ID {
			index = max(index, r.Hold.LastIndex)
		}
	}
	return index, err
}

// recordAgain records all outboxes: whoever filled them may have died before it
// could tell its recorder.
func (b *books) recordAgain(ctx context.Context, holds []heldAt, remains []ledger.Remains) error {
	for _, h := range holds {
		if len(h.Outbox) == 0 {
			continue
		}
		if err := b.recorder.Record(ctx, h.Entries()); err != nil {
			return fmt.Errorf("record history again: %w", err)
		}
		b.setRecorded(keyOfHold(*h.Hold), outboxName(*h.Hold))
	}
	for _, r := range remains {
		if len(r.Hold.Outbox) == 0 {
			continue
		}
		if err := b.recorder.Record(ctx, r.Hold.Entries()); err != nil {
			return fmt.Errorf("record history again: %w", err)
		}
	}
	return nil
}

// clean removes what is left of holds that ended long enough ago, after their
// history was recorded once more, and the marks of agents that are gone.
func (b *books) clean(ctx context.Context, fence ledger.Fence, remains []ledger.Remains, records []ledger.Record) error {
	var old []ledger.Write
	for i, r := range remains {
		if b.now().UnixMilli()-r.EndedMS < remainsFor.Milliseconds() {
			continue
		}
		if entries := r.Hold.Entries(); len(entries) > 0 {
			if err := b.recorder.Record(ctx, entries); err != nil {
				return fmt.Errorf("record history again: %w", err)
			}
		}
		old = append(old, ledger.Write{Key: records[i].Key, Version: records[i].Version})
	}
	marks, _, err := b.store.List(ctx, commitPrefix)
	if err != nil {
		return fmt.Errorf("list the marks of commits: %w", err)
	}
	for _, r := range marks {
		value, err := decodeMark(r.Value)
		if err != nil || b.now().UnixMilli()-value.AtMS > markFor.Milliseconds() && r.Key != b.mark.key {
			old = append(old, ledger.Write{Key: r.Key, Version: r.Version})
		}
	}
	for len(old) > 0 {
		// Each delete is two operations in Consul.
		n := min(len(old), ledger.MaxWrites/2)
		if err := b.store.Commit(ctx, fence, old[:n]); err != nil && !errors.Is(err, ledger.ErrConflict) {
			return fmt.Errorf("remove what is left of settled holds: %w", err)
		}
		old = old[n:]
	}
	return nil
}
