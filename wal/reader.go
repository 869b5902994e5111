package wal

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Kind says what Receive brought.
type Kind uint8

const (
	// Quiet: nothing came until the time that the caller gave.
	Quiet Kind = iota
	// Data: Message.Data is a pgoutput message.
	Data
	// Keepalive: the server has sent everything before Message.WALEnd.
	Keepalive
)

// Message is what the stream brought.
type Message struct {
	Kind   Kind
	Data   []byte        // borrowed until the next call of Receive
	WALEnd pglogrepl.LSN // of a keepalive
}

// Reader streams from the slot. One goroutine calls its methods, and nothing else touches the connection. Every call sends the status when it is due. A caller that stands still must stand in Hold.
type Reader struct {
	conn      *Conn
	net       net.Conn
	confirmed func() pglogrepl.LSN // what a status tells, see Start

	statusInterval time.Duration
	silence        time.Duration // how long the server may say nothing
	nextStatus     time.Time
	heard          bool      // something came since the clock was last looked at
	lastHeard      time.Time // as of the last look
	asked          bool      // a status that requests a reply has been sent since lastHeard
	armed          time.Time // the read deadline that is set
	lowWater       int       // how many bytes wake a read that waits; 1 is any

	large *pgproto3.CopyData // the last message, if it was a large one
}

// largeMessage is from which size on the buffer of a message is worth giving back.
const largeMessage = 1 << 20

// Start begins streaming from start, which must not be before the slot's confirmed position: Postgres would silently
// begin at the latter. The Conn belongs to the Reader from then on.
//
// Each status tells the server what confirmed returns: everything before it may be thrown away, so it must have been
// stored. It is never zero and never goes back.
func (c *Conn) Start(ctx context.Context, start pglogrepl.LSN, confirmed func() pglogrepl.LSN) (*Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	timeout, err := c.limitSenderTimeout(ctx)
	if err != nil {
		return nil, err
	}
	plugin := []string{
		// Version 1: the server spools large transactions and streams them after their commit. From version 2 on,
		// that memory would be the relay's.
		"proto_version '1'",
		"publication_names " + quoteLiteral(quoteIdentifier(c.options.Publication)),
	}
	if c.messages {
		plugin = append(plugin, "messages 'true'")
	}
	err = pglogrepl.StartReplication(ctx, c.pg, quoteIdentifier(c.options.Slot), start, pglogrepl.StartReplicationOptions{PluginArgs: plugin})
	if err != nil {
		return nil, explain(fmt.Errorf("start streaming from slot %s at %s: %w", c.options.Slot, start, err))
	}
	now := time.Now()
	interval := min(c.options.StatusInterval, timeout/3) // well within wal_sender_timeout, whatever was configured
	r := &Reader{
		conn: c, net: c.pg.Conn(), confirmed: confirmed,
		statusInterval: interval, silence: max(2*timeout, minSilence),
		lastHeard: now, nextStatus: now.Add(interval), lowWater: 1,
	}
	return r, r.arm(r.wake(now))
}

// WithMessages has Start ask for logical messages, of every prefix: pgoutput knows no choice.
func (c *Conn) WithMessages() error {
	if c.System.Version < MessagesSince {
		return permanent(fmt.Errorf("messages are configured, and this is Postgres %d: its pgoutput sends none", c.System.Version/10000),
			"upgrade to 14 or later, or write to an outbox table and remove messages from the configuration")
	}
	c.messages = true
	return nil
}

// MessagesSince is the first version whose pgoutput sends logical messages.
const MessagesSince = 140000

// minSilence bounds from below how long the server may say nothing: it answers a request for a reply even while it
// decodes a large transaction, but not while its disk stalls. While it decodes one that holds nothing for us, it looks
// for requests only every half wal_sender_timeout, so it is asked well before that.
const minSilence = 10 * time.Second

// senderTimeout is how long the server may hold the slot for a client that says nothing more: so long does the hot standby
// of one whose host has vanished have to wait.
const senderTimeout = 8 * time.Second

