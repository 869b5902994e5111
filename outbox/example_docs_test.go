package outbox_test

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tidemark/tidemark/outbox"
)

// Example_documents is what the documents show. It has no output, so that it is compiled and not run.
func Example_documents() {
	type placed struct{ ID, Article, Total string }
	_ = func(ctx context.Context, pool *pgx.Conn, order placed, reservation any) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into orders (id, total) values ($1, $2)", order.ID, order.Total); err != nil {
				return err
			}
			return outbox.Write(ctx, tx,
				outbox.Event{Topic: "order", Key: order.ID, Type: "OrderPlaced", Payload: outbox.JSON(order)},
				outbox.Event{Topic: "stock", Key: order.Article, Type: "ArticleReserved", Payload: outbox.JSON(reservation)})
		})
		return err
	}
	_ = func(ctx context.Context, pool *pgx.Conn, order placed) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into orders (id, total) values ($1, $2)", order.ID, order.Total); err != nil {
				return err
			}
			return outbox.Write(ctx, tx, outbox.Event{Topic: "order", Key: order.ID, Type: "OrderPlaced", Payload: outbox.JSON(order)})
		})
		return err
	}
	_ = func() outbox.Writer {
		columns := outbox.DefaultColumns()
		columns.Payload.Type = "bytea"
		columns.Headers = outbox.Column{Name: "headers", Type: "jsonb"}
		writer := outbox.Writer{Columns: &columns}
		return writer
	}
	_ = outbox.Writer{
		Trace: func(ctx context.Context) (string, string) {
			headers := propagation.MapCarrier{}
			propagation.TraceContext{}.Inject(ctx, headers)
			return headers["traceparent"], headers["tracestate"]
		},
	}
}
