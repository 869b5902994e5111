package decode

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// emitted is a small layout of messages.
func emitted() LogicalMessage {
	return LogicalMessage{Prefix: "app", Table: Table{
		Columns: Columns{ID: "id", Topic: "topic", Key: "key", Type: "type", Payload: "payload", Headers: "headers", Timestamp: "at", Partition: "part"},
		Headers: []HeaderTemplate{{"tenant", "{tenant}/{region}"}},
	}}
}

func messageDecoder(tb testing.TB, from pglogrepl.LSN, change func(*LogicalMessage)) *Decoder {
	tb.Helper()
	m := emitted()
	if change != nil {
		change(&m)
	}
	d, err := New(Options{Tables: []Table{plainTable()}, Messages: []LogicalMessage{m}, MessagesFrom: from, Source: "system/database/slot"})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// eventOf decodes a message in a transaction of its own.
func eventOf(tb testing.TB, content string) Event {
	tb.Helper()
	events := feed(tb, messageDecoder(tb, 1, nil), beginMessage(0x2000, 7), logicalMessage(1, 0x1ff8, "app", content))
	if len(events) != 1 {
		tb.Fatalf("%d events", len(events))
	}
	return events[0]
}

func TestAMessageBecomesARecord(t *testing.T) {
	t.Parallel()
	ev := eventOf(t, ` {"id": "a\u0062", "topic":"orders", "key": 12.50, "type": null, "payload" : {"b" : [1,  "}", {"\"": null}]} ,
		"headers": {"x": "1", "tidemark-transactional": "false"}, "at": "2026-11-22T11:00:00.5+01:00", "part": 3, "tenant": "t", "more": {"id": "not this"}} `)
	if ev.Poison != nil {
		t.Fatal(ev.Poison)
	}
	if ev.Table != "message:app" || ev.HasRow() || ev.ID != "ab" || ev.Topic != "orders" || string(ev.Key) != "12.50" || ev.Partition != 3 {
		t.Errorf("the event is %s", renderEvent(&ev))
	}
	if got, want := string(ev.Value), `{"b" : [1,  "}", {"\"": null}]}`; got != want {
		t.Errorf("the value is %s, want %s", got, want)
	}
	if want := time.Date(2026, 11, 22, 10, 0, 0, 5e8, time.UTC); !ev.Timestamp.Equal(want) || ev.CommitTime != commitTime() {
		t.Errorf("the times are %s, %s", ev.Timestamp, ev.CommitTime)
	}
	wantHeaders(t, &ev, "id=ab", "eventType", "tidemark-position=0000000000002000-00000000", "tidemark-source=system/database/slot", "tenant=t/", "x=1")
}

func TestThePayloadOfAMessage(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		`"text \" \ud83d\udd11"`: `text " 🔑`, `""`: "", `null`: "null", `7`: "7", `-1.50e3`: "-1.50e3", `true`: "true",
		`[1 , 2]`: "[1 , 2]", `{}`: "{}", `1, "payload": 2`: "2", `1, "payload": null`: "null", `"a", "payl\u006fad": "b"`: "b",
	} {
		ev := eventOf(t, `{"topic": "t", "payload": `+content+`}`)
		got := string(ev.Value)
		if ev.Value == nil {
			got = "null"
		}
		if ev.Poison != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", content, got, ev.Poison, want)
		}
	}
	if ev := eventOf(t, `{"topic": "t"}`); ev.Value != nil || ev.Poison != nil {
		t.Errorf("without a payload: %s", renderEvent(&ev))
	}
}

func TestAMessageWithoutAnIDHasItsPosition(t *testing.T) {
	t.Parallel()
	for _, id := range []string{``, `"id": null,`} {
		ev := eventOf(t, `{`+id+`"topic": "t"}`)
		if ev.Poison != nil || ev.ID != ev.Position.String() || string(ev.Headers[0].Value) != ev.ID {
			t.Errorf("%s: %s", id, renderEvent(&ev))
		}
	}
	if ev := eventOf(t, `{"id": "", "topic": "t"}`); ev.Poison == nil {
		t.Error("an empty id is none")
	}
}

