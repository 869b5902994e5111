package relay_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

const outboxTable = `create table outbox (
	id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null,
	type text not null, payload jsonb)`

// bench is a source with an outbox table, a Kafka in the process, and a relay between them that a test starts and stops.
type bench struct {
	t       *testing.T
	dsn     string
	slot    string
	db      *pgx.Conn
	cluster *kfake.Cluster
	store   *checkpoint.File
	options relay.Options
}

// exactlyOnceTests begins the names of tests whose relays publish in Kafka transactions.
const exactlyOnceTests = "TestExactlyOnce"

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchOn(t, stacktest.Database(t))
}

// newBenchOn makes one on an empty database.
func newBenchOn(t *testing.T, dsn string) *bench {
	t.Helper()
	b := &bench{t: t, dsn: dsn}
	db, err := pgx.Connect(t.Context(), b.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	b.db = db
	b.exec(outboxTable)
	b.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.cluster.Close)
	b.slot = db.Config().Database
	b.store = checkpoint.NewFile(filepath.Join(t.TempDir(), "checkpoint"))
	b.options = relay.Options{
		Source: wal.Options{
			DSN: b.dsn, Slot: b.slot, Publication: "tidemark", Tables: []string{"public.outbox"}, StatusInterval: 100 * time.Millisecond,
		},
		Tables: []decode.Table{{
			Name:    "public.outbox",
			Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
			Topic:   "outbox.event.{aggregatetype}",
		}},
		Kafka:  publish.Options{Brokers: b.cluster.ListenAddrs(), Compression: "lz4", Topics: publish.TopicOptions{Create: true, Partitions: -1, ReplicationFactor: -1}},
		Store:  b.store,
		Create: true, ExistingRows: true,
		MaxBufferedBytes: 32 << 20, CheckpointEvery: 20 * time.Millisecond, DrainTimeout: 10 * time.Second,
	}
	if strings.HasPrefix(t.Name(), exactlyOnceTests) {
		b.exactlyOnce()
	}
	return b
}

// exactlyOnce makes the relay publish in Kafka transactions, with the checkpoint in them.
func (b *bench) exactlyOnce() *bench {
	b.t.Helper()
	client, err := b.options.Kafka.ClientOptions()
	if err != nil {
		b.t.Fatal(err)
	}
	store := checkpoint.NewKafka(checkpoint.KafkaOptions{
		Client: client, Topic: "tidemark.checkpoints", Key: checkpoint.Key(b.db.Config().Database, b.slot), Create: true, ReplicationFactor: -1,
	})
	b.t.Cleanup(store.Close)
	b.options.Store = store
	b.options.ExactlyOnce, b.options.ResumeDedupe = true, true
	b.options.Kafka.TransactionalID = store.TransactionalID()
	return b
}

func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.db.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// insert commits n rows in one transaction.
func (b *bench) insert(n int) {
	b.t.Helper()
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'order', (g % 7)::text, 'placed', jsonb_build_object('n', g) from generate_series(1, $1) g`, n)
}

// running is a relay that runs until stop.
type running struct {
	t      *testing.T
	relay  *relay.Relay
	cancel context.CancelFunc
	done   chan error
}

func (b *bench) start() *running {
	b.t.Helper()
	o := b.options
	o.Log = zerolog.New(zerolog.NewTestWriter(b.t)).Level(zerolog.DebugLevel)
	o.Metrics = relay.NewMetrics(prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: b.t, relay: relay.New(o), cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- r.relay.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		_ = r.wait() // the test itself looks at what it returns
	})
	return r
}

// wait returns what Run returns.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- err // for the clean-up
		return err
	case <-time.After(time.Minute):
		r.t.Fatal("the relay does not stop")
		return nil
	}
}

func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := r.wait(); err != nil {
		r.t.Fatalf("Run: %v", err)
	}
}

// eventually waits for what must come, for as long as a slow machine may need.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// records reads the topic until it has n records, and then makes sure that no more come.
func (b *bench) records(topic string, n int) []*kgo.Record {
	b.t.Helper()
	records := b.read(topic, n)
	if len(records) != n {
		b.t.Fatalf("topic %s has %d records, want %d: %.200q", topic, len(records), n, values(records))
	}
	return records
}

// read reads the topic until it has n records, and what comes within a moment after that.
func (b *bench) read(topic string, n int) []*kgo.Record {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond), kgo.UnknownTopicRetries(-1),
		kgo.FetchIsolationLevel(kgo.ReadCommitted())) // what is not committed is nobody's to see
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	poll := func(limit time.Duration) {
		ctx, cancel := context.WithTimeout(b.t.Context(), limit)
		defer cancel()
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { records = append(records, r) })
	}
	for deadline := time.Now().Add(time.Minute); len(records) < n && time.Now().Before(deadline); {
		poll(time.Second)
	}
	poll(200 * time.Millisecond)
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

// mustArriveInOrder checks that each id arrives once, and positions grow within a partition.
func mustArriveInOrder(t *testing.T, records []*kgo.Record) {
	t.Helper()
	seen := map[string]bool{}
	last := map[int32]string{}
	for _, r := range records {
		id, position := header(r, "id"), header(r, "tidemark-position")
		if id == "" || seen[id] {
			t.Errorf("id %q arrived twice or is empty", id)
		}
		seen[id] = true
		if position <= last[r.Partition] {
			t.Errorf("partition %d: position %s after %s", r.Partition, position, last[r.Partition])
		}
		last[r.Partition] = position
	}
}
