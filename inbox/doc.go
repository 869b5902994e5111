// Package inbox gives the events of a Kafka topic an effect exactly once in a Postgres database, although a record may be
// delivered more than once: after a rebalance, a crash between the work and the commit of its offset, or a reset of
// the group.
//
// [Once] notes the event's id in the transaction in which the handler does its work. Both are committed together or
// not at all, and an event whose id is there already is dropped. This costs one round trip to the database.
//
//	tx, err := pool.Begin(ctx)
//	if err != nil {
//		return err
//	}
//	defer tx.Rollback(ctx)
//	if _, err := inbox.Once(ctx, tx, "billing", event, func(ctx context.Context, tx pgx.Tx) error {
//		_, err := tx.Exec(ctx, "insert into invoices (order_id) values ($1)", event.Key)
//		return err
//	}); err != nil {
//		return err
//	}
//	return tx.Commit(ctx)
//
// The offset is committed to Kafka after the transaction, never before it.
//
// What is promised is about the effects in that database. A handler that calls another service calls it again
// when its transaction is rolled back; let it write to an outbox instead.
//
// The package knows no Kafka client: an [Event] is made of a [Record], and a Record of what any client returns.
// The tables are those of [Schema]; other languages use the function inbox_once in it.
package inbox
