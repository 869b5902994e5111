package stacktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark/tidemark/devstack"
)

// Postgres returns the server that all tests of this process with the same Version and Settings share; the other options
// are not used. It fails the test if there can be none: without Postgres nothing here is worth a success.
func Postgres(tb testing.TB, opts ...devstack.PostgresOptions) *devstack.Postgres {
	tb.Helper()
	chosen := one(tb, opts)
	key := fmt.Sprintf("postgres %s %q", chosen.Version, chosen.Settings) // maps are printed in the order of their keys
	value, err := shared.get(key, func() (closer, error) {
		return devstack.StartPostgres(tb.Context(), devstack.PostgresOptions{
			Version:  chosen.Version,
			Settings: chosen.Settings,
			Progress: func(line string) { tb.Log(line) },
		})
	})
	if err != nil {
		tb.Fatalf("Postgres is needed: %v", err)
	}
	return value.(*devstack.Postgres) //nolint:forcetypeassert // the key says so
}

// NewPostgres starts a server for this test alone, which may do with it what it likes, and closes it in the end.
func NewPostgres(tb testing.TB, opts ...devstack.PostgresOptions) *devstack.Postgres {
	tb.Helper()
	chosen := one(tb, opts)
	if chosen.Progress == nil {
		chosen.Progress = func(line string) { tb.Log(line) }
	}
	pg, err := devstack.StartPostgres(tb.Context(), chosen)
	if err != nil {
		tb.Fatalf("Postgres is needed: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the end of the log of Postgres:\n%s", pg.Log())
		}
		if err := pg.Close(); err != nil {
			tb.Error(err)
		}
	})
	return pg
}

//nolint:gochecknoglobals // names must differ among all tests of a process
var databases atomic.Int64

// Database makes an empty database on the server of Postgres(t, opts...), for this test alone, and returns its URL. In the
// end it is dropped, together with the connections and replication slots that the test has left in it. Names of slots are
// the server's, not the database's: tests that run in parallel need different ones, for which the name of the database will do.
func Database(tb testing.TB, opts ...devstack.PostgresOptions) string {
	tb.Helper()
	pg := Postgres(tb, opts...)
	name := databaseName(tb.Name(), databases.Add(1))
	if err := pg.CreateDatabase(tb.Context(), name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		if tb.Failed() {
			tb.Logf("the end of the log of the shared Postgres:\n%s", pg.Log())
		}
		if err := dropDatabase(ctx, pg, name); err != nil {
			tb.Error(err)
		}
	})
	return pg.DSN(name)
}

func dropDatabase(ctx context.Context, pg *devstack.Postgres, name string) error {
	conn, err := pgx.Connect(ctx, pg.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	defer conn.Close(ctx) //nolint:errcheck // everything has been said by then
	// DROP DATABASE takes idle slots along and, forced, sessions too, but refuses while a walsender holds a slot.
	if _, err := conn.Exec(ctx, "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1", name); err != nil {
		return fmt.Errorf("end the sessions of database %s: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "drop database "+pgx.Identifier{name}.Sanitize()+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// databaseName makes a name that tells the test, needs no quotes and fits into the 63 bytes of Postgres.
func databaseName(test string, number int64) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(test))
	return fmt.Sprintf("t%d_%.50s", number, plain)
}

// DropSlot drops a replication slot of the database, as soon as nobody holds it: a server that has not yet noticed the end of
// a connection goes on holding for a moment.
func DropSlot(tb testing.TB, dsn, slot string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // everything has been said by then
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for ; ; <-ticker.C {
		_, err := conn.Exec(ctx, "select pg_drop_replication_slot($1)", slot)
		if err == nil {
			return
		}
		const objectInUse = "55006"
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != objectInUse {
			tb.Fatalf("drop slot %s: %v", slot, err)
		}
	}
}
