package park

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

const testSource = "7400000000000000000/shop/tidemark"

// server is what the tests run against: the newest Postgres, or TIDEMARK_TEST_POSTGRES.
func server() devstack.PostgresOptions {
	return devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")}
}

// openNew opens a store of a new database.
func openNew(t *testing.T) (s *Store, dsn string) {
	t.Helper()
	dsn = stacktest.Database(t, server())
	return openAt(t, dsn, testSource), dsn
}

func openAt(t *testing.T, dsn, source string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dsn, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sql runs statements in a session of their own.
func sql(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn := session(t, dsn)
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func session(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func at(n int) decode.Position { return decode.Position{Commit: 0x1_0000_0000, Index: uint32(n)} }

// poison is an event that cannot be published, the n-th of the log.
func poison(n int, key string) Event {
	return Event{
		Reason: fmt.Sprintf("reason %d", n),
		Event: decode.Event{
			Position: at(n), CommitTime: time.Date(2026, 3, 1, 12, 0, n, 123456000, time.UTC), Table: "public.outbox", ID: fmt.Sprintf("id-%d", n),
			Topic: "orders", Key: []byte(key), Value: []byte("value"), Partition: decode.AnyPartition,
			Timestamp: time.Date(2026, 3, 1, 12, 0, n, 0, time.UTC),
		},
	}
}

// behind is an event that waits behind a parked one of its key.
func behind(n int, key string) Event {
	e := poison(n, key)
	e.Behind, e.Reason = true, ""
	return e
}

func mustPark(t *testing.T, s *Store, events ...Event) {
	t.Helper()
	if err := s.Park(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

// must fails the test if a step returned an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func due(t *testing.T, s *Store, limit int) []Event {
	t.Helper()
	events, err := s.Due(t.Context(), limit)
	must(t, err)
	return events
}

// mustBeDue checks which events are due, by their numbers in the log.
func mustBeDue(t *testing.T, s *Store, want ...int) {
	t.Helper()
	got := []int{}
	for _, e := range due(t, s, 1000) {
		got = append(got, int(e.Event.Position.Index))
	}
	if want == nil {
		want = []int{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("due are %v, want %v", got, want)
	}
}

func show(t *testing.T, s *Store, id string) Event {
	t.Helper()
	events, err := s.Show(t.Context(), id)
	must(t, err)
	if len(events) != 1 {
		t.Fatalf("%d events have the id %s", len(events), id)
	}
	return events[0]
}

func count(t *testing.T, s *Store) int64 {
	t.Helper()
	n, err := s.Count(t.Context())
	must(t, err)
	return n
}

func contextFor(t *testing.T, limit time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), limit)
}

func nothing(context.Context, *pgx.Conn) error { return nil }

// contextOutliving is for clean-ups, where the test's own context has ended.
func contextOutliving(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func sessionOutliving(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(contextOutliving(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
