package doctor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

func login(password string) *publish.SASL {
	return &publish.SASL{Mechanism: "PLAIN", Username: "relay", Password: func() (string, error) { return password, nil }}
}

// topicOf makes what Kafka would tell of a topic "t" to which the row r leads.
func topicOf(o Options, r route, brokers int, config map[string]string, partitions ...kadm.PartitionDetail) *kafka {
	r.topic = "t"
	k := &kafka{Options: o, routes: []*route{&r}, configs: map[string]map[string]string{"t": config}, brokers: make(kadm.BrokerDetails, brokers)}
	d := kadm.TopicDetail{Topic: "t", Partitions: kadm.PartitionDetails{}}
	for i, p := range partitions {
		d.Partitions[int32(i)] = p //nolint:gosec // a few
	}
	k.topics = kadm.TopicDetails{"t": d}
	return k
}

func TestTopicsAgainstRows(t *testing.T) {
	now := time.Now()
	replicas := func(leader int32, all, inSync int) kadm.PartitionDetail {
		return kadm.PartitionDetail{Leader: leader, Replicas: make([]int32, all), ISR: make([]int32, inSync)}
	}
	stop, park := Options{OnPoison: "stop"}, Options{OnPoison: "park"}
	limited := Options{OnPoison: "stop", Kafka: publish.Options{Settings: map[string]string{"max.request.size": "1000"}}}
	checkpoints := Options{CheckpointTopic: "t"}
	mapped := func(oldest, newest time.Duration) route {
		return route{mapped: true, oldest: now.Add(oldest), newest: now.Add(newest)}
	}
	tests := map[string]struct {
		k     *kafka
		look  func(*kafka)
		check string
		state State
		says  string
	}{
		"no leader":             {topicOf(stop, route{}, 3, nil, replicas(1, 3, 3), replicas(-1, 3, 3)), (*kafka).replicas, checkReplicas, Fail, "without a leader"},
		"too few in sync":       {topicOf(stop, route{}, 3, map[string]string{"min.insync.replicas": "2"}, replicas(1, 3, 1)), (*kafka).replicas, checkReplicas, Fail, "min.insync.replicas 2"},
		"one replica":           {topicOf(stop, route{}, 3, nil, replicas(1, 1, 1)), (*kafka).replicas, checkReplicas, Warn, "single replica"},
		"one broker":            {topicOf(stop, route{}, 1, nil, replicas(1, 1, 1)), (*kafka).replicas, checkReplicas, OK, ""},
		"one suffices":          {topicOf(stop, route{}, 3, map[string]string{"min.insync.replicas": "1"}, replicas(1, 3, 3)), (*kafka).replicas, checkReplicas, Warn, "min.insync.replicas=2"},
		"replicas enough":       {topicOf(stop, route{}, 3, map[string]string{"min.insync.replicas": "2"}, replicas(1, 3, 2)), (*kafka).replicas, checkReplicas, OK, ""},
		"too large":             {topicOf(stop, route{largest: 1001, id: "e"}, 1, map[string]string{"max.message.bytes": "1000"}), (*kafka).sizes, checkSize, Fail, "max.message.bytes=65536"},
		"too large, parked":     {topicOf(park, route{largest: 1001, id: "e"}, 1, map[string]string{"max.message.bytes": "1000"}), (*kafka).sizes, checkSize, Warn, `event "e"`},
		"as large as may be":    {topicOf(stop, route{largest: 1000}, 1, map[string]string{"max.message.bytes": "1000"}), (*kafka).sizes, checkSize, OK, ""},
		"the broker's default":  {topicOf(stop, route{largest: 1000013}, 1, nil), (*kafka).sizes, checkSize, Fail, "1000012"},
		"the client's limit":    {topicOf(limited, route{largest: 1001}, 1, map[string]string{"max.message.bytes": "9999"}), (*kafka).sizes, checkSize, Fail, "max.request.size"},
		"compacted":             {topicOf(stop, route{}, 1, map[string]string{"cleanup.policy": "compact,delete"}), (*kafka).cleanup, checkCleanup, Warn, "only the last stays"},
		"compacted, no key":     {topicOf(stop, route{nullKeys: true}, 1, map[string]string{"cleanup.policy": "compact"}), (*kafka).cleanup, checkCleanup, Fail, "without a key"},
		"an hour":               {topicOf(stop, route{}, 1, map[string]string{"cleanup.policy": "delete", "retention.ms": "3600000"}), (*kafka).cleanup, checkCleanup, Warn, "t (1h0m0s)"},
		"for ever":              {topicOf(stop, route{}, 1, map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}), (*kafka).cleanup, checkCleanup, OK, ""},
		"checkpoints deleted":   {topicOf(checkpoints, route{}, 1, map[string]string{"cleanup.policy": "delete"}), (*kafka).cleanup, checkCleanup, Fail, "cleanup.policy=compact"},
		"checkpoints compacted": {topicOf(checkpoints, route{}, 1, map[string]string{"cleanup.policy": "compact"}), (*kafka).cleanup, checkCleanup, OK, ""},
		"append time":           {topicOf(stop, mapped(0, 0), 1, map[string]string{"message.timestamp.type": "LogAppendTime"}), (*kafka).times, checkTimes, Warn, "replaced"},
		"too early":             {topicOf(stop, mapped(-2*time.Hour, 0), 1, map[string]string{"message.timestamp.before.max.ms": "3600000"}), (*kafka).times, checkTimes, Fail, "before.max.ms"},
		"too late":              {topicOf(stop, mapped(0, 2*time.Hour), 1, map[string]string{"message.timestamp.after.max.ms": "3600000"}), (*kafka).times, checkTimes, Fail, "after.max.ms"},
		"older than kept":       {topicOf(stop, mapped(-48*time.Hour, 0), 1, map[string]string{"retention.ms": "86400000", "cleanup.policy": "delete"}), (*kafka).times, checkTimes, Warn, "retention.ms"},
		"no limit":              {topicOf(stop, mapped(-48*time.Hour, 2*time.Hour), 1, map[string]string{"message.timestamp.before.max.ms": "9223372036854775807"}), (*kafka).times, checkTimes, OK, ""},
		"none mapped":           {topicOf(stop, route{}, 1, nil), (*kafka).times, checkTimes, OK, "commit"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.look(test.k)
			must(t, test.k.found, test.check, test.state, test.says)
			if len(test.k.found) != 1 {
				t.Errorf("%d findings: %+v", len(test.k.found), test.k.found)
			}
		})
	}
}

