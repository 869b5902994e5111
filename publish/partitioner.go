package publish

import (
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// partitioner chooses partitions as Java's default does: murmur2 of a key, sticky batches without one; a partition that
// the event names comes first.
//
// The number of partitions that a key is reduced to does not change under a running key: when partitions were added, keys
// stay where they are until adopt, which is called when nothing is under way. So the records of a key are never under
// way to two partitions at once.
type partitioner struct {
	keyed kgo.TopicPartitioner // serves all topics: of keys it remembers nothing
	moved atomic.Bool          // some topic has another number of partitions than its keys are reduced to

	mu     sync.Mutex
	topics map[string]*topicPartitioner
}

func newPartitioner() *partitioner {
	return &partitioner{keyed: kgo.StickyKeyPartitioner(nil).ForTopic(""), topics: map[string]*topicPartitioner{}}
}

// ForTopic implements kgo.Partitioner.
func (p *partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &topicPartitioner{keyed: p.keyed, moved: &p.moved}
	if before := p.topics[topic]; before != nil {
		t.reduced.Store(before.reduced.Load())
	}
	p.topics[topic] = t
	return t
}

// moved is a topic whose keys are reduced to another number of partitions from now on.
type moved struct {
	topic    string
	from, to int32
}

// adopt reduces keys to the numbers of partitions that the topics have now.
func (p *partitioner) adopt() []moved {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved.Store(false)
	var all []moved
	for name, t := range p.topics {
		from, to := t.reduced.Load(), t.seen.Load()
		if to != 0 && from != to {
			t.reduced.Store(to)
			all = append(all, moved{name, from, to})
		}
	}
	return all
}

type topicPartitioner struct {
	keyed   kgo.TopicPartitioner
	sticky  kgo.TopicPartitioner // for records without a key; nil before the first, because it takes 5 KB
	moved   *atomic.Bool
	reduced atomic.Int32 // what keys are reduced to; 0 before the first
	seen    atomic.Int32 // how many partitions there were at the last look
}

// RequiresConsistency implements kgo.TopicPartitioner.
func (p *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return chosenPartition(r) >= 0 || r.Key != nil
}

// Partition implements kgo.TopicPartitioner. Check has found that a partition which the event names is there.
func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if chosen := chosenPartition(r); chosen >= 0 {
		return int(chosen)
	}
	if r.Key == nil {
		if p.sticky == nil {
			p.sticky = kgo.StickyPartitioner().ForTopic("")
		}
		return p.sticky.Partition(r, n) // n counts the partitions that can be written to
	}
	now := int32(n) //nolint:gosec // Kafka counts partitions in 32 bits
	reduced := p.reduced.Load()
	if reduced == 0 {
		reduced = now
		p.reduced.Store(now)
	}
	if now != reduced {
		p.seen.Store(now)
		p.moved.Store(true)
	}
	return p.keyed.Partition(r, int(min(reduced, now)))
}

// OnNewBatch passes on what the sticky partitioner wants to know for records without a key.
func (p *topicPartitioner) OnNewBatch() {
	if sticky, ok := p.sticky.(kgo.TopicPartitionerOnNewBatch); ok {
		sticky.OnNewBatch()
	}
}

func chosenPartition(r *kgo.Record) int32 {
	if c, ok := r.Context.(*carrier); ok {
		return c.delivery.Event.Partition
	}
	return -1
}

// PartitionOf returns the partition that a key goes to in a topic of n partitions. The key is not nil.
func PartitionOf(key []byte, n int) int32 {
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic("").Partition(&kgo.Record{Key: key}, n)) //nolint:gosec // Kafka counts partitions in 32 bits
}
