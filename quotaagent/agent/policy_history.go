package agent

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// historyPrefix is where revisions of the policy are kept. It does not begin with
// policyPrefix, so that writing it wakes nobody who watches the policy.
const historyPrefix = "policy-history/"

// The bounds of the history: the oldest revisions go first.
const (
	// historyKept is how many revisions are kept.
	historyKept = 50
	// historyBytes bounds all of them together.
	historyBytes = 8 << 20
	// changesKept bounds the lines that say what a revision changed.
	changesKept = 40
	// commitBytes bounds the values of one commit: 512 KiB in base64, with room for
	// the keys.
	commitBytes = 376 << 10
)

// HistoryEntry is one revision of the policy that was in force.
type HistoryEntry struct {
	// Nr counts up from 1.
	Nr int `json:"nr"`
	Revision
	// Changes are one line each: what the revision changed.
	Changes []string `json:"changes"`
	// Restored is the revision that it was taken from by a rollback; 0 otherwise.
	Restored int `json:"restored,omitempty"`
}

// storedRevision is a history entry with its files, as the store keeps it.
type storedRevision struct {
	HistoryEntry
	// Packed is the files as JSON, compressed with gzip; nil when they were too
	// large to be kept.
	Packed []byte `json:"packed,omitempty"`
	// record is its document.
	record ledger.Record
}

func revisionName(nr int) string {
	if nr == 0 {
		return ""
	}
	return fmt.Sprint(nr)
}

func historyKey(nr int) string { return fmt.Sprintf("%s%08d", historyPrefix, nr) }

// past reads the history, the oldest revision first. A document that cannot be
// read is left out and logged.
func (k *PolicyKeeper) past(ctx context.Context) ([]storedRevision, error) {
	records, _, err := k.store.List(ctx, historyPrefix)
	if err != nil {
		return nil, fmt.Errorf("read policy history: %w", err)
	}
	var out []storedRevision
	for _, r := range records {
		s := storedRevision{record: r}
		if err := json.Unmarshal(r.Value, &s); err != nil || historyKey(s.Nr) != r.Key {
			k.logger.Error("a revision in the policy history cannot be read", "key", r.Key, "error", err)
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b storedRevision) int { return cmp.Compare(a.Nr, b.Nr) })
	return out, nil
}

func newHistoryEntry(past []storedRevision, revision Revision, changes []budget.Change, restored int) HistoryEntry {
	e := HistoryEntry{Nr: 1, Revision: revision, Changes: []string{}, Restored: restored}
	if len(past) > 0 {
		e.Nr = past[len(past)-1].Nr + 1
	}
	for i, c := range changes {
		if i == changesKept && len(changes) > changesKept+1 {
			e.Changes = append(e.Changes, fmt.Sprintf("... and %d more", len(changes)-changesKept))
			break
		}
		e.Changes = append(e.Changes, clipLine(c.String()))
	}
	return e
}

// clipLine bounds one line of the history.
func clipLine(text string) string {
	const most = 400
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return text
}

// historyWrites adds an entry and removes those beyond the bounds.
func historyWrites(past []storedRevision, e HistoryEntry, files []budgetspec.File) []ledger.Write {
	value, err := json.Marshal(storedRevision{HistoryEntry: e, Packed: pack(files)})
	if err == nil && len(value) > ledger.MaxValue {
		value, err = json.Marshal(storedRevision{HistoryEntry: e})
	}
	if err != nil {
		return nil // strings and numbers always encode
	}
	writes := []ledger.Write{{Key: historyKey(e.Nr), Value: value}}
	total := len(value)
	for i := len(past) - 1; i >= 0; i-- {
		total += len(past[i].record.Value)
		if (len(past)-i >= historyKept || total > historyBytes) && len(writes) < 10 {
			writes = append(writes, ledger.Write{Key: past[i].record.Key, Version: past[i].record.Version})
		}
	}
	return writes
}

// fits reports whether one transaction takes the writes.
func fits(writes []ledger.Write) bool {
	total := 0
	for _, w := range writes {
		total += len(w.Value)
	}
	return len(writes)+auditWrites <= ledger.MaxWrites && total <= commitBytes
}

