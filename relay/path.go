package relay

import (
	"context"
	"errors"
	"fmt"
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
	conn    *wal.Conn     // what the reader reads from
	reader  *wal.Reader   // nil while not streaming
	target  pglogrepl.LSN // with Once: where the log ended at the start

	tx        *checkpoint.Transaction // the open one; survives a lost connection
	handed    decode.Position         // of the last event that went to the producer
	handedAny bool
	resumed   bool
	present   *publish.Present   // beyond the checkpoint and in Kafka already; nil when that is behind us
	burst     []publish.Delivery // events that are to be handed over together
	lastBurst time.Time

	handedCommit atomic.Uint64 // the commit LSN of handed, for keepCheckpoint
	cutLanded    int64         // keepCheckpoint's: how many events had landed at the last cut
}

const (
	// burstInterval is how long events gather while they keep coming. An event that comes later than that after the
	// last burst leaves at once.
	burstInterval = time.Millisecond
	burstEvents   = 512
)

// stream is the path of a row, from the log to the producer, until an error. What comes back from there is acked's, and
// what is safe is stored and confirmed by keepCheckpoint.
func (p *path) stream() error {
	for {
		if err := p.awaitRoom(); err != nil { // back-pressure: nothing is read that could not be held
			return err
		}
		msg, err := p.reader.Receive(p.ctx, p.burstDue())
		if err != nil {
			return err
		}
		switch msg.Kind {
		case wal.Quiet:
		case wal.Keepalive:
			p.tracker.Advance(msg.WALEnd)
		case wal.Data:
			if err := p.take(msg.Data); err != nil {
				return err
			}
		}
		if p.burstIsDue() {
			if err := p.handOver(); err != nil {
				return err
			}
		}
	}
}

// take decodes one message and does what it calls for.
func (p *path) take(data []byte) error {
	d := p.nextDelivery()
	kind, err := p.decoder.Decode(data, &d.Event)
	if err != nil {
		return fmt.Errorf("%w: %w", errDecode, err)
	}
	switch kind {
	case decode.Begin:
		return p.begin()
	case decode.Row:
		return p.row(d)
	case decode.Commit:
		p.tracker.Commit(p.tx, p.decoder.Transaction().End)
		p.tx = nil
	case decode.Skip:
	}
	return nil
}

// errDecode marks what the log says and we do not understand. Trying again would end the same.
var errDecode = errors.New("read the log")

// begin opens the transaction, or takes it up where a lost connection left it.
func (p *path) begin() error {
	commit := p.decoder.Transaction().Commit
	if p.tx == nil {
		p.tx = p.tracker.Begin(commit)
		return nil
	}
	if p.tx.Commit() != commit {
		return fmt.Errorf("%w: the stream was cut inside the transaction that commits at %s, and goes on with another, at %s",
			errDecode, p.tx.Commit(), commit)
	}
	return nil
}

// row puts the event into the burst, unless it was handed over before the connection was lost.
func (p *path) row(d *publish.Delivery) error {
	ev := &d.Event
	if p.handedAny && ev.Position.Compare(p.handed) <= 0 {
		return nil
	}
	if ev.Poison != nil {
		if err := p.handOver(); err != nil { // what came before it is not held up
			return err
		}
		return &PoisonError{Event: *ev, Reason: ev.Poison}
	}
	p.handed, p.handedAny = ev.Position, true
	p.tx.Add()
	if p.alreadyThere(ev) {
		p.tx.Acked()
		return nil
	}
	d.Owner = p.tx
	p.flying.add(ev.Bytes())
	p.burst = p.burst[:len(p.burst)+1]
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
	if !p.present.Has(ev) {
		return false
	}
	p.Metrics.suppressed.Inc()
	return true
}

