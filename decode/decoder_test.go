package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// plainColumns and plainTable are a small outbox.
func plainColumns() []Column {
	return []Column{{"id", 25}, {"topic", 25}, {"key", 25}, {"payload", 25}}
}

func plainTable() Table {
	return Table{Name: "public.outbox", Columns: Columns{ID: "id", Topic: "topic", Key: "key", Payload: "payload"}}
}

func newDecoder(tb testing.TB, tables ...Table) *Decoder {
	tb.Helper()
	d, err := New(Options{Tables: tables, Source: "system/database/slot"})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// feed decodes messages of which none may fail, and returns the rows among them.
func feed(tb testing.TB, d *Decoder, messages ...[]byte) []Event {
	tb.Helper()
	var events []Event
	for _, msg := range messages {
		var ev Event
		kind, err := d.Decode(msg, &ev)
		if err != nil {
			tb.Fatal(err)
		}
		if kind == Row {
			events = append(events, ev)
		}
	}
	return events
}

func wantError(tb testing.TB, err error, parts ...string) {
	tb.Helper()
	if err == nil {
		tb.Fatalf("no error; want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			tb.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestDecodeTellsKindsAndTransaction(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	steps := []struct {
		msg  []byte
		kind Kind
		tx   Transaction
	}{
		{relationMessage(1, "public", "outbox", plainColumns()...), Skip, Transaction{}},
		{beginMessage(0x20, 7), Begin, Transaction{XID: 7, Commit: 0x20, Time: commitTime()}},
		{insertMessage(1, "1", "t", "k", "v"), Row, Transaction{XID: 7, Commit: 0x20, Time: commitTime()}},
		{commitMessage(0x20, 0x30), Commit, Transaction{XID: 7, Commit: 0x20, End: 0x30, Time: commitTime()}},
		{beginMessage(0x40, 8), Begin, Transaction{XID: 8, Commit: 0x40, Time: commitTime()}},
	}
	for i, step := range steps {
		var ev Event
		kind, err := d.Decode(step.msg, &ev)
		if err != nil || kind != step.kind {
			t.Fatalf("step %d: kind %d, error %v; want kind %d", i, kind, err, step.kind)
		}
		if got := d.Transaction(); got != step.tx {
			t.Errorf("step %d: transaction %+v, want %+v", i, got, step.tx)
		}
	}
}

func TestPositionCountsEveryRowOfATransactionFromZero(t *testing.T) {
	t.Parallel()
	other := plainTable()
	other.Name = "app.outbox"
	d := newDecoder(t, plainTable(), other)
	events := feed(t, d,
		relationMessage(1, "public", "outbox", plainColumns()...),
		relationMessage(2, "app", "outbox", plainColumns()...),
		beginMessage(0x20, 7),
		insertMessage(1, "a", "t", "k", "v"),
		insertMessage(2, "b", "t", "k", "v"),
		insertMessage(1, "c", null, "k", "v"), // poison counts as well
		insertMessage(1, "d", "t", "k", "v"),
		commitMessage(0x20, 0x30),
		beginMessage(0x40, 8),
		insertMessage(2, "e", "t", "k", "v"),
	)
	want := []Position{{0x20, 0}, {0x20, 1}, {0x20, 2}, {0x20, 3}, {0x40, 0}}
	for i, ev := range events {
		if ev.Position != want[i] || ev.ID != string(rune('a'+i)) {
			t.Errorf("row %d: id %q at %v, want %v", i, ev.ID, ev.Position, want[i])
		}
		if ev.CommitTime != commitTime() {
			t.Errorf("row %d: commit time %v, want %v", i, ev.CommitTime, commitTime())
		}
	}
	if events[1].Table != "app.outbox" || events[2].Poison == nil {
		t.Errorf("table %q, poison %v", events[1].Table, events[2].Poison)
	}
}

func TestDecodeRefusesWhatAPublicationOfAnOutboxNeverSends(t *testing.T) {
	t.Parallel()
	relation := relationMessage(1, "public", "outbox", plainColumns()...)
	open := [][]byte{relation, beginMessage(0x20, 7)}
	row := insertMessage(1, "a", "t", "k", "v")
	tuple := func(kind byte) []byte { // the first column in another kind
		msg := append([]byte(nil), row...)
		msg[8] = kind
		return msg
	}
	tests := []struct {
		name   string
		before [][]byte
		msg    []byte
		want   []string
	}{
		{"nothing", open, nil, []string{"empty"}},
		{"another message", open, []byte{'S', 0, 0, 0, 1, 1}, []string{`'S'`}},
		{"a byte that is no letter", open, []byte{0xfe}, []string{`'þ'`}},
		{"update", open, []byte{'U', 0, 0, 0, 1, 'N'}, []string{"updates of table public.outbox", "ALTER PUBLICATION … SET (publish = 'insert')"}},
		{"update of the unknown", open, []byte{'U', 0, 0, 0, 9, 'N'}, []string{"publishes updates", "SET (publish = 'insert')"}},
		{"delete", open, []byte{'D', 0, 0, 0, 1, 'K'}, []string{"deletes of table public.outbox", "SET (publish = 'insert')"}},
		{"truncate", open, []byte{'T', 0, 0, 0, 1, 0, 0, 0, 0, 1}, []string{"publishes truncates", "SET (publish = 'insert')"}},
		{"begin twice", open, beginMessage(0x50, 8), []string{"transaction 8 begins inside transaction 7"}},
		{"commit without begin", nil, commitMessage(0x20, 0x30), []string{"0/20", "no transaction has begun"}},
		{"commit of another", open, commitMessage(0x28, 0x30), []string{"0/28", "0/20", "transaction 7"}},
		{"commit that ends before itself", open, commitMessage(0x20, 0x20), []string{"0/20"}},
		{"insert outside a transaction", [][]byte{relation}, row, []string{"outside a transaction"}},
		{"insert after the commit", append(open[:2:2], commitMessage(0x20, 0x30)), row, []string{"outside a transaction"}},
		{"insert into the unannounced", open, insertMessage(3, "a"), []string{"OID 3"}},
		{"insert with an old tuple", open, append([]byte{'I', 0, 0, 0, 1, 'O'}, row[6:]...), []string{"'O'"}},
		{"a column too few", open, insertMessage(1, "a", "t", "k"), []string{"3 columns", "public.outbox", "announced with 4"}},
		{"a column too many", open, insertMessage(1, "a", "t", "k", "v", "w"), []string{"5 columns"}},
		{"unchanged TOAST", open, tuple('u'), []string{`"id"`, "TOAST"}},
		{"binary text", open, tuple('b'), []string{`"id"`, "binary"}},
		{"unknown kind", open, tuple('x'), []string{`"id"`, "'x'"}},
		{
			"a table that is not configured",
			append(open[:2:2], relationMessage(2, "audit", "log", Column{"id", 23})),
			insertMessage(2, "1"),
			[]string{"audit.log", "not under outbox", "add it there", "ALTER PUBLICATION … DROP TABLE audit.log"},
		},
		{
			"a table of that name in another schema",
			append(open[:2:2], relationMessage(2, "Public", "outbox", plainColumns()...)),
			insertMessage(2, "a", "t", "k", "v"),
			[]string{"Public.outbox"},
		},
		{
			"a table of pg_catalog",
			append(open[:2:2], relationMessage(2, "", "pg_class", Column{"oid", 26})),
			insertMessage(2, "1"),
			[]string{"pg_catalog.pg_class"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDecoder(t, plainTable())
			feed(t, d, test.before...)
			_, err := d.Decode(test.msg, &Event{})
			wantError(t, err, test.want...)
		})
	}
}

func TestARowOfAnUnconfiguredTableFailsOnlyWhenThereIsOne(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	events := feed(t, d,
		relationMessage(2, "audit", "log", Column{"id", 23}),
		relationMessage(1, "public", "outbox", plainColumns()...),
		beginMessage(0x20, 7), insertMessage(1, "a", "t", "k", "v"), commitMessage(0x20, 0x30))
	if len(events) != 1 {
		t.Errorf("%d events, want 1", len(events))
	}
}

func TestATransactionCannotHaveMoreRowsThanAPositionCounts(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7))
	d.index = math.MaxUint32
	_, err := d.Decode(insertMessage(1, "a", "t", "k", "v"), &Event{})
	wantError(t, err, "more rows than a position can count")
}

