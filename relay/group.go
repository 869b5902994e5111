package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// group is what delivery.mode: exactly_once puts around the events: a Kafka transaction that holds the events of whole
// database transactions and the checkpoint behind them, so that consumers which read committed records see all of it or
// nothing, and what they see is what the next term finds stored. It is opened by the first event and committed where a
// database transaction ends. The zero value is the mode at_least_once. It belongs to the reading goroutine.
type group struct {
	on      bool
	longest time.Duration // how long one may be open; past it a database transaction is split
	busy    time.Duration // how long one stays open while transactions keep coming

	since  time.Time     // when it was opened
	first  pglogrepl.LSN // the commit of its first event
	events int
	whole  time.Time // when the last database transaction was read to its end
	ended  time.Time // when the last group was
	behind bool      // more is safe than stored, and no event to go with it
	torn   bool      // inside a database transaction of which a part is committed
}

const (
	// groupEvents ends a group while the log keeps coming. Ending one costs some milliseconds.
	groupEvents = 20_000
	// groupQuiet is how long no further transaction has come when a group ends. The acknowledgements, which it has to wait
	// for, take as long.
	groupQuiet = time.Millisecond
	// groupPause is the least time between the ends of two groups that only quiet has ended.
	groupPause = 10 * time.Millisecond
	// groupIdle is how often a position alone is stored, with no event to go with it.
	groupIdle = time.Second
)

// recorder is a Store that keeps checkpoints in Kafka, as the mode exactly_once needs it.
type recorder interface {
	Record(c *checkpoint.Checkpoint) (checkpoint.Record, error)
	// TransactionalID is the one under which it saves.
	TransactionalID() string
}

// together saves a checkpoint in the Kafka transaction that is open, or in one of its own, and commits it. That the
// checkpoint is ours needs no comparison: a term has looked since it has fenced all who were before, and one that is fenced
// itself can commit nothing.
type together struct {
	Store
	recorder
	pub   *publish.Publisher
	check func() error // what has to hold when everything is acknowledged; nil for nothing
}

func (t *together) Save(ctx context.Context, c *checkpoint.Checkpoint, _ string) error {
	record, err := t.Record(c)
	if err != nil {
		return err
	}
	if !t.pub.InTransaction() {
		if err := t.pub.Begin(ctx); err != nil {
			return err
		}
	}
	return t.pub.Commit(ctx, publish.Note(record), t.check)
}

// fence makes sure, before a checkpoint in Kafka is looked at, that no predecessor can move it any more or has left a
// transaction open, behind which nobody could see it.
func (r *Relay) fence(ctx context.Context) error {
	store, ok := r.Store.(recorder)
	if !ok {
		return nil
	}
	return r.hintTransactions(r.Kafka.Fence(ctx, store.TransactionalID()))
}

// hintTransactions adds what to do about an error of Kafka's that only a person can mend.
func (r *Relay) hintTransactions(err error) error {
	if hint := r.Kafka.TransactionHint(err); hint != "" {
		return &hinted{err, hint}
	}
	return err
}

// errMoved says that another process has stored a checkpoint between our look at it and our fence.
var errMoved = errors.New("the checkpoint has moved meanwhile")

// unmoved returns nil if the checkpoint still is the one that the stream was started from.
func (p *path) unmoved(ctx context.Context, from *checkpoint.Checkpoint) error {
	now, err := p.Store.Load(ctx)
	if err != nil {
		return err
	}
	if now == nil || now.LSN != from.LSN || now.State != from.State || now.Writer != from.Writer {
		return errMoved
	}
	return nil
}

// openGroup begins a Kafka transaction, if none is open, for what follows ev.
func (p *path) openGroup(ev *decode.Event) error {
	if !p.group.on || p.pub.InTransaction() {
		return nil
	}
	p.group.since, p.group.first, p.group.events = time.Now(), ev.Position.Commit, 0
	return p.fenced(p.aside(p.pub.Begin))
}

// wholeTransaction notes that everything up to here belongs together.
func (p *path) wholeTransaction() {
	if !p.group.on {
		return
	}
	p.group.whole, p.group.behind, p.group.torn = time.Now(), true, false
}

