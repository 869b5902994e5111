package inbox_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/inbox"
)

// BenchmarkOnce measures a transaction with one insert: bare, and under Once. The difference is one round trip, and the
// rows that are written in it. Commits do not wait for the disk, which would hide both.
func BenchmarkOnce(b *testing.B) {
	db := newDatabase(b)
	conn, err := pgx.Connect(b.Context(), db.dsn)
	must(b, err)
	defer conn.Close(b.Context()) //nolint:errcheck // nothing to say
	_, err = conn.Exec(b.Context(), "set synchronous_commit = off")
	must(b, err)
	n := 0
	for _, c := range []struct {
		name string
		run  func(ctx context.Context, tx pgx.Tx, e inbox.Event) error
	}{
		{"bare", func(ctx context.Context, tx pgx.Tx, e inbox.Event) error { return effect(e)(ctx, tx) }},
		{"by id", func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
			_, err := inbox.Once(ctx, tx, "bench", e, effect(e))
			return err
		}},
		{"drop stale", func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
			_, err := inbox.Once(ctx, tx, "bench", e, effect(e), inbox.DropStale())
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				n++
				tx, err := conn.Begin(b.Context())
				must(b, err)
				must(b, c.run(b.Context(), tx, event(n, string(rune('a'+n%26)))))
				must(b, tx.Commit(b.Context()))
			}
		})
	}
}
