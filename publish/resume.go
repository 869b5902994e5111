package publish

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
)

// Tail says which records a predecessor may have left behind its checkpoint.
type Tail struct {
	Source    string        // text of the tidemark-source header of our records
	Since     pglogrepl.LSN // the checkpoint's: events that commit before it are of no interest; 0 takes ids as well
	Offsets   map[string]map[int32]int64
	TopicIDs  map[string]string // a topic that was deleted and created again is read from its start
	Producers []int64           // the producers that may have written since
	Forks     []Fork
	// TransactionalID is that of the transactional producer that may have written since; "" if there is none, or if it is
	// this publisher's own: then asking for our producer id has fenced it.
	TransactionalID string
	Progress        func(read, of int64)
}

// Fork is a point at which the source's log was cut off and went on differently, as in a failover to a standby that lacked its
// end. What was published of the lost end has positions that other events bear now, and must not be taken for them.
type Fork struct {
	LSN     pglogrepl.LSN              // events that commit here or later do not count,
	Offsets map[string]map[int32]int64 // if they lie before these offsets; nil: wherever they lie by now
}

func (f *Fork) hides(record *kgo.Record, commit pglogrepl.LSN) bool {
	return commit >= f.LSN && (f.Offsets == nil || record.Offset < f.Offsets[record.Topic][record.Partition])
}

// Present is the exact set of events beyond a checkpoint that are in Kafka. It is a set and not a largest position: an
// event that was rejected, or went to another partition, may be missing although a later one is there.
type Present struct {
	topics    map[string]uint32                     // their numbers in blocks
	positions map[block]uint64                      // a bit for each of its events
	ids       map[string]map[string]bool            // topic, id: of rows that were there before the slot
	newest    map[string]map[string]decode.Position // topic, key: where compaction has been, see Has
	since     pglogrepl.LSN
	last      decode.Position
	count     int
	ends      map[string]map[int32]int64
}

// block is 64 neighbouring events of a transaction, those of them that went to one topic. So a million events of one
// transaction take little, and so do ten thousand topics with a few events each.
type block struct {
	commit pglogrepl.LSN
	number uint32 // index in the transaction / 64
	topic  uint32
}

func newPresent(since pglogrepl.LSN) *Present {
	return &Present{topics: map[string]uint32{}, positions: map[block]uint64{}, ids: map[string]map[string]bool{}, newest: map[string]map[string]decode.Position{}, since: since, ends: map[string]map[int32]int64{}}
}

// Len returns how many events the set holds.
func (s *Present) Len() int { return s.count }

// Since returns the checkpoint's LSN that the set was read for; 0 for the rows that were there before the slot.
func (s *Present) Since() pglogrepl.LSN { return s.since }

// Last returns the largest position in the set; beyond it, nothing is.
func (s *Present) Last() decode.Position { return s.last }

// Ends returns the offsets up to which the set was read: in every partition of the tail's topics, the end as it was when the
// predecessor was fenced.
func (s *Present) Ends() map[string]map[int32]int64 { return s.ends }

// Has reports whether the event is in its topic already, or was and is compacted away: if a later event of its key is in a
// piece that compaction has been at, it must not come behind that one, as the key's newest state.
func (s *Present) Has(ev *decode.Event) bool {
	return s.HasIn(ev.Topic, ev) || ev.Position.Compare(s.newest[ev.Topic][string(ev.Key)]) < 0 && !FromTable(ev.Position.Commit)
}

// HasIn reports whether the event is in the given topic already.
func (s *Present) HasIn(topic string, ev *decode.Event) bool {
	if FromTable(ev.Position.Commit) {
		return s.ids[topic][ev.ID]
	}
	number, ok := s.topics[topic]
	pos := ev.Position
	return ok && s.positions[block{pos.Commit, pos.Index / 64, number}]&(1<<(pos.Index%64)) != 0
}

const (
	// firstLSN is where the first log of any cluster begins.
	firstLSN pglogrepl.LSN = 0x1000000
	// alignment is that of every record of a log.
	alignment = 8
)

// FromTable reports whether a position belongs to a row that was there before the slot: it is that of no commit, nor of a
// message without transaction, which has the last byte of its record. Such rows are numbered anew if their phase is
// interrupted, so they are known by their ids.
func FromTable(commit pglogrepl.LSN) bool {
	return commit < firstLSN || (commit%alignment != 0 && commit%alignment != alignment-1)
}

func (s *Present) add(topic string, m mark) {
	s.count++
	pos := m.pos
	if FromTable(pos.Commit) {
		if s.ids[topic] == nil {
			s.ids[topic] = map[string]bool{}
		}
		s.ids[topic][m.id] = true
		return
	}
	if m.key != nil {
		if s.newest[topic] == nil {
			s.newest[topic] = map[string]decode.Position{}
		}
		if pos.Compare(s.newest[topic][string(m.key)]) > 0 {
			s.newest[topic][string(m.key)] = pos
		}
	}
	number, ok := s.topics[topic]
	if !ok {
		number = uint32(len(s.topics)) //nolint:gosec // fewer than 2^32
		s.topics[topic] = number
	}
	s.positions[block{pos.Commit, pos.Index / 64, number}] |= 1 << (pos.Index % 64)
	if pos.Compare(s.last) > 0 {
		s.last = pos
	}
}

