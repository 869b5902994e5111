package relay_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/relay"
)

// What the log holds from before a change is read with the columns of that time; nothing is lost, and what cannot be read any
// more is refused with a word on what to do.
func TestColumnsChangeWhileItRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.start()
	b.insert(10)
	b.records("outbox.event.order", 10)
	for _, change := range []string{
		"alter table outbox add column shard int default 7",
		"alter table outbox rename column shard to part",
		"alter table outbox drop column part",
		"alter table outbox alter column aggregateid type varchar(300)",
		"alter table outbox alter column payload type json",
		"alter table outbox alter column aggregatetype type varchar(20)",
	} {
		b.insert(5) // not read yet when it changes, or just
		b.exec(change)
		b.insert(5)
	}
	mustArriveInOrder(t, b.records("outbox.event.order", 70))

	b.insert(5)
	b.exec("alter table outbox rename column payload to body")
	more := func() {
		b.exec("insert into outbox (aggregatetype, aggregateid, type, body) select 'order', g::text, 'placed', '1' from generate_series(1, 5) g")
	}
	more()
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), `column "payload" (columns.payload) is not in table public.outbox`) {
		t.Errorf("Run: %v", err)
	}
	mustArriveInOrder(t, b.records("outbox.event.order", 75))
	b.options.Tables[0].Columns.Payload = "body"
	r = b.start()
	more()
	mustArriveInOrder(t, b.records("outbox.event.order", 85))
	r.stop()
}

// What came before a row that cannot be read is published before that is an error, however closely the two follow each other:
// else whoever mends the configuration for that row might unmend it for those.
func TestRowsBeforeOneThatCannotBeReadArrive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("create table other (id uuid primary key default gen_random_uuid(), body text)")
	b.options.Tables = append(b.options.Tables, decode.Table{
		Name: "public.other", Columns: decode.Columns{ID: "id", Payload: "body"}, Topic: "other",
	})
	b.options.Source.Tables = append(b.options.Source.Tables, "public.other")
	r := b.start()
	b.insert(5)
	b.records("outbox.event.order", 5)
	b.exec("alter table other rename column body to text")
	b.insert(20_000) // so many that they leave in bursts
	b.exec("insert into other (text) values ('x')")
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), `column "body" (columns.payload) is not in table public.other`) {
		t.Errorf("Run: %v", err)
	}
	mustArriveInOrder(t, b.records("outbox.event.order", 20_005))
}

func TestTypeThatItsMeaningCannotHaveIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("alter table outbox add column at timestamptz default now()")
	b.options.Tables[0].Columns.Timestamp = "at"
	r := b.start()
	b.insert(5)
	b.records("outbox.event.order", 5)
	b.exec("alter table outbox alter column at type text")
	b.insert(5)
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), `column "at" (columns.timestamp) of table public.outbox`) {
		t.Errorf("Run: %v", err)
	}
	b.options.Tables[0].Columns.Timestamp = ""
	r = b.start()
	mustArriveInOrder(t, b.records("outbox.event.order", 10))
	r.stop()
}

// A table that is another one is a change of the publication: refused, and not left out.
func TestTableThatIsRenamedOrCreatedAnewIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"renamed":       "alter table outbox rename to old; " + outboxTable,
		"created anew":  "drop table outbox; " + outboxTable,
		"only renamed":  "alter table outbox rename to old",
		"another place": "create schema s; alter table outbox set schema s",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.PublicationEvery = 50 * time.Millisecond
			r := b.start()
			b.insert(5)
			b.records("outbox.event.order", 5)
			b.exec(change)
			var refusal *relay.Refusal
			err := r.wait()
			if err == nil || !errors.As(err, &refusal) || !strings.Contains(err.Error(), "public.outbox was taken out of the publication, or dropped or renamed") {
				t.Errorf("Run: %v", err)
			}
			b.records("outbox.event.order", 5)
		})
	}
}

func TestPartitionsComeAndGoWhileItRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("drop table outbox")
	b.exec(`create table outbox (id uuid default gen_random_uuid(), aggregatetype text not null, aggregateid text not null, type text not null,
		payload jsonb, day int not null default 1) partition by list (day)`)
	b.exec("create table outbox_1 partition of outbox for values in (1)")
	b.insert(5)
	r := b.start()
	b.records("outbox.event.order", 5)
	into := func(day, n int) {
		b.exec(`insert into outbox (aggregatetype, aggregateid, type, day) select 'order', g::text, 'placed', $1 from generate_series(1, $2) g`, day, n)
	}
	b.exec("create table outbox_2 partition of outbox for values in (2)")
	into(2, 5)
	b.exec("create table standing (like outbox)")
	b.exec("insert into standing (id, aggregatetype, aggregateid, type, day) values (gen_random_uuid(), 'order', 'not an event', 'placed', 3)")
	b.exec("alter table outbox attach partition standing for values in (3)")
	into(3, 5)
	into(1, 5)
	b.exec("alter table outbox detach partition outbox_1")
	b.exec("insert into outbox_1 (id, aggregatetype, aggregateid, type, day) values (gen_random_uuid(), 'order', 'not an event', 'placed', 1)")
	into(2, 5)
	b.exec("drop table outbox_2") // also with what is perhaps not read yet
	into(3, 5)
	records := b.records("outbox.event.order", 30)
	mustArriveInOrder(t, records)
	for _, r := range records {
		if string(r.Key) == "not an event" {
			t.Errorf("a row of a table that was no partition arrived")
		}
	}
	r.stop()
}

// Several tables of different shapes are one stream.
func TestSeveralTablesAreOneStream(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("create schema sales")
	b.exec(`create table sales."Out box" ("Id" bigint generated always as identity, kind text, body bytea, k int)`)
	b.options.Source.Tables = append(b.options.Source.Tables, "sales.Out box")
	b.options.Tables = append(b.options.Tables, decode.Table{
		Name: "sales.Out box", Columns: decode.Columns{ID: "Id", Payload: "body", Key: "k"}, Topic: "outbox.event.order",
	})
	r := b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	for i := range 20 {
		b.exec("begin")
		b.exec("insert into outbox (aggregatetype, aggregateid, type) values ('order', '7', 'placed')")
		b.exec(`insert into sales."Out box" (kind, body, k) values ('x', '\x00ff', 7)`)
		b.exec("insert into outbox (aggregatetype, aggregateid, type) values ('order', '7', 'placed')")
		b.exec("commit")
		if i%7 == 0 {
			b.exec(`alter table sales."Out box" add column more` + string('a'+rune(i)) + ` int`)
		}
	}
	records := b.records("outbox.event.order", 60)
	mustArriveInOrder(t, records)
	for i, r := range records {
		if (len(r.Value) == 2) != (i%3 == 1) {
			t.Fatalf("record %d of the key is %q", i, r.Value)
		}
	}
	r.stop()
}