func TestWhatTheSourceTells(t *testing.T) {
	table := wal.TableFacts{Name: "public.outbox", Kind: "r", Usage: true, Select: true}
	reader := wal.Facts{Role: "reader", WALLevel: "logical", MaxSlots: 10, MaxSenders: 10, Tables: []wal.TableFacts{table}}
	with := func(change func(*wal.Facts)) *source {
		f := reader
		f.Tables = []wal.TableFacts{table}
		change(&f)
		return &source{Options: Options{Source: wal.Options{Slot: "s", Tables: []string{"public.outbox"}}}, facts: &f, retention: &wal.Retention{KeepBytes: -1}}
	}
	keeps := func(budget int64, r wal.Retention) *source {
		s := with(func(*wal.Facts) {})
		s.WALBudget, s.retention = budget, &r
		return s
	}
	slot := &wal.Slot{Name: "s"}
	none := func(*wal.Facts) {}
	tests := map[string]struct {
		s     *source
		look  func(*source)
		check string
		state State
		says  string
	}{
		"a reader":               {with(none), (*source).role, checkRole, OK, `alter role "reader" replication; grant usage on schema "public" to "reader"; grant select on "public"."outbox" to "reader"`},
		"no select":              {with(func(f *wal.Facts) { f.Tables[0].Select = false }), (*source).role, checkRole, Fail, `grant select on "public"."outbox" to "reader"`},
		"no usage":               {with(func(f *wal.Facts) { f.Tables[0].Usage = false }), (*source).role, checkRole, Fail, `grant usage on schema "public" to "reader"`},
		"a superuser":            {with(func(f *wal.Facts) { f.Superuser = true }), (*source).role, checkRole, Warn, "is a superuser"},
		"may write":              {with(func(f *wal.Facts) { f.Tables[0].Writes = []string{"insert"} }), (*source).role, checkRole, Warn, "may insert in public.outbox"},
		"is to publish its own":  {with(func(f *wal.Facts) { f.Tables[0].Writes, f.Tables[0].Owner = []string{"insert"}, true }), (*source).role, checkRole, OK, ""},
		"passes guards by":       {with(func(f *wal.Facts) { f.BypassRLS, f.Tables[0].Guarded = true, true }), (*source).role, checkRole, OK, ""},
		"may create roles":       {with(func(f *wal.Facts) { f.CreateRole = true }), (*source).role, checkRole, Warn, "may create roles"},
		"replica":                {with(func(f *wal.Facts) { f.WALLevel = "replica" }), (*source).level, checkLevel, Fail, "alter system set wal_level = 'logical'"},
		"slots are taken":        {with(func(f *wal.Facts) { f.Slots = 10 }), (*source).room, checkSlots, Fail, "max_replication_slots = 15"},
		"slots are there":        {with(none), (*source).room, checkSlots, OK, "0 of 10"},
		"walsenders are taken":   {with(func(f *wal.Facts) { f.Senders = 10 }), (*source).room, checkSenders, Fail, "max_wal_senders = 15"},
		"one walsender is free":  {with(func(f *wal.Facts) { f.Senders = 9 }), (*source).room, checkSenders, Warn, "a hot standby"},
		"nothing held back":      {keeps(0, wal.Retention{KeepBytes: -1}), (*source).wal, checkWAL, OK, "unlimited"},
		"half of what is kept":   {keeps(0, wal.Retention{Slot: slot, RetainedBytes: 50, KeepBytes: 100}), (*source).wal, checkWAL, Warn, "more than half"},
		"less than half":         {keeps(0, wal.Retention{Slot: slot, RetainedBytes: 49, KeepBytes: 100}), (*source).wal, checkWAL, OK, ""},
		"the budget is spent":    {keeps(100, wal.Retention{Slot: slot, RetainedBytes: 100, KeepBytes: -1}), (*source).wal, checkWAL, Fail, "the budget is spent"},
		"half of the budget":     {keeps(100, wal.Retention{Slot: slot, RetainedBytes: 50, KeepBytes: -1}), (*source).wal, checkWAL, Warn, "source.wal_budget 100 B"},
		"the budget is too much": {keeps(100, wal.Retention{Slot: slot, RetainedBytes: 1, KeepBytes: 50}), (*source).wal, checkWAL, Warn, "is less than source.wal_budget"},
		"about to be lost":       {keeps(0, wal.Retention{Slot: &wal.Slot{WALStatus: "unreserved"}, RetainedBytes: 200, KeepBytes: 100}), (*source).wal, checkWAL, Fail, "start the relay at once"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.look(test.s)
			must(t, test.s.found, test.check, test.state, test.says)
		})
	}
}

func TestAFindingIsOneLine(t *testing.T) {
	if got := oneLine("connect:\n\t1.2.3.4: refused\n\t1.2.3.5: refused\x1b[2J\n"); got != "connect: 1.2.3.4: refused; 1.2.3.5: refused?[2J" {
		t.Errorf("%q", got)
	}
}

// hinting is an error with an end that says what to do.
type hinting struct{}

func (hinting) Error() string { return "it is broken: mend it" }
func (hinting) Hint() string  { return "mend it" }

func TestAnErrorIsTakenApart(t *testing.T) {
	if finding, fix := parts(hinting{}); finding != "it is broken" || fix != "mend it" {
		t.Errorf("%q, %q", finding, fix)
	}
	if finding, fix := parts(errors.New("any")); finding != "any" || strings.TrimSpace(fix) != "" {
		t.Errorf("%q, %q", finding, fix)
	}
}
