package test_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// newPair starts a primary with a synchronous standby for this test alone.
func newPair(t *testing.T) *trial.Pair {
	t.Helper()
	o := postgresOptions()
	o.Progress = func(line string) { t.Log(line) }
	pair, err := trial.StartPair(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the primary's log:\n%s", pair.Primary.Log())
			if pair.Standby != nil {
				t.Logf("the end of the standby's log:\n%s", pair.Standby.Log())
			}
		}
		if err := pair.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := pair.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestSilentHostIsTakenOver has the active instance stand still, as when its host does: the slot is free within seconds,
// whatever the server's wal_sender_timeout, and the other takes over. Nothing that the first one does later counts.
func TestSilentHostIsTakenOver(t *testing.T) {
	t.Parallel()
	t.Run("at least once", func(t *testing.T) {
		t.Parallel() // both mostly wait
		// A real Kafka, or none: the imitation lets a producer go on that was fenced.
		silentHostIsTakenOver(t, newArenaOn(t, stacktest.Database(t, postgresOptions()), stacktest.Kafka(t)))
	})
	// What the silent one has under way is in an open transaction, which holds up consumers until it is fenced.
	t.Run("exactly once", func(t *testing.T) {
		t.Parallel()
		silentHostIsTakenOver(t, newExactlyOnceArena(t))
	})
}

func silentHostIsTakenOver(t *testing.T, a *arena) {
	t.Helper()
	active := a.startReady()
	standby := a.start()
	a.await("the second instance waits for the slot, and says who holds it", time.Minute, func() bool {
		status, body, err := standby.Get(t.Context(), "/readyz")
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "held by tidemark from 127.0.0.1 (Postgres backend ")
	})
	for r, want := range map[*trial.Relay]float64{active: 1, standby: 0} {
		if leader, err := r.Metric(t.Context(), "tidemark_leader"); err != nil || leader != want {
			t.Errorf("tidemark_leader %v, %v, want %v", leader, err, want)
		}
	}
	w := a.write(trial.Load{Rate: 300})
	a.await("rows arrive", time.Minute, func() bool { _, n, _ := a.Ledger.Progress(); return n > 100 })
	if err := active.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	silent := time.Now()
	a.awaitReady(standby)
	took := time.Since(silent)
	t.Logf("taken over %v after the host fell silent", took.Round(time.Millisecond))
	if took > 45*time.Second { // the server's own limit is a minute
		t.Errorf("the takeover took %v", took)
	}
	if err := active.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.await("the one that woke up waits in its turn", time.Minute, func() bool {
		_, body, err := active.Get(t.Context(), "/readyz")
		return err == nil && strings.Contains(body, "hot standby")
	})
	a.mustStop(w)
	a.judge()
	a.stop(active)
	a.stop(standby)
}

