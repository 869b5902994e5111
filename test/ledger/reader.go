package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reader reads topics from their beginning into a ledger, uncommitted records of transactions included, while they are
// written and across whatever happens to the brokers.
type Reader struct {
	ledger *Ledger
	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}
}

// Read begins to read the topics, which may not exist yet, until Close. The options are added to the client's.
func Read(ctx context.Context, l *Ledger, brokers, topics []string, opts ...kgo.Opt) (*Reader, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.ClientID("ledger"),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
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
	r := &Reader{ledger: l, client: client, cancel: cancel, done: make(chan struct{})}
	go r.run(ctx) // ends with Close
	return r, nil
}

// Close stops reading.
func (r *Reader) Close() {
	r.cancel()
	<-r.done
	r.client.Close()
}

// Renew is called between the deletion of a topic and its creation: its offsets begin anew. What has arrived has arrived.
func (r *Reader) Renew(topic string) {
	r.client.PurgeTopicsFromClient(topic) // the client never goes over to another topic of the same name by itself
	r.ledger.Forget(topic)
	r.client.AddConsumeTopics(topic)
}

func (r *Reader) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil {
		// Errors are the client's to retry; what it might leave out, the offsets tell.
		r.client.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			if record.Attrs.IsControl() {
				r.ledger.Pass(record.Topic, record.Partition, record.Offset)
				return
			}
			r.ledger.Arrive(asRecord(record))
		})
	}
}

func asRecord(r *kgo.Record) Record {
	out := Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		switch h.Key {
		case "id":
			out.ID = string(h.Value)
		case "tidemark-position":
			out.Position = string(h.Value)
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
// event that was waited for, such as doubles, is behind that.
func (r *Reader) AwaitEnd(ctx context.Context, topics ...string) error {
	admin := kadm.NewClient(r.client)
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return fmt.Errorf("look up the ends of the topics: %w", err)
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		behind := ""
		ends.Each(func(o kadm.ListedOffset) {
			if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
				return // nothing was ever published there
			}
			if next := r.ledger.next(o.Topic, o.Partition); o.Err == nil && next < o.Offset {
				behind = fmt.Sprintf("%s/%d has %d records, read are %d", o.Topic, o.Partition, o.Offset, next)
			} else if o.Err != nil {
				behind = fmt.Sprintf("%s/%d: %v", o.Topic, o.Partition, o.Err)
			}
		})
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

// next is the offset after the last record that was entered.
func (l *Ledger) next(topic string, number int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.partitions[partition{topic, number}]; p != nil {
		return p.next
	}
	return 0
}
