package decode

import (
	"strings"
	"testing"
)

// benchDecoder returns a decoder of the debezium preset and a row for it, some 300 B on the wire.
func benchDecoder(b *testing.B, f Format) (*Decoder, []byte) {
	b.Helper()
	d, err := New(Options{
		Tables: []Table{{
			Name: "public.outbox", Format: f,
			Columns: Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
			Topic:   "outbox.event.{aggregatetype}",
		}},
		Source: "7325476235476523874/app/tidemark",
	})
	if err != nil {
		b.Fatal(err)
	}
	columns := []Column{
		{"id", 2950}, {"aggregatetype", 25}, {"aggregateid", 25}, {"type", 25}, {"payload", 3802}, {"created_at", oidTimestamptz},
	}
	if _, err := d.Decode(relationMessage(1, "public", "outbox", columns...), nil); err != nil {
		b.Fatal(err)
	}
	row := insertMessage(1, "0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001", "order", "order-4711", "OrderCreated",
		`{"id": 4711, "text": "`+strings.Repeat("abcdefgh", 18)+`"}`, "2026-11-22 10:00:00.123456+00")
	return d, row
}

func BenchmarkDecodeInsert(b *testing.B) { benchmarkInsert(b, Plain) }

func BenchmarkDecodeCloudEvent(b *testing.B) { benchmarkInsert(b, CloudEvents) }

func BenchmarkDecodeStructuredCloudEvent(b *testing.B) { benchmarkInsert(b, CloudEventsStructured) }

func benchmarkInsert(b *testing.B, f Format) {
	b.Helper()
	d, row := benchDecoder(b, f)
	if _, err := d.Decode(beginMessage(0x1000, 1), nil); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(row)))
	b.ReportAllocs()
	var ev Event
	for b.Loop() {
		if kind, err := d.Decode(row, &ev); kind != Row || err != nil || ev.Poison != nil {
			b.Fatal(kind, err, ev.Poison)
		}
	}
}

// The reading of whole transactions, as a backlog of them comes: the unit of the measured budget.
func BenchmarkDecodeTransaction100(b *testing.B) {
	d, row := benchDecoder(b, Plain)
	begin, commit := beginMessage(0x1000, 1), commitMessage(0x1000, 0x1040)
	b.SetBytes(int64(len(begin) + 100*len(row) + len(commit)))
	b.ReportAllocs()
	events := make([]Event, 100)
	for b.Loop() {
		if _, err := d.Decode(begin, nil); err != nil {
			b.Fatal(err)
		}
		for i := range events {
			if _, err := d.Decode(row, &events[i]); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := d.Decode(commit, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// A message of Eventuate Tram, about as large as the row of the others.
func BenchmarkDecodeEventuate(b *testing.B) {
	d := newDecoder(b, eventuateTable())
	feed(b, d, relationMessage(1, "eventuate", "message", eventuateColumns()...), beginMessage(0x1000, 1))
	row := insertMessage(1, tramID, "Order", tramHeaders, `{"id": 4711, "text": "`+strings.Repeat("abcdefgh", 10)+`"}`, "0", null, "1790000000000")
	b.SetBytes(int64(len(row)))
	b.ReportAllocs()
	var ev Event
	for b.Loop() {
		if kind, err := d.Decode(row, &ev); kind != Row || err != nil || ev.Poison != nil {
			b.Fatal(kind, err, ev.Poison)
		}
	}
}
