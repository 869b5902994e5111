// Package decode turns pgoutput messages into outbox events. It owns what a row means: which table, which columns,
// which topic, key, value and headers. It is pure: no I/O, no clock, no logging, no globals; the same bytes always
// make the same event, which is what lets a consumer recognise a replay.
//
// A row that cannot become a record is an event with its Poison set, and the stream goes on. An error is returned for
// a message that cannot be understood; the stream behind it means nothing any more.
package decode

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pglogrepl"
)

// Options configure a Decoder.
type Options struct {
	Tables []Table
	Source string // the text of the tidemark-source header
	// Messages are the prefixes of logical messages that are events. Those that commit before MessagesFrom are none, and
	// take no index; where that is 0, none is.
	Messages     []LogicalMessage
	MessagesFrom pglogrepl.LSN
	// Domains maps the OID of a domain to that of the type beneath it: the log announces a column by its domain.
	Domains map[uint32]uint32
}

// Kind says what a message was.
type Kind uint8

const (
	Skip    Kind = iota // neither a row that is to be published nor an end of a transaction
	Begin               // Transaction has it
	Row                 // the event has it, whether a row or a message
	Commit              // Transaction has its end
	Lone                // a message outside of any transaction: the event has it, and Transaction is its own
	Ignored             // one that is no event as it is configured: the event has Table and Position, and nothing else
)

// Transaction is what Begin and Commit say about a transaction.
type Transaction struct {
	XID    uint32
	Commit pglogrepl.LSN // of the commit record
	End    pglogrepl.LSN // the end of the commit record; 0 until Commit
	Time   time.Time     // of the commit, at the source
}

// Decoder turns the messages of one replication session into events. One goroutine uses it.
type Decoder struct {
	tables    map[string]*table
	domains   map[uint32]uint32
	relations map[uint32]*relation // by OID, as this session announced them
	messages  map[string]*logical  // by prefix
	builder   builder

	messagesFrom pglogrepl.LSN

	tx    Transaction
	open  bool   // between Begin and Commit
	index uint32 // of the transaction's next row
	row   []value
}

