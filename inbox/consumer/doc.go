// Package consumer reads Kafka topics with franz-go and gives each event its effect exactly once in Postgres, with
// package inbox.
//
//	c, err := consumer.New(consumer.Config{
//		Kafka:  []kgo.Opt{kgo.SeedBrokers("localhost:9092")},
//		Group:  "billing",
//		Topics: []string{"outbox.event.order"},
//		DB:     pool,
//		Handle: func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
//			_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", e.Key)
//			return err
//		},
//	})
//	if err != nil {
//		return err
//	}
//	return c.Run(ctx)
//
// What it promises:
//
//   - The work of Handle and the note that the event is handled are one transaction. Offsets are committed afterwards, up
//     to the first event of a partition that is not handled.
//   - Events of one key are handled in the order of their partition, one after the other; different keys at the same time.
//     An event without a key waits for no other.
//   - A failed event is tried again with a growing wait, and parked after Config.Attempts (or at once, see [Poison]) in
//     the table inbox_parked of the same database. Later events of its key are parked behind it. inbox.Release, or the SQL in
//     inbox/schema.sql, has them tried again.
//   - While the database cannot be reached nothing is parked: everything waits.
//   - At a rebalance the events under way are waited for, up to Config.DrainTimeout, and committed before the partition is given
//     away. One that takes longer is cancelled; the next owner waits for the end of its transaction.
//   - Memory is bounded by Config.MaxRecords and Config.MaxBytes.
//   - Records of transactions that were aborted, or are still open, are not seen.
package consumer
