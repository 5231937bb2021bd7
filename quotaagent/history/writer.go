package history

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// writer is the one connection that writes, with its statements prepared. What it
// remembers of the file is checked by nobody: only this connection adds words.
type writer struct {
	conn     *sql.Conn
	prepared map[string]*sql.Stmt
	location *time.Location
	// name is that of this process's log; logs are the logs of the file by name.
	name string
	logs map[string]*logHead
	// words are the ids of accounts, series, details and lines. They are forgotten
	// when a transaction fails, and when they become too many.
	words map[any]int64
	// calendar is the periods of the hours that were looked at.
	calendar map[int64]periods
	// sums are the changes of the transaction.
	sums sums
}

// wordsMax bounds what is remembered: a word takes about 200 bytes.
const wordsMax = 100_000

type logHead struct {
	id, head int64
	moved    bool
}

// periods are the beginnings of the day and the month of an hour.
type periods struct{ day, month int64 }

func newWriter(conn *sql.Conn, location *time.Location, name string) *writer {
	w := &writer{conn: conn, prepared: make(map[string]*sql.Stmt), location: location, name: name}
	w.forget()
	return w
}

// forget drops what is remembered of the file.
func (w *writer) forget() {
	w.words, w.logs, w.calendar, w.sums = make(map[any]int64), make(map[string]*logHead), make(map[int64]periods), newSums()
}