// New reads the tables' templates. Its error lists everything that is wrong, by table and configuration key.
func New(o Options) (*Decoder, error) {
	d := &Decoder{
		tables:    make(map[string]*table, len(o.Tables)),
		domains:   o.Domains,
		relations: map[uint32]*relation{},
		messages:  make(map[string]*logical, len(o.Messages)),
		builder:   newBuilder(o.Source),

		messagesFrom: o.MessagesFrom,
	}
	var errs []error
	for _, t := range o.Tables {
		c, err := compile(t)
		if err == nil && d.tables[t.Name] != nil {
			err = fmt.Errorf("outbox table %q: table: is configured twice", t.Name)
		}
		if err == nil {
			c.cloudEvent.nameSource(o.Source, t.Name)
		}
		d.tables[t.Name] = c
		errs = append(errs, err)
	}
	for _, m := range o.Messages {
		l, err := compileLogical(m, o.Source)
		if err == nil && d.messages[m.Prefix] != nil {
			err = fmt.Errorf("messages prefix %q: is configured twice", m.Prefix)
		}
		d.messages[m.Prefix] = l
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return d, nil
}

// Decode reads one message of pgoutput, protocol version 1 (Postgres documentation, "Logical Replication Message
// Formats"). For a Row, Lone and Ignored it overwrites *ev completely, and where it Skips a row; otherwise it leaves it alone.
// msg is only borrowed: nothing refers to it afterwards.
//
// The event's bytes, its ID and its header names included, lie in chunks of 64 KiB that it shares with its
// neighbours: who keeps a part of an event for longer than it takes to publish it should keep a copy.
func (d *Decoder) Decode(msg []byte, ev *Event) (Kind, error) {
	if len(msg) == 0 {
		return Skip, errors.New("decode message: it is empty")
	}
	c := cursor{msg: msg, at: 1}
	kind := Skip
	switch msg[0] {
	case 'I':
		kind = d.insert(&c, ev)
	case 'B':
		kind = Begin
		d.begin(&c)
	case 'C':
		kind = Commit
		d.commit(&c)
	case 'R':
		d.relation(&c)
	case 'Y': // Type
		c.uint32() // OID
		c.text()   // namespace
		c.text()   // name
	case 'O': // Origin
		c.uint64() // LSN of the commit there
		c.text()   // name
	case 'M':
		kind = d.message(&c, ev)
	case 'U':
		c.fail("%w", d.unwanted(c, "updates"))
	case 'D':
		c.fail("%w", d.unwanted(c, "deletes"))
	case 'T':
		c.fail("%w", d.unwanted(cursor{}, "truncates"))
	default:
		c.fail("this byte begins no message of pgoutput's protocol version 1")
	}
	if err := c.end(); err != nil {
		return Skip, fmt.Errorf("decode message %q: %w", msg[0], err)
	}
	return kind, nil
}

// Transaction returns what the last Begin, Commit or Lone said.
func (d *Decoder) Transaction() Transaction { return d.tx }

// Reset forgets the transaction in progress and the relations: a new replication session announces both anew.
func (d *Decoder) Reset() {
	d.tx, d.open, d.index = Transaction{}, false, 0
	clear(d.relations)
}

// begin reads a Begin: Int64 LSN of the commit record, Int64 commit time, Int32 transaction id.
func (d *Decoder) begin(c *cursor) {
	tx := Transaction{Commit: pglogrepl.LSN(c.uint64()), Time: timestamp(c.uint64()), XID: c.uint32()}
	if d.open {
		c.fail("transaction %d begins inside transaction %d", tx.XID, d.tx.XID)
	}
	if c.end() == nil {
		d.tx, d.open, d.index = tx, true, 0
	}
}

// commit reads a Commit: Int8 flags (unused), Int64 LSN of the commit record, Int64 its end, Int64 commit time.
func (d *Decoder) commit(c *cursor) {
	c.uint8()
	lsn, end := pglogrepl.LSN(c.uint64()), pglogrepl.LSN(c.uint64())
	c.uint64()
	switch {
	case c.end() != nil:
	case !d.open:
		c.fail("a commit at %s, and no transaction has begun", lsn)
	case lsn != d.tx.Commit:
		c.fail("a commit at %s ends transaction %d, which began with the commit LSN %s", lsn, d.tx.XID, d.tx.Commit)
	case end <= lsn:
		c.fail("the commit at %s of transaction %d ends at %s", lsn, d.tx.XID, end)
	default:
		d.tx.End, d.open = end, false
	}
}

// timestamp is the protocol's: microseconds since 2000-01-01.
func timestamp(micros uint64) time.Time {
	const epoch = 946684800 * 1000 * 1000
	return time.UnixMicro(epoch + int64(micros)).UTC()
}

// insert reads an Insert: Int32 relation OID, Byte1 'N', the tuple. It is a Row, unless that
// says itself that it is to be left out.
func (d *Decoder) insert(c *cursor, ev *Event) Kind {
	oid, tag := c.uint32(), c.uint8()
	if c.err != nil {
		return Skip
	}
	rel := d.relations[oid]
	switch {
	case !d.open:
		c.fail("an insert outside a transaction")
	case tag != 'N':
		c.fail("an insert without its new tuple: byte %q", tag)
	case rel == nil:
		c.fail("an insert into the relation with OID %d, which was not announced", oid)
	case rel.mapping == nil:
		c.fail("the publication contains table %[1]s, which is not under outbox in the configuration: "+
			"add it there, or ALTER PUBLICATION … DROP TABLE %[1]s "+
			"(for a partition of a configured table: SET (publish_via_partition_root = true))", rel.name)
	case d.index == math.MaxUint32:
		c.fail("transaction %d has more rows than a position can count", d.tx.XID)
	}
	if c.err != nil {
		return Skip
	}
	if d.tuple(c, rel); c.end() == nil {
		d.builder.event(rel.mapping, d.row, Position{Commit: d.tx.Commit, Index: d.index}, d.tx.Time, ev)
		d.index++
	}
	clear(d.row) // the message is only borrowed
	if ev.Ignored {
		return Skip
	}
	return Row
}

// tuple reads a TupleData into d.row: Int16 number of columns, and for each Byte1 kind, Int32 length, bytes.
func (d *Decoder) tuple(c *cursor, rel *relation) {
	columns := rel.mapping.columns
	if n := int(c.uint16()); c.err == nil && n != len(columns) {
		c.fail("a row of %d columns for table %s, which was announced with %d", n, rel.name, len(columns))
	}
	d.row = d.row[:0]
	for i := 0; i < len(columns) && c.err == nil; i++ {
		var v value
		switch kind := c.uint8(); kind {
		case 't':
			v.data = c.bytes(c.uint32())
		case 'n':
		case 'b':
			v.data, v.binary = c.bytes(c.uint32()), true
			if columns[i].Type != oidBytea {
				c.fail("column %q of table %s came in binary, which is read for bytea only", columns[i].Name, rel.name)
			}
		case 'u':
			c.fail("column %q of table %s came as an unchanged TOAST value, which no insert has", columns[i].Name, rel.name)
		default:
			c.fail("column %q of table %s has the unknown kind %q", columns[i].Name, rel.name, kind)
		}
		d.row = append(d.row, v)
	}
}

// unwanted is the error for what the publication of an outbox should not send. c stands at the relation's OID, if the
// message begins with one.
func (d *Decoder) unwanted(c cursor, what string) error {
	of := ""
	if rel := d.relations[c.uint32()]; rel != nil {
		of = " of table " + rel.name
	}
	return fmt.Errorf("the publication publishes %s%s, and an outbox is only inserted into: "+
		"ALTER PUBLICATION … SET (publish = 'insert')", what, of)
}
