package agent

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// lossy is a store that loses the next commits, or their answers, or delivers them late.
type lossy struct {
	*memStore
	mu     sync.Mutex
	before int // commits that are lost
	after  int // commits whose answer is lost
	late   int // commits that are under way until land
	kept   func()
}

// land delivers the last commit that is under way.
func (s *lossy) land() {
	if s.kept != nil {
		s.kept()
	}
	s.kept = nil
}

func (s *lossy) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := s.CommitVersion(ctx, fence, writes)
	return err
}

func (s *lossy) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	s.mu.Lock()
	before, after, late := s.before > 0, s.after > 0, s.late > 0
	s.before, s.after, s.late = max(0, s.before-1), max(0, s.after-1), max(0, s.late-1)
	s.mu.Unlock()
	if late {
		s.kept = func() { _, _ = s.memStore.CommitVersion(ctx, fence, writes) }
		return 0, fmt.Errorf("%w: no answer yet", ledger.ErrUnavailable)
	}
	if before {
		return 0, fmt.Errorf("%w: the request is lost", ledger.ErrUnavailable)
	}
	version, err := s.memStore.CommitVersion(ctx, fence, writes)
	if after && err == nil {
		return 0, fmt.Errorf("%w: the answer is lost", ledger.ErrUnavailable)
	}
	return version, err
}

// truth is every hold in the store, by job, with its version.
func (s *memStore) truth(t must.T) map[string]uint64 {
	records, _, err := s.List(context.Background(), holdPrefix)
	must.NoError(t, err)
	out := map[string]uint64{}
	for _, r := range records {
		h, err := decodeHold(r)
		must.NoError(t, err)
		out[fmt.Sprint(h.JobID, " ", int64(h.Estimate.Cost))] = r.Version
	}
	return out
}

func seen(t must.T, b *books) map[string]uint64 {
	holds, _, unreadable, err := b.listHolds(context.Background())
	must.NoError(t, err)
	must.NoError(t, unreadable)
	out := map[string]uint64{}
	for _, h := range holds {
		out[fmt.Sprint(h.JobID, " ", int64(h.Estimate.Cost))] = h.version
	}
	return out
}

// put gives a job a hold of some size, or ends it with none.
func put(b *books, job string, size int64) error {
	return b.update(context.Background(), ledger.Fence{}, target{key: holdKey("default", job), budget: "acme"}, func(v view) (change, error) {
		if size == 0 {
			if v.hold.Hold == nil {
				return change{}, errNoChange
			}
			return change{}, nil
		}
		next := ledger.Hold{ID: b.newID(), Namespace: "default", JobID: job, Budget: "acme", State: ledger.Held}
		if v.hold.Hold != nil {
			next = *v.hold.Hold
		}
		next.Estimate.Cost = quantity.Amount(size)
		return change{hold: &next}, nil
	})
}

// Whoever commits, and whatever is lost on the way, a list has what is in the store.
func TestListedHoldsAreThoseOfTheStore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		store := newMemStore()
		now := time.Unix(1_800_000_000, 0)
		var all []*books
		var wires []*lossy
		for range 3 {
			wire := &lossy{memStore: store}
			b := newBooks(wire, func() time.Time { return now })
			b.wait = func(context.Context, time.Duration) {}
			all, wires = append(all, b), append(wires, wire)
		}
		var restore func()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at := rapid.IntRange(0, 2).Draw(t, "process")
			switch rapid.SampledFrom([]string{"put", "put", "put", "end", "list", "lost", "unanswered", "late", "lands", "meanwhile", "gone", "back up", "restore", "new"}).Draw(t, "step") {
			case "put":
				_ = put(all[at], rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "job"), rapid.Int64Range(1, 9).Draw(t, "size"))
			case "end":
				_ = put(all[at], rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "job"), 0)
			case "list":
				must.Eq(t, store.truth(t), seen(t, all[at]))
			case "lost":
				wires[at].before = rapid.SampledFrom([]int{1, 10}).Draw(t, "requests")
			case "unanswered":
				wires[at].after = rapid.SampledFrom([]int{1, 10}).Draw(t, "answers")
			case "late":
				wires[at].late = 4 // a commit and all that it is sent again
			case "lands":
				wires[at].land()
			case "meanwhile": // others commit while this one waits for an answer
				other, size := all[(at+1)%3], rapid.Int64Range(0, 9).Draw(t, "size")
				all[at].wait = func(context.Context, time.Duration) {
					_ = put(other, "a", size)
					must.Eq(t, store.truth(t), seen(t, all[at]))
				}
				wires[at].after = 1
				_ = put(all[at], "a", rapid.Int64Range(1, 9).Draw(t, "own size"))
				all[at].wait = func(context.Context, time.Duration) {}
			case "gone":
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "time"))
			case "back up":
				restore = store.backup()
			case "restore":
				if restore != nil {
					restore()
					all[at].doubt.Store(true) // the watch of one sees that; the others do not lead
					for _, b := range all {
						if b != all[at] {
							now = now.Add(listAfter + time.Second) // and believe what they had for as long
						}
					}
				}
			case "new": // a process starts anew
				all[at] = newBooks(wires[at], func() time.Time { return now })
				all[at].wait = func(context.Context, time.Duration) {}
			}
		}
		for _, b := range all {
			must.Eq(t, store.truth(t), seen(t, b))
			must.Eq(t, store.truth(t), seen(t, b))
		}
	})
}

