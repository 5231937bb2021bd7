package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/request"
)

// callTimeout bounds every call except Watch and Lead, waiting for other
// writers included. Five seconds is far above any healthy commit and below the
// patience of an HTTP client.
const callTimeout = 5 * time.Second

// maxConns bounds open connections: a few readers beside the one writer.
const maxConns = 4

// Store is a ledger store in one file. All methods may be called concurrently.
type Store struct {
	path string
	db   *sql.DB

	// writer has room for one: writers of this process queue here, fairly and
	// with their context, rather than poll SQLite's lock.
	writer chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed and replaced by every commit of this process
}

// Open opens the store in the file at path and creates it when missing. The
// error says what is wrong with a file that cannot be used.
func Open(path string) (*Store, error) {
	abs, err := prepare(path)
	if err != nil {
		return nil, fmt.Errorf("open ledger store %q: %w", path, err)
	}
	db, err := sql.Open("sqlite", dsn(abs))
	if err != nil {
		return nil, fmt.Errorf("open ledger store %q: %w", path, err)
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	s := &Store{path: abs, db: db, writer: make(chan struct{}, 1), changed: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	if err := s.initialize(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger store %q: %w", path, explain(err)), db.Close())
	}
	return s, nil
}

// Close closes the file. End Lead and Watch first, through their contexts.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close ledger store %q: %w", s.path, err)
	}
	return nil
}

// prepare returns the absolute path and creates the file: SQLite would create
// it readable by everyone, and gives its side files the same mode.
func prepare(path string) (string, error) {
	if path == "" || strings.Contains(path, ":memory:") {
		return "", errors.New("the store needs a file: give the path of one in an existing directory")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	file, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	return abs, file.Close()
}

// dsn escapes the path: a file URI, because a question mark would begin the
// options and SQLite decodes percent signs.
func dsn(abs string) string {
	options := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", callTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
	}, "_txlock": {"immediate"}}
	file := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(abs), RawQuery: options.Encode()}
	return file.String()
}

// Read returns one record per key in the order of the keys, all from one
// consistent view. A key that does not exist has Version 0.
func (s *Store) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if err := request.CheckRead(keys); err != nil {
		return nil, err
	}
	out := make([]ledger.Record, len(keys))
	err := s.read(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for i, key := range keys {
			record := ledger.Record{Key: key}
			row := tx.QueryRowContext(ctx, `SELECT value, version FROM ledger_record WHERE key = ?`, key)
			if err := row.Scan(&record.Value, &record.Version); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			out[i] = present(record)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %d keys: %w", len(keys), err)
	}
	return out, nil
}

// List returns all records whose key begins with prefix, sorted by key, and
// the index from which to Watch the prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	if err := request.CheckPrefix(prefix); err != nil {
		return nil, 0, err
	}
	var records []ledger.Record
	var index uint64
	err := s.read(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if index, err = folderIndex(ctx, tx, prefix); err != nil {
			return err
		}
		records, err = scan(ctx, tx, prefix)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	return records, index, nil
}

