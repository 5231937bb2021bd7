package storetest

import (
	"context"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

func testList(t *testing.T, store Store) {
	keys := []string{
		"hold/a", "hold/a/deep", "hold/b", "holder/x", "hol", "hold0", "balance/acme", "balance/acme/ml", "balance/acme-2",
		"odd/a b", "odd/50%", "odd/50%25", "odd/q?x=1", "odd/h#f", "odd/plus+", "odd/é", "odd/ü/日本", "odd/a&b", "odd/dots/../up", "odd//double",
	}
	for _, key := range keys {
		put(t, store, key, "v:"+key)
	}
	sort.Strings(keys)
	prefixes := []string{
		"", "h", "hold", "hold/", "hold/a", "balance/acme", "balance/acme/", "none/", "odd/", "odd/50%", "odd/q?",
		"odd/h#", "odd/a b", "odd/plus+", "odd/é", "odd/ü/", "odd/a&",
	}
	for _, prefix := range prefixes {
		records, index, err := store.List(t.Context(), prefix)
		must.NoError(t, err)
		must.Positive(t, index)
		var got, want []string
		for _, r := range records {
			got = append(got, r.Key)
			must.Eq(t, "v:"+r.Key, string(r.Value))
			must.Eq(t, read(t, store, r.Key).Version, r.Version)
		}
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		must.Eq(t, want, got, must.Sprintf("prefix %q", prefix))
	}
}

// watch runs one Watch on its own; the owner reads its end from the channel.
func watch(ctx context.Context, store Store, prefix string, index uint64) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := store.Watch(ctx, prefix, index)
		ended <- err
	}()
	return ended
}

func testWatchWakes(t *testing.T, store Store) {
	_, index, err := store.List(t.Context(), "policy/")
	must.NoError(t, err)
	for _, change := range []string{"policy/a", "policy/b", "policy/a"} {
		woken := watch(t.Context(), store, "policy/", index)
		put(t, store, change, "v")
		must.NoError(t, within(t, time.Second, "the watch of policy/ to see "+change, woken))
		var records []ledger.Record
		records, index, err = store.List(t.Context(), "policy/")
		must.NoError(t, err)
		must.SliceContainsFunc(t, records, change, func(r ledger.Record, key string) bool { return r.Key == key })
	}
}

func testWatchDelete(t *testing.T, store Store) {
	put(t, store, "hold/kept", "k")
	gone := put(t, store, "hold/gone", "g")
	_, index, err := store.List(t.Context(), "hold/")
	must.NoError(t, err)
	woken := watch(t.Context(), store, "hold/", index)
	must.NoError(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "hold/gone", Version: gone.Version}}))
	must.NoError(t, within(t, time.Second, "the watch to see a delete", woken))

	// A watch that begins only after the change must see it too.
	must.NoError(t, within(t, time.Second, "a late watch to see a delete", watch(t.Context(), store, "hold/", index)))
}

func testWatchQuiet(t *testing.T, store Store) {
	put(t, store, "policy/a", "v")
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	returns := 0
	for ctx.Err() == nil {
		_, index, err := store.List(t.Context(), "policy/")
		must.NoError(t, err)
		if _, err := store.Watch(ctx, "policy/", index); err == nil {
			returns++
		}
	}
	must.LessEq(t, 2, returns, must.Sprint("a watch may wake without a change, but not again and again"))
}

// testWatchNoise: nobody may be woken by each write of everybody, not even who
// waits for the first record under a prefix.
func testWatchNoise(t *testing.T, store Store) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var noise sync.WaitGroup
	defer noise.Wait()
	noise.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			// Late writes end with the context; what they return does not matter.
			_ = store.Commit(ctx, noFence, []ledger.Write{{Key: "elsewhere/" + strconv.Itoa(n), Value: []byte("v")}})
		}
	})
	returns := 0
	for ctx.Err() == nil {
		_, index, err := store.List(t.Context(), "policy/")
		must.NoError(t, err)
		if _, err := store.Watch(ctx, "policy/", index); err == nil {
			returns++
		}
	}
	must.LessEq(t, 6, returns)
}

func testWatchCancel(t *testing.T, store Store) {
	// With a record: a store may wake the watch of an empty prefix at any write.
	put(t, store, "policy/a", "v")
	_, index, err := store.List(t.Context(), "policy/")
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := watch(ctx, store, "policy/", index)
	select {
	case err := <-ended:
		t.Fatalf("the watch ended early: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	must.ErrorIs(t, within(t, time.Second, "the watch to end with its context", ended), context.Canceled)
}

// testIndexLine: the index that Watch returns may be watched from, index 0
// means "not looked yet", and an index from the future means "begin again".
func testIndexLine(t *testing.T, store Store) {
	put(t, store, "policy/a", "v")
	index, err := store.Watch(t.Context(), "policy/", 0)
	must.NoError(t, err)
	must.Positive(t, index)
	woken := watch(t.Context(), store, "policy/", index)
	put(t, store, "policy/a", "w")
	must.NoError(t, within(t, time.Second, "the watch from a watch's index", woken))
}
