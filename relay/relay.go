// Package relay joins the parts into the path of a row: it reads the log, hands events to Kafka, stores what is safe and
// confirms what is stored. The one rule: nothing is stored or confirmed that is not acknowledged, and whatever goes
// wrong, the way on leads through the stored checkpoint, never through a guess.
package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// Options are what a relay is built from.
type Options struct {
	Source   wal.Options
	Tables   []decode.Table
	Messages []decode.LogicalMessage
	Kafka    publish.Options
	Store    Store

	Create           bool   // publication and slot may be created on the first start
	Failover         string // whether the slot is to be a failover slot: auto, true, false
	ExistingRows     bool   // publish the rows that were there before the slot
	MaxBufferedBytes int64  // of events; the client's requests, into which they are copied, come on top
	MaxBehind        uint64 // how many transactions may be read beyond what is stored; 0 is 250,000
	CheckpointEvery  time.Duration
	PublicationEvery time.Duration // how often it is looked at whether the publication was changed; 0 is 5 s
	WALBudget        int64         // bytes of log that the slot may hold back before that is an alarm; 0: any
	SlotEvery        time.Duration // how often it is looked at how much that is; 0 is 5 s
	DrainTimeout     time.Duration // how long a stop waits for acknowledgements
	ExactlyOnce      bool          // in Kafka transactions; Kafka.TransactionalID is set, and Store keeps checkpoints in Kafka
	ResumeDedupe     bool          // at a start, look in Kafka for what was published behind the checkpoint, and drop it
	OnPoison         Policy
	DeadLetterTopic  string
	ParkDSN          string // of the database with the table of parked events
	Once             bool   // end when everything committed before the start is in Kafka

	Log     zerolog.Logger
	Metrics *Metrics // nil: kept for nobody
	// Traced is told of each event that Kafka has acknowledged, on the producer's goroutine, and must not block. The event is
	// borrowed. nil: nobody is, at no cost.
	Traced func(ev *decode.Event, partition int32, offset int64)
}

// Store keeps the checkpoint durably.
type Store interface {
	// Load returns what is stored, nil if nothing is.
	Load(ctx context.Context) (*checkpoint.Checkpoint, error)
	// Save returns nil once c survives a crash. What is stored must name holder as its Writer ("" if nothing is), or else
	// checkpoint.IsTakenOver is true of the error.
	Save(ctx context.Context, c *checkpoint.Checkpoint, holder string) error
	String() string
}

// Relay publishes the outbox of one source.
type Relay struct {
	Options
	status      statusBoard
	recent      recent
	history     history
	doubt       doubt         // survives the term that raised it
	solo        pglogrepl.LSN // likewise: transactions that commit up to here are published one a group
	refused     map[refusal]error
	parkedAlone bool           // likewise: the next parked events are published one by one
	setAsideLog zerolog.Logger // says the first of many
	skippedLog  zerolog.Logger // likewise
	warned      bool           // see warn
	adopted     bool           // the slot's position was taken, and it was said
}

// New returns a relay that does nothing until Run.
func New(o Options) *Relay {
	o.MaxBehind = cmp.Or(o.MaxBehind, maxBehind)
	o.PublicationEvery = cmp.Or(o.PublicationEvery, lookEvery)
	o.SlotEvery = cmp.Or(o.SlotEvery, lookEvery)
	if o.Metrics == nil { // nobody looks at them
		o.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	few := func() zerolog.Logger { return o.Log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Minute}) }
	return &Relay{Options: o, setAsideLog: few(), skippedLog: few()}
}

// Run publishes until ctx is done, which is no error: what is in flight then is waited for, within DrainTimeout. With
// Once it returns nil when everything committed before its start is in Kafka. What passes by itself (a server that is
// away, a slot that another process holds) is waited for, and said in the log; what needs a person is returned.
func (r *Relay) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watchSlot(watching) })
	watch.Go(func() { r.keepHistory(watching) })
	defer watch.Wait()
	defer stop()
	trouble := newOutage(r.Log, "cannot go on, trying again from the checkpoint")
	for {
		err := r.term(ctx, trouble)
		if err == nil || errors.Is(err, errOnce) || (ctx.Err() != nil && errors.Is(err, context.Canceled)) {
			return nil
		}
		r.status.fail(err)
		if !passes(err) {
			return err
		}
		if stopped := trouble.wait(ctx, err); stopped != nil {
			return nil // being stopped is no error, and this one passes by itself
		}
	}
}

// passes reports whether err may be gone at the next attempt.
func passes(err error) bool {
	var refusal *Refusal
	var poison *PoisonError
	var mend *hinted
	switch {
	case errors.As(err, &refusal), errors.As(err, &poison), errors.As(err, &mend), wal.IsPermanent(err), checkpoint.IsPermanent(err), park.IsNewer(err):
		return false
	case errors.Is(err, errDecode):
		return false
	default:
		return true
	}
}