// limitSenderTimeout sees to it that wal_sender_timeout is no longer than that for this connection, and returns it.
func (c *Conn) limitSenderTimeout(ctx context.Context) (time.Duration, error) {
	var ms int64
	err := c.queryJSON(ctx, "select to_json(setting::bigint) from pg_settings where name = 'wal_sender_timeout'", &ms)
	if err != nil {
		return 0, fmt.Errorf("look up wal_sender_timeout: %w", err)
	}
	if set := time.Duration(ms) * time.Millisecond; set > 0 && set <= senderTimeout {
		return set, nil
	}
	_, err = c.pg.Exec(ctx, fmt.Sprintf("set wal_sender_timeout = %d", senderTimeout.Milliseconds())).ReadAll()
	if err != nil {
		return 0, explain(fmt.Errorf("set wal_sender_timeout: %w", err))
	}
	return senderTimeout, nil
}

// Receive returns the next message, or a Quiet one when until has passed; a zero until is no limit. An error ends the
// Reader; IsConnectionLost tells whether a new connection may go on.
//
// A message that is already here costs no look at the clock: the socket's read deadline, an absolute time, is what
// brings Receive back for the status, for until and for the caller's context.
func (r *Reader) Receive(ctx context.Context, until time.Time) (Message, error) {
	if err := r.wakeAt(1); err != nil {
		return Message{}, err
	}
	return r.receive(ctx, until)
}

// Gather is Receive for when messages come quickly: it may leave them in the socket until they are many or until has
// passed, so that neither side pays for a waking a message. What has come by then, the calls that follow return. Without
// an until it is Receive.
//
// The walsender sends each message on its own. Where its reader waits for every one of them, each costs the server's
// kernel the waking of another process, which takes longer than the message.
func (r *Reader) Gather(ctx context.Context, until time.Time) (Message, error) {
	if until.IsZero() {
		return r.Receive(ctx, until)
	}
	if err := r.wakeAt(gatherBytes); err != nil {
		return Message{}, err
	}
	return r.receive(ctx, until)
}

// gatherBytes is how much Gather lets pile up: some tens of rows, and a fraction of what a socket holds.
const gatherBytes = 16 << 10

// wakeAt sets how many bytes wake a read that waits. A read that does not wait takes what is there.
func (r *Reader) wakeAt(bytes int) error {
	if r.lowWater == bytes {
		return nil
	}
	r.lowWater = bytes
	socket, ok := r.conn.socket.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return lost(fmt.Errorf("receive from the source: %w", err))
	}
	return setLowWater(raw, bytes)
}

func (r *Reader) receive(ctx context.Context, until time.Time) (Message, error) {
	if !until.IsZero() && until.Before(r.armed) {
		if err := r.arm(until); err != nil {
			return Message{}, err
		}
	}
	r.large = nil
	for {
		msg, err := r.conn.pg.Frontend().Receive()
		if err == nil {
			m, ok, err := r.handle(msg)
			if ok || err != nil {
				return m, err
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return Message{}, lost(fmt.Errorf("receive from the source: %w", err))
		}
		if ctx.Err() != nil {
			return Message{}, ctx.Err()
		}
		now := time.Now()
		if err := r.keepAlive(now); err != nil {
			return Message{}, err
		}
		deadline := r.wake(now)
		quiet := !until.IsZero() && !now.Before(until)
		if !quiet && !until.IsZero() && until.Before(deadline) {
			deadline = until
		}
		if err := r.arm(deadline); err != nil {
			return Message{}, err
		}
		if quiet {
			return Message{Kind: Quiet}, nil
		}
	}
}

// letGo gives back the buffer of the last message, which is not needed any more, if it was a large one. pgproto3 does that
// when it begins to read the next one, and a row of 50 MB may be under way to Kafka for long before that.
func (r *Reader) letGo() {
	if r.large == nil {
		return
	}
	r.large.Data, r.large = nil, nil
	r.conn.valve.shut = true
	_, _ = r.conn.pg.Frontend().Receive() // nothing and an error, as the valve is shut
	r.conn.valve.shut = false
}

// valve stands between the protocol and the connection. Shut, it lets a read end before it has begun.
type valve struct {
	io.Reader
	shut bool
}

func (v *valve) frontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	v.Reader = bufio.NewReaderSize(r, readBuffer)
	return pgproto3.NewFrontend(v, w)
}

