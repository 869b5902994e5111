package decode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A CloudEvent's attributes are headers with a prefix in the Kafka protocol binding's binary mode, and members of a JSON
// object in its structured mode (github.com/cloudevents/spec, v1.0.2, bindings/kafka-protocol-binding.md and
// formats/json-format.md). Both are written by the same code, attribute by attribute.
const (
	attributePrefix       = "ce_"
	headerCloudEventType  = "ce_type"
	headerContentType     = "content-type"
	structuredContentType = "application/cloudevents+json"
)

// cloudEvent is one row on its way to becoming a CloudEvent.
type cloudEvent struct {
	b       *builder
	m       *mapping
	row     []value
	ev      *Event
	headers []Header
	json    []byte // the object so far, in structured mode; nil in binary mode
}

// binary gives the event the headers of a CloudEvent in binary mode. Its value is the payload as it is.
func (b *builder) binary(m *mapping, row []value, ev *Event) {
	e := cloudEvent{b: b, m: m, row: row, ev: ev, headers: b.slab.open(14 + 2*len(m.headers))}
	e.attributes(ev.Value != nil)
	ev.Headers = b.slab.close(e.headers)
}

// maxDraft bounds what is kept between two rows.
const maxDraft = 64 << 10

// structured makes the event's value the JSON of a CloudEvent. A tombstone has to be a null value, and what is poison is
// shown to whoever has to mend it with its payload as it came: these are in binary mode.
func (b *builder) structured(m *mapping, row []value, ev *Event) {
	if null := m.payload.null(row); !null || m.table.onNull == Empty {
		e := cloudEvent{b: b, m: m, row: row, ev: ev, headers: b.slab.open(6 + len(m.headers)), json: append(b.draft[:0], '{')}
		media := e.attributes(!null)
		if !null {
			e.data(media)
		}
		e.json = append(e.json, '}')
		if b.draft = e.json; cap(b.draft) > maxDraft {
			b.draft = nil
		}
		if ev.Poison == nil {
			ev.Value, ev.Headers = b.copy(e.json), b.slab.close(e.headers)
			return
		}
	}
	b.payload(m, row, ev)
	b.binary(m, row, ev)
}

// attributes writes everything but the payload, and returns the media type of that.
func (e *cloudEvent) attributes(data bool) mediaType {
	e.b.names = e.b.names[:0]
	c := &e.m.cloudEvent
	if id := e.filled("id", &e.m.id); e.json != nil || len(id) == 0 {
		e.header(HeaderCloudEventID, id) // in structured mode, too: by it a record is known
	}
	e.text(HeaderCloudEventID, e.filled("id", &e.m.id))
	e.write("ce_specversion", []byte("1.0"))
	if v := e.filled("source", &c.source); len(v) > 0 {
		e.uri("ce_source", v, c.sourceVaries, false)
	} else {
		e.ev.poison("source", errors.New("it is null or empty (cloudevents.source), and a CloudEvent has to have one"))
	}
	if v := e.filled("type", &c.eventType); len(v) > 0 {
		if e.json != nil {
			e.header(headerCloudEventType, v)
		}
		e.text(headerCloudEventType, v)
	} else {
		e.ev.poison("type", fmt.Errorf("it is null or empty (%s), and a CloudEvent has to have one", c.typeMeaning))
	}
	if c.subject.alwaysNull() {
		e.key("ce_subject")
	} else {
		e.text("ce_subject", e.filled("subject", &c.subject))
	}
	e.when("ce_time", e.ev.Timestamp)
	media := e.contentType(data)
	if v := e.filled("data_schema", &c.dataSchema); len(v) > 0 {
		e.uri("ce_dataschema", v, c.dataSchemaVaries, true)
	}
	e.write("ce_sequence", e.position())
	e.when("ce_recordedtime", e.ev.CommitTime)
	e.key("ce_partitionkey")
	e.header(HeaderPosition, e.position())
	e.headers = append(e.headers, Header{Key: HeaderSource, Value: e.b.source})
	e.mapped()
	return media
}

// when writes a time, if it is known: of a message without transaction the log does not say.
func (e *cloudEvent) when(name string, at time.Time) {
	if !at.IsZero() {
		e.write(name, e.time(at))
	}
}

// mapped writes what columns and templates of the table say.
func (e *cloudEvent) mapped() {
	for i := range e.m.headers {
		h := &e.m.headers[i]
		v := e.filled("header "+h.name, &h.value)
		if h.attribute != "" {
			e.text(h.attribute, v)
		}
		if (h.attribute == "" || h.both) && (v != nil || !h.dropNull) {
			e.header(h.name, v)
		}
	}
	if e.m.expires >= 0 {
		v, err := e.b.expiry(e.m, e.row)
		e.ev.poison("expires_at", err)
		e.text("ce_expirytime", v)
	}
	if e.m.headersJSON < 0 {
		return
	}
	from := len(e.headers)
	var err error
	if e.headers, err = e.b.jsonHeaders(e.headers, e.row[e.m.headersJSON].data); err == nil {
		err = e.sort(from)
	}
	if err != nil {
		e.ev.poison("headers", fmt.Errorf("column %q: %w", e.m.table.columns.Headers, err))
	}
}