// ProducerID returns the id under which this publisher writes, asking the broker for one if there is none yet.
func (p *Publisher) ProducerID(ctx context.Context) (int64, error) {
	id, _, err := p.client.ProducerID(ctx)
	if err != nil {
		return 0, fmt.Errorf("get a producer id: %w", err)
	}
	return id, nil
}

// Resume closes what a predecessor may still have under way, and then reads what it has left behind its checkpoint.
// Only after that may anything be published: until it is fenced, a request of the predecessor that the broker has not
// yet looked at could still bring events that the reading has missed.
//
// unfenced says why the broker did not let us fence, if it did not (it takes the right to alter the cluster).
func (p *Publisher) Resume(ctx context.Context, tail Tail) (present *Present, unfenced, err error) {
	client, err := p.options.reading()
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	r := &tailReader{client: client, admin: kadm.NewClient(client), tail: tail, present: newPresent(tail.Since), read: map[place]*progress{}}
	if len(tail.Offsets) == 0 {
		return r.present, nil, nil
	}
	topics := make([]string, 0, len(tail.Offsets))
	for topic := range tail.Offsets {
		topics = append(topics, topic)
	}
	metadata, err := r.admin.Metadata(ctx, topics...)
	if err != nil {
		return nil, nil, fmt.Errorf("look up the topics of the checkpoint: %w", err)
	}
	for _, t := range metadata.Topics {
		if t.Err != nil && !errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
			return nil, nil, fmt.Errorf("look up topic %s: %w", t.Topic, t.Err)
		}
	}
	err = p.fence(ctx, metadata.Topics, tail.Producers)
	if err == nil && tail.TransactionalID != "" && tail.TransactionalID != p.options.TransactionalID {
		err = fenceTransactional(ctx, p.client, tail.TransactionalID)
	}
	if err != nil {
		if ctx.Err() != nil || !isRefusal(err) {
			return nil, nil, err
		}
		unfenced = err
	}
	if err := r.plan(ctx, metadata.Topics); err != nil {
		return nil, nil, err
	}
	reading := scanner{client: r.client, each: r.note, marker: r.decide, skipped: r.skip, progress: tail.Progress}
	err = reading.read(ctx, r.spans)
	for open := range r.open {
		err = errors.Join(err, fmt.Errorf("read the tail of %s/%d: producer %d: %w", open.topic, open.partition, open.producer, errUndecided))
	}
	return r.present, unfenced, err
}

// fence ends the given producers on every partition of the topics. It writes the marker with which an administrator
// aborts a hanging transaction, under the highest epoch: from then on the broker rejects whatever else these producers
// send, as coming from a fenced one. Consumers never see a marker; it takes up one offset.
func (p *Publisher) fence(ctx context.Context, topics kadm.TopicDetails, producers []int64) error {
	set := kadm.TopicsSet{}
	for _, t := range topics {
		if t.Err == nil {
			set.Add(t.Topic, t.Partitions.Numbers()...)
		}
	}
	if len(set) == 0 || len(producers) == 0 {
		return nil
	}
	markers := make([]kadm.TxnMarkers, 0, len(producers))
	for _, id := range producers {
		markers = append(markers, kadm.TxnMarkers{ProducerID: id, ProducerEpoch: math.MaxInt16, Topics: set})
	}
	answers, err := p.admin.WriteTxnMarkers(ctx, markers...)
	if err != nil {
		return fmt.Errorf("fence the predecessor: %w", err)
	}
	for _, answer := range answers {
		for _, topic := range answer.Topics {
			for _, partition := range topic.Partitions {
				switch {
				case partition.Err == nil, errors.Is(partition.Err, kerr.InvalidProducerEpoch): // the latter: fenced already
				case errors.Is(partition.Err, kerr.UnknownTopicOrPartition): // deleted meanwhile
				default:
					return fmt.Errorf("fence the predecessor in %s/%d: %w", topic.Topic, partition.Partition, partition.Err)
				}
			}
		}
	}
	return nil
}

// isRefusal reports whether err is a broker's last word on what it was asked to do. Whatever else goes wrong passes, such as
// the leader of a partition being away, and must not be taken for one.
func isRefusal(err error) bool {
	if kafka, ok := errors.AsType[*kerr.Error](err); ok {
		return !kafka.Retriable
	}
	// kgo exports no sentinels for a request that the broker does not know.
	return err != nil && (strings.Contains(err.Error(), "broker is too old") || strings.Contains(err.Error(), "request key is unknown"))
}

// tailReader reads the partitions of a tail from their offsets to their ends.
type tailReader struct {
	client  *kgo.Client
	admin   *kadm.Client
	tail    Tail
	present *Present
	spans   []*span
	read    map[place]*progress
	open    map[openTransaction][]mark
}

