package outbox

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Tx is a transaction of pgx: a [pgx.Tx], or what an application wraps it in. A pool or a connection is refused, because
// then the events would be committed without the change that they tell of.
type Tx interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}

// SQLTx is a transaction of database/sql: an [sql.Tx], of any driver for Postgres, or what an application wraps it in. A
// [sql.DB] or a [sql.Conn] is refused.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Writer writes events into a table of one's own making. The zero value writes into public.outbox as tidemark init
// creates it. Any goroutine may use it; its fields do not change meanwhile.
type Writer struct {
	// Table is the outbox table, written as in SQL; default public.outbox.
	Table string
	// Columns says which column holds what; default [DefaultColumns].
	Columns *Columns
	// MaxBytes is the most that an event may take as a record in Kafka, that is max.message.bytes of its topic; default
	// DefaultMaxBytes. What is larger would be poison, and stop the relay long after the transaction is done.
	MaxBytes int
	// MaxName is the most characters that key, type, topic and id may have, as the columns limit them; default 255. A
	// negative one is no limit.
	MaxName int
	// NewID makes the id of an event that has none; default NewID.
	NewID func() string
	// Route returns the topic that tidemark will make for an event, as outbox[].topic of its configuration says, so that one
	// that Kafka would not take is refused here; default "outbox.event." + Topic.
	Route func(Event) string
	// Trace returns traceparent and tracestate of the trace that ctx belongs to, "" if to none. It is for OpenTelemetry and
	// the like; what WithTrace has put into ctx comes first.
	Trace func(ctx context.Context) (traceparent, tracestate string)
}

// Columns says which column of the table holds what. A column without a name is not there.
type Columns struct {
	ID, Topic, Key, Type Column
	// Payload is jsonb, json, text or bytea.
	Payload Column
	// Headers is a JSON object of headers: json, jsonb or text. It takes trace context, too, if that has no columns.
	Headers Column
	// TraceParent and TraceState are for trace context.
	TraceParent, TraceState Column
	// Extra are further ones, which Event.Extra fills, such as a tenant.
	Extra []Column
}

// Column is a column, with its type as SQL has it but without a length: a type with one would shorten what is too long.
type Column struct{ Name, Type string }

// DefaultColumns are those of [Schema]. A table with more of them is described by what is added here:
//
//	columns := outbox.DefaultColumns()
//	columns.Headers = outbox.Column{Name: "headers", Type: "jsonb"}
//	writer := outbox.Writer{Columns: &columns}
func DefaultColumns() Columns {
	return Columns{
		ID:      Column{"id", "uuid"},
		Topic:   Column{"aggregatetype", "text"},
		Key:     Column{"aggregateid", "text"},
		Type:    Column{"type", "text"},
		Payload: Column{"payload", "jsonb"},
	}
}

func (c *Columns) hasExtra(name string) bool {
	return slices.ContainsFunc(c.Extra, func(extra Column) bool { return extra.Name == name })
}

