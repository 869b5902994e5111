package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pglogrepl"
)

// LogicalMessage is a prefix of pg_logical_emit_message whose messages are events: the outbox without a table.
type LogicalMessage struct {
	Prefix string
	// Table says how the JSON object that a message carries becomes a record: what Columns and the templates name are
	// the object's fields. Its own Name means nothing. An object without an id takes its position for one.
	Table Table
	// NonTransactional says what becomes of a message that was emitted with false, and so is in the log even if the
	// transaction was rolled back.
	NonTransactional NonTransactional
}

// NonTransactional is what becomes of a message that belongs to no transaction.
type NonTransactional uint8

const (
	PoisonLone  NonTransactional = iota // the event is poison
	PublishLone                         // it is an event, with the header tidemark-transactional: false
	SkipLone                            // it is Ignored
)

// fromMessage begins Event.Table of a message; the prefix follows.
const fromMessage = "message:"

// HasRow reports whether the event came from a table, in which its row may still be.
func (e *Event) HasRow() bool { return !strings.HasPrefix(e.Table, fromMessage) }

// logical is a LogicalMessage, resolved once.
type logical struct {
	mapping *mapping
	fields  map[string]int // name of a field that is mapped → its index in the row
	id      int            // of the field that identifies the event
	lone    NonTransactional
}

// compileLogical checks the mapping and finds out which fields it takes. source is the text of tidemark-source.
func compileLogical(m LogicalMessage, source string) (*logical, error) {
	m.Table.Name = fromMessage + m.Prefix
	t, err := compileAs(fmt.Sprintf("messages prefix %q", m.Prefix), m.Table)
	if err == nil && m.Prefix == "" {
		err = errors.New("messages: prefix: has to be named")
	}
	if err != nil {
		return nil, err
	}
	t.cloudEvent.nameSource(source, m.Table.Name)
	l := &logical{fields: map[string]int{}, lone: m.NonTransactional}
	if l.mapping, err = resolve(t, nil, true); err != nil {
		return nil, err
	}
	for i, c := range l.mapping.columns {
		l.fields[c.Name] = i
	}
	l.id = l.fields[m.Table.Columns.ID]
	return l, nil
}

// message reads a Message: Int8 flags (1: transactional), Int64 the end of its record in the log, String prefix, Int32
// length, content.
//
// Every message of a transaction takes an index, whatever its prefix, so that another configuration gives no row and no
// message another position.
func (d *Decoder) message(c *cursor, ev *Event) Kind {
	flags, end := c.uint8(), pglogrepl.LSN(c.uint64())
	prefix, content := c.text(), c.bytes(c.uint32())
	lone := flags == 0
	switch {
	case c.end() != nil:
		return Skip
	case flags > 1:
		c.fail("a message with the unknown flags %d", flags)
	case lone && d.open:
		c.fail("a message at %s that belongs to no transaction, inside transaction %d", end, d.tx.XID)
	case !lone && !d.open:
		c.fail("a message of a transaction, at %s, and none has begun", end)
	case !lone && d.index == math.MaxUint32:
		c.fail("transaction %d has more rows and messages than a position can count", d.tx.XID)
	case lone && (end < recordAlignment || end%recordAlignment != 0):
		c.fail("a message whose record ends at %s, where none can", end)
	}
	if c.err != nil {
		return Skip
	}
	l := d.messages[string(prefix)]
	if lone {
		return d.lone(l, end, content, ev)
	}
	if d.messagesFrom == 0 || d.tx.Commit < d.messagesFrom {
		return Skip
	}
	pos := Position{Commit: d.tx.Commit, Index: d.index}
	d.index++
	if l == nil {
		return Skip
	}
	d.logicalEvent(l, content, pos, ev)
	return Row
}

// recordAlignment is that of the records in the log, and so of the commits' LSNs.
const recordAlignment = 8

// lone makes the event of a message that belongs to no transaction. It is a transaction of its own, which ends with its
// record. The next record, which may be a commit, can begin at that very LSN: so its commit LSN is the last byte of its own.
func (d *Decoder) lone(l *logical, end pglogrepl.LSN, content []byte, ev *Event) Kind {
	pos := Position{Commit: end - 1}
	switch {
	case l == nil, d.messagesFrom == 0, pos.Commit < d.messagesFrom:
		return Skip
	case l.lone == SkipLone:
		*ev = Event{Position: pos, Table: l.mapping.table.name, Partition: AnyPartition}
		return Ignored
	}
	d.tx = Transaction{Commit: pos.Commit, End: end}
	d.logicalEvent(l, content, pos, ev)
	ev.Headers = append(ev.Headers, Header{Key: HeaderTransactional, Value: []byte("false")})
	if l.lone == PoisonLone && ev.Poison == nil {
		ev.Poison = errLone
	}
	return Lone
}

var errLone = errors.New("the message belongs to no transaction (pg_logical_emit_message(false, …)), and messages[].non_transactional is poison: emit it with true, or set that to publish or skip")

// logicalEvent makes *ev the event of a message. What is no JSON object is kept whole: no row has it.
func (d *Decoder) logicalEvent(l *logical, content []byte, pos Position, ev *Event) {
	d.row = d.row[:0]
	for range l.mapping.columns {
		d.row = append(d.row, value{})
	}
	err := d.object(l, content)
	if id := &d.row[l.id]; id.data == nil {
		id.data = pos.Append(d.builder.bytes.piece(positionLen))
	}
	d.builder.event(l.mapping, d.row, pos, d.tx.Time, ev)
	if err != nil {
		ev.Poison = err
		ev.Value = d.builder.copy(content)
	}
	clear(d.row) // the message is only borrowed
}

// object takes the fields that are mapped from the top of a JSON object into d.row: a string as its text, null as null,
// everything else as its JSON text, byte for byte. Of two with the same name the later one counts, as in jsonb.
func (d *Decoder) object(l *logical, content []byte) error {
	s := jsonScanner{rest: content}
	s.space()
	switch {
	case !json.Valid(content):
		return errors.New("content: no valid JSON")
	case s.rest[0] != '{':
		return errors.New("content: the JSON is not an object")
	}
	s.skip() // {
	for s.rest[0] != '}' {
		name := d.builder.text(s.value())
		s.skip() // :
		v := s.value()
		if s.rest[0] == ',' {
			s.skip()
		}
		i, ok := l.fields[string(name)]
		if !ok {
			continue
		}
		switch v[0] {
		case '"':
			d.row[i].data = d.builder.text(v)
		case 'n':
			d.row[i].data = nil
		default:
			d.row[i].data = v
		}
	}
	return nil
}

// text is unquote without a copy where none is needed.
func (b *builder) text(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	return b.unquote(quoted)
}
