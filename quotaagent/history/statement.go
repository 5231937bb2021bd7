package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// Moved says where a budget's path is now.
type Moved func(path string) string

// piece is a part of a time for which one table of sums has all that is needed.
type piece struct {
	unit     budget.Window // Hour, Day or Month
	from, to int64
}

// pieces cut [from, to) into whole months, days and hours of a zone, as large as
// possible but no larger than most. An hour of which only a part is asked for
// counts if it begins in the time.
func pieces(from, to time.Time, loc *time.Location, most budget.Window) []piece {
	var out []piece
	for at := from; at.Before(to); {
		unit, end := budget.Hour, budget.PeriodAt(budget.Hour, at, loc).End
		for _, w := range []budget.Window{budget.Day, budget.Month} {
			p := budget.PeriodAt(w, at, loc)
			if w <= most && p.Start.Equal(at) && !p.End.After(to) {
				unit, end = w, p.End
			}
		}
		if n := len(out); n > 0 && out[n-1].unit == unit && out[n-1].to == at.UnixMilli() {
			out[n-1].to = end.UnixMilli()
		} else {
			out = append(out, piece{unit, at.UnixMilli(), end.UnixMilli()})
		}
		at = end
	}
	if n := len(out); n > 0 && out[n-1].to > to.UnixMilli() {
		out[n-1].to = to.UnixMilli()
	}
	return out
}

// table is the table of sums of a unit, and whether it is by series.
func table(unit budget.Window, byJob bool) (name string, series bool) {
	switch {
	case unit == budget.Hour:
		return jobHour, true
	case unit == budget.Day && byJob:
		return jobDay, true
	case unit == budget.Day:
		return sumDay, false
	case byJob:
		return jobMonth, true
	}
	return sumMonth, false
}

