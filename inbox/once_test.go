package inbox_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
)

func TestAnEventHasItsEffectOnceForEachConsumer(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	e := event(1, "a")
	for i, want := range []inbox.Outcome{inbox.Handled, inbox.Duplicate, inbox.Duplicate} {
		if got := db.handle(t, "billing", e); got != want {
			t.Errorf("delivery %d: %s, want %s", i+1, got, want)
		}
	}
	if got := db.handleSQL(t, "billing", e); got != inbox.Duplicate {
		t.Errorf("through database/sql: %s", got)
	}
	if db.function(t, "billing", e, false) {
		t.Error("the SQL function takes it for new")
	}
	if got := db.handleSQL(t, "shipping", e); got != inbox.Handled {
		t.Errorf("another consumer: %s", got)
	}
	if !db.function(t, "search", e, false) {
		t.Error("another consumer, the SQL function: not new")
	}
	if n := db.count(t, "effects"); n != 3 {
		t.Errorf("%d effects for three consumers", n)
	}
}

func TestWhatFailsLeavesNothingAndIsHandledLater(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	e := event(1, "a")
	refused := errors.New("no such account")
	tx := db.begin(t)
	outcome, err := inbox.Once(t.Context(), tx, "billing", e, func(ctx context.Context, tx pgx.Tx) error {
		must(t, effect(e)(ctx, tx))
		return refused
	}, inbox.DropStale())
	if outcome != inbox.Failed || !errors.Is(err, refused) || !strings.Contains(err.Error(), e.ID) {
		t.Errorf("%s, %v", outcome, err)
	}
	// A caller that commits nevertheless must not commit the id without the effect.
	if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("commit after a failure: %v", err)
	}
	for _, table := range []string{"inbox", "inbox_positions", "effects"} {
		if n := db.count(t, table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
	if got := db.handle(t, "billing", e, inbox.DropStale()); got != inbox.Handled {
		t.Errorf("then: %s", got)
	}
}

func TestAFailureInsideASavepointRollsBackToItAlone(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	outer := db.begin(t)
	_, err := outer.Exec(t.Context(), "insert into effects (id) values ('outer')")
	must(t, err)
	inner, err := outer.Begin(t.Context())
	must(t, err)
	if _, err := inbox.Once(t.Context(), inner, "billing", event(1, "a"), func(context.Context, pgx.Tx) error { return errors.New("no") }); err == nil {
		t.Error("no error")
	}
	must(t, outer.Commit(t.Context()))
	if effects, rows := db.count(t, "effects"), db.count(t, "inbox"); effects != 1 || rows != 0 {
		t.Errorf("%d effects, %d rows in the inbox", effects, rows)
	}
}

func TestStaleEventsAreDroppedWhereAsked(t *testing.T) {
	t.Parallel()
	other := event(4, "a")
	other.ID, other.Source = "other", "7400000000000000001/shop/tidemark"
	elsewhere := event(3, "a")
	elsewhere.ID, elsewhere.Topic = "elsewhere", "payments"
	again := event(6, "a") // the same event under another id
	again.ID, again.Position = "again", position(5)
	moved := event(2, "a") // an event that was handled comes again, at a later position
	moved.Position = position(90)
	keyless := event(1, "")
	keyless.ID, keyless.Key = "keyless", nil
	unplaced := event(1, "a")
	unplaced.ID, unplaced.Position = "unplaced", ""
	cases := []struct {
		what  string
		event inbox.Event
		want  inbox.Outcome
	}{
		{"the first of a key", event(2, "a"), inbox.Handled},
		{"a later one", event(5, "a"), inbox.Handled},
		{"between them", event(4, "a"), inbox.Stale},
		{"the same once more: its id is known", event(4, "a"), inbox.Duplicate},
		{"of another key", event(3, "b"), inbox.Handled},
		{"of another source", other, inbox.Handled},
		{"of another topic", elsewhere, inbox.Handled},
		{"at the same position", again, inbox.Stale},
		{"handled, at a later position", moved, inbox.Duplicate},
		{"which moved nothing", event(7, "a"), inbox.Handled},
		{"without a key", keyless, inbox.Handled},
		{"without a position", unplaced, inbox.Handled},
	}
	ways := map[string]func(database, inbox.Event) inbox.Outcome{
		"pgx":          func(db database, e inbox.Event) inbox.Outcome { return db.handle(t, "search", e, inbox.DropStale()) },
		"database/sql": func(db database, e inbox.Event) inbox.Outcome { return db.handleSQL(t, "search", e, inbox.DropStale()) },
	}
	for way, handle := range ways {
		db, handled := newDatabase(t), 0
		for _, c := range cases {
			if got := handle(db, c.event); got != c.want {
				t.Errorf("%s: %s: %s, want %s", way, c.what, got, c.want)
			}
			if c.want == inbox.Handled {
				handled++
			}
		}
		if n := db.count(t, "effects"); n != handled {
			t.Errorf("%s: %d effects, want %d", way, n, handled)
		}
	}
	db := newDatabase(t)
	for _, c := range cases {
		e := c.event
		var position any = e.Position
		if e.Position == "" {
			position = nil
		}
		var isNew bool
		must(t, db.pool.QueryRow(t.Context(), "select inbox_once('search', $1, key => $2, log_position => $3, source => $4, kafka_topic => $5, kafka_partition => $6, kafka_offset => $7)",
			e.ID, e.Key, position, e.Source, e.Topic, e.Partition, e.Offset).Scan(&isNew))
		if isNew != (c.want == inbox.Handled) {
			t.Errorf("the SQL function: %s: %v, want %s", c.what, isNew, c.want)
		}
	}
}

func TestWithoutDropStaleAnOldEventIsHandled(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	for _, n := range []int{5, 4} {
		if got := db.handle(t, "ledger", event(n, "a")); got != inbox.Handled {
			t.Errorf("event %d: %s", n, got)
		}
	}
}

// waitingForALock waits until that many sessions of the database wait for another's transaction.
func (db database) waitingForALock(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		var waiting int
		err := db.pool.QueryRow(ctx, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").Scan(&waiting)
		must(t, err)
		if waiting == n {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%d sessions wait, want %d", waiting, n)
		}
	}
}

func TestTheSecondOfTwoAtOnceWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what    string
		end     func(context.Context, pgx.Tx) error
		want    inbox.Outcome
		effects int
	}{
		{"committed", func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, inbox.Duplicate, 1},
		{"rolled back", func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, inbox.Handled, 1},
	} {
		for _, opts := range [][]inbox.Option{nil, {inbox.DropStale()}} {
			db := newDatabase(t)
			e := event(1, "a")
			first, second := db.begin(t), db.begin(t)
			if outcome, err := inbox.Once(t.Context(), first, "billing", e, effect(e), opts...); err != nil || outcome != inbox.Handled {
				t.Fatalf("%s, %v", outcome, err)
			}
			var got inbox.Outcome
			var err error
			var done sync.WaitGroup
			done.Go(func() { got, err = inbox.Once(t.Context(), second, "billing", e, effect(e), opts...) })
			db.waitingForALock(t, 1)
			must(t, c.end(t.Context(), first))
			done.Wait()
			must(t, err)
			must(t, second.Commit(t.Context()))
			if got != c.want {
				t.Errorf("the first is %s: %s, want %s", c.what, got, c.want)
			}
			if n := db.count(t, "effects"); n != c.effects {
				t.Errorf("the first is %s: %d effects", c.what, n)
			}
		}
	}
}

