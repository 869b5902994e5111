package devstack

import (
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kfake"
)

// FakeKafkaOptions are what StartFakeKafka can be told; the zero value is one broker.
type FakeKafkaOptions struct {
	// Brokers is how many there are; default 1.
	Brokers int
	// Partitions is how many a topic gets that is created without saying so; default 3.
	Partitions int
	// Settings are broker settings, as far as kfake knows them. It keeps all records in memory until told otherwise by
	// log.retention.bytes or log.retention.ms.
	Settings map[string]string
}

// FakeKafka is an imitation of a Kafka cluster in this process, on ports of 127.0.0.1. It starts at once, keeps everything
// in memory, and answers what tidemark asks of a real one: idempotent and transactional producing, consuming by time and
// offset, and the administration of topics. It creates a topic that a client asks for with automatic creation allowed.
type FakeKafka struct {
	cluster *kfake.Cluster
}

// StartFakeKafka starts a cluster, which answers when this returns.
func StartFakeKafka(opts FakeKafkaOptions) (*FakeKafka, error) {
	if opts.Brokers == 0 {
		opts.Brokers = 1
	}
	if opts.Partitions == 0 {
		opts.Partitions = 3
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(opts.Brokers),
		kfake.DefaultNumPartitions(opts.Partitions),
		kfake.AllowAutoTopicCreation(),
		kfake.BrokerConfigs(maps.Clone(opts.Settings)),
	)
	if err != nil {
		return nil, fmt.Errorf("start in-process Kafka: %w", err)
	}
	return &FakeKafka{cluster: cluster}, nil
}

// Brokers are the addresses, host:port.
func (k *FakeKafka) Brokers() []string { return k.cluster.ListenAddrs() }

// Cluster is kfake's own handle, for tests that inject errors.
func (k *FakeKafka) Cluster() *kfake.Cluster { return k.cluster }

// Close stops it and drops its records. It may be called twice. The error is always nil, as for anything that io.Closer suits.
func (k *FakeKafka) Close() error {
	k.cluster.Close()
	return nil
}
