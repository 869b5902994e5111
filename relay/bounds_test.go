package relay_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/relay"
)

func TestNoMoreIsReadThanMayBeInFlight(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const limit = 100 << 10
	b.options.MaxBufferedBytes = limit
	var slow atomic.Bool
	slow.Store(true)
	b.slowly(&slow)
	b.insert(5000)
	r := b.start()
	var most int64
	eventually(t, "the account is full", func() bool {
		most = max(most, r.relay.Status().InFlightBytes)
		return most >= limit
	})
	for range 200 {
		most = max(most, r.relay.Status().InFlightBytes)
		<-time.After(2 * time.Millisecond)
	}
	if most > limit+(2<<10) { // the last event may go above it
		t.Errorf("%d bytes in flight, and the limit is %d", most, limit)
	}
	slow.Store(false)
	mustArriveInOrder(t, b.records("outbox.event.order", 5000))
	r.stop()
}

// refusing is a store that takes nothing while full.
type refusing struct {
	relay.Store
	full atomic.Bool
}

func (s *refusing) Save(ctx context.Context, c *checkpoint.Checkpoint, holder string) error {
	if s.full.Load() {
		return errors.New("disk full")
	}
	return s.Store.Save(ctx, c, holder)
}

// TestNoMoreIsReadBeyondTheCheckpointThanMayBe: a store that does not work for hours must not leave more behind than a
// successor can look for.
func TestNoMoreIsReadBeyondTheCheckpointThanMayBe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const limit = 20
	store := &refusing{Store: b.store}
	b.options.Store, b.options.MaxBehind = store, limit
	b.insert(1) // there before the slot
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 2)
	store.full.Store(true)
	for range 3 * limit {
		b.insert(1)
	}
	n := 0
	eventually(t, "no more is published", func() bool {
		before := n
		n = len(b.read("outbox.event.order", limit))
		return n == before
	})
	if n < limit || n > 2+limit {
		t.Errorf("%d events are published while the store takes nothing, and at most %d transactions may be", n-2, limit)
	}
	store.full.Store(false)
	mustArriveInOrder(t, b.records("outbox.event.order", 2+3*limit))
	r.stop()
}

// unavailable makes the broker answer producers of the topic that it is not the leader, while on.
func (b *bench) unavailable(topic string, on *atomic.Bool) (asked *atomic.Int64) {
	asked = &atomic.Int64{}
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		produce, ok := request.(*kmsg.ProduceRequest)
		if !ok || !on.Load() {
			return nil, nil, false
		}
		info := b.cluster.TopicInfo(topic)
		hit := false
		for _, t := range produce.Topics {
			hit = hit || t.Topic == topic || (info != nil && t.TopicID == info.TopicID)
		}
		if !hit {
			return nil, nil, false
		}
		asked.Add(1)
		response := kmsg.NewPtrProduceResponse()
		response.Version = produce.Version
		for _, t := range produce.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	return asked
}

func TestEventThatNeverArrivedIsNotTakenForPublished(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.ResumeDedupe = true
	b.options.DrainTimeout = 200 * time.Millisecond
	var down atomic.Bool
	r := b.start()
	b.event("k", "slow", "1")
	b.event("k", "fast", "1")
	b.records("outbox.event.slow", 1)
	b.records("outbox.event.fast", 1)
	asked := b.unavailable("outbox.event.slow", &down)
	down.Store(true)
	b.event("k", "slow", "2")
	eventually(t, "the first event is refused for now", func() bool { return asked.Load() > 0 })
	b.event("k", "fast", "2") // later in the log, and in Kafka before
	b.records("outbox.event.fast", 2)
	r.stop()
	down.Store(false)

	r = b.start()
	mustBe(t, "slow", values(b.records("outbox.event.slow", 2)), "1", "2")
	mustBe(t, "fast", values(b.records("outbox.event.fast", 2)), "1", "2")
	eventually(t, "streaming", func() bool { return r.relay.Status().State == relay.Streaming })
	r.stop()
}
