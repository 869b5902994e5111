package reconcile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/reconcile"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

// TestVerifyFindsWhatADeletedTopicHasTakenAlong and brings exactly that back, with few rows a pass as with all at once.
func TestVerifyFindsWhatADeletedTopicHasTakenAlong(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 50} {
		t.Run(fmt.Sprint("rows a pass: ", room), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.verify.PassRows = room
			b.start()
			a, c := b.insert("a", 150), b.insert("c", 250)
			r := b.run() // waits for the relay
			b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 400})
			if r.Relay != "published" || (r.Passes > 1) != (room > 0) {
				t.Errorf("relay %q, %d passes", r.Relay, r.Passes)
			}
			if _, err := b.admin.DeleteTopics(t.Context(), "out.a"); err != nil {
				t.Fatal(err)
			}
			r = b.run()
			b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 250, reconcile.Missing: 150})
			b.mustFind(r, reconcile.Missing, a)
			r = b.run(repair)
			b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 250, reconcile.Repaired: 150})
			b.mustFind(r, reconcile.Repaired, a)
			b.mustHold("out.a", a)
			b.mustHold("out.c", c)
			for _, record := range b.records("out.a") {
				if header(record, "tidemark-replay") == "" || header(record, "tidemark-source") != r.Source {
					t.Fatalf("headers %v", record.Headers)
				}
			}
			b.mustCount(b.run(repair), map[reconcile.Fate]int64{reconcile.Published: 400})
			b.mustHold("out.a", a)
		})
	}
}

// TestWhatTheRelayHasStillToPublishIsNotMissing has no relay run: the log says what is still to come.
func TestWhatTheRelayHasStillToPublishIsNotMissing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	ids := b.insert("a", 40)
	b.published()
	stop()
	ids = append(ids, b.insert("a", 30)...)
	r := b.run(repair)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 40, reconcile.NotYetPublished: 30})
	if r.Relay != "stopped" {
		t.Errorf("relay %q", r.Relay)
	}
	b.mustHold("out.a", ids[:40])
	b.start()
	b.mustCount(b.run(repair), map[reconcile.Fate]int64{reconcile.Published: 70})
	b.mustHold("out.a", ids)
}

// TestVerifyBringsWhatALostSlotHasLost: rows that were committed while there was no slot, and those alone. What was
// published before them has smaller positions, what came behind them larger ones.
func TestVerifyBringsWhatALostSlotHasLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	before := b.insert("a", 30)
	b.published()
	stop()
	unread := b.insert("a", 20)
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	lost := slices.Concat(unread, b.insert("b", 25))
	r := b.run()
	if r.Relay != "no slot" {
		t.Errorf("relay %q", r.Relay)
	}
	b.mustFind(r, reconcile.Missing, lost)
	if _, err := b.try(repair); err == nil || !strings.Contains(err.Error(), "init --recreate-slot") {
		t.Errorf("a repair without a slot: %v", err)
	}

	b.recreateSlot()
	b.mustCount(b.run(), map[reconcile.Fate]int64{reconcile.Published: 30, reconcile.Missing: 45})
	coming := b.insert("a", 15) // behind the new slot: a relay will publish them
	b.mustFind(b.run(), reconcile.Missing, lost)
	b.start()
	r = b.run()
	b.mustFind(r, reconcile.Missing, lost)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 45, reconcile.Missing: 45})
	r = b.run(repair)
	b.mustFind(r, reconcile.Repaired, lost)
	b.mustCount(b.run(repair), map[reconcile.Fate]int64{reconcile.Published: 90})

	positions := map[string]string{}
	for _, record := range slices.Concat(b.records("out.a"), b.records("out.b")) {
		id := header(record, "id")
		if positions[id] != "" {
			t.Errorf("id %s is there twice", id)
		}
		positions[id] = header(record, "tidemark-position")
	}
	last := ""
	for i, id := range slices.Concat(before, lost, coming) {
		if positions[id] <= last {
			t.Errorf("event %d: position %q after %q", i, positions[id], last)
		}
		last = positions[id]
	}
}

// recreateSlot does what init --recreate-slot does.
func (b *bench) recreateSlot() {
	b.t.Helper()
	conn, err := wal.Connect(b.t.Context(), b.verify.Source)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	start, _, err := conn.CreateSlot(b.t.Context(), false)
	if err != nil {
		b.t.Fatal(err)
	}
	next := relay.NewCheckpoint(conn.System, b.verify.Source.Slot)
	next.LSN = checkpoint.LSN(start)
	if _, err := b.store.Replace(b.t.Context(), &next, time.Now()); err != nil {
		b.t.Fatal(err)
	}
}

