package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// DefaultMaxBytes is what a topic of Kafka takes of a record by default (max.message.bytes). Of it a record needs up to 512
// bytes for what tidemark adds.
const DefaultMaxBytes = 1048588

const (
	overhead = 512 // of a record beyond what is in the row: position, source, lengths
	maxTopic = 249 // characters of a topic's name (org.apache.kafka.common.internals.Topic)
	maxName  = 255 // characters of key, type and topic in the table of schema.sql
)

// EventError says what is wrong with one event of a call. [Write] returns all of them, joined.
type EventError struct {
	Index int // in the call, from 0
	Err   error
}

func (e *EventError) Error() string { return fmt.Sprintf("outbox: event %d: %v", e.Index, e.Err) }

// Unwrap returns what is wrong.
func (e *EventError) Unwrap() error { return e.Err }

// check returns everything that is wrong with the events, each with its index.
func (w *Writer) check(c *Columns, events []Event, t trace) error {
	var found []error
	for i := range events {
		for _, err := range w.checkEvent(c, &events[i], t) {
			found = append(found, &EventError{i, err})
		}
	}
	return errors.Join(found...)
}

func (w *Writer) checkEvent(c *Columns, e *Event, t trace) []error {
	var found []error
	add := func(what string, err error) {
		if err != nil {
			found = append(found, fmt.Errorf("%s: %w", what, err))
		}
	}
	if e.ID != "" && c.ID.Type == "uuid" && !isUUID(e.ID) {
		add("id", fmt.Errorf("%.60q is no UUID", e.ID))
	} else {
		add("id", checkText(e.ID, w.maxName()))
	}
	add("topic", w.checkTopic(e))
	add("type", required(c.Type, e.Type, w.maxName()))
	add("key", required(c.Key, e.Key, w.maxName()))
	add("headers", checkHeaders(c, e.Headers))
	add("column", checkExtra(c, e.Extra))
	if err := e.Payload.check(c.Payload.Type); err != nil {
		add("payload", err)
	} else if n := size(c, e, t); n > w.maxBytes() {
		found = append(found, fmt.Errorf("it takes up to %d bytes in Kafka, and %d are allowed (Writer.MaxBytes, max.message.bytes of the topic): put what is large elsewhere, and its address into the event",
			n, w.maxBytes()))
	}
	return found
}

func (w *Writer) maxBytes() int {
	if w.MaxBytes == 0 {
		return DefaultMaxBytes
	}
	return w.MaxBytes
}

func (w *Writer) maxName() int {
	if w.MaxName == 0 {
		return maxName
	}
	return w.MaxName
}

// checkTopic holds the name that the relay will make against what Kafka takes for one.
func (w *Writer) checkTopic(e *Event) error {
	if e.Topic == "" {
		return errors.New("it is empty")
	}
	if err := checkText(e.Topic, w.maxName()); err != nil {
		return err
	}
	name := "outbox.event." + e.Topic
	if w.Route != nil {
		name = w.Route(*e)
	}
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is no name of a topic", name)
	case len(name) > maxTopic:
		return fmt.Errorf("%.60q… has %d characters, and Kafka takes %d", name, len(name), maxTopic)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("%q: Kafka takes letters, digits, '.', '_' and '-'", name)
		}
	}
	return nil
}

// required checks a text that has to be there if the table has a column for it.
func required(c Column, s string, limit int) error {
	switch {
	case c.Name == "" && s != "":
		return errors.New("the table has no column for it (Writer.Columns)")
	case c.Name != "" && s == "":
		return errors.New("it is empty")
	}
	return checkText(s, limit)
}

// checkText says why Postgres would not store s, or not within limit characters.
func checkText(s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("it is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("it has a zero byte, which Postgres does not store in a text")
	case limit > 0 && len(s) > limit && utf8.RuneCountInString(s) > limit:
		return fmt.Errorf("it has %d characters, and %d are allowed", utf8.RuneCountInString(s), limit)
	}
	return nil
}

// checkHeaders refuses, besides what cannot be stored, what the relay would have to leave out.
func checkHeaders(c *Columns, headers map[string]string) error {
	if len(headers) > 0 && c.Headers.Name == "" {
		return errors.New("the table has no column for them: add one of type jsonb, and name it in Writer.Columns and in tidemark's outbox[].columns.headers")
	}
	var found []error
	for name, value := range headers {
		switch err := errors.Join(checkText(name, 0), checkText(value, 0)); {
		case name == "":
			found = append(found, errors.New("one has no name"))
		case strings.HasPrefix(name, "tidemark-"):
			found = append(found, fmt.Errorf("%.60q: names with tidemark- are tidemark's", name))
		case err != nil:
			found = append(found, fmt.Errorf("%.60q: %w", name, err))
		}
	}
	return errors.Join(found...)
}

func checkExtra(c *Columns, extra map[string]string) error {
	var found []error
	for name, value := range extra {
		if !c.hasExtra(name) {
			found = append(found, fmt.Errorf("%.60q is not in Writer.Columns.Extra", name))
		} else if err := checkText(value, 0); err != nil {
			found = append(found, fmt.Errorf("%.60q: %w", name, err))
		}
	}
	return errors.Join(found...)
}

// check says why a column of this type would not take the payload.
func (p *Payload) check(column string) error {
	switch {
	case p.err != nil:
		return p.err
	case p.kind == none:
		return errors.New("there is none: Tombstone() writes a null, from which consumers take that the key is deleted")
	case p.kind == null || column == "bytea":
		return nil
	case !utf8.Valid(p.data):
		return fmt.Errorf("it is not UTF-8, and the column is %s: binary payloads, as of protobuf, need one of type bytea (Writer.Columns)", column)
	case column == "json" || column == "jsonb":
		return p.checkJSON(column)
	case bytes.IndexByte(p.data, 0) >= 0:
		return fmt.Errorf("it has a zero byte, and the column is %s", column)
	}
	return nil
}

func (p *Payload) checkJSON(column string) error {
	if p.kind == raw && !json.Valid(p.data) {
		var v json.RawMessage
		return fmt.Errorf("it is no JSON, and the column is %s: %w", column, json.Unmarshal(p.data, &v))
	}
	if column == "jsonb" && hasZeroEscape(p.data) {
		return errors.New(`it has a zero character (\u0000), which jsonb does not store`)
	}
	return nil
}

// hasZeroEscape reports whether a JSON text has the escape of the character zero.
func hasZeroEscape(text []byte) bool {
	for {
		i := bytes.Index(text, []byte(`\u0000`))
		if i < 0 {
			return false
		}
		backslashes := 1
		for backslashes <= i && text[i-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 1 { // the last one is not itself escaped
			return true
		}
		text = text[i+1:]
	}
}

// size is an upper bound of what the record takes in Kafka.
func size(c *Columns, e *Event, t trace) int {
	const header = 10 // the lengths of its name and value
	n := overhead + len(e.ID) + len(e.Key) + len(e.Type) + len(e.Payload.data) + len(t.parent) + len(t.state)
	for name, value := range e.Headers {
		n += header + len(name) + len(value)
	}
	if c.Payload.Type == "jsonb" { // which Postgres prints with a space behind each of these
		n += bytes.Count(e.Payload.data, []byte{':'}) + bytes.Count(e.Payload.data, []byte{','})
	}
	return n
}