func TestHoldsAreNotListedWhileNobodyElseCommits(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	mine, other := newBooks(store, clock), newBooks(store, clock)
	lists := func(b *books) (n int) {
		before := store.lists
		seen(t, b)
		return store.lists - before
	}
	must.EqOp(t, 2, lists(mine), must.Sprint("the marks, and the holds"))
	for i := range int64(5) {
		must.NoError(t, put(mine, fmt.Sprint("job-", i), i+1))
		must.EqOp(t, 1, lists(mine))
	}
	must.Eq(t, store.truth(t), seen(t, mine))
	must.NoError(t, put(other, "job-9", 9))
	must.EqOp(t, 2, lists(mine))
	must.EqOp(t, 1, lists(mine))
	now = now.Add(listAfter + time.Second)
	must.EqOp(t, 2, lists(mine), must.Sprint("somebody may have mended a document by hand"))
}

// A list has whatever was committed before it began, also while others commit.
func TestListsWhileOthersCommit(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	all := []*books{newBooks(store, time.Now), newBooks(store, time.Now)}
	var group sync.WaitGroup
	for n, b := range all {
		for lane := range 2 {
			group.Go(func() {
				random := rand.New(rand.NewSource(int64(10*n + lane)))
				job := fmt.Sprintf("job-%d-%d", n, lane)
				for range 150 {
					size := random.Int63n(5)
					if err := put(b, job, size); err != nil {
						t.Error(err)
						return
					}
					got := ""
					for key := range seen(t, b) {
						if strings.HasPrefix(key, job+" ") {
							got = key
						}
					}
					want := ""
					if size > 0 {
						want = fmt.Sprint(job, " ", size)
					}
					if got != want {
						t.Errorf("a list after the commit of %q has %q", want, got)
						return
					}
				}
			})
		}
	}
	group.Wait()
	for _, b := range all {
		must.Eq(t, store.truth(t), seen(t, b))
	}
}

// A commit that lands when nobody waits for it any more is in the store, and others may
// commit before an answer that was lost is known.
func TestListsKnowOfCommitsThatLandLate(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	wire := &lossy{memStore: store}
	b, other := newBooks(wire, time.Now), newBooks(store, time.Now)
	b.wait = func(context.Context, time.Duration) {}
	must.NoError(t, put(b, "a", 1))
	seen(t, b)
	wire.late = 4
	must.Error(t, put(b, "b", 5))
	seen(t, b)
	wire.land()
	must.NoError(t, put(b, "c", 3))
	must.Eq(t, store.truth(t), seen(t, b))

	b.wait = func(context.Context, time.Duration) {
		must.NoError(t, put(other, "x", 9))
		must.Eq(t, store.truth(t), seen(t, b))
	}
	wire.after = 1
	must.NoError(t, put(b, "x", 5))
	must.Eq(t, store.truth(t), seen(t, b))
}

// An agent that does not lead is not told that the store was restored.
func TestAListAfterARestore(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b, other := newBooks(store, time.Now), newBooks(store, time.Now)
	must.NoError(t, put(other, "x", 9))
	seen(t, b)
	restore := store.backup()
	must.NoError(t, put(b, "y", 5))
	restore()
	must.Eq(t, store.truth(t), seen(t, b))
}

// between is a store that lets something happen after the holds were read and before the
// list is there.
type between struct {
	*memStore
	then func()
}

func (s *between) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	records, _, err := s.memStore.List(ctx, prefix)
	index := uint64(1)
	for _, r := range records {
		index = max(index, r.Version)
	}
	if then := s.then; then != nil && prefix == holdPrefix {
		s.then = nil
		then()
	}
	return records, index, err
}

// What this process commits while a list is on its way is in what is kept of it.
func TestAListKnowsWhatWasCommittedMeanwhile(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	wire := &between{memStore: store}
	b := newBooks(wire, time.Now)
	must.NoError(t, put(b, "ends", 1))
	must.NoError(t, put(b, "grows", 1))
	wire.then = func() {
		must.NoError(t, put(b, "new", 3))
		must.NoError(t, put(b, "grows", 2))
		must.NoError(t, put(b, "ends", 0))
	}
	b.forgetList()
	seen(t, b) // as it was before
	must.Eq(t, store.truth(t), seen(t, b))
	must.EqOp(t, 1, func() int { before := store.lists; seen(t, b); return store.lists - before }(), must.Sprint("from memory"))
}
