// Package publish owns the way to Kafka: it is the only user of the client in the path of a row. The one rule: the
// order of a key is the order in which events are handed over. There is one idempotent producer, and what fails stops
// its successors in the partition; nothing is retried behind the client's back.
package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
)

// Delivery is one event between its hand-over and its acknowledgement.
type Delivery struct {
	Event decode.Event
	// Owner and Slab are the caller's; they come back untouched.
	Owner, Slab any
	// Partition and Offset are where the record is, once acknowledged.
	Partition int32
	Offset    int64

	topic   *topic
	record  kgo.Record
	carrier carrier
}

// Release lets go of the event's memory. Deliveries lie side by side, so one that is kept would keep its neighbours'
// payloads; the owner calls it when the delivery has come back. (The client may still look at the record's context: it
// watches the one of a topic's first record from a goroutine of its own.)
func (d *Delivery) Release() {
	d.Event, d.Owner, d.Slab, d.topic, d.record = decode.Event{}, nil, nil, nil, kgo.Record{}
}

// Publisher hands events to Kafka. Publish, Prepare and Known belong to one goroutine; the others may be called from
// any.
type Publisher struct {
	options     Options
	client      *kgo.Client
	admin       *kadm.Client
	partitioner *partitioner
	ctx         context.Context // ends with the publisher: it is the context of every record
	cancel      context.CancelFunc
	finish      func(*kgo.Record, error)
	health      health
	stopped     atomic.Bool
	lenient     atomic.Bool
	transaction transaction

	mu     sync.Mutex // guards what follows, and what is in it
	topics map[string]*topic
	moved  []string // the topics whose ends have moved since Ends was called
}

// topic is what the publisher knows of a topic.
type topic struct {
	name            string
	id              string // Kafka's; another one after the topic was deleted and created again
	partitions      int32
	maxMessageBytes int32
	base            map[int32]int64 // partition: where it ended when the topic was prepared
	ends            map[int32]int64 // partition: the offset after the last acknowledged record
	moved           bool            // it is in the publisher's list

	rejected error // why nothing can be published here; nil for a good topic
	lookedAt time.Time
}

// Open returns a publisher. It does not wait for a broker. acked is called once for each delivery that was given to
// Publish, in no particular order but one at a time; it must not block. An error means that it is not known whether
// the record is in the topic, and that the later ones of its partition have failed too.
func Open(o Options, acked func(*Delivery, error)) (*Publisher, error) {
	shared, err := o.ClientOptions()
	if err != nil {
		return nil, err
	}
	partitioner := newPartitioner()
	producing, err := o.producer(partitioner)
	if err != nil {
		return nil, err
	}
	p := &Publisher{options: o, partitioner: partitioner, topics: map[string]*topic{}}
	p.transaction.used = o.TransactionalID != ""
	p.ctx, p.cancel = context.WithCancel(context.Background()) //nolint:forbidigo // records live as long as the publisher
	opts := slices.Concat(shared, producing, o.metrics())
	opts = append(opts, kgo.WithHooks(&p.health), kgo.ProducerBatchMaxBytesFn(p.maxBatchBytes), kgo.WithLogger(failureWatch{p}))
	p.client, err = kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("configure the Kafka client: %w", err)
	}
	p.admin = kadm.NewClient(p.client)
	p.finish = func(r *kgo.Record, err error) {
		d := r.Context.(*carrier).delivery //nolint:forcetypeassert // Publish put it there
		err = p.transaction.observe(r, err)
		if err == nil {
			d.Partition, d.Offset = r.Partition, r.Offset
			p.mu.Lock()
			d.topic.ends[r.Partition] = r.Offset + 1
			if !d.topic.moved {
				d.topic.moved = true
				p.moved = append(p.moved, d.topic.name)
			}
			p.mu.Unlock()
		} else {
			err = forbidden(err, r.Topic)
		}
		acked(d, err)
	}
	return p, nil
}

// Close ends the publisher. What is not acknowledged by then may or may not arrive.
func (p *Publisher) Close() {
	p.cancel()
	p.client.Close()
}

// Publish hands a batch over, in order. It does not block: the caller bounds what is in flight. The batch belongs to
// the publisher until each delivery has come back. Check must have found nothing against any of them.
//
// It returns how many it has taken: all, unless Stop was called.
func (p *Publisher) Publish(batch []Delivery) int {
	for i := range batch {
		if p.stopped.Load() {
			return i
		}
		d := &batch[i]
		d.carrier = carrier{p.ctx, d}
		d.record = kgo.Record{
			Topic: d.Event.Topic, Key: d.Event.Key, Value: d.Event.Value, Headers: recordHeaders(d.Event.Headers),
			Timestamp: d.Event.Timestamp, Context: &d.carrier,
		}
		p.client.Produce(p.ctx, &d.record, p.finish)
	}
	return len(batch)
}

// recordHeaders returns the same headers as the client calls them. Both types are a string and a slice of bytes, and the
// compiler sees to it that they stay alike; the client only reads them.
func recordHeaders(headers []decode.Header) []kgo.RecordHeader {
	_ = kgo.RecordHeader(decode.Header{})
	return unsafe.Slice((*kgo.RecordHeader)(unsafe.Pointer(unsafe.SliceData(headers))), len(headers)) //nolint:gosec // see above
}

// Stop makes Publish take nothing more. The client, when it has failed a record, goes on with the later ones of its
// partition, which would overtake it: whoever learns of a failure that is not to be passed over calls this at once. Any
// goroutine may.
func (p *Publisher) Stop() { p.stopped.Store(true) }

// Lenient makes failures those of their own event alone, until Lenient(false). Nothing may be under way at either moment.
func (p *Publisher) Lenient(on bool) { p.lenient.Store(on) }

