package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/relay"
)

// What holds at least once holds exactly once, as a consumer of committed records sees it: which is what bench.records
// is.
func TestExactlyOnceAlso(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"order":           TestCommittedRowsArriveOnceInOrder,
		"lost connection": TestLostConnectionIsTakenUpWhereItBroke,
		"bounds":          TestNoMoreIsReadThanMayBeInFlight,
		"stop":            TestPoisonStopsBehindWhatCameBefore,
		"mended":          TestRejectedEventIsPublishedWhenTheCauseIsMended,
		"dead letter":     TestDeadLetterGoesOnAndKeepsTheEvent,
		"rejection":       TestRejectionIsPinnedOnItsEvent,
		"park":            TestParkedEventHoldsItsKeyAndNothingElse,
		"discard":         TestDiscardedEventLetsItsKeyGo,
		"partitions":      TestAddedPartitionsAreAdoptedBetweenEvents,
		"unreadable":      TestRowsBeforeOneThatCannotBeReadArrive,
	} {
		t.Run(name, test)
	}
}

// transactions returns how many Kafka transactions the records are in. One that is in none counts as one.
func transactions(records []*kgo.Record) int {
	all := map[string]bool{}
	for _, r := range records {
		all[fmt.Sprint(r.Attrs.IsTransactional(), r.ProducerID, r.ProducerEpoch)] = true
	}
	return len(all)
}

// ofCommit returns the records of the database transaction with the n-th smallest commit.
func ofCommit(records []*kgo.Record, n int) (of []*kgo.Record) {
	commit := func(r *kgo.Record) string { return strings.Split(header(r, "tidemark-position"), "-")[0] }
	var commits []string
	for _, r := range records {
		commits = append(commits, commit(r))
	}
	slices.Sort(commits)
	commits = slices.Compact(commits)
	for _, r := range records {
		if n < len(commits) && commit(r) == commits[n] {
			of = append(of, r)
		}
	}
	return of
}

// createSlot starts and stops the relay, so that what is inserted from here on is read from the log.
func (b *bench) createSlot() {
	b.t.Helper()
	r := b.start()
	eventually(b.t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	r.stop()
}

func mustBeWhole(t *testing.T, records []*kgo.Record, commits int) {
	t.Helper()
	for n := range commits {
		of := ofCommit(records, n)
		if got := transactions(of); got != 1 || !of[0].Attrs.IsTransactional() {
			t.Errorf("the %d events of commit %d are in %d Kafka transactions", len(of), n, got)
		}
	}
}

func TestExactlyOnceKeepsTransactionsWhole(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	var slow atomic.Bool
	b.slowly(&slow)
	slow.Store(true) // so that groups hold several transactions, and transactions several bursts
	for range 20 {
		b.insert(700)
	}
	slow.Store(false)
	records := b.records("outbox.event.order", 14_001)
	mustArriveInOrder(t, records)
	mustBeWhole(t, records, 21)
	r.stop()
}

// The events of one key in a poisoned transaction must not become visible without the others, whatever was in the group
// beside them; and the transactions before it must.
func TestExactlyOnceLeavesAPoisonedTransactionOut(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"seen before": strings.Repeat("x", 2<<20), "refused by the broker": "REFUSED"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.OnPoison = relay.Stop
			b.rejects("REFUSED")
			b.createSlot()
			for i := range 3 {
				b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
					select 'good', g::text, 'placed', to_jsonb(format('%s-%s', $1::int, g)) from generate_series(1, 3) g`, i)
			}
			b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
				select 'good', g::text, 'placed', case when g = 2 then to_jsonb($1::text) else to_jsonb('torn-' || g) end from generate_series(1, 3) g`, text)
			b.event("k", "good", "after")
			err := b.start().wait()
			if poisoned := (*relay.PoisonError)(nil); !errors.As(err, &poisoned) || !strings.Contains(string(poisoned.Event.Value), text) {
				t.Fatalf("Run returned %.300v", err)
			}
			records := b.records("outbox.event.good", 9)
			mustBe(t, "arrived", values(records), "0-1", "0-2", "0-3", "1-1", "1-2", "1-3", "2-1", "2-2", "2-3")
			mustBeWhole(t, records, 3)
		})
	}
}

