package decode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The type OIDs that are read in a way of their own (pg_type.dat). Every other type is its text.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt4        = 23
	oidJSON        = 114
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidJSONB       = 3802

	// ofField is that of no type: the column is a field of a JSON object.
	ofField = 0
)

// Column is a column of a relation or of a query's result.
type Column struct {
	Name string
	Type uint32 // type OID
}

// mapping is a table resolved against the columns that its rows arrive with, once, so that a row is read by index.
type mapping struct {
	table   *table
	columns []Column

	id, topic, key, payload filler
	eventType               filler // null where it is not mapped
	headers                 []mappedHeader

	headersJSON, timestamp, partition, expires int // column indexes; -1 is not mapped
	document, published                        int // of the format Eventuate: its headers, and columnPublished, -1 if it is not there

	cloudEvent cloudEventMapping // for the formats of that name
}

// mappedHeader is a header whose place is after tidemark's own.
type mappedHeader struct {
	name     string
	value    filler
	dropNull bool // a null is no header, where others have a null value

	attribute string // what it is in a CloudEvent; "" is a header there, too
	both      bool   // it is the attribute and the header
}

// resolve finds the columns of t among columns, which it keeps. The error names everything that is missing, by its
// meaning in the configuration. With asked nothing is missing: the columns are what is asked for, fields of a JSON object.
func resolve(t *table, columns []Column, asked bool) (*mapping, error) {
	r := resolver{columns: columns, asked: asked}
	c := t.columns
	m := &mapping{
		table:       t,
		columns:     columns,
		id:          r.column(c.ID, "columns.id", inText),
		headersJSON: r.find(c.Headers, "columns.headers"),
		timestamp:   r.find(c.Timestamp, "columns.timestamp"),
		partition:   r.find(c.Partition, "columns.partition"),
		expires:     r.find(c.ExpiresAt, "columns.expires_at"),
	}
	m.topic = r.column(c.Topic, "columns.topic", inRecord)
	if len(t.topic.parts) > 0 {
		m.topic = r.template(t.topic, "topic template", inRecord)
	}
	m.key = r.column(c.Key, "columns.key", inRecord)
	if len(t.key.parts) > 0 {
		m.key = r.template(t.key, "key template", inRecord)
	}
	m.payload = r.column(c.Payload, "columns.payload", inRecord)
	if t.format == Eventuate {
		m.headersJSON, m.document = -1, m.headersJSON // they are part of the value
		m.published = slices.IndexFunc(columns, func(c Column) bool { return c.Name == columnPublished })
	}
	m.eventType = r.column(c.Type, "columns.type", inRecord)
	for _, h := range t.headers {
		mapped := mappedHeader{name: h.name, value: r.template(h.value, "header "+h.name, inHeader)}
		if isAttribute(h.name) {
			mapped.attribute = h.name
		}
		m.headers = append(m.headers, mapped)
	}
	for _, h := range []mappedHeader{
		{name: headerCorrelationID, attribute: "ce_correlationid", value: r.column(c.CorrelationID, "columns.correlation_id", inHeader)},
		{name: headerCausationID, attribute: "ce_causationid", value: r.column(c.CausationID, "columns.causation_id", inHeader)},
		{name: headerReplyTo, attribute: "ce_replyto", value: r.column(c.ReplyTo, "columns.reply_to", inHeader)},
		{name: headerTraceParent, attribute: attributePrefix + headerTraceParent, both: true, value: r.column(c.TraceParent, "columns.traceparent", inRecord)},
		{name: headerTraceState, attribute: attributePrefix + headerTraceState, both: true, value: r.column(c.TraceState, "columns.tracestate", inRecord)},
	} {
		if h.dropNull = true; !h.value.alwaysNull() {
			m.headers = append(m.headers, h)
		}
	}
	if t.format.isCloudEvent() {
		m.cloudEvent = r.cloudEvent(t, m)
	}
	m.columns = r.columns
	return m, errors.Join(r.missingError(t.name), m.typeError())
}

