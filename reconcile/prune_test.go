package reconcile_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/reconcile"
	"github.com/tidemark/tidemark/relay"
)

// newTimedBench is a bench whose rows have a time.
func newTimedBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.exec("alter table outbox add at timestamptz not null default clock_timestamp()")
	b.time()
	return b
}

func (b *bench) time() {
	b.verify.Tables[0].Columns.Timestamp = "at"
	b.relay.Tables = b.verify.Tables
}

func (b *bench) prune(change ...func(*reconcile.PruneOptions)) *reconcile.PruneReport {
	b.t.Helper()
	r, err := b.tryPrune(change...)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) tryPrune(change ...func(*reconcile.PruneOptions)) (*reconcile.PruneReport, error) {
	b.t.Helper()
	o := reconcile.PruneOptions{Options: b.verify, Before: time.Now().Add(-time.Hour), Patience: limit}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	return reconcile.Prune(ctx, o)
}

// left returns the ids that are still in the table, in the order of their times.
func (b *bench) left() []string {
	b.t.Helper()
	rows, err := b.db.Query(b.t.Context(), "select id::text from outbox order by at")
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			b.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// mustLeave compares what is left with these ids.
func (b *bench) mustLeave(want ...[]string) {
	b.t.Helper()
	got, all := b.left(), slices.Concat(want...)
	slices.Sort(got)
	slices.Sort(all)
	if !slices.Equal(got, all) {
		b.t.Errorf("%d rows are left, want %d", len(got), len(all))
	}
}

func (b *bench) age() { b.t.Helper(); b.exec("update outbox set at = at - interval '2 hours'") }

func mustKeep(t *testing.T, r *reconcile.PruneReport, deleted int64, kept map[string]int64) {
	t.Helper()
	one := r.Tables[0]
	if one.Deleted != deleted || len(one.Kept) != len(kept) {
		t.Errorf("%+v, want %d deleted and %v kept", one, deleted, kept)
	}
	for why, n := range kept {
		if one.Kept[why] != n {
			t.Errorf("%d rows are kept as %s, want %d: %v", one.Kept[why], why, n, one.Kept)
		}
	}
}

// TestPruneDeletesOldRowsThatAreInKafkaAndNoOthers: not the young, the parked, the missing, those that share an id, nor those
// that the relay has still to publish.
func TestPruneDeletesOldRowsThatAreInKafkaAndNoOthers(t *testing.T) {
	t.Parallel()
	b := newTimedBench(t)
	b.relay.OnPoison = relay.Park
	stop := b.start()
	old := b.insert("a", 2500)
	parked := b.insert("no topic", 2)
	b.published()
	b.age()
	young := b.insert("a", 20)
	b.published()
	stop()
	coming := b.insert("a", 10)
	b.exec("update outbox set at = at - interval '2 hours' where id in ('" + strings.Join(coming, "','") + "')")
	kept := map[string]int64{"parked": 2, "not_yet_published": 10}
	r := b.prune(func(o *reconcile.PruneOptions) { o.DryRun = true })
	mustKeep(t, r, 2500, kept)
	b.mustLeave(old, parked, young, coming)
	told := int64(0)
	r = b.prune(func(o *reconcile.PruneOptions) { o.Deleted = func(n int64) { told += n } })
	mustKeep(t, r, 2500, kept)
	if told != 2500 || r.Deleted() != 2500 {
		t.Errorf("told of %d rows, %d are reported", told, r.Deleted())
	}
	b.mustLeave(parked, young, coming)

	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	kept = map[string]int64{"parked": 2, "missing": 10}
	mustKeep(t, b.prune(), 0, kept)
	b.run(repair)
	delete(kept, "missing")
	mustKeep(t, b.prune(), 10, kept)
	b.mustLeave(parked, young)
}

// TestPruneKeepsWhatATopicHasLost, unless it is told otherwise, and then not what was never in it.
func TestPruneKeepsWhatATopicHasLost(t *testing.T) {
	t.Parallel()
	b := newTimedBench(t)
	b.start()
	lost := b.insert("a", 30)
	b.published()
	ends, err := b.admin.ListEndOffsets(t.Context(), "out.a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	there := b.insert("b", 5)
	b.published()
	b.age()
	everything := func(o *reconcile.PruneOptions) { o.Undecidable = true }
	mustKeep(t, b.prune(), 5, map[string]int64{"undecidable": 30})
	b.mustLeave(lost)
	_ = there
	gone := b.insert("c", 3)
	b.published()
	b.age()
	if _, err := b.admin.DeleteTopics(t.Context(), "out.c"); err != nil {
		t.Fatal(err)
	}
	mustKeep(t, b.prune(everything), 30, map[string]int64{"missing": 3})
	b.mustLeave(gone)
}

// TestPruneRefusesWithAWayOut where it cannot know the age, or may not delete.
func TestPruneRefusesWithAWayOut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()
	b.insert("a", 1)
	must := func(want string, change ...func(*reconcile.PruneOptions)) {
		t.Helper()
		if _, err := b.tryPrune(change...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one that says %q", err, want)
		}
	}
	must("outbox[].columns.timestamp")
	b.exec("alter table outbox add at timestamptz not null default clock_timestamp()")
	b.time()
	name := b.db.Config().Database
	b.exec("create role " + name + " login; grant select on outbox to " + name)
	t.Cleanup(func() {
		if _, err := b.db.Exec(context.Background(), "drop owned by "+name+"; drop role "+name); err != nil {
			t.Error(err)
		}
	})
	must(`grant select, delete on "public"."outbox" to "`+name+`"`, func(o *reconcile.PruneOptions) {
		o.Source.AdminDSN = strings.Replace(o.Source.DSN, "postgres@", name+"@", 1)
	})
	must("publish = 'insert'", func(o *reconcile.PruneOptions) {
		b.exec("create publication other for table outbox")
		o.Source.Publication = "other"
	})
}

// TestPruneDropsPartitionsOfWhichNothingHasToStay, and deletes from the others.
func TestPruneDropsPartitionsOfWhichNothingHasToStay(t *testing.T) {
	t.Parallel()
	b := newTimedBench(t)
	b.exec("drop table outbox")
	b.exec(`create table outbox (id uuid default gen_random_uuid(), aggregatetype text, aggregateid text, type text default 'placed', payload text,
		at timestamptz not null default clock_timestamp()) partition by range (at)`)
	b.exec(`create table outbox_1 partition of outbox for values from ('2020-01-01 00:00:00+00') to ('2020-02-01 00:00:00+00')`)
	b.exec(`create table outbox_2 partition of outbox for values from ('2020-02-01 00:00:00+00') to ('2020-03-01 00:00:00+00')`)
	b.exec(`create table outbox_3 partition of outbox for values from ('2020-03-01 00:00:00+00') to ('2100-01-01 00:00:00+00')`)
	b.relay.OnPoison = relay.Park
	b.start()
	into := func(at string) { b.exec("alter table outbox alter at set default '" + at + "'") }
	into("2020-01-05 00:00:00+00")
	b.insert("a", 50)
	into("2020-02-05 00:00:00+00")
	b.insert("a", 30)
	parked := b.insert("no topic", 1)
	into("2020-03-05 00:00:00+00")
	b.insert("a", 20)
	r := b.prune() // waits for the relay
	mustKeep(t, r, 100, map[string]int64{"parked": 1})
	if got := r.Tables[0].Dropped; len(got) != 1 || !strings.HasSuffix(got[0], "outbox_1") {
		t.Errorf("dropped %v, want outbox_1", got)
	}
	b.mustLeave(parked)
	b.insert("a", 5) // the relay goes on
	b.published()
	mustKeep(t, b.prune(), 5, map[string]int64{"parked": 1})
	// With a default partition, nobody can be let in meanwhile.
	b.exec("create table outbox_rest partition of outbox default")
	b.exec("delete from outbox where id = '" + parked[0] + "'")
	into("2020-02-05 00:00:00+00")
	b.insert("a", 7)
	r = b.prune()
	mustKeep(t, r, 7, nil)
	if got := r.Tables[0].Dropped; len(got) != 1 || !strings.HasSuffix(got[0], "outbox_2") {
		t.Errorf("dropped %v, want outbox_2", got)
	}
}
