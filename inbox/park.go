package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ParkedEvent is an event that waits in the table inbox_parked.
type ParkedEvent struct {
	Event

	// Held is true while the event waits for somebody's decision ([Release] or [Discard]). Else it is due, at RetryAt,
	// as soon as no earlier event of its key is parked.
	Held bool
	// Reason is why it is parked; empty for one that has not been tried, because an earlier one of its key is parked.
	Reason string
	// Attempts says how often it was tried in vain.
	Attempts int
	// RetryAt is the time before which it is not tried again.
	RetryAt time.Time
	// ParkedAt is when it was parked.
	ParkedAt time.Time
}

// BehindParked has an event parked whose key has parked events already, so that the order of a key is kept: handle
// is not run, and the outcome is [Parked]. Events without a key have no order. It needs no further round trip but for an
// event that is parked.
func BehindParked() Option { return func(o *options) { o.behindParked = true } }

// insertParked takes the event into the inbox and parks it, if it is new there.
const insertParked = `with new as (
  ` + insertInbox + ` returning 1
)
insert into inbox_parked (consumer, id, kafka_topic, kafka_partition, kafka_offset, source, position, type, record_time, key, value, headers, held, reason, attempts)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, true, $13, $14 from new`

// insertBehind parks an event that was taken into the inbox a moment ago.
const insertBehind = `insert into inbox_parked (consumer, id, kafka_topic, kafka_partition, kafka_offset, source, position, type, record_time, key, value, headers, held, reason, attempts)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, false, '', 0)`

// Park sets an event aside that cannot be handled, in the caller's transaction: it counts as handled, a second delivery is
// a [Duplicate], and [HandleParked] handles it once it is released. reason says why, attempts how often it was
// tried. An event without an id is parked under the place of its record. It returns false, and parks nothing, if
// the consumer has handled or parked the event before. It costs one round trip.
func Park(ctx context.Context, tx pgx.Tx, consumer string, e Event, reason string, attempts int) (bool, error) {
	if e.check() != nil {
		e.ID = fmt.Sprintf("%s/%d/%d", e.Topic, e.Partition, e.Offset)
	}
	args, err := parkedArgs(consumer, &e)
	if err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, insertParked, append(args, plain(reason), attempts)...)
	if err != nil {
		return false, fmt.Errorf("park event %s: %w", e.ID, explain(err))
	}
	return tag.RowsAffected() == 1, nil
}

func parkedArgs(consumer string, e *Event) ([]any, error) {
	headers, err := json.Marshal(toJSON(e.Headers))
	if err != nil {
		return nil, fmt.Errorf("headers of event %s: %w", e.ID, err)
	}
	return []any{
		consumer, e.ID, e.Topic, e.Partition, e.Offset, plain(e.Source), plain(e.Position), plain(e.Type),
		e.Timestamp, e.Key, e.Value, string(headers),
	}, nil
}

// plain is s without what Postgres cannot keep as text.
func plain(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD") }

type jsonHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"` // base64
}

func toJSON(headers []Header) []jsonHeader {
	out := make([]jsonHeader, len(headers))
	for i, h := range headers {
		out[i] = jsonHeader(h)
	}
	return out
}

const parkedColumns = `id, held, reason, attempts, retry_at, parked_at, source, position, type, kafka_topic, kafka_partition, kafka_offset, record_time, key, value, headers`

func scanParked(row pgx.CollectableRow) (ParkedEvent, error) {
	var p ParkedEvent
	var headers []byte
	err := row.Scan(&p.ID, &p.Held, &p.Reason, &p.Attempts, &p.RetryAt, &p.ParkedAt, &p.Source, &p.Position, &p.Type,
		&p.Topic, &p.Partition, &p.Offset, &p.Timestamp, &p.Key, &p.Value, &headers)
	if err != nil {
		return p, err
	}
	var decoded []jsonHeader
	if err := json.Unmarshal(headers, &decoded); err != nil {
		return p, fmt.Errorf("headers of parked event %s: %w", p.ID, err)
	}
	for _, h := range decoded {
		p.Headers = append(p.Headers, Header(h))
	}
	return p, nil
}