// TestOnceIsOneRoundTrip counts on the wire: a transaction with Once against the same without.
func TestOnceIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	conn, trips := countingSession(t, db.dsn)
	n := 0
	measure := func(opts ...inbox.Option) (bare, once int64) {
		for range 2 { // the first prepares the statements
			before := trips.Load()
			tx, err := conn.Begin(t.Context())
			must(t, err)
			must(t, effect(event(0, "a"))(t.Context(), tx))
			must(t, tx.Commit(t.Context()))
			bare = trips.Load() - before

			n++
			e := event(n, "a")
			before = trips.Load()
			tx, err = conn.Begin(t.Context())
			must(t, err)
			outcome, err := inbox.Once(t.Context(), tx, "billing", e, effect(e), opts...)
			must(t, err)
			must(t, tx.Commit(t.Context()))
			once = trips.Load() - before
			if outcome != inbox.Handled {
				t.Fatal(outcome)
			}
		}
		return bare, once
	}
	for what, opts := range map[string][]inbox.Option{
		"by id": nil, "stale events dropped": {inbox.DropStale()}, "parked events looked for": {inbox.BehindParked()},
		"both": {inbox.DropStale(), inbox.BehindParked()},
	} {
		bare, once := measure(opts...)
		t.Logf("%s: %d round trips, %d without Once", what, once, bare)
		if bare != 3 || once != bare+1 { // begin, the effect, commit
			t.Errorf("%s: %d round trips, %d without Once", what, once, bare)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	db := database{dsn: stacktest.Database(t, server())}
	conn, err := pgx.Connect(t.Context(), db.dsn)
	must(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing to say
	noID, long, binary := event(1, "a"), event(1, "a"), event(1, "a")
	noID.ID, long.ID, binary.ID = "", strings.Repeat("x", 2000), "\xff"
	for _, c := range []struct {
		consumer string
		event    inbox.Event
		want     string
	}{
		{"billing", event(1, "a"), "create the tables with inbox.Create"},
		{"", event(1, "a"), "the consumer has no name"},
		{"billing", noID, "no id that"},
		{"billing", long, "2000 bytes"},
		{"billing", binary, "no text"},
	} {
		tx, err := conn.Begin(t.Context())
		must(t, err)
		_, err = inbox.Once(t.Context(), tx, c.consumer, c.event, func(context.Context, pgx.Tx) error { t.Error("handled"); return nil })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestCreateMayRunAgainAndAtOnce(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			if err := inbox.Create(t.Context(), db.pool); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
}
