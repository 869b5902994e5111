package receipt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

const (
	// before is how many records ahead of where the time leads are read as well: a broker that stamps records itself may
	// have a slow clock.
	before = 1000
	// further is for how long it is read on behind a record that was found, for more of the same event.
	further = 250 * time.Millisecond
	// firstTail is how many records at the end of a partition are read first, where the time is not known.
	firstTail = 2000
	// maxTopics is how many topics are looked into for an event whose row is gone.
	maxTopics = 100
)

// search is one look into Kafka.
type search struct {
	*finder
	admin *kadm.Client
	ids   map[string]bool
	seen  map[offset]bool
	read  map[string]map[int32]*reach // topic, partition
	hit   time.Time                   // of the first record that was found
}

type offset struct {
	topic     string
	partition int32
	offset    int64
}

// reach is what was read of a partition.
type reach struct {
	start, end int64 // what there is
	from, to   int64 // what was read of it
}

// place is where a record of the event may be.
type place struct {
	topic     string
	key       []byte
	keyed     bool // the key is known; a nil one may be anywhere
	partition int32
	since     time.Time // zero: not known
}

// askKafka looks for records of the event.
func (f *finder) askKafka(ctx context.Context) {
	f.receipt.Records = []Record{}
	client, err := f.Kafka.Client(kgo.MetadataMinAge(10 * time.Millisecond))
	if err == nil {
		defer client.Close()
		s := &search{finder: f, admin: kadm.NewClient(client), ids: map[string]bool{f.receipt.ID: true}, seen: map[offset]bool{}, read: map[string]map[int32]*reach{}}
		err = s.everywhere(ctx)
		s.report()
	}
	if err != nil {
		f.complete = false
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the time of %s was over (--timeout)", f.Timeout)
		}
		f.notSearched(fmt.Sprintf("the rest of Kafka: %v", err))
	}
	slices.SortStableFunc(f.receipt.Records, func(a, b Record) int { return a.Timestamp.Compare(b.Timestamp) })
	markDuplicates(f.receipt.Records)
}

// markDuplicates marks records that say what an earlier one has said: the same event at the same position.
func markDuplicates(records []Record) {
	slices.SortStableFunc(records, func(a, b Record) int {
		switch {
		case a.Replayed != b.Replayed && b.Replayed:
			return -1
		case a.Replayed != b.Replayed:
			return 1
		case a.Topic == b.Topic && a.Partition == b.Partition:
			return int(min(max(a.Offset-b.Offset, -1), 1))
		default:
			return a.Timestamp.Compare(b.Timestamp)
		}
	})
	type said struct{ topic, source, position string }
	first := map[said]bool{}
	for i := range records {
		r := &records[i]
		s := said{r.Topic, r.Source, r.Position}
		r.Duplicate = !r.Replayed && first[s]
		first[s] = first[s] || !r.Replayed
	}
}

