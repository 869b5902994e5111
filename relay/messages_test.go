package relay_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/relay"
)

// messages makes the relay read those with the prefix app.
func (b *bench) messages(lone decode.NonTransactional) *bench {
	b.options.Messages = []decode.LogicalMessage{{Prefix: "app", Table: b.options.Tables[0], NonTransactional: lone}}
	return b
}

// withoutTables makes them all that it reads.
func (b *bench) withoutTables() *bench {
	b.options.Tables, b.options.Source.Tables = nil, nil
	return b
}

// emit emits a message on conn, nil for the bench's own, and flushes it: one without a transaction waits for somebody else's commit.
func (b *bench) emit(conn *pgx.Conn, transactional bool, id string) {
	b.t.Helper()
	if conn == nil {
		conn = b.db
	}
	const sql = `select pg_logical_emit_message($1, 'app', json_build_object('id', $2::text, 'aggregatetype', 'order', 'aggregateid', 'k', 'type', 'placed',
		'payload', json_build_object('id', $2::text))::text)`
	if _, err := conn.Exec(b.t.Context(), sql, transactional, id); err != nil {
		b.t.Fatal(err)
	}
	if !transactional {
		b.exec("select txid_current()") // its commit flushes the log up to here
	}
}

// connect returns a further connection.
func (b *bench) connect() *pgx.Conn {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func onConn(b *bench, conn *pgx.Conn, sql string) {
	b.t.Helper()
	if _, err := conn.Exec(b.t.Context(), sql); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

func ids(records []*kgo.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = header(r, "id")
	}
	return out
}

// The function that applications call is in the repository as SQL.
func TestOutboxEmit(t *testing.T) {
	t.Parallel()
	b := newBench(t).messages(decode.PoisonLone)
	b.options.Messages[0].Prefix, b.options.Messages[0].Table.Columns.Headers = "outbox", "headers"
	sql, err := os.ReadFile("../outbox/emit.sql")
	if err != nil {
		t.Fatal(err)
	}
	b.exec(string(sql))
	b.exec(string(sql)) // may be run again
	r := b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	var id string
	err = b.db.QueryRow(t.Context(), `select outbox_emit('order', 'order-1', 'OrderPlaced', '{"total": 12.50, "none": null}', '{"tenant": "é"}')`).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	record := b.records("outbox.event.order", 1)[0]
	if header(record, "id") != id || string(record.Key) != "order-1" || header(record, "eventType") != "OrderPlaced" || header(record, "tenant") != "é" ||
		string(record.Value) != `{"none": null, "total": 12.50}` {
		t.Errorf("id %s, record %s %s %v", id, record.Key, record.Value, record.Headers)
	}
	if _, err := b.db.Exec(t.Context(), `select outbox_emit(null, 'order-1', 'OrderPlaced', '{}')`); err == nil {
		t.Error("an event without a topic was emitted")
	}
	b.exec(`select outbox_emit('order', 'order-1', 'OrderForgotten', null)`)
	if last := b.records("outbox.event.order", 2)[1]; last.Value != nil {
		t.Errorf("a null payload arrived as %q", last.Value)
	}
	r.stop()
}

func TestMessagesAreEventsOfTheirTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t).messages(decode.PoisonLone)
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	b.exec("begin")
	b.emit(nil, true, "m1")
	b.exec(`insert into outbox (id, aggregatetype, aggregateid, type) values ('00000000-0000-4000-8000-000000000001', 'order', 'k', 'placed')`)
	b.exec("savepoint s")
	b.emit(nil, true, "never")
	b.exec("rollback to s")
	b.exec("select pg_logical_emit_message(true, 'another', 'takes an index')")
	b.exec("select pg_logical_emit_message(false, 'another', 'is nobody''s')")
	b.emit(nil, true, "m2")
	b.exec("commit")
	b.exec("begin")
	b.emit(nil, true, "never")
	b.exec("rollback")
	b.exec(`select pg_logical_emit_message(true, 'app', '{"aggregatetype": "order", "aggregateid": "k", "payload": [1,  2]}')`)
	records := b.records("outbox.event.order", 5)
	mustArriveInOrder(t, records)
	ofKey := slices.DeleteFunc(records, func(r *kgo.Record) bool { return string(r.Key) != "k" })
	last := ofKey[len(ofKey)-1]
	want := []string{"m1", "00000000-0000-4000-8000-000000000001", "m2", header(last, "tidemark-position")}
	if got := ids(ofKey); !slices.Equal(got, want) {
		t.Errorf("arrived %q, want %q", got, want)
	}
	if got := header(ofKey[2], "tidemark-position"); !strings.HasSuffix(got, "-00000003") {
		t.Errorf("the third event and fourth entry of the transaction is at %s", got)
	}
	if string(ofKey[0].Value) != `{"id" : "m1"}` || string(last.Value) != "[1,  2]" || header(last, "tidemark-transactional") != "" {
		t.Errorf("the values are %s and %s", ofKey[0].Value, last.Value)
	}
	r.stop()
}

