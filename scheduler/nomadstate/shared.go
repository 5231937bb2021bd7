package nomadstate

import (
	"context"
	"sync"
	"time"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// readWithin bounds the reading of a snapshot, whoever waits for it.
const readWithin = 30 * time.Second

// currentFor bounds the age of a snapshot that nothing has changed since: what the agent's
// token may see can change without a change of Nomad's tables.
const currentFor = 30 * time.Second

// Shared gives one snapshot to all who ask at the same time: reading one is most of the
// work of a decision, and the larger the cluster the more. Methods may be called from
// several goroutines.
type Shared struct {
	read  func(ctx context.Context) (cluster.Snapshot, error)
	now   func() time.Time
	nomad querier
	still *still

	mu sync.Mutex
	// last is the latest that was read, running the one that is being read, and next
	// the one that is read after it, for those who came in between.
	last, running, next *reading
	// ahead is when one was begun that nobody waited for.
	ahead time.Time
	// news counts what was learnt that earlier snapshots do not say.
	news int
}

// reading is one snapshot for whoever waits for it.
type reading struct {
	began    time.Time
	news     int
	done     chan struct{}
	snapshot cluster.Snapshot
	err      error
}

// NewShared shares the snapshots of a reader.
func NewShared(r *Reader, now func() time.Time) *Shared {
	return &Shared{read: r.Snapshot, now: now, nomad: r.nomad, still: newStill(now)}
}

// Follow has Nomad tell until ctx ends when nodes and allocations change: what has not
// changed since it was read need not be read again.
func (s *Shared) Follow(ctx context.Context) { s.still.run(ctx, s.nomad) }

// Snapshot returns what Nomad said at most maxAge before the call, or after it. An
// error means that Nomad could not be read. The snapshot is shared: do not change it.
// Once it is half as old as that the next one is read, so that those who come again and
// again need not wait.
func (s *Shared) Snapshot(ctx context.Context, maxAge time.Duration) (cluster.Snapshot, error) {
	return s.join(maxAge).wait(ctx)
}

// SnapshotSince returns what Nomad said at some time after since, or before it if nothing
// has changed until now.
func (s *Shared) SnapshotSince(ctx context.Context, since time.Time) (cluster.Snapshot, error) {
	return s.joinSince(since).wait(ctx)
}

// Begin begins to read a snapshot for SnapshotSince.
func (s *Shared) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.current() {
		s.anew()
	}
}

// current reports whether the last snapshot is what would be read now; the caller holds the
// lock.
func (s *Shared) current() bool {
	r := s.last
	return r != nil && r.news == s.news && !r.snapshot.Incomplete && s.now().Sub(r.began).Abs() <= currentFor && s.still.since(r.began)
}

func (r *reading) wait(ctx context.Context) (cluster.Snapshot, error) {
	select {
	case <-r.done:
		return r.snapshot, r.err
	case <-ctx.Done():
		return cluster.Snapshot{}, ctx.Err()
	}
}

// Expire says that Nomad has changed since it was read: whoever asks from now on gets
// what is read after this.
func (s *Shared) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news++
}

func (s *Shared) join(maxAge time.Duration) *reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	fresh := func(r *reading) bool {
		return r != nil && maxAge > 0 && now.Sub(r.began) <= maxAge && !now.Before(r.began) && r.news == s.news
	}
	switch {
	case maxAge > 0 && s.current():
		return s.last
	case fresh(s.last):
		if s.running == nil && now.Sub(s.last.began) > maxAge/2 && now.Sub(s.ahead).Abs() > maxAge/2 {
			s.ahead = now
			s.start(&reading{done: make(chan struct{})})
		}
		return s.last
	case fresh(s.running):
		return s.running
	}
	return s.anew()
}

func (s *Shared) joinSince(since time.Time) *reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current() {
		return s.last
	}
	for _, r := range []*reading{s.last, s.running} {
		if r != nil && !r.began.Before(since) && r.news == s.news {
			return r
		}
	}
	return s.anew()
}

// anew is what is read from now on; the caller holds the lock.
func (s *Shared) anew() *reading {
	if s.running == nil {
		s.start(&reading{done: make(chan struct{})})
		return s.running
	}
	if s.next == nil { // what is being read may have been read before the call
		s.next = &reading{done: make(chan struct{})}
	}
	return s.next
}

// start reads; the caller holds the lock. It ends within readWithin.
func (s *Shared) start(r *reading) {
	r.began, r.news, s.running = s.now(), s.news, r
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), readWithin)
		defer cancel()
		r.snapshot, r.err = s.read(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running = nil; r.err == nil {
			s.last = r
		}
		if next := s.next; next != nil {
			s.next = nil
			s.start(next)
		}
		close(r.done)
	}()
}
