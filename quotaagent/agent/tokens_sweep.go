package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// endedKept is how long it is remembered how a request ended, for whoever says so
	// again; guessedKept the same of one that was posted at what was held, which can be
	// corrected for as long.
	endedKept   = 2 * time.Minute
	guessedKept = 24 * time.Hour
	// sweepEvery is how often the leader looks at all requests.
	sweepEvery = 2 * time.Second
)

// sweeper is the leader's work on requests for tokens: it posts those of which nobody
// says what they used, and forgets those that ended. It works beside the meter, for
// nothing of them is at Nomad.
type sweeper struct {
	e      *Engine
	logger hclog.Logger
	// sweeps is how often all of them may be listed.
	sweeps pace
}

// lead works until ctx ends.
func (s *sweeper) lead(ctx context.Context, fence ledger.Fence) {
	every(ctx, sweepEvery, func() error { return s.tick(ctx, fence) }, func(err error) { s.logger.Warn("requests for tokens delayed", "error", err) })
}

func (s *sweeper) tick(ctx context.Context, fence ledger.Fence) error {
	if !s.sweeps.due() {
		return nil
	}
	begin := time.Now()
	err := s.e.sweepTokens(ctx, fence)
	s.sweeps = measure(begin)
	return err
}

// sweepTokens brings all requests to where they should be now.
func (e *Engine) sweepTokens(ctx context.Context, fence ledger.Fence) error {
	all, unreadable := e.books.requests(ctx)
	state, now := e.policy.State(), e.now().UnixMilli()
	if !state.Loaded {
		return unreadable
	}
	cal := e.rulesOf(state.Policy).Calendar
	var targets []target
	var gone []heldAt
	for _, h := range all {
		switch {
		case h.Holds() && (now >= h.ExpiresMS || state.Policy.Moved(h.Budget) != h.Budget || !charged(*h.Hold, cal)):
			targets = append(targets, target{key: keyOfHold(*h.Hold), budget: state.Policy.Moved(h.Budget), calendar: cal, known: h})
		case !h.Holds() && now >= forgetAt(*h.Hold):
			gone = append(gone, h)
		}
	}
	errs := e.books.updateAll(ctx, fence, targets, func(_ int, v view) (change, error) {
		h := v.hold.Hold
		if h == nil || !h.Holds() {
			return change{}, errNoChange
		}
		if now := e.now().UnixMilli(); now >= h.ExpiresMS {
			return e.tokenChange(ledger.ExpireTokens(*h, v.balances[h.Budget].TokenRest, now))
		}
		next := *h
		if next.Budget = state.Policy.Moved(h.Budget); next.Budget == h.Budget && charged(*h, cal) {
			return change{}, errNoChange
		}
		return change{hold: &next}, nil
	})
	return errors.Join(unreadable, errors.Join(errs...), e.books.forgetRequests(ctx, fence, gone))
}

// forgetAt is from when on nobody needs a request any more that has ended. A report is
// kept until it would be refused as too old: so it counts once.
func forgetAt(h ledger.Hold) int64 {
	r := h.Request
	switch {
	case r.ToMS != 0:
		return max(r.EndedMS, r.ToMS) + (reportWithin + reportAhead).Milliseconds()
	case h.State == ledger.Expired:
		return r.EndedMS + guessedKept.Milliseconds()
	}
	return r.EndedMS + endedKept.Milliseconds()
}

// forgetRequests removes requests once their history is recorded.
func (b *books) forgetRequests(ctx context.Context, fence ledger.Fence, gone []heldAt) error {
	var entries []ledger.Entry
	for _, h := range gone {
		if !b.isRecorded(keyOfHold(*h.Hold), outboxName(*h.Hold)) {
			entries = append(entries, h.Entries()...)
		}
	}
	if len(entries) > 0 {
		if err := b.recorder.Record(ctx, entries); err != nil {
			return fmt.Errorf("record history again: %w", err)
		}
	}
	writes := make([]ledger.Write, len(gone))
	for i, h := range gone {
		writes[i] = ledger.Write{Key: keyOfHold(*h.Hold), Version: h.version}
	}
	for len(writes) > 0 {
		// Each delete is two operations in Consul.
		n := min(len(writes), ledger.MaxWrites/2)
		if err := b.commit(ctx, fence, writes[:n]); err != nil && !errors.Is(err, ledger.ErrConflict) {
			return fmt.Errorf("forget requests for tokens: %w", err)
		}
		writes = writes[n:]
	}
	return nil
}
