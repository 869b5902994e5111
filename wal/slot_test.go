package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

func TestSlotIsNilWhenThereIsNone(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	for _, name := range []string{"none_of_that_name", "it's none", `a\`, ""} {
		s.options.Slot = name
		if slot, err := s.connect().Slot(t.Context()); slot != nil || err != nil {
			t.Errorf("%q: %+v, %v", name, slot, err)
		}
	}
}

func TestSlotShowsWhatTheServerShows(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	failover := s.version() >= 170000
	if err := CreatePublication(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	creator := s.connect()
	start, _, err := creator.CreateSlot(t.Context(), failover)
	if err != nil {
		t.Fatal(err)
	}
	asking := s.connect()
	slot, err := asking.Slot(t.Context())
	if err != nil || slot == nil {
		t.Fatalf("Slot() = %+v, %v", slot, err)
	}
	of := func(column string) string {
		return s.query("select "+column+" from pg_replication_slots where slot_name = $1", s.options.Slot)
	}
	want := Slot{
		Name: s.options.Slot, Plugin: "pgoutput", Type: "logical", Database: s.query("select current_database()"),
		RestartLSN: of("restart_lsn"), ConfirmedFlushLSN: start.String(), WALStatus: "reserved", Failover: failover,
	}
	if *slot != want {
		t.Errorf("Slot() = %+v\nwant     %+v", *slot, want)
	}
	if at, err := slot.Confirmed(); err != nil || at != start {
		t.Errorf("Confirmed() = %s, %v, want %s", at, err, start)
	}
	s.startAt(creator, start)
	if slot, err = asking.Slot(t.Context()); err != nil || !slot.Active || fmt.Sprint(slot.ActivePID) != of("active_pid") {
		t.Errorf("while it streams: %+v, %v, want active by %s", slot, err, of("active_pid"))
	}
}

func TestSlotOfAnotherKind(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.options.Slot += "_physical"
	s.exec("select pg_create_physical_replication_slot($1)", s.options.Slot)
	t.Cleanup(func() { // the database does not take it along
		_, _ = s.db.Exec(context.Background(), "select pg_drop_replication_slot($1)", s.options.Slot)
	})
	slot, err := s.connect().Slot(t.Context())
	if err != nil || slot == nil || slot.Type != "physical" || slot.Plugin != "" || slot.Database != "" {
		t.Fatalf("Slot() = %+v, %v", slot, err)
	}
	if at, err := slot.Confirmed(); at != 0 || err != nil {
		t.Errorf("Confirmed() = %s, %v", at, err)
	}
}

func TestSlotKnowsThatItIsLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		slot   Slot
		reason string
	}{
		"reserved":               {Slot{WALStatus: "reserved"}, ""},
		"extended":               {Slot{WALStatus: "extended"}, ""},
		"unreserved":             {Slot{WALStatus: "unreserved"}, ""}, // in danger, and still there
		"16 lost":                {Slot{WALStatus: "lost"}, "wal_removed"},
		"16 lost, too":           {Slot{WALStatus: "lost", Conflicting: true}, "wal_removed"},
		"16 conflicting":         {Slot{WALStatus: "lost", Conflicting: true, RestartLSN: "0/1500000"}, "conflicting"},
		"17 wal_removed":         {Slot{WALStatus: "lost", InvalidationReason: "wal_removed"}, "wal_removed"},
		"17 rows_removed":        {Slot{WALStatus: "reserved", Conflicting: true, InvalidationReason: "rows_removed"}, "rows_removed"},
		"17 wal_level":           {Slot{InvalidationReason: "wal_level_insufficient"}, "wal_level_insufficient"},
		"18 idle_timeout":        {Slot{WALStatus: "lost", InvalidationReason: "idle_timeout"}, "idle_timeout"},
		"not there for a moment": {Slot{}, ""},
	} {
		reason, lost := c.slot.Lost()
		if lost != (c.reason != "") || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: Lost() = %q, %v, want %q", name, reason, lost, c.reason)
		}
	}
}

func TestSlotThatARealServerHasLost(t *testing.T) {
	t.Parallel()
	s, _ := ownSource(t, map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})
	c, start := s.createSlot()
	c.Close()
	asking := s.connect()
	eventually(t, "the slot is lost", func() bool {
		s.exec("insert into outbox default values")
		s.exec("select pg_switch_wal()")
		s.exec("checkpoint")
		slot, err := asking.Slot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		reason, lost := slot.Lost()
		if lost && reason != "wal_removed" {
			t.Errorf("the reason is %q", reason)
		}
		return lost
	})
	if _, err := s.connect().Start(t.Context(), start, func() pglogrepl.LSN { return start }); err == nil {
		t.Error("a lost slot streams")
	} else if IsSlotActive(err) || IsSlotMissing(err) {
		t.Errorf("Start: %v is taken for something else", err)
	}
}

// A snapshot that is exported has no room for many transactions that were rolled back while Postgres looked for its point:
// that passes.
func TestSlotIsCreatedAlthoughManyTransactionsAreRolledBack(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	write := func() pgx.Tx { // and stay open
		tx, err := connectDB(t, s.options.DSN).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "insert into outbox default values"); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	commit := func(tx pgx.Tx) {
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	created := make(chan error, 1)
	waits := func(xid string) {
		t.Helper()
		eventually(t, "the slot's creation waits for the transaction", func() bool {
			return len(created) > 0 || s.query(`select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid)
				where not l.granted and l.transactionid::text = $1 and a.query like 'CREATE_REPLICATION_SLOT%' || $2 || '%'`, xid, s.options.Slot) == "true"
		})
	}
	xid := func(tx pgx.Tx) (id string) {
		if err := tx.QueryRow(t.Context(), "select pg_current_xact_id()::xid::text").Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := write()
	conn := s.connect()
	go func() {
		_, _, err := conn.CreateSlot(t.Context(), false)
		created <- err
	}()
	waits(xid(first))
	second := write()
	commit(first)
	waits(xid(second))
	third := write() // the snapshot reaches from here
	s.exec("do $$ begin for i in 1..2000 loop perform pg_current_xact_id(); rollback; end loop; end $$")
	s.exec("insert into outbox default values") // to here
	commit(second)                              // too many
	waits(xid(third))
	commit(third)
	if err := <-created; err != nil {
		t.Error(err)
	}
}

// The rows of the snapshot and those of the stream are all rows, and none is in both, however busy the writers are.
func TestSnapshotAndStreamTogetherAreEveryRowOnce(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	const writers = 4
	writing, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var begun [writers]chan struct{}
	var dbs [writers]*pgx.Conn
	for w := range writers {
		dbs[w] = connectDB(t, s.options.DSN)
	}
	t.Cleanup(func() { // before the connections are closed
		stop()
		work.Wait()
	})
	for w, db := range dbs {
		begun[w] = make(chan struct{})
		work.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				if n == 3 {
					close(begun[w])
				}
				err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
					if _, err := tx.Exec(t.Context(), "insert into outbox (aggregateid) select $1 from generate_series(1, $2)", fmt.Sprint(w), n%4+1); err != nil {
						return err
					}
					if n%5 == 4 {
						return errRollback
					}
					return nil
				})
				if err != nil && !errors.Is(err, errRollback) {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	for _, c := range begun {
		<-c
	}
	c, start, snapshot := s.slotWithSnapshot()
	after := s.query("select count(*) from outbox") // some are written behind the slot's start
	eventually(t, "the writers write on", func() bool { return s.query("select count(*) > $1::bigint + 50 from outbox", after) == "true" })
	stop()
	work.Wait()

	seen := map[string]string{}
	note := func(id, where string) {
		if before := seen[id]; before != "" {
			t.Errorf("row %s is in the %s and in the %s", id, before, where)
		}
		seen[id] = where
	}
	err := snapshot.Rows(t.Context(), "public.outbox", "id", func([]Column) error { return nil }, func(values [][]byte) error {
		note(string(values[0]), "snapshot")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Close()
	inSnapshot := len(seen)
	rows, err := s.db.Query(t.Context(), "select id::text from outbox")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	s.exec("insert into outbox (aggregateid) values ('last')")
	st := s.startAt(c, start)
	for last := false; !last; {
		if m := st.next(); m[0] == 'I' {
			values := tuple(t, m)
			if last = values[2] == "last"; !last {
				note(values[0], "stream")
			}
		}
	}
	for _, id := range all {
		if seen[id] == "" {
			t.Errorf("row %s is in neither", id)
		}
		delete(seen, id)
	}
	if len(seen) > 0 {
		t.Errorf("rows that were rolled back: %v", seen)
	}
	if inSnapshot == 0 || inSnapshot == len(all) {
		t.Errorf("%d of %d rows are in the snapshot: nothing was tried", inSnapshot, len(all))
	}
}

var errRollback = errors.New("roll back")

func TestSnapshotOrder(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("create table by_time (id text, n int)")
	s.exec("create table parted (id bigint, n int) partition by list (n)")
	s.exec("create table parted_1 partition of parted for values in (1, 3)")
	s.exec("create table parted_2 partition of parted for values in (2)")
	s.exec(`create schema "Odd""x"`)
	s.exec(`create table "Odd""x"."Na'me" ("I d" smallint, n int)`)
	// In time, ids and places all differ.
	for i, id := range []string{"3", "1", "2"} {
		s.exec("insert into by_time values ($1, $2)", id, i+1)
		s.exec("insert into parted values ($1::text::bigint, $2)", id, i+1)
		s.exec(`insert into "Odd""x"."Na'me" values ($1::text::smallint, $2)`, id, i+1)
	}
	s.exec("update by_time set id = id where n = 1") // it is the youngest row by now, by what can be known
	for _, c := range []struct {
		table, id string
		want      []string
	}{
		{"public.by_time", "id", []string{"2", "3", "1"}},
		{"by_time", "id", []string{"2", "3", "1"}},
		{"public.parted", "id", []string{"2", "3", "1"}},
		{"public.parted", "other", []string{"1", "2", "3"}},
		{`Odd"x.Na'me`, "I d", []string{"2", "3", "1"}},
	} {
		s.options.Tables = []string{c.table}
		_, _, snapshot := s.slotWithSnapshot()
		var got []string
		err := snapshot.Rows(t.Context(), c.table, c.id, func([]Column) error { return nil }, func(values [][]byte) error {
			got = append(got, string(values[1]))
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s by %s: %v, %v, want %v", c.table, c.id, got, err, c.want)
		}
		snapshot.Close()
		s.exec("select pg_drop_replication_slot($1)", s.options.Slot)
		s.exec("drop publication tidemark")
	}
}

