package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// Store is what the suite tests.
type Store interface {
	Read(ctx context.Context, keys ...string) ([]ledger.Record, error)
	List(ctx context.Context, prefix string) (records []ledger.Record, index uint64, err error)
	Watch(ctx context.Context, prefix string, index uint64) (uint64, error)
	Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error
	CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (version uint64, err error)
	Lead(ctx context.Context, name string, run func(ctx context.Context, fence ledger.Fence))
	Leader(ctx context.Context) (string, error)
	Close() error
}

// noFence asks for no proof of leadership.
var noFence = ledger.Fence{}

// Run runs the whole contract. Each call of open must give a store with no
// records and no leader; open closes what it opens through t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Store) {
	tests := map[string]func(*testing.T, Store){
		"create, update and delete compare versions":        testCompareAndSet,
		"a conflict leaves nothing half-written":            testConflictWritesNothing,
		"a delete of what is gone conflicts":                testDeleteOfGone,
		"equal bytes still make a new version":              testEqualBytes,
		"a key made again has a version never seen before":  testRecreate,
		"empty values are values":                           testEmptyValue,
		"the largest commits fit":                           testLargest,
		"requests against the rules are refused":            testRules,
		"concurrent increments lose none":                   testIncrements,
		"a read sees a commit whole or not at all":          testConsistentRead,
		"a list is sorted and holds exactly the prefix":     testList,
		"a watch wakes within a second of each change":      testWatchWakes,
		"a watch sees a delete":                             testWatchDelete,
		"a watch of a quiet prefix does not spin":           testWatchQuiet,
		"a watch is not woken by every write elsewhere":     testWatchNoise,
		"a watch ends with its context":                     testWatchCancel,
		"an ended context is no success":                    testEndedContext,
		"the leader's fence holds and a made-up one fails":  testFence,
		"leadership passes on within a second of a stop":    testHandOver,
		"only one leads at a time":                          testOneLeader,
		"a leader whose work returns leads again":           testLeadAgain,
		"random operations agree with a map (model test)":   testModel,
		"a commit of conditions only is checked":            testConditionsOnly,
		"a check compares a version and writes nothing":     testCheck,
		"a commit tells the version of what it wrote":       testCommitVersion,
		"the leader's lock is no record":                    testLeaderHidden,
		"watch indexes of list and watch are from one line": testIndexLine,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// BenchmarkCommit measures one commit of 5 writes: the balances of a path of
// four budgets and one hold.
func BenchmarkCommit(b *testing.B, store Store) {
	keys := []string{"balance/a", "balance/a/b", "balance/a/b/c", "balance/a/b/c/d"}
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		records, err := store.Read(b.Context(), keys...)
		must.NoError(b, err)
		writes := []ledger.Write{{Key: fmt.Sprintf("hold/%09d", n), Value: make([]byte, 500)}}
		for _, r := range records {
			writes = append(writes, ledger.Write{Key: r.Key, Value: make([]byte, 2000), Version: r.Version})
		}
		b.StartTimer()
		must.NoError(b, store.Commit(b.Context(), noFence, writes))
	}
}

// put writes one record unconditionally and returns it as read back.
func put(t testing.TB, store Store, key, value string) ledger.Record {
	t.Helper()
	old := read(t, store, key)
	must.NoError(t, store.Commit(t.Context(), noFence, []ledger.Write{{Key: key, Value: []byte(value), Version: old.Version}}))
	return read(t, store, key)
}

func read(t testing.TB, store Store, key string) ledger.Record {
	t.Helper()
	records, err := store.Read(t.Context(), key)
	must.NoError(t, err)
	must.Len(t, 1, records)
	must.Eq(t, key, records[0].Key)
	return records[0]
}

func mustConflict(t testing.TB, err error) {
	t.Helper()
	must.ErrorIs(t, err, ledger.ErrConflict)
	must.False(t, errors.Is(err, ledger.ErrUnavailable), must.Sprint("a conflict is no outage"))
}

// within fails the test unless the channel is served in time.
func within[T any](t testing.TB, limit time.Duration, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(limit):
		t.Fatalf("not within %v: %s", limit, what)
		panic("unreachable")
	}
}
