package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// ErrConflict means that an entry has the key of another one and says something
// else. It is wrapped by a ConflictError.
var ErrConflict = errors.New("an entry with this key says something else")

// ConflictError names entries that were not taken in, because those that have their
// keys say something else. Everything else was recorded, and the two versions of each
// are kept (Conflicts): trying again changes nothing.
type ConflictError struct {
	// Kept and Other are the entries in pairs: the one that counts, and the other.
	Kept, Other []ledger.Entry
}

// Error names the keys.
func (e *ConflictError) Error() string {
	keys := make([]string, len(e.Kept))
	for i, k := range e.Kept {
		keys[i] = fmt.Sprintf("%q", k.Key)
	}
	const shown = 5
	if len(keys) > shown {
		keys = append(keys[:shown], fmt.Sprintf("%d more", len(keys)-shown))
	}
	return fmt.Sprintf("%v, which stays: %s; `governor usage verify` shows both", ErrConflict, strings.Join(keys, ", "))
}

// Unwrap is ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Record writes entries, all or none, but for those with the key of another one
// that says something else: for those the error is a ConflictError, after all others
// were written. An entry that is there already is nothing new.
func (s *Store) Record(ctx context.Context, entries []ledger.Entry) error {
	for _, e := range entries {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("record history: %w", err)
		}
	}
	var conflict *ConflictError
	err := s.write(ctx, func(ctx context.Context, w *writer) error {
		conflict = nil
		log, err := w.log(ctx, w.name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			added, kept, err := w.put(ctx, log, log.head+1, e)
			switch {
			case err != nil:
				return err
			case kept != nil:
				if conflict, err = s.disagree(ctx, w, conflict, *kept, e); err != nil {
					return err
				}
			case added:
				log.head, log.moved = log.head+1, true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if conflict != nil {
		return fmt.Errorf("record history: %w", conflict)
	}
	return nil
}

// conflictsMax bounds how many conflicts are kept: one is a bug already.
const conflictsMax = 1000

func (s *Store) disagree(ctx context.Context, w *writer, c *ConflictError, kept, other ledger.Entry) (*ConflictError, error) {
	if c == nil {
		c = &ConflictError{}
	}
	c.Kept, c.Other = append(c.Kept, kept), append(c.Other, other)
	a, err := json.Marshal(kept)
	if err != nil {
		return c, err
	}
	b, err := json.Marshal(other)
	if err != nil {
		return c, err
	}
	_, err = w.exec(ctx, `INSERT INTO conflict (key, kept, other, at_ms) SELECT ?, ?, ?, ? WHERE (SELECT count(*) FROM conflict) < ? ON CONFLICT DO NOTHING`,
		kept.Key, string(a), string(b), s.now().UnixMilli(), conflictsMax)
	return c, err
}

// Conflict are two entries with one key.
type Conflict struct {
	Kept  ledger.Entry `json:"kept"`
	Other ledger.Entry `json:"other"`
	// AtMS is when the second one came.
	AtMS int64 `json:"at_ms"`
}

// Conflicts are all entries that were refused because others have their keys, in
// order of the keys.
func (s *Store) Conflicts(ctx context.Context) ([]Conflict, error) {
	var out []Conflict
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		rows, err := q.QueryContext(ctx, `SELECT kept, other, at_ms FROM conflict ORDER BY key, other`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c Conflict
			var kept, other []byte
			if err := rows.Scan(&kept, &other, &c.AtMS); err != nil {
				return err
			}
			if err := errors.Join(json.Unmarshal(kept, &c.Kept), json.Unmarshal(other, &c.Other)); err != nil {
				return err
			}
			out = append(out, c)
		}
		return rows.Err()
	})
	return out, err
}

// Missing are those of some entries whose keys are not in the history.
func (s *Store) Missing(ctx context.Context, entries []ledger.Entry) ([]ledger.Entry, error) {
	var missing []ledger.Entry
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		missing = nil
		for chunk := range slices.Chunk(entries, 500) {
			known, err := knownKeys(ctx, q, chunk)
			if err != nil {
				return err
			}
			for _, e := range chunk {
				if !known[e.Key] {
					missing = append(missing, e)
				}
			}
		}
		return nil
	})
	return missing, err
}

func knownKeys(ctx context.Context, q querier, entries []ledger.Entry) (map[string]bool, error) {
	args := make([]any, len(entries))
	for i, e := range entries {
		args[i] = e.Key
	}
	rows, err := q.QueryContext(ctx, `SELECT key FROM entry WHERE key IN (?`+strings.Repeat(`, ?`, len(args)-1)+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := make(map[string]bool, len(entries))
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		known[key] = true
	}
	return known, rows.Err()
}
