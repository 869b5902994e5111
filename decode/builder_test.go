package decode

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// rowOf decodes one row of plainTable as changed, with the columns of plainColumns and more.
func rowOf(tb testing.TB, change func(*Table), more []Column, values ...string) Event {
	tb.Helper()
	table := plainTable()
	if change != nil {
		change(&table)
	}
	events := feed(tb, newDecoder(tb, table),
		relationMessage(1, "public", "outbox", append(plainColumns(), more...)...),
		beginMessage(0x20, 7), insertMessage(1, values...))
	return events[0]
}

// headerText lists headers as name=text, a null value as name alone.
func headerText(headers []Header) []string {
	var out []string
	for _, h := range headers {
		if h.Value == nil {
			out = append(out, h.Key)
		} else {
			out = append(out, h.Key+"="+string(h.Value))
		}
	}
	return out
}

func wantHeaders(tb testing.TB, ev *Event, want ...string) {
	tb.Helper()
	if got := headerText(ev.Headers); !slices.Equal(got, want) {
		tb.Errorf("headers\n%q\nwant\n%q", got, want)
	}
}

func TestARowBecomesARecord(t *testing.T) {
	t.Parallel()
	ev := rowOf(t, nil, nil, "id-1", "orders", "key-1", `{"a": 1}`)
	want := Event{
		Position: Position{Commit: 0x20}, CommitTime: commitTime(), Table: "public.outbox", ID: "id-1", Topic: "orders",
		Key: []byte("key-1"), Value: []byte(`{"a": 1}`), Partition: AnyPartition, Timestamp: commitTime(),
		Headers: []Header{
			{"id", []byte("id-1")},
			{"tidemark-position", []byte("0000000000000020-00000000")},
			{"tidemark-source", []byte("system/database/slot")},
		},
	}
	if got, want := renderEvent(&ev), renderEvent(&want); got != want || !ev.CommitTime.Equal(commitTime()) {
		t.Errorf("the event is\n%swant\n%s", got, want)
	}
}

func TestHeadersComeInTheirOrder(t *testing.T) {
	t.Parallel()
	more := []Column{{"type", 25}, {"tp", 25}, {"ts", 25}, {"headers", 3802}, {"at", oidTimestamptz}, {"yes", oidBool}}
	change := func(t *Table) {
		t.Columns.Type, t.Columns.TraceParent, t.Columns.TraceState, t.Columns.Headers = "type", "tp", "ts", "headers"
		t.Headers = []HeaderTemplate{{"at", "{at}"}, {"fixed", "v"}, {"none", ""}, {"both", "{key}/{type}"}, {"yes", "{yes}"}}
	}
	const position, source = "tidemark-position=0000000000000020-00000000", "tidemark-source=system/database/slot"
	ev := rowOf(t, change, more, "i", "t", "k", "v", "made", "00-a", "x=y", `{"b": "B", "a": null}`, "2026-11-22 10:00:00+00", "t")
	wantHeaders(t, &ev, "id=i", "eventType=made", position, source,
		"at=2026-11-22T10:00:00.000000Z", "fixed=v", "none=", "both=k/made", "yes=true", "traceparent=00-a", "tracestate=x=y", "b=B", "a")

	// Null: the type and a template of one column are null values, one of several columns has an empty text, and the
	// mapped trace columns are no headers.
	ev = rowOf(t, change, more, "i", "t", "k", "v", null, null, null, null, null, null)
	wantHeaders(t, &ev, "id=i", "eventType", position, source, "at", "fixed=v", "none=", "both=k/", "yes")

	// Empty is not null.
	ev = rowOf(t, change, more, "i", "t", "k", "v", "", "", "", "", null, "f")
	wantHeaders(t, &ev, "id=i", "eventType=", position, source, "at", "fixed=v", "none=", "both=k/", "yes=false", "traceparent=", "tracestate=")
}

func TestKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, template, column, key string
		want                        []byte
	}{
		{"the column", "", "key", "k", []byte("k")},
		{"the column, null", "", "key", null, nil},
		{"the column, empty", "", "key", "", []byte{}},
		{"nothing mapped", "", "", "k", nil},
		{"a template", "{key}-{id}", "key", "k", []byte("k-i")},
		{"a template of one column, null", "{key}", "", null, nil},
		{"a template of one column and text, null", "x-{key}-{key}", "", null, nil},
		{"a template of two columns, one null", "{id}-{key}", "", null, []byte("i-")},
		{"a template without columns", "all", "", null, []byte("all")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ev := rowOf(t, func(t *Table) { t.Key, t.Columns.Key = test.template, test.column }, nil, "i", "t", test.key, "v")
			if ev.Poison != nil || string(ev.Key) != string(test.want) || (ev.Key == nil) != (test.want == nil) {
				t.Errorf("key %q (nil: %t), poison %v; want %q", ev.Key, ev.Key == nil, ev.Poison, test.want)
			}
		})
	}
}