// TestWhatRetentionHasDeletedIsNotCalledMissing, and what was written after the oldest record that is left, is.
func TestWhatRetentionHasDeletedIsNotCalledMissing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	old := b.insert("a", 35)
	b.published()
	b.insert("a", 35)
	b.published()
	stop()
	gone := map[string]bool{}
	for _, id := range old {
		gone[id] = true
	}
	offsets := kadm.Offsets{}
	for _, r := range b.records("out.a") {
		if gone[header(r, "id")] {
			offsets.Add(kadm.Offset{Topic: "out.a", Partition: r.Partition, At: r.Offset + 1, LeaderEpoch: -1})
		}
	}
	if _, err := b.admin.DeleteRecords(b.t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	b.mustCount(b.run(repair), map[reconcile.Fate]int64{reconcile.Published: 35, reconcile.Undecidable: 35})

	// A slot is lost. As long as nothing shows that it was later than the longest transaction, that is not decidable.
	stop = b.start()
	b.insert("a", 1)
	b.published()
	<-time.After(b.verify.LongestTransaction + 1500*time.Millisecond) // the time of records and rows is the server's
	b.insert("a", 1)
	b.published()
	stop()
	lost := b.insert("a", 14)
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	r := b.run(repair)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 37, reconcile.Undecidable: 35, reconcile.Repaired: 14})
	b.mustFind(r, reconcile.Repaired, lost)

	r = b.run(undecidableToo)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 51, reconcile.Repaired: 35})
	b.mustFind(r, reconcile.Repaired, old)
	b.mustCount(b.run(repair), map[reconcile.Fate]int64{reconcile.Published: 86})
}

// TestParkedAndDeadLetteredRowsAreNotMissing.
func TestParkedAndDeadLetteredRowsAreNotMissing(t *testing.T) {
	t.Parallel()
	for policy, want := range map[relay.Policy]map[reconcile.Fate]int64{
		relay.Park:       {reconcile.Published: 8, reconcile.Parked: 3}, // two wait behind the one that is too large
		relay.DeadLetter: {reconcile.Published: 10, reconcile.DeadLettered: 1},
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.relay.OnPoison = policy
			b.start()
			b.insert("a", 3)
			b.exec("insert into outbox (aggregatetype, aggregateid, payload) values ('a', 'k0', repeat('x', 2000000))")
			b.exec("insert into outbox (aggregatetype, aggregateid, payload) values (null, 'k0', 'no topic')")
			b.insert("a", 3)
			b.insert("b", 2)
			b.exec("insert into outbox (aggregatetype, aggregateid, payload) values ('a', 'k0', 'behind')")
			if policy == relay.Park {
				want[reconcile.Parked]++ // the one without a topic
			} else {
				want[reconcile.DeadLettered]++
			}
			want[reconcile.Published]--
			b.mustCount(b.run(repair), want)
		})
	}
}

// TestWhatCannotBePublishedIsReported, and holds up nothing else.
func TestWhatCannotBePublishedIsReported(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()()
	good := b.insert("a", 10)
	var poison string
	if err := b.db.QueryRow(t.Context(), "insert into outbox (aggregatetype, aggregateid, payload) values ('a', 'k0', repeat('x', 2000000)) returning id::text").Scan(&poison); err != nil {
		t.Fatal(err)
	}
	good = append(good, b.insert("a", 10)...)
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	r := b.run(repair)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Repaired: 20, reconcile.Unpublishable: 1})
	b.mustFind(r, reconcile.Unpublishable, []string{poison})
	if i := slices.IndexFunc(r.Found, func(f reconcile.Finding) bool { return f.ID == poison }); !strings.Contains(r.Found[i].Reason, "max.message.bytes") {
		t.Errorf("reason %q", r.Found[i].Reason)
	}
	b.mustHold("out.a", good)
	r = b.run(repair)
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Published: 20, reconcile.Unpublishable: 1})
	if r.Missing() != 1 {
		t.Errorf("%d missing", r.Missing())
	}
}

