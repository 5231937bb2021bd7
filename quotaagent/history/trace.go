package history

import (
	"context"
	"errors"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// ErrTooMuch means that more was asked for than one answer may have.
var ErrTooMuch = errors.New("more than a million allocations ran in this time; ask for a shorter one")

// ranMax bounds an answer of Ran.
const ranMax = 1_000_000

// Ran is what each allocation had in [from, to), as far as single entries are kept, in
// no order; of a budget and what is below it, or of all. What was used before from, or
// later, is cut off.
func (s *Store) Ran(ctx context.Context, from, to time.Time, budget string, moved Moved) ([]report.Ran, error) {
	var out []report.Ran
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		out = nil
		paths, err := budgetsBelow(ctx, q, budget, moved)
		if err != nil {
			return err
		}
		below := make(map[string]bool, len(paths))
		for _, path := range paths {
			below[path] = true
		}
		created, err := createdSince(ctx, q, from)
		if err != nil {
			return err
		}
		rows, err := q.QueryContext(ctx, `SELECT d.hold, d.alloc, a.namespace, s.job, a.budget, a.class, min(e.from_ms), max(e.to_ms), sum(e.gpu_ms)`+entryTables+`
			WHERE a.kind = ? AND d.alloc != '' AND e.to_ms > ? AND e.from_ms >= ? AND e.from_ms < ? GROUP BY d.hold, d.alloc, a.namespace, s.job, a.budget, a.class LIMIT ?`,
			ledger.UsageEntry, from.UnixMilli(), from.UnixMilli(), to.UnixMilli(), ranMax+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r report.Ran
			if err := rows.Scan(&r.Hold, &r.Alloc, &r.Namespace, &r.Job, &r.Budget, &r.Class, &r.BeginMS, &r.EndMS, &r.GPUTime); err != nil {
				return err
			}
			if len(out) == ranMax {
				return ErrTooMuch
			}
			if budget == "" || below[r.Budget] {
				r.Budget, r.CreatedMS = moved(r.Budget), created[r.Hold]
				out = append(out, r)
			}
		}
		return rows.Err()
	})
	return out, err
}

// createdSince is when the holds were made that ended since a time.
func createdSince(ctx context.Context, q querier, from time.Time) (map[string]int64, error) {
	found, err := entries(ctx, q, `a.kind = ? AND e.to_ms >= ?`, ``, ledger.ReceiptEntry, from.UnixMilli())
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(found))
	for _, l := range found {
		if r := l.Entry.Receipt; r != nil {
			out[l.Entry.HoldID] = r.CreatedMS
		}
	}
	return out, nil
}
