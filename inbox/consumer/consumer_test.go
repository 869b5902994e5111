package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

func TestAPoisonedEventHoldsItsKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	cfg := config(brokers, topic, l.pool)
	var tries, retries, held atomic.Int64
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		if mended, err := l.count(ctx, "effects where id = 'mended'"); err != nil || e.ID == "a-2" && mended == 0 {
			tries.Add(1)
			return errRefused
		}
		return book(ctx, tx, e)
	}
	cfg.Hooks.Retry = func(e inbox.Event, n int, wait time.Duration, err error) {
		retries.Add(1)
		if e.ID != "a-2" || n == 0 || wait <= 0 || !errors.Is(err, errRefused) {
			t.Errorf("event %s, attempt %d, then %s: %v", e.ID, n, wait, err)
		}
	}
	cfg.Hooks.Park = func(e inbox.Event, err error) {
		held.Add(1)
		if e.ID != "a-2" || !errors.Is(err, errRefused) {
			t.Errorf("event %s: %v", e.ID, err)
		}
	}
	run(t, cfg)
	for n := 1; n <= 4; n++ {
		produce(t, client, record(topic, "a", n), record(topic, "b", n))
	}
	l.mustHave(t, 5, "effects") // a-1 and b
	l.mustHave(t, 3, "inbox_parked")
	produce(t, client, record(topic, "a", 2)) // another copy
	produce(t, client, record(topic, "b", 5), record(topic, "a", 5))
	l.mustHave(t, 4, "inbox_parked")
	parked, err := inbox.ListParked(t.Context(), l.pool, topic, 100)
	must(t, err)
	if len(parked) != 4 || tries.Load() != 4 || retries.Load() != 3 || held.Load() != 1 {
		t.Fatalf("%d parked after %d attempts, %d to be tried again, %d held", len(parked), tries.Load(), retries.Load(), held.Load())
	}
	for i, p := range parked {
		if p.ID != fmt.Sprintf("a-%d", i+2) || p.Held != (i == 0) || strings.Contains(p.Reason, "refused") != (i == 0) || string(p.Value) != fmt.Sprint(i+2) {
			t.Errorf("parked is %s, held %v, because of %q, value %s", p.ID, p.Held, p.Reason, p.Value)
		}
	}

	// Released too early, it is tried as often again, and then held again.
	n, err := inbox.Release(t.Context(), l.pool, topic)
	must(t, err)
	l.mustHave(t, 1, "inbox_parked where held and attempts = 4")
	if n != 1 || tries.Load() != 8 {
		t.Errorf("%d released, %d attempts", n, tries.Load())
	}

	_, err = l.pool.Exec(t.Context(), "insert into effects (id, number, before) values ('mended', 1, 0)")
	must(t, err)
	n, err = inbox.Release(t.Context(), l.pool, topic, "a-2", "a-3")
	must(t, err)
	if n != 1 {
		t.Errorf("%d released", n)
	}
	l.mustHave(t, 11, "effects")
	_, err = l.pool.Exec(t.Context(), "delete from effects where id = 'mended'")
	must(t, err)
	l.mustBalance(t, 2, 5)
}

func TestAnEventThatIsDiscardedLetsItsKeyGo(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	cfg := config(brokers, topic, l.pool)
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		switch e.ID {
		case "a-1":
			return consumer.Poison(errRefused)
		case "b-1":
			panic("no such thing")
		}
		return book(ctx, tx, e)
	}
	run(t, cfg)
	noID := record(topic, "c", 1)
	noID.Headers = nil
	produce(t, client, record(topic, "a", 1), record(topic, "a", 2), record(topic, "b", 1), noID, record(topic, "c", 2))
	l.mustHave(t, 5, "inbox_parked")
	for id, want := range map[string]struct {
		reason   string
		attempts int
	}{
		"a-1": {"refused", 1}, "b-1": {"panic: no such thing", 4}, topic + "/0/3": {"no id that the inbox could keep", 0},
	} {
		var reason string
		var attempts int
		must(t, l.pool.QueryRow(t.Context(), "select reason, attempts from inbox_parked where id = $1 and held", id).Scan(&reason, &attempts))
		if !strings.Contains(reason, want.reason) || attempts != want.attempts {
			t.Errorf("%s: after %d attempts: %s", id, attempts, reason)
		}
	}
	if _, err := inbox.Discard(t.Context(), l.pool, topic); err == nil {
		t.Error("all are discarded at once")
	}
	n, err := inbox.Discard(t.Context(), l.pool, topic, "a-1", topic+"/0/3")
	must(t, err)
	if n != 2 {
		t.Errorf("%d discarded", n)
	}
	l.mustHave(t, 2, "effects where id in ('a-2', 'c-2')")
}

