package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/decode"
)

// Whatever passes by itself costs neither the order nor a duplicate: brokers that refuse, that answer with an error
// although they have written, and partitions that move to another broker.
func TestOrderSurvivesErrorsThatPass(t *testing.T) {
	t.Parallel()
	const partitions, batches = 3, 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	cluster := newCluster(t, kfake.NumBrokers(2))
	out := open(t, cluster, func(o *Options) { o.Topics.Partitions = partitions; o.Compression = "lz4" }).prepare("t")
	var hits atomic.Int64
	inject := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // no secret; of the cluster's goroutine
	for _, err := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.LeaderNotAvailable, kerr.KafkaStorageError, kerr.NetworkException, kerr.UnknownTopicOrPartition,
	} {
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 2, When: func(kmsg.Request) bool {
			if inject.IntN(8) > 0 {
				return false
			}
			hits.Add(1)
			return true
		}})
	}
	want := map[int32][]decode.Event{}
	n := 0
	for i := range batches {
		var batch []decode.Event
		for range 1 + random.IntN(20) {
			partition := random.Int32N(partitions)
			ev := event("t", partition, len(want[partition]))
			want[partition] = append(want[partition], ev)
			batch = append(batch, ev)
		}
		out.hand(batch...)
		n += len(batch)
		if i%10 == 0 {
			cluster.ShufflePartitionLeaders()
		}
		if random.IntN(4) == 0 {
			out.answers(n) // now and then nothing is in flight
		}
	}
	out.mustAck(n)
	mustHold(t, cluster, want)
	if hits.Load() == 0 {
		t.Error("nothing was injected")
	}
	// A key's acknowledgements come in order, too, with the offsets at which the records are.
	next := map[int32]int64{}
	for _, a := range out.answers(n) {
		if a.Offset != next[a.Partition] {
			t.Errorf("partition %d acknowledges offset %d, want %d", a.Partition, a.Offset, next[a.Partition])
		}
		next[a.Partition]++
	}
}

// away makes every connection of the cluster end as soon as something is asked, while it is set.
func away(c *kfake.Cluster) *atomic.Bool {
	var gone atomic.Bool
	c.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, errors.New("away"), gone.Load()
	})
	return &gone
}

// An outage is waited for, however long, from the first event on as well as in the middle.
func TestOutageIsWaitedFor(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	gone := away(cluster)
	out := open(t, cluster).prepare("t")
	if d, err := out.Silence(time.Now()); d != 0 || err != nil {
		t.Errorf("Silence() = %s, %v while brokers answer", d, err)
	}
	want := map[int32][]decode.Event{}
	n := 0
	publish := func(partition int32) {
		batch := events(partition, len(want[partition]), 20)
		want[partition] = append(want[partition], batch...)
		out.hand(batch...)
		n += len(batch)
	}
	for round := range 2 { // in the first the client has not even an id
		gone.Store(true)
		begin := time.Now()
		publish(0)
		eventually(t, "the silence is noticed", func() bool {
			d, err := out.Silence(time.Now())
			return d > 500*time.Millisecond && err != nil
		})
		// More goes on being taken. No connection is left to write it to, so the client may fail it, unlike what is under way.
		publish(1)
		publish(0)
		if err := out.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), cluster.ListenAddrs()[0]) {
			t.Errorf("Ping: %v, want one that names the brokers", err)
		}
		eventually(t, "the outage has lasted", func() bool { return time.Since(begin) > 2*time.Second })
		if back := out.answers(0); len(back) != n-60 {
			t.Fatalf("round %d: %d deliveries have come back, want %d: %v", round, len(back), n-60, back[len(back)-1].err)
		}
		gone.Store(false)
		out.mustAck(n)
		eventually(t, "the silence is over", func() bool {
			d, err := out.Silence(time.Now())
			return d == 0 && err == nil
		})
	}
	if err := out.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
	mustHold(t, cluster, want)
}

// What else was under way on a connection that has ended fails for that, and says nothing of the reason.
func TestSilenceTellsTheReason(t *testing.T) {
	t.Parallel()
	h := &health{}
	died := errors.New("the broker connection has died and the request will be retried on a new connection")
	for i, err := range []error{died, io.EOF, died, nil, died} {
		h.observe(err)
		if _, got := h.silence(time.Now()); !errors.Is(got, []error{died, io.EOF, io.EOF, nil, died}[i]) {
			t.Errorf("%d: behind %v it tells %v", i, err, got)
		}
	}
}

func TestSilenceIsNoticedWhereNobodyListens(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster)
	cluster.Close()
	if d, err := out.Silence(time.Now()); d != 0 || err != nil {
		t.Errorf("Silence() = %s, %v before anything was asked", d, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := out.Ping(ctx); err == nil {
		t.Error("Ping succeeds")
	}
	if d, err := out.Silence(time.Now()); d <= 0 || err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Silence() = %s, %v, want that the connection is refused", d, err)
	}
}