// groupDue is when the group has to be looked at; zero if there is no need.
func (p *path) groupDue() time.Time {
	g := &p.group
	switch open := g.on && (p.pub.InTransaction() || len(p.burst) > 0); {
	case !g.on:
		return time.Time{}
	case open && p.tx != nil:
		return g.since.Add(g.longest)
	case open:
		quiet := groupQuiet
		if p.pace.busy() { // the next ones may be waiting in the socket, see wal.Reader.Gather
			quiet += 2 * maxInterval
		}
		return later(g.whole.Add(quiet), g.ended.Add(groupPause))
	case g.behind && p.tx == nil:
		return g.ended.Add(groupIdle)
	default:
		return time.Time{}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// endGroup commits the group if it is time to.
func (p *path) endGroup() error {
	g := &p.group
	switch now := time.Now(); {
	case p.tx != nil && len(p.burst) == 0 && p.pub.InTransaction() && now.Sub(g.since) >= g.longest:
		return p.splitTransaction()
	case p.tx != nil:
		return nil
	case !p.pub.InTransaction() && len(p.burst) == 0:
		if !g.behind || (now.Sub(g.ended) < groupIdle && !p.atTarget() && !p.farBehind()) {
			return nil
		}
	case p.begun <= p.solo, p.farBehind(), g.events >= groupEvents, p.pub.InTransaction() && now.Sub(g.since) >= g.busy, !now.Before(p.groupDue()):
	default:
		return nil
	}
	return p.commitGroup()
}

// endGroupAnywhere is endGroup for rows that were there before the slot, which have no transactions to keep whole.
func (p *path) endGroupAnywhere() error {
	g := &p.group
	if !g.on || (g.events < groupEvents && time.Since(g.since) < g.longest) {
		return nil
	}
	return p.fenced(p.aside(p.commitPart))
}

// farBehind reports whether so much is read and not stored that reading would soon have to wait for it (see full).
func (p *path) farBehind() bool { return p.count >= p.store.count.Load()+p.MaxBehind/2 }

// atTarget reports whether a run that is to end has everything that it is to wait for.
func (p *path) atTarget() bool { return p.Once && p.tracker.Safe().End >= p.target }

// commitGroup commits everything that was read. No database transaction may be open.
func (p *path) commitGroup() error {
	if err := p.handOver(); err != nil {
		return err
	}
	if err := p.aside(p.commitWhole); err != nil {
		return p.fenced(err)
	}
	if p.begun > p.solo {
		p.refused = nil // they are set aside, and durably
	}
	if p.Once && p.store.confirmable() >= p.target {
		return errOnce
	}
	return nil
}

// commitWhole commits the group and stores that everything up to the last database transaction is in Kafka.
func (p *path) commitWhole(ctx context.Context) error {
	mark := p.tracker.Committed()
	return p.commitAt(ctx, mark, func() error {
		if safe := p.tracker.Safe(); safe != mark {
			return fmt.Errorf("safe is %s, and %s was to be stored", safe.End, mark.End)
		}
		return nil
	})
}

// commitPart commits what was published of a transaction that goes on.
func (p *path) commitPart(ctx context.Context) error { return p.commitAt(ctx, p.tracker.Safe(), nil) }

func (p *path) commitAt(ctx context.Context, mark checkpoint.Mark, check func() error) error {
	p.together.check = check
	defer func() { p.together.check = nil }()
	timeline, err := p.timeline(ctx) // asked behind the mark, and so holds for all of it
	if err == nil {
		err = p.store.commit(ctx, mark, timeline)
	}
	if err != nil {
		return err
	}
	p.store.cutAt(pglogrepl.LSN(p.handedCommit.Load()), p.pub.Ends())
	p.status.stored(p.store.current())
	p.group.ended, p.group.behind, p.group.events = time.Now(), false, 0
	return nil
}

// splitTransaction commits the first part of a database transaction that takes longer than a Kafka transaction may.
func (p *path) splitTransaction() error {
	if !p.group.torn {
		p.group.torn = true
		p.Log.Warn().Stringer("lsn", p.begun).Dur("open", time.Since(p.group.since)).
			Msg("a database transaction takes longer than half of transaction.timeout.ms: it is committed to Kafka in parts, and consumers see the first before the last (kafka.options: transaction.timeout.ms)")
	}
	return p.fenced(p.aside(p.commitPart))
}

// aloneInGroup publishes one event in a Kafka transaction of its own, and aborts it if Kafka refuses the event.
func (p *path) aloneInGroup(one []publish.Delivery) (refused, err error) {
	if err := p.openGroup(&one[0].Event); err != nil {
		p.abandon(one)
		return nil, err
	}
	if refused, err = p.publishOne(one); err != nil || !p.group.on {
		return refused, err
	}
	if refused != nil {
		return refused, p.aside(p.pub.Abort)
	}
	return nil, p.fenced(p.aside(p.commitPart))
}

// leaveGroup ends the term: what was read whole is committed, and what was not is aborted, to be read again.
func (p *path) leaveGroup(cause error) {
	commit := p.commitWhole
	if p.tx != nil {
		commit = p.commitPart
	}
	if (p.tx != nil && !p.store.beforeStream()) || publish.IsFenced(cause) || p.handOver() != nil {
		commit = nil
	}
	p.abandon(p.burst)
	p.burst = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), p.DrainTimeout)
	defer cancel()
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		open := p.pub.InTransaction()
		if commit != nil && p.resumed && (open || p.tracker.Safe().End > p.store.confirmable()) {
			if err := commit(ctx); err == nil {
				return
			} else if open {
				p.Log.Info().Err(err).Msg("what was published last cannot be committed; it is published again")
			}
		}
		if publish.IsFenced(cause) {
			return // whoever has fenced us has aborted it
		}
		if err := p.pub.Abort(ctx); err != nil {
			p.Log.Warn().Err(err).Msg("the open Kafka transaction is left to the next start, or to its timeout: until then consumers of committed records wait")
		}
	}()
	_ = p.hold(ctx, done) // a source that goes away now is no new problem
	<-done
}

