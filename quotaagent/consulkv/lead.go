package consulkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// leadPause separates attempts after an error or a term, so that neither an
	// outage nor a leader whose work returns at once makes a busy loop.
	leadPause = 500 * time.Millisecond
	// lockDelay is the least that Consul takes; 0 means its default of 15 s. The
	// delay protects work that is not fenced, and ours is.
	lockDelay = time.Millisecond
	// campaignWait is how long one query for the lock's holder blocks. It is short
	// because a connection that died silently is only noticed at its end.
	campaignWait = 10 * time.Second
)

// Lead runs run while this call holds the leader's lock, again and again until
// ctx ends. The lock's value is name.
//
//	waiting ──lock free──► session + acquire ──won──► leading ──run returned──► waiting
//	   ▲                        │ lost                   │ session gone, lock gone,
//	   └────────────────────────┘                        │ or not renewed for a TTL:
//	                                                     └ run's ctx ends, wait for run
//
// A term always ends by destroying the session, which frees the lock at once;
// a session that could not be destroyed is tried again before the next term.
func (s *Store) Lead(ctx context.Context, name string, run func(ctx context.Context, fence ledger.Fence)) {
	c := &campaign{store: s, name: name}
	for reachable := true; ctx.Err() == nil; pause(ctx, leadPause) {
		err := c.attempt(ctx, run)
		switch {
		case err == nil || errors.Is(err, errLockTaken):
			reachable = true
		case ctx.Err() == nil && reachable: // once per outage, not per attempt
			reachable = false
			s.log.Warn("leader lock not reachable", "error", err)
		}
	}
}

// Leader returns the name of the present leader, or "" when there is none.
func (s *Store) Leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	pair, _, err := s.client.KV().Get(s.leaderKey(), (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("read the leader: %w", classify(err))
	}
	if pair == nil || pair.Session == "" {
		return "", nil
	}
	return string(pair.Value), nil
}

// errLockTaken: another candidate was faster.
var errLockTaken = errors.New("the leader lock was taken by another")

// campaign is one candidate. It remembers the sessions that it made and has not
// yet seen destroyed: one of them may hold the lock.
type campaign struct {
	store    *Store
	name     string
	sessions []string
}

// attempt waits for the lock and leads one term. Sessions left from an outage
// go first: one of them may be what holds the lock.
func (c *campaign) attempt(ctx context.Context, run func(context.Context, ledger.Fence)) error {
	if err := c.drop(ctx); err != nil {
		return err
	}
	session, certain, err := c.acquire(ctx)
	if err == nil {
		c.store.term(ctx, session, certain, run)
	}
	return errors.Join(err, c.drop(ctx))
}

// acquire waits until the lock is free and takes it. certain is a moment at
// which the new session was alive, for the count of its TTL.
func (c *campaign) acquire(ctx context.Context) (session string, certain time.Time, err error) {
	s := c.store
	if err := s.awaitLock(ctx, func(holder string) bool { return holder == "" }); err != nil {
		return "", certain, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	options := (&api.WriteOptions{}).WithContext(ctx)
	certain = time.Now()
	// No health checks: the session must not end with the check of whichever
	// agent the address leads to. "delete": a lock without holder has no name.
	session, _, err = s.client.Session().CreateNoChecks(&api.SessionEntry{
		Name: "governor leader " + c.name, TTL: s.ttl.String(), LockDelay: lockDelay, Behavior: api.SessionBehaviorDelete,
	}, options)
	if err != nil {
		return "", certain, classify(err)
	}
	c.sessions = append(c.sessions, session)
	won, _, err := s.client.KV().Acquire(&api.KVPair{Key: s.leaderKey(), Value: []byte(c.name), Session: session}, options)
	if err != nil {
		return "", certain, classify(err)
	}
	if !won {
		return "", certain, errLockTaken
	}
	return session, certain, nil
}

// drop destroys this candidate's sessions, and with them its lock. It works
// after ctx has ended: the next leader waits for it.
func (c *campaign) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.store.timeout)
	defer cancel()
	for len(c.sessions) > 0 {
		_, err := c.store.client.Session().Destroy(c.sessions[0], (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("destroy session %q: %w", c.sessions[0], classify(err))
		}
		c.sessions = c.sessions[1:]
	}
	return nil
}

// term leads until run returns; it ends run's context when the lock is lost.
func (s *Store) term(ctx context.Context, session string, certain time.Time, run func(context.Context, ledger.Fence)) {
	s.log.Info("leadership gained", "session", session)
	ctx, lose := context.WithCancelCause(ctx)
	var guards sync.WaitGroup
	guards.Go(func() {
		// After the term has ended for another reason this changes nothing.
		lose(s.renew(ctx, session, certain))
	})
	guards.Go(func() {
		// Only the lock itself decides: while Consul does not answer, renew counts.
		for ctx.Err() == nil {
			if err := s.awaitLock(ctx, func(holder string) bool { return holder != session }); err == nil {
				lose(errors.New("the lock is no longer held"))
				return
			}
			pause(ctx, leadPause)
		}
	})
	run(ctx, ledger.Fence{Session: session})
	cause := context.Cause(ctx)
	lose(nil)
	guards.Wait()
	s.log.Info("leadership ended", "session", session, "cause", cause)
}

// renew keeps the session alive until ctx ends or it is lost, and says which.
func (s *Store) renew(ctx context.Context, session string, certain time.Time) error {
	for wait := s.ttl / 3; ; {
		pause(ctx, min(wait, time.Until(certain.Add(s.ttl))))
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		entry, err := s.renewOnce(ctx, session, certain.Add(s.ttl))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && entry == nil:
			return errors.New("consul ended the session")
		case err == nil:
			certain, wait = start, s.ttl/3
		case time.Since(certain) >= s.ttl:
			return fmt.Errorf("the session was not renewed for %v: %w", s.ttl, err)
		default:
			wait = leadPause
		}
	}
}

func (s *Store) renewOnce(ctx context.Context, session string, deadline time.Time) (*api.SessionEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ctx, cancel = context.WithDeadline(ctx, deadline)
	defer cancel()
	entry, _, err := s.client.Session().Renew(session, (&api.WriteOptions{}).WithContext(ctx))
	return entry, err
}

// awaitLock blocks until the holder of the lock, "" for none, is as wanted.
func (s *Store) awaitLock(ctx context.Context, wanted func(holder string) bool) error {
	for index := uint64(0); ; {
		holder, now, err := s.lockHolder(ctx, index)
		if err != nil {
			return err
		}
		if wanted(holder) {
			return nil
		}
		index = nextIndex(index, now)
	}
}

func (s *Store) lockHolder(ctx context.Context, index uint64) (holder string, now uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, campaignWait+campaignWait/16+s.timeout)
	defer cancel()
	options := (&api.QueryOptions{WaitIndex: index, WaitTime: campaignWait, RequireConsistent: true}).WithContext(ctx)
	pair, meta, err := s.client.KV().Get(s.leaderKey(), options)
	if err != nil {
		return "", 0, classify(err)
	}
	if pair != nil {
		holder = pair.Session
	}
	return holder, meta.LastIndex, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