// Write writes events in a transaction of pgx; see [Write].
func (w *Writer) Write(ctx context.Context, tx Tx, events ...Event) error {
	if isPool(tx) {
		return errNoTransaction
	}
	return w.write(ctx, events, func(sql string, args []any) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
}

// isPool reports whether tx is what transactions are begun on.
func isPool(tx Tx) bool {
	_, ok := tx.(interface {
		BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
	})
	return ok
}

// WriteSQL writes events in a transaction of database/sql; see [WriteSQL].
func (w *Writer) WriteSQL(ctx context.Context, tx SQLTx, events ...Event) error {
	if _, ok := tx.(interface {
		BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
	}); ok {
		return errNoTransaction
	}
	return w.write(ctx, events, func(sql string, args []any) error {
		_, err := tx.ExecContext(ctx, sql, args...)
		return err
	})
}

var errNoTransaction = errors.New("outbox: this is no transaction but a connection or a pool: pass the transaction that makes the change, or the event stays when that is rolled back")

// Of one statement: more would be one large piece of memory on both sides.
const (
	maxStatementEvents = 10_000
	maxStatementBytes  = 8 << 20
)

func (w *Writer) write(ctx context.Context, events []Event, exec func(sql string, args []any) error) error {
	columns := w.columns()
	t := w.trace(ctx)
	if err := w.check(columns, events, t); err != nil {
		return err
	}
	insert := w.statement(columns)
	for len(events) > 0 {
		n := statementEvents(events)
		args, err := w.arguments(columns, events[:n], t)
		if err != nil {
			return err
		}
		if err := exec(insert, args); err != nil {
			return fmt.Errorf("outbox: write %d events into %s: %w", n, w.table(), err)
		}
		events = events[n:]
	}
	return nil
}

// statementEvents is how many of the events go into one statement.
func statementEvents(events []Event) int {
	bytes := 0
	for i := range events {
		bytes += len(events[i].Payload.data)
		if i > 0 && (i == maxStatementEvents || bytes > maxStatementBytes) {
			return i
		}
	}
	return len(events)
}

func (w *Writer) table() string {
	if w.Table == "" {
		return tableInSQL
	}
	return w.Table
}

func (w *Writer) columns() *Columns {
	if w.Columns == nil {
		c := DefaultColumns()
		return &c
	}
	return w.Columns
}

// list is the columns that are there, in the order of the statement.
func (c *Columns) list() []Column {
	all := append([]Column{c.ID, c.Topic, c.Key, c.Type, c.Payload, c.Headers, c.TraceParent, c.TraceState}, c.Extra...)
	return slices.DeleteFunc(all, func(c Column) bool { return c.Name == "" })
}

// statement is one for any number of events, so that it is prepared once: each argument is an array, as text, which every
// driver passes on. Postgres reads the arrays, and so writes the rows, in their order.
func (w *Writer) statement(c *Columns) string {
	var names, values, arrays, fields strings.Builder
	for i, column := range c.list() {
		if i > 0 {
			for _, b := range []*strings.Builder{&names, &values, &arrays, &fields} {
				b.WriteString(", ")
			}
		}
		n := strconv.Itoa(i + 1)
		names.WriteString(pgx.Identifier{column.Name}.Sanitize())
		values.WriteString("e.c" + n + "::" + column.Type)
		arrays.WriteString("$" + n + "::text[]")
		fields.WriteString("c" + n)
	}
	return "insert into " + w.table() + " (" + names.String() + ") select " + values.String() +
		" from unnest(" + arrays.String() + ") e (" + fields.String() + ")"
}

func (w *Writer) arguments(c *Columns, events []Event, t trace) ([]any, error) {
	var args []any
	add := func(column Column, value func(*array, *Event)) {
		if column.Name == "" {
			return
		}
		a := newArray(len(events))
		for i := range events {
			value(a, &events[i])
		}
		args = append(args, a.text())
	}
	var failed error
	add(c.ID, func(a *array, e *Event) { a.string(w.idOf(e)) })
	add(c.Topic, func(a *array, e *Event) { a.string(e.Topic) })
	add(c.Key, func(a *array, e *Event) { a.string(e.Key) })
	add(c.Type, func(a *array, e *Event) { a.string(e.Type) })
	add(c.Payload, func(a *array, e *Event) { a.payload(&e.Payload, c.Payload.Type) })
	add(c.Headers, func(a *array, e *Event) { failed = errors.Join(failed, a.headers(c, e.Headers, t)) })
	add(c.TraceParent, func(a *array, _ *Event) { a.stringOrNull(t.parent) })
	add(c.TraceState, func(a *array, _ *Event) { a.stringOrNull(t.state) })
	for _, extra := range c.Extra {
		add(extra, func(a *array, e *Event) {
			if value, ok := e.Extra[extra.Name]; ok {
				a.string(value)
			} else {
				a.null()
			}
		})
	}
	return args, failed
}

// idOf returns the event's id, or makes one.
func (w *Writer) idOf(e *Event) string {
	switch {
	case e.ID != "":
		return e.ID
	case w.NewID != nil:
		return w.NewID()
	default:
		return NewID()
	}
}

// array is an array of Postgres in the making, in its text form.
type array struct{ b []byte }

func newArray(n int) *array { return &array{append(make([]byte, 0, 40*n), '{')} }

func (a *array) text() string { return string(append(a.b, '}')) }

func (a *array) comma() {
	if len(a.b) > 1 {
		a.b = append(a.b, ',')
	}
}

func (a *array) null() {
	a.comma()
	a.b = append(a.b, "NULL"...)
}

func (a *array) string(s string) { quote(a, s) }

func (a *array) stringOrNull(s string) {
	if s == "" {
		a.null()
		return
	}
	a.string(s)
}

func quote[T string | []byte](a *array, s T) {
	a.comma()
	a.b = append(a.b, '"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			a.b = append(a.b, '\\', c)
		} else {
			a.b = append(a.b, c)
		}
	}
	a.b = append(a.b, '"')
}

func (a *array) payload(p *Payload, column string) {
	switch {
	case p.kind == null:
		a.null()
	case column == "bytea":
		a.comma()
		a.b = append(hex.AppendEncode(append(a.b, `"\\x`...), p.data), '"')
	default:
		quote(a, p.data)
	}
}

func (a *array) headers(c *Columns, headers map[string]string, t trace) error {
	if headers = withTrace(c, headers, t); len(headers) == 0 {
		a.null()
		return nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return fmt.Errorf("outbox: encode headers: %w", err)
	}
	quote(a, text)
	return nil
}

// withTrace returns the event's headers, and the trace where the table has no columns for it and the event none of its own.
func withTrace(c *Columns, headers map[string]string, t trace) map[string]string {
	if c.TraceParent.Name != "" || t.parent == "" || headers[headerTraceParent] != "" {
		return headers
	}
	headers = maps.Clone(headers) // the caller's
	if headers == nil {
		headers = map[string]string{}
	}
	headers[headerTraceParent] = t.parent
	if t.state != "" {
		headers[headerTraceState] = t.state
	}
	return headers
}
