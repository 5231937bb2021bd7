package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
)

const hourMS = int64(3_600_000)

// noon is far from every boundary but that of the hour.
var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func openAt(t testing.TB, path string) *Store {
	s, err := Open(path, func() time.Time { return noon })
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, s.Close()) })
	return s
}

func newStore(t testing.TB) *Store { return openAt(t, filepath.Join(t.TempDir(), "history.db")) }

func here(path string) string { return path }

// usage is an entry of one hour from an instant on.
func usage(key string, at time.Time, change func(e *ledger.Entry)) ledger.Entry {
	e := ledger.Entry{Key: key, Kind: ledger.UsageEntry, Budget: "acme/research", Namespace: "default", JobID: "train", HoldID: "h-1", Alloc: "a-1",
		Submitter: "alice", Class: "h100", GPUs: []string{"GPU-1", "GPU-2"}, FromMS: at.UnixMilli(), ToMS: at.UnixMilli() + hourMS,
		GPUTime: quantity.Amount(2 * hourMS), Cost: 5_800_000, Energy: 4_000_000, RateCard: "2026"}
	if change != nil {
		change(&e)
	}
	return e
}

func statement(t must.T, s *Store, q report.Query) report.Statement {
	if q.To.IsZero() {
		q.From, q.To = noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)
	}
	rows, err := s.Rows(context.Background(), q, here)
	must.NoError(t, err)
	return report.Make(q, s.Location().String(), "USD", rows)
}

// dump is all sums of a file in words, and all entries; two files with the same
// history have the same.
func dump(t must.T, s *Store) []string {
	var out []string
	for _, query := range []string{
		`SELECT 'entry', key, from_ms, to_ms, gpu_ms, cost, energy, coalesce(extra, '') FROM entry`,
		sumDump(jobHour, true), sumDump(jobDay, true), sumDump(jobMonth, true), sumDump(sumDay, false), sumDump(sumMonth, false),
		`SELECT 'posted_hour', t.at, l.budget, l.dimension, t.amount FROM posted_hour t JOIN line l ON l.id = t.line WHERE t.amount <> 0`,
		`SELECT 'posted_month', t.at, l.budget, l.dimension, t.amount FROM posted_month t JOIN line l ON l.id = t.line WHERE t.amount <> 0`,
	} {
		rows, err := s.db.QueryContext(context.Background(), query)
		must.NoError(t, err)
		columns, err := rows.Columns()
		must.NoError(t, err)
		for rows.Next() {
			cells, to := make([]any, len(columns)), make([]any, len(columns))
			for i := range cells {
				to[i] = &cells[i]
			}
			must.NoError(t, rows.Scan(to...))
			out = append(out, fmt.Sprint(cells...))
		}
		must.NoError(t, rows.Err())
		must.NoError(t, rows.Close()) //nolint:sqlclosecheck // in a loop
	}
	slices.Sort(out)
	return out
}

func sumDump(table string, series bool) string {
	words := `a.kind, a.estimated, a.budget, a.namespace, a.user, a.class, a.rate_card, a.model`
	amounts := `t.gpu_ms, t.cost, t.energy, t.input, t.cached, t.output`
	nonzero := ` WHERE t.gpu_ms <> 0 OR t.cost <> 0 OR t.energy <> 0 OR t.input <> 0 OR t.cached <> 0 OR t.output <> 0`
	if series {
		return `SELECT '` + table + `', t.at, ` + words + `, s.job, ` + amounts + ` FROM ` + table + ` t JOIN series s ON s.id = t.id JOIN account a ON a.id = s.account` + nonzero
	}
	return `SELECT '` + table + `', t.at, ` + words + `, ` + amounts + ` FROM ` + table + ` t JOIN account a ON a.id = t.id` + nonzero
}

func TestAnEntryIsRecordedOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := usage("k", noon, func(e *ledger.Entry) {
		e.Tokens = map[budget.TokenKind]quantity.Amount{budget.OutputTokens: 7}
		e.Shares = map[string]quantity.Amount{"h100": 3, "any": 4}
		e.Cause, e.Author, e.Run, e.Node, e.Model = "why", "who", "r", "n", "m"
	})
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{e}))
	once := dump(t, s)
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{e, e}))
	must.Eq(t, once, dump(t, s))
	found, err := s.Entries(t.Context(), "default", "train", 10)
	must.NoError(t, err)
	must.Eq(t, []ledger.Entry{e}, found)
	state, err := s.State(t.Context())
	must.NoError(t, err)
	must.Eq(t, 1, state.Entries)
}

