package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// predecessor is a publisher whose events can be waited for.
type predecessor struct {
	*Publisher
	done chan error
}

func openPredecessor(t *testing.T, brokers []string, topic string) *predecessor {
	t.Helper()
	p := &predecessor{done: make(chan error, 1000)}
	var err error
	p.Publisher, err = Open(Options{Brokers: brokers, Topics: TopicOptions{Create: true, Partitions: 2, ReplicationFactor: 1}},
		func(_ *Delivery, err error) { p.done <- err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eventually(t, "the topic is there", func() bool { return p.Prepare(ctx, []string{topic}) == nil })
	return p
}

// publish hands n events over that commit at commit, and returns their first error.
func (p *predecessor) publish(t *testing.T, topic string, commit, n int) error {
	t.Helper()
	batch := make([]Delivery, n)
	for i := range batch {
		pos := decode.Position{Commit: firstLSN + pglogrepl.LSN(16*commit), Index: uint32(i)}
		batch[i].Event = decode.Event{
			Position: pos, ID: fmt.Sprintf("%d-%d", commit, i), Topic: topic, Key: []byte{byte(i)}, Value: []byte("v"), Partition: decode.AnyPartition,
			Headers: []decode.Header{
				{Key: "id", Value: []byte(fmt.Sprintf("%d-%d", commit, i))},
				{Key: "tidemark-position", Value: []byte(pos.String())},
				{Key: "tidemark-source", Value: []byte("source")},
			},
		}
	}
	for i := range batch {
		if err := p.Check(&batch[i]); err != nil {
			t.Fatal(err)
		}
	}
	p.Publish(batch)
	var first error
	for range n {
		select {
		case err := <-p.done:
			if first == nil {
				first = err
			}
		case <-time.After(time.Minute):
			t.Fatal("no answer for an event")
		}
	}
	return first
}

func TestResumeFindsExactlyWhatIsThereAndFencesThePredecessor(t *testing.T) {
	t.Parallel()
	brokers := stacktest.Kafka(t)
	topic := strings.ToLower(t.Name())
	old := openPredecessor(t, brokers, topic)
	id, base, _ := old.Base(topic)
	producer, err := old.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for commit := range 3 {
		if err := old.publish(t, topic, commit, 50); err != nil {
			t.Fatal(err)
		}
	}
	foreign(t, brokers, topic)

	successor := openPredecessor(t, brokers, topic)
	since := firstLSN + 16
	present, unfenced, err := successor.Resume(t.Context(), Tail{
		Source: "source", Since: since, Offsets: map[string]map[int32]int64{topic: base}, TopicIDs: map[string]string{topic: id}, Producers: []int64{producer},
	})
	if err != nil || unfenced != nil {
		t.Fatalf("resume: %v, unfenced: %v", err, unfenced)
	}
	if present.Len() != 100 {
		t.Errorf("%d events beyond the checkpoint, want 100", present.Len())
	}
	for commit := range 4 {
		for i := range 51 {
			ev := decode.Event{Topic: topic, Position: decode.Position{Commit: firstLSN + pglogrepl.LSN(16*commit), Index: uint32(i)}}
			if want := (commit == 1 || commit == 2) && i < 50; present.Has(&ev) != want {
				t.Errorf("commit %d, event %d: in the set %v, want %v", commit, i, !want, want)
			}
		}
	}

	// The predecessor was not dead after all: nothing that it still sends may arrive.
	err = old.publish(t, topic, 7, 10)
	if !IsFenced(err) {
		t.Errorf("the predecessor could still publish: %v", err)
	}
	if err := successor.publish(t, topic, 8, 10); err != nil {
		t.Errorf("the successor cannot publish: %v", err)
	}
	again, _, err := successor.Resume(t.Context(), Tail{Source: "source", Since: since, Offsets: map[string]map[int32]int64{topic: base}, Producers: []int64{producer}})
	if err != nil {
		t.Fatal(err)
	}
	if again.Len() != 110 {
		t.Errorf("%d events in the topic, want 110: the fenced producer's must not be there", again.Len())
	}
	if len(again.newest) > 0 {
		t.Errorf("the offsets of markers were taken for compaction, of %v", again.newest)
	}
}

// Of a compacted topic only the newest event of each key may be left when the successor looks: to publish an older one
// behind it would make that the key's state, for ever.
func TestResumeKnowsWhatIsCompactedAway(t *testing.T) {
	t.Parallel()
	brokers := stacktest.Kafka(t)
	topic := strings.ToLower(t.Name())
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	value := func(s string) *string { return &s }
	_, err = kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, map[string]*string{
		"cleanup.policy": value("compact"), "segment.ms": value("100"), "min.cleanable.dirty.ratio": value("0.001"),
	}, topic)
	if err != nil {
		t.Fatal(err)
	}
	old := openPredecessor(t, brokers, topic)
	for commit, n := range []int{50, 50, 10} { // of as many keys
		if err := old.publish(t, topic, commit, n); err != nil {
			t.Fatal(err)
		}
	}
	var present *Present
	eventually(t, "the first 60 events are compacted away", func() bool {
		// A segment is closed, and so compacted, when a record comes for the next one.
		filler := kgo.Record{Topic: topic, Key: []byte("another application's"), Value: []byte("v")}
		if err := client.ProduceSync(t.Context(), &filler).FirstErr(); err != nil {
			t.Fatal(err)
		}
		present, _, err = old.Resume(t.Context(), Tail{Source: "source", Offsets: map[string]map[int32]int64{topic: {0: 0}}})
		return err == nil && present.Len() == 50
	})
	for commit := range 4 {
		for i := range 51 {
			ev := decode.Event{Topic: topic, Key: []byte{byte(i)}, Position: decode.Position{Commit: firstLSN + pglogrepl.LSN(16*commit), Index: uint32(i)}}
			want := i < 50 && commit < 2 || i < 10 && commit == 2
			if present.Has(&ev) != want {
				t.Errorf("commit %d, event %d: in the set %v, want %v", commit, i, !want, want)
			}
		}
	}
	if ev := (decode.Event{Topic: "another", Key: []byte{1}, Position: decode.Position{Commit: firstLSN}}); present.Has(&ev) {
		t.Error("what one topic holds counts for another")
	}
}

// foreign writes to the topic as another application would, in a transaction that it aborts and one that it commits.
func foreign(t *testing.T, brokers []string, topic string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(t.Context(), kgo.StringRecord("foreign"), kgo.StringRecord("foreign")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPresentIsASetOfEventsByTopic(t *testing.T) {
	t.Parallel()
	at := func(commit pglogrepl.LSN, index uint32) decode.Position {
		return decode.Position{Commit: commit, Index: index}
	}
	s := newPresent(firstLSN)
	type member struct {
		topic string
		pos   decode.Position
	}
	var in []member
	for i := range uint32(1000) { // of ten, each third; they share blocks
		if i%3 == 0 {
			in = append(in, member{fmt.Sprint("t", i%10), at(firstLSN, i)}, member{fmt.Sprint("t", i%10), at(firstLSN+16, 1000-i)})
		}
	}
	for _, m := range in {
		s.add(m.topic, mark{pos: m.pos})
	}
	for commit := firstLSN; commit <= firstLSN+32; commit += 16 {
		for i := range uint32(1100) {
			for topic := range 11 {
				m := member{fmt.Sprint("t", topic), at(commit, i)}
				if got, want := s.HasIn(m.topic, &decode.Event{Position: m.pos}), slices.Contains(in, m); got != want {
					t.Fatalf("HasIn(%s, %s) = %v", m.topic, m.pos, got)
				}
			}
		}
	}
	if want := at(firstLSN+16, 1000); s.Len() != len(in) || s.Last() != want {
		t.Errorf("%d events up to %s, want %d up to %s", s.Len(), s.Last(), len(in), want)
	}
}

// FuzzTailRecord: whatever foreign producers write, only our own records beyond the checkpoint get into the set, and as the
// events that they are.
func FuzzTailRecord(f *testing.F) {
	f.Add("source", "0000000001000010-00000041", "id", "id", uint64(firstLSN))
	f.Add("source", "0000000001000010-00000041", "id", "tidemark-replay", uint64(firstLSN))
	f.Add("source", "0000000000000000-00000041", "id", "ce_id", uint64(0))
	f.Add("other", "0000000001000010-00000041", "", "tidemark-source", uint64(0))
	f.Fuzz(func(t *testing.T, source, position, id, key string, since uint64) {
		r := &tailReader{tail: Tail{Source: "source", Since: pglogrepl.LSN(since)}, present: newPresent(pglogrepl.LSN(since)), read: map[place]*progress{{topic: "t"}: {}}}
		r.note(&kgo.Record{Topic: "t", Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(id)},
			{Key: "tidemark-position", Value: []byte(position)},
			{Key: "tidemark-source", Value: []byte(source)},
			{Key: key, Value: []byte(id)},
		}})
		if r.present.Len() == 0 {
			return
		}
		if key == "tidemark-position" {
			position = id
		}
		if key == "tidemark-source" {
			source = id
		}
		pos, err := decode.ParsePosition(position)
		switch {
		case err != nil || source != "source" || key == "tidemark-replay":
			t.Fatalf("%q %q %q is taken for ours", source, position, key)
		case since != 0 && uint64(pos.Commit) < since:
			t.Fatalf("%s is in the set of what is beyond %x", pos, since)
		}
		for topic, want := range map[string]bool{"t": true, "u": false} {
			if got := r.present.Has(&decode.Event{Topic: topic, ID: id, Position: pos}); got != want {
				t.Fatalf("Has(%s in topic %s) = %v", pos, topic, got)
			}
		}
		if next := (decode.Position{Commit: pos.Commit, Index: pos.Index ^ 64}); !FromTable(pos.Commit) && r.present.Has(&decode.Event{Topic: "t", ID: id, Position: next}) {
			t.Fatalf("%s is in a set that holds %s alone", next, pos)
		}
	})
}

// TestOnlyARefusalIsTakenForOne: a predecessor that could not be fenced because a broker is away must be fenced later.
func TestOnlyARefusalIsTakenForOne(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close() // so that nobody listens there
	_, nobody := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	shard := func(err error) error { return &kadm.ShardErrors{Errs: []kadm.ShardError{{Err: err}}} }
	for _, test := range []struct {
		what    string
		err     error
		refusal bool
	}{
		{"nobody listens", shard(fmt.Errorf("unable to dial: %w", nobody)), false},
		{"the connection breaks", shard(io.ErrUnexpectedEOF), false},
		{"no leader", shard(kerr.NotLeaderForPartition), false},
		{"too few replicas", fmt.Errorf("in t/0: %w", kerr.NotEnoughReplicas), false},
		{"no right", &kadm.AuthError{Err: kerr.ClusterAuthorizationFailed}, true},
		{"an old broker", shard(errors.New("broker is too old; the broker has already indicated it will not know how to handle the request")), true},
	} {
		if test.err == nil || isRefusal(test.err) != test.refusal {
			t.Errorf("%s: %v: taken for a refusal: %v", test.what, test.err, isRefusal(test.err))
		}
	}
}

// A server that was failed over gives positions of its lost end to other events: what was published of that end must not be
// taken for them, neither by the term that finds the fork nor by those after it.
func TestWhatIsBeyondAForkIsNotTakenForWhatHasItsPosition(t *testing.T) {
	t.Parallel()
	brokers := stacktest.FakeKafka(t)
	topic := strings.ToLower(t.Name())
	old := openPredecessor(t, brokers, topic)
	id, base, _ := old.Base(topic)
	for commit := range 3 {
		if err := old.publish(t, topic, commit, 10); err != nil {
			t.Fatal(err)
		}
	}
	tail := Tail{
		Source: "source", Since: firstLSN, Offsets: map[string]map[int32]int64{topic: base}, TopicIDs: map[string]string{topic: id},
		Forks: []Fork{{LSN: firstLSN + 16}},
	}
	successor := openPredecessor(t, brokers, topic)
	mustHave := func(counts ...int) (ends map[string]map[int32]int64) {
		t.Helper()
		present, _, err := successor.Resume(t.Context(), tail)
		if err != nil {
			t.Fatal(err)
		}
		for commit, n := range counts {
			for i := range 10 {
				ev := decode.Event{Topic: topic, Position: decode.Position{Commit: firstLSN + pglogrepl.LSN(16*commit), Index: uint32(i)}}
				if present.Has(&ev) != (i < n) {
					t.Errorf("commit %d, event %d: in the set %v, want %v", commit, i, i >= n, i < n)
				}
			}
		}
		return present.Ends()
	}
	tail.Forks[0].Offsets = mustHave(10, 0, 0)
	if ends := tail.Forks[0].Offsets[topic]; len(ends) != 2 || ends[0]+ends[1] != base[0]+base[1]+30 {
		t.Errorf("the ends are %v, want two, 30 records behind %v", ends, base)
	}
	for _, n := range []int{1, 2} { // other events, at the positions of the lost ones
		if err := successor.publish(t, topic, n, 3*n); err != nil {
			t.Fatal(err)
		}
	}
	mustHave(10, 3, 6)
}

func TestRowsOfTheTableAreKnownByTheirIDs(t *testing.T) {
	t.Parallel()
	for commit, want := range map[pglogrepl.LSN]bool{0: true, firstLSN - 1: true, firstLSN: false, firstLSN + 8: false, 0x16B3748: false, 0x16B3748 - 7: true, 0x16B3748 - 2: true, 0x16B3748 - 1: false} {
		if FromTable(commit) != want {
			t.Errorf("%s: from the table %v, want %v", commit, !want, want)
		}
	}
}
