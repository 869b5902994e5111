package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
)

// The event is handled once, however often its record is delivered.
func ExampleOnce() {
	ctx := context.Background()
	pool := exampleDatabase(ctx)
	defer pool.Close()

	deliver := func(record inbox.Record) (inbox.Outcome, error) {
		event, err := record.Event()
		if err != nil {
			return inbox.Failed, err
		}
		tx, err := pool.Begin(ctx)
		if err != nil {
			return inbox.Failed, err
		}
		defer tx.Rollback(ctx)
		outcome, err := inbox.Once(ctx, tx, "billing", event, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", string(event.Key))
			return err
		})
		if err != nil {
			return outcome, err
		}
		return outcome, tx.Commit(ctx)
	}

	record := inbox.Record{
		Topic: "outbox.event.order", Key: []byte("order 17"), Headers: []inbox.Header{{Key: "id", Value: []byte("0198c4c5-0000-7000-8000-000000000001")}},
	}
	for range 3 {
		fmt.Println(deliver(record))
	}
	var invoices int
	fmt.Println(pool.QueryRow(ctx, "select count(*) from invoices").Scan(&invoices), invoices, "invoice")
	// Output:
	// handled <nil>
	// duplicate <nil>
	// duplicate <nil>
	// <nil> 1 invoice
}

// The same with database/sql.
func ExampleOnceSQL() {
	ctx := context.Background()
	pool := exampleDatabase(ctx)
	defer pool.Close()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()

	event := inbox.Event{ID: "4711", Record: inbox.Record{Topic: "outbox.event.order", Key: []byte("order 17")}}
	for range 2 {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			panic(err)
		}
		outcome, err := inbox.OnceSQL(ctx, tx, "billing", event, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "insert into invoices (order_id) values ($1)", string(event.Key))
			return err
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(outcome, tx.Commit())
	}
	// Output:
	// handled <nil>
	// duplicate <nil>
}

// A consumer that keeps the newest state of each key drops what is older than what it has.
func ExampleDropStale() {
	ctx := context.Background()
	pool := exampleDatabase(ctx)
	defer pool.Close()
	nothing := func(context.Context, pgx.Tx) error { return nil }

	for _, index := range []int{1, 3, 2} {
		event := inbox.Event{
			ID:       fmt.Sprint("event ", index),
			Record:   inbox.Record{Topic: "outbox.event.order", Key: []byte("order 17")},
			Source:   "7400000000000000000/shop/tidemark",
			Position: fmt.Sprintf("0000000101a2b3c8-%08x", index),
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			outcome, err := inbox.Once(ctx, tx, "search", event, nothing, inbox.DropStale())
			fmt.Println(event.ID, outcome)
			return err
		})
		if err != nil {
			panic(err)
		}
	}
	// Output:
	// event 1 handled
	// event 3 handled
	// event 2 stale
}

// A record as tidemark writes it, and a CloudEvent in structured mode.
func ExampleRecord_Event() {
	event, err := inbox.Record{
		Topic: "outbox.event.order", Key: []byte("order 17"), Value: []byte(`{"total": 9}`),
		Headers: []inbox.Header{{Key: "id", Value: []byte("4711")}, {Key: "eventType", Value: []byte("OrderPlaced")}},
	}.Event()
	fmt.Println(event.ID, event.Type, err)

	event, err = inbox.Record{
		Value:   []byte(`{"specversion": "1.0", "id": "4712", "type": "OrderPaid", "source": "/shop"}`),
		Headers: []inbox.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
	}.Event()
	fmt.Println(event.ID, event.Type, err)

	_, err = inbox.Record{Topic: "clicks", Partition: 3, Offset: 17}.Event()
	fmt.Println(errors.Is(err, inbox.ErrNoID), err)
	// Output:
	// 4711 OrderPlaced <nil>
	// 4712 OrderPaid <nil>
	// true record 17 of partition 3 of topic clicks: no id that the inbox could keep: none is there
}

// An event that cannot be handled is parked, the next of its key behind it; released, they are handled in their order.
func ExamplePark() {
	ctx := context.Background()
	pool := exampleDatabase(ctx)
	defer pool.Close()
	event := func(id string) inbox.Event {
		return inbox.Event{ID: id, Record: inbox.Record{Topic: "outbox.event.order", Key: []byte("order 17")}}
	}
	handle := func(context.Context, pgx.Tx) error { return nil }

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := inbox.Park(ctx, tx, "billing", event("first"), "no such customer", 10)
		return err
	})
	if err != nil {
		panic(err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		outcome, err := inbox.Once(ctx, tx, "billing", event("second"), handle, inbox.BehindParked())
		fmt.Println("second:", outcome)
		return err
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(inbox.Release(ctx, pool, "billing", "first"))
	for err == nil {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := inbox.HandleParked(ctx, tx, "billing", func(_ context.Context, _ pgx.Tx, p inbox.ParkedEvent) error {
				fmt.Printf("%s is handled, parked because of %q\n", p.ID, p.Reason)
				return nil
			})
			return err
		})
	}
	fmt.Println(err)
	// Output:
	// second: parked
	// 1 <nil>
	// first is handled, parked because of "no such customer"
	// second is handled, parked because of ""
	// no parked event is due
}

// A migration is one statement.
func ExampleCreate() {
	ctx := context.Background()
	pool := exampleDatabase(ctx)
	defer pool.Close()
	fmt.Println(inbox.Create(ctx, pool))
	// Output: <nil>
}

// exampleDatabase is a new database with the inbox and a table of invoices.
func exampleDatabase(ctx context.Context) *pgxpool.Pool {
	server := stacktest.Postgres(example{}, server())
	name := fmt.Sprint("example_", examples.Add(1))
	if err := server.CreateDatabase(ctx, name); err != nil {
		panic(err)
	}
	pool, err := pgxpool.New(ctx, server.DSN(name))
	if err != nil {
		panic(err)
	}
	if _, err = pool.Exec(ctx, "create table invoices (order_id text)"); err != nil {
		panic(err)
	}
	if err := inbox.Create(ctx, pool); err != nil {
		panic(err)
	}
	return pool
}

//nolint:gochecknoglobals // names must differ among all examples
var examples atomic.Int32

// example stands for the test that an example has not, to share the tests' server.
type example struct{ testing.TB }

func (example) Helper()                           {}
func (example) Context() context.Context          { return context.Background() }
func (example) Log(...any)                        {}
func (example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
