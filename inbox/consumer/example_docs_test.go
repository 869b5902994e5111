package consumer_test

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

// Example_documents is what the documents show. It has no output, so that it is compiled and not run.
func Example_documents() {
	_ = func(ctx context.Context, pool *pgxpool.Pool, event inbox.Event) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			outcome, err := inbox.Once(ctx, tx, "billing", event, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", string(event.Key))
				return err
			})
			_ = outcome // handled, duplicate, stale
			return err
		})
		// and only now commit the offset to Kafka
		return err
	}
	_ = func(ctx context.Context, pool *pgxpool.Pool) error {
		c, err := consumer.New(consumer.Config{
			Kafka:  []kgo.Opt{kgo.SeedBrokers("localhost:9092")},
			Group:  "billing",
			Topics: []string{"outbox.event.order"},
			DB:     pool,
			Handle: func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
				_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", string(e.Key))
				return err
			},
		})
		if err != nil {
			return err
		}
		return c.Run(ctx) // until ctx ends: takes no more, finishes what is under way, commits, leaves the group
	}
	_ = func(ctx context.Context, pool *pgxpool.Pool, client *kgo.Client) (deleted int64, err error) {
		limits, err := consumer.PruneLimits(ctx, client, "billing", consumer.Retention{})
		if err != nil {
			return 0, err
		}
		deleted, err = inbox.Prune(ctx, pool, "billing", limits...) // now and then, by one process
		return deleted, err
	}
}