func pack(files []budgetspec.File) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	if json.NewEncoder(zip).Encode(files) != nil || zip.Close() != nil {
		return nil // neither fails on a buffer
	}
	return out.Bytes()
}

func unpack(packed []byte) ([]budgetspec.File, error) {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack files: %w", err)
	}
	var files []budgetspec.File
	if err := json.NewDecoder(io.LimitReader(zip, 4*uploadMax)).Decode(&files); err != nil {
		return nil, fmt.Errorf("unpack files: %w", err)
	}
	return files, nil
}

// keepHistory adds the policy in force to the history if its newest revision is
// another one: after an edit in the store, and after an apply whose history did
// not fit into its commit. Every agent tries; one succeeds, with the audit record.
func (k *PolicyKeeper) keepHistory(ctx context.Context, before *budget.Policy, s *PolicyState) {
	for range commitAttempts {
		past, err := k.past(ctx)
		if err != nil {
			k.logger.Warn("policy history not written", "error", err)
			return
		}
		if len(past) > 0 && past[len(past)-1].Digest == s.Policy.Revision {
			return
		}
		revision := s.Revision
		revision.Digest = s.Policy.Revision
		if revision.Time.IsZero() {
			revision.Time = k.now().UTC()
		}
		e := newHistoryEntry(past, revision, budget.Compare(before, s.Policy), 0)
		var events []AuditEvent
		if revision.Author == actorKVEdit {
			events = []AuditEvent{{At: k.now(), Kind: "policy.edited", Actor: actorKVEdit, Subject: revisionName(e.Nr),
				Text: fmt.Sprintf("the policy was edited in the store: revision %s", short(revision.Digest))}}
		}
		err = k.chain.commit(ctx, ledger.Fence{}, historyWrites(past, e, s.Files), events...)
		switch {
		case err == nil:
			return
		case !errors.Is(err, ledger.ErrConflict):
			k.logger.Warn("policy history not written", "error", err)
			return
		}
	}
}

// History lists the revisions that are kept, the newest first.
func (k *PolicyKeeper) History(ctx context.Context) ([]HistoryEntry, error) {
	past, err := k.past(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]HistoryEntry, 0, len(past))
	for _, s := range slices.Backward(past) {
		out = append(out, s.HistoryEntry)
	}
	return out, nil
}

// PastPolicy is one revision with its files.
type PastPolicy struct {
	HistoryEntry
	Files []budgetspec.File `json:"files"`
}

// PolicyAt is the revision with a number.
func (k *PolicyKeeper) PolicyAt(ctx context.Context, nr int) (PastPolicy, error) {
	past, err := k.past(ctx)
	if err != nil {
		return PastPolicy{}, err
	}
	for _, s := range past {
		if s.Nr != nr {
			continue
		}
		if s.Packed == nil {
			return PastPolicy{}, refusal(http.StatusConflict, "the files of revision %d were too large to be kept; take them from version control%s", nr, commitOf(s.Revision))
		}
		files, err := unpack(s.Packed)
		if err != nil {
			return PastPolicy{}, fmt.Errorf("revision %d: %w", nr, err)
		}
		return PastPolicy{s.HistoryEntry, files}, nil
	}
	return PastPolicy{}, refusal(http.StatusNotFound, "there is no revision %d; `governor budget history` lists those that are kept", nr)
}

func commitOf(r Revision) string {
	if r.Commit == "" {
		return ""
	}
	return ", commit " + r.Commit
}

// RollbackRequest asks for the files of an older revision to be applied.
type RollbackRequest struct {
	// Revision is a number of the history.
	Revision int `json:"revision"`
	// Version of the policy that it replaces.
	Version string `json:"version"`
}

// Rollback applies the files of an older revision as a new one.
func (k *PolicyKeeper) Rollback(ctx context.Context, who api.Caller, r RollbackRequest) error {
	old, err := k.PolicyAt(ctx, r.Revision)
	if err != nil {
		return err
	}
	return k.apply(ctx, old.Files, r.Version, origin{author: who.Accessor, names: who.Names, commit: old.Commit, restored: old.Nr})
}
