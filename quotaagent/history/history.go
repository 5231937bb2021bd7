package history

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

const (
	// patience is how long a write waits for another one, or for the lock of another
	// process. What is not recorded now stays in the ledger's outbox, which is better
	// than to hold up the ledger.
	patience = 2 * time.Second
	// maxConns bounds open connections: readers beside the one writer.
	maxConns = 5
)

// ErrBusy means that the history is being rebuilt, or written by somebody else for
// longer than can be waited. It passes.
var ErrBusy = errors.New("the history is busy")

// Store is the history in one file. All methods may be called concurrently.
type Store struct {
	path string
	db   *sql.DB
	now  func() time.Time

	// turn has room for one: the writers of this process queue here.
	turn chan struct{}
	// writer belongs to whoever has the turn.
	writer *writer

	mu       sync.Mutex
	location *time.Location
}

// Open opens the history in the file at path and creates it when missing. The error
// says what is wrong with a file that cannot be used.
func Open(path string, now func() time.Time) (*Store, error) {
	return open(path, now, migrations())
}

func open(path string, now func() time.Time, steps []string) (*Store, error) {
	abs, err := prepare(path)
	if err != nil {
		return nil, fmt.Errorf("open history %q: %w", path, err)
	}
	db, err := sql.Open("sqlite", dsn(abs))
	if err != nil {
		return nil, fmt.Errorf("open history %q: %w", path, err)
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	s := &Store{path: abs, db: db, now: now, turn: make(chan struct{}, 1), location: time.UTC}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.begin(ctx, steps); err != nil {
		return nil, errors.Join(fmt.Errorf("open history %q: %w", path, explain(err)), db.Close())
	}
	return s, nil
}

// begin checks the file, brings it to the schema of this build and reads how it was
// left.
func (s *Store) begin(ctx context.Context, steps []string) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	var mode string
	if err := conn.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return errors.Join(err, conn.Close())
	}
	if mode != "wal" {
		return errors.Join(fmt.Errorf("journal mode is %q, not wal: put the file on a local file system", mode), conn.Close())
	}
	if err := migrate(ctx, conn, steps); err != nil {
		return errors.Join(err, conn.Close())
	}
	zone, err := readMeta(ctx, conn, "zone")
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if s.location, err = time.LoadLocation(zone); err != nil {
		return errors.Join(fmt.Errorf("the file has the zone %q: %w", zone, err), conn.Close())
	}
	s.writer = newWriter(conn, s.location, randomName())
	_, err = conn.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'began_ms' AND value = '0'`, strconv.FormatInt(s.now().UnixMilli(), 10))
	return err
}

// randomName names the log of this process.
func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// Close closes the file.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	err := errors.Join(s.writer.close(), s.db.Close())
	if err != nil {
		return fmt.Errorf("close history %q: %w", s.path, err)
	}
	return nil
}

// prepare returns the absolute path and creates the file: SQLite would create it
// readable by everyone, and gives its side files the same mode. One that is there
// already loses the rights of others.
func prepare(path string) (string, error) {
	if path == "" || strings.Contains(path, ":memory:") {
		return "", errors.New("the history needs a file: give the path of one in an existing directory")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	file, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	return abs, errors.Join(file.Chmod(0o600), file.Close())
}

// dsn escapes the path: a file URI, because a question mark would begin the
// options and SQLite decodes percent signs.
func dsn(abs string) string {
	options := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", patience.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"cache_size(-65536)",
		"journal_size_limit(67108864)",
		"temp_store(MEMORY)",
	}, "_txlock": {"immediate"}}
	file := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(abs), RawQuery: options.Encode()}
	return file.String()
}

// querier is a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// executor is a connection that writes.
type executor interface {
	querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func readMeta(ctx context.Context, q querier, key string) (string, error) {
	var value string
	if err := q.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = ?`, key).Scan(&value); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return value, nil
}

func readMetaInt(ctx context.Context, q querier, key string) (int64, error) {
	text, err := readMeta(ctx, q, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return n, nil
}

func writeMeta(ctx context.Context, e executor, key, value string) error {
	_, err := e.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = ?`, value, key)
	return err
}

// write runs fn in the one write transaction at a time. What fn keeps in the
// writer's memory only stays there when the transaction is committed.
func (s *Store) write(ctx context.Context, fn func(ctx context.Context, w *writer) error) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("write history: %w", ctx.Err())
	case <-timer.C:
		return fmt.Errorf("write history: %w", ErrBusy)
	}
	if err := s.writer.transact(ctx, fn); err != nil {
		return fmt.Errorf("write history %q: %w", s.path, explain(err))
	}
	return nil
}

// read runs fn in one snapshot of the file.
func (s *Store) read(ctx context.Context, fn func(ctx context.Context, q querier) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read history %q: %w", s.path, explain(err))
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	if err := fn(ctx, tx); err != nil {
		return fmt.Errorf("read history %q: %w", s.path, explain(err))
	}
	return nil
}

// explain adds what to do to errors of the file itself.
func explain(err error) error {
	var cause *sqlite.Error
	if !errors.As(err, &cause) {
		return err
	}
	switch cause.Code() & 0xff { // the low byte is the primary result code
	case lib.SQLITE_NOTADB:
		return fmt.Errorf("the file is no SQLite database, give another path: %w", err)
	case lib.SQLITE_CORRUPT:
		return fmt.Errorf("the file is damaged; move it away, and the agent gets its history anew from the others: %w", err)
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
		return fmt.Errorf("the file and its directory must be writable: %w", err)
	case lib.SQLITE_FULL:
		return fmt.Errorf("the disk is full: %w", err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return fmt.Errorf("%w: another process writes to the file: %w", ErrBusy, err)
	}
	return err
}

// Location is the zone of days and months.
func (s *Store) Location() *time.Location {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.location
}
