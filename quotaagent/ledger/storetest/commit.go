package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

func testCompareAndSet(t *testing.T, store Store) {
	ctx := t.Context()
	must.Eq(t, ledger.Record{Key: "hold/1"}, read(t, store, "hold/1"))

	create := []ledger.Write{{Key: "hold/1", Value: []byte("one")}}
	must.NoError(t, store.Commit(ctx, noFence, create))
	first := read(t, store, "hold/1")
	must.Eq(t, "one", string(first.Value))
	must.Positive(t, first.Version)
	mustConflict(t, store.Commit(ctx, noFence, create))

	update := []ledger.Write{{Key: "hold/1", Value: []byte("two"), Version: first.Version}}
	must.NoError(t, store.Commit(ctx, noFence, update))
	second := read(t, store, "hold/1")
	must.Eq(t, "two", string(second.Value))
	must.NotEq(t, first.Version, second.Version)
	mustConflict(t, store.Commit(ctx, noFence, update))

	mustConflict(t, store.Commit(ctx, noFence, []ledger.Write{{Key: "hold/1", Version: first.Version}}))
	mustConflict(t, store.Commit(ctx, noFence, []ledger.Write{{Key: "hold/1"}}))
	must.NoError(t, store.Commit(ctx, noFence, []ledger.Write{{Key: "hold/1", Version: second.Version}}))
	must.Eq(t, ledger.Record{Key: "hold/1"}, read(t, store, "hold/1"))
	mustConflict(t, store.Commit(ctx, noFence, []ledger.Write{{Key: "hold/1", Value: []byte("x"), Version: second.Version}}))
}

func testConflictWritesNothing(t *testing.T, store Store) {
	kept, gone := put(t, store, "balance/a", "10"), put(t, store, "hold/gone", "h")
	stale := put(t, store, "balance/b", "10")
	fresh := put(t, store, "balance/b", "11")
	bad := ledger.Write{Key: "balance/b", Value: []byte("9"), Version: stale.Version}
	good := []ledger.Write{
		{Key: "balance/a", Value: []byte("9"), Version: kept.Version},
		{Key: "hold/new", Value: []byte("h")},
		{Key: "hold/gone", Version: gone.Version},
	}
	for position := range len(good) + 1 {
		writes := append(append(append([]ledger.Write{}, good[:position]...), bad), good[position:]...)
		mustConflict(t, store.Commit(t.Context(), noFence, writes))
		got, err := store.Read(t.Context(), "balance/a", "balance/b", "hold/new", "hold/gone")
		must.NoError(t, err)
		must.Eq(t, []ledger.Record{kept, fresh, {Key: "hold/new"}, gone}, got)
	}
}

func testDeleteOfGone(t *testing.T, store Store) {
	old := put(t, store, "hold/1", "h")
	remove := []ledger.Write{{Key: "hold/1", Version: old.Version}}
	must.NoError(t, store.Commit(t.Context(), noFence, remove))
	// A hold that another already voided must not be voided again: the second
	// commit would give its budgets back twice.
	mustConflict(t, store.Commit(t.Context(), noFence, append(remove, ledger.Write{Key: "balance/a", Value: []byte("0")})))
	must.Zero(t, read(t, store, "balance/a").Version)
}

func testEqualBytes(t *testing.T, store Store) {
	seen := map[uint64]bool{}
	for range 4 {
		record := put(t, store, "balance/a", "same")
		must.False(t, seen[record.Version], must.Sprintf("version %d twice", record.Version))
		seen[record.Version] = true
	}
}

func testRecreate(t *testing.T, store Store) {
	seen := map[uint64]bool{}
	for range 4 {
		record := put(t, store, "hold/1", "same")
		must.False(t, seen[record.Version], must.Sprintf("version %d twice", record.Version))
		seen[record.Version] = true
		must.NoError(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "hold/1", Version: record.Version}}))
	}
}

func testEmptyValue(t *testing.T, store Store) {
	must.NoError(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "a/empty", Value: []byte{}}}))
	record := read(t, store, "a/empty")
	must.Positive(t, record.Version)
	// Not nil: written back as read, the record would be deleted.
	must.True(t, record.Value != nil && len(record.Value) == 0)
	listed, _, err := store.List(t.Context(), "a/")
	must.NoError(t, err)
	must.Eq(t, []ledger.Record{record}, listed)
	must.True(t, listed[0].Value != nil)
}

