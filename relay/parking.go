package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// parking keeps the order of keys that have parked events: what comes later under such a key is parked behind them, and
// goes when they have gone or been discarded. The table is the truth; the keys here are its shadow, and only the reading
// goroutine touches them.
type parking struct {
	table   *park.Store // nil under other policies
	keys    map[park.Key]bool
	newest  decode.Position // of those that predecessors have parked
	waiting []parked        // to be stored before anything else is read
	look    time.Time       // when to look for events that are due
}

// parked is an event that is not stored yet.
type parked struct {
	event park.Event
	tx    *checkpoint.Transaction
	bytes int
	slab  *slab
}

const (
	parkLook  = time.Second
	parkBatch = 500
)

func keyOf(ev *decode.Event) park.Key {
	return park.Key{Topic: ev.Topic, Key: string(ev.Key), Null: ev.Key == nil}
}

// openParking opens the table, where the policy is to park, and learns which keys have parked events.
func (p *path) openParking(ctx context.Context, source string) error {
	if p.OnPoison != Park || p.parking.table != nil {
		return nil
	}
	table, err := park.Open(ctx, p.ParkDSN, source)
	if err != nil {
		return err
	}
	p.parking.table = table
	if p.parking.newest, err = table.Newest(ctx); err != nil {
		return err
	}
	return p.learnParkedKeys(ctx)
}

func (p *path) learnParkedKeys(ctx context.Context) error {
	keys, err := p.parking.table.Keys(ctx)
	if err != nil {
		return err
	}
	count, err := p.parking.table.Count(ctx)
	if err != nil {
		return err
	}
	p.parking.keys = make(map[park.Key]bool, len(keys))
	for _, key := range keys {
		p.parking.keys[key] = true
	}
	p.status.parked(count)
	return nil
}

func (p *path) closeParking() {
	if p.parking.table != nil {
		p.parking.table.Close()
	}
}

// waitsBehindParked reports whether an earlier event of the same key is parked, or perhaps this very one. Records without a
// key have no order to keep, so of them only those wait that a predecessor may have parked.
func (p *path) waitsBehindParked(ev *decode.Event) bool {
	return len(p.parking.keys) > 0 && (ev.Key != nil || ev.Position.Compare(p.parking.newest) <= 0) && p.parking.keys[keyOf(ev)]
}

// parkLater notes the event for parkAside, which follows before anything else is read.
func (p *path) parkLater(d *publish.Delivery, reason error) {
	e := park.Event{Event: d.Event, Behind: reason == nil}
	if reason != nil {
		e.Reason = reason.Error()
	}
	tx := d.Owner.(*checkpoint.Transaction) //nolint:forcetypeassert // row put it there
	p.parking.waiting = append(p.parking.waiting, parked{e, tx, d.Event.Bytes(), slabOf(d)})
	if d.Event.Key != nil {
		p.parking.keys[keyOf(&d.Event)] = true
	}
}

// parkAside stores what parkLater has noted. Only then do these events count as done.
func (p *path) parkAside() error {
	if len(p.parking.waiting) == 0 {
		return nil
	}
	waiting := p.parking.waiting
	p.parking.waiting = nil
	events := make([]park.Event, len(waiting))
	for i := range waiting {
		events[i] = waiting[i].event
	}
	err := p.persist("parked events cannot be stored, nothing more is read", func(ctx context.Context) error {
		return p.parking.table.Park(ctx, events)
	})
	for i := range waiting {
		if err == nil {
			waiting[i].tx.Acked()
		}
		p.flying.remove(waiting[i].bytes, waiting[i].slab)
	}
	p.status.addParked(int64(len(waiting)))
	return err
}

// persist runs work aside until it succeeds.
func (p *path) persist(what string, work func(context.Context) error) error {
	return p.aside(func(ctx context.Context) error {
		trouble := newOutage(p.Log, what)
		for {
			err := work(ctx)
			if err == nil {
				trouble.healed()
				return nil
			}
			if checkpoint.IsTakenOver(err) || checkpoint.IsPermanent(err) || park.IsNewer(err) {
				return err
			}
			if wal.IsGoingDown(err) { // it would wait for what comes of this
				p.fail(err)
				return err
			}
			p.status.fail(err)
			if trouble.wait(ctx, err) != nil {
				return err
			}
		}
	})
}

