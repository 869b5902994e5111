package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// topic is what is known of a topic that rows lead to.
type topic struct {
	name        string
	compacted   bool
	partitions  int
	partitioner kgo.TopicPartitioner
	cut         map[int32]*cut // partitions of which Kafka has deleted the beginning
	eventuate   bool           // messages of Eventuate Tram lead here, of which its own CDC service may have published some
}

// cut is the beginning of what a partition still has.
type cut struct {
	any bool
	at  time.Time // of the first record that is left
}

func newTopic(name string) *topic {
	return &topic{name: name, cut: map[int32]*cut{}, partitioner: kgo.StickyKeyPartitioner(nil).ForTopic(name)}
}

// readTopics reads the topics that the rows lead to, to where they end now, and learns which rows are there. A record of
// another source counts as well: what matters is that consumers have the event.
func (v *verifier) readTopics(ctx context.Context, set *expected) error {
	client, err := v.Kafka.Client(kgo.MetadataMinAge(10 * time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	spans, err := v.plan(ctx, kadm.NewClient(client))
	if err != nil {
		return err
	}
	if v.cutAny() && v.times == nil {
		v.times = make([]uint32, len(v.known))
	}
	if (v.Repair || v.positions) && v.commits == nil {
		v.commits = make([]uint64, len(v.known))
	}
	if v.positions && v.indexes == nil {
		v.indexes = make([]uint32, len(v.known))
	}
	if v.early {
		v.unseen = 0
		for i := range set.entries {
			if v.known[set.entries[i].row] == unseen {
				v.unseen++
			}
		}
	}
	began := time.Now()
	return v.Kafka.Scan(ctx, publish.Scan{
		Spans: spans, Committed: true,
		Each: func(r *kgo.Record) { v.note(set, r) },
		Enough: func() bool {
			v.rest(ctx)
			return v.early && v.unseen == 0
		},
		Skipped: func(name string, partition int32, _ int64) {
			if t := v.topics[name]; t != nil {
				t.cut[partition] = &cut{}
				if v.times == nil {
					v.times = make([]uint32, len(v.known))
				}
			}
		},
		Progress: func(read, of int64) {
			remaining := "unknown"
			if read > 0 {
				remaining = time.Duration(float64(time.Since(began)) * float64(of-read) / float64(read)).Round(time.Second).String()
			}
			v.Log.Info().Int("pass", v.report.Passes+1).Int64("read", read).Int64("of", of).Str("remaining", remaining).Msg("reading the topics")
		},
	})
}

func (v *verifier) cutAny() bool {
	for _, t := range v.topics {
		if len(t.cut) > 0 {
			return true
		}
	}
	return false
}

// plan returns what is to be read, and learns what the topics have lost.
func (v *verifier) plan(ctx context.Context, admin *kadm.Client) ([]publish.Span, error) {
	names := []string{v.DeadLetterTopic}
	for name := range v.topics {
		names = append(names, name)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" || len(name) > 249 || strings.ContainsFunc(name, invalid) })
	slices.Sort(names)
	names = slices.Compact(names)
	found, err := admin.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look up the topics: %w", err)
	}
	var there []string
	for _, name := range names {
		d := found.Topics[name]
		switch {
		case d.Err == nil && len(d.Partitions) > 0:
			there = append(there, name)
		case d.Err == nil, errors.Is(d.Err, kerr.UnknownTopicOrPartition), errors.Is(d.Err, kerr.InvalidTopicException):
			// nothing is in it
		default:
			return nil, fmt.Errorf("look up topic %s: %w", name, d.Err)
		}
	}
	if len(there) == 0 {
		return nil, nil
	}
	starts, err := admin.ListStartOffsets(ctx, there...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("look up where the topics begin: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx, there...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("look up where the topics end: %w", err)
	}
	var since kadm.ListedOffsets
	from := v.Since
	if v.early {
		from = v.oldest
	}
	if from.UnixMilli() > 0 { // zero is not
		if since, err = admin.ListOffsetsAfterMilli(ctx, from.UnixMilli(), there...); err == nil {
			err = since.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("look up where the topics are at %s: %w", from.Format(time.RFC3339), err)
		}
	}
	if err := v.learnPolicies(ctx, admin, there); err != nil {
		return nil, err
	}
	var spans []publish.Span
	for _, name := range there {
		t := v.topics[name]
		if t != nil {
			t.partitions = len(starts[name])
		}
		for partition, start := range starts[name] {
			span := publish.Span{Topic: name, Partition: partition, From: start.Offset, End: ends[name][partition].Offset}
			if at, ok := since.Lookup(name, partition); ok && name != v.DeadLetterTopic && at.Offset > span.From {
				span.From = at.Offset
			} else if t != nil && start.Offset > 0 {
				t.cut[partition] = &cut{}
			}
			if span.From < span.End {
				spans = append(spans, span)
			}
		}
	}
	return spans, nil
}

// invalid reports whether no topic's name has this.
func invalid(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r)
}

// learnPolicies learns which topics are compacted.
func (v *verifier) learnPolicies(ctx context.Context, admin *kadm.Client, names []string) error {
	described, err := admin.DescribeTopicConfigs(ctx, names...)
	if _, forbidden := errors.AsType[*kadm.AuthError](err); forbidden {
		v.remark("it is not allowed to ask for cleanup.policy: if a topic is compacted, rows that compaction has removed are counted as missing")
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up cleanup.policy: %w", err)
	}
	for _, d := range described {
		i := slices.IndexFunc(d.Configs, func(c kadm.Config) bool { return c.Key == "cleanup.policy" })
		switch {
		case d.Err != nil:
			v.remark(fmt.Sprintf("cleanup.policy of topic %s is not known (%v): if it is compacted, rows that compaction has removed are counted as missing", d.Name, d.Err))
		case i >= 0 && strings.Contains(d.Configs[i].MaybeValue(), "compact") && v.topics[d.Name] != nil:
			v.topics[d.Name].compacted = true
		}
	}
	return nil
}

func (v *verifier) remark(text string) {
	if !slices.Contains(v.report.Remarks, text) {
		v.report.Remarks = append(v.report.Remarks, text)
	}
}

// note learns which rows a record stands for.
func (v *verifier) note(set *expected, r *kgo.Record) {
	v.report.Records++
	stamp := publish.ReadStamp(r.Headers)
	if t := v.topics[r.Topic]; t != nil {
		if t.eventuate && !stamp.Any {
			stamp = publish.ReadEventuateStamp(r.Value)
		}
		if c := t.cut[r.Partition]; c != nil && !c.any {
			c.any, c.at = true, r.Timestamp
		}
	}
	if !stamp.Any {
		return
	}
	as := published
	topic := r.Topic
	if r.Topic == v.DeadLetterTopic {
		if meant, dead := meantFor(r.Headers); dead {
			as, topic = deadLettered, meant
		}
	}
	set.each(v.marks.of(topic, stamp.ID), func(row uint32) {
		if v.known[row] == unseen {
			v.unseen--
		}
		v.known[row] = max(v.known[row], as)
		if as != published || stamp.Replayed {
			return // out of its turn
		}
		if v.times != nil {
			v.times[row] = uint32(min(max(r.Timestamp.Unix(), 0), math.MaxUint32)) //nolint:gosec // within its bounds
		}
		if pos, err := decode.ParsePosition(stamp.Position); err == nil && v.commits != nil && (!v.positions || !v.placed(row)) {
			v.commits[row] = uint64(pos.Commit)
			if v.indexes != nil {
				v.indexes[row] = pos.Index + 1
			}
		}
	})
}

// meantFor returns the topic that a dead letter was for. A relay says it behind what the row brings along.
func meantFor(headers []kgo.RecordHeader) (topic string, dead bool) {
	for _, h := range headers {
		if h.Key == "tidemark-topic" {
			topic, dead = string(h.Value), true
		}
	}
	return topic, dead
}

// undecidable returns why a row that was not found may have been in Kafka all the same; "" if it cannot have been. passed
// is a time by which rows before it in the table had been published already, zero if none is known.
func (v *verifier) undecidable(ev *decode.Event, newest bool, passed time.Time) string {
	t := v.topics[ev.Topic]
	if t == nil {
		return ""
	}
	if t.compacted && !newest {
		return "the topic is compacted, and this is not the last row of its key, or a tombstone"
	}
	if len(t.cut) == 0 {
		return ""
	}
	var last time.Time
	for _, c := range t.cut {
		if c.any && c.at.After(last) {
			last = c.at
		}
	}
	if !last.IsZero() && passed.Before(last.Add(v.LongestTransaction)) {
		return "not decidable before " + last.Add(v.LongestTransaction).UTC().Format(time.RFC3339) + ": the topic has lost its older records"
	}
	for number, c := range t.cut {
		if !c.any && (ev.Key == nil || t.partition(ev) == number) {
			return fmt.Sprintf("the topic has lost all records of partition %d", number)
		}
	}
	return ""
}

// partition is where the event goes, or would have gone with as many partitions as there are now.
func (t *topic) partition(ev *decode.Event) int32 {
	if ev.Partition != decode.AnyPartition {
		return ev.Partition
	}
	return int32(t.partitioner.Partition(&kgo.Record{Key: ev.Key}, t.partitions)) //nolint:gosec // Kafka counts them in 32 bits
}
