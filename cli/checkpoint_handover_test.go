package cli

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// publishAs publishes a row of the outbox as Debezium does: known by its id alone.
func (b *checkpointBench) publishAs(payload string) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // read only
	var id, key string
	if err := conn.QueryRow(b.t.Context(), "select id::text, aggregateid from outbox where payload = $1", payload).Scan(&id, &key); err != nil {
		b.t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.AllowAutoTopicCreation())
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	err = client.ProduceSync(b.t.Context(), &kgo.Record{
		Topic: "outbox.event.order", Key: []byte(key), Value: []byte(payload), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(id)}},
	}).FirstErr()
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestHandoverLeavesNothingOutAndDoublesNothing takes over from a relay that was stopped in the middle of a transaction, with
// one partition behind the others.
func TestHandoverLeavesNothingOutAndDoublesNothing(t *testing.T) {
	b := newCheckpointBench(t)
	other := b.slot + "_x"
	b.run("file", 0, "init")
	b.exec("select pg_drop_replication_slot($1)", b.slot)
	b.exec("select pg_create_logical_replication_slot($1, 'pgoutput')", other)
	b.exec("insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '0', 'created', '0')")
	b.publishAs("0")
	b.rows++
	b.run("file", 0, "checkpoint --help", "handover")
	b.run("file", 1, "checkpoint handover --from-slot "+other, "does not exist")
	// The first row is before the slot: only its publisher has it.
	stdout, stderr, status := tidemark(t, []string{"init"}, "TIDEMARK_SOURCE_DSN="+b.dsn, "TIDEMARK_SOURCE_SLOT="+b.slot,
		"TIDEMARK_SOURCE_EXISTING_ROWS=skip", "TIDEMARK_CHECKPOINT_PATH="+b.path)
	if status != 0 {
		t.Fatalf("init: %s%s", stdout, stderr)
	}
	b.run("file", 2, "checkpoint handover", "--from-slot")
	b.run("file", 2, "checkpoint handover --from-slot "+b.slot, "a slot of its own")
	b.run("file", 3, "checkpoint handover --from-slot "+other, "has confirmed", "start the other relay again")
	b.run("file", 3, "checkpoint handover --from-slot nobody", "does not exist")

	for _, rows := range []string{"(1)", "(2), (3), (4)", "(5)", "(6), (7)"} {
		b.exec("insert into outbox (aggregatetype, aggregateid, type, payload) select 'order', i, 'created', i::text::jsonb from (values " + rows + ") v(i)")
	}
	b.rows += 7
	b.exec("create table noise ()") // the log goes on
	b.exec("select pg_replication_slot_advance($1, pg_current_wal_lsn())", other)
	for _, payload := range []int{1, 2, 5} {
		b.publishAs(fmt.Sprint(payload))
	}
	b.run("file", 0, "checkpoint handover --from-slot "+other, "7 events in 4 transactions; 3 of them were in Kafka", "2 that were committed before")
	b.run("file", 1, "checkpoint handover --from-slot "+other, "stored already")
	b.run("file", 0, "run --once")
	b.mustHaveAllOnce()
}

// TestHandoverWithNothingInKafka begins where the slot does.
func TestHandoverWithNothingInKafka(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("file", 0, "init")
	b.exec("select pg_create_logical_replication_slot($1, 'pgoutput')", b.slot+"_x")
	b.insert()
	b.run("file", 0, "checkpoint handover --from-slot "+b.slot+"_x", "1 events in 1 transactions; 0 of them were in Kafka")
	b.run("file", 0, "run --once")
	b.mustHaveAllOnce()
}
