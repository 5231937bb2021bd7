package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"unicode/utf8"
)

// schemaVersion is the schema that this build reads and writes.
const schemaVersion = 1

// schema creates version 1. Tables are named ledger_* because other parts of
// the agent may keep theirs in the same file.
//
// ledger_folder holds, for every folder of keys ("hold/"), the version of the
// latest write or delete in it; the folder "" counts all commits. It is what
// Watch compares: a record that is gone cannot be found by its version.
const schema = `
CREATE TABLE IF NOT EXISTS ledger_schema (version INTEGER NOT NULL);
CREATE TABLE ledger_record (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) STRICT;
CREATE TABLE ledger_folder (folder TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE ledger_leader (id INTEGER PRIMARY KEY CHECK (id = 1), session TEXT NOT NULL, name TEXT NOT NULL) STRICT;
INSERT INTO ledger_folder VALUES ('', 1);
INSERT INTO ledger_schema VALUES (1);
`

// initialize checks the file and brings it to the current schema. It writes in
// any case, so that a file that cannot be written is found here.
func (s *Store) initialize(ctx context.Context) error {
	var mode string
	if err := s.db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("journal mode is %q, not wal: put the file on a local file system", mode)
	}
	return inTx(ctx, s.db, nil, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS ledger_schema (version INTEGER NOT NULL)`); err != nil {
			return err
		}
		var version int
		err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM ledger_schema`).Scan(&version)
		if err != nil {
			return err
		}
		if version > schemaVersion {
			return fmt.Errorf("the file has schema version %d, this build knows versions up to %d: run a newer governor", version, schemaVersion)
		}
		if version == 0 {
			_, err := tx.ExecContext(ctx, schema)
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE ledger_schema SET version = ?`, version); err != nil {
			return err
		}
		return checkTables(ctx, tx)
	})
}

// checkTables reads the ledger's own tables through: they are small, and a
// damaged ledger must be found before a budget is decided from it.
func checkTables(ctx context.Context, tx *sql.Tx) error {
	for _, table := range []string{"ledger_record", "ledger_folder", "ledger_leader"} {
		var finding string
		if err := tx.QueryRowContext(ctx, fmt.Sprintf(`PRAGMA quick_check('%s')`, table)).Scan(&finding); err != nil {
			return err
		}
		if finding != "ok" {
			return fmt.Errorf("the file is damaged, restore it from a backup or move it away: %s: %s", table, finding)
		}
	}
	return nil
}

// folder returns the part of a key or prefix up to its last slash.
func folder(key string) string {
	return key[:strings.LastIndexByte(key, '/')+1]
}

// after returns the least text that sorts behind all legal keys with this
// prefix; there is none for the empty prefix. UTF-8 sorts by bytes as by code
// points, and no printable character is the last before a gap in them.
func after(prefix string) (end string, bounded bool) {
	if prefix == "" {
		return "", false
	}
	last, size := utf8.DecodeLastRuneInString(prefix)
	return prefix[:len(prefix)-size] + string(last+1), true
}
