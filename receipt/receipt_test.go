package receipt_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/receipt"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

const limit = time.Minute

// bench is a source with an outbox table, a real Kafka, and a relay between them.
type bench struct {
	t       *testing.T
	db      *pgx.Conn
	client  *kgo.Client
	store   *checkpoint.File
	relay   relay.Options
	options receipt.Options
	prefix  string // of the topics
}

func newBench(t *testing.T) *bench {
	t.Helper()
	brokers := stacktest.Kafka(t)
	dsn := stacktest.Database(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	name := db.Config().Database
	b := &bench{t: t, db: db, store: checkpoint.NewFile(filepath.Join(t.TempDir(), "checkpoint")), prefix: name + "."}
	b.exec(`create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text,
		type text not null default 'placed', payload text, at timestamptz not null default clock_timestamp())`)
	if b.client, err = kgo.NewClient(kgo.SeedBrokers(brokers...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	source := wal.Options{DSN: dsn, Slot: name, Publication: "tidemark", Tables: []string{"public.outbox"}, StatusInterval: 50 * time.Millisecond}
	tables := []decode.Table{{
		Name:    "public.outbox",
		Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload", Timestamp: "at"},
		Topic:   b.prefix + "{aggregatetype}",
	}}
	kafka := publish.Options{Brokers: brokers, Topics: publish.TopicOptions{Create: true, Partitions: 3, ReplicationFactor: -1}}
	b.relay = relay.Options{
		Source: source, Tables: tables, Kafka: kafka, Store: b.store, Create: true, ExistingRows: true, ResumeDedupe: true,
		OnPoison: relay.Park, MaxBufferedBytes: 32 << 20, CheckpointEvery: 20 * time.Millisecond, DrainTimeout: 10 * time.Second,
		DeadLetterTopic: b.prefix + "dead", ParkDSN: dsn, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	}
	b.options = receipt.Options{
		Source: source, Tables: tables, Kafka: kafka, DeadLetterTopic: b.prefix + "dead", Depth: 100_000, Timeout: limit,
		SourceName: func(s wal.System) string { return relay.SourceName(s, source.Slot) },
		Stored: func(ctx context.Context, _ wal.System) (pglogrepl.LSN, error) {
			c, err := b.store.Load(ctx)
			if err != nil || c == nil {
				return 0, err
			}
			return pglogrepl.LSN(c.LSN), nil
		},
		Parked: func(ctx context.Context, source, id string) (out []receipt.Parked, err error) {
			table, err := park.OpenExisting(ctx, dsn, source)
			if park.IsNoTable(err) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			defer table.Close()
			events, err := table.Show(ctx, id)
			if park.IsNotFound(err) {
				return nil, nil
			}
			for _, e := range events {
				out = append(out, receipt.Parked{Position: e.Event.Position.String(), Reason: e.Reason, State: e.State.String()})
			}
			return out, err
		},
	}
	return b
}

func (b *bench) exec(sql string) {
	b.t.Helper()
	if _, err := b.db.Exec(b.t.Context(), sql); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// insert commits a row of key k and returns its id.
func (b *bench) insert(kind string) (id string) {
	b.t.Helper()
	err := b.db.QueryRow(b.t.Context(), "insert into outbox (aggregatetype, aggregateid, payload) values ($1, 'k', 'x') returning id::text", kind).Scan(&id)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// start runs a relay until stop, or the end of the test.
func (b *bench) start() (stop func()) {
	b.t.Helper()
	o := b.relay
	o.Metrics = relay.NewMetrics(prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	r := relay.New(o)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }() // ends with stop
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			if err := <-done; err != nil {
				b.t.Errorf("Run: %v", err)
			}
		}
	}
	b.t.Cleanup(stop)
	b.eventually("the relay streams", func() bool { return r.Ready() == nil })
	return stop
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s", what)
		}
	}
}

// settled waits until the relay has stored what is committed now.
func (b *bench) settled() {
	b.t.Helper()
	var at string
	if err := b.db.QueryRow(b.t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&at); err != nil {
		b.t.Fatal(err)
	}
	end, err := pglogrepl.ParseLSN(at)
	if err != nil {
		b.t.Fatal(err)
	}
	b.eventually("everything is stored", func() bool {
		c, err := b.store.Load(b.t.Context())
		return err == nil && c != nil && pglogrepl.LSN(c.LSN)+40 >= end
	})
}

func (b *bench) find(id string, change ...func(*receipt.Options)) *receipt.Receipt {
	b.t.Helper()
	o := b.options
	for _, f := range change {
		f(&o)
	}
	r, err := receipt.Find(b.t.Context(), o, id)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("%s: %s: %s; records %+v; searched %q, not %q", id, r.State, r.Text, r.Records, r.Searched, r.NotSearched)
	return r
}

// must finds an event that has to be in this state, with that many records.
func (b *bench) must(id string, state receipt.State, records int, change ...func(*receipt.Options)) *receipt.Receipt {
	b.t.Helper()
	r := b.find(id, change...)
	if state != receipt.NotYet { // the tests beside this one write to the same log, and for a moment the relay is behind it again
		b.eventually("the relay has read the log to its end", func() bool {
			if r.State == receipt.NotYet {
				r = b.find(id, change...)
			}
			return r.State != receipt.NotYet
		})
	}
	if r.State != state || len(r.Records) != records || r.InKafka() != (records > 0) {
		b.t.Errorf("event %s is %s (%s) with %d records, want %s with %d", id, r.State, r.Text, len(r.Records), state, records)
	}
	if len(r.Searched) == 0 {
		b.t.Errorf("event %s: it is not said what was searched", id)
	}
	return r
}

// written has the client write a record.
func (b *bench) written(client *kgo.Client, r *kgo.Record) {
	b.t.Helper()
	if err := client.ProduceSync(b.t.Context(), r).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

// TestReceiptSaysWhereAnEventIs: a fresh one, an old one among many, a parked, an unpublished, a pruned, an unknown one.
func TestReceiptSaysWhereAnEventIs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	old := b.insert("a")
	b.exec("insert into outbox (aggregatetype, aggregateid, payload) select 'a', 'k' || i % 50, i from generate_series(1, 20000) i")
	fresh := b.insert("a")
	poisoned := b.insert("not a topic")
	b.settled()

	r := b.must(old, receipt.Published, 1)
	want := publish.PartitionOf([]byte("k"), 3)
	if x := r.Records[0]; x.Topic != b.prefix+"a" || x.Partition != want || x.Offset != 0 || len(x.Position) != 25 || x.Source == "" || x.Replayed || x.Duplicate {
		t.Errorf("the old event: %+v, want offset 0 of partition %d", x, want)
	}
	r = b.must(fresh, receipt.Published, 1)
	if x := r.Records[0]; x.Offset < 1 || len(r.NotSearched) != 1 || !strings.Contains(r.NotSearched[0], "records") {
		t.Errorf("the fresh event: %+v, not searched: %q: all was searched", x, r.NotSearched)
	}
	b.must(strings.ToUpper(fresh), receipt.Published, 1) // as Postgres reads it
	if r := b.must(poisoned, receipt.ParkedAway, 0); !strings.Contains(r.Text, "topic") {
		t.Errorf("the parked event: %s", r.Text)
	}
	b.must("00000000-0000-0000-0000-000000000000", receipt.NotFound, 0)
	b.must("no uuid", receipt.NotFound, 0)

	stop()
	coming := b.insert("a")
	if r := b.must(coming, receipt.NotYet, 0); !strings.Contains(r.Text, "no relay runs") || r.LagBytes == nil || *r.LagBytes == 0 {
		t.Errorf("the unpublished event: %s", r.Text)
	}
	nowhere := b.insert("b")
	b.must(nowhere, receipt.NotYet, 0) // a topic that is not there

	b.exec("delete from outbox where id in ('" + fresh + "', '" + old + "')")
	b.must(fresh, receipt.Published, 1)
	shallow := func(o *receipt.Options) { o.Depth = 10 }
	r = b.must(old, receipt.NotFound, 0, shallow)
	if len(r.NotSearched) == 0 || !strings.Contains(r.NotSearched[0], "--depth") {
		t.Errorf("an event that lies deeper than was looked: not searched: %q", r.NotSearched)
	}
	b.must(old, receipt.Published, 1, shallow, func(o *receipt.Options) { o.Topic, o.Key, o.Depth = b.prefix+"a", "k", 0 })
	b.must(old, receipt.NotFound, 0, func(o *receipt.Options) { o.Topic = b.prefix + "none" })

	b.start()
	b.settled()
	b.must(coming, receipt.Published, 1)
	b.must(nowhere, receipt.Published, 1)
}

// TestReceiptCountsWhatIsCommittedAndListsAll: replays and duplicates are listed, aborted records are not, dead letters
// are known as such, and what a lost slot has left out is missing.
func TestReceiptCountsWhatIsCommittedAndListsAll(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.relay.OnPoison = relay.DeadLetter
	stop := b.start()
	id, dead := b.insert("a"), b.insert("not a topic")
	b.settled()
	stop()
	first := b.must(id, receipt.Published, 1).Records[0]
	r := b.must(dead, receipt.DeadLettered, 1)
	if !r.Records[0].DeadLetter {
		t.Errorf("a dead letter: %+v", r.Records[0])
	}

	copyOf := func(id string, headers ...kgo.RecordHeader) *kgo.Record {
		headers = append([]kgo.RecordHeader{
			{Key: "id", Value: []byte(id)}, {Key: "tidemark-position", Value: []byte(first.Position)}, {Key: "tidemark-source", Value: []byte(first.Source)},
		}, headers...)
		return &kgo.Record{Topic: first.Topic, Key: []byte("k"), Headers: headers}
	}
	b.written(b.client, copyOf(id))
	b.written(b.client, copyOf(id, kgo.RecordHeader{Key: "tidemark-replay", Value: []byte("x")}))
	r = b.must(id, receipt.Published, 3)
	marks := fmt.Sprint(r.Records[0].Duplicate, r.Records[1].Duplicate, r.Records[2].Duplicate, r.Records[2].Replayed)
	if marks != "false true false true" {
		t.Errorf("records %+v: %s", r.Records, marks)
	}

	lost := b.insert("a")
	stacktest.DropSlot(t, b.relay.Source.DSN, b.relay.Source.Slot)
	b.options.Stored = func(context.Context, wal.System) (pglogrepl.LSN, error) { return 1 << 62, nil } // it was adopted
	b.must(lost, receipt.Missing, 0)
	for _, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		client, err := kgo.NewClient(kgo.SeedBrokers(b.options.Kafka.Brokers...), kgo.TransactionalID(b.prefix+"test"))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		b.written(client, copyOf(lost))
		if r := b.must(lost, receipt.Unknown, 0); !slices.ContainsFunc(r.NotSearched, func(s string) bool { return strings.Contains(s, "still open") }) {
			t.Errorf("an open transaction is not spoken of: %q", r.NotSearched)
		}
		if err := client.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
		client.Close()
		// The coordinator writes the markers a moment later.
		state, n := receipt.Missing, 0
		if commit == kgo.TryCommit {
			state, n = receipt.Published, 1
		}
		b.eventually("the transaction has ended", func() bool { return b.find(lost).State != receipt.Unknown })
		b.must(lost, state, n)
	}
}