func (v *valve) Read(b []byte) (int, error) {
	if v.shut {
		return 0, os.ErrDeadlineExceeded
	}
	return v.Reader.Read(b)
}

// Hold waits for done (or ctx), sending the status meanwhile and reading nothing: the server keeps what it has not
// sent. This is where the reading goroutine stands while everything behind it stands still.
func (r *Reader) Hold(ctx context.Context, done <-chan struct{}) error {
	r.letGo()
	ticker := time.NewTicker(min(r.statusInterval, pollInterval))
	defer ticker.Stop()
	for {
		// Also at the beginning: who comes back again and again, each time for less than a tick, is due as well.
		if now := time.Now(); !now.Before(r.nextStatus) {
			if err := r.sendStatus(now, false); err != nil {
				return err
			}
		}
		select {
		case <-done:
			r.heard = true // the silence was ours
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// Close sends the confirmed position a last time, so that a restart has less to read again, and ends the connection.
// Nothing depends on its success.
func (r *Reader) Close() {
	_ = r.sendStatus(time.Now(), false)
	r.conn.Close()
}

// wake is when a Receive that waits must come back: for the status, and to notice that its context is done.
func (r *Reader) wake(now time.Time) time.Time {
	if limit := now.Add(pollInterval); limit.Before(r.nextStatus) {
		return limit
	}
	return r.nextStatus
}

// pollInterval is how soon a waiting Receive notices that its context is done.
const pollInterval = 100 * time.Millisecond

func (r *Reader) arm(deadline time.Time) error {
	r.armed = deadline
	if err := r.net.SetReadDeadline(deadline); err != nil {
		return lost(fmt.Errorf("receive from the source: %w", err))
	}
	return nil
}

// keepAlive sends the status when it is due, asks a silent server for a reply, and gives a dead one up: a peer that is
// frozen looks exactly like one that has nothing to say.
func (r *Reader) keepAlive(now time.Time) error {
	if r.heard {
		r.heard, r.asked, r.lastHeard = false, false, now
	}
	silent := now.Sub(r.lastHeard)
	if silent > r.silence {
		return lost(fmt.Errorf("receive from the source: no word for %s, not even after asking", silent.Round(time.Second)))
	}
	ask := silent > r.silence/3 && !r.asked
	if ask || !now.Before(r.nextStatus) {
		return r.sendStatus(now, ask)
	}
	return nil
}

// Ask makes the next status request a reply, so that the server tells at once how far it has sent.
func (r *Reader) Ask() error { return r.sendStatus(time.Now(), true) }

func (r *Reader) sendStatus(now time.Time, ask bool) error {
	lsn := r.confirmed()
	if err := r.net.SetWriteDeadline(now.Add(r.silence)); err != nil {
		return lost(fmt.Errorf("confirm %s: %w", lsn, err))
	}
	// All three positions are the same: pglogrepl would turn a zero flush position into the write position, and a
	// write position that runs ahead keeps the server from sending the keepalives that move an idle slot.
	status := pglogrepl.StandbyStatusUpdate{
		WALWritePosition: lsn, WALFlushPosition: lsn, WALApplyPosition: lsn, ClientTime: now, ReplyRequested: ask,
	}
	//nolint:forbidigo // pglogrepl ignores the context; the deadline above is what bounds it
	if err := pglogrepl.SendStandbyStatusUpdate(context.Background(), r.conn.pg, status); err != nil {
		return lost(fmt.Errorf("confirm %s: %w", lsn, err))
	}
	r.nextStatus = now.Add(r.statusInterval)
	r.asked = r.asked || ask
	return nil
}

// handle reads one protocol message. ok is false if it is not for the caller.
func (r *Reader) handle(msg pgproto3.BackendMessage) (m Message, ok bool, err error) {
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		if len(msg.Data) >= largeMessage {
			r.large = msg
		}
		return r.handleCopyData(msg.Data)
	case *pgproto3.ErrorResponse:
		if msg.Code == "42704" && r.names(msg.Message) {
			return Message{}, false, r.gap()
		}
		pgErr := pgconn.ErrorResponseToPgError(msg)
		return Message{}, false, lost(explain(fmt.Errorf("stream from slot %s: %w", r.conn.options.Slot, pgErr)))
	case *pgproto3.NoticeResponse:
		if msg.Code == "55000" && r.names(msg.Message) {
			return Message{}, false, r.gap()
		}
		return Message{}, false, nil
	case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return Message{}, false, lost(fmt.Errorf("stream from slot %s: the server ended it", r.conn.options.Slot))
	case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		return Message{}, false, nil
	default:
		return Message{}, false, fmt.Errorf("stream from slot %s: unexpected protocol message %T", r.conn.options.Slot, msg)
	}
}

// gap is the error when the server says that there was no such publication at this point of the log. Up to version 17 it
// says so with an error (undefined_object), from 18 on with a warning (object_not_in_prerequisite_state), and then goes
// on, leaving out every row until the publication is there. Trying again meets the same place in the log, whether or not
// the publication is there by now.
func (r *Reader) gap() error {
	return &errPermanent{
		refused: true, err: fmt.Errorf("stream from slot %s: a part of the log was written while publication %s did not exist, and rows that were inserted then are not in the stream",
			r.conn.options.Slot, r.conn.options.Publication),
		hint: "see that it exists (tidemark init creates it), create the slot anew with tidemark init --recreate-slot; what was committed in between is in the outbox table and may be missing in Kafka: tidemark verify --repair publishes it",
	}
}

// names reports whether text, which is in the server's language, names the publication.
func (r *Reader) names(text string) bool {
	word := func(c rune) bool { return c == '_' || unicode.IsLetter(c) || unicode.IsDigit(c) }
	for {
		before, after, found := strings.Cut(text, r.conn.options.Publication)
		if !found || r.conn.options.Publication == "" {
			return false
		}
		left, _ := utf8.DecodeLastRuneInString(before)
		right, _ := utf8.DecodeRuneInString(after)
		if !word(left) && !word(right) {
			return true
		}
		text = after
	}
}

// handleCopyData reads the envelope of the stream.
// (https://www.postgresql.org/docs/current/protocol-replication.html: XLogData, Primary keepalive message)
func (r *Reader) handleCopyData(data []byte) (m Message, ok bool, err error) {
	const xlogDataHeader, keepaliveLen = 1 + 8 + 8 + 8, 1 + 8 + 8 + 1
	r.heard = true
	switch {
	case len(data) >= xlogDataHeader && data[0] == pglogrepl.XLogDataByteID:
		return Message{Kind: Data, Data: data[xlogDataHeader:]}, true, nil
	case len(data) == keepaliveLen && data[0] == pglogrepl.PrimaryKeepaliveMessageByteID:
		if data[keepaliveLen-1] != 0 { // it wants a reply at once
			if err := r.sendStatus(time.Now(), false); err != nil {
				return Message{}, false, err
			}
		}
		return Message{Kind: Keepalive, WALEnd: pglogrepl.LSN(binary.BigEndian.Uint64(data[1:]))}, true, nil
	default:
		return Message{}, false, fmt.Errorf("stream from slot %s: malformed message of %d bytes", r.conn.options.Slot, len(data))
	}
}

// errLost marks the end of a connection that a new one may follow.
type errLost struct{ err error }

func (e *errLost) Error() string { return e.err.Error() }
func (e *errLost) Unwrap() error { return e.err }

func lost(err error) error { return &errLost{err} }

// IsConnectionLost reports whether err ended a Reader in a way that a new connection may get over, unless IsPermanent
// says that it will not.
func IsConnectionLost(err error) bool {
	_, ok := errors.AsType[*errLost](err)
	return ok
}