// term is one life of the path, from the stored checkpoint to the first error that it cannot outlive. A lost connection
// to the source it does outlive: producer and tracker go on, and the stream is taken up behind what was handed over.
func (r *Relay) term(ctx context.Context, trouble *outage) error {
	l, err := r.acquire(ctx, trouble)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	p, err := r.newPath(ctx, l)
	if err != nil {
		return err
	}
	defer p.close()
	if l.existing {
		if err := p.publishExisting(l); err != nil {
			if cause := context.Cause(p.ctx); cause != nil {
				err = cause // and not what became of others by it
			}
			p.raiseDoubt(err)
			return p.drain(err)
		}
	}
	trouble.healed()
	err = p.run(l)
	p.raiseDoubt(err)
	return err
}

// lead is what a process has when the slot is its own to read: a connection and where to start.
type lead struct {
	conn     *wal.Conn
	decoder  *decode.Decoder
	stored   checkpoint.Checkpoint // as it is in the store
	start    pglogrepl.LSN
	failover bool   // a slot that is created is to be a failover slot
	existing bool   // rows from before the slot have to be published first,
	snapshot string // as this snapshot shows them
}

// acquire connects, checks the source and waits until the slot is free, then decides from slot and checkpoint where
// to start.
func (r *Relay) acquire(ctx context.Context, trouble *outage) (*lead, error) {
	conn, err := wal.Connect(ctx, r.Source)
	if err != nil {
		return nil, err
	}
	l, err := r.takeSlot(ctx, conn, trouble)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (r *Relay) takeSlot(ctx context.Context, conn *wal.Conn, trouble *outage) (*lead, error) {
	slot, err := r.awaitFreeSlot(ctx, conn, trouble)
	if err != nil {
		return nil, err
	}
	// Only now: while another process held the slot, the checkpoint was its to move, and the log went on.
	if err := conn.Refresh(ctx); err != nil {
		return nil, err
	}
	if err := r.fence(ctx); err != nil {
		return nil, err
	}
	stored, err := r.Store.Load(ctx)
	if checkpoint.IsNewer(err) {
		return nil, refuse(err, "Run that version again; to go back to this one, stop it and take the slot's position: tidemark checkpoint adopt --accept-gap, which keeps what is stored under another name")
	}
	if checkpoint.IsCorrupt(err) {
		return nil, refuse(err, "restore what was stored, or adopt the slot's position: tidemark checkpoint adopt --accept-gap")
	}
	if err != nil {
		return nil, err
	}
	var history wal.History
	if stored != nil && stored.Timeline < conn.System.Timeline {
		if history, err = conn.History(ctx); err != nil {
			return nil, err
		}
	}
	decision, err := judge(slot, stored, conn.System, history, r.Source.Slot)
	if err != nil {
		return nil, err
	}
	failover, err := r.setFailover(ctx, conn, slot)
	if err != nil {
		return nil, err
	}
	from, err := r.readMessages(conn, decision, stored, history)
	if err != nil {
		return nil, err
	}
	decoder, err := r.newDecoder(ctx, conn, from) // before the publication, which cannot be made of a table that is not there
	if err != nil {
		return nil, err
	}
	publication, err := r.preparePublication(ctx, conn, decision, stored)
	if err != nil {
		return nil, err
	}
	if err := r.warn(ctx, conn); err != nil {
		return nil, err
	}
	l := &lead{conn: conn, decoder: decoder, failover: failover, stored: NewCheckpoint(conn.System, r.Source.Slot)}
	if stored != nil {
		l.stored = *stored
		l.stored.Forks = Forks(stored, conn.System, history)
	}
	l.stored.Publication, l.stored.MessagesFrom = publication, checkpoint.LSN(from)
	switch decision {
	case resume:
		l.start = pglogrepl.LSN(stored.LSN)
		return l, nil
	case adopt:
		if l.start, err = slot.Confirmed(); err != nil {
			return nil, err
		}
		if !r.adopted { // a term that cannot store it comes here again
			r.adopted = true
			r.Log.Info().Stringer("lsn", l.start).Str("slot", slot.Name).
				Msg("no checkpoint is stored: taking the slot's position; rows committed before it are not published")
		}
		l.stored.LSN = checkpoint.LSN(l.start)
		publication.LSN = l.stored.LSN
		return l, r.Store.Save(ctx, &l.stored, "")
	case begin, create:
		return l, r.createSlot(ctx, l, decision == begin)
	default:
		return nil, fmt.Errorf("no such decision: %d", decision)
	}
}

// setFailover decides whether the slot is to be a failover slot, and makes it one, or none, if it is there.
func (r *Relay) setFailover(ctx context.Context, conn *wal.Conn, slot *wal.Slot) (bool, error) {
	failover, err := conn.System.Failover(r.Failover)
	if err != nil || slot == nil || slot.Failover == failover || conn.System.Standby {
		return failover, err
	}
	if err := conn.SetFailover(ctx, failover); err != nil {
		return failover, err
	}
	r.Log.Info().Str("slot", slot.Name).Bool("failover", failover).Msg("the slot is changed, as source.failover says")
	return failover, nil
}

// warn says, once, what may cost a standby its slot.
func (r *Relay) warn(ctx context.Context, conn *wal.Conn) error {
	if r.warned {
		return nil
	}
	why, err := conn.Endangered(ctx)
	if err == nil && why != "" {
		r.warned = true
		r.Log.Warn().Str("slot", r.Source.Slot).Str("why", why).Msg("the slot may be lost: the primary may remove rows of the catalogue that reading the log takes")
	}
	return err
}

// awaitFreeSlot returns the slot, nil if there is none, as soon as nobody streams from it: until then this process is
// the hot standby.
func (r *Relay) awaitFreeSlot(ctx context.Context, conn *wal.Conn, trouble *outage) (*wal.Slot, error) {
	said := false
	ticker := time.NewTicker(standbyPoll)
	defer ticker.Stop()
	for {
		slot, err := conn.Slot(ctx)
		if err != nil || slot == nil || !slot.Active {
			return slot, err
		}
		if slot.Database != conn.System.Database {
			return nil, usable(slot, conn.System) // it will never be ours
		}
		r.status.standby(slot)
		if !said {
			said = true
			trouble.healed()
			r.Log.Info().Str("slot", slot.Name).Int("pid", slot.ActivePID).Str("holder", slot.Holder()).
				Msg("another process streams from the slot: waiting as hot standby (pid is its Postgres backend)")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
}

const standbyPoll = 500 * time.Millisecond

// createSlot creates the slot of a first start. That the phase of the existing rows has begun is stored before the slot
// exists: otherwise a crash in its middle would look like a slot whose checkpoint was lost.
func (r *Relay) createSlot(ctx context.Context, l *lead, again bool) error {
	if !r.Create && !again && l.stored.State != checkpoint.Republish {
		return &hinted{
			fmt.Errorf("slot %s does not exist and source.create is false", r.Source.Slot),
			"run tidemark init, or set source.create: true",
		}
	}
	l.existing = r.ExistingRows
	if l.stored.State == checkpoint.Republish {
		l.existing = true
	} else {
		l.stored.State = checkpoint.ExistingRows
	}
	if l.existing {
		if err := l.conn.MayRead(ctx); err != nil {
			return err
		}
	}
	if err := r.Store.Save(ctx, &l.stored, l.stored.Writer); err != nil {
		return err
	}
	if again {
		r.Log.Info().Str("slot", r.Source.Slot).Msg("the first start was interrupted: beginning it anew")
		if err := l.conn.DropSlot(ctx); err != nil && !wal.IsSlotMissing(err) {
			return err
		}
	}
	var err error
	l.start, l.snapshot, err = l.conn.CreateSlot(ctx, l.failover)
	if err != nil {
		return err
	}
	r.Log.Info().Str("slot", r.Source.Slot).Stringer("lsn", l.start).Bool("failover", l.failover).Msg("slot created")
	l.stored.Publication.LSN = checkpoint.LSN(l.start)
	if l.existing {
		return nil
	}
	return r.beginStreaming(ctx, l)
}

// beginStreaming stores that everything before the slot's start is done.
func (r *Relay) beginStreaming(ctx context.Context, l *lead) error {
	l.stored.State = checkpoint.Streaming
	l.stored.LSN = checkpoint.LSN(l.start)
	return r.Store.Save(ctx, &l.stored, l.stored.Writer)
}

// newDecoder returns the decoder for this source, having held the tables' columns against the mapping.
func (r *Relay) newDecoder(ctx context.Context, conn *wal.Conn, messagesFrom pglogrepl.LSN) (*decode.Decoder, error) {
	domains, err := conn.Domains(ctx)
	if err != nil {
		return nil, err
	}
	decoder, err := decode.New(decode.Options{
		Tables: r.Tables, Domains: domains,
		Messages: r.Messages, MessagesFrom: messagesFrom,
		Source: SourceName(conn.System, r.Source.Slot),
	})
	if err != nil {
		return nil, &hinted{err, "correct outbox and messages in the configuration"}
	}
	for _, table := range r.Tables {
		columns, err := conn.Columns(ctx, table.Name)
		if err != nil {
			return nil, err
		}
		if _, err := decoder.Existing(table.Name, decodeColumns(columns)); err != nil {
			return nil, &hinted{err, "name an existing column under outbox[].columns or in the templates, or add the column"}
		}
	}
	return decoder, nil
}

// SourceName is the text of the tidemark-source header.
func SourceName(s wal.System, slot string) string { return s.ID + "/" + s.Database + "/" + slot }

func decodeColumns(columns []wal.Column) []decode.Column {
	out := make([]decode.Column, len(columns))
	for i, c := range columns {
		out[i] = decode.Column(c)
	}
	return out
}

// NewCheckpoint returns a checkpoint of this source without a position.
func NewCheckpoint(s wal.System, slot string) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{
		Version: checkpoint.Version, SystemIdentifier: s.ID, Timeline: s.Timeline, Database: s.Database,
		Slot: slot, Offsets: checkpoint.Offsets{}, WrittenAt: time.Now().UTC(),
	}
}