func TestAMessageThatIsPoisonIsKeptWhole(t *testing.T) {
	t.Parallel()
	for content, why := range map[string]string{
		``: "no valid JSON", `plain text`: "no valid JSON", `{"topic": "t"} {}`: "no valid JSON", `[1]`: "not an object", `null`: "not an object", `"x"`: "not an object",
	} {
		ev := eventOf(t, content)
		wantError(t, ev.Poison, why)
		if string(ev.Value) != content || ev.ID != ev.Position.String() {
			t.Errorf("%q: %s", content, renderEvent(&ev))
		}
	}
	for content, why := range map[string]string{
		`{"payload": 1}`: `column "topic" is null`, `{"topic": "a b"}`: "no topic name", `{"topic": "t", "part": -1}`: "partition",
		`{"topic": "t", "at": "soon"}`: "timestamp", `{"topic": "t", "at": "1969-12-31T23:59:59Z"}`: "timestamp", `{"topic": "t", "headers": [1]}`: "not an object",
	} {
		ev := eventOf(t, content)
		wantError(t, ev.Poison, why)
	}
}

func TestTimestampsOfMessages(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 11, 22, 10, 0, 0, 123e6, time.UTC)
	for _, at := range []string{`1795341600123`, `"1795341600123"`, `"2026-11-22T10:00:00.123Z"`, `"2026-11-22T10:00:00.123+00:00"`, `"2026-11-22 11:00:00.123+01"`} {
		if ev := eventOf(t, `{"topic": "t", "at": `+at+`}`); ev.Poison != nil || !ev.Timestamp.Equal(want) {
			t.Errorf("%s: %s, %v", at, ev.Timestamp, ev.Poison)
		}
	}
}