func testLargest(t *testing.T, store Store) {
	fences, end := leadForever(t, store, "large")
	defer end()
	fence := within(t, 5*time.Second, "the first leader", fences)
	var creates, deletes []ledger.Write
	var keys []string
	for i := range ledger.MaxWrites {
		keys = append(keys, fmt.Sprintf("run/%02d", i))
		creates = append(creates, ledger.Write{Key: keys[i], Value: []byte(strings.Repeat("v", 5000))})
	}
	must.NoError(t, store.Commit(t.Context(), fence, creates))
	records, err := store.Read(t.Context(), append(keys, "run/absent")...)
	must.NoError(t, err)
	must.Len(t, ledger.MaxWrites+1, records)
	for i, record := range records[:ledger.MaxWrites] {
		must.Eq(t, keys[i], record.Key)
		must.Len(t, 5000, record.Value)
		deletes = append(deletes, ledger.Write{Key: record.Key, Version: record.Version})
	}
	must.NoError(t, store.Commit(t.Context(), fence, deletes))
	left, _, err := store.List(t.Context(), "run/")
	must.NoError(t, err)
	must.Len(t, 0, left)
	must.Len(t, 350<<10, put(t, store, "policy/big", strings.Repeat("p", 350<<10)).Value)
}

func testRules(t *testing.T, store Store) {
	many := make([]ledger.Write, ledger.MaxWrites+1)
	for i := range many {
		many[i] = ledger.Write{Key: "k" + strconv.Itoa(i), Value: []byte("v")}
	}
	cases := map[string][]ledger.Write{
		"too many writes": many,
		"a key twice":     {{Key: "a", Value: []byte("v")}, {Key: "a", Value: []byte("w")}},
		"an empty key":    {{Key: "", Value: []byte("v")}},
		"a large value":   {{Key: "a", Value: make([]byte, ledger.MaxValue+1)}},
	}
	plain := func(name string, err error) {
		must.Error(t, err, must.Sprint(name))
		must.False(t, errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrUnavailable), must.Sprint(name, err))
	}
	for name, writes := range cases {
		plain(name, store.Commit(t.Context(), noFence, writes))
	}
	_, err := store.Read(t.Context(), "a", "")
	plain("read an empty key", err)
	_, err = store.Read(t.Context(), strings.Split(strings.Repeat("k ", 64)+"k", " ")...)
	plain("read 65 keys", err)
	_, _, err = store.List(t.Context(), "/a")
	plain("list behind a slash", err)
	_, err = store.Watch(t.Context(), "/a", 0)
	plain("watch behind a slash", err)
	all, _, err := store.List(t.Context(), "")
	must.NoError(t, err)
	must.Len(t, 0, all)
}

// testConditionsOnly: a commit may hold only conditions, as "still no such key"
// or "still the leader"; it must not pass unchecked because it writes nothing.
func testConditionsOnly(t *testing.T, store Store) {
	must.NoError(t, store.Commit(t.Context(), noFence, nil))
	must.NoError(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "hold/1"}}))
	put(t, store, "hold/1", "h")
	mustConflict(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "hold/1"}}))
	mustConflict(t, store.Commit(t.Context(), ledger.Fence{Session: "made-up"}, nil))
}

// testCheck: what a decision has read and does not write must be as it was, or
// nothing is written.
func testCheck(t *testing.T, store Store) {
	old := put(t, store, "balance/lender", "10")
	now := put(t, store, "balance/lender", "20")
	check := func(key string, version uint64) []ledger.Write {
		return []ledger.Write{{Key: key, Version: version, Check: true}}
	}
	must.NoError(t, store.Commit(t.Context(), noFence, check("balance/lender", now.Version)))
	must.NoError(t, store.Commit(t.Context(), noFence, check("balance/absent", 0)))
	must.Eq(t, now, read(t, store, "balance/lender"), must.Sprint("a check is no write"))
	must.Zero(t, read(t, store, "balance/absent").Version)

	wrong := map[string][]ledger.Write{
		"an older version":               check("balance/lender", old.Version),
		"a key that is not there":        check("balance/absent", now.Version),
		"a key that should not be there": check("balance/lender", 0),
	}
	for name, checks := range wrong {
		mustConflict(t, store.Commit(t.Context(), noFence, checks))
		borrow := append(checks, ledger.Write{Key: "hold/1", Value: []byte("h")})
		mustConflict(t, store.Commit(t.Context(), noFence, borrow))
		must.Zero(t, read(t, store, "hold/1").Version, must.Sprint(name))
	}
	right := append(check("balance/lender", now.Version), ledger.Write{Key: "hold/1", Value: []byte("h")})
	must.NoError(t, store.Commit(t.Context(), noFence, right))
	must.Eq(t, "h", string(read(t, store, "hold/1").Value))
	must.Error(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: "a", Value: []byte("v"), Check: true}}))
}

