package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Outcome is what has become of an event.
type Outcome uint8

const (
	// Failed events have had no effect, and may be handled again: the zero value, returned with an error.
	Failed Outcome = iota
	// Handled events have had their effect when the transaction is committed.
	Handled
	// Duplicate events were dropped: they have been handled before.
	Duplicate
	// Stale events were dropped: a later event of their key has been handled before.
	Stale
	// Parked events are in the table inbox_parked when the transaction is committed, behind others of their key.
	Parked
)

// String returns the outcome as a word for logs and metrics.
func (o Outcome) String() string {
	switch o {
	case Handled:
		return "handled"
	case Duplicate:
		return "duplicate"
	case Stale:
		return "stale"
	case Parked:
		return "parked"
	default:
		return "failed"
	}
}

// Option changes what Once does.
type Option func(*options)

type options struct{ dropStale, behindParked bool }

// DropStale has events dropped that are not later than the last one that the consumer has seen of their key: those whose
// position is not larger, among events of the same topic, source and key. It is for consumers that want the newest state
// of a key, where an old event that is published again must not overwrite it. Those that have to see
// every event (a ledger) leave it out: a duplicate is dropped in any case, by its id.
//
// An event without a key or without a position is never stale. Transactions with events of one key wait for each other.
func DropStale() Option { return func(o *options) { o.dropStale = true } }

// Once runs handle in tx, unless consumer has handled the event before; then it does nothing, and the outcome says
// why. Afterwards the caller commits tx, whatever the outcome, and only then the record's offset.
//
// consumer is a name of the caller's choice, usually the consumer group's: each consumer of a database handles each event once.
// handle gets the context and the transaction that Once was given. Where another transaction is handling the same
// event, Once waits for its end (so ctx needs a limit): if it is committed, this event is a Duplicate, if it is
// rolled back, it is handled here.
//
// An error of handle is returned, wrapped. On every error Once has rolled tx back, so that an id is never committed
// without its effect; Commit fails then. Under the isolation levels repeatable read and serializable, an event that another
// transaction handles meanwhile is an error of the class "serialization failure", to be tried again.
//
// It costs one round trip above handle's own. (pgx prepares the statement when a connection sees it for the first time,
// which takes one more.)
func Once(ctx context.Context, tx pgx.Tx, consumer string, e Event, handle func(ctx context.Context, tx pgx.Tx) error, opts ...Option) (Outcome, error) {
	outcome, err := once(ctx, pgxTx{tx}, consumer, &e, opts)
	if err == nil && outcome == Handled {
		err = handle(ctx, tx)
	}
	return settle(outcome, err, &e, func() error { return tx.Rollback(ctx) })
}

// OnceSQL is [Once] for transactions of database/sql, with any driver for Postgres that numbers its parameters ($1).
func OnceSQL(ctx context.Context, tx *sql.Tx, consumer string, e Event, handle func(ctx context.Context, tx *sql.Tx) error, opts ...Option) (Outcome, error) {
	outcome, err := once(ctx, sqlTx{tx}, consumer, &e, opts)
	if err == nil && outcome == Handled {
		err = handle(ctx, tx)
	}
	return settle(outcome, err, &e, tx.Rollback)
}

// settle rolls back after an error: whoever commits by mistake would otherwise keep the id without the effect.
func settle(outcome Outcome, err error, e *Event, rollback func() error) (Outcome, error) {
	if err == nil {
		return outcome, nil
	}
	_ = rollback() // if that fails the connection is broken, and the server rolls back
	return Failed, fmt.Errorf("event %s: %w", e.ID, err)
}

// insertInbox is the whole of the inbox: the row is there when the effect is, and the primary key has a second
// transaction wait for the first.
const insertInbox = `insert into inbox (consumer, id, kafka_topic, kafka_partition, kafka_offset)
values ($1, $2, $3, $4, $5) on conflict (consumer, id) do nothing`

