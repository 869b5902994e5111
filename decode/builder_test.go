package decode

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
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
	more := []Column{{"type", 25}, {"tp", 25}, {"ts", 25}, {"headers", 3802}, {"at", oidTimestamptz}}
	change := func(t *Table) {
		t.Columns.Type, t.Columns.TraceParent, t.Columns.TraceState, t.Columns.Headers = "type", "tp", "ts", "headers"
		t.Headers = []HeaderTemplate{{"at", "{at}"}, {"fixed", "v"}, {"none", ""}, {"both", "{key}/{type}"}}
	}
	const position, source = "tidemark-position=0000000000000020-00000000", "tidemark-source=system/database/slot"
	ev := rowOf(t, change, more, "i", "t", "k", "v", "made", "00-a", "x=y", `{"b": "B", "a": null}`, "2026-11-22 10:00:00+00")
	wantHeaders(t, &ev, "id=i", "eventType=made", position, source,
		"at=2026-11-22T10:00:00.000000Z", "fixed=v", "none=", "both=k/made", "traceparent=00-a", "tracestate=x=y", "b=B", "a")

	// Null: the type and a template of one column are null values, one of several columns has an empty text, and the
	// mapped trace columns are no headers.
	ev = rowOf(t, change, more, "i", "t", "k", "v", null, null, null, null, null)
	wantHeaders(t, &ev, "id=i", "eventType", position, source, "at", "fixed=v", "none=", "both=k/")

	// Empty is not null.
	ev = rowOf(t, change, more, "i", "t", "k", "v", "", "", "", "", null)
	wantHeaders(t, &ev, "id=i", "eventType=", position, source, "at", "fixed=v", "none=", "both=k/", "traceparent=", "tracestate=")
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

func TestTopic(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxTopicLen)
	tests := []struct {
		name, template, value string
		want                  string // "": poison
		poison                []string
	}{
		{"the column", "", "orders", "orders", nil},
		{"a template", "outbox.event.{topic}", "order", "outbox.event.order", nil},
		{"the text as it is", "{topic}", "Order_1-x.Y", "Order_1-x.Y", nil},
		{"literal braces are no topic", "{{{topic}}}", "a", "", []string{`"{a}"`}},
		{"a fixed topic", "all", null, "all", nil},
		{"null", "", null, "", []string{"topic", `"topic" is null`}},
		{"null in a template", "{id}.{topic}", null, "", []string{`"topic" is null`}},
		{"empty", "", "", "", []string{"topic", "empty"}},
		{"empty in a template", "outbox.{topic}", "", "outbox.", nil},
		{"dot", "", ".", "", []string{`"."`}},
		{"dots", "{topic}.", ".", "", []string{`".."`}},
		{"three dots", "", "...", "...", nil},
		{"longest", "", long, long, nil},
		{"too long", "", long + "x", "", []string{"250 bytes", "249"}},
		{"space", "", "my topic", "", []string{`"my topic"`}},
		{"slash", "", "a/b", "", []string{`"a/b"`}},
		{"umlaut", "", "größe", "", []string{`"größe"`}},
		{"zero byte", "", "a\x00b", "", []string{`"a\x00b"`}},
		{"monstrous", "", strings.Repeat("€", 1<<20), "", []string{"3145728 bytes"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ev := rowOf(t, func(t *Table) { t.Topic = test.template }, nil, "i", test.value, "k", "v")
			if len(ev.Topic) > maxTopicLen {
				t.Errorf("topic of %d bytes", len(ev.Topic))
			}
			if test.want != "" {
				if ev.Topic != test.want {
					t.Errorf("topic %q, want %q", ev.Topic, test.want)
				}
				if ev.Poison != nil {
					t.Errorf("poison: %v", ev.Poison)
				}
				return
			}
			wantError(t, ev.Poison, test.poison...)
			if n := len(ev.Poison.Error()); n > 2000 {
				t.Errorf("the reason has %d bytes", n)
			}
			// The rest is there all the same.
			if ev.ID != "i" || string(ev.Key) != "k" || string(ev.Value) != "v" || len(ev.Headers) != 3 {
				t.Errorf("the event is %s", renderEvent(&ev))
			}
		})
	}
}

