package relay_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/relay"
)

// lot opens the table of parked events as the commands do.
func (b *bench) lot() *park.Store {
	b.t.Helper()
	var id string
	if err := b.db.QueryRow(b.t.Context(), "select system_identifier::text from pg_control_system()").Scan(&id); err != nil {
		b.t.Fatal(err)
	}
	s, err := park.Open(b.t.Context(), b.dsn, id+"/"+b.db.Config().Database+"/"+b.slot)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(s.Close)
	return s
}

func (b *bench) parkedIs(lot *park.Store, n int64) {
	b.t.Helper()
	var got int64
	eventually(b.t, "the number of parked events is as it should be", func() bool {
		var err error
		got, err = lot.Count(b.t.Context())
		return err == nil && got == n
	})
}

// inOrder returns the values of one key in the order of their offsets.
func inOrder(records []*kgo.Record, key string) []string {
	var out []string
	for _, r := range records {
		if string(r.Key) == key {
			v := strings.Trim(string(r.Value), `"`)
			out = append(out, v[:min(len(v), 3)])
		}
	}
	return out
}

func TestParkedEventHoldsItsKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.ParkDSN = relay.Park, true, b.dsn
	lot := b.lot()
	r := b.start()
	b.event("k", "good", "k1")
	b.event("k", "good", "k2 "+strings.Repeat("x", 2<<20)) // above the topic's limit
	b.event("k", "good", "k3")
	b.event("o", "good", "o1")
	b.event("k", "good", "k4")
	b.event("o", "good", "o2")
	records := b.records("outbox.event.good", 3)
	if got := inOrder(records, "k"); !slices.Equal(got, []string{"k1"}) {
		t.Errorf("under the parked key arrived %q", got)
	}
	b.parkedIs(lot, 3)
	r.stop()

	// It is still parked after a restart, and so is what comes then.
	r = b.start()
	b.event("k", "good", "k5")
	b.parkedIs(lot, 4)
	b.records("outbox.event.good", 3)

	// Released while the cause is still there, it comes back, and nothing overtakes it.
	release := func() {
		events, err := lot.List(t.Context(), 1)
		if err != nil || len(events) != 1 {
			t.Fatalf("list: %v, %v", events, err)
		}
		if err := lot.Release(t.Context(), events[0].Event.ID); err != nil {
			t.Fatal(err)
		}
	}
	release()
	eventually(t, "the event is parked again", func() bool {
		events, err := lot.List(t.Context(), 1)
		return err == nil && len(events) == 1 && events[0].State == park.Waiting
	})
	b.records("outbox.event.good", 3)

	// The cause is mended.
	b.raiseLimit()
	release()
	records = b.records("outbox.event.good", 7)
	if got, want := inOrder(records, "k"), []string{"k1", "k2 ", "k3", "k4", "k5"}; !slices.Equal(got, want) {
		t.Errorf("order of the key: %q, want %q", got, want)
	}
	mustArriveInOrderPerKey(t, records)
	b.parkedIs(lot, 0)
	b.event("k", "good", "k6")
	b.records("outbox.event.good", 8)
	b.parkedIs(lot, 0)
	r.stop()
}

// TestReleasedEventOfAnInvalidTopicHoldsNobodyUp: its topic has no end that could be looked up.
func TestReleasedEventOfAnInvalidTopicHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.ParkDSN = relay.Park, true, b.dsn
	b.options.Kafka.Brokers = stacktest.Kafka(t) // the imitation takes any name
	lot := b.lot()
	r := b.start()
	b.event("k", "a/b", "x1")
	b.parkedIs(lot, 1)
	if _, err := lot.ReleaseAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is parked again", func() bool {
		events, err := lot.List(t.Context(), 1)
		return err == nil && len(events) == 1 && events[0].State == park.Waiting
	})
	r.stop()
}

