package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// path is the way of a row, for one term. Its methods run on one goroutine, which owns the replication connection; two
// others touch it: acked, on the producer's, and keepCheckpoint, on its own.
type path struct {
	*Relay

	ctx     context.Context // ends with the term's, or when the path fails
	fail    context.CancelCauseFunc
	decoder *decode.Decoder
	pub     *publish.Publisher
	tracker *checkpoint.Tracker
	store   *storing
	flying  *flying
	conn    *wal.Conn                   // what the reader reads from
	line    int32                       // the timeline of the source when the path began
	source  string                      // text of the tidemark-source header
	reader  *wal.Reader                 // nil while not streaming
	lookout atomic.Pointer[wal.Lookout] // on the server of conn; stays while the connection is lost
	target  pglogrepl.LSN               // with Once: where the log ended at the start

	tx        *checkpoint.Transaction // the open one; survives a lost connection
	begun     pglogrepl.LSN           // commit LSN of the last transaction that was begun
	again     bool                    // inside one that was complete before the connection was lost
	handed    decode.Position         // of the last event that went to the producer
	handedAny bool
	resumed   bool
	present   *publish.Present // beyond the checkpoint and in Kafka already; nil when that is behind us
	parking   parking
	group     group
	together  *together          // nil without groups
	burst     []publish.Delivery // events that are to be handed over together
	slab      *slab              // in which they lie
	pace      pace
	count     uint64 // how many transactions the tracker has been told of

	alone   atomic.Bool // one event is in flight, and it may be rejected
	verdict error       // on it; written before it leaves the account of flying, read after

	handedCommit atomic.Uint64 // the commit LSN of handed, for keepCheckpoint
	handedAt     atomic.Int64  // when that was committed, for the lag; Unix time in nanoseconds, 0 before the first
	cutLanded    int64         // keepCheckpoint's: how many events had landed at the last cut
}

const (
	burstEvents = 512 // at most
	// maxBehind is the default of Options.MaxBehind: what is acknowledged and not stored, because an event before it is not
	// acknowledged or the store does not work, takes memory in the tracker, and in a successor that has to look for it.
	maxBehind = 250_000
)