type place struct {
	topic     string
	partition int32
}

// progress is how far a partition is read.
type progress struct {
	next      int64 // offset
	compacted bool  // offsets were missing before it
}

// openTransaction is one of which it is not known yet how it ends.
type openTransaction struct {
	topic     string
	partition int32
	producer  int64
}

// mark is what is kept of an event's record.
type mark struct {
	id  string
	pos decode.Position
	key []byte // nil unless compaction may have removed earlier records of it
}

// errUndecided says that it is not known yet whether records of a transaction count. That of a producer which is fenced is
// decided; where we may not fence it, the brokers abort it when it times out.
var errUndecided = errors.New("a transaction is open that is neither committed nor aborted yet")

// plan decides what to read: each partition from the stored offset, or from its start where nothing is stored or what
// is stored belongs to a topic that is no more.
func (r *tailReader) plan(ctx context.Context, topics kadm.TopicDetails) error {
	names := topics.Names()
	starts, err := r.admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return fmt.Errorf("look up the tail: %w", err)
	}
	listed, err := r.admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return fmt.Errorf("look up the tail: %w", err)
	}
	for _, t := range topics {
		if t.Err != nil {
			continue // it is gone, and what was in it with it
		}
		ends := map[int32]int64{}
		r.present.ends[t.Topic] = ends
		stored := r.tail.Offsets[t.Topic]
		if id := r.tail.TopicIDs[t.Topic]; id != "" && id != t.ID.String() {
			stored = nil
		}
		for _, partition := range t.Partitions.Sorted() {
			start, okStart := starts.Lookup(t.Topic, partition.Partition)
			end, okEnd := listed.Lookup(t.Topic, partition.Partition)
			if err := errors.Join(partition.Err, start.Err, end.Err); err != nil || !okStart || !okEnd {
				return fmt.Errorf("look up the tail of %s/%d: %w", t.Topic, partition.Partition, err)
			}
			ends[partition.Partition] = end.Offset
			from := max(stored[partition.Partition], start.Offset)
			if from > end.Offset { // the log is shorter than it was: what is there was written since
				from = start.Offset
			}
			if from < end.Offset {
				r.spans = append(r.spans, &span{t.Topic, partition.Partition, partition.Leader, from, end.Offset})
				r.read[place{t.Topic, partition.Partition}] = &progress{next: from}
			}
		}
	}
	return nil
}

// pass moves on behind a record. Offsets follow each other but where compaction has taken some out.
func (r *tailReader) pass(record *kgo.Record) *progress {
	p := r.read[place{record.Topic, record.Partition}]
	p.compacted = p.compacted || record.Offset > p.next
	p.next = record.Offset + 1
	return p
}

// skip moves on to the record with which a partition begins by now: retention, not compaction, took what was before it.
func (r *tailReader) skip(topic string, partition int32, to int64) {
	r.read[place{topic, partition}].next = to
}

// note adds the record to the set if it is one of this source's events. One of a transaction waits for its marker.
func (r *tailReader) note(record *kgo.Record) {
	at := r.pass(record)
	m, ok := r.mark(record)
	if ok && at.compacted && record.Key != nil {
		m.key = append([]byte{}, record.Key...)
	}
	switch {
	case !ok:
	case record.Attrs.IsTransactional():
		if r.open == nil {
			r.open = map[openTransaction][]mark{}
		}
		open := openTransaction{record.Topic, record.Partition, record.ProducerID}
		r.open[open] = append(r.open[open], m)
	default:
		r.present.add(record.Topic, m)
	}
}

// decide takes a marker, which ends the transaction that its producer has open in the partition. Records of one that is
// aborted are in the log and no consumer of committed records sees them: they count as not there.
func (r *tailReader) decide(marker *kgo.Record) {
	r.pass(marker)
	open := openTransaction{marker.Topic, marker.Partition, marker.ProducerID}
	if isCommit(marker.Key) {
		for _, m := range r.open[open] {
			r.present.add(marker.Topic, m)
		}
	}
	delete(r.open, open)
}

// isCommit reads the key of a control record: its version and its type, 0 for an abort and 1 for a commit, 16 bits each.
// (https://kafka.apache.org/documentation/#controlbatch)
func isCommit(key []byte) bool { return len(key) >= 4 && key[2] == 0 && key[3] == 1 }

// mark returns what is to be kept of a record, if it is one of this source's events, and not one that was published again
// on purpose.
func (r *tailReader) mark(record *kgo.Record) (_ mark, ok bool) {
	stamp := ReadStamp(record.Headers)
	if stamp.Replayed || stamp.Source != r.tail.Source {
		return mark{}, false
	}
	pos, err := decode.ParsePosition(stamp.Position)
	if err != nil || pos.Commit < r.tail.Since {
		return mark{}, false
	}
	for i := range r.tail.Forks {
		if r.tail.Forks[i].hides(record, pos.Commit) {
			return mark{}, false
		}
	}
	return mark{id: stamp.ID, pos: pos}, true
}
