package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

// TestMain lets this binary stand for a consumer's process: see TestEachEventOnceWhateverHappensToItsConsumers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "consume" {
		if err := consume(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	stacktest.Main(m)
}

// server is what the tests run against: the newest Postgres, or TIDEMARK_TEST_POSTGRES.
func server() devstack.PostgresOptions {
	return devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// ledger is a database in which every effect of an event leaves a row, however many there are, with the number of the
// event of that key that had its effect before.
type ledger struct {
	dsn  string
	pool *pgxpool.Pool
}

func newLedger(t *testing.T) ledger {
	t.Helper()
	l := ledger{dsn: stacktest.Database(t, server())}
	config, err := pgxpool.ParseConfig(l.dsn)
	must(t, err)
	config.MaxConns = 12
	l.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(l.pool.Close)
	must(t, inbox.Create(t.Context(), l.pool))
	_, err = l.pool.Exec(t.Context(), `
		create table accounts (key text primary key, last int not null);
		create table effects (n bigint generated always as identity, id text, key text, number int, before int);
		create table mended ()`)
	must(t, err)
	return l
}

// book is the effect of an event: the key's account stands at its number afterwards.
func book(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
	number, err := strconv.Atoi(string(e.Value))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into effects (id, key, number, before) select $1, $2, $3, coalesce((select last from accounts where key = $2), 0)`,
		e.ID, string(e.Key), number); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `insert into accounts values ($1, $2) on conflict (key) do update set last = excluded.last`, string(e.Key), number)
	return err
}

func (l ledger) count(ctx context.Context, from string) (n int, err error) {
	err = l.pool.QueryRow(ctx, "select count(*) from "+from).Scan(&n)
	return n, err
}

// mustHave waits until there are n rows (or more) of that kind.
func (l ledger) mustHave(t *testing.T, n int, from string) {
	t.Helper()
	got := 0
	eventually(t, func() bool {
		var err error
		got, err = l.count(t.Context(), from)
		must(t, err)
		return got >= n
	}, func() string { return fmt.Sprintf("%d rows in %s, want %d", got, from, n) })
}

// mustBalance checks that each event of the keys had its effect once, in the order of the key.
func (l ledger) mustBalance(t *testing.T, keys, events int) {
	t.Helper()
	for what, from := range map[string]string{
		"more than one effect":       "(select id from effects group by id having count(*) > 1) s",
		"an effect out of order":     "effects where before <> number - 1",
		"an effect of no such event": "effects where id like 'aborted%'",
	} {
		n, err := l.count(t.Context(), from)
		must(t, err)
		if n != 0 {
			t.Errorf("%d events have %s", n, what)
		}
	}
	n, err := l.count(t.Context(), "effects")
	must(t, err)
	if n != keys*events {
		t.Errorf("%d effects of %d events", n, keys*events)
	}
	if n, err = l.count(t.Context(), fmt.Sprintf("accounts where last = %d", events)); err != nil || n != keys {
		t.Errorf("%d of %d accounts are at their end, %v", n, keys, err)
	}
}

func eventually(t *testing.T, done func() bool, state func() string) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatal(state())
		}
	}
}

// record is the number-th event of a key.
func record(topic, key string, number int) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Key: []byte(key), Value: strconv.AppendInt(nil, int64(number), 10),
		Headers: []kgo.RecordHeader{{Key: "id", Value: fmt.Appendf(nil, "%s-%d", key, number)}},
	}
}

//nolint:gochecknoglobals // names must differ among all tests of a process, however often they run
var topics atomic.Int32

// topic is a new one on these brokers.
func topic(t *testing.T, brokers []string, partitions int32) (string, *kgo.Client) {
	t.Helper()
	name := fmt.Sprintf("%s.%d", strings.ToLower(strings.Split(t.Name(), "/")[0]), topics.Add(1))
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(name))
	must(t, err)
	t.Cleanup(client.Close)
	_, err = kadm.NewClient(client).CreateTopic(t.Context(), partitions, 1, nil, name)
	must(t, err)
	return name, client
}

func produce(t *testing.T, client *kgo.Client, records ...*kgo.Record) {
	t.Helper()
	must(t, client.ProduceSync(t.Context(), records...).FirstErr())
}

// config is one that does not let a test wait.
func config(brokers []string, topic string, db consumer.DB) consumer.Config {
	return consumer.Config{
		Kafka: []kgo.Opt{
			kgo.SeedBrokers(brokers...), kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(200 * time.Millisecond),
			kgo.FetchMaxWait(200 * time.Millisecond),
		},
		Group: topic, Topics: []string{topic}, DB: db, Handle: book,
		Backoff: 2 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Attempts: 4,
		CommitInterval: 50 * time.Millisecond, ReleaseInterval: 50 * time.Millisecond,
	}
}

// run starts a consumer in this process, and returns it with what ends it.
func run(t *testing.T, cfg consumer.Config) (c *consumer.Consumer, stop func()) {
	t.Helper()
	if cfg.Hooks.Error == nil {
		cfg.Hooks.Error = func(err error) { t.Log(err) }
	}
	c, err := consumer.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }() // ends with ctx
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return c, stop
}

var errRefused = errors.New("refused")

// example stands for the test that an example has not, to share the tests' server.
type example struct{ testing.TB }

func (example) Helper()                           {}
func (example) Context() context.Context          { return context.Background() }
func (example) Log(...any)                        {}
func (example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