// nextDelivery returns the burst's next free place. Deliveries are never moved: the producer holds pointers to them.
func (p *path) nextDelivery() *publish.Delivery {
	if len(p.burst) == cap(p.burst) {
		p.burst = make([]publish.Delivery, 0, burstEvents)
	}
	return &p.burst[: len(p.burst)+1 : cap(p.burst)][len(p.burst)]
}

// burstDue is when the burst has to leave; zero if there is none.
func (p *path) burstDue() time.Time {
	if len(p.burst) == 0 {
		return time.Time{}
	}
	return p.lastBurst.Add(burstInterval)
}

func (p *path) burstIsDue() bool {
	return len(p.burst) > 0 && (len(p.burst) == cap(p.burst) || time.Since(p.lastBurst) >= burstInterval)
}

// handOver gives the burst to the producer, in order. Topics that are met for the first time are prepared before.
func (p *path) handOver() error {
	if len(p.burst) == 0 {
		return nil
	}
	if err := p.prepareTopics(); err != nil {
		return err
	}
	batch := p.burst
	p.handedCommit.Store(uint64(batch[len(batch)-1].Event.Position.Commit)) // before they leave, see save
	p.burst = p.burst[len(p.burst):len(p.burst):cap(p.burst)]
	p.pub.Publish(batch)
	p.lastBurst = time.Now()
	return nil
}

// prepareTopics makes the burst's topics known to the publisher, for as long as that takes.
func (p *path) prepareTopics() error {
	var unknown []string
	seen := map[string]bool{}
	for i := range p.burst {
		if name := p.burst[i].Event.Topic; !seen[name] && !p.pub.Known(name) {
			seen[name] = true
			unknown = append(unknown, name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return p.aside(func(ctx context.Context) error {
		trouble := newOutage(p.Log, "topics are not ready, events wait")
		for {
			err := p.pub.Prepare(ctx, unknown)
			if err == nil {
				err = p.cover(ctx, unknown)
			}
			if err == nil {
				trouble.healed()
				return nil
			}
			if publish.IsPoison(err) || checkpoint.IsTakenOver(err) {
				return err
			}
			p.status.fail(err)
			if trouble.wait(ctx, err) != nil {
				return err
			}
		}
	})
}

// cover stores that events may lie in these topics from here on.
func (p *path) cover(ctx context.Context, topics []string) error {
	bases := make(map[string]topicBase, len(topics))
	for _, name := range topics {
		id, ends := p.pub.Base(name)
		bases[name] = topicBase{id, ends}
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

// awaitRoom waits until less is in flight than may be.
func (p *path) awaitRoom() error {
	if !p.flying.full() {
		return nil
	}
	if err := p.handOver(); err != nil { // what is not handed over is never acknowledged
		return err
	}
	for p.flying.full() {
		if err := p.hold(p.ctx, p.flying.room); err != nil {
			return err
		}
	}
	return nil
}

// acked is called by the producer for each event that it is done with. It must not block.
func (p *path) acked(d *publish.Delivery, err error) {
	ev := &d.Event
	bytes := ev.Bytes()
	if err == nil {
		p.Metrics.published(ev)
		d.Owner.(*checkpoint.Transaction).Acked() //nolint:forcetypeassert // row put it there
	} else {
		p.Metrics.failed(ev.Topic, err)
		if publish.IsPoison(err) {
			err = &PoisonError{Event: *ev, Reason: err}
		}
		p.fail(err) // the event stays unacknowledged, so nothing behind it becomes safe
	}
	d.Release()
	p.flying.remove(bytes)
}

// PoisonError is an event that cannot be published. Under delivery.on_poison: stop it ends the relay.
type PoisonError struct {
	Event  decode.Event
	Reason error
}

func (e *PoisonError) Error() string {
	return fmt.Sprintf("event %s of %s (position %s, topic %q) cannot be published: %v; mend the cause, or set delivery.on_poison to park or dead_letter",
		e.Event.ID, e.Event.Table, e.Event.Position, e.Event.Topic, e.Reason)
}

func (e *PoisonError) Unwrap() error { return e.Reason }
