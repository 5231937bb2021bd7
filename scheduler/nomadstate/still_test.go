package nomadstate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/cluster"
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

// scripted is a Nomad whose first answer about allocations takes a while to be made, and
// which never answers queries that wait if it hangs.
type scripted struct {
	mu    sync.Mutex
	index uint64
	slow  time.Duration
	hang  bool
}

func (n *scripted) get() uint64 { n.mu.Lock(); defer n.mu.Unlock(); return n.index }

func (n *scripted) Query(endpoint string, out any, q *api.QueryOptions) (*api.QueryMeta, error) {
	if n.hang && q.WaitIndex > 0 { // the connection is dead: nothing ever comes back
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	sleep(q.Context(), map[bool]time.Duration{true: n.slow, false: 0}[endpoint == "/v1/allocations" && q.WaitIndex == 0])
	index := uint64(5)
	if endpoint == "/v1/allocations" {
		index = n.get()
	}
	if q.WaitIndex >= index {
		sleep(q.Context(), q.WaitTime)
		if endpoint == "/v1/allocations" {
			index = n.get()
		}
	}
	if q.Context().Err() != nil {
		return nil, q.Context().Err()
	}
	return &api.QueryMeta{LastIndex: index}, json.Unmarshal([]byte(`[]`), out)
}

func (n *scripted) Response(string, *api.QueryOptions) (io.ReadCloser, error) {
	return nil, errors.New("nobody asks")
}

func TestASnapshotFromBeforeTheFirstAnswerIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &scripted{index: 7, slow: 200 * time.Millisecond}
		s := &Shared{now: time.Now, nomad: n, still: newStill(time.Now)}
		s.read = func(context.Context) (cluster.Snapshot, error) {
			return cluster.Snapshot{Warnings: []string{string(rune('0' + n.get()))}}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		go s.Follow(ctx)
		time.Sleep(50 * time.Millisecond) // index is asked for
		first, err := s.SnapshotSince(t.Context(), time.Now())
		must.NoError(t, err)
		must.Eq(t, []string{"7"}, first.Warnings)
		time.Sleep(50 * time.Millisecond)
		n.mu.Lock()
		n.index = 9
		n.mu.Unlock() // an allocation is placed
		time.Sleep(time.Hour)
		again, err := s.SnapshotSince(t.Context(), time.Now())
		must.NoError(t, err)
		must.Eq(t, []string{"9"}, again.Warnings, must.Sprint("an hour later"))
		cancel()
		synctest.Wait()
	})
}

func TestNoAnswerIsNoNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &scripted{index: 7, hang: true}
		s := &Shared{now: time.Now, nomad: n, still: newStill(time.Now)}
		ctx, cancel := context.WithCancel(t.Context())
		go s.Follow(ctx)
		time.Sleep(time.Second)
		at := time.Now()
		time.Sleep(10 * time.Minute)
		known := s.still.since(at)
		cancel()
		synctest.Wait()
		must.False(t, known, must.Sprint("ten minutes after the last answer"))
	})
}

// A process that was suspended has heard nothing, and does not know what it missed.
func TestWhatWasHeardLongAgoIsNotKnown(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	s := newStill(func() time.Time { return now })
	for _, table := range stillTables {
		s.hear(table)
	}
	must.True(t, s.since(now))
	now = now.Add(stillSilence + time.Second)
	must.False(t, s.since(now))
	s.hear(stillTables[0])
	must.False(t, s.since(now), must.Sprint("of one table nothing is heard yet"))
	s.hear(stillTables[1])
	must.True(t, s.since(now))
}