// TestFailover kills the primary under load and promotes its standby, to which the slot is synced: the running relay goes on
// there, and nothing is lost or doubled.
func TestFailover(t *testing.T) {
	t.Parallel()
	pair := newPair(t)
	if !pair.SyncsSlots() {
		t.Skip("failover slots came with Postgres 17")
	}
	a := newArenaOn(t, pair.DSN("app"), brokers(t))
	r := a.startReady()
	w := a.write(trial.Load{Rate: 500})
	if err := pair.AwaitSynced(t.Context(), a.Config.Slot); err != nil {
		t.Fatal(err)
	}
	_, before, _ := a.Ledger.Progress()
	a.await("rows arrive", time.Minute, func() bool { _, n, _ := a.Ledger.Progress(); return n > before+300 })
	failed := time.Now()
	if err := pair.Failover(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	registered := a.Ledger.Registered()
	a.await("rows of the new primary arrive", time.Minute, func() bool { return a.Ledger.ArrivedSince(registered + 200) })
	t.Logf("the standby was promoted after %v; the first of its rows arrived at most %v later",
		promoted.Sub(failed).Round(time.Millisecond), time.Since(promoted).Round(time.Millisecond))
	a.mustStop(w)
	a.judge()
	a.stop(r)
	r = a.startReady() // the stored checkpoint is one of the new timeline
	a.judge()
	a.stop(r)
}

// TestFailoverWithoutTheSlot is refused, and the way out brings every row; those that were there before come twice.
func TestFailoverWithoutTheSlot(t *testing.T) {
	t.Parallel()
	pair := newPair(t)
	a := newArenaOn(t, pair.DSN("app"), brokers(t))
	a.Config = a.Config.With("TIDEMARK_SOURCE_FAILOVER", "false")
	r := a.startReady()
	w := a.write(trial.Load{Rate: 500, Kinds: existing()})
	a.await("rows arrive", time.Minute, func() bool { _, n, _ := a.Ledger.Progress(); return n > 500 })
	if err := pair.Failover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := r.Wait(2 * time.Minute); err != nil || status != 3 || !strings.Contains(r.Log(), "--republish") {
		t.Fatalf("exit status %d, %v, want 3 and the way out", status, err)
	}
	// More is written that no slot sees.
	registered := a.Ledger.Registered()
	a.await("rows are written meanwhile", time.Minute, func() bool { return a.Ledger.Registered() > registered+200 })
	a.command("init", "--recreate-slot", "--republish")
	r = a.startReady()
	a.mustStop(w)
	// What the old primary had published and the standby lacks is in Kafka: nothing kept it from being sent.
	v := a.judgeBut(ledger.Doubled, ledger.Unstable, ledger.Backward, ledger.Phantom)
	if v.Count(ledger.Lost) > 0 || v.Count(ledger.Doubled) == 0 {
		t.Errorf("%s: want none lost, and some doubled, as it was said", v)
	}
	a.stop(r)
}

// TestAdoptAfterALostEnd fails over to a standby that lacks the end of the log, which is in Kafka: some of it behind the
// checkpoint and some before. The checkpoint is of the lost end, so the start is refused; the way out goes on from the slot.
// Nothing that the new primary has is left out, although what comes there has positions of what was lost, which is in Kafka.
func TestAdoptAfterALostEnd(t *testing.T) {
	t.Parallel() // it mostly waits
	pair := newPair(t)
	if !pair.SyncsSlots() {
		t.Skip("failover slots came with Postgres 17")
	}
	a := newArenaOn(t, pair.DSN("app"), brokers(t))
	r := a.startReady()
	if err := a.write(trial.Load{Rows: 500}).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := pair.AwaitSynced(t.Context(), a.Config.Slot); err != nil {
		t.Fatal(err)
	}
	lost := 0
	lose := func(n int) {
		t.Helper()
		a.commitSingly(n) // the ledger does not know these: each that arrives is a phantom to it
		lost += n
		a.await("what will be lost is in Kafka", time.Minute, func() bool { return a.Ledger.Verdict().Count(ledger.Phantom) == lost })
	}
	err := pair.FailoverLosing(t.Context(), func() error {
		lose(200)
		var end string
		if err := a.Query(t.Context(), []any{&end}, "select pg_current_wal_flush_lsn()::text"); err != nil {
			return err
		}
		a.await("the checkpoint is beyond what the standby has", time.Minute, func() bool { return a.storedLSN() >= parseLSN(t, end) })
		if err := r.Kill(); err != nil {
			return err
		}
		a.Config = a.Config.With("TIDEMARK_CHECKPOINT_INTERVAL", "1h") // the rest is published and not stored
		r = a.startReady()
		lose(1500)
		return r.Kill()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.write(trial.Load{Rows: 3000, Kinds: []trial.Kind{trial.Single}}).Wait(); err != nil {
		t.Fatal(err)
	}
	r = a.start()
	if status, err := r.Wait(2 * time.Minute); err != nil || status != 3 || !strings.Contains(r.Log(), "adopt --accept-gap") {
		t.Fatalf("exit status %d, %v, want 3 and the way out", status, err)
	}
	a.command("checkpoint", "adopt", "--accept-gap")
	a.Config = a.Config.With("TIDEMARK_CHECKPOINT_INTERVAL", "")
	r = a.startReady()
	// What lies between the slot's position and the end that both have was read before, and comes again as it was.
	v := a.judgeBut(ledger.Phantom, ledger.Doubled)
	if n := v.Count(ledger.Phantom); n != lost {
		t.Errorf("%d events of the lost end are in Kafka, want %d", n, lost)
	}
	a.stop(r)
	r = a.startReady()
	if err := a.write(trial.Load{Rows: 500}).Wait(); err != nil {
		t.Fatal(err)
	}
	again := a.judgeBut(ledger.Phantom, ledger.Doubled)
	if again.Count(ledger.Doubled) != v.Count(ledger.Doubled) {
		t.Errorf("%s, and before the last start %s: nothing more may be doubled", again, v)
	}
	a.stop(r)
}

// commitSingly commits n rows, each in a transaction of its own and of another size, so that they take up positions at random.
func (a *arena) commitSingly(n int) {
	a.t.Helper()
	conn := connect(a.t, a.DSN)
	rng := rand.New(rand.NewPCG(a.seed, 2)) //nolint:gosec // reproducible
	for i := range n {
		_, err := conn.Exec(a.t.Context(), `insert into outbox (id, aggregatetype, aggregateid, type, payload)
			values (gen_random_uuid(), $1, 'lost', 'written', to_jsonb(repeat('x', $2)))`, a.Types[i%len(a.Types)], rng.IntN(300))
		if err != nil {
			a.t.Fatal(err)
		}
	}
}

// storedLSN is where the stored checkpoint is.
func (a *arena) storedLSN() pglogrepl.LSN {
	a.t.Helper()
	text, err := trial.Command(a.t.Context(), a.Config, "checkpoint", "show")
	if err != nil {
		a.t.Fatal(err)
	}
	var stored struct{ LSN string }
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		a.t.Fatal(err)
	}
	return parseLSN(a.t, stored.LSN)
}

func parseLSN(t *testing.T, text string) pglogrepl.LSN {
	t.Helper()
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// TestReplica reads from a hot standby, and creates what must be written on the primary.
func TestReplica(t *testing.T) {
	t.Parallel()
	pair := newPair(t)
	a := newArenaOn(t, pair.DSN("app"), brokers(t))
	a.Config.DSN = pair.StandbyDSN("app")
	a.Config = a.Config.With("TIDEMARK_SOURCE_ADMIN_DSN", pair.DSN("app"))
	if err := a.write(trial.Load{Rows: 500, Kinds: existing()}).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := pair.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := a.startReady()
	w := a.write(trial.Load{Rows: 4000})
	a.await("some arrive", time.Minute, func() bool { _, n, _ := a.Ledger.Progress(); return n > 1500 })
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	r = a.startReady()
	if err := pair.Standby.Restart(t.Context(), devstack.StopFast); err != nil { // it must not wait for us
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	a.stop(r)

	// What is committed on the primary by now is what --once brings, however far the standby is.
	if err := a.write(trial.Load{Rows: 1000}).Wait(); err != nil {
		t.Fatal(err)
	}
	a.Config.Args = []string{"run", "--once"}
	r = a.start()
	if status, err := r.Wait(2 * time.Minute); err != nil || status != 0 {
		t.Fatalf("run --once: exit status %d, %v, want 0", status, err)
	}
	if err := a.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Reader.AwaitEnd(t.Context(), a.Topics()...); err != nil {
		t.Fatal(err)
	}
	if missing := a.Ledger.Missing(""); missing > 0 {
		t.Errorf("run --once has left %d out", missing)
	}
	a.judge()
}

// command runs another command of tidemark to its end, which has to be good.
func (a *arena) command(args ...string) {
	a.t.Helper()
	config := a.Config
	config.Args = args
	out, err := trial.Run(a.t.Context(), config, "")
	if err != nil {
		a.t.Fatal(err)
	}
	if status, err := out.Wait(2 * time.Minute); err != nil || status != 0 {
		a.t.Fatalf("%v: exit status %d, %v\n%s", args, status, err, out.Log())
	}
}

// TestPlannedMoves are the steps of docs/failover.md where no slot goes along: nothing is lost, and nothing comes twice.
func TestPlannedMoves(t *testing.T) {
	t.Parallel()
	pair := newPair(t)
	a := newArenaOn(t, pair.DSN("app"), brokers(t))
	a.Config = a.Config.With("TIDEMARK_SOURCE_FAILOVER", "false")
	drain := func() {
		t.Helper()
		r := a.startReady()
		if err := a.write(trial.Load{Rows: 1000}).Wait(); err != nil {
			t.Fatal(err)
		}
		a.stop(r)
		a.command("run", "--once")
	}
	drain()
	if err := pair.Failover(t.Context()); err != nil { // a planned one is no harder
		t.Fatal(err)
	}
	a.command("init", "--recreate-slot")
	drain()
	if v := a.judge(); v.Committed < 1500 {
		t.Errorf("too little was written: %s", v)
	}

	// To another cluster, with all rows, as after an upgrade.
	next := stacktest.Database(t, postgresOptions())
	copyOutbox(t, a.DSN, next)
	a.DSN, a.Config.DSN, a.Config.Slot = next, next, connect(t, next).Config().Database
	if err := os.Rename(a.Config.Checkpoint, a.Config.Checkpoint+".before"); err != nil {
		t.Fatal(err)
	}
	a.Config = a.Config.With("TIDEMARK_SOURCE_EXISTING_ROWS", "skip")
	a.command("init")
	drain()
	a.judgeBut(ledger.Backward) // another source has other positions
}

func copyOutbox(t *testing.T, from, to string) {
	t.Helper()
	source, target := connect(t, from), connect(t, to)
	if _, err := target.Exec(t.Context(), trial.OutboxSQL); err != nil {
		t.Fatal(err)
	}
	var rows bytes.Buffer
	if _, err := source.PgConn().CopyTo(t.Context(), &rows, "copy outbox to stdout"); err != nil {
		t.Fatal(err)
	}
	if _, err := target.PgConn().CopyFrom(t.Context(), &rows, "copy outbox from stdin"); err != nil {
		t.Fatal(err)
	}
}