// A topic of which a broker does not know yet, or not any more, is waited for.
func TestUnknownTopicIsWaitedFor(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster).prepare("t", "u")
	unknown := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.UnknownTopicOrPartition, Count: -1})
	out.hand(event("t", 0, 1), event("u", 0, 2))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := unknown.Wait(ctx, 6); err != nil { // the client's default gives up before
		t.Fatal(err)
	}
	back := out.answers(1)
	if len(back) != 1 || back[0].err != nil || back[0].Event.Topic != "u" {
		t.Errorf("%d deliveries are back, want that of the other topic: %+v", len(back), back)
	}
	unknown.Remove()
	out.mustAck(2)
	mustHold(t, cluster, map[int32][]decode.Event{0: {event("t", 0, 1)}})
}

// What Kafka rejects for good fails together with everything behind it, handed over already or not: nothing overtakes it.
func TestNothingOfThePartitionIsAcknowledgedBehindARejectedEvent(t *testing.T) {
	t.Parallel()
	for _, reason := range []*kerr.Error{
		kerr.MessageTooLarge, kerr.InvalidRecord, kerr.PolicyViolation, kerr.InvalidTimestamp, kerr.CorruptMessage,
		kerr.TopicAuthorizationFailed, kerr.RecordListTooLarge,
	} {
		t.Run(reason.Message, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t)
			out := open(t, cluster).prepare("t")
			out.hand(event("t", 0, 0), event("t", 1, 0))
			out.mustAck(2)
			// Nothing is answered until all of it is handed over.
			release := make(chan struct{})
			cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				cluster.DropControl()
				cluster.SleepControl(func() { <-release })
				return nil, nil, false
			})
			rejected := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Partitions: []int32{0}, Err: reason, Count: 1})
			n := 2
			hand := func() {
				from := n / 2
				out.hand(append(events(0, from, 10), events(1, from, 10)...)...)
				n += 20
			}
			for range 3 {
				hand()
			}
			close(release)
			out.answers(n)
			for range 3 { // the client would go on, under its next epoch, and the broker would take it
				hand()
				out.answers(n)
			}
			refused, there := 0, 1
			for _, a := range out.answers(n)[2:] {
				switch poison := IsPoison(a.err); {
				case a.Event.Partition == 0 && poison && errors.Is(a.err, reason) && Reason(a.err) == reason.Message && !IsFenced(a.err):
					refused++
				case a.Event.Partition == 1 && a.err == nil:
					there++
				case poison || !errors.Is(a.err, context.Canceled): // never sent
					t.Errorf("event %s: %v", a.Event.ID, a.err)
				}
			}
			if refused == 0 || rejected.Hits() != 1 {
				t.Errorf("%d events were rejected, in %d attempts: somebody tries again, or nobody did", refused, rejected.Hits())
			}
			mustHold(t, cluster, map[int32][]decode.Event{0: events(0, 0, 1), 1: events(1, 0, there)})
			if end := out.Ends()["t"][0]; end != 1 {
				t.Errorf("partition 0 ends at %d, want behind what was acknowledged, at 1", end)
			}
		})
	}
}

// Where one event is published at a time to find out which one is rejected, the next ones go on.
func TestRejectedEventIsPassedOverWhereThatIsWanted(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster).prepare("t")
	out.Lenient(true)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: 1})
	out.hand(event("t", 0, 0))
	if err := out.answers(1)[0].err; !IsPoison(err) {
		t.Errorf("the first event: %v", err)
	}
	for n := range 3 {
		out.hand(event("t", 0, 1+n))
		if err := out.answers(2 + n)[1+n].err; err != nil {
			t.Errorf("the event behind it: %v", err)
		}
	}
	out.Lenient(false)
	out.hand(events(0, 4, 3)...)
	out.answers(7)
	mustHold(t, cluster, map[int32][]decode.Event{0: events(0, 1, 6)})
}

func TestStoppedPublisherTakesNothing(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster).prepare("t")
	out.hand(events(0, 0, 3)...)
	out.mustAck(3)
	out.Stop()
	batch := []Delivery{{Event: event("t", 0, 3)}, {Event: event("t", 0, 4)}}
	for i := range batch {
		if err := out.Check(&batch[i]); err != nil {
			t.Fatal(err)
		}
	}
	if n := out.Publish(batch); n != 0 {
		t.Errorf("it has taken %d", n)
	}
	out.Close()
	if back := out.answers(3); len(back) != 3 {
		t.Errorf("%d deliveries came back that were not taken", len(back)-3)
	}
	mustHold(t, cluster, map[int32][]decode.Event{0: events(0, 0, 3)})
}

