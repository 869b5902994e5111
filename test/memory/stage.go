package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// stage is what a case plays on: servers of its own, a database with an outbox table, the ledger, and one tidemark at a
// time.
type stage struct {
	*trial.Arena
	length   time.Duration
	rng      *rand.Rand
	postgres *devstack.Postgres
	kafka    *devstack.Kafka // nil if it is an imitation
	proxy    *devstack.Proxy // between tidemark and the broker, if the case wants one
	relay    *trial.Relay
	targets  map[string]target // by topic and key

	meter  *meter
	peak   int64 // of the processes that have ended
	series []int64

	reader  []kgo.Opt // past the proxy
	cleanup []func() error
}

// newStage starts the servers. Nobody reads the topics yet: reading would only slow down what is measured.
func newStage(ctx context.Context, o *options, binary string, c *testCase) (_ *stage, err error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.Name))                                                                                 // never fails
	s := &stage{length: o.length, rng: rand.New(rand.NewPCG(o.seed, h.Sum64())), targets: make(map[string]target)} //nolint:gosec // reproducible
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	dir, err := os.MkdirTemp("", "tidemark-memory-")
	if err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, func() error { return os.RemoveAll(dir) })
	s.postgres, err = devstack.StartPostgres(ctx, devstack.PostgresOptions{Version: o.postgres, Settings: map[string]string{
		// What is written stays until the end: nothing is to be recycled under load that the machine could do without.
		"max_wal_size": "4GB", "autovacuum": "off",
	}})
	if err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, s.postgres.Close)
	brokers, err := s.startKafka(ctx, c)
	if err != nil {
		return nil, err
	}
	const database = "memory"
	if err := s.postgres.CreateDatabase(ctx, database); err != nil {
		return nil, err
	}
	dsn := s.postgres.DSN(database)
	s.Arena = &trial.Arena{
		DSN: dsn, Brokers: brokers,
		Config: trial.Config{Binary: binary, DSN: dsn, Slot: database, Brokers: brokers, Checkpoint: filepath.Join(dir, "checkpoint"), DeadLetter: "dead-letter"},
		Ledger: ledger.New(s.rng.Uint64()),
	}
	if o.verbose {
		s.Config.Output = os.Stderr
	}
	s.Config = s.Config.With(c.Env...)
	for i := range 3 {
		s.Types = append(s.Types, fmt.Sprintf("type-%d", i))
	}
	return s, s.Exec(ctx, trial.OutboxSQL)
}

// startKafka returns the brokers as tidemark reaches them.
func (s *stage) startKafka(ctx context.Context, c *testCase) ([]string, error) {
	if c.Imitation {
		// One partition a topic, as the case on the real broker has.
		fake, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{Partitions: 1})
		if err != nil {
			return nil, err
		}
		s.cleanup = append(s.cleanup, fake.Close)
		return fake.Brokers(), nil
	}
	o := devstack.KafkaOptions{Brokers: c.Brokers}
	if c.Proxied {
		var err error
		if s.proxy, err = devstack.StartProxy(ctx, ""); err != nil {
			return nil, err
		}
		s.cleanup = append(s.cleanup, s.proxy.Close)
		o.AdvertisedPort = s.proxy.Port()
	}
	var err error
	if s.kafka, err = devstack.StartKafka(ctx, o); err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, s.kafka.Close)
	if !c.Proxied {
		return s.kafka.Brokers(), nil
	}
	broker, proxy := s.kafka.Brokers()[0], s.proxy.Addr()
	s.proxy.Redirect(broker)
	// The broker sends every client to the proxy; ours goes where the proxy would lead it.
	var dialer net.Dialer
	s.reader = []kgo.Opt{kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		if host == proxy {
			host = broker
		}
		return dialer.DialContext(ctx, network, host)
	})}
	return []string{proxy}, nil
}

func (s *stage) close() error {
	var errs []error
	if s.relay != nil {
		errs = append(errs, s.kill())
	}
	if s.Arena != nil && s.Reader != nil {
		s.Reader.Close()
	}
	for _, clean := range slices.Backward(s.cleanup) {
		errs = append(errs, clean())
	}
	return errors.Join(errs...)
}

// start starts tidemark and waits until it streams.
func (s *stage) start(ctx context.Context) error {
	relay, err := s.Start(ctx)
	if err != nil {
		return err
	}
	s.relay, s.meter = relay, follow(relay)
	limit, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return relay.AwaitReady(limit)
}

// weigh takes the measure of a process that is about to end.
func (s *stage) weigh() {
	if s.meter != nil {
		peak, series := s.meter.end()
		s.peak, s.series, s.meter = max(s.peak, peak), append(s.series, series...), nil
	}
}

func (s *stage) kill() error {
	s.weigh()
	return s.relay.Kill()
}

// stop ends tidemark with SIGTERM.
func (s *stage) stop() error {
	s.weigh()
	status, err := s.relay.Stop(time.Minute)
	if err == nil && status != 0 {
		err = fmt.Errorf("tidemark ended with status %d", status)
	}
	return err
}

// await waits until tidemark, since it was started, has published that many events.
func (s *stage) await(ctx context.Context, published int, limit time.Duration) error {
	return trial.Await(ctx, fmt.Sprintf("%d events are published", published), limit, func() (bool, error) {
		if !s.relay.Running() {
			return false, fmt.Errorf("tidemark ended with status %d", s.relay.Status())
		}
		n, err := s.relay.Metric(ctx, "tidemark_events_published_total")
		return err == nil && int(n) >= published, nil // it may be too busy to answer; the limit tells
	})
}

// hold waits while something lasts.
func (s *stage) hold(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// administer lets do ask the brokers.
func (s *stage) administer(do func(*kgo.Client) error) error {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.Brokers...)}, s.reader...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	return do(client)
}

// createTopics creates the topics that the types lead to.
func (s *stage) createTopics(ctx context.Context, partitions int32, configs map[string]*string) error {
	return s.administer(func(client *kgo.Client) error {
		created, err := kadm.NewClient(client).CreateTopics(ctx, partitions, 1, configs, s.Topics()...)
		return errors.Join(err, created.Error())
	})
}

// placeTopic creates a topic of one partition on a broker.
func placeTopic(ctx context.Context, client *kgo.Client, topic string, broker int32) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = 60_000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, -1, -1
	t.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{broker}}}
	request.Topics = append(request.Topics, t)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	for _, t := range response.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return nil
}

// patience is how long nothing may arrive before what is missing counts as lost.
const patience = 2 * time.Minute

// judge reads the topics and holds them against the table.
func (s *stage) judge(ctx context.Context) (ledger.Verdict, error) {
	if s.Reader == nil {
		var err error
		if s.Reader, err = ledger.Read(ctx, s.Ledger, s.Brokers, s.Topics(), s.reader...); err != nil {
			return ledger.Verdict{}, err
		}
	}
	limit, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	return s.Judge(limit, patience)
}
