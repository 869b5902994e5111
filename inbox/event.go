package inbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Header is a header of a Kafka record. The value may be nil.
type Header struct {
	Key   string
	Value []byte
}

// Record is a record as a Kafka client returns it: the same words in every client.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte // nil: no key
	Value     []byte // nil: a tombstone
	Headers   []Header
}

// Event is a record with what it says about itself. Its slices are those of the record; nobody here writes to them.
type Event struct {
	Record

	// ID is the event's own: the same in every copy of it.
	ID string
	// Type is the event's type; it may be empty.
	Type string
	// Source is the log that Position is of.
	Source string
	// Position says where the event was committed in that log: of two events of one source, the one with the larger text is
	// the later one. Empty where the record does not say.
	Position string
}

// ErrNoID says that an event has no id by which a second delivery could be known: none at all, one of more than 1000
// bytes, or one that is no text.
var ErrNoID = errors.New("no id that the inbox could keep")

// Event reads the record's id, type, source and position. It knows, in this order, the headers that tidemark and
// Debezium's Event Router write (id, eventType, tidemark-source, tidemark-position), CloudEvents in binary mode (ce_id, ce_type,
// ce_source, ce_sequence) and in structured mode, and the JSON of Eventuate Tram. Of several ids or
// types, and of headers with the same name, the first counts. A record without an id is ErrNoID.
func (r Record) Event() (Event, error) {
	e := Event{
		Record:   r,
		ID:       r.earliest("id", "ce_id"),
		Type:     r.earliest("eventType", "ce_type"),
		Source:   r.first("tidemark-source", "ce_source"),
		Position: r.first("tidemark-position", "ce_sequence"),
	}
	if e.ID == "" {
		e.fromValue()
	}
	if !isPosition(e.Position) {
		e.Position = ""
	}
	if err := e.check(); err != nil {
		return e, fmt.Errorf("record %d of partition %d of topic %s: %w", r.Offset, r.Partition, r.Topic, err)
	}
	return e, nil
}

// Header returns the value of the first header of that name, and whether there is one.
func (r Record) Header(name string) ([]byte, bool) {
	for _, h := range r.Headers {
		if h.Key == name {
			return h.Value, true
		}
	}
	return nil, false
}

// earliest returns the value of the first header that has one of the names: a relay puts its own before those that the row
// brings along, and a row may bring an id that is another one's.
func (r Record) earliest(names ...string) string {
	for _, h := range r.Headers {
		if len(h.Value) > 0 && slices.Contains(names, h.Key) {
			return string(h.Value)
		}
	}
	return ""
}

// first returns the value of the first header that has one of the names, the earlier name first.
func (r Record) first(names ...string) string {
	for _, name := range names {
		if v, ok := r.Header(name); ok && len(v) > 0 {
			return string(v)
		}
	}
	return ""
}

// fromValue reads what formats keep in the value that have no headers for it.
func (e *Event) fromValue() {
	value := bytes.TrimLeft(e.Value, " \t\r\n")
	if len(value) == 0 || value[0] != '{' {
		return
	}
	if strings.HasPrefix(e.first("content-type"), "application/cloudevents+json") {
		// https://github.com/cloudevents/spec/blob/main/cloudevents/formats/json-format.md
		var ce struct{ ID, Type, Source, Sequence string }
		if json.Unmarshal(value, &ce) == nil {
			e.ID = ce.ID
			fill(&e.Type, ce.Type)
			fill(&e.Source, ce.Source)
			fill(&e.Position, ce.Sequence)
		}
		return
	}
	// Eventuate Tram: {"payload": "…", "headers": {"ID": "…", "event-type": "…"}}
	var tram struct {
		Headers struct {
			ID   string `json:"ID"`
			Type string `json:"event-type"`
		} `json:"headers"`
	}
	if json.Unmarshal(value, &tram) == nil {
		e.ID = tram.Headers.ID
		fill(&e.Type, tram.Headers.Type)
	}
}

func fill(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// isPosition reports whether s has the form that tidemark writes, so that its order as text is that of the log:
// 16 hex digits, '-', 8 hex digits.
func isPosition(s string) bool {
	if len(s) != 25 || s[16] != '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; i != 16 && (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// maxID is what surely fits into an entry of the primary key, in bytes, beside the consumer's name.
const maxID = 1000

// check tells whether the database can keep the event's id.
func (e *Event) check() error {
	switch {
	case e.ID == "":
		return fmt.Errorf("%w: none is there", ErrNoID)
	case len(e.ID) > maxID:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrNoID, len(e.ID), maxID)
	case !utf8.ValidString(e.ID) || strings.Contains(e.ID, "\x00"):
		return fmt.Errorf("%w: %q is no text", ErrNoID, e.ID)
	}
	return nil
}
