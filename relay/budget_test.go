package relay_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/relay"
)

// TestWALBudget has an event wait for a topic that nobody creates while the log goes on: the shares of the budget are said,
// readiness goes with the last one and names the cause, and both come back when the topic is there.
func TestWALBudget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Kafka.Topics.Create = false
	b.options.WALBudget, b.options.SlotEvery = 16<<20, 20*time.Millisecond
	r := b.start()
	eventually(t, "it streams", func() bool { return r.relay.Status().State == relay.Streaming })
	eventually(t, "the slot is seen", func() bool { return r.relay.Status().SlotActive })
	b.insert(1)
	for _, share := range []struct{ megabytes, percent int }{{9, 50}, {5, 80}, {4, 100}} {
		b.exec("select pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20)) from generate_series(1, $1)", share.megabytes)
		eventually(t, "the share is passed", func() bool {
			return r.relay.Status().RetainedWAL >= b.options.WALBudget*int64(share.percent)/100
		})
	}
	eventually(t, "it is not ready", func() bool { return r.relay.Ready() != nil })
	for _, want := range []string{"source.wal_budget is 16.0 MiB", "topic outbox.event.order does not exist: create it", "raise source.wal_budget"} {
		if text := r.relay.Ready().Error(); !strings.Contains(text, want) {
			t.Errorf("not ready because %q, want %q in it", text, want)
		}
	}
	if s := r.relay.Status(); s.SlotLag < 16<<20 || s.WALBudget != 16<<20 {
		t.Errorf("the status is %+v", s)
	}

	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "outbox.event.order"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready again", func() bool {
		b.exec("checkpoint") // which lets the slot's restart_lsn follow
		return r.relay.Ready() == nil
	})
	b.records("outbox.event.order", 1)
	r.stop()
}

// TestWALBudgetOnAHotStandby has the look go on where another process has the slot.
func TestWALBudgetOnAHotStandby(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.WALBudget, b.options.SlotEvery = 1, 20*time.Millisecond // passed at once, by any slot
	first := b.start()
	eventually(t, "it streams", func() bool { return first.relay.Status().State == relay.Streaming })
	second := b.start()
	eventually(t, "the second one waits", func() bool {
		s := second.relay.Status()
		return s.State == relay.Standby && s.SlotActive && s.RetainedWAL > 0
	})
	second.stop()
	first.stop()
}

// TestWALBudgetEndsWithARelayThatCannotBegin has the look end although no term ever did more than fail.
func TestWALBudgetEndsWithARelayThatCannotBegin(t *testing.T) {
	t.Parallel()
	o := relay.Options{Log: zerolog.Nop()}
	o.Source.DSN = "postgres://127.0.0.1:1/nowhere"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.New(o).Run(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}