func TestPoisonIsNotDoneBeforeItIsParked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.ParkDSN = relay.Park, true, b.dsn
	b.options.DrainTimeout = 200 * time.Millisecond
	lot := b.lot()
	r := b.start()
	b.event("k", "good", "k1")
	b.records("outbox.event.good", 1)
	b.exec("alter table tidemark_parked rename to hidden")
	b.event("k", "a/b", "x1")
	eventually(t, "the event cannot be parked", func() bool { return r.relay.Status().LastError != "" })
	r.stop()
	b.exec("alter table hidden rename to tidemark_parked")
	r = b.start()
	b.parkedIs(lot, 1)
	r.stop()
}

func TestDiscardedEventLetsItsKeyGo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.ParkDSN = relay.Park, true, b.dsn
	lot := b.lot()
	b.event("k", "a/b", "x1")
	b.event("k", "good", "k1")
	b.event("k", "good", "k2 "+strings.Repeat("x", 2<<20))
	b.event("k", "good", "k3")
	r := b.start()
	b.records("outbox.event.good", 1)
	b.parkedIs(lot, 3)
	events, err := lot.List(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if !e.Behind {
			if err := lot.Discard(t.Context(), e.Event.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := inOrder(b.records("outbox.event.good", 2), "k"), []string{"k1", "k3"}; !slices.Equal(got, want) {
		t.Errorf("arrived %q, want %q", got, want)
	}
	b.parkedIs(lot, 0)
	r.stop()
}

// raiseLimit mends what stands against large events.
func (b *bench) raiseLimit() {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	_, err = kadm.NewClient(client).AlterTopicConfigs(b.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: new("8388608")}}, "outbox.event.good")
	if err != nil {
		b.t.Fatal(err)
	}
}

// mustArriveInOrderPerKey checks that positions grow within a key, and that no id comes twice.
func mustArriveInOrderPerKey(t *testing.T, records []*kgo.Record) {
	t.Helper()
	last, seen := map[string]string{}, map[string]bool{}
	for _, r := range records {
		id, position := header(r, "id"), header(r, "tidemark-position")
		if seen[id] || position <= last[string(r.Key)] {
			t.Errorf("key %s: event %s at %s after %s", r.Key, id, position, last[string(r.Key)])
		}
		seen[id], last[string(r.Key)] = true, position
	}
}

// An event that is parked may lie beyond the checkpoint: when those before it in the log are not acknowledged. Released before
// a successor has read up to it, it must not go before that: it would go a second time when the log brings it.
func TestReleasedEventGoesWhenTheLogHasBroughtIt(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]*string{"with a key": new("k"), "without a key": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			releaseBeyondTheCheckpoint(t, key)
		})
	}
}

func releaseBeyondTheCheckpoint(t *testing.T, key *string) {
	t.Helper()
	b := newBench(t)
	b.exec("alter table outbox alter aggregateid drop not null")
	b.options.OnPoison, b.options.ResumeDedupe, b.options.ParkDSN = relay.Park, true, b.dsn
	b.options.DrainTimeout = 100 * time.Millisecond
	lot := b.lot()
	var cut, slow atomic.Bool
	b.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if cut.Load() {
			return nil, errors.New("the connection breaks"), true
		}
		if slow.Load() {
			b.cluster.SleepControl(func() { <-time.After(100 * time.Millisecond) })
		}
		return nil, nil, false
	})
	r := b.start()
	b.event("o", "good", "first")
	b.records("outbox.event.good", 1)
	cut.Store(true)
	const behind = 60
	for range behind {
		b.event("o", "good", strings.Repeat("o", 40_000))
	}
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload) values ('good', $1, 'placed', to_jsonb(repeat('x', 2 << 20)))`, key) // above the topic's limit
	b.parkedIs(lot, 1)
	r.stop()
	cut.Store(false)

	b.raiseLimit()
	if _, err := lot.ReleaseAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	b.options.MaxBufferedBytes = 64 << 10 // it reads for longer than it waits before it looks at what is parked
	r = b.start()
	b.parkedIs(lot, 0)
	mustArriveInOrderPerKey(t, b.records("outbox.event.good", 1+behind+1))
	r.stop()
}
