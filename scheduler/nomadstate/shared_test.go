package nomadstate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// slow is a Nomad of which each reading takes until it is let go.
type slow struct {
	began  atomic.Int32
	letGo  chan struct{}
	failed error
}

func (s *slow) read(ctx context.Context) (cluster.Snapshot, error) {
	s.began.Add(1)
	select {
	case <-s.letGo:
	case <-ctx.Done():
	}
	return cluster.Snapshot{Warnings: []string{"x"}}, s.failed
}

func newShared(t *testing.T) (*Shared, *slow, *atomic.Int64) {
	t.Helper()
	nomad, clock := &slow{letGo: make(chan struct{})}, &atomic.Int64{}
	return &Shared{read: nomad.read, now: func() time.Time { return time.Unix(clock.Load(), 0) }}, nomad, clock
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 1000 {
		if condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(what)
}

// Those who come while one is read do not get it, for it may be older than they are,
// and share the one that is read after it.
func TestWhoComesMeanwhileSharesTheNextSnapshot(t *testing.T) {
	t.Parallel()
	s, nomad, _ := newShared(t)
	var group sync.WaitGroup
	ask := func() {
		group.Go(func() {
			_, err := s.Snapshot(t.Context(), 0)
			must.NoError(t, err)
		})
	}
	ask()
	eventually(t, "the first is read", func() bool { return nomad.began.Load() == 1 })
	for range 20 {
		ask()
	}
	eventually(t, "the others wait for the next", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.next != nil
	})
	time.Sleep(10 * time.Millisecond)
	must.EqOp(t, 1, nomad.began.Load())
	nomad.letGo <- struct{}{}
	nomad.letGo <- struct{}{}
	group.Wait()
	must.EqOp(t, 2, nomad.began.Load())
}

func TestASnapshotThatIsYoungEnoughIsNotReadAgain(t *testing.T) {
	t.Parallel()
	s, nomad, clock := newShared(t)
	clock.Store(100)
	close(nomad.letGo)
	for range 3 {
		_, err := s.Snapshot(t.Context(), 2*time.Second)
		must.NoError(t, err)
	}
	must.EqOp(t, 1, nomad.began.Load())
	clock.Store(103)
	_, err := s.Snapshot(t.Context(), 2*time.Second)
	must.NoError(t, err)
	must.EqOp(t, 2, nomad.began.Load())
	_, err = s.Snapshot(t.Context(), 0)
	must.NoError(t, err)
	must.EqOp(t, 3, nomad.began.Load(), must.Sprint("none is young enough"))
	s.Expire()
	_, err = s.Snapshot(t.Context(), 2*time.Second)
	must.NoError(t, err)
	must.EqOp(t, 4, nomad.began.Load(), must.Sprint("something was learnt since"))
	_, err = s.Snapshot(t.Context(), 2*time.Second)
	must.NoError(t, err)
	must.EqOp(t, 4, nomad.began.Load(), must.Sprint("and is in this one"))
	clock.Store(50) // the clock stepped back
	_, err = s.Snapshot(t.Context(), 2*time.Second)
	must.NoError(t, err)
	must.EqOp(t, 5, nomad.began.Load())
}

// What was begun ahead is what those get who came before that, and nobody else.
func TestASnapshotIsBegunAhead(t *testing.T) {
	t.Parallel()
	s, nomad, clock := newShared(t)
	clock.Store(100)
	came := time.Unix(100, 0)
	s.Begin()
	eventually(t, "it is read", func() bool { return nomad.began.Load() == 1 })
	close(nomad.letGo)
	for range 3 {
		_, err := s.SnapshotSince(t.Context(), came)
		must.NoError(t, err)
	}
	must.EqOp(t, 1, nomad.began.Load())
	clock.Store(101)
	_, err := s.SnapshotSince(t.Context(), time.Unix(101, 0))
	must.NoError(t, err)
	must.EqOp(t, 2, nomad.began.Load(), must.Sprint("the first is older"))
	s.Expire()
	_, err = s.SnapshotSince(t.Context(), came)
	must.NoError(t, err)
	must.EqOp(t, 3, nomad.began.Load(), must.Sprint("something was learnt since"))
}

func TestASnapshotThatIsBegunWhileAnotherIsReadIsTheNext(t *testing.T) {
	t.Parallel()
	s, nomad, clock := newShared(t)
	clock.Store(100)
	s.Begin()
	eventually(t, "the first is read", func() bool { return nomad.began.Load() == 1 })
	clock.Store(101)
	s.Begin()
	got := make(chan error)
	go func() {
		_, err := s.SnapshotSince(t.Context(), time.Unix(101, 0))
		got <- err
	}()
	nomad.letGo <- struct{}{}
	eventually(t, "the second is read", func() bool { return nomad.began.Load() == 2 })
	select {
	case <-got:
		t.Fatal("it got the first")
	case <-time.After(10 * time.Millisecond):
	}
	nomad.letGo <- struct{}{}
	must.NoError(t, <-got)
	must.EqOp(t, 2, nomad.began.Load())
}

func TestTheNextSnapshotIsReadBeforeItIsNeeded(t *testing.T) {
	t.Parallel()
	s, nomad, clock := newShared(t)
	clock.Store(100)
	young := func() {
		_, err := s.Snapshot(t.Context(), 4*time.Second)
		must.NoError(t, err)
	}
	nomad.letGo = make(chan struct{}, 1)
	nomad.letGo <- struct{}{}
	young()
	clock.Store(102)
	young()
	must.EqOp(t, 1, nomad.began.Load(), must.Sprint("half as old"))
	clock.Store(103)
	for range 3 {
		young() // nobody waits, although the second reading has not ended
	}
	eventually(t, "one is read", func() bool { return nomad.began.Load() == 2 })
	s.mu.Lock()
	nomad.failed = errors.New("no leader") // the reading sees it once it is let go
	s.mu.Unlock()
	nomad.letGo <- struct{}{}
	eventually(t, "it has failed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.running == nil
	})
	for range 3 {
		young()
	}
	must.EqOp(t, 2, nomad.began.Load(), must.Sprint("not again and again"))
}

func TestAFailedReadingIsToldToThoseWhoWaitAndIsNotKept(t *testing.T) {
	t.Parallel()
	s, nomad, _ := newShared(t)
	nomad.failed = errors.New("no leader")
	close(nomad.letGo)
	_, err := s.Snapshot(t.Context(), time.Hour)
	must.ErrorIs(t, err, nomad.failed)
	_, err = s.Snapshot(t.Context(), time.Hour)
	must.ErrorIs(t, err, nomad.failed)
	must.EqOp(t, 2, nomad.began.Load())
}

func TestWhoDoesNotWaitAnyMoreLeaves(t *testing.T) {
	t.Parallel()
	s, nomad, _ := newShared(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Snapshot(ctx, 0)
	must.ErrorIs(t, err, context.Canceled)
	close(nomad.letGo)
	eventually(t, "it is read all the same", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.last != nil
	})
}
