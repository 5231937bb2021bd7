package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// rememberedMax bounds what is remembered; the oldest makes room.
const rememberedMax = 4096

// remembered is what Nomad says about tokens, for a while, by the hash of the token.
type remembered[V any] struct {
	ttl   time.Duration
	now   func() time.Time
	group singleflight.Group

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownUntil[V]
	// order of insertion, for eviction.
	order [][sha256.Size]byte
}

type knownUntil[V any] struct {
	value V
	until time.Time
}

func newRemembered[V any](ttl time.Duration, now func() time.Time) *remembered[V] {
	return &remembered[V]{ttl: ttl, now: now, known: map[[sha256.Size]byte]knownUntil[V]{}}
}

// get returns what is known of a token, or asks. ask also says until when that can be
// true at most; zero means that nobody has set an end.
func (m *remembered[V]) get(ctx context.Context, token string, ask func(ctx context.Context) (V, time.Time, error)) (V, error) {
	hash := sha256.Sum256([]byte(token))
	if value, ok := m.lookup(hash); ok {
		return value, nil
	}
	// The question outlives this request, because others may wait for it.
	done := m.group.DoChan(string(hash[:]), func() (any, error) {
		until := m.now().Add(m.ttl) // counted from before Nomad looks: never longer
		value, expires, err := ask(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		if !expires.IsZero() && expires.Before(until) {
			until = expires
		}
		m.store(hash, value, until)
		return value, nil
	})
	select {
	case <-ctx.Done():
		return *new(V), fmt.Errorf("look at token: %w", ctx.Err())
	case result := <-done:
		if result.Err != nil {
			return *new(V), result.Err
		}
		return result.Val.(V), nil
	}
}

func (m *remembered[V]) lookup(key [sha256.Size]byte) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[key]
	if !ok || !m.now().Before(k.until) {
		return *new(V), false
	}
	return k.value, true
}

func (m *remembered[V]) store(key [sha256.Size]byte, value V, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.now().Before(until) {
		return
	}
	if _, ok := m.known[key]; !ok {
		if len(m.order) >= rememberedMax {
			delete(m.known, m.order[0])
			m.order = slices.Delete(m.order, 0, 1)
		}
		m.order = append(m.order, key)
	}
	m.known[key] = knownUntil[V]{value, until}
}
