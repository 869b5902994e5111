package outbox

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/tidemark/tidemark/devstack"
)

// The examples, which have no testing.T, use the same server as the tests.
//
//nolint:gochecknoglobals // what the tests of a process share has no other place; TestMain closes it
var (
	server = sync.OnceValues(func() (*devstack.Postgres, error) {
		return devstack.StartPostgres(context.Background(), devstack.PostgresOptions{})
	})
	started   atomic.Bool
	databases atomic.Int32
)

func TestMain(m *testing.M) {
	code := m.Run()
	if started.Load() {
		if pg, err := server(); err == nil {
			err = pg.Close()
			if err == nil && code == 0 {
				err = goleak.Find()
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

// newDatabase makes a database with the outbox table and what sql adds, and returns its URL.
func newDatabase(ctx context.Context, sql ...string) (string, error) {
	started.Store(true)
	pg, err := server()
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("outbox_%d", databases.Add(1))
	if err := pg.CreateDatabase(ctx, name); err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, pg.DSN(name))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) //nolint:errcheck // everything has been said by then
	for _, statement := range append([]string{Schema("public.outbox")}, sql...) {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("%s: %w", statement, err)
		}
	}
	return pg.DSN(name), nil
}

func newPool(tb testing.TB, sql ...string) *pgxpool.Pool {
	tb.Helper()
	dsn, err := newDatabase(tb.Context(), sql...)
	if err != nil {
		tb.Fatalf("Postgres is needed: %v", err)
	}
	pool, err := pgxpool.New(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}