func scan(ctx context.Context, tx *sql.Tx, prefix string) ([]ledger.Record, error) {
	query, args := `SELECT key, value, version FROM ledger_record WHERE key >= ? `, []any{prefix}
	if end, bounded := after(prefix); bounded {
		query, args = query+`AND key < ? `, append(args, end)
	}
	rows, err := tx.QueryContext(ctx, query+`ORDER BY key`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var records []ledger.Record
	for rows.Next() {
		var record ledger.Record
		if err := rows.Scan(&record.Key, &record.Value, &record.Version); err != nil {
			return nil, err
		}
		records = append(records, present(record))
	}
	return records, rows.Err()
}

// present makes an empty value an empty slice: nil would mean "delete" when the
// record is written back.
func present(record ledger.Record) ledger.Record {
	if record.Version != 0 && record.Value == nil {
		record.Value = []byte{}
	}
	return record
}

// Commit makes all writes or none. It returns ledger.ErrConflict when a version
// differs or the fence is not the leader's, and ledger.ErrUnavailable when the
// file cannot be written in time; both wrapped with the cause.
func (s *Store) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := s.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion is Commit and returns the version that every record now has
// which was written, so that it need not be read to be written again. It is 0
// when nothing was written.
func (s *Store) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (version uint64, err error) {
	if err := request.CheckCommit(writes); err != nil {
		return 0, err
	}
	if len(writes) == 0 && fence == (ledger.Fence{}) {
		return 0, nil
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if err := checkFence(ctx, tx, fence); err != nil {
			return err
		}
		for _, w := range writes {
			if err := checkVersion(ctx, tx, w); err != nil {
				return err
			}
		}
		version, err = apply(ctx, tx, writes)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("commit %d writes: %w", len(writes), err)
	}
	s.announce()
	return version, nil
}

func checkVersion(ctx context.Context, tx *sql.Tx, w ledger.Write) error {
	var version uint64
	err := tx.QueryRowContext(ctx, `SELECT version FROM ledger_record WHERE key = ?`, w.Key).Scan(&version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if version != w.Version {
		return fmt.Errorf("%w: key %q has version %d, not %d", ledger.ErrConflict, w.Key, version, w.Version)
	}
	return nil
}

// apply makes the writes, all with one new version, and returns that.
func apply(ctx context.Context, tx *sql.Tx, writes []ledger.Write) (version uint64, err error) {
	writes = slices.DeleteFunc(slices.Clone(writes), func(w ledger.Write) bool { return w.Check })
	if len(writes) == 0 {
		return 0, nil
	}
	err = tx.QueryRowContext(ctx,
		`UPDATE ledger_folder SET version = version + 1 WHERE folder = '' RETURNING version`).Scan(&version)
	if err != nil {
		return 0, err
	}
	folders := make(map[string]bool)
	for _, w := range writes {
		if w.Value == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM ledger_record WHERE key = ?`, w.Key)
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO ledger_record (key, value, version) VALUES (?, ?, ?)
				ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version`, w.Key, w.Value, version)
		}
		if err != nil {
			return 0, err
		}
		for f := folder(w.Key); f != "" && !folders[f]; f = folder(strings.TrimSuffix(f, "/")) {
			folders[f] = true
			_, err := tx.ExecContext(ctx, `INSERT INTO ledger_folder (folder, version) VALUES (?, ?)
				ON CONFLICT (folder) DO UPDATE SET version = excluded.version`, f, version)
			if err != nil {
				return 0, err
			}
		}
	}
	return version, nil
}

// read runs fn in one snapshot of the file.
func (s *Store) read(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return classify(ctx, inTx(ctx, s.db, &sql.TxOptions{ReadOnly: true}, fn))
}

// write runs fn in the one write transaction at a time.
func (s *Store) write(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return classify(ctx, ctx.Err())
	}
	return classify(ctx, inTx(ctx, s.db, nil, fn))
}

func inTx(ctx context.Context, db *sql.DB, options *sql.TxOptions, fn func(context.Context, *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		// The cause is what matters; a rollback that fails too cannot commit.
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// classify marks what may pass as ledger.ErrUnavailable: locks, a full disk, an
// ended context. A broken file is an error of its own: retrying does not help.
func classify(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, ledger.ErrConflict) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, errors.Join(ctx.Err(), err))
	}
	var cause *sqlite.Error
	if errors.As(err, &cause) {
		switch cause.Code() & 0xff { // the low byte is the primary result code
		case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_IOERR, lib.SQLITE_FULL, lib.SQLITE_CANTOPEN,
			lib.SQLITE_PROTOCOL, lib.SQLITE_NOMEM, lib.SQLITE_INTERRUPT:
			return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
		}
	}
	return explain(err)
}

// explain adds what to do to errors of the file itself.
func explain(err error) error {
	var cause *sqlite.Error
	if !errors.As(err, &cause) {
		return err
	}
	switch cause.Code() & 0xff {
	case lib.SQLITE_NOTADB:
		return fmt.Errorf("the file is no SQLite database, give another path: %w", err)
	case lib.SQLITE_CORRUPT:
		return fmt.Errorf("the file is damaged, restore it from a backup or move it away: %w", err)
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
		return fmt.Errorf("the file and its directory must be writable: %w", err)
	}
	return err
}
