package decode

import (
	"errors"
	"fmt"
	"strings"
)

// Table is one outbox table and how its columns become a record.
type Table struct {
	Name    string // schema.name, unquoted and exactly as Postgres has it (e.g. public.outbox)
	Columns Columns
	// Topic is a template, e.g. outbox.event.{aggregatetype}; "" stands for the text of Columns.Topic. A null column in
	// it makes the event poison.
	Topic string
	// Key is a template; "" stands for the text of Columns.Key, and for a null key where that is not mapped. If it
	// names exactly one column and that is null, the key is null; a null among several columns is empty text.
	Key     string
	Headers []HeaderTemplate // written after tidemark's own
	Format  Format
	OnNull  OnNull
	// CloudEvents says what a CloudEvent has besides what the columns say; for those formats alone.
	CloudEvents CloudEventTemplates
	// OutboxID is what Tram calls eventuate.outbox.id, 0 to 2^48-1: the second half of the ids of messages that the database
	// numbers, in the column Columns.ID. For the format Eventuate; "" is none.
	OutboxID string
}

// CloudEventTemplates are attributes of a CloudEvent, each a template. "" stands for what is usual.
type CloudEventTemplates struct {
	Source      string // a URI reference; usually /DATABASE/SCHEMA.TABLE
	Type        string // usually the text of Columns.Type
	Subject     string // usually the key
	ContentType string // of the payload; usually application/json, of bytea application/octet-stream
	DataSchema  string // an absolute URI; usually none
}

// Columns names a table's columns by what they mean. An empty name is not mapped; ID and Payload have to be.
type Columns struct {
	ID          string // its text identifies the event; null or empty is poison
	Key         string // the key, unless Table.Key says otherwise
	Type        string // becomes the eventType header
	Topic       string // the topic, unless Table.Topic says otherwise
	Payload     string // the value; bytea as raw bytes
	Headers     string // a JSON object whose entries become headers
	Timestamp   string // timestamptz, timestamp (taken as UTC) or int8 (milliseconds since 1970)
	Partition   string // a decimal number; null leaves the choice to the key
	TraceParent string // becomes the traceparent header, unless null
	TraceState  string // becomes the tracestate header, unless null

	// The Enterprise Integration Patterns' headers of a message, unless null.
	CorrelationID string
	CausationID   string
	ReplyTo       string
	ExpiresAt     string // timestamptz, timestamp (taken as UTC) or int8 (milliseconds since 1970); infinity is as null
}

// HeaderTemplate is a configured header. Its value keeps a null as the key does (Table.Key); a timestamptz is written
// as 2026-11-22T10:00:00.123456Z, a boolean as true or false.
type HeaderTemplate struct {
	Name  string
	Value string // template
}

// OnNull says what becomes of a row whose payload is null.
type OnNull uint8

const (
	Tombstone  OnNull = iota // a null value: a compacted topic forgets the key
	Empty                    // a value of length 0
	PoisonNull               // the event is poison
)

// table is a Table with its templates read.
type table struct {
	name    string
	columns Columns
	topic   Template
	key     Template
	headers []header
	format  Format
	onNull  OnNull

	cloudEvent cloudEventTemplates
	outboxID   *uint64
}

type header struct {
	name  string
	value Template
}

// compile checks a table and reads its templates. It returns all that is wrong, each error with the configuration key.
func compile(t Table) (*table, error) {
	var unqualified error
	if !strings.Contains(t.Name, ".") {
		unqualified = fmt.Errorf("outbox table %q: table: want schema.name, as in public.outbox", t.Name)
	}
	c, err := compileAs(fmt.Sprintf("outbox table %q", t.Name), t)
	return c, errors.Join(unqualified, err)
}

// compileAs is compile for whatever is configured like a table; what names it in an error.
func compileAs(what string, t Table) (*table, error) {
	c := &table{name: t.Name, columns: t.Columns, format: t.Format, onNull: t.OnNull, headers: make([]header, len(t.Headers))}
	var errs []error
	wrong := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", what, key, err))
		}
	}

	if t.Columns.ID == "" {
		wrong("columns.id", errors.New("has to name the column that identifies a row"))
	}
	if t.Columns.Payload == "" {
		wrong("columns.payload", errors.New("has to name a column; without one every record would be a tombstone"))
	}
	if t.Topic == "" && t.Columns.Topic == "" {
		wrong("topic", errors.New("neither topic nor columns.topic says where the rows go"))
	}
	if t.Format > Eventuate {
		wrong("format", fmt.Errorf("%d is not one of Plain, CloudEvents, CloudEventsStructured, Eventuate", t.Format))
	}
	if t.OnNull > PoisonNull {
		wrong("on_null", fmt.Errorf("%d is not one of Tombstone, Empty, PoisonNull", t.OnNull))
	}

	var err error
	c.outboxID, err = outboxID(t)
	wrong("outbox_id", err)
	if t.Format == Eventuate {
		wrong("columns.headers", eventuateHeadersError(t))
		wrong("on_null", eventuateNullError(t))
	}
	c.topic, err = ParseTemplate(t.Topic)
	wrong("topic", err)
	c.key, err = ParseTemplate(t.Key)
	wrong("key", err)
	for i, h := range t.Headers {
		key := fmt.Sprintf("headers[%d] %q", i, h.Name)
		switch {
		case h.Name == "":
			wrong(key, errors.New("a header needs a name"))
		case reserved(h.Name):
			wrong(key, errors.New("this name is tidemark's own"))
		}
		c.headers[i].name = h.Name
		c.headers[i].value, err = ParseTemplate(h.Value)
		wrong(key, err)
	}
	if t.Format.isCloudEvent() {
		c.compileCloudEvent(t, wrong)
	}
	return c, errors.Join(errs...)
}
