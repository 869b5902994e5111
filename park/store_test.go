package park

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// strangeEvents are hard to keep in a table of texts.
func strangeEvents() []Event {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	edit := func(n int, change func(e *Event)) Event {
		e := poison(n, "k")
		change(&e)
		return e
	}
	header := func(key string, value []byte) decode.Header { return decode.Header{Key: key, Value: value} }
	return []Event{
		poison(1, "plain"),
		edit(2, func(e *Event) { e.Event.Key = nil }),
		edit(3, func(e *Event) { e.Event.Key = []byte{} }),
		edit(4, func(e *Event) { e.Event.Value = nil }),
		edit(5, func(e *Event) { e.Event.Value = []byte{} }),
		edit(6, func(e *Event) { e.Event.Key, e.Event.Value = all, all }),
		edit(7, func(e *Event) {
			e.Event.Headers = []decode.Header{
				header("z", []byte("1")), header("a", nil), header("a", []byte{}), header("", all), header("nul\x00<&>\u2028", nil),
				header(`\x41`, nil), header("\xff\xfe", []byte("v")), header("€", []byte("€")),
			}
		}),
		edit(8, func(e *Event) {
			e.Event.ID, e.Event.Table, e.Event.Topic, e.Reason = "a\x00b", "\xff", `\x41`, "Привет\x00"
		}),
		edit(9, func(e *Event) { e.Event.ID, e.Event.Topic, e.Event.Table, e.Reason = "", "", "", "" }),
		edit(10, func(e *Event) {
			e.Event.Key, e.Event.ID, e.Event.Topic = bytes.Repeat(all, 4096), strings.Repeat("i", 100_000), strings.Repeat("t", 100_000)
		}),
		edit(11, func(e *Event) {
			e.Event.CommitTime, e.Event.Timestamp = time.Time{}, time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
		}),
		edit(12, func(e *Event) { e.Event.Partition = math.MaxInt32 }),
		edit(13, func(e *Event) { e.Behind, e.Reason = true, "" }),
		edit(14, func(e *Event) {
			e.Event.Position = decode.Position{Commit: math.MaxUint64, Index: math.MaxUint32}
		}),
	}
}

func mustComeBack(t *testing.T, s *Store, parked []Event) {
	t.Helper()
	for _, want := range parked {
		got := show(t, s, want.Event.Position.String())
		if age := time.Since(got.ParkedAt); age < -time.Minute || age > time.Minute {
			t.Errorf("%s was parked %s ago", want.Event.Position, age)
		}
		got.ParkedAt = time.Time{}
		want.ValueBytes = len(want.Event.Value)
		if want.Event.Value == nil {
			want.ValueBytes = NullValue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("came back as\n%.500v, not\n%.500v", got, want)
		}
	}
}

func TestParkedEventsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	events := strangeEvents()
	mustPark(t, s, events...)
	mustComeBack(t, s, events)

	// Not through Show alone: what the relay gets is what it publishes.
	n, err := s.ReleaseAll(t.Context())
	must(t, err)
	if n != 13 {
		t.Errorf("released %d, want 13", n)
	}
	s.dueBytes = math.MaxInt64
	got := due(t, s, 100)
	if len(got) != len(events) {
		t.Fatalf("%d are due, want %d", len(got), len(events))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i].Event, events[i].Event) {
			t.Errorf("due is\n%.500v, not\n%.500v", got[i].Event, events[i].Event)
		}
	}
	listed, err := s.List(t.Context(), 0)
	must(t, err)
	for i := range listed {
		want := events[i]
		want.Event.Value = nil
		if !reflect.DeepEqual(listed[i].Event, want.Event) {
			t.Errorf("listed is\n%.500v, not\n%.500v", listed[i].Event, want.Event)
		}
	}
}