// Rows are the sums that a statement is made of, in no order. Budgets that have moved
// since are found under their new paths.
func (s *Store) Rows(ctx context.Context, q report.Query, moved Moved) ([]report.Row, error) {
	all, err := s.RowsOf(ctx, []report.Query{q}, moved)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// RowsOf are the Rows of several queries, all of the same moment.
func (s *Store) RowsOf(ctx context.Context, queries []report.Query, moved Moved) ([][]report.Row, error) {
	var out [][]report.Row
	err := s.read(ctx, func(ctx context.Context, db querier) error {
		out = nil
		for _, q := range queries {
			rows, err := s.rows(ctx, db, q, moved)
			if err != nil {
				return err
			}
			out = append(out, rows)
		}
		return nil
	})
	return out, err
}

func (s *Store) rows(ctx context.Context, db querier, q report.Query, moved Moved) ([]report.Row, error) {
	loc, most := s.Location(), budget.Month
	if slices.Contains(q.By, report.Day) {
		most = budget.Day
	}
	paths, err := budgetsBelow(ctx, db, q.Budget, moved)
	if err != nil {
		return nil, err
	}
	var out []report.Row
	for _, p := range pieces(q.From, q.To, loc, most) {
		rows, err := sumPiece(ctx, db, q, p, paths, loc, moved)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

// budgetsBelow are all paths in the file that are now a budget or below it; nil
// means any path.
func budgetsBelow(ctx context.Context, q querier, path string, moved Moved) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	all, err := texts(ctx, q, `SELECT DISTINCT budget FROM account`)
	if err != nil {
		return nil, err
	}
	found := []string{}
	for _, b := range all {
		if now := moved(b); now == path || strings.HasPrefix(now, path+"/") {
			found = append(found, b)
		}
	}
	return found, nil
}

func texts(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

// filter is the condition of a query on accounts, and on jobs.
func filter(q report.Query, paths []string) (where string, args []any) {
	for _, c := range []struct{ column, value string }{{"a.namespace", q.Namespace}, {"a.user", q.User}, {"a.class", q.Class}, {"s.job", q.Job}} {
		if c.value != "" {
			where, args = where+` AND `+c.column+` = ?`, append(args, c.value)
		}
	}
	if paths != nil {
		where += ` AND a.budget IN (NULL` + strings.Repeat(`, ?`, len(paths)) + `)`
		for _, p := range paths {
			args = append(args, p)
		}
	}
	return where, args
}

// sumPiece sums one piece in the file. Only what statements are grouped by is
// grouped, so that a year of many jobs comes back as few rows.
func sumPiece(ctx context.Context, db querier, q report.Query, p piece, paths []string, loc *time.Location, moved Moved) ([]report.Row, error) {
	byJob := q.Job != "" || slices.Contains(q.By, report.Job)
	name, series := table(p.unit, byJob)
	keys := []string{`a.kind`, `a.estimated`}
	for _, c := range q.By {
		keys = append(keys, keyColumn(c, byJob))
	}
	from := name + ` t JOIN account a ON a.id = t.id`
	if series {
		from = name + ` t JOIN series s ON s.id = t.id JOIN account a ON a.id = s.account`
	}
	where, args := filter(q, paths)
	query := fmt.Sprintf(`SELECT %s, sum(t.gpu_ms), sum(t.cost), sum(t.energy), sum(t.input), sum(t.cached), sum(t.output) FROM %s
		WHERE t.at >= ? AND t.at < ?%s GROUP BY %s`, strings.Join(keys, ", "), from, where, strings.Join(keys, ", "))
	rows, err := db.QueryContext(ctx, query, append([]any{p.from, p.to}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []report.Row
	for rows.Next() {
		r := report.Row{Key: make([]string, len(q.By))}
		to := []any{&r.Kind, &r.Estimated}
		for i := range r.Key {
			to = append(to, &r.Key[i])
		}
		if err := rows.Scan(append(to, &r.GPUTime, &r.Cost, &r.Energy, &r.InputTokens, &r.CachedTokens, &r.OutputTokens)...); err != nil {
			return nil, err
		}
		if err := nameKey(q.By, r.Key, loc, moved); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// Days reads the sums of one day after the other and gives them to visit, in the order of
// their keys. Each day is read for itself, so that a slow visitor holds up nobody.
func (s *Store) Days(ctx context.Context, q report.Query, moved Moved, visit func(day budget.Period, rows []report.Row) error) error {
	loc := s.Location()
	for day := budget.PeriodAt(budget.Day, q.From, loc); day.Start.Before(q.To); day = day.Next(loc) {
		one := q
		one.From, one.To = day.Start, day.End
		rows, err := s.Rows(ctx, one, moved)
		if err != nil {
			return err
		}
		slices.SortFunc(rows, func(a, b report.Row) int {
			return cmp.Or(slices.Compare(a.Key, b.Key), strings.Compare(a.Kind, b.Kind), strings.Compare(fmt.Sprint(a.Estimated), fmt.Sprint(b.Estimated)))
		})
		if err := visit(day, rows); err != nil {
			return err
		}
	}
	return nil
}

func keyColumn(c report.Column, byJob bool) string {
	switch c {
	case report.Day, report.Month:
		return `t.at`
	case report.Job:
		if byJob {
			return `s.job`
		}
	case report.User:
		return `a.user`
	case report.Budget, report.Namespace, report.Class, report.RateCard, report.Model:
	}
	return `a.` + string(c)
}

// nameKey turns what the file has into what statements show.
func nameKey(by []report.Column, key []string, loc *time.Location, moved Moved) error {
	for i, c := range by {
		switch c {
		case report.Budget:
			key[i] = moved(key[i])
		case report.Day, report.Month:
			ms, err := strconv.ParseInt(key[i], 10, 64)
			if err != nil {
				return fmt.Errorf("the beginning of a period is %q: %w", key[i], err)
			}
			// A day may begin with the last moment of its eve on the clock, where midnight
			// comes twice: its middle is in it for sure.
			p := budget.PeriodAt(budget.Day, time.UnixMilli(ms), loc)
			middle := p.Start.Add(p.End.Sub(p.Start) / 2).In(loc)
			key[i] = middle.Format("2006-01-02")
			if c == report.Month {
				key[i] = middle.Format("2006-01")
			}
		case report.Namespace, report.Job, report.User, report.Class, report.RateCard, report.Model:
		}
	}
	return nil
}

// Posted is what the entries of budgets post to their balances in [from, to), by the
// path that they have now and by dimension; what is below a budget is not in it. A
// zero time is without an end.
func (s *Store) Posted(ctx context.Context, from, to time.Time, moved Moved) (map[string]ledger.Amounts, error) {
	loc := s.Location()
	out := make(map[string]ledger.Amounts)
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		clear(out)
		parts := []piece{{budget.Month, always, 1<<63 - 1}}
		if !from.IsZero() {
			parts = pieces(from, to, loc, budget.Month)
		}
		for _, p := range parts {
			table := postedHour
			if p.unit == budget.Month {
				table = postedMonth
			}
			if err := addPosted(ctx, q, out, table, p, moved); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func addPosted(ctx context.Context, q querier, out map[string]ledger.Amounts, table string, p piece, moved Moved) error {
	rows, err := q.QueryContext(ctx, `SELECT l.budget, l.dimension, sum(t.amount) FROM `+table+` t JOIN line l ON l.id = t.line
		WHERE t.at >= ? AND t.at < ? GROUP BY t.line`, p.from, p.to)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var path string
		var d budget.Dimension
		var a ledger.Amounts
		amount := a[d]
		if err := rows.Scan(&path, &d, &amount); err != nil {
			return err
		}
		path = moved(path)
		if out[path] == nil {
			out[path] = ledger.Amounts{}
		}
		out[path][d] = out[path][d].Add(amount)
	}
	return rows.Err()
}