// typeError refuses columns of a type that could only make every row poison, or worse: an int4 of seconds read as
// milliseconds would date every record to 1970, and Kafka would delete it as too old.
func (m *mapping) typeError() error {
	for _, time := range []struct {
		index   int
		meaning string
	}{{m.timestamp, "columns.timestamp"}, {m.expires, "columns.expires_at"}} {
		if time.index < 0 {
			continue
		}
		c := m.columns[time.index]
		if c.Type != oidTimestamptz && c.Type != oidTimestamp && c.Type != oidInt8 && c.Type != ofField {
			return fmt.Errorf("column %q (%s) of table %s has the type with OID %d: "+
				"want timestamptz, timestamp, or int8 in milliseconds since 1970", c.Name, time.meaning, m.table.name, c.Type)
		}
	}
	if m.table.format == Eventuate {
		return m.eventuateTypeError()
	}
	if m.headersJSON >= 0 {
		if c := m.columns[m.headersJSON]; c.Type == oidBytea {
			return fmt.Errorf("column %q (columns.headers) of table %s is bytea: want jsonb, json or text", c.Name, m.table.name)
		}
	}
	return nil
}

// resolver looks up columns and collects what it does not find.
type resolver struct {
	columns []Column
	asked   bool // a column that is not there is added
	missing []missingColumn
}

type missingColumn struct {
	name     string
	meanings []string
}

// find returns the index of the column, -1 if it is not there or the name is empty.
func (r *resolver) find(name, meaning string) int {
	i := slices.IndexFunc(r.columns, func(c Column) bool { return c.Name == name })
	if i >= 0 || name == "" {
		return i
	}
	if r.asked {
		r.columns = append(r.columns, Column{Name: name, Type: ofField})
		return len(r.columns) - 1
	}
	at := slices.IndexFunc(r.missing, func(m missingColumn) bool { return m.name == name })
	if at < 0 {
		at = len(r.missing)
		r.missing = append(r.missing, missingColumn{name: name})
	}
	if m := &r.missing[at]; !slices.Contains(m.meanings, meaning) {
		m.meanings = append(m.meanings, meaning)
	}
	return -1
}

func (r *resolver) missingError(table string) error {
	if len(r.missing) == 0 {
		return nil
	}
	var missing, has []string
	for _, m := range r.missing {
		missing = append(missing, fmt.Sprintf("column %q (%s)", m.name, strings.Join(m.meanings, " / ")))
	}
	for _, c := range r.columns {
		has = append(has, c.Name)
	}
	is := "is"
	if len(missing) > 1 {
		is = "are"
	}
	names := make([]string, len(r.missing))
	for i, m := range r.missing {
		names[i] = m.name
	}
	return &missingColumnsError{names, fmt.Sprintf("%s %s not in table %s; it has: %s",
		strings.Join(missing, ", "), is, table, strings.Join(has, ", "))}
}

// missingColumnsError says that a table lacks columns that its configuration maps.
type missingColumnsError struct {
	names []string
	text  string
}

func (e *missingColumnsError) Error() string { return e.text }

// MissingColumns returns the columns that a table lacks according to err; nil if that is not what err says.
func MissingColumns(err error) []string {
	if e, ok := errors.AsType[*missingColumnsError](err); ok {
		return e.names
	}
	return nil
}

// place says where a text goes, which decides the form of a column in it.
type place uint8

const (
	inText   place = iota // text whatever the type, bytea as \x and hex
	inRecord              // bytea as raw bytes
	inHeader              // bytea as raw bytes, timestamptz as an instant of RFC 3339, boolean as true and false
)

func (p place) form(typ uint32) form {
	switch {
	case p != inText && typ == oidBytea:
		return asBytes
	case p == inHeader && typ == oidTimestamptz:
		return asInstant
	case p == inHeader && typ == oidBool:
		return asWord
	}
	return asText
}

// column resolves a single column; the filler of one that is not mapped is always null.
func (r *resolver) column(name, meaning string, p place) filler {
	if name == "" {
		return filler{only: -1}
	}
	return r.template(Template{parts: []templatePart{{column: name}}}, meaning, p)
}

func (r *resolver) template(t Template, meaning string, p place) filler {
	f := filler{only: -1}
	for _, part := range t.parts {
		if part.column == "" {
			f.parts = append(f.parts, fillerPart{form: asLiteral, text: part.literal})
			continue
		}
		i := r.find(part.column, meaning)
		if i < 0 {
			continue // resolve fails
		}
		f.parts = append(f.parts, fillerPart{form: p.form(r.columns[i].Type), text: part.column, column: i})
		if f.only = i; len(t.Columns()) > 1 {
			f.only = -1
		}
	}
	if len(t.parts) == 0 {
		f.parts = []fillerPart{{form: asLiteral}}
	}
	f.bare = f.only >= 0 && len(f.parts) == 1 && f.parts[0].form == asText && r.columns[f.only].Type != oidBytea
	return f
}
