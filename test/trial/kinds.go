package trial

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark/tidemark/test/ledger"
)

// Kind is a way to fill a transaction.
type Kind func(*Transaction) error

// Mixed is every kind, the short ones more often.
func Mixed() []Kind {
	return []Kind{Single, Single, Single, Few, Few, MultiRow, Copy, Long, Savepoints}
}

// Single inserts one row.
func Single(t *Transaction) error { return t.insert(1) }

// Few inserts some rows, one statement each, into several keys.
func Few(t *Transaction) error { return t.insert(2 + t.w.rng.IntN(8)) }

// MultiRow inserts some rows with one statement.
func MultiRow(t *Transaction) error { return t.multiRow(2 + t.w.rng.IntN(30)) }

// Copy inserts rows with COPY, which logs many of them in one record, under one LSN.
func Copy(t *Transaction) error { return t.copy(10 + t.w.rng.IntN(60)) }

// EachKey is a COPY of one row for each of the writer's keys, for filling a table quickly.
func EachKey(t *Transaction) error {
	t.each = true
	return t.copy(len(t.own))
}

// Long takes its time, so that other transactions begin and commit within it.
func Long(t *Transaction) error {
	for range 2 + t.w.rng.IntN(3) {
		if err := t.insert(1 + t.w.rng.IntN(3)); err != nil {
			return err
		}
		t.w.rest(time.Duration(20+t.w.rng.IntN(150)) * time.Millisecond)
	}
	return nil
}

// Savepoints rolls a part of it back.
func Savepoints(t *Transaction) error {
	steps := []struct {
		sql    string
		insert int
		gone   bool
	}{
		{"", 1, false}, {"savepoint a", 2, true}, {"rollback to savepoint a", 1, false}, {"savepoint b", 2, false}, {"release savepoint b", 1, false},
	}
	for _, step := range steps {
		if step.sql != "" {
			if err := t.w.exec(step.sql); err != nil {
				return err
			}
		}
		from := len(t.w.open)
		if err := t.insert(step.insert); err != nil {
			return err
		}
		if step.gone {
			t.w.ledger.Tell(ledger.RolledBack, t.w.open[from:]...)
			t.w.open = t.w.open[:from]
		}
	}
	return nil
}

// Alone emits a message that belongs to no transaction, and stays if this one is rolled back.
func Alone(t *Transaction) error {
	t.w.rest(t.w.pace.delay(1))
	t.w.rows.Add(1)
	key := t.w.alone[t.w.rng.IntN(len(t.w.alone))]
	r := row{aggregate: key.aggregate, key: key.key, kind: "written", payload: t.payload()}
	e := t.w.ledger.Register(key.number, []byte(r.payload))
	r.id = t.w.ledger.ID(e)
	if err := t.w.exec("select pg_logical_emit_message(false, $1, $2::text)", MessagePrefix, r.content()); err != nil {
		return &stuck{fmt.Errorf("nobody can tell whether this was done: %w", err)}
	}
	t.w.ledger.TellOutside(e)
	return t.insert(1)
}

// Transaction is an open transaction that a Kind fills.
type Transaction struct {
	w      *writer
	own    []target
	shared []target
	next   int  // walks over the keys
	each   bool // and over the writer's own
}

// row is one that is about to be inserted.
type row struct {
	id            string
	aggregate     string
	key           string
	kind, payload string
}

// content is the row as a message.
func (r *row) content() string {
	return fmt.Sprintf(`{"id": %q, "aggregatetype": %q, "aggregateid": %q, "type": %q, "payload": %s}`, r.id, r.aggregate, r.key, r.kind, r.payload)
}

// emit writes a row as a message of the transaction, and notes that in the table that says whether it was committed.
func (t *Transaction) emit(r *row) error {
	if err := t.w.exec("insert into emitted (id) values ($1)", r.id); err != nil {
		return err
	}
	return t.w.exec("select pg_logical_emit_message(true, $1, $2::text)", MessagePrefix, r.content())
}