// fenced says what an error means that comes from another's taking our transactional id.
func (p *path) fenced(err error) error {
	if !publish.IsFenced(err) || !p.group.on {
		return err
	}
	return fmt.Errorf("fenced: another process has begun to publish under transactional id %s, or the brokers have aborted a transaction that was open for longer than %s; nothing of it is visible: %w",
		p.Kafka.TransactionalID, p.Kafka.TransactionTimeout(), err)
}

// again is an error about one event that ends the term and not the relay: the next term goes about it more carefully.
type again struct{ err error }

func (a *again) Error() string { return a.err.Error() }

// apart makes the next term give each database transaction up to ev's a group of its own, if this group holds others
// beside it: they are to be published, whatever becomes of ev.
func (p *path) apart(ev *decode.Event, err error) error {
	if !p.group.on || !p.pub.InTransaction() || ev.Position.Commit <= p.group.first {
		return err
	}
	p.solo = ev.Position.Commit
	return &again{err}
}

// refusal names an event that Kafka has refused inside a group. The group was lost by that: the client cannot go on in a
// transaction of which a record has failed.
type refusal struct {
	table, id string
	position  decode.Position
}

func refusalOf(ev *decode.Event) refusal {
	r := refusal{ev.Table, ev.ID, ev.Position}
	if publish.FromTable(ev.Position.Commit) { // a row from before the slot, which are numbered anew each time
		r.position = decode.Position{}
	}
	return r
}

// check returns why the event cannot be published, as far as that is known before it is tried.
func (p *path) check(d *publish.Delivery) error {
	if err := p.pub.Check(d); err != nil || len(p.refused) == 0 {
		return err
	}
	return p.refused[refusalOf(&d.Event)]
}

// noteRefused ends the term: the next one knows of the event that it cannot be published, before it opens its group.
func (p *path) noteRefused(ev *decode.Event, reason error) error {
	if p.refused == nil {
		p.refused = map[refusal]error{}
	}
	p.refused[refusalOf(ev)] = reason
	return &again{fmt.Errorf("event %s of %s is refused by Kafka: %w", ev.ID, ev.Table, reason)}
}

// afterMessage is what the stream does about the group when it has dealt with a message.
func (p *path) afterMessage(kind wal.Kind) error {
	if !p.group.on {
		return nil
	}
	if kind == wal.Keepalive && p.tx == nil && p.tracker.Safe().End > p.store.confirmable() {
		p.group.behind = true
	}
	return p.endGroup()
}
