package decode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Eventuate Tram's record is a JSON object of two entries, payload and headers, and nothing else of the row: the one that
// Eventuate's CDC service makes (MessageWithDestination.toJson) and MessageImpl is read from. The message's id and its
// partition id are among the headers. So these are read once, while they are copied into the value; id and key are then
// pieces of the value.

// columnPublished is Tram's flag. A writer sets it for a row that nobody is to publish, and the polling CDC service for one
// that it has published.
const columnPublished = "published"

// The headers of a message that have a meaning here.
const (
	eventuateID        = `"ID"`
	eventuatePartition = `"PARTITION_ID"`
)

const (
	eventuateHead   = `{"payload":`
	eventuateMiddle = `,"headers":{`
	eventuateTail   = `}}`
	eventuateIDHead = `"ID":`

	int128Len = 33 // 16 hex digits, -, 16 hex digits
)

// eventuate makes value and key of a message, and returns its id; nil if it has none.
func (b *builder) eventuate(m *mapping, row []value, ev *Event) (id []byte) {
	ev.Ignored = m.published >= 0 && isSet(row[m.published].data)
	payload, doc, own := row[m.payload.only].data, row[m.document].data, row[m.id.only].data
	if payload == nil && m.table.onNull == PoisonNull {
		ev.poison("payload", fmt.Errorf("column %q is null, and Tram's consumers take no message without a payload", m.table.columns.Payload))
	}
	most := len(eventuateHead) + quotedLen(payload) + len(eventuateMiddle) + len(doc) +
		len(",") + len(eventuateIDHead) + max(quotedLen(own), len(`""`)+int128Len) + len(eventuateTail)
	v := append(b.bytes.piece(most), eventuateHead...)
	v = append(appendQuoted(v, payload), eventuateMiddle...)
	before := len(v)
	v, h, err := appendEventuateHeaders(v, doc)
	if err != nil {
		// The value is one that Tram can read all the same, for whoever releases the event as it is.
		ev.poison("headers", fmt.Errorf("column %q: %w", m.table.columns.Headers, err))
		v, h = v[:before], eventuateHeaders{}
	}
	if h.id == nil && len(own) > 0 {
		if len(v) > before {
			v = append(v, ',')
		}
		v = append(v, eventuateIDHead...)
		from := len(v)
		if v, err = appendEventuateID(v, own, m.table.outboxID); err != nil {
			ev.poison("id", fmt.Errorf("column %q: %w", m.table.columns.ID, err))
		}
		h.id = v[from:]
	}
	v = append(v, eventuateTail...)
	ev.Value = v

	id = b.eventuateText(h.id)
	if len(id) == 0 {
		ev.poison("id", fmt.Errorf("the headers have no ID, and column %q is null or empty: where the database numbers "+
			"the messages (eventuate.outbox.id), set columns.id to dbid and outbox_id to that number", m.table.columns.ID))
	}
	switch {
	case !m.key.alwaysNull():
		ev.Key, err = b.fill(&m.key, row)
		ev.poison("key", err)
	case h.partition != nil:
		ev.Key = b.eventuateText(h.partition)
	default:
		ev.Key = id
	}
	return id
}

// outboxID reads Table.OutboxID.
func outboxID(t Table) (*uint64, error) {
	const most = 1<<48 - 1 // DatabaseIdGenerator.SERVICE_ID_MAX_VALUE
	if t.OutboxID == "" {
		return nil, nil //nolint:nilnil // there is none, and nothing wrong with that
	}
	if t.Format != Eventuate {
		return nil, errors.New("goes with the format Eventuate")
	}
	n, err := strconv.ParseUint(t.OutboxID, 10, 64)
	if err != nil || n > most {
		return nil, fmt.Errorf("%q is no number from 0 to %d, as eventuate.outbox.id is", t.OutboxID, uint64(most))
	}
	return &n, nil
}

func eventuateHeadersError(t Table) error {
	if t.Columns.Headers == "" {
		return errors.New("has to name the column of the message's headers, of which its id is one")
	}
	return nil
}

func eventuateNullError(t Table) error {
	if t.OnNull == Tombstone {
		return errors.New("a tombstone is nothing for Tram, whose consumers stop at a record without a value")
	}
	return nil
}