// unparkDue is when to look for parked events that may go; zero if there are none.
func (p *path) unparkDue() time.Time {
	if len(p.parking.keys) == 0 || (p.group.on && p.tx != nil) || !p.pastParked() {
		return time.Time{}
	}
	if p.parking.look.IsZero() {
		p.parking.look = time.Now().Add(parkLook)
	}
	return p.parking.look
}

// pastParked reports whether the stream is past all that a predecessor has parked. It may have parked events beyond the
// checkpoint, when earlier ones were not acknowledged. Until the log brings such an event again, which is when it is found to be
// parked or published already, it must not go: neither a second time then, nor before the earlier ones of its key.
func (p *path) pastParked() bool {
	newest := p.parking.newest
	return (p.handedAny && p.handed.Compare(newest) >= 0) || p.tracker.Safe().End > newest.Commit
}

// unpark publishes the parked events that may go by now: those that were released, and what waits behind them. Events of
// their keys that come meanwhile are still parked, so that none of them can overtake.
func (p *path) unpark() error {
	p.parking.look = time.Now().Add(parkLook)
	if p.group.on && p.pub.InTransaction() {
		if err := p.commitGroup(); err != nil {
			return err
		}
	} else if err := p.handOver(); err != nil {
		return err
	}
	for {
		var due []park.Event
		err := p.persist("parked events cannot be looked up", func(ctx context.Context) (err error) {
			due, err = p.parking.table.Due(ctx, parkBatch)
			return err
		})
		if err != nil {
			return err
		}
		if len(due) == 0 {
			return p.persist("parked events cannot be looked up", p.learnParkedKeys)
		}
		if err := p.publishParked(due); err != nil {
			return err
		}
	}
}

// publishParked publishes events that were parked, one after the other. Where their topics ended before is stored first: if
// the process dies in the middle, that is from where its successor looks which of them have arrived.
func (p *path) publishParked(due []park.Event) error {
	topics := make([]publish.Delivery, len(due))
	for i := range due {
		topics[i].Event.Topic = due[i].Event.Topic
	}
	names := topicsOf(topics)
	p.pub.Distrust(names) // somebody has released them, and so has mended what was wrong
	if err := p.prepareTopics(names); err != nil {
		return err
	}
	var gone []decode.Position
	err := p.persist("parked events cannot be published", func(ctx context.Context) error {
		var err error
		if gone, err = p.arrivedBefore(ctx, due); err != nil {
			return err
		}
		if err := p.parking.table.Published(ctx, gone); err != nil {
			return err
		}
		return p.storeFloors(ctx, due)
	})
	if err != nil {
		return err
	}
	already := make(map[decode.Position]bool, len(gone))
	for _, pos := range gone {
		already[pos] = true
	}
	stuck := map[park.Key]bool{}
	published, err := p.tryTogether(due, already)
	if err != nil {
		return err
	}
	for _, pos := range published {
		already[pos] = true
	}
	for i := range due {
		ev := due[i].Event
		if already[ev.Position] || stuck[keyOf(&ev)] {
			continue
		}
		refused, err := p.tryAlone(ev)
		if err != nil {
			return err
		}
		if refused == nil {
			published = append(published, ev.Position)
			continue
		}
		stuck[keyOf(&ev)] = true
		p.setAsideLog.Warn().Err(refused).Str("id", ev.ID).Stringer("position", ev.Position).Msg("a released event still cannot be published")
		err = p.persist("parked events cannot be stored", func(ctx context.Context) error {
			return p.parking.table.Rejected(ctx, ev.Position, refused.Error())
		})
		if err != nil {
			return err
		}
	}
	p.Log.Info().Int("events", len(published)).Msg("parked events are published")
	return p.persist("parked events cannot be stored", func(ctx context.Context) error {
		return p.parking.table.Published(ctx, published)
	})
}

