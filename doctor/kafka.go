package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/publish"
)

// The checks of Kafka, in the order of the report.
const (
	checkKafka        = "kafka.connection"
	checkBrokers      = "kafka.brokers"
	checkTopics       = "kafka.topics"
	checkRights       = "kafka.rights"
	checkReplicas     = "kafka.replicas"
	checkSize         = "kafka.max_message_bytes"
	checkCleanup      = "kafka.cleanup"
	checkTimes        = "kafka.timestamps"
	checkTransactions = "kafka.transactions"
)

//nolint:gochecknoglobals // a constant list
var kafkaChecks = []string{
	checkKafka, checkBrokers, checkTopics, checkRights, checkReplicas, checkSize, checkCleanup, checkTimes, checkTransactions,
}

const (
	dialLimit = 3 * time.Second
	askLimit  = 8 * time.Second // of one question to Kafka
)

// kafka is the side of Kafka.
type kafka struct {
	Options
	notes

	client   *kgo.Client
	admin    *kadm.Client
	brokers  kadm.BrokerDetails
	settings map[string]string // of one broker; nil if it does not tell
	rights   []kmsg.ACLOperation
	told     bool // whether the brokers tell rights
	routes   []*route
	seen     bool // the source has told which routes there are
	topics   kadm.TopicDetails
	missing  []*route
	configs  map[string]map[string]string // by topic; of those that tell
}

func (k *kafka) away() bool { return k.brokers == nil }

// examine asks the brokers what they alone know, and then about the topics that the rows lead to.
func (k *kafka) examine(ctx context.Context, routes <-chan []*route) {
	if !k.connect(ctx) {
		return
	}
	defer k.client.Close()
	k.why = "nothing was found out"
	k.reach(ctx)
	k.cluster(ctx)
	select {
	case k.routes, k.seen = <-routes:
	case <-ctx.Done():
	}
	if !k.lookUp(ctx) {
		return
	}
	k.mayWrite()
	k.replicas()
	k.sizes()
	k.cleanup()
	k.times()
	k.transactions(ctx)
}

func (k *kafka) connect(ctx context.Context) bool {
	k.why = "because " + checkKafka + " failed"
	k.Kafka.DialTimeout = dialLimit
	var err error
	if k.client, err = k.Kafka.Client(kgo.RequestRetries(1), kgo.RetryTimeout(askLimit), kgo.MetadataMinAge(10*time.Millisecond)); err != nil {
		k.fail(checkKafka, err.Error(), "correct kafka in the configuration")
		return false
	}
	k.admin = kadm.NewClient(k.client)
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	m, err := k.admin.BrokerMetadata(limited)
	if err != nil {
		k.client.Close()
		problem, hint := publish.ConnectHint(err)
		k.fail(checkKafka, fmt.Sprintf("no broker of %s answers: %s", strings.Join(k.Kafka.Brokers, ", "), problem), hint)
		return false
	}
	k.brokers = m.Brokers
	k.ok(checkKafka, "cluster %s of %s answers, in %s", m.Cluster, plural(int64(len(m.Brokers)), "broker", "brokers"), time.Since(began).Round(time.Millisecond))
	return true
}

// reach speaks to every broker under the address that the cluster gives out, which is where records go: the addresses in
// the configuration are only the way in.
func (k *kafka) reach(ctx context.Context) {
	errs := make([]error, len(k.brokers))
	var all sync.WaitGroup
	for i, b := range k.brokers {
		all.Go(func() {
			limited, cancel := context.WithTimeout(ctx, askLimit)
			defer cancel()
			_, errs[i] = k.client.Broker(int(b.NodeID)).Request(limited, kmsg.NewPtrApiVersionsRequest())
		})
	}
	all.Wait()
	var reached []string
	for i, b := range k.brokers {
		address := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		if errs[i] == nil {
			reached = append(reached, address)
			continue
		}
		k.fail(checkBrokers, fmt.Sprintf("broker %d cannot be reached at %s, which is where the cluster sends its clients: %v", b.NodeID, address, errs[i]),
			"set advertised.listeners of that broker to an address that this host reaches, or open the way to it")
	}
	if len(reached) == len(k.brokers) {
		k.ok(checkBrokers, "reached where the cluster says they are: %s", strings.Join(reached, ", "))
	}
}

// cluster learns the rights on the cluster and the settings of a broker, as far as it tells.
func (k *kafka) cluster(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	if resp, err := req.RequestWith(limited, k.client); err == nil && resp.ErrorCode == 0 {
		k.rights = kadm.DecodeACLOperations(resp.ClusterAuthorizedOperations)
		k.told = len(k.rights) > 0
	}
	described, err := k.admin.DescribeBrokerConfigs(limited, k.brokers[0].NodeID)
	if err == nil && len(described) == 1 && described[0].Err == nil {
		k.settings = values(described[0].Configs)
	}
}

func values(configs []kadm.Config) map[string]string {
	m := make(map[string]string, len(configs))
	for _, c := range configs {
		m[c.Key] = c.MaybeValue()
	}
	return m
}

