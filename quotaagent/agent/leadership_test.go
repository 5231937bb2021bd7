package agent

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// oneLock is a store with a lock that one caller has at a time, as Consul's.
type oneLock struct {
	Store
	taken chan struct{}
}

// Lead implements Store.
func (s *oneLock) Lead(ctx context.Context, _ string, run func(ctx context.Context, fence ledger.Fence)) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case s.taken <- struct{}{}:
		}
		run(ctx, ledger.Fence{})
		<-s.taken
		pause(ctx, 500*time.Millisecond)
	}
}

// Who steps down frees the lock, has ended its work by then, and does not ask for it
// again before its time is over. Nothing is left running: synctest waits for all.
func TestWhoStepsDownStandsAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &oneLock{taken: make(chan struct{}, 1)}
		var running sync.WaitGroup
		begin := func(l *leadership) (stop context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			running.Go(func() {
				l.run(ctx, store, "", func(ctx context.Context, _ ledger.Fence) {
					<-ctx.Done()
					time.Sleep(time.Second) // what it was doing
				})
			})
			return cancel
		}
		leads := func(l *leadership) bool {
			synctest.Wait()
			return !l.leadsSince().IsZero()
		}
		a, b := newLeadership(time.Now), newLeadership(time.Now)
		stopA := begin(a)
		must.True(t, leads(a))
		stopB := begin(b)
		must.False(t, leads(b))
		_, led := b.stepDown()
		must.False(t, led)

		released, led := a.stepDown()
		must.True(t, led)
		synctest.Wait()
		select {
		case <-released:
			t.Fatal("the lock is free while its holder works")
		default:
		}
		must.False(t, leads(b))
		<-released
		must.True(t, leads(b))
		must.False(t, leads(a))

		stopB()
		time.Sleep(a.aside - time.Millisecond)
		must.False(t, leads(b))
		must.False(t, leads(a), must.Sprint("its time is not over"))
		time.Sleep(time.Millisecond)
		must.True(t, leads(a))
		stopA()
		running.Wait()
		must.True(t, a.leadsSince().IsZero())
	})
}
