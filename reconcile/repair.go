package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// repairIndex is where the indexes of repaired events begin: behind those of the transaction whose commit they borrow.
const repairIndex = 1 << 31

const repairBatch = 128

// conclude goes over the rows in their order, says what became of each, and repairs.
func (v *verifier) conclude(ctx context.Context) error {
	for _, t := range v.tables {
		t.selection.NullOf = t.config.Columns.Payload
		for _, topic := range v.topics {
			if topic.compacted && len(t.routing.Place) > 0 {
				t.selection.NewestOf = t.routing.Place
			}
		}
	}
	r := repairs{v: v}
	defer r.close()
	var current *table
	var passed time.Time   // by then the rows before had been published
	var last pglogrepl.LSN // commit of the nearest row before that is in Kafka
	var behind map[mark]bool
	err := v.scan(ctx, func(t *table, n uint32, row wal.Row, ev *decode.Event) error {
		if t != current {
			if err := r.flush(ctx); err != nil {
				return err
			}
			current, passed, last, behind = t, time.Time{}, 0, map[mark]bool{}
		}
		var fate Fate
		switch v.known[n] {
		case leftOut:
			return nil
		case published:
			fate = Published
			if v.times != nil {
				if at := time.Unix(int64(v.times[n]), 0); at.After(passed) {
					passed = at
				}
			}
			if v.commits != nil && v.commits[n] != 0 {
				last = pglogrepl.LSN(v.commits[n])
			}
		case deadLettered:
			fate = DeadLettered
		case parked:
			fate = Parked
			behind[v.lane(ev)] = true
		case coming:
			fate = NotYetPublished
		default:
			own := passed
			if t.config.Columns.Timestamp != "" && ev.Timestamp.After(own) {
				own = ev.Timestamp
			}
			f := Finding{Table: t.config.Name, ID: strings.Clone(ev.ID), Topic: strings.Clone(ev.Topic), Fate: Missing}
			if f.Reason = v.undecidable(ev, row.Newest && !row.Null, own); f.Reason != "" {
				f.Fate = Undecidable
				if !v.RepairUndecidable {
					t.count(v.report, Undecidable)
					return nil
				}
			}
			switch {
			case !v.Repair:
			case ev.Key != nil && behind[v.lane(ev)]:
				f.Fate, f.Reason = Missing, "an earlier event of its key is parked: release or discard that one, then repair again"
			default:
				return r.add(ctx, t, row.Place, last, f)
			}
			v.found(t, f)
			return nil
		}
		t.count(v.report, fate)
		return nil
	})
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

func (t *table) count(r *Report, fate Fate) {
	r.Rows++
	r.Counts[fate]++
	t.report.Counts[fate]++
}

// found enters a row that is missing, or was.
func (v *verifier) found(t *table, f Finding) {
	t.count(v.report, f.Fate)
	if v.Examples > 0 && len(v.report.Found) >= v.Examples {
		v.report.Left++
		return
	}
	v.report.Found = append(v.report.Found, f)
}

// lane is what an order holds for: the key in its topic.
func (v *verifier) lane(ev *decode.Event) mark { return v.marks.of(ev.Topic, string(ev.Key)) }

// repairs publishes missing rows, in the order in which they are added.
type repairs struct {
	v     *verifier
	batch []*repair
	n     uint32        // how many were added
	last  pglogrepl.LSN // the commit that the last one got

	pub  *publish.Publisher
	back chan answer
}

// repair is a row on its way.
type repair struct {
	table   *table
	place   wal.Place
	pos     decode.Position
	finding Finding
	event   decode.Event
	decided bool
}

type answer struct {
	repair *repair
	err    error
}

// add takes a row. Its true position is in log that is gone. It gets the commit of the nearest row before it in the table
// that is in Kafka, and an index behind all of that transaction: later than what was published before it, and earlier than
// what was published after it, as far as the table's order tells.
func (r *repairs) add(ctx context.Context, t *table, place wal.Place, after pglogrepl.LSN, f Finding) error {
	r.last = max(r.last, after)
	r.batch = append(r.batch, &repair{table: t, place: place, finding: f, pos: decode.Position{Commit: r.last, Index: repairIndex + r.n}})
	r.n++
	if len(r.batch) < repairBatch {
		return nil
	}
	return r.flush(ctx)
}

// flush publishes what was added, and returns when it is known of each what became of it.
func (r *repairs) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch = nil
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
			r.v.found(one.table, one.finding)
		}
	}
	if r.v.due() {
		r.v.Log.Info().Uint32("rows", r.n).Msg("publishing missing rows")
	}
	return err
}

// fetch reads the whole rows and makes events of them.
func (r *repairs) fetch(ctx context.Context, batch []*repair) error {
	places := make([]wal.Place, len(batch))
	at := make(map[wal.Place]*repair, len(batch))
	for i, one := range batch {
		places[i], at[one.place] = one.place, one
	}
	now := time.Now()
	t := batch[0].table // a batch is of one table
	read := 0
	err := r.v.snapshot.Fetch(ctx, t.config.Name, places, func(place wal.Place, values [][]byte) error {
		one := at[place]
		t.existing.Event(values, one.pos, now, &one.event)
		one.event.Headers = append(slices.Clip(one.event.Headers), decode.Header{Key: decode.HeaderReplay, Value: []byte("verify")})
		read++
		return nil
	})
	if err == nil && read != len(batch) {
		err = fmt.Errorf("read %s: of %d rows of the snapshot %d are there", t.config.Name, len(batch), read)
	}
	return err
}

func (r *repairs) open() (err error) {
	if r.pub != nil {
		return nil
	}
	back := make(chan answer, repairBatch)
	r.back = back
	r.pub, err = publish.Open(r.v.Kafka, func(d *publish.Delivery, err error) {
		one := d.Owner.(*repair) //nolint:forcetypeassert // publish put it there
		d.Release()
		back <- answer{one, err} // there is room for a batch
	})
	return err
}

func (r *repairs) close() {
	if r.pub != nil {
		r.pub.Close()
		r.pub = nil
	}
}

func (r *repairs) prepare(ctx context.Context, batch []*repair) error {
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
func (r *repairs) publish(ctx context.Context, batch []*repair) (refused bool, err error) {
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
				a.repair.decide(Repaired, "")
			case publish.IsPoison(a.err) && len(batch) == 1:
				a.repair.decide(Unpublishable, a.err.Error())
			case publish.IsPoison(a.err), errors.Is(a.err, context.Canceled):
				refused = true
			default:
				err = fmt.Errorf("publish row %s of %s: %w", a.repair.finding.ID, a.repair.finding.Table, a.err)
			}
		}
	}
	return refused, err
}

func (one *repair) decide(as Fate, reason string) {
	one.finding.Fate, one.finding.Reason, one.decided = as, reason, true
	one.event = decode.Event{}
}
