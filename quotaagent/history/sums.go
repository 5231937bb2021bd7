package history

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// The tables of sums.
const (
	jobHour     = "job_hour"
	jobDay      = "job_day"
	jobMonth    = "job_month"
	sumDay      = "sum_day"
	sumMonth    = "sum_month"
	postedHour  = "posted_hour"
	postedMonth = "posted_month"
)

// cell is one row of a table of sums.
type cell struct{ at, id int64 }

// sums are changes of the tables of sums that are not written yet.
type sums struct {
	amounts map[string]map[cell]report.Amounts
	posted  map[string]map[cell]int64
}

func newSums() sums {
	return sums{amounts: make(map[string]map[cell]report.Amounts), posted: make(map[string]map[cell]int64)}
}

// len is how many rows change.
func (s sums) len() int {
	n := 0
	for _, cells := range s.amounts {
		n += len(cells)
	}
	for _, cells := range s.posted {
		n += len(cells)
	}
	return n
}

func (s sums) add(table string, at, id int64, a report.Amounts) {
	cells := s.amounts[table]
	if cells == nil {
		cells = make(map[cell]report.Amounts)
		s.amounts[table] = cells
	}
	cells[cell{at, id}] = cells[cell{at, id}].Add(a)
}

func (s sums) post(table string, at, id, amount int64) {
	cells := s.posted[table]
	if cells == nil {
		cells = make(map[cell]int64)
		s.posted[table] = cells
	}
	cells[cell{at, id}] += amount
}

// count adds an entry to the sums of its hours that begin at fromMS or later.
func (w *writer) count(ctx context.Context, account, series int64, e ledger.Entry, fromMS int64) error {
	if e.GPUTime == 0 && e.Cost == 0 && e.Energy == 0 && len(e.Tokens) == 0 {
		return nil
	}
	for _, part := range e.Hours(w.location) {
		at := part.Hour.Start.UnixMilli()
		if at < fromMS {
			continue
		}
		p := w.periodsOf(at)
		a := report.Amounts{GPUTime: part.GPUTime, Cost: part.Cost, Energy: part.Energy, InputTokens: part.Tokens[budget.InputTokens],
			CachedTokens: part.Tokens[budget.CachedTokens], OutputTokens: part.Tokens[budget.OutputTokens]}
		if a != (report.Amounts{}) {
			w.sums.add(jobHour, at, series, a)
			w.sums.add(jobDay, p.day, series, a)
			w.sums.add(jobMonth, p.month, series, a)
			w.sums.add(sumDay, p.day, account, a)
			w.sums.add(sumMonth, p.month, account, a)
		}
		if ledger.PostedKind(e.Kind) {
			if err := w.post(ctx, e.Budget, at, p.month, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// post adds a part of an entry to what its budget was charged, by the dimensions of
// the balances.
func (w *writer) post(ctx context.Context, path string, hour, month int64, part ledger.Part) error {
	amounts := map[budget.Dimension]int64{budget.Cost: int64(part.Cost), budget.Energy: int64(part.Energy)}
	for class, a := range part.Shares {
		amounts[budget.GPUTime(class)] += int64(a)
	}
	for kind, a := range part.Tokens {
		amounts[budget.Tokens(kind)] += int64(a)
	}
	for d, a := range amounts {
		if a == 0 {
			continue
		}
		id, err := w.line(ctx, lineKey{path, string(d)})
		if err != nil {
			return err
		}
		w.sums.post(postedHour, hour, id, a)
		w.sums.post(postedMonth, month, id, a)
	}
	return nil
}

// periodsOf are the day and the month of an hour.
func (w *writer) periodsOf(hour int64) periods {
	if p, ok := w.calendar[hour]; ok {
		return p
	}
	if len(w.calendar) > wordsMax {
		w.calendar = make(map[int64]periods)
	}
	at := time.UnixMilli(hour)
	p := periods{budget.PeriodAt(budget.Day, at, w.location).Start.UnixMilli(), budget.PeriodAt(budget.Month, at, w.location).Start.UnixMilli()}
	w.calendar[hour] = p
	return p
}

// flush writes the changes of the sums, in the order of the tables and rows, so
// that equal histories are equal files.
func (w *writer) flush(ctx context.Context) error {
	for _, table := range slices.Sorted(maps.Keys(w.sums.amounts)) {
		cells := w.sums.amounts[table]
		for _, c := range inOrder(cells) {
			a := cells[c]
			if _, err := w.exec(ctx, `INSERT INTO `+table+` (at, id, gpu_ms, cost, energy, input, cached, output) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (at, id) DO UPDATE SET gpu_ms = gpu_ms + excluded.gpu_ms, cost = cost + excluded.cost, energy = energy + excluded.energy,
				input = input + excluded.input, cached = cached + excluded.cached, output = output + excluded.output`,
				c.at, c.id, int64(a.GPUTime), int64(a.Cost), int64(a.Energy), int64(a.InputTokens), int64(a.CachedTokens), int64(a.OutputTokens)); err != nil {
				return err
			}
		}
	}
	for _, table := range slices.Sorted(maps.Keys(w.sums.posted)) {
		cells := w.sums.posted[table]
		for _, c := range inOrder(cells) {
			if _, err := w.exec(ctx, `INSERT INTO `+table+` (at, line, amount) VALUES (?, ?, ?)
				ON CONFLICT (at, line) DO UPDATE SET amount = amount + excluded.amount`, c.at, c.id, cells[c]); err != nil {
				return err
			}
		}
	}
	w.sums = newSums()
	for _, name := range slices.Sorted(maps.Keys(w.logs)) {
		l := w.logs[name]
		if !l.moved {
			continue
		}
		if _, err := w.exec(ctx, `UPDATE log SET head = ? WHERE id = ?`, l.head, l.id); err != nil {
			return err
		}
		l.moved = false
	}
	return nil
}

func inOrder[V any](cells map[cell]V) []cell {
	return slices.SortedFunc(maps.Keys(cells), func(a, b cell) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
}

// Hours is what budgets were charged in each of so many hours from an instant on, by the
// path that they have now and by dimension; what is below a budget is not in it.
func (s *Store) Hours(ctx context.Context, from time.Time, n int, moved Moved) (map[string]map[budget.Dimension][]quantity.Amount, error) {
	out := make(map[string]map[budget.Dimension][]quantity.Amount)
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		clear(out)
		rows, err := q.QueryContext(ctx, `SELECT l.budget, l.dimension, t.at, t.amount FROM `+postedHour+` t JOIN line l ON l.id = t.line WHERE t.at >= ? AND t.at < ?`,
			from.UnixMilli(), from.Add(time.Duration(n)*time.Hour).UnixMilli())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var path string
			var d budget.Dimension
			var at int64
			var amount quantity.Amount
			if err := rows.Scan(&path, &d, &at, &amount); err != nil {
				return err
			}
			path = moved(path)
			if out[path] == nil {
				out[path] = make(map[budget.Dimension][]quantity.Amount)
			}
			if out[path][d] == nil {
				out[path][d] = make([]quantity.Amount, n)
			}
			i := (at - from.UnixMilli()) / time.Hour.Milliseconds()
			out[path][d][i] = out[path][d][i].Add(amount)
		}
		return rows.Err()
	})
	return out, err
}
