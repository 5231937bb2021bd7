package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// leadForever campaigns until end is called, which waits for Lead to return.
// Each fence won comes through the channel.
func leadForever(t testing.TB, store Store, name string) (fences <-chan ledger.Fence, end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	won, done := make(chan ledger.Fence, 16), make(chan struct{})
	go func() {
		defer close(done)
		store.Lead(ctx, name, func(ctx context.Context, fence ledger.Fence) {
			won <- fence
			<-ctx.Done()
		})
	}()
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			within(t, 10*time.Second, "Lead of "+name+" to return", done)
		})
	}
	t.Cleanup(end)
	return won, end
}

func testFence(t *testing.T, store Store) {
	fences, end := leadForever(t, store, "one")
	fence := within(t, 5*time.Second, "the first leader", fences)
	must.NotEq(t, noFence, fence)
	name, err := store.Leader(t.Context())
	must.NoError(t, err)
	must.Eq(t, "one", name)

	write := func(fence ledger.Fence, value string) error {
		old := read(t, store, "run/1")
		return store.Commit(t.Context(), fence, []ledger.Write{{Key: "run/1", Value: []byte(value), Version: old.Version}})
	}
	must.NoError(t, write(fence, "by the leader"))
	must.NoError(t, write(noFence, "by anyone"))
	mustConflict(t, write(ledger.Fence{Session: "00000000-0000-0000-0000-000000000000"}, "by a stranger"))

	end()
	mustConflict(t, write(fence, "after the end"))
	name, err = store.Leader(t.Context())
	must.NoError(t, err)
	must.Eq(t, "", name)

	next, _ := leadForever(t, store, "two")
	newFence := within(t, 5*time.Second, "the second leader", next)
	must.NotEq(t, fence, newFence)
	mustConflict(t, write(fence, "by the deposed"))
	must.Eq(t, "by anyone", string(read(t, store, "run/1").Value))
	must.NoError(t, write(newFence, "by the new leader"))
}

func testHandOver(t *testing.T, store Store) {
	first, endFirst := leadForever(t, store, "one")
	within(t, 5*time.Second, "the first leader", first)
	second, endSecond := leadForever(t, store, "two")
	select {
	case <-second:
		t.Fatal("two leaders at once")
	case <-time.After(300 * time.Millisecond):
	}
	endFirst()
	within(t, time.Second, "the second leader after a clean stop", second)
	third, _ := leadForever(t, store, "three")
	endSecond()
	within(t, time.Second, "the third leader after a clean stop", third)
}

func testOneLeader(t *testing.T, store Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var leading, terms atomic.Int32
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two", "three"} {
		wg.Go(func() {
			store.Lead(ctx, name, func(context.Context, ledger.Fence) {
				if leading.Add(1) != 1 {
					t.Error("two leaders at once")
				}
				time.Sleep(20 * time.Millisecond) // long enough for another to overlap
				leading.Add(-1)
				if terms.Add(1) == 3 {
					cancel()
				}
			})
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	within(t, 20*time.Second, "three terms and the end of all candidates", done)
}

func testLeadAgain(t *testing.T, store Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var fences []ledger.Fence
	done := make(chan struct{})
	go func() {
		defer close(done)
		store.Lead(ctx, "one", func(_ context.Context, fence ledger.Fence) {
			if fences = append(fences, fence); len(fences) == 2 {
				cancel()
			}
		})
	}()
	within(t, 10*time.Second, "two terms", done)
	must.Len(t, 2, fences)
	must.NotEq(t, fences[0], fences[1])
}

func testLeaderHidden(t *testing.T, store Store) {
	fences, _ := leadForever(t, store, "one")
	within(t, 5*time.Second, "the first leader", fences)
	put(t, store, "leader-board", "v")
	records, _, err := store.List(t.Context(), "")
	must.NoError(t, err)
	must.Len(t, 1, records)
	must.Eq(t, "leader-board", records[0].Key)
	_, err = store.Read(t.Context(), "leader")
	must.Error(t, err)
	must.Error(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "leader", Value: []byte("me")}}))
}
