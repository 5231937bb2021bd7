package history

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring a file from each version of the schema to the next: the first
// one from an empty file to version 1. They are never changed, only added to.
//
// The words that repeat in entries are in tables of their own: series are what sums
// are made by, detail is what only a single entry is about. account is series
// without the job, for statements that do not ask for jobs.
//
// The sums: job_* by series, sum_* by account, and posted_* by budget and dimension,
// as in the ledger's balances. Column at is the beginning of the period, in Unix
// milliseconds.
func migrations() []string {
	return []string{`
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE log (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, head INTEGER NOT NULL) STRICT;
CREATE TABLE account (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, estimated INTEGER NOT NULL, budget TEXT NOT NULL, namespace TEXT NOT NULL,
	user TEXT NOT NULL, class TEXT NOT NULL, rate_card TEXT NOT NULL, model TEXT NOT NULL,
	UNIQUE (budget, kind, namespace, user, class, rate_card, model, estimated)) STRICT;
CREATE TABLE series (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, job TEXT NOT NULL, UNIQUE (account, job)) STRICT;
CREATE TABLE detail (id INTEGER PRIMARY KEY, hold TEXT NOT NULL, alloc TEXT NOT NULL, run TEXT NOT NULL, node TEXT NOT NULL, gpus TEXT NOT NULL,
	cause TEXT NOT NULL, author TEXT NOT NULL, UNIQUE (hold, alloc, run, node, gpus, cause, author)) STRICT;
CREATE TABLE entry (log INTEGER NOT NULL, nr INTEGER NOT NULL, key TEXT NOT NULL UNIQUE, series INTEGER NOT NULL, detail INTEGER NOT NULL,
	from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, gpu_ms INTEGER NOT NULL, cost INTEGER NOT NULL, energy INTEGER NOT NULL, extra TEXT,
	PRIMARY KEY (log, nr)) STRICT, WITHOUT ROWID;
CREATE INDEX entry_detail ON entry (detail);
CREATE INDEX entry_to ON entry (to_ms);
CREATE TABLE receipt (hold TEXT PRIMARY KEY, key TEXT NOT NULL, namespace TEXT NOT NULL, job TEXT NOT NULL, ended_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_job ON receipt (job, namespace, ended_ms);
CREATE TABLE conflict (key TEXT NOT NULL, kept TEXT NOT NULL, other TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (key, other)) STRICT, WITHOUT ROWID;
` + sumTable("job_hour") + sumTable("job_day") + sumTable("job_month") + sumTable("sum_day") + sumTable("sum_month") + `
CREATE TABLE line (id INTEGER PRIMARY KEY, budget TEXT NOT NULL, dimension TEXT NOT NULL, UNIQUE (budget, dimension)) STRICT;
CREATE TABLE posted_hour (at INTEGER NOT NULL, line INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (at, line)) STRICT, WITHOUT ROWID;
CREATE TABLE posted_month (at INTEGER NOT NULL, line INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (at, line)) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('file', lower(hex(randomblob(8)))), ('zone', 'UTC'), ('floor_ms', '0'), ('began_ms', '0');
`, `
CREATE TABLE decision (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, namespace TEXT NOT NULL, job TEXT NOT NULL, outcome TEXT NOT NULL,
	reason TEXT NOT NULL, budget TEXT NOT NULL, user TEXT NOT NULL, gpus INTEGER NOT NULL, plan INTEGER NOT NULL, shadow INTEGER NOT NULL) STRICT;
CREATE INDEX decision_job ON decision (job, namespace, id);
`, `
ALTER TABLE decision ADD COLUMN text TEXT NOT NULL DEFAULT '';
CREATE INDEX receipt_ended ON receipt (ended_ms, hold);
`, `
ALTER TABLE decision ADD COLUMN request TEXT NOT NULL DEFAULT '';
ALTER TABLE decision ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE decision ADD COLUMN revision TEXT NOT NULL DEFAULT '';
`}
}

func sumTable(name string) string {
	return `CREATE TABLE ` + name + ` (at INTEGER NOT NULL, id INTEGER NOT NULL, gpu_ms INTEGER NOT NULL, cost INTEGER NOT NULL, energy INTEGER NOT NULL,
	input INTEGER NOT NULL, cached INTEGER NOT NULL, output INTEGER NOT NULL, PRIMARY KEY (at, id)) STRICT, WITHOUT ROWID;
`
}

// migrate brings the file to the schema of this build.
func migrate(ctx context.Context, conn *sql.Conn, steps []string) error {
	if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err := migrateTo(ctx, conn, steps)
	end := `COMMIT`
	if err != nil {
		end = `ROLLBACK`
	}
	if _, failed := conn.ExecContext(context.WithoutCancel(ctx), end); err == nil {
		err = failed
	}
	return err
}

// migrateTo writes in any case, so that a file that cannot be written is found
// here. The version is in the header of the file.
func migrateTo(ctx context.Context, conn *sql.Conn, steps []string) error {
	var version, tables int
	if err := conn.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&tables); err != nil {
		return err
	}
	switch {
	case version == 0 && tables > 0:
		return fmt.Errorf("the file has %d tables and is no history: give another path", tables)
	case version > len(steps):
		return fmt.Errorf("the file has schema version %d, this build knows versions up to %d: run a newer governor", version, len(steps))
	}
	for _, step := range steps[version:] {
		if _, err := conn.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, len(steps)))
	return err
}
