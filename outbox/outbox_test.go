package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

func good() Event {
	return Event{Topic: "order", Key: "42", Type: "OrderPlaced", Payload: JSON(map[string]int{"total": 9})}
}

// noTx is a transaction that nothing may be written in.
type noTx struct{ t *testing.T }

func (x noTx) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	x.t.Errorf("written: %s", sql)
	return pgconn.CommandTag{}, nil
}

func TestWriteRefusesWhatCouldNotBePublished(t *testing.T) {
	withHeaders := DefaultColumns()
	withHeaders.Headers = Column{"headers", "jsonb"}
	withHeaders.Extra = []Column{{"tenant", "text"}}
	asText := DefaultColumns()
	asText.Payload.Type = "text"
	asText.Type = Column{}
	tests := map[string]struct {
		writer Writer
		change func(*Event)
		says   string // "": it is good
	}{
		"good":                     {Writer{}, func(*Event) {}, ""},
		"id":                       {Writer{}, func(e *Event) { e.ID = "018f" }, `id: "018f" is no UUID`},
		"id of hyphens elsewhere":  {Writer{}, func(e *Event) { e.ID = "018f1b2c3-d4e-7f00-8000-000000000001" }, "is no UUID"},
		"good id":                  {Writer{}, func(e *Event) { e.ID = "018F1B2C-3d4e-7f00-8000-000000000001" }, ""},
		"no topic":                 {Writer{}, func(e *Event) { e.Topic = "" }, "topic: it is empty"},
		"topic's characters":       {Writer{}, func(e *Event) { e.Topic = "or der" }, `topic: "outbox.event.or der": Kafka takes letters`},
		"topic's length":           {Writer{}, func(e *Event) { e.Topic = strings.Repeat("o", 237) }, "has 250 characters, and Kafka takes 249"},
		"topic as long as it may":  {Writer{}, func(e *Event) { e.Topic = strings.Repeat("o", 236) }, ""},
		"topic routed elsewhere":   {Writer{Route: func(Event) string { return ".." }}, func(*Event) {}, `".." is no name of a topic`},
		"topic routed well":        {Writer{Route: func(Event) string { return "x" }}, func(e *Event) { e.Topic = "or der" }, ""},
		"topic not UTF-8":          {Writer{Route: func(Event) string { return "x" }}, func(e *Event) { e.Topic = "\xff" }, "topic: it is not UTF-8"},
		"no type":                  {Writer{}, func(e *Event) { e.Type = "" }, "type: it is empty"},
		"type without a column":    {Writer{Columns: &asText}, func(*Event) {}, "type: the table has no column for it"},
		"type not UTF-8":           {Writer{}, func(e *Event) { e.Type = "\xc3" }, "type: it is not UTF-8"},
		"no key":                   {Writer{}, func(e *Event) { e.Key = "" }, "key: it is empty"},
		"key with a zero byte":     {Writer{}, func(e *Event) { e.Key = "a\x00b" }, "key: it has a zero byte"},
		"key's length":             {Writer{}, func(e *Event) { e.Key = strings.Repeat("ü", 256) }, "key: it has 256 characters, and 255 are allowed"},
		"key as long as it may":    {Writer{}, func(e *Event) { e.Key = strings.Repeat("ü", 255) }, ""},
		"key without limit":        {Writer{MaxName: -1}, func(e *Event) { e.Key = strings.Repeat("ü", 256) }, ""},
		"no payload":               {Writer{}, func(e *Event) { e.Payload = Payload{} }, "payload: there is none"},
		"tombstone":                {Writer{}, func(e *Event) { e.Payload = Tombstone() }, ""},
		"payload that fails":       {Writer{}, func(e *Event) { e.Payload = JSON(func() {}) }, "payload: json: unsupported type"},
		"payload no JSON":          {Writer{}, func(e *Event) { e.Payload = Text("{") }, "payload: it is no JSON, and the column is jsonb: unexpected end"},
		"payload no UTF-8":         {Writer{}, func(e *Event) { e.Payload = Bytes([]byte{'"', 0xff, '"'}) }, "payload: it is not UTF-8, and the column is jsonb"},
		"payload in protobuf":      {Writer{}, func(e *Event) { e.Payload = Proto(wrapperspb.Bytes([]byte{0xff})) }, "need one of type bytea"},
		"payload with a zero":      {Writer{}, func(e *Event) { e.Payload = JSON("a\x00b") }, `payload: it has a zero character (\u0000)`},
		"payload as if with one":   {Writer{}, func(e *Event) { e.Payload = JSON(`a\u0000b`) }, ""},
		"text with a zero byte":    {Writer{Columns: &asText}, func(e *Event) { e.Type, e.Payload = "", Text("a\x00") }, "payload: it has a zero byte"},
		"text that is no JSON":     {Writer{Columns: &asText}, func(e *Event) { e.Type, e.Payload = "", Text("{") }, ""},
		"payload too large":        {Writer{}, func(e *Event) { e.Payload = JSON(strings.Repeat("x", DefaultMaxBytes)) }, "bytes in Kafka, and 1048588 are allowed"},
		"too large with spaces":    {Writer{MaxBytes: 2000}, func(e *Event) { e.Payload = JSON(make([]int, 600)) }, "and 2000 are allowed"},
		"large":                    {Writer{MaxBytes: 2000}, func(e *Event) { e.Payload = JSON(strings.Repeat("x", 1200)) }, ""},
		"headers without a column": {Writer{}, func(e *Event) { e.Headers = map[string]string{"a": "b"} }, "headers: the table has no column for them"},
		"header of ours":           {Writer{Columns: &withHeaders}, func(e *Event) { e.Headers = map[string]string{"tidemark-position": "1"} }, "names with tidemark- are tidemark's"},
		"header without a name":    {Writer{Columns: &withHeaders}, func(e *Event) { e.Headers = map[string]string{"": "1"} }, "one has no name"},
		"header not UTF-8":         {Writer{Columns: &withHeaders}, func(e *Event) { e.Headers = map[string]string{"a": "\xff"} }, `headers: "a": it is not UTF-8`},
		"header":                   {Writer{Columns: &withHeaders}, func(e *Event) { e.Headers = map[string]string{"a": ""} }, ""},
		"unknown column":           {Writer{Columns: &withHeaders}, func(e *Event) { e.Extra = map[string]string{"tenent": "7"} }, `column: "tenent" is not in Writer.Columns.Extra`},
		"column not UTF-8":         {Writer{Columns: &withHeaders}, func(e *Event) { e.Extra = map[string]string{"tenant": "\xff"} }, `column: "tenant": it is not UTF-8`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := good()
			test.change(&e)
			if test.writer.Columns == &asText && test.says == "" {
				e.Type = ""
			}
			if test.says == "" {
				if err := test.writer.check(test.writer.columns(), []Event{e}, trace{}); err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			first := good()
			if test.writer.Columns == &asText {
				first.Type = ""
			}
			err := test.writer.Write(t.Context(), noTx{t}, first, e)
			if err == nil || !strings.Contains(err.Error(), "outbox: event 1: ") || !strings.Contains(err.Error(), test.says) {
				t.Errorf("want event 1: %s, got %v", test.says, err)
			}
		})
	}
}

