package publish

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestPrepareCreatesWhatIsConfigured(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.NumBrokers(3), kfake.DefaultNumPartitions(4), kfake.SeedTopics(7, "there"))
	out := open(t, cluster, func(o *Options) {
		o.Topics = TopicOptions{
			Create: true, Partitions: 5, ReplicationFactor: 3,
			Configs: map[string]string{"max.message.bytes": "3000", "cleanup.policy": "compact"},
		}
	}).prepare("a", "there", "b")
	for _, topic := range []string{"a", "b"} {
		info := cluster.TopicInfo(topic)
		if info == nil || len(cluster.PartitionInfos(topic)) != 5 || info.NumReplicas != 3 {
			t.Fatalf("topic %s is %+v", topic, info)
		}
		for key, want := range map[string]string{"max.message.bytes": "3000", "cleanup.policy": "compact"} {
			if got := info.Configs[key]; got == nil || *got != want {
				t.Errorf("topic %s: %s is %v, want %s", topic, key, got, want)
			}
		}
	}
	if info := cluster.TopicInfo("there"); len(cluster.PartitionInfos("there")) != 7 || len(info.Configs) != 0 {
		t.Errorf("the topic that was there is %+v", info)
	}
	if err := out.Check(&Delivery{Event: event("there", 6, 1)}); err != nil {
		t.Errorf("Check: %v", err)
	}
	if out.Known("c") {
		t.Error("a topic is known that nobody has prepared")
	}
}

func TestPrepareLeavesTheChoiceToTheBroker(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.NumBrokers(3), kfake.DefaultNumPartitions(4))
	open(t, cluster, func(o *Options) {
		o.Topics = TopicOptions{Create: true, Partitions: -1, ReplicationFactor: -1}
	}).prepare("a")
	if info := cluster.TopicInfo("a"); len(cluster.PartitionInfos("a")) != 4 || len(info.Configs) != 0 {
		t.Errorf("the topic is %+v", info)
	}
}

func TestPrepareSaysThatATopicMayNotBeCreated(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(1, "there"))
	forbidden := func(o *Options) { o.Topics = TopicOptions{} }
	out := open(t, cluster, forbidden)
	err := out.Prepare(t.Context(), []string{"there", "missing"})
	if err == nil || IsPoison(err) || !strings.Contains(err.Error(), "topic missing does not exist") || !strings.Contains(err.Error(), "kafka.create_topics.enabled: true") {
		t.Errorf("Prepare: %v", err)
	}
	if out.Known("there") || out.Known("missing") {
		t.Error("topics are known after an error")
	}
	out.prepare("there")
	if cluster.TopicInfo("missing") != nil {
		t.Error("the topic was created")
	}

	// Where such an event may be set aside, it is one against which something speaks.
	out = open(t, cluster, forbidden, func(o *Options) { o.Topics.MissingIsPoison = true }).prepare("there", "missing")
	err = out.Check(&Delivery{Event: event("missing", 0, 1)})
	if err == nil || !strings.Contains(err.Error(), "kafka.create_topics.enabled: true") {
		t.Errorf("Check: %v", err)
	}
	if _, _, ok := out.Base("missing"); ok {
		t.Error("the topic that is missing has a base")
	}
	// Not for ever: somebody may have created it.
	out.mu.Lock()
	out.topics["missing"].lookedAt = time.Now().Add(-recheck)
	out.mu.Unlock()
	if out.Known("missing") {
		t.Error("a topic that was missing is never looked for again")
	}
	if err := cluster.CreateTopic("missing", 1, nil); err != nil {
		t.Fatal(err)
	}
	out.prepare("missing")
	if err := out.Check(&Delivery{Event: event("missing", 0, 1)}); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// Two that are first at the same time are no trouble, and the one that is later sees what the other has made.
func TestPrepareIsNotDisturbedByAnotherThatIsQuicker(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(7, "t"))
	out := open(t, cluster)
	first := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.UnknownTopicOrPartition, Count: 1})
	created := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Observe: true, Count: -1})
	out.prepare("t")
	if first.Hits() != 1 || created.Hits() != 1 {
		t.Errorf("the topic was missing %d times and created %d times: nothing was tried", first.Hits(), created.Hits())
	}
	if err := out.Check(&Delivery{Event: event("t", 6, 1)}); err != nil {
		t.Errorf("it does not know of the seven partitions: %v", err)
	}
}

