package relay

import (
	"errors"
	"fmt"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// Policy says what becomes of an event that cannot be published.
type Policy string

const (
	Stop       Policy = "stop"        // the relay ends, and nothing behind the event is published
	DeadLetter Policy = "dead_letter" // the event goes to a topic of its own
	Park       Policy = "park"        // the event, and what follows it under its key, waits in a table
)

// PoisonError is an event that cannot be published. Under delivery.on_poison: stop it ends the relay.
type PoisonError struct {
	Event  decode.Event
	Reason error
}

func (e *PoisonError) Error() string {
	return fmt.Sprintf("event %s of %s (position %s, topic %q) cannot be published: %v. Mend the cause and start again, or set delivery.on_poison to park or dead_letter",
		e.Event.ID, e.Event.Table, e.Event.Position, e.Event.Topic, e.Reason)
}

func (e *PoisonError) Unwrap() error { return e.Reason }

// rejection is a batch that Kafka has rejected although nothing was seen to be wrong with its events. Which of them it is
// about is not known: the term ends, and the next one publishes them one by one.
type rejection struct{ err error }

func (r *rejection) Error() string { return "rejected by Kafka: " + r.err.Error() }
func (r *rejection) Unwrap() error { return r.err }

// doubt ends at the last event that was handed over when Kafka rejected some. Up to there events are published one by
// one, so that a rejection can be pinned on its event.
type doubt struct {
	any  bool
	last decode.Position
}

func (p *path) inDoubt(pos decode.Position) bool {
	return p.doubt.any && pos.Compare(p.doubt.last) <= 0
}

// raiseDoubt prepares the next term for finding the event that err is about.
func (p *path) raiseDoubt(err error) {
	var rejected *rejection
	if errors.As(err, &rejected) && p.handedAny {
		p.doubt = doubt{any: true, last: p.handed}
		p.solo = p.handed.Commit
	}
}

// publishAlone publishes a burst of one event that Kafka may reject, and sets it aside if it does.
func (p *path) publishAlone(one []publish.Delivery) error {
	suspect := publish.Delivery{Event: one[0].Event, Owner: one[0].Owner} // the original is released when it comes back
	refused, err := p.publishOne(one)
	if err != nil || refused == nil {
		return err
	}
	if p.group.on {
		return p.noteRefused(&suspect.Event, refused)
	}
	p.flying.add(suspect.Event.Bytes(), nil)
	if err := p.setAside(&suspect, refused); err != nil {
		return err
	}
	return p.parkAside()
}

// publishOne hands one delivery over when nothing else is under way, waits for what becomes of it, and returns why Kafka
// refuses it, if it does.
func (p *path) publishOne(one []publish.Delivery) (refused, err error) {
	if err := p.aside(p.landed); err != nil {
		p.abandon(one)
		return nil, err
	}
	p.verdict = nil
	p.alone.Store(true)
	defer p.alone.Store(false)
	p.pub.Lenient(true)
	defer p.pub.Lenient(false)
	p.publish(one)
	err = p.aside(p.landed)
	return p.verdict, err
}

// setAside does with an event what the policy says. Reason is nil for one that only waits behind a parked event of its
// key. The event's transaction is not done before it is durable where it goes.
func (p *path) setAside(d *publish.Delivery, reason error) error {
	ev := &d.Event
	if reason != nil {
		p.Metrics.failed(ev.Topic, reason)
		p.setAsideLog.Warn().Err(reason).Str("policy", string(p.OnPoison)).Str("id", ev.ID).Str("table", ev.Table).
			Stringer("position", ev.Position).Str("topic", ev.Topic).Msg("event cannot be published")
	}
	switch p.OnPoison {
	case DeadLetter:
		return p.deadLetter(d, reason)
	case Park:
		p.parkLater(d, reason)
		return nil
	default:
		err := &PoisonError{Event: *ev, Reason: reason}
		p.flying.remove(ev.Bytes(), slabOf(d))
		return p.apart(ev, err)
	}
}

// deadLetter publishes the event to the dead letter topic, with headers that say what it was. One that is too large even
// there goes without its payload, which is still in the table; that of a message is nowhere else.
func (p *path) deadLetter(d *publish.Delivery, reason error) error {
	p.flying.remove(d.Event.Bytes(), slabOf(d))
	if err := p.prepareTopics([]string{p.DeadLetterTopic}); err != nil {
		return err
	}
	letter := []publish.Delivery{{Event: deadLetterOf(&d.Event, p.DeadLetterTopic, reason), Owner: d.Owner}}
	ev := &letter[0].Event
	refused := p.pub.Check(&letter[0])
	if refused != nil && len(ev.Value) > 0 && ev.HasRow() {
		ev.Headers = append(ev.Headers, decode.Header{Key: "tidemark-payload-omitted", Value: fmt.Appendf(nil, "%d bytes", len(ev.Value))})
		ev.Value = nil
		refused = p.pub.Check(&letter[0])
	}
	if refused != nil {
		return &PoisonError{Event: d.Event, Reason: fmt.Errorf("%w, and not as a dead letter either: %w", reason, refused)}
	}
	p.flying.add(ev.Bytes(), nil)
	refused, err := p.publishOne(letter)
	if err == nil && refused != nil {
		err = &PoisonError{Event: d.Event, Reason: fmt.Errorf("%w, and Kafka refuses the dead letter: %w", reason, refused)}
	}
	return err
}

func deadLetterOf(ev *decode.Event, topic string, reason error) decode.Event {
	letter := *ev
	letter.Poison = nil
	letter.Topic = topic
	letter.Partition = decode.AnyPartition
	letter.Headers = append(make([]decode.Header, 0, len(ev.Headers)+4), ev.Headers...)
	letter.Headers = append(letter.Headers,
		decode.Header{Key: "tidemark-error", Value: []byte(reason.Error())},
		decode.Header{Key: "tidemark-topic", Value: []byte(ev.Topic)},
		decode.Header{Key: "tidemark-table", Value: []byte(ev.Table)},
	)
	if letter.Timestamp.IsZero() {
		letter.Timestamp = ev.CommitTime
	}
	return letter
}
