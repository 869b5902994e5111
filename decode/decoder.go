// Package decode turns pgoutput messages into outbox events. It owns what a row means: which table, which columns,
// which topic, key, value and headers. It is pure: no I/O, no clock, no logging, no globals; the same bytes always
// make the same event, which is what lets a consumer recognise a replay.
package decode

import (
	"errors"
	"time"

	"github.com/jackc/pglogrepl"
)

// Table is one outbox table and how its columns become a record.
type Table struct {
	Name    string // schema.name, unquoted (e.g. public.outbox)
	Columns Columns
	Topic   string           // template, e.g. outbox.event.{aggregatetype}; "" = the text of Columns.Topic
	Key     string           // template; "" = the text of Columns.Key
	Headers []HeaderTemplate // further headers
	OnNull  OnNull
}

// Columns names the table's columns by what they mean; "" is not mapped.
type Columns struct {
	ID, Key, Type, Topic, Payload, Headers, Timestamp, Partition, TraceParent, TraceState string
}

// HeaderTemplate is one configured header.
type HeaderTemplate struct {
	Name  string
	Value string // template
}

// OnNull says what a null payload becomes.
type OnNull uint8

// Tombstone is a nil value, Empty a value of length 0, PoisonNull makes the event poison.
const (
	Tombstone OnNull = iota
	Empty
	PoisonNull
)

// Options configure a Decoder.
type Options struct {
	Tables []Table
	Source string // the text of the tidemark-source header
}

// Kind says what a message was.
type Kind uint8

// Skip is a message that carries no row and ends no transaction.
const (
	Skip Kind = iota
	Begin
	Row
	Commit
)

// Transaction is what Begin and Commit say about a transaction.
type Transaction struct {
	XID    uint32
	Commit pglogrepl.LSN // of the commit record
	End    pglogrepl.LSN // the end of the commit record; 0 until Commit
	Time   time.Time     // of the commit
}

// Column is a column of a query's result.
type Column struct {
	Name string
	Type uint32 // type OID
}

// Decoder turns the messages of one replication session into events. It is used by one goroutine.
type Decoder struct{ tx Transaction }

// Existing maps rows that were read by SQL as if they had been inserted.
type Existing struct{}

// Template is literal text and {column} placeholders.
type Template struct{ columns []string }

var errSkeleton = errors.New("decode: not written yet")

// New compiles the tables.
func New(o Options) (*Decoder, error) { return &Decoder{}, nil }

// Decode reads one pgoutput message.
func (d *Decoder) Decode(msg []byte, ev *Event) (Kind, error) { return Skip, errSkeleton }

// Transaction returns what the last Begin or Commit said.
func (d *Decoder) Transaction() Transaction { return d.tx }

// Reset forgets the transaction in progress and the relations.
func (d *Decoder) Reset() {}

// Existing maps rows of a query.
func (d *Decoder) Existing(table string, columns []Column) (*Existing, error) {
	return nil, errSkeleton
}

// Event fills *ev from one row.
func (x *Existing) Event(values [][]byte, pos Position, at time.Time, ev *Event) {}

// ParseTemplate parses a template.
func ParseTemplate(s string) (Template, error) { return Template{}, errSkeleton }

// Columns returns the columns that the template names.
func (t Template) Columns() []string { return t.columns }