func (w *writer) close() error {
	var errs []error
	for _, stmt := range w.prepared {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// transact runs fn in a transaction that is durable when it returns.
func (w *writer) transact(ctx context.Context, fn func(ctx context.Context, w *writer) error) error {
	if len(w.words) > wordsMax {
		w.forget()
	}
	if _, err := w.conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err := fn(ctx, w)
	if err == nil {
		err = w.flush(ctx)
	}
	if err == nil {
		// Not ctx: whether a commit that was interrupted has happened is not known.
		_, err = w.conn.ExecContext(context.WithoutCancel(ctx), `COMMIT`)
	}
	if err == nil {
		return nil
	}
	w.forget()
	if _, failed := w.conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`); failed != nil {
		// Some errors have rolled back already; then this one is of no interest.
		_ = failed
	}
	return err
}

func (w *writer) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := w.prepared[query]; ok {
		return stmt, nil
	}
	stmt, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.prepared[query] = stmt
	return stmt, nil
}

func (w *writer) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := w.stmt(ctx, query) //nolint:sqlclosecheck // the writer closes it
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// word is the id of a row that is found by all its columns, and added when missing.
func (w *writer) word(ctx context.Context, key any, find, add string, args ...any) (int64, error) {
	if id, ok := w.words[key]; ok {
		return id, nil
	}
	stmt, err := w.stmt(ctx, find) //nolint:sqlclosecheck // the writer closes it
	if err != nil {
		return 0, err
	}
	var id int64
	err = stmt.QueryRowContext(ctx, args...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		var done sql.Result
		if done, err = w.exec(ctx, add, args...); err == nil {
			id, err = done.LastInsertId()
		}
	}
	if err != nil {
		return 0, err
	}
	w.words[key] = id
	return id, nil
}

type accountKey struct {
	budget, kind, namespace, user, class, card, model string
	estimated                                         bool
}

type seriesKey struct {
	account int64
	job     string
}

type detailKey struct{ hold, alloc, run, node, gpus, cause, author string }

type lineKey struct{ budget, dimension string }

// series are the ids of the account and the series of an entry.
func (w *writer) series(ctx context.Context, e ledger.Entry) (account, series int64, err error) {
	k := accountKey{e.Budget, e.Kind, e.Namespace, e.Submitter, e.Class, e.RateCard, e.Model, e.Estimated}
	account, err = w.word(ctx, k,
		`SELECT id FROM account WHERE budget = ? AND kind = ? AND namespace = ? AND user = ? AND class = ? AND rate_card = ? AND model = ? AND estimated = ?`,
		`INSERT INTO account (budget, kind, namespace, user, class, rate_card, model, estimated) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		k.budget, k.kind, k.namespace, k.user, k.class, k.card, k.model, k.estimated)
	if err != nil {
		return 0, 0, err
	}
	series, err = w.word(ctx, seriesKey{account, e.JobID},
		`SELECT id FROM series WHERE account = ? AND job = ?`, `INSERT INTO series (account, job) VALUES (?, ?)`, account, e.JobID)
	return account, series, err
}

func (w *writer) detail(ctx context.Context, e ledger.Entry) (int64, error) {
	gpus := ""
	if len(e.GPUs) > 0 {
		text, err := json.Marshal(e.GPUs)
		if err != nil {
			return 0, err
		}
		gpus = string(text)
	}
	k := detailKey{e.HoldID, e.Alloc, e.Run, e.Node, gpus, e.Cause, e.Author}
	return w.word(ctx, k,
		`SELECT id FROM detail WHERE hold = ? AND alloc = ? AND run = ? AND node = ? AND gpus = ? AND cause = ? AND author = ?`,
		`INSERT INTO detail (hold, alloc, run, node, gpus, cause, author) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		k.hold, k.alloc, k.run, k.node, k.gpus, k.cause, k.author)
}

func (w *writer) line(ctx context.Context, k lineKey) (int64, error) {
	return w.word(ctx, k, `SELECT id FROM line WHERE budget = ? AND dimension = ?`, `INSERT INTO line (budget, dimension) VALUES (?, ?)`,
		k.budget, k.dimension)
}

// log is the log with this name, as of the transaction.
func (w *writer) log(ctx context.Context, name string) (*logHead, error) {
	if l, ok := w.logs[name]; ok {
		return l, nil
	}
	l := &logHead{}
	err := w.conn.QueryRowContext(ctx, `SELECT id, head FROM log WHERE name = ?`, name).Scan(&l.id, &l.head)
	if errors.Is(err, sql.ErrNoRows) {
		var done sql.Result
		if done, err = w.exec(ctx, `INSERT INTO log (name, head) VALUES (?, 0)`, name); err == nil {
			l.id, err = done.LastInsertId()
		}
	}
	if err != nil {
		return nil, err
	}
	w.logs[name] = l
	return l, nil
}

// extra is what few entries have.
type extra struct {
	Shares  map[string]quantity.Amount           `json:"shares,omitempty"`
	Tokens  map[budget.TokenKind]quantity.Amount `json:"tokens,omitempty"`
	Receipt *ledger.Receipt                      `json:"receipt,omitempty"`
	Grant   *ledger.Grant                        `json:"grant,omitempty"`
	Written int64                                `json:"written_ms,omitempty"`
}

func extraOf(e ledger.Entry) (any, error) {
	if e.Shares == nil && len(e.Tokens) == 0 && e.Receipt == nil && e.Grant == nil && e.WrittenMS == 0 {
		return nil, nil
	}
	text, err := json.Marshal(extra{e.Shares, e.Tokens, e.Receipt, e.Grant, e.WrittenMS})
	return string(text), err
}

// put writes one entry at a place of a log. added is false for an entry that is
// there already, and other is the one that has its key where that says something
// else.
func (w *writer) put(ctx context.Context, log *logHead, nr int64, e ledger.Entry) (added bool, other *ledger.Entry, err error) {
	account, series, err := w.series(ctx, e)
	if err != nil {
		return false, nil, err
	}
	detail, err := w.detail(ctx, e)
	if err != nil {
		return false, nil, err
	}
	more, err := extraOf(e)
	if err != nil {
		return false, nil, err
	}
	done, err := w.exec(ctx, `INSERT INTO entry (log, nr, key, series, detail, from_ms, to_ms, gpu_ms, cost, energy, extra)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		log.id, nr, e.Key, series, detail, e.FromMS, e.ToMS, int64(e.GPUTime), int64(e.Cost), int64(e.Energy), more)
	if err != nil {
		return false, nil, err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		if err != nil {
			return false, nil, err
		}
		return w.known(ctx, e)
	}
	if e.Receipt != nil {
		if _, err := w.exec(ctx, `INSERT INTO receipt (hold, key, namespace, job, ended_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			e.HoldID, e.Key, e.Namespace, e.JobID, e.ToMS); err != nil {
			return false, nil, err
		}
	}
	return true, nil, w.count(ctx, account, series, e, always)
}

// known compares an entry with the one that has its key.
func (w *writer) known(ctx context.Context, e ledger.Entry) (bool, *ledger.Entry, error) {
	have, err := entries(ctx, w.conn, `e.key = ?`, "", e.Key)
	if err != nil {
		return false, nil, err
	}
	if len(have) == 0 {
		return false, nil, fmt.Errorf("entry %q: its place in the log is taken by another one", e.Key)
	}
	if same(have[0].Entry, e) {
		return false, nil, nil
	}
	return false, &have[0].Entry, nil
}

// same reports whether two entries say the same.
func same(a, b ledger.Entry) bool {
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && slices.Equal(x, y)
}