// Every message is exact: a byte less and a byte more are errors, and no cut makes a panic.
func TestDecodeTakesNoMessageThatIsShortOrLong(t *testing.T) {
	t.Parallel()
	messages := map[string][]byte{
		"begin":    beginMessage(0x20, 7),
		"commit":   commitMessage(0x20, 0x30),
		"relation": relationMessage(1, "public", "outbox", plainColumns()...),
		"insert":   insertMessage(1, "a", "t", null, "v"),
		"type":     append([]byte{'Y', 0, 0, 0, 9}, "public\x00mood\x00"...),
		"origin":   append([]byte{'O', 0, 0, 0, 0, 0, 0, 0, 9}, "elsewhere\x00"...),
		"message":  append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, "app\x00\x00\x00\x00\x02hi"...),
	}
	for name, whole := range messages {
		for n := 1; n <= len(whole)+1; n++ {
			d := newDecoder(t, plainTable())
			feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...))
			if name != "begin" {
				feed(t, d, beginMessage(0x20, 7))
			}
			before := d.Transaction()
			msg := append(append([]byte(nil), whole...), 0)[:n]
			_, err := d.Decode(msg, &Event{})
			switch {
			case n < len(whole):
				wantError(t, err, "ends too early", fmt.Sprintf("%q", whole[0]))
			case n > len(whole):
				wantError(t, err, "1 bytes follow", fmt.Sprintf("%q", whole[0]))
			case err != nil:
				t.Errorf("%s: %v", name, err)
			}
			if n != len(whole) && d.Transaction() != before {
				t.Errorf("%s of %d bytes changed the transaction", name, n)
			}
		}
	}
}