// A dead letter and the rest of its transaction become visible together.
func TestExactlyOnceSetsAsideInsideTheTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.DeadLetterTopic = relay.DeadLetter, "dead"
	b.rejects("REFUSED")
	b.createSlot()
	b.event("k", "good", "before")
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'good', g::text, 'placed', case when g = 2 then to_jsonb('too large' || repeat('x', 2000000)) else to_jsonb('torn-' || g) end from generate_series(1, 3) g`)
	r := b.start()
	records := b.records("outbox.event.good", 3)
	letters := b.records("dead", 1)
	mustBeWhole(t, append(ofCommit(records, 1), letters...), 1)
	r.stop()
}

// A database transaction that takes longer than a Kafka transaction may is split, and is whole in the end also if the relay
// dies between the parts.
func TestExactlyOnceSplitsWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Kafka.Settings = map[string]string{"transaction.timeout.ms": "1000"}
	b.options.MaxBufferedBytes = 64 << 10
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	var slow atomic.Bool
	b.slowly(&slow)
	slow.Store(true)
	b.insert(8000)
	b.awaitRecords("outbox.event.order", 500) // a part of it
	r.stop()
	r = b.start()
	slow.Store(false)
	records := b.records("outbox.event.order", 8001)
	mustArriveInOrder(t, records)
	if n := transactions(ofCommit(records, 1)); n < 2 {
		t.Errorf("the transaction is in %d Kafka transactions: it was not split, and this test has shown nothing", n)
	}
	r.stop()
}

// awaitRecords waits until a consumer of committed records sees that many.
func (b *bench) awaitRecords(topic string, n int) {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	seen := 0
	eventually(b.t, fmt.Sprint(n, " records are committed"), func() bool {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		client.PollFetches(ctx).EachRecord(func(*kgo.Record) { seen++ })
		return seen >= n
	})
}

// A stop in the middle of what is done about an event: the event has neither been published nor set aside, so its
// transaction must not count as done.
func TestExactlyOnceStoppedWhileItParks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ParkDSN, b.options.DrainTimeout = relay.Park, b.dsn, 2*time.Second
	lot := b.lot()
	r := b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	b.exec("begin")
	b.exec("lock table tidemark_parked in share mode")
	other, err := pgx.Connect(t.Context(), b.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background()) //nolint:errcheck // the test is over
	if _, err := other.Exec(t.Context(), `insert into outbox (aggregatetype, aggregateid, type, payload)
		select case when g = 2 then 'a/b' else 'good' end, g::text, 'placed', to_jsonb(g) from generate_series(1, 3) g`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is being parked", func() bool { return strings.Contains(r.relay.Status().LastError, "has locked public.tidemark_parked") })
	r.stop()
	b.exec("rollback")
	r = b.start()
	b.parkedIs(lot, 1)
	mustBeWhole(t, b.records("outbox.event.good", 2), 1)
	r.stop()
}

// meddled is a store in which somebody else stores a checkpoint just after it was looked at.
type meddled struct {
	*checkpoint.Kafka
	looks atomic.Int64
}

func (m *meddled) Load(ctx context.Context) (*checkpoint.Checkpoint, error) {
	c, err := m.Kafka.Load(ctx)
	if err == nil && c != nil && m.looks.Add(1) == 1 {
		other := *c
		other.Writer = "somebody else"
		err = m.Save(ctx, &other, c.Writer)
	}
	return c, err
}

// Whoever stores a checkpoint between our look at it and our fence may have published what comes before it.
func TestExactlyOnceLooksAgainBehindItsFence(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.createSlot()
	store, _ := b.options.Store.(*checkpoint.Kafka)
	b.options.Store = &meddled{Kafka: store}
	r := b.start()
	eventually(t, "the relay has seen it", func() bool { return strings.Contains(r.relay.Status().LastError, "the checkpoint has moved meanwhile") })
	b.insert(3)
	mustArriveInOrder(t, b.records("outbox.event.order", 3))
	r.stop()
}

// Whoever else begins to publish under the transactional id ends this relay's term at its next commit, and what it had
// under way is published again by the next one, once.
func TestExactlyOnceFencedRelayStartsOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.start()
	want := 0
	for range 5 {
		b.insert(50)
		want += 50
		b.records("outbox.event.order", want)
		if err := b.options.Kafka.Fence(t.Context(), b.options.Kafka.TransactionalID); err != nil {
			t.Fatal(err)
		}
		b.insert(50)
		want += 50
		eventually(t, "the relay says why", func() bool { return strings.Contains(r.relay.Status().LastError, "fenced: another process") })
	}
	records := b.records("outbox.event.order", want)
	mustArriveInOrder(t, records)
	mustBeWhole(t, records, 10)
	r.stop()
}

// The mode may change from one start to the next, and whatever the one has left behind is neither lost nor doubled by the
// other: also a transaction that nobody has ended.
func TestExactlyOnceComesAndGoes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.DrainTimeout = 200 * time.Millisecond
	id := b.options.Kafka.TransactionalID
	var noEnd atomic.Bool
	b.cluster.ControlKey(int16(kmsg.EndTxn), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if !noEnd.Load() {
			return nil, nil, false
		}
		response, _ := request.ResponseKind().(*kmsg.EndTxnResponse)
		response.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return response, nil, true
	})
	want := 0
	for round, successor := range []bool{true, false, true, true, false} {
		b.options.ExactlyOnce, b.options.Kafka.TransactionalID = successor, ""
		if successor {
			b.options.Kafka.TransactionalID = id
		}
		r := b.start()
		b.insert(20)
		want += 20
		records := b.records("outbox.event.order", want)
		mustArriveInOrder(t, records)
		if last := records[want-1]; last.Attrs.IsTransactional() != successor && round == 0 {
			t.Errorf("round %d: transactional %v", round, !successor)
		}
		noEnd.Store(successor)
		b.insert(10)
		want += 10
		eventually(t, "the last rows are in Kafka", func() bool { return len(b.uncommitted("outbox.event.order")) >= want })
		r.stop()
		noEnd.Store(false)
	}
	r := b.start()
	mustArriveInOrder(t, b.records("outbox.event.order", want))
	r.stop()
}

// uncommitted returns all records of the topic, those of aborted and of open transactions included.
func (b *bench) uncommitted(topic string) (records []*kgo.Record) {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	for {
		ctx, cancel := context.WithTimeout(b.t.Context(), 200*time.Millisecond)
		fetched := client.PollFetches(ctx).Records()
		cancel()
		if len(fetched) == 0 {
			return records
		}
		records = append(records, fetched...)
	}
}

// What is released goes in as few Kafka transactions as it can: one an event would be slower than new ones may be parked
// behind it. An event that Kafka refuses costs the others nothing but time.
func TestExactlyOnceReleasesTogether(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"rows from before the slot": true, "rows from the log": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			if !before {
				b.createSlot()
			}
			b.releasesTogether()
		})
	}
}

func (b *bench) releasesTogether() {
	t := b.t
	t.Helper()
	b.options.OnPoison, b.options.ParkDSN = relay.Park, b.dsn
	b.rejects("REFUSED")
	lot := b.lot()
	const behind = 100
	for _, key := range []string{"k", "m"} {
		b.event(key, "good", strings.Repeat("x", 2<<20)) // above the topic's limit
		b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload) select 'good', $1, 'placed', to_jsonb(g) from generate_series(1, $2) g`, key, behind)
	}
	b.event("o", "good", "REFUSED")
	b.event("o", "good", "o2")
	r := b.start()
	b.parkedIs(lot, 2*(1+behind)+2)
	b.raiseLimit()
	if _, err := lot.ReleaseKey(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	b.parkedIs(lot, 1+behind+2)
	records := b.records("outbox.event.good", 1+behind)
	if n := transactions(records); n > 3 { // they may be released while it looks
		t.Errorf("%d events are in %d Kafka transactions", len(records), n)
	}

	if _, err := lot.ReleaseAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.parkedIs(lot, 2) // the refused one, and what waits behind it
	mustArriveInOrderPerKey(t, b.records("outbox.event.good", 2*(1+behind)))
	b.event("n", "good", "n1") // and the rest goes on
	b.records("outbox.event.good", 2*(1+behind)+1)
	r.stop()
}