func TestWriteReportsEverythingAtOnce(t *testing.T) {
	bad := Event{Topic: "a b", Payload: JSON(1)}
	err := Write(t.Context(), noTx{t}, good(), bad, good(), bad)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("not joined: %v", err)
	}
	var indexes []int
	for _, err := range joined.Unwrap() {
		if e, ok := errors.AsType[*EventError](err); ok {
			indexes = append(indexes, e.Index)
		}
	}
	if fmt.Sprint(indexes) != "[1 1 1 3 3 3]" {
		t.Errorf("topic, type and key of two events are wrong, found %v: %v", indexes, err)
	}
}

// What the writer lets through, the relay must not find too large: by then nobody can help it.
func TestWhatIsLetThroughFitsIntoARecord(t *testing.T) {
	pool := newPool(t)
	most := 0
	for _, payload := range []Payload{
		JSON(strings.Repeat("x", DefaultMaxBytes-overhead-2-2-len("OrderPlaced")-0)),
		JSON(make([]int, 349_000)),
		JSON(map[string]string{"a": strings.Repeat(`"`, 500_000)}),
	} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e := good()
		e.Payload = payload
		if err := Write(t.Context(), tx, e); err != nil {
			t.Fatal(err)
		}
		var stored string
		if err := tx.QueryRow(t.Context(), "select payload::text from outbox").Scan(&stored); err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("n", 63)
		bytes := publish.RecordBytes(&decode.Event{Key: []byte(e.Key), Value: []byte(stored), Headers: []decode.Header{
			{Key: decode.HeaderID, Value: []byte(NewID())},
			{Key: "eventType", Value: []byte(e.Type)},
			{Key: decode.HeaderPosition, Value: []byte("0000000000000000-00000000")},
			{Key: decode.HeaderSource, Value: []byte("18446744073709551615/" + long + "/" + long)},
			{Key: decode.HeaderReplay, Value: []byte("0000000000000000-00000000")},
		}})
		most = max(most, bytes)
		if bytes > DefaultMaxBytes {
			t.Errorf("a payload of %d bytes was let through, and its record takes %d", len(payload.data), bytes)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if most < DefaultMaxBytes*9/10 {
		t.Errorf("the largest record takes %d: this shows nothing", most)
	}
}

// counting counts round trips.
type counting struct {
	pgx.Tx
	n int
}

func (c *counting) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c.n++
	return c.Tx.Exec(ctx, sql, args...)
}

