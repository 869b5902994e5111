package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What the brokers take where they do not tell.
const (
	defaultMaxMessageBytes = 1000012
	defaultMaxRequestBytes = 100 << 20 // the client's own, unless kafka.options says max.request.size
)

// mayWrite holds the rights that the brokers tell against those that are needed.
func (k *kafka) mayWrite() {
	var lacking []string
	untold := 0
	for _, r := range k.routes {
		d := k.topics[r.topic]
		if d.Err != nil || len(d.Partitions) == 0 {
			continue
		}
		if len(d.AuthorizedOperations) == 0 {
			untold++
			continue
		}
		needed := []kmsg.ACLOperation{kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe}
		if k.ResumeDedupe {
			needed = append(needed, kmsg.ACLOperationRead)
		}
		for _, op := range needed {
			if !slices.Contains(d.AuthorizedOperations, op) {
				lacking = append(lacking, fmt.Sprintf("%v on %s", op, r.topic))
			}
		}
	}
	if len(lacking) > 0 {
		k.fail(checkRights, "not allowed: "+some(lacking), "allow Write and Describe on the topics, and Read for delivery.resume_dedupe: "+aclCommand("Write", "Describe", "Read"))
	}
	if k.told && k.ResumeDedupe && !k.ExactlyOnce && !slices.Contains(k.rights, kmsg.ACLOperationClusterAction) && !slices.Contains(k.rights, kmsg.ACLOperationAlter) {
		k.warn(checkRights, "fencing a predecessor's producer is not allowed (ClusterAction): after a crash, a request that it had under way may arrive twice",
			"kafka-acls --add --allow-principal User:NAME --operation ClusterAction --cluster, or delivery.mode: exactly_once, which takes no such right")
		return
	}
	switch {
	case len(lacking) > 0:
	case untold > 0 || !k.told:
		k.ok(checkRights, "nothing is known to be forbidden; the brokers do not tell all rights")
	default:
		k.ok(checkRights, "writing, describing and what else is needed is allowed")
	}
}

// replicas holds what a write waits for against the replicas that are there.
func (k *kafka) replicas() {
	var stuck, thin, single []string
	partitions := 0
	for _, r := range k.routes {
		least := number(k.configs[r.topic], "min.insync.replicas", 1)
		low, lone, loneISR := false, false, false
		for _, p := range k.topics[r.topic].Partitions {
			partitions++
			low = low || p.Leader < 0 || p.Err != nil || int64(len(p.ISR)) < least
			lone = lone || len(p.Replicas) == 1
			loneISR = loneISR || (len(p.Replicas) > 1 && least < 2)
		}
		switch {
		case low:
			stuck = append(stuck, fmt.Sprintf("%s (min.insync.replicas %d)", r.topic, least))
		case lone:
			single = append(single, r.topic)
		case loneISR:
			thin = append(thin, r.topic)
		}
	}
	if len(stuck) > 0 {
		k.fail(checkReplicas, "partitions without a leader, or with fewer replicas in sync than a write waits for: "+some(stuck),
			"bring the brokers back that hold them (kafka-topics --describe --under-min-isr-partitions), or give the topic more replicas, or lower its min.insync.replicas")
		return
	}
	switch {
	case len(single) > 0 && len(k.brokers) > 1:
		k.warn(checkReplicas, "a single replica, so that the loss of one broker loses events: "+some(single), "give the topic three replicas (kafka-reassign-partitions), and kafka.create_topics.replication_factor: 3 for new ones")
	case len(thin) > 0:
		k.warn(checkReplicas, "min.insync.replicas is 1, so that an event counts as written which only one broker has: "+some(thin),
			"kafka-configs --alter --topic "+thin[0]+" --add-config min.insync.replicas=2")
	default:
		k.ok(checkReplicas, "%s of %s have leaders and replicas enough", plural(int64(partitions), "partition", "partitions"), plural(int64(len(k.routes)-len(k.missing)), "topic", "topics"))
	}
}

