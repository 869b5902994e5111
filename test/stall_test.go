package test_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

// TestIdleSlotMoves has an outbox into which nobody writes, on a server that is busy in another database: the slot has to
// follow, or the server keeps its log for ever. It must not pass a row that Kafka has not acknowledged.
func TestIdleSlotMoves(t *testing.T) {
	t.Parallel()
	kafka := stacktest.NewKafka(t)
	a := newArenaOn(t, stacktest.Database(t, postgresOptions()), kafka.Brokers())
	other := stacktest.Database(t, postgresOptions())
	r := a.startReady()
	db := connect(t, other)
	at := func(sql string, args ...any) (lsn string) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql, args...).Scan(&lsn); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return lsn
	}
	now := func() string { t.Helper(); return at("select pg_current_wal_insert_lsn()::text") }
	passed := func(lsn string) bool {
		t.Helper()
		confirmed, _, err := a.Confirmed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at("select ($1::pg_lsn >= $2::pg_lsn)::text", confirmed, lsn) == "true"
	}
	follows := func() {
		t.Helper()
		mark := now()
		a.await("the slot follows past "+mark, time.Minute, func() bool { return passed(mark) })
	}

	busy(t, other)
	for range 3 {
		follows()
	}

	// The topics have to be there: a row whose topic is not holds the stream back before its commit is read.
	if err := a.write(trial.Load{Writers: 1, Rows: 100}).Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	follows()
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	before := now()
	held := trial.Load{Writers: 1, Rows: 1, RollBack: -1, Kinds: []trial.Kind{trial.Single}}
	if err := a.write(held).Wait(); err != nil {
		t.Fatal(err)
	}
	row := now() // the row's commit is before this
	a.await("the slot follows up to the row", time.Minute, func() bool { return passed(before) })
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		if passed(row) {
			confirmed, _, _ := a.Confirmed(t.Context())
			t.Fatalf("the slot was confirmed to %s; a row that nobody has acknowledged was committed between %s and %s", confirmed, before, row)
		}
	}
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	a.await("the slot moves on when Kafka is back", time.Minute, func() bool { return passed(row) })
	follows()
	a.judge()
	a.stop(r)
}

// busy keeps a database's server writing log until the test ends.
func busy(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "create table busy (text text)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { // ends with the test
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			if _, err := conn.Exec(ctx, "insert into busy select repeat('x', 100) from generate_series(1, 100)"); err != nil {
				done <- err
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				done <- nil
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Error(fmt.Errorf("keep the other database busy: %w", err))
		}
		_ = conn.Close(context.Background())
	})
}

// TestStalledConsumerKeepsItsStream freezes Kafka for longer than the server waits for a sign of life from a walsender's client.
func TestStalledConsumerKeepsItsStream(t *testing.T) {
	t.Parallel()
	kafka := stacktest.NewKafka(t)
	a := newArenaOn(t, stacktest.Database(t, postgresOptions()), kafka.Brokers())
	a.Config.DSN += "&options=-c%20wal_sender_timeout%3D4s"
	// Little room, so that the stream really stands still.
	a.Config = a.Config.With("TIDEMARK_KAFKA_MAX_BUFFERED_BYTES", "256KiB")
	r := a.startReady()
	w := a.write(trial.Load{Rate: 1000})
	walsender := func() int {
		t.Helper()
		_, pid, err := a.Confirmed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	a.await("rows arrive", time.Minute, func() bool { _, arrived, _ := a.Ledger.Progress(); return arrived > 500 })
	pid := walsender()
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	a.await("what Kafka had sent before has arrived", time.Minute, func() bool {
		_, before, _ := a.Ledger.Progress()
		pause(t, time.Second)
		_, after, _ := a.Ledger.Progress()
		return after == before
	})
	_, stalled, _ := a.Ledger.Progress()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if now := walsender(); now != pid {
			t.Fatalf("the walsender was %d and is %d: the stream was lost", pid, now)
		}
		pause(t, 50*time.Millisecond)
	}
	_, arrived, _ := a.Ledger.Progress()
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	a.await("rows arrive again", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > arrived+500 })
	if now := walsender(); now != pid {
		t.Errorf("the walsender was %d and is %d: the stream was lost", pid, now)
	}
	if arrived > stalled {
		t.Errorf("Kafka was to stand still, and %d rows arrived", arrived-stalled)
	}
	a.mustStop(w)
	a.judge()
	a.stop(r)
}

// pause lets time pass in which nothing is to happen.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
