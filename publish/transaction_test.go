package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// eachKafka runs a test on the fake that is always there and on a real one.
func eachKafka(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Helper()
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		test(t, newCluster(t, kfake.NumBrokers(2)).ListenAddrs())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		test(t, stacktest.Kafka(t))
	})
}

// transactor is a transactional publisher with a topic of two partitions, whose notes go to another topic.
type transactor struct {
	*outlet
	topic string
	n     int // events that were handed over
}

func newTransactor(t *testing.T, brokers []string, topic string) *transactor {
	t.Helper()
	o := Options{Brokers: brokers, TransactionalID: "tidemark-" + topic, Topics: TopicOptions{Create: true, Partitions: 2, ReplicationFactor: 1}}
	out := &outlet{t: t, more: make(chan struct{}, 1)}
	var err error
	if out.Publisher, err = Open(o, out.acked); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	eventually(t, "the topics are there", func() bool { return out.Prepare(t.Context(), []string{topic, topic + "-notes"}) == nil })
	return &transactor{outlet: out, topic: topic}
}

func (x *transactor) begin() {
	x.t.Helper()
	if err := x.Begin(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
}

// publish hands over an event for each name and waits until all have come back.
func (x *transactor) publish(names ...string) {
	x.t.Helper()
	for _, name := range names {
		ev := event(x.topic, int32(x.n%2), x.n)
		ev.Value = []byte(name)
		x.n++
		x.hand(ev)
	}
	x.answers(x.n)
}

func (x *transactor) commit(note string) error {
	ctx, cancel := context.WithTimeout(x.t.Context(), limit)
	defer cancel()
	return x.Commit(ctx, Note{Topic: x.topic + "-notes", Partition: 1, Key: []byte("k"), Value: []byte(note)}, nil)
}

func (x *transactor) mustCommit(note string) {
	x.t.Helper()
	if err := x.commit(note); err != nil {
		x.t.Fatal(err)
	}
}

// committed returns the values that a consumer of committed records finds in a topic, sorted, as soon as no transaction
// is open in it.
func committed(t *testing.T, brokers []string, topic string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	next := map[int32]int64{}
	behind := func() (behind bool) {
		ends.Each(func(o kadm.ListedOffset) { behind = behind || next[o.Partition] < o.Offset })
		return behind
	}
	var values []string
	for behind() {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("the end of %s cannot be read: read %v of %v", topic, next, ends)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
		})
	}
	slices.Sort(values)
	return values
}

func mustSee(t *testing.T, brokers []string, topic string, want ...string) {
	t.Helper()
	if got := committed(t, brokers, topic); !slices.Equal(got, want) {
		t.Errorf("consumers of committed records see %q in %s, want %q", got, topic, want)
	}
}

func TestOnlyWhatIsCommittedIsVisible(t *testing.T) {
	eachKafka(t, func(t *testing.T, brokers []string) { //nolint:thelper // the test itself
		x := newTransactor(t, brokers, "visible")
		x.begin()
		x.publish("a1", "a2", "a3")
		x.mustCommit("a")
		x.begin()
		x.publish("b1", "b2", "b3")
		if err := x.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.begin()
		x.mustCommit("empty")
		x.begin()
		x.publish("c1", "c2")
		err := x.Commit(t.Context(), Note{Topic: "visible-notes", Value: []byte("no")}, func() error { return errors.New("not everything is there") })
		if err == nil || !strings.Contains(err.Error(), "not everything is there") {
			t.Errorf("committed against the check: %v", err)
		}
		if err := x.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.begin()
		x.publish("d1", "d2")
		x.mustCommit("d")
		mustSee(t, brokers, "visible", "a1", "a2", "a3", "d1", "d2")
		mustSee(t, brokers, "visible-notes", "a", "d", "empty")
	})
}