func TestTopicsAreInternedWithinABound(t *testing.T) {
	t.Parallel()
	names := topics{}
	for i := range 2*maxTopics + 10 {
		want := fmt.Sprintf("t-%d", i)
		if got, err := names.intern([]byte(want)); err != nil || got != want {
			t.Fatalf("%q: %q, %v", want, got, err)
		}
		if len(names) > maxTopics {
			t.Fatalf("%d names are kept", len(names))
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

func TestTimestamp(t *testing.T) {
	t.Parallel()
	row := func(typ uint32, text string) Event {
		return rowOf(t, func(t *Table) { t.Columns.Timestamp = "ts" }, []Column{{"ts", typ}}, "i", "t", "k", "v", text)
	}
	good := []struct {
		typ        uint32
		text, want string
	}{
		{oidTimestamptz, null, "2026-11-22T10:00:00.123456Z"}, // the commit
		{oidTimestamptz, "2026-11-22 10:00:00+00", "2026-11-22T10:00:00Z"},
		{oidTimestamptz, "2026-11-22 10:00:00.123456+00", "2026-11-22T10:00:00.123456Z"},
		{oidTimestamptz, "2026-11-22 10:00:00.5+00", "2026-11-22T10:00:00.5Z"},
		{oidTimestamptz, "2026-11-22 10:00:00+05:30", "2026-11-22T04:30:00Z"},
		{oidTimestamptz, "2026-11-22 20:00:00-08", "2026-11-23T04:00:00Z"},
		{oidTimestamptz, "1970-01-01 00:00:00+00", "1970-01-01T00:00:00Z"},
		{oidTimestamptz, "9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999999Z"},
		{oidTimestamp, "2024-02-29 23:59:59.000001", "2024-02-29T23:59:59.000001Z"},
		{oidInt8, "0", "1970-01-01T00:00:00Z"},
		{oidInt8, "1795341600123", "2026-11-22T10:00:00.123Z"},
		{oidInt8, "253402300799999", "9999-12-31T23:59:59.999Z"},
	}
	for _, test := range good {
		ev := row(test.typ, test.text)
		if got := ev.Timestamp.Format(time.RFC3339Nano); got != test.want || ev.Poison != nil {
			t.Errorf("%q: %s, poison %v; want %s", test.text, got, ev.Poison, test.want)
		}
		if !ev.CommitTime.Equal(commitTime()) {
			t.Errorf("%q: commit time %v", test.text, ev.CommitTime)
		}
	}
	bad := map[uint32][]string{
		oidTimestamptz: {
			"infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "10000-01-01 00:00:00+00", "294276-12-31 23:59:59.999999+00",
			"1969-12-31 23:59:59.999999+00", "9999-12-31 23:59:59-01", "", "2026-11-22", "2026-11-22T10:00:00Z",
			"2026-13-22 10:00:00+00", "2026-02-29 10:00:00+00", "2026-11-22 24:00:00+00", "2026-11-22 10:60:00+00",
			"2026-11-22 10:00:60+00", "2026-11-22 10:00:00.+00", "2026-11-22 10:00:00.1234567+00", "2026-11-22 10:00:00+0",
			"2026-11-22 10:00:00+00:", "2026-11-22 10:00:00+00:00:00:00", "2026-11-22 10:00:00+00x", "2026-11-22 1x:00:00+00",
			"2026-11-22 10:00:00 BC", "2026-00-22 10:00:00", "0000-01-01 00:00:00", "Sun Nov 22 10:00:00 2026 UTC",
		},
		oidInt8: {"", "-1", "253402300800000", "9223372036854775807", "1e3", "1795341600.123"},
	}
	for typ, texts := range bad {
		for _, text := range texts {
			ev := row(typ, text)
			wantError(t, ev.Poison, "timestamp", fmt.Sprintf("%.40q", text))
			if !ev.Timestamp.Equal(commitTime()) {
				t.Errorf("%q: timestamp %v", text, ev.Timestamp)
			}
		}
	}
}

func TestTimestamptzHeader(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"2026-11-22 10:00:00.123456+00": "2026-11-22T10:00:00.123456Z",
		"2026-11-22 10:00:00.1+00":      "2026-11-22T10:00:00.100000Z",
		"2026-11-22 10:00:00+00":        "2026-11-22T10:00:00.000000Z",
		"1066-10-14 09:00:00-00:01:15":  "1066-10-14T09:01:15.000000Z",
		// What RFC 3339 cannot say stays as Postgres says it.
		"infinity":                     "infinity",
		"0044-03-15 12:00:00+00 BC":    "0044-03-15 12:00:00+00 BC",
		"12026-11-22 10:00:00+00":      "12026-11-22 10:00:00+00",
		"9999-12-31 23:59:59.9-000000": "9999-12-31 23:59:59.9-000000",
	}
	for text, want := range tests {
		change := func(t *Table) { t.Headers, t.Key = []HeaderTemplate{{"at", "{at}"}}, "{at}" }
		ev := rowOf(t, change, []Column{{"at", oidTimestamptz}}, "i", "t", "k", "v", text)
		if got := string(ev.Headers[3].Value); got != want || ev.Poison != nil {
			t.Errorf("%q: header %q, poison %v; want %q", text, got, ev.Poison, want)
		}
		if string(ev.Key) != text {
			t.Errorf("%q: the key is %q: only headers have another form", text, ev.Key)
		}
	}
	// A timestamp has no zone to write.
	ev := rowOf(t, func(t *Table) { t.Headers = []HeaderTemplate{{"at", "{at}"}} }, []Column{{"at", oidTimestamp}},
		"i", "t", "k", "v", "2026-11-22 10:00:00")
	if got := string(ev.Headers[3].Value); got != "2026-11-22 10:00:00" {
		t.Errorf("a timestamp as a header: %q", got)
	}
}

func TestExistingRowsBecomeTheEventsOfInsertedOnes(t *testing.T) {
	t.Parallel()
	options := goldenOptions()
	d, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	columns := []Column{
		{"Id", oidInt8}, {"topic", 25}, {"key", oidBytea}, {"kind", 99999}, {"payload", oidBytea}, {"part", 23}, {"at_ms", oidInt8},
	}
	rows := [][]string{
		{"1", "sales", `\x00ff`, "sold", `\xdead`, "3", "1795341600123"},
		{"2", "sales", null, null, null, null, null},
		{null, "", `\xz`, "", "", "x", "x"},
	}
	feed(t, d, relationMessage(1, "Sales", "Outbox", columns...), beginMessage(0x20, 7))
	x, err := d.Existing("Sales.Outbox", columns)
	if err != nil {
		t.Fatal(err)
	}
	clear(columns) // the mapping has its own
	for i, row := range rows {
		inserted := feed(t, d, insertMessage(1, row...))[0]
		values := make([][]byte, len(row))
		for j, v := range row {
			if v != null {
				values[j] = []byte(v)
			}
		}
		var existing Event
		x.Event(values, inserted.Position, commitTime(), &existing)
		for _, v := range values {
			for j := range v {
				v[j] = '!'
			}
		}
		if got, want := renderEvent(&existing), renderEvent(&inserted); got != want {
			t.Errorf("row %d: read by SQL it is\n%sinserted\n%s", i, got, want)
		}
	}

	var ev Event
	x.Event(make([][]byte, 3), Position{}, commitTime(), &ev)
	wantError(t, ev.Poison, "3 columns", "7")
	_, err = d.Existing("public.nowhere", columns)
	wantError(t, err, "public.nowhere", "not under outbox")
}

func TestAPlainRowAllocatesNothingOfItsOwn(t *testing.T) { //nolint:paralleltest // counts all allocations
	d := newDecoder(t, plainTable())
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7))
	msg := insertMessage(1, "id", "topic", "key", strings.Repeat("payload ", 30))
	var ev Event
	const rows = 10_000
	n := testing.AllocsPerRun(1, func() {
		for range rows {
			_, _ = d.Decode(msg, &ev)
		}
	})
	if n > rows/50 {
		t.Errorf("%v allocations for %d rows", n, rows)
	}
}

