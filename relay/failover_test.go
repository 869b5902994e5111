package relay_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

// pair is a primary with a bench on it, and a standby that has a slot of the bench's name.
func newPair(t *testing.T) (b *bench, primary, standby *devstack.Postgres) {
	t.Helper()
	primary = stacktest.NewPostgres(t)
	if err := primary.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	b = newBenchOn(t, primary.DSN("app"))
	b.options.ResumeDedupe = true
	standby, err := primary.Standby(t.Context(), devstack.StandbyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the standby's log:\n%s", standby.Log())
		}
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, primary, standby
}

// move has the bench and its relays use another server.
func (b *bench) move(pg *devstack.Postgres) {
	b.t.Helper()
	b.dsn = pg.DSN("app")
	b.options.Source.DSN = b.dsn
	db, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = db.Close(b.t.Context()) })
	b.db = db
}

// single commits n rows, each in a transaction of its own and of another size.
func (b *bench) single(n int) {
	b.t.Helper()
	for range n {
		b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', 'k', 'placed', to_jsonb($1::text))`,
			strings.Repeat("x", rand.IntN(200))) //nolint:gosec // sizes
	}
}

// mustHaveAll checks that every row of the table has arrived, once, and returns the positions of all records.
func (b *bench) mustHaveAll(records []*kgo.Record) map[string]int {
	b.t.Helper()
	arrived, positions := map[string]int{}, map[string]int{}
	for _, r := range records {
		arrived[header(r, "id")]++
		positions[header(r, "tidemark-position")]++
	}
	rows, err := b.db.Query(b.t.Context(), "select id::text from outbox")
	if err != nil {
		b.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.t.Fatal(err)
	}
	lost, doubled := 0, 0
	for _, id := range ids {
		switch n := arrived[id]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	if lost > 0 || doubled > 0 {
		b.t.Errorf("%d of %d rows are lost, %d doubled", lost, len(ids), doubled)
	}
	return positions
}

// The standby that takes over lacks the end of the log, which was published. New transactions have positions of lost ones.
func TestEventsOfALostEndAreNotTakenForThoseThatHaveTheirPositions(t *testing.T) {
	t.Parallel()
	b, primary, standby := newPair(t)
	forgetful := &amnesia{File: b.store}
	b.options.Store = forgetful
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	b.slotOnStandby(standby)
	b.insert(10)
	b.records("outbox.event.order", 11)
	eventually(t, "the checkpoint is beyond the standby's slot, and the standby has that", func() bool {
		c, err := b.store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b.onStandby(standby, `select coalesce(bool_and(confirmed_flush_lsn < $1::pg_lsn), false) and pg_last_wal_replay_lsn() >= $1::pg_lsn from pg_replication_slots`, c.LSN.String())
	})
	forgetful.on.Store(true) // what comes now is published and not stored
	b.insert(10)             // and of that the standby has this
	b.records("outbox.event.order", 21)
	var end string
	if err := b.db.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby has it", func() bool { return b.onStandby(standby, "select pg_last_wal_replay_lsn() >= $1::pg_lsn", end) })
	if err := standby.Stop(devstack.StopFast); err != nil {
		t.Fatal(err)
	}
	const lost, fresh = 1500, 1500
	b.single(lost)
	b.records("outbox.event.order", 21+lost)
	r.stop()
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Restart(t.Context(), devstack.StopFast); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.move(standby)
	b.single(fresh)

	r = b.start() // it publishes, and stores no LSN
	positions := b.mustHaveAll(b.records("outbox.event.order", 21+lost+fresh))
	same := 0
	for _, n := range positions {
		if n > 1 {
			same++
		}
	}
	t.Logf("%d positions are those of two events", same)
	if same == 0 {
		t.Error("no position was used again: this has shown nothing")
	}
	r.stop()
	if c, err := b.store.Load(t.Context()); err != nil || c.Timeline != 2 || len(c.Forks) != 1 {
		t.Errorf("the checkpoint is %+v, %v; want timeline 2 and a fork", c, err)
	}
	forgetful.on.Store(false)
	r = b.start() // the next one knows what is of the new timeline
	b.single(10)
	b.mustHaveAll(b.records("outbox.event.order", 21+lost+fresh+10))
	r.stop()
	if c, err := b.store.Load(t.Context()); err != nil || len(c.Forks) != 0 {
		t.Errorf("the checkpoint is %+v, %v; want no fork any more", c, err)
	}
}

// slotOnStandby makes a slot on the standby that serves as a synced one would.
func (b *bench) slotOnStandby(standby *devstack.Postgres) {
	b.t.Helper()
	o := b.options.Source
	o.DSN, o.AdminDSN = standby.DSN("app"), b.dsn
	conn, err := wal.Connect(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := conn.CreateSlot(b.t.Context(), false); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) onStandby(standby *devstack.Postgres, sql string, args ...any) (yes bool) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), standby.DSN("app"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(b.t.Context()) //nolint:errcheck // read only
	if err := conn.QueryRow(b.t.Context(), sql, args...).Scan(&yes); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return yes
}

// The source is a standby, which is promoted while it is read from: the checkpoint goes over to the new timeline, and what
// is beyond the switch is no lost end.
func TestStandbyIsPromotedUnderTheRelay(t *testing.T) {
	t.Parallel()
	b, primary, standby := newPair(t)
	b.insert(20) // there before the slot
	b.options.Source.DSN, b.options.Source.AdminDSN = standby.DSN("app"), primary.DSN("app")
	r := b.start()
	b.records("outbox.event.order", 20)
	b.insert(20)
	b.records("outbox.event.order", 40)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.move(standby)
	b.options.Source.AdminDSN = ""
	b.insert(20)
	b.records("outbox.event.order", 60)
	eventually(t, "the checkpoint is on the new timeline", func() bool {
		c, err := b.store.Load(t.Context())
		return err == nil && c.Timeline == 2 && len(c.Forks) == 0
	})
	eventually(t, "it streams", func() bool { return r.relay.Status().State == relay.Streaming })
	r.stop()
	r = b.start()
	b.insert(20)
	mustArriveInOrder(t, b.records("outbox.event.order", 80))
	r.stop()
}
