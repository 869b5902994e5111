package decode

import (
	"fmt"
	"math"
	"time"
	"unsafe"
)

// builder makes events of rows. What a row is needed for is copied once, into slabs; a plain row allocates nothing
// else.
type builder struct {
	source []byte // of the tidemark-source header, shared by all events
	topics topics
	bytes  byteSlab
	slab   headerSlab

	scratch []byte     // the name of a topic, the text of an attribute
	draft   []byte     // a CloudEvent's JSON
	names   []string   // of a CloudEvent's attributes
	media   mediaTypes // that were seen
}

// maxScratch bounds what is kept between two rows, so that one monstrous row is not paid for ever after.
const maxScratch = 4096

func newBuilder(source string) builder {
	return builder{source: []byte(source), topics: topics{}, media: mediaTypes{}}
}

// event makes *ev the event of one row. row has a value for each of the mapping's columns. What every record is made of is
// read here; its headers, and what form the value has, are its format's.
func (b *builder) event(m *mapping, row []value, pos Position, at time.Time, ev *Event) {
	*ev = Event{Position: pos, CommitTime: at, Table: m.table.name, Partition: AnyPartition, Timestamp: at}
	var id []byte
	var err error
	if m.table.format == Eventuate {
		id = b.eventuate(m, row, ev)
		ev.Topic, err = b.topic(&m.topic, row)
		ev.poison("topic", err)
	} else {
		id = b.columns(m, row, ev)
	}
	ev.ID = alias(id)
	if m.partition >= 0 && row[m.partition].data != nil {
		ev.Partition, err = partition(row[m.partition].data)
		ev.poison("partition", err)
	}
	if m.timestamp >= 0 && row[m.timestamp].data != nil {
		read := recordTimestamp
		switch m.columns[m.timestamp].Type {
		case oidInt8:
			read = recordMillis
		case ofField:
			read = recordField
		}
		t, err := read(row[m.timestamp].data)
		if ev.poison("timestamp", err); err == nil {
			ev.Timestamp = t
		}
	}

	switch m.table.format {
	case Plain, Eventuate:
		b.plain(m, row, id, ev)
	case CloudEvents:
		b.binary(m, row, ev)
	case CloudEventsStructured:
		b.structured(m, row, ev)
	}
}

// payload makes the payload the event's value.
func (b *builder) payload(m *mapping, row []value, ev *Event) {
	var err error
	ev.Value, err = b.fill(&m.payload, row)
	ev.poison("payload", err)
	if ev.Value != nil {
		return
	}
	switch m.table.onNull {
	case Tombstone:
	case Empty:
		ev.Value = []byte{}
	case PoisonNull:
		ev.poison("payload", fmt.Errorf("column %q is null, and on_null is poison", m.table.columns.Payload))
	}
}

// columns reads topic, key and value from their columns, and returns the id.
func (b *builder) columns(m *mapping, row []value, ev *Event) (id []byte) {
	id, _ = b.fill(&m.id, row) // text has no malformed form
	if len(id) == 0 {
		ev.poison("id", fmt.Errorf("column %q is null or empty", m.table.columns.ID))
	}
	var err error
	ev.Topic, err = b.topic(&m.topic, row)
	ev.poison("topic", err)
	ev.Key, err = b.fill(&m.key, row)
	ev.poison("key", err)
	if m.table.format != CloudEventsStructured { // which has the payload inside its value
		b.payload(m, row, ev)
	}
	return id
}

// fill returns the text of f in the event's memory; nil if it is null, and only then.
func (b *builder) fill(f *filler, row []value) ([]byte, error) {
	if f.null(row) {
		return nil, nil
	}
	if f.bare {
		return b.copy(row[f.only].data), nil
	}
	return f.append(b.bytes.piece(f.size(row)), row)
}

// copy copies p into the event's memory; it is never nil.
func (b *builder) copy(p []byte) []byte { return append(b.bytes.piece(len(p)), p...) }

// topic returns the name that f makes of the row. It fails on a null in it and on what Kafka would refuse; that it
// returns all the same, cut to a topic's length, for whoever has to mend it.
func (b *builder) topic(f *filler, row []value) (string, error) {
	for i := range f.parts {
		if p := &f.parts[i]; p.form != asLiteral && row[p.column].data == nil {
			return "", fmt.Errorf("column %q is null", p.text)
		}
	}
	name, err := f.append(b.scratch[:0], row)
	if b.scratch = name; cap(name) > maxScratch {
		b.scratch = nil
	}
	if err != nil {
		return "", err
	}
	topic, err := b.topics.intern(name)
	if err != nil {
		return string(name[:min(len(name), maxTopicLen)]), err
	}
	return topic, nil
}

// partition reads a partition's number.
func partition(text []byte) (int32, error) {
	d := digits{ok: len(text) > 0 && len(text) <= len("2147483647")}
	var n int64
	if d.ok {
		n = d.int64(text)
	}
	if !d.ok || n > math.MaxInt32 {
		return AnyPartition, fmt.Errorf("%.40q is no number from 0 to %d", text, math.MaxInt32)
	}
	return int32(n), nil
}

// alias is a string that shares the memory of b. Nobody writes to an event's memory, so it never changes.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