// eventuateTypeError refuses columns of which no message can be made as Tram would read it.
func (m *mapping) eventuateTypeError() error {
	if min(m.id.only, m.payload.only, m.document) < 0 {
		return nil // one is missing, which has been said
	}
	id := m.columns[m.id.only]
	whole := id.Type == oidInt8 || id.Type == oidInt4
	for _, c := range []Column{m.columns[m.payload.only], m.columns[m.document]} {
		if c.Type == oidBytea {
			return fmt.Errorf("column %q of table %s is bytea: want text or json, since it becomes text within JSON", c.Name, m.table.name)
		}
	}
	switch {
	case whole && m.table.outboxID == nil:
		return fmt.Errorf("column %q (columns.id) of table %s is a number, of which Tram makes the message's id together with "+
			"the number of the outbox: set outbox_id to what eventuate.outbox.id is for its writers", id.Name, m.table.name)
	case !whole && m.table.outboxID != nil:
		return fmt.Errorf("column %q (columns.id) of table %s is no whole number, and outbox_id goes with one: "+
			"set columns.id to dbid, or leave outbox_id out", id.Name, m.table.name)
	}
	return nil
}

// isSet reports whether a flag is: Tram has 0 and 1 in a smallint.
func isSet(flag []byte) bool {
	return len(flag) > 0 && flag[0] != '0' && flag[0] != 'f'
}

// appendEventuateID appends, as JSON, the id of a message whose headers have none: its own text, or where the database
// numbers the messages, what DatabaseIdGenerator and Int128 of eventuate-common-id make of the number.
func appendEventuateID(dst, own []byte, outboxID *uint64) ([]byte, error) {
	if outboxID == nil {
		return appendQuoted(dst, own), nil
	}
	n, err := strconv.ParseInt(string(own), 10, 64)
	if err != nil {
		return appendQuoted(dst, own), fmt.Errorf("%.40q is no whole number of 64 bits", own)
	}
	dst = appendInt128(append(dst, '"'), uint64(n), *outboxID) //nolint:gosec // Java prints the same bits
	return append(dst, '"'), nil
}

func appendInt128(dst []byte, high, low uint64) []byte {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], high)
	dst = append(hex.AppendEncode(dst, raw[:]), '-')
	binary.BigEndian.PutUint64(raw[:], low)
	return hex.AppendEncode(dst, raw[:])
}

// databaseID returns the number of which appendInt128 has made the id.
func databaseID(id string, low uint64) (string, bool) {
	if len(id) != int128Len {
		return "", false
	}
	high, err := strconv.ParseUint(id[:16], 16, 64)
	if err != nil || string(appendInt128(nil, high, low)) != id {
		return "", false
	}
	return strconv.FormatInt(int64(high), 10), true //nolint:gosec // the same bits
}

// EventuateID returns the id of the message that is the value of a record of Eventuate's CDC service. There is none in those
// that it has written in batches (eventuate.cdc.kafka.enable.batch.processing).
func EventuateID(value []byte) (id string, ok bool) {
	var record, headers map[string]json.RawMessage // a struct would take an entry id for ID
	if len(value) == 0 || value[0] != '{' || json.Unmarshal(value, &record) != nil ||
		json.Unmarshal(record["headers"], &headers) != nil || json.Unmarshal(headers["ID"], &id) != nil {
		return "", false
	}
	return id, id != ""
}

// eventuateText returns the text of what appendEventuateHeaders has written, which it shares the memory with.
func (b *builder) eventuateText(token []byte) []byte {
	switch {
	case token == nil:
		return nil
	case token[0] != '"':
		return slices.Clip(token)
	case bytes.IndexByte(token, '\\') >= 0:
		return b.unquote(token)
	}
	return token[1 : len(token)-1 : len(token)-1]
}

// eventuateHeaders are the headers with a meaning: their JSON; nil where there is none, or it is null.
type eventuateHeaders struct{ id, partition []byte }

// appendEventuateHeaders appends the entries of a message's headers, a JSON object of texts, as Eventuate's JSON mapper
// writes them: no white space, no null, and nothing escaped that need not be. A number and a word are kept, which Tram
// reads as texts; an object and an array are not, at which its consumers would stop. What it appends is no longer than doc.
// After an error dst is incomplete.
func appendEventuateHeaders(dst, doc []byte) ([]byte, eventuateHeaders, error) {
	s := flatJSON{rest: doc}
	var h eventuateHeaders
	from := len(dst)
	for s.next() {
		if s.value[0] == 'n' {
			s.note(&h, nil)
			continue
		}
		if len(dst) > from {
			dst = append(dst, ',')
		}
		dst = append(s.appendToken(dst, s.name), ':')
		at := len(dst)
		dst = s.appendToken(dst, s.value)
		s.note(&h, dst[at:])
	}
	return dst, h, s.err
}