func TestNullPayload(t *testing.T) {
	t.Parallel()
	row := func(o OnNull, payload string) Event {
		return rowOf(t, func(t *Table) { t.OnNull = o }, nil, "i", "t", "k", payload)
	}
	if ev := row(Tombstone, null); ev.Value != nil || ev.Poison != nil {
		t.Errorf("tombstone: value %q, poison %v", ev.Value, ev.Poison)
	}
	if ev := row(Empty, null); ev.Value == nil || len(ev.Value) != 0 || ev.Poison != nil {
		t.Errorf("empty: value %q (nil: %t), poison %v", ev.Value, ev.Value == nil, ev.Poison)
	}
	ev := row(PoisonNull, null)
	wantError(t, ev.Poison, "payload", `"payload" is null`)
	for _, o := range []OnNull{Tombstone, Empty, PoisonNull} {
		if ev := row(o, ""); ev.Value == nil || len(ev.Value) != 0 || ev.Poison != nil {
			t.Errorf("an empty text with on_null %d: value %q (nil: %t), poison %v", o, ev.Value, ev.Value == nil, ev.Poison)
		}
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{null, ""} {
		ev := rowOf(t, nil, nil, id, "t", "k", "v")
		wantError(t, ev.Poison, "id", `"id" is null or empty`)
		if ev.ID != "" || ev.Topic != "t" || string(ev.Value) != "v" {
			t.Errorf("the event is %s", renderEvent(&ev))
		}
	}
	// A bytea is still identified by a text.
	ev := rowOf(t, func(t *Table) { t.Columns.ID = "b" }, []Column{{"b", oidBytea}}, "i", "t", "k", "v", `\x00ff`)
	if ev.ID != `\x00ff` || string(ev.Headers[0].Value) != `\x00ff` {
		t.Errorf("id %q, header %q", ev.ID, ev.Headers[0].Value)
	}
}

func TestBytea(t *testing.T) {
	t.Parallel()
	more := []Column{{"b", oidBytea}}
	change := func(t *Table) {
		t.Columns.Payload, t.Columns.Key, t.Columns.Type = "b", "b", "b"
		t.Headers = []HeaderTemplate{{"h", "<{b}>"}}
	}
	check := func(t *testing.T, ev Event, want string) {
		t.Helper()
		if ev.Poison != nil || string(ev.Value) != want || string(ev.Key) != want ||
			string(ev.Headers[1].Value) != want || string(ev.Headers[4].Value) != "<"+want+">" {
			t.Errorf("the event is %s", renderEvent(&ev))
		}
	}
	check(t, rowOf(t, change, more, "i", "t", "k", "v", `\x00ff10ABcd`), "\x00\xff\x10\xab\xcd")
	ev := rowOf(t, change, more, "i", "t", "k", "v", `\x`)
	if check(t, ev, ""); ev.Value == nil || ev.Key == nil {
		t.Error("an empty bytea became null")
	}
	if ev := rowOf(t, change, more, "i", "t", "k", "v", null); ev.Value != nil || ev.Key != nil || ev.Poison != nil {
		t.Errorf("the event is %s", renderEvent(&ev))
	}
	big := strings.Repeat("\x00\xff", 100_000)
	check(t, rowOf(t, change, more, "i", "t", "k", "v", fmt.Sprintf(`\x%x`, big)), big)

	ev = rowOf(t, func(t *Table) { t.Topic = "x.{b}" }, more, "i", "t", "k", "v", `\x6162`)
	if ev.Topic != "x.ab" || ev.Poison != nil {
		t.Errorf("topic %q, poison %v", ev.Topic, ev.Poison)
	}
	ev = rowOf(t, func(t *Table) { t.Topic = "x.{b}" }, more, "i", "t", "k", "v", "ab")
	wantError(t, ev.Poison, "topic", `"b"`, "hex")

	for _, text := range []string{"", `\`, `\x0`, `\x0g`, `\\000`, "text", "x00"} {
		ev := rowOf(t, change, more, "i", "t", "k", "v", text)
		wantError(t, ev.Poison, `"b"`, "hex")
		if string(ev.Value) != text {
			t.Errorf("of %q the value is %q: what could not be read is kept as it came", text, ev.Value)
		}
	}

	t.Run("in binary", func(t *testing.T) {
		t.Parallel()
		table := plainTable()
		change(&table)
		table.Columns.ID = "b"
		msg := insertMessage(1, "i", "t", "k", "v")
		msg[7]++ // one column more
		msg = binary.BigEndian.AppendUint32(append(msg, 'b'), 3)
		msg = append(msg, 0, 0xff, 0x10)
		events := feed(t, newDecoder(t, table), relationMessage(1, "public", "outbox", append(plainColumns(), more...)...),
			beginMessage(0x20, 7), msg)
		check(t, events[0], "\x00\xff\x10")
		if events[0].ID != `\x00ff10` {
			t.Errorf("id %q", events[0].ID)
		}
	})
}

func TestPartition(t *testing.T) {
	t.Parallel()
	tests := map[string]int32{null: AnyPartition, "0": 0, "7": 7, "2147483647": 2147483647}
	row := func(text string) Event {
		return rowOf(t, func(t *Table) { t.Columns.Partition = "p" }, []Column{{"p", 23}}, "i", "t", "k", "v", text)
	}
	for text, want := range tests {
		if ev := row(text); ev.Partition != want || ev.Poison != nil {
			t.Errorf("%q: partition %d, poison %v; want %d", text, ev.Partition, ev.Poison, want)
		}
	}
	for _, text := range []string{"", "-1", "+1", " 1", "1.0", "2147483648", "4294967296", "99999999999999999999", "x"} {
		ev := row(text)
		wantError(t, ev.Poison, "partition", fmt.Sprintf("%q", text))
		if ev.Partition != AnyPartition {
			t.Errorf("%q: partition %d", text, ev.Partition)
		}
	}
}
