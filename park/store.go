package park

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
)

// Store is the table of parked events, as far as it is about one source. Any goroutine may call it; calls come one after
// the other. It holds one connection. When that breaks, the call that notices returns the error, and the next one
// connects anew: a caller just tries again. Every method may be repeated after an error, when it is not known whether it
// has taken effect.
type Store struct {
	dsn      string
	source   string
	create   bool
	begin    string // begins a transaction that has the source to itself
	dueBytes int64

	busy   chan struct{} // holds a token while a call has what is below
	conn   *pgx.Conn     // nil, or perhaps closed
	role   string        // who is connected, for advice
	ascii  bool          // the database cannot hold all of Unicode
	seen   bool          // the table is known to have been there
	closed bool
}

const (
	connectLimit = 15 * time.Second
	callLimit    = 90 * time.Second
	// dueBytes is how much one Due returns, unless its first event alone is larger.
	dueBytes = 4 << 20
)

// Open connects, and creates the table where it is missing. The dsn is source.admin_dsn, source the text of the header
// tidemark-source; events of other sources are not touched.
func Open(ctx context.Context, dsn, source string) (*Store, error) {
	return open(ctx, dsn, source, true)
}

// OpenExisting is Open for those who only look: without a table it fails, and IsNoTable is true of the error.
func OpenExisting(ctx context.Context, dsn, source string) (*Store, error) {
	return open(ctx, dsn, source, false)
}

func open(ctx context.Context, dsn, source string, create bool) (*Store, error) {
	hash := sha256.Sum256([]byte("tidemark parked " + source))
	lock := int64(binary.BigEndian.Uint64(hash[:])) //nolint:gosec // any number will do
	s := &Store{
		dsn: dsn, source: source, create: create, dueBytes: dueBytes, busy: make(chan struct{}, 1),
		// Read committed, so that what follows sees what was committed while it waited for the lock.
		begin: fmt.Sprintf("begin isolation level read committed read write; select pg_advisory_xact_lock(%d)", lock),
	}
	if err := s.call(ctx, "open the table of parked events", func(context.Context, *pgx.Conn) error { return nil }); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the connection, after the call that is under way. Later calls fail.
func (s *Store) Close() {
	s.busy <- struct{}{}
	defer func() { <-s.busy }()
	s.closed = true
	s.disconnect()
}

func (s *Store) disconnect() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // closing must not depend on what was cancelled
	defer cancel()
	_ = s.conn.Close(ctx) // nothing depends on a farewell
	s.conn = nil
}

var errClosed = errors.New("it is closed")

// call gives work the connection.
func (s *Store) call(ctx context.Context, doing string, work func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	defer func() { <-s.busy }()
	if s.closed {
		return fmt.Errorf("%s: %w", doing, errClosed)
	}
	if s.conn == nil || s.conn.IsClosed() {
		if err := s.connect(ctx); err != nil {
			s.disconnect()
			return s.explain(doing, err)
		}
	}
	err := work(ctx, s.conn)
	switch state := sqlState(err); {
	case state == "42P01", state == "42703": // the next call shall look at the table before it goes on
		s.disconnect()
	case s.conn.PgConn().TxStatus() != 'I': // a failed begin is not rolled back
		s.disconnect()
	}
	return s.explain(doing, err)
}

// write gives work a transaction that no other change to this source's events overlaps. It is durable when write returns
// nil.
func (s *Store) write(ctx context.Context, doing string, work func(context.Context, pgx.Tx) error) error {
	return s.call(ctx, doing, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: s.begin}, func(tx pgx.Tx) error { return work(ctx, tx) })
	})
}

func (s *Store) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	config, err := pgx.ParseConfig(s.dsn)
	if err != nil {
		return &failure{permanent, fmt.Errorf("read source.admin_dsn: %w", err), "write it as postgres://user:password@host:5432/database"}
	}
	s.role = config.User
	maps.Copy(config.RuntimeParams, map[string]string{
		"application_name":   "tidemark",
		"client_encoding":    "UTF8",
		"synchronous_commit": "on", // what is parked counts as done, whatever the database thinks of losing commits
		"lock_timeout":       "10s",
		"statement_timeout":  "60s",
		// A relay that is frozen inside a transaction must not hold up its successor.
		"idle_in_transaction_session_timeout": "60s",
	})
	config.DialFunc = (&net.Dialer{
		// A host that vanished without a word is noticed by the kernel within half a minute.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}).DialContext
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err // pgx has taken the password out of it
	}
	s.conn = conn
	s.ascii = conn.PgConn().ParameterStatus("server_encoding") != "UTF8"
	if err := s.checkTable(ctx, conn); err != nil {
		return err
	}
	if s.create { // this is the relay: what goes on from here must not depend on who has edited the table meanwhile
		return s.mend(ctx, conn)
	}
	return nil
}

// mend restores what promote keeps up, where rows were deleted by hand: their followers would wait for ever.
func (s *Store) mend(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: s.begin}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, mendSQL, s.text(s.source)); err != nil {
			return fmt.Errorf("look for events that wait behind nothing: %w", err)
		}
		return nil
	})
}
