package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Scan says what of the topics is read back, and to whom it is shown.
type Scan struct {
	Spans []Span
	// Committed leaves out records of transactions that were aborted, and waits for those that are open.
	Committed bool
	// Each is shown every record, those of a partition in their order, perhaps some behind the end. It must not keep
	// them: a record shares the memory of its batch.
	Each func(*kgo.Record)
	// Skipped, if set, is told that retention has deleted records before they could be read; what is left begins at to.
	Skipped func(topic string, partition int32, to int64)
	// Progress, if set, is told now and then how many offsets are done.
	Progress func(read, of int64)
	// Enough, if set, is asked before each round of questions to the brokers; true ends the reading before the ends of the spans.
	Enough func() bool
}

// Span is a range of a partition's offsets, End not included.
type Span struct {
	Topic     string
	Partition int32
	From, End int64
}

// Scan reads spans to their ends, on connections of its own. A leader that moves is followed.
func (o *Options) Scan(ctx context.Context, s Scan) error {
	client, err := o.reading()
	if err != nil {
		return err
	}
	defer client.Close()
	spans := make([]*span, 0, len(s.Spans))
	topics := map[string]bool{}
	for _, part := range s.Spans {
		spans = append(spans, &span{topic: part.Topic, partition: part.Partition, from: part.From, end: part.End})
		topics[part.Topic] = true
	}
	names := make([]string, 0, len(topics))
	for name := range topics {
		names = append(names, name)
	}
	reading := scanner{client: client, each: s.Each, skipped: s.Skipped, progress: s.Progress, enough: s.Enough, patience: scanPatience}
	if s.Committed {
		reading.isolation = 1
	}
	reading.lead = func(ctx context.Context) error {
		if len(names) == 0 {
			return nil
		}
		metadata, err := kadm.NewClient(client).Metadata(ctx, names...)
		if err != nil {
			return fmt.Errorf("look up who leads the partitions: %w", err)
		}
		for _, s := range spans {
			s.leader = -1
			if p, ok := metadata.Topics[s.topic].Partitions[s.partition]; ok {
				s.leader = p.Leader
			}
		}
		return nil
	}
	if err := reading.lead(ctx); err != nil {
		return err
	}
	return reading.read(ctx, spans)
}

// scanPatience is for how long a Scan tries again what may pass, such as a broker that restarts.
const scanPatience = time.Minute

// reading returns a client that fetches by topic name: later versions of the request name topics by id.
func (o *Options) reading() (*kgo.Client, error) {
	return o.Client(kgo.MaxVersions(kversion.V3_0_0()))
}

// scanner reads spans. It fetches for itself, because the end of a partition can be a marker, an aborted or a compacted
// batch, which a consumer does not show.
type scanner struct {
	client    *kgo.Client
	isolation int8 // as the request has it
	each      func(*kgo.Record)
	marker    func(*kgo.Record) // gets the control records; nil: nobody
	skipped   func(topic string, partition int32, to int64)
	progress  func(read, of int64)
	enough    func() bool                 // nil: never
	lead      func(context.Context) error // finds the leaders anew; nil: an error ends the reading
	patience  time.Duration

	decompress kgo.Decompressor
}

// span is what is left to read of a partition.
type span struct {
	topic     string
	partition int32
	leader    int32
	from, end int64
}

