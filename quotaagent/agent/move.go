package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// A move takes what belongs to one path to another: holds, runs, places in the
// queue, grants, and what was posted. Each of them is one commit that takes it from
// the old path and gives it to the new one, so that a crash between any two leaves
// nothing lost or doubled, and whoever leads next goes on with what is left. Until
// all is done, decisions read the old paths too and count both: see moving.

// moveAgain is when the leader looks again after a move was done: an agent that had
// not seen the policy yet may have admitted something to an old path.
const moveAgain = 30 * time.Second

// moving is the state as it will be when the moves of the policy are done.
func moving(p *budget.Policy, s admission.State) admission.State {
	if len(p.Moves) == 0 {
		return s
	}
	s.Balances = ledger.MoveBalances(s.Balances, p.Moved)
	s.Grants = slices.Clone(s.Grants)
	for i := range s.Grants {
		s.Grants[i].Budget = p.Moved(s.Grants[i].Budget)
	}
	if s.Run != nil {
		run := *s.Run
		run.Budget = p.Moved(run.Budget)
		s.Run = &run
	}
	return s
}

// mover is the leader's duty towards the moves of the policy.
type mover struct {
	engine *Engine
	// done is the policy whose moves were done, and next when to look again.
	done *budget.Policy
	next time.Time
}

// tick moves what is left to move.
func (m *mover) tick(ctx context.Context, fence ledger.Fence) error {
	state, now := m.engine.policy.State(), m.engine.now()
	p := state.Policy
	if len(p.Moves) == 0 || !state.Loaded || m.done == p && now.Before(m.next) && m.next.Sub(now) <= moveAgain {
		return nil
	}
	if err := m.engine.move(ctx, fence, p); err != nil {
		return err
	}
	m.done, m.next = p, now.Add(moveAgain)
	return nil
}

// move does all steps of all moves. A step that fails leaves the others their turn.
func (e *Engine) move(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	return errors.Join(e.moveHolds(ctx, fence, p), e.moveRuns(ctx, fence, p), e.moveQueue(ctx, fence, p), e.moveGrants(ctx, fence, p), e.movePosted(ctx, fence, p))
}

func (e *Engine) moveHolds(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	holds, unreadable, err := e.books.holdsAnew(ctx)
	if err != nil {
		return err
	}
	var targets []target
	for _, h := range holds {
		if to := p.Moved(h.Budget); to != h.Budget {
			targets = append(targets, target{key: holdKey(h.Namespace, h.JobID), budget: to, calendar: e.rulesOf(p).Calendar})
		}
	}
	errs := e.books.updateAll(ctx, fence, targets, func(_ int, v view) (change, error) {
		if v.hold.Hold == nil || p.Moved(v.hold.Budget) == v.hold.Budget {
			return change{}, errNoChange
		}
		next := *v.hold.Hold
		next.Budget = p.Moved(next.Budget)
		return change{hold: &next}, nil
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("move holds: %w", err)
	}
	return unreadable
}

func (e *Engine) moveRuns(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	runs, err := e.books.allRuns(ctx)
	if err != nil {
		return err
	}
	for _, r := range runs {
		to := p.Moved(r.Budget)
		if to == r.Budget {
			continue
		}
		err := e.books.update(ctx, fence, target{budget: to, run: r.ID, calendar: e.rulesOf(p).Calendar}, func(v view) (change, error) {
			if v.run == nil || p.Moved(v.run.Budget) == v.run.Budget {
				return change{}, errNoChange
			}
			next := *v.run
			next.Budget = p.Moved(next.Budget)
			return change{run: &next}, nil
		})
		if err != nil {
			return fmt.Errorf("move run %s: %w", r.ID, err)
		}
	}
	return nil
}

func (e *Engine) moveQueue(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	waiting, err := e.allQueued(ctx)
	if err != nil {
		return err
	}
	for _, q := range waiting {
		to := p.Moved(q.Budget)
		if to == q.Budget {
			continue
		}
		t := target{key: holdKey(q.Namespace, q.JobID), budget: to, calendar: e.rulesOf(p).Calendar}
		err := e.books.update(ctx, fence, t, func(v view) (change, error) {
			if v.queued == nil || p.Moved(v.queued.Budget) == v.queued.Budget {
				return change{}, errNoChange
			}
			next := *v.queued
			next.Budget = p.Moved(next.Budget)
			return change{hold: v.hold.Hold, queued: &next}, nil
		})
		if err != nil {
			return fmt.Errorf("move queued job %q in namespace %q: %w", q.JobID, q.Namespace, err)
		}
	}
	return nil
}

// moveGrants gives each grant the record that a request at its new path would
// have. Where that one is taken by a grant which lives, it gets one of its own.
func (e *Engine) moveGrants(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	grants, err := e.grantKeys(ctx)
	if err != nil {
		return err
	}
	for _, g := range grants {
		to := p.Moved(g.Budget)
		if to == g.Budget {
			continue
		}
		next := g.Grant
		next.Budget = to
		key := overrideKey(to, g.Rule, g.Accessor)
		records, err := e.books.store.Read(ctx, key)
		if err != nil {
			return fmt.Errorf("read override: %w", err)
		}
		if there, err := ledger.Decode[ledger.Grant](records[0].Value); records[0].Version != 0 && (err != nil || there.Live(e.now().UnixMilli())) {
			key += "-" + g.ID
			records[0].Version = 0
		}
		value, err := ledger.Encode(next)
		if err != nil {
			return fmt.Errorf("encode override: %w", err)
		}
		err = e.books.commit(ctx, fence, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}, {Key: g.key, Version: g.version}})
		if err != nil {
			return fmt.Errorf("move override %s: %w", g.ID, err)
		}
	}
	return nil
}