// TestCompactedTopicsOweTheLastRowOfAKeyAlone.
func TestCompactedTopicsOweTheLastRowOfAKeyAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()()
	policy := "compact"
	if _, err := b.admin.CreateTopics(t.Context(), 3, 1, map[string]*string{"cleanup.policy": &policy}, "out.a"); err != nil {
		t.Fatal(err)
	}
	ids := b.insert("a", 21)
	b.exec("insert into outbox (aggregatetype, aggregateid, payload) values ('a', 'tombstone', null)")
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	r := b.run()
	b.mustCount(r, map[reconcile.Fate]int64{reconcile.Missing: 7, reconcile.Undecidable: 15})
	b.mustFind(r, reconcile.Missing, ids[14:])

	for other, remarks := range map[string]int{"": 1, "out.b": 0} { // which says that replaying makes old events the newest
		replayed, err := b.tryReplay(func(o *reconcile.ReplayOptions) { o.DryRun, o.Topic = true, other })
		if err != nil {
			t.Fatal(err)
		}
		if len(replayed.Remarks) != remarks || remarks == 1 && !strings.Contains(replayed.Remarks[0], "topic out.a is compacted") {
			t.Errorf("replay to %q remarks %q", other, replayed.Remarks)
		}
	}
}

// TestRecordsOfOthersCount: who has published an event does not matter to its consumers.
func TestRecordsOfOthersCount(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()()
	ids := b.insert("a", 4)
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	if _, err := b.admin.CreateTopics(t.Context(), 3, 1, nil, "out.a", "out.b"); err != nil {
		t.Fatal(err)
	}
	write := func(topic string, headers ...kgo.RecordHeader) {
		t.Helper()
		if err := b.client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Headers: headers}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write("out.a", kgo.RecordHeader{Key: "id", Value: []byte(ids[0])})
	write("out.a", kgo.RecordHeader{Key: "ce_id", Value: []byte(ids[1])})
	write("out.b", kgo.RecordHeader{Key: "id", Value: []byte(ids[2])})                                                      // another topic
	write("out.a", kgo.RecordHeader{Key: "id", Value: []byte("other")}, kgo.RecordHeader{Key: "id", Value: []byte(ids[3])}) // of a column of headers
	b.mustFind(b.run(), reconcile.Missing, ids[2:])
}

// TestOneRepairAtATime: two at once would publish everything twice.
func TestOneRepairAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()()
	conn, err := wal.Connect(t.Context(), b.verify.Source)
	if err != nil {
		t.Fatal(err)
	}
	name := "tidemark repair " + relay.SourceName(conn.System, b.verify.Source.Slot)
	conn.Close()
	other, _, busy, err := wal.OpenNow(t.Context(), b.verify.Source, name)
	if err != nil || busy {
		t.Fatal(busy, err)
	}
	if _, err := b.try(repair); err == nil || !strings.Contains(err.Error(), "another repair") {
		t.Errorf("a second repair: %v", err)
	}
	b.run() // which changes nothing
	other.Close()
	b.eventually("the lock is free", func() bool { _, err := b.try(repair); return err == nil })
}

// TestChoice verifies a part of the rows.
func TestChoice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("alter table outbox add at timestamptz not null default clock_timestamp()")
	b.start()()
	b.insert("a", 400)
	b.exec("update outbox set at = at - interval '1 day'")
	b.insert("a", 10)
	stacktest.DropSlot(t, b.verify.Source.DSN, b.verify.Source.Slot)
	b.recreateSlot()
	hour := func(o *reconcile.Options) { o.Since = time.Now().Add(-time.Hour) }
	if _, err := b.try(hour); err == nil || !strings.Contains(err.Error(), "columns.timestamp") {
		t.Errorf("--since without a time: %v", err)
	}
	b.verify.Tables[0].Columns.Timestamp = "at"
	b.mustCount(b.run(hour), map[reconcile.Fate]int64{reconcile.Missing: 10})
	r := b.run(func(o *reconcile.Options) { o.Sample, o.Examples = 0.3, 5 })
	if n := r.Counts[reconcile.Missing]; n < 60 || n > 200 || r.Rows != n || len(r.Found) != 5 || r.Left != n-5 {
		t.Errorf("of 410 rows a sample of 30 %% has %d, %d are named", n, len(r.Found))
	}
	if _, err := b.try(func(o *reconcile.Options) { o.Only = []string{"public.nothing"} }); err == nil {
		t.Error("a table that is not configured is verified")
	}
	// Two rows that share an id cannot be told apart.
	b.exec("create table second (id uuid, aggregatetype text, aggregateid text, type text, payload text, at timestamptz)")
	b.exec("insert into second select * from outbox limit 3")
	second := b.verify.Tables[0]
	second.Name = "public.second"
	b.verify.Tables = append(b.verify.Tables, second)
	if r := b.run(); r.SharedIDs != 3 || r.Rows != 413 {
		t.Errorf("%d rows share an id, of %d", r.SharedIDs, r.Rows)
	}
}
