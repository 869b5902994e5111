package test_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

// pruned is what `tidemark prune --json` prints, as far as it is looked at here.
type pruned struct {
	Tables []struct {
		Deleted int            `json:"deleted"`
		Kept    map[string]int `json:"kept"`
	} `json:"tables"`
}

// prune runs prune to its end, whatever that is, and returns how many rows it has deleted.
func (a *arena) prune() int {
	a.t.Helper()
	config := a.Config
	config.Args = []string{"prune", "--json", "--older-than", "1ms", "--wait", "5s"}
	r, err := trial.Run(a.t.Context(), config, "")
	if err != nil {
		a.t.Fatal(err)
	}
	status, err := r.Wait(3 * time.Minute)
	if err != nil {
		a.t.Fatal(err)
	}
	var p pruned
	if err := json.Unmarshal([]byte(r.Stdout()), &p); err != nil && status == 0 {
		a.t.Fatalf("prune printed no JSON: %v: %s", err, end(r.Stdout(), 500))
	}
	n := 0
	for _, t := range p.Tables {
		n += t.Deleted
		a.t.Logf("prune: exit status %d, %d rows deleted, kept %v; %s", status, t.Deleted, t.Kept, end(r.Log(), 300))
	}
	return n
}

// TestPruneBesideABrokerThatIsAway prunes everything that it may, again and again, under load, while the broker works, while
// it is stopped, and while no relay runs. What is deleted is in Kafka: every row that was committed arrives, although those in
// the table are all that verify could bring.
func TestPruneBesideABrokerThatIsAway(t *testing.T) {
	t.Parallel()
	kafka := stacktest.NewKafka(t)
	a := newArenaOn(t, stacktest.Database(t, postgresOptions()), kafka.Brokers())
	a.exec("alter table outbox add column at timestamptz not null default clock_timestamp()")
	a.Config = a.Config.With("TIDEMARK_OUTBOX_0_COLUMNS_TIMESTAMP", "at")
	// The ledger looks its rows up in the table: what is deleted is kept for it.
	a.exec("create table kept (like outbox)")
	a.exec("create function keep() returns trigger language plpgsql as 'begin insert into kept values (new.*); return null; end'")
	a.exec("create trigger keep after insert on outbox for each row execute function keep()")
	count := func() (n int) {
		t.Helper()
		if err := a.Query(t.Context(), []any{&n}, "select count(*) from outbox"); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r := a.startReady()
	w := a.write(trial.Load{Rate: 1000})
	a.await("rows arrive", time.Minute, func() bool { _, arrived, _ := a.Ledger.Progress(); return arrived > 2000 })
	if a.prune() == 0 {
		t.Error("nothing is deleted although rows are in Kafka")
	}

	if err := kafka.Stop(0); err != nil {
		t.Fatal(err)
	}
	written := w.Rows()
	a.await("rows are written without a broker", time.Minute, func() bool { return w.Rows() > written+2000 })
	before := count()
	if n := a.prune(); n > 0 || count() < before {
		t.Errorf("without a broker %d rows are deleted", n)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	// No relay runs, and the broker is there: what is committed since is still to come.
	a.await("the slot is free", time.Minute, func() bool { _, pid, err := a.Confirmed(t.Context()); return err == nil && pid == 0 })
	a.prune()
	if n := count(); n < 2000 {
		t.Errorf("%d rows are left, and 2000 are not published", n)
	}
	r = a.startReady()
	a.mustStop(w)
	for deadline := time.Now().Add(3 * time.Minute); count() > 0 && time.Now().Before(deadline); {
		a.prune()
	}
	if n := count(); n > 0 {
		t.Errorf("%d rows are left when all is in Kafka", n)
	}
	a.stop(r)
	a.exec("alter table outbox rename to pruned")
	a.exec("alter table kept rename to outbox")
	a.judge()
	if log := r.Log(); strings.Contains(log, "publishes deletes") {
		t.Errorf("the relay minds the deletes: %s", end(log, 1000))
	}
}

// TestRelayVerifiesAndPrunesBesideItsJob, as configured: it deletes what is old and in Kafka, and says what is missing.
func TestRelayVerifiesAndPrunesBesideItsJob(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.exec("alter table outbox add column at timestamptz not null default clock_timestamp()")
	a.Config = a.Config.With("TIDEMARK_OUTBOX_0_COLUMNS_TIMESTAMP", "at", "TIDEMARK_RECONCILE_INTERVAL", "1s",
		"TIDEMARK_PRUNE_OLDER_THAN", "1h", "TIDEMARK_PRUNE_INTERVAL", "1s")
	r := a.startReady()
	if err := a.write(trial.Load{Rows: 500}).Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	read := func(path string) string {
		t.Helper()
		answer, err := http.Get(r.URL + path) //nolint:noctx // the test's own limit is enough
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close() //nolint:errcheck // read to its end
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	a.await("a verification that has missed nothing", time.Minute, func() bool {
		return strings.Contains(r.Log(), "no row is missing") && strings.Contains(read("/metrics"), "\ntidemark_reconcile_missing_events 0\n")
	})

	a.exec("update outbox set at = at - interval '1 day' where aggregatetype = $1", a.Types[0])
	var young int
	a.await("what is old is deleted", time.Minute, func() bool {
		var old int
		if err := a.Query(t.Context(), []any{&old, &young}, "select count(*) filter (where at < now() - interval '1 hour'), count(*) from outbox"); err != nil {
			t.Fatal(err)
		}
		return old == 0
	})
	if young == 0 {
		t.Error("young rows are deleted, too")
	}
	a.await("a count of the deleted", time.Minute, func() bool { return !strings.Contains(read("/metrics"), "\ntidemark_pruned_rows_total 0\n") })
	admin := a.admin()
	if _, err := admin.DeleteTopics(t.Context(), a.Topics()[1]); err != nil {
		t.Fatal(err)
	}
	a.await("the missing are told", time.Minute, func() bool {
		return strings.Contains(r.Log(), "rows are missing in Kafka") && !strings.Contains(read("/metrics"), "\ntidemark_reconcile_missing_events 0\n") &&
			!strings.Contains(read("/api/status"), `"reconcile":null`)
	})
	a.stop(r)
}