// A topic that cannot be is no reason to wait: its events are set aside or stop the relay, the others go on.
func TestPrepareKnowsTopicsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]kfake.Fault{
		"its name":           {Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.InvalidTopicException, Count: -1},
		"no right to see it": {Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.TopicAuthorizationFailed, Count: -1},
		"no right to create": {Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "t", Err: kerr.TopicAuthorizationFailed, Count: -1},
		"a policy":           {Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "t", Err: kerr.PolicyViolation, Count: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t)
			cluster.Fault(fault)
			out := open(t, cluster).prepare("t", "good")
			if err := out.Check(&Delivery{Event: event("t", 0, 1)}); !IsPoison(err) || !errors.Is(err, fault.Err) || !strings.Contains(err.Error(), "topic t") {
				t.Errorf("Check: %v", err)
			}
			out.hand(event("good", 0, 1))
			out.mustAck(1)
		})
	}
}

// What may pass is an error, after which nothing is known, and at the next attempt everything is asked again.
func TestPrepareIsTriedAgainAfterWhatPasses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault kfake.Fault
		names string
	}{
		"looking up":    {kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "a", Err: kerr.UnknownServerError, Count: -1}, "look up topic a"},
		"creating":      {kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "a", Err: kerr.InvalidReplicationFactor, Count: -1}, "create topic a"},
		"not there yet": {kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "a", Err: kerr.UnknownTopicOrPartition, Count: -1}, "topic a was created and is not there yet"},
		"where it ends": {kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: "a", Err: kerr.UnknownServerError, Count: -1}, "look up where the topics end"},
		"its limit":     {kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "a", Err: kerr.UnknownTopicOrPartition, Count: -1}, "max.message.bytes of topic a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, kfake.SeedTopics(2, "b"))
			out := open(t, cluster)
			fault := cluster.Fault(c.fault)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err := out.Prepare(ctx, []string{"a", "b"})
			if err == nil || IsPoison(err) || !strings.Contains(err.Error(), c.names) {
				t.Errorf("Prepare: %v, want one that says %q", err, c.names)
			}
			if out.Known("a") || out.Known("b") {
				t.Error("topics are known after an error")
			}
			fault.Remove()
			out.prepare("a", "b").hand(event("a", 1, 1), event("b", 1, 1))
			out.mustAck(2)
		})
	}
}

// A broker that has not heard yet of a topic that was made is asked again.
func TestPrepareWaitsForATopicThatWasJustMade(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster)
	// The first look finds no topic, and the two after it was made do not find it yet.
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "a", Err: kerr.UnknownTopicOrPartition, Count: 3})
	out.prepare("a").hand(event("a", 0, 1))
	out.mustAck(1)
	if fault.Hits() < 3 {
		t.Errorf("the broker was asked %d times", fault.Hits())
	}
}

func TestPrepareEndsWithItsContext(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	away(cluster).Store(true)
	out := open(t, cluster)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := out.Prepare(ctx, []string{"t"})
	if err == nil || IsPoison(err) || time.Since(begin) > time.Minute {
		t.Errorf("Prepare: %v after %s", err, time.Since(begin))
	}
}

// Without the right to ask for the limit the broker's default is taken; the broker itself has the last word.
func TestLimitIsTheTopicsOrTheDefault(t *testing.T) {
	t.Parallel()
	large := event("t", 0, 1)
	large.Value = make([]byte, 1_100_000)
	cluster := newCluster(t, kfake.SeedTopics(1, "t"))
	if err := open(t, cluster).prepare("t").Check(&Delivery{Event: large}); err == nil || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("Check: %v of an event above the default", err)
	}

	wide := newCluster(t)
	if err := wide.CreateTopic("t", 1, map[string]string{"max.message.bytes": "20000000"}); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.UnsupportedVersion, kerr.UnknownServerError} {
		untold := wide.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "t", Err: reason, Count: -1})
		if err := open(t, wide).prepare("t").Check(&Delivery{Event: large}); err == nil {
			t.Errorf("%v: a limit is known that was not told", reason)
		}
		untold.Remove()
	}
	// That one may not be asked for says nothing about the other.
	wide.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "other", Err: kerr.TopicAuthorizationFailed, Count: -1})
	out := open(t, wide).prepare("other", "t")
	large.Value = make([]byte, 19_000_000)
	out.hand(large, event("t", 0, 2))
	out.mustAck(2)
	large.Value = make([]byte, 20_000_000)
	if err := out.Check(&Delivery{Event: large}); err == nil {
		t.Error("an event above the topic's limit passes")
	}
}

