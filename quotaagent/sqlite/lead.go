package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// leadRetry is how often a candidate tries for the lock. It is well below the
// second in which another must lead after a clean stop.
const leadRetry = 200 * time.Millisecond

// Lead runs run while this call is the leader, again and again until ctx ends.
//
// The lock is an exclusive transaction on a side file (path + "-leader"), kept
// open while leading: it ends with the process, so a restarted agent leads at
// once, and two processes on one file never lead together. The fence is a
// random session id in the ledger's own file; it outlives nobody's term.
func (s *Store) Lead(ctx context.Context, name string, run func(ctx context.Context, fence ledger.Fence)) {
	for ctx.Err() == nil {
		// An error here is another leader, or a store that Commit reports on.
		_ = s.term(ctx, name, run)
		select {
		case <-ctx.Done():
		case <-time.After(leadRetry):
		}
	}
}

// Leader returns the name of the present leader, or "" when there is none. A
// leader that was killed is named until the next one leads.
func (s *Store) Leader(ctx context.Context) (name string, err error) {
	err = s.read(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT name FROM ledger_leader`).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the leader: %w", err)
	}
	return name, nil
}

func (s *Store) term(ctx context.Context, name string, run func(context.Context, ledger.Fence)) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	session := rand.Text()
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO ledger_leader VALUES (1, ?, ?)
			ON CONFLICT (id) DO UPDATE SET session = excluded.session, name = excluded.name`, session, name)
		return err
	})
	if err != nil {
		return err
	}
	run(ctx, ledger.Fence{Session: session})
	// ctx has usually ended by now, but the row must still go.
	return s.write(context.WithoutCancel(ctx), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM ledger_leader WHERE session = ?`, session)
		return err
	})
}

// lock returns a database that holds the leader's lock until it is closed.
func (s *Store) lock(ctx context.Context) (*sql.DB, error) {
	file := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(s.path + "-leader")}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		return nil, err
	}
	// One connection that is never given back idle: it is the lock.
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, `BEGIN EXCLUSIVE`); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkFence(ctx context.Context, tx *sql.Tx, fence ledger.Fence) error {
	if fence == (ledger.Fence{}) {
		return nil
	}
	var session string
	err := tx.QueryRowContext(ctx, `SELECT session FROM ledger_leader`).Scan(&session)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if session != fence.Session {
		return fmt.Errorf("%w: session %q is no longer the leader's", ledger.ErrConflict, fence.Session)
	}
	return nil
}
