package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reader reads topics from their beginning into a ledger, while they are written and across whatever happens to the
// brokers: uncommitted records of transactions included, unless the ledger is one of exactly once. A topic that is deleted
// and created again is read from its beginning again.
type Reader struct {
	ledger *Ledger
	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	ids map[string]kadm.TopicID // of the topics whose offsets the ledger has
}

// Read begins to read the topics, which may not exist yet, until Close. The options are added to the client's.
func Read(ctx context.Context, l *Ledger, brokers, topics []string, opts ...kgo.Opt) (*Reader, error) {
	isolation := kgo.ReadUncommitted()
	if l.exactlyOnce {
		isolation = kgo.ReadCommitted()
	}
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.ClientID("ledger"),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(isolation),
		kgo.KeepControlRecords(), // so that no offset is missing
		kgo.FetchMaxWait(250 * time.Millisecond),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.MetadataMaxAge(time.Second), // partitions that are added are to be seen soon
		kgo.UnknownTopicRetries(-1),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("read the topics: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Reader{ledger: l, client: client, cancel: cancel, done: make(chan struct{}), ids: make(map[string]kadm.TopicID)}
	go r.run(ctx) // ends with Close
	return r, nil
}

// Close stops reading.
func (r *Reader) Close() {
	r.cancel()
	<-r.done
	r.client.Close()
}

// Renew has the reader look for another topic of that name at once. Without it the reader learns from the broker that the
// one that it reads is no more, which takes seconds.
func (r *Reader) Renew(topic string) {
	r.client.PurgeTopicsFromClient(topic) // the client never goes over to another topic of the same name by itself
	r.client.AddConsumeTopics(topic)
}

func (r *Reader) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil {
		for _, fetch := range r.client.PollFetches(ctx) {
			for i := range fetch.Topics {
				r.enter(&fetch.Topics[i])
			}
		}
	}
}

// enter enters what a fetch has brought of a topic. Errors are the client's to retry, but for one; what it might leave out,
// the offsets tell.
func (r *Reader) enter(t *kgo.FetchTopic) {
	gone := false
	for i := range t.Partitions {
		p := &t.Partitions[i]
		gone = gone || errors.Is(p.Err, kerr.UnknownTopicID)
		if len(p.Records) == 0 {
			continue
		}
		r.mu.Lock()
		if id, known := r.ids[t.Topic]; known && id != t.TopicID {
			r.ledger.Forget(t.Topic)
		}
		r.ids[t.Topic] = t.TopicID
		r.mu.Unlock()
		for _, record := range p.Records {
			if record.Attrs.IsControl() {
				r.ledger.Pass(record.Topic, record.Partition, record.Offset)
				continue
			}
			r.ledger.Arrive(asRecord(record))
		}
	}
	if gone {
		r.Renew(t.Topic)
	}
}

func asRecord(r *kgo.Record) Record {
	out := Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value}
	if r.Attrs.IsTransactional() {
		out.Kafka = KafkaTransaction{r.ProducerID, r.ProducerEpoch, true}
	}
	for _, h := range r.Headers {
		switch h.Key {
		case "id":
			out.ID = string(h.Value)
		case "tidemark-position":
			out.Position = string(h.Value)
		case "tidemark-error":
			out.Error = string(h.Value)
		case "tidemark-topic":
			out.From = string(h.Value)
		case "tidemark-payload-omitted":
			out.Omitted = true
		}
	}
	return out
}

// AwaitAll returns when every committed event has arrived, or when none has for as long as patience, or with ctx. It
// takes the writers' word for what is committed, so Settle comes before it.
func (r *Reader) AwaitAll(ctx context.Context, patience time.Duration) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	began := time.Now()
	for {
		committed, arrived, lastNew := r.ledger.Progress()
		// Phantoms count as arrived, so the quick look may deceive.
		if arrived >= committed && r.ledger.Missing("") == 0 {
			return
		}
		if lastNew.Before(began) {
			lastNew = began
		}
		if time.Since(lastNew) > patience {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// AwaitEnd returns when everything that was in the topics when it was called has been read: what comes after the last
// event that was waited for, such as doubles, is behind that. Of a topic that is deleted meanwhile there is nothing to read.
func (r *Reader) AwaitEnd(ctx context.Context, topics ...string) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	ends := make(map[partition]topicEnd)
	var looked time.Time
	behind := ""
	for {
		// Again and again: the answer may have been that a partition has no leader, or a topic may be another one by now.
		if time.Since(looked) > time.Second {
			if err := r.lookUpEnds(ctx, topics, ends); err != nil {
				return fmt.Errorf("read to the end: %s: %w", behind, err)
			}
			looked = time.Now()
		}
		behind = ""
		for name, end := range ends {
			if end.err != nil {
				behind = fmt.Sprintf("%s/%d: %v", name.topic, name.number, end.err)
				looked = time.Time{}
			} else if next := r.next(name, end.id); next < end.offset {
				behind = fmt.Sprintf("%s/%d has %d records, read are %d", name.topic, name.number, end.offset, next)
			}
		}
		if behind == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("read to the end: %s: %w", behind, ctx.Err())
		case <-ticker.C:
		}
	}
}

// topicEnd is the end of a partition of the topic with that id, or why it is not known.
type topicEnd struct {
	id     kadm.TopicID
	offset int64
	err    error
}

// lookUpEnds enters the ends that are not in ends yet, or are there of another topic of that name.
func (r *Reader) lookUpEnds(ctx context.Context, topics []string, ends map[partition]topicEnd) error {
	admin := kadm.NewClient(r.client)
	// Asking for rights as well goes past the client's cache, which takes a topic for the one before of that name.
	known, err := admin.ListTopics(kadm.WithAuthorizedOps(ctx), topics...)
	if err != nil {
		return fmt.Errorf("look up the topics: %w", err)
	}
	listed, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return fmt.Errorf("look up the ends of the topics: %w", err)
	}
	missing := func(topic string) bool {
		detail, ok := known[topic]
		return !ok || errors.Is(detail.Err, kerr.UnknownTopicOrPartition)
	}
	maps.DeleteFunc(ends, func(name partition, _ topicEnd) bool { return missing(name.topic) })
	listed.Each(func(o kadm.ListedOffset) {
		name, id := partition{o.Topic, o.Partition}, known[o.Topic].ID
		if end, ok := ends[name]; ok && end.err == nil && end.id == id {
			return // more may have come since, which nobody waits for
		}
		if missing(o.Topic) {
			return // nothing was ever published there, or it is gone
		}
		ends[name] = topicEnd{id, o.Offset, o.Err}
	})
	return nil
}

// next is the offset after the last record that was entered of a partition of the topic with that id.
func (r *Reader) next(name partition, id kadm.TopicID) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[name.topic] != id {
		return 0
	}
	return r.ledger.next(name.topic, name.number)
}

// next is the offset after the last record that was entered.
func (l *Ledger) next(topic string, number int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.partitions[partition{topic, number}]; p != nil {
		return p.next
	}
	return 0
}