// Lengths that promise gigabytes must not be believed.
func TestDecodeAllocatesByTheMessageNotByItsLengths(t *testing.T) { //nolint:paralleltest // counts all allocations
	d := newDecoder(t, plainTable())
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7))
	many := binary.BigEndian.AppendUint16(append([]byte{'R', 0, 0, 0, 2}, "public\x00outbox\x00d"...), math.MaxUint16)
	long := insertMessage(1, "a", "t", "k", "v")
	binary.BigEndian.PutUint32(long[9:], math.MaxUint32)
	message := binary.BigEndian.AppendUint32(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, "app\x00"...), math.MaxInt32)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, msg := range [][]byte{many, long, message} {
		if _, err := d.Decode(msg, &Event{}); err == nil {
			t.Errorf("no error for %q", msg)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
		t.Errorf("three small messages allocated %d bytes", n)
	}
}

func TestDecodeOnlyBorrowsTheMessage(t *testing.T) {
	t.Parallel()
	table := plainTable()
	table.Columns.Headers, table.Columns.Type = "headers", "type"
	table.Topic, table.Key = "x.{topic}", "{key}-{id}"
	table.Headers = []HeaderTemplate{{"h", "{type}"}}
	columns := append(plainColumns(), Column{"headers", 3802}, Column{"type", 25})
	d := newDecoder(t, table)
	feed(t, d, relationMessage(1, "public", "outbox", columns...), beginMessage(0x20, 7))
	msg := insertMessage(1, "id-1", "topic", "key", "payload", `{"a": "b", "c\n": "d\n", "e": [1]}`, "made")
	var first, second Event
	if _, err := d.Decode(msg, &first); err != nil {
		t.Fatal(err)
	}
	before := renderEvent(&first)
	for i := range msg {
		msg[i] ^= 0x55
	}
	if _, err := d.Decode(insertMessage(1, "id-2", "other", "KEY", "PAYLOAD", `{"z": "y"}`, "MADE"), &second); err != nil {
		t.Fatal(err)
	}
	// Whoever appends to a part of an event gets memory of its own.
	_ = append(first.Key, "overwritten"...)
	_ = append(first.Value, "overwritten"...)
	_ = append(first.Headers, Header{Key: "overwritten"})
	if after := renderEvent(&first); after != before {
		t.Errorf("the event was\n%sand is\n%s", before, after)
	}
	if got := renderEvent(&second); strings.Contains(got, "overwritten") {
		t.Errorf("its neighbour is\n%s", got)
	}
}

func TestDecodeOverwritesTheEventCompletely(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7))
	ev := Event{Partition: 3, Poison: fmt.Errorf("old"), Key: []byte("old"), Value: []byte("old"), Headers: make([]Header, 9)}
	if _, err := d.Decode(insertMessage(1, "a", "t", null, null), &ev); err != nil {
		t.Fatal(err)
	}
	if ev.Partition != AnyPartition || ev.Poison != nil || ev.Key != nil || ev.Value != nil || len(ev.Headers) != 3 {
		t.Errorf("event %+v", ev)
	}
}

func TestResetForgetsTheTransactionAndTheRelations(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	row := insertMessage(1, "a", "t", "k", "v")
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7), row)
	d.Reset()
	if tx := d.Transaction(); tx != (Transaction{}) {
		t.Errorf("transaction %+v after Reset", tx)
	}
	_, err := d.Decode(row, &Event{})
	wantError(t, err, "outside a transaction")
	feed(t, d, beginMessage(0x20, 7))
	_, err = d.Decode(row, &Event{})
	wantError(t, err, "OID 1", "not announced")
	// The replay of the same transaction has the same positions.
	d.Reset()
	events := feed(t, d, beginMessage(0x20, 7), relationMessage(1, "public", "outbox", plainColumns()...), row)
	if want := (Position{Commit: 0x20}); events[0].Position != want {
		t.Errorf("position %v after Reset, want %v", events[0].Position, want)
	}
}

func TestARelationThatChangesIsReadByItsNewColumns(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	c := plainColumns()
	turned := []Column{{"new", 23}, c[3], c[2], c[1], c[0]}
	events := feed(t, d, relationMessage(1, "public", "outbox", c...), beginMessage(0x20, 7),
		insertMessage(1, "a", "t", "k", "v"),
		relationMessage(1, "public", "outbox", turned...),
		insertMessage(1, "1", "v", "k", "t", "b"))
	for i, ev := range events {
		if ev.ID != string(rune('a'+i)) || ev.Topic != "t" || string(ev.Key) != "k" || string(ev.Value) != "v" {
			t.Errorf("event %d: %s", i, renderEvent(&ev))
		}
	}
}

func TestCommitTimeCoversWhatTheWireCanSay(t *testing.T) {
	t.Parallel()
	for _, micros := range []int64{0, -1, math.MaxInt64, math.MinInt64} {
		msg := beginMessage(pglogrepl.LSN(1), 1)
		binary.BigEndian.PutUint64(msg[9:], uint64(micros))
		d := newDecoder(t, plainTable())
		if _, err := d.Decode(msg, &Event{}); err != nil {
			t.Error(err)
		}
		_ = d.Transaction().Time.String()
	}
}
