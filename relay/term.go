package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// newPath opens what a term needs besides the source.
func (r *Relay) newPath(ctx context.Context, l *lead) (*path, error) {
	p := &path{
		Relay: r, line: l.conn.System.Timeline, source: SourceName(l.conn.System, r.Source.Slot), decoder: l.decoder,
		flying:  newFlying(r.MaxBufferedBytes),
		tracker: checkpoint.NewTracker(checkpoint.Mark{End: l.start}),
		store:   newStoring(r.Store, l.stored, rand.Text()),
	}
	kafka := r.Kafka
	kafka.EndGrace = r.DrainTimeout
	acked := p.acked
	if r.Traced != nil {
		acked = p.ackedTraced
	}
	var err error
	if p.pub, err = publish.Open(kafka, acked); err != nil {
		return nil, &hinted{err, "correct kafka in the configuration"}
	}
	if r.ExactlyOnce {
		p.group = group{on: true, longest: r.Kafka.TransactionTimeout() / 2, busy: r.CheckpointEvery}
		p.together = &together{Store: r.Store, recorder: r.Store.(recorder), pub: p.pub} //nolint:forcetypeassert // as Options say
		p.store.inTransactions(p.together)
	}
	p.ctx, p.fail = context.WithCancelCause(ctx)
	if p.target, err = r.end(ctx, l.conn); err != nil {
		p.pub.Close()
		return nil, err
	}
	r.status.begin(p)
	go p.watch(p.ctx) // ends with it
	return p, nil
}

// end returns up to where Once reads: all that is committed by now, on the primary where it can be asked, since a standby may
// lag behind.
func (r *Relay) end(ctx context.Context, conn *wal.Conn) (pglogrepl.LSN, error) {
	alone := conn.System.Standby && (r.Source.AdminDSN == "" || r.Source.AdminDSN == r.Source.DSN)
	if !r.Once || alone {
		return conn.System.Flushed, nil
	}
	setup, err := wal.OpenSetup(ctx, r.Source)
	if err != nil {
		return 0, err
	}
	defer setup.Close()
	return setup.Flushed(ctx)
}

func (p *path) close() {
	p.fail(nil)
	p.status.end()
	p.disconnect()
	p.lookout.Load().Close()
	p.pub.Close()
	p.closeParking()
}

// run streams until ctx is done or something happens that the term cannot outlive, and then drains.
func (p *path) run(l *lead) error {
	go p.watchPublication(p.ctx) // ends with it
	if p.group.on {              // it keeps the checkpoint itself
		return p.drain(p.sessions(l))
	}
	background, stop := context.WithCancel(p.ctx)
	done := make(chan struct{})
	go func() { // ends with background
		defer close(done)
		p.keepCheckpoint(background)
	}()
	err := p.sessions(l)
	stop()
	<-done
	return p.drain(err)
}

// sessions streams over one replication connection after the other.
func (p *path) sessions(l *lead) error {
	trouble := newOutage(p.Log, "connection to the source lost")
	for {
		err := p.session(l, trouble)
		for err != nil {
			if cause := context.Cause(p.ctx); cause != nil {
				return cause
			}
			if !passes(err) || checkpoint.IsTakenOver(err) || errors.Is(err, errTimeline) {
				return err
			}
			if p.group.on { // another connection is another term: no group stays open without a stream
				p.Metrics.reconnected("source")
				return err
			}
			p.disconnect()
			if err := p.handOver(); err != nil { // what was read need not wait for the source
				return err
			}
			p.status.interrupt(err)
			p.Metrics.reconnected("source")
			if trouble.wait(p.ctx, err) == nil {
				l, err = p.acquire(p.ctx, trouble)
			}
		}
	}
}

// session streams over one replication connection, until an error.
func (p *path) session(l *lead, trouble *outage) error {
	p.conn, p.decoder = l.conn, l.decoder
	if l.conn.System.Timeline != p.line {
		return errTimeline
	}
	p.lookout.Swap(l.conn.Lookout()).Close()
	reader, err := p.conn.Start(p.ctx, pglogrepl.LSN(l.stored.LSN), p.store.confirmable)
	if err != nil {
		return err
	}
	p.reader = reader
	if err := p.resume(l); err != nil { // the slot is ours from here on
		return err
	}
	trouble.healed()
	p.status.stream()
	p.Log.Info().Stringer("lsn", l.stored.LSN).Str("slot", p.Source.Slot).Msg("streaming")
	return p.stream()
}

// errTimeline ends a term whose source was failed over: what it knows of the stream is about another log, in which other
// events may have the same positions. The next begins from the checkpoint.
var errTimeline = errors.New("the source was failed over")

// resume takes over from whoever was here before: it makes sure that nothing of theirs is still under way, learns what they
// have published beyond the checkpoint, and makes the checkpoint ours. Before that nothing is published. A path does it
// once; when only the connection to the source is new, our own producer has gone on.
func (p *path) resume(l *lead) error {
	if p.resumed {
		return nil
	}
	tail := publish.Tail{
		Source: p.source, Since: pglogrepl.LSN(l.stored.LSN),
		Offsets: l.stored.Offsets, TopicIDs: l.stored.TopicIDs,
		Producers: l.stored.Producers, TransactionalID: l.stored.TransactionalID,
		Forks: forks(l.stored.Forks),
		Progress: func(read, of int64) {
			p.Log.Info().Int64("read", read).Int64("of", of).Msg("reading what was published beyond the checkpoint")
		},
	}
	var err error
	takeOver := func(ctx context.Context) error { return p.takeOver(ctx, l, tail) }
	if p.group.on {
		err = p.hintTransactions(p.fenced(p.aside(takeOver)))
	} else {
		err = p.persist("Kafka is not ready, nothing is published yet", takeOver)
	}
	if err == nil {
		err = p.persist("the table of parked events cannot be read, nothing is published yet", func(ctx context.Context) error { return p.openParking(ctx, p.source) })
	}
	p.resumed = err == nil
	return err
}

