package relay_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/relay"
)

// TestNothingOvertakesARejectedEvent has the broker refuse an event of a key while more of them come in without a pause.
// The client takes what it is given after a refusal as a new beginning, and so does the broker.
func TestNothingOvertakesARejectedEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe = relay.Stop, true
	b.rejects("POISON")
	const before, after = 2000, 30_000
	r := b.start()
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'good', 'k', 'placed', to_jsonb(case g when $1 then 'POISON' else g::text end) from generate_series(0, $2) g`, before, before+after)
	var poisoned *relay.PoisonError
	if err := r.wait(); !errors.As(err, &poisoned) {
		t.Fatalf("Run returned %v, want the event that cannot be published", err)
	}
	b.records("outbox.event.good", before)
}

// A slot belongs to one database. Whoever comes from another does not wait for it as a hot standby, for ever.
func TestASlotOfAnotherDatabaseIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	b, other := newBench(t), newBench(t)
	r := b.start()
	eventually(t, "streaming", func() bool { return r.relay.Status().State == relay.Streaming })
	other.options.Source.Slot = b.slot
	if err := other.start().wait(); err == nil || !strings.Contains(err.Error(), "belongs to database "+b.db.Config().Database) {
		t.Errorf("Run: %v", err)
	}
	r.stop()
}

// A role that may not read the table is told so before anything is made: a slot would keep log that nobody reads.
func TestNoSlotIsMadeForARoleThatMayNotReadTheTable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	role := b.slot + "_r"
	b.exec("create role " + role + " login replication")
	t.Cleanup(func() { _, _ = b.db.Exec(context.Background(), "drop role "+role) })
	b.exec("create publication tidemark for table outbox with (publish = 'insert')")
	u, err := url.Parse(b.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	b.options.Source.DSN = u.String()
	if err := b.start().wait(); err == nil || !strings.Contains(err.Error(), `grant select on "public"."outbox" to "`+role) {
		t.Errorf("Run: %v", err)
	}
	var slots int
	if err := b.db.QueryRow(t.Context(), "select count(*) from pg_replication_slots where slot_name = $1", b.slot).Scan(&slots); err != nil || slots > 0 {
		t.Errorf("%d slots, %v", slots, err)
	}
	if c, err := b.store.Load(t.Context()); c != nil || err != nil {
		t.Errorf("stored is %+v, %v", c, err)
	}
}