// A producer that was fenced or forgotten does not go on under another name.
func TestFencedPublisherAcknowledgesNothingMore(t *testing.T) {
	t.Parallel()
	for _, reason := range []*kerr.Error{
		kerr.InvalidProducerEpoch, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping,
	} {
		t.Run(reason.Message, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t)
			out := open(t, cluster).prepare("t")
			out.hand(event("t", 0, 0), event("t", 1, 0))
			out.mustAck(2)
			cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Partitions: []int32{0}, Err: reason, Count: 1})
			out.hand(events(0, 1, 5)...)
			n := 7
			first := out.answers(n)[2:]
			for range 3 { // the broker would take these
				out.hand(append(events(0, 6, 5), events(1, 6, 5)...)...)
				n += 10
				out.answers(n)
			}
			for _, a := range append(first, out.answers(n)[7:]...) {
				if !IsFenced(a.err) || IsPoison(a.err) {
					t.Errorf("event %s: %v, want that it is fenced", a.Event.ID, a.err)
				}
			}
			mustHold(t, cluster, map[int32][]decode.Event{0: events(0, 0, 1), 1: events(1, 0, 1)})
		})
	}
}

// Closing brings back, once, whatever is still out.
func TestCloseBringsEverythingBack(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	gone := away(cluster)
	out := open(t, cluster).prepare("t")
	out.hand(events(0, 0, 10)...)
	out.mustAck(10)
	gone.Store(true)
	out.hand(events(0, 10, 10)...)
	begin := time.Now()
	out.Close()
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Close took %s", took)
	}
	back := out.answers(20)
	seen := map[string]int{}
	for i, a := range back {
		seen[a.Event.ID]++
		if (a.err != nil) != (i >= 10) || IsPoison(a.err) || IsFenced(a.err) || (a.err != nil && Reason(a.err) != "stopped") {
			t.Errorf("event %s: %v (%s)", a.Event.ID, a.err, Reason(a.err))
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("event %s came back %d times", id, n)
		}
	}
	if len(back) != 20 {
		t.Errorf("%d deliveries came back, want 20", len(back))
	}
	out.Close() // twice is no harm
}

func TestErrorsAreToldApart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err            error
		poison, fenced bool
		reason         string
	}{
		{nil, false, false, "client"},
		{context.Canceled, false, false, "stopped"},
		{kgo.ErrClientClosed, false, false, "stopped"},
		{errors.New("something"), false, false, "client"},
		{errors.New("invalid record partitioning choice of 2 from 2 available"), true, false, "client"},
		{kerr.MessageTooLarge, true, false, "MESSAGE_TOO_LARGE"},
		{kerr.InvalidTopicException, true, false, "INVALID_TOPIC_EXCEPTION"},
		{fmt.Errorf("topic t: %w", kerr.TopicAuthorizationFailed), true, false, "TOPIC_AUTHORIZATION_FAILED"},
		{kerr.ClusterAuthorizationFailed, false, false, "CLUSTER_AUTHORIZATION_FAILED"},
		{kerr.NotLeaderForPartition, false, false, "NOT_LEADER_FOR_PARTITION"},
		{kerr.UnknownTopicOrPartition, false, false, "UNKNOWN_TOPIC_OR_PARTITION"},
		{kerr.InvalidProducerEpoch, false, true, "INVALID_PRODUCER_EPOCH"},
		{fmt.Errorf("x: %w", kerr.ProducerFenced), false, true, "PRODUCER_FENCED"},
		{kerr.OutOfOrderSequenceNumber, false, true, "OUT_OF_ORDER_SEQUENCE_NUMBER"},
	} {
		if c.err == nil {
			if IsPoison(nil) || IsFenced(nil) {
				t.Error("nil is taken for an error")
			}
			continue
		}
		if IsPoison(c.err) != c.poison || IsFenced(c.err) != c.fenced || Reason(c.err) != c.reason {
			t.Errorf("%v: poison %v, fenced %v, reason %q, want %+v", c.err, IsPoison(c.err), IsFenced(c.err), Reason(c.err), c)
		}
	}
}

// TestAnAcknowledgementIsAsOldAsItsAnswer: each event's is from after its hand-over, although no clock is asked for it.
func TestAnAcknowledgementIsAsOldAsItsAnswer(t *testing.T) {
	t.Parallel()
	out := open(t, newCluster(t)).prepare("a")
	for i := range 3 {
		handed := time.Now().Round(0) // the time of day alone, as Answered has it
		out.hand(decode.Event{Topic: "a", Key: []byte("k"), Value: []byte("v")})
		if back := out.answers(i + 1)[i]; back.err != nil || back.at.Before(handed) || back.at.After(time.Now()) {
			t.Errorf("event %d: %v; handed over at %s, acknowledged at %s, and now it is %s", i, back.err, handed, back.at, time.Now())
		}
	}
}