func forks(stored []checkpoint.Fork) []publish.Fork {
	out := make([]publish.Fork, len(stored))
	for i, f := range stored {
		out[i] = publish.Fork{LSN: pglogrepl.LSN(f.LSN), Offsets: f.Offsets}
	}
	return out
}

func (p *path) takeOver(ctx context.Context, l *lead, tail publish.Tail) error {
	producer, err := p.pub.ProducerID(ctx)
	if err == nil && p.group.on {
		err = p.unmoved(ctx, &l.stored)
	}
	if err != nil {
		return err
	}
	ends := checkpoint.Offsets{}
	if p.ResumeDedupe || len(tail.Forks) > 0 {
		present, unfenced, err := p.pub.Resume(ctx, tail)
		if err != nil {
			return err
		}
		if unfenced != nil {
			p.Log.Warn().Err(unfenced).Msg("the broker does not let us fence the predecessor's producer (it takes the right to alter the cluster): what it still has under way may arrive twice")
		}
		ends = present.Ends()
		if present.Len() > 0 && p.ResumeDedupe {
			p.Log.Info().Int("events", present.Len()).Msg("events beyond the checkpoint are in Kafka already and will not be published again")
			p.present = present
		}
	}
	return p.store.claim(ctx, producer, p.Kafka.TransactionalID, l.conn.System.Timeline, ends)
}

// disconnect gives up the connection to the source; what was handed over stays in flight.
func (p *path) disconnect() {
	p.reader = nil
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// drain waits, for a bounded time, until what is in flight is acknowledged, stores what is safe and confirms it. Whatever
// it does not manage is replayed at the next start.
func (p *path) drain(err error) error {
	if p.group.on {
		p.leaveGroup(err)
	} else {
		p.land(err)
	}
	if p.reader != nil {
		p.reader.Close()
		p.reader = nil
	}
	p.Log.Info().Stringer("lsn", p.store.confirmable()).Msg("stopped streaming")
	return err
}

// land waits for what is in flight, and stores what is safe by then.
func (p *path) land(err error) {
	p.abandon(p.burst)
	p.burst = nil
	limit := p.DrainTimeout
	if publish.IsFenced(err) {
		limit = 0 // there is nothing to wait for
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), limit)
	defer cancel()
	landed := make(chan struct{})
	go func() { // ends with ctx
		defer close(landed)
		p.flying.awaitNone(ctx)
	}()
	_ = p.hold(ctx, landed) // a source that goes away now is no new problem
	<-landed
	if left := p.flying.out.Load(); left > 0 {
		p.Log.Warn().Int64("events", left).Dur("waited", limit).
			Msg("not all events in flight were acknowledged in time; the next start takes care of them")
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(p.ctx), storeTimeout)
	defer cancel()
	if errSave := p.save(ctx, true); errSave != nil {
		p.Log.Warn().Err(errSave).Msg("the last checkpoint could not be stored; more than necessary is read again at the next start")
	}
}

// publishExisting publishes the rows that were there before the slot, and then stores that the stream begins.
func (p *path) publishExisting(l *lead) error {
	if err := p.resume(l); err != nil {
		return err
	}
	snapshot, err := l.conn.OpenSnapshot(p.ctx, l.snapshot)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	at := time.Now()
	said := at
	p.tx = p.tracker.Begin(0)
	p.count++
	// Earlier than any commit: no log begins before 0/1000000. Where the stream has been at work before, they must be later
	// than what it brought, or consumers that drop what is stale would drop them: just before the slot, between two records.
	var first pglogrepl.LSN
	if l.stored.State == checkpoint.Republish {
		first = l.start - 7
	}
	var n uint64
	for _, table := range p.Tables {
		var existing *decode.Existing
		columns := func(columns []wal.Column) (err error) {
			existing, err = p.decoder.Existing(table.Name, decodeColumns(columns))
			return err
		}
		row := func(values [][]byte) error {
			if err := p.awaitRoom(); err != nil {
				return err
			}
			d := p.nextDelivery()
			existing.Event(values, decode.Position{Commit: first + pglogrepl.LSN(n>>32), Index: uint32(n)}, at, &d.Event) //nolint:gosec // the low half
			if !d.Event.Ignored {
				n++
				if err := p.row(d); err != nil {
					return err
				}
			}
			if time.Since(said) >= 5*time.Second {
				said = time.Now()
				p.Log.Info().Uint64("events", n).Str("table", table.Name).Msg("publishing the rows that were there before the slot")
			}
			if !p.burstIsDue(false) {
				return nil
			}
			if err := p.handOver(); err != nil {
				return err
			}
			return p.endGroupAnywhere()
		}
		if err := snapshot.Rows(p.ctx, table.Name, table.Columns.ID, columns, row); err != nil {
			return err
		}
	}
	if err := p.handOver(); err != nil {
		return err
	}
	p.flying.awaitNone(p.ctx)
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	p.tracker.Commit(p.tx, l.start)
	p.tx = nil
	if mark := p.tracker.Safe(); mark.End != l.start || p.tracker.Waiting() > 0 {
		return fmt.Errorf("publish the existing rows: safe is %s, want %s", mark.End, l.start)
	}
	p.Log.Info().Uint64("events", n).Msg("the rows that were there before the slot are in Kafka")
	p.present, p.handedAny = nil, false
	err = p.store.change(p.ctx, func(c *checkpoint.Checkpoint) {
		c.State = checkpoint.Streaming
		c.LSN = checkpoint.LSN(l.start)
	})
	l.stored = p.store.current()
	return err
}
