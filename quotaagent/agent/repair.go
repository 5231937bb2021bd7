package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// repair sets what each balance holds to the sum of what open holds charge. The
// two always change in one commit, so that they can only differ by a foreign
// hand or a bug. It sets the derived value and never adds: doing it twice is
// doing it once.
//
// The balances are read first. Whoever changes a hold afterwards writes its
// balances in the same commit, and then the version no longer fits here.
func (b *books) repair(ctx context.Context, fence ledger.Fence) (repaired []string, err error) {
	balances, versions, err := b.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	holds, unreadable, err := b.holds(ctx)
	if err != nil || unreadable != nil {
		return nil, errors.Join(err, unreadable) // a sum without all holds would be too small
	}
	derived := make(map[string]ledger.Vector)
	for _, h := range holds {
		for _, path := range ledger.Ancestors(h.Budget) {
			if derived[path] == nil {
				derived[path] = ledger.Vector{}
			}
			derived[path].AddAll(h.Charged, 1)
		}
	}
	paths := slices.AppendSeq(slices.Collect(maps.Keys(balances)), maps.Keys(derived))
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		have, known := balances[path]
		if len(have.Held.Minus(derived[path])) == 0 {
			continue
		}
		next := ledger.Balance{Posted: ledger.Vector{}, Held: derived[path].Clone()}
		if known {
			next.Posted = have.Posted
		}
		value, err := next.Encode()
		if err != nil {
			return repaired, fmt.Errorf("encode balance %s: %w", path, err)
		}
		err = b.store.Commit(ctx, fence, []ledger.Write{{Key: balancePrefix + path, Value: value, Version: versions[path]}})
		switch {
		case errors.Is(err, ledger.ErrConflict): // a hold changed meanwhile: the next round looks again
		case err != nil:
			return repaired, fmt.Errorf("repair balance %s: %w", path, err)
		default:
			repaired = append(repaired, path)
		}
	}
	return repaired, nil
}