// tryTogether publishes in one Kafka transaction those of the events that nothing is known to stand against, and returns which;
// none if Kafka refuses one of them. A transaction an event would be slower than new ones may be parked behind them. After an
// attempt that failed, the next events go one by one, so that a refusal is pinned on its event.
func (p *path) tryTogether(due []park.Event, already map[decode.Position]bool) (published []decode.Position, err error) {
	if alone := p.parkedAlone; !p.group.on || alone {
		p.parkedAlone = false
		return nil, nil
	}
	tx := &checkpoint.Transaction{}
	stuck := map[park.Key]bool{}
	batch := make([]publish.Delivery, 0, len(due)) // never moved: the producer holds pointers into it
	for i := range due {
		d := publish.Delivery{Event: due[i].Event, Owner: tx}
		key := keyOf(&d.Event)
		switch {
		case already[d.Event.Position]:
		case stuck[key]:
		case p.pub.Check(&d) != nil:
			stuck[key] = d.Event.Key != nil
		default:
			batch = append(batch, d)
			published = append(published, d.Event.Position)
		}
	}
	if len(batch) == 0 {
		return nil, nil
	}
	for i := range batch {
		tx.Add()
		p.flying.add(batch[i].Event.Bytes(), nil)
	}
	p.parkedAlone = true
	refused, err := p.aloneInGroup(batch)
	if err != nil || refused != nil {
		return nil, err
	}
	p.parkedAlone = false
	return published, nil
}

// tryAlone publishes one event outside any transaction and returns why Kafka refuses it, if it does.
func (p *path) tryAlone(ev decode.Event) (refused, err error) {
	tx := &checkpoint.Transaction{}
	tx.Add()
	one := []publish.Delivery{{Event: ev, Owner: tx}}
	if refused := p.pub.Check(&one[0]); refused != nil {
		return refused, p.stillTrue(&one[0], refused)
	}
	p.flying.add(ev.Bytes(), nil)
	return p.aloneInGroup(one)
}

// arrivedBefore returns which of the events are in Kafka although they are still in the table: they were under way when
// the process that published them died.
func (p *path) arrivedBefore(ctx context.Context, due []park.Event) ([]decode.Position, error) {
	offsets := map[string]map[int32]int64{}
	for _, e := range due {
		if e.State != park.Publishing {
			continue
		}
		floor := offsets[e.Event.Topic]
		if floor == nil {
			floor = map[int32]int64{}
			offsets[e.Event.Topic] = floor
		}
		for partition, offset := range e.Floor {
			if low, ok := floor[partition]; !ok || offset < low {
				floor[partition] = offset
			}
		}
	}
	if len(offsets) == 0 {
		return nil, nil
	}
	present, _, err := p.pub.Resume(ctx, publish.Tail{Source: p.source, Offsets: offsets})
	if err != nil {
		return nil, err
	}
	var gone []decode.Position
	for i := range due {
		if due[i].State == park.Publishing && present.Has(&due[i].Event) {
			gone = append(gone, due[i].Event.Position)
			p.Metrics.suppressed.Inc()
		}
	}
	return gone, nil
}

// storeFloors notes where the topics end before the events are handed over. Events that carry a floor keep it: they may
// lie anywhere behind that one.
func (p *path) storeFloors(ctx context.Context, due []park.Event) error {
	var fresh []park.Event
	var names []string
	for _, e := range due {
		if _, _, writable := p.pub.Base(e.Event.Topic); !writable || e.State == park.Publishing {
			continue // Check refuses the former, so they are not handed over
		}
		fresh = append(fresh, e)
		names = append(names, e.Event.Topic)
	}
	if len(fresh) == 0 {
		return nil
	}
	ends, err := p.pub.EndOffsets(ctx, names)
	if err != nil {
		return fmt.Errorf("publish parked events: %w", err)
	}
	for i := range fresh {
		fresh[i].Floor = ends[fresh[i].Event.Topic]
	}
	return p.parking.table.Publishing(ctx, fresh)
}
