package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Emit writes events as logical messages in a transaction of pgx: into the log, and into no table, so that there is nothing
// to delete later, and nothing that tidemark verify, repair or replay could look at. They are published, or not, with the
// transaction, and in this order, like those of [Write]. tidemark reads them if its configuration names the prefix under
// messages; Event.Headers, and a trace, take columns: {headers: headers} there. It needs Postgres 14 or later.
//
// Events are checked as by Write. A payload of text, such as JSON, arrives byte for byte.
func Emit(ctx context.Context, tx Tx, prefix string, events ...Event) error {
	var w Writer
	return w.Emit(ctx, tx, prefix, events...)
}

// Emit writes events as logical messages; see [Emit]. Of the Writer, Table and Columns are not used.
func (w *Writer) Emit(ctx context.Context, tx Tx, prefix string, events ...Event) error {
	if isPool(tx) {
		return errNoTransaction
	}
	if prefix == "" || !utf8.ValidString(prefix) {
		return fmt.Errorf("outbox: %q is no prefix for messages", prefix)
	}
	columns := messageColumns()
	t := w.trace(ctx)
	if err := w.check(&columns, events, t); err != nil {
		return err
	}
	for len(events) > 0 {
		n := statementEvents(events)
		texts, err := w.messages(&columns, events[:n], t)
		if err != nil {
			return err
		}
		// A message a row, in the order of the array.
		_, err = tx.Exec(ctx, "select count(pg_logical_emit_message(true, $1::text, m)) from unnest($2::text[]) m", prefix, texts)
		if err != nil {
			return fmt.Errorf("outbox: emit %d events as %s: %w", n, prefix, err)
		}
		events = events[n:]
	}
	return nil
}

// messageColumns are what the check goes by: the fields of a message are JSON, and take any text.
func messageColumns() Columns {
	c := DefaultColumns()
	c.Payload.Type = "text"
	c.Headers = Column{"headers", "json"}
	return c
}

// message has the fields that tidemark's preset debezium reads.
type message struct {
	ID      string            `json:"id"`
	Topic   string            `json:"aggregatetype"`
	Key     string            `json:"aggregateid"`
	Type    string            `json:"type"`
	Payload *string           `json:"payload"` // as a text, which is what the record's value becomes, byte for byte
	Headers map[string]string `json:"headers,omitempty"`
}

// messages returns the messages of events, as an array of Postgres.
func (w *Writer) messages(c *Columns, events []Event, t trace) (string, error) {
	a := newArray(len(events))
	for i := range events {
		e := &events[i]
		m := message{ID: w.idOf(e), Topic: e.Topic, Key: e.Key, Type: e.Type, Headers: withTrace(c, e.Headers, t)}
		if e.Payload.kind != null {
			payload := string(e.Payload.data)
			m.Payload = &payload
		}
		text, err := json.Marshal(m)
		if err != nil {
			return "", &EventError{i, err}
		}
		quote(a, text)
	}
	return a.text(), nil
}
