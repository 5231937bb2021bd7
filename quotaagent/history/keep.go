package history

import (
	"context"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

// State is what the file has.
type State struct {
	File string `json:"file"`
	// BeganMS is when its history begins, FloorMS from when on single entries are kept.
	BeganMS int64 `json:"began_ms"`
	FloorMS int64 `json:"floor_ms"`
	// Entries are how many there are, Conflicts how many were refused because others
	// have their keys.
	Entries   int64 `json:"entries"`
	Conflicts int64 `json:"conflicts"`
}

// State counts what the file has. It reads an index through, which takes about a
// second for ten million entries.
func (s *Store) State(ctx context.Context) (State, error) {
	var out State
	err := s.read(ctx, func(ctx context.Context, q querier) (err error) {
		if out.File, err = readMeta(ctx, q, "file"); err != nil {
			return err
		}
		if out.BeganMS, err = readMetaInt(ctx, q, "began_ms"); err != nil {
			return err
		}
		if out.FloorMS, err = readMetaInt(ctx, q, "floor_ms"); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM conflict)`).Scan(&out.Entries, &out.Conflicts)
	})
	return out, err
}

// Began is when the history begins: when this file was made, or an earlier one of
// which it has everything.
func (s *Store) Began(ctx context.Context) (time.Time, error) {
	var ms int64
	err := s.read(ctx, func(ctx context.Context, q querier) (err error) {
		ms, err = readMetaInt(ctx, q, "began_ms")
		return err
	})
	return time.UnixMilli(ms), err
}

// pruneChunk is how many entries one transaction removes, so that others can write
// in between.
const pruneChunk = 5_000

// Prune removes the single entries of all months that ended at least keep ago, with
// their receipts. Their sums stay.
func (s *Store) Prune(ctx context.Context, keep time.Duration) error {
	floor := budget.PeriodAt(budget.Month, s.now().Add(-keep), s.Location()).Start.UnixMilli()
	if floor <= 0 {
		return nil
	}
	for more := true; more; {
		err := s.write(ctx, func(ctx context.Context, w *writer) error {
			had, err := readMetaInt(ctx, w.conn, "floor_ms")
			if err != nil {
				return err
			}
			if err := writeMeta(ctx, w.conn, "floor_ms", num(max(had, floor))); err != nil {
				return err
			}
			// The words of entries that are gone may go too, so that none may be remembered.
			w.forget()
			if _, err := w.exec(ctx, `DELETE FROM receipt WHERE ended_ms < ?`, floor); err != nil {
				return err
			}
			done, err := w.exec(ctx, `DELETE FROM entry WHERE (log, nr) IN (SELECT log, nr FROM entry WHERE to_ms < ? LIMIT ?)`, floor, pruneChunk)
			if err != nil {
				return err
			}
			n, err := done.RowsAffected()
			if more = n == pruneChunk; more || n == 0 {
				return err
			}
			_, err = w.exec(ctx, `DELETE FROM detail WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.detail = detail.id)`)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
