package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// groupMax is how many changes one commit takes at most, and groupBytes how
	// many bytes of documents: in base64 and with their keys they are well below the
	// 512 KiB that one transaction of Consul may have. A single change may be larger.
	groupMax   = ledger.MaxWrites - 1
	groupBytes = 320 << 10
	// resendWithin bounds how long a commit is sent again whose answer was lost, and
	// resends how often: new work must be refused soon when the store is gone.
	resendWithin = 3 * time.Second
	resends      = 3
	resendPause  = 50 * time.Millisecond
)

// committer is a store that tells the version of what it has written. One that
// does not is read again instead.
type committer interface {
	CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error)
}

// tryGroup makes the changes of a group and commits them. The requests that did
// not fit into the commit are returned; those that failed or changed nothing are
// finished. An error concerns all others.
func (b *books) tryGroup(ctx context.Context, fence ledger.Fence, group []*wish) (rest []*wish, err error) {
	s := newSheet(b, &b.memory)
	limit := len(group)
	for {
		if err := s.load(ctx, group[:limit], b.mark.key); err != nil {
			return group[limit:], err
		}
		made := b.makeAll(ctx, s, group[:limit])
		if len(made.stale) > 0 {
			s.refresh(made.stale)
			continue
		}
		limit = made.fits
		writes, err := s.writes()
		if err != nil {
			return group[limit:], err
		}
		if n := bytesOf(writes); limit > 1 && n > groupBytes {
			limit = max(1, min(limit-1, limit*groupBytes/n))
			s.again()
			continue
		}
		if err := b.commitSheet(ctx, fence, s, writes); err != nil {
			return group[limit:], err
		}
		for r, out := range made.results {
			r.entries, r.outbox, r.audit = out.entries, out.outbox, out.audit
			if out.err != nil {
				r.finish(out.err)
			} else if out.nothing {
				r.finish(nil)
			}
		}
		b.memory.distrust = max(0, b.memory.distrust-1)
		return group[limit:], nil
	}
}

// load puts on the sheet what the group needs. What a hold's own documents are is
// only known once the hold is there, so that it takes up to three rounds.
func (s *sheet) load(ctx context.Context, group []*wish, more ...string) error {
	s.know(group)
	if s.audited {
		more = append(more, auditHeadKey)
	}
	for {
		grants := false
		keys := []string(nil)
		for _, r := range group {
			_, missing, err := s.needs(r.target)
			if err != nil {
				continue // it fails alone, when its turn comes
			}
			keys = append(keys, missing...)
			grants = grants || r.target.policy != nil
		}
		for _, key := range more {
			if _, known := s.docs[key]; !known {
				keys = append(keys, key)
			}
		}
		if len(keys) == 0 && (!grants || s.grantsRead) {
			return nil
		}
		if err := s.read(ctx, keys, grants); err != nil {
			return err
		}
	}
}

// result is what became of one request of a group.
type result struct {
	err error
	// nothing says that there is nothing to write, and trusted that this may rest on what
	// is remembered.
	nothing, trusted bool
	entries          []ledger.Entry
	outbox           string
	audit            []AuditEvent
}

// makings are what became of a group in memory.
type makings struct {
	results map[*wish]result
	// fits is how many requests fit into one commit.
	fits int
	// stale are keys that must be read before the results count.
	stale []string
}

// makeAll makes the changes one after the other on the sheet.
func (b *books) makeAll(ctx context.Context, s *sheet, group []*wish) makings {
	m := makings{results: make(map[*wish]result, len(group)), fits: len(group)}
	for i, r := range group {
		out, delta, seen := b.makeOne(ctx, s, r)
		if delta != nil {
			if i > 0 && s.size(delta, seen) > groupMax {
				m.fits = i
				return m
			}
			s.accept(delta, seen)
		} else if !out.trusted {
			m.stale = append(m.stale, s.stale(r.target, seen)...)
		}
		if errors.Is(out.err, errChainUnread) {
			m.stale = append(m.stale, auditHeadKey)
		}
		m.results[r] = out
	}
	return m
}

// makeOne runs one mutation on the sheet as it is.
func (b *books) makeOne(ctx context.Context, s *sheet, r *wish) (result, map[string]any, []string) {
	n, missing, err := s.needs(r.target)
	if err == nil && len(missing) > 0 {
		// A change of the same group gave the hold another budget or run, which that
		// one's target has named: it is on the sheet already.
		err = fmt.Errorf("the books miss %v", missing)
	}
	if err != nil {
		return result{err: err}, nil, nil
	}
	v, seen := s.view(r.target, n)
	want, err := r.mutate(v)
	if err != nil {
		return outcome(err), nil, seen
	}
	if want.unplaced && n.queue != "" {
		seen = slices.DeleteFunc(seen, func(key string) bool { return key == n.queue })
	}
	p := posting{b: b, s: s, t: r.target, old: v.hold.Hold, want: want, delta: make(map[string]any)}
	if err := p.derive(ctx); err != nil {
		return outcome(err), nil, seen
	}
	return result{entries: p.out, outbox: p.outbox, audit: p.want.audit}, p.delta, seen
}

