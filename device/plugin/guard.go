package plugin

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// guard runs calls that may never return. Each kind of call has at most one
// goroutine: while one hangs, the next of its kind is refused at once, so a
// stuck driver costs one goroutine a kind and not one a second.
type guard struct {
	mu      sync.Mutex
	running map[string]time.Time // by kind: since when
	wg      sync.WaitGroup
	now     func() time.Time
}

func newGuard(now func() time.Time) *guard {
	return &guard{running: map[string]time.Time{}, now: now}
}

// hangError says that a call has not returned.
type hangError struct {
	kind string
	age  time.Duration
}

func (e hangError) Error() string {
	return fmt.Sprintf("nvml_hang: %s has not returned for %s", e.kind, e.age.Truncate(time.Millisecond))
}

// call runs fn under the guard and waits for it, at most that long. When it
// returns an error fn may still run; what it returns then is dropped.
func call[T any](ctx context.Context, g *guard, kind string, timeout time.Duration, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var zero T
	if err := g.begin(kind); err != nil {
		return zero, err
	}
	results := make(chan result, 1)
	go func() {
		defer g.wg.Done()
		value, err := fn()
		g.end(kind)
		results <- result{value, err}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.value, r.err
	case <-timer.C:
		return zero, hangError{kind, timeout}
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

func (g *guard) begin(kind string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if since, busy := g.running[kind]; busy {
		return hangError{kind, g.now().Sub(since)}
	}
	g.running[kind] = g.now()
	g.wg.Add(1)
	return nil
}

func (g *guard) end(kind string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, kind)
}

// wait waits for all calls, at most that long, and reports whether all have
// returned. A call into a dead driver cannot be interrupted.
func (g *guard) wait(most time.Duration) bool {
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