// everywhere looks where the event should be, and only if it is not there, among the dead letters.
func (s *search) everywhere(ctx context.Context) error {
	places, err := s.places(ctx)
	if err != nil {
		return err
	}
	for _, p := range places {
		if err := s.look(ctx, p); err != nil {
			return err
		}
	}
	if len(s.receipt.Records) > 0 || s.DeadLetterTopic == "" {
		return nil
	}
	letters := []place{{topic: s.DeadLetterTopic, partition: decode.AnyPartition}}
	if len(s.events) > 0 {
		letters = nil
		for i := range s.events {
			e := &s.events[i]
			letters = append(letters, place{topic: s.DeadLetterTopic, key: e.Key, keyed: true, partition: decode.AnyPartition, since: e.since})
		}
	}
	for _, p := range letters {
		if err := s.look(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *search) places(ctx context.Context) (places []place, err error) {
	for i := range s.events {
		e := &s.events[i]
		s.ids[e.ID] = true
		if e.Topic == "" || e.Poison != nil {
			continue // it can only be parked, or a dead letter
		}
		places = append(places, place{topic: e.Topic, key: e.Key, keyed: true, partition: e.Partition, since: e.since})
	}
	if len(s.events) > 0 {
		return places, nil
	}
	topics := []string{s.Topic}
	if s.Topic == "" {
		if topics, err = s.possible(ctx); err != nil {
			return nil, err
		}
	}
	for _, name := range topics {
		p := place{topic: name, partition: decode.AnyPartition}
		if s.Key != "" {
			p.key, p.keyed = []byte(s.Key), true
		}
		places = append(places, p)
	}
	return places, nil
}

// possible returns the topics to which the configured tables can lead.
func (s *search) possible(ctx context.Context) ([]string, error) {
	listed, err := s.admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	layouts := slices.Clone(s.Tables)
	for _, m := range s.Messages {
		m.Table.Name = "message:" + m.Prefix
		layouts = append(layouts, m.Table)
	}
	for _, table := range layouts {
		if len(s.Only) > 0 && !slices.Contains(s.Only, table.Name) {
			continue
		}
		template, err := decode.ParseTemplate(table.Topic)
		if err != nil {
			return nil, err
		}
		literals := template.Literals()
		if table.Topic == "" || (len(literals) > 1 && strings.Join(literals, "") == "") {
			s.notSearched(fmt.Sprintf("the topics of table %s: its rows name any topic (--topic says which)", table.Name))
			continue
		}
		for i := range literals {
			literals[i] = regexp.QuoteMeta(literals[i])
		}
		matches, err := regexp.Compile("^" + strings.Join(literals, ".*") + "$")
		if err != nil {
			return nil, err
		}
		for _, name := range listed.Names() {
			if matches.MatchString(name) && name != s.DeadLetterTopic && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	if len(found) == 0 {
		s.searched("topics: Kafka has none to which the configured tables lead")
	}
	if len(found) > maxTopics {
		s.notSearched(fmt.Sprintf("%d more topics (--topic says which)", len(found)-maxTopics))
		found = found[:maxTopics]
	}
	return found, nil
}

// look reads a topic where the record should be, and then where it may be.
func (s *search) look(ctx context.Context, p place) error {
	there, err := s.prepare(ctx, p.topic)
	if err != nil {
		return fmt.Errorf("topic %s: %w", p.topic, err)
	}
	if !there {
		s.searched(fmt.Sprintf("topic %s: it does not exist", p.topic))
		return nil
	}
	parts := s.read[p.topic]
	var likely, others []int32
	for partition := range parts {
		switch {
		case p.partition == partition, p.partition == decode.AnyPartition && p.keyed && p.key != nil && publish.PartitionOf(p.key, len(parts)) == partition:
			likely = append(likely, partition)
		default:
			others = append(others, partition)
		}
	}
	found := len(s.receipt.Records)
	for _, some := range [][]int32{likely, others} { // others: partitions may have been added since
		if len(some) == 0 {
			continue
		}
		if p.since.IsZero() {
			err = s.tail(ctx, p.topic, some)
		} else {
			err = s.from(ctx, p.topic, some, p.since)
		}
		if err != nil {
			return fmt.Errorf("topic %s: %w", p.topic, err)
		}
		if len(s.receipt.Records) > found {
			break
		}
	}
	return nil
}

// prepare learns what there is of a topic.
func (s *search) prepare(ctx context.Context, topic string) (there bool, err error) {
	if s.read[topic] != nil {
		return true, nil
	}
	starts, err := s.admin.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.InvalidTopicException) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ends, err := s.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return false, err
	}
	all, err := s.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = all.Error()
	}
	if err != nil {
		return false, err
	}
	s.read[topic] = map[int32]*reach{}
	open := int64(0)
	for partition, start := range starts[topic] {
		end := ends[topic][partition].Offset
		open += all[topic][partition].Offset - end
		s.read[topic][partition] = &reach{start: start.Offset, end: end, from: end, to: end}
	}
	if open > 0 {
		s.notSearched(fmt.Sprintf("topic %s: %d records at its end, behind the beginning of a Kafka transaction that is still open", topic, open))
		s.complete = false
	}
	return len(starts[topic]) > 0, nil
}

// from reads partitions from where they were at a time to their ends.
func (s *search) from(ctx context.Context, topic string, partitions []int32, since time.Time) error {
	at, err := s.admin.ListOffsetsAfterMilli(ctx, max(since.UnixMilli(), 0), topic) // below zero they ask for something else
	if err == nil {
		err = at.Error()
	}
	if err != nil {
		return err
	}
	var spans []publish.Span
	for _, partition := range partitions {
		r := s.read[topic][partition]
		first := max(min(at[topic][partition].Offset, r.end)-before, r.start)
		spans = append(spans, publish.Span{Topic: topic, Partition: partition, From: first, End: r.from})
	}
	return s.scan(ctx, spans)
}

// tail reads partitions from their ends back, as far as it may.
func (s *search) tail(ctx context.Context, topic string, partitions []int32) error {
	found := len(s.receipt.Records)
	share := s.Depth / int64(len(partitions))
	for step := int64(firstTail); len(s.receipt.Records) == found; step *= 4 {
		var spans []publish.Span
		for _, partition := range partitions {
			r := s.read[topic][partition]
			lowest := r.start
			if s.Depth > 0 {
				lowest = max(lowest, r.end-max(share, firstTail))
			}
			if first := max(r.end-step, lowest); first < r.from {
				spans = append(spans, publish.Span{Topic: topic, Partition: partition, From: first, End: r.from})
			}
		}
		if len(spans) == 0 {
			break
		}
		if err := s.scan(ctx, spans); err != nil {
			return err
		}
	}
	for _, partition := range partitions {
		if r := s.read[topic][partition]; r.from > r.start && len(s.receipt.Records) == found {
			s.complete = false
		}
	}
	return nil
}

// scan reads spans, each of which ends where the reading of its partition has begun so far.
func (s *search) scan(ctx context.Context, spans []publish.Span) error {
	spans = slices.DeleteFunc(spans, func(x publish.Span) bool { return x.From >= x.End })
	if len(spans) == 0 {
		return nil
	}
	next := map[int32]int64{} // all spans are of one topic
	stopped := false
	err := s.Kafka.Scan(ctx, publish.Scan{
		Spans: spans, Committed: true,
		Each: func(r *kgo.Record) {
			next[r.Partition] = r.Offset + 1
			s.note(r)
		},
		Enough: func() bool {
			stopped = !s.hit.IsZero() && time.Since(s.hit) > further
			return stopped || ctx.Err() != nil
		},
	})
	if err == nil {
		err = ctx.Err()
	}
	for _, span := range spans {
		r := s.read[span.Topic][span.Partition]
		switch to := min(max(next[span.Partition], span.From), span.End); {
		case err == nil && !stopped, to == span.End:
			r.from = span.From
		case r.from == r.to: // nothing was read behind it
			r.from, r.to = span.From, to
		}
	}
	return err
}

// note enters a record if it is one of the event's.
func (s *search) note(r *kgo.Record) {
	stamp := publish.ReadStamp(r.Headers)
	if !stamp.Any && s.eventuate() {
		stamp = publish.ReadEventuateStamp(r.Value)
	}
	at := offset{r.Topic, r.Partition, r.Offset}
	if !stamp.Any || !s.ids[stamp.ID] || s.seen[at] {
		return
	}
	s.seen[at] = true
	if s.hit.IsZero() {
		s.hit = time.Now()
	}
	s.receipt.Records = append(s.receipt.Records, Record{
		Topic: strings.Clone(r.Topic), Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC(),
		Position: strings.Clone(stamp.Position), Source: strings.Clone(stamp.Source), Replayed: stamp.Replayed, DeadLetter: r.Topic == s.DeadLetterTopic,
	})
}

// eventuate reports whether records may be those of Eventuate's CDC service.
func (s *search) eventuate() bool {
	return slices.ContainsFunc(s.Tables, func(t decode.Table) bool { return t.Format == decode.Eventuate })
}

// report says what was read, and what of it was not.
func (s *search) report() {
	for _, topic := range slices.Sorted(maps.Keys(s.read)) {
		parts := s.read[topic]
		var read, of int64
		var ranges []string
		for _, partition := range slices.Sorted(maps.Keys(parts)) {
			r := parts[partition]
			read, of = read+r.to-r.from, of+r.end-r.start
			if r.to > r.from {
				ranges = append(ranges, fmt.Sprintf("partition %d from offset %d to %d", partition, r.from, r.to))
			}
		}
		const most = 3
		what := strings.Join(ranges, ", ")
		switch {
		case read == of:
			what = fmt.Sprintf("all of its %d records", of)
		case len(ranges) == 0:
			what = fmt.Sprintf("none of its %d records is that young", of)
		case len(ranges) > most:
			what = fmt.Sprintf("%d of its %d records, the youngest of %d partitions", read, of, len(ranges))
		}
		s.searched(fmt.Sprintf("topic %s: %s", topic, what))
		if read < of {
			s.notSearched(fmt.Sprintf("topic %s: %d of its %d records%s", topic, of-read, of, s.advice()))
		}
	}
}

func (s *search) advice() string {
	switch {
	case len(s.receipt.Records) > 0:
		return " (there may be more records of it)"
	case len(s.events) > 0 && !s.events[0].since.IsZero():
		return " (they are older than the event, or in other partitions)"
	default:
		return " (--depth 0 reads all)"
	}
}