// selectDue takes the first event that nothing of its key is before, and that no other session is handling.
const selectDue = `select ` + parkedColumns + ` from inbox_parked p
where consumer = $1 and not held and retry_at <= now() and not exists (
  select from inbox_parked before
  where before.consumer = p.consumer and before.kafka_topic = p.kafka_topic and md5(before.key) = md5(p.key) and before.key = p.key and before.seq < p.seq
)
order by seq limit 1 for update of p skip locked`

// ErrNothingDue says that no parked event is due.
var ErrNothingDue = errors.New("no parked event is due")

// HandleParked runs handle for the parked event of consumer that is due next, and takes it off the table in the same
// transaction, which the caller then commits. Several may do so at once; each gets an event of another key. Where no
// event is due, the error is [ErrNothingDue].
//
// An error of handle is returned, wrapped, together with the event; as with [Once], tx has been rolled back then. The event
// stays due: see [Postpone].
func HandleParked(ctx context.Context, tx pgx.Tx, consumer string, handle func(ctx context.Context, tx pgx.Tx, p ParkedEvent) error) (ParkedEvent, error) {
	rows, err := tx.Query(ctx, selectDue, consumer)
	if err != nil {
		return ParkedEvent{}, explain(err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanParked)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, ErrNothingDue
	}
	if err == nil {
		if err = handle(ctx, tx, p); err == nil {
			_, err = tx.Exec(ctx, "delete from inbox_parked where consumer = $1 and id = $2", consumer, p.ID)
		}
	}
	if err != nil {
		_ = tx.Rollback(ctx) // see settle
		return p, fmt.Errorf("parked event %s: %w", p.ID, err)
	}
	return p, nil
}

// Postpone notes another attempt in vain: the event is due again after wait, or, with held, when it is released.
func Postpone(ctx context.Context, db Execer, consumer, id, reason string, wait time.Duration, held bool) error {
	_, err := db.Exec(ctx, `update inbox_parked set attempts = attempts + 1, reason = $3, retry_at = now() + $4, held = $5 where consumer = $1 and id = $2`,
		consumer, id, plain(reason), wait, held)
	if err != nil {
		return fmt.Errorf("postpone parked event %s: %w", id, err)
	}
	return nil
}

// Querier runs a query: a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// ListParked returns the parked events of consumer, at most limit, in the order in which they were parked.
func ListParked(ctx context.Context, db Querier, consumer string, limit int) ([]ParkedEvent, error) {
	rows, err := db.Query(ctx, "select "+parkedColumns+" from inbox_parked where consumer = $1 order by seq limit $2", consumer, limit)
	if err != nil {
		return nil, fmt.Errorf("list the parked events: %w", err)
	}
	events, err := pgx.CollectRows(rows, scanParked)
	if err != nil {
		return nil, fmt.Errorf("list the parked events: %w", err)
	}
	return events, nil
}

// Release has parked events tried again: those with the ids, or, without any, all of the consumer. It returns how many.
// They are due in the order of their keys.
func Release(ctx context.Context, db Execer, consumer string, ids ...string) (int, error) {
	return decide(ctx, db, "release", "update inbox_parked set held = false, attempts = 0, retry_at = now() where held and consumer = $1", consumer, ids)
}

// Discard gives parked events up: they never have their effect, and those that wait behind them are due. It returns how many.
func Discard(ctx context.Context, db Execer, consumer string, ids ...string) (int, error) {
	if len(ids) == 0 {
		return 0, errors.New("discard parked events: name their ids")
	}
	return decide(ctx, db, "discard", "delete from inbox_parked where consumer = $1", consumer, ids)
}

func decide(ctx context.Context, db Execer, what, sql, consumer string, ids []string) (int, error) {
	args := []any{consumer}
	if len(ids) > 0 {
		sql, args = sql+" and id = any($2)", append(args, ids)
	}
	tag, err := db.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s parked events: %w", what, err)
	}
	return int(tag.RowsAffected()), nil
}
