package inbox

import (
	"context"
	_ "embed" // for the schema
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Schema is the SQL that creates the inbox's tables and functions, for a migration: the file schema.sql of this
// package. It may be run again. It names no schema: everything is made in the first one of search_path.
//
//go:embed schema.sql
var Schema string

// Execer runs a statement: a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Create runs [Schema]: it creates what is missing, and may be called at every start, also by several processes at once.
func Create(ctx context.Context, db Execer) error {
	// The lock, which ends with the transaction of these statements, keeps two from creating the same at once.
	const lock = "select pg_advisory_xact_lock(hashtextextended('tidemark inbox schema', 0));\n"
	if _, err := db.Exec(ctx, lock+Schema); err != nil {
		return fmt.Errorf("create the inbox: %w", err)
	}
	return nil
}
