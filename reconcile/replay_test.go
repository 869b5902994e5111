package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/reconcile"
)

func (b *bench) replay(change func(*reconcile.ReplayOptions)) *reconcile.ReplayReport {
	b.t.Helper()
	r, err := b.tryReplay(change)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) tryReplay(change func(*reconcile.ReplayOptions)) (*reconcile.ReplayReport, error) {
	b.t.Helper()
	o := reconcile.ReplayOptions{Options: b.verify, Example: 3, Patience: limit}
	change(&o)
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	return reconcile.Replay(ctx, o)
}

// replays returns the ids of the replayed records of a topic, in the order of their partitions, and the positions of all
// records by their ids.
func (b *bench) replays(topic string) (ids []string, positions map[string][]string) {
	b.t.Helper()
	positions = map[string][]string{}
	for _, r := range b.records(topic) {
		id := header(r, "id")
		if header(r, "tidemark-replay") != "" {
			ids = append(ids, id)
		}
		positions[id] = append(positions[id], header(r, "tidemark-position"))
	}
	return ids, positions
}

// TestReplayPublishesWhatIsChosen, in the order of each key, with its first position, marked; and no row that the relay has
// still to publish.
func TestReplayPublishesWhatIsChosen(t *testing.T) {
	t.Parallel()
	b := newTimedBench(t)
	ids := b.insert("a", 14) // before there is a slot
	stop := b.start()
	ids = append(ids, b.insert("a", 26)...)
	b.exec("update outbox set type = 'other' where aggregateid = 'k1'")
	b.published()
	key, kind := "k2", "other"
	var ofKey, ofKind []string
	for i, id := range ids {
		switch i % 7 {
		case 2:
			ofKey = append(ofKey, id)
		case 1:
			ofKind = append(ofKind, id)
		}
	}
	_, positions := b.replays("out.a")
	position := func(i int) *decode.Position {
		p, err := decode.ParsePosition(positions[ids[i]][0])
		if err != nil {
			t.Fatal(err)
		}
		return &p
	}
	for name, test := range map[string]struct {
		choose func(*reconcile.ReplayOptions)
		want   []string
	}{
		"ids":       {func(o *reconcile.ReplayOptions) { o.IDs = []string{ids[3], ids[30]} }, []string{ids[3], ids[30]}},
		"key":       {func(o *reconcile.ReplayOptions) { o.Key = &key }, ofKey},
		"type":      {func(o *reconcile.ReplayOptions) { o.Type = &kind }, ofKind},
		"both":      {func(o *reconcile.ReplayOptions) { o.Type, o.Key = &kind, &key }, nil},
		"positions": {func(o *reconcile.ReplayOptions) { o.After, o.Before = position(10), position(12) }, ids[10:13]},
		"times":     {func(o *reconcile.ReplayOptions) { o.To = time.Now().Add(-time.Hour) }, nil},
		"the rest":  {func(o *reconcile.ReplayOptions) { o.From = time.Now().Add(-time.Hour) }, ids},
	} {
		r := b.replay(func(o *reconcile.ReplayOptions) { test.choose(o); o.DryRun = true })
		if r.Replayed != int64(len(test.want)) || len(r.Examples) != min(3, len(test.want)) {
			t.Errorf("%s: a dry run says %+v, want %d", name, r, len(test.want))
		}
		to := "copy." + name[:2]
		r = b.replay(func(o *reconcile.ReplayOptions) { test.choose(o); o.Topic = to })
		if r.Replayed != int64(len(test.want)) || len(r.Left) > 0 {
			t.Errorf("%s: %+v, want %d", name, r, len(test.want))
		}
		if len(test.want) == 0 {
			continue
		}
		b.mustHold(to, test.want)
		got, at := b.replays(to)
		for _, id := range got {
			if at[id][0] != positions[id][0] {
				t.Errorf("%s: %s has position %s, and had %s", name, id, at[id][0], positions[id][0])
			}
		}
		if len(got) != len(test.want) {
			t.Errorf("%s: %d records are marked, want %d", name, len(got), len(test.want))
		}
	}
	began := time.Now()
	b.replay(func(o *reconcile.ReplayOptions) { o.Key, o.Topic, o.Rate = &key, "copy.slowly", 10 })
	if took := time.Since(began); took < 400*time.Millisecond { // six rows, five times between
		t.Errorf("6 rows at 10 a second took %v", took)
	}
	stop()
	b.insert("a", 7)
	if r := b.replay(func(o *reconcile.ReplayOptions) { o.Key, o.Topic = &key, "copy.again" }); r.Replayed != 6 || len(r.Left) != 1 {
		t.Errorf("with one still to come: %+v", r)
	}
	if _, err := b.tryReplay(func(o *reconcile.ReplayOptions) { o.From, o.MostRow = time.Now().Add(-time.Hour), 20 }); !reconcile.IsTooMany(err) {
		t.Errorf("more rows than may be: %v", err)
	}
}

// TestRelayGoesOnBehindAReplay as if there had been none: it publishes nothing twice, and does not take a replayed record for
// the one that it has published beyond the checkpoint, although that has the same position.
func TestRelayGoesOnBehindAReplay(t *testing.T) {
	t.Parallel()
	b := newTimedBench(t)
	stop := b.start()
	b.insert("a", 20)
	b.published()
	stop()
	before, err := b.store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot := b.verify.Source.Slot
	b.eventually("the slot is copied", func() bool {
		_, err := b.db.Exec(t.Context(), "select pg_copy_logical_replication_slot($1::name, $2::name)", slot, slot+"_old")
		return err == nil
	})
	stop = b.start()
	ids := b.insert("a", 10)
	b.published()
	ends, err := b.admin.ListEndOffsets(t.Context(), "out.a")
	if err != nil {
		t.Fatal(err)
	}
	if r := b.replay(func(o *reconcile.ReplayOptions) { o.IDs = ids }); r.Replayed != 10 {
		t.Errorf("%+v", r)
	}
	stop()
	// crashed has the relay begin with what was stored before these ids.
	crashed := func() {
		t.Helper()
		after, err := b.store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stacktest.DropSlot(t, b.verify.Source.DSN, slot)
		if _, err := b.db.Exec(t.Context(), "select pg_copy_logical_replication_slot($1::name, $2::name)", slot+"_old", slot); err != nil {
			t.Fatal(err)
		}
		back := *before
		back.Writer, back.Producers = after.Writer, after.Producers
		if _, err := b.store.Replace(t.Context(), &back, time.Now()); err != nil {
			t.Fatal(err)
		}
		stop = b.start()
		b.published()
		stop()
	}
	times := func(want int) {
		t.Helper()
		_, positions := b.replays("out.a")
		for _, id := range ids {
			if n := len(positions[id]); n != want {
				t.Errorf("event %s is there %d times, want %d", id, n, want)
			}
		}
	}
	crashed()
	times(2) // the first record and the replay
	if _, err := b.admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	times(1) // the replay
	crashed()
	times(2) // and the first record again, which was not there
}
