package ledger_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/ledger"
)

// shelf is a topic of an imitated Kafka, with a reader.
type shelf struct {
	*account
	kafka  *devstack.FakeKafka
	client *kgo.Client
	admin  *kadm.Client
	reader *ledger.Reader
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Close() })
	s := &shelf{account: newAccount(t), kafka: kafka}
	if s.client, err = kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	s.admin = kadm.NewClient(s.client)
	s.create()
	if s.reader, err = ledger.Read(t.Context(), s.Ledger, kafka.Brokers(), []string{topic}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.reader.Close)
	return s
}

func (s *shelf) create() {
	s.t.Helper()
	if _, err := s.admin.CreateTopic(s.t.Context(), 1, 1, nil, topic); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) destroy() {
	s.t.Helper()
	if _, err := s.admin.DeleteTopic(s.t.Context(), topic); err != nil {
		s.t.Fatal(err)
	}
}

// publish publishes n committed events, with a client that knows no other topic of that name.
func (s *shelf) publish(n int) {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.Brokers()...))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	for range n {
		e := s.write(fmt.Sprint("key-", n), ledger.Committed)
		r := s.record(0, e)
		err := client.ProduceSync(s.t.Context(), &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(r.ID)}, {Key: "tidemark-position", Value: []byte(r.Position)},
		}}).FirstErr()
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// awaitEnd reads to the end, which has to come.
func (s *shelf) awaitEnd() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.reader.AwaitEnd(ctx, topic); err != nil {
		s.t.Fatal(err)
	}
}

// TestReaderGoesOverToATopicThatIsCreatedAgain deletes the topic and creates it again, whether the reader is told or not.
func TestReaderGoesOverToATopicThatIsCreatedAgain(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprint("told ", told), func(t *testing.T) {
			s := newShelf(t)
			s.publish(7)
			s.awaitEnd()
			for range 3 {
				s.destroy()
				if told {
					s.reader.Renew(topic)
				}
				s.create()
				s.publish(5)
				s.awaitEnd()
			}
			if err := s.settle(); err != nil {
				t.Fatal(err)
			}
			s.want(nil)
			if v := s.Verdict(); v.Arrived != 7+3*5 {
				t.Errorf("arrived: %s", v)
			}
		})
	}
}

// TestAwaitEndAsksAgain has the broker answer, for a while, that it is not the one to ask for the end; and then deletes the
// topic whose end is waited for.
func TestAwaitEndAsksAgain(t *testing.T) {
	s := newShelf(t)
	s.publish(3)
	var asked atomic.Int32
	s.kafka.Cluster().ControlKey(int16(kmsg.ListOffsets), func(request kmsg.Request) (kmsg.Response, error, bool) {
		s.kafka.Cluster().KeepControl()
		ask := request.(*kmsg.ListOffsetsRequest) //nolint:forcetypeassert // of that key
		if asked.Add(1) > 2 || ask.Topics[0].Partitions[0].Timestamp != -1 {
			return nil, nil, false
		}
		answer := ask.ResponseKind().(*kmsg.ListOffsetsResponse) //nolint:forcetypeassert // of that key
		for _, topic := range ask.Topics {
			out := kmsg.NewListOffsetsResponseTopic()
			out.Topic = topic.Topic
			for _, partition := range topic.Partitions {
				one := kmsg.NewListOffsetsResponseTopicPartition()
				one.Partition, one.ErrorCode = partition.Partition, kerr.OffsetNotAvailable.Code
				out.Partitions = append(out.Partitions, one)
			}
			answer.Topics = append(answer.Topics, out)
		}
		return answer, nil, true
	})
	s.awaitEnd()
	if asked.Load() < 3 {
		t.Errorf("asked %d times, want the wrong answers to have been given", asked.Load())
	}

	s.Pass(topic, 0, 3) // read ahead of what follows: nothing of it arrives
	s.destroy()
	s.create()
	s.publish(20)
	waiting := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() { waiting <- s.reader.AwaitEnd(ctx, topic) }() // ends with the end or the deadline
	s.destroy()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}