// failureWatch closes the moment between the client's failing a batch and its telling us, in which it would send what it is
// given under its next epoch: the records' context ends in the client's log of the failure, which it writes before it fails
// anything. What is not on its way by then never leaves, and comes back with context.Canceled.
type failureWatch struct{ p *Publisher }

var _ kgo.Logger = failureWatch{}

// Level makes the client log what Log waits for.
func (failureWatch) Level() kgo.LogLevel { return kgo.LogLevelInfo }

// Log is called by the client, which holds the partition's lock while it does.
func (w failureWatch) Log(_ kgo.LogLevel, message string, _ ...any) {
	if message == "batch in a produce request failed" && !w.p.lenient.Load() {
		w.p.cancel()
	}
}

func (p *Publisher) topic(name string) *topic {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.topics[name]
}

// PartitionsMoved reports whether a topic has another number of partitions than its keys are reduced to. They stay where
// they are until AdoptPartitions.
func (p *Publisher) PartitionsMoved() bool { return p.partitioner.moved.Load() }

// AdoptPartitions makes keys use the partitions that the topics have by now, and calls each for every topic with another
// number than before. Nothing may be under way: the records of one key would be under way to two partitions.
func (p *Publisher) AdoptPartitions(each func(topic string, from, to int32)) {
	for _, m := range p.partitioner.adopt() {
		p.mu.Lock()
		if t := p.topics[m.topic]; t != nil {
			t.partitions = m.to
		}
		p.mu.Unlock()
		each(m.topic, m.from, m.to)
	}
}

// Ends returns the offset after the last acknowledged record of each partition that this publisher has written to, for the
// topics in which that has changed since the last call: with ten thousand topics, all of them would be too many each time.
func (p *Publisher) Ends() map[string]map[int32]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	ends := make(map[string]map[int32]int64, len(p.moved))
	for _, name := range p.moved {
		if t := p.topics[name]; len(t.ends) > 0 { // none, if the topic was deleted and created again meanwhile
			ends[name] = maps.Clone(t.ends)
			t.moved = false
		}
	}
	p.moved = nil
	return ends
}

// IsPoison reports whether err is about the record itself, so that trying it again would end the same.
func IsPoison(err error) bool {
	for _, poison := range []error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTopicException,
		kerr.TopicAuthorizationFailed, kerr.PolicyViolation, kerr.InvalidTimestamp, kerr.CorruptMessage,
	} {
		if errors.Is(err, poison) {
			return true
		}
	}
	// kgo exports no sentinel for it, and goes on with the numbers.
	return err != nil && strings.HasPrefix(err.Error(), "invalid record partitioning choice")
}

// IsFenced reports whether err says that another process has taken this producer's place, or that the broker no
// longer knows it: what was in flight is unknown, and only starting over from the checkpoint tells.
func IsFenced(err error) bool {
	for _, fenced := range []error{
		kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping,
		kerr.InvalidTxnState, errOtherEpoch,
	} {
		if errors.Is(err, fenced) {
			return true
		}
	}
	return false
}

// Ping asks a broker for a sign of life.
func (p *Publisher) Ping(ctx context.Context) error {
	if err := p.client.Ping(ctx); err != nil {
		return fmt.Errorf("reach a Kafka broker at %v: %w", p.options.Brokers, err)
	}
	return nil
}

// Silence returns for how long no broker has answered although it was asked, with the last error; zero if the last
// request was answered.
func (p *Publisher) Silence(now time.Time) (time.Duration, error) { return p.health.silence(now) }

// Answered returns when a broker last answered. Called where an acknowledgement is, it tells when that came, or at most that
// another answer has come since; and a clock need not be asked for each of the events of one answer. Any goroutine may call it.
func (p *Publisher) Answered() time.Time { return time.Unix(0, p.health.answered.Load()) }

// health watches every request of the client.
type health struct {
	mu    sync.Mutex
	since time.Time // of the first failure after the last success; zero if there is none
	last  error
	ok    atomic.Bool // the common case, without the lock: the last request was answered

	answered atomic.Int64 // when the last answer came; Unix time in nanoseconds
}

var (
	_ kgo.HookBrokerE2E     = (*health)(nil)
	_ kgo.HookBrokerConnect = (*health)(nil)
)

func (h *health) OnBrokerE2E(_ kgo.BrokerMetadata, _ int16, e2e kgo.BrokerE2E) {
	err := e2e.Err()
	if err == nil {
		h.answered.Store(time.Now().UnixNano())
	}
	h.observe(err)
}

func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		h.observe(err)
	}
}

func (h *health) observe(err error) {
	if err == nil && h.ok.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ok.Store(err == nil)
	if err == nil || h.last == nil || !connectionDied(err) {
		h.last = err
	}
	switch {
	case err == nil:
		h.since = time.Time{}
	case h.since.IsZero():
		h.since = time.Now()
	}
}

// connectionDied reports whether err says no more than that the connection had ended, as the client answers what else was
// under way on it: the error that ended it is the one to tell.
func connectionDied(err error) bool { return strings.Contains(err.Error(), "connection has died") }

func (h *health) silence(now time.Time) (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return 0, nil
	}
	return now.Sub(h.since), h.last
}

// OtherReason is Reason's word for what is no error of Kafka's.
const OtherReason = "client"

// Reason names err for a metric: Kafka's own name of the error, or one of a few words.
func Reason(err error) string {
	var kafka *kerr.Error
	switch {
	case errors.As(err, &kafka):
		return kafka.Message
	case errors.Is(err, context.Canceled), errors.Is(err, kgo.ErrClientClosed):
		return "stopped"
	default:
		return OtherReason
	}
}
