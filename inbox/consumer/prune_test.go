package consumer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

// TestWhatMayComeAgainIsNotPruned: whatever the limits say, a group that is reset to the start of its topic handles
// nothing twice.
func TestWhatMayComeAgainIsNotPruned(t *testing.T) {
	t.Parallel()
	const events = 10
	day, week := int64(24*time.Hour/time.Millisecond), int64(7*24*time.Hour/time.Millisecond)
	for _, c := range []struct {
		what      string
		configs   map[string]int64
		policy    string
		retention consumer.Retention
		start     int64 // of the log
		committed int64
		age       time.Duration // since all were handled
		pruned    int64
	}{
		{"the log starts at 6", map[string]int64{"retention.ms": day, "segment.ms": day}, "delete", consumer.Retention{}, 6, 8, 73 * time.Hour, 6},
		{"the group lags behind", map[string]int64{"retention.ms": day, "segment.ms": day}, "delete", consumer.Retention{}, 6, 4, 73 * time.Hour, 4},
		{"nothing is deleted from the log", map[string]int64{"retention.ms": day, "segment.ms": day}, "delete", consumer.Retention{}, 0, 10, 73 * time.Hour, 0},
		{"within retention, segment and margin", map[string]int64{"retention.ms": day, "segment.ms": day}, "delete", consumer.Retention{}, 6, 8, 71 * time.Hour, 0},
		{"a longer margin", map[string]int64{"retention.ms": day, "segment.ms": day}, "delete", consumer.Retention{Margin: 72 * time.Hour}, 6, 8, 73 * time.Hour, 0},
		{"Kafka's defaults are a week each", map[string]int64{"retention.ms": week, "segment.ms": week}, "delete", consumer.Retention{}, 6, 8, 14 * 24 * time.Hour, 0},
		{"for ever", map[string]int64{"retention.ms": -1, "segment.ms": day}, "delete", consumer.Retention{}, 6, 8, 1000 * time.Hour, 0},
		{"compacted", map[string]int64{"retention.ms": day, "segment.ms": day}, "compact", consumer.Retention{}, 6, 8, 1000 * time.Hour, 0},
		{"compacted and deleted", map[string]int64{"retention.ms": day, "segment.ms": day}, "compact,delete", consumer.Retention{}, 6, 8, 73 * time.Hour, 6},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			brokers, l := stacktest.FakeKafka(t), newLedger(t)
			name := "orders"
			cfg := config(brokers, name, l.pool)
			_, client := topic(t, brokers, 1)
			admin := kadm.NewClient(client)
			configs := map[string]*string{"cleanup.policy": &c.policy}
			for key, value := range c.configs {
				configs[key] = new(fmt.Sprint(value))
			}
			_, err := admin.CreateTopic(t.Context(), 1, 1, configs, name)
			must(t, err)
			for n := 1; n <= events; n++ {
				produce(t, client, record(name, "a", n))
			}
			_, stop := run(t, cfg)
			l.mustHave(t, events, "effects")
			stop()
			_, err = l.pool.Exec(t.Context(), "update inbox set handled_at = now() - $1::interval", c.age)
			must(t, err)
			var starts, offsets kadm.Offsets
			starts.AddOffset(name, 0, c.start, -1)
			_, err = admin.DeleteRecords(t.Context(), starts)
			must(t, err)
			offsets.AddOffset(name, 0, c.committed, -1)
			must(t, admin.CommitAllOffsets(t.Context(), name, offsets))

			limits, err := consumer.PruneLimits(t.Context(), client, name, c.retention)
			must(t, err)
			n, err := inbox.Prune(t.Context(), l.pool, name, limits...)
			must(t, err)
			if n != c.pruned {
				t.Errorf("%d rows are deleted, want %d; limits %v", n, c.pruned, limits)
			}

			var reset kadm.Offsets
			reset.AddOffset(name, 0, 0, -1)
			must(t, admin.CommitAllOffsets(t.Context(), name, reset))
			again := make(chan inbox.Outcome, events)
			cfg.Hooks.Done = func(_ inbox.Event, outcome inbox.Outcome, _ time.Duration) { again <- outcome }
			run(t, cfg)
			for range events - c.start {
				if outcome := <-again; outcome != inbox.Duplicate {
					t.Errorf("an event that is delivered again is %s", outcome)
				}
			}
			l.mustBalance(t, 1, events)
		})
	}
}

// TestTopicsThatKeepAllArePrunedByAgeWhereAsked: then the committed offset is the limit.
func TestTopicsThatKeepAllArePrunedByAgeWhereAsked(t *testing.T) {
	t.Parallel()
	brokers := stacktest.FakeKafka(t)
	_, client := topic(t, brokers, 1)
	admin := kadm.NewClient(client)
	if limits, err := consumer.PruneLimits(t.Context(), client, "nobody", consumer.Retention{}); len(limits) != 0 {
		t.Errorf("a group that does not exist: %v, %v", limits, err)
	}
	_, err := admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"retention.ms": new("-1")}, "forever")
	must(t, err)
	var offsets kadm.Offsets
	offsets.AddOffset("forever", 0, 8, -1)
	must(t, admin.CommitAllOffsets(t.Context(), "group", offsets))
	limits, err := consumer.PruneLimits(t.Context(), client, "group", consumer.Retention{Forever: time.Hour})
	must(t, err)
	if want := (inbox.Limit{Topic: "forever", Before: 8, Age: time.Hour}); len(limits) != 1 || limits[0] != want {
		t.Errorf("%v, want %v", limits, want)
	}
}