func testCommitVersion(t *testing.T, store Store) {
	seen := put(t, store, "balance/a", "1")
	gone := put(t, store, "hold/gone", "h")
	version, err := store.CommitVersion(t.Context(), noFence, []ledger.Write{
		{Key: "balance/a", Value: []byte("2"), Version: seen.Version},
		{Key: "hold/gone", Version: gone.Version},
		{Key: "hold/absent", Check: true},
		{Key: "hold/new", Value: []byte("n")},
	})
	must.NoError(t, err)
	must.Eq(t, read(t, store, "balance/a").Version, version)
	must.Eq(t, read(t, store, "hold/new").Version, version)
	next, err := store.CommitVersion(t.Context(), noFence, []ledger.Write{{Key: "balance/a", Value: []byte("3"), Version: version}})
	must.NoError(t, err)
	must.Greater(t, version, next)
	for name, writes := range map[string][]ledger.Write{"nothing": nil, "a check": {{Key: "balance/a", Version: next, Check: true}}} {
		none, err := store.CommitVersion(t.Context(), noFence, writes)
		must.NoError(t, err, must.Sprint(name))
		must.Zero(t, none, must.Sprint(name))
	}
	_, err = store.CommitVersion(t.Context(), noFence, []ledger.Write{{Key: "balance/a", Value: []byte("4"), Version: version}})
	mustConflict(t, err)
}

func testIncrements(t *testing.T, store Store) {
	const workers, each = 8, 12
	keys := []string{"balance/a", "balance/b"}
	increment := func() error {
		records, err := store.Read(t.Context(), keys...)
		if err != nil {
			return err
		}
		var writes []ledger.Write
		for _, r := range records {
			n, _ := strconv.Atoi(string(r.Value)) // absent counts as 0
			writes = append(writes, ledger.Write{Key: r.Key, Value: []byte(strconv.Itoa(n + 1)), Version: r.Version})
		}
		return store.Commit(t.Context(), noFence, writes)
	}
	failed := make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				switch err := increment(); {
				case err == nil:
					done++
				case !errors.Is(err, ledger.ErrConflict):
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		must.NoError(t, err)
	}
	for _, key := range keys {
		must.Eq(t, strconv.Itoa(workers*each), string(read(t, store, key).Value))
	}
}

func testConsistentRead(t *testing.T, store Store) {
	keys := []string{"balance/a", "balance/b", "balance/c"}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for n := range 60 {
			records, err := store.Read(t.Context(), keys...)
			if err != nil {
				t.Error(err)
				return
			}
			var writes []ledger.Write
			for _, r := range records {
				writes = append(writes, ledger.Write{Key: r.Key, Value: []byte(strconv.Itoa(n)), Version: r.Version})
			}
			if err := store.Commit(t.Context(), noFence, writes); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	for ctx.Err() == nil {
		records, err := store.Read(t.Context(), keys...)
		must.NoError(t, err)
		must.Eq(t, string(records[0].Value), string(records[1].Value))
		must.Eq(t, string(records[0].Value), string(records[2].Value))
		listed, _, err := store.List(t.Context(), "balance/")
		must.NoError(t, err)
		for _, r := range listed {
			must.Eq(t, string(listed[0].Value), string(r.Value))
		}
	}
}

func testEndedContext(t *testing.T, store Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.ErrorIs(t, store.Commit(ctx, noFence, []ledger.Write{{Key: "a", Value: []byte("v")}}), ledger.ErrUnavailable)
	_, err := store.Read(ctx, "a")
	must.ErrorIs(t, err, context.Canceled)
	_, _, err = store.List(ctx, "")
	must.ErrorIs(t, err, context.Canceled)
}