// rows registers n rows and waits until it is their time.
func (t *Transaction) rows(n int) []row {
	t.w.rest(t.w.pace.delay(n))
	t.w.rows.Add(int64(n))
	out := make([]row, n)
	for i := range out {
		key := t.key()
		payload := t.payload()
		e := t.w.ledger.Register(key.number, []byte(payload))
		t.w.ledger.Expect(t.w.load.Place(TopicPrefix+key.aggregate, len(payload)), e)
		t.w.open = append(t.w.open, e)
		out[i] = row{id: t.w.ledger.ID(e), aggregate: key.aggregate, key: key.key, kind: "written", payload: payload}
	}
	return out
}

// key chooses the key of a row: those that are locked for this transaction now and then, else one of the writer's own.
func (t *Transaction) key() target {
	if t.each {
		t.next++
		return t.own[t.next%len(t.own)]
	}
	if len(t.shared) > 0 && t.w.rng.IntN(3) == 0 {
		t.next++
		return t.shared[t.next%len(t.shared)]
	}
	return t.own[t.w.rng.IntN(len(t.own))]
}

func (t *Transaction) size() int {
	if n := t.w.huge.Load(); n > 0 && t.w.huge.CompareAndSwap(n, n-1) || t.w.load.Oversize > 0 && t.w.rng.Float64() < t.w.load.Oversize {
		return t.w.load.Huge(t.w.rng)
	}
	return t.w.load.Size(t.w.rng)
}

// payload makes a JSON object in the form in which Postgres prints it, so that the record's value can be compared. Every
// other one compresses well, which makes Postgres store a large one compressed; the others do not.
func (t *Transaction) payload() string {
	const (
		text   = "the quick brown fox jumps over the lazy dog, and whoever watches it compresses well; "
		digits = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+/"
	)
	head := fmt.Sprintf(`{"n": %d, "pad": "`, t.w.rng.Uint32())
	size := max(0, t.size()-len(head)-2)
	b := make([]byte, 0, len(head)+size+2)
	b = append(b, head...)
	if t.w.rng.IntN(2) == 0 {
		for ; size > len(text); size -= len(text) {
			b = append(b, text...)
		}
		b = append(b, text[:size]...)
	} else {
		for ; size > 0; size -= 10 {
			for n, bits := min(size, 10), t.w.rng.Uint64(); n > 0; n, bits = n-1, bits>>6 {
				b = append(b, digits[bits&63])
			}
		}
	}
	return string(append(b, `"}`...))
}

const columns = "id, aggregatetype, aggregateid, type, payload"

func (t *Transaction) insert(n int) error {
	for range n {
		r := t.rows(1)[0]
		if t.w.load.Messages > t.w.rng.Float64() {
			if err := t.emit(&r); err != nil {
				return err
			}
			continue
		}
		if err := t.w.exec("insert into outbox ("+columns+") values ($1, $2, $3, $4, $5)", r.id, r.aggregate, r.key, r.kind, r.payload); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) multiRow(n int) error {
	var sql strings.Builder
	sql.WriteString("insert into outbox (" + columns + ") values ")
	var args []any
	for i, r := range t.rows(n) {
		if i > 0 {
			sql.WriteString(", ")
		}
		fmt.Fprintf(&sql, "($%d, $%d, $%d, $%d, $%d)", 5*i+1, 5*i+2, 5*i+3, 5*i+4, 5*i+5)
		args = append(args, r.id, r.aggregate, r.key, r.kind, r.payload)
	}
	_, err := t.w.conn.Exec(t.w.ctx, sql.String(), append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return fmt.Errorf("insert %d rows: %w", n, err)
	}
	return nil
}

func (t *Transaction) copy(n int) error {
	rows := t.rows(n)
	_, err := t.w.conn.CopyFrom(t.w.ctx, pgx.Identifier{"outbox"}, strings.Split(columns, ", "), pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		r := rows[i]
		var id pgtype.UUID
		if err := id.Scan(r.id); err != nil {
			return nil, err
		}
		return []any{id, r.aggregate, r.key, r.kind, []byte(r.payload)}, nil
	}))
	if err != nil {
		return fmt.Errorf("copy %d rows: %w", n, err)
	}
	return nil
}