// lookUp learns the topics that the rows lead to, and their settings. It returns whether Kafka has answered.
func (k *kafka) lookUp(ctx context.Context) bool {
	if k.OnPoison == "dead_letter" {
		k.routes = append(slices.Clone(k.routes), &route{topic: k.DeadLetterTopic})
	}
	if k.CheckpointTopic != "" {
		k.routes = append(slices.Clone(k.routes), &route{topic: k.CheckpointTopic})
	}
	if len(k.routes) == 0 {
		k.why = "because no row of the outbox says which topics there are"
		if k.seen {
			k.ok(checkTopics, "no row of the outbox was seen, so no topic is asked for")
		}
		return false
	}
	names := make([]string, len(k.routes))
	for i, r := range k.routes {
		names[i] = r.topic
	}
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var err error
	if k.topics, err = k.admin.ListTopics(kadm.WithAuthorizedOps(limited), names...); err != nil {
		if _, ok := errors.AsType[*kadm.AuthError](err); !ok {
			problem, hint := publish.ConnectHint(err)
			k.fail(checkTopics, "the topics cannot be looked up: "+problem, hint)
			k.why = "because " + checkTopics + " failed"
			return false
		}
		k.topics = kadm.TopicDetails{}
		for _, name := range names { // one of them is forbidden, and it does not say which
			one, err := k.admin.ListTopics(kadm.WithAuthorizedOps(limited), name)
			if err != nil {
				one = kadm.TopicDetails{name: {Topic: name, Err: err}}
			}
			k.topics[name] = one[name]
		}
	}
	k.configs = map[string]map[string]string{}
	var there []string
	var forbidden []string
	for _, r := range k.routes {
		d, ok := k.topics[r.topic]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			k.missing = append(k.missing, r)
		case d.Err != nil:
			forbidden = append(forbidden, r.topic)
		default:
			there = append(there, r.topic)
		}
	}
	k.existence(limited, there, forbidden)
	for _, name := range there {
		if described, err := k.admin.DescribeTopicConfigs(limited, name); err == nil && len(described) == 1 && described[0].Err == nil {
			k.configs[name] = values(described[0].Configs)
		}
	}
	return true
}

func (k *kafka) existence(ctx context.Context, there, forbidden []string) {
	if len(forbidden) > 0 {
		k.fail(checkTopics, "Kafka does not let us see "+some(forbidden)+": "+fmt.Sprint(k.topics[forbidden[0]].Err), "allow Describe and Write on them: "+aclCommand("Describe", "Write"))
	}
	var names []string
	for _, r := range k.missing {
		names = append(names, r.topic)
	}
	switch create := k.Kafka.Topics.Create; {
	case len(names) > 0 && !create:
		k.add(Finding{
			Check: checkTopics, State: Fail, Finding: fmt.Sprintf("%s: %s, and kafka.create_topics.enabled is false", plural(int64(len(names)), "topic does not exist", "topics do not exist"), some(names)),
			Fix:    "create them (kafka-topics --create --topic " + names[0] + "), or set kafka.create_topics.enabled: true",
			Config: map[string]string{"kafka.create_topics.enabled": "true"},
		})
	case len(names) > 0 && k.told && !slices.Contains(k.rights, kmsg.ACLOperationCreate):
		k.fail(checkTopics, fmt.Sprintf("%s: %s, and creating them on the cluster is not allowed", plural(int64(len(names)), "topic does not exist", "topics do not exist"), some(names)),
			"create them, or allow it: kafka-acls --add --allow-principal User:NAME --operation Create --cluster")
	case len(names) > 0 && k.cannotCreate(ctx, names):
	case len(names) > 0:
		k.ok(checkTopics, "%s there; the first event creates %s", plural(int64(len(there)), "is", "are"), some(names))
	case len(forbidden) == 0:
		k.ok(checkTopics, "%s there: %s", plural(int64(len(there)), "is", "are"), some(there))
	}
}

// cannotCreate has Kafka say whether it would create the topics, and reports why it would not.
func (k *kafka) cannotCreate(ctx context.Context, names []string) bool {
	o := k.Kafka.Topics
	configs := make(map[string]*string, len(o.Configs))
	for name, value := range o.Configs {
		configs[name] = &value
	}
	answers, err := k.admin.ValidateCreateTopics(ctx, o.Partitions, o.ReplicationFactor, configs, names...)
	if err != nil {
		return false // it does not tell
	}
	for _, a := range answers.Sorted() {
		switch {
		case errors.Is(a.Err, kerr.TopicAuthorizationFailed), errors.Is(a.Err, kerr.ClusterAuthorizationFailed):
			k.fail(checkTopics, fmt.Sprintf("topic %s does not exist, and creating it is not allowed: %v", a.Topic, a.Err),
				"create it, or allow it: kafka-acls --add --allow-principal User:NAME --operation Create --topic "+a.Topic)
			return true
		case a.Err != nil && !errors.Is(a.Err, kerr.TopicAlreadyExists):
			k.fail(checkTopics, fmt.Sprintf("topic %s does not exist, and Kafka would not create it: %v (%s)", a.Topic, a.Err, a.ErrMessage),
				"create it, or correct kafka.create_topics")
			return true
		}
	}
	return false
}

// some names a few, and how many more there are.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

func plural(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func aclCommand(operations ...string) string {
	return "kafka-acls --add --allow-principal User:NAME --operation " + strings.Join(operations, " --operation ") + " --topic TOPIC"
}
