package relay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/relay"
)

// slowly delays what Kafka answers to a producer while on.
func (b *bench) slowly(on *atomic.Bool) {
	b.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if on.Load() {
			b.cluster.SleepControl(func() { <-time.After(50 * time.Millisecond) })
		}
		return nil, nil, false
	})
}

// A server that is shut down in order waits for the confirmation of all that it has sent, and lets nobody connect meanwhile.
// What the relay keeps there cannot be stored any more: it must not stay for that.
func TestServerThatShutsDownNeedNotWait(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(b *bench){
		"the checkpoint is there": func(b *bench) {
			store := checkpoint.NewPostgres(checkpoint.PostgresOptions{DSN: b.dsn, Database: "app", Slot: b.slot, Create: true})
			b.t.Cleanup(store.Close)
			b.options.Store = store
		},
		"parked events are": func(b *bench) { b.options.OnPoison, b.options.ParkDSN = relay.Park, b.dsn },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := stacktest.NewPostgres(t)
			if err := server.CreateDatabase(t.Context(), "app"); err != nil {
				t.Fatal(err)
			}
			b := newBenchOn(t, server.DSN("app"))
			b.options.ResumeDedupe = true
			prepare(b)
			r := b.start()
			b.insert(20)
			b.records("outbox.event.order", 20)
			if b.options.OnPoison == relay.Park {
				b.hinderParking()
			}
			began := time.Now()
			if err := server.Restart(t.Context(), devstack.StopFast); err != nil {
				t.Error(err)
			}
			t.Logf("restarted after %v", time.Since(began))
			b.move(server)
			b.insert(20)
			mustArriveInOrder(t, b.records("outbox.event.order", 40))
			r.stop()
		})
	}
}

// hinderParking commits an event that has to be parked, and returns when the relay stands before the table.
func (b *bench) hinderParking() {
	b.t.Helper()
	holder, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = holder.Close(context.Background()) })
	if _, err := holder.Exec(b.t.Context(), "begin; lock table tidemark_parked in access exclusive mode"); err != nil {
		b.t.Fatal(err)
	}
	b.event("k", "good", strings.Repeat("x", 2<<20)) // above the topic's limit
	eventually(b.t, "the relay waits for the table", func() bool {
		var waits bool
		err := b.db.QueryRow(b.t.Context(), "select exists (select from pg_locks where not granted and relation = 'tidemark_parked'::regclass)").Scan(&waits)
		return err == nil && waits
	})
}

func TestLostConnectionIsTakenUpWhereItBroke(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.MaxBufferedBytes = 256 << 10 // so that the stream breaks in the middle of a transaction
	b.options.Source.DSN += "&options=-c%20logical_decoding_work_mem%3D64kB"
	var slow atomic.Bool
	b.slowly(&slow)
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	slow.Store(true)
	for range 5 {
		b.insert(20) // whole, and not yet acknowledged when the connection breaks
	}
	b.insert(5000)
	b.insert(30)
	total := 1 + 5*20 + 5000 + 30
	cut := 0
	for cut < 5 {
		var n int
		err := b.db.QueryRow(t.Context(), `select count(pg_terminate_backend(active_pid)) from pg_replication_slots
			where slot_name = $1 and active`, b.slot).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		cut += n
		<-time.After(150 * time.Millisecond)
	}
	slow.Store(false)
	mustArriveInOrder(t, b.records("outbox.event.order", total))
	eventually(t, "the relay is ready again", func() bool { return r.relay.Ready() == nil })
	r.stop()

	r = b.start()
	b.insert(1)
	mustArriveInOrder(t, b.records("outbox.event.order", total+1))
	r.stop()
}

// The stored LSN is before transactions that were read whole; the connection breaks in a later one that is still open. What
// comes again must not close the open one.
func TestOpenTransactionOutlivesWholeOnesThatComeAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.MaxBufferedBytes = 100 << 10
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	var down atomic.Bool
	down.Store(true)
	b.unavailable("outbox.event.order", &down)
	for range 5 {
		b.insert(10)
	}
	b.insert(2000)
	eventually(t, "reading stands still in the large transaction", func() bool {
		return r.relay.Status().InFlightBytes >= b.options.MaxBufferedBytes
	})
	before := r.relay.Status().Since
	b.exec(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1`, b.slot)
	eventually(t, "it streams over a new connection", func() bool {
		s := r.relay.Status()
		return s.State == relay.Streaming && s.Since.After(before)
	})
	down.Store(false)
	mustArriveInOrder(t, b.records("outbox.event.order", 1+5*10+2000))
	var end string
	if err := b.db.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	b.insert(1)
	eventually(t, "everything is safe and confirmed", func() bool {
		var done bool
		err := b.db.QueryRow(t.Context(), "select confirmed_flush_lsn > $2::pg_lsn from pg_replication_slots where slot_name = $1", b.slot, end).Scan(&done)
		return err == nil && done
	})
	r.stop()
}

func TestFencedProducerStartsOverFromTheCheckpoint(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.ResumeDedupe = true
	first := b.start()
	b.insert(10)
	b.records("outbox.event.order", 10)

	// Another process has taken the checkpoint over, as one does on the same slot while this one is stopped.
	stored, err := b.store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	holder := stored.Writer
	stored.Writer = "another"
	if err := b.store.Save(t.Context(), stored, holder); err != nil {
		t.Fatal(err)
	}
	b.insert(10)
	eventually(t, "the relay has made the checkpoint its own again", func() bool {
		c, err := b.store.Load(t.Context())
		return err == nil && c.Writer != "another"
	})
	b.insert(10)
	mustArriveInOrder(t, b.records("outbox.event.order", 30))
	eventually(t, "streaming", func() bool { return first.relay.Status().State == relay.Streaming })
	first.stop()
}