func TestTheYoungestOfATransactionalIDIsTheOnlyOne(t *testing.T) {
	eachKafka(t, func(t *testing.T, brokers []string) { //nolint:thelper // the test itself
		old := newTransactor(t, brokers, "young")
		old.begin()
		old.publish("old1")
		old.mustCommit("old")
		old.begin()
		old.publish("old2", "old3")

		young := newTransactor(t, brokers, "young")
		if _, err := young.ProducerID(t.Context()); err != nil {
			t.Fatal(err)
		}
		young.begin()
		young.publish("young1")
		young.mustCommit("young")
		mustSee(t, brokers, "young", "old1", "young1")

		if err := old.commit("old"); !IsFenced(err) {
			t.Errorf("the fenced one commits: %v", err)
		}
		_ = old.Abort(t.Context()) // it has nothing left to abort, and may be told so
		if err := old.Begin(t.Context()); err == nil {
			old.publish("old4")
			if err := old.commit("old"); err == nil {
				t.Error("the fenced one goes on")
			}
		}
		young.begin()
		young.publish("young2")
		young.mustCommit("young")
		mustSee(t, brokers, "young", "old1", "young1", "young2")
	})
}

func TestFenceEndsWhatIsOpen(t *testing.T) {
	eachKafka(t, func(t *testing.T, brokers []string) { //nolint:thelper // the test itself
		x := newTransactor(t, brokers, "fence")
		x.begin()
		x.publish("open")
		o := Options{Brokers: brokers}
		if err := o.Fence(t.Context(), "tidemark-fence"); err != nil {
			t.Fatal(err)
		}
		mustSee(t, brokers, "fence") // at once, and not when the transaction times out
		if err := x.commit("late"); !IsFenced(err) {
			t.Errorf("the fenced one commits: %v", err)
		}
		mustSee(t, brokers, "fence-notes")
		if err := o.Fence(t.Context(), "tidemark-of-nobody"); err != nil {
			t.Errorf("nobody is there to be fenced: %v", err)
		}
	})
}

// The client goes on after a failure: under another epoch, by which the brokers abort what came before, or at once. Either
// way a commit would be one of half the events.
func TestNothingIsCommittedAfterAFailure(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	x := newTransactor(t, cluster.ListenAddrs(), "failure")
	x.begin()
	x.publish("before1", "before2")
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: 1})
	x.Lenient(true)
	x.publish("refused")
	if err := x.answers(3)[2].err; !IsPoison(err) {
		t.Fatalf("the event is not refused: %v", err)
	}
	x.hand(event("failure", 1, 7))
	x.n++
	_ = x.answers(x.n)
	if err := x.commit("no"); !IsPoison(err) {
		t.Errorf("committed behind a failure: %v", err)
	}
	if err := x.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Lenient(false)
	x.begin() // the next one has nothing to do with it
	x.publish("after")
	x.mustCommit("yes")
	mustSee(t, cluster.ListenAddrs(), "failure", "after")
	mustSee(t, cluster.ListenAddrs(), "failure-notes", "yes")
}

func TestAnEpochThatChangesFailsTheTransaction(t *testing.T) {
	t.Parallel()
	tx := &transaction{used: true, producer: 7, epoch: 3}
	if err := tx.observe(&kgo.Record{ProducerID: 7, ProducerEpoch: 3}, nil); err != nil || tx.failure() != nil {
		t.Errorf("its own epoch: %v", err)
	}
	if err := tx.observe(&kgo.Record{ProducerID: 7, ProducerEpoch: 4}, nil); !IsFenced(err) || !IsFenced(tx.failure()) {
		t.Errorf("another epoch: %v, %v", err, tx.failure())
	}
}

func TestRefusedTransactionsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for want, refusal := range map[string]*kerr.Error{
		"write and describe the transactional ids": kerr.TransactionalIDAuthorizationFailed,
		"transaction.max.timeout.ms":               kerr.InvalidTransactionTimeout,
	} {
		cluster := newCluster(t)
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: refusal})
		o := Options{Brokers: cluster.ListenAddrs(), TransactionalID: "tidemark-x"}
		err := o.Fence(t.Context(), o.TransactionalID)
		if hint := o.TransactionHint(err); !strings.Contains(hint, want) {
			t.Errorf("%v: %q", err, hint)
		}
	}
}

