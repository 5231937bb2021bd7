package agent

import (
	"maps"
	"strings"
	"time"
)

const (
	// rememberHolds is how many holds are remembered at most, and for how long: a
	// submission is settled seconds after it was admitted.
	rememberHolds = 4096
	holdsFor      = 15 * time.Second
	// grantsFor is how old the list of grants may be. A refusal never rests on a
	// remembered one.
	grantsFor = time.Second
	// distrustFor is how many groups do not use the memory after it was wrong.
	distrustFor = 32
)

// memory is what the books wrote last, so that it need not be read again. It is a
// guess: other agents write too. A commit compares versions, so that a wrong
// guess costs an attempt and never the truth. It belongs to whoever has the turn.
type memory struct {
	docs     map[string]memo
	holds    int
	distrust int
	grants   []grantAt
	grantsAt time.Time
}

type memo struct {
	document
	at time.Time
}

func newMemory() memory { return memory{docs: make(map[string]memo)} }

func (m *memory) recall(key string, now time.Time) (document, bool) {
	r, ok := m.docs[key]
	if !ok {
		return document{}, false
	}
	if lasting(key) {
		return r.document, true
	}
	age := now.Sub(r.at)
	return r.document, age >= 0 && age < holdsFor
}

// lasting reports whether a document is remembered for good: there are few of its
// kind, and every commit needs some of them.
func lasting(key string) bool {
	return strings.HasPrefix(key, balancePrefix) || strings.HasPrefix(key, commitPrefix)
}

// distrusted reports whether the memory has been wrong lately.
func (m *memory) distrusted() bool { return m.distrust > 0 }

// distrustAll forgets everything: some of it was wrong, or may be.
func (m *memory) distrustAll() {
	*m = newMemory()
	m.distrust = distrustFor
}

func (m *memory) forget(key string) { delete(m.docs, key) }

// keep remembers a document as it is in the store now.
func (m *memory) keep(key string, value any, version uint64, now time.Time) {
	if !lasting(key) {
		m.holds++
	}
	if m.holds > rememberHolds {
		maps.DeleteFunc(m.docs, func(key string, _ memo) bool { return !lasting(key) })
		m.holds = 0
	}
	if value == nil {
		version = 0
	}
	m.docs[key] = memo{document{version: version, value: value}, now}
}

func (m *memory) recallGrants(now time.Time) ([]grantAt, bool) {
	age := now.Sub(m.grantsAt)
	return m.grants, !m.grantsAt.IsZero() && age >= 0 && age < grantsFor
}

func (m *memory) keepGrants(grants []grantAt, now time.Time) { m.grants, m.grantsAt = grants, now }

func (m *memory) forgetGrants() { m.grants, m.grantsAt = nil, time.Time{} }
