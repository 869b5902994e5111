package publish

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
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
	if err := p.Prepare(ctx, []string{topic}); err != nil {
		t.Fatal(err)
	}
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
