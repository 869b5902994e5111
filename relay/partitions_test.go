package relay_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestAddedPartitionsAreAdoptedBetweenEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.ResumeDedupe = true
	b.options.Kafka.Settings = map[string]string{"metadata.max.age.ms": "250"}
	r := b.start()
	b.insert(70)
	b.records("outbox.event.order", 70)
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).UpdatePartitions(t.Context(), 9, "outbox.event.order"); err != nil {
		t.Fatal(err)
	}
	total := 70
	eventually(t, "records go to the partitions that were added", func() bool {
		b.insert(70)
		total += 70
		for _, record := range b.records("outbox.event.order", total) {
			if record.Partition >= 3 {
				return true
			}
		}
		return false
	})
	// A key changes its partition once, and nothing of it is left behind in the old one.
	where := map[string][]int32{}
	for _, record := range b.records("outbox.event.order", total) {
		key := string(record.Key)
		if n := len(where[key]); n == 0 || where[key][n-1] != record.Partition {
			where[key] = append(where[key], record.Partition)
		}
	}
	for key, partitions := range where {
		if len(partitions) > 2 {
			t.Errorf("key %s went to partitions %v", key, partitions)
		}
	}
	r.stop()
	r = b.start()
	b.insert(7)
	b.records("outbox.event.order", total+7)
	r.stop()
}
