package devstack_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
)

// The demo runs the whole relay on it, so it must answer all that the relay asks of a broker.
func TestFakeKafkaAnswersWhatTheRelayAsks(t *testing.T) {
	t.Parallel()
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 {
			if err := kafka.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...), kgo.AllowAutoTopicCreation(), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)

	produce(t, client, "automatic", "a") // idempotent: kgo's default
	if _, err := admin.CreateTopic(t.Context(), 2, -1, map[string]*string{"max.message.bytes": new("2000")}, "made"); err != nil {
		t.Fatal(err)
	}
	topics, err := admin.ListTopics(t.Context(), "automatic", "made")
	if err != nil || len(topics["automatic"].Partitions) != 4 || len(topics["made"].Partitions) != 2 {
		t.Errorf("topics %v, %v", topics, err)
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), "made")
	if err != nil {
		t.Fatal(err)
	}
	made, err := configs.On("made", nil)
	if err != nil {
		t.Fatal(err)
	}
	var limit string
	for _, config := range made.Configs {
		if config.Key == "max.message.bytes" {
			limit = config.MaybeValue()
		}
	}
	if limit != "2000" {
		t.Errorf("max.message.bytes is %q", limit)
	}
	ends, err := admin.ListEndOffsets(t.Context(), "automatic")
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	ends.Each(func(end kadm.ListedOffset) { total += end.Offset })
	if total != 1 {
		t.Errorf("%d records by the end offsets", total)
	}
	after, err := admin.ListOffsetsAfterMilli(t.Context(), time.Now().Add(-time.Hour).UnixMilli(), "automatic")
	if err != nil || after.Error() != nil {
		t.Errorf("offsets by time: %v, %v", err, after.Error())
	}

	transactional, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...), kgo.TransactionalID("t"), kgo.DefaultProduceTopic("made"))
	if err != nil {
		t.Fatal(err)
	}
	defer transactional.Close()
	if err := transactional.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, transactional, "made", "b")
	if err := transactional.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Error(err)
	}
	consume(t, kafka.Brokers(), "made", 1)
}
