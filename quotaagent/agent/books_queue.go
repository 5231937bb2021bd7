package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// wish is one change that is wanted.
type wish struct {
	ctx    context.Context //nolint:containedctx // each caller of a group has its own
	target target
	mutate mutation

	// done is closed when err is final.
	done chan struct{}
	err  error
	// entries are the history that was committed for it, outbox the name of the
	// outbox that they are in.
	entries []ledger.Entry
	outbox  string
	// audit are the events that were recorded with it.
	audit []AuditEvent
}

func (r *wish) finish(err error) {
	r.err = err
	close(r.done)
}

func (r *wish) finished() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// lane are the waiting changes with one fence: what a deposed leader may not
// write must not keep others from being written.
type lane struct {
	fence   ledger.Fence
	waiting []*wish
}

// serve queues the requests and returns when all are finished. While it waits it
// takes its turn like all others that wait.
func (b *books) serve(ctx context.Context, fence ledger.Fence, requests []*wish) {
	b.enqueue(fence, requests)
	for _, r := range requests {
		b.await(r)
	}
	b.record(ctx, requests)
}

func (b *books) enqueue(fence ledger.Fence, requests []*wish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.laneOf(fence)
	l.waiting = append(l.waiting, requests...)
}

// laneOf finds or makes the lane of a fence; b.mu is held.
func (b *books) laneOf(fence ledger.Fence) *lane {
	for _, l := range b.lanes {
		if l.fence == fence {
			return l
		}
	}
	l := &lane{fence: fence}
	b.lanes = append(b.lanes, l)
	return l
}

// await waits until the request is finished. A request whose caller gives up is
// withdrawn while it waits; once its change is being made, its end is near and is
// waited for.
func (b *books) await(r *wish) {
	patience := time.NewTimer(turnWithin)
	defer patience.Stop()
	for !r.finished() {
		var err error
		select {
		case <-r.done:
			return
		case b.turn <- struct{}{}:
			b.takeTurn(r)
			continue
		case <-r.ctx.Done():
			err = fmt.Errorf("%w: %w", ledger.ErrUnavailable, r.ctx.Err())
		case <-patience.C:
			err = fmt.Errorf("%w: %v passed before this change had its turn", ledger.ErrUnavailable, turnWithin)
		}
		if b.withdraw(r) {
			r.finish(err)
			return
		}
		<-r.done
	}
}

// takeTurn commits one group, of those that have waited longest.
func (b *books) takeTurn(mine *wish) {
	defer func() { <-b.turn }()
	if mine.finished() {
		return
	}
	if b.doubt.Swap(false) {
		b.memory.distrustAll()
		b.forgetList()
	}
	if fence, group := b.take(); len(group) > 0 {
		b.commitGroup(fence, group)
	}
}

// take is the next group: of the first lane those that have waited longest. The
// lane then goes behind the others.
func (b *books) take() (ledger.Fence, []*wish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes = slices.DeleteFunc(b.lanes, func(l *lane) bool { return len(l.waiting) == 0 })
	if len(b.lanes) == 0 {
		return ledger.Fence{}, nil
	}
	l := b.lanes[0]
	b.lanes = append(b.lanes[1:], l)
	n := min(len(l.waiting), groupMax)
	group := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return l.fence, group
}

// giveBack puts requests to where they were taken from: before all others.
func (b *books) giveBack(fence ledger.Fence, requests []*wish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.laneOf(fence)
	l.waiting = slices.Insert(l.waiting, 0, requests...)
}

// withdraw takes a request out of the queue; false if it is not in it any more.
func (b *books) withdraw(r *wish) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		if i := slices.Index(l.waiting, r); i >= 0 {
			l.waiting = slices.Delete(l.waiting, i, i+1)
			return true
		}
	}
	return false
}

// errAborted is what a request gets whose group ended in a panic.
var errAborted = errors.New("the change was not made: another one of its group failed")

// commitGroup brings every request of a group to its end, or back into the queue.
func (b *books) commitGroup(fence ledger.Fence, group []*wish) {
	ctx, cancel := whileWanted(group)
	defer cancel()
	all := group
	back := []*wish(nil)
	defer func() {
		for _, r := range all {
			if !r.finished() && !slices.Contains(back, r) {
				r.finish(errAborted)
			}
		}
	}()
	for attempt := 0; ; attempt++ {
		group = wanted(group)
		if len(group) == 0 {
			return
		}
		rest, err := b.tryGroup(ctx, fence, group)
		if len(rest) > 0 {
			group = group[:len(group)-len(rest)]
			back = slices.Concat(rest, back)
			b.giveBack(fence, rest)
		}
		if err != nil {
			for _, r := range group {
				r.target.known, r.target.novel = heldAt{}, false // it may be what was wrong
			}
		}
		switch {
		case err == nil:
			finishAll(group, nil)
			return
		case errors.Is(err, ledger.ErrConflict) && attempt < commitAttempts:
			b.conflicted()
			b.memory.distrustAll()
			b.wait(ctx, time.Duration(rand.Int64N(int64(min(attempt+1, 10))*int64(5*time.Millisecond))))
		case errors.Is(err, ledger.ErrConflict), errors.Is(err, ledger.ErrUnavailable), len(group) == 1:
			b.memory.distrustAll()
			finishAll(group, err)
			return
		default:
			// One of them cannot be written, and it is not known which.
			b.memory.distrustAll()
			for _, r := range group {
				b.commitGroup(fence, []*wish{r})
			}
			return
		}
	}
}

func finishAll(group []*wish, err error) {
	for _, r := range group {
		if !r.finished() {
			r.finish(err)
		}
	}
}

// wanted are those of a group that are not finished. One whose caller is gone is
// finished here: before its change is made, never after.
func wanted(group []*wish) []*wish {
	var left []*wish
	for _, r := range group {
		switch {
		case r.finished():
		case r.ctx.Err() != nil:
			r.finish(fmt.Errorf("%w: %w", ledger.ErrUnavailable, r.ctx.Err()))
		default:
			left = append(left, r)
		}
	}
	return left
}

// whileWanted is a context that lasts as long as any of the callers waits.
func whileWanted(group []*wish) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(group[0].ctx))
	left := atomic.Int64{}
	left.Store(int64(len(group)))
	stops := make([]func() bool, len(group))
	for i, r := range group {
		stops[i] = context.AfterFunc(r.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}
