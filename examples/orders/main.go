// Command orders is a service that writes: it places orders and ships them, and tells the other services of both, each time
// in the transaction that makes the change. It knows Postgres, and no Kafka.
//
// Customers are played by a list of numbers: those without an order get one, those whose order is not shipped get it
// shipped, and at the end of the list the service ends. So it may be killed at any instant and started again, as a customer
// would try again who has seen no answer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/outbox"
)

// Order is an order, and what is told of it.
type Order struct {
	ID     int    `json:"id"`
	Amount int    `json:"amount"`
	Status string `json:"status"`
}

// The lock keeps two from creating the table at once, which Postgres answers with an error: an instance that was killed may
// still be at it on the server when the next one starts.
const createTables = `select pg_advisory_xact_lock(8642);
create table if not exists orders (id int primary key, amount int not null, status text not null)`

func main() {
	customers := flag.Int("customers", 100, "how many order something")
	workers := flag.Int("workers", 4, "how many orders are worked on at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("ORDERS_DSN"), *customers, *workers)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dsn string, customers, workers int) error {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return err
	}
	config.MaxConns = int32(workers) + 1 //nolint:gosec // a handful
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, createTables); err != nil {
		return fmt.Errorf("create the table: %w", err)
	}
	waiting, err := waiting(ctx, pool, customers)
	if err != nil {
		return err
	}
	todo := make(chan Order)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(todo)
		for _, o := range waiting {
			select {
			case todo <- o:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			for o := range todo {
				if err := serve(ctx, pool, o); err != nil {
					return fmt.Errorf("order %d: %w", o.ID, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// waiting returns the orders that are to be placed or shipped still.
func waiting(ctx context.Context, pool *pgxpool.Pool, customers int) ([]Order, error) {
	rows, err := pool.Query(ctx, `select n, 100 + n % 900, coalesce(status, '') from generate_series(1, $1) n
		left join orders on id = n where status is distinct from 'shipped' order by n`, customers)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Order])
}

func serve(ctx context.Context, pool *pgxpool.Pool, o Order) error {
	if o.Status == "" {
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return place(ctx, tx, o) }); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return ship(ctx, tx, o) })
}

// place makes the order, and tells whoever bills it, and whoever shows its status.
func place(ctx context.Context, tx pgx.Tx, o Order) error {
	o.Status = "placed"
	tag, err := tx.Exec(ctx, "insert into orders (id, amount, status) values ($1, $2, $3) on conflict do nothing", o.ID, o.Amount, o.Status)
	if err != nil || tag.RowsAffected() == 0 { // the customer has tried again, and the first try was committed after all
		return err
	}
	key := fmt.Sprint(o.ID)
	return outbox.Write(ctx, tx,
		outbox.Event{Topic: "order", Key: key, Type: "OrderPlaced", Payload: outbox.JSON(o)},
		outbox.Event{Topic: "order-status", Key: key, Type: "StatusPlaced", Payload: outbox.JSON(o)})
}

func ship(ctx context.Context, tx pgx.Tx, o Order) error {
	o.Status = "shipped"
	tag, err := tx.Exec(ctx, "update orders set status = $2 where id = $1 and status <> $2", o.ID, o.Status)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return outbox.Write(ctx, tx, outbox.Event{Topic: "order-status", Key: fmt.Sprint(o.ID), Type: "StatusShipped", Payload: outbox.JSON(o)})
}
