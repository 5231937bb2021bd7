package nomadstate

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	// stillWait is how long Nomad is asked to wait for a change: a server that has lost
	// touch with the others is believed no longer than that.
	stillWait = 5 * time.Second
	// stillSilence is how long no answer is no news: Nomad adds up to a sixteenth to the wait.
	stillSilence = 2 * stillWait
	// stillPause is the least time between two questions about a table that changes, and
	// stillRetry that after an error: where something changes all the time nothing is
	// gained by hearing of it.
	stillPause = 100 * time.Millisecond
	stillRetry = time.Second
)

// still knows for how long nodes and allocations have been as they are, as far as this
// process can be told: Nomad answers a query that waits as soon as the table changes. What
// was read since then is what Nomad would say now, but for the moment that its answer
// takes. Methods may be called from several goroutines.
type still struct {
	now func() time.Time

	mu     sync.Mutex
	tables map[string]table // missing where nothing is known
}

// table has not changed since a time, as an answer said at a later one.
type table struct{ since, heard time.Time }

func newStill(now func() time.Time) *still { return &still{now: now, tables: map[string]table{}} }

// stillTables are what a snapshot is made of.
var stillTables = []string{"/v1/nodes", "/v1/allocations"}

// since reports whether nothing has changed from a time until now, as far as answers of the
// last moments say.
func (s *still) since(at time.Time) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range stillTables {
		t, known := s.tables[name]
		if !known || at.Before(t.since) || s.now().Sub(t.heard).Abs() > stillSilence {
			return false
		}
	}
	return true
}

// hear notes an answer: that a table is as it was before, or what it is from now on.
func (s *still) hear(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tables[name]
	if t.heard = s.now(); !known {
		t.since = t.heard
	}
	s.tables[name] = t
}

func (s *still) unknown(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, table)
}

// run follows all tables until ctx ends.
func (s *still) run(ctx context.Context, nomad querier) {
	var following sync.WaitGroup
	for _, table := range stillTables {
		following.Go(func() {
			for ctx.Err() == nil {
				pause := stillPause
				if err := s.follow(ctx, nomad, table); err != nil {
					pause = stillRetry
				}
				s.unknown(table)
				sleep(ctx, pause)
			}
		})
	}
	following.Wait()
}

// follow looks at a table and waits until it changes.
func (s *still) follow(ctx context.Context, nomad querier, table string) error {
	index, err := look(ctx, nomad, table, 0)
	if err != nil {
		return err
	}
	s.hear(table) // what was read before this answer may be older than it
	for ctx.Err() == nil {
		began := s.now()
		now, err := look(ctx, nomad, table, index)
		if err != nil || now != index {
			return err
		}
		s.hear(table)
		if s.now().Sub(began).Abs() < stillWait/2 {
			sleep(ctx, stillPause) // something on the way to Nomad does not wait
		}
	}
	return nil
}

// look is the index of a table, once it is not the given one any more, or at the end of
// stillWait. One element of it is enough for that.
func look(ctx context.Context, nomad querier, table string, index uint64) (uint64, error) {
	q := &api.QueryOptions{Namespace: api.AllNamespacesNamespace, PerPage: 1, WaitIndex: index, WaitTime: stillWait}
	if index == 0 {
		q.WaitTime = 0
	}
	ctx, cancel := context.WithTimeout(ctx, stillSilence)
	defer cancel()
	var elements []struct{}
	meta, err := nomad.Query(table, &elements, q.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return max(1, meta.LastIndex), nil // a table that was never written has 0, which nobody can wait for
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