func TestSnapshotEndsWithTheErrorOfItsReader(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("insert into outbox (payload) select repeat('x', 1000) from generate_series(1, 10000)") // more than a socket holds
	_, _, snapshot := s.slotWithSnapshot()
	columns := func([]Column) error { return nil }
	want := errors.New("enough")
	if err := snapshot.Rows(t.Context(), "public.outbox", "id", func([]Column) error { return want }, nil); !errors.Is(err, want) {
		t.Errorf("Rows: %v, want that of columns", err)
	}
	err := snapshot.Rows(t.Context(), "public.none", "id", columns, nil)
	if err == nil || !strings.Contains(err.Error(), "public.none") {
		t.Errorf("Rows of no table: %v", err)
	}
	snapshot.Close()
	s.exec("select pg_drop_replication_slot($1)", s.options.Slot)
	s.exec("drop publication tidemark")

	_, _, snapshot = s.slotWithSnapshot()
	if err := snapshot.Rows(t.Context(), "public.outbox", "id", columns, func([][]byte) error { return want }); !errors.Is(err, want) {
		t.Errorf("Rows: %v, want that of row", err)
	}
	begin := time.Now()
	snapshot.Close()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("Close took %s", took)
	}
	s.exec("select pg_drop_replication_slot($1)", s.options.Slot)
	s.exec("drop publication tidemark")

	_, _, snapshot = s.slotWithSnapshot()
	ctx, cancel := context.WithCancel(t.Context())
	err = snapshot.Rows(ctx, "public.outbox", "id", columns, func([][]byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Rows: %v, want that of its context", err)
	}
}

