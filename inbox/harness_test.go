package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

// server is what the tests run against: the newest Postgres, or TIDEMARK_TEST_POSTGRES.
func server() devstack.PostgresOptions {
	return devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")}
}

// database is a new database with the inbox and a table of effects, which takes any number of the same.
type database struct {
	dsn  string
	pool *pgxpool.Pool
}

func newDatabase(tb testing.TB) database {
	tb.Helper()
	db := database{dsn: stacktest.Database(tb, server())}
	pool, err := pgxpool.New(tb.Context(), db.dsn)
	must(tb, err)
	tb.Cleanup(pool.Close)
	db.pool = pool
	must(tb, inbox.Create(tb.Context(), pool))
	db.exec(tb, "create table effects (n bigint generated always as identity, id text, key bytea)")
	return db
}

func (db database) exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := db.pool.Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func (db database) count(tb testing.TB, from string) int {
	tb.Helper()
	var n int
	must(tb, db.pool.QueryRow(tb.Context(), "select count(*) from "+from).Scan(&n))
	return n
}

func (db database) begin(tb testing.TB) pgx.Tx {
	tb.Helper()
	tx, err := db.pool.Begin(tb.Context())
	must(tb, err)
	tb.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(tb.Context())) })
	return tx
}

// effect is a handler that leaves a row.
func effect(e inbox.Event) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into effects (id, key) values ($1, $2)", e.ID, e.Key)
		return err
	}
}

// handle handles the event in a transaction of its own, through pgx.
func (db database) handle(tb testing.TB, consumer string, e inbox.Event, opts ...inbox.Option) inbox.Outcome {
	tb.Helper()
	tx := db.begin(tb)
	outcome, err := inbox.Once(tb.Context(), tx, consumer, e, effect(e), opts...)
	must(tb, err)
	must(tb, tx.Commit(tb.Context()))
	return outcome
}

// handleSQL does the same through database/sql.
func (db database) handleSQL(tb testing.TB, consumer string, e inbox.Event, opts ...inbox.Option) inbox.Outcome {
	tb.Helper()
	pool := stdlib.OpenDBFromPool(db.pool)
	defer pool.Close() //nolint:errcheck // nothing to say
	tx, err := pool.BeginTx(tb.Context(), nil)
	must(tb, err)
	outcome, err := inbox.OnceSQL(tb.Context(), tx, consumer, e, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "insert into effects (id, key) values ($1, $2)", e.ID, e.Key)
		return err
	}, opts...)
	must(tb, err)
	must(tb, tx.Commit())
	return outcome
}

// function does the same through the SQL function, as other languages do.
func (db database) function(tb testing.TB, consumer string, e inbox.Event, stale bool) bool {
	tb.Helper()
	tx := db.begin(tb)
	var isNew bool
	if stale {
		must(tb, tx.QueryRow(tb.Context(), "select inbox_once($1, $2, $3, $4, $5, $6, $7, $8)",
			consumer, e.ID, e.Key, e.Position, e.Source, e.Topic, e.Partition, e.Offset).Scan(&isNew))
	} else {
		must(tb, tx.QueryRow(tb.Context(), "select inbox_once($1, $2)", consumer, e.ID).Scan(&isNew))
	}
	if isNew {
		must(tb, effect(e)(tb.Context(), tx))
	}
	must(tb, tx.Commit(tb.Context()))
	return isNew
}

// event is the n-th of a log.
func event(n int, key string) inbox.Event {
	return inbox.Event{
		Record:   inbox.Record{Topic: "orders", Partition: 0, Offset: int64(n), Key: []byte(key), Timestamp: time.Unix(int64(n), 0)},
		ID:       fmt.Sprintf("id-%d", n),
		Source:   "7400000000000000000/shop/tidemark",
		Position: position(n),
	}
}

func position(n int) string { return fmt.Sprintf("%016x-%08x", 0x1_0000_0000+n, 0) }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// roundTrips counts how often a connection writes after it has read: each time the client waits for the server once.
type roundTrips struct {
	net.Conn
	hasRead atomic.Bool
	n       *atomic.Int64
}

func (c *roundTrips) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.hasRead.Store(true)
	}
	return n, err
}

func (c *roundTrips) Write(p []byte) (int, error) {
	if c.hasRead.Swap(false) {
		c.n.Add(1)
	}
	return c.Conn.Write(p)
}

// countingSession is a session whose round trips are counted.
func countingSession(tb testing.TB, dsn string) (*pgx.Conn, *atomic.Int64) {
	tb.Helper()
	config, err := pgx.ParseConfig(dsn)
	must(tb, err)
	n := &atomic.Int64{}
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &roundTrips{Conn: conn, n: n}, nil
	}
	conn, err := pgx.ConnectConfig(tb.Context(), config)
	must(tb, err)
	tb.Cleanup(func() { _ = conn.Close(context.WithoutCancel(tb.Context())) })
	return conn, n
}
