package history

import (
	"context"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// Receipts are those of the holds of a job that were closed, the latest first: at
// most limit. An empty job means all jobs.
func (s *Store) Receipts(ctx context.Context, namespace, job string, limit int) ([]report.Receipt, error) {
	out := []report.Receipt{}
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		holds, keys, err := closed(ctx, q, namespace, job, limit)
		if err != nil {
			return err
		}
		out = out[:0]
		for i, hold := range holds {
			found, err := entries(ctx, q, `e.detail IN (SELECT id FROM detail WHERE hold = ?)`, `ORDER BY e.from_ms, e.key`, hold)
			if err != nil {
				return err
			}
			var closing ledger.Entry
			all := make([]ledger.Entry, len(found))
			for j, l := range found {
				all[j] = l.Entry
				if l.Entry.Key == keys[i] {
					closing = l.Entry
				}
			}
			out = append(out, report.MakeReceipt(closing, all))
		}
		return nil
	})
	return out, err
}

// Closed are the entries of the holds that were closed in [from, to), of a budget and
// below it, as far as they are kept.
func (s *Store) Closed(ctx context.Context, from, to time.Time, budget string, moved Moved) ([]ledger.Entry, error) {
	return s.entriesOf(ctx, ledger.ReceiptEntry, "", from, to, budget, moved)
}

func closed(ctx context.Context, q querier, namespace, job string, limit int) (holds, keys []string, err error) {
	where, args := `1`, []any{limit}
	if job != "" {
		where, args = `job = ? AND namespace = ?`, []any{job, namespace, limit}
	}
	rows, err := q.QueryContext(ctx, `SELECT hold, key FROM receipt WHERE `+where+` ORDER BY ended_ms DESC, hold LIMIT ?`, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var hold, key string
		if err := rows.Scan(&hold, &key); err != nil {
			return nil, nil, err
		}
		holds, keys = append(holds, hold), append(keys, key)
	}
	return holds, keys, rows.Err()
}