func TestSnapshotIsGoneWithTheUseOfItsConnection(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c, _ := s.createSlot()
	if _, err := c.OpenSnapshot(t.Context(), "00000003-00000001-1"); err == nil {
		t.Error("a snapshot that nobody exported opens")
	}
	if _, err := c.OpenSnapshot(t.Context(), `'; select \`); err == nil || strings.Contains(err.Error(), "syntax") {
		t.Errorf("a name that is none: %v", err)
	}
}

// Creating a slot waits for the transactions that run. Somebody has to learn which.
func TestCreateSlotNamesWhoIsInTheWay(t *testing.T) {
	t.Parallel()
	s, _ := ownSource(t, map[string]string{"max_prepared_transactions": "2", "max_replication_slots": "1"})
	create := func(ctx context.Context, limit time.Duration) error {
		c := s.connect()
		c.slotTimeout = limit
		_, _, err := c.CreateSlot(ctx, false)
		return err
	}
	gone := func() {
		eventually(t, "no slot is left", func() bool { return s.query("select count(*) from pg_replication_slots") == "0" })
	}
	blocker := connectDB(t, with(t, s.options.DSN, "application_name", "the report"))
	if _, err := blocker.Exec(t.Context(), "begin; insert into outbox default values"); err != nil {
		t.Fatal(err)
	}
	err := create(t.Context(), 300*time.Millisecond)
	for _, part := range []string{fmt.Sprintf("pid %d (the report, idle in transaction)", blocker.PgConn().PID()), "end the long transactions", "300ms"} {
		if !IsPermanent(err) || !strings.Contains(err.Error(), part) {
			t.Errorf("CreateSlot: %v, want a permanent error that says %q", err, part)
		}
	}
	gone()

	// A stop while it waits is a stop.
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- create(ctx, time.Minute) }() // ends with ctx
	eventually(t, "it waits", func() bool {
		return s.query("select count(*) from pg_stat_activity where backend_type = 'walsender' and wait_event_type = 'Lock'") == "1"
	})
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) || IsPermanent(err) {
		t.Errorf("CreateSlot: %v, want that of its context", err)
	}
	gone()

	// So is the transaction over that was waited for, and what it wrote is in the snapshot.
	c := s.connect()
	type created struct {
		snapshot string
		err      error
	}
	done := make(chan created, 1)
	go func() { // ends with the wait
		_, snapshot, err := c.CreateSlot(t.Context(), false)
		done <- created{snapshot, err}
	}()
	eventually(t, "it waits", func() bool {
		return s.query("select count(*) from pg_stat_activity where backend_type = 'walsender' and wait_event_type = 'Lock'") == "1"
	})
	if _, err := blocker.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	result := <-done
	if result.err != nil {
		t.Fatal(result.err)
	}
	snapshot, err := c.OpenSnapshot(t.Context(), result.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	n := 0
	err = snapshot.Rows(t.Context(), "public.outbox", "id", func([]Column) error { return nil }, func([][]byte) error { n++; return nil })
	if err != nil || n != 1 {
		t.Errorf("the snapshot has %d rows, %v, want 1", n, err)
	}
	snapshot.Close()
	if err := c.DropSlot(t.Context()); err != nil {
		t.Error(err)
	}

	// A prepared transaction has no process, and stays until somebody remembers it.
	s.exec("begin")
	s.exec("insert into outbox default values")
	s.exec("prepare transaction 'it''s forgotten'")
	err = create(t.Context(), 300*time.Millisecond)
	if !IsPermanent(err) || !strings.Contains(err.Error(), "prepared transaction 'it''s forgotten'") {
		t.Errorf("CreateSlot: %v, want a permanent error that names the prepared transaction", err)
	}
	s.exec("rollback prepared 'it''s forgotten'")
	gone()
	mustTellSlotErrorsApart(t, s)
}

// mustTellSlotErrorsApart takes a server on which there can be one slot.
func mustTellSlotErrorsApart(t *testing.T, s *source) {
	t.Helper()
	if err := s.connect().DropSlot(t.Context()); !IsSlotMissing(err) || IsSlotActive(err) || IsPermanent(err) {
		t.Errorf("DropSlot of none: %v", err)
	}
	if _, err := s.connect().Start(t.Context(), 0, nil); !IsSlotMissing(err) || IsSlotActive(err) {
		t.Errorf("Start of none: %v", err)
	}
	c, start := s.createSlot()
	if _, _, err := s.connect().CreateSlot(t.Context(), false); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("CreateSlot of one that is there: %v", err)
	}
	other := s.options
	other.Slot = "another"
	another, err := Connect(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	if _, _, err := another.CreateSlot(t.Context(), false); !IsPermanent(err) || !strings.Contains(err.Error(), "max_replication_slots") {
		t.Errorf("CreateSlot of one too many: %v", err)
	}
	st := s.startAt(c, start)
	if _, err := s.connect().Start(t.Context(), start, nil); !IsSlotActive(err) || IsSlotMissing(err) || IsPermanent(err) {
		t.Errorf("Start of one that is active: %v", err)
	}
	if err := s.connect().DropSlot(t.Context()); !IsSlotActive(err) || IsSlotMissing(err) {
		t.Errorf("DropSlot of one that is active: %v", err)
	}
	st.Close()
	eventually(t, "the slot can be dropped", func() bool { return s.connect().DropSlot(t.Context()) == nil })
	if slot, err := s.connect().Slot(t.Context()); slot != nil || err != nil {
		t.Errorf("Slot() = %+v, %v after it was dropped", slot, err)
	}
}