// stream is the path of a row, from the log to the producer, until an error. What comes back from there is acked's, and
// what is safe is stored and confirmed by keepCheckpoint.
func (p *path) stream() error {
	for {
		if err := p.awaitRoom(); err != nil { // back-pressure: nothing is read that could not be held
			return err
		}
		receive := p.reader.Receive
		if p.pace.busy() {
			receive = p.reader.Gather
		}
		msg, err := receive(p.ctx, earlier(earlier(p.burstDue(), p.unparkDue()), p.groupDue()))
		if err != nil {
			return err
		}
		switch msg.Kind {
		case wal.Quiet:
			if len(p.burst) == 0 {
				p.pace.left(time.Now(), 0)
			}
		case wal.Keepalive:
			p.tracker.Advance(msg.WALEnd)
		case wal.Data:
			if err := p.take(msg.Data); err != nil {
				return err
			}
		}
		if p.burstIsDue(msg.Kind == wal.Data) {
			if err := p.handOver(); err != nil {
				return err
			}
		}
		if err := p.afterMessage(msg.Kind); err != nil {
			return err
		}
		if due := p.unparkDue(); !due.IsZero() && time.Now().After(due) {
			if err := p.unpark(); err != nil {
				return err
			}
		}
	}
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// take decodes one message and does what it calls for.
func (p *path) take(data []byte) error {
	d := p.nextDelivery()
	kind, err := p.decoder.Decode(data, &d.Event)
	if err != nil {
		return p.unreadable(fmt.Errorf("%w: %w", errDecode, err))
	}
	switch kind {
	case decode.Begin:
		return p.begin()
	case decode.Row:
		return p.row(d)
	case decode.Commit:
		p.commit()
	case decode.Lone:
		return p.lone(d)
	case decode.Ignored:
		p.ignored(&d.Event)
	case decode.Skip:
	}
	return nil
}

// unreadable ends the term at a message that cannot be decoded. What came before it is published first: whoever mends the
// configuration, because a column has another name from here on, would otherwise unmend it for those rows.
func (p *path) unreadable(err error) error {
	if errBefore := p.handOver(); errBefore != nil {
		return errBefore
	}
	return p.apart(&decode.Event{Position: decode.Position{Commit: p.decoder.Transaction().Commit}}, err)
}

// errDecode marks what the log says and we do not understand. Trying again would end the same.
var errDecode = errors.New("read the log")

// begin opens the transaction. After a lost connection the stream begins again at the stored LSN: what was complete before
// is skipped, and the transaction in which the connection broke is taken up where it was.
func (p *path) begin() error {
	commit := p.decoder.Transaction().Commit
	switch {
	case p.Once && !p.group.on && commit >= p.target && p.tx == nil:
		return p.stopAtTarget()
	case commit > p.begun && p.tx == nil:
		p.begun, p.again = commit, false
		p.tx = p.tracker.Begin(commit)
		p.count++
	case commit > p.begun:
		return fmt.Errorf("%w: the stream was cut inside the transaction that commits at %s, and goes on without its end, at %s",
			errDecode, p.begun, commit)
	case commit == p.begun && p.tx != nil:
		p.again = false
	default:
		p.again = true
	}
	return nil
}

// stopAtTarget waits, before the first transaction that commits behind the target, until the target is stored, which ends the
// path: Once publishes nothing of what is behind it, so that somebody else can go on from the checkpoint.
func (p *path) stopAtTarget() error {
	p.tracker.Advance(p.target) // transactions come in the order of their commits
	if err := p.handOver(); err != nil {
		return err
	}
	return p.hold(p.ctx, nil)
}

func (p *path) commit() {
	if !p.again {
		p.tracker.Commit(p.tx, p.decoder.Transaction().End)
		p.tx = nil
		p.wholeTransaction()
	}
	p.again = false
}

// row puts the event into the burst, unless that was done before the connection was lost or the process restarted.
func (p *path) row(d *publish.Delivery) error {
	ev := &d.Event
	if p.again || (p.handedAny && ev.Position.Compare(p.handed) <= 0) {
		return nil
	}
	p.handed, p.handedAny = ev.Position, true
	p.tx.Add()
	if p.alreadyThere(ev) {
		p.tx.Acked()
		return nil
	}
	d.Owner, d.Slab = p.tx, p.slab
	p.flying.add(ev.Bytes(), p.slab)
	p.burst = p.burst[:len(p.burst)+1]
	if p.inDoubt(ev.Position) {
		return p.handOver()
	}
	return nil
}

// alreadyThere reports whether the event is in Kafka, published before the checkpoint was last stored.
func (p *path) alreadyThere(ev *decode.Event) bool {
	if p.present == nil {
		return false
	}
	if p.present.Since() != 0 && ev.Position.Compare(p.present.Last()) > 0 {
		p.present = nil
		return false
	}
	if !p.present.Has(ev) && (p.OnPoison != DeadLetter || !p.present.HasIn(p.DeadLetterTopic, ev)) {
		return false
	}
	p.Metrics.suppressed.Inc()
	return true
}

// nextDelivery returns the burst's next free place. Deliveries are never moved: the producer holds pointers to them.
func (p *path) nextDelivery() *publish.Delivery {
	if len(p.burst) == cap(p.burst) {
		p.burst, p.slab = make([]publish.Delivery, 0, burstEvents), &slab{}
	}
	return &p.burst[: len(p.burst)+1 : cap(p.burst)][len(p.burst)]
}

// burstDue is when the burst has to leave; zero if there is none. While events come quickly one is always expected.
func (p *path) burstDue() time.Time {
	if len(p.burst) == 0 && !p.pace.busy() {
		return time.Time{}
	}
	return p.pace.due()
}

// burstIsDue reports whether the burst has to leave. In the midst of messages that come quickly few are worth a look at the
// clock: when none comes any more, Gather brings a Quiet at the time that burstDue has named.
func (p *path) burstIsDue(amidst bool) bool {
	const look = 16 // events
	switch n := len(p.burst); {
	case n == 0:
		return false
	case n == cap(p.burst):
		return true
	case amidst && n%look != 0 && p.pace.busy():
		return false
	}
	return !time.Now().Before(p.pace.due())
}

// handOver gives the burst to the producer, in order. Topics that are met for the first time are prepared before; an event
// that cannot be published is set aside in its turn.
func (p *path) handOver() error {
	if len(p.burst) == 0 {
		return nil
	}
	if err := p.prepareTopics(topicsOf(p.burst)); err != nil {
		return err
	}
	if p.pub.PartitionsMoved() {
		if err := p.adoptPartitions(); err != nil {
			return err
		}
	}
	if err := p.openGroup(&p.burst[0].Event); err != nil {
		return err
	}
	batch := p.burst
	p.group.events += len(batch)
	last := &batch[len(batch)-1].Event
	p.handedCommit.Store(uint64(last.Position.Commit)) // before they leave, see save
	p.handedAt.Store(last.CommitTime.UnixNano())
	p.burst = p.burst[len(p.burst):len(p.burst):cap(p.burst)]
	// When it is done: if the hand-over itself took longer than the interval, as with many new topics, the next burst would
	// be due with its first event, and be as slow.
	defer func() { p.pace.left(time.Now(), len(batch)) }()
	from := 0
	for i := range batch {
		d := &batch[i]
		reason := p.check(d)
		if reason == nil && !p.waitsBehindParked(&d.Event) {
			continue
		}
		if err := p.stillTrue(d, reason); err != nil {
			p.abandon(batch[from:])
			return err
		}
		p.publish(batch[from:i])
		from = i + 1
		if err := p.setAside(d, reason); err != nil {
			p.abandon(batch[from:])
			return err
		}
	}
	if p.inDoubt(batch[0].Event.Position) && from == 0 {
		return p.publishAlone(batch)
	}
	p.publish(batch[from:])
	return p.parkAside()
}

// stillTrue returns an error that ends the term if what stands against an event was mended meanwhile.
func (p *path) stillTrue(d *publish.Delivery, reason error) error {
	if reason == nil {
		return nil
	}
	err := p.persist("what stands against an event cannot be looked up, events wait", func(ctx context.Context) error {
		outdated, err := p.pub.Outdated(ctx, d)
		if outdated {
			p.fail(fmt.Errorf("topic %s: %w", d.Event.Topic, errTopicChanged))
		}
		return err
	})
	if err == nil {
		err = context.Cause(p.ctx)
	}
	return err
}

// errTopicChanged ends a term: the next one looks the topic up anew.
var errTopicChanged = errors.New("takes more than when it was looked up last (max.message.bytes was raised, or partitions were added)")

func (p *path) publish(batch []publish.Delivery) {
	p.flying.handOut(len(batch)) // before anything can come back
	taken := p.pub.Publish(batch)
	p.flying.handOut(taken - len(batch)) // the rest stays behind: the path has failed meanwhile, and ends
	p.abandon(batch[taken:])
}

// slabOf returns the slab in which row has put the delivery; nil if it comes from elsewhere.
func slabOf(d *publish.Delivery) *slab {
	s, _ := d.Slab.(*slab)
	return s
}

// abandon takes deliveries that will not be handed over out of the account.
func (p *path) abandon(batch []publish.Delivery) {
	for i := range batch {
		p.flying.remove(batch[i].Event.Bytes(), slabOf(&batch[i]))
	}
}

func topicsOf(batch []publish.Delivery) []string {
	var topics []string
	last := ""
	for i := range batch {
		if ev := &batch[i].Event; ev.Poison == nil && ev.Topic != last && !slices.Contains(topics, ev.Topic) {
			topics = append(topics, ev.Topic)
			last = ev.Topic
		}
	}
	return topics
}

// prepareTopics makes the topics known to the publisher, for as long as that takes.
func (p *path) prepareTopics(topics []string) error {
	unknown := slices.DeleteFunc(topics, p.pub.Known)
	if len(unknown) == 0 {
		return nil
	}
	return p.persist("topics are not ready, events wait", func(ctx context.Context) error {
		if err := p.pub.Prepare(ctx, unknown); err != nil {
			return err
		}
		return p.cover(ctx, unknown)
	})
}

// adoptPartitions lets keys use partitions that were added, when nothing is under way any more.
func (p *path) adoptPartitions() error {
	if err := p.aside(p.landed); err != nil {
		return err
	}
	p.pub.AdoptPartitions(func(topic string, from, to int32) {
		p.Log.Warn().Str("topic", topic).Int32("from", from).Int32("to", to).
			Msg("the number of partitions has changed: keys move; what is under way is in, but a consumer may meet a key's later events in the new partition before it has read the earlier ones in the old")
	})
	return nil
}

// landed waits until the producer has nothing any more.
func (p *path) landed(ctx context.Context) error {
	p.flying.awaitNone(ctx)
	return ctx.Err()
}

// cover stores that events may lie in these topics from here on.
func (p *path) cover(ctx context.Context, topics []string) error {
	bases := make(map[string]topicBase, len(topics))
	for _, name := range topics {
		if id, ends, ok := p.pub.Base(name); ok {
			bases[name] = topicBase{id, ends}
		}
	}
	return p.store.cover(ctx, bases)
}

// aside runs work that may take long on another goroutine while this one keeps the replication connection alive.
func (p *path) aside(work func(context.Context) error) error {
	done := make(chan struct{})
	var result error
	go func() { // ends with work, which ends with p.ctx
		defer close(done)
		result = work(p.ctx)
	}()
	err := p.hold(p.ctx, done)
	if err != nil {
		p.fail(err)
		<-done // nothing of ours may go on behind the caller's back
		return err
	}
	return result
}

// hold waits for done, keeping the replication connection alive if there is one.
func (p *path) hold(ctx context.Context, done <-chan struct{}) error {
	if p.reader != nil {
		return p.reader.Hold(ctx, done)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// full reports whether no more should be read.
func (p *path) full() bool { return p.flying.full() || p.count >= p.store.count.Load()+p.MaxBehind }

// awaitRoom waits until less is in flight than may be.
func (p *path) awaitRoom() error {
	if !p.full() {
		return nil
	}
	if err := p.handOver(); err != nil { // what is not handed over is never acknowledged
		return err
	}
	for p.full() {
		if err := p.hold(p.ctx, p.flying.room); err != nil {
			return err
		}
	}
	return nil
}

// acked is called by the producer for each event that it is done with. It must not block.
func (p *path) acked(d *publish.Delivery, err error) {
	ev := &d.Event
	bytes, slab := ev.Bytes(), slabOf(d)
	switch {
	case err == nil:
		at := p.pub.Answered()
		p.Metrics.published(ev, at)
		p.recent.offer(d, at)
		if ev.Topic == p.DeadLetterTopic {
			p.Metrics.deadLettered.Inc()
		}
		d.Owner.(*checkpoint.Transaction).Acked() //nolint:forcetypeassert // row put it there
	case publish.IsPoison(err) && p.alone.Load():
		p.verdict = err // publishAlone waits for it
	case errors.Is(err, context.Canceled): // never sent, because another failed, and that one says why
	default:
		p.pub.Stop() // first of all: nothing may overtake it
		p.Metrics.failed(ev.Topic, err)
		if publish.IsPoison(err) {
			err = &rejection{err}
		}
		p.fail(p.fenced(err)) // the event stays unacknowledged, so nothing behind it becomes safe
	}
	d.Release()
	p.flying.comeBack(bytes, slab)
}

// ackedTraced is acked where spans are made of events.
func (p *path) ackedTraced(d *publish.Delivery, err error) {
	if err == nil {
		p.Traced(&d.Event, d.Partition, d.Offset)
	}
	p.acked(d, err)
}