func (r *scanner) read(ctx context.Context, spans []*span) error {
	r.decompress = kgo.DefaultDecompressor()
	said := time.Now()
	good := said // the last moment without an error
	var total int64
	for _, s := range spans {
		total += s.end - s.from
	}
	for {
		missing := int64(0)
		// A round asks each leader for the spans that are left on it.
		byLeader := map[int32][]*span{}
		for _, s := range spans {
			if s.from < s.end {
				missing += s.end - s.from
				byLeader[s.leader] = append(byLeader[s.leader], s)
			}
		}
		if r.progress != nil && time.Since(said) >= 5*time.Second {
			said = time.Now()
			r.progress(total-missing, total)
		}
		if missing == 0 || (r.enough != nil && r.enough()) {
			return nil
		}
		for leader, spans := range byLeader {
			err := r.fetch(ctx, leader, spans)
			if err == nil {
				good = time.Now()
				continue
			}
			if r.lead == nil || ctx.Err() != nil || !passesByItself(err) || time.Since(good) > r.patience {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
			if err := r.lead(ctx); err != nil {
				return err
			}
			break
		}
	}
}

func passesByItself(err error) bool {
	return kgo.IsRetryableBrokerErr(err) || kerr.IsRetriable(err) || errors.Is(err, errNoBroker)
}

// errNoBroker marks a partition that nobody leads at the moment.
var errNoBroker = errors.New("no broker leads it at the moment")

// One fetch brings at most these many bytes, but at least one batch.
const (
	fetchBytes          = 8 << 20
	fetchPartitionBytes = 1 << 20
)

// fetch reads once from one broker and moves the spans on.
func (r *scanner) fetch(ctx context.Context, leader int32, spans []*span) error {
	if leader < 0 {
		return fmt.Errorf("read %s/%d: %w", spans[0].topic, spans[0].partition, errNoBroker)
	}
	request := kmsg.NewPtrFetchRequest()
	request.ReplicaID = -1
	request.MaxWaitMillis = 500
	request.MinBytes = 1
	request.MaxBytes = fetchBytes
	request.IsolationLevel = r.isolation
	request.SessionEpoch = -1
	byPartition := map[string]map[int32]*span{}
	topics := map[string]*kmsg.FetchRequestTopic{}
	for _, s := range spans {
		t := topics[s.topic]
		if t == nil {
			topic := kmsg.NewFetchRequestTopic()
			topic.Topic = s.topic
			t = &topic
			topics[s.topic], byPartition[s.topic] = t, map[int32]*span{}
		}
		partition := kmsg.NewFetchRequestTopicPartition()
		partition.Partition, partition.FetchOffset, partition.PartitionMaxBytes = s.partition, s.from, fetchPartitionBytes
		t.Partitions = append(t.Partitions, partition)
		byPartition[s.topic][s.partition] = s
	}
	for _, t := range topics {
		request.Topics = append(request.Topics, *t)
	}
	answer, err := r.client.Broker(int(leader)).RetriableRequest(ctx, request)
	if err != nil {
		return fmt.Errorf("read topics from broker %d: %w", leader, err)
	}
	response := answer.(*kmsg.FetchResponse) //nolint:forcetypeassert // the answer to a fetch
	if err := kerr.ErrorForCode(response.ErrorCode); err != nil {
		return fmt.Errorf("read topics from broker %d: %w", leader, err)
	}
	for _, t := range response.Topics {
		for i := range t.Partitions {
			s := byPartition[t.Topic][t.Partitions[i].Partition]
			if s == nil {
				continue // not asked for
			}
			if err := r.take(s, &t.Partitions[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// take shows the records of one answer. A span is done when the offset after the last batch has reached its end.
func (r *scanner) take(s *span, answer *kmsg.FetchResponseTopicPartition) error {
	opts := kgo.ProcessFetchPartitionOpts{Topic: s.topic, Partition: s.partition, Offset: s.from, KeepControlRecords: true}
	if r.isolation != 0 {
		opts.IsolationLevel = kgo.ReadCommitted()
	}
	fetched, next := kgo.ProcessFetchPartition(opts, answer, r.decompress, nil)
	if errors.Is(fetched.Err, kerr.OffsetOutOfRange) && answer.LogStartOffset > s.from {
		s.from = min(answer.LogStartOffset, s.end) // retention was quicker
		if r.skipped != nil {
			r.skipped(s.topic, s.partition, answer.LogStartOffset)
		}
		return nil
	}
	if fetched.Err != nil {
		return fmt.Errorf("read %s/%d at %d: %w", s.topic, s.partition, s.from, fetched.Err)
	}
	for _, record := range fetched.Records {
		switch {
		case record.Offset < s.from:
		case !record.Attrs.IsControl():
			r.each(record)
		case r.marker != nil:
			r.marker(record)
		}
	}
	s.from = max(s.from, next)
	return nil
}
