package devstack_test

import (
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

func standbyOf(t *testing.T, primary *devstack.Postgres, opts devstack.StandbyOptions) *devstack.Postgres {
	t.Helper()
	standby, err := primary.Standby(t.Context(), opts)
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
	return standby
}

func mustExec(t *testing.T, dsn, sql string) {
	t.Helper()
	if err := exec1(t.Context(), dsn, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A standby is made while the primary is written to, follows it, takes its place, and gets a standby of its own.
func TestStandbyFollowsAndTakesOver(t *testing.T) {
	t.Parallel()
	first := startPostgres(t, devstack.PostgresOptions{})
	mustExec(t, first.DSN("postgres"), "create table t (i int)")
	mustExec(t, first.DSN("postgres"), "insert into t select generate_series(1, 1000)")
	second := standbyOf(t, first, devstack.StandbyOptions{Settings: map[string]string{"sync_replication_slots": "on"}})
	if !query1[bool](t, second.DSN("postgres"), "select pg_is_in_recovery()") {
		t.Error("the standby is none")
	}
	mustExec(t, first.DSN("postgres"), "insert into t values (0)")
	eventually(t, "the row arrives", func() bool {
		return query1[int](t, second.DSN("postgres"), "select count(*)::int from t") == 1001
	})

	if err := second.Restart(t.Context(), devstack.StopFast); err != nil { // it is a standby all the same
		t.Fatal(err)
	}
	mustExec(t, first.DSN("postgres"), "select pg_create_logical_replication_slot('s', 'pgoutput', failover => true)")
	eventually(t, "the failover slot is synced", func() bool {
		mustExec(t, first.DSN("postgres"), "select pg_log_standby_snapshot()") // its restart_lsn moves on at such records
		mustExec(t, first.DSN("postgres"), "select pg_replication_slot_advance('s', pg_current_wal_lsn())")
		return query1[bool](t, second.DSN("postgres"), "select exists (select from pg_replication_slots where slot_name = 's' and synced and not temporary)")
	})

	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := second.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, second.DSN("postgres"), "insert into t values (-1)")
	if !query1[bool](t, second.DSN("postgres"), "select exists (select from pg_replication_slots where slot_name = 's')") {
		t.Error("the failover slot has not lived through the promotion")
	}
	third := standbyOf(t, second, devstack.StandbyOptions{Slot: "other"})
	eventually(t, "the next standby has the row", func() bool {
		return query1[bool](t, third.DSN("postgres"), "select exists (select from t where i = -1)")
	})
}

func TestPromoteRefusesAPrimary(t *testing.T) {
	t.Parallel()
	if err := startPostgres(t, devstack.PostgresOptions{}).Promote(t.Context()); err == nil {
		t.Error("a primary was promoted")
	}
}
