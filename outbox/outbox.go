// Package outbox writes events into the outbox table, in the transaction that makes the change they tell of. The relay,
// tidemark, publishes them to Kafka once that is committed, and never if it is rolled back.
//
//	tx, err := pool.Begin(ctx)
//	if err != nil {
//		return err
//	}
//	defer tx.Rollback(ctx)
//	if _, err := tx.Exec(ctx, "insert into orders (id, total) values ($1, $2)", order.ID, order.Total); err != nil {
//		return err
//	}
//	if err := outbox.Write(ctx, tx, outbox.Event{Topic: "order", Key: order.ID, Type: "OrderPlaced", Payload: outbox.JSON(order)}); err != nil {
//		return err
//	}
//	return tx.Commit(ctx)
//
// The one rule: what could not be published is refused here, while the caller can still do something about it. An event
// that Kafka would not take stops the relay long after its transaction is done. So [Write] checks every event of a call,
// reports everything that is wrong at once, and writes nothing unless all of them are good.
//
// The table is the one that tidemark init creates, which is the one that Debezium's Event Router reads. [Writer] writes into
// others, with more columns or other names. Applications in other languages insert into it, or call the SQL function
// outbox_publish ([Functions]). Package inbox is the other end: it handles each event exactly once in effect.
package outbox

import "context"

// Event is one event. Within a transaction events are published in the order in which they are written; across
// transactions those of one key are published in the order of the commits.
type Event struct {
	// ID identifies the event, whoever sees it: a UUID. By default Write makes one of version 7 (see NewID). It becomes the
	// record's header id, by which consumers know what they have seen.
	ID string
	// Topic says where the event goes: to the topic outbox.event.<Topic>, unless tidemark is configured otherwise. It is
	// what Debezium calls the aggregate type.
	Topic string
	// Key is the record's key, which decides its partition: the events of one key stay in order.
	Key string
	// Type is what kind of event it is. It becomes the record's header eventType.
	Type string
	// Payload is the record's value.
	Payload Payload
	// Headers become headers of the record. They need a column, which the default table does not have: see Columns.
	Headers map[string]string
	// Extra fills Columns.Extra, by name, as text that Postgres reads as the column's type; what is not here becomes null.
	Extra map[string]string
}

// Write writes events into public.outbox in a transaction of pgx: any number in one round trip (up to some thousands, or 8 MiB
// of payloads). They are published in this order.
//
// Nothing is written if one of them could not be published: the error then has an [EventError] for each thing that is
// wrong. Any other error comes from Postgres, and the transaction is to be rolled back.
func Write(ctx context.Context, tx Tx, events ...Event) error {
	var w Writer
	return w.Write(ctx, tx, events...)
}

// WriteSQL is [Write] in a transaction of database/sql, whichever driver for Postgres it uses.
func WriteSQL(ctx context.Context, tx SQLTx, events ...Event) error {
	var w Writer
	return w.WriteSQL(ctx, tx, events...)
}