// The outbox without a table: the publication is empty.
func TestMessagesAloneWithoutAnyTable(t *testing.T) {
	t.Parallel()
	b := newBench(t).withoutTables()
	b.options.Messages = []decode.LogicalMessage{{Prefix: "app", Table: decode.Table{
		Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Payload: "payload"}, Topic: "outbox.event.{aggregatetype}",
	}}}
	b.exec("drop table outbox")
	r := b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	for i := range 20 {
		b.emit(nil, true, fmt.Sprint(i))
	}
	mustArriveInOrder(t, b.records("outbox.event.order", 20))
	r.stop()
	r = b.start()
	b.emit(nil, true, "20")
	mustArriveInOrder(t, b.records("outbox.event.order", 21))
	r.stop()
}

// What the relay has published before messages were configured has positions without them: those must stay, or a row would be
// taken for another that is in Kafka already.
func TestMessagesCountFromWhereTheyAreConfigured(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	forgetful := &amnesia{File: b.store}
	b.options.Store, b.options.ResumeDedupe = forgetful, true
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	forgetful.on.Store(true) // as if it were killed here
	b.exec("begin")
	b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'placed')`)
	b.emit(nil, true, "before")
	b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'placed')`)
	b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'placed')`)
	b.exec("commit")
	b.records("outbox.event.order", 4)
	r.stop()

	b.messages(decode.PoisonLone)
	b.exec("begin") // committed before messages are read
	b.emit(nil, true, "before, too")
	b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'placed')`)
	b.exec("commit")
	forgetful.on.Store(false)
	r = b.start()
	mustArriveInOrder(t, b.records("outbox.event.order", 5))
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	b.emit(nil, true, "first")
	mustArriveInOrder(t, b.records("outbox.event.order", 6))
	forgetful.on.Store(true)
	b.exec("begin")
	b.exec(`select pg_logical_emit_message(true, 'app', '{"id": "second", "aggregatetype": "other", "aggregateid": "k"}')`)
	b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'placed')`)
	b.exec("commit")
	b.records("outbox.event.order", 7)
	b.records("outbox.event.other", 1)
	r.stop()

	forgetful.on.Store(false)
	b.options.Messages = nil // and the index of that row stays what it was
	r = b.start()
	b.insert(1)
	mustArriveInOrder(t, b.records("outbox.event.order", 8))
	r.stop()
}

func TestMessagesWithoutTransactionArriveOnce(t *testing.T) {
	t.Parallel()
	publishLone(newBench(t))
}

func TestExactlyOnceMessagesWithoutTransaction(t *testing.T) {
	t.Parallel()
	publishLone(newBench(t))
}

// publishLone publishes messages that belong to no transaction, in the middle of transactions that are short and long,
// committed and rolled back, through relays that are stopped at any point as if they were killed.
func publishLone(b *bench) {
	t := b.t
	b.messages(decode.PublishLone)
	b.options.ResumeDedupe = true
	forgetful := &amnesia{File: b.store}
	if !b.options.ExactlyOnce {
		b.options.Store = forgetful
	}
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	want := 1
	long := b.connect()
	onConn(b, long, "begin")
	b.emit(long, true, "held back")
	for round := range 4 {
		id := func(s string) string { return fmt.Sprintf("%d %s", round, s) }
		b.emit(long, false, id("in a long transaction"))
		b.emit(nil, false, id("on its own"))
		b.exec("begin")
		b.emit(nil, true, id("in a transaction"))
		b.exec("select pg_logical_emit_message(false, 'app', $1)", `{"id": "`+id("just before the commit")+`", "aggregatetype": "order", "aggregateid": "k"}`)
		b.exec("commit")
		want += 4
		b.records("outbox.event.order", want)
		forgetful.on.Store(true) // from here on, it is as if the process were killed
		b.exec("begin")
		b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ('order', 'k', 'rolled back')`)
		b.emit(nil, false, id("in one that is rolled back"))
		b.exec("rollback")
		b.exec("begin")
		b.emit(nil, true, id("again in a transaction"))
		b.exec("select pg_logical_emit_message(false, 'app', $1)", `{"id": "`+id("again just before the commit")+`", "aggregatetype": "order", "aggregateid": "k"}`)
		b.exec("commit")
		b.emit(nil, false, id("last"))
		want += 4
		b.records("outbox.event.order", want)
		r.stop()
		b.emit(nil, false, id("while nobody reads"))
		want++
		forgetful.on.Store(false)
		r = b.start()
	}
	onConn(b, long, "commit")
	want++
	records := b.records("outbox.event.order", want)
	mustArriveInOrder(t, records)
	for _, r := range records {
		transactional := header(r, "tidemark-transactional")
		id := header(r, "id")
		if lone := !strings.Contains(id, "in a transaction") && id != "held back" && string(r.Key) == "k"; lone != (transactional == "false") {
			t.Errorf("%q: tidemark-transactional is %q", id, transactional)
		}
	}
	r.stop()
}