// Postgres logs, and so tidemark publishes, the rows in the order in which they are inserted: that of the serial column.
func TestABatchIsWrittenInItsOrder(t *testing.T) {
	pool := newPool(t, "alter table outbox add column n bigserial")
	tests := map[string]struct{ events, bytes, statements int }{
		"one":           {1, 1, 1},
		"a hundred":     {100, 1, 1},
		"many":          {maxStatementEvents + 1, 1, 2},
		"large":         {20, 1 << 19, 2},
		"none":          {0, 0, 0},
		"one, the most": {1, 1 << 20, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(t.Context()) //nolint:errcheck // everything has been said by then
			events := make([]Event, test.events)
			for i := range events {
				events[i] = good()
				events[i].Key = fmt.Sprint(i)
				events[i].Payload = JSON(strings.Repeat("x", test.bytes))
			}
			counted := counting{Tx: tx}
			w := Writer{MaxBytes: 2 << 20}
			if err := w.Write(t.Context(), &counted, events...); err != nil {
				t.Fatal(err)
			}
			if counted.n != test.statements {
				t.Errorf("%d statements, want %d", counted.n, test.statements)
			}
			rows, err := tx.Query(t.Context(), "select aggregateid, id::text from outbox order by n")
			if err != nil {
				t.Fatal(err)
			}
			type row struct{ key, id string }
			got, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row row, err error) {
				err = r.Scan(&row.key, &row.id)
				return row, err
			})
			if err != nil || len(got) != len(events) {
				t.Fatalf("%d rows of %d: %v", len(got), len(events), err)
			}
			for i := range got {
				if got[i].key != fmt.Sprint(i) || i > 0 && got[i].id <= got[i-1].id {
					t.Fatalf("row %d is %v, after %v", i, got[i], got[max(i, 1)-1])
				}
			}
		})
	}
}

