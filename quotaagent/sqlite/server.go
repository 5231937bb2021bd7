package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// Server is what keeps the ledger, and its version.
func (s *Store) Server(ctx context.Context) (name, version string, err error) {
	err = s.read(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&version)
	})
	if err != nil {
		return "sqlite", "", fmt.Errorf("ask for the version of SQLite: %w", err)
	}
	return "sqlite", version, nil
}
