package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// repair sets what each balance holds to the sum of what open holds and runs
// charge, and what each run holds to the sum of what its open holds draw. They
// always change in one commit, so that they can only differ by a foreign hand or
// a bug. It sets the derived value and never adds: doing it twice is doing it
// once. It also looks after the history of what was posted: see recordAgain and
// clean. It returns the keys of what was set right.
//
// The sums are read first. Whoever changes a hold afterwards writes its sums in
// the same commit, and then the version no longer fits here.
func (b *books) repair(ctx context.Context, fence ledger.Fence) (repaired []string, err error) {
	balances, versions, err := b.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	runs, err := b.allRuns(ctx)
	if err != nil {
		return nil, err
	}
	holds, unreadable, err := b.holdsAnew(ctx)
	if err != nil || unreadable != nil {
		return nil, errors.Join(err, unreadable) // a sum without all holds would be too small
	}
	requests, err := b.requests(ctx)
	if err != nil {
		return nil, err
	}
	if repaired, err = b.repairRuns(ctx, fence, runs, slices.Concat(holds, requests)); err != nil || len(repaired) > 0 {
		return repaired, err // the balances follow with the next round
	}
	derived := heldBy(slices.Concat(holds, requests), runs)
	paths := slices.AppendSeq(slices.Collect(maps.Keys(balances)), maps.Keys(derived))
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		have := balances[path]
		if have.Held.Equal(derived[path]) {
			continue
		}
		next := ledger.Balance{SinceMS: have.SinceMS, Posted: have.Posted, Held: derived[path].Clone(), Use: have.Use, TokenRest: have.TokenRest}
		if next.Posted.IsZero() {
			next.Posted = ledger.NewVector()
		}
		value, err := next.Begun(b.now().UnixMilli()).Encode()
		if err != nil {
			return repaired, fmt.Errorf("encode balance %s: %w", path, err)
		}
		done, err := b.set(ctx, fence, ledger.Write{Key: balancePrefix + path, Value: value, Version: versions[path]})
		if err != nil {
			return repaired, err
		}
		if done {
			repaired = append(repaired, path)
		}
	}
	return repaired, b.keepHistory(ctx, fence, holds, requests)
}

// heldBy is what the balance of every path holds.
func heldBy(holds []heldAt, runs []runAt) map[string]ledger.Vector {
	derived := make(map[string]ledger.Vector)
	add := func(leaf string, charged ledger.Vector) {
		for _, path := range ledger.Ancestors(leaf) {
			if _, known := derived[path]; !known {
				derived[path] = ledger.NewVector()
			}
			derived[path].AddAll(charged, 1)
		}
	}
	for _, h := range holds {
		add(h.Budget, h.Charged)
	}
	for _, r := range runs {
		add(r.Budget, r.Charged)
	}
	return derived
}

// set repairs one record; false if it changed meanwhile: the next round looks
// again.
func (b *books) set(ctx context.Context, fence ledger.Fence, w ledger.Write) (done bool, err error) {
	err = b.commit(ctx, fence, []ledger.Write{w})
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("repair %s: %w", w.Key, err)
	}
	return true, nil
}

// runAt is a run with the version of its record.
type runAt struct {
	ledger.Run
	version uint64
}

func (b *books) allRuns(ctx context.Context) ([]runAt, error) {
	records, _, err := b.store.List(ctx, runPrefix)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	runs := make([]runAt, len(records))
	for i, r := range records {
		run, err := ledger.Decode[ledger.Run](r.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Key, err)
		}
		runs[i] = runAt{run, r.Version}
	}
	return runs, nil
}

// repairRuns sets what runs hold. What a run itself charges is not touched here:
// it follows with the next change, as the caps do not change with its jobs.
func (b *books) repairRuns(ctx context.Context, fence ledger.Fence, runs []runAt, holds []heldAt) (repaired []string, err error) {
	found := make(map[string]*ledger.Run)
	for _, h := range holds {
		if h.Run == "" {
			continue
		}
		if found[h.Run] == nil {
			found[h.Run] = &ledger.Run{}
		}
		addAmounts(&found[h.Run].Held, h.Drawn, 1)
		countOpen(found[h.Run], *h.Hold, 1)
	}
	for _, r := range runs {
		want := cmp.Or(found[r.ID], &ledger.Run{})
		if maps.Equal(r.Held, want.Held) && r.Open == want.Open && r.Requests == want.Requests {
			continue
		}
		r.Held, r.Open, r.Requests = want.Held, want.Open, want.Requests
		value, err := ledger.Encode(r.Run)
		if err != nil {
			return repaired, fmt.Errorf("encode run %s: %w", r.ID, err)
		}
		done, err := b.set(ctx, fence, ledger.Write{Key: runPrefix + r.ID, Value: value, Version: r.version})
		if err != nil {
			return repaired, err
		}
		if done {
			repaired = append(repaired, runPrefix+r.ID)
		}
	}
	return repaired, nil
}

// keepHistory records what may not have been recorded, once in a leader's term,
// and removes what is no longer needed.
func (b *books) keepHistory(ctx context.Context, fence ledger.Fence, holds, requests []heldAt) error {
	remains, records, err := b.remains(ctx)
	if err != nil {
		return err
	}
	if b.replayed == nil || *b.replayed != fence {
		if err := b.recordAgain(ctx, slices.Concat(holds, requests), remains); err != nil {
			return err
		}
		b.replayed = &fence
	}
	b.keepRecorded(slices.Concat(holds, requests))
	return b.clean(ctx, fence, remains, records)
}
