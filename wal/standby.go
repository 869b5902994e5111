package wal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// What is different where the source is a standby: it cannot be written to, it lags behind, and its timeline may change
// under a stream that goes on.

// remind has the primary log which transactions run, again and again, until ctx is done: a slot on a standby begins at such
// a record, and an idle primary writes none. The function that it returns says what may have been in the way, for an error.
func (c *Conn) remind(ctx context.Context) func() string {
	var mu sync.Mutex
	var last error
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		last = err
	}
	go func() { // ends with ctx, which ends with CreateSlot
		conn, err := connectSQL(ctx, c.options.adminDSN())
		if err != nil {
			note(err)
			return
		}
		defer closeSQL(conn)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for ctx.Err() == nil {
			_, err := conn.Exec(ctx, "select pg_log_standby_snapshot()")
			if ctx.Err() == nil {
				note(err)
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case last == nil:
			return " of the primary"
		case c.options.AdminDSN == "" || c.options.AdminDSN == c.options.DSN:
			return " of the primary and for its word on it, which an idle primary has to be asked for: set source.admin_dsn to the primary"
		default:
			return fmt.Sprintf(" of the primary and for its word on it, for which it could not be asked (%v; on the primary: grant execute on function pg_log_standby_snapshot() to the role of source.admin_dsn)", last)
		}
	}
}

// Flushed returns how far the log of the server at source.admin_dsn is durable, once everything that is committed there by
// now is, also with synchronous_commit off.
func (s *Setup) Flushed(ctx context.Context) (pglogrepl.LSN, error) {
	var text string
	const flushed = "select pg_current_wal_flush_lsn()::text"
	err := s.conn.QueryRow(ctx, flushed).Scan(&text)
	if sqlState(err) == "55000" {
		return 0, permanent(fmt.Errorf("source.admin_dsn leads to a standby: %w", err), "set it to the primary")
	}
	if err == nil {
		err = flush(ctx, s.conn)
	}
	if err == nil {
		err = s.conn.QueryRow(ctx, flushed).Scan(&text)
	}
	if err != nil {
		return 0, explain(fmt.Errorf("look up the end of the primary's log: %w", err))
	}
	return pglogrepl.ParseLSN(text)
}

// Endangered says why the primary may remove what a slot on this standby needs; "" if nothing is known that would let it.
func (c *Conn) Endangered(ctx context.Context) (why string, err error) {
	if !c.System.Standby {
		return "", nil
	}
	err = c.queryJSON(ctx, `select to_json(case when current_setting('hot_standby_feedback') <> 'on' then 'hot_standby_feedback is off on the standby'
		when current_setting('primary_slot_name') = '' then 'the standby has no slot on its primary (primary_slot_name)' else '' end)`, &why)
	if err != nil {
		return "", fmt.Errorf("look up the settings of the standby: %w", err)
	}
	return why, nil
}

// replayTimeout bounds how long a standby may be behind what was just written on its primary.
const replayTimeout = time.Minute

// CatchUp waits until a standby has replayed what is written on the server of setup by now, such as a new publication. It
// returns at once on a primary.
func (c *Conn) CatchUp(ctx context.Context, setup *Setup) error {
	if !c.System.Standby {
		return nil
	}
	end, err := setup.Flushed(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, replayTimeout, errors.New("the standby is behind by more than a minute, or does not follow the server of source.admin_dsn"))
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		var there bool
		err := c.queryJSON(ctx, fmt.Sprintf("select to_json(coalesce(pg_last_wal_replay_lsn() >= %s, true))", quoteLiteral(end.String())), &there)
		if err != nil || there {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until the standby has replayed %s: %w", end, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Lookout asks the server of a Conn, over connections of its own, while the Conn streams: a stream goes on without a word
// through the promotion of a standby, and past rows that the publication does not have for a while. Any goroutine may call
// its methods.
type Lookout struct {
	options Options
	at      net.Addr
	system  System
	stream  net.Conn

	mu   sync.Mutex
	conn *Conn // nil until it is asked, and after an error
}

// Lookout returns one for the server that c is connected to.
func (c *Conn) Lookout() *Lookout {
	return &Lookout{options: c.options, at: c.pg.Conn().RemoteAddr(), system: c.System, stream: c.pg.Conn()}
}

// Timeline asks a standby; that of a primary cannot change. What has come from that server until then is from the timeline
// that Timeline returns, or from an earlier one.
//
// After an error the stream of the Conn is cut: nothing that it brings could be stored or confirmed, and a server that is
// shutting down answers nobody new, and waits for the confirmation of all that it has sent.
func (l *Lookout) Timeline(ctx context.Context) (timeline int32, err error) {
	if !l.system.Standby {
		return l.system.Timeline, nil
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			_ = l.stream.Close() // it may have ended already
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		if err := l.connect(ctx); err != nil {
			return 0, fmt.Errorf("look up the standby's timeline: %w", err)
		}
	}
	sys, err := pglogrepl.IdentifySystem(ctx, l.conn.pg)
	if err != nil {
		l.close()
		return 0, fmt.Errorf("look up the standby's timeline: %w", err)
	}
	return sys.Timeline, nil
}

func (l *Lookout) connect(ctx context.Context) error {
	config, err := pgconn.ParseConfig(l.options.DSN)
	if err != nil {
		return unreadableDSN(err)
	}
	config.ValidateConnect = nil // it may be no standby any more
	conn, err := connect(ctx, l.options, config, l.at)
	if err != nil {
		return err
	}
	if conn.System.Started != l.system.Started {
		conn.Close()
		return errOtherServer
	}
	l.conn = conn
	return nil
}

var errOtherServer = errors.New("its address leads to another server than before, or it was restarted")

// Close ends the connection. It may be called on nil.
func (l *Lookout) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
}

func (l *Lookout) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}