// flatJSON reads a JSON object without nested ones, strictly: RFC 8259, but for the encoding, which is the database's.
type flatJSON struct {
	rest        []byte
	begun       bool
	name, value []byte // of the entry at hand, as JSON
	escaped     bool   // there is a \ in one of them
	err         error
}

var errFlatJSON = errors.New("is no JSON object")

// next moves to the next entry. It returns false at the end, and after an error, which stays.
func (s *flatJSON) next() bool {
	s.escaped = false
	switch {
	case s.err != nil:
	case !s.begun && !s.take('{'):
		s.err = errFlatJSON
	case s.take('}'):
		if s.space(); len(s.rest) > 0 {
			s.err = errFlatJSON
		}
		return false
	case s.begun && !s.take(','):
		s.err = errFlatJSON
	default:
		s.begun = true
		s.space()
		if s.name = s.text(); s.err == nil && !s.take(':') {
			s.err = errFlatJSON
		}
		s.space()
		s.value = s.scalar()
	}
	return s.err == nil
}

func (s *flatJSON) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

// take takes c and the white space before it, if it is there.
func (s *flatJSON) take(c byte) bool {
	if s.space(); len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text takes a string, which is well-formed but for what follows a \: appendToken looks at that.
func (s *flatJSON) text() []byte {
	if s.err != nil || len(s.rest) == 0 || s.rest[0] != '"' {
		s.err = errFlatJSON
		return nil
	}
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			token := s.rest[:i+1]
			s.rest = s.rest[i+1:]
			return token
		case c == '\\':
			s.escaped = true
			i++
		case c < ' ':
			s.err = errFlatJSON
			return nil
		}
	}
	s.err = errFlatJSON
	return nil
}

// scalar takes a value, whose first byte is there if err is nil.
func (s *flatJSON) scalar() []byte {
	if s.err != nil || len(s.rest) == 0 {
		s.err = errFlatJSON
		return nil
	}
	switch s.rest[0] {
	case '"':
		return s.text()
	case '{', '[':
		s.err = fmt.Errorf("header %.60s is no text but an object or a list, which Tram's consumers stop at", s.name)
		return nil
	}
	n := bytes.IndexAny(s.rest, ",} \t\r\n")
	if n < 0 || !json.Valid(s.rest[:n]) {
		s.err = errFlatJSON
		return nil
	}
	token := s.rest[:n]
	s.rest = s.rest[n:]
	return token
}

// appendToken appends a name or a value, escaped no more than it has to be.
func (s *flatJSON) appendToken(dst, token []byte) []byte {
	if s.err != nil || !s.escaped || token[0] != '"' {
		return append(dst, token...)
	}
	var text string
	if err := json.Unmarshal(token, &text); err != nil {
		s.err = errFlatJSON
		return dst
	}
	return appendQuoted(dst, []byte(text))
}

// note keeps the value of a header with a meaning, as it was written; the last of several counts.
func (s *flatJSON) note(h *eventuateHeaders, token []byte) {
	name := s.name
	if s.escaped {
		name = s.appendToken(nil, name)
	}
	switch string(name) {
	case eventuateID:
		h.id = token
	case eventuatePartition:
		h.partition = token
	}
}

// The escapes of Jackson, which Eventuate's mapper is: short ones where there are, else \u00 and upper case.
const jsonHex = "0123456789ABCDEF"

// shortEscape returns the letter that stands for c behind a \, 0 if there is none.
func shortEscape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	}
	return 0
}

// quotedLen returns how many bytes appendQuoted will append.
func quotedLen(text []byte) int {
	n := len(text) + 2
	for _, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		if n++; shortEscape(c) == 0 {
			n += len("u0000") - 1
		}
	}
	return n
}

// appendQuoted appends text as a JSON string.
func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(append(dst, text[from:i]...), '\\')
		if short := shortEscape(c); short != 0 {
			dst = append(dst, short)
		} else {
			dst = append(dst, 'u', '0', '0', jsonHex[c>>4], jsonHex[c&15])
		}
		from = i + 1
	}
	return append(append(dst, text[from:]...), '"')
}
