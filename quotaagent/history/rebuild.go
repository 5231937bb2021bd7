package history

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// flushAt is how many rows of sums are collected before they are written.
const flushAt = 50_000

// always is before all time.
const always = math.MinInt64

// Rebuild makes all sums anew from the entries, from the hour of an instant on. What
// is older than the entries that are kept stays as it is. It takes long for a large
// history; until it is done nothing else is written (ErrBusy), and statements show
// the sums as they were.
func (s *Store) Rebuild(ctx context.Context, from time.Time) error {
	return s.write(ctx, func(ctx context.Context, w *writer) error { return w.rebuild(ctx, from.UnixMilli()) })
}

// SetLocation makes loc the zone of days and months. All sums are made anew where
// that is another one than before.
func (s *Store) SetLocation(ctx context.Context, loc *time.Location) error {
	if s.Location().String() == loc.String() {
		return nil
	}
	if _, err := time.LoadLocation(loc.String()); err != nil {
		return fmt.Errorf("the zone of the history: %w", err)
	}
	err := s.write(ctx, func(ctx context.Context, w *writer) error {
		if err := writeMeta(ctx, w.conn, "zone", loc.String()); err != nil {
			return err
		}
		before := w.location
		w.location, w.calendar = loc, make(map[int64]periods)
		if err := w.rebuild(ctx, 0); err != nil {
			w.location = before
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.location = loc
	return nil
}

func (w *writer) rebuild(ctx context.Context, fromMS int64) error {
	floor, err := readMetaInt(ctx, w.conn, "floor_ms")
	if err != nil {
		return err
	}
	from := max(fromMS, floor)
	switch {
	case from <= 0:
		from = always
	case from > floor:
		from = budget.PeriodAt(budget.Hour, time.UnixMilli(from), w.location).Start.UnixMilli()
	}
	for _, table := range []string{jobHour, postedHour} {
		if _, err := w.conn.ExecContext(ctx, `DELETE FROM `+table+` WHERE at >= ?`, from); err != nil {
			return err
		}
	}
	if err := w.recount(ctx, from); err != nil {
		return err
	}
	return w.resum(ctx, from)
}

// recount makes the sums of the hours from an instant on from the entries. Those of
// longer periods are made from them afterwards.
func (w *writer) recount(ctx context.Context, from int64) error {
	// All entries are read in the order of the file, which is much faster.
	query, args := `SELECT series, from_ms, to_ms, gpu_ms, cost, energy, extra FROM entry`, []any{}
	if from != always {
		query, args = query+` WHERE to_ms >= ? ORDER BY to_ms`, []any{from}
	}
	rows, err := w.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	known := make(map[int64]counted)
	for rows.Next() {
		var e ledger.Entry
		var series int64
		var more sql.RawBytes
		if err := rows.Scan(&series, &e.FromMS, &e.ToMS, &e.GPUTime, &e.Cost, &e.Energy, &more); err != nil {
			return err
		}
		if err := setExtra(&e, more); err != nil {
			return err
		}
		if err := w.countAs(ctx, known, series, e, from); err != nil {
			return err
		}
		if w.sums.len() > flushAt {
			w.onlyHours()
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	w.onlyHours()
	if err := rows.Err(); err != nil {
		return err
	}
	return w.flush(ctx)
}

// counted is what sums need to know of a series.
type counted struct {
	account             int64
	kind, budget, class string
}

// countAs adds an entry to the sums of its series.
func (w *writer) countAs(ctx context.Context, known map[int64]counted, series int64, e ledger.Entry, from int64) error {
	c, ok := known[series]
	if !ok {
		stmt, err := w.stmt(ctx, `SELECT a.id, a.kind, a.budget, a.class FROM series s JOIN account a ON a.id = s.account WHERE s.id = ?`) //nolint:sqlclosecheck // the writer closes it
		if err != nil {
			return err
		}
		if err := stmt.QueryRowContext(ctx, series).Scan(&c.account, &c.kind, &c.budget, &c.class); err != nil {
			return err
		}
		if len(known) > wordsMax {
			clear(known)
		}
		known[series] = c
	}
	e.Kind, e.Budget, e.Class = c.kind, c.budget, c.class
	return w.count(ctx, c.account, series, e, from)
}

// onlyHours drops all changes but those of the hours.
func (w *writer) onlyHours() {
	for table := range w.sums.amounts {
		if table != jobHour {
			delete(w.sums.amounts, table)
		}
	}
	delete(w.sums.posted, postedMonth)
}

// resum makes the sums of days and months from those of the hours, for all periods
// that end after an instant.
func (w *writer) resum(ctx context.Context, from int64) error {
	at := time.UnixMilli(from)
	day, month := int64(always), int64(always)
	if from != always {
		day, month = budget.PeriodAt(budget.Day, at, w.location).Start.UnixMilli(), budget.PeriodAt(budget.Month, at, w.location).Start.UnixMilli()
	}
	if err := w.fillCalendar(ctx, month); err != nil {
		return err
	}
	const amounts = `sum(h.gpu_ms), sum(h.cost), sum(h.energy), sum(h.input), sum(h.cached), sum(h.output)`
	for _, step := range []string{
		`DELETE FROM job_day WHERE at >= ` + num(day),
		`DELETE FROM sum_day WHERE at >= ` + num(day),
		`DELETE FROM job_month WHERE at >= ` + num(month),
		`DELETE FROM sum_month WHERE at >= ` + num(month),
		`DELETE FROM posted_month WHERE at >= ` + num(month),
		`INSERT INTO job_day SELECT c.day, h.id, ` + amounts + ` FROM job_hour h JOIN temp.calendar c ON c.at = h.at WHERE c.day >= ` + num(day) + ` GROUP BY 1, 2`,
		`INSERT INTO job_month SELECT c.month, h.id, ` + amounts + ` FROM job_hour h JOIN temp.calendar c ON c.at = h.at GROUP BY 1, 2`,
		`INSERT INTO sum_day SELECT h.at, s.account, ` + amounts + ` FROM job_day h JOIN series s ON s.id = h.id WHERE h.at >= ` + num(day) + ` GROUP BY 1, 2`,
		`INSERT INTO sum_month SELECT h.at, s.account, ` + amounts + ` FROM job_month h JOIN series s ON s.id = h.id WHERE h.at >= ` + num(month) + ` GROUP BY 1, 2`,
		`INSERT INTO posted_month SELECT c.month, h.line, sum(h.amount) FROM posted_hour h JOIN temp.calendar c ON c.at = h.at GROUP BY 1, 2`,
		`DROP TABLE temp.calendar`,
	} {
		if _, err := w.conn.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

// fillCalendar makes the table that says for each hour from a month on in which day
// and month it is. It is gone with the transaction that fails.
func (w *writer) fillCalendar(ctx context.Context, month int64) error {
	if _, err := w.conn.ExecContext(ctx, `CREATE TEMP TABLE calendar (at INTEGER PRIMARY KEY, day INTEGER NOT NULL, month INTEGER NOT NULL)`); err != nil {
		return err
	}
	rows, err := w.conn.QueryContext(ctx, `SELECT at FROM job_hour WHERE at >= ? UNION SELECT at FROM posted_hour WHERE at >= ?`, month, month)
	if err != nil {
		return err
	}
	defer rows.Close()
	var hours []int64
	for rows.Next() {
		var at int64
		if err := rows.Scan(&at); err != nil {
			return err
		}
		hours = append(hours, at)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, at := range hours {
		p := w.periodsOf(at)
		if _, err := w.conn.ExecContext(ctx, `INSERT INTO temp.calendar VALUES (?, ?, ?)`, at, p.day, p.month); err != nil {
			return err
		}
	}
	return nil
}
