package storetest

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// model is the slow, obvious store: a map of what must be there. Versions are
// the store's own; the model only knows that they are right when it says so.
type model struct {
	store   Store
	prefix  string
	records map[string]ledger.Record
	past    map[string][]uint64 // every version that a key ever had
}

// testModel runs random operations on the store and on a map. Each run works
// under its own prefix, so that one store serves them all.
func testModel(t *testing.T, store Store) {
	var runs atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{
			store: store, prefix: fmt.Sprintf("run%06d/", runs.Add(1)),
			records: map[string]ledger.Record{}, past: map[string][]uint64{},
		}
		steps := rapid.IntRange(1, 8).Draw(rt, "steps")
		for range steps {
			m.commit(t, rt)
			m.compare(t, rt)
		}
	})
}

func (m *model) key(n int) string {
	return m.prefix + []string{"a", "a/b", "b", "b/c/d", "c"}[n]
}

// commit draws writes with right, stale and invented versions.
func (m *model) commit(t *testing.T, rt *rapid.T) {
	numbers := rapid.SliceOfNDistinct(rapid.IntRange(0, 4), 1, 4, rapid.ID[int]).Draw(rt, "keys")
	var writes []ledger.Write
	right := true
	for _, n := range numbers {
		key := m.key(n)
		w := ledger.Write{Key: key, Version: m.records[key].Version}
		if rapid.IntRange(0, 3).Draw(rt, "delete") > 0 {
			w.Value = rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(rt, "value")
			if w.Value == nil {
				w.Value = []byte{}
			}
		}
		if past := m.past[key]; len(past) > 0 && rapid.IntRange(0, 9).Draw(rt, "stale") == 0 {
			w.Version = rapid.SampledFrom(past).Draw(rt, "version")
		}
		if w.Value == nil && rapid.Bool().Draw(rt, "check") {
			w.Check = true
		}
		right = right && w.Version == m.records[key].Version
		writes = append(writes, w)
	}
	err := m.store.Commit(t.Context(), noFence, writes)
	if !right {
		must.True(rt, errors.Is(err, ledger.ErrConflict), must.Sprintf("want a conflict, got %v for %v", err, writes))
		return
	}
	must.NoError(rt, err)
	for _, w := range writes {
		m.written(t, rt, w)
	}
}

func (m *model) written(t *testing.T, rt *rapid.T, w ledger.Write) {
	if w.Check {
		return
	}
	if w.Value == nil {
		delete(m.records, w.Key)
		return
	}
	got, err := m.store.Read(t.Context(), w.Key)
	must.NoError(rt, err)
	must.SliceNotContains(rt, m.past[w.Key], got[0].Version)
	m.records[w.Key] = ledger.Record{Key: w.Key, Value: w.Value, Version: got[0].Version}
	m.past[w.Key] = append(m.past[w.Key], got[0].Version)
}

func (m *model) compare(t *testing.T, rt *rapid.T) {
	for _, prefix := range []string{m.prefix, m.prefix + "a", m.prefix + "b/"} {
		want := []ledger.Record{}
		for key, record := range m.records {
			if strings.HasPrefix(key, prefix) {
				want = append(want, record)
			}
		}
		sort.Slice(want, func(i, j int) bool { return want[i].Key < want[j].Key })
		got, _, err := m.store.List(t.Context(), prefix)
		must.NoError(rt, err)
		must.Eq(rt, want, append([]ledger.Record{}, got...))
	}
}
