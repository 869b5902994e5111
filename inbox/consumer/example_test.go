package consumer_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

// A service that writes an invoice for each order, once, although each record is there twice.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	brokers, pool, clean := exampleServers(ctx)
	defer clean()
	writeOrders(ctx, brokers, "order 1", "order 1", "order 2", "order 2")

	left := make(chan inbox.Outcome, 4)
	c, err := consumer.New(consumer.Config{
		Kafka:  []kgo.Opt{kgo.SeedBrokers(brokers...)},
		Group:  "billing",
		Topics: []string{"outbox.event.order"},
		DB:     pool,
		Handle: func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
			_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", string(e.Key))
			return err
		},
		Hooks: consumer.Hooks{
			Done:  func(_ inbox.Event, outcome inbox.Outcome, _ time.Duration) { left <- outcome },
			Park:  func(e inbox.Event, err error) { fmt.Println("parked:", e.ID, err) },
			Error: func(err error) { fmt.Println(err) },
		},
	})
	if err != nil {
		panic(err)
	}

	running, stop := context.WithCancel(ctx) // in a service: signal.NotifyContext
	ended := make(chan error)
	go func() { ended <- c.Run(running) }()
	for range 4 {
		<-left
	}
	stop()
	fmt.Println("ended:", <-ended)
	var invoices int
	fmt.Println(pool.QueryRow(ctx, "select count(*) from invoices").Scan(&invoices), invoices, "invoices")
	// Output:
	// ended: <nil>
	// <nil> 2 invoices
}

// exampleServers are an imitation of Kafka and a new database with the inbox and a table of invoices.
func exampleServers(ctx context.Context) (brokers []string, pool *pgxpool.Pool, clean func()) {
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	if err != nil {
		panic(err)
	}
	server := stacktest.Postgres(example{}, server())
	if err := server.CreateDatabase(ctx, "example"); err != nil {
		panic(err)
	}
	pool, err = pgxpool.New(ctx, server.DSN("example"))
	if err != nil {
		panic(err)
	}
	if _, err := pool.Exec(ctx, "create table invoices (order_id text)"); err != nil {
		panic(err)
	}
	if err := inbox.Create(ctx, pool); err != nil {
		panic(err)
	}
	return kafka.Brokers(), pool, func() { pool.Close(); _ = kafka.Close() }
}

func writeOrders(ctx context.Context, brokers []string, orders ...string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.AllowAutoTopicCreation())
	if err != nil {
		panic(err)
	}
	defer client.Close()
	for _, order := range orders {
		r := &kgo.Record{Topic: "outbox.event.order", Key: []byte(order), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("id of " + order)}}}
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			panic(err)
		}
	}
}