// sizes holds the largest records against what topics and client take.
func (k *kafka) sizes() {
	client := int64(defaultMaxRequestBytes)
	if n, err := strconv.ParseInt(k.Kafka.Settings["max.request.size"], 10, 32); err == nil {
		client = n
	}
	largest, looked, worst := 0, 0, Fail
	if k.OnPoison != "stop" {
		worst = Warn
	}
	for _, r := range k.routes {
		if r.largest == 0 {
			continue
		}
		looked++
		largest = max(largest, r.largest)
		allowed := k.maxMessageBytes(r.topic)
		switch {
		case int64(r.largest) > allowed:
			wanted := roundUp(r.largest)
			k.add(Finding{
				Check: checkSize, State: worst,
				Finding: fmt.Sprintf("event %q takes %d bytes, and max.message.bytes of topic %s is %d; delivery.on_poison is %s", r.id, r.largest, r.topic, allowed, k.OnPoison),
				Fix:     fmt.Sprintf("kafka-configs --alter --topic %s --add-config max.message.bytes=%d (and replica.fetch.max.bytes on the brokers, if that is less), or make such events smaller", r.topic, wanted),
			})
		case int64(r.largest) > client:
			k.add(Finding{
				Check: checkSize, State: worst,
				Finding: fmt.Sprintf("event %q takes %d bytes, and the client sends no request above %d", r.id, r.largest, client),
				Fix:     "raise kafka.options: max.request.size", Config: map[string]string{"kafka.options.max.request.size": strconv.Itoa(roundUp(r.largest))},
			})
		}
	}
	if slices.ContainsFunc(k.found, func(f Finding) bool { return f.Check == checkSize }) {
		return
	}
	if looked == 0 {
		k.ok(checkSize, "no row was seen")
		return
	}
	k.ok(checkSize, "the largest record takes %d bytes and fits (looked at: of up to %d rows at the end of each table, those of each topic that take the most room there)", largest, sampleRows)
}

func (k *kafka) maxMessageBytes(topic string) int64 {
	if c := k.configs[topic]; c != nil {
		return number(c, "max.message.bytes", defaultMaxMessageBytes)
	}
	if n, err := strconv.ParseInt(k.Kafka.Topics.Configs["max.message.bytes"], 10, 32); err == nil { // it would be created with that
		return n
	}
	return number(k.settings, "message.max.bytes", defaultMaxMessageBytes)
}

// roundUp leaves room for a record that is half as large again.
func roundUp(n int) int {
	const step = 1 << 16
	return (n*3/2 + step - 1) / step * step
}

func number(configs map[string]string, key string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(configs[key], 10, 64); err == nil {
		return n
	}
	return otherwise
}

// cleanup looks for topics that forget events.
func (k *kafka) cleanup() {
	var compacted, keyless, brief []string
	for _, r := range k.routes {
		c := k.configs[r.topic]
		compact := strings.Contains(c["cleanup.policy"], "compact")
		if r.topic == k.CheckpointTopic {
			if c != nil && c["cleanup.policy"] != "compact" {
				k.fail(checkCleanup, fmt.Sprintf("cleanup.policy of the checkpoints' topic %s is %s: retention would delete the checkpoint", r.topic, c["cleanup.policy"]),
					"kafka-configs --alter --topic "+r.topic+" --add-config cleanup.policy=compact")
			}
			continue
		}
		const day = 24 * time.Hour
		switch keep := number(c, "retention.ms", -1); {
		case compact && r.nullKeys:
			keyless = append(keyless, r.topic)
		case compact:
			compacted = append(compacted, r.topic)
		case keep >= 0 && keep < day.Milliseconds():
			brief = append(brief, fmt.Sprintf("%s (%s)", r.topic, time.Duration(keep)*time.Millisecond))
		}
	}
	if len(keyless) > 0 {
		k.fail(checkCleanup, "events without a key lead to compacted topics, which refuse them: "+some(keyless), "map a key (outbox[].columns.key or outbox[].key), or kafka-configs --alter --topic "+keyless[0]+" --add-config cleanup.policy=delete")
	}
	if len(compacted) > 0 {
		k.warn(checkCleanup, "cleanup.policy is compact: of the events of a key only the last stays: "+some(compacted), "if consumers need every event: kafka-configs --alter --topic "+compacted[0]+" --add-config cleanup.policy=delete")
	}
	if len(brief) > 0 {
		k.warn(checkCleanup, "records are deleted within a day, and after an outage that long consumers, verify and the dedupe at a start do not find them: "+some(brief), "raise retention.ms")
	}
	if !slices.ContainsFunc(k.found, func(f Finding) bool { return f.Check == checkCleanup }) {
		k.ok(checkCleanup, "the topics that tell keep every event for a day or more")
	}
}