func TestADatabaseThatIsNotUnicodeTakesThemAll(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"latin1", "sql_ascii"} {
		dsn := stacktest.Database(t, server())
		config, err := pgx.ParseConfig(dsn)
		must(t, err)
		old, name := config.Database, config.Database+"_"+encoding
		sql(t, dsn, "create database "+name+" encoding '"+encoding+"' locale 'C' template template0")
		s := openAt(t, strings.Replace(dsn, "/"+old, "/"+name, 1), testSource+"/€")
		events := strangeEvents()
		mustPark(t, s, events...)
		mustComeBack(t, s, events)
		s.Close()
		sql(t, dsn, "drop database "+name+" with (force)")
	}
}

func TestTextsStandInTheTableAsTheyAre(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	s := openAt(t, dsn+"&client_encoding=latin1", testSource)
	e := poison(1, "a")
	e.Event.ID = "é€"
	mustPark(t, s, e)
	var id string
	must(t, session(t, dsn).QueryRow(t.Context(), "select id from tidemark_parked").Scan(&id))
	if id != e.Event.ID {
		t.Errorf("the id is %q in the table", id)
	}
}

func TestParkIsIdempotentByPosition(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	mustPark(t, s, poison(1, "a"), behind(2, "a"), poison(1, "a"))
	must(t, s.Release(t.Context(), "id-1"))
	must(t, s.Publishing(t.Context(), []Event{{Event: decode.Event{Position: at(1)}, Floor: map[int32]int64{0: 5}}}))
	parked := show(t, s, "id-1")

	changed := poison(1, "b")
	changed.Reason = "another"
	mustPark(t, s, changed, behind(2, "a"), poison(3, "c")) // as after a crash: some are there
	if again := show(t, s, "id-1"); !reflect.DeepEqual(again, parked) || again.State != Publishing {
		t.Errorf("parked again it is %+v, it was %+v", again, parked)
	}
	if n := count(t, s); n != 3 {
		t.Errorf("%d are parked, want 3", n)
	}
	must(t, s.Park(t.Context(), nil))
}

func TestParkTakesAllOrNothing(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	impossible := poison(2, "a")
	impossible.Event.CommitTime = time.Date(294277, 1, 2, 0, 0, 0, 0, time.UTC) // Postgres ends there
	err := s.Park(t.Context(), []Event{poison(1, "a"), impossible, poison(3, "a")})
	if !IsPermanent(err) {
		t.Errorf("trying again would mend this: %v", err)
	}
	if n := count(t, s); n != 0 {
		t.Errorf("%d are parked", n)
	}
}

func TestWhatIsParkedIsDurableWhateverTheDatabaseThinks(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	conn := session(t, dsn)
	config := conn.Config()
	sql(t, dsn, "alter database "+config.Database+" set synchronous_commit = off", "alter database "+config.Database+" set default_transaction_isolation = 'serializable'",
		"create table seen (what text)",
		"create function note() returns trigger language plpgsql as $$ begin insert into seen values (current_setting('synchronous_commit') || ' ' || current_setting('transaction_isolation')); return null; end $$",
		"create trigger note after insert or update or delete on tidemark_parked for each row execute function note()")
	s.Close()
	s = openAt(t, dsn, testSource)
	mustPark(t, s, poison(1, "a"))
	must(t, s.Release(t.Context(), "id-1"))
	must(t, s.Publishing(t.Context(), due(t, s, 1)))
	must(t, s.Published(t.Context(), []decode.Position{at(1)}))
	rows, _ := conn.Query(t.Context(), "select what from seen")
	seen, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if !slices.Equal(seen, slices.Repeat([]string{"on read committed"}, 4)) {
		t.Errorf("written with synchronous_commit and isolation %q", seen)
	}
}