func TestNothingLargeIsKeptBetweenRows(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	large := strings.Repeat("x", 1<<20)
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7),
		insertMessage(1, "i", large, "k", large))
	for i, v := range d.row[:cap(d.row)] {
		if v.data != nil {
			t.Errorf("column %d still refers to the message", i)
		}
	}
	if n := cap(d.builder.scratch); n > maxScratch {
		t.Errorf("%d bytes of a topic's name are kept", n)
	}
}

func TestALargeValueDoesNotWasteAChunk(t *testing.T) {
	t.Parallel()
	var s byteSlab
	small := append(s.piece(3), "abc"...)
	left := len(s.free)
	large := s.piece(ownBytes + 1)
	if len(s.free) != left || cap(large) != ownBytes+1 || cap(small) != 3 {
		t.Errorf("%d bytes are left of %d; capacities %d, %d", len(s.free), left, cap(large), cap(small))
	}
	if (&byteSlab{}).piece(0) == nil || s.piece(0) == nil {
		t.Error("a piece of no bytes is nil, which would make a null of an empty text")
	}
}

func TestMoreHeadersThanAChunkHolds(t *testing.T) {
	t.Parallel()
	var s headerSlab
	var rows [][]Header
	for row := range 40 {
		h := s.open(4)
		count := row * row
		if row == 30 {
			count = len(s.free) // exactly what is left
		}
		for i := range count {
			h = append(h, Header{Key: fmt.Sprintf("%d-%d", row, i)})
		}
		rows = append(rows, s.close(h))
	}
	for row, headers := range rows {
		if len(headers) != row*row && row != 30 {
			t.Fatalf("row %d has %d headers", row, len(headers))
		}
		for i, h := range headers {
			if h.Key != fmt.Sprintf("%d-%d", row, i) {
				t.Fatalf("header %d of row %d is %q", i, row, h.Key)
			}
		}
	}
}