// times holds the timestamps that a column gives the records against what the topics take.
func (k *kafka) times() {
	now := time.Now()
	mapped := false
	for _, r := range k.routes {
		c := k.configs[r.topic]
		if !r.mapped || c == nil {
			continue
		}
		mapped = true
		before, after := number(c, "message.timestamp.before.max.ms", -1), number(c, "message.timestamp.after.max.ms", -1)
		keep := number(c, "retention.ms", -1)
		switch {
		case c["message.timestamp.type"] == "LogAppendTime":
			k.warn(checkTimes, fmt.Sprintf("topic %s has message.timestamp.type=LogAppendTime: the mapped timestamps are replaced by the broker's time", r.topic),
				"kafka-configs --alter --topic "+r.topic+" --add-config message.timestamp.type=CreateTime, or map no timestamp")
		case beyond(now.Sub(r.oldest), before):
			k.fail(checkTimes, fmt.Sprintf("a row's timestamp is %s, and topic %s takes none before message.timestamp.before.max.ms=%d: Kafka refuses it", r.oldest.UTC().Format(time.RFC3339), r.topic, before),
				"raise that, or map no timestamp")
		case beyond(r.newest.Sub(now), after):
			k.fail(checkTimes, fmt.Sprintf("a row's timestamp is %s, and topic %s takes none that is later than now by message.timestamp.after.max.ms=%d: Kafka refuses it", r.newest.UTC().Format(time.RFC3339), r.topic, after),
				"raise that, correct what writes the column, or map no timestamp")
		case !strings.Contains(c["cleanup.policy"], "compact") && beyond(now.Sub(r.oldest), keep):
			k.warn(checkTimes, fmt.Sprintf("a row's timestamp is %s, older than retention.ms=%d of topic %s: a record with it may be deleted as soon as it is written", r.oldest.UTC().Format(time.RFC3339), keep, r.topic),
				"raise retention.ms, or map no timestamp")
		}
	}
	if slices.ContainsFunc(k.found, func(f Finding) bool { return f.Check == checkTimes }) {
		return
	}
	if !mapped {
		k.ok(checkTimes, "no timestamp is mapped: records have the time of their commit")
		return
	}
	k.ok(checkTimes, "the mapped timestamps are taken by the topics")
}

// beyond reports whether d is more than a limit in milliseconds; a limit below 0, or too large to be one, is none.
func beyond(d time.Duration, limit int64) bool {
	return limit >= 0 && d > 0 && d.Milliseconds() > limit
}

// transactions looks whether the transactional id may be used.
func (k *kafka) transactions(ctx context.Context) {
	if !k.ExactlyOnce {
		k.ok(checkTransactions, "none are used (delivery.mode: at_least_once)")
		return
	}
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	id := k.Kafka.TransactionalID
	described, err := k.admin.DescribeTransactions(limited, id)
	if err == nil {
		err = described[id].Err
	}
	longest, asked := number(k.settings, "transaction.max.timeout.ms", -1), k.Kafka.TransactionTimeout().Milliseconds()
	switch {
	case longest >= 0 && asked > longest:
		k.fail(checkTransactions, fmt.Sprintf("transaction.timeout.ms is %d, and the brokers allow %d", asked, longest), "lower transaction.timeout.ms in kafka.options, or raise transaction.max.timeout.ms on the brokers")
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		k.fail(checkTransactions, "transactional id "+id+" is not allowed", "kafka-acls --add --allow-principal User:NAME --operation Write --operation Describe --transactional-id '"+id+"'")
	case errors.Is(err, kerr.TransactionalIDNotFound):
		k.ok(checkTransactions, "transactional id %s is free, and may be described; whether it may be written shows at the first start", id)
	case err != nil:
		k.fail(checkTransactions, fmt.Sprintf("transactional id %s cannot be looked up: %v", id, err), "see that the topic __transaction_state has leaders and enough replicas in sync")
	default:
		k.ok(checkTransactions, "transactional id %s is known, in state %s", id, described[id].State)
	}
}
