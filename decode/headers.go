package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The headers by which a record is known, and others that tidemark writes; SPEC.md §4.
const (
	HeaderID           = "id"    // the row's id, before all headers that the row brings along
	HeaderCloudEventID = "ce_id" // the same in a CloudEvent
	HeaderPosition     = "tidemark-position"
	HeaderSource       = "tidemark-source"
	HeaderReplay       = "tidemark-replay" // of records that were published again, or late, and of no others
	// HeaderTransactional is false on a message that belongs to no transaction, and on no other record.
	HeaderTransactional = "tidemark-transactional"

	headerType          = "eventType"
	headerTraceParent   = "traceparent"
	headerTraceState    = "tracestate"
	headerCorrelationID = "correlation-id"
	headerCausationID   = "causation-id"
	headerReplyTo       = "reply-to"
	headerExpiresAt     = "expires-at" // RFC 3339
)

// reserved reports whether only tidemark itself may write this header. A consumer and the resume dedupe take it for
// the truth about the record, so a copy that a service passed on from a record that it had read must not stand there.
func reserved(name string) bool {
	return name == HeaderPosition || name == HeaderSource || name == HeaderReplay || name == HeaderTransactional
}

// jsonHeaders appends the entries of a JSON object to headers, in the order of the document: a string as its text,
// null as a null value, everything else as its JSON text, untouched. Entries with a reserved name are left out. No
// text, blank text and the JSON null are no headers; what is no object is an error.
func (b *builder) jsonHeaders(headers []Header, doc []byte) ([]Header, error) {
	s := jsonScanner{rest: doc}
	if s.space(); len(s.rest) == 0 {
		return headers, nil
	}
	// From here on the document is known to be well-formed (and nested no deeper than encoding/json allows), and the
	// scanner needs no errors of its own.
	if !json.Valid(doc) {
		var raw json.RawMessage
		return headers, fmt.Errorf("no valid JSON: %w", json.Unmarshal(doc, &raw))
	}
	if s.rest[0] == 'n' {
		return headers, nil
	}
	if s.rest[0] != '{' {
		return headers, errors.New("the JSON is not an object")
	}
	s.skip() // {
	for s.rest[0] != '}' {
		name := b.unquote(s.value())
		s.skip() // :
		value := s.value()
		if s.rest[0] == ',' {
			s.skip()
		}
		h := Header{Key: alias(name)}
		if reserved(h.Key) {
			continue
		}
		switch value[0] {
		case '"':
			h.Value = b.unquote(value)
		case 'n':
		default:
			h.Value = b.copy(value)
		}
		headers = append(headers, h)
	}
	return headers, nil
}

// unquote returns the text of a well-formed JSON string, in the event's memory.
func (b *builder) unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return b.copy(quoted[1 : len(quoted)-1])
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil { // cannot happen: json.Valid has seen it
		return b.copy(quoted)
	}
	return b.copy([]byte(s))
}

const jsonSpace = " \t\r\n"

// jsonScanner cuts a well-formed JSON text into its values.
type jsonScanner struct{ rest []byte }

// space moves to the next byte that is not white space.
func (s *jsonScanner) space() {
	for len(s.rest) > 0 && strings.IndexByte(jsonSpace, s.rest[0]) >= 0 {
		s.rest = s.rest[1:]
	}
}

// skip moves over one byte and the white space behind it.
func (s *jsonScanner) skip() {
	s.rest = s.rest[1:]
	s.space()
}

// value takes the value at the front, nested ones whole, and the white space behind it.
func (s *jsonScanner) value() []byte {
	depth, n := 0, 0
	for n < len(s.rest) {
		switch s.rest[n] {
		case '"':
			for n++; s.rest[n] != '"'; n++ {
				if s.rest[n] == '\\' {
					n++
				}
			}
			n++
		case '{', '[':
			depth++
			n++
		case '}', ']':
			depth--
			n++
		default: // a number, a word; or, in a nested value, a comma, a colon, white space
			n++
			for n < len(s.rest) && strings.IndexByte(jsonSpace+`,:{}[]"`, s.rest[n]) < 0 {
				n++
			}
		}
		if depth == 0 {
			break
		}
	}
	v := s.rest[:n]
	s.rest = s.rest[n:]
	s.space()
	return v
}