// What is configured must not move anybody's position, or what is in Kafka under a position would be taken for another.
func TestEveryMessageOfATransactionTakesAnIndex(t *testing.T) {
	t.Parallel()
	session := [][]byte{
		relationMessage(1, "public", "outbox", plainColumns()...),
		beginMessage(0x2000, 7), logicalMessage(1, 0x10, "app", `{"topic": "t"}`), insertMessage(1, "1", "t", "k", "p"),
		logicalMessage(1, 0x20, "another", "x"), logicalMessage(1, 0x28, "app", `{"topic": "t"}`), insertMessage(1, "2", "t", "k", "p"), commitMessage(0x2000, 0x2008),
	}
	for name, c := range map[string]struct {
		from   pglogrepl.LSN
		prefix string
		want   []string
	}{
		"all of it":           {1, "app", []string{"message:app 0", "public.outbox 1", "message:app 3", "public.outbox 4"}},
		"another prefix":      {1, "none", []string{"public.outbox 1", "public.outbox 4"}},
		"from this commit on": {0x2000, "app", []string{"message:app 0", "public.outbox 1", "message:app 3", "public.outbox 4"}},
		"from a later one on": {0x2001, "app", []string{"public.outbox 0", "public.outbox 1"}},
		"not at all":          {0, "app", []string{"public.outbox 0", "public.outbox 1"}},
	} {
		d := messageDecoder(t, c.from, func(m *LogicalMessage) { m.Prefix = c.prefix })
		var got []string
		for _, ev := range feed(t, d, session...) {
			got = append(got, ev.Table+" "+string('0'+rune(ev.Position.Index)))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// One without a transaction that ends where a commit record begins must not have that commit's position.
func TestAMessageWithoutATransaction(t *testing.T) {
	t.Parallel()
	const end = 0x2000
	msg := logicalMessage(0, end, "app", `{"topic": "t", "id": "1"}`)
	for lone, want := range map[NonTransactional]Kind{PoisonLone: Lone, PublishLone: Lone, SkipLone: Ignored} {
		d := messageDecoder(t, 1, func(m *LogicalMessage) { m.NonTransactional = lone })
		var ev Event
		kind, err := d.Decode(msg, &ev)
		if err != nil || kind != want {
			t.Fatalf("kind %d, %v; want %d", kind, err, want)
		}
		if ev.Position != (Position{Commit: end - 1}) || ev.Table != "message:app" {
			t.Errorf("the position is %s, the table %s", ev.Position, ev.Table)
		}
		if kind != Lone {
			continue
		}
		if tx := d.Transaction(); tx.Commit != end-1 || tx.End != end {
			t.Errorf("its transaction is %+v", tx)
		}
		if last := ev.Headers[len(ev.Headers)-1]; last.Key != HeaderTransactional || string(last.Value) != "false" {
			t.Errorf("its last header is %v", last)
		}
		if !ev.CommitTime.IsZero() || !ev.Timestamp.IsZero() || (ev.Poison != nil) != (lone == PoisonLone) {
			t.Errorf("the event is %s", renderEvent(&ev))
		}
		next := feed(t, d, beginMessage(end, 7), logicalMessage(1, 0x1ff0, "app", `{"topic": "t"}`))
		if next[0].Position.Compare(ev.Position) <= 0 {
			t.Errorf("the position of what follows is %s", next[0].Position)
		}
	}
	for _, c := range []struct {
		from   pglogrepl.LSN
		prefix string
	}{{end, "app"}, {0, "app"}, {1, "another"}} {
		d := messageDecoder(t, c.from, func(m *LogicalMessage) { m.Prefix = c.prefix })
		if kind, err := d.Decode(msg, &Event{}); kind != Skip || err != nil {
			t.Errorf("%+v: kind %d, %v", c, kind, err)
		}
	}
}

func TestMessagesThatNoServerSends(t *testing.T) {
	t.Parallel()
	begun := [][]byte{beginMessage(0x2000, 7)}
	for what, c := range map[string]struct {
		before [][]byte
		msg    []byte
	}{
		"inside transaction 7": {begun, logicalMessage(0, 0x2000, "app", "{}")},
		"none has begun":       {nil, logicalMessage(1, 0x2000, "app", "{}")},
		"unknown flags 2":      {begun, logicalMessage(2, 0x2000, "app", "{}")},
		"where none can":       {nil, logicalMessage(0, 0x2001, "app", "{}")},
		"ends at 0/0":          {nil, logicalMessage(0, 0, "app", "{}")},
		"ends too early":       {begun, logicalMessage(1, 0x2000, "app", "{}")[:19]},
		"follow the end":       {begun, append(logicalMessage(1, 0x2000, "app", "{}"), 1)},
	} {
		d := messageDecoder(t, 1, nil)
		feed(t, d, c.before...)
		_, err := d.Decode(c.msg, &Event{})
		wantError(t, err, what)
	}
}

func TestLogicalMessagesAreConfiguredLikeTables(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*LogicalMessage){
		"has to be named":           func(m *LogicalMessage) { m.Prefix = "" },
		"columns.id: has to name":   func(m *LogicalMessage) { m.Table.Columns.ID = "" },
		"template":                  func(m *LogicalMessage) { m.Table.Key = "{" },
		"this name is tidemark's":   func(m *LogicalMessage) { m.Table.Headers[0].Name = HeaderTransactional },
		`messages prefix "another"`: func(m *LogicalMessage) { m.Prefix, m.Table.Columns.Payload = "another", "" },
	} {
		m := emitted()
		change(&m)
		_, err := New(Options{Messages: []LogicalMessage{m}})
		wantError(t, err, what)
	}
	_, err := New(Options{Messages: []LogicalMessage{emitted(), emitted()}})
	wantError(t, err, `"app": is configured twice`)
}

func TestAMessageIsOnlyBorrowed(t *testing.T) {
	t.Parallel()
	msg := logicalMessage(1, 0, "app", `{"id": "1", "topic": "t", "key": "k", "payload": {"a": "`+strings.Repeat("x", 100)+`"}, "headers": {"h": [1]}}`)
	d := messageDecoder(t, 1, nil)
	events := feed(t, d, beginMessage(0x2000, 7), msg)
	before := renderEvent(&events[0])
	for i := range msg {
		msg[i] ^= 0x55
	}
	if after := renderEvent(&events[0]); after != before {
		t.Errorf("the event was\n%sand is\n%s", before, after)
	}
}

// Of a message without a transaction the log says no time, and so says the CloudEvent.
func TestACloudEventWithoutACommitTimeHasNone(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{CloudEvents, CloudEventsStructured} {
		d := messageDecoder(t, 1, func(m *LogicalMessage) {
			m.NonTransactional, m.Table.Format, m.Table.Headers, m.Table.CloudEvents.Source = PublishLone, format, nil, "/here"
		})
		var ev Event
		kind, err := d.Decode(logicalMessage(0, 0x2000, "app", `{"topic": "t", "id": "1", "type": "x", "payload": {}}`), &ev)
		if err != nil || kind != Lone || ev.Poison != nil {
			t.Fatalf("kind %d, %v, %v", kind, err, ev.Poison)
		}
		if text := renderEvent(&ev); strings.Contains(text, "recordedtime") || strings.Contains(text, "0001-01-01T00:00:00Z\"") || !strings.Contains(text, "tidemark-transactional") {
			t.Errorf("the event is %s", text)
		}
	}
}
