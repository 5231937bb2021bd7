package history

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Logged is an entry with its place in the log of the process that recorded it.
type Logged struct {
	Log   string       `json:"log"`
	Nr    int64        `json:"nr"`
	Entry ledger.Entry `json:"entry"`
}

// columns are what scanEntry reads.
const columns = `l.name, e.nr, e.key, a.kind, a.budget, a.namespace, s.job, d.hold, d.run, d.alloc, d.node, a.user, a.class, d.gpus, e.from_ms, e.to_ms,
	e.gpu_ms, e.cost, e.energy, a.model, a.rate_card, a.estimated, d.cause, d.author, e.extra`

const entryTables = ` FROM entry e JOIN series s ON s.id = e.series JOIN account a ON a.id = s.account JOIN detail d ON d.id = e.detail JOIN log l ON l.id = e.log`

// entries are those that a condition selects, whole.
func entries(ctx context.Context, q querier, where, more string, args ...any) ([]Logged, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+columns+entryTables+` WHERE `+where+` `+more, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Logged
	for rows.Next() {
		l, err := scanEntry(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

func scanEntry(rows *sql.Rows) (Logged, error) {
	var l Logged
	var gpus string
	var more []byte
	e := &l.Entry
	err := rows.Scan(&l.Log, &l.Nr, &e.Key, &e.Kind, &e.Budget, &e.Namespace, &e.JobID, &e.HoldID, &e.Run, &e.Alloc, &e.Node, &e.Submitter, &e.Class, &gpus,
		&e.FromMS, &e.ToMS, &e.GPUTime, &e.Cost, &e.Energy, &e.Model, &e.RateCard, &e.Estimated, &e.Cause, &e.Author, &more)
	if err != nil {
		return l, err
	}
	if gpus != "" {
		if err := json.Unmarshal([]byte(gpus), &e.GPUs); err != nil {
			return l, fmt.Errorf("entry %q: %w", e.Key, err)
		}
	}
	return l, setExtra(e, more)
}

// setExtra sets what few entries have.
func setExtra(e *ledger.Entry, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	var x extra
	if err := json.Unmarshal(text, &x); err != nil {
		return fmt.Errorf("entry %q: %w", e.Key, err)
	}
	e.Shares, e.Tokens, e.Receipt, e.Grant, e.WrittenMS = x.Shares, x.Tokens, x.Receipt, x.Grant, x.Written
	return nil
}

// Grants are the overrides that ended since a time and that the ledger does not keep any
// more.
func (s *Store) Grants(ctx context.Context, since time.Time) ([]ledger.Grant, error) {
	var out []ledger.Grant
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		out = nil
		found, err := entries(ctx, q, `a.kind = ? AND e.to_ms >= ?`, `ORDER BY e.key`, ledger.GrantEntry, since.UnixMilli())
		for _, l := range found {
			if l.Entry.Grant != nil {
				out = append(out, *l.Entry.Grant)
			}
		}
		return err
	})
	return out, err
}

// Corrections are the entries that people wrote about what a budget, or one below it,
// used in [from, to), as far as single entries are kept. They have the paths that the
// budgets have now.
func (s *Store) Corrections(ctx context.Context, from, to time.Time, budget string, moved Moved) ([]ledger.Entry, error) {
	return s.entriesOf(ctx, ledger.CorrectionEntry, ` AND d.author <> ''`, from, to, budget, moved)
}

// entriesOf are the entries of a kind in [from, to), of a budget and below it or of all,
// under the paths that the budgets have now.
func (s *Store) entriesOf(ctx context.Context, kind, more string, from, to time.Time, budget string, moved Moved) ([]ledger.Entry, error) {
	var out []ledger.Entry
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		out = nil
		found, err := entries(ctx, q, `a.kind = ? AND e.to_ms >= ? AND e.from_ms < ?`+more, `ORDER BY e.from_ms, e.key`, kind, from.UnixMilli(), to.UnixMilli())
		if err != nil {
			return err
		}
		for _, l := range found {
			e := l.Entry
			e.Budget = moved(e.Budget)
			if budget == "" || e.Budget == budget || strings.HasPrefix(e.Budget, budget+"/") {
				out = append(out, e)
			}
		}
		return nil
	})
	return out, err
}