// The parts of the statement, which the options choose from.
const (
	withNew = "with new as (" + insertInbox + " returning 1)"

	// The key's position moves forward for an event that is new, and for no other: a second copy, which may stand at a
	// later position, must not make those between them stale.
	withFresh = `, fresh as (
  insert into inbox_positions as p (consumer, source, kafka_topic, key, position, kafka_partition, kafka_offset)
  select $1, $7, $3, $6, $8, $4, $5 from new
  on conflict (consumer, source, kafka_topic, key) do update
    set position = excluded.position, kafka_partition = excluded.kafka_partition, kafka_offset = excluded.kafka_offset, seen_at = now()
    where p.position < excluded.position
  returning 1
)`
	isNew    = " select exists (select from new)"
	isFresh  = ", exists (select from fresh)"
	isBehind = ", exists (select from inbox_parked where consumer = $1 and kafka_topic = $3 and md5(key) = md5($6::bytea) and key = $6)"
)

// executor is what Once needs of a transaction.
type executor interface {
	exec(ctx context.Context, sql string, args ...any) (rows int64, err error)
	row(ctx context.Context, sql string, args ...any) interface{ Scan(dest ...any) error }
}

func once(ctx context.Context, tx executor, consumer string, e *Event, opts []Option) (Outcome, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	if consumer == "" {
		return Failed, errors.New("the consumer has no name")
	}
	if err := e.check(); err != nil {
		return Failed, err
	}
	o.dropStale = o.dropStale && e.Key != nil && e.Position != ""
	o.behindParked = o.behindParked && e.Key != nil
	outcome, err := note(ctx, tx, consumer, e, o)
	if err != nil || outcome != Parked {
		return outcome, explain(err)
	}
	args, err := parkedArgs(consumer, e)
	if err == nil {
		_, err = tx.exec(ctx, insertBehind, args...)
	}
	return outcome, explain(err)
}

// note is the one round trip.
func note(ctx context.Context, tx executor, consumer string, e *Event, o options) (Outcome, error) {
	args := []any{consumer, e.ID, e.Topic, e.Partition, e.Offset}
	fresh, behind := true, false
	var added bool
	switch {
	case o.dropStale && o.behindParked:
		err := tx.row(ctx, withNew+withFresh+isNew+isFresh+isBehind, append(args, e.Key, e.Source, e.Position)...).Scan(&added, &fresh, &behind)
		return judge(added, fresh, behind), err
	case o.dropStale:
		err := tx.row(ctx, withNew+withFresh+isNew+isFresh, append(args, e.Key, e.Source, e.Position)...).Scan(&added, &fresh)
		return judge(added, fresh, behind), err
	case o.behindParked:
		err := tx.row(ctx, withNew+isNew+isBehind, append(args, e.Key)...).Scan(&added, &behind)
		return judge(added, fresh, behind), err
	default:
		rows, err := tx.exec(ctx, insertInbox, args...)
		return judge(rows == 1, fresh, behind), err
	}
}

func judge(isNew, isFresh, isBehind bool) Outcome {
	switch {
	case !isNew:
		return Duplicate
	case !isFresh:
		return Stale
	case isBehind:
		return Parked
	default:
		return Handled
	}
}

// explain adds what to do where the tables are missing.
func explain(err error) error {
	if err == nil {
		return nil
	}
	const undefinedTable, undefinedColumn = "42P01", "42703"
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == undefinedTable || e.Code == undefinedColumn) {
		return fmt.Errorf("note it in the inbox: %w: create the tables with inbox.Create or inbox/schema.sql, in a schema of search_path", err)
	}
	return fmt.Errorf("note it in the inbox: %w", err)
}

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := t.tx.Exec(ctx, sql, args...)
	return tag.RowsAffected(), err
}

func (t pgxTx) row(ctx context.Context, sql string, args ...any) interface{ Scan(dest ...any) error } {
	return t.tx.QueryRow(ctx, sql, args...)
}

type sqlTx struct{ tx *sql.Tx }

func (t sqlTx) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, sql, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (t sqlTx) row(ctx context.Context, sql string, args ...any) interface{ Scan(dest ...any) error } {
	return t.tx.QueryRowContext(ctx, sql, args...)
}
