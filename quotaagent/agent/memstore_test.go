package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// memStore is a store in memory that counts what it is asked for. It can be given
// to several agents, and it can be set back to an earlier state, like a Consul
// that is restored from a snapshot.
type memStore struct {
	mu      sync.Mutex
	version uint64
	records map[string]ledger.Record
	changed chan struct{}
	// leader is the fence that counts, if it is set.
	leader ledger.Fence
	// reads, lists and commits are how often each was called.
	reads, lists, commits int
	// written are the keys that were written since the test emptied it, if it did.
	written map[string]bool
	// down makes all calls fail.
	down error
}

func newMemStore() *memStore {
	return &memStore{records: map[string]ledger.Record{}, changed: make(chan struct{})}
}

// transactions are the reads and the commits so far.
func (s *memStore) transactions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads + s.commits
}

// calls are the reads, lists and commits so far.
func (s *memStore) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads + s.lists + s.commits
}

// Read implements Store.
func (s *memStore) Read(_ context.Context, keys ...string) ([]ledger.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.down != nil {
		return nil, s.down
	}
	out := make([]ledger.Record, len(keys))
	for i, key := range keys {
		out[i] = s.records[key]
		out[i].Key = key
	}
	return out, nil
}

// List implements Store.
func (s *memStore) List(_ context.Context, prefix string) ([]ledger.Record, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if s.down != nil {
		return nil, 0, s.down
	}
	var out []ledger.Record
	for key, r := range s.records {
		if strings.HasPrefix(key, prefix) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b ledger.Record) int { return strings.Compare(a.Key, b.Key) })
	return out, max(1, s.version), nil
}

// Watch implements Store.
func (s *memStore) Watch(ctx context.Context, _ string, index uint64) (uint64, error) {
	for {
		s.mu.Lock()
		now, changed := max(1, s.version), s.changed
		s.mu.Unlock()
		switch {
		case now < index:
			return 0, nil
		case now > index:
			return now, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-changed:
		}
	}
}

// Commit implements Store.
func (s *memStore) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := s.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion implements committer.
func (s *memStore) CommitVersion(_ context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits++
	if s.down != nil {
		return 0, s.down
	}
	if fence != (ledger.Fence{}) && fence != s.leader {
		return 0, fmt.Errorf("%w: not the leader", ledger.ErrConflict)
	}
	for _, w := range writes {
		if s.records[w.Key].Version != w.Version {
			return 0, fmt.Errorf("%w: %s", ledger.ErrConflict, w.Key)
		}
	}
	s.version++
	for _, w := range writes {
		if s.written != nil && !w.Check {
			s.written[w.Key] = true
		}
		switch {
		case w.Check:
		case w.Value == nil:
			delete(s.records, w.Key)
		default:
			s.records[w.Key] = ledger.Record{Key: w.Key, Value: slices.Clone(w.Value), Version: s.version}
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return s.version, nil
}

// Lead implements Store: the caller leads at once.
func (s *memStore) Lead(ctx context.Context, _ string, run func(ctx context.Context, fence ledger.Fence)) {
	run(ctx, ledger.Fence{})
}

// Leader implements Store: nobody's name is kept.
func (s *memStore) Leader(context.Context) (string, error) { return "", nil }

// Close implements Store.
func (s *memStore) Close() error { return nil }

// backup is the state as it is now; the function returned restores it, with the
// index of that time.
func (s *memStore) backup() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, records := s.version, maps.Clone(s.records)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.version, s.records = version, maps.Clone(records)
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// counting counts the transactions of a store.
type counting struct {
	Store
	n atomic.Int64
}

// Read implements Store.
func (c *counting) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	c.n.Add(1)
	return c.Store.Read(ctx, keys...)
}

// Commit implements Store.
func (c *counting) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	c.n.Add(1)
	return c.Store.Commit(ctx, fence, writes)
}

// CommitVersion implements committer.
func (c *counting) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	c.n.Add(1)
	return c.Store.(committer).CommitVersion(ctx, fence, writes)
}
