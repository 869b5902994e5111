package outbox_test

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/outbox"
)

// dsn makes a database with tables orders and outbox, and what sql adds, for one example.
func dsn(ctx context.Context, sql ...string) string {
	url, err := outbox.NewDatabase(ctx, append([]string{"create table orders (id text primary key, total int)"}, sql...)...)
	if err != nil {
		panic(err)
	}
	return url
}

// connect connects to such a database.
func connect(ctx context.Context, sql ...string) *pgx.Conn {
	conn, err := pgx.Connect(ctx, dsn(ctx, sql...))
	if err != nil {
		panic(err)
	}
	return conn
}
