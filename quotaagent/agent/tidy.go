package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// tidyEvery is how often the leader looks at runs and grants whose time is up.
	// Decisions look at the clock themselves; this only gives back and records.
	tidyEvery = 5 * time.Second
	// runsKept is how long a closed run can be looked at, grantsKept how long a grant
	// that is over.
	runsKept   = 7 * 24 * time.Hour
	grantsKept = 30 * 24 * time.Hour
)

// tidier is the leader's duty towards runs and grants that end by themselves.
type tidier struct {
	engine *Engine
	// next is when to look again.
	next time.Time
}

// tick ends what is over.
func (t *tidier) tick(ctx context.Context, fence ledger.Fence) error {
	now := t.engine.now()
	if now.Before(t.next) && t.next.Sub(now) <= tidyEvery { // a clock may step back
		return nil
	}
	t.next = now.Add(tidyEvery)
	return errors.Join(t.engine.endRuns(ctx, fence), t.engine.endGrants(ctx, fence))
}

// endRuns closes runs whose time is up, brings what runs hold in line with the
// policy's windows, and removes those that were closed long ago.
func (e *Engine) endRuns(ctx context.Context, fence ledger.Fence) error {
	runs, err := e.books.allRuns(ctx)
	if err != nil {
		return err
	}
	cal, now := e.rulesOf(e.policy.State().Policy).Calendar, e.now().UnixMilli()
	var failed error
	for _, r := range runs {
		switch {
		case r.ClosedMS == 0 && r.UntilMS != 0 && now >= r.UntilMS, !ledger.RunCharges(r.Run, cal).Equal(r.Charged):
			err = e.endRun(ctx, fence, r.ID, cal)
		case r.ClosedMS != 0 && r.Open == 0 && r.Requests == 0 && r.Charged.IsZero() && now-r.ClosedMS >= runsKept.Milliseconds():
			err = e.books.commit(ctx, fence, []ledger.Write{{Key: runPrefix + r.ID, Version: r.version}})
			err = ignore(err, ledger.ErrConflict)
		default:
			continue
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("run %s: %w", r.ID, err))
		}
	}
	return failed
}

// endRun closes one run if its time is up; what it charges the books derive anew.
func (e *Engine) endRun(ctx context.Context, fence ledger.Fence, id string, cal ledger.Calendar) error {
	return e.books.update(ctx, fence, target{run: id, calendar: cal}, func(v view) (change, error) {
		if v.run == nil {
			return change{}, errNoChange
		}
		run := *v.run
		if run.ClosedMS != 0 || run.UntilMS == 0 || e.now().UnixMilli() < run.UntilMS {
			return change{run: &run}, nil
		}
		run.ClosedMS = run.UntilMS
		return change{run: &run, audit: []AuditEvent{e.runEvent("run.expired", actorGovernor, nil, run,
			fmt.Sprintf("agent run %s of budget %s is over, its time is up; %s still open", id, run.Budget, plural(run.Open, "job")))}}, nil
	})
}

// endGrants records the end of grants that ended by themselves, once, and removes
// those that were over long ago.
func (e *Engine) endGrants(ctx context.Context, fence ledger.Fence) error {
	grants, err := e.grantKeys(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, g := range grants {
		if err := e.endGrant(ctx, fence, g); err != nil && !errors.Is(err, ledger.ErrConflict) {
			failed = errors.Join(failed, fmt.Errorf("override %s: %w", g.ID, err))
		}
	}
	return failed
}

func (e *Engine) endGrant(ctx context.Context, fence ledger.Fence, g grantKey) error {
	now := e.now().UnixMilli()
	write := ledger.Write{Key: g.key, Version: g.version}
	over := max(g.UntilMS, g.RevokedMS, g.RequestedMS+ledger.GrantWaits.Milliseconds())
	switch state := g.State(now); {
	case g.Live(now):
		return nil
	case now-over >= grantsKept.Milliseconds():
		if g.FromMS != 0 {
			if err := e.books.recorder.Record(ctx, []ledger.Entry{ledger.GrantOf(g.Grant)}); err != nil {
				return err // it stays in the store until the history has it
			}
		}
		return e.books.commit(ctx, fence, []ledger.Write{write})
	case g.EndTold || state != ledger.GrantEnded && state != ledger.GrantLapsed:
		return nil
	}
	text := fmt.Sprintf("override %s of budget %s is over", g.ID, g.Budget)
	if g.FromMS == 0 {
		text = fmt.Sprintf("override %s of budget %s was not approved in time", g.ID, g.Budget)
	}
	p := e.policy.State().Policy
	next := g.Grant
	next.EndTold = true
	var err error
	if write.Value, err = ledger.Encode(next); err != nil {
		return fmt.Errorf("encode override: %w", err)
	}
	return e.chain.commit(ctx, fence, []ledger.Write{write}, AuditEvent{At: e.now(), Kind: "override.ended", Actor: actorGovernor, Budget: g.Budget,
		Subject: g.ID, Text: text, Notify: ruleNow(p, g.Grant).Notify})
}