// movePosted moves what was posted, children before their parents: what is left at
// a parent is then its own.
func (e *Engine) movePosted(ctx context.Context, fence ledger.Fence, p *budget.Policy) error {
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return err
	}
	var from []string
	for path := range balances {
		if p.Moved(path) != path {
			from = append(from, path)
		}
	}
	slices.SortFunc(from, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), strings.Compare(a, b))
	})
	for _, path := range from {
		if err := e.moveBalance(ctx, fence, path, p.Moved(path)); err != nil {
			return fmt.Errorf("move balance of %s: %w", path, err)
		}
	}
	return nil
}

// moveBalance moves what was posted to one path in one commit, and removes the
// path's balance once nothing is held there any more.
func (e *Engine) moveBalance(ctx context.Context, fence ledger.Fence, from, to string) error {
	for attempt := 0; ; attempt++ {
		paths := slices.Concat(ledger.Ancestors(from), ledger.Ancestors(to))
		slices.Sort(paths)
		balances, versions, err := e.books.readBalances(ctx, slices.Compact(paths))
		if err != nil || versions[from] == 0 {
			return err
		}
		writes, events, err := e.movedBalances(balances, versions, from, to)
		if err != nil || len(writes) == 0 {
			return err
		}
		err = e.chain.commit(ctx, fence, writes, events...)
		if err == nil || !errors.Is(err, ledger.ErrConflict) || attempt == commitAttempts {
			return err
		}
	}
}

// movedBalances are the writes of moveBalance; none when there is nothing to move
// and something is held yet.
func (e *Engine) movedBalances(balances map[string]ledger.Balance, versions map[string]uint64, from, to string) ([]ledger.Write, []AuditEvent, error) {
	last := balances[from].Held.IsZero()
	if balances[from].Posted.IsZero() && !last {
		return nil, nil, nil
	}
	var writes []ledger.Write
	moved := ledger.MovePosted(balances, from, to)
	for _, path := range slices.Sorted(maps.Keys(moved)) {
		b := moved[path]
		if path == from && last {
			writes = append(writes, ledger.Write{Key: balancePrefix + path, Version: versions[path]})
			continue
		}
		if versions[path] == 0 && b.Posted.IsZero() && b.Held.IsZero() {
			continue
		}
		value, err := b.Begun(e.now().UnixMilli()).Encode()
		if err != nil {
			return nil, nil, fmt.Errorf("encode balance %s: %w", path, err)
		}
		writes = append(writes, ledger.Write{Key: balancePrefix + path, Value: value, Version: versions[path]})
	}
	if !last {
		return writes, nil, nil
	}
	return writes, []AuditEvent{{At: e.now(), Kind: "budget.moved", Actor: actorGovernor, Budget: to, Subject: from,
		Text: fmt.Sprintf("budget %s is now %s, with all that it holds and has used", from, to)}}, nil
}
