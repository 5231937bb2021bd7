package nomadstate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// tables is a Nomad with nothing but the indexes of its tables, which answers queries that
// wait as Nomad does.
type tables struct {
	mu      sync.Mutex
	index   map[string]uint64
	changed chan struct{} // closed at the next change
	failing error
	asked   int
	hasty   bool // answers at once, whatever is asked
}

func newTables() *tables {
	return &tables{index: map[string]uint64{"/v1/nodes": 5}, changed: make(chan struct{})}
}

func (n *tables) change(table string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index[table] += 10
	n.failing = err
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *tables) questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *tables) Query(endpoint string, out any, q *api.QueryOptions) (*api.QueryMeta, error) {
	n.mu.Lock()
	n.asked++
	for q.WaitIndex > 0 && n.index[endpoint] <= q.WaitIndex && n.failing == nil && !n.hasty {
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-q.Context().Done():
			return nil, q.Context().Err()
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	if n.failing != nil {
		return nil, n.failing
	}
	return &api.QueryMeta{LastIndex: n.index[endpoint]}, json.Unmarshal([]byte(`[{}]`), out)
}

func (n *tables) Response(string, *api.QueryOptions) (io.ReadCloser, error) {
	return nil, errors.New("nobody asks")
}

func followed(t *testing.T, n *tables) (*Shared, *slow) {
	t.Helper()
	nomad := &slow{letGo: make(chan struct{})}
	close(nomad.letGo)
	s := &Shared{read: nomad.read, now: time.Now, nomad: n, still: newStill(time.Now)}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { s.Follow(ctx) })
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	return s, nomad
}

// still waits until it is known that nothing changes.
func (s *Shared) wait(t *testing.T) {
	t.Helper()
	eventually(t, "it is known that nothing changes", func() bool { return s.still.since(time.Now()) })
}

func TestWhatHasNotChangedIsNotReadAgain(t *testing.T) {
	t.Parallel()
	n := newTables() // no allocation was ever made: that table has the index 0
	s, nomad := followed(t, n)
	s.wait(t)
	ask := func(read int32) {
		t.Helper()
		came := time.Now()
		s.Begin()
		_, err := s.SnapshotSince(t.Context(), came)
		must.NoError(t, err)
		_, err = s.Snapshot(t.Context(), time.Nanosecond)
		must.NoError(t, err)
		must.EqOp(t, read, nomad.began.Load())
	}
	ask(1)
	ask(1)
	_, err := s.Snapshot(t.Context(), 0)
	must.NoError(t, err)
	must.EqOp(t, 2, nomad.began.Load(), must.Sprint("who wants to be certain is"))
	for i, table := range stillTables {
		n.change(table, nil)
		eventually(t, "the change is heard of", func() bool { return !s.still.since(time.Now()) })
		s.wait(t)
		ask(int32(3 + i))
		ask(int32(3 + i))
	}
	s.Expire()
	ask(5)
}

func TestWhereNothingIsKnownEverythingIsRead(t *testing.T) {
	t.Parallel()
	n := newTables()
	s, nomad := followed(t, n)
	s.wait(t)
	n.change("/v1/nodes", errors.New("no leader"))
	eventually(t, "the error is heard of", func() bool { return !s.still.since(time.Now()) })
	for i := range 3 {
		_, err := s.SnapshotSince(t.Context(), time.Now())
		must.NoError(t, err)
		must.EqOp(t, int32(i+1), nomad.began.Load())
	}
	var none *still
	must.False(t, none.since(time.Now()))
}

// A server that does not wait is not asked all the time.
func TestAServerThatAnswersAtOnceIsAskedNowAndThen(t *testing.T) {
	t.Parallel()
	n := newTables()
	n.hasty, n.index["/v1/allocations"] = true, 9
	s, _ := followed(t, n)
	s.wait(t)
	before := n.questions()
	time.Sleep(3 * stillPause)
	must.LessEq(t, before+8, n.questions())
}
