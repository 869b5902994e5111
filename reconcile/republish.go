package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// republishBatch is how many rows are published together, and acknowledged before the next.
const republishBatch = 128

// republishing publishes rows of the snapshot, in the order in which they are added, late or again: with a header that says
// so, by which the dedupe of a resume leaves them out of account.
type republishing struct {
	v     *verifier
	mark  string             // the value of that header
	topic string             // where they go; "": where they belong
	rate  float64            // rows a second; 0: as many as Kafka takes
	done  func(*republished) // is told of each row that is decided
	batch []*republished
	n     int       // how many were added
	due   time.Time // when the rate allows the next batch

	pub  *publish.Publisher
	back chan answer
}

// republished is a row on its way.
type republished struct {
	table   *table
	place   wal.Place
	pos     decode.Position
	finding Finding
	event   decode.Event
	decided bool
}

type answer struct {
	row *republished
	err error
}

// add takes a row. What was added before has been decided when flush returns, in which add ends now and then.
func (r *republishing) add(ctx context.Context, one *republished) error {
	r.batch = append(r.batch, one)
	r.n++
	if len(r.batch) < r.most() {
		return nil
	}
	return r.flush(ctx)
}

// most is how many rows go together: fewer than usual where the rate is low, which is then kept more evenly.
func (r *republishing) most() int {
	const perSecond = 10
	if r.rate == 0 {
		return republishBatch
	}
	return int(min(max(r.rate/perSecond, 1), republishBatch))
}

// await returns when the rate allows the batch.
func (r *republishing) await(ctx context.Context, n int) error {
	if r.rate == 0 {
		return nil
	}
	due := r.due
	r.due = later(time.Now(), due).Add(time.Duration(float64(n) / r.rate * float64(time.Second)))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(due)):
		return nil
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// flush publishes what was added, and returns when it is known of each what became of it.
func (r *republishing) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch = nil
	if err := r.await(ctx, len(batch)); err != nil {
		return err
	}
	if err := r.fetch(ctx, batch); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	if err := r.prepare(ctx, batch); err != nil {
		return err
	}
	refused, err := r.publish(ctx, batch)
	if err == nil && refused {
		// Kafka has refused one of them, and which one is not known: one after the other, on a new producer.
		r.close()
		if err = r.open(); err == nil {
			err = r.prepare(ctx, batch)
		}
		for i := 0; err == nil && i < len(batch); i++ {
			r.pub.Lenient(true)
			_, err = r.publish(ctx, batch[i:i+1])
			if err == nil && !batch[i].decided {
				err = fmt.Errorf("publish row %s of %s: the producer has ended, and what became of the row is not known: run this again", batch[i].finding.ID, batch[i].finding.Table)
			}
		}
	}
	for _, one := range batch {
		if one.decided {
			r.done(one)
		}
	}
	if r.v.due() {
		r.v.Log.Info().Int("rows", r.n).Msg("publishing rows")
	}
	return err
}

// fetch reads the whole rows and makes events of them.
func (r *republishing) fetch(ctx context.Context, batch []*republished) error {
	places := make([]wal.Place, len(batch))
	at := make(map[wal.Place]*republished, len(batch))
	for i, one := range batch {
		places[i], at[one.place] = one.place, one
	}
	now := time.Now()
	t := batch[0].table // a batch is of one table
	read := 0
	err := r.v.snapshot.Fetch(ctx, t.config.Name, places, func(place wal.Place, values [][]byte) error {
		one := at[place]
		t.existing.Event(values, one.pos, now, &one.event)
		one.event.Headers = append(slices.Clip(one.event.Headers), decode.Header{Key: decode.HeaderReplay, Value: []byte(r.mark)})
		if r.topic != "" {
			one.event.Topic = r.topic
		}
		read++
		return nil
	})
	if err == nil && read != len(batch) {
		err = fmt.Errorf("read %s: of %d rows of the snapshot %d are there", t.config.Name, len(batch), read)
	}
	return err
}

func (r *republishing) open() (err error) {
	if r.pub != nil {
		return nil
	}
	back := make(chan answer, republishBatch)
	r.back = back
	r.pub, err = publish.Open(r.v.Kafka, func(d *publish.Delivery, err error) {
		one := d.Owner.(*republished) //nolint:forcetypeassert // publish put it there
		d.Release()
		back <- answer{one, err} // there is room for a batch
	})
	return err
}

func (r *republishing) close() {
	if r.pub != nil {
		r.pub.Close()
		r.pub = nil
	}
}

func (r *republishing) prepare(ctx context.Context, batch []*republished) error {
	var unknown []string
	for _, one := range batch {
		ev := &one.event
		if ev.Poison == nil && !slices.Contains(unknown, ev.Topic) && !r.pub.Known(ev.Topic) {
			unknown = append(unknown, ev.Topic)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return r.pub.Prepare(ctx, unknown)
}

// publish hands over what is not decided yet, and waits for all of it. refused is true if Kafka has refused one of several.
func (r *republishing) publish(ctx context.Context, batch []*republished) (refused bool, err error) {
	var deliveries []publish.Delivery
	for _, one := range batch {
		if one.decided {
			continue
		}
		d := publish.Delivery{Event: one.event, Owner: one}
		if reason := r.pub.Check(&d); reason != nil {
			one.decide(Unpublishable, reason.Error())
			continue
		}
		deliveries = append(deliveries, d)
	}
	waiting := r.pub.Publish(deliveries)
	refused = waiting < len(deliveries)
	for range waiting {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case a := <-r.back:
			switch {
			case a.err == nil:
				a.row.decide(Repaired, "")
			case publish.IsPoison(a.err) && len(batch) == 1:
				a.row.decide(Unpublishable, a.err.Error())
			case publish.IsPoison(a.err), errors.Is(a.err, context.Canceled):
				refused = true
			default:
				err = fmt.Errorf("publish row %s of %s: %w", a.row.finding.ID, a.row.finding.Table, a.err)
			}
		}
	}
	return refused, err
}

func (one *republished) decide(as Fate, reason string) {
	one.finding.Fate, one.finding.Reason, one.decided = as, reason, true
	one.event = decode.Event{}
}