func TestAnotherEntryWithAKeyIsReportedAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	first, second := usage("k", noon, nil), usage("k", noon, func(e *ledger.Entry) { e.Cost++ })
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{first}))
	err := s.Record(t.Context(), []ledger.Entry{usage("before", noon, nil), second, usage("after", noon, nil)})
	must.ErrorIs(t, err, ErrConflict)
	must.ErrorContains(t, err, `which stays: "k"`)
	var conflict *ConflictError
	must.True(t, errors.As(err, &conflict))
	must.Eq(t, []ledger.Entry{second}, conflict.Other)
	found, err := s.Entries(t.Context(), "default", "train", 10)
	must.NoError(t, err)
	must.Len(t, 3, found, must.Sprint("the others are recorded"))
	must.SliceContains(t, found, first)
	kept, err := s.Conflicts(t.Context())
	must.NoError(t, err)
	must.Eq(t, []Conflict{{Kept: first, Other: second, AtMS: noon.UnixMilli()}}, kept)
	must.ErrorIs(t, s.Record(t.Context(), []ledger.Entry{second}), ErrConflict)
	kept, err = s.Conflicts(t.Context())
	must.NoError(t, err)
	must.Len(t, 1, kept, must.Sprint("it is the same one"))
}

func TestAnEntryThatCannotBeKeptKeepsTheOthersOut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	must.ErrorContains(t, s.Record(t.Context(), []ledger.Entry{usage("a", noon, nil), usage("", noon, nil)}), "has no key")
	state, err := s.State(t.Context())
	must.NoError(t, err)
	must.Eq(t, 0, state.Entries)
}

func TestAFileIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history.db")
	must.NoError(t, os.WriteFile(path, nil, 0o644))
	s := openAt(t, path)
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("k", noon, nil)}))
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		must.NoError(t, err)
		must.Eq(t, 0o600, info.Mode().Perm(), must.Sprint(name))
	}
}

func TestAFileOfTheFirstVersionIsBroughtToThisOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history.db")
	old, err := open(path, func() time.Time { return noon }, migrations()[:1])
	must.NoError(t, err)
	must.NoError(t, old.Record(t.Context(), []ledger.Entry{usage("k", noon, nil)}))
	before := dump(t, old)
	must.NoError(t, old.Close())
	s := openAt(t, path)
	must.Eq(t, before, dump(t, s))
	must.NoError(t, s.Decided(t.Context(), []Decision{{AtMS: 1, Namespace: "default", JobID: "train", Outcome: "deny"}}, 10))
	found, err := s.Decisions(t.Context(), "default", "train", 10)
	must.NoError(t, err)
	must.Len(t, 1, found)
}

func TestFilesThatAreNoHistoryAreLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history.db")
	newer, err := open(path, time.Now, append(migrations(), `CREATE TABLE more (x)`))
	must.NoError(t, err)
	must.NoError(t, newer.Close())
	_, err = Open(path, time.Now)
	must.ErrorContains(t, err, fmt.Sprintf("schema version %d, this build knows versions up to %d: run a newer governor", len(migrations())+1, len(migrations())))

	text := filepath.Join(t.TempDir(), "notes.txt")
	must.NoError(t, os.WriteFile(text, []byte("this is not a database, and it is long enough to be looked at"), 0o600))
	_, err = Open(text, time.Now)
	must.ErrorContains(t, err, "no SQLite database")

	_, err = Open(filepath.Join(t.TempDir(), "none", "history.db"), time.Now)
	must.ErrorContains(t, err, "no such file or directory")
	_, err = Open("", time.Now)
	must.ErrorContains(t, err, "needs a file")
}

func TestWhatIsHeldUpSaysSoSoon(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.turn <- struct{}{} // a rebuild
	begin := time.Now()
	err := s.Record(t.Context(), []ledger.Entry{usage("k", noon, nil)})
	<-s.turn
	must.ErrorIs(t, err, ErrBusy)
	must.Less(t, 2*patience, time.Since(begin))
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("k", noon, nil)}))

	other := openAt(t, s.path)
	release := make(chan struct{})
	locked := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- other.write(context.Background(), func(context.Context, *writer) error { close(locked); <-release; return nil })
	}()
	<-locked
	err = s.Record(t.Context(), []ledger.Entry{usage("l", noon, nil)})
	close(release)
	must.NoError(t, <-done)
	must.ErrorIs(t, err, ErrBusy)
	must.ErrorContains(t, err, "another process writes")
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("l", noon, nil)}))
}

func TestAFullDiskIsAnErrorAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("first", noon, nil)}))
	before := dump(t, s)
	// A file that may not grow is what a full disk is for SQLite.
	var pages int
	must.NoError(t, s.writer.conn.QueryRowContext(t.Context(), `PRAGMA page_count`).Scan(&pages))
	_, err := s.writer.conn.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
	must.NoError(t, err)
	many := make([]ledger.Entry, 2000)
	for i := range many {
		many[i] = usage(fmt.Sprintf("key-%05d", i), noon, func(e *ledger.Entry) { e.Alloc = fmt.Sprint("alloc-", i) })
	}
	must.ErrorContains(t, s.Record(t.Context(), many), "the disk is full")
	must.Eq(t, before, dump(t, s))
	_, err = s.writer.conn.ExecContext(t.Context(), `PRAGMA max_page_count = 1000000`)
	must.NoError(t, err)
	must.NoError(t, s.Record(t.Context(), many), must.Sprint("there is room again"))
	state, err := s.State(t.Context())
	must.NoError(t, err)
	must.Eq(t, 2001, state.Entries)
}

func TestACallThatIsGivenUpLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.ErrorIs(t, s.Record(ctx, []ledger.Entry{usage("k", noon, nil)}), context.Canceled)
	must.SliceEmpty(t, dump(t, s))
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("k", noon, nil)}))
}

// A decision keeps its ID, also one that an older build wrote and after the oldest ones
// have gone.
func TestDecisionsHaveIDsOfTheirOwn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history.db")
	old, err := open(path, func() time.Time { return noon }, migrations()[:3])
	must.NoError(t, err)
	must.NoError(t, old.write(t.Context(), func(ctx context.Context, w *writer) error {
		_, err := w.exec(ctx, `INSERT INTO decision (at_ms, namespace, job, outcome, reason, budget, user, gpus, plan, shadow, text) VALUES (1, 'default', 'train', 'deny', 'frozen', 'acme', 'u', 2, 0, 0, 'no')`)
		return err
	}))
	must.NoError(t, old.Close())
	s := openAt(t, path)
	found, err := s.Decisions(t.Context(), "default", "train", 10)
	must.NoError(t, err)
	first := found[0]
	must.RegexMatch(t, decisionID, first.ID)
	must.Eq(t, Decision{ID: first.ID, AtMS: 1, Namespace: "default", JobID: "train", Outcome: "deny", Reason: "frozen", Budget: "acme", Submitter: "u", GPUs: 2, Text: "no"}, first)

	second := Decision{AtMS: 2, Namespace: "default", JobID: "train", Request: "scale", Outcome: "admit", Reason: "fits", Budget: "acme", Source: "b.hcl:3", Revision: "abc", GPUs: 1}
	must.NoError(t, s.Decided(t.Context(), []Decision{second, {AtMS: 3, JobID: "other"}}, 10))
	find := func(q DecisionQuery) []Decision {
		t.Helper()
		found, err := s.FindDecisions(t.Context(), q)
		must.NoError(t, err)
		return found
	}
	about := DecisionQuery{Namespace: "default", Job: "train", Limit: 1}
	second.ID = find(about)[0].ID
	must.Eq(t, []Decision{second}, find(about))
	must.NotEq(t, first.ID, second.ID)
	about.Skip = 1
	must.Eq(t, []Decision{first}, find(about))
	must.Eq(t, []Decision{first}, find(DecisionQuery{Until: time.UnixMilli(1), Limit: 10}))

	got, err := s.Decision(t.Context(), second.ID)
	must.NoError(t, err)
	must.Eq(t, second, got)
	for _, none := range []string{"", "train", "d-00000000-1", second.ID + "0", second.ID + "99999999999999999999", strings.ToUpper(second.ID)} {
		_, err = s.Decision(t.Context(), none)
		must.ErrorIs(t, err, ErrNoDecision, must.Sprint(none))
	}
	must.True(t, IsDecisionID(second.ID))

	must.NoError(t, s.Decided(t.Context(), []Decision{{AtMS: 4, JobID: "other"}}, 1))
	_, err = s.Decision(t.Context(), second.ID)
	must.ErrorIs(t, err, ErrNoDecision)
	must.NoError(t, s.Decided(t.Context(), []Decision{second}, 10))
	must.StrHasSuffix(t, "-5", find(DecisionQuery{Namespace: "default", Job: "train", Limit: 1})[0].ID, must.Sprint("a number is never given again"))
}