// flaky is a database that cannot be reached for a while.
type flaky struct {
	consumer.DB
	away   atomic.Bool
	failed atomic.Int64
}

func (f *flaky) Begin(ctx context.Context) (pgx.Tx, error) {
	if f.away.Load() {
		f.failed.Add(1)
		return nil, errors.New("no route to host")
	}
	return f.DB.Begin(ctx)
}

func TestNothingIsParkedWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	db := &flaky{DB: l.pool}
	db.away.Store(true)
	cfg := config(brokers, topic, db)
	var counted atomic.Int64
	var first sync.Once
	cfg.Hooks.Retry = func(_ inbox.Event, n int, _ time.Duration, _ error) { counted.Add(int64(n)) }
	cfg.Hooks.Error = func(error) {} // the look for parked events fails as well
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) (err error) {
		first.Do(func() { // a session that is ended is not the event's failure either
			_, err = tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
		})
		if err != nil {
			return err
		}
		return book(ctx, tx, e)
	}
	run(t, cfg)
	produce(t, client, record(topic, "a", 1), record(topic, "a", 2))
	eventually(t, func() bool { return db.failed.Load() > 10 }, func() string { return "nobody has tried" })
	db.away.Store(false)
	l.mustHave(t, 2, "effects")
	l.mustBalance(t, 1, 2)
	if n, err := l.count(t.Context(), "inbox_parked"); n != 0 || err != nil || counted.Load() != 0 {
		t.Errorf("%d parked, %v; %d attempts counted", n, err, counted.Load())
	}
}

// through books the event when the gate is open.
func through(ctx context.Context, gate <-chan struct{}, tx pgx.Tx, e inbox.Event) error {
	select {
	case <-gate:
		return book(ctx, tx, e)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestKeysAreHandledAtTheSameTimeAndMemoryIsBounded holds every handler up, and looks at what is there then.
func TestKeysAreHandledAtTheSameTimeAndMemoryIsBounded(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	const keys, events = 5, 20
	for n := range events {
		for k := range keys {
			produce(t, client, record(topic, fmt.Sprint(k), n+1))
		}
	}
	cfg := config(brokers, topic, l.pool)
	cfg.Concurrency, cfg.MaxRecords = 3, 30
	gate := make(chan struct{})
	var now, tooMany atomic.Int64
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		n := now.Add(1)
		defer now.Add(-1)
		if n > 3 {
			tooMany.Add(1)
		}
		return through(ctx, gate, tx, e)
	}
	c, _ := run(t, cfg)
	eventually(t, func() bool { held, _ := c.Held(); return held == 30 && now.Load() == 3 },
		func() string { held, _ := c.Held(); return fmt.Sprintf("%d records, %d under way", held, now.Load()) })
	close(gate)
	l.mustHave(t, keys*events, "effects")
	l.mustBalance(t, keys, events)
	eventually(t, func() bool { held, bytes := c.Held(); return held == 0 && bytes == 0 },
		func() string { held, bytes := c.Held(); return fmt.Sprintf("%d records, %d bytes", held, bytes) })
	if tooMany.Load() != 0 {
		t.Errorf("more than 3 at the same time, %d times", tooMany.Load())
	}
}

func TestNoMoreBytesAreTakenThanMayBe(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	cfg := config(brokers, topic, l.pool)
	cfg.MaxBytes = 1 // what one poll brings is beyond it
	gate := make(chan struct{})
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error { return through(ctx, gate, tx, e) }
	c, _ := run(t, cfg)
	produce(t, client, record(topic, "a", 1))
	eventually(t, func() bool { held, _ := c.Held(); return held == 1 }, func() string { return "nothing is taken" })
	produce(t, client, record(topic, "a", 2))
	produce(t, client, record(topic, "a", 3))
	if held, bytes := c.Held(); held != 1 || bytes == 0 {
		t.Errorf("%d records, %d bytes", held, bytes)
	}
	close(gate)
	l.mustHave(t, 3, "effects")
}

// TestWhatIsUnderWayEndsBeforeItsPartitionIsGivenAway: a second member joins while the first is in the middle of its
// handlers. None of them may be run twice, or be cancelled, and what they have done is committed before that: with a key a
// partition nothing is delivered twice.
func TestWhatIsUnderWayEndsBeforeItsPartitionIsGivenAway(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.Kafka(t), newLedger(t)
	const keys, events = 6, 8
	topic, _ := topic(t, brokers, keys)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	must(t, err)
	defer client.Close()
	for n := range events {
		for k := range keys {
			r := record(topic, fmt.Sprint(k), n+1)
			r.Partition = int32(k)
			produce(t, client, r)
		}
	}
	gate := make(chan struct{})
	var calls, repeated, cancelled atomic.Int64
	cfg := config(brokers, topic, l.pool)
	cfg.Concurrency = 6
	cfg.Hooks.Done = func(_ inbox.Event, outcome inbox.Outcome, _ time.Duration) {
		if outcome != inbox.Handled {
			repeated.Add(1)
		}
	}
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		calls.Add(1)
		select {
		case <-gate:
		case <-ctx.Done():
			cancelled.Add(1)
			return ctx.Err()
		}
		return book(ctx, tx, e)
	}
	first, _ := run(t, cfg)
	eventually(t, func() bool { return calls.Load() == 6 }, func() string { return fmt.Sprint(calls.Load(), " are under way") })
	run(t, cfg)
	eventually(t, func() bool { return first.Halted() > 0 || cancelled.Load() > 0 }, func() string { return "nothing is given away" })
	close(gate)
	l.mustHave(t, keys*events, "effects")
	l.mustBalance(t, keys, events)
	if calls.Load() != keys*events || repeated.Load() != 0 || cancelled.Load() != 0 {
		t.Errorf("%d events were handled %d times, %d came twice, %d were cancelled", keys*events, calls.Load(), repeated.Load(), cancelled.Load())
	}
}

