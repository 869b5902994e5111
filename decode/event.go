package decode

import (
	"fmt"
	"time"
)

// Event is one outbox row on its way to Kafka: where it stands in the log, and the record that it becomes.
//
// The slices are the event's own memory (slabs shared with its neighbours, never the read buffer), so an event may
// outlive the message that it was decoded from. Nobody writes to them.
type Event struct {
	Position   Position
	CommitTime time.Time // when the source committed the transaction; zero for a Lone one, of which the log does not say

	Table string // the outbox table, schema.name, as configured; message:PREFIX of a logical message
	ID    string // the row's id as text, as the id header carries it

	Topic     string
	Key       []byte // nil is a null key
	Value     []byte // nil is a null value (a tombstone)
	Headers   []Header
	Partition int32     // AnyPartition: by the key
	Timestamp time.Time // the record's: the mapped column, else CommitTime

	// Ignored reports that the row says of itself that nobody is to publish it (columnPublished). All else is as of other rows.
	Ignored bool

	// Poison says why this row cannot become a record (no topic, headers that are no JSON object, …); nil for a good
	// row. Position, Table and, as far as they could be read, the other fields are set all the same.
	Poison error
}

// poison notes why the row cannot become a record, if err says so. The first reason stays.
func (e *Event) poison(what string, err error) {
	if err != nil { // nothing more here: this much is inlined, and a good row asks often
		e.spoil(what, err)
	}
}

func (e *Event) spoil(what string, err error) {
	if e.Poison == nil {
		e.Poison = fmt.Errorf("%s: %w", what, err)
	}
}

// AnyPartition leaves the choice of the partition to the key.
const AnyPartition int32 = -1

// Header is a Kafka record header. A nil Value is a null header value, which is not an empty one.
type Header struct {
	Key   string
	Value []byte
}

// Bytes returns how many bytes of memory the event holds until it is acknowledged, its own bookkeeping included. The
// back-pressure counts in these units.
func (e *Event) Bytes() int {
	const perEvent, perHeader = 512, 80 // Event with its kgo.Record, decode.Header with its kgo.RecordHeader
	n := perEvent + len(e.ID) + len(e.Key) + len(e.Value) + perHeader*len(e.Headers)
	for i := range e.Headers {
		n += len(e.Headers[i].Value)
	}
	return n
}