// awkward are texts that an array of Postgres has to quote, and some that look like something else.
func awkward() []string {
	return []string{`"`, `\`, `\"`, `{a,b}`, "NULL", "null", "a,b", " a ", "'", "''; drop table outbox", "$1", "tab\tline\nreturn\r", "ü€😀", `\x00`, `\\x00`, "a\x01b"}
}

func TestEveryTextArrivesAsItIs(t *testing.T) {
	dsn, err := newDatabase(t.Context(), "alter table outbox add headers jsonb, add tenant text, add traceparent text, add tracestate text, alter payload type text")
	if err != nil {
		t.Fatal(err)
	}
	columns := DefaultColumns()
	columns.Payload.Type = "text"
	columns.Headers = Column{"headers", "jsonb"}
	columns.Extra = []Column{{"tenant", "text"}}
	w := Writer{Columns: &columns, Route: func(Event) string { return "x" }}
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var events []Event
	for _, s := range awkward() {
		events = append(events, Event{Topic: s, Key: s, Type: s, Payload: Text(s), Headers: map[string]string{s: s}, Extra: map[string]string{"tenant": s}})
	}
	events = append(events, Event{Topic: "no headers", Key: "k", Type: "t", Payload: Text("")})
	ctx := WithTrace(t.Context(), parent, `a="b"`)

	t.Cleanup(func() {
		if len(events[0].Headers) != 1 {
			t.Errorf("the caller's headers have become %v", events[0].Headers)
		}
	})
	check := func(t *testing.T, query func(sql string, args ...any) (n int, err error)) {
		t.Helper()
		for _, s := range awkward() {
			n, err := query(`select count(*) from outbox where aggregatetype = $1 and aggregateid = $1 and type = $1 and payload = $1
				and headers ->> $1 = $1 and tenant = $1 and headers ->> 'traceparent' = $2 and headers ->> 'tracestate' = 'a="b"'`, s, parent)
			if n != 1 || err != nil {
				t.Errorf("%q: %d rows, %v", s, n, err)
			}
		}
		n, err := query("select count(*) from outbox where aggregatetype = 'no headers' and tenant is null and headers = jsonb_build_object('traceparent', $1::text, 'tracestate', 'a=\"b\"') and payload = ''", parent)
		if n != 1 || err != nil {
			t.Errorf("without headers: %d rows, %v", n, err)
		}
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run("pgx "+mode.String(), func(t *testing.T) {
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			config.DefaultQueryExecMode = mode
			conn, err := pgx.ConnectConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context()) //nolint:errcheck // everything has been said by then
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(ctx, tx, events...); err != nil {
				t.Fatal(err)
			}
			check(t, func(sql string, args ...any) (n int, err error) {
				err = tx.QueryRow(t.Context(), sql, args...).Scan(&n)
				return n, err
			})
		})
	}
	for _, driver := range []string{"pgx", "postgres"} {
		t.Run("database/sql "+driver, func(t *testing.T) {
			db, err := sql.Open(driver, dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close() //nolint:errcheck // everything has been said by then
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback() //nolint:errcheck // everything has been said by then
			if err := w.WriteSQL(ctx, tx, events...); err != nil {
				t.Fatal(err)
			}
			check(t, func(sql string, args ...any) (n int, err error) {
				err = tx.QueryRowContext(t.Context(), sql, args...).Scan(&n)
				return n, err
			})
		})
	}
}

func TestBinaryPayloadsAndATraceInItsColumns(t *testing.T) {
	pool := newPool(t, "create table events (id text, topic text, payload bytea, parent text, state text, tenant int)")
	w := Writer{Table: "events", NewID: func() string { return "e-1" }, Columns: &Columns{
		ID: Column{"id", "text"}, Topic: Column{"topic", "text"}, Payload: Column{"payload", "bytea"},
		TraceParent: Column{"parent", "text"}, TraceState: Column{"state", "text"}, Extra: []Column{{"tenant", "int"}},
	}}
	w.Trace = func(context.Context) (string, string) {
		return "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // everything has been said by then
	if err := w.Write(t.Context(), tx, Event{Topic: "t", Payload: Bytes(all), Extra: map[string]string{"tenant": "7"}},
		Event{Topic: "t", Payload: Tombstone()}, Event{Topic: "t", Payload: Bytes(nil)}); err != nil {
		t.Fatal(err)
	}
	var got string
	err = tx.QueryRow(t.Context(), `select string_agg(concat_ws('|', id, topic, coalesce(payload = $1, false), payload is null, length(payload), length(parent), state is null, tenant), ' ')
		from events`, all).Scan(&got)
	want := "e-1|t|t|f|256|55|t|7 e-1|t|f|t|55|t e-1|t|f|f|0|55|t"
	if got != want || err != nil {
		t.Errorf("got  %s\nwant %s, %v", got, want, err)
	}
}

// A broken trace costs no business its transaction.
func TestATraceThatNobodyCouldReadIsLeftOut(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var w Writer
	for given, want := range map[string]string{
		good: good, good + "-more": good + "-more", good + "more": "", "": "", "x": "",
		strings.ToUpper(good): "", strings.Replace(good, "-", "0", 1): "", good + "-\x00": "",
	} {
		if got := w.trace(WithTrace(t.Context(), given, "")).parent; got != want {
			t.Errorf("%q is taken for %q", given, got)
		}
	}
	if got := w.trace(WithTrace(t.Context(), good, "\xff")); got != (trace{good, ""}) {
		t.Errorf("a broken tracestate: %q", got)
	}
}

// An event that is committed without its change is worse than none: consumers act on it.
func TestOnlyATransactionIsWrittenIn(t *testing.T) {
	pool := newPool(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	db, err := sql.Open("pgx", pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // everything has been said by then
	single, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer single.Close() //nolint:errcheck // everything has been said by then
	for name, err := range map[string]error{
		"pool": Write(t.Context(), pool, good()), "pooled": Write(t.Context(), conn, good()), "conn": Write(t.Context(), conn.Conn(), good()),
		"sql.DB": WriteSQL(t.Context(), db, good()), "sql.Conn": WriteSQL(t.Context(), single, good()),
	} {
		if !errors.Is(err, errNoTransaction) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// In a savepoint, and rolled back.
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		inner, err := tx.Begin(t.Context())
		if err != nil {
			return err
		}
		return errors.Join(Write(t.Context(), inner, good()), inner.Rollback(t.Context()))
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "select count(*) from outbox").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestWhatPostgresRefusesIsSaid(t *testing.T) {
	pool := newPool(t)
	w := Writer{Table: "nowhere"}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return w.Write(t.Context(), tx, good(), good()) })
	if err == nil || !strings.Contains(err.Error(), `outbox: write 2 events into nowhere: ERROR: relation "nowhere" does not exist`) {
		t.Error(err)
	}
}
