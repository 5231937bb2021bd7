package agent

import (
	"context"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// standAside is for how long an agent that gave the lead up does not ask for it again:
// longer than the session of an agent that died lives, so that whoever waits for the
// lock has it by then.
const standAside = 15 * time.Second

// leadership is this agent's candidacy for the lead.
//
//	candidate ──lock won──► leads ──lock lost──► candidate
//	    ▲                     │ stepDown
//	    └──── standAside ◄────┘ lock given up
type leadership struct {
	now func() time.Time
	// aside is standAside.
	aside time.Duration

	mu sync.Mutex
	// since is when it began to lead, zero while it does not.
	since time.Time
	// end ends the candidacy, and released is closed once the lock is given up after
	// that; nil while it does not lead.
	end      context.CancelFunc
	released chan struct{}
}

func newLeadership(now func() time.Time) *leadership {
	return &leadership{now: now, aside: standAside}
}

// run leads whenever this agent has the lock, until ctx ends.
func (l *leadership) run(ctx context.Context, store Store, name string, lead func(ctx context.Context, fence ledger.Fence)) {
	for ctx.Err() == nil {
		l.candidacy(ctx, store, name, lead)
		pause(ctx, l.aside)
	}
}

// candidacy asks for the lock and leads, again and again, until ctx ends or the agent
// steps down.
func (l *leadership) candidacy(ctx context.Context, store Store, name string, lead func(ctx context.Context, fence ledger.Fence)) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	released := make(chan struct{})
	defer close(released) // the store has given the lock up when Lead returns
	store.Lead(ctx, name, func(ctx context.Context, fence ledger.Fence) {
		l.set(l.now(), end, released)
		defer l.set(time.Time{}, nil, nil)
		lead(ctx, fence)
	})
}

func (l *leadership) set(since time.Time, end context.CancelFunc, released chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since, l.end, l.released = since, end, released
}

// stepDown gives the lead up. The channel is closed once the lock is free; false for an
// agent that does not lead.
func (l *leadership) stepDown() (released <-chan struct{}, leads bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == nil {
		return nil, false
	}
	l.end()
	return l.released, true
}

// leadsSince is when this agent began to lead; a zero time if it does not.
func (l *leadership) leadsSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}
