// Command billing is a service that reads: it bills every order exactly once, and keeps the last status of each, in a database
// of its own. It may be killed at any instant, and Kafka may deliver a record as often as it likes: what package inbox has
// seen in the transaction that did the work is not done again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/inbox"
)

// The topics that tidemark publishes the orders to.
const (
	topicOrder  = "outbox.event.order"
	topicStatus = "outbox.event.order-status"
)

// Nothing here but inbox keeps an order from being billed twice. What it has dropped is counted, for whoever wants to see it.
// The lock keeps two instances from creating the tables at once, which Postgres answers with an error.
const createTables = `select pg_advisory_xact_lock(8642);
create table if not exists bills (order_id int not null, amount int not null);
create table if not exists order_status (order_id int primary key, status text not null);
create table if not exists dropped (outcome text not null, event_id text not null);`

func main() {
	instance := flag.String("instance", "1", "the name of this instance among those of the group")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("BILLING_DSN"), strings.Split(os.Getenv("KAFKA_BROKERS"), ","), *instance)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "billing:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dsn string, brokers []string, instance string) error {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := inbox.Create(ctx, pool); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, createTables); err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumerGroup("billing"),
		kgo.InstanceID("billing-"+instance), // back after a crash, it goes on with its partitions at once
		kgo.SessionTimeout(10*time.Second),
		kgo.ConsumeTopics(topicOrder, topicStatus),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(5*time.Second), // topics come into being with their first events
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(time.Second),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollRecords(ctx, 1000)
		if ctx.Err() != nil {
			return nil // the end is what was asked for
		}
		if err := handleAll(ctx, pool, client, fetches); err != nil {
			return err
		}
		client.AllowRebalance()
	}
}

// handleAll handles what was fetched, partitions beside each other and the records of each in their order. The offset of a
// record may be committed to Kafka once its transaction is to Postgres, never before.
func handleAll(ctx context.Context, pool *pgxpool.Pool, client *kgo.Client, fetches kgo.Fetches) error {
	var failed error
	fetches.EachError(func(topic string, partition int32, err error) {
		failed = errors.Join(failed, fmt.Errorf("read partition %d of %s: %w", partition, topic, err))
	})
	if failed != nil {
		return failed
	}
	group, ctx := errgroup.WithContext(ctx)
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		group.Go(func() error {
			for records := range slices.Chunk(p.Records, 50) {
				if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return handle(ctx, tx, records) }); err != nil {
					return err
				}
				client.MarkCommitRecords(records...)
			}
			return nil
		})
	})
	return group.Wait()
}

// handle handles some records of a partition in one transaction, which is cheaper than one for each.
func handle(ctx context.Context, tx pgx.Tx, records []*kgo.Record) error {
	for _, r := range records {
		event, err := toInbox(r).Event()
		if err != nil {
			return err
		}
		var options []inbox.Option
		if r.Topic == topicStatus {
			options = append(options, inbox.DropStale()) // an old status must not overwrite a newer one
		}
		outcome, err := inbox.Once(ctx, tx, "billing", event, func(ctx context.Context, tx pgx.Tx) error { return apply(ctx, tx, &event) }, options...)
		if err != nil {
			return err
		}
		if outcome == inbox.Handled {
			continue
		}
		if _, err := tx.Exec(ctx, "insert into dropped (outcome, event_id) values ($1, $2)", outcome.String(), event.ID); err != nil {
			return err
		}
	}
	return nil
}

// apply is what an event does.
func apply(ctx context.Context, tx pgx.Tx, event *inbox.Event) error {
	var order struct {
		ID, Amount int
		Status     string
	}
	if err := json.Unmarshal(event.Value, &order); err != nil {
		return err
	}
	var err error
	switch event.Type {
	case "OrderPlaced":
		_, err = tx.Exec(ctx, "insert into bills (order_id, amount) values ($1, $2)", order.ID, order.Amount)
	case "StatusPlaced", "StatusShipped":
		_, err = tx.Exec(ctx, "insert into order_status (order_id, status) values ($1, $2) on conflict (order_id) do update set status = excluded.status",
			order.ID, order.Status)
	}
	return err
}

// toInbox says the same in the words of inbox, which knows no Kafka client.
func toInbox(r *kgo.Record) inbox.Record {
	headers := make([]inbox.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = inbox.Header{Key: h.Key, Value: h.Value}
	}
	return inbox.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value, Headers: headers}
}
