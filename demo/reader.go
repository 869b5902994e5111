package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm" //nolint:depguard // the reader stands for the consumer, and is not of the path
	"github.com/twmb/franz-go/pkg/kgo"  //nolint:depguard // as above
)

const (
	partitions = 3
	// What the in-process Kafka keeps of a partition, in memory; far more than the reader can be behind.
	retentionBytes, segmentBytes = "16777216", "4194304"
)

// topicOf is as the default configuration has it.
func topicOf(kind string) string { return "outbox.event." + kind }

// reader reads all records, as a consumer would, and notes them in the ledger.
type reader struct {
	client *kgo.Client
	topics []string
	ledger *ledger

	mu   sync.Mutex
	next map[string]map[int32]int64 // topic, partition: the offset behind the last record read
}

// openReader creates the topics and returns a reader that begins at their beginning.
func openReader(ctx context.Context, brokers []string, l *ledger) (*reader, error) {
	r := &reader{ledger: l, next: map[string]map[int32]int64{}}
	for _, kind := range kinds {
		topic := topicOf(kind.name)
		r.topics = append(r.topics, topic)
		r.next[topic] = map[int32]int64{}
	}
	var err error
	r.client, err = kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.ClientID("tidemark-demo"),
		kgo.KeepControlRecords(), // a marker may be the last before the end
	)
	if err != nil {
		return nil, fmt.Errorf("open the reader: %w", err)
	}
	// The relay would create them, but with no bound.
	bounds := map[string]*string{"retention.bytes": new(retentionBytes), "segment.bytes": new(segmentBytes)}
	created, err := kadm.NewClient(r.client).CreateTopics(ctx, partitions, 1, bounds, r.topics...)
	if err == nil {
		err = created.Error()
	}
	if err != nil {
		r.client.Close()
		return nil, fmt.Errorf("create the topics: %w", err)
	}
	begin := map[string]map[int32]kgo.Offset{}
	for _, topic := range r.topics {
		begin[topic] = map[int32]kgo.Offset{}
		for p := range int32(partitions) {
			begin[topic][p] = kgo.NewOffset().AtStart()
		}
	}
	r.client.AddConsumePartitions(begin)
	return r, nil
}

func (r *reader) close() { r.client.Close() }

// run reads until ctx is done, which is no error.
func (r *reader) run(ctx context.Context) error {
	for ctx.Err() == nil {
		fetches := r.client.PollFetches(ctx)
		now := time.Now()
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("read from Kafka: %w", err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				r.ledger.arrive(newRecord(rec), now)
			}
		})
		r.advance(fetches)
	}
	return nil
}

func (r *reader) advance(fetches kgo.Fetches) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fetches.EachRecord(func(rec *kgo.Record) { r.next[rec.Topic][rec.Partition] = rec.Offset + 1 })
}

func newRecord(rec *kgo.Record) record {
	out := record{topic: rec.Topic, key: string(rec.Key)}
	for _, h := range rec.Headers {
		switch h.Key {
		case "id":
			out.id = string(h.Value)
		case "eventType":
			out.typ = string(h.Value)
		case "tidemark-position":
			out.position = string(h.Value)
		}
	}
	var payload struct {
		Sequence int `json:"sequence"`
	}
	if json.Unmarshal(rec.Value, &payload) == nil { // else the ledger finds the sequence wrong
		out.sequence = payload.Sequence
	}
	return out
}

// awaitEnd waits until everything has been read that is in the topics now.
func (r *reader) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	ends, err := kadm.NewClient(r.client).ListEndOffsets(ctx, r.topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("ask for the ends of the topics: %w", err)
	}
	for !r.reached(ends) {
		if !wait(ctx, 5*time.Millisecond) {
			return fmt.Errorf("read to the ends of the topics: %w", ctx.Err())
		}
	}
	return nil
}

const endLimit = 20 * time.Second

func (r *reader) reached(ends kadm.ListedOffsets) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := true
	ends.Each(func(end kadm.ListedOffset) { all = all && r.next[end.Topic][end.Partition] >= end.Offset })
	return all
}
