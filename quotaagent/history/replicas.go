package history

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Heads say how far a file knows each log: all of it up to that number, but for
// entries that are too old to be kept.
type Heads map[string]int64

// Page is a piece of what one file has and another one lacks.
type Page struct {
	// File is the id of the file that it comes from, BeganMS when its history begins.
	File    string `json:"file"`
	BeganMS int64  `json:"began_ms"`
	// FloorMS is up to when single entries are not kept any more.
	FloorMS int64 `json:"floor_ms"`
	// After are the heads to which the page must be added, and Heads what they are
	// with it.
	After   Heads    `json:"after"`
	Heads   Heads    `json:"heads"`
	Entries []Logged `json:"entries"`
	// More says that there is more behind it.
	More bool `json:"more"`
}

// Join makes p the page behind another one of the same file. All heads move with
// the last page: an entry that two logs have is under one of them only, so that a
// file with half of the pages would claim entries that it does not have.
func (p Page) Join(before Page) Page {
	after, heads := maps.Clone(p.After), maps.Clone(before.Heads)
	if heads == nil {
		heads = Heads{}
	}
	maps.Copy(after, before.After)
	maps.Copy(heads, p.Heads)
	p.After, p.Heads = after, heads
	return p
}

// File is the id of the file: random, and made with it.
func (s *Store) File(ctx context.Context) (string, error) {
	var file string
	err := s.read(ctx, func(ctx context.Context, q querier) (err error) {
		file, err = readMeta(ctx, q, "file")
		return err
	})
	return file, err
}

// Heads are how far this file knows each log.
func (s *Store) Heads(ctx context.Context) (Heads, error) {
	var heads Heads
	err := s.read(ctx, func(ctx context.Context, q querier) (err error) {
		heads, err = readHeads(ctx, q)
		return err
	})
	return heads, err
}

func readHeads(ctx context.Context, q querier) (Heads, error) {
	rows, err := q.QueryContext(ctx, `SELECT name, head FROM log`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	heads := Heads{}
	for rows.Next() {
		var name string
		var head int64
		if err := rows.Scan(&name, &head); err != nil {
			return nil, err
		}
		heads[name] = head
	}
	return heads, rows.Err()
}

// Since are entries that a file with these heads lacks: at most limit, in the order
// of their logs.
func (s *Store) Since(ctx context.Context, theirs Heads, limit int) (Page, error) {
	var p Page
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		p = Page{After: Heads{}, Heads: Heads{}, Entries: []Logged{}}
		var err error
		if p.File, err = readMeta(ctx, q, "file"); err != nil {
			return err
		}
		if p.BeganMS, err = readMetaInt(ctx, q, "began_ms"); err != nil {
			return err
		}
		if p.FloorMS, err = readMetaInt(ctx, q, "floor_ms"); err != nil {
			return err
		}
		ours, err := readHeads(ctx, q)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(ours)) {
			if theirs[name] >= ours[name] {
				continue
			}
			if len(p.Entries) >= limit {
				p.More = true
				return nil
			}
			found, err := entries(ctx, q, `l.name = ? AND e.nr > ?`, `ORDER BY e.nr LIMIT `+num(int64(limit-len(p.Entries))), name, theirs[name])
			if err != nil {
				return err
			}
			p.After[name], p.Heads[name] = theirs[name], ours[name]
			p.Entries = append(p.Entries, found...)
			if len(p.Entries) >= limit && len(found) > 0 {
				p.Heads[name] = found[len(found)-1].Nr
				p.More = p.More || p.Heads[name] < ours[name]
			}
		}
		return nil
	})
	return p, err
}

// Absorb takes a page of another file in, whole or not at all. Pages with more
// behind them leave the heads as they are (see Join). Entries older than the
// ones that this file keeps are left out: they are in its sums. A ConflictError names
// entries that say something else here; the others were taken in.
func (s *Store) Absorb(ctx context.Context, p Page) error {
	for _, l := range p.Entries {
		if err := l.Entry.Validate(); err != nil {
			return fmt.Errorf("history of another agent: %w", err)
		}
	}
	var conflict *ConflictError
	err := s.write(ctx, func(ctx context.Context, w *writer) error {
		conflict = nil
		floor, err := readMetaInt(ctx, w.conn, "floor_ms")
		if err != nil {
			return err
		}
		for name, after := range p.After {
			log, err := w.log(ctx, name)
			if err != nil {
				return err
			}
			if name == w.name || log.head < after {
				return fmt.Errorf("the page begins behind %d of log %s, of which this file has %d", after, name, log.head)
			}
		}
		for _, l := range p.Entries {
			if conflict, err = s.absorb(ctx, w, conflict, floor, l); err != nil {
				return err
			}
		}
		if p.More {
			return nil
		}
		for name, head := range p.Heads {
			log, err := w.log(ctx, name)
			if err != nil {
				return err
			}
			if _, covered := p.After[name]; covered && head > log.head {
				log.head, log.moved = head, true
			}
		}
		return w.beganNoLater(ctx, p.BeganMS)
	})
	if err != nil {
		return err
	}
	if conflict != nil {
		return fmt.Errorf("history of another agent: %w", conflict)
	}
	return nil
}

func (s *Store) absorb(ctx context.Context, w *writer, c *ConflictError, floor int64, l Logged) (*ConflictError, error) {
	log, err := w.log(ctx, l.Log)
	if err != nil || l.Nr <= log.head || l.Entry.ToMS < floor {
		return c, err
	}
	_, kept, err := w.put(ctx, log, l.Nr, l.Entry)
	if err != nil || kept == nil {
		return c, err
	}
	return s.disagree(ctx, w, c, *kept, l.Entry)
}

// beganNoLater notes that this file has all of another one, whose history begins at
// an instant.
func (w *writer) beganNoLater(ctx context.Context, ms int64) error {
	began, err := readMetaInt(ctx, w.conn, "began_ms")
	if err != nil || ms <= 0 || ms >= began {
		return err
	}
	return writeMeta(ctx, w.conn, "began_ms", num(ms))
}

// Entries are single entries of a job, in order of time: at most limit of the
// youngest.
func (s *Store) Entries(ctx context.Context, namespace, job string, limit int) ([]ledger.Entry, error) {
	var out []ledger.Entry
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		found, err := entries(ctx, q, `s.job = ? AND a.namespace = ?`, `ORDER BY e.from_ms DESC, e.key DESC LIMIT `+num(int64(limit)), job, namespace)
		if err != nil {
			return err
		}
		out = make([]ledger.Entry, len(found))
		for i, l := range found {
			out[len(found)-1-i] = l.Entry
		}
		return nil
	})
	return out, err
}
