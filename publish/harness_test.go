package publish

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
)

// limit is how long a slow machine may take for what must come.
const limit = 2 * time.Minute

func newCluster(tb testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// outlet is a publisher whose acknowledgements are kept.
type outlet struct {
	*Publisher
	t testing.TB

	mu   sync.Mutex
	back []answer
	more chan struct{} // capacity 1: back has grown
}

// answer is a delivery that has come back.
type answer struct {
	*Delivery
	err error
	at  time.Time // Answered, when it came back
}

// open returns a publisher for the cluster that creates topics with two partitions; set changes its options.
func open(tb testing.TB, c *kfake.Cluster, set ...func(*Options)) *outlet {
	tb.Helper()
	o := Options{Brokers: c.ListenAddrs(), Topics: TopicOptions{Create: true, Partitions: 2, ReplicationFactor: -1}}
	for _, f := range set {
		f(&o)
	}
	out := &outlet{t: tb, more: make(chan struct{}, 1)}
	p, err := Open(o, out.acked)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	out.Publisher = p
	return out
}

func (o *outlet) acked(d *Delivery, err error) {
	o.mu.Lock()
	o.back = append(o.back, answer{d, err, o.Answered()})
	o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
}

// prepare makes topics known.
func (o *outlet) prepare(topics ...string) *outlet {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), limit)
	defer cancel()
	if err := o.Prepare(ctx, topics); err != nil {
		o.t.Fatal(err)
	}
	for _, topic := range topics {
		if !o.Known(topic) {
			o.t.Fatalf("topic %s is prepared and not known", topic)
		}
	}
	return o
}

// hand checks the events and hands them over, as one batch.
func (o *outlet) hand(events ...decode.Event) {
	o.t.Helper()
	batch := make([]Delivery, len(events))
	for i := range events {
		batch[i] = Delivery{Event: events[i], Owner: i}
		if err := o.Check(&batch[i]); err != nil {
			o.t.Fatalf("Check: %v", err)
		}
	}
	o.Publish(batch)
}

// answers waits until n deliveries have come back.
func (o *outlet) answers(n int) []answer {
	o.t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		o.mu.Lock()
		back := slices.Clone(o.back)
		o.mu.Unlock()
		if len(back) >= n {
			return back
		}
		select {
		case <-o.more:
		case <-timer.C:
			o.t.Fatalf("%d of %d deliveries have come back", len(back), n)
		}
	}
}

// mustAck waits for n acknowledgements and fails if one is an error.
func (o *outlet) mustAck(n int) []answer {
	o.t.Helper()
	back := o.answers(n)
	for _, a := range back {
		if a.err != nil {
			o.t.Fatalf("event %s: %v", a.Event.ID, a.err)
		}
	}
	return back
}

// event is one for the topic's partition.
func event(topic string, partition int32, n int) decode.Event {
	id := fmt.Sprintf("%d-%d", partition, n)
	return decode.Event{
		ID: id, Topic: topic, Partition: partition, Key: []byte(id), Value: []byte("value " + id), Timestamp: time.UnixMilli(1700000000000),
		Position: decode.Position{Commit: firstLSN, Index: uint32(n)}, //nolint:gosec // small
	}
}

// events are n for topic t.
func events(partition int32, from, n int) []decode.Event {
	all := make([]decode.Event, n)
	for i := range all {
		all[i] = event("t", partition, from+i)
	}
	return all
}

// log reads the topic from its start to its end, by partition.
func log(tb testing.TB, c *kfake.Cluster, topic string) map[int32][]*kgo.Record {
	tb.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		tb.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		tb.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	records := map[int32][]*kgo.Record{}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			tb.Fatalf("read topic %s: %v, %d records are left", topic, err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records[r.Partition] = append(records[r.Partition], r)
			left--
		})
	}
	return records
}

// mustHold checks that each partition of topic t holds these events and nothing else, in this order.
func mustHold(tb testing.TB, c *kfake.Cluster, want map[int32][]decode.Event) {
	tb.Helper()
	got := log(tb, c, "t")
	for partition := range int32(len(want) + 2) { //nolint:gosec // small
		var in, out []string
		for _, r := range got[partition] {
			in = append(in, string(r.Value))
		}
		for _, ev := range want[partition] {
			out = append(out, string(ev.Value))
		}
		if !slices.Equal(in, out) {
			tb.Errorf("partition %d holds %d records, want %d: %.300q\nwant %.300q", partition, len(in), len(out), in, out)
		}
	}
}

// eventually waits for what must come.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