// sort takes what is an attribute out of the headers from there on and writes it as one. A header that says what tidemark
// says already, or the form of the value, is left out, as with reserved ones.
func (e *cloudEvent) sort(from int) error {
	entries := e.headers[from:]
	e.headers = e.headers[:from]
	var attributes []Header
	for _, h := range entries {
		switch {
		case isAttribute(h.Key):
			attributes = append(attributes, h)
		case !isContentType(h.Key):
			e.headers = append(e.headers, h)
		}
	}
	for _, h := range attributes {
		if e.has(strings.ToLower(h.Key)) {
			continue
		}
		if err := checkAttribute(h.Key); err != nil {
			return fmt.Errorf("entry %.60q: %w", h.Key, err)
		}
		e.text(h.Key, h.Value)
	}
	return nil
}

// filled is the text of f in memory that the next one takes; nil if it is null.
func (e *cloudEvent) filled(what string, f *filler) []byte {
	if f.null(e.row) {
		return nil
	}
	v, err := f.append(e.b.scratch[:0], e.row)
	e.ev.poison(what, err)
	if e.b.scratch = v; cap(v) > maxScratch {
		e.b.scratch = nil
	}
	if v == nil {
		v = []byte{}
	}
	return v
}

// time and position are in memory that the next attribute takes, too.
func (e *cloudEvent) time(t time.Time) []byte {
	e.b.scratch = appendTime(e.b.scratch[:0], t)
	return e.b.scratch
}

func (e *cloudEvent) position() []byte {
	e.b.scratch = e.ev.Position.Append(e.b.scratch[:0])
	return e.b.scratch
}

// key writes the record's key as an attribute. One of bytes is none: they are no text.
func (e *cloudEvent) key(attribute string) {
	if !e.m.cloudEvent.binaryKey {
		e.text(attribute, e.ev.Key)
	}
}

// text writes an attribute of the type String. What is null or empty is no attribute.
func (e *cloudEvent) text(attribute string, v []byte) {
	if len(v) == 0 {
		return
	}
	if !isAttributeText(v) {
		e.ev.poison(attribute, fmt.Errorf("%.60q is no text for an attribute of a CloudEvent: it has control characters or is no UTF-8", v))
	}
	e.write(attribute, v)
}

// uri writes an attribute of the type URI-reference, or URI if it has to be absolute. What does not vary has been checked.
func (e *cloudEvent) uri(attribute string, v []byte, varies, absolute bool) {
	if varies {
		e.ev.poison(attribute, checkURI(string(v), absolute))
	}
	e.write(attribute, v)
}

// contentType writes what the payload is, if there is one.
func (e *cloudEvent) contentType(data bool) mediaType {
	c := &e.m.cloudEvent
	v := e.filled("content_type", &c.contentType)
	if len(v) == 0 {
		v = c.usualContentType
	}
	media, err := e.b.media.read(v)
	e.ev.poison("content_type", err)
	switch {
	case e.json != nil:
		e.header(headerContentType, []byte(structuredContentType))
		if data {
			e.write("ce_datacontenttype", v)
		}
	case data:
		e.header(headerContentType, v)
	}
	return media
}

// write writes an attribute, which is named as its header in binary mode.
func (e *cloudEvent) write(attribute string, v []byte) {
	e.b.names = append(e.b.names, attribute)
	if e.json == nil {
		e.header(attribute, v)
		return
	}
	if len(e.json) > 1 {
		e.json = append(e.json, ',')
	}
	e.json = append(append(append(e.json, '"'), attribute[len(attributePrefix):]...), `":`...)
	e.json = appendJSONString(e.json, v)
}

// has reports whether the attribute is written already, or is one that only tidemark writes.
func (e *cloudEvent) has(attribute string) bool {
	return slices.Contains(e.b.names, attribute) || ownAttribute(attribute)
}

// header writes a header with a copy of the value.
func (e *cloudEvent) header(key string, v []byte) {
	h := Header{Key: key}
	if v != nil {
		h.Value = e.b.copy(v)
	}
	e.headers = append(e.headers, h)
}

// data writes the payload into the object: JSON as it is, other text as a string, bytes in base64.
func (e *cloudEvent) data(media mediaType) {
	c := &e.m.cloudEvent
	v := e.row[e.m.payload.only].data
	if c.binaryData {
		v = e.filled("payload", &e.m.payload)
	}
	switch {
	case media.json && !c.jsonData && !json.Valid(v):
		e.ev.poison("payload", fmt.Errorf("column %q is no JSON, and its content type says so: name the right one under cloudevents.content_type", e.m.table.columns.Payload))
	case media.json:
		e.json = append(append(e.json, `,"data":`...), v...)
	case c.binaryData || !utf8.Valid(v):
		e.json = append(base64.StdEncoding.AppendEncode(append(e.json, `,"data_base64":"`...), v), '"')
	default:
		e.json = appendJSONString(append(e.json, `,"data":`...), v)
	}
}

// isAttributeText reports whether v is a String of CloudEvents' type system: Unicode without control characters.
func isAttributeText(v []byte) bool {
	ascii := true
	for _, c := range v {
		if c < ' ' || c == 0x7f {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.Valid(v) && bytes.IndexFunc(v, unicode.IsControl) < 0
}
