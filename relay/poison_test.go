package relay_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/relay"
)

// event commits one event.
func (b *bench) event(key, topic, value string) {
	b.t.Helper()
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload) values ($1, $2, 'placed', to_jsonb($3::text))`, topic, key, value)
}

func values(records []*kgo.Record) []string {
	var out []string
	for _, r := range records {
		v := strings.Trim(string(r.Value), `"`)
		out = append(out, v[:min(len(v), 20)])
	}
	slices.Sort(out)
	return out
}

func mustBe(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// rejects makes the broker refuse every batch with this text in it, until heal.
func (b *bench) rejects(text string) (heal func()) {
	var healed atomic.Bool
	b.options.Kafka.Compression = "none"
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		produce, ok := request.(*kmsg.ProduceRequest)
		if !ok || healed.Load() {
			return nil, nil, false
		}
		bad := false
		for _, t := range produce.Topics {
			for _, p := range t.Partitions {
				bad = bad || bytes.Contains(p.Records, []byte(text))
			}
		}
		if !bad {
			return nil, nil, false
		}
		response := kmsg.NewPtrProduceResponse()
		response.Version = produce.Version
		for _, t := range produce.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.InvalidRecord.Code
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	return func() { healed.Store(true) }
}

func TestPoisonStopsBehindWhatCameBefore(t *testing.T) {
	t.Parallel()
	for name, poison := range map[string]func(*bench){
		"empty topic":      func(b *bench) { b.options.Tables[0].Topic = "{aggregatetype}"; b.event("k", "", "poison") },
		"invalid topic":    func(b *bench) { b.event("k", "a/b", "poison") },
		"too large":        func(b *bench) { b.event("k", "good", "poison"+strings.Repeat("x", 2<<20)) },
		"broker's refusal": func(b *bench) { b.rejects("POISON"); b.event("k", "good", "POISON") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.OnPoison, b.options.ResumeDedupe = relay.Stop, true
			b.event("k", "good", "before")
			poison(b)
			b.event("other", "good", "after")
			r := b.start()
			err := r.wait()
			var poisoned *relay.PoisonError
			if !errors.As(err, &poisoned) || poisoned.Event.ID == "" {
				t.Fatalf("Run returned %v, want the event that cannot be published", err)
			}
			var id string
			if err := b.db.QueryRow(t.Context(), "select id::text from outbox where payload::text ilike '%poison%'").Scan(&id); err != nil || id != poisoned.Event.ID {
				t.Errorf("it names event %s, want %s (%v)", poisoned.Event.ID, id, err)
			}
			topic := "outbox.event.good"
			if name == "empty topic" {
				topic = "good"
			}
			mustBe(t, "arrived", values(b.records(topic, 1)), "before")
		})
	}
}

func TestRejectedEventIsPublishedWhenTheCauseIsMended(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe = relay.Stop, true
	b.options.Kafka.Compression = "none"
	r := b.start()
	b.event("k", "good", "before")
	b.records("outbox.event.good", 1)
	heal := b.rejects("POISON")
	b.event("k", "good", "POISON")
	b.event("other", "good", "together")
	var poisoned *relay.PoisonError
	if err := r.wait(); !errors.As(err, &poisoned) {
		t.Fatalf("Run returned %v", err)
	}
	heal()
	r = b.start()
	b.event("k", "good", "then")
	mustBe(t, "arrived", values(b.records("outbox.event.good", 4)), "POISON", "before", "then", "together")
	r.stop()
}

func TestDeadLetterGoesOnAndKeepsTheEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.DeadLetterTopic = relay.DeadLetter, true, "dead"
	b.rejects("refused")
	b.event("k", "good", "1 before")
	b.event("k", "a/b", "invalid topic")
	b.event("k", "good", "2 between")
	b.event("k", "good", "too large"+strings.Repeat("x", 2<<20))
	r := b.start()
	b.event("k", "good", "3 between")
	mustBe(t, "arrived", values(b.records("outbox.event.good", 3)), "1 before", "2 between", "3 between")
	dead := b.records("dead", 2)
	mustBe(t, "dead letters", values(dead), "", "invalid topic")
	for _, d := range dead {
		if header(d, "id") == "" || header(d, "tidemark-error") == "" || header(d, "tidemark-topic") == "" || (len(d.Value) == 0) != (header(d, "tidemark-payload-omitted") != "") {
			t.Errorf("a dead letter's headers: %v", d.Headers)
		}
	}
	r.stop()
}

// TestRaisedLimitIsLearnt raises the limit that made events dead letters.
func TestRaisedLimitIsLearnt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.DeadLetterTopic = relay.DeadLetter, true, "dead"
	large := strings.Repeat("x", 2<<20)
	b.event("k", "good", "before")
	r := b.start()
	b.event("k", "good", large)
	b.records("dead", 1)
	b.raiseLimit()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...), kgo.ConsumeTopics("outbox.event.good"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	eventually(t, "a large event arrives", func() (arrived bool) {
		b.event("k", "good", large) // it does not look again for each
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { arrived = arrived || len(r.Value) > len(large) })
		return arrived
	})
	r.stop()
}

func TestRejectionIsPinnedOnItsEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe, b.options.DeadLetterTopic = relay.DeadLetter, true, "dead"
	b.rejects(`"refused"`)
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'good', 'k', 'placed', case when g = 50 then '"refused"'::jsonb else to_jsonb(g::text) end from generate_series(1, 100) g`)
	r := b.start()
	// As a dead letter it is refused as well, by its payload: this broker never takes it, and the relay says so.
	err := r.wait()
	var poisoned *relay.PoisonError
	if !errors.As(err, &poisoned) {
		t.Fatalf("Run returned %v", err)
	}
	if got := string(poisoned.Event.Value); got != `"refused"` {
		t.Errorf("it blames the event with %s", got)
	}
}
