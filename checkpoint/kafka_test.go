package checkpoint_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestKafkaConformsOnAnImitation(t *testing.T) {
	t.Parallel()
	brokers := stacktest.FakeKafka(t)
	conformance(t, func(t *testing.T) place { t.Helper(); return newKafka(t, brokers).place() })
}

// All of them in one topic, as several relays would be.
func TestKafkaConforms(t *testing.T) {
	t.Parallel()
	brokers := stacktest.Kafka(t)
	conformance(t, func(t *testing.T) place {
		t.Helper()
		k := newKafka(t, brokers)
		k.Topic = "shared"
		return k.place()
	})
}

// kafka is a topic and key of its own.
type kafka struct {
	checkpoint.KafkaOptions
	t *testing.T
}

//nolint:gochecknoglobals // names must differ among all tests of a process
var kafkas atomic.Int64

func newKafka(t *testing.T, brokers []string) *kafka {
	t.Helper()
	n := kafkas.Add(1)
	return &kafka{t: t, KafkaOptions: checkpoint.KafkaOptions{
		Client: []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10 * time.Millisecond)},
		Topic:  fmt.Sprintf("checkpoints-%d", n), Key: fmt.Sprintf("app/slot-%d", n), Create: true, ReplicationFactor: -1,
	}}
}

func (k *kafka) place() place {
	return place{open: func() Store { return k.open() }, plant: func(contents string) { k.plant([]byte(contents)) }, kept: func(mark string) (kept string) {
		client := k.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{k.Topic: {0: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
		defer cancel()
		for kept == "" {
			fetches := client.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				k.t.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if string(r.Key) == k.Key+"."+mark {
					kept = string(r.Value)
				}
			})
		}
		return kept
	}}
}

func (k *kafka) open() *checkpoint.Kafka {
	s := checkpoint.NewKafka(k.KafkaOptions)
	k.t.Cleanup(s.Close)
	return s
}

