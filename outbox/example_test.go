package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tidemark/tidemark/outbox"
)

type order struct {
	ID    string `json:"id"`
	Total int    `json:"total"`
}

// The order and its event are committed together, or neither is.
func Example() {
	ctx := context.Background()
	conn := connect(ctx)
	defer conn.Close(ctx)

	place := func(o order) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "insert into orders (id, total) values ($1, $2)", o.ID, o.Total); err != nil {
			return err
		}
		err = outbox.Write(ctx, tx, outbox.Event{Topic: "order", Key: o.ID, Type: "OrderPlaced", Payload: outbox.JSON(o)})
		if err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	if err := place(order{"A-17", 900}); err != nil {
		panic(err)
	}

	var topic, key, payload string
	err := conn.QueryRow(ctx, "select aggregatetype, aggregateid, payload from outbox").Scan(&topic, &key, &payload)
	fmt.Println(topic, key, payload, err)
	// Output: order A-17 {"id": "A-17", "total": 900} <nil>
}

// With database/sql, several events in one round trip.
func ExampleWriteSQL() {
	ctx := context.Background()
	db, err := sql.Open("pgx", dsn(ctx))
	if err != nil {
		panic(err)
	}
	defer db.Close()

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		panic(err)
	}
	defer tx.Rollback()
	err = outbox.WriteSQL(ctx, tx,
		outbox.Event{Topic: "order", Key: "A-17", Type: "OrderPlaced", Payload: outbox.JSON(order{"A-17", 900})},
		outbox.Event{Topic: "order", Key: "A-17", Type: "OrderPaid", Payload: outbox.Text(`{"by": "card"}`)},
		outbox.Event{Topic: "basket", Key: "B-3", Type: "BasketEmptied", Payload: outbox.Tombstone()},
	)
	if err != nil {
		panic(err)
	}
	var n int
	err = tx.QueryRowContext(ctx, "select count(*) from outbox").Scan(&n)
	fmt.Println(n, err, tx.Commit())
	// Output: 3 <nil> <nil>
}

// What could not be published is refused at once, with everything that is wrong, and nothing is written.
func ExampleEventError() {
	ctx := context.Background()
	conn := connect(ctx)
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		panic(err)
	}
	defer tx.Rollback(ctx)

	err = outbox.Write(ctx, tx,
		outbox.Event{Topic: "order", Key: "A-17", Type: "OrderPlaced", Payload: outbox.JSON(order{"A-17", 900})},
		outbox.Event{Topic: "order book", Key: "A-17", Payload: outbox.Text("{}")},
		outbox.Event{Topic: "order", Key: "A-18", Type: "OrderPlaced"},
	)
	fmt.Println(err)
	bad, ok := errors.AsType[*outbox.EventError](err)
	fmt.Println(ok, bad.Index)
	// Output:
	// outbox: event 1: topic: "outbox.event.order book": Kafka takes letters, digits, '.', '_' and '-'
	// outbox: event 1: type: it is empty
	// outbox: event 2: payload: there is none: Tombstone() writes a null, from which consumers take that the key is deleted
	// true 1
}

// A table with a column for headers and one for the tenant, and a payload in protobuf.
func ExampleWriter() {
	ctx := context.Background()
	conn := connect(ctx,
		"create table events (id uuid primary key, topic text, key text, type text, payload bytea, headers jsonb, tenant int)")
	defer conn.Close(ctx)

	writer := outbox.Writer{
		Table: "events",
		Columns: &outbox.Columns{
			ID:      outbox.Column{Name: "id", Type: "uuid"},
			Topic:   outbox.Column{Name: "topic", Type: "text"},
			Key:     outbox.Column{Name: "key", Type: "text"},
			Type:    outbox.Column{Name: "type", Type: "text"},
			Payload: outbox.Column{Name: "payload", Type: "bytea"},
			Headers: outbox.Column{Name: "headers", Type: "jsonb"},
			Extra:   []outbox.Column{{Name: "tenant", Type: "int"}},
		},
		Route: func(e outbox.Event) string { return "shop." + e.Topic }, // as outbox[].topic is configured
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return writer.Write(ctx, tx, outbox.Event{
			Topic: "order", Key: "A-17", Type: "OrderPlaced", Payload: outbox.Proto(wrapperspb.String("A-17")),
			Headers: map[string]string{"schema": "order/2"}, Extra: map[string]string{"tenant": "7"},
		})
	})
	if err != nil {
		panic(err)
	}
	var payload []byte
	var headers string
	var tenant int
	err = conn.QueryRow(ctx, "select payload, headers, tenant from events").Scan(&payload, &headers, &tenant)
	fmt.Printf("%x %s %d %v\n", payload, headers, tenant, err)
	// Output: 0a04412d3137 {"schema": "order/2"} 7 <nil>
}

// The trace of a request goes along with its events. With OpenTelemetry, Writer.Trace does the same for every call:
//
//	Trace: func(ctx context.Context) (string, string) {
//		headers := propagation.MapCarrier{}
//		propagation.TraceContext{}.Inject(ctx, headers)
//		return headers["traceparent"], headers["tracestate"]
//	}
func ExampleWithTrace() {
	ctx := context.Background()
	conn := connect(ctx, "alter table outbox add column headers jsonb")
	defer conn.Close(ctx)

	columns := outbox.DefaultColumns()
	columns.Headers = outbox.Column{Name: "headers", Type: "jsonb"} // and outbox[].columns.headers: headers
	writer := outbox.Writer{Columns: &columns}

	ctx = outbox.WithTrace(ctx, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return writer.Write(ctx, tx, outbox.Event{Topic: "order", Key: "A-17", Type: "OrderPlaced", Payload: outbox.Text("{}")})
	})
	if err != nil {
		panic(err)
	}
	var headers string
	err = conn.QueryRow(ctx, "select headers from outbox").Scan(&headers)
	fmt.Println(headers, err)
	// Output: {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} <nil>
}

// From any other language: the statements that tidemark init --functions runs, and a call.
func ExampleFunctions() {
	ctx := context.Background()
	conn := connect(ctx)
	defer conn.Close(ctx)
	for _, statement := range outbox.Functions("public.outbox") {
		if _, err := conn.Exec(ctx, statement); err != nil {
			panic(err)
		}
	}
	var id string
	err := conn.QueryRow(ctx, `select outbox_publish('order', 'A-17', 'OrderPlaced', '{"total": 900}')`).Scan(&id)
	fmt.Println(id[14:15], err)
	_, err = conn.Exec(ctx, `select outbox_publish('order book', 'A-17', 'OrderPlaced', '{}')`)
	refused, _ := errors.AsType[*pgconn.PgError](err)
	fmt.Println(refused.Message)
	// Output:
	// 7 <nil>
	// outbox_publish: topic 'order book': Kafka takes 1 to 236 letters, digits, ".", "_" and "-" behind outbox.event.
}