func TestSourcesDoNotTouchEachOther(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	other := openAt(t, dsn, testSource+"2")
	mustPark(t, s, poison(1, "a"), behind(2, "a"), poison(3, "b"))
	mustPark(t, other, poison(1, "a"), behind(2, "a"), poison(3, "b"))
	ctx := t.Context()

	n, err := other.ReleaseAll(ctx)
	must(t, err)
	if n != 2 {
		t.Errorf("released %d, want 2", n)
	}
	mustBeDue(t, s)
	mustBeDue(t, other, 1, 2, 3)
	must(t, other.Publishing(ctx, due(t, other, 2)))
	if e := show(t, s, "id-1"); e.State != Waiting {
		t.Errorf("the other source's event is %s", e.State)
	}
	must(t, other.Rejected(ctx, at(3), "other"))
	if e := show(t, s, "id-3"); e.Reason != "reason 3" {
		t.Errorf("the other source's event has the reason %s", e.Reason)
	}
	must(t, other.Published(ctx, []decode.Position{at(1)}))
	must(t, other.Discard(ctx, "id-3"))
	must(t, s.Release(ctx, "id-1"))
	if n, err := s.ReleaseKey(ctx, "b"); n != 1 || err != nil {
		t.Errorf("released %d, %v", n, err)
	}
	if count(t, s) != 3 || count(t, other) != 1 {
		t.Errorf("%d and %d are parked", count(t, s), count(t, other))
	}
	for store, want := range map[*Store][]Key{s: {{Topic: "orders", Key: "a"}, {Topic: "orders", Key: "b"}}, other: {{Topic: "orders", Key: "a"}}} {
		mustHaveKeys(t, store, want...)
		events, err := store.List(ctx, 0)
		must(t, err)
		if tally, err := store.Tally(ctx); err != nil || tally.Total() != count(t, store) || len(events) != int(tally.Total()) {
			t.Errorf("%+v, %d listed, %v", tally, len(events), err)
		}
	}
	others, err := s.Others(ctx)
	if err != nil || !reflect.DeepEqual(others, map[string]int64{testSource + "2": 1}) {
		t.Errorf("others: %v, %v", others, err)
	}
}

func mustHaveKeys(t *testing.T, s *Store, want ...Key) {
	t.Helper()
	got, err := s.Keys(t.Context())
	must(t, err)
	slices.SortFunc(got, func(a, b Key) int { return strings.Compare(fmt.Sprintf("%#v", a), fmt.Sprintf("%#v", b)) })
	if !slices.Equal(got, want) {
		t.Errorf("keys %+v, want %+v", got, want)
	}
}

func TestKeysAreTopicsWithBytes(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	var events []Event
	for n, key := range [][]byte{nil, nil, {}, {0}, {0, 0xff}, []byte("a"), []byte("a"), []byte("a")} {
		e := poison(n, "")
		e.Event.Key = key
		if n == 7 {
			e.Event.Topic = "order\x00s"
		}
		events = append(events, e)
	}
	mustPark(t, s, events...)
	mustHaveKeys(t, s, Key{"order\x00s", "a", false}, Key{"orders", "", false}, Key{"orders", "", true}, Key{"orders", "\x00", false},
		Key{"orders", "\x00\xff", false}, Key{"orders", "a", false})

	// A null key and an empty one are two; null keys have no order among each other.
	must(t, s.Release(t.Context(), "id-1"))
	must(t, s.Release(t.Context(), "id-2"))
	must(t, s.Release(t.Context(), "id-7"))
	mustBeDue(t, s, 1, 2, 7)

	// These come near each other where topic and key are put together.
	near := poison(13, "z")
	near.Event.Topic = "orders\x01"
	null := poison(11, "")
	null.Event.Key = nil
	mustPark(t, s, poison(10, "\x00"+at(11).String()), null, poison(12, "\x01z"), near)
	must(t, s.Release(t.Context(), "id-11"))
	must(t, s.Release(t.Context(), "id-13"))
	mustBeDue(t, s, 1, 2, 7, 11, 13)
}