// client leads to the brokers, with more options.
func (k *kafka) client(opts ...kgo.Opt) *kgo.Client {
	k.t.Helper()
	client, err := kgo.NewClient(append(opts, k.Client...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(client.Close)
	return client
}

// plant writes a record of the key that no store has written. It makes the topic, if need be.
func (k *kafka) plant(value []byte) {
	k.t.Helper()
	client := k.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	_, err := kadm.NewClient(client).CreateTopic(k.t.Context(), 1, -1, map[string]*string{"cleanup.policy": new("compact")}, k.Topic)
	if err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
		k.t.Fatal(err)
	}
	if err := client.ProduceSync(k.t.Context(), &kgo.Record{Topic: k.Topic, Key: []byte(k.Key), Value: value}).FirstErr(); err != nil {
		k.t.Fatal(err)
	}
}

func TestKafkaRefusesWhatIsTorn(t *testing.T) {
	t.Parallel()
	k := newKafka(t, stacktest.FakeKafka(t))
	whole := encode(t, example(0))
	s := k.open()
	for _, n := range []int{0, 1, len(whole) / 2, len(whole) - 3} {
		k.plant(whole[:n:n])
		c, err := s.Load(t.Context())
		if !checkpoint.IsCorrupt(err) || c != nil || !strings.Contains(err.Error(), k.Topic) || !strings.Contains(err.Error(), k.Key) {
			t.Fatalf("Load() = %+v, %v of the first %d bytes, want an error that is corrupt and names topic and key", c, err, n)
		}
	}
	k.plant(nil) // and this says that nothing is there any more
	if c, err := s.Load(t.Context()); c != nil || err != nil {
		t.Errorf("Load() = %+v, %v, want nothing", c, err)
	}
	save(t, s, example(1))
	mustLoad(t, s, example(1))
}

// What a transaction writes counts when it is committed, and when it is not it never was.
func TestKafkaLoadsWhatIsCommitted(t *testing.T) {
	t.Parallel()
	k := newKafka(t, stacktest.Kafka(t))
	s := k.open()
	save(t, s, example(1))
	record, err := s.Record(example(2))
	if err != nil || record.Topic != k.Topic || string(record.Key) != k.Key {
		t.Fatalf("Record() = %+v, %v", record, err)
	}
	other := k.client(kgo.TransactionalID(s.TransactionalID()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionTimeout(time.Minute))
	write := func(commit kgo.TransactionEndTry) {
		t.Helper()
		if err := other.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		r := &kgo.Record{Topic: record.Topic, Partition: record.Partition, Key: record.Key, Value: record.Value}
		if err := other.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if !commit {
			// While it is open nobody can know what is stored, and nobody guesses.
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if c, err := s.Load(ctx); err == nil || !strings.Contains(err.Error(), "left open") {
				t.Errorf("Load() = %+v, %v beside an open transaction", c, err)
			}
		}
		if err := other.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	write(kgo.TryAbort)
	mustLoad(t, k.open(), example(1))
	write(kgo.TryCommit)
	mustLoad(t, s, example(2))
	// The other has fenced the store's producer; what it wrote names the same holder, so the store goes on.
	save(t, s, example(3))
	mustLoad(t, s, example(3))
}

// Two clusters that call a database and a slot the same keep their checkpoints in topics of their own, and none fences the
// other. (In one topic, the one would be refused what the other has stored.)
func TestKafkaTopicsAreStrangersToEachOther(t *testing.T) {
	t.Parallel()
	a := newKafka(t, stacktest.Kafka(t))
	b := newKafka(t, stacktest.Kafka(t))
	b.Key = a.Key
	s := a.open()
	save(t, s, example(1))
	// As a relay of exactly once, in the middle of a transaction.
	writer := a.client(kgo.TransactionalID(s.TransactionalID()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	record, err := s.Record(example(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: record.Topic, Key: record.Key, Value: record.Value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	other := b.open()
	if c, err := other.Load(t.Context()); c != nil || err != nil {
		t.Errorf("Load() = %+v, %v from the other topic, want nothing", c, err)
	}
	save(t, other, example(3))
	if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatalf("the transaction of the one topic is fenced by the store of the other: %v", err)
	}
	mustLoad(t, s, example(2))
	mustLoad(t, other, example(3))
}

// A broker refuses a record of more than an hour from now, unless the topic says otherwise: a host whose clock is wrong goes on.
func TestKafkaTakesTheCheckpointsOfAWrongClock(t *testing.T) {
	t.Parallel()
	k := newKafka(t, stacktest.Kafka(t))
	s := k.open()
	save(t, s, example(1))
	record, err := s.Record(example(2))
	if err != nil {
		t.Fatal(err)
	}
	ahead := &kgo.Record{Topic: record.Topic, Key: record.Key, Value: record.Value, Timestamp: time.Now().Add(24 * time.Hour)}
	if err := k.client().ProduceSync(t.Context(), ahead).FirstErr(); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, s, example(2))
}

func TestKafkaSaysWhatKeepsItFromWorking(t *testing.T) {
	t.Parallel()
	gone := newKafka(t, []string{"127.0.0.1:1"}) // nobody listens there
	for name, err := range map[string]error{
		"Load": func() error { _, err := gone.open().Load(t.Context()); return err }(),
		"Save": gone.open().Save(t.Context(), example(1), ""),
	} {
		if err == nil || !strings.Contains(err.Error(), "no Kafka broker answers") || checkpoint.IsCorrupt(err) || checkpoint.IsPermanent(err) {
			t.Errorf("%s without a broker: %v", name, err)
		}
	}
	brokers := stacktest.FakeKafka(t)
	forbidden := newKafka(t, brokers)
	forbidden.Create = false
	s := forbidden.open()
	if c, err := s.Load(t.Context()); c != nil || err != nil {
		t.Errorf("Load() = %+v, %v without a topic, want nothing", c, err)
	}
	if err := s.Save(t.Context(), example(1), ""); !checkpoint.IsPermanent(err) || !strings.Contains(err.Error(), "cleanup.policy=compact") {
		t.Errorf("Save without a topic that may be created: %v", err)
	}
	deletes := newKafka(t, brokers)
	if _, err := kadm.NewClient(deletes.client()).CreateTopic(t.Context(), 1, -1, nil, deletes.Topic); err != nil {
		t.Fatal(err)
	}
	if err := deletes.open().Save(t.Context(), example(1), ""); !checkpoint.IsPermanent(err) || !strings.Contains(err.Error(), "cleanup.policy=delete") {
		t.Errorf("Save into a topic that deletes: %v", err)
	}
	closed := newKafka(t, brokers).open()
	closed.Close()
	if err := closed.Save(t.Context(), example(1), ""); err == nil {
		t.Error("a closed store saves")
	}
}

// A checkpoint with very many partitions is larger than what Kafka takes by default.
func TestKafkaKeepsALargeCheckpoint(t *testing.T) {
	t.Parallel()
	s := newKafka(t, stacktest.Kafka(t)).open()
	large := example(1)
	for i := range 2000 {
		partitions := map[int32]int64{}
		for p := range int32(100) {
			partitions[p] = int64(i)*7919 + int64(p)*104729
		}
		large.Offsets[fmt.Sprintf("topic-%d", i)] = partitions
	}
	if size := len(encode(t, large)); size < 4<<20 {
		t.Fatalf("it has only %d bytes", size)
	}
	save(t, s, large)
	mustLoad(t, s, large)
}
