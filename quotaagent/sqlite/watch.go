package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger/request"
)

const (
	// watchMax is how long Watch blocks when nothing happens.
	watchMax = time.Minute
	// watchPoll is how often Watch looks for commits of other processes. It
	// reads one row; PRAGMA data_version would cost the same and is only
	// comparable on one connection.
	watchPoll = 500 * time.Millisecond
)

// Watch blocks until something under prefix may have changed after index, at
// most about a minute, and returns the index now. Index 0 returns at once.
// Several keys of one folder share an index: a return is a reason to List
// again, not a promise of a change.
func (s *Store) Watch(ctx context.Context, prefix string, index uint64) (uint64, error) {
	if err := request.CheckPrefix(prefix); err != nil {
		return 0, err
	}
	deadline := time.NewTimer(watchMax)
	defer deadline.Stop()
	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	for {
		changed := s.changes() // taken before looking, so that no commit falls between
		now, err := s.index(ctx, prefix)
		if err != nil {
			return 0, fmt.Errorf("watch %q: %w", prefix, err)
		}
		if now < index {
			return 0, nil // another file took this one's place: begin again
		}
		if now > index {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("watch %q: %w", prefix, ctx.Err())
		case <-deadline.C:
			return now, nil
		case <-changed:
		case <-poll.C:
		}
	}
}

func (s *Store) index(ctx context.Context, prefix string) (index uint64, err error) {
	err = s.read(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		index, err = folderIndex(ctx, tx, prefix)
		return err
	})
	return index, err
}

// folderIndex is the version of the latest change in the folder that holds all
// keys with this prefix, at least 1: index 0 means "not looked yet".
func folderIndex(ctx context.Context, tx *sql.Tx, prefix string) (uint64, error) {
	var index uint64
	err := tx.QueryRowContext(ctx, `SELECT version FROM ledger_folder WHERE folder = ?`, folder(prefix)).Scan(&index)
	if errors.Is(err, sql.ErrNoRows) {
		return 1, nil
	}
	return index, err
}

func (s *Store) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Store) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}