// writer writes records as a relay does, by a client that a test has in hand: each is an event by its position.
type writer struct {
	t      *testing.T
	client *kgo.Client
	topic  string
}

func newWriter(t *testing.T, brokers []string, topic string, opts ...kgo.Opt) *writer {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &writer{t, client, topic}
}

// write writes events, in turn to both partitions.
func (w *writer) write(from, to int) {
	w.t.Helper()
	for i := from; i < to; i++ {
		pos := tailPosition(i)
		r := &kgo.Record{Partition: int32(i % 2), Value: []byte("v"), Headers: []kgo.RecordHeader{ //nolint:gosec // 0 or 1
			{Key: "id", Value: fmt.Append(nil, i)}, {Key: "tidemark-position", Value: []byte(pos.String())}, {Key: "tidemark-source", Value: []byte("source")},
		}}
		if err := w.client.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *writer) begin() {
	w.t.Helper()
	if err := w.client.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) end(how kgo.TransactionEndTry) {
	w.t.Helper()
	if err := w.client.EndTransaction(w.t.Context(), how); err != nil {
		w.t.Fatal(err)
	}
}

func tailPosition(i int) decode.Position {
	return decode.Position{Commit: firstLSN + pglogrepl.LSN(16*(i+1)), Index: 0}
}

// mustHoldEvents checks which of the first n events a set has.
func mustHoldEvents(t *testing.T, present *Present, topic string, n int, want ...[2]int) {
	t.Helper()
	expected := map[int]bool{}
	for _, span := range want {
		for i := span[0]; i < span[1]; i++ {
			expected[i] = true
		}
	}
	got := map[int]bool{}
	for i := range n {
		if present.Has(&decode.Event{Topic: topic, Position: tailPosition(i)}) {
			got[i] = true
		}
	}
	if !maps.Equal(got, expected) {
		t.Errorf("present are %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(expected)))
	}
}

// An event whose transaction was aborted is in the log, and no consumer of committed records ever sees it: it must not be
// taken for published. One that was committed must be.
func TestResumeCountsWhatIsCommittedAndNothingElse(t *testing.T) {
	eachKafka(t, func(t *testing.T, brokers []string) { //nolint:thelper // the test itself
		const topic = "tail"
		successor := newTransactor(t, brokers, topic)
		plain := newWriter(t, brokers, topic)
		transactional := newWriter(t, brokers, topic, kgo.TransactionalID("tidemark-tail-old"))
		other := newWriter(t, brokers, topic, kgo.TransactionalID("tidemark-tail-other"))
		plain.write(0, 4)
		transactional.begin()
		transactional.write(4, 8)
		other.begin()
		other.write(8, 12) // between the records of the one
		transactional.write(12, 16)
		transactional.end(kgo.TryAbort)
		plain.write(16, 18)
		other.end(kgo.TryCommit)
		transactional.begin()
		transactional.write(18, 20)
		transactional.end(kgo.TryCommit)
		transactional.begin()
		transactional.write(20, 24)

		tail := Tail{Source: "source", Since: firstLSN, Offsets: map[string]map[int32]int64{topic: {0: 0, 1: 0}}}
		if _, _, err := successor.Resume(t.Context(), tail); !errors.Is(err, errUndecided) {
			t.Errorf("a transaction is open: %v", err)
		}
		tail.TransactionalID = "tidemark-tail-old"
		present, unfenced, err := successor.Resume(t.Context(), tail)
		if err != nil || unfenced != nil {
			t.Fatalf("resume: %v, %v", err, unfenced)
		}
		mustHoldEvents(t, present, topic, 30, [2]int{0, 4}, [2]int{8, 12}, [2]int{16, 20})
		if err := transactional.client.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
			t.Error("the fenced one commits")
		}
		again, _, err := successor.Resume(t.Context(), tail)
		if err != nil {
			t.Fatal(err)
		}
		if again.Len() != present.Len() {
			t.Errorf("%d events are present, and then %d", present.Len(), again.Len())
		}
	})
}