func TestBaseAndEndsTellWhereThisPublisherHasWritten(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	before := open(t, cluster).prepare("t")
	before.hand(events(1, 0, 3)...)
	before.mustAck(3)

	out := open(t, cluster).prepare("t")
	id, base, ok := out.Base("t")
	if !ok || id == "" || !maps.Equal(base, map[int32]int64{0: 0, 1: 3}) {
		t.Errorf("Base() = %q, %v, %v", id, base, ok)
	}
	if ends := out.Ends(); len(ends) != 0 {
		t.Errorf("Ends() = %v before anything was written", ends)
	}
	out.hand(append(events(1, 3, 2), event("t", 0, 0))...)
	out.mustAck(3)
	want := map[string]map[int32]int64{"t": {0: 1, 1: 5}}
	ends := out.Ends()
	if !reflect.DeepEqual(ends, want) {
		t.Errorf("Ends() = %v, want %v", ends, want)
	}
	if again := out.Ends(); len(again) != 0 {
		t.Errorf("Ends() = %v, and nothing has changed", again)
	}
	ends["t"][0] = 99 // is the caller's
	out.prepare("t")  // again, and what is known stays
	out.hand(events(1, 5, 1)...)
	out.mustAck(4)
	want["t"][1] = 6
	if ends := out.Ends(); !reflect.DeepEqual(ends, want) {
		t.Errorf("Ends() = %v after another Prepare, want %v", ends, want)
	}
	if ends, err := out.EndOffsets(t.Context(), []string{"t"}); err != nil || !reflect.DeepEqual(ends, want) {
		t.Errorf("EndOffsets() = %v, %v", ends, err)
	}

	// A topic of the same name that was made later is another one.
	if err := cluster.DeleteTopic("t"); err != nil {
		t.Fatal(err)
	}
	if missing, err := out.MissingTopics(t.Context()); err != nil || !slices.Equal(missing, []string{"t"}) {
		t.Errorf("MissingTopics() = %v, %v", missing, err)
	}
	if err := cluster.CreateTopic("t", 2, nil); err != nil {
		t.Fatal(err)
	}
	out.prepare("t")
	anew, base, _ := out.Base("t")
	if anew == id || !maps.Equal(base, map[int32]int64{0: 0, 1: 0}) || len(out.Ends()) != 0 {
		t.Errorf("of the new topic Base() = %q, %v (was %q), Ends() = %v", anew, base, id, out.Ends())
	}
	if missing, err := out.MissingTopics(t.Context()); err != nil || len(missing) != 0 {
		t.Errorf("MissingTopics() = %v, %v", missing, err)
	}
}

// What is on its way to a topic that is deleted and made anew comes back, one way or the other; it is not poison, and it
// does not wait for ever.
func TestEventsOnTheirWayToATopicThatIsMadeAnewComeBack(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster, func(o *Options) { o.Settings = map[string]string{"metadata.max.age.ms": "300"} }).prepare("t")
	out.hand(event("t", 0, 0))
	out.mustAck(1)
	if err := cluster.DeleteTopic("t"); err != nil {
		t.Fatal(err)
	}
	out.hand(events(0, 1, 5)...)
	if err := cluster.CreateTopic("t", 2, nil); err != nil {
		t.Fatal(err)
	}
	arrived := 0
	for _, a := range out.answers(6)[1:] {
		switch {
		case a.err == nil:
			arrived++
		case IsPoison(a.err):
			t.Errorf("event %s: %v is taken for poison", a.Event.ID, a.err)
		}
	}
	if got := log(t, cluster, "t")[0]; len(got) != arrived {
		t.Errorf("%d events are acknowledged, and %d are there", arrived, len(got))
	}
	if arrived != 0 && arrived != 5 {
		t.Errorf("%d of 5 events have arrived", arrived)
	}
}
