package devstack_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func startKafka(t *testing.T, opts devstack.KafkaOptions) *devstack.Kafka {
	t.Helper()
	stacktest.Require(t, "kafka", devstack.HaveKafka())
	opts.Progress = func(line string) { t.Log(line) }
	kafka, err := devstack.StartKafka(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kafka.Close(); err != nil {
			t.Error(err)
		}
	})
	return kafka
}

func newClient(t *testing.T, brokers ...string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func produce(t *testing.T, client *kgo.Client, topic, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr(); err != nil {
		t.Fatalf("produce %s: %v", value, err)
	}
}

// consume reads n values of a topic from the start.
func consume(t *testing.T, brokers []string, topic string, n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	values := make(map[string]bool)
	for len(values) < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(values), n, err)
		}
		fetches.EachRecord(func(record *kgo.Record) { values[string(record.Value)] = true })
	}
}

func TestKafkaKeepsRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kafka := startKafka(t, devstack.KafkaOptions{Dir: dir})
	client := newClient(t, kafka.Brokers()...)
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 2, -1, nil, "kept"); err != nil {
		t.Fatal(err)
	}

	produce(t, client, "kept", "kill")
	if err := errors.Join(kafka.Kill(0), kafka.Start(t.Context(), 0), kafka.Start(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	produce(t, client, "kept", "pause")
	if err := errors.Join(kafka.Pause(0), kafka.Resume(0)); err != nil {
		t.Fatal(err)
	}
	produce(t, client, "kept", "stop")
	consume(t, kafka.Brokers(), "kept", 3)
	if err := errors.Join(kafka.Close(), kafka.Close()); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if err := kafka.Start(t.Context(), 0); !errors.Is(err, devstack.ErrClosed) {
		t.Errorf("start after Close: %v", err)
	}

	// Taken up again, with a proxy in front, which has to be there before it knows where it leads.
	proxy := startProxy(t, "")
	kafka = startKafka(t, devstack.KafkaOptions{Dir: dir, AdvertisedPort: proxy.Port()})
	proxy.Redirect(kafka.Brokers()[0])
	consume(t, []string{proxy.Addr()}, "kept", 3)
	brokers, err := kadm.NewClient(newClient(t, kafka.Brokers()...)).ListBrokers(t.Context())
	if err != nil || len(brokers) != 1 || int(brokers[0].Port) != proxy.Port() {
		t.Errorf("brokers %v, %v; want the port %d", brokers, err, proxy.Port())
	}
}

func TestKafkaOfThreeBrokersSurvivesTheLossOfOne(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three Java processes")
	}
	kafka := startKafka(t, devstack.KafkaOptions{Brokers: 3})
	client := newClient(t, kafka.Brokers()...)
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 3, nil, "kept"); err != nil {
		t.Fatal(err)
	}
	produce(t, client, "kept", "before")
	if err := kafka.Stop(0); err != nil {
		t.Fatal(err)
	}
	produce(t, client, "kept", "between")
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	produce(t, client, "kept", "after")
	consume(t, kafka.Brokers()[:1], "kept", 3)

	if err := kafka.Close(); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, kafka.Dir()); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, err := os.Stat(kafka.Dir()); !os.IsNotExist(err) {
		t.Errorf("directory left: %v", err)
	}
}

func TestKafkaFailureQuotesItsLog(t *testing.T) {
	t.Parallel()
	stacktest.Require(t, "kafka", devstack.HaveKafka())
	_, err := devstack.StartKafka(t.Context(), devstack.KafkaOptions{Settings: map[string]string{"num.partitions": "many"}})
	if err == nil || !strings.Contains(err.Error(), "num.partitions") {
		t.Errorf("got %v", err)
	}
}
