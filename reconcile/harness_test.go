package reconcile_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
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
	"github.com/tidemark/tidemark/reconcile"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

const limit = time.Minute

// bench is a source with an outbox table, a Kafka in the process, a relay between them, and what verifies them.
type bench struct {
	t      *testing.T
	db     *pgx.Conn
	admin  *kadm.Client
	client *kgo.Client
	store  *checkpoint.File
	relay  relay.Options
	verify reconcile.Options
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dsn := stacktest.Database(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	b := &bench{t: t, db: db, store: checkpoint.NewFile(filepath.Join(t.TempDir(), "checkpoint"))}
	b.exec(`create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text,
		type text not null default 'placed', payload text)`)
	brokers := stacktest.FakeKafka(t)
	b.client, err = kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	b.admin = kadm.NewClient(b.client)
	source := wal.Options{
		DSN: dsn, Slot: db.Config().Database, Publication: "tidemark", Tables: []string{"public.outbox"}, StatusInterval: 50 * time.Millisecond,
	}
	tables := []decode.Table{{
		Name:    "public.outbox",
		Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
		Topic:   "out.{aggregatetype}",
	}}
	kafka := publish.Options{Brokers: brokers, Topics: publish.TopicOptions{Create: true, Partitions: 3, ReplicationFactor: -1}}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
	b.relay = relay.Options{
		Source: source, Tables: tables, Kafka: kafka, Store: b.store, Create: true, ExistingRows: true, ResumeDedupe: true,
		MaxBufferedBytes: 32 << 20, CheckpointEvery: 20 * time.Millisecond, DrainTimeout: 10 * time.Second,
		DeadLetterTopic: "dead", ParkDSN: dsn, Log: log.Level(zerolog.WarnLevel),
	}
	b.verify = reconcile.Options{
		Source: source, Tables: tables, Kafka: kafka, DeadLetterTopic: "dead", Sample: 1, LongestTransaction: time.Second, Log: log,
		SourceName: func(s wal.System) string { return relay.SourceName(s, source.Slot) },
		Stored: func(ctx context.Context, _ wal.System) (pglogrepl.LSN, error) {
			c, err := b.store.Load(ctx)
			if err != nil || c == nil {
				return 0, err
			}
			return pglogrepl.LSN(c.LSN), nil
		},
		Parked: func(ctx context.Context, each func(topic, id string)) error {
			table, err := park.OpenExisting(ctx, dsn, "")
			if park.IsNoTable(err) {
				return nil
			}
			if err != nil {
				return err
			}
			defer table.Close()
			return table.Routes(ctx, each)
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

// insert commits n rows of a topic, each in a transaction of its own, of 7 keys in turn, and returns their ids.
func (b *bench) insert(kind string, n int) []string {
	b.t.Helper()
	var ids []string
	for i := range n {
		var id string
		err := b.db.QueryRow(b.t.Context(), "insert into outbox (aggregatetype, aggregateid, payload) values ($1, $2, $3) returning id::text",
			kind, fmt.Sprint("k", i%7), fmt.Sprint(i)).Scan(&id)
		if err != nil {
			b.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
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
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
	b.t.Cleanup(stop)
	b.eventually("the relay streams", func() bool { return r.Ready() == nil })
	return stop
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s", what)
		}
	}
}

// run verifies, having changed the options.
func (b *bench) run(change ...func(*reconcile.Options)) *reconcile.Report {
	b.t.Helper()
	r, err := b.try(change...)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) try(change ...func(*reconcile.Options)) (*reconcile.Report, error) {
	b.t.Helper()
	o := b.verify
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	return reconcile.Verify(ctx, o)
}

func repair(o *reconcile.Options) { o.Repair = true }

func undecidableToo(o *reconcile.Options) { o.Repair, o.RepairUndecidable = true, true }

// mustCount compares the counts that are not zero.
func (b *bench) mustCount(r *reconcile.Report, want map[reconcile.Fate]int64) {
	b.t.Helper()
	for fate, n := range r.Counts {
		if n != want[fate] {
			b.t.Errorf("%d rows are %s, want %d (all: %v, found %.300v)", n, fate, want[fate], r.Counts, r.Found)
		}
	}
}

// mustFind compares which rows were found to be of a fate, in the order of the table.
func (b *bench) mustFind(r *reconcile.Report, fate reconcile.Fate, want []string) {
	b.t.Helper()
	var got []string
	for _, f := range r.Found {
		if f.Fate == fate {
			got = append(got, f.ID)
		}
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("%d rows are found to be %s, want %d: %.300v, want %.300v", len(got), fate, len(want), got, want)
	}
}

// records reads a topic from its start to its end; in the order of their partitions.
func (b *bench) records(topic string) []*kgo.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	starts, err := b.admin.ListStartOffsets(ctx, topic)
	if err != nil {
		b.t.Fatal(err)
	}
	ends, err := b.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		b.t.Fatal(err)
	}
	scan := publish.Scan{}
	for partition, end := range ends[topic] {
		if end.Err == nil {
			scan.Spans = append(scan.Spans, publish.Span{Topic: topic, Partition: partition, From: starts[topic][partition].Offset, End: end.Offset})
		}
	}
	var records []*kgo.Record
	scan.Each = func(r *kgo.Record) { records = append(records, r) }
	if err := b.verify.Kafka.Scan(ctx, scan); err != nil {
		b.t.Fatal(err)
	}
	return records
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// mustHold checks that a topic holds each of the ids once and nothing else, and that those of a key come in this order.
func (b *bench) mustHold(topic string, ids []string) {
	b.t.Helper()
	at := map[string]int{}
	for i, id := range ids {
		at[id] = i
	}
	last := map[string]int{}
	seen := map[string]bool{}
	for _, r := range b.records(topic) {
		id := header(r, "id")
		i, ok := at[id]
		if !ok || seen[id] {
			b.t.Errorf("%s has id %s, which it must not have (any more)", topic, id)
			continue
		}
		seen[id] = true
		if before, ok := last[string(r.Key)]; ok && i < before {
			b.t.Errorf("%s: event %d of key %s comes behind event %d", topic, i, r.Key, before)
		}
		last[string(r.Key)] = i
	}
	if len(seen) != len(ids) {
		b.t.Errorf("%s has %d ids, want %d", topic, len(seen), len(ids))
	}
}

// published waits until the relay has stored everything that is in the table now.
func (b *bench) published() {
	b.t.Helper()
	var at string
	if err := b.db.QueryRow(b.t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&at); err != nil {
		b.t.Fatal(err)
	}
	end, err := pglogrepl.ParseLSN(at)
	if err != nil {
		b.t.Fatal(err)
	}
	b.eventually("everything is published", func() bool {
		c, err := b.store.Load(b.t.Context())
		return err == nil && c != nil && pglogrepl.LSN(c.LSN)+40 >= end
	})
}