// The stored LSN is where such a message ended, or the commit before it, and the server goes on exactly there.
func TestMessagesWithoutTransactionBeforeAndBehindTheStoredLSN(t *testing.T) {
	t.Parallel()
	b := newBench(t).messages(decode.PublishLone)
	b.options.ResumeDedupe = false // so that what is sent again arrives again
	r := b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	want := 0
	for i := range 10 {
		b.exec("begin")
		b.emit(nil, true, fmt.Sprintf("%d transactional", i))
		b.exec("select pg_logical_emit_message(false, 'app', $1)", fmt.Sprintf(`{"id": "%d on its own", "aggregatetype": "order", "aggregateid": "k"}`, i))
		b.exec("commit")
		want += 2
		b.records("outbox.event.order", want)
		r.stop() // stores all that is acknowledged
		r = b.start()
		eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	}
	mustArriveInOrder(t, b.records("outbox.event.order", want))
	r.stop()
}

func TestMessageWithoutTransactionIsPoisonUnlessConfigured(t *testing.T) {
	t.Parallel()
	b := newBench(t).messages(decode.PoisonLone)
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	b.emit(nil, false, "not as it should be")
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), "belongs to no transaction") || !strings.Contains(err.Error(), "message:app") {
		t.Errorf("Run: %v", err)
	}
	b.options.OnPoison, b.options.DeadLetterTopic = relay.DeadLetter, "dead"
	r = b.start()
	letter := b.records("dead", 1)[0]
	if header(letter, "tidemark-table") != "message:app" || header(letter, "id") != "not as it should be" || len(letter.Value) == 0 {
		t.Errorf("the dead letter is %s, %v", letter.Value, letter.Headers)
	}
	b.exec(`select pg_logical_emit_message(true, 'app', 'no JSON at all')`)
	if got := values(b.records("dead", 2)); !slices.Contains(got, "no JSON at all") {
		t.Errorf("the dead letters are %q", got)
	}
	r.stop()

	b.messages(decode.SkipLone)
	r = b.start()
	b.emit(nil, false, "left out")
	b.insert(1)
	b.records("outbox.event.order", 2)
	r.stop()

	b.messages(decode.PoisonLone)
	b.options.OnPoison, b.options.ParkDSN = relay.Park, b.dsn
	r = b.start()
	b.emit(nil, false, "parked")
	eventually(t, "it is parked", func() bool { return r.relay.Status().Parked == 1 })
	b.emit(nil, true, "waits behind it")
	eventually(t, "so is what follows", func() bool { return r.relay.Status().Parked == 2 })
	b.insert(1)
	b.records("outbox.event.order", 3)
	r.stop()
}

// A dead letter of a row may leave its payload behind in the table. That of a message would be nowhere.
func TestMessageTooLargeForADeadLetterIsNotCutDown(t *testing.T) {
	t.Parallel()
	b := newBench(t).messages(decode.PoisonLone)
	b.options.OnPoison, b.options.DeadLetterTopic = relay.DeadLetter, "dead"
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	b.exec(`select pg_logical_emit_message(true, 'app', json_build_object('aggregatetype', 'order', 'aggregateid', 'k', 'payload', repeat('x', 2000000))::text)`)
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), "not as a dead letter either") {
		t.Errorf("Run: %v", err)
	}
}