func TestTwoStoresMayChangeTheSameAtOnce(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { // the table is created once
			s, err := Open(t.Context(), dsn, testSource)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for n := range 50 {
				events := []Event{poison(10*n, "a"), behind(10*n+1, "b"), behind(10*n+2, "b")}
				if err := s.Park(t.Context(), events); err != nil {
					t.Error(err)
				}
				if err := s.Published(t.Context(), []decode.Position{at(10*n + 1)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s := openAt(t, dsn, testSource)
	s.dueBytes = math.MaxInt64
	for _, e := range due(t, s, 1000) {
		if string(e.Event.Key) != "b" {
			t.Errorf("%s of key %s is due", e.Event.ID, e.Event.Key)
		}
	}
}

// TestNoFollowerIsForgotten: an event is parked behind another at the moment when that one is removed.
func TestNoFollowerIsForgotten(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	operator := openAt(t, dsn, testSource)
	for n := 0; n < 200; n += 2 {
		mustPark(t, s, poison(n, "a"))
		discarded := make(chan error)
		go func() { discarded <- operator.Discard(t.Context(), at(n).String()) }() // ends here
		mustPark(t, s, behind(n+1, "a"))
		must(t, <-discarded)
		mustBeDue(t, s, n+1)
		must(t, s.Published(t.Context(), []decode.Position{at(n + 1)}))
	}
}

func TestAServerThatRestartsBetweenCallsCostsOneError(t *testing.T) {
	t.Parallel()
	pg := stacktest.NewPostgres(t, server())
	s := openAt(t, pg.DSN("postgres"), testSource)
	ctx := t.Context()
	methods := map[string]func() error{
		"Park":       func() error { return s.Park(ctx, []Event{poison(1, "a"), behind(2, "a"), poison(3, "b")}) },
		"Keys":       func() error { _, err := s.Keys(ctx); return err },
		"Due":        func() error { _, err := s.Due(ctx, 10); return err },
		"Publishing": func() error { return s.Publishing(ctx, []Event{{Event: decode.Event{Position: at(3)}}}) },
		"Published":  func() error { return s.Published(ctx, []decode.Position{at(9)}) },
		"Rejected":   func() error { return s.Rejected(ctx, at(3), "still") },
		"Count":      func() error { _, err := s.Count(ctx); return err },
		"Newest":     func() error { _, err := s.Newest(ctx); return err },
		"Tally":      func() error { _, err := s.Tally(ctx); return err },
		"Others":     func() error { _, err := s.Others(ctx); return err },
		"List":       func() error { _, err := s.List(ctx, 10); return err },
		"Show":       func() error { _, err := s.Show(ctx, "id-1"); return err },
		"Release":    func() error { return s.Release(ctx, "id-3") },
		"ReleaseKey": func() error { _, err := s.ReleaseKey(ctx, "a"); return err },
		"ReleaseAll": func() error { _, err := s.ReleaseAll(ctx); return err },
		"Discard":    func() error { return s.Discard(ctx, "id-2") },
		"Routes":     func() error { return s.Routes(ctx, func(string, string) {}) },
	}
	order := []string{
		"Park", "Keys", "Due", "Release", "Publishing", "Published", "Rejected", "Count", "Newest", "Tally", "Others", "List", "Show", "ReleaseKey", "ReleaseAll", "Discard", "Routes",
	}
	if exported := reflect.TypeFor[*Store]().NumMethod() - 1; len(order) != len(methods) || len(order) != exported { // not Close
		t.Fatalf("%d of %d methods are tried", len(order), exported)
	}
	for i, name := range order {
		mode := devstack.StopFast
		if i%2 == 0 {
			mode = devstack.StopImmediate
		}
		if i%5 == 4 {
			must(t, pg.Kill())
		}
		if i > 0 {
			must(t, pg.Stop(mode))
			err := methods[name]()
			if err == nil || IsPermanent(err) {
				t.Errorf("%s without a server: %v", name, err)
			}
			if err := methods[name](); err == nil || IsPermanent(err) {
				t.Errorf("%s without a server: %v", name, err)
			}
		}
		must(t, pg.Restart(ctx, mode))
		_ = methods[name]()                                         // may notice only now
		if err := methods[name](); err != nil && !IsNotFound(err) { // it may have been discarded by the first
			t.Errorf("%s does not recover: %v", name, err)
		}
	}
	if n := count(t, s); n != 2 {
		t.Errorf("%d events are parked after all this, want 2", n)
	}
}

func TestACancelledCallLeavesAStoreThatWorks(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"))
	locker := session(t, dsn)
	tx, err := locker.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "lock table tidemark_parked")
	must(t, err)
	ctx, cancel := contextFor(t, 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := s.Park(ctx, []Event{poison(2, "a")}); !errors.Is(err, ctx.Err()) {
		t.Errorf("a call whose context ends: %v", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("returned after %s", took)
	}
	must(t, tx.Rollback(t.Context()))
	mustPark(t, s, poison(2, "a"))
	if n := count(t, s); n != 2 {
		t.Errorf("%d are parked, want 2", n)
	}
}

func TestWaitingForALockIsBoundedAndExplained(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"))
	_, err := s.conn.Exec(t.Context(), "set lock_timeout = '200ms'") // instead of ten seconds
	must(t, err)
	locker := session(t, dsn)
	for _, lock := range []string{"lock table tidemark_parked", s.begin} {
		_, err := locker.Exec(t.Context(), "begin; "+strings.TrimPrefix(lock, "begin isolation level read committed read write; "))
		must(t, err)
		err = s.Park(t.Context(), []Event{poison(2, "a")})
		if sqlState(err) != "55P03" || IsPermanent(err) || !strings.Contains(err.Error(), "pg_stat_activity") {
			t.Errorf("behind %s: %v", lock, err)
		}
		_, err = locker.Exec(t.Context(), "rollback")
		must(t, err)
		mustPark(t, s, poison(2, "a"))
		_, err = s.conn.Exec(t.Context(), "set lock_timeout = '200ms'")
		must(t, err)
	}
	s.Close()
	s = openAt(t, dsn, testSource)
	var timeout string
	must(t, s.conn.QueryRow(t.Context(), "show lock_timeout").Scan(&timeout))
	if timeout != "10s" {
		t.Errorf("lock_timeout is %s", timeout)
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	s.Close()
	s.Close()
	if _, err := s.Count(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("a closed store: %v", err)
	}
}

func TestALargeValueIsNotCopiedOften(t *testing.T) { // alone, because it counts what the process allocates
	s, _ := openNew(t)
	const size = 20 << 20
	e := poison(1, "a")
	e.Event.Value = make([]byte, size)
	for i := range e.Event.Value {
		e.Event.Value[i] = byte(i * i >> 7)
	}
	events := []Event{poison(0, "a"), e, behind(2, "a")}
	e.Event.Headers = []decode.Header{{Key: "h", Value: []byte("v")}}
	copies := func(what string, most float64, work func()) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		work()
		runtime.ReadMemStats(&after)
		if n := float64(after.TotalAlloc-before.TotalAlloc) / size; n > most {
			t.Errorf("%s allocates %.1f times the value, want at most %.1f", what, n, most)
		}
	}
	copies("Park", 1.2, func() { mustPark(t, s, events...) })
	copies("List", 0.1, func() {
		listed, err := s.List(t.Context(), 0)
		must(t, err)
		if len(listed) != 3 || listed[1].ValueBytes != size {
			t.Errorf("listed %d events", len(listed))
		}
	})
	_, err := s.ReleaseAll(t.Context())
	must(t, err)
	mustBeDue(t, s, 0) // the next would be too much
	must(t, s.Published(t.Context(), []decode.Position{at(0)}))
	copies("Due", 2.7, func() {
		got := due(t, s, 10)
		if len(got) != 1 || !bytes.Equal(got[0].Event.Value, e.Event.Value) {
			t.Errorf("%d are due, or the value has changed", len(got))
		}
	})
}