// TestWhatTakesTooLongIsCancelled: the next owner handles it, in the order of its key.
func TestWhatTakesTooLongIsCancelled(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	produce(t, client, record(topic, "a", 1), record(topic, "a", 2))
	cfg := config(brokers, topic, l.pool)
	cfg.DrainTimeout = 10 * time.Millisecond
	stuck := cfg
	began := make(chan struct{}, 1)
	stuck.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		must(t, book(ctx, tx, e))
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	_, stop := run(t, stuck)
	<-began
	stop()
	committed, err := kadm.NewClient(client).FetchOffsets(t.Context(), topic)
	must(t, err)
	if o, ok := committed.Lookup(topic, 0); ok && o.At > 0 {
		t.Errorf("%d is committed", o.At)
	}
	run(t, cfg)
	l.mustHave(t, 2, "effects")
	l.mustBalance(t, 1, 2)
}

func TestStaleEventsAreDroppedWhereAsked(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.FakeKafka(t), newLedger(t)
	topic, client := topic(t, brokers, 1)
	cfg := config(brokers, topic, l.pool)
	cfg.DropStale = true
	var stale atomic.Int64
	cfg.Hooks.Done = func(e inbox.Event, outcome inbox.Outcome, _ time.Duration) {
		if outcome == inbox.Stale && e.ID == "a-2" {
			stale.Add(1)
		}
	}
	run(t, cfg)
	for _, n := range []int{1, 3, 2, 4} {
		r := record(topic, "a", n)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "tidemark-position", Value: fmt.Appendf(nil, "%016x-%08x", n, 0)})
		produce(t, client, r)
	}
	l.mustHave(t, 1, "effects where number = 4")
	if n, err := l.count(t.Context(), "effects"); n != 3 || err != nil || stale.Load() != 1 {
		t.Errorf("%d effects, %v; %d stale", n, err, stale.Load())
	}
}

func TestAConfigurationIsCheckedBeforeAnythingIsConnected(t *testing.T) {
	t.Parallel()
	_, err := consumer.New(consumer.Config{Attempts: -1})
	for _, want := range []string{"Group is missing", "Topics is missing", "DB is missing", "Handle is missing", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	_, err = consumer.New(consumer.Config{Group: "g", Topics: []string{"t"}, DB: &flaky{}, Handle: book, Kafka: []kgo.Opt{kgo.SeedBrokers()}})
	if err == nil {
		t.Error("no brokers, and no error")
	}
}
