package relay

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/wal"
)

func TestBudgetSaysEachShareOnceACrossing(t *testing.T) {
	b := budget{bytes: 1000}
	for i, step := range []struct {
		retained int64
		level    int
	}{
		{0, 0}, {499, 0}, {500, 50}, {499, 50}, {401, 50}, {500, 50}, {400, 50}, {399, 0}, {401, 0}, // a tenth less takes it back
		{800, 80}, {799, 80}, {1000, 100}, {950, 100}, {899, 80}, {999, 80}, {5000, 100}, {0, 0}, {1000, 100}, {700, 80}, {699, 50},
	} {
		if b.take(step.retained); b.level != step.level {
			t.Fatalf("step %d: level %d at %d, want %d", i, b.level, step.retained, step.level)
		}
	}
	none := budget{}
	if none.take(1 << 50); none.level != 0 {
		t.Error("without a budget something is passed")
	}
}

func TestWhatHoldsTheSlot(t *testing.T) {
	now := time.Now()
	old := now.Add(-time.Hour)
	active := &wal.Slot{Active: true}
	behind := wal.Retention{Slot: active, RetainedBytes: 100, LagBytes: 90, KeepBytes: -1}
	tests := map[string]struct {
		status Status
		seen   wal.Retention
		want   string
	}{
		"another process":      {Status{State: Standby, HeldBy: "b", kafkaSilent: true}, behind, "read by b"},
		"Kafka is away":        {Status{State: Streaming, kafkaSilent: true, LastError: "x", LastErrorAt: &now}, behind, "bring Kafka back"},
		"what fails now":       {Status{State: Streaming, LastError: "topic t does not exist", LastErrorAt: &now}, behind, "topic t does not exist"},
		"what failed once":     {Status{State: Streaming, LastError: "x", LastErrorAt: &old}, behind, "more is written than is published"},
		"Kafka stands still":   {Status{State: Streaming, OldestUnacked: 40}, behind, "acknowledged nothing for 40 s"},
		"a slot nobody reads":  {Status{State: Interrupted}, wal.Retention{Slot: &wal.Slot{}, RetainedBytes: 1, LagBytes: 1, KeepBytes: -1}, "nobody reads from it"},
		"an open transaction":  {Status{State: Streaming}, wal.Retention{Slot: active, RetainedBytes: 100, LagBytes: 10, KeepBytes: -1}, "pg_prepared_xacts"},
		"the server's own end": {Status{State: Streaming}, wal.Retention{Slot: active, RetainedBytes: 100, LagBytes: 90, KeepBytes: 3 << 30}, "max_slot_wal_keep_size is 3.0 GiB"},
	}
	for name, test := range tests {
		why, wayOut := holding(&test.status, &test.seen, now)
		if text := why + ": " + wayOut; !strings.Contains(text, test.want) || !strings.Contains(text, "raise source.wal_budget") {
			t.Errorf("%s: %q, want %q in it", name, text, test.want)
		}
	}
}

func TestAKeepSizeBelowTheBudgetIsSaid(t *testing.T) {
	for _, test := range []struct {
		keep, budget int64
		want         bool
	}{{-1, 100, false}, {100, 100, false}, {99, 100, true}, {0, 100, true}, {99, 0, false}} {
		r := wal.Retention{KeepBytes: test.keep}
		if err := r.KeepsLess(test.budget); (err != nil) != test.want {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
