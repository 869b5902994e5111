package wal

import (
	"context"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

// server is what the tests run against: the newest Postgres, or TIDEMARK_TEST_POSTGRES.
func server() devstack.PostgresOptions {
	return devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")}
}

const outboxTable = `create table outbox (
	id bigint generated always as identity primary key, aggregatetype text not null default 'order',
	aggregateid text not null default 'k', type text not null default 'placed', payload text)`

// source is a database with an outbox table, and a connection to write to it with.
type source struct {
	t       *testing.T
	db      *pgx.Conn
	options Options
}

// newSource makes a database on the shared server.
func newSource(t *testing.T) *source {
	t.Helper()
	return openSource(t, stacktest.Database(t, server()))
}

// ownSource starts a server for this test alone.
func ownSource(t *testing.T, settings map[string]string) (*source, *devstack.Postgres) {
	t.Helper()
	o := server()
	o.Settings = settings
	pg := stacktest.NewPostgres(t, o)
	if err := pg.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	return openSource(t, pg.DSN("app")), pg
}

func openSource(t *testing.T, dsn string) *source {
	t.Helper()
	s := &source{t: t, db: connectDB(t, dsn)}
	s.options = Options{
		DSN: dsn, Slot: s.db.Config().Database, Publication: "tidemark", Tables: []string{"public.outbox"},
		StatusInterval: 50 * time.Millisecond,
	}
	s.exec(outboxTable)
	return s
}

func connectDB(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	return db
}

func (s *source) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the only value of a query as text.
func (s *source) query(sql string, args ...any) string {
	s.t.Helper()
	var text *string
	if err := s.db.QueryRow(s.t.Context(), "select ("+sql+")::text", args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	if text == nil {
		return ""
	}
	return *text
}

func (s *source) lsn(sql string, args ...any) pglogrepl.LSN {
	s.t.Helper()
	text := s.query(sql, args...)
	if text == "" {
		return 0
	}
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return lsn
}

// slotConfirmed is what the server has been told.
func (s *source) slotConfirmed() pglogrepl.LSN {
	s.t.Helper()
	return s.lsn("select confirmed_flush_lsn from pg_replication_slots where slot_name = $1", s.options.Slot)
}

func (s *source) connect() *Conn {
	s.t.Helper()
	c, err := Connect(s.t.Context(), s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// createSlot makes publication and slot, and returns the connection with where the slot begins.
func (s *source) createSlot() (*Conn, pglogrepl.LSN) {
	s.t.Helper()
	if err := CreatePublication(s.t.Context(), s.options); err != nil {
		s.t.Fatal(err)
	}
	c := s.connect()
	start, _, err := c.CreateSlot(s.t.Context(), false)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, start
}

// stream is a Reader with what it is to confirm.
type stream struct {
	*Reader
	t         *testing.T
	start     pglogrepl.LSN
	confirmed atomic.Uint64
	rows      int // that mustBe has seen
}

func (s *source) stream() *stream {
	s.t.Helper()
	c, start := s.createSlot()
	return s.startAt(c, start)
}

func (s *source) startAt(c *Conn, start pglogrepl.LSN) *stream {
	s.t.Helper()
	st := &stream{t: s.t, start: start}
	st.confirmed.Store(uint64(start))
	r, err := c.Start(s.t.Context(), start, func() pglogrepl.LSN { return pglogrepl.LSN(st.confirmed.Load()) })
	if err != nil {
		s.t.Fatal(err)
	}
	st.Reader = r
	return st
}

// meanwhile does work that may take longer than the server waits for a word of the reader.
func (st *stream) meanwhile(work func()) {
	st.t.Helper()
	done := make(chan struct{})
	go func() { // ends with the work
		defer close(done)
		work()
	}()
	if err := st.Hold(st.t.Context(), done); err != nil {
		st.t.Fatal(err)
	}
}

// dropSlot drops the slot as soon as its walsender has noticed that nobody listens.
func (s *source) dropSlot() {
	s.t.Helper()
	eventually(s.t, "the slot can be dropped", func() bool {
		_, err := s.db.Exec(s.t.Context(), "select pg_drop_replication_slot($1)", s.options.Slot)
		return err == nil
	})
}

// next returns the next message that is not a keepalive.
func (st *stream) next() []byte {
	st.t.Helper()
	until := time.Now().Add(2 * time.Minute)
	for {
		m, err := st.Receive(st.t.Context(), until)
		if err != nil {
			st.t.Fatal(err)
		}
		switch m.Kind {
		case Data:
			return m.Data
		case Quiet:
			st.t.Fatal("nothing comes")
		case Keepalive:
		}
	}
}

// transaction reads up to the next commit, and returns the types of the messages with the end of the commit.
func (st *stream) transaction() (kinds string, end pglogrepl.LSN) {
	st.t.Helper()
	var b strings.Builder
	for {
		data := st.next()
		b.WriteByte(data[0])
		if data[0] == 'C' { // Int8 flags, Int64 LSN, Int64 end LSN
			return b.String(), pglogrepl.LSN(uint64At(data, 1+1+8))
		}
	}
}

func uint64At(b []byte, at int) (n uint64) {
	for _, c := range b[at : at+8] {
		n = n<<8 | uint64(c)
	}
	return n
}

// with returns the DSN with one of its parameters set.
func with(t *testing.T, dsn, key, value string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

// as returns the DSN for another user.
func as(t *testing.T, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// eventually waits for what must come, for as long as a slow machine may need.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
