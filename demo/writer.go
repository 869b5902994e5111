package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	writers       = 4
	keysPerWriter = 6
	rollBackShare = 0.05 // of the transactions
	sqlLimit      = 30 * time.Second
)

// kinds are the aggregate types and the event types of each. Each aggregate type is a topic of its own.
var kinds = []struct { //nolint:gochecknoglobals // a table that nobody changes
	name  string
	types []string
}{
	{"order", []string{"OrderPlaced", "OrderPaid", "OrderShipped"}},
	{"payment", []string{"PaymentRequested", "PaymentReceived"}},
	{"customer", []string{"CustomerJoined", "AddressChanged"}},
}

func newKeys() []*key {
	keys := make([]*key, writers*keysPerWriter)
	for i := range keys {
		kind := kinds[i%len(kinds)].name
		keys[i] = &key{number: i, kind: kind, name: fmt.Sprintf("%s-%d", kind, 100+i)}
	}
	return keys
}

// createOutbox makes the table of the README. The time is for the cleaner alone.
const createOutbox = `create table public.outbox (
	id            uuid         primary key,
	aggregatetype varchar(255) not null,
	aggregateid   varchar(255) not null,
	type          varchar(255) not null,
	payload       jsonb,
	written_at    timestamptz  not null default now()
)`

const insertRows = `insert into public.outbox (id, aggregatetype, aggregateid, type, payload)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[])`

// writer commits and rolls back transactions, some rows each, on keys that are its own.
type writer struct {
	dsn    string
	keys   []*key
	rate   float64 // committed rows a second
	most   int     // rows of a transaction
	ledger *ledger
}

// newWriters returns writers that share the keys and the rate.
func newWriters(dsn string, keys []*key, rate int, l *ledger) []*writer {
	all := make([]*writer, writers)
	for i := range all {
		all[i] = &writer{
			dsn: dsn, keys: keys[i*keysPerWriter : (i+1)*keysPerWriter], ledger: l,
			rate: float64(rate) / writers,
			// A high rate comes by larger transactions: small ones would have the writers fill the machine.
			most: max(min(max(rate/8, 2), 7), rate/250),
		}
	}
	return all
}

// run writes until ctx is done, which is no error. The transaction that is under way then is finished, so that the
// ledger knows how each has ended.
func (w *writer) run(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.dsn)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connect a writer: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
	// The writers do not begin all at once.
	due := time.Now().Add(w.after(rand.Float64() * float64(w.most) / 2))
	for wait(ctx, time.Until(due)) {
		n, err := w.transaction(context.WithoutCancel(ctx), conn)
		if err != nil {
			return fmt.Errorf("write a transaction: %w", err)
		}
		due = due.Add(w.after(float64(n)))
		if late := time.Since(due); late > time.Second { // it cannot keep up: no burst to catch up
			due = due.Add(late)
		}
	}
	return nil
}

// after is how long so many rows take at the rate.
func (w *writer) after(rows float64) time.Duration {
	return time.Duration(rows / w.rate * float64(time.Second))
}

// transaction writes one and returns how many rows it has committed.
func (w *writer) transaction(ctx context.Context, conn *pgx.Conn) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, sqlLimit)
	defer cancel()
	n := 1 + rand.IntN(w.most)
	rows := make([]row, n)
	ids, aggregates, keys, types, payloads := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i := range rows {
		k := w.keys[rand.IntN(len(w.keys))]
		of := kinds[k.number%len(kinds)].types
		r := w.ledger.next(k, of[rand.IntN(len(of))])
		rows[i] = r
		ids[i], aggregates[i], keys[i], types[i] = r.id, k.kind, k.name, r.typ
		payloads[i] = fmt.Sprintf(`{"sequence": %d, "amount": %d.%02d, "currency": "EUR"}`, r.sequence, 1+rand.IntN(500), rand.IntN(100))
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, insertRows, ids, aggregates, keys, types, payloads); err != nil {
		return 0, err
	}
	if rand.Float64() < rollBackShare {
		if err := tx.Rollback(ctx); err != nil {
			return 0, err
		}
		w.ledger.settle(rows, rolledBack)
		return 0, nil
	}
	w.ledger.ask(rows, time.Now())
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	w.ledger.settle(rows, committed)
	return n, nil
}

// clean deletes old rows now and then, so that the demo can be left running. Deletions are not published.
func clean(ctx context.Context, dsn string) error {
	const every = 10 * time.Second
	conn, err := pgx.Connect(ctx, dsn)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connect the cleaner: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
	for wait(ctx, every) {
		if _, err := conn.Exec(ctx, "delete from public.outbox where written_at < now() - interval '1 minute'"); err != nil && ctx.Err() == nil {
			return fmt.Errorf("delete old rows: %w", err)
		}
	}
	return nil
}

// wait returns true when d has passed, or false as soon as ctx is done.
func wait(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil || d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