// TestReceiptWithoutAnyTime: nothing tells where to look, so the ends are read, as deep as was asked; and what lies deeper is
// not taken for absent.
func TestReceiptWithoutAnyTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Tables = slices.Clone(b.options.Tables)
	b.options.Tables[0].Columns.Timestamp = "" // and the ids are of version 4
	b.start()
	old := b.insert("a")
	const epoch = "00000000-0000-7000-8000-000000000001" // which reads as of version 7, from before there was Kafka
	b.exec("insert into outbox (id, aggregatetype, aggregateid, payload) values ('" + epoch + "', 'a', 'k', 'x')")
	b.exec("insert into outbox (aggregatetype, aggregateid, payload) select 'a', 'k', i from generate_series(1, 20000) i")
	b.settled()
	b.must(old, receipt.Published, 1)
	b.must(epoch, receipt.Published, 1)
	r := b.must(old, receipt.Unknown, 0, func(o *receipt.Options) { o.Depth = 10 })
	if !slices.ContainsFunc(r.NotSearched, func(s string) bool { return strings.Contains(s, "--depth") }) {
		t.Errorf("it is not said that more could be read: %q", r.NotSearched)
	}
	b.must(old, receipt.Published, 1, func(o *receipt.Options) { o.Depth = 0 })
	lost := b.insert("b") // whose topic is not there when it is looked for
	b.settled()
	if _, err := kadm.NewClient(b.client).DeleteTopics(t.Context(), b.prefix+"b"); err != nil {
		t.Fatal(err)
	}
	b.must(lost, receipt.Missing, 0, func(o *receipt.Options) { o.Depth = 0 })
}

// TestReceiptIsBoundedInTime: a Kafka that does not answer is said, and the table is searched all the same.
func TestReceiptIsBoundedInTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()()
	id := b.insert("a")
	b.options.Kafka.Brokers = []string{"127.0.0.1:1"}
	r := b.must(id, receipt.NotYet, 0, func(o *receipt.Options) { o.Timeout = 2 * time.Second })
	if len(r.Rows) != 1 || len(r.NotSearched) == 0 || !strings.Contains(r.NotSearched[0], "Kafka") {
		t.Errorf("rows %v, not searched %q", r.Rows, r.NotSearched)
	}
}