func outcome(err error) result {
	switch {
	case errors.Is(err, errNoChange):
		return result{nothing: true}
	case errors.Is(err, errNothingYet):
		return result{nothing: true, trusted: true}
	}
	return result{err: err}
}

func bytesOf(writes []ledger.Write) int {
	n := 0
	for _, w := range writes {
		n += len(w.Key) + len(w.Value)
	}
	return n
}

// commitSheet commits and remembers what is in the store now.
func (b *books) commitSheet(ctx context.Context, fence ledger.Fence, s *sheet, writes []ledger.Write) error {
	if len(writes) == 0 {
		return nil
	}
	if len(writes) > groupMax {
		return fmt.Errorf("the change compares and writes %d records, more than one commit can take (%d): make the cohorts on its path smaller", len(writes), groupMax)
	}
	value := b.mark.next(b.now())
	s.next[b.mark.key] = value
	encoded, err := value.encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", b.mark.key, err)
	}
	writes = append(writes, ledger.Write{Key: b.mark.key, Value: encoded, Version: s.docs[b.mark.key].version})
	begin := b.now()
	version, err := b.send(ctx, fence, writes, value)
	b.glances.wrote(writes)
	b.noteWritten(writes, s.next, version, err)
	if err != nil {
		return err
	}
	if version != 0 {
		b.glances.learn(s.next, version, begin)
	}
	for key, value := range s.next {
		switch {
		case strings.HasPrefix(key, auditRecordPrefix): // nobody asks for it again
		case version == 0: // the store does not say
			b.memory.forget(key)
		default:
			b.memory.keep(key, value, version, b.now())
			b.tellHold(s, key, value, version)
		}
	}
	for key, d := range s.docs { // who settles a submission asks for the place in the queue again
		if _, written := s.next[key]; !written && strings.HasPrefix(key, queuePrefix) && d.err == nil {
			b.memory.keep(key, d.value, d.version, b.now())
		}
	}
	return nil
}

// tellHold tells who wants to know that a hold is in the store like this now.
func (b *books) tellHold(s *sheet, key string, value any, version uint64) {
	if !strings.HasPrefix(key, holdPrefix) {
		return
	}
	h, _ := value.(*ledger.Hold)
	if h == nil {
		if last, ok := s.docs[key].value.(*ledger.Hold); ok {
			b.wrote(last.Namespace, last.JobID, heldAt{version: version})
		}
		return
	}
	b.wrote(h.Namespace, h.JobID, heldAt{h, version})
}

// send commits. When the answer is lost, the same commit is sent again: whichever
// of the two arrives first changes the versions that the other compares, so that
// at most one counts. A conflict may then be with ourselves, which the mark shows.
func (b *books) send(ctx context.Context, fence ledger.Fence, writes []ledger.Write, value markValue) (uint64, error) {
	begin := time.Now()
	for try := 0; ; try++ {
		version, err := b.commitOnce(ctx, fence, writes)
		switch {
		case errors.Is(err, ledger.ErrConflict) && try > 0:
			return b.ours(ctx, value, err)
		case !errors.Is(err, ledger.ErrUnavailable), ctx.Err() != nil, try == resends, time.Since(begin) > resendWithin:
			return version, err
		}
		b.wait(ctx, resendPause<<try)
	}
}

func (b *books) commitOnce(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (version uint64, err error) {
	begin := time.Now()
	defer func() { b.committed(time.Since(begin), err) }()
	if c, ok := b.store.(committer); ok {
		return c.CommitVersion(ctx, fence, writes)
	}
	return 0, b.store.Commit(ctx, fence, writes)
}

// ours tells whether a commit whose answer was lost is what a later one was in
// conflict with. Only this process writes its mark.
func (b *books) ours(ctx context.Context, value markValue, conflict error) (uint64, error) {
	records, err := b.store.Read(ctx, b.mark.key)
	if err != nil {
		return 0, fmt.Errorf("%w: after a lost answer: %w", ledger.ErrUnavailable, err)
	}
	if records[0].Version == 0 {
		return 0, conflict
	}
	found, err := decodeMark(records[0].Value)
	if err != nil || found.N != value.N {
		return 0, errors.Join(conflict, err)
	}
	return records[0].Version, nil
}

// mark is the record of this process's last commit. Every commit writes it, so
// that it can be told whether a commit whose answer was lost has happened.
type mark struct {
	key string
	n   int64
}

// markValue is the stored form: the number of the commit, and when it was made.
type markValue struct {
	N    int64 `json:"n"`
	AtMS int64 `json:"at_ms"`
}

func (m *mark) next(now time.Time) markValue {
	m.n++
	return markValue{N: m.n, AtMS: now.UnixMilli()}
}

func (v markValue) encode() ([]byte, error) { return json.Marshal(v) }

func decodeMark(value []byte) (markValue, error) {
	var v markValue
	if err := json.Unmarshal(value, &v); err != nil {
		return v, fmt.Errorf("decode the mark of a commit: %w", err)
	}
	return v, nil
}

// sortedKeys are the keys of what is posted for several runs, in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
